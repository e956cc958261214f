package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const second = int64(time.Second)

func testSet(weights ...int) []Endpoint {
	set := make([]Endpoint, len(weights))
	for i, w := range weights {
		s := &Stats{}
		s.SetWeight(w)
		set[i] = Endpoint{Stats: s, Weight: w, Key: Hash(fmt.Sprintf("10.0.%d.%d:80", i/256, i%256))}
	}
	return set
}

func same(n int) []int {
	w := make([]int, n)
	for i := range w {
		w[i] = 1
	}
	return w
}

func testRand() func() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64 }

func mustNew(t testing.TB, name string, set []Endpoint) Algorithm {
	t.Helper()
	a, err := New(name, Deps{Rand: testRand(), InFlight: func() (n int64) {
		for i := range set {
			n += int64(set[i].Stats.Pending())
		}
		return n
	}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var algorithms = []string{"ewma", "round_robin", "least_request", "random", "hash"}

func TestNewUnknown(t *testing.T) {
	if _, err := New("fastest", Deps{}); err == nil || err.Error() != `balance "fastest" isn't known` {
		t.Errorf("New(fastest) = %v", err)
	}
}

// TestShares checks that weights hold without load.
func TestShares(t *testing.T) {
	const picks = 40000
	tests := []struct {
		name    string
		weights []int
		slack   float64 // relative
	}{
		{"ewma", []int{1, 1, 1}, 0.05},
		{"round_robin", []int{1, 1, 1}, 0.0001},
		{"round_robin", []int{5, 1, 1}, 0.001},
		{"round_robin", []int{10, 20, 30, 40}, 0.001},
		{"round_robin", []int{128, 127, 3, 1}, 0.01},
		{"least_request", []int{1, 1, 1}, 0.05},
		{"least_request", []int{5, 1, 1}, 0.05},
		{"random", []int{1, 1, 1}, 0.05},
		{"random", []int{5, 2, 1}, 0.05},
		{"hash", []int{1, 1, 1}, 0.15},
		{"hash", []int{4, 1, 1}, 0.2},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %v", tt.name, tt.weights), func(t *testing.T) {
			set := testSet(tt.weights...)
			if tt.name == "hash" { // the bound would even it out: no load, so none
				set[0].Stats.SetLimit(0)
			}
			p := mustNew(t, tt.name, set).Build(set)
			got, all := make([]int, len(set)), 0
			for _, w := range tt.weights {
				all += w
			}
			for i := range picks {
				got[p.Pick(uint64(i), 1, nil)]++
			}
			for i, w := range tt.weights {
				want := float64(picks) * float64(w) / float64(all)
				if math.Abs(float64(got[i])-want) > tt.slack*want+1 {
					t.Errorf("instance %d of weight %d got %d, want %.0f ± %.0f %%", i, w, got[i], want, 100*tt.slack)
				}
			}
		})
	}
}

func TestRoundRobinIsSmooth(t *testing.T) {
	set := testSet(5, 1, 1)
	a := mustNew(t, "round_robin", set)
	p := a.Build(set)
	gap, longest := 0, 0
	for range 700 {
		if p.Pick(0, 1, nil) == 0 {
			gap = 0
		} else {
			gap++
			longest = max(longest, gap)
		}
	}
	if longest > 1 {
		t.Errorf("the instance with 5 of 7 shares waited for %d others, want at most 1", longest)
	}
	// The turn goes on in the next set.
	first := a.Build(set[:2]).Pick(0, 1, nil)
	if second := a.Build(set[:2]).Pick(0, 1, nil); second == first && set[first].Weight == 1 {
		t.Errorf("instance %d got two turns in a row after an update", first)
	}
}

func TestExcludedAndFull(t *testing.T) {
	for _, name := range algorithms {
		t.Run(name, func(t *testing.T) {
			set := testSet(3, 1, 1, 1)
			p := mustNew(t, name, set).Build(set)
			tried := []*Stats{set[0].Stats, set[2].Stats}
			for i := range 200 {
				if got := p.Pick(uint64(i), 1, tried); got != 1 && got != 3 {
					t.Fatalf("Pick = %d, which was tried", got)
				}
			}
			set[1].Stats.SetLimit(1)
			if !set[1].Stats.Acquire() {
				t.Fatal("Acquire = false below the limit")
			}
			if set[1].Stats.Acquire() {
				t.Fatal("Acquire = true at the limit")
			}
			for i := range 200 {
				if got := p.Pick(uint64(i), 1, tried); got != 3 {
					t.Fatalf("Pick = %d, want 3, the only one with room", got)
				}
			}
			tried = append(tried, set[3].Stats)
			if got := p.Pick(7, 1, tried); got != -1 {
				t.Errorf("Pick = %d with nothing left, want -1", got)
			}
			if got := mustNew(t, name, nil).Build(nil).Pick(1, 1, nil); got != -1 {
				t.Errorf("Pick of none = %d, want -1", got)
			}
		})
	}
}

// run lets each instance answer after its own latency, at most load at a time,
// and returns how many each served.
func run(p Picker, set []Endpoint, latency []time.Duration, fails []bool, picks int) []int {
	got := make([]int, len(set))
	now := second
	for i := range picks {
		k := p.Pick(uint64(i), now, nil)
		got[k]++
		if fails[k] {
			set[k].Stats.Fail(latency[k], 0, now)
		} else {
			set[k].Stats.Observe(latency[k], now)
		}
		now += int64(time.Millisecond)
	}
	return got
}

func TestEWMAPrefersFast(t *testing.T) {
	set := testSet(1, 1, 1)
	got := run(mustNew(t, "ewma", set).Build(set), set, []time.Duration{time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond}, make([]bool, 3), 3000)
	if got[0] < 1800 {
		t.Errorf("the fast instance got %d of 3000, want about two thirds (it isn't among the two candidates in a third)", got[0])
	}
}

func TestEWMAAvoidsFastFailures(t *testing.T) {
	set := testSet(1, 1, 1)
	latency := []time.Duration{100 * time.Microsecond, 20 * time.Millisecond, 20 * time.Millisecond}
	got := run(mustNew(t, "ewma", set).Build(set), set, latency, []bool{true, false, false}, 5000)
	if got[0] > 50 {
		t.Errorf("the instance that fails fast got %d of 5000, want hardly any", got[0])
	}
}

func TestEWMATriesAgain(t *testing.T) {
	set := testSet(1, 1)
	p := mustNew(t, "ewma", set).Build(set)
	set[0].Stats.Fail(0, 0, second)
	set[1].Stats.Observe(10*time.Millisecond, second)
	now, found := second, false
	for range 120 {
		now += second
		if p.Pick(0, now, nil) == 0 {
			found = true
			break
		}
		set[1].Stats.Observe(10*time.Millisecond, now)
	}
	if !found {
		t.Error("an instance that failed once got no request within two minutes")
	}
}

func TestLatency(t *testing.T) {
	var s Stats
	if _, ok := s.Latency(second); ok {
		t.Error("a latency is known before the first answer")
	}
	for _, d := range []time.Duration{80, 300, 10, 20} { // of the first answers the lowest
		s.Observe(d*time.Millisecond, second)
	}
	about(t, &s, second, 10*time.Millisecond)
	s.Observe(100*time.Millisecond, second) // a peak counts at once
	about(t, &s, second, 100*time.Millisecond)
	s.Observe(10*time.Millisecond, 11*second) // below, by 1-1/e in ten seconds
	about(t, &s, 11*second, 43*time.Millisecond)
	about(t, &s, 21*second, 16*time.Millisecond) // decays by itself
	s.Fail(time.Millisecond, 0, 21*second)
	about(t, &s, 21*second, 320*time.Millisecond) // twenty times 16 ms
	for range 6 {
		s.Fail(time.Millisecond, 0, 21*second)
	}
	about(t, &s, 21*second, 5*time.Second)
	s.Fail(time.Millisecond, time.Hour, 21*second)
	about(t, &s, 21*second, 300*time.Second)
	s.Fail(time.Millisecond, 0, 22*second) // never better by failing
	if d, _ := s.Latency(22 * second); d < 200*time.Second {
		t.Errorf("a failure brought the latency down to %s", d)
	}
	s.Forget()
	if _, ok := s.Latency(22 * second); ok {
		t.Error("a latency is known after Forget")
	}
	// A busy instance's many answers within one tick count, too.
	s.Observe(time.Second, second)
	for range 200_000 {
		s.Observe(time.Millisecond, second)
	}
	if d, _ := s.Latency(second); d > 50*time.Millisecond {
		t.Errorf("latency = %s after 200,000 fast answers", d)
	}
}

func about(t *testing.T, s *Stats, now int64, want time.Duration) {
	t.Helper()
	got, ok := s.Latency(now)
	if !ok || math.Abs(float64(got-want)) > 0.02*float64(want) {
		t.Errorf("latency = %s %v, want about %s", got, ok, want)
	}
}

func TestSlowStart(t *testing.T) {
	var s Stats
	s.SetWeight(10)
	s.Ramp(second, 10*time.Second)
	for _, tt := range []struct {
		after time.Duration
		want  float64
	}{{0, 1}, {500 * time.Millisecond, 1}, {2 * time.Second, 2}, {5 * time.Second, 5}, {10 * time.Second, 10}, {time.Hour, 10}} {
		if got := s.Weight(second + int64(tt.after)); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("weight after %s = %v, want %v", tt.after, got, tt.want)
		}
	}
	for _, name := range algorithms {
		t.Run(name, func(t *testing.T) {
			set := testSet(1, 1, 1)
			p := mustNew(t, name, set).Build(set)
			set[1].Stats.Ramp(second, 10*time.Second)
			last := -1
			for i, at := range []int64{second, 5 * second, 11 * second} {
				got := 0
				for k := range 9000 {
					if p.Pick(uint64(k), at, nil) == 1 {
						got++
					}
				}
				if got < last || i == 0 && got > 900 || i == 2 && got < 2500 {
					t.Errorf("after %d s the instance in slow start got %d of 9000, before %d", at/second-1, got, last)
				}
				last = got
			}
		})
	}
}

