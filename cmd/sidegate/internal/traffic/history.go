package traffic

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy"
)

// ring holds the newest slots.
type ring struct {
	slots []slot
	next  int // where the oldest is, once it is full
}

func (r *ring) push(most int, s slot) {
	if len(r.slots) < most {
		r.slots = append(r.slots, s)
		return
	}
	r.slots[r.next] = s
	r.next = (r.next + 1) % most
}

// each calls f with the slots, oldest first.
func (r *ring) each(f func(*slot)) {
	for i := range r.slots {
		f(&r.slots[(r.next+i)%len(r.slots)])
	}
}

// slot is an interval of the history.
type slot struct {
	end      int64 // Unix seconds
	seconds  float32
	busy     int32
	total    point
	routes   []point // at most topOf
	services []point
}

// point is a line's value in an interval.
type point struct {
	name                   string
	requests, c4, c5       uint32
	in, out, p50, p90, p99 float32
}

func newSlot(end time.Time, busy int, seconds float64, list []delta) slot {
	s := slot{end: end.Unix(), seconds: float32(seconds), busy: int32(min(busy, math.MaxInt32))}
	var all sums
	for i := range list {
		all.add(&list[i].sums)
	}
	s.total = all.point("")
	s.routes = top(list, Route)
	s.services = top(list, Service)
	return s
}

// top are the points of those with the most requests.
func top(list []delta, by Dimension) []point {
	sum := map[string]*sums{}
	for i := range list {
		addTo(sum, by.of(list[i].pair), &list[i].sums)
	}
	points := make([]point, 0, len(sum))
	for name, s := range sum {
		points = append(points, s.point(name))
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Or(cmp.Compare(b.requests, a.requests), cmp.Compare(a.name, b.name)) })
	return slices.Clone(points[:min(len(points), topOf)])
}

func addTo(sum map[string]*sums, name string, s *sums) {
	to := sum[name]
	if to == nil {
		to = &sums{}
		sum[name] = to
	}
	to.add(s)
}

func (s *sums) point(name string) point {
	small := func(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }
	return point{
		name: name, requests: small(s.requests), c4: small(s.classes[4]), c5: small(s.failed()), in: float32(s.in), out: float32(s.out),
		p50: float32(s.quantile(0.5)), p90: float32(s.quantile(0.9)), p99: float32(s.quantile(0.99)),
	}
}

// failed are those that ended in 5xx, or without a response.
func (s *sums) failed() uint64 { return s.classes[5] + s.classes[0] }

// quantile is the latency in seconds that a part of the requests took at most: as
// exact as the buckets are, and as if the requests lay evenly in theirs.
func (s *sums) quantile(q float64) float64 {
	if s.requests == 0 {
		return 0
	}
	rank, before := q*float64(s.requests), 0.0
	for i, n := range s.buckets {
		if n == 0 || before+float64(n) < rank {
			before += float64(n)
			continue
		}
		if i == len(proxy.Buckets) {
			break
		}
		low := 0.0
		if i > 0 {
			low = proxy.Buckets[i-1]
		}
		return low + (proxy.Buckets[i]-low)*(rank-before)/float64(n)
	}
	return proxy.Buckets[len(proxy.Buckets)-1]
}

// History is a line over time, oldest first. Rates are counts divided by Seconds.
// A value is null while it isn't known: there were no requests to have a latency,
// or others had more of them.
type History struct {
	By       string     `json:"by"`   // total, route or service
	Name     string     `json:"name"` // of the route or service
	Step     int        `json:"step"` // seconds of an interval, as planned
	Times    []int64    `json:"times"`
	Seconds  []float32  `json:"seconds"` // how long each was
	Requests []*uint32  `json:"requests"`
	C4       []*uint32  `json:"errors_4xx"`
	C5       []*uint32  `json:"errors_5xx"` // those without a response, too
	In       []*float32 `json:"bytes_in"`
	Out      []*float32 `json:"bytes_out"`
	P50      []*float32 `json:"p50"` // seconds
	P90      []*float32 `json:"p90"`
	P99      []*float32 `json:"p99"`
	InFlight []int32    `json:"in_flight,omitempty"` // at the end of each, of all together
}

// History returns what is known of a route or service (by Total: of all) in the last
// quarter of an hour or, day, the last 24 hours.
func (r *Recorder) History(by Dimension, name string, day bool) *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, step := &r.fine, fineStep
	if day {
		from, step = &r.coarse, time.Minute
	}
	h := &History{ // lists, never null
		By: string(by), Name: name, Step: int(step / time.Second), Times: []int64{}, Seconds: []float32{},
		Requests: []*uint32{}, C4: []*uint32{}, C5: []*uint32{}, In: []*float32{}, Out: []*float32{}, P50: []*float32{}, P90: []*float32{}, P99: []*float32{},
	}
	from.each(func(s *slot) {
		h.Times = append(h.Times, s.end)
		h.Seconds = append(h.Seconds, s.seconds)
		if by == Total {
			h.InFlight = append(h.InFlight, s.busy)
		}
		h.add(s.of(by, name))
	})
	return h
}

// of is a line's point; nil: it isn't known.
func (s *slot) of(by Dimension, name string) *point {
	var list []point
	switch by {
	case Route:
		list = s.routes
	case Service:
		list = s.services
	default:
		return &s.total
	}
	for i := range list {
		if list[i].name == name {
			return &list[i]
		}
	}
	if len(list) < topOf {
		return &point{}
	}
	return nil
}

func (h *History) add(p *point) {
	if p == nil {
		h.Requests, h.C4, h.C5 = append(h.Requests, nil), append(h.C4, nil), append(h.C5, nil)
		h.In, h.Out = append(h.In, nil), append(h.Out, nil)
		h.P50, h.P90, h.P99 = append(h.P50, nil), append(h.P90, nil), append(h.P99, nil)
		return
	}
	h.Requests, h.C4, h.C5 = append(h.Requests, &p.requests), append(h.C4, &p.c4), append(h.C5, &p.c5)
	h.In, h.Out = append(h.In, &p.in), append(h.Out, &p.out)
	if p.requests == 0 {
		h.P50, h.P90, h.P99 = append(h.P50, nil), append(h.P90, nil), append(h.P99, nil)
		return
	}
	h.P50, h.P90, h.P99 = append(h.P50, &p.p50), append(h.P90, &p.p90), append(h.P99, &p.p99)
}
