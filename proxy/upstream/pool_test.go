package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// fakeClock is a clock that the test moves.
type fakeClock struct{ ns atomic.Int64 }

func (c *fakeClock) now() time.Time      { return time.Unix(1e9, c.ns.Load()) }
func (c *fakeClock) add(d time.Duration) { c.ns.Add(int64(d)) }

// gate is a handler that holds its requests until it is opened.
type gate struct {
	inside atomic.Int64
	open   chan struct{}
}

func newGate(t testing.TB) *gate {
	g := &gate{open: make(chan struct{})}
	t.Cleanup(g.release)
	return g
}

func (g *gate) release() {
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

func (g *gate) serve(w http.ResponseWriter, r *http.Request) {
	g.inside.Add(1)
	select {
	case <-g.open:
	case <-r.Context().Done():
	}
	io.WriteString(w, "through")
}

func TestLimitsAndQueue(t *testing.T) {
	g := newGate(t)
	be := newBackend(t, g.serve)
	cfg := &Config{
		Limits:   &LimitsConfig{Connections: 2, Requests: 10, Queue: 1},
		Timeouts: &TimeoutsConfig{Connect: 5 * time.Second},
	}
	b := newBench(t, cfg, Deps{}, at(be.addr))
	answers := make(chan answer, 3)
	for range 2 {
		go func() { answers <- b.get("/") }()
	}
	until(t, "two requests at the backend", func() bool { return g.inside.Load() == 2 })
	go func() { answers <- b.get("/") }()
	until(t, "one in the queue", func() bool { return b.p.Status().Queue == 1 })
	wantFault(t, b.get("/"), exchange.Overloaded)
	g.release()
	for range 3 {
		if a := <-answers; a.status != 200 {
			t.Errorf("answer = %+v", a)
		}
	}
	if st := b.p.Status(); st.Overloaded != 1 || st.Queue != 0 || st.Instances[0].Open > 2 || st.Instances[0].Pending != 0 {
		t.Errorf("status = %+v", st)
	}
}

func TestQueueEnds(t *testing.T) {
	g := newGate(t)
	be := newBackend(t, g.serve)
	cfg := &Config{
		Limits:   &LimitsConfig{Connections: 1, Requests: 1, Queue: 5},
		Timeouts: &TimeoutsConfig{Connect: 50 * time.Millisecond},
	}
	b := newBench(t, cfg, Deps{}, at(be.addr))
	done := make(chan answer, 1)
	go func() { done <- b.get("/") }()
	until(t, "a request at the backend", func() bool { return g.inside.Load() == 1 })
	wantFault(t, b.get("/"), exchange.Overloaded) // after 50 ms
	// A new instance takes who waits.
	late := newBackend(t, nil)
	slow := *cfg
	slow.Timeouts = &TimeoutsConfig{Connect: 8 * time.Second}
	b.apply(&slow)
	second := make(chan answer, 1)
	go func() { second <- b.get("/") }()
	until(t, "one in the queue", func() bool { return b.p.Status().Queue == 1 })
	b.src.give(at(be.addr), at(late.addr))
	if a := <-second; a.body != late.addr {
		t.Errorf("answer = %+v", a)
	}
	g.release()
	<-done
}

func TestEjectionAndRecovery(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	bad := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(502)
		}
	})
	good := newBackend(t, nil)
	clock := &fakeClock{}
	cfg := &Config{
		Balance: "round_robin", SlowStart: 10 * time.Second,
		Outlier: &OutlierConfig{Errors: 3, Window: 10 * time.Second, Eject: 30 * time.Second, MaxEjected: 0.5},
		Retry:   &RetryConfig{},
	}
	b := newBench(t, cfg, Deps{Now: clock.now}, at(bad.addr), at(good.addr))
	for range 6 {
		b.get("/")
	}
	st := b.instance(bad.addr)
	if st.Eligible || st.Why != "ejected: answers are 502, 503 or 504" || st.Ejections != 1 || st.EjectedUntil.Sub(clock.now()) != 30*time.Second {
		t.Fatalf("status = %+v, want it ejected", st)
	}
	n := bad.hits()
	for range 20 {
		if a := b.get("/"); a.status != 200 {
			t.Errorf("answer = %+v", a)
		}
	}
	if bad.hits() != n {
		t.Error("an ejected instance got requests")
	}
	// The good one may not go, too: half at most.
	b.p.eject(b.p.instances[good.addr], b.g.now(), "test")
	if st := b.instance(good.addr); !st.Eligible {
		t.Errorf("status = %+v: more than max_ejected are ejected", st)
	}
	broken.Store(false)
	clock.add(31 * time.Second)
	until(t, "the end of the ejection", func() bool { return b.instance(bad.addr).Eligible })
	if st := b.instance(bad.addr); st.EffectiveWeight > 0.2 || st.Latency != 0 {
		t.Errorf("status = %+v, want a slow start", st)
	}
	clock.add(10 * time.Second)
	if st := b.instance(bad.addr); st.EffectiveWeight != 1 {
		t.Errorf("status = %+v, want its full weight", st)
	}
	// The second time it takes twice as long.
	broken.Store(true)
	for range 6 {
		b.get("/")
	}
	if st := b.instance(bad.addr); st.EjectedUntil.Sub(clock.now()) != time.Minute || st.Ejections != 2 {
		t.Errorf("status = %+v, want it ejected for a minute", st)
	}
}

