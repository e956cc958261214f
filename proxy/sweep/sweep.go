// Package sweep gives connections coarse time. Re-arming a socket's deadline
// for each request costs more than parsing it; instead a connection stores when
// it must have moved on, and one goroutine looks at all of them four times a
// second.
//
// It is for limits of seconds (idle, header, body, first byte). A limit below
// two seconds wants a real deadline on the socket.
package sweep

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Interval is how far apart two sweeps are, and so how late a limit may bite.
const Interval = 250 * time.Millisecond

// Member is swept.
type Member interface {
	// Sweep looks whether a limit has passed, with the time in nanoseconds on
	// the scale of Sweeper.Now. It runs on the sweeper's goroutine, must not
	// block, and must not call Add or Remove.
	Sweep(now int64)
}

// Place is where a member stands in a sweeper. It belongs to the member, and is
// the sweeper's to read and write. Its zero value is ready.
type Place struct{ index int } // index+1; 0: not in

// Sweeper keeps the members and the coarse time. Run it once.
type Sweeper struct {
	base time.Time
	now  atomic.Int64
	last atomic.Pointer[time.Time] // of the last sweep

	mu      sync.Mutex
	members []entry
}

type entry struct {
	m Member
	p *Place
}

// New returns a sweeper whose time starts now.
func New() *Sweeper {
	s := &Sweeper{base: time.Now()}
	s.now.Store(1)
	s.last.Store(&s.base)
	return s
}

// Time is the exact time. It asks the monotonic clock alone, half of the work of
// time.Now: the wall clock is that of the last sweep, moved on.
func (s *Sweeper) Time() time.Time {
	last := s.last.Load()
	return last.Add(time.Since(*last))
}

// Now is the coarse time in nanoseconds, at most Interval old while Run runs.
// It is never 0.
func (s *Sweeper) Now() int64 { return s.now.Load() }

// At is t on the scale of Now.
func (s *Sweeper) At(t time.Time) int64 { return int64(t.Sub(s.base)) + 1 }

// Add lets m be swept from the next round on.
func (s *Sweeper) Add(m Member, p *Place) {
	s.mu.Lock()
	s.members = append(s.members, entry{m, p})
	p.index = len(s.members)
	s.mu.Unlock()
}

// Remove takes out the member at p. After it, no Sweep of that member begins.
// A place that isn't in is left alone.
func (s *Sweeper) Remove(p *Place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.index == 0 {
		return
	}
	last := len(s.members) - 1
	moved := s.members[last]
	s.members[p.index-1] = moved
	moved.p.index = p.index
	s.members[last] = entry{}
	s.members = s.members[:last]
	p.index = 0
}

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) {
	t := time.NewTicker(Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.sweep()
		}
	}
}

func (s *Sweeper) sweep() {
	at := time.Now()
	s.last.Store(&at)
	now := s.At(at)
	s.now.Store(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.members {
		e.m.Sweep(now)
	}
}
