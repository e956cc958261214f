package balance

// random draws an endpoint, each with a chance as large as its weight.
type random struct{ rand func() uint64 }

func (a *random) Build(set []Endpoint) Picker {
	return &randomPicker{set: set, shares: newShares(set), rand: a.rand}
}

type randomPicker struct {
	set    []Endpoint
	shares shares
	rand   func() uint64
}

func (p *randomPicker) Pick(_ uint64, now int64, tried []*Stats) int {
	if len(p.set) == 0 {
		return -1
	}
	last := 0
	for range maxDraws {
		last = p.shares.at(uint64(below(p.rand(), int(p.shares.total))))
		s := p.set[last].Stats
		if s.usable(tried) && starts(s, now, p.rand) {
			return last
		}
	}
	return next(p.set, last, -1, tried)
}
