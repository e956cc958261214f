package ratelimit

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newStore(memory int64) *Store {
	s := NewStore(StoreConfig{Memory: memory})
	s.open()
	return s
}

// TestExact: 64 goroutines at once get exactly what the limit allows.
func TestExact(t *testing.T) {
	const goroutines, each = 64, 500
	s := newStore(64 << 10)
	tests := []struct {
		name string
		text string
		tick time.Duration // of the shared clock, for each request
		want int64
	}{
		{"burst alone", "1/h", 0, 100},
		{"clock that goes on", "1000/s", 10 * time.Microsecond, 100 + (goroutines*each-1)/100},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(t, tt.text, 100)
			var clock, admitted atomic.Int64
			clock.Store(int64(time.Second))
			start := make(chan struct{})
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					<-start
					for range each {
						g := []grant{{key: mix(uint64(i)), rate: r, cost: 1}}
						if s.take(moment(clock.Add(int64(tt.tick))), g) < 0 {
							admitted.Add(1)
						}
					}
				})
			}
			close(start)
			wg.Wait()
			got := admitted.Load()
			// Whoever reads the clock first may come second: then time that has
			// passed counts once, for the later one, and nobody gets more.
			if got > tt.want || got < tt.want*9/10 || tt.tick == 0 && got != tt.want {
				t.Errorf("%d of %d passed, want %d", got, goroutines*each, tt.want)
			}
		})
	}
}

// TestAllOrNothing: requests with several limits, in any order of buckets, take
// of all or of none, and can't block each other.
func TestAllOrNothing(t *testing.T) {
	const goroutines, each, narrow = 64, 200, 50
	s := newStore(64 << 10)
	wide, tight := parse(t, "1/h", 10_000), parse(t, "1/h", narrow)
	const now = moment(time.Second)
	shared := mix(1)
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			other := mix(uint64(100 + i%4)) // four buckets of narrow each
			for j := range each {
				g := []grant{{key: shared, rate: wide, cost: 1}, {key: other, rate: tight, cost: 1}}
				if j%2 == 1 {
					g[0], g[1] = g[1], g[0]
				}
				if s.take(now, g) < 0 {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := admitted.Load(); got != 4*narrow {
		t.Errorf("%d passed, want %d", got, 4*narrow)
	}
	g := []grant{{key: shared, rate: wide, cost: 1}}
	s.peek(now, g)
	if got := left(g[0].full, now, wide); got != 10_000-4*narrow {
		t.Errorf("%d are left of the wide limit, want %d: refused requests took of it", got, 10_000-4*narrow)
	}
}

// TestMillion: a million clients at once keep their counters in the default
// size, well under 100 MiB.
func TestMillion(t *testing.T) {
	const n = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newStore(64 << 20)
	r := parse(t, "1/h", 1)
	now := moment(time.Second)
	one := make([]grant, 1)
	key := func(i int) uint64 { return mix(uint64(i) + apart) } // the same in each run
	for i := range n {
		one[0] = grant{key: key(i), rate: r, cost: 1}
		if s.take(now, one) >= 0 {
			t.Fatalf("the first request of client %d is refused", i)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%.1f bytes for each of a million clients", per)
	if per > 100 {
		t.Errorf("%.1f bytes for each client, want at most 100", per)
	}
	if f := s.Forgotten(); f > 1 {
		t.Errorf("%d clients are forgotten", f)
	}
	for i := 0; i < n; i += 997 {
		one[0] = grant{key: key(i), rate: r, cost: 1}
		if s.take(now, one) < 0 {
			t.Fatalf("the second request of client %d passes", i)
		}
	}
	// Others take the places of those whose buckets are full again.
	now += moment(2 * time.Hour)
	for i := range n {
		one[0] = grant{key: key(n + i), rate: r, cost: 1}
		s.take(now, one)
	}
	if f := s.Forgotten(); f > 2 {
		t.Errorf("%d clients are forgotten although others' buckets were full", f)
	}
	// And more than there is room for, ten million by now, only push out the
	// oldest: the process doesn't grow.
	for i := range 8 * n {
		one[0] = grant{key: key(2*n + i), rate: r, cost: 1}
		s.take(now, one)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 65<<20 {
		t.Errorf("ten million clients take %d MiB, want 64", grown>>20)
	}
	runtime.KeepAlive(s)
	if f := s.Forgotten(); f < n/2 || len(s.sets)*ways != 4<<20 {
		t.Errorf("%d clients are forgotten, of %d places", f, len(s.sets)*ways)
	}
}

// TestOldestLeave: when there is no room, the buckets nearest to full go.
func TestOldestLeave(t *testing.T) {
	s := newStore(ways * 16) // one set
	r := parse(t, "1/s", 100)
	const now = moment(time.Second)
	take := func(key uint64, n int) {
		for range n {
			s.take(now, []grant{{key: key, rate: r, cost: 1}})
		}
	}
	for i := range ways {
		take(uint64(i+1), 10+i) // key 1 is nearest to full
	}
	take(100, 50)
	if s.Forgotten() != 1 {
		t.Errorf("forgot %d, want 1", s.Forgotten())
	}
	for i := range ways {
		want := int64(100 - 10 - i)
		if i == 0 {
			want = 100
		}
		g := []grant{{key: uint64(i + 1), rate: r, cost: 1}}
		s.peek(now, g)
		if got := left(g[0].full, now, r); got != want {
			t.Errorf("key %d: %d left, want %d", i+1, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for memory, want := range map[int64]int{64 << 10: 256, 100 << 10: 256, 64 << 20: 1 << 18} {
		if got := len(newStore(memory).sets); got != want {
			t.Errorf("%d bytes: %d sets, want %d", memory, got, want)
		}
	}
}

func TestCounts(t *testing.T) {
	s := newStore(64 << 10)
	a := s.count("r", "client_ip", false)
	a.refused.Add(2)
	s.count("gone", "client_ip", true)
	s.Retain(map[string]bool{"r": true})
	if s.count("r", "client_ip", false) != a {
		t.Error("a counter doesn't survive a reload")
	}
	if l := s.Counts(); len(l) != 1 || l[0].Refused() != 2 {
		t.Errorf("counts = %+v", l)
	}
}

func BenchmarkTake(b *testing.B) {
	for _, n := range []int{1, 1_000_000} {
		b.Run(fmt.Sprintf("%d clients", n), func(b *testing.B) {
			s := newStore(64 << 20)
			r := parse(b, "10000000/s", 1_000_000)
			keys := make([]uint64, n)
			g := make([]grant, 1)
			for i := range keys {
				keys[i] = mix(s.hash(fmt.Sprint(i)))
				g[0] = grant{key: keys[i], rate: r, cost: 1}
				s.take(moment(time.Second), g)
			}
			b.ReportAllocs()
			i, now := 0, moment(2*time.Second)
			for b.Loop() {
				if i += 7919; i >= n {
					i %= n
				}
				now += 100
				g[0] = grant{key: keys[i], rate: r, cost: 1}
				s.take(now, g)
			}
		})
	}
}
