package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

// KV is a store with check-and-set, Consul's.
type KV interface {
	// Load reads a key and its index, for Swap; a missing one has the index 0.
	Load(ctx context.Context, key string) (value []byte, index uint64, err error)
	// Swap writes a key if its index is still that one; false: it isn't.
	Swap(ctx context.Context, key string, value []byte, index uint64) (bool, error)
	// List returns all keys.
	List(ctx context.Context, prefix string) ([]string, error)
	// DeleteIf removes a key if f takes its value, and it stays that one meanwhile.
	DeleteIf(ctx context.Context, key string, f func(value []byte) bool) error
}

const (
	// LeaseTimeout is how long a request waits for a lease.
	LeaseTimeout = 500 * time.Millisecond
	// maxLeases bounds the keys that a node has leases of. Further ones are
	// counted by the node alone.
	maxLeases = 4096
	// maxWrites bounds what a node asks of Consul at a time: an agent takes 200
	// connections of an address, and others need some.
	maxWrites = 16
	// cleanAfter is when the counter of a rate whose bucket is full leaves the
	// KV. It is long enough that no node has a clock which says otherwise.
	cleanAfter = time.Hour
	cleanEvery = time.Hour
	// maxSkew is how far apart the clocks of nodes may be.
	maxSkew = time.Minute
)

// state is a counter in the KV.
type state struct {
	Full  int64 `json:"full,omitempty"`  // of a rate: when the bucket is full, in nanoseconds since 1970
	Used  int64 `json:"used,omitempty"`  // of a quota, with all that is leased
	Until int64 `json:"until,omitempty"` // when the quota's period ends, in seconds since 1970
}

// over reports whether a counter says nothing that none wouldn't.
func (s *state) over(now time.Time) bool {
	if s.Until != 0 {
		return s.Until+keepQuota < now.Unix()
	}
	return s.Full+int64(cleanAfter) < now.UnixNano()
}

// lease is what a node may spend of a counter.
type lease struct {
	mu    sync.Mutex // guards what follows; held while the KV is asked: whoever else wants a lease of that counter waits for the answer
	left  int64
	state state     // as the KV last was
	asked time.Time // when it last was
	empty time.Time // until then the counter can't lease as much as least
	least int64
	until int64 // of a quota
	key   string
	used  time.Time
}

// Leases spends shares of counters in a KV.
type Leases struct {
	kv     KV
	now    func() time.Time
	writes chan struct{}

	mu      sync.Mutex // guards what follows
	m       map[string]*lease
	cleaned time.Time
}

var _ Backend = (*Leases)(nil)

// NewLeases returns a backend on a KV; now nil: time.Now.
func NewLeases(kv KV, now func() time.Time) *Leases {
	if now == nil {
		now = time.Now
	}
	return &Leases{kv: kv, now: now, writes: make(chan struct{}, maxWrites), m: map[string]*lease{}, cleaned: now()}
}

func (l *Leases) lease(a *Ask) (*lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.m[a.Key]
	if e == nil {
		if len(l.m) >= maxLeases {
			return nil, errBusy
		}
		e = &lease{key: a.Key, until: a.Until}
		l.m[a.Key] = e
	}
	return e, nil
}

// Take spends of each counter, and leases what is missing.
func (l *Leases) Take(ctx context.Context, asks []Ask) error {
	for i := range asks {
		err := l.take(ctx, &asks[i])
		if err != nil || !asks[i].OK && !asks[i].Dry {
			for j := range asks[:i] {
				l.giveBack(&asks[j])
			}
			for j := i + 1; j < len(asks); j++ {
				asks[j].OK = true // it isn't the one that refuses
			}
			return err
		}
	}
	return nil
}

func (l *Leases) take(ctx context.Context, a *Ask) error {
	e, err := l.lease(a)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := l.now()
	e.used = now
	if a.Owed > 0 || e.left < a.Cost && !e.hopeless(a.Cost-e.left, now) {
		if err := l.fetch(ctx, e, a, now); err != nil {
			return err
		}
	}
	if a.OK = e.left >= a.Cost; a.OK {
		e.left -= a.Cost
	}
	a.Used = e.state.Used - e.left
	if !a.quota() {
		// What is left here can be spent at once.
		a.Full = max(0, time.Duration(e.state.Full-now.UnixNano())-time.Duration(e.left)*a.Interval)
	}
	return nil
}

// hopeless reports whether it is known that n can't be leased now; a clock that
// was set back knows nothing.
func (e *lease) hopeless(n int64, now time.Time) bool {
	return n >= e.least && now.Before(e.empty) && !now.Before(e.asked)
}

func (l *Leases) giveBack(a *Ask) {
	if e, err := l.lease(a); err == nil && a.OK {
		e.mu.Lock()
		e.left += a.Cost
		e.mu.Unlock()
	}
}

