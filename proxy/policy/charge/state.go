package charge

import (
	"maps"
	"slices"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	remembered  = 1000    // charges that are over, for people to look at
	maxKeys     = 100_000 // clients' keys that are remembered
	maxTotals   = 200_000 // days of consumers and meters
	totalsLast  = 40 * 24 * time.Hour
	keysInState = 64 // of the keys beyond their time that one look drops
)

// entry is a charge or a lease, from its beginning until the billing service knows
// how it ended.
type entry struct {
	record
	acct *account

	holders int    // exchanges that it is the charge of
	served  int    // those of them that got an answer that costs
	shared  int    // those that came while it was in flight
	since   int64  // when a person had it told again; 0: nobody did
	queued  bool   // it waits for its turn to be told
	held    int64  // of a lease: by requests in flight; of a charge: of what it holds of from, or of the account
	open    int    // of a lease: exchanges that have something of it, or may give something back
	from    *entry // the lease that it is spent from; nil: none
	round   *round // with which the disk knows that it was served

	// Of a charge that is being made: closed when it is known whether it can be.
	answer chan struct{}
	fault  *exchange.Fault // why not; nil: it can
	free   bool            // it goes on without being charged
}

func (e *entry) isLease() bool { return e.Type == isLease }

// left is what a lease still has room for.
func (e *entry) left() int64 {
	n := e.Granted - e.Used - e.held
	for _, lent := range e.Lent {
		n -= lent
	}
	return n
}

// account is what a consumer owes of a meter, at one target.
type account struct {
	target, consumer, meter string

	owed   int64 // charged, and not told yet
	held   int64 // what requests in flight may come to owe
	given  int64 // given away since the target is down
	leases []*entry
	asking chan struct{} // closed when the lease that is being asked for has come, or hasn't; nil: none is

	// How the last question for a lease ended, if it wasn't granted.
	refused error
	failed  error
	until   time.Time // up to which nobody asks again
}

func (a *account) idle() bool {
	return a.owed == 0 && a.held == 0 && a.given == 0 && len(a.leases) == 0 && a.asking == nil
}

type accountKey struct{ target, consumer, meter string }

// total is what was charged on a day.
type total struct{ units, told, count int64 }

type totalKey struct{ day, consumer, meter, target string }

// usedKey is a client's key.
type usedKey struct {
	id    string
	until int64
	uses  int // answers that it was for, beside the one that was charged
}

// state is all that the ledger knows; its mutex guards it. What changes it are
// records, the same ones while it runs as after a crash.
type state struct {
	entries  map[string]*entry
	accounts map[accountKey]*account
	keys     map[string]usedKey
	order    []string // of keys, by when they came
	totals   map[totalKey]*total
	most     int                // of totals
	crowded  string             // the day that alone has as many
	heirOf   map[string]bool    // drains that are in here, and whose folders may be there yet
	elder    map[string]usedKey // clients' keys that are another process's since the yield; they don't change
	recent   []record           // a ring
	last     int                // the newest in it
	deads    int
}

func newState() state {
	return state{
		entries: map[string]*entry{}, accounts: map[accountKey]*account{}, keys: map[string]usedKey{}, totals: map[totalKey]*total{}, most: maxTotals, heirOf: map[string]bool{},
	}
}

func (s *state) account(target, consumer, meter string) *account {
	k := accountKey{target, consumer, meter}
	a := s.accounts[k]
	if a == nil {
		a = &account{target: target, consumer: consumer, meter: meter}
		s.accounts[k] = a
	}
	return a
}

// dayOf is a day in UTC.
func dayOf(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.DateOnly) }

func (s *state) total(r *record, units, count int64) {
	t := s.dayTotal(totalKey{dayOf(r.At), r.Consumer, r.Meter, r.To})
	t.units += units
	t.count += count
}

