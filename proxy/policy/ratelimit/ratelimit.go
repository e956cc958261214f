package ratelimit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/key"
	"github.com/sidegate-proxy/sidegate/proxy/policy/rate"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// Config is a rate_limit block.
type Config struct {
	// How many requests may pass: "100/s", by s, m, h or day.
	Rate string `hcl:"rate,attr" required:"true"`
	// How many may come at once; unless given as many as come in one second, and one at least.
	Burst int `hcl:"burst,attr" min:"1" max:"1000000000"`
	// What clients are told apart by: client_ip (IPv6: the /64), consumer, header:NAME, cookie:NAME, query:NAME, param:NAME (of the path), claim:NAME (of the token), cel:EXPRESSION, or route: all together. Who has none of what is asked for is counted by client_ip. With consumer, the rate of the consumer's plan holds instead of this one.
	By string `hcl:"by,attr" default:"client_ip"`
	// What a request costs, a CEL expression over request, consumer and claims, such as "request.method == 'POST' ? 5 : 1"; 1 unless given. One that costs more than the burst, or whose cost can't be evaluated, costs the whole burst.
	Cost string `hcl:"cost,attr"`
	// The claim of the token that says the client's own rate, as "500/s", in the place of this one and of a plan's.
	RateClaim string `hcl:"rate_claim,attr"`
	// The most that such a claim can give: "1000/s". Needed with rate_claim.
	RateMax string `hcl:"rate_max,attr"`
	// Refuse nothing; only count in the metrics what would have been.
	DryRun bool `hcl:"dry_run,attr" default:"false"`
	shared.Sharing
}

// maxLimits bounds those of one route, so that a request's grants have room on
// the stack.
const maxLimits = 8

// Limit is one block, checked.
type Limit struct {
	by      key.By
	text    string // of by, as clients may see it
	written string // of by
	rate    exchange.Rate
	cost    *condition.Program // nil: 1
	claim   string             // with a rate; "": none
	most    exchange.Rate      // of such a rate
	burst   int64              // as given; 0: it wasn't
	dry     bool
	fleet   shared.Sharing
}

var _ policy.ParamReader = (*Limit)(nil)

// New checks a block, whose expressions conditions compiles. What limits is the
// policy that join makes.
func New(c Config, conditions func() (*condition.Compiler, error)) (*Limit, error) {
	l := &Limit{claim: c.RateClaim, burst: int64(c.Burst), dry: c.DryRun}
	var errs, err error
	fail := func(argument string, err error) {
		all := []error{err}
		if j, ok := err.(interface{ Unwrap() []error }); ok { // an expression's mistakes
			all = j.Unwrap()
		}
		for _, e := range all {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", argument, e))
		}
	}
	if l.rate, err = rate.Parse(c.Rate, c.Burst); err != nil {
		fail("rate", err)
	}
	if l.by, err = key.Parse(c.By, conditions); err != nil {
		fail("by", err)
	}
	l.text, l.written = l.by.Label(c.By), c.By
	if l.cost, err = expression(c.Cost, conditions); err != nil {
		fail("cost", err)
	}
	switch {
	case c.RateMax != "" && c.RateClaim == "":
		fail("rate_max", errors.New("without rate_claim"))
	case c.RateMax == "" && c.RateClaim != "":
		fail("rate_claim", errors.New("without rate_max, the most that a claim can give"))
	case c.RateMax != "":
		if l.most, err = rate.Parse(c.RateMax, 0); err != nil {
			fail("rate_max", err)
		}
		l.most.Burst = max(l.most.Burst, l.burst)
	}
	l.fleet = c.Sharing
	if err := l.fleet.Check(); err != nil {
		errs = errors.Join(errs, err)
	}
	if c.Shared && l.rate.Interval > 0 && l.rate.Interval < shared.Finest {
		fail("rate", fmt.Errorf("more than %d/s can't be counted on all nodes together", time.Second/shared.Finest))
	}
	if errs != nil {
		return nil, errs
	}
	return l, nil
}

// expression compiles a cost; nil: there is none.
func expression(text string, conditions func() (*condition.Compiler, error)) (*condition.Program, error) {
	if text == "" {
		return nil, nil
	}
	c, err := conditions()
	if err != nil {
		return nil, err
	}
	return c.Number(text)
}

// Params returns the path parameter that the limit reads.
func (l *Limit) Params() []string {
	if p := l.by.Param(); p != "" {
		return []string{p}
	}
	return nil
}

// Deps are what limits work with.
type Deps struct {
	Store      *Store                              // where they count
	Fleet      *shared.Fleet                       // where those do that count on all nodes together
	Conditions func() (*condition.Compiler, error) // compiles expressions; nil: one of its own
}

