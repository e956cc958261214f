// Package block is the policy that keeps requests out by what they show at
// once: the client's address, its user agent, the method, the path. Whoever it
// refuses learns nothing but 403; the log says why. It counts nothing and
// remembers nobody: ban does. It starts no goroutine.
package block

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/geo"
	"github.com/sidegate-proxy/sidegate/proxy/policy/network"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// Config is a block block.
type Config struct {
	// Networks and addresses that may call; nobody else then. An IPv4 network says nothing about IPv6.
	Allow []netip.Prefix `hcl:"allow,attr"`
	// A file with more of them, one on a line; read again when it changes.
	AllowFile string `hcl:"allow_file,attr"`
	// A list with more of them in Consul's KV, by its name below lists/ in consul.kv; read again when it changes.
	AllowKV string `hcl:"allow_kv,attr"`
	// Networks and addresses that may not call, even if allow has them.
	Deny []netip.Prefix `hcl:"deny,attr"`
	// A file with more of them, one on a line; read again when it changes.
	DenyFile string `hcl:"deny_file,attr"`
	// A list with more of them in Consul's KV, by its name below lists/ in consul.kv; read again when it changes.
	DenyKV string `hcl:"deny_kv,attr"`
	// Countries that may call, by their ISO 3166-1 codes ("DE"); no other then, and no address of which the file says none.
	AllowCountries []string `hcl:"allow_countries,attr"`
	// Countries that may not call.
	Countries []string `hcl:"countries,attr"`
	// The MMDB file that tells countries; read again when it changes.
	CountryFile string `hcl:"country_file,attr"`
	// Autonomous systems that may not call, by their numbers.
	ASNs []int `hcl:"asns,attr"`
	// The MMDB file that tells autonomous systems; read again when it changes.
	ASNFile string `hcl:"asn_file,attr"`
	// User agents that may not call: exact, with * at the ends, or "~RE2"; "" is a request that names none.
	UserAgents []string `hcl:"user_agents,attr"`
	// Methods that may not be used; GET is HEAD, too.
	Methods []string `hcl:"methods,attr"`
	// Paths that may not be asked for: exact, a prefix ending in /*, or with {parameters}, as in a route.
	Paths []string `hcl:"paths,attr"`
}

// Policy keeps requests out.
type Policy struct {
	allow, deny []*network.Set
	at, notAt   *geo.List // countries that may call, and may not; nil: not asked
	systems     *geo.List
	agents      []*route.Pattern
	nameless    bool // no user agent is one of them
	methods     []string
	paths       *route.Paths
	text        string

	notAllowed, denied, badCountry, badSystem, badAgent, badMethod, badPath *exchange.Fault
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
)

// Files remember what blocks read; the zero Files reads it each time.
type Files struct {
	Networks *network.Files
	Geo      *geo.Files
	// List returns a list of Consul's KV; nil: none is known yet.
	List func(name string) *network.Set
}

// Kind describes the policy to the configuration.
func Kind(files Files) policy.Kind {
	return policy.Kind{
		Name: "block", Repeat: true, // all blocks of a bundle and of a route must let a request pass
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config), files) },
	}
}

// New makes the policy of a block.
func New(c Config, files Files) (*Policy, error) {
	p := &Policy{methods: c.Methods}
	var errs error
	fail := func(argument string, err error) {
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", argument, err))
		}
	}
	var err error
	p.allow, err = sets(c.Allow, c.AllowFile, files.Networks)
	fail("allow_file", err)
	p.deny, err = sets(c.Deny, c.DenyFile, files.Networks)
	fail("deny_file", err)
	p.allow, err = files.withList(p.allow, c.AllowKV)
	fail("allow_kv", err)
	p.deny, err = files.withList(p.deny, c.DenyKV)
	fail("deny_kv", err)
	errs = errors.Join(errs, p.setGeo(c, files.Geo))
	for _, text := range c.UserAgents {
		a, err := route.CompilePattern(text)
		if err != nil {
			fail("user_agents", fmt.Errorf("%q: %w", text, err))
			continue
		}
		p.agents = append(p.agents, a)
		p.nameless = p.nameless || text == ""
	}
	fail("methods", route.CheckMethods(c.Methods))
	if slices.Contains(c.Methods, "GET") { // as in a route
		p.methods = append(slices.Clone(c.Methods), "HEAD")
	}
	if len(c.Paths) > 0 {
		p.paths, err = route.CompilePaths(c.Paths)
		fail("paths", plain(err))
	}
	if errs == nil && len(p.allow)+len(p.deny)+len(p.agents)+len(p.methods)+len(c.Paths) == 0 && p.at == nil && p.notAt == nil && p.systems == nil {
		errs = errors.New("it blocks nothing: give it allow, deny, countries, asns, user_agents, methods or paths")
	}
	if errs != nil {
		return nil, errs
	}
	p.text = c.text(p)
	refuse := func(why string) *exchange.Fault { // made once: refusing many must not cost
		return &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.Forbidden, Err: errors.New("block: " + why)}
	}
	p.notAllowed, p.denied = refuse("the address isn't among those in allow"), refuse("the address is among those in deny")
	p.badCountry, p.badSystem = refuse("the address's country is blocked"), refuse("the address's autonomous system is blocked")
	p.badAgent, p.badMethod, p.badPath = refuse("the user agent is blocked"), refuse("the method is blocked"), refuse("the path is blocked")
	return p, nil
}

