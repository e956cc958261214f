//lint:file-ignore SA1019 x/net's own server is the reference here

package h2

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// quietPeer is a connection whose peer says something and then keeps silent,
// until it leaves. It is for a synctest bubble, where silence is visible.
type quietPeer struct {
	mu      sync.Mutex
	changed sync.Cond
	in, out []byte
	until   time.Time // of reads
	left    bool      // the peer closed its side
	ended   bool
}

func newQuietPeer(in []byte) *quietPeer {
	p := &quietPeer{in: in}
	p.changed.L = &p.mu
	return p
}

func (p *quietPeer) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.in) == 0 && !p.ended && !p.left {
		if !p.until.IsZero() && !time.Now().Before(p.until) {
			return 0, os.ErrDeadlineExceeded
		}
		p.changed.Wait()
	}
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

// say adds to what the peer says.
func (p *quietPeer) say(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in = append(p.in, b...)
	p.changed.Broadcast()
}

// leave lets the peer close its side when all is said.
func (p *quietPeer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
	p.changed.Broadcast()
}

func (p *quietPeer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return 0, net.ErrClosed
	}
	p.out = append(p.out, b...)
	return len(b), nil
}

func (p *quietPeer) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.changed.Broadcast()
	return nil
}

func (p *quietPeer) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = t
	p.changed.Broadcast()
	if d := time.Until(t); d > 0 && !t.IsZero() {
		time.AfterFunc(d, p.changed.Broadcast)
	}
	return nil
}
func (p *quietPeer) SetDeadline(t time.Time) error    { return p.SetReadDeadline(t) }
func (p *quietPeer) SetWriteDeadline(time.Time) error { return nil }
func (p *quietPeer) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (p *quietPeer) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// request is what a handler got.
type request struct {
	Line, Host string
	Length     int64
	Fields     http.Header
	Body       string
	Whole      bool // the body's end came
	Trailer    http.Header
}

// requests are those of a connection, by the number that their path begins with.
type requests struct {
	mu   sync.Mutex
	list map[string]request
}

func (r *requests) add(q request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list = map[string]request{}
	}
	key := q.Line + " " + q.Fields.Get("N")
	for r.list[key].Line != "" {
		key += "'"
	}
	r.list[key] = q
}

func headOf(h *exchange.Head) http.Header {
	out := http.Header{}
	for i := range h.Len() {
		name, value := h.Field(i)
		if !h.Dropped(i) {
			out.Add(strings.Clone(name), strings.Clone(value))
		}
	}
	return out
}

// toUs has our front serve what a client says, and tells what its handler got.
func toUs(in []byte) (*requests, []byte) {
	got := &requests{}
	front := NewFront(FrontConfig{Sweeper: sweep.New(), MaxHeaders: 4000, Log: quietLog(), Handler: handlerFunc(func(x *exchange.Exchange) {
		q := request{Line: x.Method + " " + strings.Clone(x.RawTarget), Host: strings.Clone(x.RawHost), Length: x.RequestLength, Fields: headOf(&x.Request)}
		if x.Upgrade != "" {
			q.Line = "CONNECT " + strings.Clone(x.RawTarget)
		}
		q.Whole = x.RequestBody == nil && x.Upgrade == ""
		if x.RequestBody != nil {
			b, err := io.ReadAll(x.RequestBody)
			q.Body, q.Whole = string(b), err == nil
		}
		q.Trailer = headOf(&x.RequestTrailer)
		got.add(q)
		x.Reply(200, "text/plain", []byte("fine"))
	})})
	nc := newQuietPeer(in)
	done := make(chan struct{})
	go func() {
		defer close(done)
		front.ServeConn(nc, &exchange.Conn{Scheme: "http"}, nil)
	}()
	synctest.Wait()
	_ = nc.Close()
	<-done
	front.Close()
	return got, nc.out
}

