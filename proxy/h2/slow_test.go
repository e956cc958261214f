package h2

import (
	"io"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestSlowBackend uploads to a request whose body nobody reads while others pass
// on the same connection: it holds what its window allows and no more, and its
// bytes hold up nobody else.
func TestSlowBackend(t *testing.T) {
	noLeaks(t)
	s := serve(t, FrontConfig{Handler: handlerFunc(func(x *exchange.Exchange) {
		if x.Target.Path == "/stuck" {
			until(t, "client leaves", func() bool { return x.Front.Gone(x) })
			return
		}
		n, err := io.Copy(io.Discard, x.RequestBody)
		if err != nil || n != 20000 {
			t.Errorf("%d bytes, %v", n, err)
		}
		x.Reply(200, "", []byte("taken"))
	})}, false)
	p := dialRaw(t, s)
	p.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/stuck")
	for left := streamWindow; left > 0; {
		n := min(left, maxFrame)
		p.fr.WriteData(1, false, make([]byte, n))
		left -= n
	}
	for id := uint32(3); id < 3+2*100; id += 2 { // twice the connection's window
		p.head(id, false)
		p.fr.WriteData(id, false, make([]byte, 10000))
		p.fr.WriteData(id, true, make([]byte, 10000))
		p.until(func(f http2.Frame) bool {
			d, ok := f.(*http2.DataFrame)
			return ok && d.StreamID == id && d.StreamEnded()
		})
	}
	p.fr.WriteData(1, false, []byte("x"))
	if got := p.outcome(1); got != "RST FLOW_CONTROL_ERROR" {
		t.Errorf("a byte beyond the window: %s", got)
	}
}
