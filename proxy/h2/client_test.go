package h2

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// fake is a backend that sends the frames it is told to.
func fake(t *testing.T, cfg *ClientConfig, settings ...http2.Setting) (*raw, *ClientConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	out, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Sweeper == nil {
		cfg.Sweeper = sweeper(t)
	}
	t.Cleanup(func() { in.Close() })
	c, err := NewClientConn(out, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	got := make([]byte, len(http2.ClientPreface))
	p := newRaw(t, in)
	if _, err := io.ReadFull(in, got); err != nil || string(got) != http2.ClientPreface {
		t.Fatalf("preface %q, %v", got, err)
	}
	p.fr.WriteSettings(settings...)
	return p, c
}

// silentFront is a client that waits.
type silentFront struct{ interims []int }

func (f *silentFront) Respond(*exchange.Exchange) error { return nil }
func (f *silentFront) Interim(_ *exchange.Exchange, status int, _ *exchange.Head) error {
	f.interims = append(f.interims, status)
	return nil
}
func (f *silentFront) Gone(*exchange.Exchange) bool { return false }

func newExchange(method, path string) *exchange.Exchange {
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: "http"}, &silentFront{})
	x.Method, x.RawTarget, x.RawHost = method, path, "localhost"
	if f := x.Canonicalise(); f != nil {
		panic(f)
	}
	return x
}

// trip sends a GET whose response is read to its end.
func trip(c *ClientConn, x *exchange.Exchange) (exchange.Progress, *exchange.Fault, string) {
	if !c.Reserve() {
		return exchange.NotSent, exchange.NewFault(exchange.FromUpstream, exchange.Overloaded, "no slot"), ""
	}
	p, f := c.RoundTrip(x)
	if f != nil {
		return p, f, ""
	}
	if x.ResponseBody == nil {
		return p, nil, ""
	}
	defer x.ResponseBody.Close()
	b, err := io.ReadAll(x.ResponseBody)
	if err != nil && !errors.As(err, &f) {
		f = exchange.NewFault(exchange.FromInternal, exchange.Internal, "%w", err)
	}
	return p, f, string(b)
}

func (p *raw) awaitRequest() uint32 {
	p.t.Helper()
	var id uint32
	p.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if ok {
			id = h.StreamID
		}
		return ok
	})
	return id
}

