package app

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// A sidecar block is compiled into what a gateway is made of: listeners, each with
// routes of its own that nothing else reaches, and a service that is the app.
//
//	others   → sidecar/NAME               → policies of use → service sidecar/NAME: the app
//	agent    → sidecar/NAME/check         → the same service, at one path; or whether the app takes a connection
//	the app  → sidecar/NAME/upstream/S    → service S
//	the app  → sidecar/NAME/proxy         → the service that Host names (named.go)

// part is a listener of a sidecar with its routes.
type part struct {
	listener string
	made     made
	connect  *exchange.Fault
}

// sidecars are the parts of a draft's sidecars.
type sidecars struct {
	parts    []*part
	services []*upstream.Config // the apps, and what is called by name
}

// add compiles a route of a part. An error is the whole configuration's.
func (p *part) add(with *making, origin string, at hcl.Range, r route.Config, diags *config.Diagnostics) *proxy.Route {
	c := &config.Route{Config: r, Range: at}
	compiled, rule, err := with.route(c)
	if err != nil {
		diags.Errorf(at, "", "%s: %v", strings.Replace(p.listener, "/", " ", 1), err)
		return nil
	}
	compiled.Origin = origin
	p.made.routes, p.made.compiled, p.made.rules = append(p.made.routes, c), append(p.made.compiled, compiled), append(p.made.rules, rule)
	return compiled
}

// answer adds a route that the sidecar answers by itself.
func (p *part) answer(origin string, r route.Config, by policy.Requester) {
	c := &config.Route{Config: r}
	p.made.routes, p.made.rules = append(p.made.routes, c), append(p.made.rules, c.Rule())
	p.made.compiled = append(p.made.compiled, &proxy.Route{Name: r.Name, Origin: origin, Chain: policy.Compile(nil), Answer: by})
}

// sidecars compiles the sidecar blocks of a draft. made learns which services they use.
func (a *App) sidecars(d *draft, with *making, m *made, diags *config.Diagnostics) *sidecars {
	out := &sidecars{}
	var wanted []*named
	blocks := map[string]*upstream.Config{}
	for _, s := range d.file.Services {
		blocks[s.Name] = s
	}
	called := map[string]bool{}
	call := func(s *config.Sidecar, block *upstream.Config) string {
		c := s.Calls(block)
		if c == block && blocks[c.Name] == c {
			m.used[c.Name] = true // it is among the configuration's
		} else if !called[c.Name] {
			called[c.Name] = true
			out.services = append(out.services, c)
		}
		return c.Name
	}
	for _, s := range d.file.Sidecars {
		at, origin := d.file.Place(s), d.file.Origin(s)
		out.services = append(out.services, s.AppService())

		in := &part{listener: s.Inbound()}
		if r := in.add(with, origin, at, route.Config{Name: s.Inbound(), Service: s.Inbound(), Use: s.Use}, diags); r != nil {
			for _, name := range chargedAt(r) {
				m.used[name] = true
			}
		}
		out.parts = append(out.parts, in, a.checked(s, origin, at, with, diags))
		for _, u := range s.Upstreams {
			p := &part{listener: s.Outbound(u.Name)}
			p.add(with, origin, at, route.Config{Name: p.listener, Service: call(s, blocks[u.Name])}, diags)
			out.parts = append(out.parts, p)
		}
		if s.Proxy == "" {
			continue
		}
		if wanted == nil {
			wanted = a.named.services(d.file)
		}
		p := &part{listener: s.Proxied(), connect: noTunnel}
		for _, w := range wanted {
			p.add(with, origin, at, route.Config{Name: s.Proxied() + "/" + w.name(), Hosts: []string{w.host}, Service: call(s, w.service)}, diags)
		}
		p.answer(origin, route.Config{Name: s.Proxied()}, &finder{a: a, listener: s.Proxied()})
		out.parts = append(out.parts, p)
	}
	return out
}

// checked is the part that Consul's agent asks.
func (a *App) checked(s *config.Sidecar, origin string, at hcl.Range, with *making, diags *config.Diagnostics) *part {
	p := &part{listener: s.Checked()}
	if s.Check.HTTP == "" {
		p.answer(origin, route.Config{Name: p.listener}, reaches(s.App))
	} else {
		p.add(with, origin, at, route.Config{Name: p.listener, Paths: []string{s.Check.HTTP}, Methods: []string{"GET"}, Service: s.Inbound()}, diags)
	}
	for _, r := range p.made.compiled {
		r.Quiet = true
	}
	return p
}

