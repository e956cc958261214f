package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// instant is a connection whose backend answers at once.
type instant struct{ status int }

func (c *instant) RoundTrip(x *exchange.Exchange) (exchange.Progress, *exchange.Fault) {
	x.Status = c.status
	return exchange.Answered, nil
}
func (*instant) Alive() bool    { return true }
func (*instant) Reusable() bool { return true }
func (*instant) Close() error   { return nil }

// instantBench is a bench whose connections are instant ones.
func instantBench(t testing.TB, cfg *Config, set ...discovery.Instance) *bench {
	b := newBench(t, cfg, Deps{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}, set...)
	b.g.one = func(net.Conn, *connPlan) single { return &instant{status: 200} }
	return b
}

func many(n int) []discovery.Instance {
	set := make([]discovery.Instance, n)
	for i := range set {
		set[i] = at(fmt.Sprintf("10.%d.%d.%d:8080", i>>16, i>>8&255, i&255))
		set[i].Weight = 1 + i%3
	}
	return set
}

func TestSendAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("sync.Pool forgets on purpose under the race detector")
	}
	for _, balance := range []string{"ewma", "round_robin", "least_request", "random", "hash"} {
		cfg := &Config{Balance: balance}
		if balance == "hash" {
			cfg.HashBy = "client_ip"
		}
		b := instantBench(t, cfg, many(3)...)
		x := request("GET", "/")
		once := func() {
			x.Tries = 0
			if f := b.p.Send(x); f != nil {
				t.Fatal(f)
			}
			x.Lease.Release(x, nil)
		}
		for range 100 {
			once() // connections, and the lease
		}
		if n := testing.AllocsPerRun(1000, once); n != 0 {
			t.Errorf("%s: %v allocations for a request", balance, n)
		}
	}
}

func BenchmarkSend(b *testing.B) {
	for _, n := range []int{3, 100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			be := instantBench(b, &Config{}, many(n)...)
			x := request("GET", "/")
			b.ReportAllocs()
			for b.Loop() {
				if f := be.p.Send(x); f != nil {
					b.Fatal(f)
				}
				x.Lease.Release(x, nil)
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, balance := range []string{"ewma", "round_robin", "hash"} {
		b.Run(balance+"/10000", func(b *testing.B) {
			cfg := &Config{Balance: balance}
			if balance == "hash" {
				cfg.HashBy = "client_ip"
			}
			set := many(10000)
			be := instantBench(b, cfg, set...)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				// One turns critical, the one before recovers.
				next := append([]discovery.Instance(nil), set...)
				i++
				next[i%len(next)].Health = discovery.Critical
				be.src.give(next...)
			}
		})
	}
}

func BenchmarkEject(b *testing.B) {
	be := instantBench(b, &Config{}, many(10000)...)
	list := be.p.order
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		be.p.eject(list[i%4000], be.g.now(), "test")
		i++
	}
}

// pong is a backend that allocates nothing.
func pong(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				buf := make([]byte, 4<<10)
				for {
					if _, err := nc.Read(buf); err != nil {
						return
					}
					if _, err := nc.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}

func TestHTTP1AllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("sync.Pool forgets on purpose under the race detector")
	}
	addr := pong(t)
	b := newBench(t, &Config{}, Deps{}, at(addr))
	x := request("GET", "/")
	buf := make([]byte, 64)
	once := func() {
		x.Tries = 0
		if f := b.p.Send(x); f != nil {
			t.Fatal(f)
		}
		for x.ResponseBody != nil {
			if _, err := x.ResponseBody.Read(buf); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		x.Lease.Release(x, nil)
		x.ResponseBody = nil
	}
	for range 100 {
		once()
	}
	if n := testing.AllocsPerRun(500, once); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}