// setGeo makes the lists of countries and systems.
func (p *Policy) setGeo(c Config, files *geo.Files) (errs error) {
	read := func(argument, path string, given int) *geo.Database {
		switch {
		case given == 0 && path == "":
		case given == 0:
			errs = errors.Join(errs, fmt.Errorf("%s: nothing is asked of it", argument))
		case path == "":
			errs = errors.Join(errs, fmt.Errorf("%s: has to be given, to tell which address is whose", argument))
		default:
			d, err := files.Read(path)
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("%s: %w", argument, err))
			}
			return d
		}
		return nil
	}
	countries := func(argument string, d *geo.Database, codes []string) *geo.List {
		if len(codes) == 0 || d == nil {
			return nil
		}
		l, err := geo.Countries(d, codes)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", argument, err))
		}
		return l
	}
	d := read("country_file", c.CountryFile, len(c.Countries)+len(c.AllowCountries))
	p.at, p.notAt = countries("allow_countries", d, c.AllowCountries), countries("countries", d, c.Countries)
	if d = read("asn_file", c.ASNFile, len(c.ASNs)); d != nil {
		var err error
		if p.systems, err = geo.Systems(d, c.ASNs); err != nil {
			errs = errors.Join(errs, fmt.Errorf("asns: %w", err))
		}
	}
	return errs
}

// plain takes the name of the rule, which has none, off the errors of paths.
func plain(err error) error {
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs error
	for _, e := range j.Unwrap() {
		var one *route.Error
		if errors.As(e, &one) {
			e = one.Err
		}
		errs = errors.Join(errs, e)
	}
	return errs
}

// sets are those of a list and a file, which may be empty; nil: there is
// neither.
func sets(list []netip.Prefix, path string, files *network.Files) (out []*network.Set, err error) {
	if len(list) > 0 {
		out = append(out, network.New(list))
	}
	if path != "" {
		s, err := files.Read(path)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// withList adds the list of that name, if there is one.
func (f *Files) withList(list []*network.Set, name string) ([]*network.Set, error) {
	if name == "" {
		return list, nil
	}
	for i := range len(name) {
		c := name[i]
		if c < 'a' || c > 'z' {
			if c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') {
				return list, fmt.Errorf("%q: the name of a list has letters, digits, -, _ and . only", name)
			}
		}
	}
	s := network.New(nil)
	if f.List != nil {
		s = f.List(name)
	}
	return append(list, s), nil
}

func has(sets []*network.Set, a netip.Addr) bool {
	for _, s := range sets {
		if s.Has(a) {
			return true
		}
	}
	return false
}

// judge says why x is refused; nil: it isn't.
func (p *Policy) judge(x *exchange.Exchange) *exchange.Fault {
	switch {
	case p.deny != nil && (!x.ClientIP.IsValid() || has(p.deny, x.ClientIP)):
		return p.denied
	case p.allow != nil && !has(p.allow, x.ClientIP):
		return p.notAllowed
	case p.notAt != nil && (!x.ClientIP.IsValid() || p.notAt.Has(x.ClientIP)), p.at != nil && !p.at.Has(x.ClientIP):
		return p.badCountry
	case p.systems != nil && (!x.ClientIP.IsValid() || p.systems.Has(x.ClientIP)):
		return p.badSystem
	case p.methods != nil && slices.Contains(p.methods, x.Method):
		return p.badMethod
	case p.paths != nil && p.paths.Has(x):
		return p.badPath
	case p.agents != nil && p.badAgents(&x.Request):
		return p.badAgent
	}
	return nil
}

func (p *Policy) badAgents(h *exchange.Head) bool {
	if !h.Has(exchange.UserAgent) {
		return p.nameless
	}
	for i := range h.Len() {
		if h.ID(i) != exchange.UserAgent {
			continue
		}
		_, v := h.Field(i)
		for _, a := range p.agents {
			if a.Matches(v) {
				return true
			}
		}
	}
	return false
}

// Request refuses what is blocked.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if f := p.judge(x); f != nil {
		return policy.Done, f
	}
	return policy.Next, nil
}

// text says what is blocked.
func (c *Config) text(p *Policy) string {
	var parts []string
	count := func(verb string, sets []*network.Set) {
		n := 0
		for _, s := range sets {
			n += s.Len()
		}
		if sets != nil {
			parts = append(parts, fmt.Sprintf("%s %d networks", verb, n))
		}
	}
	count("allow", p.allow)
	count("deny", p.deny)
	if len(c.AllowCountries) > 0 {
		parts = append(parts, "only from "+strings.Join(c.AllowCountries, ", "))
	}
	if len(c.ASNs) > 0 {
		parts = append(parts, fmt.Sprintf("no systems %d", c.ASNs))
	}
	for _, l := range []struct {
		name string
		list []string
	}{{"countries", c.Countries}, {"user agents", c.UserAgents}, {"methods", c.Methods}, {"paths", c.Paths}} {
		if len(l.list) > 0 {
			parts = append(parts, "no "+l.name+" "+strings.Join(l.list, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// Explain says what is blocked.
func (p *Policy) Explain() string { return p.text }

// Test says whether x is blocked.
func (p *Policy) Test(x *exchange.Exchange) string {
	if f := p.judge(x); f != nil {
		return "refuses: " + f.Error()
	}
	return "admits"
}
