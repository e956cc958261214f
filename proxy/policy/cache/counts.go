package cache

import (
	"maps"
	"sort"
	"sync"
	"sync/atomic"
)

// counts are those of one route.
type counts struct {
	hits, stale, misses, validated, passed, collapsed, stored, refreshed, bytes, errors, purged, encoded atomic.Uint64

	age atomic.Int64 // of what hits served, in seconds

	mu      sync.Mutex // guards refused
	refused map[string]uint64
}

// Count is what a route has counted.
type Count struct {
	Route     string `json:"route"`
	Hits      uint64 `json:"hits"`      // answered from memory, stale answers included
	Stale     uint64 `json:"stale"`     // of these, with a stale answer
	Misses    uint64 `json:"misses"`    // sent on, and the answer might have been stored
	Validated uint64 `json:"validated"` // of these, stored answers that the service said still hold
	Passed    uint64 `json:"passed"`    // sent on, and the answer was never to be stored
	Collapsed uint64 `json:"collapsed"` // answered by what another request fetched
	Stored    uint64 `json:"stored"`    // answers that were stored
	Refreshed uint64 `json:"refreshed"` // answers that were fetched in the background
	Errors    uint64 `json:"errors"`    // stale answers instead of an error
	Bytes     uint64 `json:"bytes"`     // of the bodies of hits
	Purged    uint64 `json:"purged"`    // answers that purges have forgotten or made stale
	Age       int64  `json:"age"`       // of what hits served, in seconds, summed up

	NotStored map[string]uint64 `json:"not_stored"` // answers that weren't stored, by why
	Encoded   uint64            `json:"encoded"`    // codings made of stored answers
}

func (s *Store) of(route string) *counts {
	if s == nil {
		return &counts{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.routes[route]
	if c == nil {
		c = &counts{}
		s.routes[route] = c
	}
	select {
	case <-s.wanted:
	default:
		close(s.wanted)
	}
	return c
}

// Used is closed once a route has a cache.
func (s *Store) Used() <-chan struct{} { return s.wanted }

// Retain forgets the counts of routes that are gone. Their answers go when room is
// needed.
func (s *Store) Retain(routes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.routes {
		if !routes[name] {
			delete(s.routes, name)
		}
	}
}

// Counts are those of all routes, by name.
func (s *Store) Counts() []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Count, 0, len(s.routes))
	for name, c := range s.routes {
		list = append(list, Count{
			Route: name, Hits: c.hits.Load(), Stale: c.stale.Load(), Misses: c.misses.Load(), Validated: c.validated.Load(), Passed: c.passed.Load(),
			Collapsed: c.collapsed.Load(), Stored: c.stored.Load(), Refreshed: c.refreshed.Load(), Errors: c.errors.Load(), Bytes: c.bytes.Load(),
			Purged: c.purged.Load(), Age: c.age.Load(), NotStored: c.notStored(), Encoded: c.encoded.Load(),
		})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Route < list[j].Route })
	return list
}

// refuse counts an answer that wasn't stored; why is one of few fixed texts.
func (c *counts) refuse(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = map[string]uint64{}
	}
	c.refused[why]++
}

func (c *counts) notStored() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused)
}
