package cache

import (
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// StoreConfig is the room for stored answers.
type StoreConfig struct {
	// Memory for the answers that cache blocks store, of all routes together, those on their way and the disk's index included; of those that aren't asked for again, others take the place.
	Memory int64 `hcl:"memory,attr" unit:"bytes" default:"256MiB" min:"1MiB"`
	// Room on disk for answers that are too large for memory, and for those that memory has no more room for; they outlive a restart. "0B": none. A change of 0B takes a restart.
	Disk int64 `hcl:"disk,attr" unit:"bytes" default:"0B" min:"0B"`
	// Folder for them, which nobody else writes to; cache in state_dir unless given. A change takes a restart.
	Directory string `hcl:"directory,attr"`
}

// shards is how many parts the store has, so that those who look don't wait for each
// other.
const shards = 64

// Store keeps answers, and knows which are on their way. It belongs to the gateway
// and outlives configurations. Its disk's worker is Run, which ends with its context.
//
// There is one index, of what is in memory and on disk. All answers of a URI, of
// whatever route, person and variant, are in a list, so that forgetting the URI takes
// them all, and their files. Those that are on their way then are never stored (see
// flight).
type Store struct {
	seed   maphash.Seed
	epoch  time.Time     // times are counted from here: the system's clock may be set
	last   atomic.Uint64 // id of a body
	shards [shards]shard
	disk   disk

	most   atomic.Int64 // bytes of memory
	used   atomic.Int64 // of them; that of answers on their way included
	flying atomic.Int64 // of answers on their way
	index  atomic.Int64 // of those whose body is on disk
	inUse  [shards]atomic.Int32

	recent    recent
	purging   purging
	reasons   reasons
	encodings encodings
	first     uint64      // bodies of an earlier run have lower ids
	doubted   atomic.Bool // what is of an earlier run isn't used (yet)
	left      atomic.Bool // nothing is used (Leave)

	wanted chan struct{} // closed once a route has a cache
	mu     sync.Mutex    // guards routes, and the closing of wanted
	routes map[string]*counts
}

// NewStore returns an empty store.
func NewStore(c StoreConfig) *Store {
	s := &Store{seed: maphash.MakeSeed(), epoch: time.Now(), routes: map[string]*counts{}, wanted: make(chan struct{})}
	s.first = uint64(s.epoch.UnixNano()) // those of files from before a restart are lower
	s.last.Store(s.first)
	s.disk.init(s, c)
	s.SetMemory(c.Memory)
	for i := range s.shards {
		s.shards[i] = newShard()
	}
	return s
}

// SetMemory changes the room; what is too much goes at once.
func (s *Store) SetMemory(n int64) {
	s.most.Store(max(n, 1<<20))
	s.makeRoom()
}

// SetConfig changes the room in memory and on disk.
func (s *Store) SetConfig(c StoreConfig) {
	s.disk.setMost(c.Disk)
	s.SetMemory(c.Memory)
}

// Memory is how many bytes of memory are used, about.
func (s *Store) Memory() int64 { return s.used.Load() }

// Size is how much memory is used: bytes, about, and how many answers are stored.
func (s *Store) Size() (bytes uint64, items int) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		items += sh.count - sh.extra
		sh.mu.Unlock()
	}
	return uint64(max(0, s.used.Load())), items
}

func (s *Store) hash(text string) uint64 { return maphash.String(s.seed, text) }

func (s *Store) shard(uriHash uint64) *shard { return &s.shards[uriHash>>58] }

func (s *Store) since(now time.Time) int64 { return int64(now.Sub(s.epoch)) }

// reserve makes room for n bytes; false: there is none.
func (s *Store) reserve(n int64) bool {
	s.used.Add(n)
	if s.makeRoom() {
		return true
	}
	s.used.Add(-n)
	return false
}

// reserveFlying is reserve for an answer on its way. These have a half at most.
func (s *Store) reserveFlying(n int64) bool {
	if s.flying.Add(n) > s.most.Load()/2 || !s.reserve(n) {
		s.flying.Add(-n)
		return false
	}
	return true
}

func (s *Store) releaseFlying(n int64) {
	s.flying.Add(-n)
	s.used.Add(-n)
}

// makeRoom lets go of answers until what is used is within bounds.
func (s *Store) makeRoom() bool {
	for s.used.Load() > s.room() {
		if !s.evict() {
			s.disk.look() // its index may be too much
			return s.used.Load() <= s.room()
		}
	}
	return true
}

// room is how much memory there is beside what waits to be written to the disk.
func (s *Store) room() int64 {
	most := s.most.Load()
	if s.disk.most.Load() > 0 {
		most -= s.disk.mostQueued()
	}
	return most
}

