package quota

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// RoomConfig is what the counters block says of quotas.
type RoomConfig struct {
	// Clients whose quotas are counted apart, about 500 bytes each; further ones of a quota are counted together, as one client, until a period ends. A change takes a restart.
	Clients int `hcl:"quota_clients,attr" default:"100000" min:"100" max:"10000000"`
}

// Deps are what a Store works with.
type Deps struct {
	Log  logrus.FieldLogger
	Path string // of the file; "": nothing is kept
	Room RoomConfig
	Now  func() time.Time // nil: time.Now
	// Fleet counts what all nodes count together; nil: nobody does.
	Fleet *shared.Fleet
}

const (
	shards    = 64
	warnShare = 80 // percent of a quota
	maxChunk  = 10_000
)

// together is the client that stands for those that there is no room for.
const together = "others"

// id says which counter: of what, of whom, by what period.
type id struct {
	scope, client string
	period        exchange.Period
}

// count is what was used in one period, and how much of it the disk knows.
type count struct {
	start          int64 // seconds since 1970; 0: none
	used, reserved int64

	// Of a quota that counts on all nodes: what the fleet last said, and what of
	// used it hasn't heard of.
	known, owed int64

	base int64 // since the yield: what of used is another process's matter
}

// entry is a client of a quota. Its shard's mutex guards it.
type entry struct {
	id
	cur, prev count
	limit     int64 // that last held
	version   int   // how often it was set
	shared    bool  // on all nodes together
	waiting   bool  // for the writer
	warned    bool
}

// at is the count of the period that began at start: the one that goes on, or
// the one before it. A start that lies further back doesn't begin anew.
func (e *entry) at(start int64) *count {
	switch {
	case start > e.cur.start:
		e.prev, e.cur, e.warned = e.cur, count{start: start}, false
	case start == e.prev.start:
		return &e.prev
	}
	return &e.cur
}

// find is the count of a period, nil when it is gone.
func (e *entry) find(start int64) *count {
	switch start {
	case e.cur.start:
		return &e.cur
	case e.prev.start:
		return &e.prev
	default:
		return nil
	}
}

// shard is a part of the clients.
type shard struct {
	mu sync.Mutex
	m  map[id]*entry
}

// Store counts what clients use. It belongs to the gateway and outlives
// configurations.
type Store struct {
	Deps
	seed    maphash.Seed
	list    [shards]shard
	clients atomic.Int64
	spans   [exchange.Month + 1]atomic.Pointer[span]

	opening  sync.Mutex // guards what follows
	opened   bool
	held     bool // the file is another process's (Hold)
	wanted   bool // it is to be opened when it isn't any more
	file     file // the writer's, once opened
	writer   writer
	turns    chan turn                 // what Run is to do between two writes
	own      *estate.Estate            // since the yield: where the file is; Run's
	drains   map[string]bool           // processes that have yielded and still work; Run's, once opened
	taken    map[string]*estate.Estate // what they have left, until the disk has it; likewise
	failing  atomic.Bool
	overflow atomic.Uint64

	mu     sync.Mutex // guards what follows
	counts map[countKey]*Count
}

// NewStore returns a store that reads its file when the first quota is compiled.
func NewStore(d Deps) *Store {
	s := &Store{Deps: d, seed: maphash.MakeSeed(), counts: map[countKey]*Count{}, turns: make(chan turn), drains: map[string]bool{}, taken: map[string]*estate.Estate{}}
	if s.Now == nil {
		s.Now = time.Now
	}
	for i := range s.list {
		s.list[i].m = map[id]*entry{}
	}
	s.writer.wake, s.writer.done = make(chan struct{}, 1), make(chan struct{})
	return s
}

func (s *Store) shard(k *id) *shard {
	return &s.list[maphash.Comparable(s.seed, *k)%shards]
}

// ask is what a request wants of a quota.
type ask struct {
	id
	limit, cost int64
	start       int64 // of the period
	label       string
	again       bool    // an ask before counts in the same place
	part        float64 // of what is left, for a node that is on its own; 0: it isn't
	allow       bool    // on its own it refuses nothing
	tells       bool    // the fleet hears of what was owed

	// The answer.
	e     *entry
	used  int64 // with the request, when it passes
	ok    bool
	short bool // the disk has to know first
}

// take lets a request use a.cost, unless that is more than is left. The
// strings of a.id may be views: they are copied when they are kept.
func (s *Store) take(a *ask) (warn bool) {
	sh := s.enter(a)
	c := a.e.at(a.start)
	a.start = c.start
	a.e.limit = a.limit
	a.used, a.short, a.ok = c.used, false, a.cost <= a.most(c)-c.used
	if !a.ok {
		sh.mu.Unlock()
		return false
	}
	c.used += a.cost
	if a.part > 0 {
		c.owed += a.cost
	}
	a.used = c.used
	a.short = c.used > c.reserved
	low := c.reserved < a.limit && c.reserved-c.used < chunk(a.limit)/2
	wake := (a.short || low) && !a.e.waiting
	a.e.waiting = a.e.waiting || wake
	warn = s.warns(a.e, c)
	sh.mu.Unlock()
	if wake {
		s.writer.enqueue(a.e)
	}
	return warn
}

// most is how much may be used in all.
func (a *ask) most(c *count) int64 {
	switch {
	case a.part == 0:
		return a.limit
	case a.allow:
		return math.MaxInt64
	default: // of what the fleet had left, this node's part
		return c.known + int64(float64(max(0, a.limit-c.known))*a.part)
	}
}

