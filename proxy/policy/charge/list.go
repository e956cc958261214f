package charge

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Entry is a charge or a lease, for people.
type Entry struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	State     string    `json:"state"`
	Kind      string    `json:"kind"` // charge, or lease
	Mode      string    `json:"mode"`
	Meter     string    `json:"meter"`
	Units     Amount    `json:"units"`
	Consumer  string    `json:"consumer"`
	Route     string    `json:"route"`
	RequestID string    `json:"request_id,omitempty"`
	Service   string    `json:"service"`
	Reason    string    `json:"reason,omitempty"`

	// Of a lease.
	Granted *Amount    `json:"granted,omitempty"`
	Used    *Amount    `json:"used,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
}

// Query says which charges are wanted; what is empty says nothing.
type Query struct {
	State, Consumer, Meter, Route, Service string // State: pending, dead, done, or one that an Entry has
	Limit                                  int
	After                                  string // the id that the page before ended with
}

// Page is a part of what a Query asks for.
type Page struct {
	Charges []Entry `json:"charges"`
	Next    string  `json:"next"` // what the next page is After; "": there is none
}

const pageMost = 1000

// ErrUnknown is a charge that nobody knows, or remembers.
var ErrUnknown = errors.New("there is no such charge: those that are over are remembered for a while")

// Check says what is wrong with a query.
func (q *Query) Check() error {
	known := []string{"", "pending", dead, "done", asked, serving, settle, cancel, active, part, back, settled, cancelled, refused, returned}
	if !slices.Contains(known, q.State) {
		return fmt.Errorf("state: %.20q isn't pending, dead or done, nor a state", q.State)
	}
	return nil
}

// group is how a state is asked for.
func group(state string) string {
	switch state {
	case settled, cancelled, refused, returned:
		return "done"
	case dead:
		return dead
	default:
		return "pending"
	}
}

func (q *Query) wants(e *Entry) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return (is(q.State, e.State) || q.State == group(e.State)) && is(q.Consumer, e.Consumer) && is(q.Meter, e.Meter) && is(q.Route, e.Route) && is(q.Service, e.Service) &&
		(q.After == "" || e.ID < q.After)
}

func entryOf(r *record) Entry {
	e := Entry{
		ID: r.ID, Time: time.UnixMilli(r.At).UTC(), State: r.State, Kind: "charge", Mode: r.Mode, Meter: r.Meter, Units: Amount(r.Units),
		Consumer: r.Consumer, Route: r.Route, RequestID: r.Request, Service: r.To, Reason: r.Reason,
	}
	if r.Mode == modeLease {
		granted, used, until := Amount(r.Granted), Amount(r.Used), time.UnixMilli(r.Until).UTC()
		e.Kind, e.Granted, e.Used, e.Until = "lease", &granted, &used, &until
	}
	return e
}

// List returns charges, the newest first: those that aren't over, and those that
// ended last. What was spent of a lease is in the lease alone.
func (l *Ledger) List(q Query) Page {
	l.mu.Lock()
	list := make([]Entry, 0, len(l.state.entries)+len(l.state.recent))
	add := func(e Entry) {
		if q.wants(&e) {
			list = append(list, e)
		}
	}
	for _, e := range l.state.entries {
		add(entryOf(e.shown()))
	}
	for i := range l.state.recent {
		add(entryOf(&l.state.recent[i]))
	}
	l.mu.Unlock()
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(b.ID, a.ID) })
	if q.Limit <= 0 {
		q.Limit = 100
	}
	q.Limit = min(q.Limit, pageMost)
	p := Page{Charges: list}
	if len(list) > q.Limit {
		p.Charges, p.Next = list[:q.Limit], list[q.Limit-1].ID
	}
	return p
}

// shown is an entry whose answer is on its way said so.
func (e *entry) shown() *record {
	if e.State == settle && e.holders > 0 {
		r := e.record
		r.State = serving
		return &r
	}
	return &e.record
}

// Find returns one charge.
func (l *Ledger) Find(id string) (Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.state.entries[id]; e != nil {
		return entryOf(e.shown()), nil
	}
	for i := range l.state.recent {
		if l.state.recent[i].ID == id {
			return entryOf(&l.state.recent[i]), nil
		}
	}
	return Entry{}, ErrUnknown
}

// Retry has dead letters told again: one, or with id "" all. It returns how many.
func (l *Ledger) Retry(id string) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, e := range l.state.entries {
		if e.State != dead || id != "" && e.ID != id {
			continue
		}
		e.since = l.Now().UnixMilli()
		l.enqueue(l.log(&record{Type: isRetry, ID: e.ID}))
		n++
	}
	if id != "" && n == 0 {
		if l.state.entries[id] != nil {
			return 0, fmt.Errorf("charge %s isn't a dead letter: it is told without that", id)
		}
		return 0, ErrUnknown
	}
	return n, nil
}

// Total is what a consumer was charged on a day, by this gateway.
type Total struct {
	Day      string `json:"day"`
	Consumer string `json:"consumer"`
	Meter    string `json:"meter"`
	Service  string `json:"service"`
	Units    Amount `json:"units"`
	Count    int64  `json:"count"`
	Told     Amount `json:"told"` // what of it the billing service knows
	Untold   Amount `json:"untold"`
}

// Totals are what was charged from day since on, and before day until; "": no bound.
type Totals struct {
	Node   string  `json:"node"`
	Totals []Total `json:"totals"`
}

// Totals returns what consumers were charged, or one was, by day.
func (l *Ledger) Totals(since, until, consumer string) (Totals, error) {
	if err := checkDays(since, until); err != nil {
		return Totals{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out := Totals{Node: l.node, Totals: []Total{}}
	for k, t := range l.state.totals {
		if k.day < since || until != "" && k.day >= until || consumer != "" && k.consumer != consumer || *t == (total{}) {
			continue
		}
		out.Totals = append(out.Totals, Total{
			Day: k.day, Consumer: k.consumer, Meter: k.meter, Service: k.target, Units: Amount(t.units), Count: t.count, Told: Amount(t.told), Untold: Amount(t.units - t.told),
		})
	}
	slices.SortFunc(out.Totals, func(a, b Total) int {
		return cmp.Or(strings.Compare(a.Day, b.Day), strings.Compare(a.Consumer, b.Consumer), strings.Compare(a.Meter, b.Meter), strings.Compare(a.Service, b.Service))
	})
	return out, nil
}

func checkDays(since, until string) error {
	for _, d := range []struct{ name, text string }{{"since", since}, {"until", until}} {
		if _, err := time.Parse(time.DateOnly, d.text); d.text != "" && err != nil {
			return fmt.Errorf("%s: %.20q isn't a day, like 2026-11-25", d.name, d.text)
		}
	}
	return nil
}

// Status is how a ledger does.
type Status struct {
	Node     string         `json:"node"`
	Spool    Spool          `json:"spool"`
	Pending  int            `json:"pending"`
	Dead     int            `json:"dead"`
	Oldest   time.Time      `json:"oldest,omitzero"` // of what the billing services are to be told
	Keys     int            `json:"keys"`            // clients' keys that are remembered
	Draining int            `json:"draining"`        // processes that have handed over and still work: what they charge is added here once they end
	Services []TargetStatus `json:"services"`
	Counts   []CountStatus  `json:"counts"`
}

// Spool is the room on the disk.
type Spool struct {
	Bytes   int64  `json:"bytes"`
	Limit   int64  `json:"limit"`
	Failing bool   `json:"failing"`
	Error   string `json:"error,omitempty"`
	Damaged int    `json:"damaged,omitempty"` // records that couldn't be read at the start
}

// TargetStatus is how a billing service does.
type TargetStatus struct {
	Service    string        `json:"service"`
	Configured bool          `json:"configured"`
	Down       bool          `json:"down"`
	Error      string        `json:"error,omitempty"` // of the last failure, if nothing has worked since
	Failed     time.Time     `json:"failed,omitzero"`
	Pending    int           `json:"pending"`
	Leases     int           `json:"leases"`
	Requests   uint64        `json:"requests"`
	Failures   uint64        `json:"failures"`
	Spent      time.Duration `json:"spent_ns"` // on requests
}

// CountStatus is how often something became of a charge of a route.
type CountStatus struct {
	Route    string `json:"route"`
	Meter    string `json:"meter"`
	Outcome  string `json:"outcome"`
	Requests int64  `json:"requests"`
	Units    Amount `json:"units"`
}

// Used reports whether anything was ever charged here, or is to be.
func (l *Ledger) Used() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.targets) > 0
}

// Status says how the ledger does.
func (l *Ledger) Status() Status {
	s := Status{Services: []TargetStatus{}, Counts: []CountStatus{}}
	if err := l.failing(); err != nil {
		s.Spool.Failing, s.Spool.Error = true, err.Error()
	}
	l.mu.Lock()
	s.Node, s.Keys, s.Dead, s.Draining = l.node, len(l.state.keys), l.state.deads, len(l.drains)
	s.Spool.Bytes, s.Spool.Limit, s.Spool.Damaged = l.size, l.Config.Spool, l.bad
	leases, waiting := map[string]int{}, map[string]int{}
	oldest := int64(0)
	for _, e := range l.state.entries {
		switch e.State {
		case active, part:
			leases[e.To]++
			continue
		case dead:
			continue
		case settle, cancel, back:
			waiting[e.To]++
			if oldest == 0 || e.At < oldest {
				oldest = e.At
			}
		}
		s.Pending++
	}
	for _, t := range l.targets {
		row := TargetStatus{
			Service: t.name, Configured: t.conf.Load() != nil, Down: t.down.Load(), Pending: waiting[t.name], Leases: leases[t.name],
			Requests: t.requests.Load(), Failures: t.failures.Load(), Failed: t.failedAt, Spent: time.Duration(t.spent.Load()),
		}
		if t.row > 0 && t.err != nil {
			row.Error = t.err.Error()
		}
		s.Services = append(s.Services, row)
	}
	for _, c := range l.counts {
		for o := range outcomes {
			if n := c.n[o].Load(); n > 0 || o == chargedNow {
				s.Counts = append(s.Counts, CountStatus{c.Route, c.Meter, o.String(), n, Amount(c.units[o].Load())})
			}
		}
	}
	l.mu.Unlock()
	if oldest > 0 {
		s.Oldest = time.UnixMilli(oldest).UTC()
	}
	slices.SortFunc(s.Services, func(a, b TargetStatus) int { return strings.Compare(a.Service, b.Service) })
	slices.SortStableFunc(s.Counts, func(a, b CountStatus) int {
		return cmp.Or(strings.Compare(a.Route, b.Route), strings.Compare(a.Meter, b.Meter))
	})
	return s
}
