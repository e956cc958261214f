package upstream

import (
	"errors"
	"io"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/balance"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// lease is what an exchange holds: a slot at an instance and a connection. It
// carries the exchange's tries, too. Leases are pooled.
type lease struct {
	pool  *Pool
	s     *settings
	in    *instance // whose slot is held
	conn  *conn
	key   uint64
	keyed bool // key is the request's, not a random one
	count bool // counted in Pool.inFlight

	tried   []*balance.Stats
	retries int
	stale   bool // the free try after a stale connection was had
	patient int  // tries that the service's patience has given

	body     replay
	wake     chan struct{}
	response exchange.Body
}

var _ exchange.Lease = (*lease)(nil)

func (p *Pool) newLease(x *exchange.Exchange, s *settings) *lease {
	l, _ := p.g.leases.Get().(*lease)
	if l == nil {
		l = &lease{tried: make([]*balance.Stats, 0, 12)}
		l.body.g = p.g
	}
	l.pool, l.s = p, s
	if s.hashBy.kind != "" {
		l.count = true
		p.inFlight.Add(1)
		l.key, l.keyed = s.hashBy.key(x)
	}
	if x.RequestBody != nil {
		l.body.start(x.RequestBody, x.RequestLength, x.Idempotent() && x.Upgrade == "")
		x.RequestBody = &l.body
	}
	return l
}

// vacate gives the slot back.
func (l *lease) vacate() {
	if l.in == nil {
		return
	}
	l.pool.free(l.in)
	l.in = nil
}

// free gives a slot at in back.
func (p *Pool) free(in *instance) {
	in.stats.Release()
	p.queue.wake()
}

// hangUp gives the connection back, to be used again when it can be and keep
// says so.
func (l *lease) hangUp(keep bool) {
	c := l.conn
	if c == nil {
		return
	}
	l.conn = nil
	now := l.pool.g.d.Sweeper.Now()
	switch {
	case c.many != nil:
		c.leave(now)
	case keep && c.one.Reusable() && !l.pool.stopped.Load() && c.plan == l.pool.settings.Load().way(c.to):
		c.to.put(c, now)
	default:
		c.shut()
	}
}

// Release ends the exchange: the connection is kept if it can be, the slot
// becomes free, and a response that broke off counts against the instance.
func (l *lease) Release(x *exchange.Exchange, err error) {
	x.Lease = nil
	if err != nil && l.in != nil && ofUpstream(err) {
		p := l.pool
		l.in.failed(&l.s.outlier, 0, 0, p.g.now(), "a response broke off")
		p.counts.shard[shardOf(x)].failures.Add(1)
	}
	if l.response != nil {
		// What is left of it isn't wanted; how that ends shows in Reusable.
		_ = l.response.Close()
		l.response = nil
	}
	l.hangUp(true)
	l.end(x)
}

// ofUpstream reports whether the backend caused err, which Front.Respond gave.
func ofUpstream(err error) bool {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f.Source == exchange.FromUpstream
	}
	return errors.Is(err, io.ErrUnexpectedEOF)
}

// end gives back everything but the connection, and l itself.
func (l *lease) end(x *exchange.Exchange) {
	l.vacate()
	if l.count {
		l.pool.inFlight.Add(-1)
	}
	if l.body.inner != nil && x.RequestBody == exchange.Body(&l.body) {
		x.RequestBody = l.body.inner
	}
	if !l.body.idle() {
		return // somebody may still be reading: leave it to the collector
	}
	g := l.pool.g
	l.body.reset()
	l.body.seat.in = nil
	clear(l.tried)
	l.pool, l.s, l.in, l.conn, l.response = nil, nil, nil, nil, nil
	l.tried, l.retries, l.stale, l.patient, l.count, l.key, l.keyed = l.tried[:0], 0, false, 0, false, 0, false
	g.leases.Put(l)
}

// pick takes a slot at an instance, or returns nil when none has room.
func (l *lease) pick(x *exchange.Exchange, v *view, now int64) *instance {
	if v.byName != nil && len(l.tried) == 0 {
		if in := v.byName[cookie(x, v.settings.cfg.Sticky.Cookie)]; in != nil && in.stats.Acquire() {
			l.in = in
			return in
		}
	}
	// Between pick and Acquire others may take the room; then pick again.
	for range 4 {
		in := v.pick(l.key, now, l.tried)
		if in == nil {
			return nil
		}
		if in.stats.Acquire() {
			l.in = in
			return in
		}
	}
	return nil
}

// key is the hash of what tells requests apart.
func (h *hashBy) key(x *exchange.Exchange) (uint64, bool) {
	var value string
	switch h.kind {
	case "client_ip":
		b := x.ClientIP.As16()
		return hashBytes(b[:]), x.ClientIP.IsValid()
	case "consumer":
		if x.Consumer != nil {
			value = x.Consumer.Name
		}
	case "header":
		if h.id != exchange.Other {
			value = x.Request.Get(h.id)
		} else {
			value, _ = x.Request.Find(h.name)
		}
	case "cookie":
		value = cookie(x, h.name)
	case "query":
		value = query(x.Target.Query, h.name)
	}
	return balance.Hash(value), value != ""
}

func hashBytes(b []byte) uint64 {
	h := uint64(0)
	for _, c := range b {
		h = h*31 + uint64(c)
	}
	return balance.Mix(h)
}

// cookie returns the value of the request's cookie of that name (RFC 6265,
// 5.4), "" when there is none.
func cookie(x *exchange.Exchange, name string) string {
	if !x.Request.Has(exchange.Cookie) {
		return ""
	}
	for i := range x.Request.Len() {
		if x.Request.ID(i) != exchange.Cookie {
			continue
		}
		_, list := x.Request.Field(i)
		for len(list) > 0 {
			var pair string
			pair, list, _ = strings.Cut(list, ";")
			pair = strings.TrimLeft(pair, " \t")
			if len(pair) > len(name) && pair[len(name)] == '=' && pair[:len(name)] == name {
				return strings.Trim(pair[len(name)+1:], " \t\"")
			}
		}
	}
	return ""
}

// query returns the value of a query's parameter as it stands there.
func query(q, name string) string {
	for len(q) > 0 {
		var pair string
		pair, q, _ = strings.Cut(q, "&")
		if len(pair) > len(name) && pair[len(name)] == '=' && pair[:len(name)] == name {
			return pair[len(name)+1:]
		}
	}
	return ""
}
