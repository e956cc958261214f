package h3

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const patience = 20 * time.Second

type handlerFunc func(x *exchange.Exchange)

func (f handlerFunc) Serve(x *exchange.Exchange) { f(x) }

// certificate makes a key and a self-signed certificate.
func certificate(tb testing.TB) tls.Certificate {
	tb.Helper()
	c, err := newCertificate()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func newCertificate() (tls.Certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gate.test"}, DNSNames: []string{"gate.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, err
}

// fixture is a front on loopback with a client.
type fixture struct {
	front  *Front
	addr   string
	url    string
	client *http3.Transport
	port   *Port
}

func start(tb testing.TB, change func(*FrontConfig), serve handlerFunc) *fixture {
	tb.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	cfg := FrontConfig{
		Handler: serve, Log: log, Listener: "https", ServerHeader: "sidegate",
		TLS: &tls.Config{Certificates: []tls.Certificate{certificate(tb)}},
	}
	if change != nil {
		change(&cfg)
	}
	p, err := Listen("127.0.0.1:0", NewSecrets(), log)
	if err != nil {
		tb.Fatal(err)
	}
	f := &fixture{front: NewFront(cfg), addr: p.Addr().String(), port: p}
	f.url = "https://" + f.addr
	f.client = newClient()
	if !p.Use(f.front) {
		tb.Fatal("the port has closed")
	}
	tb.Cleanup(func() {
		_ = f.client.Close()
		f.front.Close()
		p.Close()
		if _, err := p.socket.WriteTo(nil, p.Addr()); !errors.Is(err, net.ErrClosed) {
			tb.Errorf("the socket is still open: %v", err)
		}
	})
	return f
}

func newClient() *http3.Transport {
	return &http3.Transport{
		TLSClientConfig:    clientTLS(),
		DisableCompression: true,
		QUICConfig:         &quic.Config{HandshakeIdleTimeout: patience, MaxIdleTimeout: patience},
	}
}

func (f *fixture) do(tb testing.TB, r *http.Request) (*http.Response, []byte) {
	tb.Helper()
	resp, err := f.client.RoundTrip(r)
	if err != nil {
		tb.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("%s %s: body: %v", r.Method, r.URL, err)
	}
	return resp, b
}

func request(tb testing.TB, method, url string, body io.Reader) *http.Request {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond)
	}
}

func answer(x *exchange.Exchange, status int, body string) {
	x.Reply(status, "text/plain", []byte(body))
	_ = x.Front.Respond(x) // the tests look at what arrives
}

// stream-like bodies for responses.
type readerBody struct {
	io.Reader
	close func()
}

func (readerBody) Next() ([]byte, bool) { return nil, false }
func (b readerBody) Close() error {
	if b.close != nil {
		b.close()
	}
	return nil
}

func TestRequestReachesTheExchange(t *testing.T) {
	type seen struct {
		method, target, host, fields, listener, scheme, upgrade string
		length                                                  int64
		body                                                    bool
	}
	reached := make(chan seen, 1)
	f := start(t, nil, func(x *exchange.Exchange) {
		var b strings.Builder
		for _, name := range []string{"x-a", "x_b", "x.c", "cookie", "host", "user-agent"} {
			if v, ok := x.Request.Find(name); ok {
				b.WriteString(name + "=" + v + ";")
			}
		}
		for i := range x.Request.Len() {
			if name, _ := x.Request.Field(i); name != strings.ToLower(name) {
				t.Errorf("field name %q isn't lower-case", name)
			}
		}
		reached <- seen{
			strings.Clone(x.Method), strings.Clone(x.RawTarget), strings.Clone(x.RawHost), b.String(),
			x.Conn.Listener, x.Conn.Scheme, x.Upgrade, x.RequestLength, x.RequestBody != nil,
		}
		if x.Proto != exchange.HTTP3 || x.Conn.TLS == nil || !x.Conn.TLS.HandshakeComplete || x.Conn.RemoteIP != "127.0.0.1" || x.Fault != nil {
			t.Errorf("exchange: %v, connection %+v, fault %v", x.Proto, x.Conn, x.Fault)
		}
		answer(x, 200, "ok")
	})
	r := request(t, "GET", f.url+"/a/%2e%2E/b?q=%20&r", nil)
	r.Host = "API.gate.test"
	r.Header = http.Header{"X-A": {"1"}, "X_b": {"2"}, "X.c": {"3"}, "Cookie": {"a=1", "b=2"}, "User-Agent": {"t"}}
	resp, b := f.do(t, r)
	if resp.StatusCode != 200 || string(b) != "ok" || resp.ContentLength != 2 || resp.Header.Get("Server") != "sidegate" || resp.Header.Get("Date") == "" {
		t.Errorf("response %d %q, %v", resp.StatusCode, b, resp.Header)
	}
	want := seen{"GET", "/a/%2e%2E/b?q=%20&r", "API.gate.test", "x-a=1;cookie=a=1; b=2;user-agent=t;", "https", "https", "", 0, false}
	if got := <-reached; got != want {
		t.Errorf("request = %+v, want %+v", got, want)
	}
}

