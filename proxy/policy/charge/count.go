package charge

import "sync/atomic"

// outcome is what became of a request as far as one charge is concerned.
type outcome int

const (
	chargedNow outcome = iota
	notCharged
	repeated
	refusals
	denied
	given
	owed
	failed
	outcomes
)

func (o outcome) String() string {
	return [...]string{"charged", "uncharged", "repeated", "refused", "denied", "given", "owed", "error"}[o]
}

type countKey struct{ route, meter string }

// Count counts what the charges of a route did.
type Count struct {
	Route, Meter string
	n, units     [outcomes]atomic.Int64
	told         atomic.Bool
}

func (c *Count) add(o outcome, units int64) {
	c.n[o].Add(1)
	c.units[o].Add(units)
}

// outcome counts how an item ended.
func (c *Count) outcome(it *item) {
	switch {
	case it.fate == charged && it.again:
		c.add(repeated, 0)
	case it.fate == charged:
		c.add(chargedNow, it.units)
	default:
		c.add(notCharged, 0)
	}
}

func (l *Ledger) count(route, meter string) *Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := countKey{route, meter}
	if l.counts[k] == nil {
		l.counts[k] = &Count{Route: route, Meter: meter}
	}
	return l.counts[k]
}

// Retain forgets the counters of routes that aren't among these. What was charged
// stays.
func (l *Ledger) Retain(routes map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.counts {
		if !routes[k.route] {
			delete(l.counts, k)
		}
	}
}

// priceless tells of a price that can't be told, once for each charge of a route.
func (l *Ledger) priceless(b *block, err error) {
	if !b.count.told.Swap(true) {
		l.Log.WithField("route", b.count.Route).WithField("meter", b.Meter).WithError(err).Warn("what an answer costs can't be told: it costs the estimate")
	}
}
