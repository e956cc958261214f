package h1

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// TestBackendFaults: what a backend can do wrong after it took the request.
func TestBackendFaults(t *testing.T) {
	t.Parallel()
	reset := func(nc net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(nc))
		_ = nc.(*net.TCPConn).SetLinger(0)
	}
	hang := func(text string) func(net.Conn) {
		return func(nc net.Conn) {
			br := bufio.NewReader(nc)
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			_, _ = io.WriteString(nc, text)
			_, _ = io.Copy(io.Discard, br)
		}
	}
	tests := []struct {
		name           string
		script         func(net.Conn)
		deadline       time.Duration
		firstByte      time.Duration
		status         int
		kind           exchange.Kind
		brokenResponse bool
	}{
		{name: "reset", script: reset, status: 502, kind: exchange.BackendReset},
		{name: "hang, short limit", script: hang(""), firstByte: 100 * time.Millisecond, status: 504, kind: exchange.BackendTimeout},
		{name: "hang, swept limit", script: hang(""), firstByte: 2 * time.Second, status: 504, kind: exchange.BackendTimeout},
		{name: "hang in head", script: hang("HTTP/1.1 200 OK\r\nA: b"), firstByte: 100 * time.Millisecond, status: 504, kind: exchange.BackendTimeout},
		{name: "deadline", script: hang(""), deadline: 100 * time.Millisecond, status: 504, kind: exchange.DeadlineExceeded},
		{name: "swept deadline", script: hang(""), deadline: 2100 * time.Millisecond, status: 504, kind: exchange.DeadlineExceeded},
		{name: "passed deadline", script: hang(""), deadline: -1, status: 504, kind: exchange.DeadlineExceeded},
		{name: "half a body", script: func(nc net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(nc))
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		}, status: 200, brokenResponse: true, kind: exchange.BackendReset},
		{name: "half a chunked body", script: func(nc net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(nc))
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		}, status: 200, brokenResponse: true, kind: exchange.BackendReset},
		{name: "garbage in a chunked body", script: hang("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n"),
			status: 200, brokenResponse: true, kind: exchange.BackendMalformed},
		{name: "deadline in body", script: hang("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), deadline: 200 * time.Millisecond,
			status: 200, brokenResponse: true, kind: exchange.DeadlineExceeded},
		{name: "stalled body", script: hang("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("a", 200)),
			status: 200, brokenResponse: true, kind: exchange.BackendTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan *exchange.Fault, 1)
			addr, _ := proxy(t, rawBackend(t, tt.script), func(_ *FrontConfig, h *forwarder) {
				if h.cfg.Idle = 2 * time.Second; tt.firstByte > 0 {
					h.cfg.FirstByte = tt.firstByte
				}
				h.before = func(x *exchange.Exchange) {
					if tt.deadline != 0 {
						x.Deadline = x.Start.Add(tt.deadline)
					}
				}
				h.after = func(x *exchange.Exchange, err error) {
					f := x.Err
					if f == nil {
						errors.As(err, &f)
					}
					got <- f
				}
			})
			res, err := newClient(t).Get("http://" + addr + "/")
			if err != nil {
				if f := <-got; !tt.brokenResponse || f == nil || f.Kind != tt.kind {
					t.Errorf("client got %v, fault %v, want %s", err, f, tt.kind)
				}
				return // the reset overtook the head
			}
			defer res.Body.Close()
			_, err = io.ReadAll(res.Body)
			if res.StatusCode != tt.status || (err != nil) != tt.brokenResponse {
				t.Errorf("answer = %d, %v, want %d, broken: %v", res.StatusCode, err, tt.status, tt.brokenResponse)
			}
			if f := <-got; f == nil || f.Kind != tt.kind {
				t.Errorf("fault = %v, want %s", f, tt.kind)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	s := startSweeper(t)
	cfg := &ClientConfig{Sweeper: s}
	tests := []struct {
		name   string
		script func(net.Conn)
		want   exchange.Progress
	}{
		{"closed before", func(nc net.Conn) {}, exchange.Sent},
		{"part of a head", func(nc net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(nc))
			_, _ = io.WriteString(nc, "HTTP/1.1 2")
		}, exchange.Answered},
	}
	for _, tt := range tests {
		nc, err := net.Dial("tcp", rawBackend(t, tt.script))
		if err != nil {
			t.Fatal(err)
		}
		c := NewClientConn(nc, cfg)
		if tt.want == exchange.Sent {
			eventually(t, "Alive is false", func() bool { return !c.Alive() })
		}
		x := &exchange.Exchange{Proto: exchange.HTTP11, Method: "GET"}
		x.Target.Path, x.Target.Authority = "/", "h"
		progress, f := c.RoundTrip(x)
		if progress != tt.want || f == nil || f.Kind != exchange.BackendReset || c.Reusable() {
			t.Errorf("%s: RoundTrip = %v, %v, want %v", tt.name, progress, f, tt.want)
		}
		_ = c.Close()
	}
}

// TestStrayBytes: what comes unasked makes a connection useless.
func TestStrayBytes(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
		"HTTP/1.1 204 No Content\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
	} {
		addr, h := proxy(t, rawBackend(t, answering(text)), nil)
		c := newClient(t)
		for range 3 {
			if res, _ := get(t, c, "http://"+addr+"/"); res.StatusCode/100 != 2 {
				t.Errorf("%q: status %d", text, res.StatusCode)
			}
		}
		if h.dials != 3 {
			t.Errorf("%q: %d connections, want 3", text, h.dials)
		}
	}
}

