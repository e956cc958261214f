package proxy

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Buckets are the upper bounds of the latency histogram, in seconds.
var Buckets = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// Stats counts exchanges. Each route's counters are spread over shards, one for
// each core or so, and added up when they are read. They belong to the gateway
// and survive reloads.
type Stats struct {
	shards uint32 // a power of two

	mu     sync.Mutex
	routes map[string]*RouteStats

	faults map[exchange.Kind]*atomic.Uint64 // filled once
}

// RouteStats counts the exchanges of one route.
type RouteStats struct {
	Route, Service string
	shards         []routeShard
	examples       atomic.Pointer[examples] // of traced requests; nil: there was none
}

// examples are one traced request for each bucket of the latency histogram, the last.
type examples struct {
	mu   sync.Mutex // guards list
	list [len(Buckets) + 1]Example
}

// Example is a traced request that took some time.
type Example struct {
	Trace [16]byte
	Took  time.Duration
	At    time.Time
}

type routeShard struct {
	classes  [6]atomic.Uint64 // by status/100; 0 is none
	in, out  atomic.Uint64
	nanos    atomic.Uint64
	upstream atomic.Uint64
	buckets  [len(Buckets) + 1]atomic.Uint64
	_        [64]byte // keep neighbours off this cache line
}

// NewStats returns counters at zero.
func NewStats() *Stats {
	n := uint32(1)
	for int(n) < runtime.GOMAXPROCS(0) && n < 64 {
		n *= 2
	}
	s := &Stats{shards: n, routes: map[string]*RouteStats{}, faults: map[exchange.Kind]*atomic.Uint64{}}
	for k := range problems {
		s.faults[k] = new(atomic.Uint64)
	}
	return s
}

// Route returns the counters of a route, the same ones for the same names.
func (s *Stats) Route(route, service string) *RouteStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := route + "\x00" + service
	r := s.routes[key]
	if r == nil {
		r = &RouteStats{Route: route, Service: service, shards: make([]routeShard, s.shards)}
		s.routes[key] = r
	}
	return r
}

// Retain forgets the routes that keep doesn't want: those gone from the
// configuration, so that a fleet's churn doesn't grow the metrics for ever.
func (s *Stats) Retain(keep func(*RouteStats) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.routes {
		if !keep(r) {
			delete(s.routes, k)
		}
	}
}

// Count counts a finished exchange.
func (s *Stats) Count(r *RouteStats, x *exchange.Exchange, took time.Duration) {
	h := &r.shards[x.Conn.Shard&(s.shards-1)]
	class := x.Status / 100
	if class < 0 || class > 5 {
		class = 0
	}
	h.classes[class].Add(1)
	if x.BytesIn != 0 {
		h.in.Add(uint64(x.BytesIn))
	}
	if x.BytesOut != 0 {
		h.out.Add(uint64(x.BytesOut))
	}
	h.nanos.Add(uint64(took))
	if x.Upstream != 0 {
		h.upstream.Add(uint64(x.Upstream))
	}
	b := bucket(took)
	h.buckets[b].Add(1)
	if x.Trace.Spans != nil {
		r.example(b, Example{x.Trace.ID, took, x.Start.Add(took)})
	}
	if x.Err != nil {
		if c := s.faults[x.Err.Kind]; c != nil {
			c.Add(1)
		}
	}
}

// example keeps an example, unless another one is being kept just now.
func (r *RouteStats) example(bucket int, ex Example) {
	e := r.examples.Load()
	if e == nil {
		e = &examples{}
		if !r.examples.CompareAndSwap(nil, e) {
			e = r.examples.Load()
		}
	}
	if e.mu.TryLock() {
		e.list[bucket] = ex
		e.mu.Unlock()
	}
}

func bucket(d time.Duration) int {
	sec := d.Seconds()
	for i, b := range Buckets {
		if sec <= b {
			return i
		}
	}
	return len(Buckets)
}

// RouteTotals is what a route has counted so far.
type RouteTotals struct {
	Route, Service    string
	Classes           [6]uint64 // by status/100; 0: no response
	BytesIn, BytesOut uint64
	Seconds           float64 // of all exchanges together
	UpstreamSeconds   float64 // of which waiting for backends
	Requests          uint64
	LatencyBuckets    [len(Buckets) + 1]uint64 // not cumulated
	Examples          []Example                // traced requests, of several buckets
}

// Totals adds the shards up.
func (s *Stats) Totals() []RouteTotals {
	s.mu.Lock()
	routes := make([]*RouteStats, 0, len(s.routes))
	for _, r := range s.routes {
		routes = append(routes, r)
	}
	s.mu.Unlock()
	out := make([]RouteTotals, len(routes))
	for i, r := range routes {
		t := &out[i]
		t.Route, t.Service = r.Route, r.Service
		if e := r.examples.Load(); e != nil {
			e.mu.Lock()
			for _, ex := range e.list {
				if ex.Took > 0 {
					t.Examples = append(t.Examples, ex)
				}
			}
			e.mu.Unlock()
		}
		for j := range r.shards {
			h := &r.shards[j]
			for c := range h.classes {
				n := h.classes[c].Load()
				t.Classes[c] += n
				t.Requests += n
			}
			t.BytesIn += h.in.Load()
			t.BytesOut += h.out.Load()
			t.Seconds += time.Duration(h.nanos.Load()).Seconds()
			t.UpstreamSeconds += time.Duration(h.upstream.Load()).Seconds()
			for b := range h.buckets {
				t.LatencyBuckets[b] += h.buckets[b].Load()
			}
		}
	}
	return out
}

// Faults is how many exchanges ended in each kind of fault.
func (s *Stats) Faults() map[exchange.Kind]uint64 {
	out := make(map[exchange.Kind]uint64, len(s.faults))
	for k, c := range s.faults {
		if n := c.Load(); n > 0 {
			out[k] = n
		}
	}
	return out
}
