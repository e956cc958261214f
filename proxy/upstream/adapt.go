package upstream

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/gradient"
)

// adaptive bounds the requests that a service works on by what its latency says
// (limits.adaptive). Waiting for instances in the queue is for bursts beyond
// what instances may have; here, waiting is what the limit is there to avoid, and
// so who finds no place is refused at once.
//
// A place is held until the head of the response, which is what the latency is
// measured to: bodies that stream for hours and tunnels hold none. Nor does a
// request whose body is still coming, or else few slow clients could take all
// places: it takes its place when the body has come.
type adaptive struct {
	limit  *gradient.Limit
	shed   [exchange.HighPriority + 1]atomic.Uint64
	faults [exchange.HighPriority + 1]*exchange.Fault // made once: refusing many must not cost
}

func newAdaptive(service string) *adaptive {
	a := &adaptive{limit: gradient.New(rand.Float64)}
	for p := exchange.LowPriority; p <= exchange.HighPriority; p++ {
		a.faults[p] = exchange.NewFault(exchange.FromUpstream, exchange.Overloaded,
			"%s is at its adaptive limit, for requests of %s priority", service, p)
	}
	return a
}

// rankOf is a priority as the limit knows it.
func rankOf(p exchange.Priority) int { return int(p) - int(exchange.NormalPriority) }

// enter takes a place for x, or refuses it.
func (a *adaptive) enter(x *exchange.Exchange) (place int64, f *exchange.Fault) {
	rank := x.Rank()
	place, ok := a.limit.Enter(rankOf(rank))
	if !ok {
		a.shed[rank].Add(1)
		return 0, a.faults[rank]
	}
	return place, nil
}

// The states of a request's place.
const (
	placeNone  = iota // its body is still coming
	placeTaken        // Leave is due
	placeGone         // given back: the response is there
)

// seat is an exchange's place in its service's adaptive limit.
type seat struct {
	in    *adaptive // nil: the service has none
	state atomic.Int32
	place atomic.Int64
}

// sit gives l the place that its request has; whole says that the request is
// here, or taken into memory, with its body.
func (l *lease) sit(a *adaptive, place int64, whole bool) {
	s := &l.body.seat
	s.in = a
	if whole {
		s.place.Store(place)
		s.state.Store(placeTaken)
		return
	}
	a.limit.Leave()
	s.state.Store(placeNone)
}

// bodyCame takes the place that waited for the end of the request's body.
func (s *seat) bodyCame() {
	if s.in != nil && s.state.CompareAndSwap(placeNone, placeTaken) {
		s.place.Store(s.in.limit.Force())
	}
}

// observe takes in the latency of the answer.
func (s *seat) observe(d time.Duration) {
	if s.in != nil && s.state.Load() == placeTaken {
		s.in.limit.Observe(d, s.place.Load())
	}
}

// stand gives the place back.
func (s *seat) stand() {
	if s.in != nil && s.state.Swap(placeGone) == placeTaken {
		s.in.limit.Leave()
	}
}

// explain says whether x would get a place.
func (a *adaptive) explain(x *exchange.Exchange) string {
	st, rank := a.limit.Status(), x.Rank()
	verdict := "admits"
	if _, ok := a.limit.Enter(rankOf(rank)); ok {
		a.limit.Leave() // at once: it was only a question
	} else {
		verdict = "refuses"
	}
	return fmt.Sprintf("adaptive limit %d, %d in flight: %s priority %s", st.Limit, st.InFlight, verdict, rank)
}

// AdaptiveStatus is what an adaptive limit looks like.
type AdaptiveStatus struct {
	gradient.Status
	Shed map[string]uint64 `json:"shed"` // by priority
}

func (a *adaptive) status() *AdaptiveStatus {
	st := &AdaptiveStatus{Status: a.limit.Status(), Shed: map[string]uint64{}}
	for p := exchange.LowPriority; p <= exchange.HighPriority; p++ {
		st.Shed[p.String()] = a.shed[p].Load()
	}
	return st
}
