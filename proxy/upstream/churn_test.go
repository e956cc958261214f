package upstream

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestChurnUnderLoad: instances come and go, and the configuration is loaded
// again and again; no request fails, not even a POST.
func TestChurnUnderLoad(t *testing.T) {
	for _, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			var set []discovery.Instance
			for range 4 {
				if protocol == "h2c" {
					addr, _ := newH2CBackend(t, http.HandlerFunc(echo))
					set = append(set, at(addr))
				} else {
					set = append(set, at(newBackend(t, echo).addr))
				}
			}
			cfg := &Config{Protocol: protocol, PreferLocal: true}
			b := newBench(t, cfg, Deps{}, set...)
			p := b.p
			var sent atomic.Int64
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for k := range 6 {
				wg.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						method := []string{"GET", "POST", "PUT"}[i%3]
						x := request(method, "/")
						body := ""
						if method != "GET" {
							body = strings.Repeat(fmt.Sprint(k, i), 50)
							withBody(x, body, i%2 == 0)
						}
						f := p.Send(x)
						if f != nil {
							t.Errorf("%s: %v", method, f)
							continue
						}
						if a := take(x); a.status != 200 || a.body != body || a.err != nil {
							t.Errorf("%s: status %d, %d bytes of %d, %v", method, a.status, len(a.body), len(body), a.err)
						}
						sent.Add(1)
					}
				})
			}
			for i := range 40 {
				at := sent.Load()
				until(t, "some requests", func() bool { return sent.Load() > at+10 })
				next := append([]discovery.Instance(nil), set[i%3:i%3+2]...)
				next[0].Local = i%2 == 0
				if i%5 == 0 {
					next[0].Health = discovery.Critical
				}
				b.src.give(next...)
				c := *cfg
				c.Balance = []string{"ewma", "round_robin", "least_request", "random"}[i%4]
				c.Timeouts = &TimeoutsConfig{Connect: time.Duration(2+i%2) * time.Second, FirstByte: 10 * time.Second}
				b.apply(&c)
			}
			close(stop)
			wg.Wait()
			st := p.Status()
			for _, in := range st.Instances {
				if in.Pending != 0 || in.Failures != 0 || in.Open != in.Idle {
					t.Errorf("instance = %+v", in)
				}
			}
			if st.Requests != uint64(sent.Load()) {
				t.Errorf("%d requests counted, %d sent", st.Requests, sent.Load())
			}
		})
	}
}

// TestSlowUpload: how long a client takes to send isn't the instance's latency.
func TestSlowUpload(t *testing.T) {
	be := newBackend(t, echo)
	clock := &fakeClock{}
	b := newBench(t, &Config{}, Deps{Now: clock.now}, at(be.addr))
	r, w := io.Pipe()
	x := request("PUT", "/")
	x.RequestBody, x.RequestLength = &stream{r}, -1
	go func() {
		io.WriteString(w, "slow")
		until(t, "the start of the request", func() bool { return be.hits() == 1 })
		clock.add(20 * time.Second)
		w.Close()
	}()
	if a := b.send(x); a.body != "slow" {
		t.Fatalf("answer = %+v", a)
	}
	if st := b.instance(be.addr); st.Latency == 0 || st.Latency > time.Second {
		t.Errorf("latency = %s", st.Latency)
	}
}

func TestUpgrade(t *testing.T) {
	be := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			t.Errorf("fields = %v", r.Header)
		}
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(nc, rw)
	})
	b := newBench(t, &Config{}, Deps{}, at(be.addr))
	x := request("GET", "/", "Connection", "Upgrade", "Upgrade", "echo")
	x.Upgrade = "echo"
	if f := b.p.Send(x); f != nil {
		t.Fatal(f)
	}
	if x.Status != 101 || x.Tunnel == nil {
		t.Fatalf("status %d, tunnel %v", x.Status, x.Tunnel)
	}
	io.WriteString(x.Tunnel, "hello")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(x.Tunnel, buf); err != nil || string(buf) != "hello" {
		t.Errorf("echo = %q %v", buf, err)
	}
	x.Lease.Release(x, nil)
	if st := b.instance(be.addr); st.Open != 0 || st.Pending != 0 || st.Failures != 0 {
		t.Errorf("status = %+v", st)
	}
}

// TestTLSReuse: looking whether a TLS connection lives doesn't take it for dead.
func TestTLSReuse(t *testing.T) {
	be, addr, ca := newTLSBackend(t, false, echo)
	b := newBench(t, &Config{Protocol: "https", TLS: &TLSConfig{CAFile: ca, ServerName: "example.com"}}, Deps{}, at(addr))
	for range 5 {
		if a := b.send(withBody(request("POST", "/"), "x", true)); a.body != "x" {
			t.Fatalf("answer = %+v", a)
		}
	}
	if n := b.instance(addr).Open; n != 1 {
		t.Errorf("%d connections open, want 1", n)
	}
	// One that the instance closed is seen to be dead, and the POST not lost.
	be.CloseClientConnections()
	if a := b.send(withBody(request("POST", "/"), "y", true)); a.body != "y" {
		t.Errorf("answer = %+v", a)
	}
}

// TestSharedDialFailsOnce: one failed dial is one failure, however many wait.
func TestSharedDialFailsOnce(t *testing.T) {
	hang, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hang.Close()
	cfg := &Config{
		Protocol: "h2", TLS: &TLSConfig{Insecure: true, ServerName: "x"}, // the handshake never ends
		Timeouts: &TimeoutsConfig{Connect: time.Second}, Retry: &RetryConfig{},
	}
	b := newBench(t, cfg, Deps{}, at(hang.Addr().String()), at("127.0.0.1:1"))
	b.src.give(at(hang.Addr().String()))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { wantKind(t, b.get("/"), exchange.ConnectFailed) })
	}
	wg.Wait()
	if st := b.instance(hang.Addr().String()); st.Failures > 3 || st.Pending != 0 {
		t.Errorf("status = %+v, want a failure for each dial, not for each request", st)
	}
}

func wantKind(t testing.TB, a answer, kind exchange.Kind) {
	t.Helper()
	if a.fault == nil || a.fault.Kind != kind {
		t.Errorf("fault = %v (status %d), want %s", a.fault, a.status, kind)
	}
}

// TestStatusMovesOnH2: a dropped response ends its stream, not the connection.
func TestStatusMovesOnH2(t *testing.T) {
	bad, conns := newH2CBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(503)
		w.Write(make([]byte, 100<<10))
	}))
	good, _ := newH2CBackend(t, http.HandlerFunc(echo))
	b := newBench(t, &Config{Protocol: "h2c", Balance: "round_robin", Outlier: &OutlierConfig{}}, Deps{}, at(bad), at(good))
	for range 8 {
		if a := b.send(withBody(request("PUT", "/"), "z", true)); a.status != 200 || a.body != "z" {
			t.Fatalf("answer = %+v", a)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections to the instance that answers 503, want 1", n)
	}
	if st := b.instance(bad); st.Pending != 0 || st.Requests == 0 {
		t.Errorf("status = %+v", st)
	}
}
