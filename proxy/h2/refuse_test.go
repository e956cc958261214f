package h2

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestRefusals sends one message each that must not be served as it stands.
func TestRefusals(t *testing.T) {
	get := func(fields ...string) []string {
		return append([]string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/"}, fields...)
	}
	const bad = "RST PROTOCOL_ERROR"
	tests := []struct {
		name   string
		fields []string
		want   string
	}{
		{"fine", get("x-a", "b"), "200"},
		{"upper case", get("X-A", "b"), bad},
		{"space in name", get("x a", "b"), bad},
		{"colon in name", get("x:a", "b"), bad},
		{"empty name", get("", "b"), bad},
		{"CR in value", get("x", "a\rb"), bad},
		{"LF in value", get("x", "a\nb"), bad},
		{"NUL in value", get("x", "a\x00b"), bad},
		{"control in value", get("x", "a\x01b"), bad},
		{"DEL in value", get("x", "a\x7fb"), bad},
		{"tab in value", get("x", "a\tb"), "200"},
		{"obs-text in value", get("x", "\xe9"), "200"},
		{"leading space", get("x", " a"), bad},
		{"trailing tab", get("x", "a\t"), bad},
		{"connection", get("connection", "close"), bad},
		{"keep-alive", get("keep-alive", "1"), bad},
		{"proxy-connection", get("proxy-connection", "close"), bad},
		{"transfer-encoding", get("transfer-encoding", "chunked"), bad},
		{"upgrade", get("upgrade", "h2c"), bad},
		{"te trailers", get("te", "trailers"), "200"},
		{"te gzip", get("te", "gzip"), bad},
		{"te twice", get("te", "trailers", "te", "trailers"), bad},
		{"content-length without body", get("content-length", "3"), bad},
		{"content-length twice", get("content-length", "0", "content-length", "0"), bad},
		{"content-length signed", get("content-length", "+0"), bad},
		{"content-length list", get("content-length", "0, 0"), bad},
		{"content-length huge", get("content-length", "99999999999999999999"), bad},
		{"authorization twice", get("authorization", "a", "authorization", "b"), "400"},
		{"host agrees", get("host", "LOCALHOST"), "200"},
		{"host differs", get("host", "other"), bad},
		{"host empty", get("host", ""), bad},
		{"host twice", get("host", "localhost", "host", "localhost"), bad},
		{"unknown pseudo", get(":x", "y"), bad},
		{"pseudo behind field", []string{":method", "GET", ":scheme", "http", "x", "y", ":path", "/"}, bad},
		{"pseudo twice", get(":path", "/"), bad},
		{"response pseudo", get(":status", "200"), bad},
		{"no method", []string{":scheme", "http", ":authority", "localhost", ":path", "/"}, bad},
		{"method no token", []string{":method", "GE T", ":scheme", "http", ":authority", "localhost", ":path", "/"}, bad},
		{"no scheme", []string{":method", "GET", ":authority", "localhost", ":path", "/"}, bad},
		{"odd scheme", []string{":method", "GET", ":scheme", "ftp", ":authority", "localhost", ":path", "/"}, bad},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "localhost"}, bad},
		{"empty path", []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", ""}, bad},
		{"relative path", []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "x"}, bad},
		{"absolute path", []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "http://localhost/"}, bad},
		{"star with GET", []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "*"}, bad},
		{"star with OPTIONS", []string{":method", "OPTIONS", ":scheme", "http", ":authority", "localhost", ":path", "*"}, "200"},
		{"no host at all", []string{":method", "GET", ":scheme", "http", ":path", "/"}, "400"},
		{"host alone", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "localhost"}, "200"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "localhost:22"}, bad},
		{"protocol with GET", get(":protocol", "websocket"), bad},
		{"expect something", get("expect", "miracles"), "417"},
		{"long URI", []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/" + strings.Repeat("a", 9000)}, "414"},
		{"large value", get("x", strings.Repeat("a", 14000), "y", strings.Repeat("a", 14000), "z", strings.Repeat("a", 14000)), "431"},
		{"many fields", get(strings.Split(strings.Repeat("x,y,", 150), ",")[:300]...), "431"},
	}
	noLeaks(t)
	s := serve(t, FrontConfig{Handler: handlerFunc(echo)}, false)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := dialRaw(t, s)
			p.big(1, p.block(tt.fields...))
			if got := p.outcome(1); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if tt.want == "closed" {
				return
			}
			p.request(3, "/") // the connection goes on
			if got := p.outcome(3); got != "200" {
				t.Errorf("next request: %s", got)
			}
		})
	}
}