func TestLeastRequest(t *testing.T) {
	set := testSet(1, 1, 1)
	p := mustNew(t, "least_request", set).Build(set)
	for i, n := range []int{3, 1, 2} {
		for range n {
			set[i].Stats.Acquire()
		}
	}
	for range 100 {
		if got := p.Pick(0, 1, nil); got != 1 {
			t.Fatalf("Pick = %d, want 1, which has the fewest", got)
		}
	}
}

func TestHashIsConsistent(t *testing.T) {
	const keys = 20000
	set := testSet(same(10)...)
	before := mustNew(t, "hash", set).Build(set)
	without := append(append([]Endpoint{}, set[:4]...), set[5:]...)
	after := mustNew(t, "hash", without).Build(without)
	moved := 0
	for k := range keys {
		a := set[before.Pick(uint64(k), 1, nil)].Key
		b := without[after.Pick(uint64(k), 1, nil)].Key
		if a != b && a != set[4].Key {
			moved++
		}
	}
	if moved > keys/100 {
		t.Errorf("%d of %d keys of other instances moved when one left", moved, keys)
	}
}

func TestHashBound(t *testing.T) {
	set := testSet(same(4)...)
	p := mustNew(t, "hash", set).Build(set)
	for range 400 { // one hot key
		set[p.Pick(42, 1, nil)].Stats.Acquire()
	}
	for i := range set {
		if n := set[i].Stats.Pending(); n > 126 {
			t.Errorf("instance %d has %d of 400, bound 125", i, n)
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, name := range algorithms {
		set := testSet(3, 1, 1)
		p := mustNew(t, name, set).Build(set)
		tried := []*Stats{set[0].Stats}
		if n := testing.AllocsPerRun(1000, func() {
			if i := p.Pick(7, second, tried); i >= 0 && set[i].Stats.Acquire() {
				set[i].Stats.Observe(time.Millisecond, second)
				set[i].Stats.Release()
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, name := range algorithms {
		for _, n := range []int{3, 100, 10000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				set := testSet(same(n)...)
				for i := range set {
					set[i].Stats.Observe(time.Duration(i%7+1)*time.Millisecond, second)
				}
				a, err := New(name, Deps{InFlight: func() int64 { return 1 }})
				if err != nil {
					b.Fatal(err)
				}
				p := a.Build(set)
				b.ReportAllocs()
				k := uint64(0)
				for b.Loop() {
					k++
					p.Pick(k, 2*second, nil)
				}
			})
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, name := range algorithms {
		b.Run(name+"/10000", func(b *testing.B) {
			set := testSet(same(10000)...)
			for i := range set {
				set[i].Weight = i%10 + 1
			}
			a := mustNew(b, name, set)
			b.ReportAllocs()
			for b.Loop() {
				a.Build(set)
			}
		})
	}
}
