package discovery

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// snapshotPatience is how long the real source may take before the stored set
// is used.
const snapshotPatience = 200 * time.Millisecond

// The states of a watched query.
const (
	SnapshotWaiting = "waiting" // neither the source nor the disk had an answer
	SnapshotStale   = "stale"   // the stored set is in use
	SnapshotLive    = "live"    // the source has answered
)

// SnapshotStatus is where the instances of one query come from.
type SnapshotStatus struct {
	Source    string    // the name given to Wrap
	Query     string    // the query, in words
	State     string    // waiting, stale or live
	Since     time.Time // when it came into that state
	Stored    time.Time // when the set in use was known to be right; zero when live or waiting
	Instances int
}

type snapshotSource struct {
	snapshots *Snapshots
	name      string
	src       Source
}

// snapshotWatch is one running Watch. Its status is guarded by Snapshots.mu,
// the rest by its own mutex, which is taken first.
type snapshotWatch struct {
	mu     sync.Mutex
	live   bool
	status SnapshotStatus
}

// Wrap makes a source that begins with the set last stored for the query when
// src hasn't answered within 200 ms, and stores each set that src reports. name
// tells sources apart that answer the same query differently. An empty set that
// was stored isn't used: without the source nobody knows that it is still empty.
func (s *Snapshots) Wrap(name string, src Source) Source {
	return &snapshotSource{s, name, src}
}

// Watch runs the real source's Watch; one more goroutine waits for the 200 ms
// and ends with it.
func (s *snapshotSource) Watch(ctx context.Context, q Query, update func([]Instance)) error {
	key := snapshotKey(s.name, q)
	w := &snapshotWatch{status: SnapshotStatus{Source: s.name, Query: q.String(), State: SnapshotWaiting, Since: time.Now()}}
	s.snapshots.add(w)
	defer s.snapshots.remove(w)

	watching, cancel := context.WithCancel(ctx)
	var waiter sync.WaitGroup
	defer waiter.Wait()
	defer cancel()
	waiter.Go(func() {
		t := time.NewTimer(snapshotPatience)
		defer t.Stop()
		select {
		case <-watching.Done():
		case <-t.C:
			s.useStored(w, key, update)
		}
	})
	return s.src.Watch(ctx, q, func(set []Instance) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.live = true
		s.snapshots.Save(key, slices.Clone(set))
		s.snapshots.enter(w, SnapshotLive, len(set), 0)
		update(set)
	})
}

// Has reports whether a set is stored that a source of that name told for a query.
func (s *Snapshots) Has(name string, q Query) bool {
	var set []Instance
	_, ok := s.Load(snapshotKey(name, q), &set)
	return ok && len(set) > 0
}

// useStored reports the stored set unless the source was faster.
func (s *snapshotSource) useStored(w *snapshotWatch, key string, update func([]Instance)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live {
		return
	}
	var set []Instance
	age, ok := s.snapshots.Load(key, &set)
	if !ok || len(set) == 0 {
		return
	}
	s.snapshots.enter(w, SnapshotStale, len(set), age)
	s.snapshots.log.WithField("query", w.status.Query).WithField("age", age.Round(time.Second).String()).
		WithField("instances", len(set)).Warn("source doesn't answer; using the instances it last told")
	update(set)
}

func (s *Snapshots) add(w *snapshotWatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watched[w] = struct{}{}
}

func (s *Snapshots) remove(w *snapshotWatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watched, w)
}

// enter notes the state that w is in.
func (s *Snapshots) enter(w *snapshotWatch, state string, instances int, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if w.status.State != state {
		w.status.State, w.status.Since = state, now
	}
	w.status.Instances = instances
	w.status.Stored = time.Time{}
	if state == SnapshotStale {
		w.status.Stored = now.Add(-age)
	}
}

func snapshotKey(name string, q Query) string {
	b, err := json.Marshal(q)
	if err != nil {
		panic("discovery: a query can't be marshalled: " + err.Error()) // strings only
	}
	return "instances/" + name + "/" + string(b)
}
