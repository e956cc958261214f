package balance

// ewma takes the better of two random endpoints: the one with the lower
// latency × (requests in flight + 1) / weight. Two choices are nearly as good
// as the best of all, and don't send everybody to the same best one.
type ewma struct{ rand func() uint64 }

func (a *ewma) Build(set []Endpoint) Picker { return &ewmaPicker{set: set, rand: a.rand} }

type ewmaPicker struct {
	set  []Endpoint
	rand func() uint64
}

func (p *ewmaPicker) Pick(_ uint64, now int64, tried []*Stats) int {
	n := len(p.set)
	if n < 2 {
		return next(p.set, 0, -1, tried)
	}
	i, j := two(p.rand(), n)
	if i = next(p.set, i, -1, tried); i < 0 {
		return -1
	}
	if j = next(p.set, j, i, tried); j < 0 {
		return i
	}
	if p.better(p.set[j].Stats, p.set[i].Stats, now) {
		return j
	}
	return i
}

// better reports whether a is to be taken rather than b: whether it costs less,
// or is due to be tried again. An endpoint that isn't known well yet is taken to
// be as fast as the other one: it gets requests from the start, as many as its
// slow start allows, and the first answers tell more.
func (p *ewmaPicker) better(a, b *Stats, now int64) bool {
	costA := float64(a.Pending()+1) / a.Weight(now)
	costB := float64(b.Pending()+1) / b.Weight(now)
	if a.cold() || b.cold() {
		return costA < costB
	}
	va, vb := a.latency.Load(), b.latency.Load()
	costA *= decayed(va, now)
	costB *= decayed(vb, now)
	if costA < costB {
		return !due(b, vb, va, now)
	}
	return due(a, va, vb, now)
}

// due reports whether an endpoint that lost against another is to be tried all
// the same. Nothing but an answer shows that it has become fast again, and
// waiting until the decay makes it look so takes, after one slow answer of a
// fast endpoint, half a minute without a request. So one request goes there
// after a hundred times the latency that it had: however slow it turns out to
// be, clients have lost a hundredth of the time at most.
func due(s *Stats, mine, other uint64, now int64) bool {
	return s.Pending() == 0 && float64(age(mine, now)-age(other, now)) > probeShare*stored(mine)
}
