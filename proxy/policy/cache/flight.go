package cache

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// flight is an answer on its way: who fetches it has task.flight, who wants the
// same waits for it.
type flight struct {
	uri, base, values string
	hash              uint64   // of uri
	varies            []string // by which values was made
	open              bool     // others may wait for it
	sent              time.Time
	ready             chan struct{} // closed when it is known what becomes of it

	// Guarded by the shard's mu.
	gone bool // ended, or forgotten with its URI: it isn't stored

	// Set before ready is closed, and not changed after.
	settled bool // also guarded by the shard's mu
	result  result
	waiting atomic.Int32
}

// result is what became of a flight.
type result struct {
	entry *entry // the head; nil: there is nothing to share
	fill  *fill  // its body on its way; nil: entry has it
	fault *exchange.Fault
	again bool // it never got as far as the service: the next one has to
}

// join finds the flight to wait for, or starts want, whose strings it may keep.
// same compares a flight whose fields are known by now with the request.
func (s *Store) join(want *flight, same func(f *flight) bool) (f *flight, started bool) {
	sh := s.shard(want.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if want.open {
		for _, f := range sh.flights[want.uri] {
			if f.open && f.base == want.base && same(f) {
				return f, false
			}
		}
	}
	want.ready = make(chan struct{})
	sh.flights[want.uri] = append(sh.flights[want.uri], want)
	return want, true
}

// settle says what becomes of a flight, so that who waits can go on. varies and
// values tell whom it is for.
func (s *Store) settle(f *flight, r result, varies []string, values string) {
	sh := s.shard(f.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f.settled {
		return
	}
	f.settled, f.result = true, r
	if r.entry != nil {
		f.varies, f.values = varies, values
	}
	close(f.ready)
}

// seal lets nobody join any more.
func (s *Store) seal(f *flight) {
	sh := s.shard(f.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f.open = false
}

// end is the end of a flight: nothing more comes of it.
func (s *Store) end(f *flight) {
	s.settle(f, result{}, nil, "")
	sh := s.shard(f.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f.gone = true
	list := slices.DeleteFunc(sh.flights[f.uri], func(o *flight) bool { return o == f })
	if len(list) == 0 {
		delete(sh.flights, f.uri)
	} else {
		sh.flights[f.uri] = list
	}
}

// ground has those on their way whose URI matches never be stored.
func (s *Store) ground(match func(uri string) bool) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for uri, list := range sh.flights {
			if !match(uri) {
				continue
			}
			for _, f := range list {
				f.gone, f.open = true, false
			}
		}
		sh.mu.Unlock()
	}
}