// big sends a block in as many frames as it takes, and ends the stream.
func (p *raw) big(id uint32, b []byte) {
	n := min(len(b), 16000)
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:n], EndStream: true, EndHeaders: n == len(b)})
	for b = b[n:]; len(b) > 0; b = b[n:] {
		n = min(len(b), 16000)
		p.fr.WriteContinuation(id, n == len(b), b[:n])
	}
}

// TestBodyRefusals sends heads that are fine, and bodies that aren't.
func TestBodyRefusals(t *testing.T) {
	tests := []struct {
		name string
		send func(p *raw)
		want string
	}{
		{"fits", func(p *raw) { p.head(1, false, "content-length", "3"); p.fr.WriteData(1, true, []byte("abc")) }, "200"},
		{"padded", func(p *raw) {
			p.head(1, false, "content-length", "3")
			p.fr.WriteDataPadded(1, true, []byte("abc"), make([]byte, 9))
		}, "200"},
		{"longer", func(p *raw) { p.head(1, false, "content-length", "3"); p.fr.WriteData(1, true, []byte("abcd")) }, "RST PROTOCOL_ERROR"},
		{"shorter", func(p *raw) { p.head(1, false, "content-length", "3"); p.fr.WriteData(1, true, []byte("ab")) }, "RST PROTOCOL_ERROR"},
		{"zero but some", func(p *raw) { p.head(1, false, "content-length", "0"); p.fr.WriteData(1, true, []byte("a")) }, "RST PROTOCOL_ERROR|200"},
		{"shorter with trailers", func(p *raw) {
			p.head(1, false, "content-length", "3")
			p.headers(1, true, "x-trailer", "y")
		}, "RST PROTOCOL_ERROR"},
		{"trailers", func(p *raw) {
			p.head(1, false)
			p.fr.WriteData(1, false, []byte("a"))
			p.headers(1, true, "x-trailer", "y")
		}, "200"},
		{"trailers without end", func(p *raw) {
			p.head(1, false)
			p.headers(1, false, "x-trailer", "y")
		}, "RST PROTOCOL_ERROR"},
		{"pseudo in trailers", func(p *raw) {
			p.head(1, false)
			p.headers(1, true, ":path", "/")
		}, "RST PROTOCOL_ERROR"},
		{"data behind the end", func(p *raw) {
			p.head(1, true)
			p.fr.WriteData(1, true, []byte("a"))
		}, "RST STREAM_CLOSED|200"},
		{"data on an idle stream", func(p *raw) { p.fr.WriteData(1, true, []byte("a")) }, "GOAWAY PROTOCOL_ERROR"},
		{"even stream", func(p *raw) { p.head(2, true) }, "GOAWAY PROTOCOL_ERROR"},
		{"stream goes back", func(p *raw) { p.head(3, true); p.head(1, true) }, "GOAWAY STREAM_CLOSED"},
		{"push", func(p *raw) {
			p.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.block("a", "b"), EndHeaders: true})
		}, "GOAWAY PROTOCOL_ERROR"},
		{"stream window overrun", func(p *raw) {
			p.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/wait")
			for range 5 {
				p.fr.WriteData(1, false, make([]byte, 16<<10))
			}
		}, "RST FLOW_CONTROL_ERROR"},
		{"window of a stream overflows", func(p *raw) {
			p.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/wait")
			p.fr.WriteWindowUpdate(1, 1<<31-1)
		}, "RST FLOW_CONTROL_ERROR"},
		{"window of the connection overflows", func(p *raw) { p.fr.WriteWindowUpdate(0, 1<<31-1) }, "GOAWAY FLOW_CONTROL_ERROR"},
		{"broken HPACK", func(p *raw) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
		}, "GOAWAY COMPRESSION_ERROR"},
		{"large frame", func(p *raw) { p.head(1, false); p.fr.WriteData(1, true, make([]byte, 16<<10+1)) }, "GOAWAY FRAME_SIZE_ERROR"},
		{"bad CONNECT", func(p *raw) {
			p.headers(1, false, ":method", "CONNECT", ":scheme", "http", ":authority", "localhost", ":path", "/", ":protocol", "raw")
		}, "501"},
	}
	noLeaks(t)
	release := make(chan struct{})
	s := serve(t, FrontConfig{Handler: handlerFunc(func(x *exchange.Exchange) {
		if x.Target.Path == "/wait" {
			until(t, "client leaves", func() bool { return x.Front.Gone(x) })
		}
		echo(x)
	})}, false)
	close(release)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := dialRaw(t, s)
			tt.send(p)
			got := p.outcome(1)
			for _, w := range strings.Split(tt.want, "|") {
				if got == w {
					return
				}
			}
			t.Errorf("got %s, want %s", got, tt.want)
		})
	}
}

