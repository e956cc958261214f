package ratelimit

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// bench is a route with limits, and its clock.
type bench struct {
	t     testing.TB
	store *Store
	fleet *shared.Fleet
	p     *Policy
	now   time.Time
}

func newBench(t testing.TB, configs ...Config) *bench {
	t.Helper()
	b := &bench{t: t, store: newStore(64 << 10), now: time.Now()}
	b.compile(configs...)
	return b
}

// compile is a reload: a new policy on the same store.
func (b *bench) compile(configs ...Config) {
	b.t.Helper()
	b.store.since = func(t time.Time) time.Duration { return b.now.Sub(t) }
	kind := Kind(Deps{Store: b.store, Fleet: b.fleet})
	var list []policy.Policy
	for _, c := range configs {
		if c.By == "" {
			c.By = "client_ip"
		}
		l, err := kind.New(&c)
		if err != nil {
			b.t.Fatal(err)
		}
		list = append(list, l)
	}
	p, err := kind.Join("r", list)
	if err != nil {
		b.t.Fatal(err)
	}
	b.p = p.(*Policy)
}

// ask sends a request and returns the answer's fields; ok says whether it passed.
func (b *bench) ask(change func(*exchange.Exchange), fields ...string) (ok bool, answer string) {
	b.t.Helper()
	x := policytest.Exchange(b.t, "GET https://a.test/orders/7?q=1", fields...)
	x.Start = b.now
	if change != nil {
		change(x)
	}
	verdict, err := b.p.Request(x)
	var f *exchange.Fault
	if err != nil && (!errors.As(err, &f) || f.Kind != exchange.RateLimited || verdict != policy.Done) {
		b.t.Fatalf("Request = %v, %v", verdict, err)
	}
	return err == nil, strings.Join(policytest.Sent(&x.Response, &x.ResponseEdits), "; ")
}

func TestFields(t *testing.T) {
	b := newBench(t, Config{Rate: "2/s", Burst: 3})
	steps := []struct {
		after  time.Duration
		ok     bool
		answer string
	}{
		{0, true, `RateLimit-Policy: "client_ip";q=3;w=2; RateLimit: "client_ip";r=2;t=1`},
		{0, true, `RateLimit-Policy: "client_ip";q=3;w=2; RateLimit: "client_ip";r=1;t=1`},
		{0, true, `RateLimit-Policy: "client_ip";q=3;w=2; RateLimit: "client_ip";r=0;t=1`},
		{0, false, `RateLimit-Policy: "client_ip";q=3;w=2; RateLimit: "client_ip";r=0;t=1; Retry-After: 1`},
		{500 * time.Millisecond, true, `RateLimit-Policy: "client_ip";q=3;w=2; RateLimit: "client_ip";r=0;t=1`},
		{time.Hour, true, `RateLimit-Policy: "client_ip";q=3;w=2; RateLimit: "client_ip";r=2;t=1`},
	}
	for i, s := range steps {
		b.now = b.now.Add(s.after)
		ok, answer := b.ask(nil)
		if ok != s.ok {
			t.Errorf("step %d: passed %v, want %v", i, ok, s.ok)
		}
		if d := cmp.Diff(s.answer, answer); d != "" {
			t.Errorf("step %d: %s", i, d)
		}
	}
	b.compile(Config{Rate: "1/h"})
	b.ask(nil)
	if ok, answer := b.ask(nil); ok || answer != `RateLimit-Policy: "client_ip";q=1;w=3600; RateLimit: "client_ip";r=0;t=3600; Retry-After: 3600` {
		t.Errorf("passed %v: %s", ok, answer)
	}
	b.compile(Config{Rate: "100/s", Burst: 10})
	if _, answer := b.ask(nil); answer != `RateLimit-Policy: "client_ip";q=100;w=1; RateLimit: "client_ip";r=9;t=1` {
		t.Error(answer)
	}
}

