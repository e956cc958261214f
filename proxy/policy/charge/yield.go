package charge

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
)

// A process that hands over goes on with the requests that it has, and its successor
// needs the journal. What the old one has in flight then moves to a journal of its
// own, in a folder that it holds locked (a drain); all else becomes the successor's.
// Whatever is charged, told or returned on either side is in one of the two journals
// alone. When the old one has ended, of itself or not, the successor, or whoever owns
// the journal by then, takes in what its drain has.
//
//	charges/0000000007.log           the successor's
//	charges/drain-…/0000000001.log   of the one that drains
//	charges/claims/…                 clients' keys that either charged for meanwhile
//
// The two write one after the other, so that after a crash in between something can
// be in both: what the drain says is newer, then.
//
// A lease that is in use is split: the old process has a part of it (state part), and
// the lease, which says how much is lent, is given back once that is settled.

// errYielded says that the journal belongs to another process already.
var errYielded = errors.New("charges have been handed over already")

// lockPatience is how long Resume waits for the successor to end.
const lockPatience = 5 * time.Second

// turn is something that the writer does between two writes.
type turn struct {
	do   func() error
	done chan error // capacity 1
}

// atTurn has the writer do something.
func (l *Ledger) atTurn(do func() error) error {
	t := turn{do, make(chan error, 1)}
	select {
	case l.turns <- t:
		return <-t.done
	case <-l.ctx.Done():
		return errClosed
	}
}

// isOpen reports whether there is a journal.
func (l *Ledger) isOpen() bool {
	l.opening.Lock()
	defer l.opening.Unlock()
	return l.opened && l.Path != ""
}

// Hold keeps the journal from being opened before Claim: it is still another
// process's. Nothing is charged until then.
func (l *Ledger) Hold() {
	l.opening.Lock()
	defer l.opening.Unlock()
	l.held = !l.opened
}

// Claim opens the journal, if a configuration has asked for it since Hold.
func (l *Ledger) Claim() error {
	l.opening.Lock()
	wanted := l.held && l.wanted
	l.held, l.wanted = false, false
	l.opening.Unlock()
	if !wanted {
		return nil
	}
	return l.open()
}

// Yield hands the journal to a successor, while Run runs. Charges go on, in a journal
// of their own. With an error nothing has changed.
func (l *Ledger) Yield() error {
	if !l.isOpen() {
		return nil
	}
	return l.atTurn(l.yield)
}

// Resume takes the journal back, from a successor that has ended, and takes in what
// was charged meanwhile.
func (l *Ledger) Resume() error {
	if !l.isOpen() {
		return nil
	}
	late := time.Now().Add(lockPatience)
	for {
		err := l.atTurn(l.resume)
		if !errors.Is(err, errInUse) || time.Now().After(late) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-l.ctx.Done():
			return errClosed
		}
	}
}

