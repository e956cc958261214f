package usage

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// tries is how many shards a request looks at for one that nobody is in.
	tries = 4
	// chunk is how many series are taken out of a shard at once.
	chunk = 128
	// A series without requests leaves the shards first, and then loses its place.
	idleInShard = 10 * time.Minute
	idleAtAll   = time.Hour
)

// Counter counts exchanges as they end. It is spread over shards, more than
// there are cores; a request takes the first of a few that is free, so that
// nobody waits. A shard keeps the series that it has seen, and counting for
// them again allocates nothing.
type Counter struct {
	max      int
	shards   []shard // a power of two
	overflow atomic.Int64

	mu    sync.Mutex // guards what follows
	total map[Key]*series
	now   int64 // when the shards were last emptied, seconds since 1970
}

type shard struct {
	mu     sync.Mutex // guards what follows
	series map[Key]*series
	list   []*series
	_      [64]byte // keep neighbours off this cache line
}

// series is what was counted for a key: in a shard, since it was emptied; in
// the total, since the start.
type series struct {
	Key
	Counts
	used int64 // when it was last known to have counted something
}

// NewCounter returns a counter of that many series at a time.
func NewCounter(most int) *Counter {
	n := 4
	for n < 4*runtime.GOMAXPROCS(0) && n < 128 {
		n *= 2
	}
	c := &Counter{max: most, shards: make([]shard, n), total: map[Key]*series{}}
	for i := range c.shards {
		c.shards[i].series = map[Key]*series{}
	}
	return c
}

// Count counts an exchange that has ended.
func (c *Counter) Count(x *exchange.Exchange, took time.Duration) {
	k := Key{Route: x.RouteName, Service: x.ServiceName}
	if x.Consumer != nil {
		k.Consumer = x.Consumer.Name
	}
	if class := x.Status / 100; class > 0 && class < 6 {
		k.Class = uint8(class)
	}
	sh := c.enter(x.Conn.Shard)
	s := sh.series[k]
	if s == nil {
		sh.mu.Unlock()
		k = c.admit(k)
		sh = c.enter(x.Conn.Shard)
		s = sh.find(k)
	}
	s.count(x, took)
	sh.mu.Unlock()
}

func (s *series) count(x *exchange.Exchange, took time.Duration) {
	s.Requests++
	s.BytesIn += x.BytesIn
	s.BytesOut += x.BytesOut
	s.Charged += x.Charged
	if x.Cached.Hit() {
		s.Hits++
	}
	if f := x.Err; f != nil && f.Source == exchange.FromPolicy && x.Status == 429 {
		s.Limited++
	}
	if failed(x) {
		s.Errors++
	}
	s.Latency.Record(took)
}

// failed reports whether an exchange counts as an error: what is the client's or
// a policy's doing doesn't.
func failed(x *exchange.Exchange) bool {
	return x.Status >= 500 || x.Err != nil && (x.Err.Source == exchange.FromUpstream || x.Err.Source == exchange.FromInternal)
}

// enter finds a shard that is free, and locks it.
func (c *Counter) enter(hint uint32) *shard {
	last := uint32(len(c.shards) - 1)
	for i := range uint32(tries) {
		if sh := &c.shards[(hint+i)&last]; sh.mu.TryLock() {
			return sh
		}
	}
	sh := &c.shards[hint&last]
	sh.mu.Lock()
	return sh
}

// find finds or makes a series in a shard, which is locked.
func (sh *shard) find(k Key) *series {
	s := sh.series[k]
	if s == nil {
		s = &series{Key: k}
		sh.series[k] = s
		sh.list = append(sh.list, s)
	}
	return s
}

// admit gives k its place, and returns the key to count by: its own or, without
// room, that of all others on the route. There is a place for each route then,
// as the configuration bounds them; were it beyond all measure, there is one for
// everything.
func (c *Counter) admit(k Key) Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total[k] != nil {
		return k
	}
	if len(c.total) >= c.max {
		c.overflow.Add(1)
		if k.Consumer = Other; c.total[k] == nil && len(c.total) >= 2*c.max {
			k = Key{Consumer: Other, Class: k.Class}
		}
	}
	if c.total[k] == nil {
		c.total[k] = &series{Key: k, used: c.now}
	}
	return k
}

// Overflow is how many requests were counted for Other.
func (c *Counter) Overflow() int64 { return c.overflow.Load() }

// Len is how many series there are.
func (c *Counter) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.total)
}

// drained is what was taken out of a shard at once; its memory is used again.
type drained struct{ list []series }

// add copies what s has counted, and empties s.
func (d *drained) add(s *series) {
	if len(d.list) < cap(d.list) {
		d.list = d.list[:len(d.list)+1]
	} else {
		d.list = append(d.list, series{})
	}
	to := &d.list[len(d.list)-1]
	h := to.Latency
	h.Reset()
	to.Key, to.Counts = s.Key, s.Counts
	to.Latency = h
	to.Latency.Merge(&s.Latency)
	h = s.Latency
	h.shrink()
	s.Counts = Counts{Latency: h}
}

// Drain calls f with what was counted since the last time, in parts: a key may
// come more than once. f mustn't keep the histogram. Only one at a time may
// drain.
func (c *Counter) Drain(now time.Time, f func(Key, *Counts)) {
	var d drained
	for i := range c.shards {
		sh := &c.shards[i]
		for at, more := 0, true; more; {
			d.list = d.list[:0]
			at, more = sh.take(at, now.Unix(), &d)
			c.add(d.list, now.Unix())
			for j := range d.list {
				f(d.list[j].Key, &d.list[j].Counts)
			}
		}
	}
	c.forget(now.Unix())
}

// take takes what some series from one on have counted.
func (sh *shard) take(at int, now int64, d *drained) (next int, more bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for n := 0; n < chunk && at < len(sh.list); n++ {
		switch s := sh.list[at]; {
		case s.Requests > 0:
			s.used = now
			d.add(s)
			at++
		case now-s.used > int64(idleInShard/time.Second):
			last := len(sh.list) - 1
			sh.list[at] = sh.list[last]
			sh.list[last] = nil
			sh.list = sh.list[:last]
			delete(sh.series, s.Key)
		default:
			s.Latency.shrink()
			at++
		}
	}
	return at, at < len(sh.list)
}

// add adds to the totals.
func (c *Counter) add(list []series, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range list {
		s := &list[i]
		t := c.total[s.Key]
		if t == nil { // the clock jumped, and its place is gone
			t = &series{Key: s.Key}
			c.total[s.Key] = t
		}
		t.used = now
		t.Counts.Add(&s.Counts)
	}
}

// forget takes the places of series without requests. A clock that was set back
// keeps them longer.
func (c *Counter) forget(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now-c.now < 10 && now >= c.now {
		return
	}
	c.now = now
	for k, s := range c.total {
		if s.used > now {
			s.used = now
		}
		if now-s.used > int64(idleAtAll/time.Second) {
			delete(c.total, k)
		}
	}
}

// Totals calls f with what was counted for each key since it got its place, as
// of the last Drain, in order. f mustn't keep the histogram. Nobody may drain
// meanwhile.
func (c *Counter) Totals(f func(Key, *Counts)) {
	c.mu.Lock()
	list := make([]*series, 0, len(c.total))
	for _, s := range c.total {
		list = append(list, s)
	}
	c.mu.Unlock()
	slices.SortFunc(list, func(a, b *series) int { return a.Key.Compare(&b.Key) })
	for _, s := range list {
		if s.Requests > 0 {
			f(s.Key, &s.Counts)
		}
	}
}
