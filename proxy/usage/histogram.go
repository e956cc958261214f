package usage

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"slices"
	"time"
)

// Histogram counts latencies in buckets whose width grows with them, so that
// each is known to 0.8 %. It is sparse: empty buckets take no room. The zero
// value is empty.
//
// A latency counts in units of 128 ns. Below 128 units each has a bucket of its
// own; above, each octave has 64. What is told of a bucket is its middle: off by
// at most half a bucket, which is 1/128 of the latency, or 64 ns for those below
// 16 µs.
type Histogram struct {
	index []uint16 // ascending
	count []uint64 // of the bucket of the same place
}

const (
	unitBits = 7 // 128 ns
	subBits  = 6 // 64 buckets in an octave
	// maxIndex is the bucket of the longest time.Duration.
	maxIndex = (63-unitBits-subBits-1)<<subBits + 2<<subBits - 1
)

// bucketOf is the bucket of a latency.
func bucketOf(d time.Duration) uint16 {
	u := uint64(max(d, 0)) >> unitBits
	e := max(bits.Len64(u)-subBits-1, 0)
	return uint16(e<<subBits + int(u>>e))
}

// lowOf is the least latency of a bucket; that of the next one is its end.
func lowOf(i uint16) time.Duration {
	e := max(int(i)>>subBits-1, 0)
	u := uint64(int(i)-e<<subBits) << e
	return time.Duration(min(u, math.MaxInt64>>unitBits) << unitBits)
}

// middleOf is what stands for the latencies of a bucket.
func middleOf(i uint16) time.Duration { return lowOf(i) + (lowOf(i+1)-lowOf(i))/2 }

// Record counts a latency.
func (h *Histogram) Record(d time.Duration) { h.add(bucketOf(d), 1) }

func (h *Histogram) add(i uint16, n uint64) {
	at, found := slices.BinarySearch(h.index, i)
	if !found {
		h.index, h.count = slices.Insert(h.index, at, i), slices.Insert(h.count, at, 0)
	}
	h.count[at] += n
}

// Merge adds what o has counted.
func (h *Histogram) Merge(o *Histogram) {
	if len(h.index) == 0 {
		h.index, h.count = append(h.index, o.index...), append(h.count, o.count...)
		return
	}
	for j, i := range o.index {
		h.add(i, o.count[j])
	}
}

// Reset empties it and keeps its memory.
func (h *Histogram) Reset() { h.index, h.count = h.index[:0], h.count[:0] }

// spare is how many buckets an empty histogram has room for at most, beside what it
// has just used.
const spare = 16

// shrink empties it, and keeps as much memory as it is likely to need again: a
// hundred thousand of them, each with what it needed most, would be gigabytes.
func (h *Histogram) shrink() {
	if cap(h.index) > spare+4*len(h.index) {
		*h = Histogram{}
		return
	}
	h.Reset()
}

// Count is how many latencies it has counted.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.count {
		n += c
	}
	return n
}

// Quantile is the latency that a part q of those counted don't exceed; 0 for none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.Count())))
	var n uint64
	for j, c := range h.count {
		if n += c; n >= max(rank, 1) {
			return middleOf(h.index[j])
		}
	}
	return 0
}

// Sum is what all latencies are together, about.
func (h *Histogram) Sum() time.Duration {
	var sum float64
	for j, c := range h.count {
		sum += float64(c) * float64(middleOf(h.index[j]))
	}
	return time.Duration(min(sum, math.MaxInt64/2))
}

// Coarse calls f with its buckets at four to an octave, those that hold
// something: their upper bound, and how many are in them.
func (h *Histogram) Coarse(f func(below time.Duration, n uint64)) {
	const step = 1 << subBits / 4
	for j := 0; j < len(h.index); {
		part, n := h.index[j]/step, uint64(0)
		for ; j < len(h.index) && h.index[j]/step == part; j++ {
			n += h.count[j]
		}
		f(lowOf((part+1)*step), n)
	}
}

// Append appends its encoding: how many buckets, and for each how far it is
// from the one before and its count, as varints. Nothing stands for an empty
// one, and two encodings in a row for both together: a database can add them up
// without knowing what they are.
func (h *Histogram) Append(b []byte) []byte {
	if len(h.index) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(h.index)))
	last := uint16(0)
	for j, i := range h.index {
		b = binary.AppendUvarint(b, uint64(i-last))
		b = binary.AppendUvarint(b, h.count[j])
		last = i
	}
	return b
}

var errEncoding = errors.New("not the encoding of a histogram")

// Decode adds what was encoded. On an error some of it may have been added.
func (h *Histogram) Decode(b []byte) error {
	next := func() (v uint64, ok bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	for len(b) > 0 {
		n, ok := next()
		if !ok || n == 0 || n > maxIndex+1 {
			return errEncoding
		}
		var i uint64
		for j := range n {
			d, ok := next()
			c, ok2 := next()
			if i += d; !ok || !ok2 || j > 0 && d == 0 || d > maxIndex || i > maxIndex || c == 0 || c > math.MaxInt64 {
				return errEncoding
			}
			h.add(uint16(i), c)
		}
	}
	return nil
}
