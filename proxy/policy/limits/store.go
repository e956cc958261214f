package limits

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Store counts what is in flight, by route. It belongs to the gateway: a reload
// changes limits, not how much there is. Its memory is bounded by the requests
// in flight, which the listeners bound.
type Store struct {
	mu     sync.Mutex // guards what follows
	routes map[string]*flight
}

// flight is what is in flight for one route.
type flight struct {
	requests    atomic.Int64
	addresses   tally[client]
	consumers   tally[caller]
	connections connections
}

func (s *Store) of(route string) *flight {
	if s == nil { // to check a configuration
		return &flight{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.routes[route]
	if f == nil {
		f = &flight{}
		seed := maphash.MakeSeed()
		f.addresses.seed, f.consumers.seed, f.connections.seed = seed, seed, seed
		if s.routes == nil {
			s.routes = map[string]*flight{}
		}
		s.routes[route] = f
	}
	return f
}

// Retain forgets the routes that aren't among these. What is still in flight
// for one keeps its own counts.
func (s *Store) Retain(routes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.routes {
		if !routes[name] {
			delete(s.routes, name)
		}
	}
}

// client is an address; with IPv6 its /64, which is what one client has.
type client struct {
	net uint64
	v6  bool
}

func clientOf(x *exchange.Exchange) client {
	a := x.ClientIP.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		return client{net: uint64(binary.BigEndian.Uint32(b[:]))}
	case a.Is6():
		b := a.As16()
		return client{binary.BigEndian.Uint64(b[:8]), true}
	}
	return client{}
}

// caller is a consumer or, without a name, an address.
type caller struct {
	name string // the configuration's: it may be kept
	at   client
}

func callerOf(x *exchange.Exchange) caller {
	if x.Consumer != nil {
		return caller{name: x.Consumer.Name}
	}
	return caller{at: clientOf(x)}
}

const shards = 16

// large is how many keys a map must have had to be thrown away when it is empty:
// maps keep the room that they once had.
const large = 1024

// tally counts by key; what is at 0 isn't there.
type tally[K comparable] struct {
	seed maphash.Seed
	list [shards]struct {
		mu   sync.Mutex // guards what follows
		n    map[K]int
		most int
		_    [32]byte // so that two don't share a cache line
	}
}

// enter adds one to a key, unless that makes it more than most.
func (t *tally[K]) enter(k K, most int) bool {
	s := &t.list[maphash.Comparable(t.seed, k)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n[k]
	if n >= most {
		return false
	}
	if s.n == nil {
		s.n = map[K]int{}
	}
	s.n[k] = n + 1
	s.most = max(s.most, len(s.n))
	return true
}

// leave takes one from a key.
func (t *tally[K]) leave(k K) {
	s := &t.list[maphash.Comparable(t.seed, k)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n[k]--; s.n[k] > 0 {
		return
	}
	delete(s.n, k)
	if len(s.n) == 0 && s.most > large {
		s.n, s.most = nil, 0
	}
}

// connection is one of a client.
type connection struct {
	client
	conn *exchange.Conn
}

// connections counts the connections of each client that have something in
// flight: how much on each, and how many.
type connections struct {
	seed maphash.Seed
	list [shards]struct {
		mu      sync.Mutex // guards what follows
		flight  map[connection]int
		clients map[client]int
		most    int
		_       [24]byte
	}
}

// enter notes a request on a connection, unless that makes it one connection
// too many.
func (c *connections) enter(k connection, most int) bool {
	s := &c.list[maphash.Comparable(c.seed, k.client)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.flight[k]
	if n == 0 && s.clients[k.client] >= most {
		return false
	}
	if s.flight == nil {
		s.flight, s.clients = map[connection]int{}, map[client]int{}
	}
	if s.flight[k] = n + 1; n == 0 {
		s.clients[k.client]++
	}
	s.most = max(s.most, len(s.flight))
	return true
}

// leave forgets a request.
func (c *connections) leave(k connection) {
	s := &c.list[maphash.Comparable(c.seed, k.client)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight[k]--; s.flight[k] > 0 {
		return
	}
	delete(s.flight, k)
	if s.clients[k.client]--; s.clients[k.client] == 0 {
		delete(s.clients, k.client)
	}
	if len(s.flight) == 0 && s.most > large {
		s.flight, s.clients, s.most = nil, nil, 0
	}
}
