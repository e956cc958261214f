package h2

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// load is a client that costs nothing to speak of: it sends one batch of
// requests again and again, and counts ends.
type load struct {
	nc    net.Conn
	batch []byte
	heads []int // where the HEADERS frames begin
	next  uint32
	buf   [64 << 10]byte
	r, w  int
}

// newLoad sends n requests at a time.
func newLoad(t testing.TB, s *server, n int) *load {
	p := dialRaw(t, s)
	p.request(1, "/warm") // fills the HPACK table
	if got := p.outcome(1); got != "200" {
		t.Fatal(got)
	}
	l := &load{nc: p.nc, next: 3}
	block := p.block(":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/warm")
	for range n {
		l.heads = append(l.heads, len(l.batch))
		l.batch = appendFrameHeader(l.batch, len(block), http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, 0)
		l.batch = append(l.batch, block...)
	}
	// What the answers take of the connection's window is given back.
	l.batch = appendFrameHeader(l.batch, 4, http2.FrameWindowUpdate, 0, 0)
	l.batch = binary.BigEndian.AppendUint32(l.batch, uint32(n*len(small)))
	return l
}

func (l *load) run(t testing.TB) {
	for _, at := range l.heads {
		binary.BigEndian.PutUint32(l.batch[at+5:], l.next)
		l.next += 2
	}
	if _, err := l.nc.Write(l.batch); err != nil {
		t.Fatal(err)
	}
	for left := len(l.heads); left > 0; {
		h, err := l.take(frameHeader)
		if err != nil {
			t.Fatal(err)
		}
		n := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		if k := http2.FrameType(h[3]); (k == http2.FrameData || k == http2.FrameHeaders) && h[4]&byte(http2.FlagDataEndStream) != 0 {
			left--
		}
		if _, err := l.take(n); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *load) take(n int) ([]byte, error) {
	for l.w-l.r < n {
		l.w = copy(l.buf[:], l.buf[l.r:l.w])
		l.r = 0
		m, err := l.nc.Read(l.buf[l.w:])
		if err != nil {
			return nil, err
		}
		l.w += m
	}
	b := l.buf[l.r : l.r+n]
	l.r += n
	return b, nil
}

var small = []byte("hello world, this is a small body of 45 bytes")

func answerSmall(x *exchange.Exchange) { x.Reply(200, "text/plain", small) }

// TestAllocs bounds what a request costs the collector: the Framer's HEADERS
// frame.
func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops items under the race detector")
	}
	s := serve(t, FrontConfig{Handler: handlerFunc(func(x *exchange.Exchange) { x.Reply(200, "", small) })}, false)
	l := newLoad(t, s, 16)
	for range 100 {
		l.run(t)
	}
	if got := testing.AllocsPerRun(200, func() { l.run(t) }) / 16; got > 1.3 {
		t.Errorf("%v allocations a request, want 1", got)
	}
}

func benchFront(b *testing.B, streams int, secure bool) {
	s := serve(b, FrontConfig{Handler: handlerFunc(answerSmall), ServerHeader: "sidegate"}, secure)
	l := newLoad(b, s, streams)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += streams {
		l.run(b)
	}
}

func BenchmarkFront1(b *testing.B)     { benchFront(b, 1, false) }
func BenchmarkFront16(b *testing.B)    { benchFront(b, 16, false) }
func BenchmarkFront16TLS(b *testing.B) { benchFront(b, 16, true) }

// BenchmarkClient sends requests to an echo of our own, one at a time.
func BenchmarkClient(b *testing.B) {
	sw := sweeper(b)
	s := serve(b, FrontConfig{Handler: handlerFunc(answerSmall), Sweeper: sw}, false)
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		b.Fatal(err)
	}
	c, err := NewClientConn(nc, &ClientConfig{Sweeper: sw})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	x := newExchange("GET", "/")
	var buf [100]byte
	b.ReportAllocs()
	for b.Loop() {
		x.Reset(exchange.HTTP11, x.Conn, x.Front)
		x.Method, x.RawTarget, x.RawHost = "GET", "/", "localhost"
		if f := x.Canonicalise(); f != nil {
			b.Fatal(f)
		}
		if !c.Reserve() {
			b.Fatal("no slot")
		}
		if _, f := c.RoundTrip(x); f != nil {
			b.Fatal(f)
		}
		for {
			if _, err := x.ResponseBody.Read(buf[:]); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkEncode makes a response's field block.
func BenchmarkEncode(b *testing.B) {
	x := newExchange("GET", "/")
	x.Reply(200, "text/plain", small)
	x.Response.Append("Cache-Control", "no-store")
	x.Response.Append("X-Request-Id", "0123456789abcdef")
	block := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		block = appendHead(appendStatus(block[:0], 200), &x.Response, &x.ResponseEdits)
	}
}

// browser is the head that a browser sends.
var browser = []string{
	":method", "GET", ":scheme", "https", ":authority", "shop.example", ":path", "/catalogue/items?page=4",
	"user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
	"accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "accept-language", "en-GB,en;q=0.5",
	"accept-encoding", "gzip, deflate, br, zstd", "referer", "https://shop.example/catalogue",
	"cookie", "session=3f2a9c64f0d24d6ab1c9a3e7", "cookie", "theme=dark", "sec-fetch-dest", "document", "te", "trailers",
}

// BenchmarkDecode takes a request's head whose fields the table has mostly.
func BenchmarkDecode(b *testing.B) {
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	encode := func() []byte {
		buf.Reset()
		for i := 0; i < len(browser); i += 2 {
			if err := enc.WriteField(hpack.HeaderField{Name: browser[i], Value: browser[i+1]}); err != nil {
				b.Fatal(err)
			}
		}
		return bytes.Clone(buf.Bytes())
	}
	var bl block
	bl.init(newDecoder(32<<10), 32<<10, 100)
	var head exchange.Head
	decode := func(fragment []byte) {
		head.Reset(head.Buffer()[:0])
		bl.begin(forRequest, &head)
		if err := bl.write(fragment, true); err != nil || bl.bad != "" {
			b.Fatal(err, bl.bad)
		}
	}
	decode(encode()) // fills the table
	fragment := encode()
	b.ReportAllocs()
	for b.Loop() {
		decode(fragment)
	}
}

// BenchmarkFrames queues a response: HEADERS and DATA.
func BenchmarkFrames(b *testing.B) {
	l := &link{}
	l.init(newScript(nil), &pools{}, sweep.New(), func() {})
	var s lane
	head := make([]byte, 100)
	l.mu.Lock()
	defer l.mu.Unlock()
	b.ReportAllocs()
	for b.Loop() {
		s.open(l, 1)
		if err := s.sendHead(head, false); err != nil {
			b.Fatal(err)
		}
		if err := s.send(small, true); err != nil {
			b.Fatal(err)
		}
		l.sendWindow += int64(len(small))
		l.out = l.out[:0]
	}
}
