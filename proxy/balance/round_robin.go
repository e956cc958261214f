package balance

import "sync/atomic"

// roundRobin goes round the endpoints, each as often in a round as its weight
// says and spread evenly over it: weights 2, 1, 1 give a b a c, not a a b c.
//
// A round is a walk over the line of shares in steps of total/φ, made coprime
// to total. So it meets each point once, a stretch's visits lie about equally
// far apart (three-gap theorem), and the only state is a counter.
type roundRobin struct {
	rand func() uint64
	turn atomic.Uint64
}

func (a *roundRobin) Build(set []Endpoint) Picker {
	p := &roundRobinPicker{set: set, shares: newShares(set), step: 1, turn: &a.turn, rand: a.rand}
	if p.shares.ends != nil {
		p.step = max(uint64(float64(p.shares.total)*0.6180339887498949), 1)
		for gcd(int(p.shares.total), int(p.step)) != 1 {
			p.step++
		}
	}
	return p
}

type roundRobinPicker struct {
	set    []Endpoint
	shares shares
	step   uint64
	turn   *atomic.Uint64
	rand   func() uint64
}

func (p *roundRobinPicker) Pick(_ uint64, now int64, tried []*Stats) int {
	if len(p.set) == 0 {
		return -1
	}
	last := 0
	for range maxDraws {
		turn := p.turn.Add(1) - 1
		last = p.shares.at(turn % p.shares.total * p.step % p.shares.total)
		s := p.set[last].Stats
		if s.usable(tried) && starts(s, now, p.rand) {
			return last
		}
	}
	return next(p.set, last, -1, tried)
}

// maxDraws bounds how often a draw that falls on an endpoint without room, or
// in slow start, is repeated before any usable one will do.
const maxDraws = 8

// starts reports whether an endpoint takes a request that is its share: always,
// but for the part that its slow start holds back.
func starts(s *Stats, now int64, rand func() uint64) bool {
	if s.rampStart.Load() == 0 {
		return true
	}
	f := s.ramp(now)
	return f >= 1 || unit(rand()) < f
}
