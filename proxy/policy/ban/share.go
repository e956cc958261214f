package ban

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"time"
)

// Shared is where a fleet keeps its bans: a key for each address.
type Shared interface {
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	// DeleteIf deletes a key if f takes its value, and it stays that one meanwhile.
	DeleteIf(ctx context.Context, key string, f func(value []byte) bool) error
}

const (
	// maxPending bounds what waits to be told to the fleet, maxShared what a
	// fleet has: beyond, a ban stays this node's.
	maxPending = 4096
	maxShared  = 20_000
	shareTime  = 5 * time.Second // for one write
	retryFirst = time.Second
	retryMost  = time.Minute
	// cleanAfter is when a ban that is over leaves the fleet. It is long enough
	// that no node has a clock which says otherwise.
	cleanAfter = time.Hour
)

// value is a ban in the fleet's store.
type value struct {
	Since  int64  `json:"since"`
	Until  int64  `json:"until"`
	Forget int64  `json:"forget"`
	Times  int    `json:"times"`
	By     string `json:"by"`
}

// key names a client; an IPv6 address stands for its /64.
func (c client) key() string { return netip.Prefix(c).Addr().String() }

// Used is closed once a route has a ban block.
func (s *Store) Used() <-chan struct{} { return s.used }

// tell notes that the fleet has to know of c.
func (s *Store) tell(c client) {
	s.mu.Lock()
	if _, ok := s.pending[c]; ok || len(s.pending) < maxPending {
		s.pending[c]++
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// waiting is what the fleet has to know, each with how often it has changed.
func (s *Store) waiting() map[client]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.pending)
}

// Share tells the fleet of bans and of lifted ones until ctx ends. While that
// fails, it tries again, less and less often; bans hold here meanwhile.
func (s *Store) Share(ctx context.Context, to Shared) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	pause, failed := retryFirst, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			if failed {
				continue // it is its time's turn
			}
		case <-wait.C:
		}
		err := s.tellAll(ctx, to)
		switch {
		case err == nil:
			pause, failed = retryFirst, false
		case ctx.Err() == nil:
			if !failed {
				s.Log.WithError(err).Warn("bans can't be shared with the fleet, and hold on this node")
			}
			failed = true
			wait.Reset(pause)
			pause = min(2*pause, retryMost)
		}
	}
}

func (s *Store) tellAll(ctx context.Context, to Shared) error {
	for c, n := range s.waiting() {
		if err := s.tellOne(ctx, to, c); err != nil {
			return err
		}
		s.mu.Lock()
		if s.pending[c] == n { // else it has changed again meanwhile
			delete(s.pending, c)
		}
		s.mu.Unlock()
	}
	return nil
}

// tellOne makes the fleet know what is so now, whatever it was when it changed.
func (s *Store) tellOne(ctx context.Context, to Shared, c client) error {
	ctx, cancel := context.WithTimeout(ctx, shareTime)
	defer cancel()
	l := &s.list[s.shard(c)]
	l.mu.RLock()
	e, ok := l.m[c]
	l.mu.RUnlock()
	if !ok {
		return to.Delete(ctx, c.key())
	}
	if s.fleet.Load() >= maxShared {
		return nil // it stays this node's
	}
	text, err := json.Marshal(value{e.since, e.until, e.forget, e.times, e.by})
	if err != nil {
		return err
	}
	if err := to.Put(ctx, c.key(), text); err != nil {
		return err
	}
	l.mu.Lock()
	if now, ok := l.m[c]; ok && now == e {
		e.shared = true
		l.m[c] = e
	}
	l.mu.Unlock()
	return nil
}

// Merge takes over what the whole fleet has: bans that are longer than those
// here, and that shared ones are gone, which somebody has lifted. It returns
// the keys of bans that were over long ago.
func (s *Store) Merge(all map[string][]byte, now time.Time) (stale []string) {
	s.fleet.Store(int64(len(all)))
	at := now.Unix()
	known := make(map[client]bool, len(all))
	for c := range s.waiting() {
		known[c] = true // the fleet will hear of it: what it says now is old
	}
	for key, text := range all {
		c, err := parse(key)
		var v value
		if err != nil || json.Unmarshal(text, &v) != nil {
			continue // nothing of ours
		}
		if over(&v, now) {
			stale = append(stale, key)
		}
		if v.Until > at && !known[c] {
			s.adopt(c, &v, at)
		}
		known[c] = true
	}
	s.lift(known, at)
	s.changed()
	return stale
}

// over reports whether a ban can leave the fleet.
func over(v *value, now time.Time) bool { return v.Until+seconds(cleanAfter) < now.Unix() }

// adopt makes a ban of the fleet this node's, too, unless its own is longer.
func (s *Store) adopt(c client, v *value, now int64) {
	const most = 10 * 366 * 24 * 3600
	until := min(v.Until, now+most)
	l := &s.list[s.shard(c)]
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.m[c]
	if e.until > until {
		return
	}
	if e.until == until {
		if !e.shared {
			e.shared = true
			l.m[c] = e
		}
		return
	}
	s.put(&l.m, c, entry{v.Since, until, min(v.Forget, until+most), max(v.Times, 1), v.By, true}, now)
}

// lift forgets the shared bans that the fleet doesn't have any more.
func (s *Store) lift(known map[client]bool, now int64) {
	for i := range s.list {
		l := &s.list[i]
		l.mu.Lock()
		for c, e := range l.m {
			if e.shared && e.until > now && !known[c] {
				delete(l.m, c)
				s.active.Add(-1)
			}
		}
		l.mu.Unlock()
	}
}

// Clean takes bans out of the fleet that were over long ago. Any node may.
func (s *Store) Clean(ctx context.Context, from Shared, keys []string) error {
	for _, key := range keys {
		one, cancel := context.WithTimeout(ctx, shareTime)
		err := from.DeleteIf(one, key, func(text []byte) bool {
			var v value
			return json.Unmarshal(text, &v) == nil && over(&v, time.Now())
		})
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}
