package quota

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// patience is how long a request waits for the disk. One that is slower
	// than that is as good as broken.
	patience   = 2 * time.Second
	retryFirst = time.Second
	retryMost  = 30 * time.Second
	sweepEvery = time.Hour
	// shrinkAt is the size from which the file is written anew when most of it
	// is old.
	shrinkAt = 1 << 20
)

// writer is the way to the disk.
type writer struct {
	wake chan struct{} // there is something to write

	mu      sync.Mutex // guards what follows
	waiting []*entry
	done    chan struct{} // closed at the end of each round
}

// enqueue lets the writer know of an entry whose waiting was set.
func (w *writer) enqueue(e *entry) {
	w.mu.Lock()
	w.waiting = append(w.waiting, e)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// round is closed when the round that goes on, or the next one, ends.
func (w *writer) round() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}

// settle waits until the disk knows of what a has used, or can't.
func (s *Store) settle(a *ask) {
	var late *time.Timer
	for !s.failing.Load() {
		round := s.writer.round() // before looking, so that none is missed
		sh := s.shard(&a.e.id)
		sh.mu.Lock()
		c := a.e.find(a.start)
		settled := c == nil || c.reserved >= a.used
		wake := !settled && !a.e.waiting
		a.e.waiting = a.e.waiting || wake
		sh.mu.Unlock()
		if settled {
			break
		}
		if wake {
			s.writer.enqueue(a.e)
		}
		if late == nil {
			late = time.NewTimer(patience)
		}
		select {
		case <-round:
		case <-late.C:
			if s.failing.CompareAndSwap(false, true) {
				s.Log.WithField("file", s.Path).Error("the disk is too slow for quotas: they are counted in memory, and a crash would lose what is used meanwhile")
			}
		}
	}
	if late != nil {
		late.Stop()
	}
}

// Run writes what is used until ctx ends, and then how much it was.
func (s *Store) Run(ctx context.Context) {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	pause, broken := retryFirst, false
	for {
		select {
		case <-ctx.Done():
			if err := s.close(); err != nil {
				s.Log.WithError(err).Error("what was used of quotas can't be written down; what was set aside counts")
			}
			return
		case <-sweep.C:
			s.sweep(s.Now())
			continue
		case t := <-s.turns:
			t.done <- t.do()
			s.writer.end()
			continue
		case <-look.C:
			if !s.inherit() {
				continue
			}
		case <-s.writer.wake:
			if broken {
				continue // it is its time's turn
			}
		case <-retry.C:
		}
		err := s.write(broken)
		if broken = err != nil; broken {
			if !s.failing.Swap(true) {
				s.Log.WithError(err).Error("quotas can't be written to the disk: they are counted in memory, and a crash would lose what is used meanwhile")
			}
			retry.Reset(pause)
			pause = min(2*pause, retryMost)
		} else {
			if s.failing.Swap(false) {
				s.Log.Info("quotas are written to the disk again")
			}
			pause = retryFirst
		}
		s.writer.end()
	}
}

// end ends a round.
func (w *writer) end() {
	w.mu.Lock()
	close(w.done)
	w.done = make(chan struct{})
	w.mu.Unlock()
}

// record says how much a client may have used, at most, in a period.
type record struct {
	id
	start, used, limit, owed int64

	e       *entry
	most    int64 // that e may have used, with what was used before the yield
	version int
}

// write sets aside what the waiting entries need. After a failure the whole file
// is written anew: nobody knows how much of the last write is in it.
func (s *Store) write(anew bool) error {
	s.writer.mu.Lock()
	list := s.writer.waiting
	s.writer.waiting = nil
	s.writer.mu.Unlock()
	var records []record
	for _, e := range list {
		sh := s.shard(&e.id)
		sh.mu.Lock()
		e.waiting = false
		records = e.records(records, needed, s.own != nil)
		sh.mu.Unlock()
	}
	if len(records) == 0 && !anew && len(s.taken) == 0 {
		return nil
	}
	var err error
	if anew || len(s.taken) > 0 || s.file.size > shrinkAt && s.file.size > 4*s.file.live {
		records = s.snapshot(all)
		if err = s.file.replace(records); err == nil {
			s.bury()
		}
	} else {
		err = s.file.append(records)
	}
	if err != nil {
		return err
	}
	s.reserved(records)
	return nil
}

