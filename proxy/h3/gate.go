package h3

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// gate counts connections from their first packet to their end, and refuses
// those beyond its bounds.
type gate struct {
	max, maxPerIP, maxHalfOpen int

	halfOpen atomic.Int64

	mu    sync.Mutex
	total int
	perIP map[netip.Addr]int // bounded by max
}

func (g *gate) init(maxConns, maxPerIP, maxHalfOpen int) {
	g.max, g.maxPerIP, g.maxHalfOpen = maxConns, maxPerIP, maxHalfOpen
	g.perIP = make(map[netip.Addr]int)
}

// doubtful reports whether the next client must prove its address. One that
// holds handshakes open from forged addresses would otherwise cost us a key
// exchange and a certificate for each packet.
func (g *gate) doubtful(net.Addr) bool {
	return g.halfOpen.Load() >= int64(g.maxHalfOpen)
}

// ticket is one connection's place. Its handshake is counted until settled.
type ticket struct{ settled atomic.Bool }

type ticketKey struct{}

// admit runs before the handshake. The context ends with the connection.
func (g *gate) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	ip := addrPort(info.RemoteAddr).Addr()
	g.mu.Lock()
	if g.total >= g.max || g.perIP[ip] >= g.maxPerIP {
		g.mu.Unlock()
		return nil, errTooMany
	}
	g.total++
	g.perIP[ip]++
	g.mu.Unlock()
	g.halfOpen.Add(1)
	t := new(ticket)
	context.AfterFunc(ctx, func() {
		g.settle(t)
		g.leave(ip)
	})
	return context.WithValue(ctx, ticketKey{}, t), nil
}

func (g *gate) leave(ip netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.perIP[ip]--; g.perIP[ip] <= 0 {
		delete(g.perIP, ip)
	}
}

func (g *gate) settle(t *ticket) {
	if t.settled.CompareAndSwap(false, true) {
		g.halfOpen.Add(-1)
	}
}

// opened says that the handshake of the connection with that context is done.
func (g *gate) opened(ctx context.Context) {
	if t, ok := ctx.Value(ticketKey{}).(*ticket); ok {
		g.settle(t)
	}
}
