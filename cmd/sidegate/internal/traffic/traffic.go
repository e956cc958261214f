// Package traffic remembers how many requests there were, how long they took and
// what they weighed: every 5 seconds for a quarter of an hour, and every minute for
// a day. It reads the counters that the handler keeps anyway, so that requests pay
// nothing for it; it is lost with the process. For good, per consumer, is usage's
// matter.
//
// Memory is bounded: what is remembered of an interval is all of it together, and
// the 50 routes and services with the most requests in it: 8 MB at the very most.
// Of the last minute, all that had requests are known: 3 kB for each pair of route and
// service that is never idle, 0.3 kB for each other.
package traffic

import (
	"context"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy"
)

const (
	fineStep    = 5 * time.Second
	fineSlots   = 180 // a quarter of an hour
	coarseSlots = 1440
	perMinute   = int(time.Minute / fineStep)
	topOf       = 50 // routes, and services, of an interval
)

// Deps are what a Recorder reads.
type Deps struct {
	Totals   func() []proxy.RouteTotals
	InFlight func() int // requests
	Clock    func() time.Time
}

// Recorder remembers. Whoever calls Run owns its goroutine.
type Recorder struct {
	Deps
	started time.Time

	mu     sync.Mutex // guards what follows
	last   map[pair]*proxy.RouteTotals
	at     time.Time // of last
	total  sums      // since the start, of routes that are gone, too
	ticks  uint64
	recent [perMinute]interval // a ring by ticks
	fine   ring
	coarse ring
}

// pair is what counters are kept of.
type pair struct{ route, service string }

// interval is what was counted in one, of all that had requests.
type interval struct {
	seconds float64
	list    []delta
}

type delta struct {
	pair
	sums
}

// sums are counters of a time.
type sums struct {
	requests uint64
	classes  [6]uint64
	in, out  uint64
	buckets  [len(proxy.Buckets) + 1]uint64
}

func (s *sums) add(o *sums) {
	s.requests += o.requests
	s.in += o.in
	s.out += o.out
	for i, n := range o.classes {
		s.classes[i] += n
	}
	for i, n := range o.buckets {
		s.buckets[i] += n
	}
}

// New returns a recorder that remembers from now on.
func New(d Deps) *Recorder {
	now := d.Clock()
	return &Recorder{
		Deps: d, started: now, at: now, last: map[pair]*proxy.RouteTotals{},
	}
}

// Run takes the counters every 5 seconds until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	t := time.NewTicker(fineStep)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			r.tick(r.Clock())
		}
	}
}

// tick ends an interval.
func (r *Recorder) tick(now time.Time) {
	totals := r.Totals()
	r.mu.Lock()
	defer r.mu.Unlock()
	i := interval{seconds: now.Sub(r.at).Seconds(), list: r.since(totals)}
	for k := range i.list {
		r.total.add(&i.list[k].sums)
	}
	last := make(map[pair]*proxy.RouteTotals, len(totals))
	for k := range totals {
		last[pair{totals[k].Route, totals[k].Service}] = &totals[k]
	}
	r.last, r.at = last, now
	r.recent[r.ticks%uint64(perMinute)] = i
	r.ticks++
	busy := r.InFlight()
	r.fine.push(fineSlots, newSlot(now, busy, i.seconds, i.list))
	if r.ticks%uint64(perMinute) == 0 {
		var seconds float64
		var list []delta
		for k := range r.recent {
			seconds += r.recent[k].seconds
			list = append(list, r.recent[k].list...)
		}
		r.coarse.push(coarseSlots, newSlot(now, busy, seconds, list))
	}
}

// since is what has been counted since the last tick, of those that had requests.
func (r *Recorder) since(totals []proxy.RouteTotals) []delta {
	var list []delta
	for i := range totals {
		t := &totals[i]
		p := pair{t.Route, t.Service}
		last := r.last[p]
		if last == nil || last.Requests > t.Requests { // new, or gone and back
			last = &proxy.RouteTotals{}
		}
		if t.Requests == last.Requests {
			continue
		}
		d := delta{pair: p}
		d.requests, d.in, d.out = t.Requests-last.Requests, t.BytesIn-last.BytesIn, t.BytesOut-last.BytesOut
		for c := range t.Classes {
			d.classes[c] = t.Classes[c] - last.Classes[c]
		}
		for b := range t.LatencyBuckets {
			d.buckets[b] = t.LatencyBuckets[b] - last.LatencyBuckets[b]
		}
		list = append(list, d)
	}
	return list
}
