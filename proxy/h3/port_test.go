package h3

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// relay stands between clients and a server as a NAT does.
type relay struct {
	tb      testing.TB
	in      *net.UDPConn
	retries atomic.Int64 // Retry packets seen
	hold    atomic.Bool  // what the server sends is lost

	mu     sync.Mutex // guards what follows
	server net.Addr
	out    *net.UDPConn
	client net.Addr // the last one
	used   []*net.UDPConn
	done   sync.WaitGroup
}

func newRelay(tb testing.TB, server string) *relay {
	tb.Helper()
	r := &relay{tb: tb, in: bindLoopback(tb)}
	r.move(server)
	r.rebind()
	r.done.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := r.in.ReadFrom(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.client = from
			out, server := r.out, r.server
			r.mu.Unlock()
			_, _ = out.WriteTo(b[:n], server) // a lost packet
		}
	})
	tb.Cleanup(func() {
		_ = r.in.Close()
		for _, c := range r.used {
			_ = c.Close()
		}
		r.done.Wait()
	})
	return r
}

// move lets what clients send go to another server from now on.
func (r *relay) move(server string) {
	r.tb.Helper()
	addr, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		r.tb.Fatal(err)
	}
	r.mu.Lock()
	r.server = addr
	r.mu.Unlock()
}

func (r *relay) addr() string { return r.in.LocalAddr().String() }

// rebind lets what clients send from now on come from another port. The one
// before is closed: what is sent to it is lost.
func (r *relay) rebind() {
	out := bindLoopback(r.tb)
	r.mu.Lock()
	if r.out != nil {
		_ = r.out.Close()
	}
	r.out = out
	r.used = append(r.used, out)
	r.mu.Unlock()
	r.done.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, _, err := out.ReadFrom(b)
			if err != nil {
				return
			}
			if b[0]&0xf0 == 0xf0 { // RFC 9000, 17.2.5
				r.retries.Add(1)
			}
			if r.hold.Load() {
				continue
			}
			r.mu.Lock()
			client := r.client
			r.mu.Unlock()
			_, _ = r.in.WriteTo(b[:n], client) // a lost packet
		}
	})
}

func bindLoopback(tb testing.TB) *net.UDPConn {
	tb.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// TestRebinding: a client whose address changes keeps its connection and what
// is going on over it.
func TestRebinding(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	f := start(t, nil, func(x *exchange.Exchange) {
		if x.RawTarget == "/slow" {
			close(begun)
			<-release
		}
		answer(x, 200, x.Conn.Remote.String())
	})
	r := newRelay(t, f.addr)
	get := func(path string) (string, error) {
		resp, err := f.client.RoundTrip(request(t, "GET", "https://"+r.addr()+path, nil))
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	first, err := get("/")
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		body string
		err  error
	}
	slow := make(chan result, 1)
	go func() {
		b, err := get("/slow")
		slow <- result{b, err}
	}()
	<-begun
	for range 3 {
		r.rebind()
		if b, err := get("/"); err != nil || b != first {
			t.Fatalf("after the address changed: %q, %v, want %q, of the same connection", b, err, first)
		}
	}
	close(release)
	if got := <-slow; got.err != nil || got.body != first {
		t.Errorf("what began before: %q, %v, want %q", got.body, got.err, first)
	}
	if conns, _ := f.front.Active(); conns != 1 {
		t.Errorf("%d connections, want 1", conns)
	}
}

// TestPortOutlivesFronts: a reload puts another front in place; requests of the
// one before go on over the same socket, and the last connection closes it.
func TestPortOutlivesFronts(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	f := start(t, nil, func(x *exchange.Exchange) {
		close(begun)
		<-release
		answer(x, 200, "old")
	})
	type result struct {
		body string
		err  error
	}
	get := func(client http.RoundTripper) result {
		resp, err := client.RoundTrip(request(t, "GET", f.url+"/", nil))
		if err != nil {
			return result{"", err}
		}
		b, err := io.ReadAll(resp.Body)
		return result{string(b), err}
	}
	slow := make(chan result, 1)
	go func() { slow <- get(f.client) }()
	<-begun

	cfg := f.front.cfg
	cfg.Handler = handlerFunc(func(x *exchange.Exchange) { answer(x, 200, "new") })
	next := NewFront(cfg)
	defer next.Close()
	if !f.port.Use(next) {
		t.Fatal("the port has closed")
	}
	f.front.Drain()
	other := newClient()
	if got := get(other); got.err != nil || got.body != "new" {
		t.Errorf("a new connection: %q, %v, want it served by the new front", got.body, got.err)
	}
	f.port.Use(nil)
	next.Drain()
	refused := newClient()
	defer refused.Close() //nolint:errcheck // a client
	if got := get(refused); got.err == nil {
		t.Errorf("without a front: %q, want a refusal", got.body)
	}
	if !f.port.Use(next) { // as if the listener came back
		t.Error("the port has closed although connections are left")
	}
	f.port.Use(nil)
	close(release)
	if got := <-slow; got.err != nil || got.body != "old" {
		t.Errorf("what began before: %q, %v", got.body, got.err)
	}
	_ = f.client.Close()
	_ = other.Close()
	<-f.port.ended
	if f.port.Use(next) {
		t.Error("a closed port is of use")
	}
	again, err := Listen(f.addr, NewSecrets(), f.front.log)
	if err != nil {
		t.Fatalf("the address isn't free again: %v", err)
	}
	again.Close()
}

func TestListenFails(t *testing.T) {
	taken := bindLoopback(t)
	defer taken.Close() //nolint:errcheck // nothing was written
	log := logrus.New()
	for _, address := range []string{taken.LocalAddr().String(), "127.0.0.1:x"} {
		if p, err := Listen(address, NewSecrets(), log); err == nil {
			p.Close()
			t.Errorf("Listen(%q) worked", address)
		}
	}
}
