package upstream

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func TestBalancesOverThree(t *testing.T) {
	b1, b2, b3 := newBackend(t, nil), newBackend(t, nil), newBackend(t, nil)
	b := newBench(t, &Config{Balance: "round_robin"}, Deps{}, at(b1.addr), at(b2.addr), at(b3.addr))
	for range 30 {
		a := b.get("/")
		if a.status != 200 || a.fault != nil || a.err != nil {
			t.Fatalf("answer = %+v", a)
		}
	}
	for _, be := range []*backend{b1, b2, b3} {
		if be.hits() != 10 {
			t.Errorf("%s got %d of 30", be.addr, be.hits())
		}
		if st := b.instance(be.addr); st.Requests != 10 || st.Pending != 0 || st.Open != 1 || st.Idle != 1 || st.Latency == 0 {
			t.Errorf("status = %+v", st)
		}
	}
	if st := b.p.Status(); st.Requests != 30 || st.Tries != 30 || st.Failures != 0 || st.Healthy != 3 || st.Panic || st.Updated.IsZero() {
		t.Errorf("status = %+v", st)
	}
}

func TestFillsExchange(t *testing.T) {
	be := newBackend(t, nil)
	b := newBench(t, &Config{Timeouts: &TimeoutsConfig{Connect: time.Second, FirstByte: time.Second, Idle: time.Second, Total: time.Minute}}, Deps{}, at(be.addr))
	x := request("GET", "/")
	if a := b.send(x); a.status != 200 {
		t.Fatalf("answer = %+v", a)
	}
	if x.ServiceName != "s" || x.InstanceAddr != be.addr || x.Tries != 1 || x.Upstream <= 0 || x.Deadline.IsZero() || x.Lease != nil {
		t.Errorf("exchange: service %q instance %q tries %d upstream %s deadline %s lease %v", x.ServiceName, x.InstanceAddr, x.Tries, x.Upstream, x.Deadline, x.Lease)
	}
}

func TestKillOneUnderLoad(t *testing.T) {
	b1, b2, b3 := newBackend(t, nil), newBackend(t, nil), newBackend(t, nil)
	b := newBench(t, &Config{Balance: "ewma"}, Deps{}, at(b1.addr), at(b2.addr), at(b3.addr))
	var sent, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := b.get("/"); a.fault != nil || a.status != 200 {
					failed.Add(1)
					t.Errorf("answer = %+v", a)
				}
				sent.Add(1)
			}
		})
	}
	until(t, "some requests", func() bool { return sent.Load() > 500 })
	b2.CloseClientConnections()
	b2.Close()
	at := sent.Load()
	until(t, "more requests", func() bool { return sent.Load() > at+1000 })
	close(stop)
	wg.Wait()
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of %d failed", n, sent.Load())
	}
}

func TestNoInstance(t *testing.T) {
	b := newBench(t, &Config{}, Deps{})
	wantFault(t, b.get("/"), exchange.NoInstance)
	if n := b.p.Status().NoInstance; n != 1 {
		t.Errorf("NoInstance = %d", n)
	}
}

func TestUnreachable(t *testing.T) {
	dead := deadAddr(t)
	b := newBench(t, &Config{}, Deps{}, at(dead))
	x := request("GET", "/")
	wantFault(t, b.send(x), exchange.ConnectFailed)
	if x.Tries != 1 || x.InstanceAddr != dead || x.Lease != nil {
		t.Errorf("tries %d at %q, lease %v", x.Tries, x.InstanceAddr, x.Lease)
	}
	if st := b.instance(dead); st.Pending != 0 || st.Failures != 1 || st.Open != 0 {
		t.Errorf("status = %+v", st)
	}
}

// TestPostMovesOnWhenUnreachable: nothing was sent, so another instance may get
// even a POST, with its body.
func TestPostMovesOnWhenUnreachable(t *testing.T) {
	be := newBackend(t, echo)
	b := newBench(t, &Config{Balance: "round_robin"}, Deps{}, at(deadAddr(t)), at(be.addr))
	body := strings.Repeat("x", 100<<10)
	for range 4 {
		if a := b.send(withBody(request("POST", "/"), body, true)); a.body != body {
			t.Fatalf("answer = %d, %d bytes, %v %v", a.status, len(a.body), a.fault, a.err)
		}
	}
}

// echo answers with the body, once it has all of it.
func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Write(b)
}

// reset breaks the connection without an answer.
func reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestResetMovesOn(t *testing.T) {
	tests := []struct {
		name, method, body string
		known              bool
		status             int
	}{
		{"GET", "GET", "", true, 200},
		{"PUT", "PUT", "hello", true, 200},
		{"PUT of 60 KiB", "PUT", strings.Repeat("y", 60<<10), true, 200},
		{"PUT of unknown length", "PUT", strings.Repeat("z", 10<<10), false, 200},
		{"PUT too large to keep", "PUT", strings.Repeat("y", 65<<10), true, 0},
		{"POST", "POST", "hello", true, 0},
		{"POST without a body", "POST", "", true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				reset(w, r)
			})
			good := newBackend(t, echo)
			cfg := &Config{Balance: "round_robin", Outlier: &OutlierConfig{}}
			b := newBench(t, cfg, Deps{}, at(bad.addr), at(good.addr))
			for range 2 { // one of them starts at bad
				x := request(tt.method, "/")
				if tt.body != "" {
					withBody(x, tt.body, tt.known)
				}
				a := b.send(x)
				if x.InstanceAddr == bad.addr {
					wantFault(t, a, exchange.BackendReset)
					if tt.status != 0 {
						t.Errorf("not tried again")
					}
				} else if a.status != 200 || a.body != tt.body {
					t.Errorf("answer = %d %d bytes %v %v", a.status, len(a.body), a.fault, a.err)
				}
			}
			if bad.hits() == 0 {
				t.Error("the bad instance got no request")
			}
			if all := bad.hits() + good.hits(); tt.status == 0 && all != 2 {
				t.Errorf("2 requests became %d", all)
			}
		})
	}
}

