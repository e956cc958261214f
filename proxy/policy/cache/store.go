package cache

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// StoreConfig is the room for stored answers.
type StoreConfig struct {
	// Memory for the answers that cache blocks store, of all routes together; of those that aren't asked for again, others take the place.
	Memory int64 `hcl:"memory,attr" unit:"bytes" default:"256MiB" min:"1MiB"`
}

// Store keeps answers, and knows which are on their way. It belongs to the gateway
// and outlives configurations. It starts no goroutine.
//
// A URI has a record: a number, and which fields its answers depend on. The number
// is part of what answers are found by, so that forgetting the record makes all
// answers of the URI, of whatever route, person and variant, unreachable at once.
// Those that are on their way then are never stored (see flight).
type Store struct {
	items *otter.Cache[string, item]
	last  atomic.Uint64 // number of a record
	seed  maphash.Seed

	shards [64]shard

	encodings encodings

	mu     sync.Mutex // guards routes
	routes map[string]*counts
}

type shard struct {
	mu      sync.Mutex // guards flights, and the change of a record
	flights map[string][]*flight
}

// item is what the store holds: a record, an answer, or that there is none.
type item interface{ weight() int }

// overhead is about what an item takes beside its bytes, as measured: an answer of
// 1 KiB takes 1.9 KiB with its record.
const overhead = 210

// NewStore returns an empty store.
func NewStore(c StoreConfig) *Store {
	s := &Store{seed: maphash.MakeSeed(), routes: map[string]*counts{}}
	s.items = otter.Must(&otter.Options[string, item]{
		MaximumWeight: uint64(max(c.Memory, 1<<20)),
		Weigher:       func(key string, v item) uint32 { return uint32(min(len(key)+v.weight()+overhead, 1<<31)) },
		Executor:      func(f func()) { f() }, // who stores makes room
	})
	for i := range s.shards {
		s.shards[i].flights = map[string][]*flight{}
	}
	return s
}

// SetMemory changes the room; what is too much goes at once.
func (s *Store) SetMemory(n int64) { s.items.SetMaximum(uint64(max(n, 1<<20))) }

// Size is how much is stored: bytes, about, and items.
func (s *Store) Size() (bytes uint64, items int) {
	return s.items.WeightedSize(), s.items.EstimatedSize()
}

// record is what is known of a URI. It never changes.
type record struct {
	number uint64
	varies [][]string // sets of fields, the latest first
}

func (r *record) weight() int { return 64 * len(r.varies) }

// mostVaries is how many sets of fields the answers of a URI may depend on.
const mostVaries = 4

// mark says that the answer to a request isn't one to wait for: it wasn't stored.
type mark struct{ until time.Time }

func (m mark) weight() int { return 0 }

// entry is a stored answer. It never changes.
type entry struct {
	key     string
	status  int
	head    *exchange.Head
	body    []byte
	length  int64  // of the body; -1: not known before its end
	id      uint64 // of the body
	recoded bool   // the service's coding was taken off
	rules.Shelf
	rules.Validators
	born time.Time // when it was made: age 0
}

func (e *entry) weight() int { return cap(e.body) + cap(e.head.Buffer()) + 32*e.head.Len() }

// size is the length of the body.
func (e *entry) size() int64 { return int64(len(e.body)) }

func (e *entry) age(now time.Time) time.Duration { return max(0, now.Sub(e.born)) }

// flight is an answer on its way: who fetches it has task.flight, who wants the
// same waits for it.
type flight struct {
	uri, base, values string
	varies            []string // by which values was made
	open              bool     // others may wait for it
	sent              time.Time
	ready             chan struct{} // closed when it is known what becomes of it

	// Guarded by the shard's mu.
	gone bool // ended, or forgotten with its URI: it isn't stored

	// Set before ready is closed, and not changed after.
	settled bool // also guarded by the shard's mu
	result  result
	waiting atomic.Int32
}

