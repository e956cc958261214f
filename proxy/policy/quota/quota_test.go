package quota

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/rate"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
)

// bench is a route with quotas, and its clock.
type bench struct {
	*node
	p *Policy
}

func newBench(t testing.TB, configs ...Config) *bench {
	t.Helper()
	b := &bench{node: newNode(t, "", at(noon))}
	b.p = b.compile("r", configs...)
	return b
}

func (b *bench) compile(route string, configs ...Config) *Policy {
	b.t.Helper()
	kind := Kind(b.s, nil)
	var list []policy.Policy
	for _, c := range configs {
		if c.By == "" {
			c.By = "consumer"
		}
		q, err := kind.New(&c)
		if err != nil {
			b.t.Fatal(err)
		}
		list = append(list, q)
	}
	p, err := kind.Join(route, list)
	if err != nil {
		b.t.Fatal(err)
	}
	return p.(*Policy)
}

// ask sends a request and returns the answer's fields; ok says whether it passed.
func (b *bench) ask(p *Policy, change func(*exchange.Exchange), fields ...string) (ok bool, answer string) {
	b.t.Helper()
	x := policytest.Exchange(b.t, "GET https://a.test/orders/7?q=1", fields...)
	x.Start = b.clock()
	if change != nil {
		change(x)
	}
	verdict, err := p.Request(x)
	var f *exchange.Fault
	if err != nil && (!errors.As(err, &f) || f.Source != exchange.FromPolicy || verdict != policy.Done) {
		b.t.Fatalf("Request = %v, %v", verdict, err)
	}
	return err == nil, strings.Join(policytest.Sent(&x.Response, &x.ResponseEdits), "; ")
}

func as(c *exchange.Consumer) func(*exchange.Exchange) {
	return func(x *exchange.Exchange) { x.Consumer = c }
}

func TestFields(t *testing.T) {
	b := newBench(t, Config{Limit: "2/month"}, Config{Limit: "100/day", By: "client_ip"}, Config{Limit: "5/h", Name: "search", By: "route"})
	acme := as(&exchange.Consumer{Name: "acme"})
	const policies = `RateLimit-Policy: "consumer/month";q=2;w=2592000, "client_ip/day";q=100;w=86400, "search/h";q=5;w=3600; `
	for i, want := range []string{
		policies + `RateLimit: "consumer/month";r=1;t=561600, "client_ip/day";r=99;t=43200, "search/h";r=4;t=3600`,
		policies + `RateLimit: "consumer/month";r=0;t=561600, "client_ip/day";r=98;t=43200, "search/h";r=3;t=3600`,
		`RateLimit-Policy: "consumer/month";q=2;w=2592000; RateLimit: "consumer/month";r=0;t=561600; Retry-After: 561600`,
	} {
		ok, answer := b.ask(b.p, acme)
		if ok != (i < 2) {
			t.Errorf("request %d passed: %v", i, ok)
		}
		if d := cmp.Diff(want, answer); d != "" {
			t.Errorf("request %d: %s", i, d)
		}
	}
	// What refuses behind gives back what was taken before.
	b.p = b.compile("other", Config{Limit: "100/day", By: "client_ip"}, Config{Limit: "1/day", By: "route"})
	for range 5 {
		b.ask(b.p, nil)
	}
	for _, u := range b.s.List("client_ip=192.0.2.1") {
		if u.Quota == "route:other" && u.Used != 1 {
			t.Errorf("refusals used of the other quota: %+v", u)
		}
	}
}