// blamed keeps what connections are asked to end and closed for.
type blamed struct {
	mu           sync.Mutex
	asked, ended []abuse.Kind
}

func (b *blamed) take(_ *exchange.Conn, k abuse.Kind, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if closed {
		b.ended = append(b.ended, k)
	} else {
		b.asked = append(b.asked, k)
	}
}

// want waits for the end of one connection, for that reason, and checks that it
// was asked to end before.
func (b *blamed) want(t *testing.T, k abuse.Kind, asked bool) {
	t.Helper()
	until(t, "the end of the connection is told", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.ended) > 0 })
	b.mu.Lock()
	defer b.mu.Unlock()
	if (k == abuse.Reset || k == abuse.Malformed) && b.ended[0] == abuse.Refused {
		k = abuse.Refused // handlers of requests that are over still ran
	}
	if len(b.ended) != 1 || b.ended[0] != k || (len(b.asked) == 1) != asked || len(b.asked) > 1 {
		t.Errorf("asked to end for %v, closed for %v; want %v, and asked before: %t", b.asked, b.ended, k, asked)
	}
}

// TestBudgets floods a connection with what is cheap to send: it is asked to end
// and then closed, and before that causes a bounded number of requests and
// answering frames.
func TestBudgets(t *testing.T) {
	const calm = "GOAWAY ENHANCE_YOUR_CALM"
	tests := []struct {
		name   string
		n      int
		kind   abuse.Kind
		abrupt bool // it isn't asked to end before
		send   func(p *raw, i int)
	}{
		{"rapid reset", 1000, abuse.Reset, false, func(p *raw, i int) {
			id := uint32(2*i + 1)
			p.request(id, "/wait")
			p.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		}},
		{"we reset", 1000, abuse.Malformed, false, func(p *raw, i int) { // CVE-2025-8671
			id := uint32(2*i + 1)
			p.request(id, "/wait")
			p.fr.WriteRawFrame(http2.FrameWindowUpdate, 0, id, []byte{0, 0, 0, 0})
		}},
		{"malformed requests", 1000, abuse.Malformed, false, func(p *raw, i int) { p.head(uint32(2*i+1), true, "upgrade", "x") }},
		{"refused streams", 5000, abuse.Refused, false, func(p *raw, i int) { p.request(uint32(2*i+1), "/wait") }},
		{"settings", 5000, abuse.Settings, false, func(p *raw, _ int) { p.fr.WriteSettings() }},
		{"long settings", 2, abuse.Settings, true, func(p *raw, _ int) {
			p.fr.WriteSettings(make([]http2.Setting, 1000)...)
		}},
		{"settings acks", 5000, abuse.Unknown, false, func(p *raw, _ int) { p.fr.WriteSettingsAck() }},
		{"pings", 5000, abuse.Ping, false, func(p *raw, _ int) { p.fr.WritePing(false, [8]byte{}) }},
		{"ping acks", 5000, abuse.Ping, false, func(p *raw, _ int) { p.fr.WritePing(true, [8]byte{}) }},
		{"priority", 10000, abuse.Priority, false, func(p *raw, _ int) { p.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3}) }},
		{"priority updates", 10000, abuse.Priority, false, func(p *raw, _ int) { p.fr.WritePriorityUpdate(1, "u=1") }},
		{"unknown frames", 5000, abuse.Unknown, false, func(p *raw, _ int) { p.fr.WriteRawFrame(0x77, 0, 0, nil) }},
		{"window updates", 5000, abuse.Window, false, func(p *raw, _ int) { p.fr.WriteWindowUpdate(0, 1) }},
		{"empty data", 5000, abuse.Empty, false, func(p *raw, i int) {
			if i == 0 {
				p.head(1, false)
			}
			p.fr.WriteData(1, false, nil)
		}},
		{"empty continuations", 100, abuse.Headers, true, func(p *raw, i int) {
			if i == 0 {
				p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
			}
			p.fr.WriteContinuation(1, false, nil)
		}},
		{"continuation bytes", 100, abuse.Headers, true, func(p *raw, i int) {
			if i == 0 {
				p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
			}
			p.fr.WriteContinuation(1, false, p.block("x", strings.Repeat("y", 10000)))
		}},
		{"data for streams that are over", 5000, abuse.Stray, false, func(p *raw, i int) {
			if i == 0 {
				p.request(1, "/")
			}
			p.fr.WriteData(1, true, []byte("x"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			var served atomic.Int32
			var b blamed
			s := serve(t, FrontConfig{MaxStreams: 20, Abusive: b.take, Handler: handlerFunc(func(x *exchange.Exchange) {
				served.Add(1)
				if x.Target.Path == "/wait" {
					until(t, "client leaves", func() bool { return x.Front.Gone(x) })
				}
				echo(x)
			})}, false)
			p := dialRaw(t, s)
			go func() {
				for i := range tt.n {
					tt.send(p, i)
				}
			}()
			asked := false
			for frames := 1; ; frames++ {
				f, err := p.fr.ReadFrame()
				if err != nil {
					t.Fatalf("%v, want %s", err, calm)
				}
				if g, ok := f.(*http2.GoAwayFrame); ok {
					if g.ErrCode == http2.ErrCodeNo && !asked {
						asked = true
						continue
					}
					if got := "GOAWAY " + g.ErrCode.String(); got != calm {
						t.Errorf("got %s, want %s", got, calm)
					}
					if n := served.Load(); n > 200 || frames > 200 {
						t.Errorf("%d requests and %d frames before that", n, frames)
					}
					break
				}
			}
			if asked == tt.abrupt {
				t.Errorf("asked to end before: %t", asked)
			}
			b.want(t, tt.kind, !tt.abrupt)
		})
	}
}

