package ratelimit

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/key"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// requestShared is Request with limits that count on all nodes together. The
// node's own are looked at first, so that who is refused there costs no
// question; they are taken of last, when the fleet has admitted the request. In
// between another request may have taken the rest: then what the fleet gave is
// lost, and nobody has got more.
func (p *Policy) requestShared(x *exchange.Exchange) (policy.Verdict, error) {
	grants := make([]grant, len(p.limits))
	asks := p.askAll(x, grants)
	now, own, fleet := p.store.now(), grants[:p.local], grants[p.local:]
	for i := range fleet {
		fleet[i].ok = true
	}
	p.store.peek(now, own)
	if refused := refusal(own); refused >= 0 {
		return p.decide(x, now, grants, refused)
	}
	err := p.fleet.Take(asks)
	now = p.store.now() // that took a while
	if err != nil {
		return p.alone(x, now, grants)
	}
	for i := range fleet {
		fleet[i].ok, fleet[i].full = asks[i].OK, now+moment(asks[i].Full)
	}
	refused := refusal(fleet)
	if refused >= 0 {
		return p.decide(x, now, grants, p.local+refused)
	}
	if p.local > 0 {
		refused = p.store.take(now, own)
	}
	return p.decide(x, now, grants, refused)
}

// refusal is the first of the grants that keeps a request out; -1: none.
func refusal(grants []grant) int {
	for i := range grants {
		if !grants[i].ok && !grants[i].dry {
			return i
		}
	}
	return -1
}

// askAll fills the grants of x, and returns what is asked of the fleet for the
// last of them.
func (p *Policy) askAll(x *exchange.Exchange, grants []grant) []shared.Ask {
	for i := range grants[:p.local] {
		p.limits[i].ask(p.store, x, &grants[i])
	}
	asks := make([]shared.Ask, len(grants)-p.local)
	for i := range asks {
		l, g := &p.limits[p.local+i], &grants[p.local+i]
		r := l.want(x, g)
		if d := shared.Round(r.Interval); d != r.Interval {
			rounded := *r
			rounded.Interval = d
			g.own, r = rounded, &rounded
		}
		name := l.bucket(x, r)
		g.key = mix(sum(p.store.seed, name[:]))
		asks[i] = shared.Ask{
			Key: "rate:" + base64.RawURLEncoding.EncodeToString(name[:]), Cost: g.cost, Dry: l.dry,
			Interval: r.Interval, Burst: r.Burst, Chunk: l.fleet.Chunk,
		}
		if asks[i].Chunk == 0 {
			asks[i].Chunk = max(1, r.Burst/10)
		}
	}
	return asks
}

// bucket names the bucket of x in the same way on all nodes. Nobody can find two
// clients with one name.
func (l *limit) bucket(x *exchange.Exchange, r *exchange.Rate) [16]byte {
	b := append(make([]byte, 0, 256), l.shareID...)
	b = binary.BigEndian.AppendUint64(append(b, 0), uint64(r.Interval))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Burst))
	v, ok, err := l.by.Value(x)
	if err != nil {
		l.count.errors.Add(1)
	}
	switch {
	case l.by.Kind == key.Route:
	case ok:
		b = append(append(b, 1), v...)
	default:
		a := key.Address(x)
		b = append(append(b, 2), a[:]...)
	}
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// alone decides about x without the fleet.
func (p *Policy) alone(x *exchange.Exchange, now moment, grants []grant) (policy.Verdict, error) {
	for i := p.local; i < len(grants); i++ {
		l, g := &p.limits[i], &grants[i]
		switch l.fleet.WhenDown {
		case "deny":
			if !l.dry {
				return policy.Done, l.unavailable
			}
			g.cost = 0
		case "allow":
			g.cost = 0
		default:
			g.own = part(g.limit(), &l.fleet)
			g.cost = min(g.cost, g.own.Burst)
		}
	}
	return p.decide(x, now, grants, p.store.take(now, grants))
}

// part is a node's own part of a rate.
func part(r *exchange.Rate, s *shared.Sharing) exchange.Rate {
	return exchange.Rate{Count: s.Part(r.Count), Per: r.Per, Burst: s.Part(r.Burst), Interval: time.Duration(float64(r.Interval)/s.Share) + 1}
}

// peek fills the grants of x with how things are, and takes nothing. It reports
// whether the fleet could be asked: otherwise its limits look unused.
func (p *Policy) peek(x *exchange.Exchange, now moment, grants []grant) (known bool) {
	asks := p.askAll(x, grants)
	p.store.peek(now, grants[:p.local])
	for i := range asks {
		asks[i].Cost = 0
	}
	if known = len(asks) == 0 || p.fleet.Take(asks) == nil; !known {
		clear(asks)
	}
	for i := range asks {
		g := &grants[p.local+i]
		g.full = now + moment(asks[i].Full)
		_, g.ok = admit(g.full, now, g.limit(), g.cost)
	}
	return known
}
