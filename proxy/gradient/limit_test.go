package gradient

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// site is a simulated service behind a limit: workers that take requests in
// turn, each for the time of service; and clients that send a request every gap.
type site struct {
	*testing.T
	limit   *Limit
	workers int
	service time.Duration
	gap     time.Duration
	rank    func(i int) int // of the ith request; nil: 0
	uneven  *rand.Rand      // the time of service is exponential; nil: it is always the same

	now     int64
	arrival int64
	update  int64
	sent    int
	events  ends
	free    []int64 // when each worker is

	answered map[int]int // by rank
	shed     map[int]int
	slowest  time.Duration
	dead     bool // nothing is answered
}

type end struct {
	at   int64
	took time.Duration
	rank int

	place int64
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any          { o := *e; x := o[len(o)-1]; *e = o[:len(o)-1]; return x }

func newSite(t *testing.T, workers int, service, gap time.Duration) *site {
	l := New(rand.New(rand.NewPCG(1, 2)).Float64)
	l.Resize(1, 1024)
	s := &site{T: t, limit: l, workers: workers, service: service, gap: gap, now: 1, arrival: 1, update: 1}
	s.reset()
	return s
}

func (s *site) reset() {
	s.answered, s.shed, s.slowest = map[int]int{}, map[int]int{}, 0
}

// run lets time pass.
func (s *site) run(d time.Duration) {
	const round = int64(250 * time.Millisecond)
	stop := s.now + int64(d)
	for {
		next := min(s.arrival, s.update, stop)
		if len(s.events) > 0 {
			next = min(next, s.events[0].at)
		}
		s.now = next
		switch {
		case len(s.events) > 0 && s.events[0].at == next:
			e := heap.Pop(&s.events).(end)
			s.limit.Leave()
			s.limit.Observe(e.took, e.place)
			s.answered[e.rank]++
			s.slowest = max(s.slowest, e.took)
		case s.update == next:
			s.limit.Update(next)
			s.update += round
		case s.arrival == next:
			s.arrive()
			s.arrival += int64(s.gap)
		default:
			return
		}
	}
}

func (s *site) arrive() {
	rank := 0
	if s.rank != nil {
		rank = s.rank(s.sent)
	}
	s.sent++
	place, ok := s.limit.Enter(rank)
	if !ok {
		s.shed[rank]++
		return
	}
	if s.dead {
		return
	}
	for len(s.free) < s.workers {
		s.free = append(s.free, 0)
	}
	s.free = s.free[:s.workers]
	first := 0
	for i := range s.free {
		if s.free[i] < s.free[first] {
			first = i
		}
	}
	service := float64(s.service)
	if s.uneven != nil {
		service *= s.uneven.ExpFloat64()
	}
	done := max(s.free[first], s.now) + int64(service)
	s.free[first] = done
	heap.Push(&s.events, end{done, time.Duration(done - s.now), rank, place})
}

// capacity is how many requests the workers do in d.
func (s *site) capacity(d time.Duration) int { return s.workers * int(d/s.service) }

func (s *site) wantLimit(when string, low, high int) {
	s.Helper()
	if got := s.limit.Status().Limit; got < low || got > high {
		s.Errorf("%s: limit %d, want %d to %d (%+v)", when, got, low, high, s.limit.Status())
	}
}

func TestConverges(t *testing.T) {
	for _, tt := range []struct {
		name    string
		workers int
		service time.Duration
		low     int
		high    int
	}{
		{"few slow workers", 8, 50 * time.Millisecond, 8, 26},
		{"many", 100, 50 * time.Millisecond, 100, 220},
		{"more than at first", 200, 20 * time.Millisecond, 200, 400},
		{"slow", 20, time.Second, 20, 50},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, tt.workers, tt.service, tt.service/time.Duration(2*tt.workers)) // twice what it can do
			s.run(max(20*time.Second, 30*tt.service))
			s.reset()
			measure := max(40*time.Second, 120*tt.service)
			s.run(measure)
			s.wantLimit("under load", tt.low, tt.high)
			if want := s.capacity(measure) * 95 / 100; s.answered[0] < want {
				t.Errorf("%d were answered, want %d", s.answered[0], want)
			}
			if most := 4 * tt.service; s.slowest > most {
				t.Errorf("the slowest took %s, want at most %s", s.slowest, most)
			}
			if b := s.limit.Status().Baseline; b > tt.service*5/4 || b < tt.service*3/4 {
				t.Errorf("baseline %s, want about %s", b, tt.service)
			}
		})
	}
}

