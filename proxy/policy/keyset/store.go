package keyset

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Deps are what a Store works with.
type Deps struct {
	Log logrus.FieldLogger
	Now func() time.Time // nil: time.Now
	// Patience is how long a request waits for keys; 0: two seconds.
	Patience time.Duration
}

// Store has the sets of all issuers that the configuration in force names.
type Store struct {
	deps Deps
	wake chan struct{}

	mu   sync.Mutex // guards sets
	sets []*Set
}

// NewStore returns a store without sets.
func NewStore(d Deps) *Store {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Patience == 0 {
		d.Patience = 2 * time.Second
	}
	return &Store{deps: d, wake: make(chan struct{}, 1)}
}

// Plan are the sets of a configuration that isn't in force yet. Nothing is
// fetched before Commit.
type Plan struct {
	store *Store
	sets  []*Set
}

// Plan starts the sets of another configuration.
func (s *Store) Plan() *Plan { return &Plan{store: s} }

// Set returns the set of a source: the one in use, if there is one.
func (p *Plan) Set(src Source) *Set {
	same := func(o *Set) bool { return o.source == src }
	if i := slices.IndexFunc(p.sets, same); i >= 0 {
		return p.sets[i]
	}
	inUse := p.store.list()
	var set *Set
	if i := slices.IndexFunc(inUse, same); i >= 0 {
		set = inUse[i]
	} else {
		set = newSet(p.store, src)
	}
	p.sets = append(p.sets, set)
	return set
}

// Commit has the plan's sets fetched from now on, and no others.
func (p *Plan) Commit() {
	s := p.store
	s.mu.Lock()
	old := s.sets
	s.sets = p.sets
	s.mu.Unlock()
	for _, o := range old {
		if !slices.Contains(p.sets, o) {
			o.mu.Lock()
			o.closed = true
			o.mu.Unlock()
		}
	}
	s.poke()
}

func (s *Store) list() []*Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sets)
}

// poke has Run look again.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run keeps the sets fresh until ctx ends.
func (s *Store) Run(ctx context.Context) {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	for {
		now := s.deps.Now()
		next := now.Add(maxRefresh)
		for _, set := range s.list() {
			due, begun := set.begin(now)
			if begun {
				fetches.Go(func() {
					set.fetch(ctx)
					s.poke()
				})
			} else if due.Before(next) {
				next = due
			}
		}
		t := time.NewTimer(next.Sub(now))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// Wait waits until each set has been fetched once, or has failed to be.
func (s *Store) Wait(ctx context.Context) {
	for _, set := range s.list() {
		select {
		case <-set.tried:
		case <-ctx.Done():
			return
		}
	}
}

// Status is how the keys of an issuer are.
type Status struct {
	Issuer, URL string // URL: "" for discovery
	Keys        int
	Fetched     time.Time // when the keys in use came; zero: there are none
	Error       string    // of the last fetch
	Failures    uint64
}

// Status lists the sets by issuer.
func (s *Store) Status() []Status {
	var out []Status
	for _, set := range s.list() {
		st := Status{Issuer: set.source.Issuer, URL: set.source.URL, Failures: set.failures.Load()}
		if k := set.keys.Load(); k != nil {
			st.Keys, st.Fetched = len(k.list), k.fetched
		}
		set.mu.Lock()
		if set.err != nil {
			st.Error = set.err.Error()
		}
		set.mu.Unlock()
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Issuer+" "+a.URL, b.Issuer+" "+b.URL) })
	return out
}