func TestFailuresOutsideWindow(t *testing.T) {
	clock := &fakeClock{}
	b := newBench(t, &Config{}, Deps{Now: clock.now}, at("a.test:1"), at("b.test:1"))
	in := b.p.instances["a.test:1"]
	o := &OutlierConfig{Errors: 3, Window: 10 * time.Second, Eject: time.Minute, MaxEjected: 1}
	for range 10 {
		in.failed(o, 0, 0, b.g.now(), "test")
		clock.add(6 * time.Second)
	}
	if st := b.instance("a.test:1"); st.Ejections != 0 {
		t.Errorf("status = %+v, want no ejection: never three in ten seconds", st)
	}
	for range 2 {
		in.failed(o, 0, 0, b.g.now(), "test")
	}
	in.answered(time.Millisecond, true, b.g.now())
	for range 2 {
		in.failed(o, 0, 0, b.g.now(), "test")
	}
	if st := b.instance("a.test:1"); st.Ejections != 0 {
		t.Errorf("status = %+v, want no ejection: never three in a row", st)
	}
}

func TestPanic(t *testing.T) {
	be := newBackend(t, nil)
	critical := at(be.addr)
	critical.Health = discovery.Critical
	maintained := at("127.0.0.2:9")
	maintained.Health = discovery.Maintenance
	b := newBench(t, &Config{Panic: 0.3}, Deps{}, critical, maintained)
	if a := b.get("/"); a.status != 200 {
		t.Errorf("answer = %+v, want one from the critical instance", a)
	}
	if st := b.p.Status(); !st.Panic || st.Healthy != 0 {
		t.Errorf("status = %+v", st)
	}
	e := b.p.Explain(request("GET", "/"))
	if !e.Panic || len(e.Choices) != 2 || !e.Choices[0].Eligible || !strings.Contains(e.Choices[0].Why, "ignored: only 0 of 1 are healthy") || e.Choices[1].Eligible {
		t.Errorf("explanation = %+v", e)
	}
	// Without a threshold, nothing is better than a critical one.
	b.apply(&Config{Name: "s"})
	wantFault(t, b.get("/"), exchange.NoInstance)
	// Two of six are enough.
	b.apply(&Config{Name: "s", Panic: 0.3})
	set := []discovery.Instance{at(be.addr), at("127.0.0.2:1")}
	for _, addr := range []string{"127.0.0.2:2", "127.0.0.2:3", "127.0.0.2:4", "127.0.0.2:5"} {
		in := at(addr)
		in.Health = discovery.Critical
		set = append(set, in)
	}
	b.src.give(set...)
	if st := b.p.Status(); st.Panic || st.Healthy != 2 {
		t.Errorf("status = %+v", st)
	}
}

