// Package balance picks one endpoint of many: peak EWMA, round robin, least
// request, random and consistent hash, each in its own file.
//
// It is pure: an algorithm sees an immutable set of endpoints that may be
// picked, and the Stats of each. Which endpoints these are (health, locality,
// ejection) is the caller's business, and so is sending. It imports nothing of
// ours, starts no goroutine, takes no lock and allocates nothing in Pick.
package balance

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
)

// Endpoint is a member of a set.
type Endpoint struct {
	Stats  *Stats
	Weight int    // its share beside the others, 1 or more
	Key    uint64 // stable hash of what names it, for consistent hashing
}

// Algorithm makes pickers. What has to last from one set to the next (where
// round robin stands) is the algorithm's.
type Algorithm interface {
	// Build returns the picker for a set, which must not change any more.
	Build(set []Endpoint) Picker
}

// Picker picks from one set. It is safe for concurrent use.
type Picker interface {
	// Pick returns the index of an endpoint that has room and isn't in tried,
	// or -1 when there is none. key is what consistent hashing goes by; now is
	// the time on the scale that Stats are fed with.
	Pick(key uint64, now int64, tried []*Stats) int
}

// Deps is what algorithms need from outside.
type Deps struct {
	Rand     func() uint64 // nil: math/rand/v2's
	InFlight func() int64  // requests in flight at all endpoints; only hash asks
}

// New returns the algorithm of that name in the configuration.
func New(name string, d Deps) (Algorithm, error) {
	if d.Rand == nil {
		d.Rand = rand.Uint64
	}
	switch name {
	case "ewma":
		return &ewma{rand: d.Rand}, nil
	case "round_robin":
		return &roundRobin{rand: d.Rand}, nil
	case "least_request":
		return &leastRequest{rand: d.Rand}, nil
	case "random":
		return &random{rand: d.Rand}, nil
	case "hash":
		if d.InFlight == nil {
			return nil, fmt.Errorf("balance %q needs the number of requests in flight", name)
		}
		return &hash{inFlight: d.InFlight}, nil
	default:
		return nil, fmt.Errorf("balance %q isn't known", name)
	}
}

// below maps 64 random bits to 0 ≤ i < n (Lemire's multiplication, whose bias
// of n/2⁶⁴ nobody sees).
func below(r uint64, n int) int {
	hi, _ := bits.Mul64(r, uint64(n))
	return int(hi)
}

// two maps 64 random bits to two different numbers below n, n ≥ 2.
func two(r uint64, n int) (int, int) {
	i := int((r & 0xffffffff) * uint64(n) >> 32)
	j := int((r >> 32) * uint64(n-1) >> 32)
	if j >= i {
		j++
	}
	return i, j
}

// next returns the first usable endpoint at or behind from, going round, other
// than skip; -1 when there is none.
func next(set []Endpoint, from, skip int, tried []*Stats) int {
	for i := from; i < len(set); i++ {
		if i != skip && set[i].Stats.usable(tried) {
			return i
		}
	}
	for i := range from {
		if i != skip && set[i].Stats.usable(tried) {
			return i
		}
	}
	return -1
}

// unit maps 64 random bits to 0 ≤ f < 1.
func unit(r uint64) float64 { return float64(r>>11) / (1 << 53) }
