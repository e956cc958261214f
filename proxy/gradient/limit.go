// Package gradient finds out how many requests a service can work on at once,
// by what that does to its latency: a limit on concurrency that follows the
// gradient of the latency, after TCP Vegas and Netflix's concurrency-limits.
//
// As long as requests find a free worker, more of them at once leave the latency
// as it is. From then on they wait for each other, and each one more makes all
// slower. A Limit lets the requests in flight grow as long as the median latency
// stays near that of the service at ease (the baseline), and takes them back in
// proportion as it rises.
//
//	at ease    a request that found at most half of the places taken: its latency
//	           is the service's own, and the baseline follows it
//	in use     other requests. By their latency the limit grows by its square root
//	           (at first, and from the floor, it doubles) or shrinks by
//	           baseline × tolerance / latency
//	measuring  after half a minute without requests at ease the limit is halved
//	           for a moment: nobody knows any more what the latency would be
//
// It is pure: the caller tells what comes and goes, and the time. It imports
// nothing of ours and starts no goroutine; Enter, Leave and Observe take no lock
// and allocate nothing.
package gradient

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Floor is the lowest limit: with less, one slow request would stop all.
	Floor = 4
	// first is the limit for each instance to begin with.
	first = 32
	// tolerance is how much slower than at ease a service may be.
	tolerance = 1.5
	// slack is added to that: less isn't told from noise, nor worth a refusal.
	slack = float64(time.Millisecond)
	// leastGradient bounds how much a round takes back.
	leastGradient = 0.5
	// minSamples are needed to judge.
	minSamples = 10
	// longest is how long to wait for them; with fewer by then there is no load
	// to speak of.
	longest = int64(10 * time.Second)
	// longestWait bounds how long a change is given to show.
	longestWait = int64(5 * time.Second)
	// measureAfter is how long the limit may be in use until the baseline is
	// measured again; measureSoon the same after a lower one was found, which
	// may still be too high.
	measureAfter = int64(30 * time.Second)
	measureSoon  = int64(2 * time.Second)
	// follow is the weight of the newest latency at ease in the baseline, when it
	// is higher.
	follow = 0.25
)

// Limit is the limit of one service. Make it with New.
type Limit struct {
	limit    atomic.Int64
	ease     atomic.Int64 // places up to which a request is at ease
	inFlight atomic.Int64
	easy     histogram // latencies at ease
	busy     histogram // and in use

	mu        sync.Mutex // guards what follows: of the rounds, not of requests
	jitter    func() float64
	instances int
	most      float64
	rough     float64 // the limit, before it is rounded
	base      float64 // latency at ease, in nanoseconds; 0: not known
	seen      float64 // latency in use, the last one known
	doubling  bool
	changed   int64 // when the limit was
	easySince int64 // since when easy counts
	measured  int64 // when the baseline was known the last time
	measuring bool
	saved     float64 // the limit before the measurement
}

// New returns a limit for a service without instances; Resize tells of them.
// jitter returns 0 ≤ x < 1: so that many gateways don't measure at once.
func New(jitter func() float64) *Limit {
	l := &Limit{jitter: jitter, doubling: true, most: Floor}
	l.set(Floor)
	return l
}

// Enter takes a place, unless too many are taken, and returns its number. A
// request of low rank (below 0) leaves a quarter of the places to others; one of
// high rank (above 0) gets one of a quarter more.
func (l *Limit) Enter(rank int) (place int64, ok bool) {
	room := l.limit.Load()
	switch {
	case rank < 0:
		room -= max(room/4, 1)
	case rank > 0:
		room += max(room/4, 1)
	}
	n := l.inFlight.Add(1)
	if n > room {
		l.inFlight.Add(-1)
		return 0, false
	}
	return n, true
}

// Force takes a place even if there is none: for work that can't be refused any
// more.
func (l *Limit) Force() (place int64) { return l.inFlight.Add(1) }

// Leave gives a place back.
func (l *Limit) Leave() { l.inFlight.Add(-1) }

// Observe takes in the latency of an answer to a request that had that place.
func (l *Limit) Observe(d time.Duration, place int64) {
	if place <= l.ease.Load() {
		l.easy.add(d)
	} else if limit := l.limit.Load(); place <= limit+limit/4+1 { // or else it is from before the limit shrank
		l.busy.add(d)
	}
}

