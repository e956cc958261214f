package h1

import (
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

const smallRequest = "GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"

// BenchmarkParse reads heads.
func BenchmarkParse(b *testing.B) {
	lim := limits{bytes: 32 << 10, fields: 100, target: 8 << 10}
	for _, bb := range []struct {
		name, head string
		parse      func(p *parser, buf []byte, h *exchange.Head) (bool, *flaw)
	}{
		{"request", smallRequest, func(p *parser, buf []byte, h *exchange.Head) (bool, *flaw) { return p.request(buf, len(buf), h, lim) }},
		{"browser", browserRequest, func(p *parser, buf []byte, h *exchange.Head) (bool, *flaw) { return p.request(buf, len(buf), h, lim) }},
		{"response", plainAnswer, func(p *parser, buf []byte, h *exchange.Head) (bool, *flaw) { return p.response(buf, len(buf), h, lim) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			buf := []byte(bb.head)
			var p parser
			var h exchange.Head
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				p.reset(0)
				h.Reset(buf)
				if done, f := bb.parse(&p, buf, &h); !done || f != nil {
					b.Fatal(done, f)
				}
			}
		})
	}
}

// BenchmarkHead writes the head of a request to a backend, with the fields that
// the gateway adds.
func BenchmarkHead(b *testing.B) {
	for _, bb := range []struct{ name, head string }{{"small", smallRequest}, {"browser", browserRequest}} {
		b.Run(bb.name, func(b *testing.B) {
			buf := []byte(bb.head)
			var p parser
			x := &exchange.Exchange{Proto: exchange.HTTP11, Method: "GET", Conn: &exchange.Conn{Scheme: "http"}}
			x.Request.Reset(buf)
			if done, f := p.request(buf, len(buf), &x.Request, limits{bytes: 32 << 10, fields: 100, target: 8 << 10}); !done || f != nil {
				b.Fatal(done, f)
			}
			x.RawTarget, x.RawHost = "/small", "localhost"
			if f := x.Canonicalise(); f != nil {
				b.Fatal(f)
			}
			x.RequestEdits.SetID(exchange.XForwardedFor, "X-Forwarded-For", "127.0.0.1")
			x.RequestEdits.SetID(exchange.XForwardedProto, "X-Forwarded-Proto", "http")
			x.RequestEdits.SetID(exchange.XRequestID, "X-Request-Id", "0123456789abcdef0123456789abcdef")
			c := &ClientConn{}
			dst := make([]byte, 0, outBuffer)
			b.ReportAllocs()
			for b.Loop() {
				out, f := c.appendHead(dst, x)
				if f != nil || len(out) < len(buf) {
					b.Fatal(f, len(out))
				}
			}
		})
	}
}

// BenchmarkLimit sets and lifts a swept limit, as each wait for bytes does.
func BenchmarkLimit(b *testing.B) {
	w := &wire{sweeper: sweep.New(), stall: orNever(0)}
	b.ReportAllocs()
	for b.Loop() {
		w.armRead(w.stall)
		w.disarmRead()
	}
}
