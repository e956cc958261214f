package balance

import (
	"math"
	"slices"
)

const (
	// maxPoints bounds the ring of a large set; below it, an endpoint has up to
	// pointsEach points, which keeps shares within about 5 %.
	maxPoints  = 1 << 16
	pointsEach = 512
	minPoints  = 4
	// loadFactor is how far above the average an endpoint's load may go until
	// its keys go to the next one on the ring (consistent hashing with bounded
	// loads, Mirrokni et al. 2016).
	loadFactor = 1.25
	// maxWalk bounds the walk along the ring; then any usable endpoint will do.
	maxWalk = 256
)

// hash sends a key to the same endpoint as long as that has room: a ring on
// which endpoints have points, as many as their weight says. An endpoint's
// points are a fixed sequence of which a larger set takes fewer, so that when
// endpoints come and go only the keys of the points that do so move.
type hash struct{ inFlight func() int64 }

func (a *hash) Build(set []Endpoint) Picker {
	p := &hashPicker{set: set, inFlight: a.inFlight}
	for i := range set {
		p.weights += float64(max(set[i].Weight, 1))
	}
	if len(set) == 0 {
		return p
	}
	each := float64(min(max(maxPoints/len(set), minPoints), pointsEach))
	mean := p.weights / float64(len(set))
	p.ring = make([]point, 0, int(each+1)*len(set))
	for i := range set {
		n := max(int(math.Round(each*float64(max(set[i].Weight, 1))/mean)), 1)
		h := set[i].Key
		for range n {
			h += 0x9e3779b97f4a7c15 // splitmix64: a sequence of well-mixed points
			p.ring = append(p.ring, point{at: Mix(h), endpoint: uint32(i)})
		}
	}
	slices.SortFunc(p.ring, func(a, b point) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		default:
			return int(a.endpoint) - int(b.endpoint)
		}
	})
	return p
}

type point struct {
	at       uint64
	endpoint uint32
}

type hashPicker struct {
	set      []Endpoint
	ring     []point
	weights  float64
	inFlight func() int64
}

func (p *hashPicker) Pick(key uint64, now int64, tried []*Stats) int {
	if len(p.ring) == 0 {
		return -1
	}
	at := p.find(Mix(key))
	bound := loadFactor * float64(p.inFlight()+1) / p.weights
	for k := range min(maxWalk, len(p.ring)) {
		i := int(p.ring[(at+k)%len(p.ring)].endpoint)
		s := p.set[i].Stats
		if !s.usable(tried) || float64(s.Pending()) >= math.Ceil(bound*float64(max(p.set[i].Weight, 1))) {
			continue
		}
		// In slow start an endpoint gets the part of its keys that a second
		// hash picks, always the same one, and growing.
		if f := s.ramp(now); f < 1 && unit(Mix(key^p.set[i].Key)) >= f {
			continue
		}
		return i
	}
	return next(p.set, int(p.ring[at].endpoint), -1, tried)
}

// find returns the first point at or behind h on the ring.
func (p *hashPicker) find(h uint64) int {
	lo, hi := 0, len(p.ring)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if p.ring[mid].at < h {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(p.ring) {
		return 0
	}
	return lo
}

// Mix spreads the bits of a hash (the finaliser of splitmix64).
func Mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Hash is a hash of s, the same in each process: instances of the gateway agree
// on who serves a key (FNV-1a, mixed).
func Hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return Mix(h)
}