// TestBackends has backends misbehave, each in its way.
func TestBackends(t *testing.T) {
	type answer func(p *raw, id uint32)
	head := func(fields ...string) answer {
		return func(p *raw, id uint32) { p.headers(id, true, fields...) }
	}
	const up = exchange.FromUpstream
	tests := []struct {
		name     string
		answer   answer
		kind     exchange.Kind // "": fine
		progress exchange.Progress
		body     string
	}{
		{"fine", func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200", "content-length", "3")
			p.fr.WriteData(id, true, []byte("abc"))
		}, "", exchange.Answered, "abc"},
		{"padded", func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200")
			p.fr.WriteDataPadded(id, true, []byte("abc"), make([]byte, 3))
		}, "", exchange.Answered, "abc"},
		{"refused", func(p *raw, id uint32) { p.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, exchange.BackendReset, exchange.NotSent, ""},
		{"reset", func(p *raw, id uint32) { p.fr.WriteRSTStream(id, http2.ErrCodeInternal) }, exchange.BackendReset, exchange.Sent, ""},
		{"reset behind head", func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200")
			p.fr.WriteRSTStream(id, http2.ErrCodeInternal)
		}, exchange.BackendReset, exchange.Answered, ""},
		{"reset behind the end", func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200")
			p.fr.WriteData(id, true, []byte("abc"))
			p.fr.WriteRSTStream(id, http2.ErrCodeNo)
		}, "", exchange.Answered, "abc"},
		{"goaway below", func(p *raw, id uint32) { p.fr.WriteGoAway(0, http2.ErrCodeNo, nil) }, exchange.BackendReset, exchange.NotSent, ""},
		{"goaway above", func(p *raw, id uint32) {
			p.fr.WriteGoAway(id, http2.ErrCodeNo, nil)
			p.headers(id, true, ":status", "204")
		}, "", exchange.Answered, ""},
		{"closes", func(p *raw, id uint32) { p.nc.Close() }, exchange.BackendReset, exchange.Sent, ""},
		{"no status", head("x", "y"), exchange.BackendMalformed, exchange.Sent, ""},
		{"odd status", head(":status", "20x"), exchange.BackendMalformed, exchange.Sent, ""},
		{"status 101", head(":status", "101"), exchange.BackendMalformed, exchange.Sent, ""},
		{"status 0", head(":status", "099"), exchange.BackendMalformed, exchange.Sent, ""},
		{"request pseudo", head(":status", "200", ":path", "/"), exchange.BackendMalformed, exchange.Sent, ""},
		{"upper case", head(":status", "200", "X-A", "b"), exchange.BackendMalformed, exchange.Sent, ""},
		{"connection", head(":status", "200", "connection", "close"), exchange.BackendMalformed, exchange.Sent, ""},
		{"LF in value", head(":status", "200", "x", "a\nb: c"), exchange.BackendMalformed, exchange.Sent, ""},
		{"length without body", head(":status", "200", "content-length", "4"), exchange.BackendMalformed, exchange.Sent, ""},
		{"short", func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200", "content-length", "4")
			p.fr.WriteData(id, true, []byte("abc"))
		}, exchange.BackendMalformed, exchange.Answered, ""},
		{"long", func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200", "content-length", "2")
			p.fr.WriteData(id, true, []byte("abc"))
		}, exchange.BackendMalformed, exchange.Answered, ""},
		{"data first", func(p *raw, id uint32) { p.fr.WriteData(id, true, []byte("abc")) }, exchange.BackendMalformed, exchange.Sent, ""},
		{"many interims", func(p *raw, id uint32) {
			for range 20 {
				p.headers(id, false, ":status", "103")
			}
		}, exchange.BackendMalformed, exchange.Sent, ""},
		{"large head", func(p *raw, id uint32) {
			p.big(id, p.block(":status", "200", "a", strings.Repeat("a", 14000), "b", strings.Repeat("a", 14000), "c", strings.Repeat("a", 14000)))
		}, exchange.BackendMalformed, exchange.Sent, ""},
		{"endless head", func(p *raw, id uint32) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(":status", "200")})
			for range 100 {
				p.fr.WriteContinuation(id, false, p.block("a", strings.Repeat("a", 1000)))
			}
		}, exchange.BackendMalformed, exchange.Sent, ""},
		{"push", func(p *raw, id uint32) {
			p.fr.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: p.block("a", "b"), EndHeaders: true})
		}, exchange.BackendMalformed, exchange.Sent, ""},
		{"pings", func(p *raw, id uint32) {
			for range 5000 {
				p.fr.WritePing(false, [8]byte{})
			}
		}, exchange.BackendMalformed, exchange.Sent, ""},
		{"settings", func(p *raw, id uint32) {
			for range 5000 {
				p.fr.WriteSettings()
			}
		}, exchange.BackendMalformed, exchange.Sent, ""},
		{"stream from nowhere", func(p *raw, id uint32) { p.headers(99, true, ":status", "200") }, exchange.BackendMalformed, exchange.Sent, ""},
		{"HTTP/1", func(p *raw, id uint32) { io.WriteString(p.nc, "HTTP/1.1 400 Bad Request\r\n\r\n") }, exchange.BackendMalformed, exchange.Sent, ""},
		{"overruns the window", func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200")
			for range 5 {
				p.fr.WriteData(id, false, make([]byte, 16<<10))
			}
			p.fr.WriteData(id, true, nil)
		}, "*", exchange.Answered, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			p, c := fake(t, &ClientConfig{MaxHeaders: 32 << 10})
			go func() {
				tt.answer(p, p.awaitRequest())
				io.Copy(io.Discard, p.nc) // until the test ends
			}()
			progress, fault, body := trip(c, newExchange("GET", "/"))
			if tt.kind == "*" { // may have been read fast enough
				return
			}
			if progress != tt.progress || body != tt.body && fault == nil {
				t.Errorf("progress %d, want %d; body %q, want %q (%v)", progress, tt.progress, body, tt.body, fault)
			}
			switch {
			case fault == nil && tt.kind != "":
				t.Errorf("no fault, want %s", tt.kind)
			case fault != nil && (fault.Kind != tt.kind || fault.Source != up):
				t.Errorf("fault %v of %s, want %q", fault, fault.Source, tt.kind)
			}
			until(t, "streams end", func() bool { return c.Streams() == 0 })
		})
	}
}

