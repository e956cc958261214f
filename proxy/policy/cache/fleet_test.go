package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// pool is what a fleet shares, in memory.
type pool struct {
	mu   sync.Mutex
	keys map[string][]byte
	fail error
	puts int
}

func (p *pool) Put(_ context.Context, key string, value []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.puts++
	if p.fail != nil {
		return p.fail
	}
	p.keys[key] = value
	return nil
}

func (p *pool) Delete(_ context.Context, key string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keys, key)
	return nil
}

func (p *pool) all() map[string][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.keys)
}

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// member is a node of a fleet that has stored an answer of /a.
func member(t *testing.T, state FleetState) (*Fleet, *Policy) {
	t.Helper()
	p := newPolicy(t, nil, "")
	f := NewFleet(p.store, quiet(), "host", state, nil)
	f.SetOff("")
	if state.Current.IsZero() {
		f.Merge(nil, time.Now())
	}
	answer(t, p, "GET https://api.example.com/a", "old", "Cache-Control: max-age=100", "Surrogate-Key: a")
	return f, p
}

func has(t *testing.T, p *Policy) bool {
	t.Helper()
	i, err := p.store.Inspect("https://api.example.com/a")
	if err != nil {
		t.Fatal(err)
	}
	return len(i.Answers) > 0
}

