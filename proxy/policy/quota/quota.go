package quota

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/key"
	"github.com/sidegate-proxy/sidegate/proxy/policy/rate"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// Config is a quota block.
type Config struct {
	// How much may be used in a period of the calendar, in UTC: "1000000/month", by h, day or month.
	Limit string `hcl:"limit,attr" required:"true"`
	// What clients are told apart by: consumer, client_ip (IPv6: the /64), header:NAME, cookie:NAME, query:NAME, param:NAME (of the path), claim:NAME (of the token), cel:EXPRESSION, or route: all together. Who has none of what is asked for is counted by client_ip. With consumer, the quota of the consumer's plan holds instead of this one.
	By string `hcl:"by,attr" default:"consumer"`
	// Quotas of one name count together, on whatever routes they are; unless given, the route counts by itself.
	Name string `hcl:"name,attr"`
	// How many units a request uses, a CEL expression over request, consumer and claims; 1 unless given. A request whose cost can't be evaluated is refused (403).
	Cost string `hcl:"cost,attr"`
	shared.Sharing
}

// maxQuotas bounds those of one route, so that what a request asks has room on
// the stack.
const maxQuotas = 4

// Quota is one block, checked.
type Quota struct {
	by    key.By
	text  string // of by, as clients may see it
	limit exchange.Quota
	name  string
	cost  *condition.Program // nil: 1
	cel   string             // of by: what tells two expressions apart
	fleet shared.Sharing
}

var _ policy.ParamReader = (*Quota)(nil)

// New checks a block, whose expressions conditions compiles. What counts is the
// policy that join makes.
func New(c Config, conditions func() (*condition.Compiler, error)) (*Quota, error) {
	q := &Quota{name: c.Name, fleet: c.Sharing}
	var errs, err error
	if err := q.fleet.Check(); err != nil {
		errs = err
	}
	fail := func(argument string, err error) {
		all := []error{err}
		if j, ok := err.(interface{ Unwrap() []error }); ok { // an expression's mistakes
			all = j.Unwrap()
		}
		for _, e := range all {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", argument, e))
		}
	}
	if q.limit, err = rate.ParseQuota(c.Limit); err != nil {
		fail("limit", err)
	}
	if q.by, err = key.Parse(c.By, conditions); err != nil {
		fail("by", err)
	}
	if q.text = q.by.Label(c.By); q.text != c.By {
		q.cel = c.By
	}
	if !named(c.Name) {
		fail("name", fmt.Errorf("%.40q may have letters, digits, - . and _ only", c.Name))
	}
	if c.Cost != "" {
		if q.cost, err = number(c.Cost, conditions); err != nil {
			fail("cost", err)
		}
	}
	if errs != nil {
		return nil, errs
	}
	return q, nil
}

func number(text string, conditions func() (*condition.Compiler, error)) (*condition.Program, error) {
	c, err := conditions()
	if err != nil {
		return nil, err
	}
	return c.Number(text)
}

// named reports whether name can stand in an answer's field and on the disk.
func named(name string) bool {
	for _, c := range []byte(name) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte("-._", c) < 0 {
			return false
		}
	}
	return len(name) <= 100
}

// Params returns the path parameter that the quota reads.
func (q *Quota) Params() []string {
	if p := q.by.Param(); p != "" {
		return []string{p}
	}
	return nil
}

// Kind describes the policy to the configuration. Its quotas count in s; their
// expressions are compiled by conditions, nil: one of its own.
func Kind(s *Store, conditions func() (*condition.Compiler, error)) policy.Kind {
	if conditions == nil {
		conditions = sync.OnceValues(condition.NewCompiler)
	}
	return policy.Kind{
		Name: "quota", Repeat: true, // the quotas of a bundle and of a route add up
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config), conditions) },
		Join:   func(route string, list []policy.Policy) (policy.Policy, error) { return join(s, route, list) },
	}
}

// Policy is all quotas of a route.
type Policy struct {
	store  *Store
	quotas []quota // those that count on all nodes last
	local  int     // how many count on this one alone
}

// quota is a Quota on its route.
type quota struct {
	Quota
	scope string          // whose counters
	label string          // in the answer's fields
	fault *exchange.Fault // made once: refusing many must not cost
	count *Count

	unavailable *exchange.Fault
}

