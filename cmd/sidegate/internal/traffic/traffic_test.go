package traffic

import (
	"fmt"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy"
)

// bench is a recorder with counters that a test turns.
type bench struct {
	*Recorder
	now    time.Time
	totals map[pair]*proxy.RouteTotals
}

func newBench() *bench {
	b := &bench{now: time.Unix(1_000_000, 0), totals: map[pair]*proxy.RouteTotals{}}
	b.Recorder = New(Deps{
		Totals: func() []proxy.RouteTotals {
			var list []proxy.RouteTotals
			for _, t := range b.totals {
				list = append(list, *t)
			}
			return list
		},
		InFlight: func() int { return 7 },
		Clock:    func() time.Time { return b.now },
	})
	return b
}

// serve counts n requests of a class, which took what the bucket has.
func (b *bench) serve(route, service string, n uint64, class, bucket int) {
	p := pair{route, service}
	t := b.totals[p]
	if t == nil {
		t = &proxy.RouteTotals{Route: route, Service: service}
		b.totals[p] = t
	}
	t.Requests += n
	t.Classes[class] += n
	t.LatencyBuckets[bucket] += n
	t.BytesIn += n
	t.BytesOut += 100 * n
}

func (b *bench) pass(ticks int) {
	for range ticks {
		b.now = b.now.Add(fineStep)
		b.tick(b.now)
	}
}

func TestNow(t *testing.T) {
	b := newBench()
	b.serve("a", "one", 10, 2, 3)
	b.serve("a", "two", 5, 5, 3)
	b.serve("b", "one", 1, 4, 3)
	b.pass(1)
	b.serve("a", "one", 4, 2, 3)
	b.now = b.now.Add(time.Second) // since the tick
	n := b.Now(Route, time.Minute)
	if got := n.Total.Recent; got.Requests != 20 || got.Errors != 5 || got.BytesOut != 2000 || n.Window != 6 || got.Rate != 20.0/6 {
		t.Errorf("recent %+v in %v s", got, n.Window)
	}
	if got := n.Rows["a"].All; got.Requests != 19 || got.Classes != [6]uint64{2: 14, 5: 5} {
		t.Errorf("route a %+v", got)
	}
	if got := b.Now(Service, time.Minute).Rows["one"].All.Requests; got != 15 {
		t.Errorf("service one %d, want 15", got)
	}
	if got := b.Now(Route, 0).Total.Recent.Requests; got != 4 {
		t.Errorf("since the tick %d, want 4", got)
	}
	b.pass(20)
	n = b.Now(Route, time.Minute)
	if n.Total.Recent.Requests != 0 || n.Total.All.Requests != 20 || n.Window != 60 {
		t.Errorf("a minute later %+v in %v s", n.Total, n.Window)
	}
}

// TestGone: what a route that is gone has counted stays in the total, and one that
// comes back begins anew.
func TestGone(t *testing.T) {
	b := newBench()
	b.serve("a", "one", 10, 2, 3)
	b.pass(1)
	delete(b.totals, pair{"a", "one"})
	b.pass(1)
	if got := b.Now(Total, time.Minute).Total.All.Requests; got != 10 {
		t.Errorf("%d without the route, want 10", got)
	}
	b.serve("a", "one", 3, 2, 3)
	b.pass(1)
	b.totals[pair{"a", "one"}] = &proxy.RouteTotals{Route: "a", Service: "one", Requests: 2, Classes: [6]uint64{2: 2}} // gone and back within a tick
	if got := b.Now(Total, time.Minute).Total.All.Requests; got != 15 {
		t.Errorf("%d with it again, want 15", got)
	}
}