// TestBeside: quotas stand in the answer beside rate limits, and in the place of
// what a service says.
func TestBeside(t *testing.T) {
	b := newBench(t, Config{Limit: "10/h", By: "client_ip"})
	kind := ratelimit.Kind(ratelimit.Deps{Store: ratelimit.NewStore(ratelimit.StoreConfig{Memory: 64 << 10})})
	one, err := kind.New(&ratelimit.Config{Rate: "1/h", By: "client_ip"})
	if err != nil {
		t.Fatal(err)
	}
	limits, err := kind.Join("r", []policy.Policy{one})
	if err != nil {
		t.Fatal(err)
	}
	x := policytest.Exchange(t, "GET https://a.test/")
	for _, p := range []policy.Policy{limits, b.p} {
		if _, err := p.(policy.Requester).Request(x); err != nil {
			t.Fatal(err)
		}
	}
	policytest.Answer(x, 200, "", "RateLimit: mine;r=1", "RateLimit-Policy: mine;q=1")
	want := []string{
		`RateLimit-Policy: "client_ip";q=1;w=3600`, `RateLimit: "client_ip";r=0`,
		`RateLimit-Policy: "client_ip/h";q=10;w=3600`, `RateLimit: "client_ip/h";r=9`,
	}
	got := policytest.Sent(&x.Response, &x.ResponseEdits)
	for i, f := range got {
		got[i], _, _ = strings.Cut(f, ";t=") // which depends on the time of the day
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestScopes: what counts together, and what apart.
func TestScopes(t *testing.T) {
	b := newBench(t)
	acme, umbrella := as(&exchange.Consumer{Name: "acme"}), as(&exchange.Consumer{Name: "umbrella"})
	mine, named := Config{Limit: "1/day"}, Config{Limit: "2/day", Name: "search"}
	steps := []struct {
		name, route string
		config      []Config
		who         func(*exchange.Exchange)
		ok          bool
	}{
		{"first", "a", []Config{mine}, acme, true},
		{"same", "a", []Config{mine}, acme, false},
		{"a higher limit finds what was used", "a", []Config{{Limit: "2/day"}}, acme, true},
		{"and is reached", "a", []Config{{Limit: "2/day"}}, acme, false},
		{"another client", "a", []Config{mine}, umbrella, true},
		{"another route", "b", []Config{mine}, acme, true},
		{"another period", "a", []Config{{Limit: "1/h"}}, acme, true},
		{"a name", "a", []Config{named}, acme, true},
		{"the name on another route", "b", []Config{named}, acme, true},
		{"the name, reached", "c", []Config{named}, acme, false},
		{"two that are alike count each once", "d", []Config{mine, mine}, acme, true},
		{"both", "d", []Config{{Limit: "2/day"}, {Limit: "2/day"}}, acme, true},
	}
	for _, s := range steps {
		if ok, answer := b.ask(b.compile(s.route, s.config...), s.who); ok != s.ok {
			t.Errorf("%s: passed %v: %s", s.name, ok, answer)
		}
	}
}

// TestPlan: a plan's quota holds over all routes together, and once for each
// request.
func TestPlan(t *testing.T) {
	b := newBench(t)
	gold, err := rate.ParseQuota("3/month")
	if err != nil {
		t.Fatal(err)
	}
	acme := as(&exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "gold", Quota: gold}})
	one, two := b.compile("one", Config{Limit: "1/day"}), b.compile("two", Config{Limit: "1/day"}, Config{Limit: "1/month"}, Config{Limit: "100/day", By: "client_ip"})
	for i, p := range []*Policy{one, two, two, one} {
		ok, answer := b.ask(p, acme)
		if ok != (i < 3) || !strings.HasPrefix(answer, `RateLimit-Policy: "plan/month";q=3;w=2592000`) {
			t.Errorf("request %d passed: %v: %s", i, ok, answer)
		}
	}
	free := as(&exchange.Consumer{Name: "free", Plan: &exchange.Plan{Name: "free"}})
	for i := range 2 {
		if ok, answer := b.ask(one, free); ok != (i < 1) {
			t.Errorf("free, request %d passed: %v: %s", i, ok, answer)
		}
	}
}