// result is what became of a flight.
type result struct {
	entry *entry // the head; nil: there is nothing to share
	fill  *fill  // its body on its way; nil: entry has it
	fault *exchange.Fault
	again bool // it never got as far as the service: the next one has to
}

func (s *Store) shard(uri string) *shard { return &s.shards[maphash.String(s.seed, uri)%64] }

// record is that of a URI, nil if nothing is known of it.
func (s *Store) record(uri string) *record {
	v, ok := s.items.GetIfPresent(uri)
	if !ok {
		return nil
	}
	r, _ := v.(*record)
	return r
}

func (s *Store) entry(key string) *entry {
	v, ok := s.items.GetIfPresent(key)
	if !ok {
		return nil
	}
	e, _ := v.(*entry)
	return e
}

// marked reports whether a request isn't to wait for others.
func (s *Store) marked(key string, now time.Time) bool {
	v, ok := s.items.GetIfPresent(key)
	if !ok {
		return false
	}
	m, ok := v.(mark)
	return ok && now.Before(m.until)
}

// join finds the flight to wait for, or starts want, whose strings it may keep.
// same compares a flight whose fields are known by now with the request.
func (s *Store) join(want *flight, same func(f *flight) bool) (f *flight, started bool) {
	sh := s.shard(want.uri)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if want.open {
		for _, f := range sh.flights[want.uri] {
			if f.open && f.base == want.base && same(f) {
				return f, false
			}
		}
	}
	want.ready = make(chan struct{})
	sh.flights[want.uri] = append(sh.flights[want.uri], want)
	return want, true
}

// settle says what becomes of a flight, so that who waits can go on. varies and
// values tell whom it is for.
func (s *Store) settle(f *flight, r result, varies []string, values string) {
	sh := s.shard(f.uri)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f.settled {
		return
	}
	f.settled, f.result = true, r
	if r.entry != nil {
		f.varies, f.values = varies, values
	}
	close(f.ready)
}

// end is the end of a flight: nothing more comes of it.
func (s *Store) end(f *flight) {
	s.settle(f, result{}, nil, "")
	sh := s.shard(f.uri)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f.gone = true
	list := slices.DeleteFunc(sh.flights[f.uri], func(o *flight) bool { return o == f })
	if len(list) == 0 {
		delete(sh.flights, f.uri)
	} else {
		sh.flights[f.uri] = list
	}
}

// keep stores e, made by the flight f, unless its URI has been forgotten since f
// began. key makes what e is found by, with the number of the URI's record.
func (s *Store) keep(f *flight, e *entry, varies []string, key func(number uint64) string) bool {
	sh := s.shard(f.uri)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f.gone {
		return false
	}
	r := s.record(f.uri)
	switch {
	case r == nil:
		r = &record{number: s.last.Add(1), varies: [][]string{varies}}
		s.items.Set(f.uri, r)
	case len(r.varies) == 0 || !slices.Equal(r.varies[0], varies):
		list := [][]string{varies}
		for _, v := range r.varies {
			if !slices.Equal(v, varies) && len(list) < mostVaries {
				list = append(list, v)
			}
		}
		r = &record{number: r.number, varies: list}
		s.items.Set(f.uri, r)
	}
	e.key = key(r.number)
	s.items.Set(e.key, e)
	return true
}

// forget makes all answers of a URI unreachable, and those on their way never to be
// stored or shared further (RFC 9111, 4.4).
func (s *Store) forget(uri string) {
	sh := s.shard(uri)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, f := range sh.flights[uri] {
		f.gone, f.open = true, false
	}
	s.items.Invalidate(uri)
}

// drop forgets one answer.
func (s *Store) drop(e *entry) { s.items.Invalidate(e.key) }

// setMark says for a while that a request isn't to wait for others.
func (s *Store) setMark(key string, until time.Time) { s.items.Set(key, mark{until}) }
