package charge

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

const claimsFolder = "claims"

// claims are the clients' keys that were charged for while two processes serve: a
// file for each, which the first one makes. They need no fsync: after a crash of the
// machine both have ended, and the journals say it all. nil: there is one process.
type claims struct {
	dir string
	me  string
}

// take reports whether this process may charge for a key. If the disk can't tell, it
// may, as far as its journal can be written.
func (c *claims) take(key string) bool {
	if c == nil || key == "" {
		return true
	}
	path := filepath.Join(c.dir, key)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(c.dir, 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return !c.elsewhere(key)
	}
	if err == nil {
		_, _ = f.WriteString(c.me) // an empty one is another's, for the other as well: it is charged once more at worst
		_ = f.Close()
	}
	return true
}

// elsewhere reports whether another process has charged for a key.
func (c *claims) elsewhere(key string) bool {
	if c == nil || key == "" {
		return false
	}
	who, err := os.ReadFile(filepath.Join(c.dir, key))
	return err == nil && string(who) != c.me
}

// drop lets go of a key whose charge has come to nothing.
func (c *claims) drop(key string) {
	if c != nil && key != "" && !c.elsewhere(key) {
		_ = os.Remove(filepath.Join(c.dir, key)) // it may not be there
	}
}

func (c *claims) clear() error { return os.RemoveAll(c.dir) }
