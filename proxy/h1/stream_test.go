package h1

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// TestBodies moves bodies of many sizes both ways, framed in either way.
func TestBodies(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		w.Header().Set("X-In", fmt.Sprintf("%d %x", r.ContentLength, sha256.Sum256(body)))
		_, _ = w.Write(body)
		if !r.URL.Query().Has("length") {
			w.(http.Flusher).Flush()
		}
	}))
	var in, out atomic.Int64
	addr, h := proxy(t, b, func(_ *FrontConfig, h *forwarder) {
		h.after = func(x *exchange.Exchange, err error) {
			if err != nil {
				t.Errorf("Respond = %v", err)
			}
			in.Add(x.BytesIn)
			out.Add(x.BytesOut)
		}
	})
	c := newClient(t)
	var sum int64
	for _, n := range []int{0, 1, 100, 4000, 4096, 5000, 16 << 10, 70000, 1 << 20, 9 << 20} {
		for _, chunky := range []bool{false, true} {
			for _, query := range []string{"", "?length"} {
				data := noise(n)
				var r io.Reader = bytes.NewReader(data)
				if chunky {
					r = io.MultiReader(r)
				}
				res, err := c.Post("http://"+addr+"/"+query, "x/y", r)
				if err != nil {
					t.Fatalf("%d %v %q: %v", n, chunky, query, err)
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d %v %q: got %d bytes, %v", n, chunky, query, len(got), err)
				}
				want := fmt.Sprintf("%d %x", n, sha256.Sum256(data))
				if chunky && n > 0 {
					want = fmt.Sprintf("-1 %x", sha256.Sum256(data))
				}
				if got := res.Header.Get("X-In"); got != want && n > 0 {
					t.Errorf("%d %v %q: backend saw %s, want %s", n, chunky, query, got, want)
				}
				sum += int64(n)
			}
		}
	}
	eventually(t, "counts", func() bool { return in.Load() == sum && out.Load() == sum })
	if h.dials != 1 {
		t.Errorf("%d connections to the backend, want 1", h.dials)
	}
}

func TestPipelining(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s:%s", r.URL.Path, body)
	}))
	addr, _ := proxy(t, b, nil)
	var in strings.Builder
	for i := range 50 {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&in, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
		case 1:
			fmt.Fprintf(&in, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab", i)
		default:
			fmt.Fprintf(&in, "POST /%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n", i)
		}
	}
	nc := dial(t, addr)
	if _, err := io.WriteString(nc, in.String()); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	for i := range 50 {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		want := fmt.Sprintf("/%d:", i)
		if i%3 > 0 {
			want += "ab"
		}
		if string(got) != want {
			t.Fatalf("answer %d = %q, want %q", i, got, want)
		}
	}
}

func TestHeadAndEmpty(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}
	}))
	addr, h := proxy(t, b, nil)
	nc := dial(t, addr)
	br := bufio.NewReader(nc)
	for _, tt := range []struct{ method, path, length, body string }{
		{"HEAD", "/", "5", ""}, {"GET", "/204", "", ""}, {"GET", "/304", "", ""}, {"HEAD", "/304", "", ""}, {"GET", "/", "5", "hello"},
	} {
		fmt.Fprintf(nc, "%s %s HTTP/1.1\r\nHost: h\r\n\r\n", tt.method, tt.path)
		res, err := http.ReadResponse(br, &http.Request{Method: tt.method})
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		if got := res.Header.Get("Content-Length"); got != tt.length || string(body) != tt.body || len(res.TransferEncoding) > 0 {
			t.Errorf("%s %s: Content-Length %q, body %q, want %q %q", tt.method, tt.path, got, body, tt.length, tt.body)
		}
	}
	if h.dials != 1 {
		t.Errorf("%d connections to the backend, want 1", h.dials)
	}
}

