package h3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// rawClient speaks QUIC and leaves HTTP/3 to the test.
type rawClient struct {
	tb testing.TB
	*quic.Conn
}

func dialRaw(tb testing.TB, addr string) *rawClient {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := quic.DialAddr(ctx, addr, clientTLS(), &quic.Config{MaxIdleTimeout: patience})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.CloseWithError(0, "") })
	return &rawClient{tb, c}
}

func clientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "gate.test", NextProtos: []string{"h3"}} //nolint:gosec // its own certificate
}

// uni opens a unidirectional stream that says b, and ends it or leaves it open.
func (c *rawClient) uni(b []byte, end bool) {
	c.tb.Helper()
	str, err := c.OpenUniStream()
	if err == nil {
		_, err = str.Write(b)
	}
	if err == nil && end {
		err = str.Close()
	}
	if err != nil {
		c.tb.Fatal(err)
	}
}

// ask sends b on a request stream and says what became of it: "200" and its
// like, "reset 0x…", or "closed 0x…" for the connection.
func (c *rawClient) ask(b []byte, end bool) string {
	c.tb.Helper()
	str, err := c.OpenStream()
	if err != nil {
		return outcome(nil, err)
	}
	_ = str.SetDeadline(time.Now().Add(patience))
	if _, err := str.Write(b); err != nil {
		return outcome(nil, err)
	}
	if end {
		_ = str.Close() // what it leads to is read
	}
	return outcome(io.ReadAll(str))
}

// closed waits for the end of the connection.
func (c *rawClient) closed() string {
	select {
	case <-c.Context().Done():
		return outcome(nil, context.Cause(c.Context()))
	case <-time.After(patience):
		return "open"
	}
}

func outcome(b []byte, err error) string {
	var app *quic.ApplicationError
	var str *quic.StreamError
	switch {
	case errors.As(err, &app):
		return fmt.Sprintf("closed 0x%x", uint64(app.ErrorCode))
	case errors.As(err, &str):
		return fmt.Sprintf("reset 0x%x", uint64(str.ErrorCode))
	case err != nil:
		return err.Error()
	}
	in := input{from: strings.NewReader(string(b))}
	var s section
	typ, n, err := in.header()
	if err != nil || typ != frameHeaders {
		return fmt.Sprintf("no HEADERS: %x", b)
	}
	p, err := in.payload(int(n))
	if err == nil {
		err = s.begin(p)
	}
	if err != nil {
		return err.Error()
	}
	_, status, err := s.next()
	if err != nil {
		return err.Error()
	}
	return status
}

// frame is one frame, or frames after another.
func frame(typ uint64, payload ...byte) []byte {
	return append(appendVarint(appendVarint(nil, typ), uint64(len(payload))), payload...)
}

// lines is a field section of "name: value" lines, literals all of them.
func lines(fields ...string) []byte {
	b := appendPrefix(nil)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "= ")
		b = appendInt(b, 0x20, 3, uint64(len(name)))
		b = append(b, name...)
		b = append(appendInt(b, 0, 7, uint64(len(value))), value...)
	}
	return b
}

func headers(fields ...string) []byte { return frame(frameHeaders, lines(fields...)...) }

// get is the head of a request, with more fields.
func get(more ...string) []byte {
	return headers(append([]string{":method= GET", ":scheme= https", ":authority= gate.test", ":path= /"}, more...)...)
}

func post(more ...string) []byte {
	return headers(append([]string{":method= POST", ":scheme= https", ":authority= gate.test", ":path= /"}, more...)...)
}

func join(frames ...[]byte) []byte {
	var b []byte
	for _, f := range frames {
		b = append(b, f...)
	}
	return b
}

// startRaw serves with a handler that reads the body and tells of faults.
func startRaw(tb testing.TB, change func(*FrontConfig)) (*fixture, chan string) {
	faults := make(chan string, 100)
	return start(tb, change, func(x *exchange.Exchange) {
		fault := x.Fault
		if x.RequestBody != nil && fault == nil {
			if _, err := io.Copy(io.Discard, x.RequestBody); err != nil {
				errors.As(err, &fault)
			}
		}
		status := 200
		if fault != nil {
			status = 400
			if fault.Kind == exchange.ClientTimeout {
				status = 408
			}
			faults <- string(fault.Kind)
		}
		answer(x, status, "")
	}), faults
}

