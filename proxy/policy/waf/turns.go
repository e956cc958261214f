package waf

import (
	"hash/maphash"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// patience is how long a request waits for its turn to be inspected.
	patience = time.Second
	// look is how often one of an address that has had more than its portion
	// looks whether others wait.
	look = 20 * time.Millisecond
	// mostWaiting bounds how many wait, for each that is being inspected; and
	// how many of such addresses.
	mostWaiting = 128
	// credit is how much of its share one address may have used ahead.
	credit = time.Second
	// portion of all turns is what one address has, while others wait.
	portion = 4
	// accounts are a fixed number; addresses that meet in one share it.
	accounts = 1 << 13
)

// turns bounds what inspecting takes from everything else. Inspecting a request
// can take as long as forwarding a thousand, and a client decides how long: so
// only so many are inspected at once, the others wait, and who has used more than
// a portion is refused when others wait for it. While nobody has to wait, an
// address may use all.
type turns struct {
	free     chan struct{}
	waiting  atomic.Int32
	yielding atomic.Int32
	seed     maphash.Seed
	begin    time.Time
	list     [accounts]account
}

// account is what an address has used.
type account struct {
	paid atomic.Int64 // until when it has used its share of the time, since begin
	held atomic.Int64 // bytes of memory
}

func newTurns() *turns {
	// A quarter of the processors is left to requests that aren't inspected.
	return &turns{free: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)*3/4)), seed: maphash.MakeSeed(), begin: time.Now()}
}

// refusal is why there is no turn.
type refusal uint8

const (
	granted refusal = iota
	crowd           // too many wait, or it took too long
	greedy          // the address has had more than its portion
)

// take waits for a turn for an address.
func (t *turns) take(client netip.Addr) refusal {
	select {
	case t.free <- struct{}{}:
		return granted
	default:
	}
	if t.ahead(client) > credit {
		return t.yield()
	}
	if int(t.waiting.Add(1)) > mostWaiting*cap(t.free) {
		t.waiting.Add(-1)
		return crowd
	}
	defer t.waiting.Add(-1)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case t.free <- struct{}{}:
		return granted
	case <-timer.C:
		return crowd
	}
}

// yield waits for a turn that goes to others as long as they wait for one. Turns
// go to whoever has waited longest: so it has to leave the queue for them.
func (t *turns) yield() refusal {
	if int(t.yielding.Add(1)) > mostWaiting*cap(t.free) {
		t.yielding.Add(-1)
		return greedy
	}
	defer t.yielding.Add(-1)
	timer := time.NewTimer(look)
	defer timer.Stop()
	for range patience / look {
		select {
		case t.free <- struct{}{}:
			return granted
		case <-timer.C:
			if t.waiting.Load() > 0 {
				return greedy
			}
			timer.Reset(look)
		}
	}
	return crowd
}

// leave ends a turn that took so long.
func (t *turns) leave(client netip.Addr, took time.Duration) {
	<-t.free
	a := &t.account(client).paid
	cost := int64(took) * portion / int64(cap(t.free))
	for {
		was := a.Load()
		if a.CompareAndSwap(was, max(was, int64(time.Since(t.begin)))+cost) {
			return
		}
	}
}

// ahead is how much an address has used of what is still to come.
func (t *turns) ahead(client netip.Addr) time.Duration {
	return time.Duration(t.account(client).paid.Load()) - time.Since(t.begin)
}

// account is that of an address, with IPv6 of its /64, which is what one client
// has.
func (t *turns) account(client netip.Addr) *account {
	client = client.Unmap().WithZone("")
	if client.Is6() {
		p, _ := client.Prefix(64) // an IPv6 address has one
		client = p.Addr()
	}
	return &t.list[maphash.Comparable(t.seed, client)%accounts]
}
