package shared

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// Ask is what a request wants of one counter: of a rate, or of a quota.
type Ask struct {
	Key   string // the same on all nodes, and nobody else's
	Cost  int64
	Dry   bool  // a refusal keeps nobody out
	Chunk int64 // how much is leased at a time, where leases are

	// A rate: Burst requests, which come back one in each Interval.
	Interval time.Duration
	Burst    int64

	// A quota: Limit units until Until, in seconds since 1970. Owed was used
	// while nobody could be asked, and is added without a question; it is 0 when
	// that has happened.
	Limit, Until, Owed int64

	// The answer.
	OK   bool
	Full time.Duration // until the bucket of a rate is full
	Used int64         // of a quota
}

// quota reports whether a is of a quota.
func (a *Ask) quota() bool { return a.Interval == 0 }

// Refused is the first of the asks that keeps a request out; -1: none.
func Refused(asks []Ask) int {
	for i := range asks {
		if !asks[i].OK && !asks[i].Dry {
			return i
		}
	}
	return -1
}

// Backend is where a fleet counts.
type Backend interface {
	// Take lets a request pass if all counters do, and then takes of each.
	// Otherwise nothing is taken of any.
	Take(ctx context.Context, asks []Ask) error
	// Set says how much of a quota is used.
	Set(ctx context.Context, a *Ask) error
	// Probe is nil once Take can work again.
	Probe(ctx context.Context) error
	// Tidy is called now and then.
	Tidy(ctx context.Context) error
	Close()
}

// Finest is the shortest interval of a rate that can be shared: finer ones would
// lose too much by being rounded.
const Finest = time.Microsecond

// ErrDown is what Take says while nobody can be asked.
var ErrDown = errors.New("the counters of the fleet can't be asked now")

// errBusy says that this question can't be asked now, but others may.
var errBusy = errors.New("too much is asked at once")

const (
	probeFirst = 50 * time.Millisecond
	probeMost  = 2 * time.Second
	tidyEvery  = time.Minute
)

// Fleet is whoever counts for all nodes. It belongs to the gateway; its backend
// is replaced when the configuration says so.
type Fleet struct {
	log      logrus.FieldLogger
	now      atomic.Pointer[place]
	wanted   atomic.Bool
	wake     chan struct{} // there is something for Run to look at
	failures atomic.Uint64
	alone    atomic.Uint64
}

// place is a backend, and how it is.
type place struct {
	Backend
	name    string
	timeout time.Duration
	greeted bool // Run has looked whether it answers
	down    atomic.Bool
	why     atomic.Pointer[Outage] // the last one
}

// Outage is why the fleet can't be asked.
type Outage struct {
	Since time.Time
	Error string
}

// NewFleet returns a fleet that nobody counts for yet.
func NewFleet(log logrus.FieldLogger) *Fleet {
	return &Fleet{log: log, wake: make(chan struct{}, 1)}
}

// Use puts a backend in force, nil: none, whose name is for status. The one
// before is closed; who is asking it is on his own for that request.
func (f *Fleet) Use(b Backend, name string, timeout time.Duration) {
	var next *place
	if b != nil {
		next = &place{Backend: b, name: name, timeout: timeout}
	}
	if old := f.now.Swap(next); old != nil {
		old.Close()
	}
	f.poke()
}

// Want says that some limit counts on all nodes: then Run looks whether the
// backend answers before the first request asks. f may be nil.
func (f *Fleet) Want() {
	if f != nil && !f.wanted.Swap(true) {
		f.poke()
	}
}

func (f *Fleet) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Take asks the fleet. With an error the node is on its own, and nothing is
// known to be taken.
func (f *Fleet) Take(asks []Ask) error {
	p := f.now.Load()
	if p == nil || p.down.Load() {
		f.alone.Add(1)
		return ErrDown
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	err := p.Take(ctx, asks)
	if err == nil {
		return nil
	}
	f.alone.Add(1)
	if !errors.Is(err, errBusy) {
		f.failed(p, err)
	}
	return err
}

// failed keeps further requests from waiting.
func (f *Fleet) failed(p *place, err error) {
	f.failures.Add(1)
	if p != f.now.Load() || p.down.Load() {
		return
	}
	p.why.Store(&Outage{time.Now(), err.Error()})
	if p.down.Swap(true) {
		return
	}
	f.log.WithError(err).Warn("the counters of the fleet can't be asked: this node counts by itself")
	f.poke()
}

// Set says how much of a quota is used.
func (f *Fleet) Set(ctx context.Context, a *Ask) error {
	p := f.now.Load()
	if p == nil {
		return ErrDown
	}
	return p.Set(ctx, a)
}

// GiveBack gives back what is leased: this process is about to end, and another may
// need it. It takes some seconds at most.
func (f *Fleet) GiveBack() {
	p := f.now.Load()
	if p == nil || p.down.Load() {
		return
	}
	if b, ok := p.Backend.(interface{ GiveBack() }); ok {
		b.GiveBack()
	}
}

// Run looks after the backend until ctx ends.
func (f *Fleet) Run(ctx context.Context) {
	tidy := time.NewTicker(tidyEvery)
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			f.Use(nil, "", 0)
			return
		case <-f.wake:
			f.greet(ctx)
			f.probe(ctx)
		case <-tidy.C:
			p := f.now.Load()
			if p == nil || p.down.Load() {
				continue
			}
			if err := p.Tidy(ctx); err != nil && ctx.Err() == nil {
				f.log.WithError(err).Debug("old counters of the fleet can't be removed") // the next time, or another node
			}
		}
	}
}

// greet looks whether a new backend answers, so that an operator hears of it if
// not, once it is wanted.
func (f *Fleet) greet(ctx context.Context) {
	p := f.now.Load()
	if p == nil || p.greeted || !f.wanted.Load() {
		return
	}
	p.greeted = true
	once, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if err := p.Probe(once); err != nil && ctx.Err() == nil {
		f.failed(p, err)
	}
}

// probe waits until the backend answers again.
func (f *Fleet) probe(ctx context.Context) {
	pause := probeFirst
	wait := time.NewTimer(pause)
	defer wait.Stop()
	for {
		p := f.now.Load()
		if p == nil || !p.down.Load() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		once, cancel := context.WithTimeout(ctx, p.timeout)
		err := p.Probe(once)
		cancel()
		if err == nil {
			p.down.Store(false)
			f.log.Info("the counters of the fleet answer again")
			return
		}
		pause = min(2*pause, probeMost)
		wait.Reset(pause/2 + rand.N(pause))
	}
}

// Up reports whether the fleet can be asked; used says whether anybody wants to.
func (f *Fleet) Up() (up, used bool) {
	p := f.now.Load()
	return p != nil && !p.down.Load(), p != nil && f.wanted.Load()
}

// Status is the name of who counts, "": nobody, and why it can't be asked; nil:
// it can.
func (f *Fleet) Status() (name string, outage *Outage) {
	p := f.now.Load()
	if p == nil || !f.wanted.Load() {
		return "", nil
	}
	if p.down.Load() {
		outage = p.why.Load()
	}
	return p.name, outage
}

// Failures is how many questions failed.
func (f *Fleet) Failures() uint64 { return f.failures.Load() }

// Alone is how many requests the node had to decide by itself.
func (f *Fleet) Alone() uint64 { return f.alone.Load() }