func TestTrailers(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", r.Trailer.Get("X-Req")+" back")
	}))
	addr, _ := proxy(t, b, nil)
	c := newClient(t)
	for range 3 {
		req, _ := http.NewRequest("POST", "http://"+addr+"/", io.MultiReader(strings.NewReader("abc")))
		req.Trailer = http.Header{"X-Req": {"there"}}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(res.Body)
		res.Body.Close()
		if got := res.Trailer.Get("X-Sum"); got != "there back" {
			t.Errorf("trailer = %q", got)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(413)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	addr, _ := proxy(t, b, nil)
	t.Run("accepted", func(t *testing.T) {
		nc := dial(t, addr)
		br := bufio.NewReader(nc)
		for range 2 {
			fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n")
			if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
				t.Fatalf("first line = %q", line)
			}
			_, _ = br.ReadString('\n')
			_, _ = io.WriteString(nc, "abc")
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(got) != "abc" {
				t.Errorf("answer = %d %q", res.StatusCode, got)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		got := exchangeRaw(t, addr, "POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 413 ") || !strings.Contains(got, "Connection: close") {
			t.Errorf("answer = %q, want 413 without 100, and the connection's end", got)
		}
	})
	t.Run("sent anyway", func(t *testing.T) {
		got := exchangeRaw(t, addr, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\nExpect: 100-continue\r\n\r\nabc")
		if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.HasSuffix(got, "abc") {
			t.Errorf("answer = %q, want 200 without 100", got)
		}
	})
	t.Run("backend doesn't know it", func(t *testing.T) {
		deaf := rawBackend(t, func(nc net.Conn) {
			br := bufio.NewReader(nc)
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		})
		addr, _ := proxy(t, deaf, func(_ *FrontConfig, h *forwarder) { h.cfg.ExpectTimeout = 50 * time.Millisecond })
		nc := dial(t, addr)
		br := bufio.NewReader(nc)
		fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n")
		if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("first line = %q", line)
		}
		_, _ = io.WriteString(nc, "abc")
		got, _ := io.ReadAll(br)
		if !strings.HasSuffix(string(got), "abc") {
			t.Errorf("answer = %q", got)
		}
	})
}

func TestInterim(t *testing.T) {
	b := rawBackend(t, answering("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	addr, _ := proxy(t, b, nil)
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h))
		return nil
	}}
	req, _ := http.NewRequest("GET", "http://"+addr+"/", nil)
	res, err := newClient(t).Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if got := fmt.Sprint(hints); got != "[103 map[Link:[</a>]]]" || string(body) != "ok" {
		t.Errorf("interim responses %s, body %q", got, body)
	}
	got := exchangeRaw(t, addr, "GET / HTTP/1.0\r\nHost: h\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("HTTP/1.0 client got %q", got)
	}
}

func TestUpgrade(t *testing.T) {
	b := rawBackend(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		req, err := http.ReadRequest(br)
		if err != nil || req.Header.Get("Upgrade") != "echo/1" || req.Header.Get("Connection") != "Upgrade" {
			t.Errorf("backend got %v, %v", req, err)
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo/1\r\nX-A: b\r\n\r\nhello ")
		_, _ = io.Copy(nc, br)
		_ = nc.(*net.TCPConn).CloseWrite()
	})
	ended := make(chan error, 1)
	var counts atomic.Int64
	addr, _ := proxy(t, b, func(_ *FrontConfig, h *forwarder) {
		h.after = func(x *exchange.Exchange, err error) { counts.Store(x.BytesIn<<32 | x.BytesOut); ended <- err }
	})
	nc := dial(t, addr)
	_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo/1\r\n\r\nearly ")
	br := bufio.NewReader(nc)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo/1" || res.Header.Get("X-A") != "b" {
		t.Fatalf("answer = %v, %v", res, err)
	}
	got := make([]byte, len("hello early "))
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "hello early " {
		t.Fatalf("got %q, %v", got, err)
	}
	big := noise(1 << 20)
	go func() {
		_, _ = nc.Write(big)
		_ = nc.CloseWrite()
	}()
	rest, err := io.ReadAll(br)
	if err != nil || !bytes.Equal(rest, big) {
		t.Errorf("got %d bytes back, %v, want %d", len(rest), err, len(big))
	}
	if err := <-ended; err != nil {
		t.Errorf("Respond = %v", err)
	}
	if got, want := counts.Load(), int64(len(big)+6)<<32|int64(len(big)+12); got != want {
		t.Errorf("counts = %x, want %x", got, want)
	}
}

func TestUpgradeRefused(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q", r.Header.Get("Upgrade"), r.Header.Get("Connection"))
	}))
	addr, _ := proxy(t, b, nil)
	for in, want := range map[string]string{
		"Connection: upgrade\r\nUpgrade: websocket\r\n":                                       `"websocket" "Upgrade"`,
		"Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n": `"" ""`,
		"Upgrade: websocket\r\n":                                             `"" ""`,
		"Connection: upgrade\r\nUpgrade: h2c, websocket\r\n":                 `"websocket" "Upgrade"`,
		"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n": `"" ""`,
	} {
		nc := dial(t, addr)
		_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n"+in+"\r\n")
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(res.Body); string(got) != want {
			t.Errorf("%q: backend saw %s, want %s", in, got, want)
		}
	}
}

// TestEvents sees each event at once, and the client's departure at the
// backend.
func TestEvents(t *testing.T) {
	t.Parallel()
	next, left := make(chan string), make(chan struct{})
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		for {
			select {
			case s := <-next:
				_, _ = io.WriteString(w, s)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				close(left)
				return
			}
		}
	}))
	addr, _ := proxy(t, b, nil)
	nc := dial(t, addr)
	_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		event := fmt.Sprintf("data: %d\n\n", i)
		next <- event
		got := make([]byte, len(event))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != event {
			t.Fatalf("event = %q, %v", got, err)
		}
	}
	_ = nc.Close()
	<-left
}

