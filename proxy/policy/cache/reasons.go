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

// refused counts, and remembers, that the answer to l wasn't stored.
func (s *Store) refused(l *look, status int, why string) {
	l.p.counts.refuse(why)
	uri := plainURI(l.uri)
	if len(uri) > longestReason {
		return
	}
	place := s.reasons.place(s.seed, uri)
	if r := place.Load(); r != nil && r.uri == uri && r.why == why && r.status == status && l.now.Sub(r.at) < reasonTime {
		return
	}
	place.Store(&reason{uri: strings.Clone(uri), route: l.p.route, why: why, status: status, at: l.now})
}

// reason is why the last answer of a URI wasn't stored, nil if nothing is known.
func (s *Store) reason(uri string) *reason {
	if r := s.reasons.place(s.seed, uri).Load(); r != nil && r.uri == uri {
		return r
	}
	return nil
}
