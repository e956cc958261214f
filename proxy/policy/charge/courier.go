package charge

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

const (
	batchMost = 500
	// linger is how long messages wait for others to go with.
	linger = 50 * time.Millisecond
	// tellTime is how long the answer to a batch may take.
	tellTime = 10 * time.Second
	// farewellTime is what there is for telling when the gateway stops.
	farewellTime = 5 * time.Second
)

func (l *Ledger) kickCourier() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// enqueue has the billing service told of an entry, if there is something to tell;
// l.mu is held.
func (l *Ledger) enqueue(e *entry) {
	if e == nil || e.queued || e.holders > 0 || e.State != settle && e.State != cancel && e.State != back {
		return
	}
	e.queued = true
	t := l.targetOf(e.To)
	t.queue = append(t.queue, e)
	if len(t.queue) == 1 || len(t.queue)%batchMost == 0 {
		l.kickCourier()
	}
}

// targetOf is a target by its name, one that no configuration has included.
func (l *Ledger) targetOf(name string) *Target {
	t := l.targets[name]
	if t == nil {
		t = &Target{name: name}
		l.targets[name] = t
	}
	return t
}

// courier tells the targets what there is to tell, until ctx ends.
func (l *Ledger) courier(ctx context.Context) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	soon := time.NewTimer(time.Hour)
	defer soon.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			l.look(l.Now())
			l.inherit()
		case <-l.kick:
		case <-soon.C:
		}
		if wait := l.send(l.Now(), linger); wait > 0 {
			soon.Reset(wait)
		}
	}
}

// send starts telling the targets that may be told, and says when to look again.
func (l *Ledger) send(now time.Time, linger time.Duration) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.targets {
		if len(t.queue) == 0 || t.busy || t.conf.Load() == nil {
			continue
		}
		if now.Before(t.next) {
			if d := t.next.Sub(now); wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		t.busy = true
		l.working.Add(1)
		go func() { // ends with the queue, or with the first failure
			defer l.working.Done()
			l.tell(t, linger)
		}()
	}
	return wait
}

// tell tells a target until there is nothing left, or until it fails.
func (l *Ledger) tell(t *Target, linger time.Duration) {
	size := batchMost
	for {
		if linger > 0 && !l.enough(t, size) {
			select {
			case <-time.After(linger):
			case <-l.ctx.Done():
			}
		}
		list := l.pick(t, size)
		if len(list) == 0 {
			return // no longer busy
		}
		rejected, err := l.deliver(t, list)
		if err == nil {
			l.delivered(list, rejected)
			size = batchMost
			continue
		}
		l.putBack(t, list)
		if one, ok := err.(*unwelcome); ok {
			if len(list) > 1 { // find the one that it doesn't want
				size = (len(list) + 1) / 2
				continue
			}
			l.mu.Lock()
			t.queue = t.queue[1:]
			l.mu.Unlock()
			l.delivered(list, map[string]string{list[0].ID: one.Error()})
			continue
		}
		l.mu.Lock()
		t.busy = false
		l.mu.Unlock()
		l.kickCourier() // which looks at when to go on
		return
	}
}

// enough reports whether a batch is full without waiting.
func (l *Ledger) enough(t *Target, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(t.queue) >= n
}

// pick takes messages from the queue; without any, the target isn't busy any more.
func (l *Ledger) pick(t *Target, n int) []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(t.queue))
	list := append([]*entry(nil), t.queue[:n]...)
	clear(t.queue[:n])
	if t.queue = t.queue[n:]; len(t.queue) == 0 {
		t.queue = nil
	}
	t.busy = n > 0
	return list
}

func (l *Ledger) putBack(t *Target, list []*entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list = slices.DeleteFunc(slices.Clone(list), func(e *entry) bool { return l.state.entries[e.ID] != e }) // another process tells of those
	t.queue = append(list, t.queue...)
}

// unwelcome is an answer that says that there is something wrong with the messages.
type unwelcome struct {
	status int
	reason string
}

func (e *unwelcome) Error() string {
	if e.reason == "" {
		return fmt.Sprintf("the billing service answers %d", e.status)
	}
	return fmt.Sprintf("the billing service answers %d: %s", e.status, e.reason)
}