// fetch leases what a wants, and more for those that come after it.
func (l *Leases) fetch(ctx context.Context, e *lease, a *Ask, now time.Time) error {
	select {
	case l.writes <- struct{}{}:
		defer func() { <-l.writes }()
	case <-ctx.Done():
		return errBusy
	}
	e.asked, e.least = now, a.Cost-e.left
	for {
		text, index, err := l.kv.Load(ctx, e.key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var s state
		if len(text) > 0 {
			if err := json.Unmarshal(text, &s); err != nil {
				return fmt.Errorf("%s: %w", e.key, err)
			}
		}
		before := s.Full
		n, empty := s.lend(a, max(a.Cost-e.left, a.Chunk), a.Cost-e.left, now)
		if n == 0 && a.Owed == 0 && s.Full >= before {
			e.state, e.empty = s, empty
			return nil
		}
		if text, err = json.Marshal(s); err != nil {
			return err
		}
		ok, err := l.kv.Swap(ctx, e.key, text, index)
		if err != nil {
			return err
		}
		if ok {
			e.left += n
			e.state, e.empty, a.Owed = s, empty, 0
			return nil
		}
		// Another node was first.
	}
}

// lend takes up to most of a counter, and nothing if that is less than least:
// then empty says how long there is no use in asking again.
func (s *state) lend(a *Ask, most, least int64, now time.Time) (n int64, empty time.Time) {
	if a.quota() {
		s.Used, s.Until = s.Used+a.Owed, a.Until
		n = min(most, a.Limit-s.Used)
		if n < least || n <= 0 {
			return 0, now.Add(time.Second) // an operator may give something back
		}
		s.Used += n
		return n, time.Time{}
	}
	t, i := now.UnixNano(), int64(a.Interval)
	if s.Full > t+i*a.Burst+int64(maxSkew) {
		// Clocks were set back: the bucket is empty, from now on. Less than
		// maxSkew may be another node's clock, and would give something back.
		s.Full = t + i*a.Burst
	}
	s.Full = max(s.Full, t)
	n = min(most, a.Burst-(s.Full-t+i-1)/i)
	if n < least || n <= 0 {
		return 0, time.Unix(0, s.Full-i*(a.Burst-least))
	}
	s.Full += n * i
	return n, time.Time{}
}

// Set says how much of a quota is used; what is leased here is forgotten.
func (l *Leases) Set(ctx context.Context, a *Ask) error {
	e, err := l.lease(a)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	text, err := json.Marshal(state{Used: a.Used, Until: a.Until})
	if err != nil {
		return err
	}
	for {
		_, index, err := l.kv.Load(ctx, e.key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		ok, err := l.kv.Swap(ctx, e.key, text, index)
		if err != nil {
			return err
		}
		if ok {
			e.left, e.state, e.empty = 0, state{Used: a.Used, Until: a.Until}, time.Time{}
			return nil
		}
	}
}

// Probe reads and writes.
func (l *Leases) Probe(ctx context.Context) error {
	a := Ask{Key: "probe", Cost: 1, Chunk: 1, Interval: time.Millisecond, Burst: 1000}
	return l.fetch(ctx, &lease{key: a.Key}, &a, l.now())
}

// Tidy forgets leases that are of no more use, and sometimes removes counters
// from the KV that are of none, whoever's they were.
func (l *Leases) Tidy(ctx context.Context) error {
	now := l.now()
	l.mu.Lock()
	for key, e := range l.m {
		if e.mu.TryLock() {
			if e.state.over(now) && now.Sub(e.used) > cleanAfter {
				delete(l.m, key)
			}
			e.mu.Unlock()
		}
	}
	due := now.Sub(l.cleaned) >= cleanEvery
	if due {
		l.cleaned = now
	}
	l.mu.Unlock()
	if !due {
		return nil
	}
	keys, err := l.kv.List(ctx, "")
	if err != nil {
		return err
	}
	for _, key := range keys {
		err := l.kv.DeleteIf(ctx, key, func(text []byte) bool {
			var s state
			return json.Unmarshal(text, &s) == nil && s.over(now)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// closeTime is how long a node that stops gives back what it had leased.
const closeTime = 2 * time.Second

// Close gives back what is left of quotas: rates come back by themselves.
func (l *Leases) Close() { l.GiveBack() }

// GiveBack gives back what is left of quotas; what is asked for after that is leased
// again.
func (l *Leases) GiveBack() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	l.mu.Lock()
	list := make([]*lease, 0, len(l.m))
	for _, e := range l.m {
		list = append(list, e)
	}
	l.mu.Unlock()
	for _, e := range list {
		if e.until != 0 && l.returned(ctx, e) != nil {
			return // the fleet is away, or it takes too long: what is left is lost
		}
	}
}

func (l *Leases) returned(ctx context.Context, e *lease) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.left > 0 {
		text, index, err := l.kv.Load(ctx, e.key)
		if err != nil {
			return err
		}
		var s state
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
		s.Used = max(0, s.Used-e.left)
		if text, err = json.Marshal(s); err != nil {
			return err
		}
		ok, err := l.kv.Swap(ctx, e.key, text, index)
		if err != nil {
			return err
		}
		if ok {
			e.left = 0
		}
	}
	return nil
}