func TestSlowClients(t *testing.T) {
	t.Parallel()
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	for _, limit := range []time.Duration{200 * time.Millisecond, 2 * time.Second} {
		addr, _ := proxy(t, b, func(c *FrontConfig, _ *forwarder) {
			c.HeaderTimeout, c.StallTimeout, c.IdleTimeout = limit, limit, limit
		})
		tests := []struct{ name, in, want string }{
			{"half a head", "GET / HTTP/1.1\r\nHost:", "HTTP/1.1 408 "},
			{"half a body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 408 "},
			{"half a chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc", "HTTP/1.1 408 "},
			{"nothing", "", ""},
			{"nothing more", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 "},
		}
		for _, tt := range tests {
			t.Run(fmt.Sprint(tt.name, " ", limit), func(t *testing.T) {
				t.Parallel()
				got := exchangeRaw(t, addr, tt.in)
				if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
					t.Errorf("answer = %q, want %q and the end", got, tt.want)
				}
			})
		}
	}
}

// TestSlowReader: a client that reads slowly, slower than the stall timeout
// lets one piece go, isn't cut off.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	big := noise(8 << 20)
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/spliced" {
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		}
		_, _ = w.Write(big)
	}))
	addr, _ := proxy(t, b, func(c *FrontConfig, _ *forwarder) { c.StallTimeout = 2 * time.Second })
	for _, path := range []string{"/spliced", "/copied"} {
		t.Run(path[1:], func(t *testing.T) {
			t.Parallel()
			nc := dial(t, addr)
			_ = nc.SetReadBuffer(64 << 10)
			_, _ = io.WriteString(nc, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			n := int64(0)
			for range 100 { // 5 s
				<-tick.C
				m, err := io.CopyN(io.Discard, res.Body, 8<<10)
				if n += m; err != nil {
					t.Fatalf("after %d bytes: %v", n, err)
				}
			}
			m, err := io.Copy(io.Discard, res.Body)
			if n += m; err != nil || n != int64(len(big)) {
				t.Errorf("got %d bytes, %v, want %d", n, err, len(big))
			}
		})
	}
}

