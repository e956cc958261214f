package usage

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func ended(consumer, route, service string, status int) *exchange.Exchange {
	x := &exchange.Exchange{Conn: &exchange.Conn{}, RouteName: route, ServiceName: service, Status: status}
	if consumer != "" {
		x.Consumer = &exchange.Consumer{Name: consumer}
	}
	return x
}

// counted is what a counter has counted, once it is drained.
func counted(c *Counter, now time.Time) map[Key]Counts {
	out := map[Key]Counts{}
	c.Drain(now, func(k Key, n *Counts) {
		sum := out[k]
		sum.Add(n)
		out[k] = sum
	})
	return out
}

func TestCount(t *testing.T) {
	fault := func(source exchange.Source, kind exchange.Kind) *exchange.Fault {
		return &exchange.Fault{Source: source, Kind: kind}
	}
	tests := []struct {
		name string
		x    exchange.Exchange
		want Counts
	}{
		{"answered", exchange.Exchange{Status: 200, BytesIn: 3, BytesOut: 5}, Counts{BytesIn: 3, BytesOut: 5}},
		{"charged", exchange.Exchange{Status: 200, Charged: 2_500_000}, Counts{Charged: 2_500_000}},
		{"cached", exchange.Exchange{Status: 200, Cached: exchange.CacheHit}, Counts{Hits: 1}},
		{"not cached", exchange.Exchange{Status: 200, Cached: exchange.CacheMiss}, Counts{}},
		{"the service failed", exchange.Exchange{Status: 500}, Counts{Errors: 1}},
		{"the service is away", exchange.Exchange{Status: 502, Err: fault(exchange.FromUpstream, exchange.ConnectFailed)}, Counts{Errors: 1}},
		{"broken off by the service", exchange.Exchange{Status: 200, Err: fault(exchange.FromUpstream, exchange.BackendReset)}, Counts{Errors: 1}},
		{"broken off by the client", exchange.Exchange{Status: 200, Err: fault(exchange.FromClient, exchange.ClientGone)}, Counts{}},
		{"rate limited", exchange.Exchange{Status: 429, Err: fault(exchange.FromPolicy, exchange.RateLimited)}, Counts{Limited: 1}},
		{"over the quota", exchange.Exchange{Status: 429, Err: fault(exchange.FromPolicy, exchange.QuotaExceeded)}, Counts{Limited: 1}},
		{"limited by the service", exchange.Exchange{Status: 429}, Counts{}},
		{"refused", exchange.Exchange{Status: 401, Err: fault(exchange.FromPolicy, exchange.Unauthenticated)}, Counts{}},
		{"no answer", exchange.Exchange{}, Counts{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := NewCounter(100)
			tt.x.Conn, tt.x.RouteName, tt.x.ServiceName = &exchange.Conn{}, "r", "s"
			c.Count(&tt.x, time.Millisecond)
			tt.want.Requests = 1
			got := counted(c, time.Unix(1000, 0))[Key{"", "r", "s", uint8(tt.x.Status / 100)}]
			if got.Latency.Count() != 1 {
				t.Errorf("%d latencies", got.Latency.Count())
			}
			if got.Latency = (Histogram{}); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("counted %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestCountFromManyCores(t *testing.T) {
	c := NewCounter(1000)
	const each, workers = 20_000, 8
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				x := ended(fmt.Sprint("c", i%7), fmt.Sprint("r", i%3), "s", 200)
				x.Conn.Shard, x.BytesOut = uint32(w), 2
				c.Count(x, time.Millisecond)
			}
		})
	}
	sum := map[Key]Counts{}
	add := func() {
		for k, n := range counted(c, time.Unix(1000, 0)) {
			s := sum[k]
			s.Add(&n)
			sum[k] = s
		}
	}
	stop := make(chan struct{})
	go func() { wg.Wait(); close(stop) }()
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
			runtime.Gosched()
		}
		add()
	}
	var all, total Counts
	for _, n := range sum {
		all.Add(&n)
	}
	c.Totals(func(_ Key, n *Counts) { total.Add(n) })
	for _, n := range []Counts{all, total} {
		if n.Requests != each*workers || n.BytesOut != 2*each*workers || n.Latency.Count() != each*workers {
			t.Errorf("%d requests, %d bytes, %d latencies; want %d", n.Requests, n.BytesOut, n.Latency.Count(), each*workers)
		}
	}
	if len(sum) != 21 || c.Len() != 21 {
		t.Errorf("%d series, %d known; want 21", len(sum), c.Len())
	}
}