func TestReserve(t *testing.T) {
	noLeaks(t)
	p, c := fake(t, &ClientConfig{}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	p.until(func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() })
	for i, want := range []bool{true, true, false} {
		if got := c.Reserve(); got != want {
			t.Fatalf("slot %d: %v", i, got)
		}
	}
	c.Unreserve()
	if n := c.Streams(); n != 1 {
		t.Errorf("%d streams", n)
	}
	c.CloseWhenIdle()
	if c.Alive() || c.Reserve() {
		t.Error("takes requests while it closes")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		id := p.awaitRequest()
		p.headers(id, true, ":status", "204")
		p.until(func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok })
	}()
	if _, f := c.RoundTrip(newExchange("GET", "/")); f != nil {
		t.Errorf("a reserved slot: %v", f)
	}
	<-done
	<-c.done
}

func TestClientTimeouts(t *testing.T) {
	tests := []struct {
		name   string
		cfg    *ClientConfig
		set    func(x *exchange.Exchange)
		answer func(p *raw, id uint32)
		kind   exchange.Kind
	}{
		{name: "first byte", cfg: &ClientConfig{FirstByte: time.Millisecond}, kind: exchange.BackendTimeout},
		{name: "deadline", cfg: &ClientConfig{}, set: func(x *exchange.Exchange) { x.Deadline = time.Now().Add(time.Millisecond) }, kind: exchange.DeadlineExceeded},
		{name: "deadline in the past", cfg: &ClientConfig{}, set: func(x *exchange.Exchange) { x.Deadline = time.Now().Add(-time.Second) }, kind: exchange.DeadlineExceeded},
		{name: "idle body", cfg: &ClientConfig{Idle: time.Millisecond}, answer: func(p *raw, id uint32) {
			p.headers(id, false, ":status", "200")
			p.fr.WriteData(id, false, []byte("half"))
		}, kind: exchange.BackendTimeout},
		{name: "window stays shut", cfg: &ClientConfig{Idle: time.Millisecond}, set: func(x *exchange.Exchange) {
			x.Method, x.RequestLength = "POST", 1<<20
			x.RequestBody = exchange.Bytes(make([]byte, 1<<20))
		}, kind: exchange.BackendTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			p, c := fake(t, tt.cfg)
			x := newExchange("GET", "/")
			if tt.set != nil {
				tt.set(x)
			}
			code := make(chan http2.ErrCode, 1)
			go func() {
				id := p.awaitRequest()
				if tt.answer != nil {
					tt.answer(p, id)
				}
				p.until(func(f http2.Frame) bool {
					r, ok := f.(*http2.RSTStreamFrame)
					if ok {
						code <- r.ErrCode
					}
					return ok
				})
			}()
			if _, f, _ := trip(c, x); f == nil || f.Kind != tt.kind {
				t.Errorf("fault %v, want %s", f, tt.kind)
			}
			if got := <-code; got != http2.ErrCodeCancel {
				t.Errorf("reset with %v", got)
			}
			if !c.Alive() {
				t.Error("the connection is gone")
			}
		})
	}
}

