package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// account is a user, and what it is a member of.
type account struct {
	name string
	uid  int
	gids []int
}

// findAccount finds a user by name; "": who asks.
func findAccount(name string) (account, error) {
	if name == "" {
		gids, _ := os.Getgroups() // none, then
		a := account{name: strconv.Itoa(os.Geteuid()), uid: os.Geteuid(), gids: append(gids, os.Getegid())}
		if u, err := user.LookupId(a.name); err == nil {
			a.name = u.Username
		}
		return a, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("there is no user %q on this machine", name)
	}
	a := account{name: name}
	if a.uid, err = strconv.Atoi(u.Uid); err != nil {
		return a, err
	}
	groups, _ := u.GroupIds() // its own one at least
	for _, g := range append(groups, u.Gid) {
		if n, err := strconv.Atoi(g); err == nil {
			a.gids = append(a.gids, n)
		}
	}
	return a, nil
}

// may reports whether the account has a right (4 read, 2 write, 1 search) to a
// file, by its mode and those of the folders above. Access lists aren't seen.
func (a account) may(path string, right fs.FileMode) error {
	if a.uid == 0 {
		_, err := os.Stat(path)
		return err
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if err := a.has(dir, 1); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return a.has(path, right)
		}
	}
}

func (a account) has(path string, right fs.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	shift := 0
	switch {
	case int(st.Uid) == a.uid:
		shift = 6
	case slices.Contains(a.gids, int(st.Gid)):
		shift = 3
	}
	if info.Mode().Perm()>>shift&right != right {
		return fmt.Errorf("the user %s may not %s %s, mode %04o", a.name, map[fs.FileMode]string{4: "read", 3: "write in", 1: "search"}[right], path, info.Mode().Perm())
	}
	return nil
}

// files sees whether the gateway's user can read and write what it has to.
func (d *doctor) files(context.Context) []Finding {
	var found []Finding
	for _, f := range d.file.Files {
		if err := d.who.may(f, 4); err != nil {
			found = append(found, fail("%v", "Give that user the right: chown, chgrp or chmod; or say with -user whom the gateway runs as.", err))
		}
	}
	if found == nil {
		found = append(found, good("the user %s can read the files of the configuration: %d", d.who.name, len(d.file.Files)))
	}
	found = append(found, d.stateDir())
	for _, log := range d.logs() {
		dir := filepath.Dir(log)
		if err := d.who.may(dir, 3); err != nil {
			found = append(found, fail("log %s: %v", "Make the folder, and let that user write there.", log, err))
		}
	}
	return found
}

// logs are the files that the gateway writes logs to.
func (d *doctor) logs() []string {
	var list []string
	add := func(output string) {
		if output != "stdout" && output != "stderr" {
			list = append(list, output)
		}
	}
	if l := d.file.AccessLog; l != nil {
		add(l.Output)
	}
	if l := d.file.AuditLog; l != nil {
		add(l.Output)
	}
	return list
}

func (d *doctor) stateDir() Finding {
	dir := d.file.StateDir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if d.Unit && d.unit.installed {
			return good("state_dir %s will be made by the unit", dir)
		}
		above := existing(dir)
		if err := d.who.may(above, 3); err != nil {
			return fail("state_dir %s isn't there, and can't be made: %v", "Make it, and give it to that user with mode 0700.", dir, err)
		}
		return good("state_dir %s will be made", dir)
	case err != nil:
		return fail("state_dir: %v", "Make it a folder that the gateway's user may write to.", err)
	case !info.IsDir():
		return fail("state_dir %s isn't a folder", "Set state_dir to a folder.", dir)
	}
	if err := d.who.may(dir, 3); err != nil {
		return fail("state_dir: %v", "Give it to that user: certificates, keys and the last known instances are kept there.", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return warning("state_dir %s is open to others, mode %04o, and private keys are kept there", "chmod 0700 "+dir, dir, info.Mode().Perm())
	}
	return good("state_dir %s is the user %s's", dir, d.who.name)
}

