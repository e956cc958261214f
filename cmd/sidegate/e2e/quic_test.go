package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestHTTP3OverReloads: a reload that changes the listener leaves its HTTP/3
// requests alone, and clients that come back may send their request early, if
// the listener says so then.
func TestHTTP3OverReloads(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-release
		}
		fmt.Fprint(w, r.Method)
	}))
	defer b.Close()
	p := ports(t, 4)[3]
	listener := func(more string) string {
		return fmt.Sprintf("listener \"quic\" {\n address = \"127.0.0.1:%d\"\n%s\n}\n", p, more) + backendBlock(b.URL)
	}
	g := newGateway(t, listener("")).start(t)
	cache := tls.NewLRUClientSessionCache(10)
	var last *quic.Conn
	client := func() *http3.Transport {
		return &http3.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ClientSessionCache: cache},
			Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
				conn, err := quic.DialAddrEarly(ctx, fmt.Sprintf("127.0.0.1:%d", p), c, q)
				last = conn
				return conn, err
			},
		}
	}
	do := func(tr *http3.Transport, method, path string) (string, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, "https://app.test"+path, nil)
		if err != nil {
			return "", err
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", string(body)), err
	}
	reload := func(more string) {
		t.Helper()
		before := g.status(t).Config.Reloads
		g.configure(t, listener(more))
		g.signal(syscall.SIGHUP)
		eventually(t, "reload", func() error {
			if now := g.status(t).Config; now.Reloads <= before {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
	}

	old := client()
	defer old.Close()
	slow := make(chan string, 1)
	go func() {
		got, err := do(old, "GET", "/slow")
		slow <- fmt.Sprint(got, err)
	}()
	<-begun
	reload(" early_data = true")
	second := client()
	if got, err := do(second, "GET", "/"); err != nil || got != "200 GET" {
		t.Errorf("after the reload: %q, %v", got, err)
	}
	_ = second.Close()
	reload(" early_data = true\n limits { fields = 50 }")
	close(release)
	if got := <-slow; got != "200 GET<nil>" {
		t.Errorf("the request that ran over two reloads: %s", got)
	}

	eventually(t, "early data", func() error {
		c := client()
		defer c.Close()
		if got, err := do(c, http3.MethodGet0RTT, "/"); err != nil || got != "200 GET" {
			return fmt.Errorf("%q, %w", got, err)
		}
		<-last.HandshakeComplete()
		if !last.ConnectionState().Used0RTT {
			return fmt.Errorf("not used")
		}
		if got, err := do(c, "POST", "/"); err != nil || got != "200 POST" {
			return fmt.Errorf("after the handshake: %q, %w", got, err)
		}
		return nil
	})
}
