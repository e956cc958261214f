package usage

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramError(t *testing.T) {
	check := func(d time.Duration) {
		t.Helper()
		i := bucketOf(d)
		if low, end := lowOf(i), lowOf(i+1); d < low || d >= end && i < maxIndex {
			t.Fatalf("%d is in bucket %d, from %d to %d", d, i, low, end)
		}
		off := math.Abs(float64(middleOf(i) - d))
		if off > 0.01*float64(d) && off > 64 {
			t.Fatalf("%v is told as %v", d, middleOf(i))
		}
	}
	for d := time.Duration(0); d < 1<<18; d++ {
		check(d)
	}
	for e := range 63 {
		for _, d := range []time.Duration{1<<e - 1, 1 << e, 1<<e + 1} {
			check(d)
		}
	}
	for range 200_000 {
		check(time.Duration(rand.Int64() >> rand.IntN(63)))
	}
	if i := bucketOf(math.MaxInt64); i != maxIndex {
		t.Errorf("the longest duration is in bucket %d, want %d", i, maxIndex)
	}
	if i := bucketOf(-time.Second); i != 0 {
		t.Errorf("a negative duration is in bucket %d", i)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var all []time.Duration
	var whole Histogram
	parts := make([]Histogram, 7)
	for i := range 100_000 {
		d := time.Duration(math.Exp(rand.NormFloat64()*2) * float64(5*time.Millisecond))
		all = append(all, d)
		whole.Record(d)
		parts[i%len(parts)].Record(d)
	}
	var merged, decoded Histogram
	var encoded []byte
	for i := range parts {
		merged.Merge(&parts[i])
		encoded = parts[i].Append(encoded)
	}
	if err := decoded.Decode(encoded); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	var sum float64
	for _, d := range all {
		sum += float64(d)
	}
	for _, h := range []*Histogram{&whole, &merged, &decoded} {
		if h.Count() != 100_000 {
			t.Errorf("%d latencies", h.Count())
		}
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			want := all[max(int(math.Ceil(q*float64(len(all)))), 1)-1]
			if got := h.Quantile(q); math.Abs(float64(got-want)) > 0.01*float64(want)+64 {
				t.Errorf("quantile %v is %v, want %v", q, got, want)
			}
		}
		if got := float64(h.Sum()); math.Abs(got-sum) > 0.01*sum {
			t.Errorf("the sum is %v, want %v", got, sum)
		}
		n, last := uint64(0), time.Duration(0)
		h.Coarse(func(below time.Duration, in uint64) {
			want := 0
			for _, d := range all {
				if d >= below {
					break
				}
				want++
			}
			if n += in; int(n) != want || below <= last {
				t.Errorf("%d below %v, want %d", n, below, want)
			}
			last = below
		})
	}
	t.Logf("%d latencies in %d buckets, %d bytes", whole.Count(), len(whole.index), len(whole.Append(nil)))
}

func TestHistogramEmpty(t *testing.T) {
	var h Histogram
	if b := h.Append(nil); len(b) != 0 || h.Decode(b) != nil || h.Quantile(0.5) != 0 || h.Sum() != 0 || h.Count() != 0 {
		t.Error("an empty histogram isn't")
	}
}

func TestHistogramDecodeErrors(t *testing.T) {
	for _, b := range [][]byte{
		{0}, {1}, {1, 5}, {1, 5, 0}, {2, 5, 1, 0, 1}, {1, 0xff, 0xff, 3, 1}, {2, 0x80, 0x19, 1, 0x80, 0x19, 1},
		{0x80}, {1, 5, 1, 7}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
	} {
		var h Histogram
		if err := h.Decode(b); err == nil {
			t.Errorf("Decode(%v): no error", b)
		}
	}
}

func FuzzHistogram(f *testing.F) {
	f.Add([]byte{1, 5, 1}, []byte{2, 5, 1, 9, 0x80, 1})
	f.Add([]byte{}, []byte{1, 0, 1, 1, 0, 1})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var h Histogram
		if h.Decode(a) != nil {
			return
		}
		var again Histogram
		if err := again.Decode(h.Append(nil)); err != nil || !slices.Equal(again.index, h.index) || !slices.Equal(again.count, h.count) {
			t.Fatalf("%v is read as %v, %v and written as %v", a, h, err, again)
		}
		if !slices.IsSorted(h.index) || len(h.index) > maxIndex+1 {
			t.Fatalf("%v is read as %v", a, h.index)
		}
		h.Quantile(0.5)
		h.Sum()
		var other, both Histogram
		if other.Decode(b) != nil {
			return
		}
		if err := both.Decode(append(slices.Clone(a), b...)); err != nil {
			t.Fatalf("%v and %v: %v", a, b, err)
		}
		if h.Merge(&other); !slices.Equal(both.index, h.index) || !slices.Equal(both.count, h.count) {
			t.Fatalf("%v and %v are %v, merged %v", a, b, both, h)
		}
	})
}