// existing is the folder of path that there is.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// disk sees how much room there is for what is written.
func (d *doctor) disk(context.Context) []Finding {
	var found []Finding
	var seen []unix.Fsid
	for _, path := range append([]string{d.file.StateDir}, d.logs()...) {
		path = existing(path)
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err != nil {
			found = append(found, warning("%s: %v", "", path, err))
			continue
		}
		if slices.Contains(seen, s.Fsid) {
			continue
		}
		seen = append(seen, s.Fsid)
		free := int64(s.Bavail) * s.Bsize
		found = append(found, room(path, free, s.Files, s.Ffree))
	}
	return found
}

const (
	littleRoom = 256 << 20
	noRoom     = 16 << 20
)

func room(path string, free int64, files, freeFiles uint64) Finding {
	advice := "Make room, or point state_dir and the logs elsewhere: without room the last known state and renewed certificates aren't kept."
	switch {
	case free < noRoom:
		return fail("%s: only %d MiB are free", advice, path, free>>20)
	case files > 0 && freeFiles < 1000:
		return fail("%s: only %d more files fit there", advice, path, freeFiles)
	case free < littleRoom:
		return warning("%s: only %d MiB are free", advice, path, free>>20)
	default:
		return good("%s: %d MiB are free", path, free>>20)
	}
}

// soon is how long before its end a certificate from a file is told of.
const soon = 14 * 24 * time.Hour

// certificates looks at those from files, and at what the running gateway says of
// its others.
func (d *doctor) certificates(context.Context) []Finding {
	var found []Finding
	for _, c := range d.file.TLS.Certificates {
		if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
			found = append(found, fail("%s with %s: %v", "The key has to be that of the first certificate in the file.", c.CertFile, c.KeyFile, err))
			continue
		}
		found = append(found, d.expiry(c.CertFile))
	}
	for _, path := range d.ownCertificates() {
		found = append(found, d.expiry(path))
	}
	if d.Running == nil {
		return found
	}
	for _, c := range d.Running.Certificate {
		if c.Source == "file" || c.Error == "" && c.NotAfter.After(d.now()) {
			continue
		}
		names := strings.Join(c.Names, ", ")
		if c.NotAfter.After(d.now()) {
			found = append(found, warning("%s: the certificate lasts until %s, but its last renewal failed: %s", "", names, day(c.NotAfter), c.Error))
			continue
		}
		found = append(found, fail("%s: there is no certificate that lasts: %s", "The acme and dns checks may say why.", names, c.Error))
	}
	return found
}

// ownCertificates are the files of those that the gateway shows to others.
func (d *doctor) ownCertificates() []string {
	var list []string
	add := func(path string) {
		if path != "" && !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	if c := d.file.Consul; c != nil {
		add(c.CertFile)
	}
	if r := d.file.Redis; r != nil && r.TLS != nil {
		add(r.TLS.CertFile)
	}
	for _, s := range d.file.Services {
		if s.TLS != nil {
			add(s.TLS.CertFile)
		}
	}
	return list
}

// expiry is about the first certificate of a file.
func (d *doctor) expiry(path string) Finding {
	b, err := os.ReadFile(path)
	if err != nil {
		return fail("%v", "", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fail("%s has no certificate in PEM", "", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fail("%s: %v", "", path, err)
	}
	now := d.now()
	left := c.NotAfter.Sub(now)
	switch {
	case left <= 0:
		return fail("%s has expired on %s", "Put a new one there; it is read again by itself.", path, day(c.NotAfter))
	case c.NotBefore.After(now):
		return fail("%s isn't valid before %s", "Is the clock right?", path, day(c.NotBefore))
	case left < soon && left < c.NotAfter.Sub(c.NotBefore)/3:
		return warning("%s expires on %s", "Renew it; it is read again by itself.", path, day(c.NotAfter))
	default:
		return good("%s lasts until %s", path, day(c.NotAfter))
	}
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