func TestMethods(t *testing.T) {
	f := start(t, nil, func(x *exchange.Exchange) {
		x.ResponseEdits.Set("X-Method", strings.Clone(x.Method))
		answer(x, 200, "body")
	})
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PURGE"} {
		resp, b := f.do(t, request(t, m, f.url+"/", nil))
		want := "body"
		if m == "HEAD" {
			want = ""
		}
		if resp.Header.Get("X-Method") != m || string(b) != want || resp.ContentLength != 4 {
			t.Errorf("%s: %q, body %q of %d, want %q of 4", m, resp.Header.Get("X-Method"), b, resp.ContentLength, want)
		}
	}
}

func TestResponseHeads(t *testing.T) {
	tests := []struct {
		name, method string
		make         func(x *exchange.Exchange)
		status       int
		body         string
		want         map[string]string // "": must be absent
	}{
		{"204 has no body", "GET", func(x *exchange.Exchange) { x.Reply(204, "", []byte("x")) }, 204, "", map[string]string{"Content-Length": ""}},
		{"304 keeps its length", "GET", func(x *exchange.Exchange) {
			x.Status = 304
			x.Response.Append("Content-Length", "7")
			x.Response.Append("ETag", `"a"`)
		}, 304, "", map[string]string{"Content-Length": "7", "Etag": `"a"`}},
		{"HEAD of unknown length", "HEAD", func(x *exchange.Exchange) { x.Status, x.ResponseLength = 200, -1 }, 200, "", map[string]string{"Content-Length": ""}},
		{"HEAD with the backend's length", "HEAD", func(x *exchange.Exchange) {
			x.Status = 200
			x.Response.Append("content-length", "12")
		}, 200, "", map[string]string{"Content-Length": "12"}},
		{"empty body", "GET", func(x *exchange.Exchange) { x.Reply(200, "", nil) }, 200, "", map[string]string{"Content-Length": "0", "Content-Type": ""}},
		{"hop-by-hop, dropped and edited fields", "GET", func(x *exchange.Exchange) {
			x.Reply(200, "", []byte("x"))
			for _, n := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Trailer", "Proxy-Authenticate"} {
				x.Response.Append(n, "bad")
			}
			x.Response.Append("Content-Length", "99")
			x.Response.Append("X-Named", "dropped")
			x.Response.Drop(x.Response.Len() - 1)
			x.Response.Append("X-Replaced", "old")
			x.Response.Append("X-Removed", "old")
			x.Response.Append("X-Kept", "a")
			x.Response.Append("Server", "backend")
			x.ResponseEdits.Set("x-replaced", "new")
			x.ResponseEdits.Remove("x-removed")
			x.ResponseEdits.Add("x-kept", "b")
			x.ResponseEdits.Set("Connection", "close")
		}, 200, "x", map[string]string{
			"Connection": "", "Keep-Alive": "", "Transfer-Encoding": "", "Upgrade": "", "Trailer": "", "Proxy-Authenticate": "",
			"Content-Length": "1", "X-Named": "", "X-Replaced": "new", "X-Removed": "", "X-Kept": "a|b", "Server": "backend",
		}},
		{"Server removed by an edit", "GET", func(x *exchange.Exchange) {
			x.Reply(200, "", []byte("x"))
			x.ResponseEdits.Remove("Server")
		}, 200, "x", map[string]string{"Server": ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ended := make(chan error, 1)
			f := start(t, nil, func(x *exchange.Exchange) {
				tt.make(x)
				ended <- x.Front.Respond(x)
			})
			resp, b := f.do(t, request(t, tt.method, f.url+"/", nil))
			if err := <-ended; err != nil || resp.StatusCode != tt.status || string(b) != tt.body {
				t.Errorf("%d %q, err %v, want %d %q", resp.StatusCode, b, err, tt.status, tt.body)
			}
			for k, want := range tt.want {
				if got := strings.Join(resp.Header[k], "|"); got != want {
					t.Errorf("%s = %q, want %q", k, got, want)
				}
			}
		})
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := mrand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

func TestLargeBodiesAndTrailersBothWays(t *testing.T) {
	const size = 5 << 20
	data := random(size)
	sum := sha256.Sum256(data)
	for _, known := range []bool{true, false} {
		t.Run("length known "+strconv.FormatBool(known), func(t *testing.T) {
			type outcome struct {
				sum     [32]byte
				n, in   int64
				trailer string
				err     error
				out     int64
				respond error
			}
			got := make(chan outcome, 1)
			f := start(t, nil, func(x *exchange.Exchange) {
				var o outcome
				h := sha256.New()
				o.n, o.err = io.Copy(h, x.RequestBody)
				h.Sum(o.sum[:0])
				o.in = x.BytesIn
				o.trailer, _ = x.RequestTrailer.Find("x-sum")
				o.trailer = strings.Clone(o.trailer)
				x.Status = 200
				x.ResponseLength = -1
				if known {
					x.ResponseLength = size
				}
				x.ResponseBody = readerBody{Reader: bytes.NewReader(data)}
				x.ResponseTrailer.Append("x-checked", "yes")
				x.ResponseTrailer.Append("X-Twice", "1")
				x.ResponseTrailer.Append("x-twice", "2")
				o.respond = x.Front.Respond(x)
				o.out = x.BytesOut
				got <- o
			})
			var body io.Reader = bytes.NewReader(data)
			if !known {
				body = struct{ io.Reader }{body}
			}
			r := request(t, "POST", f.url+"/", body)
			r.Trailer = http.Header{"X-Sum": {"abc"}}
			resp, b := f.do(t, r)
			o := <-got
			if o.err != nil || o.respond != nil || o.sum != sum || o.n != size || o.in != size || o.out != size {
				t.Errorf("request %d bytes (counted %d), response counted %d, errors %v, %v", o.n, o.in, o.out, o.err, o.respond)
			}
			if o.trailer != "abc" {
				t.Errorf("request trailer = %q", o.trailer)
			}
			if sha256.Sum256(b) != sum {
				t.Errorf("response differs, %d bytes", len(b))
			}
			if resp.Trailer.Get("X-Checked") != "yes" || strings.Join(resp.Trailer["X-Twice"], ",") != "1,2" {
				t.Errorf("response trailers = %v", resp.Trailer)
			}
		})
	}
}

func TestStreamsEachPieceAtOnce(t *testing.T) {
	pr, pw := io.Pipe()
	f := start(t, nil, func(x *exchange.Exchange) {
		x.Status, x.ResponseLength = 200, -1
		x.Response.Append("Content-Type", "text/event-stream")
		x.ResponseBody = readerBody{Reader: pr}
		_ = x.Front.Respond(x)
	})
	resp, err := f.client.RoundTrip(request(t, "GET", f.url+"/", nil))
	if err != nil {
		t.Fatal(err) // the head must come before the first event
	}
	buf := make([]byte, 64)
	for i := range 3 {
		want := "data: " + strconv.Itoa(i) + "\n\n"
		if _, err := io.WriteString(pw, want); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadAtLeast(resp.Body, buf, len(want))
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("event %d = %q, %v", i, buf[:n], err)
		}
	}
	_ = pw.Close()
	if n, err := resp.Body.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("end = %d, %v", n, err)
	}
}

