package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/linelog"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/block"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cors"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/limits"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	headers "github.com/sidegate-proxy/sidegate/proxy/policy/request"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
	"github.com/sidegate-proxy/sidegate/proxy/tracing"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

const accessKey = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// single is a source of one instance.
type single string

func (s single) Watch(ctx context.Context, _ discovery.Query, update func([]discovery.Instance)) error {
	update([]discovery.Instance{{ID: string(s), Address: string(s), Weight: 1}})
	<-ctx.Done()
	return nil
}

// echo is a backend that answers each request head with the same bytes, and
// allocates nothing meanwhile. It keeps the last head that it saw.
type echo struct {
	mu   sync.Mutex
	last []byte
}

func (e *echo) serve(nc net.Conn) {
	defer nc.Close()
	buf, out, end := make([]byte, 16<<10), []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), []byte("\r\n\r\n")
	n := 0
	for {
		m, err := nc.Read(buf[n:])
		if err != nil {
			return
		}
		if n += m; !bytes.HasSuffix(buf[:n], end) {
			continue
		}
		e.mu.Lock()
		e.last = append(e.last[:0], buf[:n]...)
		e.mu.Unlock()
		n = 0
		if _, err := nc.Write(out); err != nil {
			return
		}
	}
}

func (e *echo) saw() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.last)
}

func (e *echo) start(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go e.serve(nc)
		}
	}()
	return ln.Addr().String()
}