// TestClientLeaves before there is an answer: the backend learns of it.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	started, left := make(chan struct{}), make(chan struct{})
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		close(left)
	}))
	fault := make(chan *exchange.Fault, 1)
	addr, _ := proxy(t, b, func(_ *FrontConfig, h *forwarder) {
		h.after = func(x *exchange.Exchange, err error) { fault <- x.Err }
	})
	nc := dial(t, addr)
	_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-started
	_ = nc.Close()
	<-left
	if f := <-fault; f == nil || f.Kind != exchange.ClientGone {
		t.Errorf("fault = %v, want %s", f, exchange.ClientGone)
	}
}

// TestUploadBreaks: a client that leaves inside its body must not look to the
// backend as if the body had ended.
func TestUploadBreaks(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n10000\r\n"} {
		got := make(chan error, 1)
		started := make(chan struct{})
		b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(started)
			_, err := io.ReadAll(r.Body)
			got <- err
		}))
		addr, _ := proxy(t, b, nil)
		nc := dial(t, addr)
		_, _ = io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\n"+in+"abc")
		<-started
		_ = nc.Close()
		if err := <-got; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: backend's Read = %v, want %v", in, err, io.ErrUnexpectedEOF)
		}
	}
}

// TestEarlyAnswer: the backend refuses while the client sends.
func TestEarlyAnswer(t *testing.T) {
	b := rawBackend(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch")
		_, _ = io.Copy(io.Discard, br)
	})
	addr, _ := proxy(t, b, nil)
	nc := dial(t, addr)
	_, _ = io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\nabc")
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(res.Body); res.StatusCode != 413 || string(got) != "much" || !res.Close {
		t.Errorf("answer = %d %q, close %v", res.StatusCode, got, res.Close)
	}
}

// TestDuplex: a success that comes early lets both sides stream on.
func TestDuplex(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "got "+line)
			w.(http.Flusher).Flush()
		}
	}))
	addr, h := proxy(t, b, nil)
	pr, pw := io.Pipe()
	res, err := newClient(t).Post("http://"+addr+"/", "x/y", pr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 10 {
		fmt.Fprintf(pw, "%d\n", i)
		if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("got %d\n", i) {
			t.Fatalf("line = %q, %v", line, err)
		}
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
		t.Errorf("rest = %q, %v", rest, err)
	}
	eventually(t, "connection goes back", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) == 1 })
}

// TestHalfReadBody: a refusal of a request whose body a policy has begun to read
// says whether the connection goes on.
func TestHalfReadBody(t *testing.T) {
	s := startSweeper(t)
	h := handlerFunc(func(x *exchange.Exchange) {
		if b := make([]byte, 10); x.RequestBody != nil {
			n, _ := x.RequestBody.Read(b)
			x.Unread(b[:n], false)
		}
		_ = refuse(x, exchange.NewFault(exchange.FromPolicy, exchange.BodyTooLarge, "%s", x.RawTarget))
	})
	for _, tt := range []struct {
		name, request string
		close         bool
	}{
		{"little left", "Content-Length: 30000\r\n\r\n" + strings.Repeat("x", 30000), false},
		{"much left", "Content-Length: 3000000\r\n\r\n" + strings.Repeat("x", 3000), true},
		{"chunked, all there", "Transfer-Encoding: chunked\r\n\r\n10\r\n" + strings.Repeat("x", 16) + "\r\n0\r\n\r\n", false},
		{"chunked, more to come", "Transfer-Encoding: chunked\r\n\r\nfff\r\n" + strings.Repeat("x", 0xfff) + "\r\n", true},
	} {
		nc := dial(t, startFront(t, NewFront(testConfig(s, h))))
		_, _ = io.WriteString(nc, "POST /1 HTTP/1.1\r\nHost: h\r\n"+tt.request)
		br := bufio.NewReader(nc)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got, _ := io.ReadAll(res.Body); !strings.HasSuffix(string(got), "/1") || res.Close != tt.close {
			t.Errorf("%s: %q, close %v, want %v", tt.name, got, res.Close, tt.close)
		}
		if tt.close {
			continue
		}
		_, _ = io.WriteString(nc, "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, err = http.ReadResponse(br, nil); err != nil {
			t.Errorf("%s: the next request: %v", tt.name, err)
		}
	}
}

// TestUnreadBody: an answer without reading the request leaves the connection
// in a state that is known.
func TestUnreadBody(t *testing.T) {
	s := startSweeper(t)
	h := handlerFunc(func(x *exchange.Exchange) {
		x.Reply(200, "", []byte(x.RawTarget))
		_ = x.Front.Respond(x)
	})
	addr := startFront(t, NewFront(testConfig(s, h)))
	nc := dial(t, addr)
	br := bufio.NewReader(nc)
	small := strings.Repeat("x", 30000)
	_, _ = io.WriteString(nc, "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 30000\r\n\r\n"+small+
		"POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"+
		"POST /3 HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\nabc")
	for i, wantClose := range []bool{false, false, true} {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(res.Body); string(got) != fmt.Sprintf("/%d", i+1) || res.Close != wantClose {
			t.Errorf("answer %d = %q, close %v", i+1, got, res.Close)
		}
	}
	if n, err := br.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the last: %d, %v, want EOF", n, err)
	}
}