func TestClientThatLeavesIsGone(t *testing.T) {
	closed, left, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	begun := make(chan *exchange.Exchange, 1)
	pr, pw := io.Pipe()
	defer pw.Close() //nolint:errcheck // a pipe
	var once sync.Once
	f := start(t, nil, func(x *exchange.Exchange) {
		begun <- x
		x.Status, x.ResponseLength = 200, -1
		x.ResponseBody = readerBody{Reader: pr, close: func() { once.Do(func() { close(closed); _ = pr.Close() }) }}
		err := x.Front.Respond(x)
		<-left
		if !x.Front.Gone(x) {
			t.Error("Gone = false after the client has left")
		}
		ended <- err
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	resp, err := f.client.RoundTrip(request(t, "GET", f.url+"/", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	x := <-begun
	if x.Front.Gone(x) {
		t.Error("Gone = true while the client is there")
	}
	close(left)
	cancel()
	_ = resp.Body.Close()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("the response body wasn't closed")
	}
	var fault *exchange.Fault
	if err := <-ended; !errors.As(err, &fault) || fault.Kind != exchange.ClientGone {
		t.Errorf("Respond = %v, want %v", err, exchange.ClientGone)
	}
	eventually(t, "no request in progress", func() bool { _, n := f.front.Active(); return n == 0 })
}

func TestUploadThatBreaksOff(t *testing.T) {
	ended, begun := make(chan error, 1), make(chan struct{})
	f := start(t, nil, func(x *exchange.Exchange) {
		close(begun)
		_, err := io.Copy(io.Discard, x.RequestBody)
		ended <- err
		answer(x, 400, "")
	})
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(make([]byte, 1000))
		<-begun
		_ = pw.CloseWithError(errors.New("client broke"))
	}()
	if resp, err := f.client.RoundTrip(request(t, "POST", f.url+"/", pr)); err == nil {
		_ = resp.Body.Close()
	}
	var fault *exchange.Fault
	if err := <-ended; !errors.As(err, &fault) || fault.Source != exchange.FromClient {
		t.Errorf("RequestBody ended with %v, want a fault of the client", err)
	}
}

func TestResponseThatBreaksOffIsReset(t *testing.T) {
	broken := errors.New("backend broke")
	tests := []struct {
		name   string
		length int64
		body   io.Reader
		want   error
	}{
		{"error", -1, io.MultiReader(strings.NewReader("some"), errReader{broken}), broken},
		{"error with a length", 100, io.MultiReader(strings.NewReader("some"), errReader{broken}), broken},
		{"too short", 100, strings.NewReader("some"), errShort},
		{"too long", 2, strings.NewReader("some"), errLong},
		{"unexpected end", -1, io.MultiReader(bytes.NewReader(random(100<<10)), errReader{io.ErrUnexpectedEOF}), io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ended := make(chan error, 1)
			f := start(t, nil, func(x *exchange.Exchange) {
				x.Status, x.ResponseLength, x.ResponseBody = 200, tt.length, readerBody{Reader: tt.body}
				ended <- x.Front.Respond(x)
			})
			resp, err := f.client.RoundTrip(request(t, "GET", f.url+"/", nil))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			var h3err *http3.Error
			if !errors.As(err, &h3err) || h3err.ErrorCode != http3.ErrCodeInternalError {
				t.Errorf("client sees %v, want a reset with H3_INTERNAL_ERROR", err)
			}
			if err := <-ended; !errors.Is(err, tt.want) {
				t.Errorf("Respond = %v, want %v", err, tt.want)
			}
		})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestRefusals(t *testing.T) {
	f := start(t, func(c *FrontConfig) { c.MaxFields, c.MaxURI, c.MaxHeaders = 20, 512, 4096 }, func(x *exchange.Exchange) {
		kind := "none"
		if x.Fault != nil {
			kind = string(x.Fault.Kind)
		}
		answer(x, 200, kind)
	})
	many := http.Header{}
	for i := range 30 {
		many.Set("X-"+strconv.Itoa(i), "v")
	}
	tests := []struct {
		name, method, target string
		header               http.Header
		want                 string
	}{
		{"plain", "GET", "/", nil, "none"},
		{"long target", "GET", "/" + strings.Repeat("a", 600), nil, string(exchange.URITooLong)},
		{"very long target", "GET", "/" + strings.Repeat("a", 5000), nil, string(exchange.URITooLong)},
		{"many fields", "GET", "/", many, string(exchange.HeadersTooLarge)},
		{"large field", "GET", "/", http.Header{"X-A": {strings.Repeat("a", 5000)}}, string(exchange.HeadersTooLarge)},
		{"large field that is dropped", "GET", "/", http.Header{"X_a": {strings.Repeat("a", 5000)}}, string(exchange.HeadersTooLarge)},
		{"expectation", "POST", "/", http.Header{"Expect": {"200-maybe"}}, string(exchange.Expectation)},
		{"two credentials", "GET", "/", http.Header{"Authorization": {"Basic YQ==", "Basic Yg=="}}, string(exchange.Malformed)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.method, f.url+tt.target, nil)
			for k, v := range tt.header {
				r.Header[k] = v
			}
			if _, b := f.do(t, r); string(b) != tt.want {
				t.Errorf("fault = %q, want %q", b, tt.want)
			}
		})
	}
}

// TestProxyFieldIsDropped: CGI programs take it for HTTP_PROXY (httpoxy).
func TestProxyFieldIsDropped(t *testing.T) {
	f := start(t, nil, func(x *exchange.Exchange) {
		said := "none"
		for i := range x.Request.Len() {
			if x.Request.ID(i) == exchange.Proxy && !x.Request.Dropped(i) {
				said = "goes on"
			}
		}
		answer(x, 200, said)
	})
	r := request(t, "GET", f.url+"/", nil)
	r.Header.Set("Proxy", "http://evil.test")
	if _, b := f.do(t, r); string(b) != "none" {
		t.Errorf("the Proxy field %s", b)
	}
}

func TestInterimResponses(t *testing.T) {
	f := start(t, nil, func(x *exchange.Exchange) {
		var h exchange.Head
		h.Append("Link", "</a.css>; rel=preload")
		h.Append("Connection", "x")
		if err := x.Front.Interim(x, 103, &h); err != nil {
			t.Errorf("Interim = %v", err)
		}
		if err := x.Front.Interim(x, 101, nil); err == nil {
			t.Error("Interim(101) = nil")
		}
		if !x.ExpectContinue {
			t.Error("ExpectContinue = false")
		}
		b, err := io.ReadAll(x.RequestBody)
		if err != nil {
			t.Errorf("body: %v", err)
		}
		answer(x, 200, string(b))
		if err := x.Front.Interim(x, 103, nil); err == nil {
			t.Error("Interim after the response = nil")
		}
	})
	var seen []string
	r := request(t, "POST", f.url+"/", strings.NewReader("hello"))
	r.Header.Set("Expect", "100-continue")
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			seen = append(seen, strconv.Itoa(code)+h.Get("Link")+h.Get("Connection"))
			return nil
		},
	}))
	resp, b := f.do(t, r)
	if string(b) != "hello" || resp.Header.Get("Link") != "" {
		t.Errorf("response %q, %v", b, resp.Header)
	}
	if got, want := strings.Join(seen, "|"), "103</a.css>; rel=preload|100"; got != want {
		t.Errorf("interim responses %q, want %q", got, want)
	}
}