// accessPolicies are those of a route that asks for a key and limits its rate.
func accessPolicies(t testing.TB) []policy.Named {
	h := sha256.Sum256([]byte(accessKey))
	d, err := consumer.Compile([]*consumer.PlanConfig{{Name: "gold", Rate: "10000000/s", Burst: 1_000_000_000}}, []*consumer.Config{
		{Name: "acme", Plan: "gold", Keys: []*consumer.KeyConfig{{SHA256: hex.EncodeToString(h[:])}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []policy.Named
	add := func(k policy.Kind, cfg any) {
		p, err := k.New(cfg)
		if err == nil && k.Join != nil {
			p, err = k.Join("r", []policy.Policy{p})
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, policy.Named{Name: k.Name, Policy: p})
	}
	add(apikey.Kind(d), &apikey.Config{Header: "X-API-Key"})
	add(ratelimit.Kind(ratelimit.Deps{Store: ratelimit.NewStore(ratelimit.StoreConfig{Memory: 1 << 20})}), &ratelimit.Config{Rate: "1/h", By: "consumer"})
	add(headers.Kind(), &headers.Config{Set: map[string]string{"X-Consumer": "{consumer.name}"}})
	return list
}

// guardedPolicies are accessPolicies behind a list of 100,000 networks, bans,
// limits and CORS.
func guardedPolicies(t testing.TB) []policy.Named {
	deny := make([]netip.Prefix, 100_000)
	for i := range deny {
		deny[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + i>>16), byte(i >> 8), byte(i), 0}), 24)
	}
	bans, err := ban.NewStore(ban.Deps{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bans.Add("192.0.2.1", time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	var list []policy.Named
	for _, b := range []struct {
		kind policy.Kind
		cfg  any
	}{
		{block.Kind(block.Files{}), &block.Config{Deny: deny, UserAgents: []string{"*sqlmap*"}, Paths: []string{"/internal/*"}}},
		{ban.Kind(bans), &ban.Config{After: 20, Window: time.Minute, Statuses: []int{401, 404}, For: time.Minute, Longest: time.Hour}},
		{limits.Kind(&limits.Store{}), &limits.Config{Body: 1 << 20, Headers: 8 << 10, URI: 1 << 10, Requests: 100, RequestsPerIP: 100, ConnectionsPerIP: 100}},
		{cors.Kind(), &cors.Config{Origins: []string{"https://*.example.com"}, Credentials: true}},
	} {
		p, err := b.kind.New(b.cfg)
		if err == nil && b.kind.Join != nil {
			p, err = b.kind.Join("r", []policy.Policy{p})
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, policy.Named{Name: b.kind.Name, Policy: p})
	}
	return append(list, accessPolicies(t)...)
}

// accessBed is a whole gateway in front of a backend: listener, handler, policies,
// pool, metrics and access log. It returns a connection to it.
func accessBed(t testing.TB, e *echo, policies []policy.Named) net.Conn {
	return tracedBed(t, e, policies, nil)
}

// tracedBed is accessBed with traces; nil: without.
func tracedBed(t testing.TB, e *echo, policies []policy.Named, tracer *tracing.Tracer) net.Conn {
	s := sweep.New()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	source := single(e.start(t))
	g := upstream.NewGroup(upstream.Deps{Log: quiet(), Sweeper: s, Sources: func(*upstream.Config) (discovery.Source, discovery.Query, error) {
		return source, discovery.Query{Service: "s"}, nil
	}})
	log := NewAccessLog(AccessLogConfig{Sample: 1}, Credentials{}, linelog.New("access_log", "/dev/null", quiet()))
	out, err := log.Open()
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { log.Run(ctx.Done(), out) })
	t.Cleanup(func() {
		end, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		g.Close(end)
		cancel()
		wg.Wait()
	})
	plan, err := g.Plan([]*upstream.Config{{Name: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	plan.Commit()
	wait, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	g.Wait(wait)
	h := NewHandler(Deps{Log: quiet(), Stats: NewStats()})
	m, err := route.Compile([]route.Rule{{Name: "r", Hosts: []string{"a.test"}}})
	if err != nil {
		t.Fatal(err)
	}
	h.SetTable(&Table{Matcher: m, Log: log, Tracer: tracer, Routes: []*Route{{
		Name: "r", Chain: policy.Compile(policies), Stats: h.Stats.Route("r", ""),
		Shares: []Share{{Service: "s", Pool: plan.Pool("s"), Upto: 1, Stats: h.Stats.Route("r", "s")}},
	}}})
	nc, err := net.Dial("tcp", listen(t, h, nil).addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// round sends a request and reads an answer that ends in end; it returns its
// length and, with size 0, whatever that is.
func round(t testing.TB, nc net.Conn, request, buf []byte, size int, end string) int {
	if _, err := nc.Write(request); err != nil {
		t.Fatal(err)
	}
	if size > 0 {
		if _, err := io.ReadFull(nc, buf[:size]); err != nil {
			t.Fatal(err)
		}
		return size
	}
	n := 0
	for !bytes.HasSuffix(buf[:n], []byte(end)) {
		m, err := nc.Read(buf[n:])
		if err != nil {
			t.Fatalf("%v after %q", err, buf[:n])
		}
		n += m
	}
	return n
}

const accessRequest = "GET /orders/7?q=1 HTTP/1.1\r\nHost: a.test\r\nOrigin: https://app.example.com\r\nUser-Agent: test\r\nX-API-Key: " + accessKey + "\r\nAccept: */*\r\n\r\n"

// TestAccessAllocatesNothing: a request with a key, a rate limit, metrics and
// access log, and all that keeps others out, through the whole gateway.
func TestAccessAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools forget at random")
	}
	e := &echo{}
	nc := accessBed(t, e, guardedPolicies(t))
	buf, request := make([]byte, 4096), []byte(accessRequest)
	size := round(t, nc, request, buf, 0, "ok")
	for _, want := range []string{"HTTP/1.1 200", "RateLimit: \"consumer\";r=999999999;t=", "RateLimit-Policy: \"consumer\";q=1000000000;w=100"} {
		if !strings.Contains(string(buf[:size]), want) {
			t.Fatalf("the answer lacks %q:\n%s", want, buf[:size])
		}
	}
	if head := e.saw(); strings.Contains(head, accessKey) || !strings.Contains(head, "X-Consumer: acme\r\n") {
		t.Fatalf("the backend saw:\n%s", head)
	}
	// Numbers of one length, so that all answers are equally long.
	for range 200 {
		size = round(t, nc, request, buf, 0, "ok")
	}
	if n := testing.AllocsPerRun(2000, func() { round(t, nc, request, buf, size, "") }); n != 0 {
		t.Errorf("%v allocations for an exchange, want 0", n)
	}
}

// traces is a sampler of that share, whose spans a collector takes that decodes
// nothing.
func traces(t testing.TB, sample float64) *tracing.Tracer {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(s.Close)
	e := tracing.NewExporter(tracing.Deps{Log: quiet(), Transport: func(string) *http.Transport { return &http.Transport{} }})
	cfg := tracing.Config{Endpoint: s.URL, Sample: sample}
	e.Configure(&cfg, "")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return e.Tracer(cfg)
}

// TestAllocTraced: neither a request whose trace isn't sampled costs an
// allocation, nor one whose trace is; only the sender's batches do.
func TestAllocTraced(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools forget at random")
	}
	for _, sample := range []float64{0, 1} {
		e := &echo{}
		nc := tracedBed(t, e, guardedPolicies(t), traces(t, sample))
		buf, request := make([]byte, 4096), []byte(accessRequest)
		round(t, nc, request, buf, 0, "ok")
		if head := e.saw(); !strings.Contains(head, "\r\nTraceparent: 00-") {
			t.Fatalf("the backend saw:\n%s", head)
		}
		var size int
		for range 300 {
			size = round(t, nc, request, buf, 0, "ok")
		}
		if n := testing.AllocsPerRun(2000, func() { round(t, nc, request, buf, size, "") }); n != 0 {
			t.Errorf("sample %v: %v allocations for an exchange", sample, n)
		}
	}
}

// TestAccessRefused: refusals, too, keep the connection.
func TestAccessRefused(t *testing.T) {
	e := &echo{}
	nc := accessBed(t, e, accessPolicies(t))
	buf := make([]byte, 4096)
	for _, request := range []string{
		strings.Replace(accessRequest, accessKey, "wrong", 1),
		strings.Replace(accessRequest, "X-API-Key: "+accessKey+"\r\n", "", 1),
		strings.Replace(accessRequest, "X-API-Key", "X_API_Key", 1),
	} {
		n := round(t, nc, []byte(request), buf, 0, "}\n")
		for _, want := range []string{"HTTP/1.1 401", "WWW-Authenticate: ApiKey header=\"X-API-Key\"\r\n", "application/problem+json", `"type":"urn:sidegate:problem:unauthenticated"`} {
			if !strings.Contains(string(buf[:n]), want) {
				t.Errorf("the answer lacks %q:\n%s", want, buf[:n])
			}
		}
	}
	if head := e.saw(); head != "" {
		t.Errorf("the backend saw:\n%s", head)
	}
	if n := round(t, nc, []byte(accessRequest), buf, 0, "ok"); !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
		t.Errorf("afterwards:\n%s", buf[:n])
	}
}

func BenchmarkAccess(b *testing.B) {
	for _, bb := range []struct {
		name     string
		policies func(testing.TB) []policy.Named
	}{{"bare", func(testing.TB) []policy.Named { return nil }}, {"key and limit", accessPolicies}, {"guarded", guardedPolicies}} {
		b.Run(bb.name, func(b *testing.B) {
			nc := accessBed(b, &echo{}, bb.policies(b))
			buf, request := make([]byte, 4096), []byte(accessRequest)
			b.ReportAllocs()
			for b.Loop() {
				round(b, nc, request, buf, 0, "ok")
			}
		})
	}
}

// tokenPolicies are those of a route that asks for a token, and a token.
func tokenPolicies(t testing.TB) (list []policy.Named, token string) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	store := keyset.NewStore(keyset.Deps{Log: quiet()})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { store.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	plan := store.Plan()
	k := jwt.Kind(jwt.Deps{Keys: plan, Cache: jwt.NewCache()})
	m, err := k.New(&jwt.Config{Issuer: i.URL, JWKS: i.JWKS(), Audience: []string{"api"}, Algorithms: []string{"RS256"}, Realm: "api"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Join("r", []policy.Policy{m})
	if err != nil {
		t.Fatal(err)
	}
	plan.Commit()
	wait, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	store.Wait(wait)
	h, err := headers.Kind().New(&headers.Config{Set: map[string]string{"X-Subject": "{claims.sub}"}})
	if err != nil {
		t.Fatal(err)
	}
	token = i.Sign("k", map[string]any{"iss": i.URL, "aud": "api", "sub": "u-1", "exp": time.Now().Add(time.Hour).Unix(), "scope": "orders:read orders:write"})
	return []policy.Named{{Name: "auth", Policy: p}, {Name: "request", Policy: h}}, token
}

// TestTokenAllocatesNothing: a request with a token that is remembered, through
// the whole gateway.
func TestTokenAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools forget at random")
	}
	e := &echo{}
	policies, token := tokenPolicies(t)
	nc := accessBed(t, e, policies)
	buf, request := make([]byte, 4096), []byte(strings.Replace(accessRequest, "X-API-Key: "+accessKey, "Authorization: Bearer "+token, 1))
	size := round(t, nc, request, buf, 0, "ok")
	if head := e.saw(); strings.Contains(head, token) || !strings.Contains(head, "X-Subject: u-1\r\n") {
		t.Fatalf("the backend saw:\n%s", head)
	}
	for range 200 {
		round(t, nc, request, buf, size, "")
	}
	if n := testing.AllocsPerRun(2000, func() { round(t, nc, request, buf, size, "") }); n != 0 {
		t.Errorf("%v allocations for an exchange, want 0", n)
	}
}

func BenchmarkToken(b *testing.B) {
	policies, token := tokenPolicies(b)
	for _, bb := range []struct {
		name     string
		policies []policy.Named
	}{{"bare", nil}, {"remembered", policies}} {
		b.Run(bb.name, func(b *testing.B) {
			nc := accessBed(b, &echo{}, bb.policies)
			buf, request := make([]byte, 4096), []byte(strings.Replace(accessRequest, "X-API-Key: "+accessKey, "Authorization: Bearer "+token, 1))
			b.ReportAllocs()
			for b.Loop() {
				round(b, nc, request, buf, 0, "ok")
			}
		})
	}
}

func BenchmarkTraced(b *testing.B) {
	for _, bb := range []struct {
		name   string
		sample float64
	}{{"off", -1}, {"0", 0}, {"0.01", 0.01}, {"1", 1}} {
		b.Run(bb.name, func(b *testing.B) {
			var t *tracing.Tracer
			if bb.sample >= 0 {
				t = traces(b, bb.sample)
			}
			nc := tracedBed(b, &echo{}, nil, t)
			buf, request := make([]byte, 4096), []byte(accessRequest)
			b.ReportAllocs()
			for b.Loop() {
				round(b, nc, request, buf, 0, "ok")
			}
		})
	}
}
