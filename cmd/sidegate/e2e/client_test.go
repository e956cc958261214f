package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// refusals are messages that two servers may read in two ways, and what is
// simply malformed: none may reach a backend, and no connection survives one.
var refusals = []struct{ name, request string }{
	{"CL and TE", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"TE and CL", "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"},
	{"two TE", "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"TE identity", "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"},
	{"TE xchunked", "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
	{"TE list", "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
	{"TE vertical tab", "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding:\vchunked\r\n\r\n0\r\n\r\n"},
	{"TE on HTTP/1.0", "POST / HTTP/1.0\r\nHost: one.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"two CL", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
	{"two equal CL", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"},
	{"CL list", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 1, 1\r\n\r\na"},
	{"CL plus", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: +1\r\n\r\na"},
	{"CL hexadecimal", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 0x1\r\n\r\na"},
	{"CL overflow", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 18446744073709551617\r\n\r\na"},
	{"CL empty", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length:\r\n\r\na"},
	{"CL negative", "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: -1\r\n\r\na"},
	{"obs-fold", "GET / HTTP/1.1\r\nHost: one.test\r\nX-A: b\r\n c\r\n\r\n"},
	{"folded TE", "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"},
	{"bare LF after a field", "GET / HTTP/1.1\r\nHost: one.test\nX-A: b\r\n\r\n"},
	{"bare LF after the line", "GET / HTTP/1.1\nHost: one.test\r\n\r\n"},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: one.test\r\n\n\r\n"},
	{"bare CR", "GET / HTTP/1.1\r\nHost: one.test\r\nX-A: b\rc\r\n\r\n"},
	{"NUL", "GET / HTTP/1.1\r\nHost: one.test\r\nX-A: b\x00c\r\n\r\n"},
	{"space before colon", "GET / HTTP/1.1\r\nHost: one.test\r\nContent-Length : 1\r\n\r\na"},
	{"space before the first field", "GET / HTTP/1.1\r\n Host: one.test\r\n\r\n"},
	{"no colon", "GET / HTTP/1.1\r\nHost: one.test\r\nX-A\r\n\r\n"},
	{"no name", "GET / HTTP/1.1\r\nHost: one.test\r\n: b\r\n\r\n"},
	{"control in a name", "GET / HTTP/1.1\r\nHost: one.test\r\nX\x01A: b\r\n\r\n"},
	{"bad method", "G(T / HTTP/1.1\r\nHost: one.test\r\n\r\n"},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: one.test\r\n\r\n"},
	{"tab in the line", "GET\t/ HTTP/1.1\r\nHost: one.test\r\n\r\n"},
	{"no version", "GET /\r\nHost: one.test\r\n\r\n"},
	{"bad version", "GET / HTTP/1.12\r\nHost: one.test\r\n\r\n"},
	{"lower-case version", "GET / http/1.1\r\nHost: one.test\r\n\r\n"},
	{"no Host", "GET / HTTP/1.1\r\n\r\n"},
	{"two Host", "GET / HTTP/1.1\r\nHost: one.test\r\nHost: two.test\r\n\r\n"},
	{"two equal Host", "GET / HTTP/1.1\r\nHost: one.test\r\nHost: one.test\r\n\r\n"},
	{"Host list", "GET / HTTP/1.1\r\nHost: one.test, two.test\r\n\r\n"},
	{"Host with a path", "GET / HTTP/1.1\r\nHost: one.test/x\r\n\r\n"},
	{"Host with a user", "GET / HTTP/1.1\r\nHost: a@one.test\r\n\r\n"},
	{"absolute URI of another host", "GET http://two.test/ HTTP/1.1\r\nHost: one.test\r\n\r\n"},
	{"CONNECT", "CONNECT one.test:443 HTTP/1.1\r\nHost: one.test:443\r\n\r\n"},
	{"TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"},
}

// badPaths are refused, too; their framing is in order, so that the connection
// may go on.
var badPaths = []string{"/a\\b", "/a%2fb", "/a%00", "/a%c0%af", "/../../etc", "/a#b"}

// brokenChunks are bodies that break after their head was in order: the backend
// may see a request, but never a whole one.
var brokenChunks = []struct{ name, body string }{
	{"size with 0x", "0x1\r\na\r\n0\r\n\r\n"},
	{"size with plus", "+1\r\na\r\n0\r\n\r\n"},
	{"size with space", "1 \r\na\r\n0\r\n\r\n"},
	{"size overflow", "10000000000000001\r\na\r\n0\r\n\r\n"},
	{"empty size", "\r\na\r\n0\r\n\r\n"},
	{"bare LF after size", "1\na\r\n0\r\n\r\n"},
	{"bare LF after data", "1\r\na\n0\r\n\r\n"},
	{"bare LF in an extension", "1;a\nb\r\na\r\n0\r\n\r\n"},
	{"bare CR in an extension", "1;a\rb\r\na\r\n0\r\n\r\n"},
	{"data too long", "1\r\nab\r\n0\r\n\r\n"},
	{"endless extension", "1;" + strings.Repeat("a", 100<<10) + "\r\na\r\n0\r\n\r\n"},
	{"folded trailer", "0\r\nX-A: b\r\n c\r\n\r\n"},
	{"bare LF at the end", "1\r\na\r\n0\r\n\n"},
}

// witness is a backend that counts requests, and those whose body came whole.
type witness struct{ seen, whole atomic.Int64 }

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.seen.Add(1)
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		w.whole.Add(1)
	}
	fmt.Fprint(rw, "ok")
}

// TestRefused: each ambiguous message gets a 400 and the end of its connection;
// what is smuggled behind it is nobody's request.
func TestRefused(t *testing.T) {
	w := &witness{}
	g := newGateway(t, accessLog+twin(t, w)).start(t)
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: one.test\r\n\r\n"
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) { refused(t, g.raw(t), tt.request+smuggled) })
	}
	for _, path := range badPaths {
		t.Run(path, func(t *testing.T) {
			refused(t, g.raw(t), "GET "+path+" HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n")
		})
	}
	if n := w.seen.Load(); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
	for _, tt := range brokenChunks {
		t.Run("chunks: "+tt.name, func(t *testing.T) {
			refused(t, g.raw(t), "POST / HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding: chunked\r\n\r\n"+tt.body+smuggled)
		})
	}
	if n := w.whole.Load(); n != 0 {
		t.Errorf("the backend saw %d whole requests", n)
	}
	if _, body, err := ask(g.raw(t), "GET / HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n"); err != nil || body != "ok" {
		t.Errorf("afterwards: %q, %v", body, err)
	}
}

// refused sends a request and wants one answer of the 400s, then the end.
func refused(t *testing.T, c net.Conn, request string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	answered(t, c, 0)
}

// answered wants one answer with that status (0: any of the 400s, or 501, 505), and
// the end of the connection.
func answered(t *testing.T, c net.Conn, status int) {
	t.Helper()
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	switch s := resp.StatusCode; {
	case status != 0 && s != status:
		t.Errorf("answered %s, want %d: %s", resp.Status, status, body)
	case status == 0 && s/100 != 4 && s != 501 && s != 505:
		t.Errorf("answered %s: %s", resp.Status, body)
	case !strings.Contains(string(body), `"request_id"`):
		t.Errorf("answered without a request id: %s", body)
	}
	more, err := io.ReadAll(r)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
	if len(more) > 0 {
		t.Errorf("answered again: %q", more)
	}
}

// TestTooMuch: what exceeds a limit is refused by its own status.
func TestTooMuch(t *testing.T) {
	w := &witness{}
	g := newGateway(t, accessLog+twin(t, w)).start(t)
	for _, tt := range []struct {
		name, request, kind string
		status              int
	}{
		{"fields", "GET / HTTP/1.1\r\nHost: one.test\r\nX-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", "headers-too-large", 431},
		{"many fields", "GET / HTTP/1.1\r\nHost: one.test\r\n" + strings.Repeat("X-A: b\r\n", 200) + "\r\n", "headers-too-large", 431},
		{"target", "GET /" + strings.Repeat("a", 12<<10) + " HTTP/1.1\r\nHost: one.test\r\n\r\n", "uri-too-long", 414},
		{"target without end", "GET /" + strings.Repeat("a", 200<<10), "uri-too-long", 414},
		{"fields without end", "GET / HTTP/1.1\r\nHost: one.test\r\nX-A: " + strings.Repeat("a", 200<<10), "headers-too-large", 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := g.raw(t)
			if _, err := io.WriteString(c, tt.request); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			answered(t, c, tt.status)
			g.logged(t, tt.kind, func(l logLine) bool { return l.Fault == tt.kind && l.Status == tt.status && l.Source == "client" })
		})
	}
	for _, c := range g.clients(t) {
		t.Run("long target/"+c.name, func(t *testing.T) {
			resp, err := c.Get(c.scheme + "://one.test/" + strings.Repeat("a", 12<<10))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			wantProblem(t, resp, string(body), 414, "uri-too-long")
		})
	}
	if n := w.seen.Load(); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
}

// TestTooSlow: a client that begins a request and doesn't go on is given up,
// and so is one that says nothing; others are served meanwhile.
func TestTooSlow(t *testing.T) {
	p := ports(t, 4)[3]
	w := &witness{}
	g := newGateway(t, accessLog+fmt.Sprintf(`
listener "slow" {
  address = "127.0.0.1:%d"
  tls     = false
  limits {
    header_timeout = "1s"
    stall_timeout  = "1s"
    idle_timeout   = "1s"
  }
}
`, p)+twin(t, w)).start(t)
	address := fmt.Sprintf("127.0.0.1:%d", p)
	silent, half, body := dialTCP(t, address), dialTCP(t, address), dialTCP(t, address)
	for c, text := range map[net.Conn]string{
		half: "GET / HTTP/1.1\r\nHost: one.test\r\nX-A",
		body: "POST / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 10\r\n\r\nabc",
	} {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	if _, b, err := ask(dialTCP(t, address), "GET / HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n"); err != nil || b != "ok" {
		t.Errorf("another client: %q, %v", b, err)
	}
	if b, err := io.ReadAll(silent); err != nil || len(b) > 0 {
		t.Errorf("a client that says nothing got %q, %v; want the end", b, err)
	}
	answered(t, half, 408)
	answered(t, body, 408)
	g.logged(t, "timeout", func(l logLine) bool { return l.Fault == "request-timeout" && l.Status == 408 })
	// Drip by drip doesn't help.
	drip := dialTCP(t, address)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for _, b := range []byte("GET / HTTP/1.1\r\nHost: one.test\r\nX-A: " + strings.Repeat("a", 1000)) {
			if _, err := drip.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond) // the slowness that is tested
		}
		_ = drip.Close()
	}()
	if resp, err := http.ReadResponse(bufio.NewReader(drip), nil); err == nil && resp.StatusCode != 408 {
		t.Errorf("a dripping client got %s", resp.Status)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a dripping client keeps its connection")
	}
	_ = drip.Close()
	<-stop
}

// TestProxyProtocol: behind a trusted proxy the address in its PROXY header is
// the client; others may not speak it.
func TestProxyProtocol(t *testing.T) {
	seen := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Forwarded-For")) })
	p := ports(t, 4)[3]
	block := accessLog + fmt.Sprintf("listener \"pp\" {\n address = \"127.0.0.1:%d\"\n tls = false\n proxy_protocol = true\n}\n", p) + twin(t, seen)
	g := newGateway(t, "trusted_proxies = [\"127.0.0.0/8\"]\n"+block).start(t)
	const get = "GET /pp HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n"
	address := fmt.Sprintf("127.0.0.1:%d", p)
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01\x30\x39\x01\xbb"
	for name, header := range map[string]string{"v1": "PROXY TCP4 192.0.2.7 127.0.0.1 12345 443\r\n", "v2": v2} {
		resp, body, err := ask(dialTCP(t, address), header+get)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %v, %q", name, err, body)
		}
		// 192.0.2.7 isn't trusted, so what it says of itself is dropped.
		if body != "192.0.2.7" {
			t.Errorf("%s: X-Forwarded-For %q, want 192.0.2.7", name, body)
		}
	}
	g.logged(t, "the client's address", func(l logLine) bool { return l.Path == "/pp" && l.ClientIP == "192.0.2.7" })
	for name, header := range map[string]string{"none": "", "garbage": "PROXY TCP4 300.0.2.7 127.0.0.1 12345 443\r\n", "v2 cut": v2[:14] + "\xff\xff"} {
		if resp, body, err := ask(dialTCP(t, address), header+get); err == nil && resp.StatusCode == 200 {
			t.Errorf("header %s: %q", name, body)
		}
	}

	// From a peer that isn't trusted, it isn't even read.
	p2 := ports(t, 4)[3]
	newGateway(t, "trusted_proxies = [\"10.0.0.0/8\"]\n"+strings.ReplaceAll(block, fmt.Sprint(":", p), fmt.Sprint(":", p2))).start(t)
	if resp, body, err := ask(dialTCP(t, fmt.Sprintf("127.0.0.1:%d", p2)), "PROXY TCP4 192.0.2.7 127.0.0.1 12345 443\r\n"+get); err == nil && resp.StatusCode == 200 {
		t.Errorf("an untrusted PROXY header: %q", body)
	}
}

// TestClientCertificates: a listener with client_ca_file asks for a certificate, and
// shakes hands with clients of that authority, or without one (what a route
// demands is the route's matter), never with another's; over TCP and QUIC.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := newTestCA(t), newTestCA(t)
	file := write(t, filepath.Join(dir, "clients.pem"), ours.pem)
	p := ports(t, 4)[3]
	g := newGateway(t, fmt.Sprintf("listener \"mtls\" {\n address = \"127.0.0.1:%d\"\n protocols = [\"h1\", \"h2\", \"h3\"]\n client_ca_file = %q\n}\n", p, file)+
		twin(t, &witness{})).start(t)
	g.https = p
	for _, tt := range []struct {
		name string
		cert []tls.Certificate
		ok   bool
	}{
		{"ours", []tls.Certificate{ours.client}, true},
		{"none", nil, true},
		{"another authority's", []tls.Certificate{theirs.client}, false},
	} {
		for _, c := range g.clients(t)[:3] {
			switch tr := c.Transport.(type) {
			case *http.Transport:
				tr.TLSClientConfig.Certificates = tt.cert
			case *http3.Transport:
				tr.TLSClientConfig.Certificates = tt.cert
			}
			if body, err := fetch(c.Client, "https://one.test/"); (err == nil) != tt.ok {
				t.Errorf("%s, %s: %q, %v", tt.name, c.name, body, err)
			}
		}
	}
}

// TestCertificateSaysWho: over each protocol, a certificate of the listener's
// authority opens for its consumer, on resumed connections, too.
func TestCertificateSaysWho(t *testing.T) {
	ours := newTestCA(t)
	file := write(t, filepath.Join(t.TempDir(), "clients.pem"), ours.pem)
	p := ports(t, 4)[3]
	g := newGateway(t, fmt.Sprintf(`listener "mtls" {
  address        = "127.0.0.1:%d"
  protocols      = ["h1", "h2", "h3"]
  client_ca_file = %q
}
consumer "acme" {
  mtls { san = "spiffe://example.com/acme" }
}
route "certs" {
  hosts   = ["certs.test"]
  service = "one"
  auth "mtls" {}
  request {
    set = { "X-Consumer" = "{consumer.name}" }
  }
}
route "others" {
  hosts   = ["others.test"]
  service = "one"
  auth "mtls" {}
  authorize = "consumer.name == 'umbrella'"
}
`, p, file)+twin(t, http.HandlerFunc(mirror))).start(t)
	for _, c := range g.clients(t) { // of the listener that doesn't ask for any, and of the plain one
		resp, body := send(t, c, c.scheme+"://certs.test/")
		wantProblem(t, resp, body, 403, "forbidden")
	}
	g.https = p
	for _, c := range g.clients(t)[:3] {
		resp, body := send(t, c, "https://certs.test/")
		wantProblem(t, resp, body, 403, "forbidden")
	}
	for _, c := range g.clients(t)[:3] {
		var conf *tls.Config
		switch tr := c.Transport.(type) {
		case *http.Transport:
			conf = tr.TLSClientConfig
		case *http3.Transport:
			conf = tr.TLSClientConfig
		}
		conf.Certificates, conf.ClientSessionCache = []tls.Certificate{ours.client}, tls.NewLRUClientSessionCache(8)
		for range 2 {
			resp, body := send(t, c, "https://certs.test/", "X-Consumer: root", "X_Consumer: root")
			if resp.StatusCode != 200 {
				t.Fatalf("%s: %s: %s", c.name, resp.Status, body)
			}
			if got := seenIn(t, body).Header.Values("X-Consumer"); len(got) != 1 || got[0] != "acme" {
				t.Errorf("%s: X-Consumer = %q", c.name, got)
			}
			c.CloseIdleConnections()
		}
		resp, body := send(t, c, "https://others.test/")
		wantProblem(t, resp, body, 403, "forbidden")
	}
}

// testCA is an authority with one client certificate.
type testCA struct {
	pem    string
	client tls.Certificate
}

func newTestCA(t *testing.T) testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "client"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/acme"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{
		pem:    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})),
		client: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}
}