// TestCounterBound has a million consumers come along: they have a bounded
// number of places, and nothing is lost.
func TestCounterBound(t *testing.T) {
	const most = 1000
	many := int64(1_000_000)
	if raceDetector {
		many = 100_000
	}
	c := NewCounter(most)
	for i := range int(many) {
		x := ended(fmt.Sprint("c", i), fmt.Sprint("r", i%5), "s", 200)
		x.Conn.Shard = uint32(i)
		c.Count(x, time.Millisecond)
	}
	if n := c.Len(); n > most+5 {
		t.Errorf("%d series, want %d and one for each route", n, most)
	}
	inShards := 0
	for i := range c.shards {
		inShards += len(c.shards[i].list)
	}
	if inShards > (most+5)*len(c.shards) {
		t.Errorf("%d series in the shards", inShards)
	}
	var all, other int64
	for k, n := range counted(c, time.Unix(1000, 0)) {
		if all += n.Requests; k.Consumer == Other {
			other += n.Requests
		}
	}
	if all != many || other != many-most || c.Overflow() != other {
		t.Errorf("%d requests, %d of them for others, %d said; want %d and %d", all, other, c.Overflow(), many, many-most)
	}
}

// TestCounterHardBound is what holds were routes without number, too.
func TestCounterHardBound(t *testing.T) {
	c := NewCounter(100)
	for i := range 10_000 {
		c.Count(ended("c", fmt.Sprint("r", i), "s", 200), time.Millisecond)
	}
	all := int64(0)
	for _, n := range counted(c, time.Unix(1000, 0)) {
		all += n.Requests
	}
	if n := c.Len(); n > 201 || all != 10_000 {
		t.Errorf("%d series, %d requests", n, all)
	}
}

func TestCounterForgets(t *testing.T) {
	c := NewCounter(10)
	now := time.Unix(100_000, 0)
	for i := range 20 {
		c.Count(ended(fmt.Sprint("old", i), "r", "s", 200), time.Millisecond)
	}
	counted(c, now)
	now = now.Add(idleInShard + time.Minute)
	counted(c, now)
	for i := range c.shards {
		if n := len(c.shards[i].list) + len(c.shards[i].series); n > 0 {
			t.Errorf("%d series stay in shard %d", n, i)
		}
	}
	counted(c, now.Add(idleAtAll))
	if n := c.Len(); n != 0 {
		t.Errorf("%d series stay", n)
	}
	c.Count(ended("new", "r", "s", 200), time.Millisecond)
	got := counted(c, now.Add(idleAtAll+time.Second))
	if n := got[Key{"new", "r", "s", 2}].Requests; n != 1 {
		t.Errorf("a new consumer has %d requests, want 1", n)
	}
	// A clock that is set back is no reason to lose anything.
	c.Count(ended("new", "r", "s", 200), time.Millisecond)
	got = counted(c, time.Unix(1, 0))
	if n := got[Key{"new", "r", "s", 2}].Requests; n != 1 {
		t.Errorf("after the clock was set back: %d requests, want 1", n)
	}
}

func TestCountAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	c := NewCounter(1000)
	var list []*exchange.Exchange
	for i := range 64 {
		x := ended(fmt.Sprint("c", i%8), "r", "s", 200)
		x.Conn.Shard = uint32(i)
		list = append(list, x)
	}
	i := 0
	count := func() {
		for _, x := range list {
			c.Count(x, time.Duration(i%1000)*time.Microsecond)
			i++
		}
	}
	for range 200 {
		count()
	}
	counted(c, time.Unix(1000, 0)) // what was drained keeps its memory
	for range 200 {
		count()
	}
	if n := testing.AllocsPerRun(1000, count); n != 0 {
		t.Errorf("%v allocations for %d requests", n, len(list))
	}
}

func BenchmarkCount(b *testing.B) {
	c := NewCounter(100_000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x := ended("acme", "orders", "orders", 200)
		for i := 0; pb.Next(); i++ {
			x.Conn.Shard = uint32(i) // as the connections of one core
			c.Count(x, time.Duration(i%1000)*time.Microsecond)
		}
	})
}

// TestCounterForgetsRoom: what a series needed once, for many latencies, isn't kept
// for the time that it needs less.
func TestCounterForgetsRoom(t *testing.T) {
	c := NewCounter(100)
	now := time.Unix(1_000_000, 0)
	room := func() (n int) {
		for i := range c.shards {
			for _, s := range c.shards[i].list {
				n += cap(s.Latency.index)
			}
		}
		return n
	}
	drain := func() {
		now = now.Add(10 * time.Second)
		c.Drain(now, func(Key, *Counts) {})
	}
	for d := time.Microsecond; d < time.Hour; d += d/100 + 1 {
		c.Count(ended("c", "r", "s", 200), d)
	}
	drain()
	many := room()
	c.Count(ended("c", "r", "s", 200), time.Second)
	drain()
	if few := room(); many < 500 || few > spare {
		t.Errorf("room for %d buckets while there are many, for %d when there is one", many, few)
	}
	for d := time.Microsecond; d < time.Hour; d += d/100 + 1 {
		c.Count(ended("c", "r", "s", 200), d)
	}
	drain()
	drain()
	if none := room(); none > spare {
		t.Errorf("room for %d buckets when there is none", none)
	}
}
