package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// counters are a fleet's, with one clock and no doubts.
type counters struct {
	full  map[string]time.Duration
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
		a.Full = c.full[a.Key]
		a.OK = a.Full <= a.Interval*time.Duration(a.Burst-a.Cost)
	}
	if shared.Refused(asks) >= 0 {
		return nil
	}
	for i := range asks {
		if a := &asks[i]; a.OK {
			a.Full += a.Interval * time.Duration(a.Cost)
			c.full[a.Key] = a.Full
		}
	}
	return nil
}

func (c *counters) Set(context.Context, *shared.Ask) error { return nil }
func (c *counters) Probe(context.Context) error            { return errors.New("the test says when it is up") }
func (c *counters) Tidy(context.Context) error             { return nil }
func (c *counters) Close()                                 {}

func (c *counters) node(t testing.TB, configs ...Config) *bench {
	t.Helper()
	log, _ := test.NewNullLogger()
	log.SetOutput(io.Discard)
	b := &bench{t: t, store: newStore(64 << 10), now: time.Now(), fleet: shared.NewFleet(log)}
	b.fleet.Use(c, "test", time.Second)
	for i := range configs {
		if configs[i].Share == 0 {
			configs[i].Share = 0.5
		}
	}
	b.compile(configs...)
	return b
}

func together(c Config) Config {
	c.Shared = true
	return c
}

// TestShared: two nodes count as one, with the limits of each node beside it, and
// one question for all that are shared.
func TestShared(t *testing.T) {
	fleet := &counters{full: map[string]time.Duration{}}
	configs := []Config{
		together(Config{Rate: "1/h", Burst: 5, By: "client_ip"}), {Rate: "1/h", Burst: 4, By: "route"}, together(Config{Rate: "1/m", Burst: 50, By: "header:X-Tenant"}),
	}
	a, b := fleet.node(t, configs...), fleet.node(t, configs...)
	const policies = `RateLimit-Policy: "route";q=4;w=14400, "client_ip";q=5;w=18000, "header:X-Tenant";q=50;w=3000; `
	for i, tt := range []struct {
		node   *bench
		ok     bool
		answer string
		asked  int
	}{
		{a, true, `RateLimit: "route";r=3;t=3600, "client_ip";r=4;t=3600, "header:X-Tenant";r=49;t=60`, 1},
		{b, true, `RateLimit: "route";r=3;t=3600, "client_ip";r=3;t=7200, "header:X-Tenant";r=48;t=120`, 2},
		{a, true, `RateLimit: "route";r=2;t=7200, "client_ip";r=2;t=10800, "header:X-Tenant";r=47;t=180`, 3},
		{a, true, `RateLimit: "route";r=1;t=10800, "client_ip";r=1;t=14400, "header:X-Tenant";r=46;t=240`, 4},
		{a, true, `RateLimit: "route";r=0;t=3600, "client_ip";r=0;t=3600, "header:X-Tenant";r=45;t=300`, 5},
		{a, false, `RateLimit: "route";r=0;t=3600; Retry-After: 3600`, 5},     // this node's own: nobody is asked
		{b, false, `RateLimit: "client_ip";r=0;t=3600; Retry-After: 3600`, 6}, // the fleet's
	} {
		ok, answer := tt.node.ask(nil, "X-Tenant: a")
		if ok != tt.ok || answer != policies+tt.answer || fleet.asked != tt.asked {
			t.Errorf("request %d: passed %v, %d questions, %s; want %+v", i, ok, fleet.asked, answer, tt)
		}
	}
	if ok, answer := b.ask(func(x *exchange.Exchange) { x.ClientIP = netip.MustParseAddr("198.51.100.9") }, "X-Tenant: a"); !ok || !strings.Contains(answer, `"route";r=2`) {
		t.Errorf("a refusal by the fleet took of this node's limit: %v, %s", ok, answer)
	}
}

// TestSharedKeys: the same on all nodes, and another for each client and limit.
func TestSharedKeys(t *testing.T) {
	fleet := &counters{full: map[string]time.Duration{}}
	one := together(Config{Rate: "1/h", Burst: 9, By: "header:X-Tenant"})
	two := together(Config{Rate: "2/h", Burst: 9, By: "header:X-Tenant"})
	ip := func(x *exchange.Exchange) { x.ClientIP = netip.MustParseAddr("198.51.100.9") }
	for range 2 {
		a := fleet.node(t, one, one, two)
		a.ask(nil, "X-Tenant: a")
		a.ask(nil, "X-Tenant: b")
		a.ask(ip, "X-Tenant: b")
		a.ask(nil)
		a.ask(ip)
	}
	if len(fleet.full) != 3*4 {
		t.Errorf("%d counters, want one for each of three limits and four clients", len(fleet.full))
	}
	for key := range fleet.full {
		if !strings.HasPrefix(key, "rate:") || len(key) != len("rate:")+22 {
			t.Errorf("key %q", key)
		}
	}
}

