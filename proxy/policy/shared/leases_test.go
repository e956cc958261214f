package shared

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// kv is a KV in memory, that can be down.
type kv struct {
	mu    sync.Mutex
	m     map[string][]byte
	index map[string]uint64
	swaps int
	down  error
}

func newKV() *kv { return &kv{m: map[string][]byte{}, index: map[string]uint64{}} }

func (k *kv) Load(_ context.Context, key string) ([]byte, uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down != nil {
		return nil, 0, k.down
	}
	if k.m[key] == nil {
		return nil, 0, fs.ErrNotExist
	}
	return k.m[key], k.index[key], nil
}

func (k *kv) Swap(_ context.Context, key string, value []byte, index uint64) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down != nil {
		return false, k.down
	}
	if k.index[key] != index {
		return false, nil
	}
	k.swaps++
	k.m[key], k.index[key] = value, index+1
	return true, nil
}

func (k *kv) List(context.Context, string) (list []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key := range k.m {
		list = append(list, key)
	}
	return list, k.down
}

func (k *kv) DeleteIf(_ context.Context, key string, f func([]byte) bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down == nil && f(k.m[key]) {
		delete(k.m, key)
		delete(k.index, key)
	}
	return k.down
}

func (k *kv) state(t *testing.T, key string) (s state) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := json.Unmarshal(k.m[key], &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// clock is what nodes agree on.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.ns.Load()) }
func (c *clock) step(d time.Duration) { c.ns.Add(int64(d)) }

// TestLeasesBound: nodes with 64 clients at once admit at most rate × time + burst
// and what they may hold, and with a quota never more.
func TestLeasesBound(t *testing.T) {
	const nodes, chunk = 3, 10
	c, store := newClock(), newKV()
	var list []*Leases
	for range nodes {
		list = append(list, NewLeases(store, c.now))
	}
	begin := c.now()
	storm := func(ask Ask, tick time.Duration) (passed int64) {
		t.Helper()
		var n atomic.Int64
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for range 200 {
					asks := []Ask{ask}
					if err := list[i%nodes].Take(t.Context(), asks); err != nil {
						t.Error(err)
						return
					}
					if asks[0].OK {
						n.Add(1)
					}
					c.step(tick)
				}
			})
		}
		wg.Wait()
		return n.Load()
	}
	passed := storm(Ask{Key: "r", Cost: 1, Interval: time.Millisecond, Burst: 100, Chunk: chunk}, 50*time.Microsecond)
	most := int64(c.now().Sub(begin)/time.Millisecond) + 100
	if passed > most || passed < most*8/10 {
		t.Errorf("%d passed, want %d at most", passed, most)
	}
	if store.swaps > int(passed) {
		t.Errorf("%d writes for %d requests", store.swaps, passed)
	}
	// What is held from before may come on top, at once.
	c.step(time.Hour)
	if passed, most := storm(Ask{Key: "r", Cost: 1, Interval: time.Millisecond, Burst: 100, Chunk: chunk}, 0), int64(100+nodes*chunk); passed > most || passed < 100 {
		t.Errorf("at once %d passed, want %d at most", passed, most)
	}
	if passed := storm(Ask{Key: "q", Cost: 1, Limit: 1000, Until: c.now().Unix() + 1000, Chunk: chunk}, 0); passed > 1000 || passed < 1000-nodes*chunk {
		t.Errorf("%d of a quota passed", passed)
	}
}