// TestBy: who counts as one client, and who as two.
func TestBy(t *testing.T) {
	ip := func(a string) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.ClientIP = netip.MustParseAddr(a) }
	}
	consumer := func(name string) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.Consumer = &exchange.Consumer{Name: name} }
	}
	param := func(v string) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.Params = append(x.Params, exchange.Param{Name: "id", Value: v}) }
	}
	token := func(sub string) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.Claims = exchange.NewClaims(map[string]any{"sub": sub}) }
	}
	query := func(q string) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.Target.Query = q }
	}
	type client struct {
		change func(*exchange.Exchange)
		fields []string
	}
	head := func(fields ...string) client { return client{nil, fields} }
	as := func(f func(*exchange.Exchange)) client { return client{f, nil} }
	tests := []struct {
		name, by string
		a, b     client
		same     bool
	}{
		{"IPv4", "client_ip", as(ip("192.0.2.1")), as(ip("192.0.2.2")), false},
		{"IPv4 mapped", "client_ip", as(ip("192.0.2.1")), as(ip("::ffff:192.0.2.1")), true},
		{"IPv6 of one /64", "client_ip", as(ip("2001:db8::1")), as(ip("2001:db8::ffff:2")), true},
		{"IPv6 of two /64", "client_ip", as(ip("2001:db8::1")), as(ip("2001:db8:0:1::1")), false},
		{"IPv6 like IPv4", "client_ip", as(ip("192.0.2.1")), as(ip("c000:201::")), false},
		{"consumers", "consumer", as(consumer("a")), as(consumer("b")), false},
		{"consumer", "consumer", as(consumer("a")), as(consumer("a")), true},
		{"no consumer", "consumer", as(nil), as(consumer("a")), false},
		{"no consumer, two addresses", "consumer", as(ip("192.0.2.1")), as(ip("192.0.2.2")), false},
		{"header", "header:X-Tenant", head("x-tenant: a"), head("X-Tenant: a"), true},
		{"headers", "header:X-Tenant", head("X-Tenant: a"), head("X-Tenant: b"), false},
		{"headers, known name", "header:User-Agent", head("User-Agent: a"), head("User-Agent: b"), false},
		{"second header", "header:X-Tenant", head("X-Tenant: a"), head("X-Tenant: a", "X-Tenant: b"), false},
		{"no header, one address", "header:X-Tenant", head(), head("Other: b"), true},
		{"no header, two addresses", "header:X-Tenant", as(ip("192.0.2.1")), as(ip("192.0.2.2")), false},
		{"cookie", "cookie:sid", head("Cookie: a=1; sid=x"), head("Cookie: sid=x; b=2"), true},
		{"cookies", "cookie:sid", head("Cookie: sid=x"), head("Cookie: sid=y"), false},
		{"query", "query:k", as(query("a=1&k=v")), as(query("k=v&b=2")), true},
		{"queries", "query:k", as(query("k=v")), as(query("k=w")), false},
		{"param", "param:id", as(param("7")), as(param("7")), true},
		{"params", "param:id", as(param("7")), as(param("8")), false},
		{"claim", "claim:sub", as(token("u")), as(token("u")), true},
		{"claims", "claim:sub", as(token("u")), as(token("v")), false},
		{"claim and none", "claim:sub", as(token("u")), as(nil), false},
		{"no claim, two addresses", "claim:sub", as(ip("192.0.2.1")), as(ip("192.0.2.2")), false},
		{"claim of another name", "claim:org", as(token("u")), as(token("v")), true},
		{"expression", "cel:request.method + claims.sub", as(token("u")), as(token("u")), true},
		{"expressions", "cel:request.method + claims.sub", as(token("u")), as(token("v")), false},
		{"expression of another type", "cel:size(claims.sub)", as(token("u")), as(token("v")), true},
		{"expression in error, two addresses", "cel:claims.sub", as(ip("192.0.2.1")), as(ip("192.0.2.2")), false},
		{"expression in error, one address", "cel:claims.sub", as(nil), as(query("x")), true},
		{"expression without a value", "cel:consumer.name", as(ip("192.0.2.1")), as(ip("192.0.2.2")), false},
		{"header of two and of one", "header:X-Tenant", head("X-Tenant: a, b"), head("X-Tenant: a", "X-Tenant: b"), false},
		{"route", "route", as(ip("192.0.2.1")), as(consumer("a")), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, Config{Rate: "1/h", By: tt.by})
			if ok, _ := b.ask(tt.a.change, tt.a.fields...); !ok {
				t.Fatal("the first request is refused")
			}
			if ok, _ := b.ask(tt.a.change, tt.a.fields...); ok {
				t.Error("the same client's second request passes")
			}
			if ok, _ := b.ask(tt.b.change, tt.b.fields...); ok == tt.same {
				t.Errorf("the other client's passes: %v, want %v", ok, !tt.same)
			}
		})
	}
}

