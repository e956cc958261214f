package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/answer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/sunset"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// route checks a route. What an argument lacks or contradicts is left alone in
// one that is broken already.
func (c *checker) route(r *Route) {
	what := fmt.Sprintf("route %q", r.Name)
	broken := c.broken[r]
	for i, h := range r.Hosts {
		r.Hosts[i] = canonicalHost(h)
	}
	if c.given(r, "when") || r.When != "" {
		if p := c.condition(r, "when", r.When, what); p != nil && p.AsksWho() {
			c.diags.warnf(c.at(r, "when"), "Let the route take all callers, and write authorize.", "%s: when: who is calling is found out after the route is chosen, so consumer and claims are empty here", what)
		}
	}
	c.authorize(r, r.Authorize, what)
	c.answer(r, what, broken)
	c.use(r, r.Use, what)
	if !broken {
		c.strip(r, what)
	}
	if r.Mirror != nil && c.forwards(r, "mirror", what) && r.Mirror.Service != "" {
		c.known(r.Mirror.Service, c.at(r.Mirror, "service"), what)
	}
	if r.Redirect != nil && !c.broken[r.Redirect] {
		c.redirect(r, what, broken)
	}
	if r.Respond != nil && !c.broken[r.Respond] {
		if _, err := answer.Respond(*r.Respond); err != nil {
			c.blame(r.Respond, what+": respond", err)
			c.broken[r] = true
		}
	}
	if r.Usage != nil {
		c.ownUsage(r, what)
	}
	if r.Sunset != nil && !c.broken[r.Sunset] {
		if _, err := sunset.New(*r.Sunset, time.Now); err != nil {
			c.blame(r.Sunset, what+": sunset", err)
		}
	}
	c.policies(r, what, r.Policies, r.Paths, broken)
	if broken {
		c.compile([]*Route{r})
	}
}

// answer checks that exactly one argument says who answers.
func (c *checker) answer(r *Route, what string, broken bool) {
	var given []string
	for _, a := range []struct {
		name string
		set  bool
	}{{"service", r.Service != ""}, {"split", len(r.Split) > 0}, {"redirect", r.Redirect != nil}, {"respond", r.Respond != nil}, {"usage", r.Usage != nil}} {
		if a.set || c.given(r, a.name) {
			given = append(given, a.name)
		}
	}
	switch {
	case len(given) == 0 && broken:
		return
	case len(given) == 0:
		c.errorf(r, "", `Add service = "NAME", split, redirect, respond or usage.`, "%s doesn't say who answers", what)
		return
	case len(given) > 1:
		c.broken[r] = true
		c.diags.Add(Diagnostic{
			Text:  fmt.Sprintf("%s has %s; exactly one of service, split, redirect, respond and usage says who answers", what, and(given)),
			Range: c.at(r, given[1]), Also: c.at(r, given[0]), Advice: "Keep one of them.",
		})
		return
	}
	switch given[0] {
	case "service":
		if r.Service == "" && broken {
			return // of a wrong type
		}
		c.known(r.Service, c.at(r, "service"), what)
	case "split":
		c.split(r, what, broken)
	}
}

func (c *checker) split(r *Route, what string, broken bool) {
	sum := 0
	for _, name := range slices.Sorted(maps.Keys(r.Split)) {
		const most = 1_000_000
		if r.Split[name] > most {
			c.broken[r] = true
			c.diags.Errorf(c.entry(r, "split", name), "", "%s: split: a share is at most %d", what, most)
			return
		}
		sum += r.Split[name]
		c.known(name, c.entry(r, "split", name), what)
	}
	if sum == 0 && !broken {
		c.errorf(r, "split", `Write shares: { "orders" = 95, "orders-next" = 5 }.`, "%s: split: no service has a share", what)
	}
}

