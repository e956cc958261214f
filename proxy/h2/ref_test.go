//lint:file-ignore SA1019 x/net's own client and server are the reference here

package h2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// reference is x/net's client, towards s.
func reference(t testing.TB, s *server) *http.Client {
	tr := &http2.Transport{AllowHTTP: true, DisableCompression: true, ReadIdleTimeout: 0}
	tr.DialTLSContext = func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, network, s.addr)
		if err != nil || s.tls == nil {
			return nc, err
		}
		tc := tls.Client(nc, s.tls)
		return tc, tc.HandshakeContext(ctx)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *server) url() string {
	if s.tls != nil {
		return "https://localhost"
	}
	return "http://localhost"
}

// backend is x/net's server; it returns a dialled connection for each call.
func backend(t testing.TB, h http.Handler, cfg *http2.Server) func() net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cfg == nil {
		cfg = &http2.Server{MaxConcurrentStreams: 1000}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []net.Conn
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, nc)
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				cfg.ServeConn(nc, &http2.ServeConnOpts{Handler: h})
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, nc := range all {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return func() net.Conn {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
}

// chain is a handler that forwards to one backend connection.
type chain struct {
	c      *ClientConn
	mu     sync.Mutex
	faults []*exchange.Fault
}

func newChain(t testing.TB, nc net.Conn, sw *sweep.Sweeper) *chain {
	t.Helper()
	c, err := NewClientConn(nc, &ClientConfig{Sweeper: sw, FirstByte: 20 * time.Second, Idle: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &chain{c: c}
}

func (p *chain) Serve(x *exchange.Exchange) {
	handlerFunc(func(x *exchange.Exchange) {
		if !p.c.Reserve() {
			x.Reply(503, "text/plain", []byte("no slot"))
			return
		}
		if _, f := p.c.RoundTrip(x); f != nil {
			p.mu.Lock()
			p.faults = append(p.faults, f)
			p.mu.Unlock()
			x.Reply(502, "text/plain", []byte(f.Error()))
		}
	}).Serve(x)
}

func (p *chain) fault() *exchange.Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.faults) == 0 {
		return nil
	}
	return p.faults[len(p.faults)-1]
}

// proxy is a front chained to a client connection chained to x/net's server.
func proxy(t testing.TB, h http.Handler, secure bool) (*server, *chain) {
	t.Helper()
	sw := sweeper(t)
	dial := backend(t, h, nil)
	ch := newChain(t, dial(), sw)
	s := serve(t, FrontConfig{Handler: ch, Sweeper: sw}, secure)
	return s, ch
}

func get(t testing.TB, cl *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := cl.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestUnary(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls=", secure), func(t *testing.T) {
			noLeaks(t)
			s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Got", r.Method+" "+r.Host+" "+r.URL.RequestURI()+" "+r.Header.Get("Cookie")+" "+r.Header.Get("X-In"))
				w.Header().Add("Set-Cookie", "a=1")
				w.Header().Add("Set-Cookie", "b=2")
				io.WriteString(w, "fine")
			}), secure)
			cl := reference(t, s)
			req, _ := http.NewRequest("GET", s.url()+"/a/b?c=d", nil)
			req.Header.Set("Cookie", "x=1; y=2; z=3") // the reference splits it
			req.Header.Set("X-In", "in")
			req.Header.Set("X_Odd", "no")
			res, err := cl.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if got, want := res.Header.Get("X-Got"), "GET localhost /a/b?c=d x=1; y=2; z=3 in"; got != want {
				t.Errorf("backend got %q, want %q", got, want)
			}
			if string(b) != "fine" || res.ContentLength != 4 || len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("Date") == "" {
				t.Errorf("response %q, length %d, head %v", b, res.ContentLength, res.Header)
			}
		})
	}
}

// TestBigBodies sends 10 MiB each way, with and without a length, and compares
// the hash.
func TestBigBodies(t *testing.T) {
	for _, known := range []bool{true, false} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("length=%v,tls=%v", known, secure), func(t *testing.T) {
				noLeaks(t)
				body := make([]byte, 10<<20)
				r := rand.NewChaCha8([32]byte{1})
				r.Read(body)
				want := sha256.Sum256(body)
				s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					b, err := io.ReadAll(r.Body)
					if sha256.Sum256(b) != want {
						http.Error(w, fmt.Sprintf("backend got %d bytes, %v", len(b), err), 500)
						return
					}
					if known {
						w.Header().Set("Content-Length", fmt.Sprint(len(b)))
					}
					w.Write(b)
				}), secure)
				var in io.Reader = bytes.NewReader(body)
				if !known {
					in = io.MultiReader(in)
				}
				res, err := reference(t, s).Post(s.url()+"/", "application/octet-stream", in)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				got, err := io.ReadAll(res.Body)
				if err != nil || sha256.Sum256(got) != want {
					t.Fatalf("status %d, %d bytes, %v: %.100q", res.StatusCode, len(got), err, got)
				}
			})
		}
	}
}