// TestFleet: what one node tells, another does, once, and the one itself doesn't.
func TestFleet(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	to := &pool{keys: map[string][]byte{}}
	one, own := member(t, FleetState{})
	two, other := member(t, FleetState{})
	go one.Share(ctx, to)
	if err := one.Tell(ctx, Purge{Tags: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	all := to.all()
	if len(all) != 1 {
		t.Fatalf("%d keys", len(all))
	}
	one.Merge(all, time.Now())
	two.Merge(all, time.Now())
	if !has(t, own) || has(t, other) {
		t.Errorf("one has it: %v, the other: %v; want true, false", has(t, own), has(t, other))
	}
	answer(t, other, "GET https://api.example.com/a", "new", "Cache-Control: max-age=100", "Surrogate-Key: a")
	if two.Merge(all, time.Now()); !has(t, other) {
		t.Error("it was done twice")
	}
	// After a restart, it knows what it has done.
	three, third := member(t, two.state)
	if three.Merge(all, time.Now()); !has(t, third) {
		t.Error("it was done again after a restart")
	}
}

// TestFleetStorm: purges that come together are few entries, and each is answered.
func TestFleetStorm(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	to := &pool{keys: map[string][]byte{}}
	f, _ := member(t, FleetState{})
	var wg sync.WaitGroup
	const n = 5000
	for i := range n {
		wg.Go(func() {
			if err := f.Tell(ctx, Purge{Tags: []string{fmt.Sprintf("tag-%d", i)}}); err != nil {
				t.Error(err)
			}
		})
	}
	for f.Waiting() < n {
		time.Sleep(time.Millisecond)
	}
	go f.Share(ctx, to)
	wg.Wait()
	told := map[string]bool{}
	for key, text := range to.all() {
		if len(text) > longestEntry {
			t.Errorf("an entry of %d bytes", len(text))
		}
		_, list, err := readEntry(key, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			told[s.tags[0]] = true
		}
	}
	if len(told) != n || to.puts > 10 {
		t.Errorf("%d were told in %d entries", len(told), to.puts)
	}
}

// TestFleetLongest: the longest purge that there is has room in an entry.
func TestFleetLongest(t *testing.T) {
	f, _ := member(t, FleetState{})
	f.host = strings.Repeat("h", 253)
	p := Purge{Soft: true}
	for len(p.Tags) < 27 {
		p.Tags = append(p.Tags, strings.Repeat("\"", longestName))
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	f.waiting = append(f.waiting, &telling{p: p}, &telling{p: p})
	key, text, list := f.next()
	if _, _, err := readEntry(key, text); err != nil || len(list) != 1 {
		t.Errorf("%d purges in %d bytes: %v", len(list), len(text), err)
	}
}

// TestFleetAway: without Consul who purges is told so, and the others when it is back.
func TestFleetAway(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	to := &pool{keys: map[string][]byte{}, fail: errors.New("nobody there")}
	f, _ := member(t, FleetState{})
	go f.Share(ctx, to)
	if err := f.Tell(ctx, Purge{All: true}); err == nil || errors.Is(err, ErrNoFleet) || !strings.Contains(err.Error(), "nobody there") {
		t.Fatal(err)
	}
	to.mu.Lock()
	to.fail = nil
	to.mu.Unlock()
	for end := time.Now().Add(10 * time.Second); f.Waiting() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if len(to.all()) != 1 {
		t.Error("it isn't told later")
	}
	f.SetOff("no consul block")
	if err := f.Tell(ctx, Purge{All: true}); !errors.Is(err, ErrNoFleet) {
		t.Error(err)
	}
}

func entryOf(at time.Time, n int, what ...Purge) (string, []byte) {
	text, _ := json.Marshal(sharedEntry{By: "x", At: at.UnixMilli(), Purges: what})
	return fmt.Sprintf("%013d-abc-%d", at.UnixMilli(), n), text
}

// TestFleetMissed: a node that may have missed purges forgets everything.
func TestFleetMissed(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name  string
		at    time.Time // when it knew all
		until time.Time // of trimmed
		left  bool
	}{
		{"short", now.Add(-time.Hour), time.Time{}, true},
		{"long", now.Add(-25 * time.Hour), time.Time{}, false},
		{"trimmed since", now.Add(-time.Hour), now.Add(-time.Minute), false},
		{"trimmed before", now.Add(-time.Hour), now.Add(-2 * time.Hour), true},
	} {
		f, p := member(t, FleetState{})
		f.state.Current = tt.at
		all := map[string][]byte{}
		if !tt.until.IsZero() {
			all[trimmedKey], _ = json.Marshal(trimmed{tt.until.UnixMilli()})
		}
		if f.Merge(all, now); has(t, p) != tt.left {
			t.Errorf("%s: it is left: %v", tt.name, has(t, p))
		}
		f, p = member(t, FleetState{})
		f.state.Current = tt.at
		if f.Heard(now); has(t, p) != (tt.name != "long") {
			t.Errorf("%s, without news: it is left: %v", tt.name, has(t, p))
		}
	}
}

// TestFleetBad: what isn't a purge is left out and reported, and harms no other.
func TestFleetBad(t *testing.T) {
	f, p := member(t, FleetState{})
	good, text := entryOf(time.Now(), 1, Purge{All: true})
	bad := func(n int) string { k, _ := entryOf(time.Now(), n); return k }
	all := map[string][]byte{
		bad(2): []byte("?"), bad(3): []byte("{}"), bad(4): []byte(`{"purges":[{}]}`), bad(5): []byte(`{"purges":[{"all":true,"unless":["x"]}]}`),
		bad(6): []byte(strings.Repeat(" ", longestEntry+1)), "me": text, bad(7): append([]byte(string(text)), "{}"...), bad(8): []byte(`{"purges":[{"urls":["x"]}]}`),
		good: text,
	}
	f.Merge(all, time.Now())
	if has(t, p) {
		t.Error("the good one isn't done")
	}
	if got := f.Problems(); len(got) != len(all)-1 || got[good] != "" {
		t.Errorf("problems: %v", got)
	}
	if len(f.state.Seen) != 1 {
		t.Errorf("%d are seen", len(f.state.Seen))
	}
}

// TestFleetClean: what is over goes, and of too many the oldest do, which is said.
func TestFleetClean(t *testing.T) {
	f, _ := member(t, FleetState{})
	now := time.Now()
	all := map[string][]byte{}
	add := func(at time.Time, n int) string {
		key, text := entryOf(at, n, Purge{Tags: []string{"b"}})
		all[key] = text
		return key
	}
	add(now.Add(-keepPurges), 1)
	old := add(now.Add(-keepPurges-2*cleanPurges-time.Second), 2)
	over, trim := f.Merge(all, now)
	if len(over) != 1 || over[0] != old || trim != nil {
		t.Errorf("%q are over, trimmed until %v", over, trim)
	}
	for i := range mostShared {
		add(now.Add(-time.Hour+time.Duration(i)*time.Second), i)
	}
	delete(all, old)
	over, trim = f.Merge(all, now)
	if len(over) != mostShared/4+1 || trim == nil || trim.After(now.Add(-50*time.Minute)) {
		t.Fatalf("%d are over, trimmed until %v", len(over), trim)
	}
	to := &pool{keys: all}
	if err := f.Clean(context.Background(), to, over, trim); err != nil {
		t.Fatal(err)
	}
	if left := to.all(); len(left) != mostShared*3/4+1 || left[trimmedKey] == nil {
		t.Errorf("%d are left", len(left))
	}
	// Those who were there know that they have missed nothing.
	if why := f.missed(now, now, all[trimmedKey]); why != "" {
		t.Error(why)
	}
}