var (
	_ policy.Requester   = (*Policy)(nil)
	_ policy.Explainer   = (*Policy)(nil)
	_ policy.Tester      = (*Policy)(nil)
	_ policy.ParamReader = (*Policy)(nil)
)

// onAll marks what is counted on all nodes: what a node counts alone is never
// the same.
const onAll = "@fleet"

func join(s *Store, route string, list []policy.Policy) (policy.Policy, error) {
	if len(list) > maxQuotas {
		return nil, fmt.Errorf("a route can have %d quotas at most, and has %d", maxQuotas, len(list))
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	p := &Policy{store: s}
	labels, scopes := map[string]int{}, map[string]int{}
	for _, one := range list {
		q := quota{Quota: *one.(*Quota)}
		q.label = q.text
		q.scope = "route:" + route
		if q.name != "" {
			q.label, q.scope = q.name, "name:"+q.name
		}
		if q.fleet.Shared {
			q.scope += onAll
		}
		q.label += "/" + q.limit.Period.String()
		if labels[q.label]++; labels[q.label] > 1 {
			q.label += "-" + strconv.Itoa(labels[q.label])
		}
		// Two blocks must not count in one place: a request would use it twice.
		which := fmt.Sprintf("%s %s %s%s", q.scope, q.limit.Period, q.text, q.cel)
		if scopes[which]++; scopes[which] > 1 {
			q.scope += "#" + strconv.Itoa(scopes[which])
		}
		why := fmt.Errorf("more than %s by %s", rate.QuotaText(q.limit), q.text)
		if q.by.Kind == key.Consumer {
			why = fmt.Errorf("more than %s, or than the plan says, by consumer", rate.QuotaText(q.limit))
		}
		q.fault = &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.QuotaExceeded, Err: why}
		q.count = s.count(route, q.label)
		q.unavailable = shared.Unavailable("quota " + q.label)
		if p.quotas = append(p.quotas, q); !q.fleet.Shared {
			p.local++
		}
	}
	if p.local < len(p.quotas) {
		s.Fleet.Want()
	}
	slices.SortStableFunc(p.quotas, func(a, b quota) int { return order(a.fleet.Shared) - order(b.fleet.Shared) })
	return p, nil
}

// order puts the quotas that count on all nodes behind the others.
func order(shared bool) int {
	if shared {
		return 1
	}
	return 0
}

// errCost is a request whose cost can't be told.
func (q *quota) errCost(err error) *exchange.Fault {
	q.count.errors.Add(1)
	return exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "quota %s: cost: %w", q.label, err)
}

// ask says what x wants of the quota.
func (q *quota) ask(s *Store, x *exchange.Exchange) (a ask, err error) {
	limit, scope, label := q.limit, q.scope, q.label
	if q.by.Kind == key.Consumer && x.Consumer != nil && x.Consumer.Plan != nil && x.Consumer.Plan.Quota.Units > 0 {
		limit, scope = x.Consumer.Plan.Quota, "plan"
		if q.fleet.Shared {
			scope = "plan" + onAll
		}
		label = planLabel(limit.Period)
	}
	a = ask{id: id{scope, q.client(x), limit.Period}, label: label, limit: limit.Units, cost: 1, start: s.now(limit.Period, x.Start)}
	if q.cost == nil {
		return a, nil
	}
	if a.cost, err = q.cost.Int(x); err == nil && a.cost < 0 {
		err = fmt.Errorf("%d is less than 0", a.cost)
	}
	return a, err
}

// planLabel is what an answer's field calls the quota of a plan.
func planLabel(p exchange.Period) string {
	switch p {
	case exchange.Hour:
		return "plan/h"
	case exchange.Day:
		return "plan/day"
	default:
		return "plan/month"
	}
}

// Request admits x if all quotas do.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	var all [maxQuotas]ask
	asks := all[:len(p.quotas)]
	for i := range asks {
		var err error
		if asks[i], err = p.quotas[i].ask(p.store, x); err != nil {
			return policy.Done, p.quotas[i].errCost(err)
		}
		// The plan's quota holds once, however many blocks it takes the place of.
		if asks[i].again = again(asks[:i], &asks[i]); asks[i].again {
			asks[i].cost = 0
		}
	}
	refused := p.take(asks, 0, p.local)
	var fault *exchange.Fault
	if refused < 0 && p.local < len(asks) {
		refused, fault = p.takeShared(asks)
	}
	switch {
	case fault != nil:
		return policy.Done, fault
	case refused >= 0:
		p.quotas[refused].count.refused.Add(1)
		p.tell(x, asks[:refused+1], refused)
		return policy.Done, p.quotas[refused].fault
	}
	for i := range asks {
		if asks[i].short {
			p.store.settle(&asks[i])
		}
	}
	p.tell(x, asks, -1)
	return policy.Next, nil
}

