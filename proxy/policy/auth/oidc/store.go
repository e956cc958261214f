package oidc

import (
	"sync"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// Store has what is known of logins in all routes. It outlives reloads, and losing
// it costs time only, but for the sessions that users have ended.
type Store struct {
	key []byte // of sessions, where a block has no secret of its own

	sums     remote.Sum
	read     *remote.Memory[*session]  // by what the browser shows
	renewed  *remote.Memory[*renewal]  // likewise
	ended    *remote.Memory[struct{}]  // by the session's id; and providers that are away
	metadata *remote.Memory[*metadata] // by the provider
	renewals remote.Flights[*renewal]
	asking   remote.Flights[*metadata]

	mu     sync.Mutex // guards counts
	counts map[string]*counts
}

// counts are those of an issuer.
type counts struct{ begun, done, failed, renewed, unrenewed, ended atomic.Uint64 }

// NewStore returns a store whose sessions are encrypted with that key.
func NewStore(key []byte) *Store {
	return &Store{
		key: key, sums: remote.NewKey(), counts: map[string]*counts{},
		read: remote.NewMemory[*session](16384, 128<<20), renewed: remote.NewMemory[*renewal](4096, 64<<20),
		ended: remote.NewMemory[struct{}](65536, 8<<20), metadata: remote.NewMemory[*metadata](256, 1<<20),
	}
}

// of are the counts of an issuer.
func (s *Store) of(issuer string) *counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts[issuer]
	if c == nil {
		c = &counts{}
		s.counts[issuer] = c
	}
	return c
}

// Counts is what became of logins at a provider, by outcome.
type Counts struct {
	Issuer                                          string
	Begun, Done, Failed, Renewed, NotRenewed, Ended uint64
}

// Counts lists the providers that somebody was sent to.
func (s *Store) Counts() []Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Counts
	for issuer, c := range s.counts {
		list = append(list, Counts{issuer, c.begun.Load(), c.done.Load(), c.failed.Load(), c.renewed.Load(), c.unrenewed.Load(), c.ended.Load()})
	}
	return list
}