func TestHangTimesOut(t *testing.T) {
	hang := make(chan struct{})
	be := newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	b := newBench(t, &Config{Timeouts: &TimeoutsConfig{Connect: time.Second, FirstByte: 300 * time.Millisecond, Idle: time.Second}}, Deps{}, at(be.addr))
	wantFault(t, b.get("/"), exchange.BackendTimeout)
	if st := b.instance(be.addr); st.Failures != 1 || st.Pending != 0 || st.Open != 0 || st.Latency < 250*time.Millisecond {
		t.Errorf("status = %+v", st)
	}
	cfg := &Config{Name: "s", Timeouts: &TimeoutsConfig{Connect: time.Second, FirstByte: time.Minute, Idle: time.Second, Total: 300 * time.Millisecond}}
	b.apply(cfg)
	wantFault(t, b.get("/"), exchange.DeadlineExceeded)
}

func TestStatusMovesOn(t *testing.T) {
	bad := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(503)
		io.WriteString(w, "no")
	})
	good := newBackend(t, nil)
	b := newBench(t, &Config{Balance: "round_robin", Outlier: &OutlierConfig{}}, Deps{}, at(bad.addr), at(good.addr))
	for range 4 {
		if a := b.get("/"); a.status != 200 || a.body != good.addr {
			t.Fatalf("answer = %+v", a)
		}
	}
	if bad.hits() == 0 {
		t.Error("the bad instance got no request")
	}
	st := b.instance(bad.addr)
	if st.Pending != 0 || st.Open != 1 || st.Latency < 19*time.Second {
		t.Errorf("status = %+v, want its connection kept and the pause heeded", st)
	}
	// A POST gets what the instance says.
	got := map[int]int{}
	for range 4 {
		got[b.send(request("POST", "/")).status]++
	}
	if got[503] != 2 || got[200] != 2 {
		t.Errorf("POST: %v", got)
	}
	// With no instance left, so does a GET.
	b.src.give(at(bad.addr))
	if a := b.get("/"); a.status != 503 || a.body != "no" {
		t.Errorf("answer = %+v", a)
	}
}

func TestRetryBudget(t *testing.T) {
	bad1, bad2 := newBackend(t, reset), newBackend(t, reset)
	b := newBench(t, &Config{Balance: "round_robin", Outlier: &OutlierConfig{}, Panic: 0}, Deps{}, at(bad1.addr), at(bad2.addr))
	const n = 40
	for range n {
		wantFault(t, b.get("/"), exchange.BackendReset)
	}
	st := b.p.Status()
	if st.RetriesMade != budgetFloor || st.Tries != n+budgetFloor || st.OverBudget != n-budgetFloor || st.Failures != n {
		t.Errorf("status = %+v, want %d further tries", st, budgetFloor)
	}
	for _, in := range st.Instances {
		if in.Pending != 0 || in.Open != 0 {
			t.Errorf("instance = %+v", in)
		}
	}
}

// TestStaleConnection: an instance that closes idle connections isn't to blame,
// and the client doesn't notice.
func TestStaleConnection(t *testing.T) {
	be := newBackend(t, nil)
	b := newBench(t, &Config{Retry: &RetryConfig{}}, Deps{}, at(be.addr)) // no retries at all
	for _, method := range []string{"GET", "POST"} {
		for range 3 {
			if a := b.send(request(method, "/")); a.status != 200 {
				t.Fatalf("%s: answer = %+v", method, a)
			}
			be.CloseClientConnections()
		}
	}
	if st := b.instance(be.addr); st.Failures != 0 || st.Open > 1 {
		t.Errorf("status = %+v", st)
	}
}

func TestBrokenResponseCounts(t *testing.T) {
	be := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	b := newBench(t, &Config{}, Deps{}, at(be.addr))
	if a := b.get("/"); a.err == nil || a.status != 200 {
		t.Fatalf("answer = %+v", a)
	}
	if st := b.instance(be.addr); st.Failures != 1 || st.Pending != 0 || st.Open != 0 {
		t.Errorf("status = %+v", st)
	}
	// A client that leaves is no failure of the backend.
	x := request("GET", "/")
	if f := b.p.Send(x); f != nil {
		t.Fatal(f)
	}
	x.Lease.Release(x, exchange.NewFault(exchange.FromClient, exchange.ClientGone, "gone"))
	if st := b.instance(be.addr); st.Failures != 1 || st.Pending != 0 || st.Open != 0 {
		t.Errorf("status = %+v", st)
	}
}