// TestClient: how clients are called, on the disk and to operators.
func TestClient(t *testing.T) {
	long := strings.Repeat("x", 200)
	tests := []struct {
		by     string
		change func(*exchange.Exchange)
		fields []string
		want   string
	}{
		{"consumer", as(&exchange.Consumer{Name: "acme"}), nil, "consumer=acme"},
		{"consumer", nil, nil, "consumer/client_ip=192.0.2.1"},
		{"client_ip", nil, nil, "client_ip=192.0.2.1"},
		{"client_ip", func(x *exchange.Exchange) { x.ClientIP = netip.MustParseAddr("2001:db8::1") }, nil, "client_ip=2001:db8::/64"},
		{"client_ip", func(x *exchange.Exchange) { x.ClientIP = netip.MustParseAddr("::ffff:192.0.2.1") }, nil, "client_ip=192.0.2.1"},
		{"route", nil, nil, "route"},
		{"header:X-Key", nil, []string{"X-Key: secret"}, "header:X-Key=~2bb80d537b1da3e38bd30361aa855686"},
		{"header:X-Key", nil, nil, "header:X-Key/client_ip=192.0.2.1"},
		{"query:q", nil, nil, "query:q=~6b86b273ff34fce19d6b804eff5a3f57"},
		{"param:id", func(x *exchange.Exchange) { x.Params = append(x.Params, exchange.Param{Name: "id", Value: "7"}) }, nil, "param:id=7"},
		{"claim:sub", func(x *exchange.Exchange) { x.Claims = exchange.NewClaims(map[string]any{"sub": "u"}) }, nil, "claim:sub=u"},
		{"claim:sub", func(x *exchange.Exchange) { x.Claims = exchange.NewClaims(map[string]any{"sub": long}) }, nil, "claim:sub=~9ddf82cf35fc98d52c37e7ad3cf92b8f"},
		{"cel:request.method", nil, nil, "cel~2dbb08d1=GET"},
		{"cel:request.headers['x-key']", nil, []string{"X-Key: secret"}, "cel~e26cbb3f=~2bb80d537b1da3e38bd30361aa855686"},
		{"cel:claims.nope", nil, nil, "cel~a3e8e8d4/client_ip=192.0.2.1"},
	}
	for _, tt := range tests {
		b := newBench(t, Config{Limit: "10/day", By: tt.by})
		b.ask(b.p, tt.change, tt.fields...)
		list := b.s.List("")
		if len(list) != 1 {
			t.Fatalf("%s: %+v", tt.by, list)
		}
		name, hash, _ := strings.Cut(list[0].Client, "~")
		wantName, wantHash, _ := strings.Cut(tt.want, "~")
		if name != wantName || len(hash) != len(wantHash) || strings.Contains(list[0].Client, "secret") {
			t.Errorf("%s: %s, want one like %s", tt.by, list[0].Client, tt.want)
		}
	}
}

func TestCost(t *testing.T) {
	b := newBench(t, Config{Limit: "10/day", By: "client_ip", Cost: "int(request.query.n)"})
	for _, tt := range []struct {
		query string
		ok    bool
		left  string
	}{
		{"n=4", true, "r=6"}, {"n=0", true, "r=6"}, {"n=7", false, "r=6"}, {"n=-3", false, ""}, {"n=x", false, ""}, {"", false, ""},
		{"n=9223372036854775807", false, "r=6"}, {"n=6", true, "r=0"}, {"n=0", true, "r=0"}, {"n=1", false, "r=0"},
	} {
		ok, answer := b.ask(b.p, func(x *exchange.Exchange) { x.Target.Query = tt.query })
		if ok != tt.ok || !strings.Contains(answer, tt.left) {
			t.Errorf("%s: passed %v: %s", tt.query, ok, answer)
		}
	}
	if c := b.s.Counts()[0]; c.Errors() != 3 || c.Refused() != 3 {
		t.Errorf("%d errors, %d refused", c.Errors(), c.Refused())
	}
}

// TestWarns: at 80 % the operator hears of a client, once in a period.
func TestWarns(t *testing.T) {
	b := newBench(t, Config{Limit: "10/day", By: "client_ip"})
	for range 12 {
		b.ask(b.p, nil)
	}
	entries := b.hook.AllEntries()
	if len(entries) != 1 || entries[0].Message != "80 % of a quota is used" || entries[0].Data["client"] != "client_ip=192.0.2.1" || entries[0].Data["used"] != int64(8) {
		t.Errorf("the log says %v", entries)
	}
	b.set("2026-11-25T00:00:00Z")
	for range 8 {
		b.ask(b.p, nil)
	}
	if n := b.s.Counts()[0].Warned(); n != 2 || len(b.hook.AllEntries()) != 2 {
		t.Errorf("warned %d times", n)
	}
}

