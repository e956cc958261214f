package app

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/answer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/personal"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
	"github.com/sidegate-proxy/sidegate/proxy/policy/sunset"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// ready is a configuration that can be put in force: everything that can fail
// has been done.
type ready struct {
	file      *config.File
	table     *proxy.Table
	services  []*upstream.Config
	pools     *upstream.Plan
	keys      *keyset.Plan
	consumers *consumer.Directory
	personal  *personal.Policy
	auth      *remote.Plan // the services that decide who may call
	certs     *edgetls.Plan
	counting  *counting
	problems  []admin.Problem
	hosts     []string
}

// prepare makes a configuration ready, with what the feeds said (nil: nothing).
// Files beat KV, and KV beats registrations; what of KV and registrations is
// wrong or in conflict becomes a problem of its own and harms nothing else.
func (a *App) prepare(file *config.File, f *said) (*ready, error) {
	a.planning = file
	d := &draft{file: file, base: file, fixed: map[*config.Route]bool{}, own: file.Services}
	for _, r := range file.Routes {
		d.fixed[r] = true
	}
	if f != nil {
		var documents map[string][]byte
		documents, d.lists = apart(f.kv, a.consul.config().KV)
		parts, bad := config.ParseKV(documents, config.Options{Kinds: kinds(means{}), Env: a.opt.Env})
		d.add(bad)
		for _, p := range parts {
			p.Origin = "KV " + p.Origin
		}
		parts = append(parts, d.claimed(f.claims, f.problems)...)
		if len(parts) > 0 {
			d.file, bad = file.Merge(parts)
			d.add(bad)
		}
	}
	return a.compile(d)
}

// draft is a configuration on its way into a table.
type draft struct {
	file     *config.File           // with what the feeds add
	base     *config.File           // without
	fixed    map[*config.Route]bool // the files' routes: an error in one is the whole configuration's
	own      []*upstream.Config     // the files' services, likewise
	problems []admin.Problem
	lists    map[string][]byte // of KV, by name
}

func (d *draft) problem(where, format string, args ...any) {
	d.problems = append(d.problems, admin.Problem{Where: where, Text: fmt.Sprintf(format, args...)})
}

func (d *draft) add(list []config.Problem) {
	for _, p := range list {
		for _, f := range p.Diagnostics.List() {
			d.problem(p.Origin, "%s", f.Text)
		}
	}
}

// claimed makes a part of each route that registrations claim and the operator
// exposes.
func (d *draft) claimed(claims []discovery.Claim, problems []discovery.Problem) []*config.Part {
	for _, p := range problems {
		d.problem("registration "+p.Service+"/"+p.Instance, "%s", p.Text)
	}
	if d.file.Consul == nil || d.file.Consul.Expose == nil {
		return nil
	}
	expose := d.file.Consul.Expose
	routes, problems := discovery.Merge(claims)
	for _, p := range problems {
		d.problem("registration "+p.Service+"/"+p.Instance, "%s", p.Text)
	}
	known := map[string]bool{}
	for _, s := range d.file.Services {
		known[s.Name] = true
	}
	var parts []*config.Part
	for _, c := range routes {
		part := &config.Part{Origin: "registration " + c.Service}
		if err := discovery.Exposed(c.Hosts, expose.Hosts); err != nil {
			d.problem(part.Origin, "%v: consul.expose.hosts doesn't allow it", err)
			continue
		}
		r := &config.Route{}
		config.Defaults(&r.Config)
		r.Name = c.Service
		if c.Route != "" {
			r.Name += "." + c.Route
		}
		r.Hosts, r.Paths, r.StripPrefix = c.Hosts, c.Paths, c.Strip
		r.Use = append(slices.Clone(expose.Use), c.Use...)
		if c.Redirect != "" {
			r.Redirect = &route.RedirectConfig{To: c.Redirect, Status: cmp.Or(c.Status, 308)}
		} else {
			r.Service = c.Service
			if !known[c.Service] && c.Protocol != "" {
				s := config.NewService(c.Service)
				s.Protocol = c.Protocol
				part.Services = append(part.Services, s)
			}
			known[c.Service] = true
		}
		part.Routes = []*config.Route{r}
		parts = append(parts, part)
	}
	return parts
}