// Resize tells how many instances there are, and how many requests each takes
// at most. The limit changes with their number.
func (l *Limit) Resize(instances, each int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if instances == 0 {
		return // nobody is asked, and they will be back
	}
	l.most = float64(instances) * float64(each)
	switch l.instances {
	case 0:
		l.set(float64(instances) * first)
	default:
		share := float64(instances) / float64(l.instances)
		l.saved *= share
		l.set(l.rough * share)
	}
	l.instances = instances
}

func (l *Limit) set(v float64) {
	l.rough = max(min(v, l.most), Floor)
	n := int64(l.rough)
	l.limit.Store(n)
	if !l.measuring {
		n /= 2
	}
	l.ease.Store(n)
}

// Update judges what has been observed, if there is enough of it. now is the
// time in nanoseconds on any scale. Call it some times a second.
func (l *Limit) Update(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := l.easy.count(); {
	case n >= minSamples:
		l.atEase(now, l.easy.median(n))
	case now-l.easySince > longest:
		l.forgetEasy(now)
		l.endMeasuring() // nothing is answered
	}
	if l.measuring {
		l.busy.clear()
		return
	}
	since := now - l.changed
	wait := min(int64(l.seen), longestWait)
	if since < wait {
		l.busy.clear() // of requests from before the change
		return
	}
	switch n := l.busy.count(); {
	case n >= minSamples && since >= 2*wait:
		l.inUse(now, l.busy.median(n))
	case since > longest:
		l.busy.clear()
		l.changed = now
	}
}

func (l *Limit) forgetEasy(now int64) {
	l.easy.clear()
	l.easySince = now
}

func (l *Limit) endMeasuring() {
	if l.measuring {
		l.measuring = false
		l.set(l.saved)
	}
}

// atEase takes in a latency at ease.
func (l *Limit) atEase(now int64, latency float64) {
	l.forgetEasy(now)
	was := l.base
	if was == 0 || latency < was || l.measuring {
		l.base = latency
	} else {
		l.base += (latency - was) * follow
	}
	l.measured = now - int64(l.jitter()*float64(measureAfter)/4)
	if l.measuring {
		if latency < 0.9*was {
			l.measured = now - measureAfter + measureSoon
		}
		l.endMeasuring()
		l.changed = now
	}
}

// inUse moves the limit by a latency in use.
func (l *Limit) inUse(now int64, latency float64) {
	l.busy.clear()
	l.seen, l.changed = latency, now
	if l.base == 0 || latency < l.base {
		l.base = latency
	}
	bearable := l.base*tolerance + slack
	switch {
	case latency <= bearable && l.doubling:
		l.set(2 * l.rough)
	case latency <= bearable:
		l.set(l.rough + math.Sqrt(l.rough))
	case l.rough <= Floor:
		// There is no lower load to compare with: if the service is slow here, it
		// is slow. Once that is the baseline, the limit doubles from here.
		l.base += (latency - l.base) * 2 * follow
		l.measured, l.doubling = now, true
	default:
		l.doubling = false
		l.set(l.rough*max(bearable/latency, leastGradient) + math.Sqrt(l.rough))
		if l.rough < Floor+1 {
			l.set(Floor)
		}
	}
	if now-l.measured > measureAfter && l.rough > Floor {
		l.measuring, l.saved = true, l.rough
		l.set((l.rough - math.Sqrt(l.rough)) / 2)
		l.forgetEasy(now)
	}
}

// Samples is how many latencies wait to be judged.
func (l *Limit) Samples() int { return int(l.easy.count() + l.busy.count()) }

// Status is what a limit looks like.
type Status struct {
	Limit    int           `json:"limit"`
	InFlight int           `json:"in_flight"`
	Baseline time.Duration `json:"baseline"` // latency at ease; 0: not known yet
	Latency  time.Duration `json:"latency"`  // in use, the last one known
}

// Status returns it.
func (l *Limit) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Status{int(l.limit.Load()), int(l.inFlight.Load()), time.Duration(l.base), time.Duration(l.seen)}
}