// TestWithoutLoad: nothing is refused while the service isn't at its limit, and
// the limit doesn't grow without a reason.
func TestWithoutLoad(t *testing.T) {
	s := newSite(t, 50, 20*time.Millisecond, time.Millisecond) // 20 of 50 are busy
	s.run(5 * time.Minute)
	if s.shed[0] != 0 {
		t.Errorf("%d of %d were shed", s.shed[0], s.sent)
	}
	s.wantLimit("at ease", 24, 128)
}

func TestRecovers(t *testing.T) {
	s := newSite(t, 50, 20*time.Millisecond, time.Millisecond/2) // 40 of 50
	s.run(time.Minute)
	before := s.shed[0]
	s.workers = 5 // an eighth of what is asked for
	s.run(time.Minute)
	s.wantLimit("with few workers", 5, 20)
	s.reset()
	s.workers = 50
	s.run(5 * time.Second)
	s.reset()
	s.run(time.Minute)
	if s.shed[0] > before {
		t.Errorf("after its recovery %d of %d are shed, before %d", s.shed[0], s.answered[0], before)
	}
}

// TestBecomesSlower: a service that takes longer from now on, with workers
// enough, isn't overloaded.
func TestBecomesSlower(t *testing.T) {
	s := newSite(t, 1000, 10*time.Millisecond, time.Millisecond) // 10 in flight
	s.run(time.Minute)
	s.service = 100 * time.Millisecond // 100 in flight
	s.run(20 * time.Second)
	s.reset()
	s.run(time.Minute)
	if s.shed[0] > s.answered[0]/100 {
		t.Errorf("%d were shed, %d answered: %+v", s.shed[0], s.answered[0], s.limit.Status())
	}
	s.service = 10 * time.Millisecond
	s.run(10 * time.Second)
	if b := s.limit.Status().Baseline; b > 15*time.Millisecond {
		t.Errorf("baseline %s after it is fast again", b)
	}
}

// TestMeasuresAgain: what counted as at ease was overload already.
func TestMeasuresAgain(t *testing.T) {
	s := newSite(t, 4, 20*time.Millisecond, time.Millisecond) // ten times what it can do, from the start
	s.run(time.Second)
	if b := s.limit.Status().Baseline; b < 30*time.Millisecond {
		t.Fatalf("baseline %s: this should be overload from the start", b)
	}
	s.run(time.Minute)
	if b := s.limit.Status().Baseline; b > 25*time.Millisecond {
		t.Errorf("baseline %s, want 20ms", b)
	}
	s.reset()
	s.run(5 * time.Minute)
	s.wantLimit("later", 4, 14)
	if s.slowest > 100*time.Millisecond {
		t.Errorf("the slowest took %s", s.slowest)
	}
}

// TestBurst: of what comes at once as many are admitted as the limit says, and
// it becomes no larger than what is answered in time.
func TestBurst(t *testing.T) {
	s := newSite(t, 20, 20*time.Millisecond, 2*time.Millisecond) // 10 of 20
	s.run(time.Minute)
	for range 50 {
		st := s.limit.Status()
		s.reset()
		for range 2000 {
			s.arrive()
		}
		if admitted := 2000 - s.shed[0]; admitted != st.Limit-st.InFlight {
			t.Errorf("%d of 2000 at once were admitted, the limit was %d", admitted, st.Limit)
		}
		s.run(10 * time.Second)
		if s.slowest > 4*s.service {
			t.Errorf("the slowest took %s", s.slowest)
		}
	}
	s.wantLimit("after the bursts", 20, 60)
}

// TestDead: a service that doesn't answer changes nothing but the places taken.
func TestDead(t *testing.T) {
	s := newSite(t, 20, 20*time.Millisecond, 2*time.Millisecond)
	s.run(time.Minute)
	before := s.limit.Status()
	s.dead = true
	s.run(5 * time.Minute)
	st := s.limit.Status()
	if st.Limit != before.Limit || st.Baseline != before.Baseline || st.InFlight != st.Limit {
		t.Errorf("%+v, before %+v", st, before)
	}
	for s.limit.Status().InFlight > 0 { // they time out
		s.limit.Leave()
	}
	s.dead = false
	s.run(time.Second)
	s.reset()
	s.run(time.Minute)
	if s.shed[0] > 0 {
		t.Errorf("%d are shed after it is back", s.shed[0])
	}
}