func TestPreferLocal(t *testing.T) {
	g := newGate(t)
	var hold atomic.Bool
	near := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if hold.Load() {
			g.serve(w, r)
			return
		}
		io.WriteString(w, "near")
	})
	far := newBackend(t, nil)
	local := at(near.addr)
	local.Local = true
	b := newBench(t, &Config{PreferLocal: true, Limits: &LimitsConfig{Connections: 2, Requests: 2}, Panic: 0.1}, Deps{}, local, at(far.addr))
	for range 10 {
		if a := b.get("/"); a.body != "near" {
			t.Fatalf("answer = %+v", a)
		}
	}
	// Full: the others help.
	hold.Store(true)
	done := make(chan answer, 2)
	for range 2 {
		go func() { done <- b.get("/") }()
	}
	until(t, "two requests at the near one", func() bool { return g.inside.Load() == 2 })
	if a := b.get("/"); a.body != far.addr {
		t.Errorf("answer = %+v", a)
	}
	g.release()
	<-done
	<-done
	hold.Store(false)
	if a := b.get("/"); a.body != "near" {
		t.Errorf("answer = %+v", a)
	}
	// Unhealthy: so do they.
	local.Health = discovery.Critical
	b.src.give(local, at(far.addr))
	if a := b.get("/"); a.body != far.addr {
		t.Errorf("answer = %+v", a)
	}
}

func TestSticky(t *testing.T) {
	b1, b2, b3 := newBackend(t, nil), newBackend(t, nil), newBackend(t, nil)
	b := newBench(t, &Config{Balance: "round_robin", Sticky: &StickyConfig{Cookie: "srv"}}, Deps{}, at(b1.addr), at(b2.addr), at(b3.addr))
	x := request("GET", "/")
	x.Target.Scheme = "https"
	first := b.send(x)
	var cookie string
	for i := range x.ResponseEdits.Len() {
		if name, v, ok := x.ResponseEdits.Field(i); ok && name == "Set-Cookie" {
			cookie = v
		}
	}
	name, attrs, _ := strings.Cut(cookie, "; ")
	if !strings.HasPrefix(name, "srv=") || attrs != "Path=/; HttpOnly; SameSite=Lax; Secure" || strings.Contains(name, "127.0.0.1") {
		t.Fatalf("Set-Cookie: %s", cookie)
	}
	for range 10 {
		x := request("GET", "/", "Cookie", "a=b; "+name+"; c=d")
		if a := b.send(x); a.body != first.body {
			t.Errorf("answer from %q, want %q", a.body, first.body)
		}
		if x.ResponseEdits.Len() != 0 {
			t.Error("the cookie was set again")
		}
	}
	// The instance goes: another one, and another cookie.
	var rest []discovery.Instance
	for _, be := range []*backend{b1, b2, b3} {
		if be.addr != first.body {
			rest = append(rest, at(be.addr))
		}
	}
	b.src.give(rest...)
	x = request("GET", "/", "Cookie", name)
	if a := b.send(x); a.status != 200 || a.body == first.body || x.ResponseEdits.Len() != 1 {
		t.Errorf("answer = %+v", a)
	}
}

func TestHashBy(t *testing.T) {
	b1, b2, b3 := newBackend(t, nil), newBackend(t, nil), newBackend(t, nil)
	tests := []struct {
		by  string
		ask func(v string) *exchange.Exchange
	}{
		{"header:X-User", func(v string) *exchange.Exchange { return request("GET", "/", "x-user", v) }},
		{"header:Authorization", func(v string) *exchange.Exchange { return request("GET", "/", "authorization", v) }},
		{"cookie:id", func(v string) *exchange.Exchange { return request("GET", "/", "Cookie", "x=1; id="+v) }},
		{"query:id", func(v string) *exchange.Exchange { return request("GET", "/?x=1&id="+v) }},
		{"consumer", func(v string) *exchange.Exchange {
			x := request("GET", "/")
			x.Consumer = &exchange.Consumer{Name: v}
			return x
		}},
	}
	for _, tt := range tests {
		t.Run(tt.by, func(t *testing.T) {
			b := newBench(t, &Config{Balance: "hash", HashBy: tt.by}, Deps{}, at(b1.addr), at(b2.addr), at(b3.addr))
			seen := map[string]bool{}
			for _, v := range strings.Split("abcdefghijklmnop", "") {
				first := b.send(tt.ask(v))
				if again := b.send(tt.ask(v)); again.body != first.body || first.status != 200 {
					t.Errorf("%s: %+v, then %+v", v, first, again)
				}
				seen[first.body] = true
			}
			if len(seen) != 3 {
				t.Errorf("16 keys went to %d instances", len(seen))
			}
			if n := b.p.inFlight.Load(); n != 0 {
				t.Errorf("%d in flight", n)
			}
		})
	}
}

