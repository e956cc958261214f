package validate

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/intake"
)

// Store is what routes have counted. It belongs to the gateway and outlives
// configurations.
type Store struct {
	log    logrus.FieldLogger
	bodies *intake.Room

	mu     sync.Mutex // guards what follows
	routes map[string]*counts
}

// NewStore returns an empty store.
func NewStore(log logrus.FieldLogger) *Store {
	return &Store{log: log, bodies: intake.NewRoom(), routes: map[string]*counts{}}
}

// room is where bodies are taken.
func (s *Store) room() *intake.Room {
	if s == nil {
		return nil
	}
	return s.bodies
}

// counts are those of one route.
type counts struct {
	refused, reported, wrong, unseen atomic.Uint64

	requests, responses valve // of lines in the log
}

// valve lets pass one line a second.
type valve struct {
	last    atomic.Int64 // the second of the last line
	skipped atomic.Uint64
}

// Count is what a route has counted.
type Count struct {
	Route    string
	Refused  uint64 // requests
	Reported uint64 // requests that mode report let pass
	Wrong    uint64 // responses
	Unseen   uint64 // responses that were too large, or compressed
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
	return c
}

// Counts are those of all routes.
func (s *Store) Counts() []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Count, 0, len(s.routes))
	for name, c := range s.routes {
		list = append(list, Count{name, c.refused.Load(), c.reported.Load(), c.wrong.Load(), c.unseen.Load()})
	}
	return list
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

// report logs what nobody is refused for: a line a second for each route, with
// how many there would have been.
func (s *Store) report(v *valve, text string, x *exchange.Exchange, path, why string) {
	now := x.Start.Unix()
	last := v.last.Load()
	if now <= last || !v.last.CompareAndSwap(last, now) {
		v.skipped.Add(1)
		return
	}
	s.log.WithFields(logrus.Fields{
		"route": x.RouteName, "request_id": strings.Clone(x.RequestID), "method": strings.Clone(x.Method), "path": path, "status": x.Status,
		"error": why, "more": v.skipped.Swap(0),
	}).Warn(text)
}
