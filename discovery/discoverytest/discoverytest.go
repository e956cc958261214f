// Package discoverytest is the contract of discovery.Source as a suite, for the
// tests of each source. It makes no source of its own, and each of its
// goroutines has ended when Run returns.
package discoverytest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// patience is how long a report may take before the test fails.
const patience = time.Minute

// Subject is a source under test. Each call of the factory gives a new one,
// with its own world behind it.
type Subject struct {
	Source discovery.Source
	Query  discovery.Query
	// First is the set that the source knows at the beginning, at least one.
	First []discovery.Instance
	// Set makes the world behind the source have these instances; nil if it
	// can't change.
	Set func(t *testing.T, set []discovery.Instance)
	// Break makes the source's server fail, Mend ends that; nil if there is none.
	Break, Mend func(t *testing.T)
	// Settled blocks until the source noticed the last Break.
	Settled func(t *testing.T)
}

// Run checks the contract.
func Run(t *testing.T, factory func(t *testing.T) Subject) {
	t.Run("first report is the full set", func(t *testing.T) { first(t, factory(t)) })
	t.Run("end of the context ends the watch without an error", func(t *testing.T) { ended(t, factory(t)) })
	t.Run("context that has ended already", func(t *testing.T) { endedBefore(t, factory(t)) })
	t.Run("watches don't disturb each other", func(t *testing.T) { twice(t, factory(t)) })
	t.Run("set is the callee's", func(t *testing.T) { owned(t, factory(t)) })
	t.Run("changes are reported whole", func(t *testing.T) { changes(t, factory(t)) })
	t.Run("empty is reported when it was told", func(t *testing.T) { empty(t, factory(t)) })
	t.Run("nothing is reported on an error", func(t *testing.T) { broken(t, factory(t)) })
	t.Run("watch that begins during an error", func(t *testing.T) { brokenFirst(t, factory(t)) })
}

// Recorder collects what a watch reports. Its methods may be called from any
// goroutine.
type Recorder struct {
	mu   sync.Mutex // guards sets
	sets [][]discovery.Instance

	cancel context.CancelFunc
	ended  chan error
}

// Watch starts a watch, which ends with the test or by Stop.
func Watch(t *testing.T, src discovery.Source, q discovery.Query) *Recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- src.Watch(ctx, q, r.add) }() // ended by Stop
	t.Cleanup(func() { r.Stop(t) })
	return r
}

func (r *Recorder) add(set []discovery.Instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets = append(r.sets, set)
}

// Stop ends the watch and checks that it says so without an error.
func (r *Recorder) Stop(t *testing.T) {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.ended:
		r.ended <- nil // for the next Stop
		if err != nil {
			t.Errorf("Watch = %v at the end of its context, want nil", err)
		}
	case <-time.After(patience):
		t.Fatal("Watch doesn't return after the end of its context")
	}
}

// Count is how many sets were reported.
func (r *Recorder) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sets)
}

// Last is the newest set; nil before the first.
func (r *Recorder) Last() []discovery.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sets) == 0 {
		return nil
	}
	return r.sets[len(r.sets)-1]
}

// Await waits for a report that fits.
func (r *Recorder) Await(t *testing.T, what string, fits func([]discovery.Instance) bool) {
	t.Helper()
	Eventually(t, what, func() bool { return r.Count() > 0 && fits(r.Last()) })
}

// Eventually polls until done, and fails the test when it never is.
func Eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// Addresses is the sorted addresses of a set.
func Addresses(set []discovery.Instance) []string {
	list := make([]string, 0, len(set))
	for _, in := range set {
		list = append(list, in.Address)
	}
	slices.Sort(list)
	return list
}

// equal compares what every source must carry.
func equal(a, b []discovery.Instance) bool {
	describe := func(set []discovery.Instance) []string {
		list := make([]string, 0, len(set))
		for _, in := range set {
			tags := slices.Sorted(slices.Values(in.Tags))
			list = append(list, in.Address+" "+in.Health.String()+" "+strings.Repeat("w", in.Weight)+" "+strings.Join(tags, ","))
		}
		slices.Sort(list)
		return list
	}
	return slices.Equal(describe(a), describe(b))
}

func is(want []discovery.Instance) func([]discovery.Instance) bool {
	return func(got []discovery.Instance) bool { return equal(got, want) }
}