// toThem has x/net's server do so; ended tells that it ended the connection.
func toThem(in []byte) (got *requests, out []byte, ended bool) {
	got = &requests{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := request{Line: r.Method + " " + r.RequestURI, Host: r.Host, Length: r.ContentLength, Fields: r.Header.Clone(), Trailer: http.Header{}}
		b, err := io.ReadAll(r.Body)
		q.Body, q.Whole = string(b), err == nil
		for name, values := range r.Trailer {
			if values != nil {
				q.Trailer[name] = values
			}
		}
		got.add(q)
		_, _ = io.WriteString(w, "fine")
	})
	base := &http.Server{MaxHeaderBytes: 4000, ErrorLog: log.New(io.Discard, "", 0)}
	s := &http2.Server{MaxConcurrentStreams: 128, MaxReadFrameSize: 16 << 10}
	if err := http2.ConfigureServer(base, s); err != nil { // or it shares channels between bubbles
		panic(err)
	}
	nc := newQuietPeer(in)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeConn(nc, &http2.ServeConnOpts{Handler: h, BaseConfig: base})
	}()
	synctest.Wait()
	ended = nc.ended || strings.Contains(describe(nc.out), " GOAWAY ")
	_ = nc.Close()
	<-done
	synctest.Wait()
	return got, nc.out, ended
}

// like makes theirs comparable with ours; see compareFrames.
func like(theirs, ours *request) {
	theirs.Fields.Del("Host")
	for name := range theirs.Fields {
		if strings.ContainsAny(name, "_.") || name == "Proxy" {
			theirs.Fields.Del(name)
		}
	}
	if c := theirs.Fields["Cookie"]; len(c) == 1 {
		crumbs := strings.Split(c[0], "; ")
		c[0] = strings.Join(slices.DeleteFunc(crumbs, func(s string) bool { return s == "" }), "; ")
	}
	names := theirs.Trailer
	for name := range ours.Trailer {
		if names[name] == nil {
			ours.Trailer.Del(name)
		}
	}
	for name := range theirs.Trailer {
		if ours.Trailer[name] == nil && (strings.ContainsAny(name, "_.") || exchange.Lookup(name) != exchange.Other) {
			theirs.Trailer.Del(name)
		}
	}
	for _, h := range []http.Header{ours.Fields, theirs.Fields} {
		// net/http takes these two out.
		h.Del("Trailer")
		h.Del("Expect")
	}
	if ours.Body == "" && ours.Whole && theirs.Body == "" {
		theirs.Length = ours.Length // of no body: 0 to one, unknown to the other
	}
}

// compareFrames holds our front against x/net's server: a request that ours
// gives to its handler, theirs does, too, and it is the same. Ours may refuse
// more. The differences:
//
//   - Names with "_" and ".", and Proxy, are dropped here.
//   - Empty cookies are left out here: joined to others they would end the value
//     with a space (RFC 9113, 8.2.1 and 8.2.3).
//   - Trailers that weren't announced are dropped there (RFC 9110, 6.6.2).
//   - Trailers that mustn't be (Content-Length, Authorization) are dropped here,
//     and reset the stream there (RFC 9110, 6.5.1).
//   - A body that is longer or shorter than its Content-Length breaks off, but
//     not at the same byte (RFC 9113, 8.1.1).
//   - Behind Content-Length: 0 nothing is waited for: what comes then resets the
//     stream, but the handler has the request already.
//   - x/net ends the connection for a SETTINGS acknowledgement too many, for a
//     malformed head in several frames, and for what follows on a stream whose
//     head it refused, where the stream's end is enough (RFC 9113, 5.1, 6.5.3
//     and 8.1.1). What it didn't read can't be compared; h2spec has the cases
//     in which a connection must end.
//   - A Host that has :authority in other letters names the same (RFC 9110, 4.2.3),
//     and is refused there.
//   - CONNECT for a websocket has a handshake's fields here (RFC 8441).
func compareFrames(t *testing.T, in []byte) {
	ours, out := toUs(in)
	theirs, theirOut, ended := toThem(in)
	checkFrames(t, out)
	for key, q := range ours.list {
		p, ok := theirs.list[key]
		switch {
		case !ok && ended, strings.HasPrefix(q.Line, "CONNECT "):
			continue
		case !ok && q.Host != strings.ToLower(q.Host) && reset(theirOut, q):
			continue
		case !ok:
			t.Fatalf("we take a request that x/net doesn't: %+v\nx/net has %+v and said\n%sto\n%s", q, theirs.list, describe(theirOut), describe(in))
		case q.Fields.Get("Content-Length") == "0":
			p.Body, p.Whole, p.Trailer = "", true, q.Trailer
		case ended, !q.Whole, reset(theirOut, q):
			if strings.HasPrefix(p.Body, q.Body) || strings.HasPrefix(q.Body, p.Body) {
				p.Body, p.Whole = q.Body, q.Whole
				p.Trailer, q.Trailer = nil, nil
			}
		}
		like(&p, &q)
		if d := cmp.Diff(p, q); d != "" {
			t.Fatalf("x/net reads this (-), we that (+):\n%s\n%s", d, describe(in))
		}
	}
}