// TestTinyWindows: a client that lets us send a byte at a time doesn't get the
// whole of a response that way, nor many bytes of it.
func TestTinyWindows(t *testing.T) {
	noLeaks(t)
	var b blamed
	s := serve(t, FrontConfig{Abusive: b.take, Handler: handlerFunc(func(x *exchange.Exchange) { x.Reply(200, "", make([]byte, 20000)) })}, false)
	p := dialRaw(t, s)
	p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	p.request(1, "/")
	for frames := 1; ; frames++ {
		f, err := p.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			p.fr.WriteWindowUpdate(1, 1)
		case *http2.GoAwayFrame:
			if f.ErrCode == http2.ErrCodeNo {
				continue
			}
			if f.ErrCode != http2.ErrCodeEnhanceYourCalm || frames > 300 {
				t.Errorf("GOAWAY %v after %d frames", f.ErrCode, frames)
			}
			b.want(t, abuse.Window, true)
			return
		}
	}
}

// TestRefusedRequests: requests that can't be served for their form end the
// connection in the end, though each has its answer.
func TestRefusedRequests(t *testing.T) {
	noLeaks(t)
	var b blamed
	s := serve(t, FrontConfig{Abusive: b.take, Handler: handlerFunc(func(x *exchange.Exchange) {
		x.Err = exchange.NewFault(exchange.FromClient, exchange.BadPath, "no such path can be")
		x.Reply(400, "", nil)
		_ = x.Front.Respond(x)
	})}, false)
	p := dialRaw(t, s)
	go func() {
		for i := range 1000 {
			p.request(uint32(2*i+1), "/%00")
		}
	}()
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok && g.ErrCode != http2.ErrCodeNo {
			if g.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY %v", g.ErrCode)
			}
			break
		}
	}
	b.want(t, abuse.Refused, true)
}