func first(t *testing.T, s Subject) {
	r := Watch(t, s.Source, s.Query)
	Eventually(t, "the first report", func() bool { return r.Count() > 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if !equal(r.sets[0], s.First) {
		t.Errorf("first report = %+v, want %+v", r.sets[0], s.First)
	}
	ids := make(map[string]bool)
	for _, in := range r.sets[0] {
		if in.ID == "" || ids[in.ID] {
			t.Errorf("instance id %q is empty or not unique", in.ID)
		}
		ids[in.ID] = true
		if in.Weight < 1 || in.Weight > 128 {
			t.Errorf("instance %s: weight = %d, want 1 to 128", in.ID, in.Weight)
		}
	}
}

func ended(t *testing.T, s Subject) {
	r := Watch(t, s.Source, s.Query)
	r.Await(t, "the first report", is(s.First))
	r.Stop(t)
	n := r.Count()
	if s.Set != nil {
		s.Set(t, changed(s.First))
	}
	if r.Count() != n {
		t.Error("Watch reported after its end")
	}
}

func endedBefore(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	done := make(chan error, 1)
	go func() { done <- s.Source.Watch(ctx, s.Query, func([]discovery.Instance) {}) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Watch = %v, want nil", err)
		}
	case <-time.After(patience):
		t.Fatal("Watch doesn't return")
	}
}

func twice(t *testing.T, s Subject) {
	a, b := Watch(t, s.Source, s.Query), Watch(t, s.Source, s.Query)
	a.Await(t, "the first report of one", is(s.First))
	b.Await(t, "the first report of the other", is(s.First))
	a.Stop(t)
	if s.Set == nil {
		return
	}
	next := changed(s.First)
	s.Set(t, next)
	b.Await(t, "a report after the other watch ended", is(next))
}

func owned(t *testing.T, s Subject) {
	a := Watch(t, s.Source, s.Query)
	a.Await(t, "the first report", is(s.First))
	set := a.Last()
	for i := range set {
		set[i] = discovery.Instance{ID: "scribbled over", Weight: 1}
	}
	b := Watch(t, s.Source, s.Query)
	b.Await(t, "the first report of a second watch", is(s.First))
}

// changed is another set: each instance heavier, and one more.
func changed(set []discovery.Instance) []discovery.Instance {
	next := slices.Clone(set)
	for i := range next {
		next[i].Weight = 7
	}
	return append(next, discovery.Instance{ID: "added", Address: "127.0.0.1:64999", Weight: 3})
}

func changes(t *testing.T, s Subject) {
	if s.Set == nil {
		t.Skip("this source doesn't change")
	}
	r := Watch(t, s.Source, s.Query)
	r.Await(t, "the first report", is(s.First))
	next := changed(s.First)
	s.Set(t, next)
	r.Await(t, "the changed set", is(next))
	next = slices.Clone(next)
	next[0].Health = discovery.Critical
	s.Set(t, next)
	r.Await(t, "the set with a critical instance", is(next))
	s.Set(t, s.First)
	r.Await(t, "the first set again", is(s.First))
}

func empty(t *testing.T, s Subject) {
	if s.Set == nil {
		t.Skip("this source doesn't change")
	}
	r := Watch(t, s.Source, s.Query)
	r.Await(t, "the first report", is(s.First))
	s.Set(t, nil)
	r.Await(t, "the empty set", func(set []discovery.Instance) bool { return len(set) == 0 })
	s.Set(t, s.First)
	r.Await(t, "the first set again", is(s.First))
}

func broken(t *testing.T, s Subject) {
	if s.Break == nil {
		t.Skip("this source has nothing to fail")
	}
	r := Watch(t, s.Source, s.Query)
	r.Await(t, "the first report", is(s.First))
	n := r.Count()
	s.Break(t)
	if s.Settled != nil {
		s.Settled(t)
	}
	if r.Count() != n {
		t.Errorf("%d reports during an error, the last %+v, want none", r.Count()-n, r.Last())
	}
	s.Mend(t)
	if s.Set == nil {
		return
	}
	next := changed(s.First)
	s.Set(t, next)
	r.Await(t, "a report after the error", is(next))
}

func brokenFirst(t *testing.T, s Subject) {
	if s.Break == nil {
		t.Skip("this source has nothing to fail")
	}
	s.Break(t)
	r := Watch(t, s.Source, s.Query)
	if s.Settled != nil {
		s.Settled(t)
	}
	if r.Count() != 0 {
		t.Errorf("reported %+v during an error, want nothing", r.Last())
	}
	s.Mend(t)
	r.Await(t, "the first report after the error", is(s.First))
}