func TestHistory(t *testing.T) {
	b := newBench()
	for i := range 200 { // more than a quarter of an hour
		b.serve("a", "one", uint64(i+1), 2, 3)
		b.serve("a", "one", 1, 4, 3)
		b.pass(1)
	}
	h := b.History(Route, "a", false)
	if n := len(h.Times); n != fineSlots || h.Times[n-1] != b.now.Unix() || h.Times[0] != b.now.Unix()-5*(fineSlots-1) {
		t.Fatalf("%d times, from %d to %d", n, h.Times[0], h.Times[n-1])
	}
	if got := *h.Requests[fineSlots-1]; got != 201 || *h.C4[0] != 1 || *h.C5[0] != 0 || *h.Out[fineSlots-1] != 20100 {
		t.Errorf("last %d, 4xx %d", got, *h.C4[0])
	}
	day := b.History(Total, "", true)
	if n := len(day.Times); n != 200/perMinute {
		t.Fatalf("%d minutes", n)
	}
	var sum uint32
	for i := range 12 {
		sum += uint32(i + 2)
	}
	if got := *day.Requests[0]; got != sum || day.Seconds[0] != 60 || day.InFlight[0] != 7 {
		t.Errorf("the first minute has %d in %v s, want %d", got, day.Seconds[0], sum)
	}
	b.pass(1)
	h = b.History(Service, "one", false)
	if last := len(h.Times) - 1; *h.Requests[last] != 0 || h.P50[last] != nil || h.P50[last-1] == nil {
		t.Errorf("an interval without requests: %v, %v", *h.Requests[last], h.P50[last])
	}
}

// TestBound: of many routes, an interval has those with the most requests; of the
// others nothing is known, rather than that they had none.
func TestBound(t *testing.T) {
	b := newBench()
	for i := range 1000 {
		b.serve(fmt.Sprint(i), "s", uint64(i+1), 2, 3)
	}
	b.pass(1)
	if got := len(b.fine.slots[0].routes); got != topOf {
		t.Errorf("%d routes in an interval, want %d", got, topOf)
	}
	if h := b.History(Route, "999", false); *h.Requests[0] != 1000 {
		t.Errorf("the busiest has %d", *h.Requests[0])
	}
	if h := b.History(Route, "0", false); h.Requests[0] != nil || h.P99[0] != nil {
		t.Errorf("the idlest has %d, want not known", *h.Requests[0])
	}
	if h := b.History(Total, "", false); *h.Requests[0] != 500500 {
		t.Errorf("all have %d", *h.Requests[0])
	}
	if n := b.Now(Route, time.Minute); n.Rows["0"].Recent.Requests != 1 {
		t.Errorf("now the idlest has %d, want 1", n.Rows["0"].Recent.Requests)
	}
}

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		name    string
		buckets map[int]uint64
		q, want float64
	}{
		{"none", nil, 0.5, 0},
		{"middle of the first", map[int]uint64{0: 10}, 0.5, 0.00025},
		{"end of a bucket", map[int]uint64{0: 50, 3: 50}, 0.5, 0.0005},
		{"within", map[int]uint64{0: 50, 3: 50}, 0.75, 0.00375},
		{"beyond", map[int]uint64{len(proxy.Buckets): 5}, 0.5, 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s sums
			for i, n := range tt.buckets {
				s.buckets[i] = n
				s.requests += n
			}
			if got := s.quantile(tt.q); got < tt.want-1e-9 || got > tt.want+1e-9 {
				t.Errorf("quantile(%v) = %v, want %v", tt.q, got, tt.want)
			}
		})
	}
}

// BenchmarkMany is what 10,000 routes cost: each 5 seconds, and each time somebody
// looks.
func BenchmarkMany(b *testing.B) {
	m := newBench()
	for i := range 10_000 {
		m.serve(fmt.Sprint("route-", i), fmt.Sprint("service-", i%2000), 1, 2, 3)
	}
	var list []proxy.RouteTotals
	for _, t := range m.totals {
		list = append(list, *t)
	}
	m.Totals = func() []proxy.RouteTotals { return append([]proxy.RouteTotals(nil), list...) }
	m.pass(1)
	count := func(n int) {
		for i := range n {
			list[i].Requests++
			list[i].Classes[2]++
		}
	}
	b.Run("tick, all busy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			count(len(list))
			m.pass(1)
		}
	})
	b.Run("tick, few busy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			count(100)
			m.pass(1)
		}
	})
	b.Run("now", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Now(Route, time.Minute)
		}
	})
}
