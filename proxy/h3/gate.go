package h3

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
)

// gate counts a front's connections from their first packet to their end, and
// refuses those beyond its bounds.
type gate struct {
	max, maxPerIP, maxHalfOpen int

	// The places that connections of other protocols share; nil: there are none.
	claim   func(netip.Addr) bool
	release func(netip.Addr)

	refused atomic.Uint64 // for being too many
	failed  atomic.Uint64 // handshakes

	mu       sync.Mutex // guards what follows
	total    int
	halfOpen int                  // handshakes in progress
	perIP    map[netip.Addr]count // bounded by max
}

// count is what one client has.
type count struct{ conns, halfOpen int }

// errTooMany refuses a connection.
var errTooMany = errors.New("too many connections")

func (g *gate) init(maxConns, maxPerIP, maxHalfOpen int) {
	g.max, g.maxPerIP, g.maxHalfOpen = maxConns, maxPerIP, maxHalfOpen
	g.perIP = make(map[netip.Addr]count)
}

// network is what counts as one client: an address, or with IPv6 a /64, which
// is what one customer has.
func network(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return ip
	}
	return netip.PrefixFrom(ip, 64).Masked().Addr()
}

// doubtful reports whether the next client must prove its address, by a Retry
// (RFC 9000, 8.1.2). Somebody who begins handshakes from forged addresses would
// otherwise cost us a key exchange and a certificate for each packet; or, with
// the forged address always the same, use up the places of whose it is: so a
// single address is doubted at a quarter of what all may have.
func (g *gate) doubtful(ip netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.halfOpen >= g.maxHalfOpen || g.perIP[network(ip)].halfOpen >= max(1, g.maxHalfOpen/4)
}

// visitor is one connection's place. The handshake counts until it is settled.
type visitor struct {
	port       *Port
	front      *Front
	shard      uint32
	network    netip.Addr
	settled    bool        // guarded by gate.mu
	serverName string      // from the ClientHello
	early      atomic.Bool // early data is taken
	place      atomic.Int32
}

// The states of a visitor's shared place.
const (
	placeNone = iota
	placeTaken
	placeGone // the connection has ended
)

// admit counts a client in, before its handshake.
func (g *gate) admit(ip netip.Addr) (*visitor, error) {
	v := &visitor{network: network(ip)}
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.perIP[v.network]
	if g.total >= g.max || c.conns >= g.maxPerIP {
		g.refused.Add(1)
		return nil, errTooMany
	}
	g.total++
	g.halfOpen++
	g.perIP[v.network] = count{c.conns + 1, c.halfOpen + 1}
	return v, nil
}

// settle says that the handshake is done. It reports false when the client has
// too many connections, those of other protocols counted: before, its address
// wasn't proven, and somebody else could have used up its places.
func (g *gate) settle(v *visitor) bool {
	g.mu.Lock()
	g.settleLocked(v)
	g.mu.Unlock()
	if g.claim == nil {
		return true
	}
	if !g.claim(v.network) {
		g.refused.Add(1)
		return false
	}
	if !v.place.CompareAndSwap(placeNone, placeTaken) {
		g.release(v.network)
	}
	return true
}

func (g *gate) settleLocked(v *visitor) {
	if v.settled {
		return
	}
	v.settled = true
	g.halfOpen--
	c := g.perIP[v.network]
	c.halfOpen--
	g.perIP[v.network] = c
}

// leave says that the connection has ended.
func (g *gate) leave(v *visitor) {
	if v.place.Swap(placeGone) == placeTaken {
		g.release(v.network)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !v.settled {
		g.failed.Add(1)
		g.settleLocked(v)
	}
	g.total--
	c := g.perIP[v.network]
	if c.conns--; c.conns <= 0 {
		delete(g.perIP, v.network)
		return
	}
	g.perIP[v.network] = c
}
