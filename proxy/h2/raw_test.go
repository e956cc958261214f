package h2

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is a client that sends the frames it is told to.
type raw struct {
	t   testing.TB
	nc  net.Conn
	fr  *http2.Framer
	buf bytes.Buffer
	enc *hpack.Encoder

	served atomic.Int64
}

func dialRaw(t testing.TB, s *server) *raw {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	if s.tls != nil {
		nc = tls.Client(nc, s.tls)
	}
	t.Cleanup(func() { nc.Close() })
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	p := newRaw(t, nc)
	p.fr.WriteSettings()
	return p
}

func newRaw(t testing.TB, nc net.Conn) *raw {
	p := &raw{t: t, nc: nc}
	p.enc = hpack.NewEncoder(&p.buf)
	p.fr = http2.NewFramer(nc, nc)
	p.fr.AllowIllegalWrites = true
	p.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	return p
}

// block encodes fields given as names and values.
func (p *raw) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

// headers sends exactly these fields.
func (p *raw) headers(id uint32, end bool, fields ...string) {
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

// head sends a request with further fields.
func (p *raw) head(id uint32, end bool, fields ...string) {
	method := "GET"
	if !end {
		method = "POST"
	}
	p.headers(id, end, append([]string{":method", method, ":scheme", "http", ":authority", "localhost", ":path", "/"}, fields...)...)
}

func (p *raw) request(id uint32, path string) {
	p.headers(id, true, ":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", path)
}

// until reads frames until ok returns true.
func (p *raw) until(ok func(http2.Frame) bool) {
	p.t.Helper()
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			p.t.Fatalf("read: %v", err)
		}
		if ok(f) {
			return
		}
	}
}

// outcome reads until stream id ends, or the connection does, and says how:
// "200", "RST PROTOCOL_ERROR", "GOAWAY ENHANCE_YOUR_CALM" or "closed".
func (p *raw) outcome(id uint32) string {
	status := ""
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID != id {
				continue
			}
			status = f.PseudoValue("status")
			if f.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if f.StreamID == id && f.StreamEnded() {
				return status
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return "RST " + f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return "GOAWAY " + f.ErrCode.String()
		}
	}
}