func TestExplain(t *testing.T) {
	b := newBench(t, Config{Limit: "10/month", By: "client_ip", Cost: "size(request.path)"}, Config{Limit: "100/h", Name: "all", By: "route"})
	if got, want := b.p.Explain(), "10/month by client_ip, each costs size(request.path); 100/h by route, named all"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	x := policytest.Exchange(t, "GET https://a.test/12345")
	x.Start = b.clock()
	for i, want := range []string{
		"client_ip/month admits, with 0 of 10 used until 2026-12-01T00:00:00Z, all/h admits, with 0 of 100 used until 2026-11-24T13:00:00Z",
		"client_ip/month refuses, with 6 of 10 used until 2026-12-01T00:00:00Z, all/h admits, with 1 of 100 used until 2026-11-24T13:00:00Z",
	} {
		for range 2 {
			if got := b.p.Test(x); got != want {
				t.Errorf("Test %d = %q, want %q", i, got, want)
			}
		}
		if i == 0 {
			if _, err := b.p.Request(x); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	kind := Kind(NewStore(Deps{}), nil)
	for body, want := range map[string]string{
		`limit = "x"`:                                           `limit: "x" isn't a quota`,
		`limit = "10/s"`:                                        `limit: "10/s": a quota is by h, day or month; what is less`,
		`limit = "10/year"`:                                     `limit: "10/year": a quota is by h, day or month`,
		`limit = "0/day"`:                                       `limit: "0/day" lets nothing pass`,
		`limit = "-1/day"`:                                      `limit: "-1/day" lets nothing pass`,
		`limit = "+1/day"`:                                      `limit: "+1/day" isn't a quota`,
		`limit = "9999999999999999/day"`:                        `is more than 999999999999999`,
		"limit = \"1/day\"\nby = \"ip\"":                        `by: "ip" isn't client_ip`,
		"limit = \"1/day\"\nname = \"a b\"":                     `name: "a b" may have letters`,
		"limit = \"1/day\"\nname = \"route:a\"":                 `name: "route:a" may have letters`,
		"limit = \"1/day\"\ncost = \"request.method == 'GET'\"": `cost: 1:16: the expression is of type bool`,
	} {
		if _, err := policytest.Try(t, kind, "quota {\n"+body+"\n}"); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "1:1:", "1:16:"), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	if _, err := kind.Join("r", make([]policy.Policy, maxQuotas+1)); err == nil || !strings.Contains(err.Error(), "4 quotas at most") {
		t.Errorf("Join = %v", err)
	}
	p := policytest.Policy(t, kind, "quota {\n  limit = \"1/day\"\n  by = \"param:id\"\n}")
	if d := cmp.Diff([]string{"id"}, p.(policy.ParamReader).Params()); d != "" {
		t.Error(d)
	}
}

// TestRoutes: counters of routes that are gone go; what was used stays.
func TestRoutes(t *testing.T) {
	b := newBench(t, Config{Limit: "1/day", By: "client_ip"})
	b.ask(b.p, nil)
	b.s.Retain(map[string]bool{})
	if len(b.s.Counts()) != 0 {
		t.Error("a route that is gone is counted")
	}
	if ok, _ := b.ask(b.compile("r", Config{Limit: "1/day", By: "client_ip"}), nil); ok {
		t.Error("a route that came back has a new quota")
	}
}

func TestNoAllocations(t *testing.T) {
	b := newBench(t, Config{Limit: "1000000/month", By: "consumer"}, Config{Limit: "1000000/day", By: "client_ip"})
	x := policytest.Exchange(t, "GET https://a.test/")
	who, conn := &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Quota: exchange.Quota{Units: 1 << 40, Period: exchange.Month}}}, x.Conn
	if n := testing.AllocsPerRun(100, func() {
		// The exchange's own memory is used again, as a connection does.
		x.Reset(exchange.HTTP11, conn, nil)
		x.Start, x.Consumer = b.now, who
		if _, err := b.p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	bench := newBench(b, Config{Limit: "900000000000000/month"})
	x := policytest.Exchange(b, "GET https://a.test/")
	who, conn := &exchange.Consumer{Name: "acme"}, x.Conn
	b.ReportAllocs()
	for b.Loop() {
		x.Reset(exchange.HTTP11, conn, nil)
		x.Start, x.Consumer = bench.now, who
		if _, err := bench.p.Request(x); err != nil {
			b.Fatal(err)
		}
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(NewStore(Deps{}), nil)) }