// TestBidi talks like a gRPC stream: each message is answered before the next
// one is sent, and trailers end both ways.
func TestBidi(t *testing.T) {
	noLeaks(t)
	s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status, X-Sum")
		w.Header().Set("X-Te", r.Header.Get("Te"))
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		buf := make([]byte, 100)
		sum := 0
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				sum += n
				fmt.Fprintf(w, "<%s>", buf[:n])
				w.(http.Flusher).Flush()
			}
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set("X-Sum", fmt.Sprint(sum, " ", r.Trailer.Get("X-Up")))
	}), true)
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", s.url()+"/grpc.Service/Stream", pr)
	req.Header.Set("Te", "trailers")
	req.Trailer = http.Header{"X-Up": {"up"}}
	res, err := reference(t, s).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("X-Te"); got != "trailers" {
		t.Errorf("backend got te: %q", got)
	}
	for i := range 50 {
		msg := fmt.Sprintf("message %d", i)
		io.WriteString(pw, msg)
		want := "<" + msg + ">"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
			t.Fatalf("answer %d: %q, %v", i, got, err)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Fatalf("rest %q, %v", rest, err)
	}
	if got := res.Trailer.Get("Grpc-Status") + " " + res.Trailer.Get("X-Sum"); got != "0 490 up" {
		t.Errorf("trailers %q", got)
	}
}

// TestConcurrent has 100 streams at a time on one connection each way.
func TestConcurrent(t *testing.T) {
	noLeaks(t)
	s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		io.WriteString(w, r.URL.Path+" ")
		w.Write(b)
	}), false)
	cl := reference(t, s)
	get(t, cl, s.url()+"/warm")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range 10 {
				body := strings.Repeat(fmt.Sprint(i, ","), i*j)
				res, err := cl.Post(fmt.Sprint(s.url(), "/", i), "text/plain", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if want := fmt.Sprint("/", i, " ", body); err != nil || string(b) != want {
					t.Errorf("%d.%d: %.100q, want %.100q, %v", i, j, b, want, err)
				}
			}
		}()
	}
	wg.Wait()
}

// TestSlowClient reads nothing of one response while others pass on the same
// connection: no stream holds up another, and the backend isn't drained into
// memory.
func TestSlowClient(t *testing.T) {
	noLeaks(t)
	var mu sync.Mutex
	written := 0
	s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/big" {
			io.WriteString(w, "small")
			return
		}
		chunk := make([]byte, 64<<10)
		for range 1000 {
			n, err := w.Write(chunk)
			mu.Lock()
			written += n
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}), false)
	// Of the reference's, the stream window is 4 MiB: raw frames are narrower.
	p := dialRaw(t, s)
	p.request(1, "/big")
	p.until(func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && d.StreamID == 1 })
	for id := uint32(3); id < 50; id += 2 {
		p.fr.WriteWindowUpdate(0, 1000)
		p.request(id, "/small")
		p.until(func(f http2.Frame) bool {
			d, ok := f.(*http2.DataFrame)
			return ok && d.StreamID == id && d.StreamEnded()
		})
	}
	mu.Lock()
	if written > 1<<20 {
		t.Errorf("backend wrote %d bytes for a client that reads 64 KiB", written)
	}
	mu.Unlock()
	p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	until(t, "the stream ends", func() bool { _, busy := s.Active(); return busy == 0 })
}

// TestClientLeaves sees a backend's request cancelled when the client resets its
// own.
func TestClientLeaves(t *testing.T) {
	noLeaks(t)
	began, left := make(chan struct{}), make(chan struct{})
	s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(left)
	}), false)
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", s.url()+"/", nil)
	go func() {
		<-began
		cancel()
	}()
	if _, err := reference(t, s).Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("client got %v", err)
	}
	<-left
}

// TestBackendBreaks has the backend reset streams, before and after its head.
func TestBackendBreaks(t *testing.T) {
	noLeaks(t)
	s, ch := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			w.WriteHeader(200)
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	}), false)
	cl := reference(t, s)
	res, body := get(t, cl, s.url()+"/early")
	if res.StatusCode != 502 || !strings.Contains(body, string(exchange.BackendReset)) {
		t.Errorf("early: %d %q", res.StatusCode, body)
	}
	if f := ch.fault(); f == nil || f.Source != exchange.FromUpstream {
		t.Errorf("fault %v", f)
	}
	res, err := cl.Get(s.url() + "/late")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	var se http2.StreamError
	if !errors.As(err, &se) || se.Code != http2.ErrCodeInternal {
		t.Errorf("late: %v, want a reset with INTERNAL_ERROR", err)
	}
}

