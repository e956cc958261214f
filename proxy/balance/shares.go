package balance

// shares finds the endpoint that owns a point of the line 0 ≤ point < total,
// on which each endpoint has a stretch as long as its weight.
type shares struct {
	ends  []uint64 // nil: all weights are equal, and 1 on the line
	total uint64
}

func newShares(set []Endpoint) shares {
	g, equal := 0, true
	for i := range set {
		w := max(set[i].Weight, 1)
		g = gcd(g, w)
		equal = equal && w == max(set[0].Weight, 1)
	}
	if equal {
		return shares{total: uint64(len(set))}
	}
	s := shares{ends: make([]uint64, len(set))}
	for i := range set {
		s.total += uint64(max(set[i].Weight, 1) / g)
		s.ends[i] = s.total
	}
	return s
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (s *shares) at(point uint64) int {
	if s.ends == nil {
		return int(point)
	}
	lo, hi := 0, len(s.ends)-1
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s.ends[mid] > point {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}
