package cache

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// mostReasons is for how many URIs it is remembered why an answer wasn't stored;
	// two that share a place take it from each other.
	mostReasons = 4096
	// longestReason bounds the URIs that are remembered.
	longestReason = 1024
	// reasonTime is how often the same is noted of the same URI.
	reasonTime = time.Second
)

// reason is why an answer wasn't stored.
type reason struct {
	uri, route, why string
	status          int
	at              time.Time
}

// reasons are the last ones, for those who wonder. The zero value is ready.
type reasons struct {
	places [mostReasons]atomic.Pointer[reason]
}

func (r *reasons) place(seed maphash.Seed, uri string) *atomic.Pointer[reason] {
	return &r.places[maphash.String(seed, uri)%mostReasons]
}

// refused counts, and remembers, that an answer wasn't stored.
func (s *Store) refused(c *counts, r reason) {
	c.refuse(r.why)
	r.uri = plainURI(r.uri)
	if len(r.uri) > longestReason {
		return
	}
	place := s.reasons.place(s.seed, r.uri)
	if o := place.Load(); o != nil && o.uri == r.uri && o.why == r.why && o.status == r.status && r.at.Sub(o.at) < reasonTime {
		return
	}
	r.uri = strings.Clone(r.uri)
	place.Store(&r)
}

// refused is what becomes of an answer that was to be stored, and wasn't.
func (k *keeping) refused(status int, why string) {
	k.store.refused(k.counts, reason{uri: k.flight.uri, route: routeOf(k.flight.base), why: why, status: status, at: time.Now()})
}

// reason is why the last answer of a URI wasn't stored, nil if nothing is known.
func (s *Store) reason(uri string) *reason {
	if r := s.reasons.place(s.seed, uri).Load(); r != nil && r.uri == uri {
		return r
	}
	return nil
}