// TestSeveral: all must admit, and a refusal of one takes nothing of the others.
func TestSeveral(t *testing.T) {
	b := newBench(t, Config{Rate: "1/s", Burst: 2}, Config{Rate: "1/h", Burst: 10, By: "route"}, Config{Rate: "100/h", Burst: 50})
	const policies = `RateLimit-Policy: "client_ip";q=2;w=2, "route";q=10;w=36000, "client_ip-2";q=50;w=1800; `
	want := []string{
		`RateLimit: "client_ip";r=1;t=1, "route";r=9;t=3600, "client_ip-2";r=49;t=36`,
		`RateLimit: "client_ip";r=0;t=1, "route";r=8;t=7200, "client_ip-2";r=48;t=72`,
		`RateLimit: "client_ip";r=0;t=1; Retry-After: 1`,
		`RateLimit: "client_ip";r=0;t=1; Retry-After: 1`,
	}
	for i, w := range want {
		ok, answer := b.ask(nil)
		if ok != (i < 2) {
			t.Errorf("request %d passed: %v", i, ok)
		}
		if d := cmp.Diff(policies+w, answer); d != "" {
			t.Errorf("request %d: %s", i, d)
		}
	}
	b.now = b.now.Add(time.Second)
	if _, answer := b.ask(nil); !strings.Contains(answer, `"route";r=7`) || !strings.Contains(answer, `"client_ip-2";r=47`) {
		t.Errorf("refusals took of the other limits: %s", answer)
	}
}

func TestPlan(t *testing.T) {
	b := newBench(t, Config{Rate: "1/h", By: "consumer"}, Config{Rate: "100/s"})
	gold := &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "gold", Rate: *parse(t, "10/m", 3)}}
	free := &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "free"}}
	as := func(c *exchange.Consumer) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.Consumer = c }
	}
	for i := range 4 {
		ok, answer := b.ask(as(gold))
		if ok != (i < 3) || !strings.HasPrefix(answer, `RateLimit-Policy: "consumer";q=3;w=18, "client_ip";q=100;w=1; `) {
			t.Errorf("gold, request %d passed: %v: %s", i, ok, answer)
		}
	}
	for i := range 2 {
		if ok, answer := b.ask(as(free)); ok != (i < 1) || !strings.HasPrefix(answer, `RateLimit-Policy: "consumer";q=1;w=3600, `) {
			t.Errorf("free, request %d passed: %v: %s", i, ok, answer)
		}
	}
}

// TestCost: a request takes what it costs; one whose cost nobody knows takes all
// that there is.
func TestCost(t *testing.T) {
	const cost = "request.method == 'POST' ? 4 : int(request.query.n)"
	tests := []struct {
		name, method, query string
		ok                  bool
		left                string
	}{
		{"one", "GET", "n=1", true, "r=9"},
		{"dearer", "POST", "", true, "r=5"},
		{"nothing", "GET", "n=0", true, "r=5"},
		{"more than is left", "GET", "n=6", false, `r=5;t=5; Retry-After: 1`},
		{"what is left", "GET", "n=5", true, "r=0"},
		{"nothing when there is none", "GET", "n=0", true, "r=0"},
		{"negative", "GET", "n=-5", false, "Retry-After: 10"},
		{"no cost", "GET", "", false, "Retry-After: 10"},
		{"not a number", "GET", "n=x", false, "Retry-After: 10"},
		{"more than the burst", "GET", "n=9999999999999", false, "Retry-After: 10"},
	}
	b := newBench(t, Config{Rate: "1/s", Burst: 10, Cost: cost})
	for _, tt := range tests {
		ok, answer := b.ask(func(x *exchange.Exchange) { x.Method, x.Target.Query = tt.method, tt.query })
		if ok != tt.ok || !strings.Contains(answer, tt.left) {
			t.Errorf("%s: passed %v, %s; want %v, %s", tt.name, ok, answer, tt.ok, tt.left)
		}
	}
	if n := b.store.Counts()[0].Errors(); n != 3 {
		t.Errorf("%d errors, want 3", n)
	}
	b.now = b.now.Add(10 * time.Second)
	if ok, answer := b.ask(nil); !ok || !strings.Contains(answer, "r=0") {
		t.Errorf("a request without a cost passes when nothing is taken: %v, %s", ok, answer)
	}
}