// evict lets go of one answer, of the fuller of two shards.
func (s *Store) evict() bool {
	a, b := rand.Uint32()%shards, rand.Uint32()%shards
	if s.inUse[b].Load() > s.inUse[a].Load() {
		a = b
	}
	for range shards {
		if s.inUse[a].Load() > 0 && s.evictFrom(&s.shards[a]) {
			return true
		}
		a = (a + 1) % shards
	}
	return false
}

func (s *Store) evictFrom(sh *shard) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.since(time.Now())
	it := sh.worst(now)
	switch {
	case it == nil:
		return false
	case it.place != 0:
		s.swap(sh, it, it.stub(sh.places[it.place].old))
	case !it.has(isAttachment) && (it.is(isAsked) || sh.sketch.count(it.hash) > 1) && !it.useless(now) && s.disk.takes():
		gone := it.stub(false)
		gone.state |= isLeaving
		s.swap(sh, it, gone)
		if !s.disk.overflow(it, gone.self) {
			s.remove(sh, gone, nil)
		}
	default:
		s.remove(sh, it, nil)
	}
	return true
}

// number of a shard.
func (s *Store) number(it *item) int {
	return int(s.hash(it.uri()) >> 58)
}

// swap has now stand for was, in no queue.
func (s *Store) swap(sh *shard, was, now *item) {
	s.count(sh, was, -1)
	sh.swap(was, now)
	s.count(sh, now, 1)
}

// count counts an item in, or out.
func (s *Store) count(sh *shard, it *item, n int64) {
	s.used.Add(n * it.weight())
	if it.has(hasBody) {
		s.inUse[s.number(it)].Add(int32(n))
	} else {
		s.index.Add(n * it.weight())
	}
}

// remove takes an item out, and what belongs to it. The file's name is added to
// names: whoever calls removes it after unlocking.
func (s *Store) remove(sh *shard, it *item, names *[]name) {
	s.count(sh, it, -1)
	sh.unlink(it)
	if it.place != 0 {
		n := s.disk.leave(sh, it)
		if names != nil {
			*names = append(*names, n)
		} else {
			s.disk.unlinkLater(n)
		}
	}
	if !it.is(isParent) {
		return
	}
	var list []*item
	sh.eachOf(it.uriHash, func(a *item) bool {
		if a.has(isAttachment) {
			if id, _ := a.of(); id == it.id {
				list = append(list, a)
			}
		}
		return true
	})
	for _, a := range list {
		s.remove(sh, a, names)
	}
}