func (s *state) dayTotal(k totalKey) *total {
	t := s.totals[k]
	if t == nil && len(s.totals) >= s.most {
		if k.day != s.crowded {
			s.dropDay(k.day)
		}
		if k.day == s.crowded {
			k.consumer = together
			t = s.totals[k]
		}
	}
	if t == nil {
		t = &total{}
		s.totals[k] = t
	}
	return t
}

// dropDay forgets the totals of the oldest day. If that is today, further consumers
// of today are counted together.
func (s *state) dropDay(today string) {
	oldest := today
	for k := range s.totals {
		oldest = min(oldest, k.day)
	}
	if oldest == today {
		s.crowded = today
		return
	}
	maps.DeleteFunc(s.totals, func(k totalKey, _ *total) bool { return k.day == oldest })
}

// together is the consumer that stands for those that there is no room for.
const together = "others"

// apply changes the state as r says, and returns the entry that it is about; nil:
// none that is there any more.
func (s *state) apply(r *record) *entry {
	switch r.Type {
	case isStart:
		*s = newState()
		return nil
	case isKey:
		s.putKey(r)
		return nil
	case isHeir:
		s.heirOf[r.ID] = true
		return nil
	case isTotal:
		*s.dayTotal(totalKey{r.Day, r.Consumer, r.Meter, r.To}) = total{r.Units, r.Told, r.Count}
		return nil
	case isOpen, isLease, isEntry:
		return s.begin(r)
	case isServe:
		return s.serve(r)
	}
	e := s.entries[r.ID]
	if e == nil {
		if r.Type == isCancel && r.Lease != "" { // what was spent of a lease is in the lease alone
			s.spend(r, -r.Units, -1)
			s.dropKey(r)
		}
		return nil
	}
	switch r.Type {
	case isCancel:
		s.cancel(e, r)
	case isRefuse:
		s.dropKey(&e.record)
		e.Reason = r.Reason
		s.end(e, refused)
	case isGrant:
		e.acct = s.account(e.To, e.Consumer, e.Meter)
		e.State, e.Granted, e.Until = active, r.Granted, r.Until
		e.acct.leases = append(e.acct.leases, e)
	case isReturn:
		e.State = back
		e.acct.leases = slices.DeleteFunc(e.acct.leases, func(o *entry) bool { return o == e })
	case isDone:
		s.done(e)
	case isDead:
		s.die(e, r.Reason)
	case isRetry:
		if e.State == dead {
			e.State, e.Was, e.Reason = e.Was, "", ""
			s.deads--
			if e.acct = s.account(e.To, e.Consumer, e.Meter); e.State == settle {
				e.acct.owed += e.Units
			}
		}
	}
	return e
}

// begin adds a charge that is being asked for, a lease likewise, or one as it was.
func (s *state) begin(r *record) *entry {
	e := &entry{record: *r, acct: s.account(r.To, r.Consumer, r.Meter)}
	if r.Type != isEntry {
		e.State = asked
		s.putKey(r)
	} else if e.Granted > 0 || e.Mode == modeLease {
		e.Type = isLease
	} else {
		e.Type = isOpen
	}
	s.entries[e.ID] = e
	switch e.State {
	case settle:
		e.acct.owed += e.Units
	case active, part:
		e.acct.leases = append(e.acct.leases, e)
	case dead:
		s.deads++
	}
	return e
}

// serve notes an answer that costs.
func (s *state) serve(r *record) *entry {
	if r.Lease != "" {
		s.putKey(r)
		s.spend(r, r.Units, 1)
		return nil
	}
	e := s.entries[r.ID]
	if e == nil {
		e = &entry{record: *r, acct: s.account(r.To, r.Consumer, r.Meter)}
		e.Type = isOpen
		s.entries[e.ID] = e
		s.putKey(r)
	}
	e.State, e.Units = settle, r.Units
	e.acct = s.account(e.To, e.Consumer, e.Meter) // the one before may have been forgotten meanwhile
	e.acct.owed += e.Units
	s.total(&e.record, e.Units, 1)
	return e
}