// TestEarlyAnswer answers before the body is there; the upload is stopped and
// the connection goes on.
func TestEarlyAnswer(t *testing.T) {
	noLeaks(t)
	s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no", http.StatusRequestEntityTooLarge)
	}), true)
	cl := reference(t, s)
	for range 3 {
		pr, pw := io.Pipe()
		go func() {
			for {
				if _, err := pw.Write(make([]byte, 10000)); err != nil {
					return
				}
			}
		}()
		res, err := cl.Post(s.url()+"/", "a/b", pr)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 413 {
			t.Errorf("status %d", res.StatusCode)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		pr.CloseWithError(io.ErrClosedPipe)
	}
	if conns, _ := s.Active(); conns != 1 {
		t.Errorf("%d connections, want 1", conns)
	}
}

// TestInterim passes 103 and 100 on.
func TestInterim(t *testing.T) {
	noLeaks(t)
	s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(103)
		w.Header().Del("Link")
		b, _ := io.ReadAll(r.Body) // sends 100
		w.Write(b)
	}), false)
	p := dialRaw(t, s)
	p.head(1, false, "expect", "100-continue", "content-length", "4")
	var got []string
	p.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if ok {
			got = append(got, h.PseudoValue("status"))
		}
		return len(got) == 2
	})
	p.fr.WriteData(1, true, []byte("body"))
	p.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if ok {
			got = append(got, h.PseudoValue("status"))
		}
		d, ok := f.(*http2.DataFrame)
		return ok && string(d.Data()) == "body"
	})
	if want := "100 103 200"; strings.Join(got, " ") != want && strings.Join(got, " ") != "103 100 200" {
		t.Errorf("statuses %q, want %q", got, want)
	}
}

// TestDrainFresh: a connection without a request so far is told with its first one,
// or after a while.
func TestDrainFresh(t *testing.T) {
	noLeaks(t)
	s := serve(t, FrontConfig{Handler: handlerFunc(echo)}, false)
	before, unused := dialRaw(t, s), dialRaw(t, s)
	until(t, "connections are there", func() bool { conns, _ := s.Active(); return conns == 2 })
	s.Drain()
	after := dialRaw(t, s)
	for name, p := range map[string]*raw{"before the drain": before, "after it": after} {
		p.request(1, "/")
		answered, goAway := false, uint32(0)
		p.until(func(f http2.Frame) bool {
			switch f := f.(type) {
			case *http2.GoAwayFrame:
				goAway = f.LastStreamID
			case *http2.MetaHeadersFrame:
				answered = true
			}
			return answered && goAway != 0
		})
		if goAway != 1<<31-1 {
			t.Errorf("%s: the first GOAWAY is of %d", name, goAway)
		}
		p.nc.Close()
	}
	if got := unused.outcome(1); got != "GOAWAY NO_ERROR" {
		t.Errorf("unused connection: %s", got)
	}
	until(t, "connections end", func() bool { conns, _ := s.Active(); return conns == 0 })
}

// TestDrain lets what runs end and refuses nothing that was on its way.
func TestDrain(t *testing.T) {
	noLeaks(t)
	release := make(chan struct{})
	s, _ := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		io.WriteString(w, "done")
	}), false)
	p := dialRaw(t, s)
	p.request(1, "/")
	until(t, "request runs", func() bool { _, busy := s.Active(); return busy == 1 })
	s.Drain()
	var goAways []uint32
	p.until(func(f http2.Frame) bool {
		if g, ok := f.(*http2.GoAwayFrame); ok {
			goAways = append(goAways, g.LastStreamID)
		}
		if ping, ok := f.(*http2.PingFrame); ok && !ping.IsAck() {
			p.request(3, "/") // crossed the first GOAWAY
			p.fr.WritePing(true, ping.Data)
		}
		return len(goAways) == 2
	})
	close(release)
	ended := 0
	p.until(func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
			ended++
		}
		return ended == 2
	})
	if goAways[0] != 1<<31-1 || goAways[1] != 3 {
		t.Errorf("GOAWAYs %v, want 2^31-1 and 3", goAways)
	}
	until(t, "connection ends", func() bool { conns, _ := s.Active(); return conns == 0 })
}