// TestBlame: which ends of a connection are put down to the client.
func TestBlame(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  FrontConfig
		do   func(p *raw)
		want string
	}{
		{"protocol error", FrontConfig{}, func(p *raw) { p.head(2, true) }, "malformed"},
		{"no HTTP/2", FrontConfig{}, func(p *raw) { p.nc.Write(make([]byte, 100)) }, "malformed"},
		{"half a head", FrontConfig{HeaderTimeout: time.Millisecond}, func(p *raw) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(":method", "GET")})
		}, "slow"},
		{"half a frame", FrontConfig{HeaderTimeout: time.Millisecond}, func(p *raw) { p.nc.Write([]byte{0, 0, 9, 1}) }, "slow"},
		{"no request", FrontConfig{HeaderTimeout: time.Millisecond}, func(*raw) {}, ""},
		{"idle", FrontConfig{IdleTimeout: time.Millisecond}, func(p *raw) { p.request(1, "/") }, ""},
		{"leaves", FrontConfig{}, func(p *raw) { p.request(1, "/"); p.nc.Close() }, ""},
		{"leaves within a frame", FrontConfig{}, func(p *raw) { p.nc.Write([]byte{0, 0, 9, 1}); p.nc.Close() }, ""},
		{"leaves within a head", FrontConfig{}, func(p *raw) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(":method", "GET")})
			p.nc.Close()
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			var b blamed
			ended := make(chan struct{})
			tt.cfg.Handler, tt.cfg.Abusive = handlerFunc(echo), b.take
			tt.cfg.Ended = func(*exchange.Conn) { close(ended) }
			s := serve(t, tt.cfg, false)
			p := dialRaw(t, s)
			tt.do(p)
			<-ended
			got := ""
			for _, k := range b.ended {
				got += k.String()
			}
			if got != tt.want || len(b.asked) > 0 {
				t.Errorf("blamed for %q, want %q (asked: %v)", got, tt.want, b.asked)
			}
		})
	}
}

// TestNoFalseAlarm does in earnest what the budgets bound: many requests, pings
// and window updates beside data, some cancelled requests.
func TestNoFalseAlarm(t *testing.T) {
	noLeaks(t)
	s := serve(t, FrontConfig{Handler: handlerFunc(func(x *exchange.Exchange) {
		x.Reply(200, "", make([]byte, 20000))
	})}, false)
	p := dialRaw(t, s)
	go func() {
		for i := range 2000 {
			id := uint32(2*i + 1)
			p.request(id, "/")
			p.fr.WriteWindowUpdate(0, 20000)
			if i%5 == 0 {
				p.fr.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			if i%10 == 0 {
				p.fr.WritePing(false, [8]byte{})
			}
			for int64(i)*4/5-p.served.Load() > 60 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for p.served.Load() < 1500 {
		f, err := p.fr.ReadFrame()
		if err != nil {
			t.Fatalf("after %d: %v", p.served.Load(), err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			t.Fatalf("after %d: GOAWAY %v", p.served.Load(), g.ErrCode)
		}
		if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
			p.served.Add(1)
		}
	}
}

// TestTimeouts shortens each limit in turn.
func TestTimeouts(t *testing.T) {
	tests := []struct {
		name string
		cfg  FrontConfig
		send func(p *raw)
		want string
	}{
		{"no request", FrontConfig{HeaderTimeout: time.Millisecond}, func(*raw) {}, "GOAWAY NO_ERROR"},
		{"half a frame", FrontConfig{HeaderTimeout: time.Millisecond}, func(p *raw) { p.nc.Write([]byte{0, 0, 9, 1}) }, "GOAWAY NO_ERROR"},
		{"half a head", FrontConfig{HeaderTimeout: time.Millisecond}, func(p *raw) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(":method", "GET")})
		}, "GOAWAY NO_ERROR"},
		{"idle", FrontConfig{IdleTimeout: time.Millisecond}, func(p *raw) {
			p.request(1, "/")
			p.outcome(1)
		}, "GOAWAY NO_ERROR"},
		{"body stalls", FrontConfig{StallTimeout: time.Millisecond}, func(p *raw) { p.head(1, false) }, "RST CANCEL"},
		{"window stays shut", FrontConfig{StallTimeout: time.Millisecond}, func(p *raw) { p.request(1, "/big") }, "RST CANCEL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			var fault *exchange.Fault
			tt.cfg.Handler = handlerFunc(func(x *exchange.Exchange) {
				if x.Target.Path == "/big" {
					x.Reply(200, "", make([]byte, 100<<10))
					return
				}
				echo(x)
				fault = x.Err
			})
			s := serve(t, tt.cfg, false)
			p := dialRaw(t, s)
			tt.send(p)
			if got := p.outcome(1); got != tt.want {
				t.Errorf("got %s, want %s (%v)", got, tt.want, fault)
			}
		})
	}
}
