package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestConnectionsPerIPOfAllProtocols: connections over TCP and QUIC count
// together, and a reload doesn't make room for more.
func TestConnectionsPerIPOfAllProtocols(t *testing.T) {
	server := httptest.NewTLSServer(nil) // has a certificate
	defer server.Close()
	l := listenWith(t, handlerFunc(func(*exchange.Exchange) {}), func(d *ServerDeps, c *ListenerConfig) {
		d.TLS = func(*ListenerConfig, bool) (*tls.Config, error) {
			return &tls.Config{Certificates: server.TLS.Certificates}, nil
		}
		c.TLS, c.Protocols, c.Limits.ConnectionsPerIP = true, []string{"h1", "h3"}, 2
	})
	client := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}} //nolint:gosec // the test's own
	overTCP := func() (*tls.Conn, error) {
		nc, _ := l.dial(t)
		c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test's own
		return c, c.Handshake()
	}
	overQUIC := func() *quic.Conn {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := quic.DialAddr(ctx, l.addr, client, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.CloseWithError(0x100, "") })
		return c
	}
	refusedOverQUIC := func() bool {
		c := overQUIC()
		select {
		case <-c.Context().Done():
		case <-time.After(10 * time.Second):
			return false
		}
		var app *quic.ApplicationError
		return errors.As(context.Cause(c.Context()), &app) && app.ErrorCode == 0x107
	}
	if _, err := overTCP(); err != nil {
		t.Fatal(err)
	}
	second := overQUIC()
	// The server's control stream: it has been let in.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := second.AcceptUniStream(ctx); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"at first", "after a reload"} {
		if _, err := overTCP(); err == nil {
			t.Errorf("%s: a third connection is served over TCP", when)
		}
		if !refusedOverQUIC() {
			t.Errorf("%s: a third connection is served over QUIC", when)
		}
		l.cfg.Limits.Fields++
		l.apply(t)
	}
	_ = second.CloseWithError(0x100, "")
	for end := time.Now().Add(10 * time.Second); ; {
		if _, err := overTCP(); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a place isn't given back when its connection ends")
		}
	}
}