func TestRemovedInstanceDrains(t *testing.T) {
	g := newGate(t)
	old := newBackend(t, g.serve)
	b := newBench(t, &Config{}, Deps{}, at(old.addr))
	done := make(chan answer, 1)
	go func() { done <- b.get("/") }()
	until(t, "a request at the old instance", func() bool { return g.inside.Load() == 1 })
	was := b.p.instances[old.addr]
	next := newBackend(t, nil)
	b.src.give(at(next.addr))
	if a := b.get("/"); a.body != next.addr {
		t.Errorf("answer = %+v", a)
	}
	g.release()
	if a := <-done; a.body != "through" {
		t.Errorf("answer = %+v", a)
	}
	if n := was.conns.open.Load(); n != 0 {
		t.Errorf("%d connections to the removed instance are open", n)
	}
}

func TestUpdateKeepsInstances(t *testing.T) {
	b1, b2 := newBackend(t, nil), newBackend(t, nil)
	b := newBench(t, &Config{Balance: "round_robin", SlowStart: time.Minute}, Deps{}, at(b1.addr))
	b.get("/")
	before := b.instance(b1.addr)
	heavier := at(b1.addr)
	heavier.Weight = 5
	b.src.give(heavier, at(b2.addr))
	st := b.instance(b1.addr)
	if st.Requests != 1 || st.Idle != 1 || st.Latency == 0 || before.Latency == 0 || st.EffectiveWeight != 5 {
		t.Errorf("status = %+v, want what was known, with the new weight", st)
	}
	if st := b.instance(b2.addr); st.EffectiveWeight > 0.2 {
		t.Errorf("status = %+v, want a slow start", st)
	}
	// A reload that changes how to balance keeps all that, too, and the watch.
	b.apply(&Config{Name: "s", Balance: "least_request"})
	if st := b.instance(b1.addr); st.Requests != 1 || st.Idle != 1 {
		t.Errorf("status = %+v after a reload", st)
	}
	if b.src.starts != 1 {
		t.Errorf("%d watches started, want 1", b.src.starts)
	}
	// One that changes how to connect doesn't keep connections.
	b.apply(&Config{Name: "s", Timeouts: &TimeoutsConfig{Connect: time.Second}})
	if st := b.instance(b1.addr); st.Requests != 1 || st.Idle != 0 || st.Open != 0 {
		t.Errorf("status = %+v after another reload", st)
	}
}

func TestPoolGoes(t *testing.T) {
	be := newBackend(t, nil)
	b := newBench(t, &Config{}, Deps{}, at(be.addr))
	b.get("/")
	p := b.p
	plan, err := b.g.Plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Pool("s") != nil {
		t.Error("a plan without the service has its pool")
	}
	plan.Commit()
	if n := len(b.g.Status()); n != 0 {
		t.Errorf("%d pools", n)
	}
	// An exchange that has the old table still gets through.
	x := request("GET", "/")
	if f := p.Send(x); f != nil {
		t.Fatal(f)
	}
	if a := take(x); a.status != 200 {
		t.Errorf("answer = %+v", a)
	}
	if st := p.Status(); st.Instances[0].Open != 0 {
		t.Errorf("status = %+v, want no connection kept", st)
	}
}