// varies is on which fields the answers of a URI depend, the latest first; nil: on
// none, or there are no answers.
func (s *Store) varies(uriHash uint64) [][]string {
	sh := s.shard(uriHash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r := sh.varies[uint32(uriHash)]; r != nil {
		return r.varies
	}
	return nil
}

// knows reports whether there are answers of a URI.
func (s *Store) knows(uriHash uint64) bool {
	sh := s.shard(uriHash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.knows(uint32(uriHash))
}

// item is the stored answer with that key; nil: there is none. One on disk has where.
func (s *Store) item(uriHash uint64, key string, now time.Time) (*item, place) {
	hash := uint32(s.hash(key))
	sh := s.shard(uriHash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	it := sh.find(hash, key)
	if it == nil || it.is(isLeaving) || it.id < s.first && s.doubted.Load() || s.left.Load() {
		return nil, place{}
	}
	sh.touch(it)
	if it.place == 0 {
		return it, place{}
	}
	sh.places[it.place].used = s.since(now)
	return it, sh.places[it.place]
}

// mostVaries is how many sets of fields the answers of a URI may depend on.
const mostVaries = 4

// keep stores e, made by the flight f, unless its URI has been forgotten since f
// began.
func (s *Store) keep(f *flight, e *entry, varies []string, base, values string) bool {
	key := entryKey(nil, f.uri, base, values)
	if e.id == 0 {
		e.id = s.last.Add(1)
	}
	it := s.newItem(e, key, len(f.uri), e.file == nil && e.spool == nil)
	if it == nil || int64(it.size) > s.largest() || !s.reserve(it.weight()) {
		e.abandon()
		return false
	}
	s.disk.note(s.disk.keys, func() uint64 { return s.hash(text(key)) ^ f.hash })
	sh := s.shard(f.hash)
	var names []name
	sh.mu.Lock()
	known := sh.knows(it.uriHash)
	what := s.heed(f, e)
	if what == softPurged {
		it.soften(s.since(time.Now()))
	}
	ok := !f.gone && s.put(sh, it, e, &names)
	if ok {
		sh.vary(it, varies, known)
	}
	self, old := it.self, ok && it.place != 0 && sh.places[it.place].old
	sh.mu.Unlock()
	s.used.Add(-it.weight()) // put has counted it
	s.disk.unlink(names)
	switch {
	case !ok:
		e.abandon()
	case e.spool != nil:
		e.item = it
		return s.disk.finish(e, it, self)
	case old:
		s.disk.refresh(it)
	}
	if ok { // e is a view of it now
		if e.item = it; it.has(hasBody) {
			e.body, e.parts = it.body(), nil
		}
	}
	return ok
}

// abandon gives up the file that was to have its body.
func (e *entry) abandon() {
	if e.spool != nil {
		e.spool.abandon()
	}
}

// largest is how large an item in memory may be.
func (s *Store) largest() int64 { return s.most.Load() / 4 }

// put puts an item into the index, in the place of an older one.
func (s *Store) put(sh *shard, it *item, e *entry, names *[]name) bool {
	old := sh.find(it.hash, text(it.key()))
	switch {
	case old != nil && old.id == it.id: // another head for the same body: file and attachments stay
		if !it.has(hasBody) && old.place == 0 {
			return false // its file is gone
		}
		s.swap(sh, old, it)
		if it.place != 0 {
			sh.places[it.place].old = true
		}
	case e.file != nil:
		return false // with what has taken its place, its file went
	case e.again && !sh.has(it.uriHash, it.id):
		return false // it was forgotten while it was asked whether it holds
	default:
		if e.again { // it depends on something else now: it is another answer
			it.id = s.last.Add(1)
			e.id = it.id
		}
		if old != nil {
			s.remove(sh, old, names)
		}
		if e.spool != nil {
			it.state |= isLeaving
		}
		sh.link(it)
		s.count(sh, it, 1)
	}
	if it.has(hasBody) {
		sh.push(it, inWindow)
		sh.sketch.add(it.hash)
		if s.used.Load() < s.room()*15/16 {
			sh.settleIn()
		}
	}
	return true
}

// stands reports whether an answer is still stored: nobody has forgotten it since it
// was found, nor has another taken its place.
func (s *Store) stands(e *entry) bool {
	if e.item == nil {
		return false
	}
	sh := s.shard(s.hash(e.item.uri()))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := sh.find(e.item.hash, text(e.item.key()))
	return now != nil && now.id == e.id
}

// drop forgets one answer.
func (s *Store) drop(e *entry) {
	if e.item == nil {
		return
	}
	var names []name
	h, key := s.hash(e.item.uri()), text(e.item.key())
	s.disk.note(s.disk.keys, func() uint64 { return s.hash(key) ^ h })
	sh := s.shard(h)
	sh.mu.Lock()
	if it := sh.find(e.item.hash, key); it != nil && it.id == e.id {
		s.remove(sh, it, &names)
	}
	sh.mu.Unlock()
	s.disk.unlink(names)
}

// forget forgets all answers of a URI, and those on their way are never stored or
// shared further (RFC 9111, 4.4). Their files are gone when it returns.
func (s *Store) forget(uri string) {
	var names []name
	h := s.hash(uri)
	unread := s.disk.note(s.disk.uris, func() uint64 { return uriName(uri) })
	sh := s.shard(h)
	sh.mu.Lock()
	for _, f := range sh.flights[uri] {
		f.gone, f.open = true, false
	}
	var list []*item
	sh.eachOf(uint32(h), func(it *item) bool {
		if !it.has(isAttachment) && it.uri() == uri {
			list = append(list, it)
		}
		return true
	})
	for _, it := range list {
		s.remove(sh, it, &names)
	}
	sh.mu.Unlock()
	s.disk.unlink(names)
	s.disk.settled()
	if unread {
		s.disk.sweep(uri)
	}
}

// vary notes on which fields an answer depends that was just stored; known: there
// were answers of its URI before.
func (sh *shard) vary(it *item, varies []string, known bool) {
	r := sh.varies[it.uriHash]
	if r == nil && len(varies) == 0 || r != nil && slices.Equal(r.varies[0], varies) {
		return
	}
	list := [][]string{varies}
	var before [][]string
	if r != nil {
		before = r.varies
	} else if known {
		before = [][]string{nil} // those depend on none
	}
	for _, v := range before {
		if !slices.Equal(v, varies) && len(list) < mostVaries {
			list = append(list, v)
		}
	}
	sh.varies[it.uriHash] = sh.common(list)
}

// marked reports whether a request isn't to wait for others.
func (s *Store) marked(uriHash uint64, key string, now time.Time) bool {
	sh := s.shard(uriHash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.marks) == 0 {
		return false
	}
	h := s.hash(key)
	until, ok := sh.marks[h]
	if ok && !now.Before(until) {
		delete(sh.marks, h)
		ok = false
	}
	return ok
}

// setMark says for a while that a request isn't to wait for others.
func (s *Store) setMark(uriHash uint64, key string, until time.Time) {
	sh := s.shard(uriHash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.mark(s.hash(key), until)
}
