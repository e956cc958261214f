package charge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// journal is the records on the disk: files of lines, of which the newest begins
// with all that still counts of those before. A line that a crash cut off was never
// waited for. It belongs to the writer.
type journal struct {
	dir    string   // "": nothing is kept
	node   *os.File // who we are; its lock says that the folder is ours
	f      *os.File
	number int
	size   int64 // of the file
	live   int64 // of what it began with
}

const (
	suffix   = ".log"
	nodeFile = "node"
)

// open reads what is there. Damaged lines are left out, and counted; a last one that
// was cut off is none.
func (j *journal) open(dir string, each func(r *record)) (bad int, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return 0, err
	}
	slices.Sort(names) // their numbers have as many digits
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return 0, err
		}
		text := string(b)
		for line := range strings.Lines(text[:strings.LastIndexByte(text, '\n')+1]) {
			r, ok := parseRecord(strings.TrimSuffix(line, "\n"))
			if !ok {
				bad++
				continue
			}
			each(&r)
		}
		if _, err := fmt.Sscanf(filepath.Base(name), "%d", &j.number); err != nil {
			return 0, fmt.Errorf("%s isn't a file of ours", name)
		}
	}
	j.dir = dir
	return bad, nil
}

// errInUse is a folder that another process has locked.
var errInUse = errors.New("is in use by another sidegate")

// acquire makes a folder this process's own: two that write would drop each other's
// files, and with them charges.
func acquire(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, nodeFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s %w: give each a state_dir of its own", dir, errInUse)
		}
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return f, nil
}

// append adds lines and waits for the disk.
func (j *journal) append(b []byte) error {
	if j.dir == "" {
		return nil
	}
	n, err := j.f.Write(b)
	j.size += int64(n)
	if err != nil {
		return err
	}
	return j.f.Sync()
}

// replace begins a new file, and drops those before.
func (j *journal) replace(b []byte) error {
	if j.dir == "" {
		return nil
	}
	path := filepath.Join(j.dir, fmt.Sprintf("%010d%s", j.number+1, suffix))
	temp := path + ".new"
	next, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = next.Write(b); err == nil {
		err = next.Sync()
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		err = syncFolder(j.dir)
	}
	if err != nil {
		_ = next.Close()    // it isn't used
		_ = os.Remove(temp) // it takes room that there may be none of
		return err
	}
	if j.f != nil {
		_ = j.f.Close() // everything in it is in the new one
	}
	j.f, j.size, j.live = next, int64(len(b)), int64(len(b))
	j.number++
	return j.drop()
}

// drop removes the files before the newest.
func (j *journal) drop() error {
	names, err := filepath.Glob(filepath.Join(j.dir, "*"+suffix))
	if err != nil {
		return err
	}
	slices.Sort(names)
	var errs error
	for _, name := range names[:max(0, len(names)-1)] {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// syncFolder makes a rename last.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (j *journal) close() error {
	var errs error
	for _, f := range []*os.File{j.f, j.node} { // the lock last
		if f != nil {
			errs = errors.Join(errs, f.Close())
		}
	}
	j.f, j.node = nil, nil
	return errs
}
