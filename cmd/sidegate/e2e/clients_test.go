package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// patience is how long a test waits for what must happen; nothing is measured
// against it.
const patience = 30 * time.Second

// twin starts a backend that speaks HTTP/1.1 and h2c on one port, and returns
// the blocks that route one.test to it over the former, two.test over the
// latter.
func twin(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return twinBlock(s.Listener.Addr().String(), "")
}

func twinBlock(address, more string) string {
	var b strings.Builder
	for _, p := range [][2]string{{"one", "http1"}, {"two", "h2c"}} {
		fmt.Fprintf(&b, "service %q {\n instances = [%q]\n protocol = %q\n%s\n}\nroute %[1]q {\n hosts = [\"%[1]s.test\"]\n service = %[1]q\n}\n", p[0], address, p[1], more)
	}
	return b.String()
}

// protocolClient is one of the ways to reach a gateway.
type protocolClient struct {
	name string
	*http.Client
	scheme string
}

// clients speak to the gateway, whatever the host of the URL, each in its own
// protocol.
func (g *gateway) clients(t *testing.T) []protocolClient {
	t.Helper()
	plain := func(p func(*http.Protocols)) *http.Client {
		tr := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", g.http))
			},
			ExpectContinueTimeout: patience,
		}
		if p != nil {
			tr.Protocols = new(http.Protocols)
			p(tr.Protocols)
		}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 2 * patience}
	}
	h1, h2 := g.client(false), g.client(true)
	for _, c := range []*http.Client{h1, h2} {
		c.Timeout = 2 * patience
		c.Transport.(*http.Transport).ExpectContinueTimeout = patience
		t.Cleanup(c.CloseIdleConnections)
	}
	h3 := &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, fmt.Sprintf("127.0.0.1:%d", g.https), c, q)
		},
	}
	t.Cleanup(func() { _ = h3.Close() })
	return []protocolClient{
		{"h1", h1, "https"},
		{"h2", h2, "https"},
		{"h3", &http.Client{Transport: h3, Timeout: 2 * patience}, "https"},
		{"h1 plain", plain(nil), "http"},
		{"h2c", plain(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }), "http"},
	}
}

// raw opens a connection to the plain listener.
func (g *gateway) raw(t *testing.T) net.Conn {
	t.Helper()
	return dialTCP(t, fmt.Sprintf("127.0.0.1:%d", g.http))
}

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// ask writes a request as it stands and reads one response with its body.
func ask(c net.Conn, request string) (*http.Response, string, error) {
	if _, err := io.WriteString(c, request); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// logLine is a part of a line of the access log.
type logLine struct {
	Path, Host, Fault, Source, Error, Protocol, Instance, WAF string
	ClientIP                                                  string `json:"client_ip"`
	RequestID                                                 string `json:"request_id"`
	Status, Tries                                             int
}

const accessLog = "access_log { output = \"stdout\" }\n"

// logged waits for an access log line that f takes.
func (g *gateway) logged(t *testing.T, what string, f func(logLine) bool) logLine {
	t.Helper()
	var found logLine
	eventually(t, "access log: "+what, func() error {
		for line := range strings.Lines(g.log.String()) {
			var l logLine
			if json.Unmarshal([]byte(line), &l) == nil && l.RequestID != "" && f(l) {
				found = l
				return nil
			}
		}
		return errors.New("no such line")
	})
	return found
}

// problem is a problem+json body.
type problem struct {
	Type, Title string
	Status      int
	RequestID   string `json:"request_id"`
}

// wantProblem checks that a response is the gateway's problem of that kind.
func wantProblem(t *testing.T, resp *http.Response, body string, status int, kind string) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != status || p.Status != status ||
		resp.Header.Get("Content-Type") != "application/problem+json" || p.Type != "urn:sidegate:problem:"+kind || p.RequestID == "" {
		t.Fatalf("answered %s %q %q (%v), want %d %s", resp.Status, resp.Header.Get("Content-Type"), body, err, status, kind)
	}
	return p
}