// known makes sure that a service that a route names can be found. One that no
// block describes is implied.
func (c *checker) known(name string, at hcl.Range, what string) {
	if c.services[name] != nil {
		return
	}
	if why := badName(name); why != "" {
		c.diags.Errorf(at, "", "%s: the service's name %q %s", what, name, why)
		return
	}
	if c.file.Consul == nil {
		if !c.whole {
			return
		}
		advice := "Add service \"" + name + "\" { instances = [\"host:port\"] }, or say where Consul is: a consul block at the top, or CONSUL_HTTP_ADDR."
		if n := nearest(name, slices.Sorted(maps.Keys(c.services))); n != "" {
			advice = fmt.Sprintf("Did you mean %q?\n", n) + advice
		}
		c.diags.Errorf(at, advice, "%s: there is no service %q, and no Consul to ask for it", what, name)
		return
	}
	s := &upstream.Config{}
	c.defaults(s)
	s.Name = name
	c.places[place{s, ""}] = at
	c.services[name] = s
	c.file.Services = append(c.file.Services, s)
	if c.file.impliedServices != nil {
		c.file.impliedServices[s] = true
	}
}

// use checks references to bundles.
func (c *checker) use(of any, names []string, what string) {
	for i, name := range names {
		at := c.element(of, "use", i)
		switch {
		case slices.Contains(names[:i], name):
			c.broken[of] = true
			c.diags.Errorf(at, "Keep one of them.", "%s uses %q twice", what, name)
		case !c.bundles[name] && c.whole:
			c.broken[of] = true
			advice := didYouMean(name, slices.Sorted(maps.Keys(c.bundles)))
			if len(c.bundles) == 0 {
				advice = fmt.Sprintf("Add policy %q { … } at the top.", name)
			}
			c.diags.Errorf(at, advice, "%s uses the policy %q, which isn't defined", what, name)
		}
	}
}

// forwards reports an argument that needs a backend on a route without one.
func (c *checker) forwards(r *Route, name, what string) bool {
	if r.Redirect == nil && r.Respond == nil && r.Usage == nil {
		return true
	}
	c.errorf(r, name, "Take it out.", "%s: %s needs a service, and this route answers by itself", what, name)
	return false
}

func (c *checker) strip(r *Route, what string) {
	s := r.StripPrefix
	if s == "" || !c.forwards(r, "strip_prefix", what) {
		return
	}
	if !strings.HasPrefix(s, "/") || len(s) > 1 && strings.HasSuffix(s, "/") || strings.ContainsAny(s, "*{}?#") || s == "/" {
		c.errorf(r, "strip_prefix", `Write it like "/orders".`, "%s: strip_prefix: %q isn't a prefix of a path", what, s)
		return
	}
	if len(r.Paths) == 0 {
		c.errorf(r, "strip_prefix", fmt.Sprintf("Add paths = [%q].", s+"/*"), "%s: strip_prefix, but the route takes every path", what)
		return
	}
	for i, p := range r.Paths {
		if p != s && !strings.HasPrefix(p, s+"/") {
			c.broken[r] = true
			c.diags.Add(Diagnostic{
				Text:  fmt.Sprintf("%s: strip_prefix %q isn't a prefix of the path %q", what, s, p),
				Range: c.at(r, "strip_prefix"), Also: c.element(r, "paths", i),
				Advice: "Move that path into a route of its own.",
			})
		}
	}
}

func (c *checker) redirect(r *Route, what string, broken bool) {
	answers, err := answer.Redirect(*r.Redirect)
	if err != nil {
		c.blame(r.Redirect, what+": redirect", err)
		return
	}
	reader, ok := answers.(policy.ParamReader)
	if !ok || broken {
		return
	}
	some, all := route.Params(r.Paths), commonParams(r.Paths)
	for _, n := range reader.Params() {
		if slices.Contains(all, n) {
			continue
		}
		advice := didYouMean(n, append([]string{"scheme", "host", "path", "query"}, all...))
		if slices.Contains(some, n) {
			advice = "Not every path of this route has that parameter."
		}
		c.errorf(r.Redirect, "to", advice, "%s: redirect: there is no {%s}", what, n)
	}
}

