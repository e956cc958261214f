package network

import (
	"crypto/sha256"
	"sync"
	"weak"
)

// Lists remembers the sets of lists that aren't files, so that one that hasn't
// changed isn't read again. It keeps nothing alive that nobody uses. The zero
// value is ready.
type Lists struct {
	mu    sync.Mutex // guards what follows
	known map[string]list
}

type list struct {
	sum [sha256.Size]byte
	set weak.Pointer[Set]
	err error
}

// Read returns the set of a list. Lines that are wrong are left out, and its
// error says which: whoever writes such a list isn't there to see it fail.
func (l *Lists) Read(name string, text []byte) (*Set, error) {
	sum := sha256.Sum256(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.known[name]; k.sum == sum {
		if s := k.set.Value(); s != nil {
			return s, k.err
		}
	}
	prefixes, err := Parse(text)
	s := New(prefixes)
	if l.known == nil {
		l.known = map[string]list{}
	}
	for n, other := range l.known {
		if other.set.Value() == nil {
			delete(l.known, n)
		}
	}
	l.known[name] = list{sum, weak.Make(s), err}
	return s, err
}