// TestSharedRounded: an interval that Redis counts in larger steps shows as such.
func TestSharedRounded(t *testing.T) {
	fleet := &counters{full: map[string]time.Duration{}}
	b := fleet.node(t, together(Config{Rate: "3/s", Burst: 3}))
	for i := range 3 {
		if ok, answer := b.ask(nil); !ok || !strings.Contains(answer, fmt.Sprintf(";r=%d;", 2-i)) {
			t.Errorf("request %d: %v, %s", i, ok, answer)
		}
	}
}

// TestSharedDown: what a node does by itself, as its limits say.
func TestSharedDown(t *testing.T) {
	fleet := &counters{full: map[string]time.Duration{}, down: errors.New("away")}
	sharing := func(when string, share float64) shared.Sharing {
		return shared.Sharing{Shared: true, WhenDown: when, Share: share}
	}
	unavailable := exchange.LimitUnavailable
	for _, tt := range []struct {
		name   string
		config Config
		passed int
		kind   exchange.Kind
		policy string
	}{
		{"local", Config{Rate: "1/h", Burst: 10, Sharing: sharing("local", 0.5)}, 5, exchange.RateLimited, `"client_ip";q=5;w=36001`},
		{"a quarter", Config{Rate: "1/h", Burst: 10, Sharing: sharing("local", 0.25)}, 2, exchange.RateLimited, `"client_ip";q=2;w=28801`},
		{"all", Config{Rate: "1/h", Burst: 10, Sharing: sharing("local", 1)}, 10, exchange.RateLimited, `"client_ip";q=10;w=36001`},
		{"one at least", Config{Rate: "1/h", Burst: 1, Sharing: sharing("local", 0.1)}, 1, exchange.RateLimited, `"client_ip";q=1;w=36001`},
		{"dear", Config{Rate: "1/h", Burst: 10, Cost: "9", Sharing: sharing("local", 0.5)}, 1, exchange.RateLimited, `"client_ip";q=5;w=36001`},
		{"deny", Config{Rate: "1/h", Burst: 10, Sharing: sharing("deny", 0.5)}, 0, unavailable, ""},
		{"allow", Config{Rate: "1/h", Burst: 10, Sharing: sharing("allow", 0.5)}, 20, "", `"client_ip";q=10;w=36000`},
		{"dry run", Config{Rate: "1/h", Burst: 10, DryRun: true, Sharing: sharing("deny", 0.5)}, 20, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := fleet.node(t, tt.config)
			passed := 0
			for range 20 {
				x := policytest.Exchange(t, "GET https://a.test/")
				x.Start = b.now
				verdict, err := b.p.Request(x)
				if err == nil {
					passed++
				}
				var f *exchange.Fault
				if err != nil && (!errors.As(err, &f) || f.Kind != tt.kind || verdict != policy.Done) {
					t.Fatalf("Request = %v, %v", verdict, err)
				}
				answer := strings.Join(policytest.Sent(&x.Response, &x.ResponseEdits), "; ")
				if tt.policy != "" && !strings.HasPrefix(answer, "RateLimit-Policy: "+tt.policy+";") {
					t.Fatalf("the answer says %s, want %s", answer, tt.policy)
				}
			}
			if passed != tt.passed {
				t.Errorf("%d of 20 passed, want %d", passed, tt.passed)
			}
		})
	}
	// Nobody to ask at all is the same as nobody who answers.
	b := fleet.node(t, Config{Rate: "1/h", Burst: 10, Sharing: sharing("local", 0.5)})
	b.fleet.Use(nil, "", 0)
	passed := 0
	for range 20 {
		if ok, _ := b.ask(nil); ok {
			passed++
		}
	}
	if passed != 5 {
		t.Errorf("%d of 20 passed without a fleet, want 5", passed)
	}
}

func TestSharedExplain(t *testing.T) {
	fleet := &counters{full: map[string]time.Duration{}}
	b := fleet.node(t, together(Config{Rate: "1/h", Burst: 3}))
	if got, want := b.p.Explain(), "1/h, 3 at once, by client_ip, on all nodes together"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	x := policytest.Exchange(t, "GET https://a.test/")
	x.Start = b.now
	b.ask(nil)
	for range 2 {
		if got, want := b.p.Test(x), "client_ip admits 2 of 3"; got != want {
			t.Errorf("Test = %q, want %q", got, want)
		}
	}
	b.ask(nil)
	b.ask(nil)
	if got, want := b.p.Test(x), "client_ip refuses for 3600 s"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	fleet.down = errors.New("away")
	if got, want := b.p.Test(x), "client_ip admits 3 of 3, but the counters of the fleet can't be asked now"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
}
