package quota

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
)

// A process that hands over writes down what was used, for its successor, and from
// then on only what is used beyond that, in a folder of its own (a drain). When it has
// ended, of itself or not, whoever has the file adds that. Meanwhile each of the two
// knows of the other what was used before: a client can use what was left then once
// more, of the connections that it has with the old one.

const (
	lookEvery = 500 * time.Millisecond
	drainFile = "quota.log"
)

var errEnded = errors.New("the gateway is shutting down")

// turn is something that Run does between two writes.
type turn struct {
	do   func() error
	done chan error // capacity 1
}

func (s *Store) atTurn(do func() error) error {
	s.opening.Lock()
	opened := s.opened
	s.opening.Unlock()
	if !opened {
		return nil
	}
	t := turn{do, make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	select {
	case s.turns <- t:
		return <-t.done
	case <-ctx.Done():
		return errEnded
	}
}

// Hold keeps the file from being opened before Claim: it is still another process's.
// Nothing is counted until then.
func (s *Store) Hold() {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.held = !s.opened
}

// Claim opens the file, if a configuration has asked for it since Hold.
func (s *Store) Claim() error {
	s.opening.Lock()
	wanted := s.held && s.wanted
	s.held, s.wanted = false, false
	s.opening.Unlock()
	if !wanted {
		return nil
	}
	return s.open()
}

// Yield hands the file to a successor, while Run runs. Counting goes on. With an error
// nothing has changed.
func (s *Store) Yield() error { return s.atTurn(s.yield) }

// Resume takes the file back, from a successor that has ended.
func (s *Store) Resume() error { return s.atTurn(s.resume) }

// drainsDir is where drains are.
func (s *Store) drainsDir() string { return filepath.Join(filepath.Dir(s.Path), "quota-drains") }

// each calls f with all counts, each in its shard's lock.
func (s *Store) each(f func(e *entry, c *count)) {
	for i := range s.list {
		sh := &s.list[i]
		sh.mu.Lock()
		for _, e := range sh.m {
			for _, c := range []*count{&e.prev, &e.cur} {
				if c.start != 0 {
					f(e, c)
				}
			}
		}
		sh.mu.Unlock()
	}
}

func (s *Store) yield() error {
	if s.own != nil {
		return errors.New("quotas have been handed over already")
	}
	own, err := estate.Found(s.drainsDir())
	if err != nil {
		return err
	}
	var records []record
	s.each(func(e *entry, c *count) {
		records = append(records, record{id: e.id, start: c.start, used: c.used, limit: e.limit, owed: c.owed, e: e})
		c.base, c.reserved, c.owed = c.used, -1, 0
	})
	if err := s.file.replace(records); err != nil {
		for i := range records {
			r := &records[i]
			sh := s.shard(&r.id)
			sh.mu.Lock()
			if c := r.e.find(r.start); c != nil { // nobody knows what of that is in the file
				c.base, c.reserved, c.owed = 0, -1, c.owed+r.owed
			}
			sh.mu.Unlock()
		}
		return errors.Join(err, own.Remove(), s.write(true))
	}
	s.bury()
	s.each(func(_ *entry, c *count) {
		if c.reserved < 0 {
			c.reserved = c.base
		}
	})
	err = s.file.close() // all is written and synced
	s.own, s.file = own, file{path: filepath.Join(own.Dir(), drainFile)}
	if err != nil {
		s.Log.WithError(err).Debug("closing the file of quotas")
	}
	return nil
}

func (s *Store) resume() error {
	if s.own == nil {
		return nil
	}
	own, drain := s.own, s.file
	var f file
	records, _, err := f.open(s.Path)
	if err != nil {
		return err
	}
	last := map[id]map[int64]*record{}
	for i := range records {
		r := &records[i]
		if last[r.id] == nil {
			last[r.id] = map[int64]*record{}
		}
		last[r.id][r.start] = r
	}
	for k, list := range last {
		for _, start := range slices.Sorted(maps.Keys(list)) {
			s.rejoin(&k, list[start])
		}
	}
	s.each(func(_ *entry, c *count) { c.base, c.reserved = 0, -1 })
	f.heirOf = append(f.heirOf, own.Name())
	s.file, s.own, s.taken[own.Name()] = f, nil, own
	if err := s.findDrains(); err != nil {
		return err
	}
	delete(s.drains, own.Name())
	return errors.Join(drain.close(), s.write(true))
}

// rejoin brings what the successor has counted and what was counted here together.
func (s *Store) rejoin(k *id, r *record) {
	sh := s.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	a := ask{id: *k, limit: r.limit, start: r.start}
	s.entry(sh, &a)
	if c := a.e.at(r.start); c.start == r.start {
		c.used, c.owed = max(0, r.used+c.used-c.base), c.owed+r.owed
	}
}

// findDrains adds what processes have left that have yielded and ended, and finds those
// that work yet.
func (s *Store) findDrains() error {
	names, err := estate.List(s.drainsDir())
	if err != nil {
		return err
	}
	s.file.heirOf = slices.DeleteFunc(s.file.heirOf, func(name string) bool { return !slices.Contains(names, name) })
	for _, name := range names {
		s.drains[name] = true
	}
	_, err = s.takeAll()
	return err
}

// inherit adds what processes have left that have ended since. It reports whether there
// was any.
func (s *Store) inherit() bool {
	if s.own != nil || len(s.drains) == 0 {
		return false
	}
	n, err := s.takeAll()
	if err != nil {
		s.Log.WithError(err).Error("what a process has counted of quotas after handing over can't be read: it is tried again")
	}
	return n > 0
}

func (s *Store) takeAll() (n int, err error) {
	for _, name := range slices.Sorted(maps.Keys(s.drains)) {
		own, err := estate.Take(s.drainsDir(), name)
		switch {
		case err != nil:
			return n, err
		case own == nil:
			continue
		case slices.Contains(s.file.heirOf, name): // a crash came before it was removed
			if err := own.Remove(); err != nil {
				return n, err
			}
		default:
			if err := s.takeIn(own); err != nil {
				return n, errors.Join(err, own.Close())
			}
			n++
		}
		delete(s.drains, name)
	}
	return n, nil
}

// takeIn adds what a drain has counted. It goes when the file has that.
func (s *Store) takeIn(own *estate.Estate) error {
	var f file
	records, _, err := f.open(filepath.Join(own.Dir(), drainFile))
	if err != nil {
		return err
	}
	type key struct {
		id
		start int64
	}
	last := map[key]record{}
	for _, r := range records {
		last[key{r.id, r.start}] = r
	}
	now := s.Now()
	for _, r := range last {
		if past(r.period, r.start, now) {
			continue
		}
		a := ask{id: r.id, limit: r.limit, start: r.start}
		sh := s.shard(&a.id)
		sh.mu.Lock()
		s.entry(sh, &a)
		if c := a.e.at(r.start); c.start == r.start {
			c.used, c.owed = max(0, c.used+r.used), c.owed+r.owed
			a.e.limit = r.limit
		}
		sh.mu.Unlock()
	}
	s.taken[own.Name()] = own
	s.file.heirOf = append(s.file.heirOf, own.Name())
	return nil
}

// bury removes the drains whose counts are in the file now.
func (s *Store) bury() {
	for name, own := range s.taken {
		delete(s.taken, name)
		if err := own.Remove(); err != nil {
			s.Log.WithError(err).Error("what a process has counted of quotas after handing over can't be removed, and stays until the next start")
			continue
		}
		s.file.heirOf = slices.DeleteFunc(s.file.heirOf, func(n string) bool { return n == name })
	}
}

// release lets go of what is locked.
func (s *Store) release() error {
	var errs error
	for name, own := range s.taken {
		errs = errors.Join(errs, own.Close())
		delete(s.taken, name)
	}
	if s.own != nil {
		errs = errors.Join(errs, s.own.Close())
		s.own = nil
	}
	return errs
}
