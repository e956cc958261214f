package tls

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"
)

// fileStorage keeps ACME's certificates, keys and account below a directory.
// Reading and writing is certmagic's; the locks are flock's instead of
// certmagic's time stamps: the kernel drops them when a process dies, so none
// is ever stale, and no goroutine has to keep them fresh.
type fileStorage struct {
	certmagic.FileStorage
	mu   sync.Mutex // guards held
	held map[string]*os.File
}

func newFileStorage(dir string) *fileStorage {
	return &fileStorage{FileStorage: certmagic.FileStorage{Path: dir}, held: make(map[string]*os.File)}
}

// Lock waits until no other process, and nobody else in this one, holds name.
func (s *fileStorage) Lock(ctx context.Context, name string) error {
	for {
		ok, err := s.TryLock(ctx, name)
		if ok || err != nil {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// TryLock takes the lock if nobody has it.
func (s *fileStorage) TryLock(_ context.Context, name string) (bool, error) {
	path := s.lockFile(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		cerr := f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, cerr
		}
		return false, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	// The holder before us removes the file before it lets go: what we locked
	// must still be what the name stands for.
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		return false, f.Close()
	}
	s.mu.Lock()
	s.held[name] = f
	s.mu.Unlock()
	return true, nil
}

// Unlock gives the lock back.
func (s *fileStorage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	f := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if f == nil {
		return fmt.Errorf("lock %q isn't held", name)
	}
	return errors.Join(os.Remove(f.Name()), f.Close())
}

// holding is how many locks are held.
func (s *fileStorage) holding() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

func (s *fileStorage) lockFile(name string) string {
	return filepath.Join(s.Path, "locks", certmagic.StorageKeys.Safe(name)+".lock")
}

// watched is a storage whose last failure to write is known.
type watched struct {
	certmagic.Storage
	last atomic.Pointer[error] // nil: the last write succeeded
}

// Store implements certmagic.Storage.
func (w *watched) Store(ctx context.Context, key string, value []byte) error {
	err := w.Storage.Store(ctx, key, value)
	if err == nil {
		w.last.Store(nil)
		return nil
	}
	if ctx.Err() == nil {
		err = fmt.Errorf("storing %s: %w", key, err)
		w.last.Store(&err)
	}
	return err
}

// TryLock implements certmagic.TryLocker where the storage can; else it waits.
func (w *watched) TryLock(ctx context.Context, name string) (bool, error) {
	if t, ok := w.Storage.(certmagic.TryLocker); ok {
		return t.TryLock(ctx, name)
	}
	err := w.Lock(ctx, name)
	return err == nil, err
}

func (w *watched) err() error {
	if err := w.last.Load(); err != nil {
		return *err
	}
	return nil
}

// pause waits for about d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d*9/10 + rand.N(d/5+1))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

var (
	_ certmagic.Storage   = (*fileStorage)(nil)
	_ certmagic.TryLocker = (*fileStorage)(nil)
	_ certmagic.TryLocker = (*watched)(nil)
)
