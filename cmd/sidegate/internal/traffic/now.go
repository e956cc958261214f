package traffic

import (
	"slices"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy"
)

// Dimension is what traffic is told apart by.
type Dimension string

// The dimensions.
const (
	Total   Dimension = "total"
	Route   Dimension = "route"
	Service Dimension = "service"
)

func (d Dimension) of(p pair) string {
	switch d {
	case Route:
		return p.route
	case Service:
		return p.service
	default:
		return ""
	}
}

// Figures are the traffic of a time.
type Figures struct {
	Requests uint64    `json:"requests"`
	Rate     float64   `json:"rate"`    // requests a second
	Classes  [6]uint64 `json:"classes"` // by the first digit of the status; 0: no response
	Errors   uint64    `json:"errors"`  // 5xx, and no response
	BytesIn  uint64    `json:"bytes_in"`
	BytesOut uint64    `json:"bytes_out"`
	P50      float64   `json:"p50"` // seconds, as exact as the buckets are; 0 without requests
	P90      float64   `json:"p90"`
	P99      float64   `json:"p99"`
	Latency  []uint64  `json:"latency,omitempty"` // requests by the bucket of their time, not cumulated; since the start only
}

// Row is the traffic of one route or service, or of all.
type Row struct {
	Recent Figures `json:"recent"`
	All    Figures `json:"all"` // since the start
}

// Now is how things are.
type Now struct {
	Started time.Time
	Window  float64 // seconds that Recent is about
	Total   Row
	Rows    map[string]*Row // none by Total
}

// Now returns the traffic of the last window (at most a minute, about) and since
// the start, up to this moment.
func (r *Recorder) Now(by Dimension, window time.Duration) *Now {
	totals := r.Totals()
	now := r.Clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	live := r.since(totals)
	n := &Now{Started: r.started, Window: now.Sub(r.at).Seconds(), Rows: map[string]*Row{}}
	recent, all := map[string]*sums{}, map[string]*sums{}
	var sum sums
	add := func(list []delta) {
		for i := range list {
			sum.add(&list[i].sums)
			if by != Total {
				addTo(recent, by.of(list[i].pair), &list[i].sums)
			}
		}
	}
	add(live)
	for k := uint64(1); k <= min(r.ticks, uint64(perMinute)) && n.Window < window.Seconds(); k++ {
		i := &r.recent[(r.ticks-k)%uint64(perMinute)]
		n.Window += i.seconds
		add(i.list)
	}
	n.Total.Recent = sum.figures(n.Window)
	whole := r.total
	for i := range live {
		whole.add(&live[i].sums)
	}
	up := now.Sub(r.started).Seconds()
	n.Total.All = whole.figures(up)
	n.Total.All.Latency = whole.buckets[:]
	if by == Total {
		return n
	}
	for i := range totals {
		t := sumsOf(&totals[i])
		addTo(all, by.of(pair{totals[i].Route, totals[i].Service}), &t)
	}
	for name, s := range all {
		row := &Row{All: s.figures(up)}
		row.All.Latency = s.buckets[:]
		if s := recent[name]; s != nil {
			row.Recent = s.figures(n.Window)
		}
		n.Rows[name] = row
	}
	return n
}

func sumsOf(t *proxy.RouteTotals) sums {
	return sums{requests: t.Requests, classes: t.Classes, in: t.BytesIn, out: t.BytesOut, buckets: t.LatencyBuckets}
}

func (s *sums) figures(seconds float64) Figures {
	f := Figures{
		Requests: s.requests, Classes: s.classes, Errors: s.failed(), BytesIn: s.in, BytesOut: s.out,
		P50: s.quantile(0.5), P90: s.quantile(0.9), P99: s.quantile(0.99),
	}
	if seconds > 0 {
		f.Rate = float64(s.requests) / seconds
	}
	return f
}

// Buckets are the upper bounds of the buckets of Latency, in seconds.
func Buckets() []float64 { return slices.Clone(proxy.Buckets[:]) }