// TestStalledReader: a client that doesn't read is cut off.
func TestStalledReader(t *testing.T) {
	t.Parallel()
	big := noise(16 << 20)
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(big) }))
	ended := make(chan error, 1)
	addr, _ := proxy(t, b, func(c *FrontConfig, h *forwarder) {
		c.StallTimeout = 2 * time.Second
		h.after = func(_ *exchange.Exchange, err error) { ended <- err }
	})
	nc := dial(t, addr)
	_ = nc.SetReadBuffer(4 << 10)
	_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if err := <-ended; err == nil {
		t.Error("Respond = nil, want an error")
	}
	if _, err := io.Copy(io.Discard, nc); err == nil {
		t.Error("the response ended as if it were complete")
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(w, "done")
	}))
	s := startSweeper(t)
	h := &forwarder{addr: b, cfg: &ClientConfig{Sweeper: s}}
	defer h.close()
	f := NewFront(testConfig(s, h))
	addr := startFront(t, f)

	idleConn, busyConn, freshConn := dial(t, addr), dial(t, addr), dial(t, addr)
	br := bufio.NewReader(idleConn)
	_, _ = io.WriteString(idleConn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(res.Body)
	_, _ = io.WriteString(busyConn, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
	eventually(t, "one of three is busy", func() bool { n, busy := f.Active(); return n == 3 && busy == 1 })
	f.Drain(0)
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("idle connection: %v, want EOF", err)
	}
	_, _ = io.WriteString(freshConn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if got, err := io.ReadAll(freshConn); err != nil || !strings.Contains(string(got), "Connection: close") || !strings.HasSuffix(string(got), "done") {
		t.Errorf("fresh connection: %q, %v", got, err)
	}
	close(release)
	if got, err := io.ReadAll(busyConn); err != nil || !strings.Contains(string(got), "Connection: close") || !strings.HasSuffix(string(got), "done") {
		t.Errorf("busy connection: %q, %v", got, err)
	}
	eventually(t, "none left", func() bool { n, _ := f.Active(); return n == 0 })
}

// TestDrainWithGrace: a request on an idle connection is answered, and told that it
// is the last one, also when it comes while the connection would be closed.
func TestDrainWithGrace(t *testing.T) {
	t.Parallel()
	cfg := testConfig(startSweeper(t), handlerFunc(func(x *exchange.Exchange) {
		x.Reply(200, "", []byte("ok"))
		_ = x.Front.Respond(x) // a client that left is seen below
	}))
	f := NewFront(cfg)
	addr := startFront(t, f)
	var conns []net.Conn
	for range 20 {
		nc := dial(t, addr)
		if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil || res.Close {
			t.Fatalf("%v, %v, want a connection that goes on", res, err)
		}
		_, _ = io.ReadAll(res.Body) // two bytes, in the buffer
		conns = append(conns, nc)
	}
	f.Drain(time.Hour)
	for i, nc := range conns {
		if i == len(conns)/2 {
			f.Drain(0)
		}
		_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") // may be too late for the second half
		got, err := io.ReadAll(nc)
		if answered := strings.Contains(string(got), "Connection: close") && strings.HasSuffix(string(got), "ok"); !answered && (i < len(conns)/2 || err == nil && len(got) > 0) {
			t.Errorf("idle connection %d: %q, %v; want an answer with Connection: close", i, got, err)
		}
	}
	eventually(t, "none left", func() bool { n, _ := f.Active(); return n == 0 })
}

// TestClose cuts a tunnel and a response that is under way.
func TestClose(t *testing.T) {
	t.Parallel()
	b := rawBackend(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if req.URL.Path == "/tunnel" {
			_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		} else {
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\nhello")
		}
		_, _ = io.Copy(io.Discard, br)
	})
	s := startSweeper(t)
	h := &forwarder{addr: b, cfg: &ClientConfig{Sweeper: s}}
	f := NewFront(testConfig(s, h))
	addr := startFront(t, f)
	var wg sync.WaitGroup
	for _, in := range []string{"GET /tunnel HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"} {
		nc := dial(t, addr)
		_, _ = io.WriteString(nc, in)
		if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if _, err := io.Copy(io.Discard, nc); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%.12q: %v", in, err)
			}
		})
	}
	f.Close()
	wg.Wait()
	eventually(t, "none left", func() bool { n, _ := f.Active(); return n == 0 })
	client, server := net.Pipe()
	f.ServeConn(server, &exchange.Conn{}, nil)
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection after Close: %v, want EOF", err)
	}
}

// TestIdleTunnel ends when nothing moves either way, not before.
func TestIdleTunnel(t *testing.T) {
	t.Parallel()
	b := rawBackend(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = io.Copy(io.Discard, br)
	})
	ended := make(chan error, 1)
	addr, _ := proxy(t, b, func(_ *FrontConfig, h *forwarder) {
		h.cfg.Idle = 2 * time.Second
		h.after = func(_ *exchange.Exchange, err error) { ended <- err }
	})
	nc := dial(t, addr)
	_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range 15 { // 3 s of bytes one way keep it open
		<-tick.C
		if _, err := nc.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			t.Fatalf("ended while bytes moved: %v", err)
		default:
		}
	}
	var f *exchange.Fault
	if err := <-ended; !errors.As(err, &f) || f.Kind != exchange.BackendTimeout {
		t.Errorf("Respond = %v, want %s", err, exchange.BackendTimeout)
	}
}

// TestPlainConn serves a connection that has no socket, with a preface.
func TestPlainConn(t *testing.T) {
	s := startSweeper(t)
	h := handlerFunc(func(x *exchange.Exchange) {
		body, err := io.ReadAll(x.RequestBody)
		if err != nil {
			t.Error(err)
		}
		x.Reply(200, "", []byte(x.RawTarget+string(body)))
		_ = x.Front.Respond(x)
	})
	f := NewFront(testConfig(s, h))
	client, server := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { f.ServeConn(server, &exchange.Conn{Scheme: "http"}, []byte("POST /pre")) })
	go func() { _, _ = io.WriteString(client, "face HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab") }()
	res, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(res.Body); string(got) != "/prefaceab" {
		t.Errorf("body = %q", got)
	}
	_ = client.Close()
	wg.Wait()
}