func TestStalledUploadTimesOut(t *testing.T) {
	ended := make(chan error, 1)
	f := start(t, func(c *FrontConfig) { c.StallTimeout = 50 * time.Millisecond }, func(x *exchange.Exchange) {
		_, err := io.Copy(io.Discard, x.RequestBody)
		ended <- err
		answer(x, 408, "")
	})
	pr, pw := io.Pipe()
	defer pw.Close() //nolint:errcheck // a pipe
	go func() { _, _ = pw.Write([]byte("begin")) }()
	resp, err := f.client.RoundTrip(request(t, "POST", f.url+"/", pr))
	if err != nil || resp.StatusCode != 408 {
		t.Errorf("response %v, %v, want 408", resp, err)
	}
	var fault *exchange.Fault
	if err := <-ended; !errors.As(err, &fault) || fault.Kind != exchange.ClientTimeout {
		t.Errorf("RequestBody ended with %v, want %v", err, exchange.ClientTimeout)
	}
}

func TestCloseOfTheRequestBodyEndsARead(t *testing.T) {
	reading := make(chan struct{})
	f := start(t, nil, func(x *exchange.Exchange) {
		body, ended := x.RequestBody, make(chan error, 1)
		go func() {
			close(reading)
			_, err := body.Read(make([]byte, 1))
			ended <- err
		}()
		<-reading
		if err := body.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if err := <-ended; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("Read after Close = %v", err)
		}
		answer(x, 413, "too large")
	})
	pr, pw := io.Pipe()
	defer pw.Close() //nolint:errcheck // a pipe
	if resp, b := f.do(t, request(t, "POST", f.url+"/", pr)); resp.StatusCode != 413 || string(b) != "too large" {
		t.Errorf("response %d %q", resp.StatusCode, b)
	}
}

