package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// checker checks what one argument doesn't show by itself.
type checker struct {
	*decoder
	file  *File
	whole bool // everything could be read: what isn't there is missing

	services map[string]*upstream.Config
	bundles  map[string]bool

	conditions *condition.Compiler // made when the first is needed
}

func (c *checker) all() {
	c.services, c.bundles = map[string]*upstream.Config{}, map[string]bool{}
	for _, s := range c.file.Services {
		c.services[s.Name] = s
	}
	for _, b := range c.file.Bundles {
		c.bundles[b.Name] = true
	}
	c.listeners()
	c.accessLog()
	c.tracing()
	c.admin()
	c.consul()
	c.tls()
	c.redis()
	c.usage()
	c.consumers()
	for _, s := range c.file.Services {
		c.service(s)
	}
	for _, b := range c.file.Bundles {
		c.authorize(b, b.Authorize, fmt.Sprintf("policy %q", b.Name))
		c.policies(b, fmt.Sprintf("policy %q", b.Name), b.Policies, nil, true)
	}
	for _, r := range c.file.Routes {
		c.route(r)
	}
	c.sidecars()
	c.matches(c.file.Routes)
}

func (c *checker) errorf(of any, name, advice, format string, args ...any) {
	c.broken[of] = true
	c.diags.Errorf(c.at(of, name), advice, format, args...)
}

// given reports whether an argument was written.
func (c *checker) given(of any, name string) bool {
	_, ok := c.places[place{of, name}]
	return ok
}

// hostPort takes an address apart.
func hostPort(address string) (host string, port int, err error) {
	h, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%.100q isn't host:port", address)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%.100q has no port from 0 to 65535", address)
	}
	if strings.ContainsAny(h, "/@ \t") {
		return "", 0, fmt.Errorf("%.100q isn't host:port", address)
	}
	return h, int(n), nil
}

// everyAddress reports whether a listener on host takes all addresses.
func everyAddress(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "" || err == nil && a.IsUnspecified()
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// socket is an address that something will listen on.
type socket struct {
	host string
	port int
	what string
	at   hcl.Range
}

func (s socket) collides(t socket) bool {
	return s.port == t.port && s.port != 0 && (s.host == t.host || everyAddress(s.host) || everyAddress(t.host))
}

func (c *checker) listeners() {
	var sockets []socket
	for _, l := range c.file.Listeners {
		if c.broken[l] {
			continue
		}
		c.listener(l)
		host, port, err := hostPort(l.Address)
		if err != nil {
			c.errorf(l, "address", `Write it like ":443" or "10.0.0.1:443".`, "address: %v", err)
			continue
		}
		sockets = c.socket(sockets, socket{host, port, fmt.Sprintf("listener %q", l.Name), c.at(l, "address")})
	}
	sockets = c.sidecarSockets(sockets)
	if host, port, err := hostPort(c.file.Admin.Address); err == nil {
		c.socket(sockets, socket{host, port, "admin", c.at(&c.file.Admin, "address")})
	}
}

func (c *checker) socket(others []socket, s socket) []socket {
	for _, o := range others {
		if o.collides(s) {
			c.diags.Add(Diagnostic{
				Text: fmt.Sprintf("%s wants the address that %s has", s.what, o.what), Range: s.at, Also: o.at,
				Advice: "Give one of them another port.",
			})
			break
		}
	}
	return append(others, s)
}

func (c *checker) listener(l *proxy.ListenerConfig) {
	what := fmt.Sprintf("listener %q", l.Name)
	if len(l.Protocols) == 0 {
		c.errorf(l, "protocols", `Write protocols = ["h1", "h2"].`, "%s speaks no protocol", what)
	}
	for i, p := range l.Protocols {
		if slices.Contains(l.Protocols[:i], p) {
			c.diags.Errorf(c.element(l, "protocols", i), "Keep one of them.", "%s: protocol %q is given twice", what, p)
		}
		if p != "h3" {
			continue
		}
		if !l.TLS {
			c.diags.Errorf(c.element(l, "protocols", i), "Take h3 out, or tls = false.", "%s: HTTP/3 needs TLS", what)
		} else if l.ProxyProtocol {
			c.diags.Errorf(c.element(l, "protocols", i), "Take h3 out, or proxy_protocol.", "%s: HTTP/3 can't have a PROXY protocol header", what)
		}
	}
	if l.ClientCAFile != "" && !l.TLS {
		c.errorf(l, "client_ca_file", "Take it out, or tls = false.", "%s: client certificates need TLS", what)
	}
	if l.EarlyData && !slices.Contains(l.Protocols, "h3") {
		c.errorf(l, "early_data", "Take it out, or speak h3.", "%s: early data is taken over HTTP/3 only", what)
	} else if l.EarlyData && l.ClientCAFile != "" {
		c.errorf(l, "early_data", "Take it out, or client_ca_file.", "%s: early data comes before the client has proved its certificate", what)
	}
	if l.RedirectHTTPS && l.TLS {
		c.errorf(l, "redirect_https", "Take it out, or write tls = false.", "%s: redirects to https, but speaks it already", what)
	}
	if l.ProxyProtocol && len(c.file.TrustedProxies) == 0 && c.whole && !c.given(c.file, "trusted_proxies") {
		c.errorf(l, "proxy_protocol", "Name the proxies in front with trusted_proxies.", "%s: PROXY protocol is taken from trusted_proxies only, and there are none: nobody could connect", what)
	}
}

func (c *checker) admin() {
	a := &c.file.Admin
	if a.Address == "" && c.file.sidecarOnly {
		return
	}
	host, _, err := hostPort(a.Address)
	if err != nil {
		c.errorf(a, "address", `Write it like "127.0.0.1:9901".`, "admin: address: %v", err)
		return
	}
	if !loopback(host) && a.Token == "" && !c.given(a, "token") {
		c.errorf(a, "address", "Add token = file(\"/etc/sidegate/admin.token\"), or listen on 127.0.0.1.",
			"admin: %s can be reached from other hosts, and so needs a token", a.Address)
	}
	if c.given(a, "token") && a.Token == "" && !c.broken[a] {
		c.errorf(a, "token", "Write a token into it.", "admin: the token is empty")
	}
}

func (c *checker) consul() {
	con := c.file.Consul
	if con == nil || c.broken[con] {
		return
	}
	if con.Address != "" {
		if err := agentAddress(con.Address); err != nil {
			c.errorf(con, "address", `Write it like "127.0.0.1:8500", "https://consul.internal:8501" or "unix:///run/consul.sock".`, "consul: address: %v", err)
		}
	}
	c.pair(con, "consul", con.CertFile, con.KeyFile)
	if con.Expose == nil || c.broken[con.Expose] {
		return
	}
	for i, h := range con.Expose.Hosts {
		if err := checkHost(h); err != nil {
			c.diags.Errorf(c.element(con.Expose, "hosts", i), hostAdvice(h), "expose: %v", err)
			continue
		}
		con.Expose.Hosts[i] = canonicalHost(h)
	}
	c.use(con.Expose, con.Expose.Use, "consul: expose")
}

func agentAddress(s string) error {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		host, port, err := hostPort(s)
		if err != nil {
			return err
		}
		if host == "" || port == 0 {
			return fmt.Errorf("%.100q lacks the host or the port", s)
		}
		return nil
	}
	switch scheme {
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return errors.New("the path of a unix socket starts with /")
		}
		return nil
	case "http", "https":
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return fmt.Errorf("%.100q isn't the URL of an agent", s)
		}
		return nil
	default:
		return fmt.Errorf("%q isn't http, https or unix", scheme)
	}
}