// TestRateClaim: a token says its own rate, as far as the route lets it.
func TestRateClaim(t *testing.T) {
	c := Config{Rate: "1/h", By: "claim:sub", RateClaim: "rate", RateMax: "100/m"}
	gold := &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "gold", Rate: *parse(t, "10/m", 3)}}
	tests := []struct {
		name   string
		burst  int
		claims map[string]any
		policy string
		errors uint64
	}{
		{"none", 0, nil, "q=1;w=3600", 0},
		{"another claim", 0, map[string]any{"sub": "u"}, "q=1;w=3600", 0},
		{"a rate", 0, map[string]any{"rate": "30/m"}, "q=1;w=2", 0},
		{"as much as may be", 0, map[string]any{"rate": "100/m"}, "q=2;w=2", 0},
		{"too much", 0, map[string]any{"rate": "10000000/s"}, "q=2;w=2", 0},
		{"a burst", 5, map[string]any{"rate": "60/m"}, "q=5;w=5", 0},
		{"too much, with a burst", 5, map[string]any{"rate": "9999/s"}, "q=5;w=3", 0},
		{"not a rate", 0, map[string]any{"rate": "lots"}, "q=1;w=3600", 1},
		{"nothing", 0, map[string]any{"rate": "0/s"}, "q=1;w=3600", 1},
		{"a number", 0, map[string]any{"rate": int64(1000)}, "q=1;w=3600", 1},
		{"too long a number", 0, map[string]any{"rate": "99999999999999999999999/s"}, "q=1;w=3600", 1},
		{"a list", 0, map[string]any{"rate": []any{"1000/s"}}, "q=1;w=3600", 1},
	}
	for _, tt := range tests {
		c.Burst = tt.burst
		b := newBench(t, c)
		_, answer := b.ask(func(x *exchange.Exchange) {
			if tt.claims != nil {
				x.Claims = exchange.NewClaims(tt.claims)
			}
		})
		if want := `RateLimit-Policy: "claim:sub";` + tt.policy + ";"; !strings.HasPrefix(answer, want) {
			t.Errorf("%s: %s, want %s", tt.name, answer, want)
		}
		if n := b.store.Counts()[0].Errors(); n != tt.errors {
			t.Errorf("%s: %d errors, want %d", tt.name, n, tt.errors)
		}
	}
	c.By, c.Burst = "consumer", 0
	b := newBench(t, c)
	_, answer := b.ask(func(x *exchange.Exchange) {
		x.Consumer, x.Claims = gold, exchange.NewClaims(map[string]any{"rate": "20/m"})
	})
	if !strings.HasPrefix(answer, `RateLimit-Policy: "consumer";q=1;w=3;`) {
		t.Errorf("a claim doesn't win over a plan: %s", answer)
	}
}

func TestDryRun(t *testing.T) {
	b := newBench(t, Config{Rate: "1/h", DryRun: true})
	for range 3 {
		if ok, answer := b.ask(nil); !ok || answer != "" {
			t.Errorf("a dry run shows: passed %v, %q", ok, answer)
		}
	}
	if c := b.store.Counts()[0]; !c.DryRun || c.Refused() != 2 {
		t.Errorf("counted %+v, %d", c, c.Refused())
	}
	b.compile(Config{Rate: "1/h", DryRun: true, By: "route"}, Config{Rate: "2/h", Burst: 2})
	for i := range 3 {
		if ok, answer := b.ask(nil); ok != (i < 2) || strings.Contains(answer, `"route"`) {
			t.Errorf("request %d passed: %v: %s", i, ok, answer)
		}
	}
}

