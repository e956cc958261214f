package cache

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// meta is what is known of a stored answer. Its strings are views, valid as long as
// who gets it looks at it.
type meta struct {
	uri, route, service string
	key                 []byte // the whole of it, uri first
	tags                string // surrogate keys, with a space between
	status              int
	size                int64 // of its body
	memory, disk        int64 // bytes that it takes there
	born                time.Time
	shelf               rules.Shelf
	id                  uint64 // of its body
	attached            string // it is an attachment of that name, not an answer
}

// action is what becomes of an answer that was looked at.
type action uint8

const (
	keepIt   action = iota
	softenIt        // it is stale from now on
	dropIt
)

// all looks at all answers, and their attachments, and does with them as f says; what
// becomes of an attachment is its answer's matter. f runs under a lock: it mustn't
// wait, or call the store. What was done is on the disk, too, when all returns.
func (s *Store) all(f func(m *meta) action) (dropped, softened int) {
	s.disk.await()
	for i := range s.shards {
		sh := &s.shards[i]
		d, o := s.walk(sh, f, func(do func(it *item)) {
			for _, it := range sh.slots {
				if it != nil {
					do(it)
				}
			}
		})
		dropped, softened = dropped+d, softened+o
	}
	return dropped, softened
}

// allOf is all for the answers of a URI.
func (s *Store) allOf(uri string, f func(m *meta) action) (dropped, softened int) {
	h := s.hash(uri)
	sh := s.shard(h)
	return s.walk(sh, f, func(do func(it *item)) {
		sh.eachOf(uint32(h), func(it *item) bool {
			if it.uri() == uri {
				do(it)
			}
			return true
		})
	})
}

func (s *Store) walk(sh *shard, f func(m *meta) action, each func(do func(it *item))) (dropped, softened int) {
	var gone, soft []*item
	var names []name
	var later []*item
	now := s.since(time.Now())
	sh.mu.Lock()
	each(func(it *item) {
		m := s.meta(sh, it)
		a := f(&m)
		switch {
		case it.has(isAttachment):
		case a == dropIt:
			gone = append(gone, it)
		case a == softenIt && it.soften(now):
			softened++
			if it.place != 0 || it.is(isLeaving) {
				soft = append(soft, it)
			}
		}
	})
	for _, it := range gone {
		if sh.slots[it.self] == it {
			s.remove(sh, it, &names)
			dropped++
		}
	}
	for _, it := range soft {
		if it.place != 0 {
			sh.places[it.place].old = true
			later = append(later, it)
		} else {
			s.remove(sh, it, &names) // it isn't on the disk yet
		}
	}
	sh.mu.Unlock()
	s.disk.unlink(names)
	s.disk.settled()
	for _, it := range later {
		s.disk.rewrite(it)
	}
	return dropped, softened
}

func (s *Store) meta(sh *shard, it *item) meta {
	m := meta{
		uri: it.uri(), key: it.key(), tags: it.tags(), status: int(it.status), size: it.length(), memory: it.weight(), born: s.epoch.Add(time.Duration(it.born())), shelf: it.shelf(), id: it.id,
	}
	m.route, m.service = it.route()
	if it.place != 0 {
		m.disk = sh.places[it.place].bytes
	}
	if it.has(isAttachment) {
		_, m.attached = it.of()
	}
	return m
}

// soften ends its lifetime; false: it was over.
func (it *item) soften(now int64) bool {
	age := int32(min(max((now-it.born())/int64(time.Second), 0), math.MaxInt32))
	if atomic.LoadInt32(&it.lifetime) <= age {
		return false
	}
	atomic.StoreInt32(&it.lifetime, age)
	return true
}

// attach stores something that was made of e's body, to be found by name, as long as
// the body is stored. false: that is over, or there is no room.
func (s *Store) attach(e *entry, name string, body []byte) bool {
	p := e.item
	if p == nil || len(body) > mostItem/2 {
		return false
	}
	key := attachmentKey(nil, p.uri(), e.id, name)
	if len(key) > mostKey {
		return false
	}
	a := newItem(len(key) + len(body))
	if int64(a.size) > s.largest() || !s.reserve(a.weight()) {
		return false
	}
	defer s.used.Add(-a.weight()) // count counts it
	a.keyLen, a.uriLen, a.flags, a.lifetime = uint16(len(key)), p.uriLen, isAttachment|hasBody|must, math.MaxInt32
	a.setLength(int64(len(body)))
	a.setBorn(s.since(time.Now()))
	copy(a.room(copy(a.room(0, len(key)), key), len(body)), body)
	h := s.hash(p.uri())
	a.hash, a.uriHash = uint32(s.hash(text(key))), uint32(h)
	sh := s.shard(h)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	of := sh.find(p.hash, text(p.key()))
	if of == nil || of.id != e.id {
		return false
	}
	if old := sh.find(a.hash, text(key)); old != nil {
		s.remove(sh, old, nil)
	}
	of.state |= isParent
	sh.link(a)
	s.count(sh, a, 1)
	sh.push(a, inWindow)
	sh.sketch.add(a.hash)
	return true
}

// attached is what attach stored under that name; nil: it isn't there, or not any
// more.
func (s *Store) attached(e *entry, name string) []byte {
	p := e.item
	if p == nil {
		return nil
	}
	var room [512]byte
	key := attachmentKey(room[:0], p.uri(), e.id, name)
	hash := uint32(s.hash(text(key)))
	sh := s.shard(s.hash(p.uri()))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	a := sh.find(hash, text(key))
	if a == nil {
		return nil
	}
	sh.touch(a)
	return a.body()
}
