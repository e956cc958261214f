package app

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/answer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/personal"
	"github.com/sidegate-proxy/sidegate/proxy/policy/sunset"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// making is what routes are compiled with.
type making struct {
	bundles    map[string]*config.Bundle
	kinds      []policy.Kind
	personal   *personal.Policy
	conditions func() (*condition.Compiler, error)
	own        *ownUsage // nil: usage isn't counted
	logins     bool      // some route has users log in
}

// making makes what the routes of a draft are compiled with, and plans what it needs.
func (a *App) making(d *draft, out *ready) (*making, error) {
	m := &making{bundles: map[string]*config.Bundle{}, own: a.own, logins: logsIn(d.file)}
	for _, b := range d.file.Bundles {
		m.bundles[b.Name] = b
	}
	var err error
	if out.consumers, err = a.directory(d); err != nil {
		return nil, err
	}
	m.conditions = sync.OnceValues(condition.NewCompiler) // made for the first condition, if there is one
	m.kinds = kinds(means{
		consumers:  out.consumers,
		keys:       out.keys,
		services:   out.auth,
		billing:    out.billing,
		conditions: m.conditions,
		list:       a.lists(d),

		networks:  &a.networks,
		geo:       &a.geo,
		bans:      a.bans,
		waf:       a.waf,
		documents: &a.documents,
		described: a.described,
		flight:    &a.flight,
		counters:  a.counters,
		quotas:    a.quotas,
		fleet:     a.fleet,
		tokens:    a.tokens,
		passwords: a.passwords,
		answers:   a.answers,
		known:     a.known,
		logins:    a.logins,
		encoders:  a.encoders,
		cached:    a.cached,
		charges:   a.charges,
	})
	if m.personal, err = m.ofConsumers(d.file); err != nil {
		return nil, err
	}
	out.personal = m.personal
	return m, nil
}

// route makes a route's rule and chain; connect adds the pools.
func (m *making) route(r *config.Route) (*proxy.Route, route.Rule, error) {
	rule := r.Rule()
	if r.When != "" {
		compiler, err := m.conditions()
		if err != nil {
			return nil, rule, err
		}
		c, err := compiler.Compile(r.When)
		if err != nil {
			return nil, rule, fmt.Errorf("when: %w", err)
		}
		rule.When = c
	}
	list, err := m.policies(r)
	if err != nil {
		return nil, rule, err
	}
	p := &proxy.Route{Name: r.Name, Chain: policy.Compile(list), Strip: strings.TrimSuffix(r.StripPrefix, "/"), Priority: exchange.ParsePriority(r.Priority)}
	switch {
	case r.Redirect != nil:
		p.Answer, err = answer.Redirect(*r.Redirect)
	case r.Respond != nil:
		p.Answer, err = answer.Respond(*r.Respond)
	case r.Usage != nil && m.own == nil:
		err = errors.New("usage: it isn't counted who uses what: add usage {} at the top")
	case r.Usage != nil:
		p.Answer = answer.Usage(m.own)
	}
	if err != nil {
		return nil, rule, err
	}
	return p, rule, p.Chain.CheckParams(route.Params(r.Paths))
}

// policies are those of a route's bundles and its own, in the fixed order.
func (m *making) policies(r *config.Route) ([]policy.Named, error) {
	var list []policy.Named
	if r.Sunset != nil {
		s, err := sunset.New(*r.Sunset, time.Now)
		if err != nil {
			return nil, fmt.Errorf("sunset: %w", err)
		}
		list = append(list, policy.Named{Name: "sunset", Policy: s})
	}
	more, err := m.chain(r)
	if err != nil {
		return nil, err
	}
	list = append(list, more...)
	if m.logins && !slices.ContainsFunc(list, func(n policy.Named) bool { return policy.Compile([]policy.Named{n}).Paths() != nil }) {
		list = append(list, policy.Named{Name: "cookies", Policy: oidc.Hider{}})
	}
	return list, nil
}