// commonParams are the parameters that every path has.
func commonParams(paths []string) []string {
	var common []string
	for i, p := range paths {
		names := route.Params([]string{p})
		if i == 0 {
			common = names
			continue
		}
		common = slices.DeleteFunc(common, func(n string) bool { return !slices.Contains(names, n) })
	}
	return common
}

// policies makes each policy of a route or a bundle once, only to see whether
// that works.
func (c *checker) policies(of any, what string, list []Block, paths []string, everywhere bool) {
	for _, b := range list {
		if b.Kind.New == nil || c.broken[b.Config] {
			continue
		}
		p, err := b.Kind.New(b.Config)
		if err == nil && !everywhere {
			err = policy.Compile([]policy.Named{{Name: b.Kind.Name, Policy: p}}).CheckParams(route.Params(paths))
		}
		if err != nil {
			c.broken[of] = true
			c.blame(b.Config, what+": "+b.Kind.Name, err)
			continue
		}
		if asks, ok := b.Config.(interface{ Services() map[string]string }); ok {
			for argument, name := range asks.Services() {
				c.known(name, c.at(b.Config, argument), what+": "+b.Kind.Name)
			}
		}
	}
}

// blame reports the errors of a package that reads a struct, each at the
// argument that its text starts with.
func (c *checker) blame(of any, what string, err error) {
	c.broken[of] = true
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range j.Unwrap() {
			c.blame(of, what, e)
		}
		return
	}
	name, rest, _ := strings.Cut(err.Error(), ":")
	at := c.at(of, name)
	rest = strings.TrimPrefix(strings.TrimSpace(rest), "header ")
	if key, err := strconv.QuotedPrefix(rest); err == nil {
		if key, err = strconv.Unquote(key); err == nil {
			at = c.entry(of, name, key)
		}
	}
	c.diags.Errorf(at, "", "%s: %v", what, err)
}

// authorize checks the condition of a route or a bundle.
func (c *checker) authorize(of any, text, what string) {
	if c.given(of, "authorize") || text != "" {
		c.condition(of, "authorize", text, what)
	}
}

// condition checks a condition; nil: it is wrong.
func (c *checker) condition(of any, name, text, what string) *condition.Program {
	if c.conditions == nil {
		var err error
		if c.conditions, err = condition.NewCompiler(); err != nil {
			c.errorf(of, name, "", "%s: %v", what, err)
			return nil
		}
	}
	p, err := c.conditions.Compile(text)
	if err == nil {
		return p
	}
	all := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		all = j.Unwrap()
	}
	for _, e := range all {
		var mistake *condition.Error
		if !errors.As(e, &mistake) {
			c.errorf(of, name, "", "%s: %s: %v", what, name, e)
			continue
		}
		c.broken[of] = true
		c.diags.Errorf(c.inside(c.at(of, name), text, mistake.Line, mistake.Column), "", "%s: %s: %s", what, name, mistake.Text)
	}
	return nil
}

// inside is a place in a text that stands in quotes at r, as long as it stands
// there without escapes on one line.
func (c *checker) inside(r hcl.Range, text string, line, column int) hcl.Range {
	written := r.SliceBytes(c.diags.source[r.Filename])
	if line != 1 || column < 1 || column > len(text) || string(written) != `"`+text+`"` {
		return r
	}
	for _, b := range []byte(text) {
		if b >= 0x80 {
			return r // columns of characters aren't bytes
		}
	}
	r.Start.Column += column
	r.Start.Byte += column
	r.End.Column--
	r.End.Byte--
	return r
}

// matches lets the matcher judge hosts, paths and conditions, and find routes
// that take the same requests.
func (c *checker) matches(routes []*Route) {
	list := make([]*Route, 0, len(routes))
	for _, r := range routes {
		// What is broken may lack the very argument that tells it apart.
		if !c.broken[r] {
			list = append(list, r)
		}
	}
	for range 2 { // conflicts are found among rules that are right by themselves
		bad := c.compile(list)
		if len(bad) == 0 {
			break
		}
		list = slices.DeleteFunc(list, func(r *Route) bool { return bad[r] })
	}
}