func TestDrainFinishesWhatRuns(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{})
	f := start(t, nil, func(x *exchange.Exchange) {
		if x.RawTarget == "/slow" {
			close(begun)
			<-release
		}
		answer(x, 200, "done")
	})
	type result struct {
		body string
		err  error
	}
	slow := make(chan result, 1)
	go func() {
		resp, err := f.client.RoundTrip(request(t, "GET", f.url+"/slow", nil))
		if err != nil {
			slow <- result{err: err}
			return
		}
		b, err := io.ReadAll(resp.Body)
		slow <- result{string(b), err}
	}()
	<-begun
	f.front.Drain()
	other := newClient()
	defer other.Close() //nolint:errcheck // a client
	eventually(t, "new connections are refused", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		resp, err := other.RoundTrip(request(t, "GET", f.url+"/", nil).WithContext(ctx))
		if err != nil {
			return true
		}
		_ = resp.Body.Close()
		_ = other.Close()
		other = newClient()
		return false
	})
	if conns, streams := f.front.Active(); conns != 1 || streams != 1 {
		t.Errorf("Active = %d, %d, want 1, 1", conns, streams)
	}
	close(release)
	if r := <-slow; r.err != nil || r.body != "done" {
		t.Errorf("request in progress: %q, %v", r.body, r.err)
	}
	eventually(t, "no request in progress", func() bool { _, n := f.front.Active(); return n == 0 })
}