// TestExpect holds the body back until the backend wants it, or time is up.
func TestExpect(t *testing.T) {
	tests := []struct {
		name   string
		answer func(p *raw, id uint32)
		status int
		body   bool
	}{
		{"continues", func(p *raw, id uint32) { p.headers(id, false, ":status", "100") }, 200, true},
		{"silent", func(*raw, uint32) {}, 200, true},
		{"refuses", func(p *raw, id uint32) { p.headers(id, true, ":status", "417") }, 417, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			p, c := fake(t, &ClientConfig{ExpectTimeout: 20 * time.Millisecond})
			x := newExchange("POST", "/")
			x.ExpectContinue, x.RequestLength = true, 4
			x.RequestBody = exchange.Bytes([]byte("body"))
			got := make(chan string, 1)
			go func() {
				id := p.awaitRequest()
				tt.answer(p, id)
				p.until(func(f http2.Frame) bool {
					switch f := f.(type) {
					case *http2.DataFrame:
						got <- string(f.Data())
						p.headers(id, true, ":status", "200")
						return true
					case *http2.RSTStreamFrame:
						got <- ""
						return true
					}
					return false
				})
			}()
			_, f, _ := trip(c, x)
			if f != nil || x.Status != tt.status {
				t.Errorf("status %d, fault %v", x.Status, f)
			}
			if sent := <-got == "body"; sent != tt.body {
				t.Errorf("body sent: %v, want %v", sent, tt.body)
			}
		})
	}
}

// TestWebsocket chains extended CONNECT through front and client.
func TestWebsocket(t *testing.T) {
	noLeaks(t)
	b, c := fake(t, &ClientConfig{}, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	s := serve(t, FrontConfig{Handler: &chain{c: c}}, false)
	p := dialRaw(t, s)
	p.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "localhost", ":path", "/chat", "sec-websocket-version", "13")
	var id uint32
	b.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if !ok {
			return false
		}
		id = h.StreamID
		if got := h.PseudoValue("method") + " " + h.PseudoValue("protocol") + " " + h.PseudoValue("path"); got != "CONNECT websocket /chat" || h.StreamEnded() {
			t.Errorf("backend got %q", got)
		}
		for _, hf := range h.RegularFields() {
			if hf.Name == "sec-websocket-key" {
				t.Error("backend got a key")
			}
		}
		return true
	})
	b.headers(id, false, ":status", "200")
	p.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if ok && (h.PseudoValue("status") != "200" || h.StreamEnded()) {
			t.Errorf("client got %v", h)
		}
		return ok
	})
	for range 3 {
		p.fr.WriteData(1, false, []byte("ping"))
		b.until(func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && string(d.Data()) == "ping" })
		b.fr.WriteData(id, false, []byte("pong"))
		p.until(func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && string(d.Data()) == "pong" })
	}
	p.fr.WriteData(1, true, nil)
	b.until(func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && d.StreamEnded() })
	if got := p.outcome(1); got != "" {
		t.Logf("client's stream ended with %s", got)
	}
	until(t, "stream ends", func() bool { _, busy := s.Active(); return busy == 0 && c.Streams() == 0 })
}

func TestWebsocketRefused(t *testing.T) {
	noLeaks(t)
	_, c := fake(t, &ClientConfig{})
	x := newExchange("GET", "/")
	x.Upgrade = "websocket"
	if progress, f, _ := trip(c, x); f == nil || f.Kind != exchange.UpgradeRefused || progress != exchange.NotSent {
		t.Errorf("progress %d, fault %v", progress, f)
	}
}

// TestDeadBackend sends a ping when a backend was silent for long, and gives up
// when it isn't answered. The sweeps are ours: no time passes.
func TestDeadBackend(t *testing.T) {
	noLeaks(t)
	p, c := fake(t, &ClientConfig{})
	done := make(chan *exchange.Fault)
	go func() {
		_, f, _ := trip(c, newExchange("GET", "/"))
		done <- f
	}()
	p.awaitRequest()
	c.Sweep(c.clock.Now() + pingAfter + second)
	p.until(func(f http2.Frame) bool { ping, ok := f.(*http2.PingFrame); return ok && !ping.IsAck() })
	c.Sweep(c.clock.Now() + pingAfter + pingWait + 2*second)
	if f := <-done; f == nil || f.Kind != exchange.BackendReset {
		t.Errorf("fault %v", f)
	}
}