// Kind describes the policy to the configuration.
func Kind(d Deps) policy.Kind {
	if d.Conditions == nil {
		d.Conditions = sync.OnceValues(condition.NewCompiler)
	}
	return policy.Kind{
		Name: "rate_limit", Repeat: true, // the limits of a bundle and of a route add up
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config), d.Conditions) },
		Join:   func(route string, list []policy.Policy) (policy.Policy, error) { return join(d, route, list) },
	}
}

// Policy is all limits of a route.
type Policy struct {
	store    *Store
	fleet    *shared.Fleet
	limits   []limit // those that count on all nodes last
	local    int     // how many count on this one alone
	shown    bool    // some limit isn't a dry run
	policies string  // what RateLimit-Policy says; "": a plan has a say
}

// limit is a Limit on its route.
type limit struct {
	Limit
	name  string // in the answer's fields
	id    uint64
	fault *exchange.Fault // made once: refusing many must not cost
	count *Count

	// Of one that counts on all nodes together.
	shareID     string // what its counters are called
	unavailable *exchange.Fault
}

var (
	_ policy.Requester   = (*Policy)(nil)
	_ policy.Explainer   = (*Policy)(nil)
	_ policy.Tester      = (*Policy)(nil)
	_ policy.ParamReader = (*Policy)(nil)
)

func join(d Deps, route string, list []policy.Policy) (policy.Policy, error) {
	s := d.Store
	if len(list) > maxLimits {
		return nil, fmt.Errorf("a route can have %d limits at most, and has %d", maxLimits, len(list))
	}
	s.open()
	p := &Policy{store: s, fleet: d.Fleet}
	names, ids := map[string]int{}, map[uint64]uint64{}
	plans := false
	var policies []byte
	for _, one := range list {
		l := limit{Limit: *one.(*Limit)}
		l.name = l.text
		if names[l.text]++; names[l.text] > 1 {
			l.name += "-" + strconv.Itoa(names[l.text])
		}
		// A limit that says something else is another one, with new buckets; so
		// is the second of two equal ones.
		what := fmt.Sprintf("%s\x00%s\x00%+v", route, l.written, l.rate)
		id := s.hash(what)
		ids[id]++
		l.id, l.shareID = mix(id+ids[id]), fmt.Sprintf("%s\x00%d", what, ids[id])
		why := fmt.Errorf("more than %s by %s", rate.Text(l.rate), l.text)
		if l.by.Kind == key.Consumer {
			why = fmt.Errorf("more than %s, or than the plan says, by consumer", rate.Text(l.rate))
		}
		if l.claim != "" {
			why = fmt.Errorf("more than %s, or than the claim %s says, by %s", rate.Text(l.rate), l.claim, l.text)
		}
		l.unavailable = shared.Unavailable("rate_limit by " + l.text)
		l.fault = &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.RateLimited, Err: why}
		l.count = s.count(route, l.name, l.dry)
		if !l.dry {
			policies = appendPolicy(comma(policies), l.name, &l.rate)
			plans = plans || l.by.Kind == key.Consumer || l.claim != "" || l.fleet.Shared
		}
		if p.limits = append(p.limits, l); !l.fleet.Shared {
			p.local++
		}
	}
	slices.SortStableFunc(p.limits, func(a, b limit) int { return order(a.fleet.Shared) - order(b.fleet.Shared) })
	if p.local < len(p.limits) {
		d.Fleet.Want()
	}
	p.shown = len(policies) > 0
	if !plans {
		p.policies = string(policies)
	}
	return p, nil
}

// order puts the limits that count on all nodes behind the others.
func order(shared bool) int {
	if shared {
		return 1
	}
	return 0
}

// ask fills the grant of x with what is asked for: the bucket, the rate that
// holds for it, the cost.
func (l *limit) ask(s *Store, x *exchange.Exchange, g *grant) {
	r := l.want(x, g)
	id := l.id
	if r != &l.rate { // another rate is another bucket
		id += uint64(r.Interval)*apart + uint64(r.Burst)
	}
	g.key = l.place(s, id, x)
}

// want finds the rate that holds for x, and the cost.
func (l *limit) want(x *exchange.Exchange, g *grant) *exchange.Rate {
	g.rate, g.cost, g.dry = &l.rate, 1, l.dry
	switch {
	case l.claim != "" && l.claimed(x, g):
	case l.by.Kind == key.Consumer && x.Consumer != nil && x.Consumer.Plan != nil && x.Consumer.Plan.Rate.Interval > 0:
		g.rate = &x.Consumer.Plan.Rate
	}
	r := g.limit()
	if l.cost == nil {
		return r
	}
	n, err := l.cost.Int(x)
	if err != nil || n < 0 {
		l.count.errors.Add(1)
		n = r.Burst
	}
	g.cost = min(n, r.Burst)
	return r
}