// TestTLS has TLS on both sides.
func TestTLS(t *testing.T) {
	cert := testCertificate(t)
	big := noise(3 << 20)
	b, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
			return
		}
		_, _ = w.Write(big)
	})}
	go func() { _ = srv.Serve(b) }()
	defer srv.Close()
	s := startSweeper(t)
	cfg := &ClientConfig{Sweeper: s}
	var mu sync.Mutex
	var conn *ClientConn
	f := NewFront(testConfig(s, handlerFunc(func(x *exchange.Exchange) {
		mu.Lock()
		defer mu.Unlock()
		_ = x.Canonicalise()
		if conn == nil {
			nc, err := tls.Dial("tcp", b.Addr().String(), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Error(err)
				return
			}
			conn = NewClientConn(nc, cfg)
		}
		if _, f := conn.RoundTrip(x); f != nil {
			t.Error(f)
			return
		}
		if err := x.Front.Respond(x); err != nil {
			t.Error(err)
		}
		if !conn.Reusable() {
			t.Error("connection isn't reusable")
		}
	})))
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.ServeConn(nc, &exchange.Conn{Scheme: "https"}, nil) })
		}
	}()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	c := &http.Client{Transport: tr}
	for range 3 {
		if _, body := get(t, c, "https://"+ln.Addr().String()+"/"); !bytes.Equal([]byte(body), big) {
			t.Errorf("got %d bytes, want %d", len(body), len(big))
		}
		res, err := c.Post("https://"+ln.Addr().String()+"/", "", io.MultiReader(bytes.NewReader(big)))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(body, big) {
			t.Errorf("got %d bytes back, %v, want %d", len(body), err, len(big))
		}
		res.Body.Close()
	}
	tr.CloseIdleConnections()
	wg.Wait()
	_ = conn.Close()
}

func testCertificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"h"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestDeafBackend takes a connection and reads nothing of a large request.
func TestDeafBackend(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	defer close(stop)
	b := rawBackend(t, func(net.Conn) { <-stop })
	addr, _ := proxy(t, b, func(_ *FrontConfig, h *forwarder) { h.cfg.Idle = 2 * time.Second })
	// By hand: net/http's client prefers the error of its write, once the
	// connection is closed under it, to the answer that came before.
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", 32<<20)
		_, _ = c.Write(noise(32 << 20)) // fails when the answer is complete
	}()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, _ := io.ReadAll(res.Body); res.StatusCode != 504 || !strings.Contains(string(got), "stopped reading") {
		t.Errorf("answer = %d %q, want 504", res.StatusCode, got)
	}
}

// TestHalfClosed: a client that closes its sending side counts as gone, but not
// while requests that it sent before wait.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	s := startSweeper(t)
	h := &forwarder{addr: b, cfg: &ClientConfig{Sweeper: s}}
	defer h.close()
	faults := make(chan *exchange.Fault, 2)
	h.after = func(x *exchange.Exchange, _ error) { faults <- x.Err }
	addr := startFront(t, NewFront(testConfig(s, h)))
	nc := dial(t, addr)
	_, _ = io.WriteString(nc, strings.Repeat("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 2))
	_ = nc.CloseWrite()
	round := s.Now()
	eventually(t, "four sweeps", func() bool { return s.Now() > round+int64(4*sweep.Interval) })
	select {
	case f := <-faults:
		t.Fatalf("first exchange ended: %v", f)
	default:
	}
	release <- struct{}{}
	if f := <-faults; f != nil {
		t.Errorf("first exchange: %v", f)
	}
	if f := <-faults; f == nil || f.Kind != exchange.ClientGone {
		t.Errorf("second exchange: %v, want %s", f, exchange.ClientGone)
	}
}

// TestOldClient gets a body without a length until the connection's end.
func TestOldClient(t *testing.T) {
	b := rawBackend(t, answering("HTTP/1.1 200 OK\r\nX_Y: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"))
	addr, _ := proxy(t, b, nil)
	got := exchangeRaw(t, addr, "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
	if strings.Contains(got, "Transfer-Encoding") || !strings.Contains(got, "Connection: close\r\n\r\nabcde") || !strings.Contains(got, "X_Y: 1") {
		t.Errorf("answer = %q", got)
	}
}
