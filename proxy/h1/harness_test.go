package h1

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// TestMain sees to it that no goroutine of the package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	buf := make([]byte, 1<<20)
	for end := time.Now().Add(5 * time.Second); code == 0; time.Sleep(5 * time.Millisecond) {
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "h1.(*") {
			break
		}
		if time.Now().After(end) {
			fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", stacks)
			code = 1
		}
	}
	os.Exit(code)
}

// forwarder is the smallest handler: one backend, a stack of connections.
type forwarder struct {
	addr string
	cfg  *ClientConfig

	before func(x *exchange.Exchange)                   // sees the exchange before it is sent
	after  func(x *exchange.Exchange, respondErr error) // and when it is over

	mu    sync.Mutex
	conns []*ClientConn
	dials int
}

func (h *forwarder) get() (*ClientConn, error) {
	h.mu.Lock()
	for len(h.conns) > 0 {
		c := h.conns[len(h.conns)-1]
		h.conns = h.conns[:len(h.conns)-1]
		if c.Alive() {
			h.mu.Unlock()
			return c, nil
		}
		_ = c.Close()
	}
	h.dials++
	h.mu.Unlock()
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		return nil, err
	}
	return NewClientConn(nc, h.cfg), nil
}

func (h *forwarder) put(c *ClientConn) {
	if !c.Reusable() {
		_ = c.Close()
		return
	}
	h.mu.Lock()
	h.conns = append(h.conns, c)
	h.mu.Unlock()
}

func (h *forwarder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.conns = nil
}

func (h *forwarder) Serve(x *exchange.Exchange) {
	err := h.serve(x)
	if h.after != nil {
		h.after(x, err)
	}
}

func (h *forwarder) serve(x *exchange.Exchange) error {
	f := x.Fault
	if f == nil {
		f = x.Canonicalise()
	}
	if f != nil {
		return refuse(x, f)
	}
	if h.before != nil {
		h.before(x)
	}
	c, err := h.get()
	if err != nil {
		return refuse(x, exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "%w", err))
	}
	defer h.put(c)
	if _, f := c.RoundTrip(x); f != nil {
		return refuse(x, f)
	}
	return x.Front.Respond(x)
}

var statusOf = map[exchange.Kind]int{
	exchange.Malformed: 400, exchange.BadPath: 400, exchange.BadHost: 400, exchange.HeadersTooLarge: 431,
	exchange.URITooLong: 414, exchange.ClientTimeout: 408, exchange.Expectation: 417, exchange.NotImplemented: 501,
	exchange.Version: 505, exchange.BackendTimeout: 504, exchange.DeadlineExceeded: 504, exchange.ClientGone: 499,
}

// refuse answers with the fault; its text is in the body for the tests to see.
func refuse(x *exchange.Exchange, f *exchange.Fault) error {
	x.Err = f
	status := statusOf[f.Kind]
	if status == 0 {
		status = 502
	}
	x.Reply(status, "application/problem+json", []byte(f.Error()))
	return x.Front.Respond(x)
}

type handlerFunc func(x *exchange.Exchange)

func (f handlerFunc) Serve(x *exchange.Exchange) { f(x) }

func startSweeper(tb testing.TB) *sweep.Sweeper {
	s := sweep.New()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	tb.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

func testConfig(s *sweep.Sweeper, h exchange.Handler) FrontConfig {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return FrontConfig{
		Handler: h, Sweeper: s, MaxHeaders: 32 << 10, MaxFields: 100, MaxURI: 8 << 10,
		HeaderTimeout: 10 * time.Second, StallTimeout: 20 * time.Second, IdleTimeout: 20 * time.Second, Log: log,
	}
}

// startFront serves f on loopback until the test ends, and checks that nothing
// of it stays.
func startFront(tb testing.TB, f *Front) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				remote := netip.MustParseAddrPort(nc.RemoteAddr().String())
				f.ServeConn(nc, &exchange.Conn{Scheme: "http", Remote: remote}, nil)
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		f.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// proxy starts a front that forwards to addr.
func proxy(tb testing.TB, addr string, change func(*FrontConfig, *forwarder)) (string, *forwarder) {
	tb.Helper()
	s := startSweeper(tb)
	h := &forwarder{addr: addr, cfg: &ClientConfig{
		Sweeper: s, FirstByte: 20 * time.Second, Idle: 20 * time.Second, ExpectTimeout: time.Second,
		MaxHeaders: 32 << 10, MaxFields: 100,
	}}
	cfg := testConfig(s, h)
	if change != nil {
		change(&cfg, h)
	}
	tb.Cleanup(h.close)
	return startFront(tb, NewFront(cfg)), h
}

// backend serves h with net/http.
func backend(tb testing.TB, h http.Handler) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	tb.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return ln.Addr().String()
}

// rawBackend runs script on each connection that it accepts.
func rawBackend(tb testing.TB, script func(net.Conn)) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, nc)
			mu.Unlock()
			wg.Go(func() { defer nc.Close(); script(nc) })
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, nc := range open {
			_ = nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// answering is a backend that reads a head and sends text.
func answering(text string) func(net.Conn) {
	return func(nc net.Conn) {
		br := bufio.NewReader(nc)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(nc, text); err != nil {
				return
			}
			if !strings.Contains(text, "Content-Length") && !strings.Contains(text, "hunked") {
				return
			}
		}
	}
}

func dial(tb testing.TB, addr string) *net.TCPConn {
	tb.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	tb.Cleanup(func() { _ = nc.Close() })
	return nc.(*net.TCPConn)
}

// exchangeRaw sends text and returns all that comes until the end.
func exchangeRaw(tb testing.TB, addr, text string) string {
	tb.Helper()
	nc := dial(tb, addr)
	if _, err := io.WriteString(nc, text); err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(nc)
	if err != nil {
		return fmt.Sprintf("%s<%v>", b, err)
	}
	return string(b)
}

// eventually polls until ok.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		if ok() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	tb.Fatalf("%s: not within 15s\n%s", what, buf[:runtime.Stack(buf, true)])
}