// chain are the policies of a route's blocks and of its bundles'.
func (m *making) chain(r *config.Route) ([]policy.Named, error) {
	var list []policy.Named
	blocks := m.blocks(r)
	guarded := slices.ContainsFunc(blocks, func(b config.Block) bool { return b.Kind.Name == "auth" })
	var late []policy.Named // parts that run behind auth
	auth := slices.IndexFunc(m.kinds, func(k policy.Kind) bool { return k.Name == "auth" })
	for len(blocks) > 0 {
		k := blocks[0].Kind
		if len(late) > 0 && m.place(k) > auth {
			list, late = append(list, late...), nil
		}
		var same []policy.Policy // those that one policy is made of
		for len(blocks) > 0 && blocks[0].Kind.Name == k.Name && (len(same) == 0 || k.Join != nil) {
			p, err := m.kind(blocks[0].Kind).New(blocks[0].Config)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.Name, err)
			}
			same, blocks = append(same, p), blocks[1:]
		}
		p := same[0]
		if k.Join != nil {
			var err error
			if p, err = m.kind(k).Join(r.Name, same); err != nil {
				return nil, fmt.Errorf("%s: %w", k.Name, err)
			}
		}
		list = append(list, policy.Named{Name: k.Name, Policy: p})
		if k.Name == "auth" {
			list = append(list, policy.Named{Name: "the consumer's", Policy: m.personal})
		}
		if s, ok := p.(policy.Guarded); ok && guarded {
			s.Guarded()
		}
		if s, ok := p.(policy.Stripped); ok {
			s.Strip(strings.TrimSuffix(r.StripPrefix, "/"))
		}
		if s, ok := p.(policy.Splitter); ok {
			if part := s.AfterAuth(); part != nil {
				late = append(late, policy.Named{Name: k.Name + " by consumer", Policy: part})
			}
		}
	}
	list = append(list, late...)
	recode(list)
	return list, nil
}

// recode tells the policies that want to know it who encodes the route's responses.
func recode(list []policy.Named) {
	for _, n := range list {
		coder, ok := n.Policy.(policy.Coder)
		if !ok {
			continue
		}
		for _, o := range list {
			if p, ok := o.Policy.(policy.Recoded); ok {
				p.Recoded(coder)
			}
		}
	}
}

// ofConsumers are the policies that consumers and plans may use: all sets that
// have nothing else in them, since those who stand in no file come and go.
func (m *making) ofConsumers(file *config.File) (*personal.Policy, error) {
	p := personal.New()
	users := map[string]string{}
	for _, c := range file.Plans {
		for _, name := range c.Use {
			users[name] = fmt.Sprintf("plan %q", c.Name)
		}
	}
	for _, c := range file.Consumers {
		for _, name := range c.Use {
			users[name] = fmt.Sprintf("consumer %q", c.Name)
		}
	}
	used := usedByRoutes(file)
	for name, b := range m.bundles {
		if other := slices.ContainsFunc(b.Policies, func(o config.Block) bool { return !slices.Contains(personal.Kinds(), o.Kind.Name) }); other && users[name] == "" {
			continue
		}
		set, err := m.set(name, b)
		if err == nil {
			err = p.Add(name, set, users[name] != "" || !used[name])
		}
		if err != nil && users[name] != "" {
			return nil, fmt.Errorf("policy %q, which %s uses: %w", name, users[name], err)
		}
	}
	return p, nil
}

// usedByRoutes are the sets of policies that routes use, those of registrations
// included: what they set may be about the routes.
func usedByRoutes(file *config.File) map[string]bool {
	used := map[string]bool{}
	add := func(names []string) {
		for _, name := range names {
			used[name] = true
		}
	}
	for _, r := range file.Routes {
		add(r.Use)
	}
	if file.Consul != nil && file.Consul.Expose != nil {
		add(file.Consul.Expose.Use)
	}
	return used
}

// policySet is what counters of a set that consumers use go by.
func policySet(name string) string { return "policy " + name }

// set makes the policies of a bundle by themselves.
func (m *making) set(name string, b *config.Bundle) ([]policy.Named, error) {
	r := &config.Route{}
	r.Name, r.Use = policySet(name), []string{b.Name}
	return m.chain(r)
}

// place is that of a kind in the order.
func (m *making) place(k *policy.Kind) int {
	return slices.IndexFunc(m.kinds, func(o policy.Kind) bool { return o.Name == k.Name })
}

// blocks are the policy blocks of a route and its bundles, sorted by kind. A
// route's own block takes the place of the bundles' ones of its kind, unless
// the kind may repeat.
func (m *making) blocks(r *config.Route) []config.Block {
	var blocks []config.Block
	add := func(more []config.Block, authorize string) {
		if authorize != "" {
			blocks = append(blocks, config.Block{Kind: m.kind(&policy.Kind{Name: "authorize"}), Config: authorize})
		}
		for _, b := range more {
			if !b.Kind.Repeat {
				blocks = slices.DeleteFunc(blocks, func(o config.Block) bool { return o.Kind.Name == b.Kind.Name })
			}
			blocks = append(blocks, b)
		}
	}
	for _, name := range r.Use {
		b := m.bundles[name] // config has checked that it is there
		add(b.Policies, b.Authorize)
	}
	add(r.Policies, r.Authorize)
	slices.SortStableFunc(blocks, func(a, b config.Block) int { return m.place(a.Kind) - m.place(b.Kind) })
	return blocks
}

// kind is k, which a block was decoded by, with what it works with.
func (m *making) kind(k *policy.Kind) *policy.Kind {
	i := slices.IndexFunc(m.kinds, func(o policy.Kind) bool { return o.Name == k.Name && o.Label == k.Label })
	return &m.kinds[i]
}
