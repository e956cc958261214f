package ban

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
)

const (
	// maxBans bounds those that are remembered; beyond, whoever's is over first
	// makes room.
	maxBans = 1 << 17
	shards  = 64
)

// client is an address, or the /64 of an IPv6 one, which is what one client has.
type client netip.Prefix

func clientOf(a netip.Addr) client {
	a = a.Unmap().WithZone("")
	n := 32
	if a.Is6() {
		n = 64
	}
	p, _ := a.Prefix(n) // an address that isn't valid is nobody
	return client(p)
}

// String is the address, or the network.
func (c client) String() string {
	if p := netip.Prefix(c); !p.IsSingleIP() {
		return p.String()
	}
	return netip.Prefix(c).Addr().String()
}

// entry is a ban, or one that was.
type entry struct {
	since, until int64 // seconds since 1970
	forget       int64 // when it doesn't count as an earlier one any more
	times        int   // the how-manieth it is
	by           string
	shared       bool // the fleet knows of it
}

// Ban is a ban as people see it.
type Ban struct {
	Client string    `json:"client"` // an address, or the /64 of an IPv6 one
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Times  int       `json:"times"` // the how-manieth ban it is
	By     string    `json:"by"`    // the route, or "operator"
}

// Operator is who bans by hand.
const Operator = "operator"

// Deps are what a Store works with.
type Deps struct {
	Log  logrus.FieldLogger
	Path string // the file that keeps bans over a restart; "": none does
}

// Store knows who is banned. It belongs to the gateway and outlives
// configurations, and with its file restarts.
type Store struct {
	Deps
	seed    maphash.Seed
	once    sync.Once
	strikes strikes
	active  atomic.Int64 // entries there are: while there are none, a request costs one load
	dirty   chan struct{}
	turns   chan turn // what Run is to do between two writes
	list    [shards]struct {
		mu sync.RWMutex // guards what follows
		m  map[client]entry
		_  [24]byte
	}

	used  chan struct{}
	wake  chan struct{} // for Share
	fleet atomic.Int64  // how many bans the fleet has

	mu      sync.Mutex // guards what follows
	counts  map[string]uint64
	pending map[client]int  // what the fleet has to know, and how often it has changed
	held    bool            // the file is another process's (Hold)
	own     *estate.Estate  // since the yield: where bans are written; nil: it wasn't yielded
	seen    os.FileInfo     // of the file, when it was last read since the yield
	fresh   map[client]bool // banned since then
	drains  bool            // there are processes that have yielded, or were
}

// NewStore returns a store with the bans that its file has. Without a file that
// can be read it is empty, and the error says why.
func NewStore(d Deps) (*Store, error) {
	s := &Store{Deps: d, seed: maphash.MakeSeed(), dirty: make(chan struct{}, 1), turns: make(chan turn), used: make(chan struct{}), wake: make(chan struct{}, 1),
		counts: map[string]uint64{}, pending: map[client]int{}}
	s.strikes.begin, s.drains = time.Now(), d.Path != ""
	return s, s.load(time.Now())
}

// open takes the memory for strikes, when the first block is compiled.
func (s *Store) open() {
	if s == nil { // to check a configuration
		return
	}
	s.once.Do(func() {
		s.strikes.list = make([]set, sets)
		close(s.used)
	})
}

func (s *Store) hash(text string) uint64 {
	if s == nil {
		return 0
	}
	return maphash.String(s.seed, text)
}

// strike counts a response for c and reports whether it is one too many.
func (s *Store) strike(id uint64, c client, at time.Time, most int, window time.Duration) bool {
	var b [25]byte
	a := netip.Prefix(c).Addr().As16()
	copy(b[:], a[:])
	b[16] = uint8(netip.Prefix(c).Bits())
	binary.LittleEndian.PutUint64(b[17:], id)
	return s.strikes.add(max(maphash.Bytes(s.seed, b[:]), 1), at, most, window)
}

func (s *Store) shard(c client) int { return int(maphash.Comparable(s.seed, c) % shards) }

func (s *Store) empty() bool { return s.active.Load() == 0 }

// banned reports whether c is banned at a time.
func (s *Store) banned(c client, now int64) bool {
	l := &s.list[s.shard(c)]
	l.mu.RLock()
	e, ok := l.m[c]
	l.mu.RUnlock()
	return ok && e.until > now
}

// ban bans c from now on: each time twice as long, up to longest.
func (s *Store) ban(c client, by string, at time.Time, first, longest time.Duration) {
	now := at.Unix()
	l := &s.list[s.shard(c)]
	l.mu.Lock()
	e := l.m[c]
	if e.until > now { // another request was first
		l.mu.Unlock()
		return
	}
	times := 1
	if e.times > 0 && e.forget > now {
		times = e.times + 1
	}
	lasts := first
	for n := 1; n < times && lasts < longest; n++ {
		lasts *= 2
	}
	lasts = min(lasts, longest)
	until := now + seconds(lasts)
	s.put(&l.m, c, entry{since: now, until: until, forget: until + seconds(longest), times: times, by: by}, now)
	l.mu.Unlock()
	s.tell(c)
	s.mu.Lock()
	s.counts[by]++
	if s.own != nil {
		s.fresh[c] = true
	}
	s.mu.Unlock()
	s.changed()
	s.Log.WithFields(logrus.Fields{"client": c.String(), "route": by, "for": lasts.String(), "times": times}).Info("address banned")
}