// pair checks that a certificate has its key.
func (c *checker) pair(of any, what, cert, key string) {
	switch {
	case cert != "" && key == "" && !c.given(of, "key_file"):
		c.errorf(of, "cert_file", "Add key_file.", "%s: cert_file without key_file", what)
	case key != "" && cert == "" && !c.given(of, "cert_file"):
		c.errorf(of, "key_file", "Add cert_file.", "%s: key_file without cert_file", what)
	}
}

func (c *checker) tls() {
	t := &c.file.TLS
	if t.Storage == "consul" && c.file.Consul == nil && c.whole {
		c.errorf(t, "storage", "Add a consul block, or keep certificates in files.", "tls: storage is Consul, and there is none")
	}
	if a := t.ACME; a != nil && !c.broken[a] {
		if err := webURL(a.Directory, "https"); err != nil {
			c.errorf(a, "directory", "", "acme: directory: %v", err)
		}
		if len(a.Challenges) == 0 {
			c.errorf(a, "challenges", `Write challenges = ["tls-alpn-01", "http-01"].`, "acme: no challenge can be answered")
		}
		if a.Email != "" && (strings.Count(a.Email, "@") != 1 || strings.ContainsAny(a.Email, " \t<>,")) {
			c.errorf(a, "email", "", "acme: %q isn't an e-mail address", a.Email)
		}
	}
	if t.OnDemand != nil && t.ACME == nil && !c.broken[t] {
		c.errorf(t.OnDemand, "", "Add acme { … } beside it.", "tls: on_demand says which names may get a certificate, and there is no acme block to get it from")
	}
	if o := t.OnDemand; o != nil && !c.broken[o] {
		if err := webURL(o.Ask, "http", "https"); err != nil {
			c.errorf(o, "ask", "", "on_demand: ask: %v", err)
		}
	}
}

// webURL checks that s is an absolute URL of one of the schemes.
func webURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
		return fmt.Errorf("%.200q isn't an %s URL", s, or(schemes))
	}
	return nil
}