// spend notes what was spent of a lease.
func (s *state) spend(r *record, units, count int64) {
	s.total(r, units, count)
	if l := s.entries[r.Lease]; l != nil {
		l.Used += units
		if l.Days == nil {
			l.Days = map[string]int64{}
		}
		l.Days[dayOf(r.At)] += units
	}
}

// cancel takes a charge back. What nobody has been told of just goes.
func (s *state) cancel(e *entry, r *record) {
	if e.State != asked && e.State != settle {
		return
	}
	if e.State == settle {
		e.acct.owed -= e.Units
		s.total(&e.record, -e.Units, -1)
	}
	s.dropKey(&e.record)
	e.Reason = r.Reason
	if e.Mode != modeReserve {
		s.end(e, cancelled)
		return
	}
	e.State = cancel
}

// done ends a charge or lease that the billing service knows of.
func (s *state) done(e *entry) {
	switch e.State {
	case settle:
		e.acct.owed -= e.Units
		s.dayTotal(totalKey{dayOf(e.At), e.Consumer, e.Meter, e.To}).told += e.Units
		s.end(e, settled)
	case cancel:
		s.end(e, cancelled)
	case back:
		for day, units := range e.Days {
			s.dayTotal(totalKey{day, e.Consumer, e.Meter, e.To}).told += units
		}
		s.end(e, returned)
	default:
		s.end(e, cancelled)
	}
}

func (s *state) die(e *entry, why string) {
	if e.State == dead {
		return
	}
	if e.State == settle {
		e.acct.owed -= e.Units
	}
	e.Was, e.State, e.Reason = e.State, dead, why
	s.deads++
}

// end lets go of an entry.
func (s *state) end(e *entry, how string) {
	delete(s.entries, e.ID)
	e.State = how
	r := e.record
	if len(s.recent) < remembered {
		s.recent, s.last = append(s.recent, r), len(s.recent)
		return
	}
	s.last = (s.last + 1) % remembered
	s.recent[s.last] = r
}

// putKey remembers a client's key.
func (s *state) putKey(r *record) {
	if r.Key == "" {
		return
	}
	s.forgetKeys(time.Now().UnixMilli())
	if _, ok := s.keys[r.Key]; !ok {
		s.order = append(s.order, r.Key)
	}
	s.keys[r.Key] = usedKey{r.ID, r.Until, int(r.Count)}
}

// dropKey forgets the key of a charge that came to nothing: the next request with it
// is a new one.
func (s *state) dropKey(r *record) {
	if r.Key != "" && s.keys[r.Key].id == r.ID {
		s.keys[r.Key] = usedKey{} // its place in the order stays
	}
}

// forgetKeys forgets some of those whose time is over, and the oldest if there are
// too many.
func (s *state) forgetKeys(now int64) {
	for range keysInState {
		if len(s.order) == 0 {
			return
		}
		k := s.keys[s.order[0]]
		if k.until > now && len(s.order) < maxKeys {
			return
		}
		delete(s.keys, s.order[0])
		s.order[0] = ""
		s.order = s.order[1:]
	}
}

// snapshot are the records that make the state.
func (s *state) snapshot() []record {
	list := make([]record, 0, 1+len(s.totals)+len(s.order)+len(s.entries))
	list = append(list, record{Type: isStart})
	for k, t := range s.totals {
		list = append(list, record{Type: isTotal, Day: k.day, Consumer: k.consumer, Meter: k.meter, To: k.target, Units: t.units, Told: t.told, Count: t.count})
	}
	for name := range s.heirOf {
		list = append(list, record{Type: isHeir, ID: name})
	}
	for _, key := range s.order {
		if k := s.keys[key]; k.id != "" {
			list = append(list, record{Type: isKey, Key: key, ID: k.id, Until: k.until, Count: int64(k.uses)})
		}
	}
	for _, e := range s.entries {
		r := e.record
		r.Type, r.Days, r.Lent = isEntry, maps.Clone(r.Days), maps.Clone(r.Lent)
		if e.isLease() {
			r.Mode = modeLease
		}
		list = append(list, r)
	}
	return list
}
