package cache

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// shard is the part of the store that has the answers of some URIs: all those of a
// URI are in the same one.
type shard struct {
	mu      sync.Mutex // guards all of it
	flights map[string][]*flight
	marks   map[uint64]time.Time
	varies  map[uint32]*record // of URIs whose answers depend on fields
	shared  []*record

	slots []*item // by number; 0 is nobody's
	free  []uint32
	count int // of items
	extra int // of them are attachments
	keys  table
	uris  table

	window, main queue
	sketch       sketch

	places []place // files; 0 is nobody's
	spare  []uint32
}

// table has the first items of chains, by hash.
type table []uint32

func (t table) at(hash uint32) *uint32 { return &t[hash&uint32(len(t)-1)] }

// record is on which fields the answers of a URI depend. It never changes.
type record struct{ varies [][]string } // the latest first

// mostCommon bounds the records that URIs of a shard share.
const mostCommon = 16

// common is the record with that list: most URIs have one of few.
func (sh *shard) common(list [][]string) *record {
	same := func(a, b []string) bool { return slices.Equal(a, b) }
	for _, r := range sh.shared {
		if slices.EqualFunc(r.varies, list, same) {
			return r
		}
	}
	r := &record{list}
	if len(sh.shared) == mostCommon {
		copy(sh.shared, sh.shared[1:])
		sh.shared = sh.shared[:mostCommon-1]
	}
	sh.shared = append(sh.shared, r)
	return r
}

func newShard() shard {
	return shard{
		flights: map[string][]*flight{}, marks: map[uint64]time.Time{}, varies: map[uint32]*record{}, slots: make([]*item, 1), places: make([]place, 1),
		keys: make(table, 16), uris: make(table, 16),
	}
}

// find is the item with that key.
func (sh *shard) find(hash uint32, key string) *item {
	for i := *sh.keys.at(hash); i != 0; {
		it := sh.slots[i]
		if it.hash == hash && text(it.key()) == key {
			return it
		}
		i = it.chain
	}
	return nil
}

// eachOf calls f with all items whose URI has that hash. f may unlink the one it gets.
func (sh *shard) eachOf(uriHash uint32, f func(it *item) bool) {
	for i := *sh.uris.at(uriHash); i != 0; {
		it := sh.slots[i]
		i = it.uriNext
		if it.uriHash == uriHash && !f(it) {
			return
		}
	}
}

// has reports whether an answer of a URI has the body with that id.
func (sh *shard) has(uriHash uint32, id uint64) (found bool) {
	sh.eachOf(uriHash, func(it *item) bool {
		found = found || it.id == id && !it.has(isAttachment)
		return !found
	})
	return found
}

func (sh *shard) knows(uriHash uint32) (found bool) {
	sh.eachOf(uriHash, func(*item) bool {
		found = true
		return false
	})
	return found
}

// link puts an item into the index, in no queue.
func (sh *shard) link(it *item) {
	if n := len(sh.free); n > 0 {
		it.self, sh.free = sh.free[n-1], sh.free[:n-1]
		sh.slots[it.self] = it
	} else {
		it.self = uint32(len(sh.slots))
		sh.slots = append(sh.slots, it)
	}
	if it.has(isAttachment) {
		sh.extra++
	}
	if sh.count++; sh.count > len(sh.keys) {
		sh.grow()
	} else {
		sh.chain(it)
	}
	if sh.count > len(sh.sketch.words) {
		sh.sketch.fit(sh.count)
	}
}

func (sh *shard) chain(it *item) {
	at := sh.keys.at(it.hash)
	it.chain, *at = *at, it.self
	at = sh.uris.at(it.uriHash)
	it.uriPrev, it.uriNext = 0, *at
	if *at != 0 {
		sh.slots[*at].uriPrev = it.self
	}
	*at = it.self
}

// grow doubles the tables.
func (sh *shard) grow() {
	n := 2 * len(sh.keys)
	sh.keys, sh.uris = make(table, n), make(table, n)
	for _, it := range sh.slots {
		if it != nil {
			sh.chain(it)
		}
	}
}

// unlink takes an item out of the index, and of its queue.
func (sh *shard) unlink(it *item) {
	sh.pull(it)
	for at := sh.keys.at(it.hash); *at != 0; at = &sh.slots[*at].chain {
		if *at == it.self {
			*at = it.chain
			break
		}
	}
	if it.uriPrev != 0 {
		sh.slots[it.uriPrev].uriNext = it.uriNext
	} else {
		*sh.uris.at(it.uriHash) = it.uriNext
	}
	if it.uriNext != 0 {
		sh.slots[it.uriNext].uriPrev = it.uriPrev
	}
	sh.slots[it.self] = nil
	sh.free = append(sh.free, it.self)
	if sh.count--; it.has(isAttachment) {
		sh.extra--
	}
	if len(sh.varies) > 0 && !sh.knows(it.uriHash) {
		delete(sh.varies, it.uriHash)
	}
}

// swap has now stand in the index where was stood; in no queue.
func (sh *shard) swap(was, now *item) {
	sh.pull(was)
	now.self, now.chain, now.uriNext, now.uriPrev, now.place = was.self, was.chain, was.uriNext, was.uriPrev, was.place
	now.state |= was.state & (isParent | isAsked)
	now.queue, now.next, now.prev = inNone, 0, 0
	sh.slots[was.self] = now
}

// attachmentKey is what an attachment of the answer with that id is found by.
func attachmentKey(dst []byte, uri string, id uint64, name string) []byte {
	dst = append(append(dst, uri...), 0, 0, 0xff, 0xff, 0xff, 0xff) // the length of no base
	return append(binary.BigEndian.AppendUint64(dst, id), name...)
}

// of is the id of the answer that an attachment belongs to, and its name.
func (it *item) of() (id uint64, name string) {
	b := it.key()[it.uriLen+6:]
	return binary.BigEndian.Uint64(b), text(b[8:])
}

// mostMarks bounds what a shard knows of requests that aren't to wait.
const mostMarks = 1024

func (sh *shard) mark(key uint64, until time.Time) {
	if _, ok := sh.marks[key]; !ok && len(sh.marks) >= mostMarks {
		for k := range sh.marks { // any
			delete(sh.marks, k)
			break
		}
	}
	sh.marks[key] = until
}
