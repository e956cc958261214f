package app

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/personal"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/tracing"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// ready is a configuration that can be put in force: everything that can fail
// has been done.
type ready struct {
	file       *config.File
	table      *proxy.Table
	services   []*upstream.Config
	pools      *upstream.Plan
	keys       *keyset.Plan
	consumers  *consumer.Directory
	personal   *personal.Policy
	auth       *remote.Plan // the services that decide who may call
	billing    *charge.Plan // the services that take charges
	certs      *edgetls.Plan
	counting   *counting
	identities *identityPlan
	tracingCA  string // the roots of tracing.ca_file
	problems   []admin.Problem
	hosts      []string
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
		if name, kind := d.replaces(c.Use, expose.Use); name != "" {
			d.problem(part.Origin, "route %q isn't used: the policy %q has %s, which would take the place of the one that consul.expose.use has", r.Name, name, kind)
			continue
		}
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

// replaces finds the set of a registration with a block that would take the place of
// one that the operator puts on each claimed route.
func (d *draft) replaces(own, operator []string) (name, kind string) {
	single := func(names []string, f func(name, kind string)) {
		for _, b := range d.file.Bundles {
			for _, p := range b.Policies {
				if slices.Contains(names, b.Name) && !p.Kind.Repeat {
					f(b.Name, p.Kind.Name)
				}
			}
		}
	}
	fixed := map[string]bool{}
	single(operator, func(_, kind string) { fixed[kind] = true })
	single(own, func(n, k string) {
		if fixed[k] && !slices.Contains(operator, n) {
			name, kind = n, k
		}
	})
	return name, kind
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
	out := &ready{file: d.file, keys: a.keysets.Plan(), auth: a.services.Plan(), billing: a.charges.Plan()}
	with, err := a.making(d, out)
	if err != nil {
		return nil, err
	}
	diags := &config.Diagnostics{}
	out.identities = a.identities.plan(d.file, diags)
	a.planIdentities = out.identities
	made := a.routes(d, with, diags)
	beside := a.sidecars(d, with, made, diags)
	if diags.HasErrors() {
		return nil, &ConfigError{Text: diags.String()}
	}
	invalidate(made.routes, made.compiled)
	matcher, own, err := d.match(diags, made)
	if err != nil {
		return nil, err
	}
	for _, s := range d.file.Services { // only used services are watched
		if made.used[s.Name] {
			out.services = append(out.services, s)
		}
	}
	out.services = append(append(out.services, beside.services...), billingServices(out.billing)...)
	if out.pools, err = a.group.Plan(out.services); err != nil {
		return nil, err
	}
	connectBilling(out.billing, out.pools)
	for _, r := range made.routes {
		out.hosts = append(out.hosts, r.Hosts...)
	}
	slices.Sort(out.hosts)
	if out.certs, err = a.certs.Plan(certificates(d.file), certified(d.file, slices.Compact(out.hosts))); err != nil {
		return nil, err
	}
	if out.counting, err = a.planCounting(d.file); err != nil {
		return nil, err
	}
	if d.file.Tracing != nil {
		if out.tracingCA, err = remote.ReadCAs(d.file.Tracing.CAFile); err != nil {
			return nil, fmt.Errorf("tracing: %w", err)
		}
	}
	for i, p := range made.compiled {
		a.connect(p, made.routes[i], out.pools)
	}
	for _, p := range own {
		p.Stats = a.stats.Route(p.Name, "")
	}
	out.table = &proxy.Table{
		Matcher: matcher, Routes: append(made.compiled, own...), Trust: proxy.Trust(d.file.TrustedProxies), Log: a.logOf(d.file), Tracer: a.tracerOf(d.file), HTTPS: redirects(d.file),
	}
	if err := a.enlist(out.table, beside, out.pools, diags); err != nil {
		return nil, err
	}
	out.problems = d.problems
	return out, nil
}

// logOf is the access log as a configuration has it; its routes say what is hidden.
func (a *App) logOf(file *config.File) *proxy.AccessLog {
	if a.accessLog == nil || file.AccessLog == nil {
		return nil
	}
	return proxy.NewAccessLog(*file.AccessLog, file.Credentials(), a.accessLog)
}

// tracerOf is what traces a configuration's requests; nil: nothing.
func (a *App) tracerOf(file *config.File) *tracing.Tracer {
	if file.Tracing == nil {
		return nil
	}
	return a.traces.Tracer(*file.Tracing)
}

// made are the routes that could be compiled, and what each became.
type made struct {
	routes   []*config.Route
	compiled []*proxy.Route
	rules    []route.Rule
	used     map[string]bool // services
}

// routes compiles the routes of a draft, each by itself. An error in a fixed one is
// the whole configuration's, and goes into diags.
func (a *App) routes(d *draft, with *making, diags *config.Diagnostics) *made {
	out := &made{used: map[string]bool{}}
	unsound := a.unsound(d)
	for _, r := range d.file.Routes {
		origin := d.file.Origin(r)
		p, rule, err := with.route(r)
		uses := servicesOf(r)
		if err == nil {
			uses = append(uses, chargedAt(p)...)
		}
		for _, name := range uses {
			if bad := unsound[name]; bad != nil && err == nil {
				err = fmt.Errorf("service %q: %w", name, bad)
			}
		}
		if err != nil && d.fixed[r] {
			diags.Errorf(r.Range, "", "route %q: %v", r.Name, err)
			continue
		}
		if err != nil {
			d.problem(origin, "route %q isn't used: %v", r.Name, err)
			continue
		}
		p.Origin = origin
		out.routes, out.compiled, out.rules = append(out.routes, r), append(out.compiled, p), append(out.rules, rule)
		for _, name := range uses {
			out.used[name] = true
		}
	}
	return out
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
func (d *draft) match(diags *config.Diagnostics, m *made) (*route.Matcher, []*proxy.Route, error) {
	own, more := ownRoutes(m.routes, m.compiled, func(r *config.Route, err error) {
		if d.fixed[r] {
			diags.Errorf(r.Range, "", "%v", err)
		} else {
			d.problem(d.file.Origin(r), "%v", err)
		}
	})
	if diags.HasErrors() {
		return nil, nil, &ConfigError{Text: diags.String()}
	}
	matcher, err := route.Compile(append(m.rules, more...))
	return matcher, own, err
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

// certified are the hosts that certificates are for: none, where no listener has
// TLS.
func certified(file *config.File, hosts []string) []string {
	if !slices.ContainsFunc(file.Listeners, func(l *proxy.ListenerConfig) bool { return l.TLS }) {
		return nil
	}
	return hosts
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

// connect joins a compiled route with its pools and counters.
func (a *App) connect(p *proxy.Route, r *config.Route, pools *upstream.Plan) {
	p.Stats = a.stats.Route(r.Name, "")
	if len(r.Paths) == 1 {
		p.Path = r.Paths[0]
	}
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
