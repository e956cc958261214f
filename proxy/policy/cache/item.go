package cache

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// item is what the store holds of an answer: this, and behind it, in the same
// allocation, its key, tags, fields and body. No pointer is in it, so that a
// million of them are nothing to the collector, and each is one piece of memory.
//
// What isn't said to be the shard's never changes once the item is in the store, so
// that an exchange may read it, and show views of it, without a lock; the collector
// frees the memory when the last of them is gone.
type item struct {
	id            uint64 // of its body, and of the file
	hash, uriHash uint32
	bornLow       uint32 // milliseconds since the store's epoch when it was made
	lengthLow     uint32 // of its body, wherever that is
	lifetime      int32  // seconds; atomic: an operator may end it
	whileRevalidate,
	ifError int32
	date uint32 // seconds since 1970
	size uint32 // of the allocation

	self             uint32 // its slot; the shard's, as are all that follow up to state
	next, prev       uint32 // in its queue
	chain            uint32 // next of the same bucket
	uriNext, uriPrev uint32 // of the same bucket by URI
	place            uint32 // its file; 0: none
	queue            uint8
	state            state

	flags      uint8
	bornHigh   int8
	lengthHigh uint8
	_          uint8
	status     uint16
	keyLen, uriLen, tagsLen,
	headLen uint16
}

// state is what changes of an item.
type state uint8

const (
	isHit     state = 1 << iota // asked for since the clock's hand passed
	isAsked                     // asked for at all
	isParent                    // it has attachments
	isLeaving                   // on its way to the disk
)

func (it *item) is(s state) bool { return it.state&s != 0 }

// born is when it was made, since the store's epoch.
func (it *item) born() int64 {
	return (int64(it.bornHigh)<<32 | int64(it.bornLow)) * int64(time.Millisecond)
}

func (it *item) setBorn(since int64) {
	if since < 0 {
		since -= int64(time.Millisecond - 1) // rather older than younger
	}
	ms := min(max(since/int64(time.Millisecond), -1<<39), 1<<39-1) // 17 years
	it.bornHigh, it.bornLow = int8(ms>>32), uint32(ms)
}

func (it *item) length() int64 { return int64(it.lengthHigh)<<32 | int64(it.lengthLow) }

func (it *item) setLength(n int64) { it.lengthHigh, it.lengthLow = uint8(n>>32), uint32(n) }

const (
	itemSize = int(unsafe.Sizeof(item{}))
	perItem  = 8 + 8 + 4 + 8 // its share of slots, tables and sketch, about
)

// The flags of an item.
const (
	noCache uint8 = 1 << iota
	must
	immutable
	guessed
	hasBody      // behind its head; else it is in the file
	isAttachment // its key says of what
	recoded      // the service's coding was taken off
)

// newItem allocates an item with n bytes behind it.
func newItem(n int) *item {
	b := slices.Grow([]byte(nil), itemSize+n) // its capacity is what the allocator gives
	b = b[:itemSize+n]
	it := (*item)(unsafe.Pointer(&b[0])) // of more than 16 bytes: it is aligned
	*it = item{size: uint32(cap(b))}
	return it
}

// room are n bytes from offset at behind the item.
func (it *item) room(at, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(it), itemSize+at)), n)
}

func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (it *item) key() []byte { return it.room(0, int(it.keyLen)) }
func (it *item) uri() string { return text(it.room(0, int(it.uriLen))) }
func (it *item) tags() string {
	return text(it.room(int(it.keyLen), int(it.tagsLen)))
}
func (it *item) head() []byte { return it.room(int(it.keyLen)+int(it.tagsLen), int(it.headLen)) }
func (it *item) body() []byte {
	if !it.has(hasBody) {
		return nil
	}
	return it.room(int(it.keyLen)+int(it.tagsLen)+int(it.headLen), int(it.length()))
}
func (it *item) has(f uint8) bool { return it.flags&f != 0 }
func (it *item) weight() int64    { return int64(it.size) + perItem }

