package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Target is where files are to be written.
type Target struct {
	Dir   string
	Force bool // replace what is there; it is kept as NAME.old
	// Validate checks the configuration at a path.
	Validate func(path string) error
	// Owner is who gets the files with secrets, uid and gid; nil: who runs this.
	Owner *[2]int
}

// Write writes all files or none: first beside where they belong, where they are
// validated, then to their places. Without Force nothing that exists is touched.
func (t *Target) Write(files []File) error {
	if err := t.free(files); err != nil {
		return err
	}
	made, err := mkdir(t.Dir)
	if err != nil {
		return err
	}
	err = t.write(files)
	if err != nil && made != "" {
		_ = os.Remove(t.Dir) // empty, unless somebody else was faster
	}
	return err
}

func mkdir(dir string) (made string, err error) {
	if _, err := os.Stat(dir); err == nil {
		return "", nil
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func (t *Target) write(files []File) error {
	stage, err := os.MkdirTemp(t.Dir, ".init-") // a name with a dot isn't read as configuration
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	for _, f := range files {
		if err := t.stage(stage, f); err != nil {
			return err
		}
	}
	if err := t.Validate(filepath.Join(stage, ConfigFile)); err != nil {
		return err
	}
	for _, f := range files { // the configuration comes last
		if err := t.place(filepath.Join(stage, f.Name), filepath.Join(t.Dir, f.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) stage(stage string, f File) error {
	path := filepath.Join(stage, f.Name)
	if err := os.WriteFile(path, f.Text, f.Mode); err != nil {
		return err
	}
	if err := os.Chmod(path, f.Mode); err != nil { // whatever the umask is
		return err
	}
	if t.Owner != nil && f.Mode.Perm()&0o077 == 0 {
		return os.Chown(path, t.Owner[0], t.Owner[1])
	}
	return nil
}

// place moves a file to where it belongs.
func (t *Target) place(from, to string) error {
	if t.Force {
		if _, err := os.Lstat(to); err == nil {
			if err := os.Rename(to, to+".old"); err != nil {
				return err
			}
		}
	}
	err := os.Link(from, to) // which never replaces
	if errors.Is(err, fs.ErrExist) {
		return exists(to)
	}
	return err
}

func exists(path string) error {
	return fmt.Errorf("%s exists: -force replaces it, and keeps the old one as %s.old; -dir writes elsewhere", path, filepath.Base(path))
}

// free reports what is in the way: files of the same names, and others that would
// be read together with them.
func (t *Target) free(files []File) error {
	ours := map[string]bool{}
	for _, f := range files {
		ours[f.Name] = true
		if _, err := os.Lstat(filepath.Join(t.Dir, f.Name)); err == nil && !t.Force {
			return exists(filepath.Join(t.Dir, f.Name))
		}
	}
	entries, err := os.ReadDir(t.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		n := e.Name()
		if !ours[n] && !strings.HasPrefix(n, ".") && (strings.HasSuffix(n, ".hcl") || strings.HasSuffix(n, ".hcl.json")) {
			return fmt.Errorf("%s would be read together with what is written here: move it away, or choose another folder with -dir", filepath.Join(t.Dir, n))
		}
	}
	return nil
}
