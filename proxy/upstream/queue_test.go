package upstream

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestSignalIsPassedOn: who stands in the queue and finds room that came up
// before may have been woken for other room by then, which is the next one's.
func TestSignalIsPassedOn(t *testing.T) {
	be := newBackend(t, nil)
	cfg := &Config{
		Limits:   &LimitsConfig{Connections: 2, Requests: 2, Queue: 5},
		Timeouts: &TimeoutsConfig{Connect: 5 * time.Second},
	}
	var between atomic.Pointer[func()] // runs when the time is asked for
	b := newBench(t, cfg, Deps{Now: func() time.Time {
		if f := between.Load(); f != nil {
			(*f)()
		}
		return time.Now()
	}}, at(be.addr))
	p := b.p
	in := p.view.Load().all.list[0]
	for i, want := range []bool{true, true, false} {
		if in.stats.Acquire() != want {
			t.Fatalf("slot %d: the instance should have room for two", i)
		}
	}
	x := &exchange.Exchange{Method: "GET"}
	first, next := p.newLease(x, p.settings.Load()), p.newLease(x, p.settings.Load())
	next.wake = make(chan struct{}, 1)
	f := func() {
		if p.queue.n.Load() != 1 { // first isn't in it yet
			return
		}
		between.Store(nil)
		in.stats.Release() // freed just before first came, when nobody was to be woken
		p.queue.join(next, 5, false)
		p.free(in) // wakes first
	}
	between.Store(&f)
	if _, fault := first.await(x, first.s); fault != nil {
		t.Fatal(fault)
	}
	select {
	case <-next.wake:
	default:
		t.Error("there is room for the next one, and nobody tells it")
	}
	p.queue.leave(next)
	first.vacate()
}