// put stores an entry in a shard, whose lock is held.
func (s *Store) put(m *map[client]entry, c client, e entry, now int64) {
	if *m == nil {
		*m = map[client]entry{}
	}
	if _, ok := (*m)[c]; !ok {
		if len(*m) >= maxBans/shards {
			s.evict(*m, now)
		}
		s.active.Add(1)
	}
	(*m)[c] = e
}

// evict makes room: of all that is forgotten anyway, else of what is over first.
func (s *Store) evict(m map[client]entry, now int64) {
	var first client
	var end int64
	before := len(m)
	for c, e := range m {
		if e.forget <= now {
			delete(m, c)
			continue
		}
		if end == 0 || e.until < end {
			first, end = c, e.until
		}
	}
	if len(m) == before {
		delete(m, first)
	}
	s.active.Add(int64(len(m) - before))
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// changed asks Run to write the file.
func (s *Store) changed() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// tidy forgets what is over.
func (s *Store) tidy(now int64) {
	for i := range s.list {
		l := &s.list[i]
		l.mu.Lock()
		before := len(l.m)
		for c, e := range l.m {
			if e.forget <= now {
				delete(l.m, c)
			}
		}
		s.active.Add(int64(len(l.m) - before))
		l.mu.Unlock()
	}
}

// each calls f with every entry.
func (s *Store) each(f func(client, entry)) {
	for i := range s.list {
		l := &s.list[i]
		l.mu.RLock()
		for c, e := range l.m {
			f(c, e)
		}
		l.mu.RUnlock()
	}
}

// List returns the bans in force, those that last longest first.
func (s *Store) List(now time.Time) []Ban {
	list := []Ban{}
	s.each(func(c client, e entry) {
		if e.until > now.Unix() {
			list = append(list, Ban{c.String(), time.Unix(e.since, 0).UTC(), time.Unix(e.until, 0).UTC(), e.times, e.by})
		}
	})
	slices.SortFunc(list, func(a, b Ban) int {
		if d := b.Until.Compare(a.Until); d != 0 {
			return d
		}
		if a.Client < b.Client {
			return -1
		}
		return 1
	})
	return list
}

// parse reads an address, or a network that a ban can have.
func parse(text string) (client, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return clientOf(a), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return client{}, fmt.Errorf("%.60q isn't an address", text)
	}
	if c := clientOf(p.Addr()); netip.Prefix(c) == p.Masked() {
		return c, nil
	}
	return client{}, fmt.Errorf("%.60q isn't what a ban can be of: one IPv4 address, or a /64 of IPv6; for networks there is block", text)
}

// Add bans an address by hand.
func (s *Store) Add(address string, now time.Time, lasts time.Duration) (Ban, error) {
	c, err := parse(address)
	if err != nil {
		return Ban{}, err
	}
	if lasts < time.Second || lasts > 10*365*24*time.Hour {
		return Ban{}, errors.New("a ban lasts from a second to ten years")
	}
	l := &s.list[s.shard(c)]
	l.mu.Lock()
	e := entry{since: now.Unix(), until: now.Unix() + seconds(lasts), times: l.m[c].times + 1, by: Operator}
	e.forget = e.until + seconds(min(lasts, 24*time.Hour))
	s.put(&l.m, c, e, now.Unix())
	l.mu.Unlock()
	s.changed()
	s.tell(c)
	return Ban{c.String(), time.Unix(e.since, 0).UTC(), time.Unix(e.until, 0).UTC(), e.times, e.by}, nil
}

// Remove lifts a ban, and forgets that there was one. It reports whether there
// was.
func (s *Store) Remove(address string, now time.Time) (bool, error) {
	c, err := parse(address)
	if err != nil {
		return false, err
	}
	l := &s.list[s.shard(c)]
	l.mu.Lock()
	e, ok := l.m[c]
	if ok {
		delete(l.m, c)
		s.active.Add(-1)
	}
	l.mu.Unlock()
	s.changed()
	s.tell(c)
	return ok && e.until > now.Unix(), nil
}

// Counts returns how many bans each route has caused.
func (s *Store) Counts() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make(map[string]uint64, len(s.counts))
	for by, n := range s.counts {
		list[by] = n
	}
	return list
}

// Retain forgets the counts of routes that aren't among these.
func (s *Store) Retain(routes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for by := range s.counts {
		if !routes[by] {
			delete(s.counts, by)
		}
	}
}