func TestRanks(t *testing.T) {
	s := newSite(t, 10, 20*time.Millisecond, time.Millisecond) // twice what it can do
	s.rank = func(i int) int { return []int{-1, -1, 0, 0, 0, 1}[i%6] }
	s.run(time.Minute)
	s.reset()
	s.run(time.Minute)
	part := func(rank int) float64 {
		return float64(s.answered[rank]) / float64(s.answered[rank]+s.shed[rank])
	}
	if part(1) < 0.99 || part(0) < 0.5 || part(-1) > 0.1 {
		t.Errorf("answered: high %.2f, normal %.2f, low %.2f", part(1), part(0), part(-1))
	}
	// Without the others, the low ones get what there is.
	s.rank = func(int) int { return -1 }
	s.run(20 * time.Second)
	s.reset()
	s.run(time.Minute)
	if want := s.capacity(time.Minute) * 95 / 100; s.answered[-1] < want {
		t.Errorf("alone, %d low ones were answered, want %d", s.answered[-1], want)
	}
}

// TestUneven: some requests take many times what others do.
func TestUneven(t *testing.T) {
	for _, load := range []float64{0.5, 0.7, 2} {
		s := newSite(t, 50, 20*time.Millisecond, time.Duration(float64(20*time.Millisecond)/50/load))
		s.uneven = rand.New(rand.NewPCG(3, 4))
		s.run(20 * time.Second)
		s.reset()
		s.run(time.Minute)
		most := s.capacity(time.Minute)
		if want := float64(most) * min(load, 0.95) * 0.98; float64(s.answered[0]) < want {
			t.Errorf("load %.1f: %d were answered, want %.0f: %+v", load, s.answered[0], want, s.limit.Status())
		}
		s.wantLimit("uneven", 30, 150)
	}
}

func TestFloor(t *testing.T) {
	s := newSite(t, 1, 100*time.Millisecond, time.Millisecond)
	for range 100 {
		s.run(time.Second)
		if l := s.limit.Status().Limit; l < Floor {
			t.Fatalf("limit %d", l)
		}
	}
	if want := s.capacity(100*time.Second) * 95 / 100; s.answered[0] < want {
		t.Errorf("%d were answered, want %d", s.answered[0], want)
	}
	s.wantLimit("one worker", Floor, 12)
}

func TestResize(t *testing.T) {
	l := New(func() float64 { return 0 })
	for _, tt := range []struct{ instances, each, want int }{
		{2, 1024, 64}, {4, 1024, 128}, {0, 1024, 128}, {1, 1024, 32}, {1, 10, 10}, {2, 10, 20}, {3, 1, Floor}, {1, 1024, Floor},
	} {
		l.Resize(tt.instances, tt.each)
		if got := l.Status().Limit; got != tt.want {
			t.Errorf("%d instances of %d: limit %d, want %d", tt.instances, tt.each, got, tt.want)
		}
	}
}

func TestHistogram(t *testing.T) {
	for _, d := range []time.Duration{0, time.Microsecond, 8192, 9000, 10 * time.Microsecond, time.Millisecond, 123456789, time.Second, 100 * time.Second, time.Hour, -1} {
		i := index(d)
		if i < 0 || i >= octaves*parts {
			t.Fatalf("index(%s) = %d", d, i)
		}
		if f := float64(d); f >= lower(0) && f < lower(octaves*parts) && (f < lower(i) || f >= lower(i+1)) {
			t.Errorf("index(%s) = %d, from %v to %v", d, i, lower(i), lower(i+1))
		}
	}
	var h histogram
	for i := range 101 {
		h.add(time.Duration(i) * time.Millisecond)
	}
	if m := time.Duration(h.median(h.count())); m < 45*time.Millisecond || m > 55*time.Millisecond {
		t.Errorf("median %s, want about 50ms", m)
	}
	h.clear()
	if h.count() != 0 {
		t.Error("not cleared")
	}
}

func TestAllocatesNothing(t *testing.T) {
	l := New(func() float64 { return 0 })
	if n := testing.AllocsPerRun(100, func() { n, _ := l.Enter(0); l.Observe(time.Millisecond, n); l.Leave(); l.Update(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	l := New(func() float64 { return 0 })
	for b.Loop() {
		n, _ := l.Enter(0)
		l.Observe(time.Millisecond, n)
		l.Leave()
	}
}