// reset tells whether x/net said that the stream of q is malformed.
func reset(out []byte, q request) bool {
	n, err := strconv.Atoi(q.Fields.Get("N"))
	return err == nil && strings.Contains(describe(out), fmt.Sprintf("RST_STREAM stream=%d len=4] PROTOCOL_ERROR", 2*n+1))
}

// describe lists frames.
func describe(in []byte) string {
	var b strings.Builder
	fr := http2.NewFramer(io.Discard, strings.NewReader(strings.TrimPrefix(string(in), http2.ClientPreface)))
	fr.AllowIllegalReads = true
	dec := hpack.NewDecoder(4096, nil)
	var head []byte
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
			return b.String()
		}
		fmt.Fprintf(&b, "%v", f.Header())
		switch f := f.(type) {
		case *http2.HeadersFrame:
			head = append(head[:0], f.HeaderBlockFragment()...)
			if !f.HeadersEnded() {
				break
			}
			fields, err := dec.DecodeFull(head)
			fmt.Fprintf(&b, " %v %v", fields, err)
		case *http2.ContinuationFrame:
			if head = append(head, f.HeaderBlockFragment()...); !f.HeadersEnded() {
				break
			}
			fields, err := dec.DecodeFull(head)
			fmt.Fprintf(&b, " %v %v", fields, err)
		case *http2.DataFrame:
			fmt.Fprintf(&b, " %q", f.Data())
		case *http2.RSTStreamFrame:
			fmt.Fprintf(&b, " %v", f.ErrCode)
		case *http2.GoAwayFrame:
			fmt.Fprintf(&b, " last=%d %v", f.LastStreamID, f.ErrCode)
		}
		b.WriteByte('\n')
	}
}

// choices turns a fuzzer's bytes into decisions.
type choices struct{ b []byte }

func (c *choices) n(n int) int {
	if len(c.b) == 0 {
		return 0
	}
	v := int(c.b[0])
	c.b = c.b[1:]
	return v % n
}

// text is what is left of the choices up to a length byte's.
func (c *choices) text() string {
	n := min(c.n(12), len(c.b))
	s := string(c.b[:n])
	c.b = c.b[n:]
	return s
}

func pick(c *choices, from ...string) string { return from[c.n(len(from))] }

// fields are those of a head: mostly what it must have, with things changed.
func (c *choices) fields(n int) []string {
	list := []string{
		":method", pick(c, "GET", "POST", "POST", "OPTIONS", "FOO", "CONNECT"), ":scheme", pick(c, "http", "https", "http", "http", "ftp"),
		":authority", pick(c, "a.test", "A.test", "b.test:80", "a.test"), ":path", pick(c, "/", "/a?b", "/", "/", "*", "a"),
	}
	for range c.n(5) {
		name := pick(c, "x-a", "cookie", "cookie", "content-length", "te", "host", "trailer", "expect", "x_b", "x-a", "proxy", "accept", "X-C", ":path", "connection", "")
		value := pick(c, "1", "3", "a.test", "trailers", "x-t", "100-continue", "", "a=b; c=d", "3", " x", "?")
		switch {
		case name == "content-length" && c.n(8) != 7:
			value = pick(c, "3", "1", "6", "0")
		case name == "te" && c.n(8) != 7:
			value = "trailers"
		case name == "host" && c.n(8) != 7:
			value = list[5]
		case name == "expect" && c.n(8) != 7:
			value = "100-continue"
		}
		if name == "" {
			name = c.text()
		}
		if value == "?" {
			value = c.text()
		}
		list = append(list, name, value)
	}
	switch c.n(16) {
	case 14:
		at := 2 * c.n(len(list)/2)
		list = append(list[:at:at], list[at+2:]...)
	case 15:
		i, j := 2*c.n(len(list)/2), 2*c.n(len(list)/2)
		list[i], list[i+1], list[j], list[j+1] = list[j], list[j+1], list[i], list[i+1]
	}
	return append(list, "n", fmt.Sprint(n)) // stream 2n+1
}