// take takes of the quotas from one to another. When one refuses, all before it
// get back what was taken of them, and its place is returned; -1: none.
func (p *Policy) take(asks []ask, from, to int) int {
	for i := from; i < to; i++ {
		if p.store.take(&asks[i]) {
			p.warn(i, &asks[i])
		}
		if !asks[i].ok {
			p.undo(asks[:i])
			return i
		}
	}
	return -1
}

// again reports whether a counts where one before it does.
func again(before []ask, a *ask) bool {
	for i := range before {
		if before[i].id == a.id {
			return true
		}
	}
	return false
}

func (p *Policy) undo(asks []ask) {
	for i := range asks {
		p.store.giveBack(&asks[i])
	}
}

// warn tells the operator that a client has used most of its quota: once in a
// period.
func (p *Policy) warn(i int, a *ask) {
	p.quotas[i].count.warned.Add(1)
	p.store.Log.WithFields(logrus.Fields{"quota": a.e.scope, "client": a.e.client, "used": a.used, "limit": a.limit, "period": a.period.String()}).
		Warnf("%d %% of a quota is used", warnShare)
}

// tell puts the quotas into the answer. When one refused, it is the one to know
// of, and when to come back.
func (p *Policy) tell(x *exchange.Exchange, asks []ask, refused int) {
	var buf, more [256]byte
	policies, left := buf[:0], more[:0]
	now := x.Start.Unix()
	for i := range asks {
		a := &asks[i]
		if a.again {
			continue
		}
		end := endOf(a.period, a.start)
		policies = appendItem(policies, a.label, ";q=", a.limit, ";w=", end-a.start)
		if refused < 0 || refused == i {
			left = appendItem(left, a.label, ";r=", max(0, a.limit-a.used), ";t=", max(end-now, 1))
		}
	}
	rate.Tell(x, x.Keep(policies), x.Keep(left))
	if refused >= 0 {
		a := &asks[refused]
		b := strconv.AppendInt(buf[:0], max(endOf(a.period, a.start)-now, 1), 10)
		x.ResponseEdits.SetID(exchange.RetryAfter, "Retry-After", x.Keep(b))
	}
}

// appendItem appends an item of a list with two parameters (RFC 9651, 3.1).
func appendItem(b []byte, name, first string, n int64, second string, m int64) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(append(append(b, '"'), name...), '"')
	b = strconv.AppendInt(append(b, first...), n, 10)
	return strconv.AppendInt(append(b, second...), m, 10)
}

// Explain says what the quotas are.
func (p *Policy) Explain() string {
	var parts []string
	for i := range p.quotas {
		q := &p.quotas[i]
		text := rate.QuotaText(q.limit) + " by " + q.text
		if q.name != "" {
			text += ", named " + q.name
		}
		if q.cost != nil {
			text += ", each costs " + q.cost.String()
		}
		if q.fleet.Shared {
			text += ", on all nodes together"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// Test says what the quotas would decide now.
func (p *Policy) Test(x *exchange.Exchange) string {
	var parts []string
	for i := range p.quotas {
		q := &p.quotas[i]
		a, err := q.ask(p.store, x)
		if err != nil {
			parts = append(parts, fmt.Sprintf("%s refuses: cost: %v", q.label, err))
			continue
		}
		p.store.peek(&a)
		verdict := "admits"
		if !a.ok {
			verdict = "refuses"
		}
		end := time.Unix(endOf(a.period, a.start), 0).UTC().Format(time.RFC3339)
		parts = append(parts, fmt.Sprintf("%s %s, with %d of %d used until %s", a.label, verdict, a.used, a.limit, end))
	}
	return strings.Join(parts, ", ")
}

// Params returns the path parameters that the quotas read.
func (p *Policy) Params() []string {
	var names []string
	for i := range p.quotas {
		names = append(names, p.quotas[i].Params()...)
	}
	return names
}
