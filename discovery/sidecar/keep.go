package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery/consul"
)

// errQuarrel is that what we put doesn't stay.
var errQuarrel = errors.New("it doesn't stay as it is registered; does another process register the same id?")

// patience is how often within a minute a registration is put right before it
// counts as a quarrel.
const patience = 3

// ask begins to ask whether services are ready that nobody asks yet.
func (r *Registrar) ask(ctx context.Context, asking *sync.WaitGroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		switch {
		case e.ready || e.asking || e.dropped != nil:
		case e.service.Ready == nil:
			e.ready = true
		default:
			e.asking = true
			asking.Go(func() { r.awaitReady(ctx, e) })
		}
	}
}

// awaitReady asks until the service is ready, or isn't wanted any more.
func (r *Registrar) awaitReady(ctx context.Context, e *entry) {
	pause := r.times.askFirst
	for {
		r.mu.Lock()
		ready := e.service.Ready
		unwanted := ctx.Err() != nil || e.dropped != nil || r.mode == leaving
		if unwanted {
			e.asking = false
		}
		r.mu.Unlock()
		if unwanted {
			return
		}
		if ready == nil || r.isReady(ctx, ready) {
			break
		}
		if !sleep(ctx, pause) {
			continue
		}
		pause = min(2*pause, r.times.askMost)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.asking, e.ready, e.fresh = false, true, time.Now()
	if e.dropped == nil {
		e.enter(Pending)
	}
	r.poke()
}

func (r *Registrar) isReady(ctx context.Context, ready func(context.Context) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, r.times.ready)
	defer cancel()
	return ready(ctx)
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// round looks at every service and does what is to be done.
func (r *Registrar) round(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	r.stop = cancel
	idle := r.mode != keeping || !r.set
	entries := slices.Clone(r.entries)
	r.mu.Unlock()
	if idle || !r.take(ctx) {
		return nil
	}
	defer r.give()
	var errs []error
	for _, e := range entries {
		err := r.tend(ctx, e)
		if ctx.Err() != nil {
			return nil
		}
		r.report(e, err)
		errs = append(errs, err)
	}
	errs = append(errs, r.cleanUp(ctx))
	return errors.Join(errs...)
}

// take gets the turn; false when ctx ended first.
func (r *Registrar) take(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case r.turn <- struct{}{}:
		return true
	}
}

func (r *Registrar) give() { <-r.turn }

// report notes how a service is doing, and logs when that changed.
func (r *Registrar) report(e *entry, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != e.status.Error {
		r.log.WithError(err).WithField("service", e.service.Name).WithField("id", e.service.ID).
			Warn("service isn't registered as it should be; trying again")
	}
	e.status.Error = text
}

// tend does what one service needs.
func (r *Registrar) tend(ctx context.Context, e *entry) error {
	r.mu.Lock()
	s, ready, dropped := e.service, e.ready, e.dropped
	r.mu.Unlock()
	switch {
	case dropped != nil:
		return r.drop(ctx, e)
	case ready:
		return r.ensure(ctx, e, s)
	}
	return nil
}

