package h3

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// blames keeps what connections are asked to end and closed for.
type blames struct {
	mu   sync.Mutex
	list []string
}

func (b *blames) take(_ *exchange.Conn, k abuse.Kind, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, fmt.Sprintf("%s %t", k, closed))
}

func (b *blames) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.list, ", ")
}

// control opens a control stream with empty settings, and says more on it.
func (c *rawClient) control(more []byte, n int) {
	str, err := c.OpenUniStream()
	if err != nil {
		c.tb.Fatal(err)
	}
	_, err = str.Write(append([]byte{streamControl}, frame(frameSettings)...))
	for i := 0; i < n && err == nil; i++ {
		_, err = str.Write(more)
	}
}

// TestFloods sends what is cheap to send, until the connection is closed: after
// it was asked to end, and before much has been served.
func TestFloods(t *testing.T) {
	const load = "closed 0x107" // H3_EXCESSIVE_LOAD
	request := func(c *rawClient, b []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if str, err := c.OpenStreamSync(ctx); err == nil {
			_, _ = str.Write(b) // once the connection is closed, it fails
			_ = str.Close()
		}
	}
	for _, tt := range []struct {
		name, kind string
		send       func(c *rawClient)
	}{
		{"rapid reset", "reset", func(c *rawClient) {
			for c.Context().Err() == nil {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				str, err := c.OpenStreamSync(ctx)
				cancel()
				if err != nil {
					return
				}
				_, _ = str.Write(post())
				str.CancelWrite(0x10c)
				str.CancelRead(0x10c)
			}
		}},
		{"malformed requests", "malformed", func(c *rawClient) {
			for range 2000 {
				request(c, get("upgrade= x"))
			}
		}},
		{"refused requests", "refused", func(c *rawClient) {
			for range 2000 {
				request(c, headers(":method= GET", ":scheme= https", ":authority= gate.test", ":path= /bad"))
			}
		}},
		{"unknown frames", "unknown", func(c *rawClient) {
			for range 200 {
				request(c, join(get(), times(frame(0x21), 100)))
			}
		}},
		{"empty data", "empty", func(c *rawClient) {
			for range 200 {
				request(c, join(post(), times(frame(frameData), 100)))
			}
		}},
		{"unknown frames on the control stream", "unknown", func(c *rawClient) { c.control(frame(0x21), 5000) }},
		{"priorities", "priority", func(c *rawClient) { c.control(frame(framePriorityRequest, 0, 'u'), 5000) }},
		{"push ids", "unknown", func(c *rawClient) { c.control(frame(frameMaxPushID, 0), 5000) }},
		{"encoder", "settings", func(c *rawClient) {
			str, err := c.OpenUniStream()
			for i := 0; i < 5000 && err == nil; i++ {
				_, err = str.Write(append([]byte{streamEncoder}, times([]byte{0x20}, 64)...)[min(i, 1):])
			}
		}},
		{"streams of unknown kinds", "stray", func(c *rawClient) {
			for range 5000 {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				str, err := c.OpenUniStreamSync(ctx)
				cancel()
				if err != nil {
					return
				}
				_, _ = str.Write([]byte{0x21})
				str.CancelWrite(0)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var b blames
			var served sync.Map
			f := start(t, func(c *FrontConfig) { c.Abusive = b.take }, func(x *exchange.Exchange) {
				served.Store(new(int), nil)
				if x.Fault != nil {
					x.Err = x.Fault
				} else if x.RawTarget == "/bad" {
					x.Err = exchange.NewFault(exchange.FromClient, exchange.BadPath, "no such path can be")
				} else if x.RequestBody != nil {
					if _, err := io.Copy(io.Discard, x.RequestBody); err != nil {
						x.Err, _ = err.(*exchange.Fault) //nolint:errorlint // it is one itself
					}
				}
				x.Reply(200, "", nil)
				_ = x.Front.Respond(x)
			})
			c := dialRaw(t, f.addr)
			go tt.send(c)
			if got := c.closed(); got != load {
				t.Fatalf("%s, want %s; blamed for %q", got, load, b.String())
			}
			eventually(t, "the blame", func() bool { return strings.HasSuffix(b.String(), "true") })
			if got, want := b.String(), tt.kind+" false, "+tt.kind+" true"; got != want {
				t.Errorf("blamed for %q, want %q", got, want)
			}
			n := 0
			served.Range(func(any, any) bool { n++; return true })
			if n > 500 {
				t.Errorf("%d requests were served before that", n)
			}
		})
	}
}

// times repeats b.
func times(b []byte, n int) []byte { return []byte(strings.Repeat(string(b), n)) }

// TestBlame: which ends of a connection are put down to the client.
func TestBlame(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(c *rawClient)
		want string
	}{
		{"protocol error", func(c *rawClient) { c.uni([]byte{streamPush}, false) }, "malformed true"},
		{"many requests, and away", func(c *rawClient) {
			for range 120 {
				if str, err := c.OpenStream(); err == nil {
					_, _ = str.Write(post())
				}
			}
			_ = c.CloseWithError(0x100, "")
		}, ""},
		{"some requests given up", func(c *rawClient) {
			for range 90 {
				if str, err := c.OpenStream(); err == nil {
					_, _ = str.Write(post())
					str.CancelWrite(0x10c)
					str.CancelRead(0x10c)
				}
			}
			if got := c.ask(get(), true); got != "200" {
				c.tb.Errorf("afterwards: %s", got)
			}
			_ = c.CloseWithError(0x100, "")
		}, ""},
		{"greased requests", func(c *rawClient) {
			for range 300 {
				if got := c.ask(join(frame(0x21), get(), frame(0x40, 1, 2)), true); got != "200" {
					c.tb.Fatalf("a greased request: %s", got)
				}
			}
			_ = c.CloseWithError(0x100, "")
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var b blames
			f := start(t, func(c *FrontConfig) { c.Abusive = b.take }, func(x *exchange.Exchange) {
				if x.RequestBody != nil {
					if _, err := io.Copy(io.Discard, x.RequestBody); err != nil {
						x.Err, _ = err.(*exchange.Fault) //nolint:errorlint // it is one itself
					}
				}
				x.Reply(200, "", nil)
				_ = x.Front.Respond(x)
			})
			c := dialRaw(t, f.addr)
			tt.do(c)
			c.closed()
			eventually(t, "the connection's end", func() bool { conns, streams := f.front.Active(); return conns+streams == 0 })
			if got := b.String(); got != tt.want {
				t.Errorf("blamed for %q, want %q", got, tt.want)
			}
		})
	}
}
