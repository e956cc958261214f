package balance

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// decay is the time in which a latency loses all but 1/e of its influence.
	decay = 10 * time.Second
	// A failure counts as a slow answer: an endpoint that fails fast would look
	// like the best one otherwise, and attract all requests. The first counts as
	// penaltyFactor times the latency so far, at least minPenalty, so that one
	// lost request costs an endpoint some seconds of traffic rather than a
	// minute; each further one counts double, up to penalty.
	penaltyFactor = 20
	minPenalty    = 250 * time.Millisecond
	penalty       = 5 * time.Second
	// maxPenalty bounds what a Retry-After may ask for.
	maxPenalty = 300 * time.Second
	// coldAnswers is how many answers it takes until a latency is believed: the
	// first ones tell of connections being made and caches being filled. Until
	// then it is the lowest of them, and picks don't go by it.
	coldAnswers = 4
	// probeShare bounds what it may cost to find out whether a slow endpoint
	// still is: a hundredth of the time.
	probeShare = 100
	// rampFloor is the share with which a slow start begins.
	rampFloor = 0.1
	// tickBits makes a time a tick: 262 µs, so that 32 bits last 13 days.
	tickBits = 18
)

// Stats is what picks go by: load, latency and weight of one endpoint. It
// belongs to the endpoint and outlives sets. Times are nanoseconds on any scale
// that starts at 1 or later, the same for all methods.
type Stats struct {
	pending   atomic.Int32
	limit     atomic.Int32  // 0: none
	weight    atomic.Int32  // 0 counts as 1
	latency   atomic.Uint64 // nanoseconds as float32, tick; 0: not known
	answers   atomic.Int32  // taken in, up to coldAnswers
	rampStart atomic.Int64  // 0: no slow start
	rampTime  atomic.Int64
}

// SetWeight sets the configured weight.
func (s *Stats) SetWeight(w int) { s.weight.Store(int32(max(w, 1))) }

// SetLimit bounds the requests in flight.
func (s *Stats) SetLimit(n int) { s.limit.Store(int32(min(n, math.MaxInt32))) }

// Acquire counts one more request in flight, unless the limit is reached.
func (s *Stats) Acquire() bool {
	n := s.pending.Add(1)
	if limit := s.limit.Load(); limit > 0 && n > limit {
		s.pending.Add(-1)
		return false
	}
	return true
}

// Release counts one less.
func (s *Stats) Release() { s.pending.Add(-1) }

// Pending is the number of requests in flight.
func (s *Stats) Pending() int { return int(s.pending.Load()) }

// Full reports whether the limit is reached.
func (s *Stats) Full() bool {
	limit := s.limit.Load()
	return limit > 0 && s.pending.Load() >= limit
}

func (s *Stats) usable(tried []*Stats) bool {
	for _, t := range tried {
		if t == s {
			return false
		}
	}
	return !s.Full()
}

// Ramp starts a slow start: the weight grows from a tenth to all of it.
func (s *Stats) Ramp(now int64, d time.Duration) {
	s.rampTime.Store(int64(d))
	s.rampStart.Store(now)
}

// ramp is the share of the weight that counts now.
func (s *Stats) ramp(now int64) float64 {
	start := s.rampStart.Load()
	if start == 0 {
		return 1
	}
	all := s.rampTime.Load()
	if now-start >= all {
		return 1
	}
	return max(rampFloor, float64(now-start)/float64(all))
}

// Weight is the weight that counts now.
func (s *Stats) Weight(now int64) float64 {
	return float64(max(s.weight.Load(), 1)) * s.ramp(now)
}

// Observe takes in the latency of an answer. Above the average it counts at
// once, below it slowly: peak EWMA. Of the first answers the lowest counts.
func (s *Stats) Observe(rtt time.Duration, now int64) {
	sample := max(float64(rtt), 1)
	cold := s.cold() && s.answers.Add(1) <= coldAnswers
	for {
		old := s.latency.Load()
		value := sample
		if old != 0 {
			was := stored(old)
			if cold {
				value = min(was, sample)
			} else if sample < was {
				// A tick at least, or else a busy endpoint's answers would
				// count for nothing.
				keep := fade(max(age(old, now), 1<<tickBits))
				value = was*keep + sample*(1-keep)
			}
		}
		if s.latency.CompareAndSwap(old, pack(value, now)) {
			return
		}
	}
}

// Fail takes in a failure: as a slow answer, slower still when the endpoint
// asked for a pause (Retry-After).
func (s *Stats) Fail(elapsed, pause time.Duration, now int64) {
	if s.cold() {
		s.answers.Store(coldAnswers) // a failure isn't a matter of warming up
	}
	sample := float64(max(minPenalty, elapsed, min(pause, maxPenalty)))
	for {
		old := s.latency.Load()
		value := sample
		if old != 0 {
			was := decayed(old, now)
			factor := 2.0
			if was < float64(minPenalty) {
				factor = penaltyFactor
			}
			value = max(value, was, min(was*factor, float64(penalty)))
		}
		if s.latency.CompareAndSwap(old, pack(value, now)) {
			return
		}
	}
}

// Forget makes the latency unknown, for an endpoint that comes back.
func (s *Stats) Forget() {
	s.latency.Store(0)
	s.answers.Store(0)
}

// cold reports whether so few answers are in that the latency says little.
func (s *Stats) cold() bool { return s.answers.Load() < coldAnswers }

// Latency is the average, decayed until now, so that an endpoint that gets no
// requests is tried again by and by; ok is false when it isn't known.
func (s *Stats) Latency(now int64) (d time.Duration, ok bool) {
	v := s.latency.Load()
	if v == 0 {
		return 0, false
	}
	return time.Duration(decayed(v, now)), true
}

func pack(value float64, now int64) uint64 {
	return uint64(math.Float32bits(float32(value)))<<32 | uint64(uint32(now>>tickBits))
}

func stored(v uint64) float64 { return float64(math.Float32frombits(uint32(v >> 32))) }

// age is the time since v was stored, 0 when another core's clock was ahead.
func age(v uint64, now int64) int64 {
	ticks := int32(uint32(now>>tickBits) - uint32(v))
	return int64(max(ticks, 0)) << tickBits
}

func decayed(v uint64, now int64) float64 {
	return stored(v) * fade(age(v, now))
}

// fade is about e^(-age/decay), within 4 % for the first 40 s: 1/(1+y+y²/2)^16
// of a 16th takes a quarter of the time of math.Exp, twice in each pick.
func fade(age int64) float64 {
	y := float64(age) * (1.0 / 16 / float64(decay))
	f := 1 + y*(1+y/2)
	f *= f
	f *= f
	f *= f
	return 1 / (f * f)
}
