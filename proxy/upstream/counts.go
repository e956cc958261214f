package upstream

import (
	"sync"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const shards = 8

// counts are the pool's totals, in one cache line for each of a few groups of
// connections, merged when they are read.
type counts struct {
	shard [shards]struct {
		requests, tries, failures atomic.Uint64
		_                         [40]byte
	}
	overloaded, noInstance, overBudget atomic.Uint64 // off the usual path
}

func shardOf(x *exchange.Exchange) int {
	if x.Conn == nil {
		return 0
	}
	return int(x.Conn.Shard % shards)
}

func (c *counts) requests() (n uint64) {
	for i := range c.shard {
		n += c.shard[i].requests.Load()
	}
	return n
}

// budget bounds further tries to a share of the requests of the last ten
// seconds; some are always allowed. Only failures come here.
type budget struct {
	mu     sync.Mutex
	second int64
	slots  [budgetSeconds]struct {
		requests uint64 // total at the slot's start
		retries  int
	}
	seen bool
}

const (
	budgetSeconds = 10
	budgetFloor   = 30 // three a second: dozens of requests may meet an instance that has just died before it is ejected
)

// roll opens the slots of the seconds that have begun, with the total of
// requests so far.
func (b *budget) roll(now int64, total uint64) {
	b.mu.Lock()
	b.advance(now, total)
	b.mu.Unlock()
}

func (b *budget) advance(now int64, total uint64) {
	second := now / 1e9
	if !b.seen {
		b.seen, b.second = true, second
		// Nothing is known of the time before: all requests count.
		return
	}
	if second-b.second > budgetSeconds {
		b.second = second - budgetSeconds
	}
	for b.second < second {
		b.second++
		slot := &b.slots[b.second%budgetSeconds]
		slot.requests, slot.retries = total, 0
	}
}

// spend takes one further try, if there is one left.
func (b *budget) spend(now int64, total uint64, share float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now, total)
	if b.spent() >= b.allowed(total, share) {
		return false
	}
	b.slots[b.second%budgetSeconds].retries++
	return true
}

func (b *budget) spent() (n int) {
	for i := range b.slots {
		n += b.slots[i].retries
	}
	return n
}

func (b *budget) allowed(total uint64, share float64) int {
	oldest := &b.slots[(b.second+1)%budgetSeconds]
	return max(budgetFloor, int(share*float64(total-oldest.requests)))
}

// left is how many further tries are allowed and were made.
func (b *budget) left(now int64, total uint64, share float64) (allowed, spent int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now, total)
	return b.allowed(total, share), b.spent()
}
