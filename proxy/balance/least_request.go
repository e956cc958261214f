package balance

// leastRequest takes the endpoint with the fewest requests in flight for its
// weight: of all in a small set, of a few random ones in a large set. The first
// candidate is drawn by weight and wins a tie, so that weights hold without
// load, too.
type leastRequest struct{ rand func() uint64 }

func (a *leastRequest) Build(set []Endpoint) Picker {
	return &leastRequestPicker{randomPicker{set: set, shares: newShares(set), rand: a.rand}}
}

// scanAll is the size up to which all endpoints are looked at: their cache lines
// cost less than the draw of random ones.
const scanAll = 8

type leastRequestPicker struct{ randomPicker }

func (p *leastRequestPicker) Pick(key uint64, now int64, tried []*Stats) int {
	best := p.randomPicker.Pick(key, now, tried)
	if best < 0 || len(p.set) == 1 {
		return best
	}
	load := p.load(best, now)
	if len(p.set) > scanAll {
		if i := p.randomPicker.Pick(key, now, tried); i >= 0 && p.load(i, now) < load {
			return i
		}
		return best
	}
	for i := range p.set {
		if i == best || !p.set[i].Stats.usable(tried) {
			continue
		}
		if l := p.load(i, now); l < load {
			best, load = i, l
		}
	}
	return best
}

func (p *leastRequestPicker) load(i int, now int64) float64 {
	s := p.set[i].Stats
	return float64(s.Pending()) / s.Weight(now)
}
