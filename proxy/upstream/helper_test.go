package upstream

import (
	"context"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// fed is a source that reports what the test gives it.
type fed struct {
	mu     sync.Mutex
	set    []discovery.Instance
	update func([]discovery.Instance)
	starts int
	fail   error
}

func (f *fed) Watch(ctx context.Context, _ discovery.Query, update func([]discovery.Instance)) error {
	f.mu.Lock()
	f.starts++
	if f.fail != nil {
		f.mu.Unlock()
		return f.fail
	}
	f.update = update
	if f.set != nil {
		update(f.set)
	}
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (f *fed) give(set ...discovery.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set = set
	if f.update != nil {
		f.update(set)
	}
}

func at(addr string) discovery.Instance {
	return discovery.Instance{ID: addr, Address: addr, Node: "n", Weight: 1}
}

// bench is a group with one service, "s", and what belongs to it.
type bench struct {
	t   testing.TB
	g   *Group
	p   *Pool
	cfg *Config
	src *fed
}

func newBench(t testing.TB, cfg *Config, d Deps, set ...discovery.Instance) *bench {
	t.Helper()
	noLeak(t)
	b := &bench{t: t, cfg: cfg, src: &fed{set: set}}
	log := logrus.New()
	log.SetOutput(io.Discard)
	d.Log, d.Sweeper = log, sweep.New()
	d.Sources = func(*Config) (discovery.Source, discovery.Query, error) {
		return b.src, discovery.Query{Service: "s"}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { d.Sweeper.Run(ctx) })
	b.g = NewGroup(d)
	t.Cleanup(func() {
		done, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		b.g.Close(done)
		if done.Err() != nil {
			t.Error("Close didn't end in time")
		}
		cancel()
		wg.Wait()
	})
	cfg.Name = "s"
	b.apply(cfg)
	if set != nil {
		wait, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		b.g.Wait(wait)
		if wait.Err() != nil {
			t.Fatal("no instances in time")
		}
	}
	return b
}

func (b *bench) apply(cfg *Config) {
	b.t.Helper()
	p, err := b.g.Plan([]*Config{cfg})
	if err != nil {
		b.t.Fatal(err)
	}
	b.p = p.Pool("s")
	p.Commit()
}

func (b *bench) instance(addr string) InstanceStatus {
	b.t.Helper()
	for _, in := range b.p.Status().Instances {
		if in.Address == addr {
			return in
		}
	}
	b.t.Fatalf("no instance %s", addr)
	return InstanceStatus{}
}

// noLeak fails the test when goroutines are left at its end.
func noLeak(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines left, %d before:\n%s", n, before, buf[:runtime.Stack(buf, true)])
		}
	})
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// client is a front that has its answer read by take.
type client struct{ gone bool }

func (*client) Respond(*exchange.Exchange) error                      { return nil }
func (*client) Interim(*exchange.Exchange, int, *exchange.Head) error { return nil }
func (c *client) Gone(*exchange.Exchange) bool                        { return c.gone }

func request(method, path string, fields ...string) *exchange.Exchange {
	x := &exchange.Exchange{}
	renew(x, method, path, fields...)
	return x
}

var testConn = &exchange.Conn{Scheme: "http"}

func renew(x *exchange.Exchange, method, path string, fields ...string) {
	x.Reset(exchange.HTTP11, testConn, &client{})
	x.Start = time.Now()
	x.Method, x.RawTarget, x.RawHost = method, path, "s.test"
	x.ClientIP = netip.MustParseAddr("192.0.2.1")
	for i := 0; i < len(fields); i += 2 {
		x.Request.Append(fields[i], fields[i+1])
	}
	if f := x.Canonicalise(); f != nil {
		panic(f)
	}
}

// stream is a body that hides that it is in memory, in pieces of 1 KiB.
type stream struct{ r io.Reader }

func (s *stream) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), 1<<10)]) }
func (s *stream) Next() ([]byte, bool)       { return nil, false }
func (s *stream) Close() error               { return nil }

func withBody(x *exchange.Exchange, body string, known bool) *exchange.Exchange {
	x.RequestBody, x.RequestLength = &stream{strings.NewReader(body)}, -1
	if known {
		x.RequestLength = int64(len(body))
	}
	return x
}

type answer struct {
	status int
	body   string
	fault  *exchange.Fault
	err    error
}

// send sends x and reads the whole answer.
func (b *bench) send(x *exchange.Exchange) answer {
	if f := b.p.Send(x); f != nil {
		return answer{fault: f}
	}
	return take(x)
}

func take(x *exchange.Exchange) answer {
	a := answer{status: x.Status}
	if x.ResponseBody != nil {
		var body []byte
		body, a.err = io.ReadAll(x.ResponseBody)
		a.body = string(body)
	}
	x.Lease.Release(x, a.err)
	return a
}

func (b *bench) get(path string, fields ...string) answer {
	return b.send(request("GET", path, fields...))
}

// backend is a net/http server that answers with its name unless handler is
// given.
type backend struct {
	*httptest.Server
	addr string
	hits func() int
}

func newBackend(t testing.TB, handler http.HandlerFunc) *backend {
	t.Helper()
	var mu sync.Mutex
	n := 0
	b := &backend{hits: func() int { mu.Lock(); defer mu.Unlock(); return n }}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		mu.Unlock()
		if handler != nil {
			handler(w, r)
			return
		}
		io.WriteString(w, b.addr)
	}))
	b.Config.ErrorLog = nullLog()
	b.Start()
	b.addr = b.Listener.Addr().String()
	t.Cleanup(b.Close)
	return b
}

// deadAddr is an address where nobody listens.
func deadAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func wantFault(t testing.TB, a answer, kind exchange.Kind) {
	t.Helper()
	if a.fault == nil || a.fault.Kind != kind {
		t.Fatalf("fault = %v (status %d %q), want %s", a.fault, a.status, a.body, kind)
	}
}

func nullLog() *log.Logger { return log.New(io.Discard, "", 0) }

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