// shelf is how long it may be used.
func (it *item) shelf() rules.Shelf {
	return rules.Shelf{
		Lifetime: seconds(atomic.LoadInt32(&it.lifetime)), WhileRevalidate: seconds(it.whileRevalidate), IfError: seconds(it.ifError),
		NoCache: it.has(noCache), Must: it.has(must), Immutable: it.has(immutable), Guessed: it.has(guessed),
	}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

func inSeconds(d time.Duration) int32 {
	return int32(min(max(int64(d/time.Second), math.MinInt32), math.MaxInt32))
}

// useless reports whether nobody can use it any more, at a time since the epoch.
func (it *item) useless(now int64) bool {
	return now-it.born() > int64(seconds(atomic.LoadInt32(&it.lifetime))+seconds(max(it.whileRevalidate, it.ifError))) && !it.validates()
}

func (it *item) validates() bool {
	if it.headLen == 0 {
		return true // its fields are in the file
	}
	return exchange.PackedGet(it.head(), exchange.ETag) != "" || exchange.PackedGet(it.head(), exchange.LastModified) != ""
}

// most that lengths in an item can say.
const (
	mostKey  = math.MaxUint16
	mostTags = math.MaxUint16
	mostHead = math.MaxUint16
	mostItem = math.MaxInt32

	mostLength = 1 << 40
)

// newItem makes an item of e. Without its body it is for one whose body is in a
// file. nil: it has too long a key, or tags.
func (s *Store) newItem(e *entry, key []byte, uri int, withBody bool) *item {
	head := e.packedHead()
	n := len(key) + len(e.tags) + len(head)
	if withBody {
		n += len(e.body)
		for _, b := range e.parts {
			n += len(b)
		}
	}
	if len(key) > mostKey || len(e.tags) > mostTags || len(head) > mostHead || n > mostItem || e.length >= mostLength {
		return nil
	}
	it := newItem(n)
	it.id, it.status = e.id, uint16(e.status)
	it.setBorn(int64(e.born.Sub(s.epoch)))
	it.setLength(e.length)
	it.lifetime, it.whileRevalidate, it.ifError = inSeconds(e.Lifetime), inSeconds(e.WhileRevalidate), inSeconds(e.IfError)
	if u := e.Date.Unix(); u > 0 && u < math.MaxUint32 {
		it.date = uint32(u)
	}
	for _, f := range [...]struct {
		is   bool
		flag uint8
	}{{e.NoCache, noCache}, {e.Must, must}, {e.Immutable, immutable}, {e.Guessed, guessed}, {e.recoded, recoded}, {withBody, hasBody}} {
		if f.is {
			it.flags |= f.flag
		}
	}
	it.keyLen, it.uriLen, it.tagsLen, it.headLen = uint16(len(key)), uint16(uri), uint16(len(e.tags)), uint16(len(head))
	b := it.room(0, n)
	b = b[copy(b, key):]
	b = b[copy(b, e.tags):]
	b = b[copy(b, head):]
	if withBody {
		b = b[copy(b, e.body):]
		for _, part := range e.parts {
			b = b[copy(b, part):]
		}
	}
	it.hash, it.uriHash = uint32(s.hash(text(key))), uint32(s.hash(text(key[:uri])))
	return it
}

// stub is it without its body, which a file has, and without its fields unless the
// file has older ones.
func (it *item) stub(withHead bool) *item {
	n, head := int(it.keyLen)+int(it.tagsLen), it.headLen
	if !withHead {
		head = 0
	}
	out := newItem(n + int(head))
	*out = item{
		id: it.id, bornLow: it.bornLow, bornHigh: it.bornHigh, lengthLow: it.lengthLow, lengthHigh: it.lengthHigh, hash: it.hash, uriHash: it.uriHash, lifetime: atomic.LoadInt32(&it.lifetime), whileRevalidate: it.whileRevalidate, ifError: it.ifError,
		date: it.date, size: out.size, flags: it.flags &^ hasBody, status: it.status, keyLen: it.keyLen, uriLen: it.uriLen, tagsLen: it.tagsLen, headLen: head,
	}
	copy(out.room(0, n+int(head)), it.room(0, n+int(head)))
	return out
}

// entry is a stored answer as exchanges see it: mostly views of an item.
type entry struct {
	item   *item // nil: it isn't stored yet
	id     uint64
	status int
	body   []byte
	parts  [][]byte // of the body, before it is stored
	length int64    // of the body; -1: not known before its end
	rules.Shelf
	rules.Validators
	born    time.Time // when it was made: age 0
	tags    string    // surrogate keys, with a space between
	recoded bool      // the service's coding was taken off
	again   bool      // its body is that of a stored answer, which a 304 has confirmed

	packed []byte         // its fields, or
	head   *exchange.Head // these
	file   *file          // that has its body, or
	spool  *spool         // that is to become one; nil: body has it
}

// show fills e, a view of it.
func (s *Store) show(e *entry, it *item) {
	*e = entry{
		item: it, id: it.id, status: int(it.status), body: it.body(), length: it.length(), Shelf: it.shelf(), born: s.epoch.Add(time.Duration(it.born())), tags: it.tags(), packed: it.head(), recoded: it.has(recoded),
	}
	e.Validators = rules.Validators{ETag: exchange.PackedGet(e.packed, exchange.ETag), LastModified: exchange.PackedGet(e.packed, exchange.LastModified), Date: time.Unix(int64(it.date), 0)}
}

func (e *entry) packedHead() []byte {
	if e.head == nil {
		return e.packed
	}
	return e.head.AppendPacked(nil)
}

// fields are its fields, which nobody changes.
func (e *entry) fields() *exchange.Head {
	if e.head == nil {
		h := &exchange.Head{}
		h.Unpack(e.packed)
		return h
	}
	return e.head
}

func (e *entry) age(now time.Time) time.Duration { return max(0, now.Sub(e.born)) }

// route and service are what the key of an answer says.
func (it *item) route() (route, service string) {
	base := it.key()[it.uriLen:]
	if len(base) < 6 || it.has(isAttachment) {
		return "", ""
	}
	n := int(binary.BigEndian.Uint32(base[2:]))
	base = base[6:]
	if n > len(base) {
		return "", ""
	}
	route, rest, _ := strings.Cut(text(base[:n]), "\x00")
	service, _, _ = strings.Cut(rest, "\x00")
	return route, service
}
