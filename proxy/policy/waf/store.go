package waf

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/sirupsen/logrus"
)

// mostHeld bounds the bodies that are in memory to be inspected.
const mostHeld = 128 << 20

// Deps are what a Store works with.
type Deps struct {
	Log logrus.FieldLogger
	// Audit adds a line to the audit log; the number spreads lines over locks.
	// nil: there is no such log.
	Audit func(number uint32, line func([]byte) []byte)
}

// Store is what of the policy belongs to the gateway and outlives
// configurations: rules, which take long to make, counts, and the bounds on
// what inspecting may take from everything else.
type Store struct {
	Deps
	once  sync.Once
	turns *turns       // made with the first rules
	held  atomic.Int64 // bytes of bodies

	overloads atomic.Uint64

	making  sync.Mutex // held while rules are made; guards what follows
	engines map[string]weak.Pointer[engine]

	mu     sync.Mutex // guards what follows
	routes map[key]*counts
}

type key struct{ route, mode string }

// counts are those of a route.
type counts struct {
	requests, attacks, unseen atomic.Uint64
	nanos                     atomic.Int64
}

// NewStore returns a store without rules.
func NewStore(d Deps) *Store {
	return &Store{Deps: d, engines: map[string]weak.Pointer[engine]{}, routes: map[key]*counts{}}
}

// of returns the counts of a route.
func (s *Store) of(route, mode string) *counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{route, mode}
	if s.routes[k] == nil {
		s.routes[k] = &counts{}
	}
	return s.routes[k]
}

// Retain forgets the counts of routes that aren't among these.
func (s *Store) Retain(routes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.routes {
		if !routes[k.route] {
			delete(s.routes, k)
		}
	}
}

// Count is what has been inspected for a route in a mode.
type Count struct {
	Route, Mode string
	Requests    uint64 // requests inspected
	Attacks     uint64 // those that were attacks
	Unseen      uint64 // those that passed without all of them having been seen
	Time        time.Duration
}

// Counts returns those of all routes.
func (s *Store) Counts() []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Count
	for k, c := range s.routes {
		list = append(list, Count{k.route, k.mode, c.requests.Load(), c.attacks.Load(), c.unseen.Load(), time.Duration(c.nanos.Load())})
	}
	slices.SortFunc(list, func(a, b Count) int { return strings.Compare(a.Route+"\x00"+a.Mode, b.Route+"\x00"+b.Mode) })
	return list
}

// Overloads is how often there was no room to inspect a request.
func (s *Store) Overloads() uint64 { return s.overloads.Load() }

// hold takes room for n bytes of a body, and reports whether there is any. One
// address has a portion of all.
func (s *Store) hold(client netip.Addr, n int) bool {
	by := &s.turns.account(client).held
	all, own := s.held.Add(int64(n)), by.Add(int64(n))
	if all <= mostHeld && own <= mostHeld/portion {
		return true
	}
	s.release(client, n)
	s.overloads.Add(1)
	return false
}

// release gives it back.
func (s *Store) release(client netip.Addr, n int) {
	if n > 0 {
		s.held.Add(-int64(n))
		s.turns.account(client).held.Add(-int64(n))
	}
}