func TestRequestStreams(t *testing.T) {
	const (
		ok         = "200"
		unexpected = "closed 0x105"
		broken     = "closed 0x106"
		packed     = "closed 0x200"
		malformed  = "reset 0x10e"
	)
	tests := []struct {
		name string
		send []byte
		want string
	}{
		{"a request", get(), ok},
		{"with a field", get("x-a= b"), ok},
		{"an unknown frame first", join(frame(0x21, 1, 2, 3), get()), ok},
		{"unknown frames all over", join(frame(0x21), post(), frame(0x21, 1), frame(0, 'a'), frame(0x40), headers("x-t= 1"), frame(0x21)), ok},
		{"empty DATA", join(post(), frame(0), frame(0, 'a'), frame(0)), ok},
		{"a length that is right", join(post("content-length= 3"), frame(0, 'a'), frame(0, 'b', 'c')), ok},
		{"a long form of an integer", join([]byte{0x40, 0x01}, get()[1:]), ok},

		{"nothing", nil, "reset 0x10d"},
		{"an unknown frame alone", frame(0x21), "reset 0x10d"},
		{"a type alone", []byte{1}, broken},
		{"half a head", get()[:10], broken},
		{"half of DATA", join(post(), frame(0, 'a', 'b')[:3]), broken},
		{"half an unknown frame", []byte{0x21, 9, 1}, broken},
		{"DATA first", join(frame(0, 'a'), get()), unexpected},
		{"SETTINGS", frame(frameSettings), unexpected},
		{"GOAWAY behind the head", join(post(), frame(frameGoAway, 0)), unexpected},
		{"PUSH_PROMISE", frame(framePushPromise, 0, 0, 0), unexpected},
		{"a frame of HTTP/2", frame(0x2), unexpected},
		{"another", join(post(), frame(0x9)), unexpected},
		{"DATA behind trailers", join(post(), headers("x-t= 1"), frame(0, 'a')), unexpected},
		{"trailers twice", join(post(), headers("x-t= 1"), headers("x-t= 1")), unexpected},
		{"much in unknown frames", join(frame(0x21, make([]byte, 40<<10)...), frame(0x21, make([]byte, 40<<10)...), get()), "closed 0x107"},

		{"an insert count", frame(frameHeaders, 1, 0, 0xc0|17), packed},
		{"a negative base", frame(frameHeaders, 0, 0x80, 0xc0|17), packed},
		{"the dynamic table", frame(frameHeaders, 0, 0, 0x80), packed},
		{"the dynamic table behind the base", frame(frameHeaders, 0, 0, 0x10), packed},
		{"beyond the static table", frame(frameHeaders, 0, 0, 0xff, 63), packed},
		{"a string that is cut off", frame(frameHeaders, 0, 0, 0x51, 5, '/'), packed},
		{"a bad Huffman code", frame(frameHeaders, 0, 0, 0x51, 0x84, 0xff, 0xff, 0xff, 0xff), packed},
		{"a huge integer", frame(frameHeaders, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), packed},
		{"an empty section", frame(frameHeaders), packed},
		{"trailers of nothing", join(post(), frame(frameHeaders)), packed},

		{"no fields", frame(frameHeaders, 0, 0), malformed},
		{"no :path", headers(":method= GET", ":scheme= https", ":authority= a"), malformed},
		{"no :scheme", headers(":method= GET", ":path= /", ":authority= a"), malformed},
		{"no :authority", headers(":method= GET", ":path= /", ":scheme= https"), malformed},
		{"Host instead", headers(":method= GET", ":path= /", ":scheme= https", "host= a"), ok},
		{"Host, too", get("host= gate.test"), ok},
		{"another Host", get("host= other.test"), malformed},
		{"two of Host", get("host= gate.test", "host= gate.test"), malformed},
		{"userinfo", headers(":method= GET", ":path= /", ":scheme= https", ":authority= u@a"), malformed},
		{"an absolute :path", headers(":method= GET", ":path= http://a/", ":scheme= https", ":authority= a"), malformed},
		{"OPTIONS *", headers(":method= OPTIONS", ":path= *", ":scheme= https", ":authority= a"), ok},
		{"GET *", headers(":method= GET", ":path= *", ":scheme= https", ":authority= a"), malformed},
		{"another scheme", headers(":method= GET", ":path= /", ":scheme= ftp", ":authority= a"), malformed},
		{"a method with a space", headers(":method= G T", ":path= /", ":scheme= https", ":authority= a"), malformed},
		{":path twice", get(":path= /"), malformed},
		{":status", get(":status= 200"), malformed},
		{":protocol", get(":protocol= websocket"), malformed},
		{"a pseudo-field last", join(headers("x-a= b", ":method= GET", ":scheme= https", ":authority= a", ":path= /")), malformed},
		{"an empty :path", headers(":method= GET", ":path= ", ":scheme= https", ":authority= a"), malformed},
		{"an upper-case name", get("X-A= b"), malformed},
		{"a name with a space", get("x a= b"), malformed},
		{"no name", get("= b"), malformed},
		{"a line break", get("x-a= b\r\nc: d"), malformed},
		{"a NUL", get("x-a= b\x00"), malformed},
		{"a value that begins with a space", get("x-a=  b"), malformed},
		{"Connection", get("connection= close"), malformed},
		{"Transfer-Encoding", post("transfer-encoding= chunked"), malformed},
		{"Upgrade", get("upgrade= h2c"), malformed},
		{"TE", get("te= gzip"), malformed},
		{"TE: trailers", get("te= trailers"), ok},
		{"a length twice", join(post("content-length= 1", "content-length= 1"), frame(0, 'a')), malformed},
		{"a length with a sign", join(post("content-length= +1"), frame(0, 'a')), malformed},
		{"a length without content", post("content-length= 1"), malformed},
		{"more than the length", join(post("content-length= 1"), frame(0, 'a', 'b')), malformed},
		{"more in a second frame", join(post("content-length= 1"), frame(0, 'a'), frame(0, 'b')), malformed},
		{"less than the length", join(post("content-length= 3"), frame(0, 'a', 'b')), malformed},
		{"a pseudo-field in trailers", join(post(), headers(":path= /")), malformed},
		{"an upper-case name in trailers", join(post(), headers("X= y")), malformed},
		{"CONNECT", headers(":method= CONNECT", ":authority= a:1"), "400"},
		{"CONNECT with :path", headers(":method= CONNECT", ":authority= a:1", ":path= /"), malformed},
	}
	f, faults := startRaw(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eventually(t, "the last request is over", func() bool { _, n := f.front.Active(); return n == 0 })
			for len(faults) > 0 {
				<-faults
			}
			c := dialRaw(t, f.addr)
			if got := c.ask(tt.send, true); got != tt.want {
				t.Errorf("outcome %s, want %s", got, tt.want)
			}
			if n := len(faults); n != 1 && strings.HasPrefix(tt.want, "reset") {
				t.Errorf("%d faults were told to the handler, want 1", n)
			}
		})
	}
}