// yield is the writer's.
func (l *Ledger) yield() error {
	if l.own != nil {
		return errYielded
	}
	if err := l.writeOnce(); err != nil { // what was waited for is in the old journal
		return err
	}
	own, err := estate.Found(l.Path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	was, r := l.claims, l.round
	left := l.divide(own)
	ours, theirs := l.state.snapshot(), left.snapshot()
	l.mu.Unlock()
	next := journal{dir: own.Dir()}
	if err = next.replace(lines(ours)); err == nil {
		err = l.file.replace(lines(theirs))
	}
	if err != nil {
		l.mu.Lock()
		for _, e := range l.absorb(left, own.Name()) {
			l.enqueue(e)
		}
		l.own, l.claims, l.anew = nil, was, true
		l.mu.Unlock()
		err = errors.Join(err, next.close(), own.Remove())
		r.err = l.writeOnce()
		close(r.done)
		return err
	}
	close(r.done)
	l.bury(theirs)
	old := l.file
	l.file = next
	if err := old.close(); err != nil { // it is written and synced
		l.Log.WithError(err).Debug("closing the journal of charges")
	}
	return nil
}

// divide begins a journal of our own, in memory, and returns what isn't ours any more;
// l.mu is held.
func (l *Ledger) divide(own *estate.Estate) (left *state) {
	l.buf, l.round = nil, newRound() // which is in both states
	keys := l.newClaims()
	left = l.split(own.Name(), keys)
	l.own, l.claims = own, keys
	return left
}

// lines are records as they are written.
func lines(list []record) (b []byte) {
	for i := range list {
		b = appendRecord(b, &list[i])
	}
	return b
}

// split leaves in the state what is in flight, and returns all else; l.mu is held.
func (l *Ledger) split(name string, keys *claims) *state {
	s := &l.state
	left := newState()
	left.totals, s.totals = s.totals, map[totalKey]*total{}
	left.heirOf, s.heirOf = s.heirOf, map[string]bool{}
	left.keys, left.order = s.keys, s.order
	s.keys, s.order, s.crowded = map[string]usedKey{}, nil, ""
	for id, e := range s.entries {
		switch {
		case e.holders > 0, e.State == asked:
			if e.State == settle { // the journal that has it has its total, too: a crash may leave it in that alone
				left.total(&e.record, -e.Units, -1)
				s.total(&e.record, e.Units, 1)
			}
			continue
		case e.State == active:
			l.lend(&left, e, name)
			continue
		}
		delete(s.entries, id)
		if left.begin(asEntry(e)); e.State == settle {
			e.acct.owed -= e.Units
		} else if e.State == dead {
			s.deads--
		}
	}
	for key, e := range l.flights { // whoever is first to charge for it has charged for it
		if k, ok := left.keys[key]; ok && k.id == e.ID {
			delete(left.keys, key)
			s.keys[key], s.order = k, append(s.order, key)
		}
		if e.served > 0 {
			keys.take(key)
		}
	}
	s.elder = maps.Clone(left.keys)
	for _, t := range l.targets {
		t.queue = slices.DeleteFunc(t.queue, func(e *entry) bool { return s.entries[e.ID] != e })
	}
	return &left
}

// lend splits a lease: this process keeps what its requests may come to use, and half
// of what is left.
func (l *Ledger) lend(left *state, e *entry, name string) {
	n := e.held
	if e.lasts(l.Now()) {
		n += max(0, e.left()) / 2
	}
	whole := left.begin(asEntry(e))
	if n == 0 && e.open == 0 {
		delete(l.state.entries, e.ID)
		e.acct.leases = slices.DeleteFunc(e.acct.leases, func(o *entry) bool { return o == e })
		return
	}
	if whole.Lent == nil {
		whole.Lent = map[string]int64{}
	}
	whole.Lent[name] = n
	e.State, e.Granted, e.Used, e.Days, e.Lent = part, n, 0, nil, nil
}

// asEntry is the record of an entry as it is.
func asEntry(e *entry) *record {
	r := e.record
	r.Type, r.Days, r.Lent = isEntry, maps.Clone(r.Days), maps.Clone(r.Lent)
	if e.isLease() {
		r.Mode = modeLease
	}
	return &r
}

// absorb takes another state in, and returns the entries that it brings; l.mu is held.
// name is the drain that one of the two is.
func (l *Ledger) absorb(o *state, name string) (came []*entry) {
	for id, e := range o.entries {
		have := l.state.entries[id]
		switch {
		case have == nil && e.State == part:
			l.Log.WithField("lease", id).Error("a lease is gone that another process has spent from: compare with sidegate charges reconcile")
		case have == nil:
			came = append(came, l.state.begin(asEntry(e)))
		case e.State == part:
			have.join(e, name)
		case have.State == part:
			spent := have.record
			r := asEntry(e)
			have.State, have.Granted, have.Used, have.Days, have.Lent = r.State, r.Granted, r.Used, r.Days, r.Lent
			have.join(&entry{record: spent}, name)
		case l.own == nil: // a crash came between the two writes
			came = append(came, l.state.renew(have, e))
		}
	}
	for k, t := range o.totals {
		sum := l.state.dayTotal(k)
		sum.units, sum.told, sum.count = sum.units+t.units, sum.told+t.told, sum.count+t.count
	}
	for _, key := range o.order {
		if k := o.keys[key]; k.id != "" && l.state.keys[key].id == "" {
			l.state.putKey(&record{ID: k.id, Key: key, Until: k.until, Count: int64(k.uses)})
		}
	}
	maps.Copy(l.state.heirOf, o.heirOf)
	return came
}

// join adds what was spent of a part of a lease.
func (e *entry) join(p *entry, name string) {
	e.Used += p.Used
	for day, units := range p.Days {
		if e.Days == nil {
			e.Days = map[string]int64{}
		}
		e.Days[day] += units
	}
	delete(e.Lent, name)
}

// renew puts a newer entry in the place of one, as if that had never been.
func (s *state) renew(have, e *entry) *entry {
	if have.State == settle {
		have.acct.owed -= have.Units
		s.total(&have.record, -have.Units, -1) // the other one's totals have it
	}
	have.acct.leases = slices.DeleteFunc(have.acct.leases, func(o *entry) bool { return o == have })
	return s.begin(asEntry(e))
}

// hasPaid reports whether a client's key was paid for, so that this request is free;
// l.mu is held.
func (l *Ledger) hasPaid(key string, now int64, repeats int) bool {
	k := l.state.keys[key]
	if k.id == "" {
		k = l.state.elder[key]
	}
	if k.id != "" && k.until > now && k.uses < repeats {
		if k.uses++; l.state.elder[key].id == k.id {
			l.state.elder[key] = k
		} else {
			l.state.keys[key] = k
		}
		return true
	}
	return l.claims.elsewhere(key)
}

// findDrains takes in what processes have left that have yielded and ended, and finds
// those that work yet. The journal has been read.
func (l *Ledger) findDrains() error {
	names, err := estate.List(l.Path)
	if err != nil {
		return err
	}
	for _, name := range names {
		own, err := estate.Take(l.Path, name)
		switch {
		case err != nil:
			return err
		case own == nil:
			l.drains[name] = true
		case l.state.heirOf[name]: // a crash came before it was removed
			err = own.Remove()
		default:
			err = l.takeIn(own)
		}
		if err != nil {
			return err
		}
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = l.drains[name] || l.taken[name] != nil
	}
	for name := range l.state.heirOf {
		if !known[name] {
			delete(l.state.heirOf, name)
		}
	}
	for _, e := range l.state.entries { // of drains that somebody has removed
		maps.DeleteFunc(e.Lent, func(name string, _ int64) bool { return !known[name] || l.taken[name] != nil })
	}
	l.claims = l.newClaims()
	l.noDrains()
	return nil
}

func (l *Ledger) newClaims() *claims {
	return &claims{dir: filepath.Join(l.Path, claimsFolder), me: hex.EncodeToString(l.ids.boot[:])}
}

// noDrains forgets the claims once there is one process; l.mu is held.
func (l *Ledger) noDrains() {
	if len(l.drains) > 0 || l.own != nil || l.claims == nil {
		return
	}
	if err := l.claims.clear(); err != nil {
		l.Log.WithError(err).Debug("clients' keys of two processes can't be removed") // the next start does
	}
	l.claims = nil
}

// takeIn absorbs a drain, which is locked. The journal is written anew before it goes.
func (l *Ledger) takeIn(own *estate.Estate) error {
	o := newState()
	bad, err := (&journal{}).open(own.Dir(), func(r *record) { o.apply(r) })
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", own.Dir(), err), own.Close())
	}
	l.bad += bad
	came := l.absorb(&o, own.Name())
	l.state.heirOf[own.Name()], l.taken[own.Name()] = true, own
	for _, e := range came {
		l.undecided(e)
	}
	for _, e := range came {
		l.enqueue(e)
	}
	delete(l.drains, own.Name())
	l.anew = true
	l.wakeWriter()
	return nil
}