func TestCloseCutsWhatRuns(t *testing.T) {
	begun := make(chan struct{})
	f := start(t, nil, func(x *exchange.Exchange) {
		close(begun)
		_, err := io.Copy(io.Discard, x.RequestBody)
		if err == nil {
			t.Error("the request body ended well")
		}
		answer(x, 502, "")
	})
	pr, pw := io.Pipe()
	defer pw.Close() //nolint:errcheck // a pipe
	ended := make(chan error, 1)
	r := request(t, "POST", f.url+"/", pr)
	go func() {
		resp, err := f.client.RoundTrip(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		ended <- err
	}()
	<-begun
	f.front.Close()
	if err := <-ended; err == nil {
		t.Error("the client saw no error")
	}
	if conns, streams := f.front.Active(); conns != 0 || streams != 0 {
		eventually(t, "nothing active", func() bool { c, s := f.front.Active(); return c == 0 && s == 0 })
	}
}

func TestManyStreamsAndNoLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("streams", func(t *testing.T) {
		f := start(t, func(c *FrontConfig) { c.MaxStreams = 8 }, func(x *exchange.Exchange) {
			b, err := io.ReadAll(x.RequestBody)
			if err != nil {
				t.Errorf("body: %v", err)
			}
			answer(x, 200, strings.Clone(x.RawTarget)+string(b))
		})
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				target := "/" + strconv.Itoa(i)
				resp, err := f.client.RoundTrip(request(t, "POST", f.url+target, strings.NewReader(target)))
				if err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
				if b, err := io.ReadAll(resp.Body); err != nil || string(b) != target+target {
					t.Errorf("request %d: %q, %v", i, b, err)
				}
			})
		}
		wg.Wait()
		if conns, _ := f.front.Active(); conns != 1 {
			t.Errorf("connections = %d, want 1", conns)
		}
	})
	eventually(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+2 })
}