func TestUnidirectionalStreams(t *testing.T) {
	settings := frame(frameSettings, 0x01, 0x00, 0x06, 0x40, 0x64, 0x40, 0xff, 0x03)
	control := func(frames ...[]byte) []byte { return join([]byte{streamControl}, settings, join(frames...)) }
	tests := []struct {
		name string
		send []byte
		end  bool
		want string // "": it goes on
	}{
		{"settings", control(), false, ""},
		{"what clients send", control(frame(frameMaxPushID, 1), frame(frameMaxPushID, 1), frame(framePriorityRequest, 0, 'u', '=', '1'), frame(0x21, 1), frame(frameGoAway, 4), frame(frameGoAway, 0)), false, ""},
		{"QPACK encoder", []byte{streamEncoder, 0x20}, false, ""},
		{"QPACK decoder", []byte{streamDecoder, 0x44, 0x7f, 0x81, 0x01}, false, ""},
		{"grease", []byte{0x21, 1, 2, 3}, true, ""},
		{"nothing", nil, true, ""},

		{"no settings", []byte{streamControl, frameGoAway, 1, 0}, false, "closed 0x10a"},
		{"settings twice", control(settings), false, "closed 0x105"},
		{"a setting twice", []byte{streamControl, frameSettings, 4, 6, 1, 6, 1}, false, "closed 0x109"},
		{"a setting of HTTP/2", []byte{streamControl, frameSettings, 2, 2, 1}, false, "closed 0x109"},
		{"settings that are cut off", []byte{streamControl, frameSettings, 1, 6}, false, "closed 0x106"},
		{"DATA", control(frame(0)), false, "closed 0x105"},
		{"HEADERS", control(get()), false, "closed 0x105"},
		{"a frame of HTTP/2", control(frame(0x8)), false, "closed 0x105"},
		{"CANCEL_PUSH", control(frame(frameCancelPush, 0)), false, "closed 0x108"},
		{"a priority of a push", control(frame(framePriorityPush, 0)), false, "closed 0x108"},
		{"a priority of our stream", control(frame(framePriorityRequest, 1)), false, "closed 0x108"},
		{"MAX_PUSH_ID goes back", control(frame(frameMaxPushID, 2), frame(frameMaxPushID, 1)), false, "closed 0x108"},
		{"GOAWAY goes back", control(frame(frameGoAway, 0), frame(frameGoAway, 4)), false, "closed 0x108"},
		{"GOAWAY with more", control(frame(frameGoAway, 0, 0)), false, "closed 0x106"},
		{"GOAWAY with nothing", control(frame(frameGoAway)), false, "closed 0x106"},
		{"a large frame", control(appendVarint(appendVarint(nil, frameGoAway), 1<<20)), false, "closed 0x107"},
		{"control ends", control(), true, "closed 0x104"},
		{"encoder ends", []byte{streamEncoder}, true, "closed 0x104"},
		{"decoder ends", []byte{streamDecoder}, true, "closed 0x104"},
		{"a push", []byte{streamPush, 0}, false, "closed 0x103"},
		{"a dynamic table", []byte{streamEncoder, 0x3f, 0x10}, false, "closed 0x201"},
		{"an insertion", []byte{streamEncoder, 0xc0, 1, 'a'}, false, "closed 0x201"},
		{"an acknowledgement", []byte{streamDecoder, 0x80}, false, "closed 0x202"},
		{"an increment", []byte{streamDecoder, 0x01}, false, "closed 0x202"},
	}
	f, _ := startRaw(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dialRaw(t, f.addr)
			c.uni(tt.send, tt.end)
			if tt.want == "" {
				if got := c.ask(get(), true); got != "200" {
					t.Errorf("a request after it: %s", got)
				}
				return
			}
			if got := c.closed(); got != tt.want {
				t.Errorf("outcome %s, want %s", got, tt.want)
			}
		})
	}
	for _, kind := range []byte{streamControl, streamEncoder, streamDecoder} {
		c := dialRaw(t, f.addr)
		first := []byte{kind}
		if kind == streamControl {
			first = control()
		}
		c.uni(first, false)
		c.uni(first, false)
		if got := c.closed(); got != "closed 0x103" {
			t.Errorf("two streams of type %d: %s", kind, got)
		}
	}
}

