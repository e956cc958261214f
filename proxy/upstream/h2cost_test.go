package upstream

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/h2"
)

// forwarder sends what a front gives it to the bench's pool.
type forwarder struct{ b *bench }

func (f forwarder) Serve(x *exchange.Exchange) {
	fault := x.Canonicalise()
	if fault == nil {
		fault = f.b.p.Send(x)
	}
	if fault != nil {
		x.Reply(502, "text/plain", []byte(fault.Error()))
	}
	_ = x.Front.Respond(x) // the client counts answers
	if x.Lease != nil {
		x.Lease.Release(x, nil)
	}
}

// TestHTTP2AllocatesOne sends requests from an HTTP/2 client through a front and
// a pool to a backend: what is left to the collector is the Framer's HEADERS
// frame.
func TestHTTP2AllocatesOne(t *testing.T) {
	if raceDetector {
		t.Skip("sync.Pool forgets on purpose under the race detector")
	}
	b := newBench(t, &Config{}, Deps{}, at(pong(t)))
	front := h2.NewFront(h2.FrontConfig{Handler: forwarder{b}, Sweeper: b.g.d.Sweeper, Log: b.g.d.Log})
	t.Cleanup(front.Close)
	client, server := tcpPair(t)
	go front.ServeConn(server, &exchange.Conn{Scheme: "http"}, nil)

	const streams = 16
	var batch []byte
	for range streams {
		// GET / over http of the authority a, as static indices and a literal (RFC 7541, 6).
		batch = append(batch, 0, 0, 6, byte(http2.FrameHeaders), byte(http2.FlagHeadersEndStream|http2.FlagHeadersEndHeaders), 0, 0, 0, 0,
			0x82, 0x86, 0x84, 0x01, 1, 'a')
	}
	size := len(batch) / streams
	// What the answers take of the connection's window is given back.
	batch = append(batch, 0, 0, 4, byte(http2.FrameWindowUpdate), 0, 0, 0, 0, 0, 0, 0, 0, 2*streams)
	id := uint32(1)
	buf := make([]byte, 64<<10)
	once := func() {
		for i := range streams {
			binary.BigEndian.PutUint32(batch[i*size+5:], id)
			id += 2
		}
		if _, err := client.Write(batch); err != nil {
			t.Fatal(err)
		}
		awaitAnswers(t, client, buf, streams)
	}
	if _, err := io.WriteString(client, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		once()
	}
	if n := testing.AllocsPerRun(200, once) / streams; n > 1.2 {
		t.Errorf("%v allocations for a request, want 1", n)
	}
}

// awaitAnswers reads until n streams have ended, all of them with "ok".
func awaitAnswers(t *testing.T, nc net.Conn, buf []byte, n int) {
	have := 0
	for n > 0 {
		m, err := nc.Read(buf[have:])
		if err != nil {
			t.Fatal(err)
		}
		have += m
		at := 0
		for have-at >= 9 {
			size := int(buf[at])<<16 | int(buf[at+1])<<8 | int(buf[at+2])
			if have-at < 9+size {
				break
			}
			if http2.FrameType(buf[at+3]) == http2.FrameData && buf[at+4]&byte(http2.FlagDataEndStream) != 0 {
				if !bytes.Equal(buf[at+9:at+9+size], []byte("ok")) {
					t.Fatalf("answer %q", buf[at+9:at+9+size])
				}
				n--
			}
			at += 9 + size
		}
		have = copy(buf, buf[at:have])
	}
}

// tcpPair returns both ends of a connection over loopback.
func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}