func TestConnectionBounds(t *testing.T) {
	f := start(t, func(c *FrontConfig) { c.MaxConnsPerIP = 1; c.MaxHalfOpen = 1 }, func(x *exchange.Exchange) { answer(x, 200, "ok") })
	f.do(t, request(t, "GET", f.url+"/", nil))
	second := newClient()
	defer second.Close() //nolint:errcheck // a client
	if resp, err := second.RoundTrip(request(t, "GET", f.url+"/", nil)); err == nil {
		_ = resp.Body.Close()
		t.Error("a second connection from the address was accepted")
	}
	_ = f.client.Close()
	eventually(t, "the place is free again", func() bool {
		third := newClient()
		defer third.Close() //nolint:errcheck // a client
		resp, err := third.RoundTrip(request(t, "GET", f.url+"/", nil))
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == 200
	})
	eventually(t, "all places are free", func() bool {
		g := &f.front.gate
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.total == 0 && len(g.perIP) == 0 && g.halfOpen == 0
	})
	if conns, _ := f.front.Refused(); conns == 0 {
		t.Error("refused connections aren't counted")
	}
}

func TestHandlerThatPanicsOrStaysSilent(t *testing.T) {
	f := start(t, nil, func(x *exchange.Exchange) {
		switch x.RawTarget {
		case "/panic":
			panic("boom")
		case "/ok":
			answer(x, 200, "ok")
		}
	})
	for _, target := range []string{"/panic", "/silent", "/panic"} {
		resp, err := f.client.RoundTrip(request(t, "GET", f.url+target, nil))
		var h3err *http3.Error
		if !errors.As(err, &h3err) || h3err.ErrorCode != http3.ErrCodeInternalError {
			t.Errorf("%s: %v, %v, want a reset with H3_INTERNAL_ERROR", target, resp, err)
		}
	}
	if _, b := f.do(t, request(t, "GET", f.url+"/ok", nil)); string(b) != "ok" {
		t.Errorf("the connection is of no more use: %q", b)
	}
}

func BenchmarkSmallResponse(b *testing.B) {
	f := start(b, nil, func(x *exchange.Exchange) { answer(x, 200, "hello") })
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := http.NewRequestWithContext(context.Background(), "GET", f.url+"/", nil)
			if err != nil {
				b.Error(err)
				return
			}
			resp, err := f.client.RoundTrip(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}

func BenchmarkLargeResponse(b *testing.B) {
	data := random(1 << 20)
	f := start(b, nil, func(x *exchange.Exchange) {
		x.Reply(200, "application/octet-stream", data)
		_ = x.Front.Respond(x)
	})
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		f.do(b, request(b, "GET", f.url+"/", nil))
	}
}
