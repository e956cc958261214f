package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// StoreConfig is the counters block.
type StoreConfig struct {
	// Memory for the counters of rate limits, taken when the first limit is used. A client of one limit takes 16 bytes; when there is no room for another, whoever's bucket is nearest to full is forgotten. A change takes a restart.
	Memory int64 `hcl:"memory,attr" unit:"bytes" default:"64MiB" min:"64KiB" max:"64GiB"`
}

const (
	ways   = 16  // places that a key may have
	stripe = 512 // locks; each set of places belongs to one
)

// set holds the keys whose hash leads to it. A key of 0 is a free place. A
// search reads the keys alone, two cache lines, and one moment.
type set struct {
	keys [ways]uint64
	full [ways]moment
}

// lock is alone on its cache line.
type lock struct {
	sync.Mutex
	_ [56]byte
}

// Store keeps a moment for each client of each limit. It belongs to the gateway
// and outlives configurations: a limit finds its clients again by the route's
// name and what it says. Its size is fixed; keys are hashes under a secret seed,
// so that nobody can choose names that meet in one set.
type Store struct {
	seed   seed
	begin  time.Time
	since  func(time.Time) time.Duration // time.Since
	memory int64

	once      sync.Once
	sets      []set // a power of two
	locks     []lock
	forgotten atomic.Uint64

	mu     sync.Mutex // guards what follows
	counts map[countKey]*Count
}

// NewStore returns an empty store. It takes its memory when the first limit is
// compiled.
func NewStore(c StoreConfig) *Store {
	// A second before anything happens: a moment of 0 is past.
	return &Store{seed: newSeed(), begin: time.Now().Add(-time.Second), since: time.Since, memory: c.Memory, counts: map[countKey]*Count{}}
}

// open takes the memory: of a size that is a power of two, at most what the
// configuration allows.
func (s *Store) open() {
	s.once.Do(func() {
		const size = ways * 16
		n := int64(1)
		for 2*n*size <= s.memory {
			n *= 2
		}
		s.sets, s.locks = make([]set, n), make([]lock, min(n, stripe))
	})
}

// now is the moment that it is. When a request began isn't it: policies before
// this one may have waited for its body, or for an answer about its client, and
// many that waited would pass at once, each as one of another moment.
func (s *Store) now() moment { return moment(s.since(s.begin)) }

// hash is a hash of a text that nobody outside can foretell.
func (s *Store) hash(text string) uint64 { return sum(s.seed, text) }

// mix spreads the bits of a sum of hashes; it gives 0 to nothing that comes here,
// which is a free place.
func mix(h uint64) uint64 {
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return max(h^h>>32, 1)
}

// grant is what one limit says to a request.
type grant struct {
	key  uint64
	rate *exchange.Rate
	own  exchange.Rate // in the place of rate, where a claim says so
	cost int64
	dry  bool   // a refusal keeps nobody out
	full moment // when the bucket will be full
	ok   bool
}

// limit is the rate that holds.
func (g *grant) limit() *exchange.Rate {
	if g.own.Interval > 0 {
		return &g.own
	}
	return g.rate
}

// take lets a request pass at now if all its limits do, and then takes of each.
// Otherwise nothing is taken of any, and the first that refuses is returned; -1
// is none. The buckets of one request are locked together: to take of one and
// give back when another refuses couldn't be exact, for the bucket may have
// become full in between.
func (s *Store) take(now moment, grants []grant) (refused int) {
	refused = -1
	held := s.lock(grants)
	for i := range grants {
		g := &grants[i]
		g.full, g.ok = admit(s.full(g.key), now, g.limit(), g.cost)
		if !g.ok && !g.dry && refused < 0 {
			refused = i
		}
	}
	if refused < 0 {
		for i := range grants {
			if g := &grants[i]; g.ok {
				s.put(g.key, g.full, now)
			}
		}
	}
	s.unlock(held)
	return refused
}

// peek is take that takes nothing: full is when each bucket will be full as it
// is.
func (s *Store) peek(now moment, grants []grant) {
	held := s.lock(grants)
	for i := range grants {
		g := &grants[i]
		g.full = s.full(g.key)
		_, g.ok = admit(g.full, now, g.limit(), g.cost)
	}
	s.unlock(held)
}

// held are the locks that a request has, in ascending order.
type held struct {
	n    int
	list [maxLimits]uint16
}

// lock locks the buckets of a request: each lock once, and in ascending order,
// so that two requests can't wait for each other.
func (s *Store) lock(grants []grant) held {
	var h held
	for i := range grants {
		l := uint16(grants[i].key & uint64(len(s.locks)-1))
		at := h.n
		for at > 0 && h.list[at-1] > l {
			at--
		}
		if at > 0 && h.list[at-1] == l {
			continue
		}
		copy(h.list[at+1:], h.list[at:h.n])
		h.list[at] = l
		h.n++
	}
	for _, l := range h.list[:h.n] {
		s.locks[l].Lock()
	}
	return h
}

func (s *Store) unlock(h held) {
	for _, l := range h.list[:h.n] {
		s.locks[l].Unlock()
	}
}

// set is where a key may be. The lower bits say which lock, too.
func (s *Store) set(key uint64) *set { return &s.sets[key&uint64(len(s.sets)-1)] }

// full is the moment of a key; past, when the key isn't there.
func (s *Store) full(key uint64) moment {
	in := s.set(key)
	if i := in.place(key); i >= 0 {
		return in.full[i]
	}
	return 0
}

// put sets the moment of a key. A key that is new may cost another its place.
func (s *Store) put(key uint64, full, now moment) {
	in := s.set(key)
	i := in.place(key)
	if i < 0 {
		i = in.oldest()
		if in.keys[i] != 0 && in.full[i] > now {
			s.forgotten.Add(1)
		}
		in.keys[i] = key
	}
	in.full[i] = full
}

// place is where a key is, -1 when it isn't there.
func (s *set) place(key uint64) int {
	for i, k := range &s.keys {
		if k == key {
			return i
		}
	}
	return -1
}

// oldest is the place that loses least when it is used again: a free one, else
// that of the bucket nearest to full.
func (s *set) oldest() int {
	best := 0
	for i := range &s.keys {
		if s.keys[i] == 0 {
			return i
		}
		if s.full[i] < s.full[best] {
			best = i
		}
	}
	return best
}

// Forgotten is how many buckets that weren't full had to make room: more than
// none says that the memory is too small for the clients that there are.
func (s *Store) Forgotten() uint64 { return s.forgotten.Load() }

// Count counts what a limit refused.
type Count struct {
	Route, Limit string
	DryRun       bool // it would have
	refused      atomic.Uint64
	errors       atomic.Uint64
}

// Refused is how many requests.
func (c *Count) Refused() uint64 { return c.refused.Load() }

// Errors is how often an expression had no value, or a claim no rate.
func (c *Count) Errors() uint64 { return c.errors.Load() }

type countKey struct {
	route, limit string
	dry          bool
}

// count returns the counter of a limit, the same one for the same names.
func (s *Store) count(route, limit string, dry bool) *Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := countKey{route, limit, dry}
	if s.counts[k] == nil {
		s.counts[k] = &Count{Route: route, Limit: limit, DryRun: dry}
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

// Retain forgets the counters of routes that aren't among these.
func (s *Store) Retain(routes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.counts {
		if !routes[k.route] {
			delete(s.counts, k)
		}
	}
}
