package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func adaptiveConfig() *Config {
	return &Config{Limits: &LimitsConfig{Connections: 100, Requests: 100, Adaptive: true}}
}

// fill takes all places that normal requests may have.
func fill(b *bench) *adaptive {
	b.t.Helper()
	a := b.p.settings.Load().adaptive
	for {
		if _, ok := a.limit.Enter(0); !ok {
			return a
		}
	}
}

func TestAdaptiveRefuses(t *testing.T) {
	be := newBackend(t, nil)
	b := newBench(t, adaptiveConfig(), Deps{}, at(be.addr))
	if a := b.get("/"); a.body != be.addr {
		t.Fatalf("answer = %+v", a)
	}
	a := fill(b)
	limit := b.p.Status().Adaptive.Limit
	if limit < 4 {
		t.Fatalf("limit %d", limit)
	}
	wantFault(t, b.get("/"), exchange.Overloaded)

	high := request("GET", "/")
	high.Priority = exchange.HighPriority
	if a := b.send(high); a.body != be.addr {
		t.Errorf("a request of high priority: %+v", a)
	}
	low := request("GET", "/")
	low.Priority = exchange.HighPriority
	low.Consumer = &exchange.Consumer{Name: "c", Priority: exchange.LowPriority} // its priority holds
	wantFault(t, b.send(low), exchange.Overloaded)
	copied := request("GET", "/")
	copied.Priority, copied.Copy = exchange.HighPriority, true
	wantFault(t, b.send(copied), exchange.Overloaded)

	st := b.p.Status()
	if st.Adaptive.InFlight != limit || st.Adaptive.Shed["low"] != 2 || st.Adaptive.Shed["normal"] != 1 || st.Adaptive.Shed["high"] != 0 || st.Failures != 0 {
		t.Errorf("status = %+v, %d failures", st.Adaptive, st.Failures)
	}
	// A reload keeps what has been learnt; without the argument it is gone.
	again := adaptiveConfig()
	again.Name = "s"
	b.apply(again)
	if b.p.settings.Load().adaptive != a {
		t.Error("a reload forgets")
	}
	b.apply(&Config{Name: "s"})
	if st := b.p.Status(); st.Adaptive != nil {
		t.Errorf("switched off: %+v", st.Adaptive)
	}
	if a := b.get("/"); a.body != be.addr {
		t.Errorf("switched off: %+v", a)
	}
}

// TestAdaptiveHeads: a place is held until the head of the response, and a tunnel
// says nothing of the latency.
func TestAdaptiveHeads(t *testing.T) {
	release := make(chan struct{})
	be := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			nc, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			<-release
			return
		}
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-release
	})
	b := newBench(t, adaptiveConfig(), Deps{}, at(be.addr))
	tunnel := request("GET", "/", "Connection", "Upgrade", "Upgrade", "echo")
	tunnel.Upgrade = "echo"
	stream := request("GET", "/")
	for _, x := range []*exchange.Exchange{tunnel, stream} {
		if f := b.p.Send(x); f != nil {
			t.Fatal(f)
		}
		if n := b.p.Status().Adaptive.InFlight; n != 0 {
			t.Errorf("%d places are held while a body or a tunnel goes on", n)
		}
	}
	if n := samples(b); n != 1 {
		t.Errorf("%d latencies were taken in, want that of the stream's head", n)
	}
	close(release)
	for _, x := range []*exchange.Exchange{tunnel, stream} {
		x.Lease.Release(x, nil)
	}
}

func samples(b *bench) int { return b.p.settings.Load().adaptive.limit.Samples() }

// TestAdaptiveFailures: what fails gives its place back, and says nothing of the
// latency.
func TestAdaptiveFailures(t *testing.T) {
	be := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	b := newBench(t, adaptiveConfig(), Deps{}, at(be.addr), at(deadAddr(t)))
	for range 20 {
		b.get("/")
	}
	if st, n := b.p.Status().Adaptive, samples(b); st.InFlight != 0 || n != 0 {
		t.Errorf("%+v, %d latencies", st, n)
	}
}

// TestAdaptiveUploads: a body that is on its way takes no place, so that slow
// clients can't take them all; one that has come does, until the answer.
func TestAdaptiveUploads(t *testing.T) {
	answer := make(chan struct{})
	be := newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-answer
	})
	b := newBench(t, adaptiveConfig(), Deps{}, at(be.addr))
	r, w := io.Pipe()
	x := request("POST", "/")
	x.RequestBody, x.RequestLength = &stream{r}, -1
	done := make(chan *exchange.Fault)
	go func() { done <- b.p.Send(x) }()
	inFlight := func() int { return b.p.Status().Adaptive.InFlight }
	io.WriteString(w, "some")
	until(t, "the start of the request", func() bool { return be.hits() == 1 })
	if n := inFlight(); n != 0 {
		t.Errorf("%d places are held while the body comes", n)
	}
	w.Close()
	until(t, "the place after the body", func() bool { return inFlight() == 1 })
	close(answer)
	if f := <-done; f != nil {
		t.Fatal(f)
	}
	if n := inFlight(); n != 0 {
		t.Errorf("%d places are held after the response", n)
	}
	if n := samples(b); n != 1 {
		t.Errorf("%d latencies", n)
	}
	x.Lease.Release(x, nil)

	// The client leaves in the middle of its body.
	r, w = io.Pipe()
	x = request("POST", "/")
	x.RequestBody, x.RequestLength = &stream{r}, -1
	go func() { done <- b.p.Send(x) }()
	io.WriteString(w, "some")
	w.CloseWithError(io.ErrUnexpectedEOF)
	if f := <-done; f == nil {
		t.Fatal("answered")
	}
	if n := inFlight(); n != 0 {
		t.Errorf("%d places are held after an upload broke off", n)
	}
}

// TestAdaptiveTaken: a body that has been taken into memory, by waf or validate,
// has come: its request has its place from the start.
func TestAdaptiveTaken(t *testing.T) {
	stuck := make(chan struct{})
	free := sync.OnceFunc(func() { close(stuck) })
	defer free()
	b := newBench(t, adaptiveConfig(), Deps{Dial: func(context.Context, string, string) (net.Conn, error) {
		<-stuck
		return nil, errors.New("nobody is there")
	}}, at("192.0.2.1:80"))
	limit := b.p.Status().Adaptive.Limit
	var shed atomic.Int32
	var wg sync.WaitGroup
	for range 2 * limit {
		wg.Go(func() {
			x := request("POST", "/")
			x.RequestBody, x.RequestLength = exchange.Bytes(nil), 4
			x.Unread([]byte("body"), true)
			if f := b.p.Send(x); f != nil && f.Kind == exchange.Overloaded {
				shed.Add(1)
			}
		})
	}
	until(t, "all to be in or out", func() bool { return b.p.Status().Adaptive.InFlight+int(shed.Load()) == 2*limit })
	free()
	wg.Wait()
	if n := int(shed.Load()); n != limit {
		t.Errorf("%d of %d are refused, with a limit of %d", n, 2*limit, limit)
	}
	if n := b.p.Status().Adaptive.InFlight; n != 0 {
		t.Errorf("%d places are held afterwards", n)
	}
}

func TestAdaptiveAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("sync.Pool forgets on purpose under the race detector")
	}
	b := instantBench(t, adaptiveConfig(), many(3)...)
	x := request("GET", "/")
	once := func() {
		x.Tries = 0
		if f := b.p.Send(x); f == nil {
			x.Lease.Release(x, nil)
		}
	}
	for range 100 {
		once()
	}
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
	fill(b)
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations for a refusal", n)
	}
}
