package quota

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// counters are a fleet's.
type counters struct {
	used  map[string]int64
	asked int
	down  error
}

func (c *counters) Take(_ context.Context, asks []shared.Ask) error {
	if c.down != nil {
		return c.down
	}
	c.asked++
	for i := range asks {
		a := &asks[i]
		c.used[a.Key] += a.Owed
		a.Owed, a.Used = 0, c.used[a.Key]
		a.OK = a.Used+a.Cost <= a.Limit
	}
	if shared.Refused(asks) < 0 {
		for i := range asks {
			a := &asks[i]
			c.used[a.Key] += a.Cost
			a.Used = c.used[a.Key]
		}
	}
	return nil
}

func (c *counters) Set(_ context.Context, a *shared.Ask) error {
	if c.down == nil {
		c.used[a.Key] = a.Used
	}
	return c.down
}
func (c *counters) Probe(context.Context) error { return errors.New("the test says when it is up") }
func (c *counters) Tidy(context.Context) error  { return nil }
func (c *counters) Close()                      {}

// back is the fleet after an outage.
func (c *counters) back(nodes ...*bench) {
	c.down = nil
	for _, b := range nodes {
		b.s.Fleet.Use(c, "test", time.Second)
	}
}

func (c *counters) node(t testing.TB, path string, configs ...Config) *bench {
	t.Helper()
	b := &bench{node: newNode(t, path, at(noon))}
	log, _ := test.NewNullLogger()
	log.SetOutput(io.Discard)
	b.s.Fleet = shared.NewFleet(log)
	b.s.Fleet.Use(c, "test", time.Second)
	for i := range configs {
		configs[i].Shared = configs[i].Name != "own"
	}
	b.p = b.compile("r", configs...)
	return b
}

// count sends n requests and returns how many pass.
func (b *bench) count(n int) (passed int) {
	b.t.Helper()
	for range n {
		if ok, _ := b.ask(b.p, nil); ok {
			passed++
		}
	}
	return passed
}

func newCounters() *counters { return &counters{used: map[string]int64{}} }

// TestShared: two nodes count as one, beside what each counts alone; one question
// for all that are shared, and no more of a refused request than of none.
func TestShared(t *testing.T) {
	fleet := newCounters()
	configs := func() []Config {
		return []Config{{Limit: "10/day", By: "client_ip"}, {Limit: "8/day", By: "client_ip", Name: "own"}, {Limit: "100/month", By: "route"}}
	}
	a, b := fleet.node(t, "", configs()...), fleet.node(t, "", configs()...)
	if n := a.count(6) + b.count(3); n != 9 || fleet.asked != 9 {
		t.Errorf("%d of 9 passed, with %d questions", n, fleet.asked)
	}
	ok, answer := b.ask(b.p, nil)
	if want := `RateLimit: "own/day";r=4;t=43200, "client_ip/day";r=0;t=43200, "route/month";r=90;t=561600`; !ok || !strings.HasSuffix(answer, want) {
		t.Errorf("%v, %s, want %s", ok, answer, want)
	}
	if n := a.count(5) + b.count(5); n != 0 || fleet.asked != 20 {
		t.Errorf("%d passed beyond the quota, with %d questions", n, fleet.asked)
	}
	for _, u := range b.s.List("") {
		want := map[string]int64{"client_ip=192.0.2.1 day route:r@fleet": 10, "client_ip=192.0.2.1 day name:own": 4, "route month route:r@fleet": 10}[u.Client+" "+u.Period+" "+u.Quota]
		if u.Used != want {
			t.Errorf("%+v, want %d used", u, want)
		}
	}
	// This node's own refuses first, and nobody is asked.
	c := fleet.node(t, "", Config{Limit: "1/day", By: "client_ip", Name: "own"}, Config{Limit: "100/h", By: "route"})
	asked := fleet.asked
	if n := c.count(5); n != 1 || fleet.asked != asked+1 {
		t.Errorf("%d passed, with %d questions", n, fleet.asked-asked)
	}
}

// TestSharedPlan: a plan's quota counts once, over routes and nodes.
func TestSharedPlan(t *testing.T) {
	fleet := newCounters()
	a := fleet.node(t, "", Config{Limit: "1/day"}, Config{Limit: "2/day"})
	acme := as(&exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Quota: exchange.Quota{Units: 3, Period: exchange.Month}}})
	for i := range 5 {
		if ok, answer := a.ask(a.p, acme); ok != (i < 3) || !strings.HasPrefix(answer, `RateLimit-Policy: "plan/month";q=3;w=2592000; RateLimit: "plan/month"`) {
			t.Errorf("request %d: %v, %s", i, ok, answer)
		}
	}
}

