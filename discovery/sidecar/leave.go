package sidecar

import (
	"context"
	"sync"
	"time"
)

// Reason is what the maintenance mode says of a service that is leaving.
const Reason = "sidegate: leaving"

// lookAgain is the pause between two looks into the catalog.
const lookAgain = 20 * time.Millisecond

// Leave puts all services into maintenance, and returns when those who watch
// Consul have had the time to see it: `wait` after the catalog has it, and
// never later than 2*wait (plus one try of a second) after it was called,
// whatever the agent does. Requests arrive until then, and must be answered. From
// now on nothing is registered any more. In a process that has yielded it
// returns at once.
func (r *Registrar) Leave(ctx context.Context, wait time.Duration) {
	registered := r.part()
	if len(registered) == 0 || !r.take(ctx) {
		return
	}
	defer r.give()
	var told sync.WaitGroup
	for _, s := range registered {
		told.Go(func() { r.tell(ctx, s.Name, s.ID, wait) })
	}
	told.Wait()
	sleep(ctx, wait)
}

// part begins to leave, and gives the services that the agent has.
func (r *Registrar) part() (registered []Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == yielded {
		return nil
	}
	r.turnTo(leaving)
	for _, e := range r.entries {
		if e.status.State == Registered || e.status.State == Leaving {
			e.enter(Leaving)
			registered = append(registered, e.service)
		}
	}
	return registered
}

// turnTo changes the mode and ends what Run is doing; r.mu is held.
func (r *Registrar) turnTo(m mode) {
	r.mode = m
	if r.stop != nil {
		r.stop()
	}
	r.poke()
}

// tell puts a service into maintenance, and waits until the catalog has it, for
// `wait` at most.
func (r *Registrar) tell(ctx context.Context, name, id string, wait time.Duration) {
	log := r.log.WithField("service", name).WithField("id", id)
	ends := time.Now().Add(wait)
	err := r.try(ctx, func(ctx context.Context) error { return r.agent().Maintain(ctx, id, true, Reason) })
	for err != nil && time.Now().Before(ends) && sleep(ctx, r.times.backoff) {
		err = r.try(ctx, func(ctx context.Context) error { return r.agent().Maintain(ctx, id, true, Reason) })
	}
	if err != nil {
		log.WithError(err).Warn("service leaves without saying so: it couldn't be put into maintenance")
		return
	}
	log.Info("service is leaving")
	for {
		seen := false
		err := r.try(ctx, func(ctx context.Context) (err error) {
			seen, err = r.agent().InMaintenance(ctx, name, id)
			return err
		})
		if seen || err != nil || !sleep(ctx, lookAgain) {
			return // an error: the token may not look, or the agent is gone
		}
		if time.Now().After(ends) {
			log.Warn("the catalog doesn't show yet that the service is leaving")
			return
		}
	}
}

// try makes one request, which has its own bound.
func (r *Registrar) try(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.times.try)
	defer cancel()
	return f(ctx)
}

// Gone deregisters all services, in two seconds at most. It is for when the last
// request has been answered, after Leave. What can't be deregistered stays
// noted: the next start does it, or the agent itself, when the check has failed
// for long enough. In a process that has yielded it does nothing.
func (r *Registrar) Gone(ctx context.Context) {
	r.mu.Lock()
	keep := r.mode == yielded
	if !keep {
		r.turnTo(leaving)
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, r.times.gone)
	defer cancel()
	if keep || !r.take(ctx) {
		return
	}
	defer r.give()
	for _, s := range r.Status() {
		if !r.note.has(s.ID) {
			continue
		}
		if err := r.forget(ctx, s.ID); err != nil {
			r.log.WithError(err).WithField("service", s.Name).
				Warn("service stays registered until the next start, or until its check has failed for long")
			continue
		}
		r.mu.Lock()
		if e := r.find(s.ID); e != nil {
			e.enter(Left)
		}
		r.mu.Unlock()
	}
}

// Yield leaves the services to another process, which finds them as they should
// be: from when it returns this one writes nothing any more, neither by Run nor
// by Leave and Gone.
func (r *Registrar) Yield() {
	r.mu.Lock()
	r.turnTo(yielded)
	r.mu.Unlock()
	r.turn <- struct{}{} // what was under way has ended
	r.give()
}

// Resume keeps them again: the other process didn't come up.
func (r *Registrar) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == yielded {
		r.mode = keeping
		r.poke()
	}
}
