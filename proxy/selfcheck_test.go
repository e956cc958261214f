package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// TestSelfCheck goes the whole way on each kind of listener, whatever that asks
// of its clients, and leaves no trace in what is counted.
func TestSelfCheck(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	t.Cleanup(cert.Close)
	certs := cert.TLS.Certificates
	strict := func(protocols ...string) func(*ServerDeps, *ListenerConfig) {
		return func(d *ServerDeps, c *ListenerConfig) {
			c.TLS, c.Protocols = true, protocols
			d.TLS = func(*ListenerConfig, bool) (*tls.Config, error) {
				alpn := protocols
				if protocols[0] == "h1" {
					alpn = []string{"http/1.1"}
				}
				mutual := &tls.Config{Certificates: certs, NextProtos: alpn, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
				return &tls.Config{NextProtos: alpn, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return mutual, nil }}, nil
			}
		}
	}
	plain := func(change func(*ListenerConfig)) func(*ServerDeps, *ListenerConfig) {
		return func(_ *ServerDeps, c *ListenerConfig) { change(c) }
	}
	full := memory.NewGuard(memory.Deps{Log: quiet(), Root: t.TempDir(), Used: func() int64 { return 99 }}, 100)
	full.Look()
	for name, change := range map[string]func(*ServerDeps, *ListenerConfig){
		"plain":           plain(func(*ListenerConfig) {}),
		"both":            plain(func(c *ListenerConfig) { c.Protocols = []string{"h1", "h2"} }),
		"h2c":             plain(func(c *ListenerConfig) { c.Protocols = []string{"h2"} }),
		"any address":     plain(func(c *ListenerConfig) { c.Address = ":0" }),
		"full":            plain(func(c *ListenerConfig) { c.Limits.Connections, c.Limits.ConnectionsPerIP = 0, 0 }),
		"balancer":        plain(func(c *ListenerConfig) { c.ProxyProtocol = true }),
		"client cert, h1": strict("h1"),
		"client cert, h2": strict("h2"),
		"no memory":       func(d *ServerDeps, _ *ListenerConfig) { d.Memory = full },
	} {
		t.Run(name, func(t *testing.T) {
			h := NewHandler(Deps{Log: quiet(), Stats: NewStats()})
			m, err := route.Compile(nil)
			if err != nil {
				t.Fatal(err)
			}
			h.SetTable(&Table{Matcher: m})
			var asked atomic.Int32
			l := listenWith(t, handlerFunc(func(x *exchange.Exchange) {
				if !x.Conn.SelfCheck {
					t.Error("the self-check's connection isn't known as such")
				}
				asked.Add(1)
				h.Serve(x)
			}), change)
			for range 3 {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				if err := l.Check(ctx); err != nil {
					t.Error(err)
				}
				cancel()
			}
			if n := asked.Load(); n != 3 {
				t.Errorf("the handler was asked %d times, want 3", n)
			}
			if s := l.Status()[0]; s.Accepted+s.Refused+s.Handshakes != 0 {
				t.Errorf("the checks were counted: %+v", s)
			}
			for _, r := range h.Stats.Totals() {
				if r.Requests != 0 {
					t.Errorf("%d requests were counted", r.Requests)
				}
			}
		})
	}
}

// TestSelfCheckOfAHang: each way of hanging is found, and named.
func TestSelfCheckOfAHang(t *testing.T) {
	check := func(t *testing.T, l *listening, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		err := l.Check(ctx)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Check: %v, want %q", err, want)
		}
	}
	t.Run("handler", func(t *testing.T) {
		held := make(chan struct{})
		l := listen(t, handlerFunc(func(*exchange.Exchange) { <-held }), nil)
		defer close(held)
		check(t, l, `listener "l" (`+l.addr+`): no answer at the stage request`)
	})
	t.Run("TLS", func(t *testing.T) {
		held := make(chan struct{})
		l := listenWith(t, handlerFunc(func(*exchange.Exchange) {}), func(d *ServerDeps, c *ListenerConfig) {
			c.TLS = true
			d.TLS = func(*ListenerConfig, bool) (*tls.Config, error) {
				return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { <-held; return nil, nil }}, nil
			}
		})
		defer close(held)
		check(t, l, "no answer at the stage TLS")
	})
	t.Run("lock", func(t *testing.T) {
		l := listen(t, handlerFunc(func(*exchange.Exchange) {}), nil)
		l.mu.Lock()
		check(t, l, "the lock of the listeners is held")
		l.mu.Unlock()
	})
	t.Run("accept loops", func(t *testing.T) {
		l := listen(t, handlerFunc(func(*exchange.Exchange) {}), nil)
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close() //nolint:errcheck // a test's socket
		for address, own := range l.listeners {
			dead := &listener{server: l.Server, tcp: silent} // and nothing accepts
			dead.now.Store(own.now.Load())
			l.listeners[address] = dead
			defer func() { l.listeners[address] = own }()
		}
		check(t, l, "no answer at the stage accept")
	})
	t.Run("gone", func(t *testing.T) { // refused: nobody is silent
		l := listen(t, handlerFunc(func(*exchange.Exchange) {}), nil)
		for _, own := range l.listeners {
			_ = own.tcp.Close()
		}
		check(t, l, "")
	})
}

// TestSelfCheckIsNobodyElses: who connects while one is running is a client.
func TestSelfCheckIsNobodyElses(t *testing.T) {
	l := &listener{}
	at := netip.MustParseAddrPort("127.0.0.1:4000")
	if l.checks(at) {
		t.Error("a connection without a check is one")
	}
	l.check.Store(&selfCheck{from: at})
	if l.checks(netip.MustParseAddrPort("127.0.0.1:4001")) || l.checks(netip.MustParseAddrPort("127.0.0.2:4000")) {
		t.Error("another's connection is the check's")
	}
	if !l.checks(at) || l.checks(at) {
		t.Error("the check's own connection isn't known, or is known twice")
	}
}