// claimed looks for a rate in the client's token. One that isn't a rate is as
// good as none; one that is too much is as much as there may be.
func (l *limit) claimed(x *exchange.Exchange, g *grant) bool {
	text := x.Claims.Text(l.claim)
	if text == "" {
		return false
	}
	r, err := rate.Parse(text, 0)
	if err != nil {
		l.count.errors.Add(1)
		return false
	}
	if r.Interval <= l.most.Interval {
		g.own = l.most
		return true
	}
	// The block's burst holds for slower clients, too, as long as it doesn't
	// take years to come back.
	if r.Burst = max(r.Burst, min(l.burst, rate.MaxBurst(r.Interval))); r.Burst > l.most.Burst {
		r.Burst = l.most.Burst
	}
	g.own = r
	return true
}

// ask fills the grants of x.
func (p *Policy) ask(x *exchange.Exchange, grants []grant) {
	for i := range p.limits {
		p.limits[i].ask(p.store, x, &grants[i])
	}
}

// Request admits x if all limits do.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if p.local < len(p.limits) {
		return p.requestShared(x)
	}
	var all [maxLimits]grant
	grants := all[:len(p.limits)]
	p.ask(x, grants)
	now := p.store.now()
	return p.decide(x, now, grants, p.store.take(now, grants))
}

// decide counts and tells what the limits said.
func (p *Policy) decide(x *exchange.Exchange, now moment, grants []grant, refused int) (policy.Verdict, error) {
	for i := range grants {
		if !grants[i].ok {
			p.limits[i].count.refused.Add(1)
		}
	}
	if p.shown {
		p.tell(x, now, grants, refused)
	}
	if refused >= 0 {
		return policy.Done, p.limits[refused].fault
	}
	return policy.Next, nil
}

// tell puts the limits into the answer, whoever makes it. When one refused, it
// is the one to know of, and when to come back.
func (p *Policy) tell(x *exchange.Exchange, now moment, grants []grant, refused int) {
	var buf [256]byte
	policies := p.policies
	if policies == "" {
		b := buf[:0]
		for i := range grants {
			if g := &grants[i]; !g.dry {
				b = appendPolicy(comma(b), p.limits[i].name, g.limit())
			}
		}
		policies = x.Keep(b)
	}
	b := buf[:0]
	for i := range grants {
		if g := &grants[i]; !g.dry && (refused < 0 || refused == i) {
			b = appendLeft(comma(b), p.limits[i].name, g.full, now, g.limit())
		}
	}
	rate.Tell(x, policies, x.Keep(b))
	if refused >= 0 {
		g := &grants[refused]
		b = strconv.AppendInt(buf[:0], max(1, seconds(wait(g.full, now, g.limit(), g.cost))), 10)
		x.ResponseEdits.SetID(exchange.RetryAfter, "Retry-After", x.Keep(b))
	}
}

// Explain says what the limits are.
func (p *Policy) Explain() string {
	var parts []string
	for i := range p.limits {
		l := &p.limits[i]
		text := fmt.Sprintf("%s, %d at once, by %s", rate.Text(l.rate), l.rate.Burst, l.written)
		if l.cost != nil {
			text += ", each costs " + l.cost.String()
		}
		if l.claim != "" {
			text += fmt.Sprintf(", or as the claim %s says, %s at most", l.claim, rate.Text(l.most))
		}
		if l.fleet.Shared {
			text += ", on all nodes together"
		}
		if l.dry {
			text += " (dry run)"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// Test says what the limits would decide now.
func (p *Policy) Test(x *exchange.Exchange) string {
	grants := make([]grant, len(p.limits))
	now := p.store.now()
	known := p.peek(x, now, grants)
	var parts []string
	for i := range grants {
		g, name := &grants[i], p.limits[i].name
		if !g.ok {
			parts = append(parts, fmt.Sprintf("%s refuses for %d s", name, max(1, seconds(wait(g.full, now, g.limit(), g.cost)))))
			continue
		}
		text := fmt.Sprintf("%s admits %d of %d", name, left(g.full, now, g.limit()), g.limit().Burst)
		if p.limits[i].cost != nil {
			text += fmt.Sprintf(", and this costs %d", g.cost)
		}
		parts = append(parts, text)
	}
	if !known {
		parts = append(parts, "but the counters of the fleet can't be asked now")
	}
	return strings.Join(parts, ", ")
}

// Params returns the path parameters that the limits read.
func (p *Policy) Params() []string {
	var names []string
	for i := range p.limits {
		names = append(names, p.limits[i].Params()...)
	}
	return names
}
