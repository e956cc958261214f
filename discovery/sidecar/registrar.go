package sidecar

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery/consul"
)

// Deps is what a Registrar works with.
type Deps struct {
	Log      logrus.FieldLogger
	StateDir string // remembers what was registered; "": nothing does
	// Wait is how long after its maintenance mode a service is deregistered that
	// Set doesn't have any more; 3 s unless given.
	Wait time.Duration
}

// timing is what tests shorten.
type timing struct {
	every      time.Duration // between looks, while no blocking query tells
	backoff    time.Duration // first pause after an error, doubling
	maxBackoff time.Duration
	quarrel    time.Duration // most after the agent didn't keep what was put
	ready      time.Duration // one question to Ready
	askFirst   time.Duration // first pause between two of them, doubling
	askMost    time.Duration
	try        time.Duration // one request to the agent while leaving
	gone       time.Duration // to deregister
}

func usualTiming() timing {
	return timing{every: 5 * time.Second, backoff: 100 * time.Millisecond, maxBackoff: 5 * time.Second, quarrel: time.Minute,
		ready: time.Second, askFirst: 10 * time.Millisecond, askMost: 500 * time.Millisecond, try: time.Second, gone: 2 * time.Second}
}

// mode says what the registrar may do.
type mode int

const (
	keeping mode = iota
	yielded      // another process keeps the services
	leaving      // they are on their way out
)

// Registrar keeps services registered. It is safe for concurrent use.
type Registrar struct {
	log   logrus.FieldLogger
	wait  time.Duration
	times timing
	wake  chan struct{} // of capacity 1: there is something to do
	turn  chan struct{} // of capacity 1: held while the agent or the note is written to
	note  *note         // guarded by turn
	stale []string      // ids of an earlier run, guarded by turn

	mu      sync.Mutex // guards what follows
	client  *consul.Client
	mode    mode
	entries []*entry
	set     bool               // Set was called
	stop    context.CancelFunc // ends the round that runs now
}

// entry is a service and what became of it. Its fields are guarded by the
// Registrar's mu.
type entry struct {
	service Service
	status  Status
	asking  bool // whether it is ready
	ready   bool
	dropped *departure // Set doesn't have it any more

	fresh    time.Time // Ready said yes
	hash     string    // of what the agent has
	puts     int       // how often it was put right since putSince
	putSince time.Time
}

// departure is a service's way out while others stay.
type departure struct {
	told  bool // it is in maintenance; the turn's holder's
	until time.Time
	seen  chan struct{} // closed at until
}

// New makes a registrar; Run does the work.
func New(agent *consul.Client, deps Deps) *Registrar {
	r := &Registrar{
		client: agent, log: deps.Log.WithField("component", "sidecar"), wait: deps.Wait, times: usualTiming(),
		wake: make(chan struct{}, 1), turn: make(chan struct{}, 1),
	}
	if r.wait <= 0 {
		r.wait = 3 * time.Second
	}
	var err error
	if r.note, err = readNote(deps.StateDir); err != nil {
		r.log.WithError(err).Warn("what an earlier run left registered stays until its check fails")
	}
	r.stale = slices.Clone(r.note.IDs)
	return r
}

// Use goes over to another client: the agent's address or the token has changed.
// What is registered at another agent stays there until its check has failed for
// long enough.
func (r *Registrar) Use(agent *consul.Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != agent {
		r.client = agent
		r.poke()
	}
}

func (r *Registrar) agent() *consul.Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.client
}

// Set says which services are to be registered, all of them. What changed is
// changed in place. What is gone goes into maintenance, and is deregistered a
// while later, when who watches Consul has seen that: then the channel is
// closed, and its listener may be.
func (r *Registrar) Set(services []Service) (left <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set = true
	keep := make([]*entry, 0, len(services))
	for _, s := range services {
		e := r.find(s.ID)
		if e != nil && e.dropped != nil {
			e.dropped.close() // it doesn't go after all
		}
		if e != nil && e.service.Name != s.Name { // who asks whether that one is ready stops
			e.dropped = &departure{seen: make(chan struct{})}
			e.dropped.close()
			e = nil
		}
		if e == nil {
			e = &entry{status: Status{State: Waiting, Since: time.Now()}}
		}
		e.service, e.dropped = s.clone(), nil
		if e.status.State == Leaving {
			e.enter(Pending)
		}
		keep = append(keep, e)
	}
	var seen []chan struct{}
	for _, e := range r.entries {
		if slices.ContainsFunc(keep, func(k *entry) bool { return k.service.ID == e.service.ID }) {
			continue
		}
		if e.dropped == nil {
			e.dropped = &departure{until: time.Now(), seen: make(chan struct{})}
			if e.status.State == Registered {
				e.dropped.until = time.Now().Add(r.wait)
			}
			e.enter(Leaving)
		}
		seen = append(seen, e.dropped.seen)
		keep = append(keep, e)
	}
	r.entries = keep
	r.poke()
	return all(seen)
}

