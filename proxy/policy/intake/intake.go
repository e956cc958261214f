// Package intake takes request bodies into memory, for policies that look at
// them before anything is forwarded. What waits there is bounded: for all
// together, for each address, and in time. What is in a body isn't its matter. It
// starts no goroutine.
package intake

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// first is how much of a body is read at first; most are shorter.
	first = 8 << 10
	// free is the memory of a body that nobody counts.
	free = 16 << 10
	// all is the memory of the bodies that are being taken, and portion the part
	// of it that several of one address (IPv6: a /64) may have.
	all, portion = 64 << 20, 8
	// A body that is counted has to come: after slack, at this rate.
	slack, bytesPerSecond = 10 * time.Second, 8 << 10
)

// Room is the memory for bodies. It belongs to the gateway. A nil Room has no
// bounds.
type Room struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	held    int64
	clients map[netip.Addr]int64
}

// NewRoom returns an empty room.
func NewRoom() *Room { return &Room{now: time.Now, clients: map[netip.Addr]int64{}} }

// Place is what a body takes of a room.
type Place struct {
	room   *Room
	client netip.Addr
	n      int64
}

// Take reads the request's body, up to most bytes, and leaves one that gives the
// same bytes again. whole tells that b is all of it; the trailers have come then.
// The memory grows with what has come, not with what a Content-Length promises.
// b must not be changed. The place is to be given up when nothing more is made
// of b. An error is a fault; what was read goes on then, too.
//
// A client that waits for 100 (Continue) gets it.
func (r *Room) Take(x *exchange.Exchange, most int64) (b []byte, whole bool, p Place, err error) {
	if x.RequestBody == nil || x.RequestLength == 0 {
		return nil, true, p, nil
	}
	if b, ok := x.Taken(); ok && int64(len(b)) <= most {
		return b, true, p, nil // another policy has taken it
	}
	if n := x.RequestLength; n > 0 {
		most = min(most, n)
	}
	p = Place{room: r, client: of(x.ClientIP)}
	b, whole, err = p.read(x.RequestBody, int(most)+1) // the one more tells that there is more
	x.Unread(b, whole)
	if err != nil {
		p.Leave()
		return nil, false, Place{}, err
	}
	if int64(len(b)) > most {
		return b[:most], false, p, nil
	}
	return b, whole, p, nil
}

func (p *Place) read(body exchange.Body, limit int) (b []byte, whole bool, err error) {
	b = make([]byte, 0, min(first, limit))
	var begin time.Time
	for {
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, len(b) < limit, nil
		case err != nil:
			return b, false, brokenOff(err)
		case len(b) == limit:
			return b, false, nil
		}
		if len(b) == cap(b) {
			size := min(2*cap(b), limit)
			if err := p.grow(size); err != nil {
				return b, false, err
			}
			b = append(make([]byte, 0, size), b...)
		}
		if p.n > 0 {
			if err := p.pace(&begin, len(b)); err != nil {
				return b, false, err
			}
		}
	}
}

// brokenOff is the fault of a body that ended too early.
func brokenOff(err error) error {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f
	}
	return &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: fmt.Errorf("request body: %w", err)}
}

// pace refuses a body that keeps memory and doesn't come.
func (p *Place) pace(begin *time.Time, have int) error {
	now := p.room.now()
	if begin.IsZero() {
		*begin = now
	}
	if now.Sub(*begin) > slack+time.Duration(have)*time.Second/bytesPerSecond {
		return exchange.NewFault(exchange.FromClient, exchange.ClientTimeout, "the request's body comes too slowly to be kept")
	}
	return nil
}

// grow makes the place one of size bytes.
func (p *Place) grow(size int) error {
	r := p.room
	if r == nil || size <= free {
		return nil
	}
	more := int64(size) - p.n
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.clients[p.client]+more > all/portion && r.clients[p.client] > p.n: // one alone may be larger
		return exchange.NewFault(exchange.FromPolicy, exchange.RateLimited, "one address has more than %d MiB of bodies on their way", all/portion>>20)
	case r.held+more > all:
		return exchange.NewFault(exchange.FromPolicy, exchange.Overloaded, "more than %d MiB of bodies are on their way", all>>20)
	}
	r.held += more
	r.clients[p.client] += more
	p.n = int64(size)
	return nil
}

// Leave gives the place up.
func (p *Place) Leave() {
	if p.n == 0 {
		return
	}
	r := p.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held -= p.n
	if r.clients[p.client] -= p.n; r.clients[p.client] == 0 {
		delete(r.clients, p.client)
	}
	p.n = 0
}

// Held is how many bytes are taken.
func (r *Room) Held() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}

// of is who an address is counted as.
func of(a netip.Addr) netip.Addr {
	if a = a.Unmap(); !a.Is6() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil { // it has 64 bits
		return a
	}
	return p.Addr()
}
