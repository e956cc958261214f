package document

import (
	"os"
	"sync"
	"weak"
)

// Files remembers what was made of documents, so that those who use one share
// it. It keeps nothing alive that nobody uses. A nil Files remembers nothing;
// the zero value is ready.
type Files[T any] struct {
	mu    sync.Mutex // guards what follows
	known map[string]*known[T]
}

type known[T any] struct {
	made  weak.Pointer[T]
	stats []stat
}

// Read returns what make makes of a document: what it made before, if that is
// still in use and none of the document's files has changed.
func (f *Files[T]) Read(path string, make func(*Document) (*T, error)) (*T, error) {
	if f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if k := f.known[path]; k != nil {
			if made := k.made.Value(); made != nil && k.same() {
				return made, nil
			}
		}
	}
	var made *T
	d, err := Read(path, func(d *Document) (err error) {
		made, err = make(d)
		return err
	})
	if f != nil && d != nil {
		f.remember(path, &known[T]{weak.Make(made), d.stats}, err == nil)
	}
	if err != nil {
		return nil, err
	}
	return made, nil
}

// remember takes k in, and forgets what nobody uses any more. Of a document
// with an error the files alone are kept, beside what was made of it before:
// they may be mended. f.mu is held.
func (f *Files[T]) remember(path string, k *known[T], ok bool) {
	if f.known == nil {
		f.known = map[string]*known[T]{}
	}
	for p, other := range f.known {
		if other.made.Value() == nil {
			delete(f.known, p)
		}
	}
	if old := f.known[path]; old != nil && !ok {
		k.made = old.made
		k.stats = append(k.stats, stat{path, nil}) // which is never the same
	}
	f.known[path] = k
}

// same reports whether no file has changed.
func (k *known[T]) same() bool {
	for _, s := range k.stats {
		now, err := os.Stat(s.path)
		if err != nil || s.info == nil || now.Size() != s.info.Size() || !now.ModTime().Equal(s.info.ModTime()) {
			return false
		}
	}
	return true
}

// Paths are the files of all documents, those that a reference looked for in
// vain included.
func (f *Files[T]) Paths() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, k := range f.known {
		for _, s := range k.stats {
			list = append(list, s.path)
		}
	}
	return list
}