// conversation builds what a client says out of a fuzzer's bytes: mostly
// requests, one after the other, and now and then something else.
func conversation(data []byte) []byte {
	c := &choices{data}
	return speech(http2.ClientPreface, func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		next := uint32(1)
		for n := 0; len(c.b) > 0 && n < 32; n++ {
			id := next
			next += 2
			p := http2.HeadersFrameParam{StreamID: id, BlockFragment: block(c.fields(n)...), EndStream: c.n(2) == 0, EndHeaders: true}
			switch b := p.BlockFragment; c.n(8) {
			case 6:
				p.PadLength = uint8(c.n(8))
				p.Priority = http2.PriorityParam{StreamDep: uint32(c.n(8)), Weight: 1}
				fr.WriteHeaders(p)
			case 7:
				cut := c.n(len(b))
				p.BlockFragment, p.EndHeaders = b[:cut], false
				fr.WriteHeaders(p)
				fr.WriteContinuation(id, c.n(16) != 15, b[cut:])
			default:
				fr.WriteHeaders(p)
			}
			for k := c.n(4); k > 0 && !p.EndStream; k-- {
				fr.WriteData(id, k == 1 && c.n(2) == 0, []byte(pick(c, "abc", "a", "", "0123456789")))
			}
			if !p.EndStream && c.n(2) == 0 {
				b := block(pick(c, "x-t", "x-u", "x-t", "x_v", "content-length", ":path", "authorization", "X-T"), pick(c, "1", "3"))
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b, EndStream: c.n(8) != 7, EndHeaders: true})
			}
			c.other(fr, id, n)
		}
	})
}

// other are frames between requests.
func (c *choices) other(fr *http2.Framer, id uint32, n int) {
	if c.n(4) == 3 {
		id = uint32(c.n(8))
	}
	switch c.n(24) {
	case 16:
		fr.WriteRSTStream(id, http2.ErrCode(c.n(14)))
	case 17:
		fr.WriteWindowUpdate(id&uint32(c.n(16)), uint32(c.n(256))<<uint(c.n(24)))
	case 18:
		fr.WriteSettings(http2.Setting{ID: http2.SettingID(c.n(9)), Val: uint32(c.n(256)) << uint(c.n(24))})
	case 19:
		fr.WritePing(c.n(2) == 0, [8]byte{byte(n)})
	case 20:
		fr.WritePriority(id, http2.PriorityParam{StreamDep: uint32(c.n(8))})
	case 21:
		fr.WriteDataPadded(id, c.n(2) == 0, []byte("abc"), make([]byte, c.n(5)))
	case 22:
		kind := http2.FrameType(c.n(16))
		if kind == http2.FrameHeaders || kind == http2.FrameContinuation {
			kind = 0x55 // FuzzFront has those
		}
		fr.WriteRawFrame(kind, http2.Flags(c.n(256)), id, []byte(c.text()))
	case 23:
		fr.WriteSettingsAck()
	}
}

// FuzzFrames compares conversations with x/net's server.
func FuzzFrames(f *testing.F) {
	seed := uint32(1)
	for n := range 60 {
		data := make([]byte, 10+8*n)
		for i := range data {
			seed = seed*1664525 + 1013904223
			data[i] = byte(seed >> 24)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := conversation(data)
		synctest.Test(t, func(t *testing.T) { compareFrames(t, in) })
	})
}