// ensure looks how the agent has a service, and puts that right.
func (r *Registrar) ensure(ctx context.Context, e *entry, s Service) error {
	want := s.registration(r.note.Owner)
	has, ok, err := r.agent().Registered(ctx, s.Name, s.ID)
	if err != nil {
		return err
	}
	why := "the agent didn't have it"
	if ok {
		why = has.Differs(want)
	}
	if why != "" {
		if has, err = r.put(ctx, e, s, has, ok, why); err != nil {
			return err
		}
	}
	if has.Maintenance == Reason { // an earlier run was leaving, and not let go
		if err := r.agent().Maintain(ctx, s.ID, false, ""); err != nil {
			return err
		}
		has.Maintenance = ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.dropped == nil {
		e.enter(Registered)
	}
	e.hash, e.status.Health, e.status.Maintenance = has.Hash, has.Status, has.Maintenance
	if why == "" {
		return nil
	}
	return e.quarrels()
}

// put registers a service, and gives what the agent made of it.
func (r *Registrar) put(ctx context.Context, e *entry, s Service, has consul.Registered, ok bool, why string) (consul.Registered, error) {
	want := s.registration(r.note.Owner)
	r.mu.Lock()
	again := e.status.State == Registered
	r.mu.Unlock()
	if ok && again {
		want.Status = has.Status // the agent's to say
	} else if r.justReady(ctx, e, s) {
		want.Status = "passing"
	}
	if err := r.note.add(s.ID); err != nil {
		r.log.WithError(err).Warn("the service isn't noted: after a crash nobody would deregister it")
	}
	if err := r.agent().Register(ctx, want); err != nil {
		return has, err
	}
	log := r.log.WithField("service", s.Name).WithField("id", s.ID).WithField("port", s.Port)
	if again {
		log.WithField("why", why).Info("service registered again")
	} else {
		log.WithField("health", cmp.Or(want.Status, "unknown")).Info("service registered")
	}
	has, ok, err := r.agent().Registered(ctx, s.Name, s.ID)
	if err != nil {
		return has, err
	}
	if !ok {
		return has, fmt.Errorf("service %q: %w", s.Name, errQuarrel)
	}
	if differs := has.Differs(want); differs != "" {
		return has, fmt.Errorf("service %q: %s: %w", s.Name, differs, errQuarrel)
	}
	return has, nil
}

// justReady says that the service could take a request at this moment.
func (r *Registrar) justReady(ctx context.Context, e *entry, s Service) bool {
	if s.Ready == nil {
		return false
	}
	r.mu.Lock()
	fresh := time.Since(e.fresh) < r.times.ready
	r.mu.Unlock()
	return fresh || r.isReady(ctx, s.Ready)
}

// quarrels counts what was put right, and is an error when that is too often;
// r.mu is held.
func (e *entry) quarrels() error {
	if time.Since(e.putSince) > time.Minute {
		e.putSince, e.puts = time.Now(), 0
	}
	if e.puts++; e.puts > patience {
		return fmt.Errorf("service %q: %w", e.service.Name, errQuarrel)
	}
	return nil
}

// drop takes off a service that Set doesn't have any more, one step for each
// call.
func (r *Registrar) drop(ctx context.Context, e *entry) error {
	r.mu.Lock()
	d, id, name := e.dropped, e.service.ID, e.service.Name
	r.mu.Unlock()
	put := r.note.has(id)
	late := !time.Now().Before(d.until)
	if put && !d.told && !late {
		if err := r.agent().Maintain(ctx, id, true, Reason); err != nil {
			return err
		}
		d.told = true
		r.log.WithField("service", name).WithField("id", id).Info("service is leaving")
	}
	if !late {
		return nil // Run comes again when it is time
	}
	r.mu.Lock()
	d.close()
	r.mu.Unlock()
	if put {
		if err := r.forget(ctx, id); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.dropped == d { // Set didn't bring it back meanwhile
		r.entries = slices.DeleteFunc(r.entries, func(o *entry) bool { return o == e })
	}
	return nil
}

// forget deregisters, and takes the id out of the note.
func (r *Registrar) forget(ctx context.Context, id string) error {
	if err := r.agent().Deregister(ctx, id); err != nil {
		return err
	}
	r.log.WithField("id", id).Info("service deregistered")
	if err := r.note.remove(id); err != nil {
		r.log.WithError(err).Warn("the note still has the service; the next start finds it gone")
	}
	return nil
}

// cleanUp deregisters what an earlier run left.
func (r *Registrar) cleanUp(ctx context.Context) error {
	var errs []error
	r.stale = slices.DeleteFunc(r.stale, func(id string) bool {
		r.mu.Lock()
		wanted := r.find(id) != nil
		r.mu.Unlock()
		if wanted {
			return true
		}
		has, ok, err := r.agent().Registered(ctx, "", id)
		if err == nil && ok && has.Meta[metaOwner] == r.note.Owner {
			err = r.forget(ctx, id)
		} else if err == nil { // it has gone, or is another's now
			if failed := r.note.remove(id); failed != nil {
				r.log.WithError(failed).Warn("the note still has a service that has gone")
			}
		}
		if consul.Denied(err) {
			r.log.WithError(err).Warn("what an earlier run registered can't be deregistered")
			return true
		}
		errs = append(errs, err)
		return err == nil
	})
	return errors.Join(errs...)
}
