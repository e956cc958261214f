// Package estate is for what a process that has handed over still writes while a
// successor has its files: a folder of its own beside them, which it holds locked.
// Who owns the files takes it over as soon as it isn't locked any more: the process
// has ended, whether it meant to or not.
//
// What is in it, and how that joins what the successor has, is its users' matter. It
// has no goroutines.
package estate

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	prefix   = "drain-"
	founding = "new-" // of a folder that isn't locked yet
	lockFile = "lock"
)

// Estate is a folder that this process has locked.
type Estate struct {
	dir  string
	lock *os.File
}

// Found makes a new one below a folder, and locks it. Nobody sees it before it is
// locked.
func Found(parent string) (*Estate, error) {
	var id [8]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	name := prefix + hex.EncodeToString(id[:])
	temp := filepath.Join(parent, founding+name)
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return nil, err
	}
	f, err := lock(temp)
	if err == nil && f == nil {
		err = fmt.Errorf("%s: is locked by another process", temp)
	}
	e := &Estate{filepath.Join(parent, name), f}
	if err == nil {
		err = os.Rename(temp, e.dir)
	}
	if err == nil {
		err = syncFolder(parent)
	}
	if err != nil {
		if f != nil {
			_ = f.Close() // it isn't used
		}
		return nil, errors.Join(err, os.RemoveAll(temp))
	}
	return e, nil
}

// List are the names of those below a folder, which may not be there. What a process
// has left that was killed while it founded one is removed.
func List(parent string) ([]string, error) {
	list, err := os.ReadDir(parent) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, f := range list {
		switch {
		case !f.IsDir():
		case strings.HasPrefix(f.Name(), prefix):
			names = append(names, f.Name())
		case strings.HasPrefix(f.Name(), founding+prefix):
			if e, err := Take(parent, f.Name()); err == nil && e != nil {
				_ = e.Remove() // nothing is in it
			}
		}
	}
	return names, err
}

// Take locks one; nil: its process lives.
func Take(parent, name string) (*Estate, error) {
	e := &Estate{dir: filepath.Join(parent, name)}
	var err error
	if e.lock, err = lock(e.dir); err != nil || e.lock == nil {
		return nil, err
	}
	return e, nil
}

// lock locks a folder; nil: another process has.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return f, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, f.Close()
	}
	return nil, errors.Join(fmt.Errorf("%s: %w", f.Name(), err), f.Close())
}

// Dir is its folder.
func (e *Estate) Dir() string { return e.dir }

// Name is that of its folder, which no other has.
func (e *Estate) Name() string { return filepath.Base(e.dir) }

// Close unlocks it: from here on it is its heir's.
func (e *Estate) Close() error { return e.lock.Close() }

// Remove takes it away, with all that is in it.
func (e *Estate) Remove() error { return errors.Join(os.RemoveAll(e.dir), e.lock.Close()) }

// syncFolder makes a rename last.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
