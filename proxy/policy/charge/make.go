package charge

import (
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// keyMost is the longest Idempotency-Key that counts.
	keyMost = 255
	// contentMost is the largest content of a request whose key counts: what has the
	// same key and other content is another request.
	contentMost = 64 << 10
)

const idempotencyKey = "Idempotency-Key"

// key is what requests of a consumer share that are charged once; "": nothing. What
// costs more at first, or is another part, is another request.
func (p *Policy) key(x *exchange.Exchange, b *block, estimate int64) (string, error) {
	if !b.keyed || x.Consumer == nil {
		return "", nil
	}
	value, ok := x.Request.Find(idempotencyKey)
	if !ok || value == "" || len(value) > keyMost {
		return "", nil
	}
	content, whole, place, err := p.l.bodies.Take(x, contentMost)
	if err != nil || !whole {
		return "", err
	}
	defer place.Leave()
	h := sha256.New()
	for _, part := range []string{x.Consumer.Name, p.route, b.Meter, x.Method, x.Target.Host, x.Target.Path, x.Target.Query, x.Request.Get(exchange.Range), Amount(estimate).String(), value} {
		h.Write([]byte(part)) // never fails (hash.Hash)
		h.Write([]byte{0})
	}
	h.Write(content)
	return keyOf(h.Sum(nil)), nil
}

// enter makes the charge of an item, whose client's key is key. free: the request
// goes on without one.
func (l *Ledger) enter(x *exchange.Exchange, it *item, key string) (fault *exchange.Fault, free bool) {
	b, now := it.b, l.Now()
	consumer := ""
	if x.Consumer != nil {
		consumer = x.Consumer.Name
	}
	var away error // nobody is asked, and so nothing has to be on the disk before
	if b.Mode == modeReserve {
		if away = l.failing(); away == nil {
			away = l.ready(b.t)
		}
	}
	l.mu.Lock()
	if e := l.flights[key]; e != nil && key != "" && e.shared < b.Repeats {
		e.holders++
		e.shared++
		it.e = e
		l.mu.Unlock()
		return l.share(it)
	}
	if key != "" && l.hasPaid(key, now.UnixMilli(), b.Repeats) {
		l.mu.Unlock()
		b.count.add(repeated, 0)
		return nil, true
	}
	r := record{
		ID: l.ids.next(now), At: now.UnixMilli(), To: b.t.name, Mode: b.Mode, Meter: b.Meter, Units: it.estimate,
		Consumer: consumer, Route: b.terms.route, Request: strings.Clone(x.RequestID), Key: key,
	}
	if key != "" {
		r.Until = now.Add(b.Idempotency).UnixMilli()
	}
	var e *entry
	if b.Mode == modeReserve && away == nil {
		r.Type = isOpen
		e = l.log(&r)
	} else {
		e = &entry{record: r, acct: l.state.account(r.To, r.Consumer, r.Meter)}
		e.State = asked
	}
	e.holders, e.answer = 1, make(chan struct{})
	if b.Mode != modeLease {
		e.held = it.estimate
		e.acct.held += e.held
	}
	if key != "" {
		l.flights[key] = e
	}
	round := l.round
	l.mu.Unlock()
	it.e = e
	if away != nil {
		fault, free = l.down(b, e, away)
	} else {
		fault, free = l.try(b, e, round)
	}
	l.mu.Lock()
	e.fault, e.free = fault, free
	l.mu.Unlock()
	close(e.answer)
	if fault != nil || free {
		it.why = "the billing service didn't answer"
		l.leave(it)
	}
	return fault, free
}

// share waits for the answer that another request with the same key gets.
func (l *Ledger) share(it *item) (fault *exchange.Fault, free bool) {
	<-it.e.answer // in the time that the other one has
	l.mu.Lock()
	fault, free = it.e.fault, it.e.free
	l.mu.Unlock()
	if fault != nil || free {
		l.leave(it)
	}
	return fault, free
}

// try finds out whether a charge can be made.
func (l *Ledger) try(b *block, e *entry, r *round) (fault *exchange.Fault, free bool) {
	var err error
	switch b.Mode {
	case modeReserve:
		if err = l.flush(r); err == nil {
			m := message{
				ID: e.ID, Kind: "reserve", Meter: e.Meter, Units: Amount(e.Units), Consumer: e.Consumer, Route: e.Route, RequestID: e.Request,
				Time: stamp(e.At), ClientKey: e.Key,
			}
			_, err = l.ask(b.t, &m, b.Timeout)
		}
	case modeLease:
		if err = l.failing(); err == nil {
			err = l.spendFrom(b, e)
		}
	default:
		if err = l.failing(); err == nil && b.t.down.Load() {
			err = l.reason(b.t)
		}
	}
	var no *Refusal
	switch {
	case err == nil:
		return nil, false
	case errors.As(err, &no):
		l.forget(e, no.Reason)
		b.count.add(refusals, 0)
		return b.refusal(no), false
	}
	return l.down(b, e, err)
}

