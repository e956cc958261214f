package ban

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fleet is a store of a fleet in memory.
type fleet struct {
	keys  map[string][]byte
	away  atomic.Bool
	tries int
	hook  func() // while something is written
}

func (f *fleet) try() error {
	f.tries++
	if f.hook != nil {
		f.hook()
	}
	if f.away.Load() {
		return errors.New("away")
	}
	return nil
}

func (f *fleet) Put(_ context.Context, key string, value []byte) error {
	if err := f.try(); err != nil {
		return err
	}
	f.keys[key] = value
	return nil
}

func (f *fleet) Delete(_ context.Context, key string) error {
	if err := f.try(); err != nil {
		return err
	}
	delete(f.keys, key)
	return nil
}

func (f *fleet) DeleteIf(_ context.Context, key string, is func([]byte) bool) error {
	if is(f.keys[key]) {
		delete(f.keys, key)
	}
	return nil
}

// banned are the clients that s has.
func banned(s *Store) []string {
	var list []string
	for _, b := range s.List(time.Now()) {
		list = append(list, b.Client)
	}
	slices.Sort(list)
	return list
}

// sharing runs Share until the test ends.
func sharing(t *testing.T, s *Store, f *fleet) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Share(ctx, f) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
}

func add(t *testing.T, s *Store, address string) {
	t.Helper()
	if _, err := s.Add(address, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{keys: map[string][]byte{}}
		a, b := store(t, ""), store(t, "")
		sharing(t, a, f)
		sharing(t, b, f)
		add(t, a, "192.0.2.1")
		add(t, a, "2001:db8::9")
		a.ban(clientOf(netip.MustParseAddr("192.0.2.3")), "login", time.Now(), time.Minute, time.Hour)
		synctest.Wait()
		if d := cmp.Diff([]string{"192.0.2.1", "192.0.2.3", "2001:db8::"}, slices.Sorted(maps.Keys(f.keys))); d != "" {
			t.Fatalf("the fleet has: %s", d)
		}
		both := func(what string, want ...string) {
			t.Helper()
			for name, s := range map[string]*Store{"a": a, "b": b} {
				s.Merge(maps.Clone(f.keys), time.Now())
				if d := cmp.Diff(want, banned(s)); d != "" {
					t.Errorf("%s: %s has: %s", what, name, d)
				}
			}
		}
		both("banned by a", "192.0.2.1", "192.0.2.3", "2001:db8::/64")
		if n := f.tries; n != 3 {
			t.Errorf("%d writes: what comes from the fleet isn't told to it", n)
		}
		if _, err := b.Remove("192.0.2.1", time.Now()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		both("lifted by b", "192.0.2.3", "2001:db8::/64")
		// What was in the fleet counts as an earlier ban there, too.
		time.Sleep(2 * time.Minute)
		b.ban(clientOf(netip.MustParseAddr("192.0.2.3")), "login", time.Now(), time.Minute, time.Hour)
		synctest.Wait()
		both("again by b", "192.0.2.3", "2001:db8::/64")
		for _, ban := range a.List(time.Now()) {
			if ban.Client == "192.0.2.3" && (ban.Times != 2 || ban.Until.Sub(ban.Since) != 2*time.Minute) {
				t.Errorf("a has %+v", ban)
			}
		}
	})
}

// TestFleetAway: bans hold, and are told when the fleet's store is back.
func TestFleetAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{keys: map[string][]byte{}}
		f.away.Store(true)
		s := store(t, "")
		sharing(t, s, f)
		add(t, s, "192.0.2.1")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if f.tries < 5 || f.tries > 20 {
			t.Errorf("%d tries in ten minutes", f.tries)
		}
		if s.Merge(nil, time.Now()); len(banned(s)) != 1 {
			t.Error("a ban that nobody was told of is lifted")
		}
		f.away.Store(false)
		time.Sleep(retryMost)
		synctest.Wait()
		if len(f.keys) != 1 || len(s.waiting()) != 0 {
			t.Errorf("the fleet has %d bans, %d wait", len(f.keys), len(s.waiting()))
		}
	})
}

// TestFleetChanges: what changes while it is told is told again; an old answer
// of the store changes nothing of it.
func TestFleetChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{keys: map[string][]byte{}}
		s := store(t, "")
		f.hook = func() {
			f.hook = nil
			if _, err := s.Remove("192.0.2.1", time.Now()); err != nil {
				t.Error(err)
			}
		}
		sharing(t, s, f)
		add(t, s, "192.0.2.1")
		if len(f.keys) != 0 || len(banned(s)) != 0 {
			t.Errorf("lifted while it was told: the fleet has %v, the node %v", f.keys, banned(s))
		}
		add(t, s, "192.0.2.2")
		old := maps.Clone(f.keys)
		f.away.Store(true)
		if _, err := s.Remove("192.0.2.2", time.Now()); err != nil {
			t.Fatal(err)
		}
		if s.Merge(old, time.Now()); len(banned(s)) != 0 {
			t.Error("an old answer brings back what is lifted here")
		}
	})
}

func TestMerge(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	at := now.Unix()
	put := func(until int64) []byte {
		b, err := json.Marshal(value{at - 60, until, until + 60, 2, "r"})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s := store(t, "")
	if _, err := s.Add("192.0.2.1", now, time.Hour); err != nil {
		t.Fatal(err)
	}
	s.pending = map[client]int{}
	stale := s.Merge(map[string][]byte{
		"192.0.2.1": put(at + 60),   // shorter than ours
		"192.0.2.2": put(at + 60),   //
		"192.0.2.3": put(at - 60),   // over
		"192.0.2.4": put(at - 3700), // long over
		"192.0.2.5": put(1 << 60),   // nonsense
		"192.0.2.6": []byte("x"), "x/y": put(at + 60), "": put(at + 60),
	}, now)
	var got []string
	for _, b := range s.List(now) {
		got = append(got, b.Client+" "+b.Until.Sub(now).Truncate(time.Minute).String())
	}
	if d := cmp.Diff([]string{"192.0.2.5 87840h0m0s", "192.0.2.1 1h0m0s", "192.0.2.2 1m0s"}, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"192.0.2.4"}, stale); d != "" {
		t.Error(d)
	}
	f := &fleet{keys: map[string][]byte{"a": put(time.Now().Unix()), "b": put(time.Now().Unix() - 3700)}}
	if err := s.Clean(t.Context(), f, []string{"a", "b"}); err != nil || len(f.keys) != 1 {
		t.Errorf("Clean leaves %d (%v)", len(f.keys), err)
	}
	s.fleet.Store(maxShared)
	if err := s.tellOne(t.Context(), f, clientOf(netip.MustParseAddr("192.0.2.1"))); err != nil || f.tries != 0 {
		t.Errorf("a full fleet is told of more (%v)", err)
	}
}
