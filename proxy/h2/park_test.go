package h2

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// parked reports whether the server has a connection, and it is parked.
func (s *server) parked() bool {
	for _, c := range s.list(func() {}) {
		c.mu.Lock()
		parked := c.parked
		c.mu.Unlock()
		if parked {
			return true
		}
	}
	return false
}

// TestParked parks a connection and finds it awake at the next request.
func TestParked(t *testing.T) {
	noLeaks(t)
	s := serve(t, FrontConfig{Handler: handlerFunc(echo)}, true)
	p := dialRaw(t, s)
	for i := range 3 {
		id := uint32(4*i + 1)
		p.request(id, "/")
		if got := p.outcome(id); got != "200" {
			t.Fatalf("request %d: %s", i, got)
		}
		until(t, "connection parks", s.parked)
		p.request(id+2, fmt.Sprint("/", i))
		if got := p.outcome(id + 2); got != "200" {
			t.Fatalf("request behind %d: %s", i, got)
		}
	}
}

// TestParkedEnds ends parked connections in each way.
func TestParkedEnds(t *testing.T) {
	tests := []struct {
		name string
		idle time.Duration
		then func(s *server, p *raw)
		want string
	}{
		{"client leaves", time.Minute, func(_ *server, p *raw) { p.nc.Close() }, "closed"},
		{"idle limit", 2500 * time.Millisecond, func(*server, *raw) {}, "GOAWAY NO_ERROR"},
		{"drain", time.Minute, func(s *server, _ *raw) { s.Drain() }, "GOAWAY NO_ERROR"},
		{"close", time.Minute, func(s *server, _ *raw) { s.Close() }, "closed"},
	}
	noLeaks(t)
	for _, secure := range []bool{false, true} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s tls=%v", tt.name, secure), func(t *testing.T) {
				t.Parallel()
				var ended atomic.Int32
				s := serve(t, FrontConfig{Handler: handlerFunc(echo), IdleTimeout: tt.idle, Ended: func(*exchange.Conn) { ended.Add(1) }}, secure)
				p := dialRaw(t, s)
				p.request(1, "/")
				if got := p.outcome(1); got != "200" {
					t.Fatal(got)
				}
				until(t, "connection parks", s.parked)
				if n := ended.Load(); n != 0 {
					t.Errorf("%d connections ended before their time", n)
				}
				tt.then(s, p)
				if got := p.outcome(3); got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
				until(t, "connection ends", func() bool { n, _ := s.Active(); return n == 0 && ended.Load() == 1 })
			})
		}
	}
}

// TestSlowHead sends a head in two frames, with a pause in which a connection
// without streams would park: what was decoded before it must not be lost.
func TestSlowHead(t *testing.T) {
	noLeaks(t)
	s := serve(t, FrontConfig{Handler: handlerFunc(func(x *exchange.Exchange) {
		x.Reply(200, "", []byte(x.Request.Get(exchange.Cookie)+" "+x.Target.Path))
	})}, false)
	p := dialRaw(t, s)
	block := p.block(":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/slow", "cookie", "a=1", "cookie", "b=2")
	cut := len(block) - 3 // within the second cookie
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:cut], EndStream: true})
	until(t, "two sweeps after it could have parked", func() bool {
		for _, c := range s.list(func() {}) {
			c.mu.Lock()
			long := c.clock.Now()-c.idleAt > parkAfter+int64(2*sweep.Interval)
			c.mu.Unlock()
			if long {
				return true
			}
		}
		return false
	})
	p.fr.WriteContinuation(1, true, block[cut:])
	p.until(func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		if ok && string(d.Data()) != "a=1; b=2 /slow" {
			t.Errorf("got %q", d.Data())
		}
		return ok
	})
}