// TestSharedDown: a node that is on its own admits its part of what was left, and
// tells the fleet of it afterwards, after a crash, too.
func TestSharedDown(t *testing.T) {
	fleet := newCounters()
	file := path(t)
	config := Config{Limit: "100/day", By: "route", Sharing: shared.Sharing{Share: 0.25}}
	a, b := fleet.node(t, file, config), fleet.node(t, "", config)
	if n := a.count(20) + b.count(20) + a.count(20); n != 60 {
		t.Fatalf("%d of 60 passed", n)
	}
	fleet.down = errors.New("away")
	if n, m := a.count(50), b.count(50); n != 10 || m != 15 { // b heard last that 40 were used
		t.Errorf("alone, %d and %d of 40 and 60 that were left passed; want a quarter", n, m)
	}
	fleet.back(b)
	if n := b.count(1); n != 1 {
		t.Errorf("%d passed when the fleet was back", n)
	}
	for _, used := range fleet.used {
		if used != 60+15+1 {
			t.Errorf("the fleet knows of %d", used)
		}
	}
	// The other node crashes before it could tell.
	c := fleet.node(t, a.crash(), config)
	if n := c.count(1); n != 1 {
		t.Errorf("%d passed", n)
	}
	for _, used := range fleet.used {
		if most := int64(60 + 15 + 1 + 10 + 1); used < most || used > most+chunk(100) {
			t.Errorf("the fleet knows of %d, want %d or what was set aside more", used, most)
		}
	}
	// And what it told of, it doesn't tell again, after the next crash either.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		list := newNode(t, c.crash(), at(noon)).s
		if e := list.shard(&id{"route:r@fleet", "route", exchange.Day}).m[id{"route:r@fleet", "route", exchange.Day}]; e != nil && e.cur.owed == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the disk still says that something is owed")
		}
	}
	for i := range 3 {
		before := c.s.List("")[0].Used
		c.count(1)
		if now := c.s.List("")[0].Used; now != before+1 {
			t.Errorf("request %d used %d", i, now-before)
		}
	}
}

func TestSharedWhenDown(t *testing.T) {
	fleet := newCounters()
	fleet.down = errors.New("away")
	for _, tt := range []struct {
		when   string
		passed int
		kind   exchange.Kind
	}{{"deny", 0, exchange.LimitUnavailable}, {"allow", 20, ""}, {"local", 5, exchange.QuotaExceeded}} {
		b := fleet.node(t, "", Config{Limit: "9/day", By: "client_ip", Name: "own"}, Config{Limit: "10/day", By: "client_ip", Sharing: shared.Sharing{WhenDown: tt.when}})
		b.p = b.compile("s", Config{Limit: "10/day", By: "client_ip", Sharing: shared.Sharing{Shared: true, WhenDown: tt.when}}, Config{Limit: "1000/day", By: "route"})
		passed := 0
		for range 20 {
			x := policytest.Exchange(t, "GET https://a.test/")
			x.Start = b.clock()
			_, err := b.p.Request(x)
			var f *exchange.Fault
			if err == nil {
				passed++
			} else if !errors.As(err, &f) || f.Kind != tt.kind {
				t.Errorf("%s: %v", tt.when, err)
			}
		}
		if passed != tt.passed {
			t.Errorf("%s: %d of 20 passed, want %d", tt.when, passed, tt.passed)
		}
		for _, u := range b.s.List("route") {
			if u.Used != int64(tt.passed) {
				t.Errorf("%s: refused requests used of another quota: %+v", tt.when, u)
			}
		}
	}
}

// TestSharedSet: an operator's word counts on all nodes, or is refused.
func TestSharedSet(t *testing.T) {
	fleet := newCounters()
	config := Config{Limit: "10/day", By: "route"}
	a, b := fleet.node(t, "", config), fleet.node(t, "", config)
	a.count(10)
	if _, err := a.s.Set("route:r@fleet", "route", "day", 4); err != nil {
		t.Fatal(err)
	}
	if n := b.count(10); n != 6 {
		t.Errorf("%d passed, want 6", n)
	}
	fleet.down = errors.New("away")
	if _, err := a.s.Set("route:r@fleet", "route", "day", 0); err == nil || !strings.Contains(err.Error(), "the fleet can't be told: away") {
		t.Errorf("Set = %v", err)
	}
}

// TestSharedClock: a node whose clock is set back goes on where it was.
func TestSharedClock(t *testing.T) {
	fleet := newCounters()
	a := fleet.node(t, "", Config{Limit: "10/day", By: "route"})
	a.count(10)
	a.set("2026-09-01T00:00:00Z")
	if n := a.count(5); n != 0 || len(fleet.used) != 1 {
		t.Errorf("after a step back, %d passed, of %d counters", n, len(fleet.used))
	}
}