// enlist puts the parts' routes behind those of a table, each with its matcher.
func (a *App) enlist(t *proxy.Table, s *sidecars, pools *upstream.Plan, diags *config.Diagnostics) error {
	for _, p := range s.parts {
		invalidate(p.made.routes, p.made.compiled)
		own, more := ownRoutes(p.made.routes, p.made.compiled, func(r *config.Route, err error) { diags.Errorf(r.Range, "", "%v", err) })
		if diags.HasErrors() {
			return &ConfigError{Text: diags.String()}
		}
		matcher, err := route.Compile(append(p.made.rules, more...))
		if err != nil {
			return fmt.Errorf("%s: %w", p.listener, err)
		}
		for i, r := range p.made.compiled {
			a.connect(r, p.made.routes[i], pools)
		}
		for _, r := range own {
			r.Stats = a.stats.Route(r.Name, "")
		}
		if t.Own == nil {
			t.Own = map[string]proxy.Own{}
		}
		t.Own[p.listener] = proxy.Own{Matcher: matcher, First: len(t.Routes), Connect: p.connect}
		t.Routes = append(append(t.Routes, p.made.compiled...), own...)
	}
	return nil
}

// listenersOf are the listeners of a configuration, those of its sidecars among them.
func listenersOf(file *config.File) []*proxy.ListenerConfig {
	list := file.Listeners[:len(file.Listeners):len(file.Listeners)]
	add := func(name, address string, peers proxy.Peers) {
		l := &proxy.ListenerConfig{}
		config.Defaults(l)
		l.Name, l.Address, l.TLS, l.Protocols, l.Peers = name, address, false, []string{"h1", "h2"}, &peers
		l.TLS = peers.Identity != ""
		l.Limits.ConnectionsPerIP = l.Limits.Connections // one client here is an edge, another sidecar or the app
		list = append(list, l)
	}
	for _, s := range file.Sidecars {
		in := proxy.Peers{}
		if id := cmp.Or(s.Identity, file.Identity); id != nil {
			in.Identity, in.Allow = identityKey(*id), s.Allow
		}
		add(s.Inbound(), s.Listen, in)
		add(s.Checked(), s.Check.Listen, proxy.Peers{})
		for _, u := range s.Upstreams {
			add(s.Outbound(u.Name), u.Listen, proxy.Peers{Local: onThisHost(u.Listen)})
		}
		if s.Proxy != "" {
			add(s.Proxied(), s.Proxy, proxy.Peers{Local: onThisHost(s.Proxy)})
		}
	}
	return list
}

// onThisHost reports whether only this host's processes can connect to an address.
func onThisHost(address string) bool {
	if strings.HasPrefix(address, proxy.UnixPrefix) {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// reaches answers whether something takes a connection at an address.
type reaches string

var _ policy.Requester = reaches("")

// reachTime bounds a connection to the app, which is on this host.
const reachTime = time.Second

func (r reaches) connect(ctx context.Context) error {
	network, address := "tcp", string(r)
	if path, ok := strings.CutPrefix(address, proxy.UnixPrefix); ok {
		network, address = "unix", path
	}
	d := net.Dialer{Timeout: reachTime}
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return nc.Close()
}

// Request is a route's answer.
func (r reaches) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if err := r.connect(context.Background()); err != nil {
		return policy.Done, exchange.NewFault(exchange.FromUpstream, exchange.NoInstance, "the app: %w", err)
	}
	x.Reply(200, "text/plain; charset=utf-8", []byte("the app takes connections\n"))
	return policy.Done, nil
}

// ready reports whether a sidecar's app could take a request now: what its check
// asks is asked here.
func (a *App) ready(ctx context.Context, s *config.Sidecar) bool {
	if s.Check.HTTP == "" {
		return reaches(s.App).connect(ctx) == nil
	}
	t := a.handler.Table()
	if t == nil {
		return false
	}
	own, ok := t.Own[s.Checked()]
	if !ok {
		return false
	}
	until := time.Now().Add(s.Check.Timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	call := proxy.Call{Method: "GET", Path: s.Check.HTTP, Host: "localhost", Until: until, MaxBody: 1 << 20}
	answer, err := call.Send(t.Routes[own.First].Shares[0].Pool, s.Inbound())
	return err == nil && answer.Status >= 200 && answer.Status < 300
}

// knowsCallers reports whether some policy finds out who is calling, and so needs the
// consumers in KV.
func knowsCallers(file *config.File) bool {
	for _, b := range file.Bundles {
		for _, p := range b.Policies {
			if p.Kind.Name == "auth" {
				return true
			}
		}
	}
	return false
}