// warns notes that most of a quota is used, once in a period.
func (s *Store) warns(e *entry, c *count) bool {
	if e.warned || c != &e.cur || !most(c.used, e.limit) {
		return false
	}
	e.warned = true
	return true
}

// most reports whether used is most of a limit.
func most(used, limit int64) bool { return used >= limit/100*warnShare+limit%100*warnShare/100 }

// enter finds or makes the entry of a, and leaves its shard locked.
func (s *Store) enter(a *ask) *shard {
	sh := s.shard(&a.id)
	sh.mu.Lock()
	if a.e = sh.m[a.id]; a.e != nil {
		return sh
	}
	sh.mu.Unlock()
	if s.clients.Load() >= int64(s.Room.Clients) && a.client != together {
		s.overflow.Add(1)
		a.client = together
		return s.enter(a)
	}
	sh.mu.Lock()
	s.entry(sh, a) // another request may have been first
	return sh
}

// entry finds or makes the entry of a in its shard, which is locked, whether there
// is room or not.
func (s *Store) entry(sh *shard, a *ask) {
	if a.e = sh.m[a.id]; a.e != nil {
		return
	}
	a.e = &entry{id: id{strings.Clone(a.scope), strings.Clone(a.client), a.period}}
	sh.m[a.e.id] = a.e
	s.clients.Add(1)
}

// giveBack undoes a take that passed, since another quota refuses the request.
func (s *Store) giveBack(a *ask) {
	sh := s.shard(&a.e.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if c := a.e.find(a.start); c != nil {
		c.used = max(0, c.used-a.cost)
		if a.part > 0 {
			c.owed = max(0, c.owed-a.cost)
		}
	}
}

// peek says what take would.
func (s *Store) peek(a *ask) {
	sh := s.shard(&a.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	a.used = 0
	if e := sh.m[a.id]; e != nil {
		c := e.cur
		if a.start == e.prev.start {
			c = e.prev
		}
		if a.start <= c.start {
			a.start, a.used = c.start, c.used
		}
	}
	a.ok = a.cost <= a.limit-a.used
}

// chunk is how much is set aside at a time.
func chunk(limit int64) int64 { return min(max(limit/100, 1), maxChunk) }

// Use is what a client has used of a quota.
type Use struct {
	Quota  string    `json:"quota"`  // route:NAME, name:NAME, or plan
	Client string    `json:"client"` // consumer=NAME and its like
	Period string    `json:"period"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Limit  int64     `json:"limit"`
	Used   int64     `json:"used"`
	Left   int64     `json:"left"`
}

// List returns what clients have used in the periods that go on, of those whose
// client is client ("": all), in the order of their names.
func (s *Store) List(client string) []Use {
	list := []Use{}
	now := s.Now()
	for i := range s.list {
		sh := &s.list[i]
		sh.mu.Lock()
		for _, e := range sh.m {
			if client != "" && client != e.client && "consumer="+client != e.client {
				continue
			}
			if e.cur.start != 0 && endOf(e.period, e.cur.start) > now.Unix() {
				list = append(list, e.use())
			}
		}
		sh.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b Use) int {
		return cmp.Or(strings.Compare(a.Quota, b.Quota), strings.Compare(a.Client, b.Client), strings.Compare(a.Period, b.Period))
	})
	return list
}

func (e *entry) use() Use {
	return Use{
		Quota: e.scope, Client: e.client, Period: e.period.String(), Since: time.Unix(e.cur.start, 0).UTC(), Until: time.Unix(endOf(e.period, e.cur.start), 0).UTC(),
		Limit: e.limit, Used: e.cur.used, Left: max(0, e.limit-e.cur.used),
	}
}

// past reports whether a period that began at start ended more than a period ago.
func past(p exchange.Period, start int64, now time.Time) bool {
	return 2*endOf(p, start)-start < now.Unix()
}

// sweep forgets clients whose last period ended more than a period ago: until
// then a clock that is set back finds them.
func (s *Store) sweep(now time.Time) {
	for i := range s.list {
		sh := &s.list[i]
		sh.mu.Lock()
		for k, e := range sh.m {
			if !e.waiting && past(e.period, e.cur.start, now) {
				delete(sh.m, k)
				s.clients.Add(-1)
			}
		}
		sh.mu.Unlock()
	}
}

// Clients is how many clients are counted.
func (s *Store) Clients() int64 { return s.clients.Load() }

// Together is how many requests were counted together with those of others, for
// want of room.
func (s *Store) Together() uint64 { return s.overflow.Load() }

// Failing reports whether the disk can't be written.
func (s *Store) Failing() bool { return s.failing.Load() }

// Count counts what a quota of a route did.
type Count struct {
	Route, Quota    string
	refused, warned atomic.Uint64
	errors          atomic.Uint64
}

// Refused is how many requests.
func (c *Count) Refused() uint64 { return c.refused.Load() }

// Warned is how many clients had used most of it, in some period.
func (c *Count) Warned() uint64 { return c.warned.Load() }

// Errors is how often an expression had no value.
func (c *Count) Errors() uint64 { return c.errors.Load() }

type countKey struct{ route, quota string }

func (s *Store) count(route, quota string) *Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := countKey{route, quota}
	if s.counts[k] == nil {
		s.counts[k] = &Count{Route: route, Quota: quota}
	}
	return s.counts[k]
}

// Counts returns all counters.
func (s *Store) Counts() []*Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Count, 0, len(s.counts))
	for _, c := range s.counts {
		list = append(list, c)
	}
	return list
}

// Retain forgets the counters of routes that aren't among these. What clients
// have used stays: a route that comes back finds it.
func (s *Store) Retain(routes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.counts {
		if !routes[k.route] {
			delete(s.counts, k)
		}
	}
}
