package h1

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/socket"
)

// parkedConns is how many of the front's connections are parked.
func parkedConns(f *Front) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if phase(c.phase.Load()) == parked {
			n++
		}
	}
	return n
}

// TestPark lets connections go idle until they park, and then go on, or end.
func TestPark(t *testing.T) {
	if !socket.Waits {
		t.Skip("connections don't park here")
	}
	srv := httptest.NewTLSServer(nil) // for its certificate
	defer srv.Close()
	serverTLS := &tls.Config{Certificates: srv.TLS.Certificates, NextProtos: []string{"http/1.1"}}
	clientTLS := &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"}

	ends := func(t *testing.T, nc net.Conn) {
		if n, err := nc.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d bytes, %v; want the end", n, err)
		}
	}
	tests := []struct {
		name string
		idle time.Duration
		then func(t *testing.T, f *Front, nc net.Conn)
	}{
		{"next request", time.Minute, func(t *testing.T, f *Front, nc net.Conn) {
			request(t, nc)
			eventually(t, "parks again", func() bool { return parkedConns(f) == 1 })
			request(t, nc)
			_ = nc.Close()
		}},
		{"client leaves", time.Minute, func(_ *testing.T, _ *Front, nc net.Conn) { _ = nc.Close() }},
		{"idle limit", 2500 * time.Millisecond, func(t *testing.T, _ *Front, nc net.Conn) { ends(t, nc) }},
		{"drain", time.Minute, func(t *testing.T, f *Front, nc net.Conn) { f.Drain(0); ends(t, nc) }},
		{"drain with a grace", time.Minute, func(t *testing.T, f *Front, nc net.Conn) { f.Drain(time.Second); ends(t, nc) }},
		{"close", time.Minute, func(t *testing.T, f *Front, nc net.Conn) { f.Close(); ends(t, nc) }},
	}
	for _, secure := range []bool{false, true} {
		for _, tt := range tests {
			t.Run(map[bool]string{false: "plain ", true: "tls "}[secure]+tt.name, func(t *testing.T) {
				t.Parallel()
				var ended atomic.Int32
				cfg := testConfig(startSweeper(t), handlerFunc(func(x *exchange.Exchange) {
					x.Reply(200, "", []byte("ok"))
					_ = x.Front.Respond(x)
				}))
				cfg.IdleTimeout = tt.idle
				cfg.Ended = func(*exchange.Conn) { ended.Add(1) }
				f := NewFront(cfg)
				nc := serveOne(t, f, secure, serverTLS, clientTLS)
				request(t, nc)
				eventually(t, "parks", func() bool { return parkedConns(f) == 1 })
				if n := ended.Load(); n != 0 {
					t.Errorf("%d connections ended before their time", n)
				}
				tt.then(t, f, nc)
				eventually(t, "ends", func() bool { n, _ := f.Active(); return n == 0 && ended.Load() == 1 })
			})
		}
	}
}

// serveOne serves one connection and returns the client's side of it.
func serveOne(t *testing.T, f *Front, secure bool, serverTLS, clientTLS *tls.Config) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var nc net.Conn = dial(t, ln.Addr().String())
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if secure {
		server, nc = tls.Server(server, serverTLS), tls.Client(nc, clientTLS)
	}
	go f.ServeConn(server, &exchange.Conn{Scheme: "http"}, nil)
	return nc
}

// request sends a request and reads its answer.
func request(t *testing.T, nc net.Conn) {
	t.Helper()
	if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "ok" {
		t.Fatalf("answer %q, %v", b, err)
	}
}