func (c *checker) compile(list []*Route) map[*Route]bool {
	rules := make([]route.Rule, len(list))
	for i, r := range list {
		rules[i] = r.Rule()
	}
	bad := map[*Route]bool{}
	_, err := route.Compile(rules)
	for _, e := range ruleErrors(err) {
		r := list[e.Index]
		bad[r] = true
		c.broken[r] = true
		d := Diagnostic{Text: e.Error(), Range: c.ruleAt(r, e)}
		if e.Other >= 0 {
			d.Also = c.at(list[e.Other], "")
			d.Advice = "Tell them apart by hosts, paths, methods, headers or query."
		} else if e.Argument == "hosts" {
			for _, h := range r.Hosts {
				if strings.HasPrefix(e.Err.Error(), fmt.Sprintf("host %q ", h)) {
					d.Advice = hostAdvice(h)
				}
			}
		}
		c.diags.Add(d)
	}
	return bad
}

// ruleErrors are the errors that route.Compile joins.
func ruleErrors(err error) []*route.Error {
	var list []*route.Error
	all := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		all = j.Unwrap()
	}
	for _, e := range all {
		var one *route.Error
		if errors.As(e, &one) {
			list = append(list, one)
		}
	}
	return list
}

// ruleAt finds the element that an error is about by its text, which names it.
func (c *checker) ruleAt(r *Route, e *route.Error) hcl.Range {
	text := e.Err.Error()
	elements := func(prefix string, values []string) hcl.Range {
		for i, v := range values {
			if strings.HasPrefix(text, prefix+fmt.Sprintf("%q", v)) {
				return c.element(r, e.Argument, i)
			}
		}
		return c.at(r, e.Argument)
	}
	entries := func(prefix string, values map[string]string) hcl.Range {
		for k := range values {
			if strings.HasPrefix(text, prefix+fmt.Sprintf("%q", k)) {
				return c.entry(r, e.Argument, k)
			}
		}
		return c.at(r, e.Argument)
	}
	switch e.Argument {
	case "hosts":
		return elements("host ", r.Hosts)
	case "paths":
		return elements("path ", r.Paths)
	case "methods":
		return elements("method ", r.Methods)
	case "headers":
		return entries("header ", r.Headers)
	case "query":
		return entries("query parameter ", r.Query)
	default:
		return c.at(r, e.Argument)
	}
}

// Rule is what of r the matcher wants.
func (r *Route) Rule() route.Rule {
	return route.Rule{Name: r.Name, Hosts: r.Hosts, Paths: r.Paths, Methods: r.Methods, Headers: r.Headers, Query: r.Query, WhenText: r.When}
}

// checkHost lets the matcher judge a host.
func checkHost(h string) error {
	_, err := route.Compile([]route.Rule{{Hosts: []string{h}}})
	for _, e := range ruleErrors(err) {
		return e.Err
	}
	return nil
}

// canonicalHost is h as requests have it.
func canonicalHost(h string) string {
	return strings.TrimSuffix(strings.ToLower(h), ".")
}

// hostAdvice guesses what somebody meant.
func hostAdvice(h string) string {
	if _, rest, ok := strings.Cut(h, "://"); ok {
		name, _, _ := strings.Cut(rest, "/")
		return fmt.Sprintf("Write the name only: %q.", name)
	}
	if name, _, ok := strings.Cut(h, ":"); ok && !strings.Contains(name, "[") && strings.Count(h, ":") == 1 {
		return fmt.Sprintf("Write %q; listeners say the port.", name)
	}
	if strings.ContainsFunc(h, func(r rune) bool { return r >= 0x80 }) {
		if a, err := idna.Lookup.ToASCII(strings.TrimPrefix(h, "*.")); err == nil {
			if strings.HasPrefix(h, "*.") {
				a = "*." + a
			}
			return fmt.Sprintf("Write %q.", a)
		}
	}
	return ""
}