// TestReload: a limit that stays keeps its counters; one that changes doesn't.
func TestReload(t *testing.T) {
	c := Config{Rate: "1/h"}
	b := newBench(t, c)
	b.ask(nil)
	b.compile(c, Config{Rate: "5/h", Burst: 5, By: "route"})
	if ok, _ := b.ask(nil); ok {
		t.Error("a reload gave a new burst")
	}
	b.compile(Config{Rate: "1/h", Burst: 2})
	if ok, _ := b.ask(nil); !ok {
		t.Error("a limit that changed still counts by the old one")
	}
	b.compile(c)
	if ok, _ := b.ask(nil); ok {
		t.Error("there and back gave a new burst")
	}
}

// TestClockSteps: time.Time carries the monotonic clock; a step of the wall
// clock changes only what Round(0) leaves.
func TestClockSteps(t *testing.T) {
	b := newBench(t, Config{Rate: "1/s", Burst: 1})
	b.ask(nil)
	if b.now.Round(0).Equal(b.now) && b.now.String() == b.now.Round(0).String() {
		t.Fatal("the test's clock has no monotonic reading")
	}
	b.now = b.now.Add(-time.Hour) // as a request that began long ago
	if ok, _ := b.ask(nil); ok {
		t.Error("an earlier time refills")
	}
	b.now = b.now.Add(time.Hour + time.Second)
	if ok, _ := b.ask(nil); !ok {
		t.Error("an earlier time locks out")
	}
}

