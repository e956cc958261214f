package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/rate"
)

// Config is a rate_limit block.
type Config struct {
	// How many requests may pass: "100/s", by s, m, h or day.
	Rate string `hcl:"rate,attr" required:"true"`
	// How many may come at once; unless given as many as come in one second, and one at least.
	Burst int `hcl:"burst,attr" min:"1" max:"1000000000"`
	// What clients are told apart by: client_ip (IPv6: the /64), consumer, header:NAME, cookie:NAME, query:NAME, param:NAME (of the path), or route: all together. Who has none of what is asked for is counted by client_ip. With consumer, the rate of the consumer's plan holds instead of this one.
	By string `hcl:"by,attr" default:"client_ip"`
	// Count on all nodes together.
	Shared bool `hcl:"shared,attr" default:"false"`
	// Refuse nothing; only count in the metrics what would have been.
	DryRun bool `hcl:"dry_run,attr" default:"false"`
}

// maxLimits bounds those of one route, so that a request's grants have room on
// the stack.
const maxLimits = 8

// Limit is one block, checked.
type Limit struct {
	by   by
	text string // of by
	rate exchange.Rate
	dry  bool
}

var _ policy.ParamReader = (*Limit)(nil)

// New checks a block. What limits is the policy that join makes.
func New(c Config) (*Limit, error) {
	l := &Limit{text: c.By, dry: c.DryRun}
	var errs, err error
	if l.rate, err = rate.Parse(c.Rate, c.Burst); err != nil {
		errs = errors.Join(errs, fmt.Errorf("rate: %w", err))
	}
	if l.by, err = parseBy(c.By); err != nil {
		errs = errors.Join(errs, fmt.Errorf("by: %w", err))
	}
	if c.Shared {
		errs = errors.Join(errs, errors.New("shared: counting on all nodes together is not available yet"))
	}
	if errs != nil {
		return nil, errs
	}
	return l, nil
}

// Params returns the path parameter that the limit reads.
func (l *Limit) Params() []string {
	if l.by.kind == byParam {
		return []string{l.by.name}
	}
	return nil
}

// Kind describes the policy to the configuration. Its limits count in s.
func Kind(s *Store) policy.Kind {
	return policy.Kind{
		Name: "rate_limit", Repeat: true, // the limits of a bundle and of a route add up
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
		Join:   func(route string, list []policy.Policy) (policy.Policy, error) { return join(s, route, list) },
	}
}

// Policy is all limits of a route.
type Policy struct {
	store    *Store
	limits   []limit
	shown    bool   // some limit isn't a dry run
	policies string // what RateLimit-Policy says; "": a plan has a say
}

// limit is a Limit on its route.
type limit struct {
	Limit
	name  string // in the answer's fields
	id    uint64
	fault *exchange.Fault // made once: refusing many must not cost
	count *Count
}

var (
	_ policy.Requester   = (*Policy)(nil)
	_ policy.Explainer   = (*Policy)(nil)
	_ policy.Tester      = (*Policy)(nil)
	_ policy.ParamReader = (*Policy)(nil)
)

func join(s *Store, route string, list []policy.Policy) (policy.Policy, error) {
	if len(list) > maxLimits {
		return nil, fmt.Errorf("a route can have %d limits at most, and has %d", maxLimits, len(list))
	}
	s.open()
	p := &Policy{store: s}
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
		l.id = s.hash(fmt.Sprintf("%s\x00%s\x00%+v", route, l.text, l.rate))
		ids[l.id]++
		l.id = mix(l.id + ids[l.id])
		why := fmt.Errorf("more than %s by %s", rate.Text(l.rate), l.text)
		if l.by.kind == byConsumer {
			why = fmt.Errorf("more than %s, or than the plan says, by consumer", rate.Text(l.rate))
		}
		l.fault = &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.RateLimited, Err: why}
		l.count = s.count(route, l.name, l.dry)
		if !l.dry {
			policies = appendPolicy(comma(policies), l.name, &l.rate)
			plans = plans || l.by.kind == byConsumer
		}
		p.limits = append(p.limits, l)
	}
	p.shown = len(policies) > 0
	if !plans {
		p.policies = string(policies)
	}
	return p, nil
}

// of finds the bucket of x: its key, and the rate that holds for it.
func (l *limit) of(s *Store, x *exchange.Exchange) (key uint64, r *exchange.Rate) {
	id, r := l.id, &l.rate
	if l.by.kind == byConsumer && x.Consumer != nil && x.Consumer.Plan != nil && x.Consumer.Plan.Rate.Interval > 0 {
		r = &x.Consumer.Plan.Rate
		id += uint64(r.Interval)*apart + uint64(r.Burst) // another plan is another bucket
	}
	return l.by.key(s, id, x), r
}

// ask fills the grants of x with what is asked for.
func (p *Policy) ask(x *exchange.Exchange, grants []grant) {
	for i := range p.limits {
		l, g := &p.limits[i], &grants[i]
		g.key, g.rate = l.of(p.store, x)
		g.dry = l.dry
	}
}

// Request admits x if all limits do.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	var all [maxLimits]grant
	grants := all[:len(p.limits)]
	p.ask(x, grants)
	now := p.store.at(x.Start)
	refused := p.store.take(now, grants)
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
				b = appendPolicy(comma(b), p.limits[i].name, g.rate)
			}
		}
		policies = x.Keep(b)
	}
	x.ResponseEdits.SetID(exchange.Other, policyName, policies)
	b := buf[:0]
	for i := range grants {
		if g := &grants[i]; !g.dry && (refused < 0 || refused == i) {
			b = appendLeft(comma(b), p.limits[i].name, g.full, now, g.rate)
		}
	}
	x.ResponseEdits.SetID(exchange.Other, limitName, x.Keep(b))
	if refused >= 0 {
		g := &grants[refused]
		b = strconv.AppendInt(buf[:0], max(1, seconds(wait(g.full, now, g.rate))), 10)
		x.ResponseEdits.SetID(exchange.RetryAfter, "Retry-After", x.Keep(b))
	}
}

// Explain says what the limits are.
func (p *Policy) Explain() string {
	var parts []string
	for i := range p.limits {
		l := &p.limits[i]
		text := fmt.Sprintf("%s, %d at once, by %s", rate.Text(l.rate), l.rate.Burst, l.text)
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
	p.ask(x, grants)
	now := p.store.at(x.Start)
	p.store.peek(now, grants)
	var parts []string
	for i := range grants {
		g, name := &grants[i], p.limits[i].name
		if !g.ok {
			parts = append(parts, fmt.Sprintf("%s refuses for %d s", name, max(1, seconds(wait(g.full, now, g.rate)))))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s admits %d of %d", name, left(g.full, now, g.rate), g.rate.Burst))
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
