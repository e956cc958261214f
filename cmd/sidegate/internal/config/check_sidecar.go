package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// Bounds of Consul's on a registration.
const (
	maxMeta      = 64
	maxMetaKey   = 128
	maxMetaValue = 512
	maxName      = 63 // a label of DNS
)

// sidecars checks the sidecar blocks. Their listeners are checked with the others.
func (c *checker) sidecars() {
	for _, s := range c.file.Sidecars {
		c.sidecar(s)
	}
	c.reserved()
}

// reserved keeps the names of sidecars' parts from others.
func (c *checker) reserved() {
	see := func(kind, name string, of any) {
		if strings.HasPrefix(name, sidecarPrefix) {
			c.errorf(of, "", "Rename it.", "%s %q: names that start with %s are those of sidecars' parts", kind, name, sidecarPrefix)
		}
	}
	for _, l := range c.file.Listeners {
		see("listener", l.Name, l)
	}
	for _, s := range c.file.Services {
		see("service", s.Name, s)
	}
	for _, r := range c.file.Routes {
		see("route", r.Name, r)
	}
}

func (c *checker) sidecar(s *Sidecar) {
	what := fmt.Sprintf("sidecar %q", s.Name)
	if !ServiceName(s.Name) {
		c.errorf(s, "", `Write it like "orders".`, "%s: the name is the service's in Consul, of up to %d letters, digits, - and _", what, maxName)
	}
	if s.Mesh {
		c.errorf(s, "mesh", "Take it out. Certificates of the fleet's own authority encrypt and prove who calls: see sidegate ca.", "%s: mesh = true isn't available yet", what)
	}
	c.app(s, what)
	c.sidecarCheck(s, what)
	c.registration(s, what)
	c.fleet(s, what)
	c.use(s, s.Use, what)
	seen := map[string]*SidecarUpstream{}
	for _, u := range s.Upstreams {
		if first := seen[u.Name]; first != nil {
			c.diags.Add(Diagnostic{Text: fmt.Sprintf("%s has two upstreams %q", what, u.Name), Range: c.at(u, ""), Also: c.at(first, ""), Advice: "Keep one of them."})
			continue
		}
		seen[u.Name] = u
		c.known(u.Name, c.at(u, ""), what)
		c.forApp(u, "listen", u.Listen, fmt.Sprintf("%s: upstream %q", what, u.Name))
	}
	if s.Proxy != "" {
		c.forApp(s, "proxy", s.Proxy, what+": proxy")
	} else if c.given(s, "proxy") && !c.broken[s] {
		c.errorf(s, "proxy", `Write it like "127.0.0.1:9190", or take it out.`, "%s: proxy is empty", what)
	}
}

// fleet checks who may call.
func (c *checker) fleet(s *Sidecar, what string) {
	if s.Identity != nil || c.file.Identity != nil {
		if c.given(s, "allow") && len(s.Allow) == 0 && !c.broken[s] {
			c.errorf(s, "allow", `Name the services, like allow = ["edge"], or take it out to let in all of the fleet.`, "%s: allow is empty: nobody could call", what)
		}
		return
	}
	if c.given(s, "allow") && c.whole {
		c.errorf(s, "allow", "Add identity { ca_file, cert_file, key_file }: see sidegate ca.", "%s: allow goes by certificates, and there is no identity to ask for them by", what)
	}
	if host, _, err := hostPort(s.Listen); err == nil && !loopback(host) && c.whole && !c.broken[s] {
		c.diags.warnf(c.at(s, "listen"), "Add identity { ca_file, cert_file, key_file }: sidegate ca makes the files.",
			"%s: what comes in on %s is neither encrypted, nor is it known who calls", what, s.Listen)
	}
}

// app checks where the app is: the sidecar is to be the only way to it.
func (c *checker) app(s *Sidecar, what string) {
	if c.broken[s] {
		return
	}
	advice := `Write it like "127.0.0.1:8080" or "unix:///run/` + s.Name + `/app.sock".`
	if path, ok := unixSocket(s.App); ok {
		if err := socketPath(path); err != nil {
			c.errorf(s, "app", advice, "%s: app: %v", what, err)
		}
		return
	}
	host, port, err := hostPort(s.App)
	if err == nil && (host == "" || port == 0) {
		err = fmt.Errorf("%.100q lacks the host or the port", s.App)
	}
	if err != nil {
		c.errorf(s, "app", advice, "%s: app: %v", what, err)
		return
	}
	if !loopback(host) {
		c.diags.warnf(c.at(s, "app"), "Have the app listen on 127.0.0.1, so that others come through the sidecar alone.",
			"%s: app %s isn't on loopback: what the sidecar says to it goes over the network in plain text", what, s.App)
	}
}

func (c *checker) sidecarCheck(s *Sidecar, what string) {
	k := &s.Check
	if c.broken[k] {
		return
	}
	if k.HTTP != "" {
		_, err := route.Compile([]route.Rule{{Paths: []string{k.HTTP}}})
		if !strings.HasPrefix(k.HTTP, "/") || strings.ContainsAny(k.HTTP, "*{}?#% \t") || err != nil {
			c.errorf(k, "http", `Write it like "/healthz".`, "%s: check: http: %q isn't a path", what, k.HTTP)
		}
	}
	if k.Timeout >= k.Interval {
		c.errorf(k, "timeout", "", "%s: check: a timeout of %s is no less than the interval, %s", what, k.Timeout, k.Interval)
	}
	if k.DeregisterAfter != 0 && k.DeregisterAfter.Minutes() < 1 {
		c.errorf(k, "deregister_after", "", "%s: check: deregister_after is 0s or at least 1m: Consul doesn't look more often", what)
	}
}

