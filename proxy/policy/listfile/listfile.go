// Package listfile reads files that policies go by, such as lists of networks
// and databases of countries, once for all routes that use them.
//
// It is for files that are read again with the configuration. It watches
// nothing and starts no goroutine.
package listfile

import (
	"os"
	"sync"
	"time"
	"weak"
)

// Files remembers what was made of files, so that those who use one share it. It
// keeps nothing alive that nobody uses. A nil Files remembers nothing; the zero
// value is ready.
type Files[T any] struct {
	mu    sync.Mutex // guards what follows
	known map[string]known[T]
}

type known[T any] struct {
	size     int64
	modified time.Time
	made     weak.Pointer[T]
}

// Read returns what make makes of a file's content: what it made before, if
// that is still in use and size and time of the file are the same. The errors
// are those of reading, and make's.
func (f *Files[T]) Read(path string, make func([]byte) (*T, error)) (*T, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if k := f.known[path]; k.size == info.Size() && k.modified.Equal(info.ModTime()) {
			if made := k.made.Value(); made != nil {
				return made, nil
			}
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	made, err := make(b)
	if err == nil && f != nil {
		f.remember(path, known[T]{info.Size(), info.ModTime(), weak.Make(made)})
	}
	return made, err
}

// remember takes k in, and forgets what nobody uses any more. f.mu is held.
func (f *Files[T]) remember(path string, k known[T]) {
	if f.known == nil {
		f.known = map[string]known[T]{}
	}
	for p, other := range f.known {
		if other.made.Value() == nil {
			delete(f.known, p)
		}
	}
	f.known[path] = k
}
