package tls

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writeSecret replaces a file as a whole, readable by us alone: a reader sees
// the old or the new content, also after a crash.
func writeSecret(path string, b []byte) error { return writeWhole(path, b, nil) }

// writeLike is writeSecret for a file with another mode, which leaves owner and
// mode of the file that it replaces: a service's user could read that.
func writeLike(path string, b []byte, mode fs.FileMode) error {
	return writeWhole(path, b, func(f *os.File) error {
		if was, err := os.Stat(path); err == nil {
			mode = was.Mode().Perm()
			if st, ok := was.Sys().(*syscall.Stat_t); ok {
				if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
					return err
				}
			}
		}
		return f.Chmod(mode)
	})
}

// writeWhole replaces a file; prepare, if any, is called before anybody sees it.
func writeWhole(path string, b []byte, prepare func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err == nil && prepare != nil {
		err = prepare(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// maxFile bounds the certificate, key and state files that are read.
const maxFile = 1 << 20

// readFile reads a file of at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	if fi.Size() > maxFile {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d bytes", maxFile)}
	}
	return os.ReadFile(path)
}

// withFileLock runs f while no other process with the same lock file does.
func withFileLock(path string, f func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	l, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer l.Close() //nolint:errcheck // closing gives the lock back; nothing was written
	if err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX); err != nil {
		return &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return f()
}