func TestLeases(t *testing.T) {
	c, store := newClock(), newKV()
	l := NewLeases(store, c.now)
	take := func(asks ...Ask) []Ask {
		t.Helper()
		if err := l.Take(t.Context(), asks); err != nil {
			t.Fatal(err)
		}
		return asks
	}
	r := func(cost int64) Ask { return Ask{Key: "r", Interval: time.Second, Burst: 10, Cost: cost, Chunk: 4} }
	q := func(cost, owed int64) Ask {
		return Ask{Key: "q", Limit: 20, Until: c.now().Unix() + 1000, Cost: cost, Owed: owed, Chunk: 4}
	}
	if a := take(r(1))[0]; !a.OK || a.Full != time.Second {
		t.Errorf("the first: %+v", a)
	}
	if s := store.state(t, "r"); s.Full != c.now().Add(4*time.Second).UnixNano() {
		t.Errorf("four are leased: %+v", s)
	}
	if a := take(r(9))[0]; !a.OK || a.Full != 10*time.Second {
		t.Errorf("more than a chunk: %+v", a)
	}
	swaps := store.swaps
	if a := take(r(1))[0]; a.OK || a.Full != 10*time.Second {
		t.Errorf("none is left: %+v", a)
	}
	take(r(1))
	if store.swaps != swaps {
		t.Error("refused requests write")
	}
	c.step(3 * time.Second)
	if a := take(r(4))[0]; a.OK {
		t.Errorf("4 of 3: %+v", a)
	}
	if a := take(r(3))[0]; !a.OK || a.Full != 10*time.Second {
		t.Errorf("3 of 3: %+v", a)
	}
	// A clock that is set back locks nobody out for longer than a burst takes.
	c.step(-time.Hour)
	take(r(1))
	c.step(10 * time.Second)
	if a := take(r(10))[0]; !a.OK {
		t.Errorf("after a step back: %+v", a)
	}
	// All or nothing, and what was leased for it serves the next.
	both := take(q(1, 0), r(1))
	if both[1].OK || Refused(both) != 1 {
		t.Errorf("%+v", both)
	}
	if a := take(q(0, 0))[0]; a.Used != 0 {
		t.Errorf("a refusal used of the quota: %+v", a)
	}
	if a := take(q(2, 5))[0]; !a.OK || a.Used != 7 || a.Owed != 0 {
		t.Errorf("with 5 owed: %+v", a)
	}
	if a := take(q(13, 0))[0]; !a.OK || a.Used != 20 {
		t.Errorf("the rest: %+v", a)
	}
	if a := take(q(1, 0))[0]; a.OK {
		t.Errorf("beyond: %+v", a)
	}
	if err := l.Set(t.Context(), &Ask{Key: "q", Used: 3, Until: c.now().Unix() + 1000}); err != nil {
		t.Fatal(err)
	}
	if a := take(q(1, 0))[0]; !a.OK || a.Used != 4 {
		t.Errorf("after an operator: %+v", a)
	}
	// A node that stops gives back what it hasn't used of quotas.
	if s := store.state(t, "q"); s.Used != 7 {
		t.Errorf("a chunk is leased: %+v", s)
	}
	l.Close()
	if s := store.state(t, "q"); s.Used != 4 {
		t.Errorf("after a stop: %+v", s)
	}
}

// TestSkew: a clock that is behind gives nothing back to one that is ahead.
func TestSkew(t *testing.T) {
	store, ahead, behind := newKV(), newClock(), newClock()
	ahead.step(20 * time.Second)
	a, b := NewLeases(store, ahead.now), NewLeases(store, behind.now)
	passed := 0
	for range 200 {
		for _, l := range []*Leases{a, b} {
			asks := []Ask{{Key: "r", Cost: 1, Interval: time.Second, Burst: 10, Chunk: 1}}
			if err := l.Take(t.Context(), asks); err != nil {
				t.Fatal(err)
			}
			if asks[0].OK {
				passed++
			}
		}
	}
	if passed > 10 {
		t.Errorf("%d of 10 passed", passed)
	}
}

// TestLeasesDown: errors are told, and nothing is spent.
func TestLeasesDown(t *testing.T) {
	c, store := newClock(), newKV()
	l := NewLeases(store, c.now)
	away := errors.New("away")
	store.down = away
	asks := []Ask{{Key: "r", Interval: time.Second, Burst: 10, Cost: 1, Chunk: 4}}
	if err := l.Take(t.Context(), asks); !errors.Is(err, away) {
		t.Errorf("Take = %v", err)
	}
	if err := l.Probe(t.Context()); !errors.Is(err, away) {
		t.Errorf("Probe = %v", err)
	}
	store.down = nil
	if err := l.Probe(t.Context()); err != nil {
		t.Errorf("Probe = %v", err)
	}
	store.m["r"] = []byte("hello")
	if err := l.Take(t.Context(), asks); err == nil || !strings.Contains(err.Error(), "r: invalid character") {
		t.Errorf("something else's key: %v", err)
	}
	delete(store.m, "r")
	// What is leased is spent without asking.
	if err := l.Take(t.Context(), asks); err != nil || !asks[0].OK {
		t.Errorf("Take = %v, %+v", err, asks)
	}
	store.down = away
	for i := range 4 {
		if err := l.Take(t.Context(), asks); (err == nil) != (i < 3) {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

// TestLeasesRoom: a node has leases of so many counters; those of no more use
// leave, here and in the KV.
func TestLeasesRoom(t *testing.T) {
	c, store := newClock(), newKV()
	l := NewLeases(store, c.now)
	var busy int
	for i := range maxLeases + 10 {
		key := string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		if err := l.Take(t.Context(), []Ask{{Key: key, Interval: time.Second, Burst: 10, Cost: 1, Chunk: 4}}); errors.Is(err, errBusy) {
			busy++
		}
	}
	if busy != 10 {
		t.Errorf("%d are too many, want 10", busy)
	}
	for _, tt := range []struct {
		after       time.Duration
		here, there int
	}{{time.Minute, maxLeases, maxLeases}, {2 * time.Hour, 0, 0}} {
		c.step(tt.after)
		if err := l.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(l.m) != tt.here || len(store.m) != tt.there {
			t.Errorf("after %v: %d here and %d there, want %d and %d", tt.after, len(l.m), len(store.m), tt.here, tt.there)
		}
	}
}
