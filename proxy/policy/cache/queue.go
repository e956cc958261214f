package cache

import "math/rand/v2"

// W-TinyLFU, for each shard: what is new goes through a window, from which it comes
// into the main queue only if it is asked for more often than those that would have
// to go for it. How often is guessed by a sketch of four-bit counters, which knows
// of answers that aren't stored any more, too, and forgets with time. The main
// queue is a clock: what was asked for since its hand passed stays.

// The queues an item can be in.
const (
	inNone uint8 = iota // its body is in a file
	inWindow
	inMain
)

// queue is a list of items, the newest first.
type queue struct {
	first, last uint32
	bytes       int64
}

func (sh *shard) queueOf(q uint8) *queue {
	if q == inWindow {
		return &sh.window
	}
	return &sh.main
}

func (sh *shard) push(it *item, in uint8) {
	q := sh.queueOf(in)
	it.queue, it.prev, it.next = in, 0, q.first
	if q.first != 0 {
		sh.slots[q.first].prev = it.self
	} else {
		q.last = it.self
	}
	q.first = it.self
	q.bytes += it.weight()
}

func (sh *shard) pull(it *item) {
	if it.queue == inNone {
		return
	}
	q := sh.queueOf(it.queue)
	if it.prev != 0 {
		sh.slots[it.prev].next = it.next
	} else {
		q.first = it.next
	}
	if it.next != 0 {
		sh.slots[it.next].prev = it.prev
	} else {
		q.last = it.prev
	}
	q.bytes -= it.weight()
	it.queue, it.next, it.prev = inNone, 0, 0
}

// windowShare is the window's part of what a shard holds.
const windowShare = 16

func (sh *shard) wide() bool {
	return sh.window.last != 0 && sh.window.bytes*windowShare > sh.window.bytes+sh.main.bytes
}

// touch says that it was asked for.
func (sh *shard) touch(it *item) {
	it.state |= isHit | isAsked
	sh.sketch.add(it.hash)
}

// settleIn lets what is new into the main queue while there is room for all.
func (sh *shard) settleIn() {
	for sh.wide() && sh.window.first != sh.window.last {
		it := sh.slots[sh.window.last]
		sh.pull(it)
		it.state &^= isHit
		sh.push(it, inMain)
	}
}

// victim is the item of the main queue to go next: the oldest that wasn't asked for
// lately. What was gets another round. nil: the queue is empty.
func (sh *shard) victim(now int64) *item {
	for range 64 {
		if sh.main.last == 0 {
			return nil
		}
		it := sh.slots[sh.main.last]
		if !it.is(isHit) || it.useless(now) {
			return it
		}
		sh.pull(it)
		it.state &^= isHit
		sh.push(it, inMain)
	}
	return sh.slots[sh.main.last]
}

// worst is the item of the shard to go next; nil: it has none in memory.
func (sh *shard) worst(now int64) *item {
	v := sh.victim(now)
	if !sh.wide() && v != nil {
		return v
	}
	if sh.window.last == 0 {
		return v
	}
	c := sh.slots[sh.window.last]
	if v == nil || c.useless(now) || v != nil && !v.useless(now) && !sh.better(c, v, now) {
		return c
	}
	sh.pull(c)
	c.state &^= isHit
	sh.push(c, inMain)
	return v
}

// better reports whether c is worth more than those that would have to go for it.
func (sh *shard) better(c, v *item, now int64) bool {
	worth, room := sh.sketch.count(c.hash), int64(0)
	for range 64 { // a large one stands against many
		if !v.useless(now) {
			worth -= sh.sketch.count(v.hash)
		}
		if room += v.weight(); worth <= 0 {
			return worth == 0 && rand.IntN(128) == 0 // nobody keeps a place for ever by a counter that others share
		}
		if room >= c.weight() || v.prev == 0 {
			return true
		}
		v = sh.slots[v.prev]
	}
	return false
}

// sketch counts, about, how often hashes were seen lately (a count-min sketch with
// counters of four bits).
type sketch struct {
	words []uint64
	added int
}

const leastWords = 64

// fit makes it large enough for n items. Counts stay.
func (s *sketch) fit(n int) {
	size := max(len(s.words), leastWords)
	for size < n {
		size *= 2
	}
	if size == len(s.words) {
		return
	}
	words := make([]uint64, size)
	for i := range words {
		if len(s.words) > 0 {
			words[i] = s.words[i&(len(s.words)-1)]
		}
	}
	s.words = words
}

// at is the word and shift of the counter of row i.
func (s *sketch) at(hash uint32, i int) (word, shift uint32) {
	h := (uint64(hash) + uint64(i)<<32) * 0x9E3779B97F4A7C15
	h ^= h >> 29
	h *= 0xBF58476D1CE4E5B9
	return uint32(h>>32) & uint32(len(s.words)-1), uint32(h&3)<<2 + uint32(i)<<4
}

func (s *sketch) add(hash uint32) {
	if len(s.words) == 0 {
		s.fit(leastWords)
	}
	for i := range 4 {
		w, shift := s.at(hash, i)
		if s.words[w]>>shift&15 < 15 {
			s.words[w] += 1 << shift
		}
	}
	if s.added++; s.added >= 10*len(s.words) {
		s.added /= 2
		for i := range s.words {
			s.words[i] = s.words[i] >> 1 & 0x7777777777777777
		}
	}
}

func (s *sketch) count(hash uint32) int {
	if len(s.words) == 0 {
		return 0
	}
	least := 15
	for i := range 4 {
		w, shift := s.at(hash, i)
		least = min(least, int(s.words[w]>>shift&15))
	}
	return least
}