// registration checks what the agent would refuse.
func (c *checker) registration(s *Sidecar, what string) {
	h := s.Address
	if _, err := netip.ParseAddr(h); err == nil {
		h = ""
	}
	if h != "" && (strings.ContainsAny(h, "/ \t@") || checkHost(h) != nil) {
		c.errorf(s, "address", "Write an address or a name without a port: listen has the port.", "%s: address: %q isn't an address", what, h)
	}
	if len(s.Meta) > maxMeta {
		c.errorf(s, "meta", "", "%s: meta: Consul takes %d entries, and there are %d", what, maxMeta, len(s.Meta))
	}
	for _, key := range slices.Sorted(maps.Keys(s.Meta)) {
		switch {
		case key == "" || len(key) > maxMetaKey || !ServiceName(key[:min(len(key), maxName)]):
			c.diags.Errorf(c.entry(s, "meta", key), "", "%s: meta: a key has up to %d letters, digits, - and _, and %q hasn't", what, maxMetaKey, key)
		case len(s.Meta[key]) > maxMetaValue:
			c.diags.Errorf(c.entry(s, "meta", key), "", "%s: meta: %q has more than %d bytes", what, key, maxMetaValue)
		case strings.HasPrefix(key, "sidegate-"):
			c.diags.Errorf(c.entry(s, "meta", key), "Rename it.", "%s: meta: keys that start with sidegate- are the sidecar's own", what)
		}
	}
	if s.Check.HTTP == "" && c.given(s, "check") && c.given(&s.Check, "http") {
		c.errorf(&s.Check, "http", `Write it like "/healthz", or take it out.`, "%s: check: http is empty", what)
	}
}

// forApp checks an address that is meant for the app alone.
func (c *checker) forApp(of any, name, address, what string) {
	if c.broken[of] && address == "" {
		return
	}
	advice := `Write it like "127.0.0.1:9191" or "unix:///run/app/calls.sock".`
	if path, ok := unixSocket(address); ok {
		if err := socketPath(path); err != nil {
			c.errorf(of, name, advice, "%s: %v", what, err)
		}
		return
	}
	host, port, err := hostPort(address)
	if err == nil && port == 0 {
		err = fmt.Errorf("%q has no port that the app could know", address)
	}
	switch {
	case err != nil:
		c.errorf(of, name, advice, "%s: %v", what, err)
	case !loopback(host):
		c.diags.warnf(c.at(of, name), "Listen on 127.0.0.1.", "%s: %s can be reached from other hosts, which may call the service in the name of this one", what, address)
	}
}

// sidecarSockets are the addresses that sidecars listen on, those of unix sockets as
// hosts of their own.
func (c *checker) sidecarSockets(sockets []socket) []socket {
	read := func(of any, name, address, what string) (socket, bool) {
		s := socket{what: what, at: c.at(of, name)}
		if path, ok := unixSocket(address); ok {
			s.host, s.port = path, -1
			return s, true
		}
		var err error
		s.host, s.port, err = hostPort(address)
		return s, err == nil // else it is said where it stands
	}
	add := func(of any, name, address, what string) {
		if s, ok := read(of, name, address, what); ok {
			sockets = c.socket(sockets, s)
		}
	}
	for _, s := range c.file.Sidecars {
		what := fmt.Sprintf("sidecar %q", s.Name)
		if _, _, err := hostPort(s.Listen); err != nil {
			c.errorf(s, "listen", `Write it like "10.0.0.7:8443", ":8443" or ":0".`, "%s: listen: %v", what, err)
		} else {
			add(s, "listen", s.Listen, what)
		}
		if host, _, err := hostPort(s.Check.Listen); err != nil {
			c.errorf(&s.Check, "listen", `Write it like "127.0.0.1:0".`, "%s: check: listen: %v", what, err)
		} else {
			if everyAddress(host) {
				c.errorf(&s.Check, "listen", "Write an address of this host, like 127.0.0.1:0.", "%s: check: listen: Consul's agent is told where to ask, which all addresses isn't", what)
			}
			add(&s.Check, "listen", s.Check.Listen, what+": check")
		}
		for _, u := range s.Upstreams {
			add(u, "listen", u.Listen, fmt.Sprintf("%s: upstream %q", what, u.Name))
		}
		add(s, "proxy", s.Proxy, what+": proxy")
	}
	for _, s := range c.file.Sidecars { // two may have the same app
		if app, ok := read(s, "app", s.App, fmt.Sprintf("sidecar %q: app", s.Name)); ok {
			c.socket(slices.Clip(sockets), app)
		}
	}
	return sockets
}

// ServiceName reports whether a name can be a label in NAME.service.consul.
func ServiceName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-' || c == '_':
		default:
			return false
		}
	}
	return name != "" && len(name) <= maxName
}
