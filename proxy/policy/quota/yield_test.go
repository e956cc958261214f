package quota

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// used is what a client has used.
func (n *node) used(client string) int64 {
	for _, u := range n.s.List(client) {
		return u.Used
	}
	return 0
}

func (n *node) drained() {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		names, err := estate.List(n.s.drainsDir())
		if err == nil && len(names) == 0 {
			return
		}
		if time.Now().After(end) {
			n.t.Fatal(names, err)
		}
	}
}

// TestYield: what both processes count adds up, whichever ends first and how.
func TestYield(t *testing.T) {
	for _, name := range []string{"ends", "is killed", "ends after another hand-over", "is found by the next start"} {
		t.Run(name, func(t *testing.T) {
			old := newNode(t, path(t), at(noon))
			old.use("a", exchange.Day, 1000, 100)
			old.use("b", exchange.Day, 1000, 7)
			var wg sync.WaitGroup
			for range 8 { // while it hands over
				wg.Go(func() {
					for range 50 {
						old.use("c", exchange.Day, 1_000_000, 1)
					}
				})
			}
			if err := old.s.Yield(); err != nil {
				t.Fatal(err)
			}
			if err := old.s.Yield(); err == nil {
				t.Error("handed over twice")
			}
			next := newNode(t, old.s.Path, at(noon))
			if used, ok := next.use("a", exchange.Day, 1000, 20); used != 120 || !ok {
				t.Errorf("the successor has %d, %v", used, ok)
			}
			wg.Wait()
			old.use("a", exchange.Day, 1000, 3)
			old.use("new", exchange.Day, 1000, 5)
			most := int64(0)
			switch name {
			case "is killed": // what was set aside counts
				if err := old.s.own.Close(); err != nil {
					t.Fatal(err)
				}
				most = 10
			case "ends after another hand-over":
				if err := next.s.Yield(); err != nil {
					t.Fatal(err)
				}
				third := newNode(t, old.s.Path, at(noon))
				next.use("a", exchange.Day, 1000, 1)
				third.use("a", exchange.Day, 1000, 1)
				old.stop()
				next.stop()
				next = third
				next.drained()
				next.use("a", exchange.Day, 1000, -2)
			case "is found by the next start":
				next.stop()
				old.stop()
				next = newNode(t, old.s.Path, at(noon))
				next.use("b", exchange.Day, 1000, 0)
				next.s.writer.enqueue(&entry{id: id{"x", "y", exchange.Day}})
			default:
				old.stop()
			}
			next.drained()
			for client, want := range map[string]int64{"a": 123, "b": 7, "new": 5} {
				if got := next.used(client); got < want || got > want+most {
					t.Errorf("%s has used %d, want %d", client, got, want)
				}
			}
			if got := next.used("c"); got < 400 || got > 400+10_000*most/10 {
				t.Errorf("c has used %d, want 400", got)
			}
			next.stop()
			again := newNode(t, old.s.Path, at(noon))
			if got := again.used("a"); got < 123 || got > 123+most {
				t.Errorf("after a restart a has used %d, want 123", got)
			}
		})
	}
}

// TestYieldResume: the successor has ended, and the old one goes on.
func TestYieldResume(t *testing.T) {
	old := newNode(t, path(t), at(noon))
	old.use("a", exchange.Day, 1000, 100)
	for range 2 {
		if err := old.s.Yield(); err != nil {
			t.Fatal(err)
		}
		old.use("a", exchange.Day, 1000, 3)
		next := newNode(t, old.s.Path, at(noon))
		next.use("a", exchange.Day, 1000, 20)
		next.use("b", exchange.Day, 1000, 2)
		next.stop()
		if err := old.s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	old.use("a", exchange.Day, 1000, 1)
	if a, b := old.used("a"), old.used("b"); a != 147 || b != 4 {
		t.Errorf("used are %d and %d", a, b)
	}
	old.stop()
	again := newNode(t, old.s.Path, at(noon))
	if a, b := again.used("a"), again.used("b"); a != 147 || b != 4 {
		t.Errorf("after a restart %d and %d are used", a, b)
	}
	again.drained()
}

// TestYieldFails: a file that can't be written isn't handed over.
func TestYieldFails(t *testing.T) {
	old := newNode(t, path(t), at(noon))
	old.use("a", exchange.Day, 1000, 100)
	block := old.s.file.path + ".new"
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := old.s.Yield(); err == nil {
		t.Fatal("handed over")
	}
	old.use("a", exchange.Day, 1000, 2)
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	if err := old.s.Yield(); err != nil {
		t.Fatal(err)
	}
	if names, _ := filepath.Glob(filepath.Join(old.s.drainsDir(), "*")); len(names) != 1 {
		t.Errorf("%q", names)
	}
	next := newNode(t, old.s.Path, at(noon))
	if used := next.used("a"); used != 102 {
		t.Errorf("%d are used", used)
	}
}

// TestYieldOwed: what the fleet hasn't heard of is told by one of the two.
func TestYieldOwed(t *testing.T) {
	old := newNode(t, path(t), at(noon))
	take := func(n *node, cost int64) {
		a := ask{id: id{"route:r", "a", exchange.Day}, limit: 1000, cost: cost, start: n.s.now(exchange.Day, n.clock()), part: 1}
		n.s.take(&a)
		n.s.settle(&a)
		sh := n.s.shard(&a.id)
		sh.mu.Lock()
		a.e.shared = true
		sh.mu.Unlock()
	}
	owed := func(n *node) int64 {
		var sum int64
		n.s.each(func(_ *entry, c *count) { sum += c.owed })
		return sum
	}
	take(old, 10)
	if err := old.s.Yield(); err != nil {
		t.Fatal(err)
	}
	next := newNode(t, old.s.Path, at(noon))
	if a, b := owed(old), owed(next); a != 0 || b != 10 {
		t.Errorf("owed are %d and %d", a, b)
	}
	take(old, 5)
	take(next, 1)
	old.stop()
	next.drained()
	if n := owed(next); n != 16 {
		t.Errorf("%d are owed", n)
	}
}