// TestSlowHead: the head has its time, whether nothing comes or too little.
func TestSlowHead(t *testing.T) {
	f, faults := startRaw(t, func(c *FrontConfig) { c.HeaderTimeout = 100 * time.Millisecond })
	for _, send := range [][]byte{get()[:1], get()[:20], get()} {
		c := dialRaw(t, f.addr)
		if got := c.ask(send, false); got != "408" || <-faults != string(exchange.ClientTimeout) {
			t.Errorf("after %d bytes of %d: %s, want 408", len(send), len(get()), got)
		}
	}
}

// TestHeadersBeyondAllBounds: what is too large to be read is refused, counted
// and not waited for.
func TestHeadersBeyondAllBounds(t *testing.T) {
	f, faults := startRaw(t, nil)
	c := dialRaw(t, f.addr)
	if got := c.ask([]byte{frameHeaders, 0xbf, 0xff, 0xff, 0xff}, false); got != "400" || <-faults != string(exchange.HeadersTooLarge) {
		t.Errorf("outcome %s, want a fault", got)
	}
}

// TestIdleConnectionsClose: without requests for as long as they may be.
func TestIdleConnectionsClose(t *testing.T) {
	f, _ := startRaw(t, func(c *FrontConfig) { c.IdleTimeout = 200 * time.Millisecond })
	c := dialRaw(t, f.addr)
	if got := c.ask(get(), true); got != "200" {
		t.Fatal(got)
	}
	if got := c.closed(); got != "closed 0x100" {
		t.Errorf("outcome %s, want it closed without an error", got)
	}
	eventually(t, "no connection", func() bool { n, _ := f.front.Active(); return n == 0 })
}

// TestDrainHasTwoSteps: what a client sends before it can have heard of the
// first GOAWAY is served; after the second one it is rejected.
func TestDrainHasTwoSteps(t *testing.T) {
	f, _ := startRaw(t, nil)
	c := dialRaw(t, f.addr)
	str, err := c.AcceptUniStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	in := input{from: str}
	if kind, err := in.number(); kind != streamControl || err != nil {
		t.Fatalf("stream of type %d, %v", kind, err)
	}
	if typ, n, err := in.header(); typ != frameSettings || err != nil || in.skip(n) != nil {
		t.Fatalf("frame of type %d, %v, want SETTINGS", typ, err)
	}
	goAway := func() uint64 {
		t.Helper()
		typ, _, err := in.header()
		if err != nil || typ != frameGoAway {
			t.Fatalf("frame of type %d, %v, want GOAWAY", typ, err)
		}
		id, err := in.number()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	f.front.Drain()
	if id := goAway(); id != maxStreamID {
		t.Errorf("first GOAWAY = %d", id)
	}
	if got := c.ask(get(), true); got != "200" {
		t.Errorf("a request between the two: %s", got)
	}
	if id := goAway(); id != 4 {
		t.Errorf("second GOAWAY = %d, want 4", id)
	}
	if got := c.ask(get(), true); got != "reset 0x10b" {
		t.Errorf("a request behind the second: %s, want it rejected", got)
	}
	if got := c.closed(); got != "closed 0x100" {
		t.Errorf("in the end: %s", got)
	}
}