// spendFrom holds what a charge may cost of a lease.
func (l *Ledger) spendFrom(b *block, e *entry) error {
	from, err := l.hold(&b.terms, e.Consumer, e.Meter, e.Units)
	if err != nil {
		return err
	}
	l.mu.Lock()
	e.from, e.held, e.Lease = from, e.Units, from.ID
	l.mu.Unlock()
	return nil
}

// reason is why a target is down.
func (l *Ledger) reason(t *Target) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.err == nil {
		return errUnconfigured
	}
	return t.err
}

// refusal is the fault of a request whose charge the billing service refuses.
func (b *block) refusal(no *Refusal) *exchange.Fault {
	f := exchange.NewFault(exchange.FromPolicy, exchange.PaymentRequired, "charge %s: %w", b.Meter, no)
	if no.Reason != "" {
		f.Findings = []exchange.Finding{{Where: b.Meter, What: no.Reason}}
	}
	return f
}

// down does what is to be done while a charge can't be made.
func (l *Ledger) down(b *block, e *entry, err error) (fault *exchange.Fault, free bool) {
	if b.WhenDown == downOwe && l.owes(b, e) {
		return nil, false
	}
	if b.WhenDown == downAllow && l.give(b, e.Consumer, e.Units) {
		b.count.add(given, e.Units)
		return nil, true
	}
	return b.unavailable(err), false
}

// owes lets a consumer owe a charge, within its credit.
func (l *Ledger) owes(b *block, e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.state.account(e.To, e.Consumer, e.Meter)
	if e.Mode == modeLease { // there is none: it is told afterwards
		e.Mode, e.acct, e.held = modeEvent, a, e.Units
		a.held += e.held
	}
	if a.owed+a.held > b.credit {
		return false
	}
	b.count.add(owed, e.Units)
	return true
}

// give lets a consumer have units for nothing, within its credit.
func (l *Ledger) give(b *block, consumer string, units int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.state.account(b.t.name, consumer, b.Meter)
	if a.given+units > b.credit {
		return false
	}
	a.given += units
	return true
}

// forget ends a charge that the billing service doesn't have.
func (l *Ledger) forget(e *entry, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.entries[e.ID] == e && e.State == asked {
		l.log(&record{Type: isRefuse, ID: e.ID, Reason: why})
	}
}

// serve notes that the client gets an answer that costs it.units.
func (l *Ledger) serve(it *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := it.e
	if e.served == 0 && !l.claims.take(e.Key) {
		it.again, it.elsewhere, it.why, it.round = true, true, "another process charged it", l.written
		return
	}
	if e.served++; e.served > 1 {
		it.again, it.round = true, e.round
		return
	}
	it.round, e.round = l.round, l.round
	e.release() // from here on it counts as used, or owed
	r := e.record
	r.Type, r.Units, r.State = isServe, it.units, ""
	if e.from != nil {
		e.Units, e.State = it.units, settle
		l.log(&r)
		return
	}
	if l.state.entries[e.ID] == nil {
		e.Type = isOpen
		l.state.entries[e.ID] = e
		l.state.putKey(&r)
	}
	l.log(&r)
}

// release lets go of what a charge may come to cost; l.mu is held.
func (e *entry) release() {
	if e.from != nil {
		e.from.held -= e.held
	} else {
		e.acct.held -= e.held
	}
	e.held = 0
}

// drop notes that it gets none after all.
func (l *Ledger) drop(it *item, why string) {
	if it.fate == uncharged {
		return
	}
	if it.fate == charged && !it.elsewhere {
		l.mu.Lock()
		it.e.served--
		l.mu.Unlock()
	}
	it.fate, it.why = uncharged, why
}

// leave lets go of a charge at the end of its exchange. The last one to do so knows
// what has become of it.
func (l *Ledger) leave(it *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := it.e
	if e.holders--; e.holders > 0 {
		return
	}
	if l.flights[e.Key] == e {
		delete(l.flights, e.Key)
	}
	if k := l.state.keys[e.Key]; k.id == e.ID {
		k.uses += e.shared
		l.state.keys[e.Key] = k
	}
	if e.served == 0 {
		l.claims.drop(e.Key)
	}
	e.release()
	if e.from != nil {
		e.from.open--
	}
	switch {
	case e.served > 0 && e.from == nil:
		l.enqueue(e)
	case e.served > 0: // the lease has it
	case e.from != nil && e.State == settle:
		r := e.record
		r.Type, r.Reason = isCancel, it.why
		l.log(&r)
	case l.state.entries[e.ID] == e && (e.State == asked || e.State == settle):
		l.enqueue(l.log(&record{Type: isCancel, ID: e.ID, Reason: it.why}))
	}
}
