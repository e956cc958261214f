package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

type handlerFunc func(x *exchange.Exchange)

func (f handlerFunc) Serve(x *exchange.Exchange) { f(x) }

// listening is a server with one plain listener on a free port of loopback.
type listening struct {
	*Server
	cfg  ListenerConfig
	addr string
}

func listen(t testing.TB, h exchange.Handler, change func(*ListenerConfig)) *listening {
	t.Helper()
	return listenWith(t, h, func(_ *ServerDeps, c *ListenerConfig) {
		if change != nil {
			change(c)
		}
	})
}

func listenWith(t testing.TB, h exchange.Handler, change func(*ServerDeps, *ListenerConfig)) *listening {
	t.Helper()
	s := sweep.New()
	ctx, cancel := context.WithCancel(context.Background())
	swept := make(chan struct{})
	go func() { defer close(swept); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-swept })
	l, d := &listening{}, ServerDeps{Log: quiet(), Handler: h, Sweeper: s}
	l.cfg = ListenerConfig{Name: "l", Address: "127.0.0.1:0", Protocols: []string{"h1"}, Limits: &ListenerLimits{
		Headers: 32 << 10, Fields: 100, URI: 8 << 10, HeaderTimeout: 10 * time.Second, StallTimeout: 10 * time.Second,
		IdleTimeout: 10 * time.Second, Connections: 100, ConnectionsPerIP: 100, Streams: 10,
	}}
	change(&d, &l.cfg)
	l.Server = NewServer(d)
	l.apply(t)
	l.addr = l.Status()[0].Address
	t.Cleanup(func() {
		now, stop := context.WithCancel(context.Background())
		stop()
		l.Drain(now)
	})
	return l
}

func (l *listening) apply(t testing.TB) {
	t.Helper()
	cfg, limits := l.cfg, *l.cfg.Limits
	cfg.Limits = &limits
	p, err := l.Plan([]*ListenerConfig{&cfg}, Trust{netip.MustParsePrefix("127.0.0.0/8")})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
}

func (l *listening) dial(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { _ = nc.Close() })
	return nc, bufio.NewReader(nc)
}

// TestConnectionsPerIPBehindBalancer: the bound is on the clients that a
// balancer names, not on the balancer, whose address all of them share.
func TestConnectionsPerIPBehindBalancer(t *testing.T) {
	l := listen(t, handlerFunc(func(x *exchange.Exchange) {
		x.Reply(200, "", []byte(x.Conn.RemoteIP))
		_ = x.Front.Respond(x)
	}), func(c *ListenerConfig) { c.ProxyProtocol, c.Limits.ConnectionsPerIP = true, 1 })
	try := func(client string) (string, net.Conn) {
		nc, br := l.dial(t)
		fmt.Fprintf(nc, "PROXY TCP4 %s 192.0.2.254 1000 80\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", client)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return "refused", nc
		}
		b, _ := io.ReadAll(res.Body)
		return string(b), nc
	}
	if got, _ := try("192.0.2.1"); got != "192.0.2.1" {
		t.Errorf("first client: %s", got)
	}
	got, second := try("192.0.2.2")
	if got != "192.0.2.2" {
		t.Errorf("second client: %s", got)
	}
	if got, _ := try("192.0.2.1"); got != "refused" {
		t.Errorf("first client's second connection: %s, want it refused", got)
	}
	_ = second.Close()
	for end := time.Now().Add(5 * time.Second); ; {
		got, nc := try("192.0.2.2")
		_ = nc.Close()
		if got == "192.0.2.2" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a place isn't given back when its connection ends")
		}
	}
}

// TestDrainWaitsForTheRetired: what began before a reload counts at the end.
func TestDrainWaitsForTheRetired(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	l := listen(t, handlerFunc(func(x *exchange.Exchange) {
		close(entered)
		<-leave
		x.Reply(200, "", []byte("late"))
		_ = x.Front.Respond(x)
	}), nil)
	nc, br := l.dial(t)
	fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-entered
	for range 3 {
		l.cfg.Limits.Fields++ // another serving takes over
		l.apply(t)
	}
	if n := len(l.retired); n != 1 { // those without connections are closed
		t.Errorf("%d servings are remembered, want 1", n)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		l.Drain(ctx)
	}()
	select {
	case <-drained:
		t.Error("Drain didn't wait for a request that began before the reload")
	case <-time.After(200 * time.Millisecond): // long enough to be wrong in
	}
	close(leave)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(res.Body); string(b) != "late" {
		t.Errorf("answer = %q", b)
	}
	<-drained
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "::ffff:192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "2001:db8:1:2::9": "2001:db8:1:2::",
	} {
		if got := network(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("network(%s) = %s, want %s", in, got, want)
		}
	}
}