// unsound are the services of KV and registrations that no pool can be made
// of, for one because a file that they name holds no certificate. One that the
// files' routes use is left to fail the whole configuration.
func (a *App) unsound(d *draft) map[string]error {
	needed := map[string]bool{}
	for r := range d.fixed {
		for _, name := range servicesOf(r) {
			needed[name] = true
		}
	}
	bad := map[string]error{}
	for _, s := range d.file.Services {
		if needed[s.Name] || slices.Contains(d.own, s) {
			continue
		}
		if err := a.group.Check(s); err != nil {
			bad[s.Name] = err
		}
	}
	return bad
}

// compile turns a draft into what the data plane runs on.
func (a *App) compile(d *draft) (*ready, error) {
	out := &ready{file: d.file, keys: a.keysets.Plan(), auth: a.services.Plan()}
	bundles := map[string]*config.Bundle{}
	for _, b := range d.file.Bundles {
		bundles[b.Name] = b
	}
	diags := &config.Diagnostics{}
	var routes []*config.Route
	var compiled []*proxy.Route
	var rules []route.Rule
	used := map[string]bool{}
	unsound := a.unsound(d)
	consumers, err := a.directory(d)
	if err != nil {
		return nil, err
	}
	out.consumers = consumers
	conditions := sync.OnceValues(condition.NewCompiler) // made for the first condition, if there is one
	with := making{
		bundles: bundles,
		kinds: kinds(means{
			consumers: consumers, keys: out.keys, services: out.auth, conditions: conditions, list: a.lists(d),

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
			cached:    a.cached,
		}),
		conditions: conditions, logins: logsIn(d.file),
	}
	if with.personal, err = with.ofConsumers(d.file); err != nil {
		return nil, err
	}
	out.personal = with.personal
	for _, r := range d.file.Routes {
		origin, fixed := d.file.Origin(r), d.fixed[r]
		p, rule, err := with.route(r)
		for _, name := range servicesOf(r) {
			if bad := unsound[name]; bad != nil && err == nil {
				err = fmt.Errorf("service %q: %w", name, bad)
			}
		}
		if err != nil && fixed {
			diags.Errorf(r.Range, "", "route %q: %v", r.Name, err)
			continue
		}
		if err != nil {
			d.problem(origin, "route %q isn't used: %v", r.Name, err)
			continue
		}
		p.Origin = origin
		routes, compiled, rules = append(routes, r), append(compiled, p), append(rules, rule)
		out.hosts = append(out.hosts, r.Hosts...)
		for _, name := range servicesOf(r) {
			used[name] = true
		}
	}
	if diags.HasErrors() {
		return nil, &ConfigError{Text: diags.String()}
	}
	matcher, own, err := d.match(diags, routes, compiled, rules)
	if err != nil {
		return nil, err
	}
	for _, s := range d.file.Services { // only used services are watched
		if used[s.Name] {
			out.services = append(out.services, s)
		}
	}
	if out.pools, err = a.group.Plan(out.services); err != nil {
		return nil, err
	}
	slices.Sort(out.hosts)
	if out.certs, err = a.certs.Plan(certificates(d.file), slices.Compact(out.hosts)); err != nil {
		return nil, err
	}
	if out.counting, err = a.planCounting(d.file); err != nil {
		return nil, err
	}
	for i, p := range compiled {
		a.connect(p, routes[i], out.pools)
	}
	for _, p := range own {
		p.Stats = a.stats.Route(p.Name, "")
	}
	out.table = &proxy.Table{Matcher: matcher, Routes: append(compiled, own...), Trust: proxy.Trust(d.file.TrustedProxies), Log: a.accessLog, HTTPS: redirects(d.file)}
	out.problems = d.problems
	return out, nil
}

// compiled is the directory of a configuration's files. Feeds make many tables of
// the same files, which may have a million keys.
type compiled struct {
	of        *config.File
	directory *consumer.Directory
}

// directory makes that of the files, or finds the one that was made.
func (a *App) directory(d *draft) (*consumer.Directory, error) {
	if a.compiled.of == d.base {
		return a.compiled.directory, nil
	}
	directory, err := consumer.Compile(d.base.Plans, d.base.Consumers)
	if err != nil {
		return nil, err
	}
	directory.Attach(a.keys.ring)
	a.compiled = compiled{d.base, directory}
	return directory, nil
}