// TestWaited: requests that other policies kept waiting pass no faster than
// others, whenever they began.
func TestWaited(t *testing.T) {
	b := newBench(t, Config{Rate: "1/s", Burst: 2})
	b.now = b.now.Add(time.Minute)
	passed := 0
	for i := range 20 { // they began in the last 20 seconds, and come all at once
		began := b.now.Add(time.Duration(i-20) * time.Second)
		if ok, _ := b.ask(func(x *exchange.Exchange) { x.Start = began }); ok {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d passed at once, want 2", passed)
	}
}

func TestExplain(t *testing.T) {
	b := newBench(t, Config{Rate: "1/m", Burst: 2}, Config{Rate: "5/s", By: "route", DryRun: true})
	if got, want := b.p.Explain(), "1/m, 2 at once, by client_ip; 5/s, 5 at once, by route (dry run)"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	costly := newBench(t, Config{Rate: "1/s", Burst: 9, By: "cel:claims.sub", Cost: "request.tls ? 2 : 1", RateClaim: "r", RateMax: "5/s"})
	if got, want := costly.p.Explain(), "1/s, 9 at once, by cel:claims.sub, each costs request.tls ? 2 : 1, or as the claim r says, 5/s at most"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	x := policytest.Exchange(t, "GET https://a.test/")
	x.Start = b.now
	if got, want := costly.p.Test(x), "cel admits 9 of 9, and this costs 2"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	for range 2 {
		if got, want := b.p.Test(x), "client_ip admits 2 of 2, route admits 5 of 5"; got != want {
			t.Errorf("Test = %q, want %q", got, want)
		}
	}
	b.ask(nil)
	b.ask(nil)
	if got, want := b.p.Test(x), "client_ip refuses for 60 s, route admits 3 of 5"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
}

func TestErrors(t *testing.T) {
	kind := Kind(Deps{Store: newStore(64 << 10)})
	for body, want := range map[string]string{
		`rate = "x"`:                                                `rate: "x" isn't a rate`,
		"rate = \"1/s\"\nby = \"ip\"":                               `by: "ip" isn't client_ip, consumer, header:NAME`,
		"rate = \"1/s\"\nby = \"client_ip:x\"":                      `by: "client_ip:x" isn't`,
		"rate = \"1/s\"\nby = \"header:a b\"":                       `by: "a b" isn't the name of a header`,
		"rate = \"1/s\"\nby = \"header:a_b\"":                       `by: "a_b" isn't the name of a header`,
		"rate = \"1/s\"\nby = \"header:Trailer\"":                   `by: "Trailer" isn't the name`,
		"rate = \"1/s\"\nby = \"cookie:\"":                          `by: "" can't be a cookie's name`,
		"rate = \"1/s\"\nby = \"query:a&b\"":                        `by: "a&b" can't be the name`,
		"rate = \"1/s\"\nby = \"param:\"":                           `by: param: lacks the name`,
		"rate = \"1/s\"\nby = \"claim:\"":                           `by: "" can't be the name of a claim`,
		"rate = \"1/s\"\nby = \"cel:claims.\"":                      `by: 1:8: Syntax error`,
		"rate = \"1/s\"\nby = \"cel:request.headers\"":              `by: 1:1: the expression is of type map(string, string); it must be a text`,
		"rate = \"1/s\"\ncost = \"request.method\"":                 `cost: 1:1: the expression is of type string; it must be a whole number`,
		"rate = \"1/s\"\ncost = \"request.methd\"":                  `cost: 1:8: undeclared reference`,
		"rate = \"1/s\"\nrate_claim = \"r\"":                        `rate_claim: without rate_max`,
		"rate = \"1/s\"\nrate_max = \"2/s\"":                        `rate_max: without rate_claim`,
		"rate = \"1/s\"\nrate_claim = \"r\"\nrate_max = \"2/week\"": `rate_max: "2/week": a rate is by`,
		"rate = \"1/s\"\nshare = 1.5":                               `share: must be more than 0, and 1 at most`,
		"rate = \"1/s\"\nchunk = 5":                                 `chunk: without shared`,
		"rate = \"5000000/s\"\nshared = true":                       `rate: more than 1000000/s can't be counted on all nodes together`,
	} {
		if _, err := policytest.Try(t, kind, "rate_limit {\n"+body+"\n}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	if _, err := kind.Join("r", make([]policy.Policy, maxLimits+1)); err == nil || !strings.Contains(err.Error(), "8 limits at most") {
		t.Errorf("Join = %v", err)
	}
	p := policytest.Policy(t, kind, "rate_limit {\n  rate = \"1/s\"\n  by = \"param:id\"\n}")
	if d := cmp.Diff([]string{"id"}, p.(policy.ParamReader).Params()); d != "" {
		t.Error(d)
	}
}

func TestNoAllocations(t *testing.T) {
	configs := []Config{{Rate: "1000000/s", Burst: 1_000_000}, {Rate: "1000000/s", Burst: 1_000_000, By: "consumer"}, {Rate: "1000000/s", By: "header:X-Tenant"}, {Rate: "1000000/s", Burst: 100, By: "claim:sub", RateClaim: "rate", RateMax: "1000000/s"}}
	b := newBench(t, configs...)
	x := policytest.Exchange(t, "GET https://a.test/", "X-Tenant: a")
	who, claims := &exchange.Consumer{Name: "acme"}, exchange.NewClaims(map[string]any{"sub": "u", "rate": "100000/s"})
	conn := x.Conn
	if n := testing.AllocsPerRun(100, func() {
		// The exchange's own memory is used again, as a connection does.
		x.Reset(exchange.HTTP11, conn, nil)
		x.Start, x.Consumer, x.Claims = b.now, who, claims
		if _, err := b.p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	for _, by := range []string{"client_ip", "consumer", "header:X-Tenant"} {
		b.Run(by, func(b *testing.B) {
			bench := newBench(b, Config{Rate: "10000000/s", Burst: 1_000_000_000, By: by})
			x := policytest.Exchange(b, "GET https://a.test/", "X-Tenant: a")
			x.Consumer = &exchange.Consumer{Name: "acme"}
			conn, request, who := x.Conn, x.Request, x.Consumer
			b.ReportAllocs()
			for b.Loop() {
				x.Reset(exchange.HTTP11, conn, nil)
				x.Request, x.Consumer, x.Start = request, who, bench.now
				if _, err := bench.p.Request(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestREADME(t *testing.T) {
	policytest.README(t, "README.md", Kind(Deps{Store: newStore(64 << 10)}))
}
