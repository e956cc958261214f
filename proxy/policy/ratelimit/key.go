package ratelimit

import (
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/key"
)

// Other clients than those of the limit's own kind: who has no consumer, no such
// field, is counted by its address, apart from the others.
const apart = 0x9e3779b97f4a7c15

// place is the hash of the client of x in the limit id. It allocates nothing, but
// for what an expression does.
func (l *limit) place(s *Store, id uint64, x *exchange.Exchange) uint64 {
	switch l.by.Kind {
	case key.Route:
		return mix(id)
	case key.ClientIP:
		return mix(id + s.address(x))
	}
	v, ok, err := l.by.Value(x)
	if err != nil {
		l.count.errors.Add(1)
	}
	if !ok {
		return mix(id + apart + s.address(x))
	}
	return mix(id + s.hash(v))
}

// address is the hash of the client's address.
func (s *Store) address(x *exchange.Exchange) uint64 {
	b := key.Address(x)
	return sum(s.seed, b[:])
}
