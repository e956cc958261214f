package compress

import (
	"sync"
	"sync/atomic"
)

// Store has the encoders that responses take turns with, bounds the memory of
// those that are in use, and counts what routes compress. It belongs to the
// gateway and outlives configurations.
type Store struct {
	most         int64
	scarce       func() bool
	used         atomic.Int64
	coders       [codings]sync.Pool
	bodies       sync.Pool
	thoroughZstd sync.Pool

	mu     sync.Mutex // guards what follows
	routes map[string]*counts
}

// most is the memory of all encoders that are in use at once.
const most = 256 << 20

// NewStore returns an empty store. While scarce says so, no encoder is given; nil:
// memory never is.
func NewStore(scarce func() bool) *Store {
	return &Store{most: most, scarce: scarce, routes: map[string]*counts{}}
}

// counts are those of one route.
type counts struct {
	byCoding [codings]struct{ responses, in, out atomic.Uint64 }
	skipped  atomic.Uint64
	// The service has sent weak entity tags of its own, so that one that a client
	// shows need not be ours.
	weak atomic.Bool
}

// Count is what a route has compressed with one coding.
type Count struct {
	Route, Coding string
	Responses     uint64
	In, Out       uint64 // bytes before and after
}

// Counts are those of all routes, and how many responses of each went as they
// were because encoders had no room.
func (s *Store) Counts() (list []Count, skipped map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	skipped = map[string]uint64{}
	for route, c := range s.routes {
		for i := range c.byCoding {
			n := &c.byCoding[i]
			if responses := n.responses.Load(); responses > 0 {
				list = append(list, Count{route, names[i], responses, n.in.Load(), n.out.Load()})
			}
		}
		skipped[route] = c.skipped.Load()
	}
	return list, skipped
}

// Used is the memory of the encoders in use.
func (s *Store) Used() int64 { return s.used.Load() }

func (s *Store) of(route string) *counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.routes[route]
	if c == nil {
		c = &counts{}
		s.routes[route] = c
	}
	return c
}

// Retain forgets the counts of routes that aren't among these.
func (s *Store) Retain(routes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.routes {
		if !routes[name] {
			delete(s.routes, name)
		}
	}
}

// enter takes the room for an encoder.
func (s *Store) enter(c coding) bool {
	if s.scarce != nil && s.scarce() {
		return false
	}
	return s.take(memory[c])
}

func (s *Store) take(n int64) bool {
	if s.used.Add(n) > s.most {
		s.used.Add(-n)
		return false
	}
	return true
}

func (s *Store) leave(c coding) { s.used.Add(-memory[c]) }

// coder is an encoder at the beginning of a stream.
func (s *Store) coder(c coding) (coder, error) {
	enc, ok := s.coders[c].Get().(coder)
	if !ok {
		var err error
		if enc, err = newCoder(c); err != nil {
			return nil, err
		}
	}
	enc.reset()
	return enc, nil
}