func TestPlanErrors(t *testing.T) {
	b := newBench(t, &Config{}, Deps{})
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{Balance: "best"}, `service "x": balance "best" isn't known`},
		{Config{Balance: "hash"}, `service "x": hash_by: "" isn't header:NAME, cookie:NAME, query:NAME, client_ip or consumer`},
		{Config{Balance: "hash", HashBy: "consumer:x"}, `service "x": hash_by: "consumer:x" isn't header:NAME, cookie:NAME, query:NAME, client_ip or consumer`},
		{Config{HashBy: "client_ip"}, `service "x": hash_by: only with balance = "hash"`},
		{Config{Protocol: "spdy"}, `service "x": protocol: "spdy" isn't http1, h2c, https or h2`},
		{Config{TLS: &TLSConfig{}}, `service "x": tls: protocol "http1" has none; https or h2 do`},
		{Config{Protocol: "https", TLS: &TLSConfig{CAFile: "/nowhere/ca.pem"}}, `service "x": tls: open /nowhere/ca.pem: no such file or directory`},
		{Config{Protocol: "https", TLS: &TLSConfig{CertFile: "c"}}, `service "x": tls: cert_file and key_file go together`},
		{Config{HealthCheck: &HealthCheckConfig{Type: "grpc"}}, `service "x": health_check: type "grpc" needs protocol h2 or h2c`},
		{Config{Sticky: &StickyConfig{Cookie: "a b"}}, `service "x": sticky: cookie: "a b" isn't a cookie's name`},
		{Config{Retry: &RetryConfig{On: []string{"always"}}}, `service "x": retry: on: "always" isn't known`},
	}
	for _, tt := range tests {
		tt.cfg.Name = "x"
		_, err := b.g.Plan([]*Config{&tt.cfg})
		if err == nil || err.Error() != tt.want {
			t.Errorf("Plan = %v, want %s", err, tt.want)
		}
	}
	if _, err := b.g.Plan([]*Config{{Name: "y"}, {Name: "y"}}); err == nil || err.Error() != `service "y": defined twice` {
		t.Errorf("Plan = %v", err)
	}
}

func TestSourceGivesUp(t *testing.T) {
	b := newBench(t, &Config{}, Deps{}, at("127.0.0.1:1"))
	b.src.mu.Lock()
	b.src.fail = errors.New("no such datacenter")
	b.src.mu.Unlock()
	cfg := &Config{Name: "s", Instances: []string{"x:1"}} // found in another way
	b.apply(cfg)
	until(t, "the problem in the status", func() bool { return b.p.Status().Problem == "no such datacenter" })
	if n := len(b.p.Status().Instances); n != 1 {
		t.Errorf("%d instances, want the last known one", n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	b.g.Wait(ctx)
	if ctx.Err() != nil {
		t.Error("Wait waits for a source that gave up")
	}
}

func TestIdleConnectionsClose(t *testing.T) {
	be := newBackend(t, nil)
	b := newBench(t, &Config{}, Deps{}, at(be.addr))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { b.get("/") })
	}
	wg.Wait()
	now := b.g.d.Sweeper.Now()
	b.p.sweep(now)
	if st := b.instance(be.addr); st.Idle == 0 {
		t.Errorf("status = %+v, want connections kept", st)
	}
	b.p.sweep(now + int64(idleTime) + 1e9)
	if st := b.instance(be.addr); st.Idle != 0 || st.Open != 0 {
		t.Errorf("status = %+v, want none left", st)
	}
}

func TestRetryBudgetWindow(t *testing.T) {
	var b budget
	at := func(s int) int64 { return int64(s) * 1e9 }
	b.roll(at(1), 0)
	total := uint64(0)
	for s := 1; s <= 10; s++ { // 100 requests a second
		total += 100
		b.roll(at(s), total)
	}
	n := 0
	for b.spend(at(10), total, 0.2) {
		n++
	}
	if n < 180 || n > 200 {
		t.Errorf("%d further tries of 1000 requests, want about 200", n)
	}
	if b.spend(at(15), total, 0.2) {
		t.Error("a try was left after 5 s")
	}
	n = 0
	for b.spend(at(40), total, 0.2) {
		n++
	}
	if n != budgetFloor {
		t.Errorf("%d further tries after a pause, want %d", n, budgetFloor)
	}
}
