package gradient

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A bucket is an eighth of a doubling wide, from 8 µs to two minutes.
const (
	shift   = 13
	octaves = 24
	parts   = 8
)

// histogram counts latencies. Adding is one atomic operation; the rest is for
// one goroutine at a time.
type histogram [octaves * parts]atomic.Uint32

func (h *histogram) add(d time.Duration) { h[index(d)].Add(1) }

func index(d time.Duration) int {
	v := uint64(max(d, 0)) >> (shift - 3) // 8 is the first bucket's
	if v < parts {
		return 0
	}
	octave := bits.Len64(v) - 4
	if octave >= octaves {
		return octaves*parts - 1
	}
	return octave*parts + int(v>>octave) - parts
}

// lower is where bucket i begins, in nanoseconds.
func lower(i int) float64 {
	return float64(uint64(parts+i%parts) << (i / parts) << (shift - 3))
}

func (h *histogram) count() (n uint64) {
	for i := range h {
		n += uint64(h[i].Load())
	}
	return n
}

// median is that of n latencies, in nanoseconds.
func (h *histogram) median(n uint64) float64 {
	left := float64(n) / 2
	for i := range h {
		c := float64(h[i].Load())
		if c > 0 && c >= left {
			return lower(i) + (lower(i+1)-lower(i))*left/c
		}
		left -= c
	}
	return lower(len(h)) // more was counted meanwhile
}

func (h *histogram) clear() {
	for i := range h {
		if h[i].Load() != 0 {
			h[i].Store(0)
		}
	}
}