// all is closed when each of some channels is.
func all(some []chan struct{}) <-chan struct{} {
	if len(some) == 1 {
		return some[0]
	}
	done := make(chan struct{})
	if len(some) == 0 {
		close(done)
		return done
	}
	go func() { // ended by what closes them: Run, at its end at the latest
		defer close(done)
		for _, c := range some {
			<-c
		}
	}()
	return done
}

// find gives the entry of an id; r.mu is held.
func (r *Registrar) find(id string) *entry {
	i := slices.IndexFunc(r.entries, func(e *entry) bool { return e.service.ID == id })
	if i < 0 {
		return nil
	}
	return r.entries[i]
}

// enter changes the state; r.mu is held.
func (e *entry) enter(state string) {
	if e.status.State != state {
		e.status.State, e.status.Since = state, time.Now()
	}
}

func (r *Registrar) poke() {
	select {
	case r.wake <- struct{}{}:
	default: // it has been told already
	}
}

// Run keeps what is set registered until ctx ends. It takes nothing off the
// agent at its end: that is Leave's and Gone's.
func (r *Registrar) Run(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	defer r.release()
	backoff := r.times.backoff
	for ctx.Err() == nil {
		r.ask(ctx, &asking)
		err := r.round(ctx)
		switch {
		case err == nil:
			backoff = r.times.backoff
			r.rest(ctx)
			continue
		case errors.Is(err, errQuarrel):
			backoff = min(2*backoff, r.times.quarrel)
		default:
			backoff = min(2*backoff, r.times.maxBackoff)
		}
		r.pause(ctx, backoff/4+rand.N(backoff/4))
	}
}

// release closes what Set's callers wait for, when Run ends.
func (r *Registrar) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if e.dropped != nil {
			e.dropped.close()
		}
	}
}

// close tells that watchers have seen it; r.mu is held.
func (d *departure) close() {
	select {
	case <-d.seen:
	default:
		close(d.seen)
	}
}

// pause waits for d, or until there is something to do.
func (r *Registrar) pause(ctx context.Context, d time.Duration) {
	_, _, next := r.expected()
	if !next.IsZero() {
		d = min(d, max(time.Until(next), lookAgain))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-r.wake:
	}
}

// rest waits until something may have changed, here or at the agent.
func (r *Registrar) rest(ctx context.Context) {
	id, hash, next := r.expected()
	if next.IsZero() {
		next = time.Now().Add(time.Hour)
	}
	ctx, cancel := context.WithDeadline(ctx, next)
	defer cancel()
	changed := make(chan struct{})
	if id != "" {
		var await sync.WaitGroup
		defer await.Wait()
		defer cancel() // before waiting for it
		await.Go(func() {
			// How it ended, the look that follows tells, too.
			_ = r.agent().AwaitService(ctx, id, hash, r.times.every)
			close(changed)
		})
	}
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-changed:
		sleep(ctx, r.times.backoff/2) // however often the agent says so
	}
}

// expected says which service to watch for all, "" for none, and when there is
// something to do anyway.
func (r *Registrar) expected() (id, hash string, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode != keeping {
		return "", "", next
	}
	for _, e := range r.entries {
		switch {
		case e.dropped != nil:
			if next.IsZero() || e.dropped.until.Before(next) {
				next = e.dropped.until
			}
		case e.status.State == Registered && id == "":
			id, hash = e.service.ID, e.hash
		}
	}
	return id, hash, next
}

// Status tells of every service, in the order that they were set.
func (r *Registrar) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Status, 0, len(r.entries))
	for _, e := range r.entries {
		s := e.status
		s.ID, s.Name, s.Address, s.Port = e.service.ID, e.service.Name, e.service.Address, e.service.Port
		list = append(list, s)
	}
	return list
}