// match makes the matcher of the routes and of those that their policies have.
func (d *draft) match(diags *config.Diagnostics, routes []*config.Route, compiled []*proxy.Route, rules []route.Rule) (*route.Matcher, []*proxy.Route, error) {
	own, more := ownRoutes(routes, compiled, func(r *config.Route, err error) {
		if d.fixed[r] {
			diags.Errorf(r.Range, "", "%v", err)
		} else {
			d.problem(d.file.Origin(r), "%v", err)
		}
	})
	if diags.HasErrors() {
		return nil, nil, &ConfigError{Text: diags.String()}
	}
	m, err := route.Compile(append(rules, more...))
	return m, own, err
}

// certificates is the tls block, with ACME where it goes without saying: when
// the gateway listens on the ports that a certificate authority comes to.
func certificates(file *config.File) *edgetls.Settings {
	s := file.TLS
	if s.ACME != nil {
		return &s
	}
	for _, l := range file.Listeners {
		host, port, err := net.SplitHostPort(l.Address)
		if ip := net.ParseIP(host); err == nil && l.TLS && port == "443" && (ip == nil && host == "" || ip != nil && !ip.IsLoopback()) {
			s.ACME = &edgetls.ACMESettings{}
			config.Defaults(s.ACME)
		}
	}
	return &s
}

// servicesOf names the services that a route sends requests to.
func servicesOf(r *config.Route) []string {
	var out []string
	if r.Service != "" {
		out = append(out, r.Service)
	}
	out = append(out, slices.Sorted(maps.Keys(r.Split))...)
	if r.Mirror != nil {
		out = append(out, r.Mirror.Service)
	}
	return out
}

// making is what routes are compiled with.
type making struct {
	bundles    map[string]*config.Bundle
	kinds      []policy.Kind
	personal   *personal.Policy
	conditions func() (*condition.Compiler, error)
	logins     bool // some route has users log in
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
		if s, ok := p.(policy.Stripped); ok {
			s.Strip(strings.TrimSuffix(r.StripPrefix, "/"))
		}
		if s, ok := p.(policy.Guarded); ok && guarded {
			s.Guarded()
		}
		if s, ok := p.(policy.Splitter); ok {
			if part := s.AfterAuth(); part != nil {
				late = append(late, policy.Named{Name: k.Name + " by consumer", Policy: part})
			}
		}
	}
	return append(list, late...), nil
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
	for name, b := range m.bundles {
		if other := slices.ContainsFunc(b.Policies, func(o config.Block) bool { return !slices.Contains(personal.Kinds(), o.Kind.Name) }); other && users[name] == "" {
			continue
		}
		set, err := m.set(name, b)
		if err == nil {
			err = p.Add(name, set)
		}
		if err != nil && users[name] != "" {
			return nil, fmt.Errorf("policy %q, which %s uses: %w", name, users[name], err)
		}
	}
	return p, nil
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

// connect joins a compiled route with its pools and counters.
func (a *App) connect(p *proxy.Route, r *config.Route, pools *upstream.Plan) {
	p.Stats = a.stats.Route(r.Name, "")
	share := func(service string, upto uint32) {
		p.Shares = append(p.Shares, proxy.Share{Service: service, Pool: pools.Pool(service), Upto: upto, Stats: a.stats.Route(r.Name, service)})
	}
	if r.Service != "" {
		share(r.Service, 1)
	}
	var sum uint32
	for _, name := range slices.Sorted(maps.Keys(r.Split)) {
		if w := r.Split[name]; w > 0 {
			sum += uint32(w)
			share(name, sum)
		}
	}
	if r.Mirror != nil {
		p.Mirror = &proxy.Mirror{Service: r.Mirror.Service, Pool: pools.Pool(r.Mirror.Service), Percent: r.Mirror.Percent}
	}
	p.Refreshes(a.log)
}

// redirects says, for each listener that redirects, to which port: that of the
// first listener with TLS.
func redirects(file *config.File) map[string]string {
	port := "443"
	for _, l := range file.Listeners {
		if l.TLS {
			port = portOf(l.Address)
			break
		}
	}
	out := map[string]string{}
	for _, l := range file.Listeners {
		if l.RedirectHTTPS {
			out[l.Name] = port
		}
	}
	return out
}
