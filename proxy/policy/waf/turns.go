package waf

import (
	"hash/maphash"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// patience is how long a request waits for its turn to be inspected; less is
	// that of an address which has had more than its portion. Turns go to whoever
	// has waited longest, so that what waits longer comes first.
	patience, less = time.Second, 50 * time.Millisecond
	// mostWaiting bounds how many wait, for each that is being inspected. Such
	// addresses have half of the places.
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
// a portion waits less long before it is refused. While nobody has to wait, an
// address may use all.
type turns struct {
	free    chan struct{}
	waiting atomic.Int32
	seed    maphash.Seed
	begin   time.Time
	paid    [accounts]atomic.Int64 // until when an account has used its share, since begin
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
	why, most, wait := crowd, mostWaiting*cap(t.free), patience
	if t.ahead(client) > credit {
		why, most, wait = greedy, most/2, less
	}
	if int(t.waiting.Add(1)) > most {
		t.waiting.Add(-1)
		return why
	}
	defer t.waiting.Add(-1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case t.free <- struct{}{}:
		return granted
	case <-timer.C:
		return why
	}
}

// leave ends a turn that took so long.
func (t *turns) leave(client netip.Addr, took time.Duration) {
	<-t.free
	a := t.account(client)
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
	return time.Duration(t.account(client).Load()) - time.Since(t.begin)
}

// account is that of an address, with IPv6 of its /64, which is what one client
// has.
func (t *turns) account(client netip.Addr) *atomic.Int64 {
	client = client.Unmap().WithZone("")
	if client.Is6() {
		p, _ := client.Prefix(64) // an IPv6 address has one
		client = p.Addr()
	}
	return &t.paid[maphash.Comparable(t.seed, client)%accounts]
}
