package charge

import (
	"errors"
	"maps"
	"slices"
	"time"
)

const (
	// early is how long before its end a lease isn't spent from any more.
	early = time.Second
	// noTime is how long a no to a lease holds.
	noTime = time.Second
)

// terms are what a block says of leases.
type terms struct {
	t       *Target
	block   int64
	lasts   time.Duration
	timeout time.Duration
	route   string
}

// hold takes units of a lease of the account, and waits for one to come if there is
// none with so much left. A Refusal is the billing service's.
func (l *Ledger) hold(p *terms, consumer, meter string, units int64) (*entry, error) {
	var late *time.Timer
	for {
		l.mu.Lock()
		a := l.state.account(p.t.name, consumer, meter)
		now := l.Now()
		e := a.with(units, now)
		if e != nil {
			e.held += units
			e.open++
		}
		if more := e == nil || a.leftAt(now) < p.block/2 && l.own == nil; more && a.asking == nil && !now.Before(a.until) {
			l.renew(p, a, units)
		}
		asking, refused, failed := a.asking, a.refused, a.failed
		l.mu.Unlock()
		switch {
		case e != nil:
			return e, nil
		case asking == nil && refused != nil:
			return nil, refused
		case asking == nil:
			return nil, failed
		}
		if late == nil {
			late = time.NewTimer(p.timeout)
			defer late.Stop()
		}
		select {
		case <-asking:
		case <-late.C:
			return nil, errors.New("no lease came in time")
		}
	}
}

// with is a lease with so much left: the one that ends first.
func (a *account) with(units int64, now time.Time) (found *entry) {
	for _, e := range a.leases {
		if e.left() >= units && e.lasts(now) && (found == nil || e.Until < found.Until) {
			found = e
		}
	}
	return found
}

func (e *entry) lasts(now time.Time) bool { return now.Add(early).UnixMilli() < e.Until }

// leftAt is what is left of all leases.
func (a *account) leftAt(now time.Time) (left int64) {
	for _, e := range a.leases {
		if e.lasts(now) {
			left += max(0, e.left())
		}
	}
	return left
}

// renew asks for another block in the background; l.mu is held.
func (l *Ledger) renew(p *terms, a *account, units int64) {
	if l.closed || l.ctx.Err() != nil {
		a.failed, a.refused = errClosed, nil
		return
	}
	now := l.Now()
	e := l.log(&record{
		Type: isLease, ID: l.ids.next(now), At: now.UnixMilli(), To: a.target, Mode: modeLease, Meter: a.meter, Consumer: a.consumer, Route: p.route,
		Units: max(p.block, units), Until: now.Add(p.lasts).UnixMilli(),
	})
	r, done := l.round, make(chan struct{})
	a.asking = done
	l.working.Add(1)
	go func() { // ends with the question, which has a time
		defer l.working.Done()
		defer close(done)
		l.askForLease(p, a, e, r)
	}()
}

// askForLease asks, and notes what came of it.
func (l *Ledger) askForLease(p *terms, a *account, e *entry, r *round) {
	err := l.flush(r)
	if err == nil {
		err = l.ready(p.t)
	}
	asked := err == nil
	var said *reply
	if asked {
		m := message{
			ID: e.ID, Kind: "lease", Meter: e.Meter, Units: Amount(e.Units), Consumer: e.Consumer, Route: e.Route, Time: stamp(e.At), Expires: stamp(e.Until),
		}
		said, err = l.ask(p.t, &m, p.timeout)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a = l.state.account(a.target, a.consumer, a.meter)
	a.asking, a.refused, a.failed = nil, nil, nil
	var no *Refusal
	switch {
	case err == nil:
		granted, until := e.Units, e.Until
		if said.Granted != nil {
			granted = max(0, min(int64(*said.Granted), granted))
		}
		if said.Expires != nil {
			until = min(until, said.Expires.UnixMilli())
		}
		l.log(&record{Type: isGrant, ID: e.ID, Granted: granted, Until: until})
		switch {
		case granted < e.Units:
			a.refused, a.until = &Refusal{"no credit is left"}, l.Now().Add(noTime)
		case !e.lasts(l.Now()):
			a.failed, a.until = errors.New("the lease it gave has ended already: do the clocks agree?"), l.Now().Add(noTime)
		}
		return
	case errors.As(err, &no):
		l.log(&record{Type: isRefuse, ID: e.ID, Reason: no.Reason})
		a.refused, a.until = no, l.Now().Add(noTime)
		return
	case !asked:
		l.log(&record{Type: isRefuse, ID: e.ID, Reason: err.Error()})
	default: // it may have been granted, and the answer lost
		l.enqueue(l.log(&record{Type: isReturn, ID: e.ID}))
	}
	a.failed, a.until = err, l.Now().Add(backoffFirst)
}

// giveBack returns a lease, once no request has anything of it, nor another process;
// l.mu is held.
func (l *Ledger) giveBack(e *entry) {
	if e.open == 0 && len(e.Lent) == 0 && e.State == active {
		l.enqueue(l.log(&record{Type: isReturn, ID: e.ID}))
	}
}

// lookAtLeases returns those whose time is over, and those of which hardly anything is
// left while there is a newer one; l.mu is held.
func (l *Ledger) lookAtLeases(a *account, now time.Time) {
	for _, e := range slices.Clone(a.leases) {
		newer := slices.ContainsFunc(a.leases, func(o *entry) bool { return o.At > e.At && o.lasts(now) })
		if !e.lasts(now) || e.left() <= 0 || newer && e.left() < e.Granted/100 {
			l.giveBack(e)
		}
	}
}

// usage is what was used of a lease, by day.
func usage(days map[string]int64) []dayUsed {
	var list []dayUsed
	for _, day := range slices.Sorted(maps.Keys(days)) {
		if days[day] != 0 {
			list = append(list, dayUsed{day, Amount(days[day])})
		}
	}
	return list
}