// what says which records of an entry are wanted.
type what uint8

const (
	needed what = iota // those that the disk doesn't know
	all
	exact // all, with nothing more set aside than was used
)

// records are those of an entry, whose shard is locked.
func (e *entry) records(to []record, w what, drains bool) []record {
	for _, c := range []*count{&e.prev, &e.cur} {
		if c.start == 0 || w == needed && c == &e.prev && c.reserved >= c.used || drains && w != needed && c.used == c.base && c.owed == 0 {
			continue
		}
		used := c.used
		if w != exact {
			used = max(min(c.used+chunk(e.limit), e.limit), c.used)
		}
		r := record{e.id, c.start, used - c.base, e.limit, 0, e, used, e.version}
		if c.owed > 0 { // and so will be what is set aside
			r.owed = c.owed + used - c.used
		}
		if drains && e.shared { // of what it is told, the fleet knows
			r.used = r.owed
		}
		to = append(to, r)
	}
	return to
}

// snapshot are the records of all entries.
func (s *Store) snapshot(w what) (list []record) {
	for i := range s.list {
		sh := &s.list[i]
		sh.mu.Lock()
		for _, e := range sh.m {
			list = e.records(list, w, s.own != nil)
		}
		sh.mu.Unlock()
	}
	return list
}

// reserved notes what the disk knows now.
func (s *Store) reserved(records []record) {
	for i := range records {
		r := &records[i]
		sh := s.shard(&r.id)
		sh.mu.Lock()
		if c := r.e.find(r.start); c != nil && r.e.version == r.version {
			c.reserved = r.most
		}
		sh.mu.Unlock()
	}
}

// open reads the file, once. Without it everybody would have a whole quota
// again, so that one which can't be read is an error.
func (s *Store) open() error {
	s.opening.Lock()
	defer s.opening.Unlock()
	if s.opened || s.Path == "" {
		return nil
	}
	if s.wanted = s.held; s.held {
		return nil
	}
	records, bad, err := s.file.open(s.Path)
	if err != nil {
		return fmt.Errorf("what was used of quotas can't be read: %w", err)
	}
	if bad > 0 {
		s.Log.WithField("file", s.Path).Errorf("%d records of quotas are damaged, and left out", bad)
	}
	now := s.Now()
	for i := range records {
		if r := &records[i]; !past(r.period, r.start, now) {
			s.load(r)
		}
	}
	if err := s.findDrains(); err != nil {
		return fmt.Errorf("what was used of quotas can't be read: %w", err)
	}
	s.opened = true
	return nil
}

// load takes over a record. There is always room for it: to count it together
// with others would be to forget it.
func (s *Store) load(r *record) {
	a := ask{id: r.id, limit: r.limit, start: r.start}
	sh := s.shard(&a.id)
	sh.mu.Lock()
	s.entry(sh, &a)
	c := a.e.at(r.start)
	if c.start == r.start {
		c.used, c.reserved, c.owed, c.known = r.used, r.used, r.owed, max(0, r.used-r.owed)
		a.e.limit, a.e.warned = r.limit, most(a.e.cur.used, r.limit)
	}
	sh.mu.Unlock()
}

// close writes down exactly what was used.
func (s *Store) close() error {
	s.opening.Lock()
	defer s.opening.Unlock()
	if !s.opened {
		return nil
	}
	err := s.file.replace(s.snapshot(exact))
	if err == nil {
		s.bury()
	}
	return errors.Join(err, s.file.close(), s.release())
}