// deliver tells a batch. rejected are the messages that were, with the reasons.
func (l *Ledger) deliver(t *Target, list []*entry) (rejected map[string]string, err error) {
	b := batch{Kind: "batch", Node: l.node, Messages: make([]message, len(list))}
	l.mu.Lock()
	for i, e := range list {
		b.Messages[i] = l.messageOf(e)
	}
	l.mu.Unlock()
	body, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	a, err := l.call(t, &Call{Method: "POST", Path: "/batch", Body: body, Until: time.Now().Add(tellTime)})
	if err != nil {
		return nil, err
	}
	var r reply
	err = a.read(&r)
	switch {
	case err == nil && a.Status < 300:
		l.noteSuccess(t)
		rejected = map[string]string{}
		for _, o := range r.Rejected {
			reason := clean(o.Reason)
			if reason == "" {
				reason = "rejected"
			}
			rejected[o.ID] = reason
		}
		return rejected, nil
	case err == nil && (a.Status == 400 || a.Status == 409 || a.Status == 410 || a.Status == 413 || a.Status == 422):
		return nil, &unwelcome{a.Status, clean(r.Reason)}
	case err == nil: // a credential or a path that is wrong: nobody's fault but ours
		err = fmt.Errorf("it answers %d", a.Status)
	}
	t.failures.Add(1)
	l.noteFailure(t, err)
	return nil, err
}

// messageOf is what there is to tell of an entry; l.mu is held.
func (l *Ledger) messageOf(e *entry) message {
	m := message{
		ID: e.ID, Meter: e.Meter, Units: Amount(e.Units), Consumer: e.Consumer, Route: e.Route, RequestID: e.Request,
		Time: stamp(e.At), Node: l.node, ClientKey: e.Key, Reason: e.Reason,
	}
	switch {
	case e.isLease():
		granted := Amount(e.Granted)
		m.Kind, m.Units, m.Granted = "return", Amount(max(0, e.Granted-e.Used)), &granted
		m.Usage = usage(e.Days)
	case e.State == cancel:
		m.Kind = "cancel"
	case e.Mode == modeEvent:
		m.Kind = "event"
	default:
		m.Kind = "settle"
	}
	return m
}

// delivered notes what the target knows.
func (l *Ledger) delivered(list []*entry, rejected map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bad := 0
	for _, e := range list {
		e.queued = false
		if why, no := rejected[e.ID]; no && e.State != cancel { // there is nothing to take back: as good as done
			l.log(&record{Type: isDead, ID: e.ID, Reason: why})
			bad++
			continue
		}
		l.log(&record{Type: isDone, ID: e.ID})
	}
	if bad > 0 {
		l.Log.WithField("service", list[0].To).Errorf("the billing service rejects %d charges: see sidegate charges list --state dead", bad)
	}
}

// look sees to what is a matter of time.
func (l *Ledger) look(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.forgetKeys(now.UnixMilli())
	oldest := now.Add(-l.Config.Patience).UnixMilli()
	for _, t := range l.targets {
		for len(t.queue) > 0 && t.queue[0].pendingSince() < oldest && !t.busy {
			e := t.queue[0]
			t.queue, e.queued = t.queue[1:], false
			why := "the billing service couldn't be told for too long"
			if t.err != nil {
				why += ": " + t.err.Error()
			}
			l.log(&record{Type: isDead, ID: e.ID, Reason: why})
		}
	}
	for k, a := range l.state.accounts {
		if l.lookAtLeases(a, now); a.idle() {
			delete(l.state.accounts, k)
		}
	}
	if now.Sub(l.swept) < time.Hour {
		return
	}
	l.swept = now
	day := dayOf(now.Add(-totalsLast).UnixMilli())
	for k := range l.state.totals {
		if k.day < day {
			delete(l.state.totals, k)
		}
	}
}

// pendingSince is from when on it is tried to tell of an entry.
func (e *entry) pendingSince() int64 {
	if e.isLease() {
		return max(e.At, e.Until, e.since)
	}
	return max(e.At, e.since)
}

// farewell gives leases back, and tells what there is to tell as long as there is
// time.
func (l *Ledger) farewell() {
	l.mu.Lock()
	for _, a := range l.state.accounts {
		for _, e := range append([]*entry(nil), a.leases...) {
			l.giveBack(e)
		}
	}
	l.mu.Unlock()
	end := time.NewTimer(farewellTime)
	defer end.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		l.send(l.Now(), 0)
		l.mu.Lock()
		left := 0
		for _, t := range l.targets {
			if t.conf.Load() != nil && (t.busy || len(t.queue) > 0 && t.row < failuresUntilDown) {
				left++
			}
		}
		l.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-end.C:
			return
		case <-again.C:
		}
	}
}