// inherit takes in what processes have left that have ended since.
func (l *Ledger) inherit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own != nil || len(l.drains) == 0 || l.closed {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(l.drains)) {
		own, err := estate.Take(l.Path, name)
		if err == nil && own == nil {
			continue
		}
		if err == nil {
			err = l.takeIn(own)
		}
		if err != nil {
			l.Log.WithError(err).Error("what a process has charged after handing over can't be read: it is tried again")
			continue
		}
		l.Log.WithField("drain", name).Info("the charges of the process before are taken over")
	}
	l.noDrains()
}

// bury removes the drains that are in the records, which the disk has.
func (l *Ledger) bury(list []record) {
	for i := range list {
		r := &list[i]
		if r.Type != isHeir {
			continue
		}
		l.mu.Lock()
		own := l.taken[r.ID]
		delete(l.taken, r.ID)
		delete(l.state.heirOf, r.ID)
		l.mu.Unlock()
		if own == nil {
			continue
		}
		if err := own.Remove(); err != nil {
			l.Log.WithError(err).Error("the charges of the process before can't be removed, and stay until the next start")
		}
	}
}

// release lets go of what is locked.
func (l *Ledger) release() error {
	err := l.leaveDrains()
	if l.own != nil {
		err = errors.Join(err, l.own.Close())
	}
	return err
}

func (l *Ledger) leaveDrains() error {
	var errs error
	for name, own := range l.taken {
		errs = errors.Join(errs, own.Close())
		delete(l.taken, name)
	}
	clear(l.drains)
	return errs
}

// resume is the writer's.
func (l *Ledger) resume() error {
	if l.own == nil {
		return nil
	}
	var j journal
	var err error
	if j.node, err = acquire(l.Path); err != nil {
		return err
	}
	o := newState()
	bad, err := j.open(l.Path, func(r *record) { o.apply(r) })
	if err != nil {
		return errors.Join(err, j.close())
	}
	l.mu.Lock()
	own := l.own
	l.bad += bad
	came := l.absorb(&o, own.Name())
	drain := l.file
	l.file, l.own, l.state.elder, l.anew = j, nil, nil, true
	l.state.heirOf[own.Name()], l.taken[own.Name()] = true, own
	for _, e := range came {
		l.undecided(e)
	}
	for _, e := range came {
		l.enqueue(e)
	}
	err = l.findDrains()
	delete(l.drains, own.Name())
	l.noDrains()
	l.mu.Unlock()
	return errors.Join(err, drain.close(), l.writeOnce())
}
