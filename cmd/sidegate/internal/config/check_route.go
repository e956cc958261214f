package config

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/proxy/route"
)

func (c *checker) route(r *Route) {
	if c.broken[r] {
		return
	}
	what := fmt.Sprintf("route %q", r.Name)
	if r.When != "" {
		c.errorf(r, "when", "Remove it for now: this version of sidegate would ignore it.", "when is not available yet in %s", what)
	}
	for i, h := range r.Hosts {
		r.Hosts[i] = canonicalHost(h)
	}
	c.answer(r, what)
	c.use(r, r.Use, what)
	c.strip(r, what)
	if r.Mirror != nil && c.forwards(r, "mirror", what) {
		c.known(r.Mirror.Service, c.at(r.Mirror, "service"), what)
	}
	if r.Redirect != nil {
		c.redirect(r, what)
	}
	if r.Respond != nil {
		c.respond(r, what)
	}
	if r.Sunset != nil {
		c.sunset(r, what)
	}
}

// answer checks that exactly one argument says who answers.
func (c *checker) answer(r *Route, what string) {
	var given []string
	for _, a := range []struct {
		name string
		set  bool
	}{{"service", r.Service != ""}, {"split", len(r.Split) > 0}, {"redirect", r.Redirect != nil}, {"respond", r.Respond != nil}} {
		if a.set || c.given(r, a.name) {
			given = append(given, a.name)
		}
	}
	switch {
	case len(given) == 0:
		c.errorf(r, "", `Add service = "NAME", split, redirect or respond.`, "%s doesn't say who answers", what)
		return
	case len(given) > 1:
		c.broken[r] = true
		c.diags.Add(Diagnostic{
			Text:  fmt.Sprintf("%s has %s; exactly one of service, split, redirect and respond says who answers", what, and(given)),
			Range: c.at(r, given[1]), Also: c.at(r, given[0]), Advice: "Keep one of them.",
		})
		return
	}
	switch given[0] {
	case "service":
		c.known(r.Service, c.at(r, "service"), what)
	case "split":
		c.split(r, what)
	}
}

func (c *checker) split(r *Route, what string) {
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
	if sum == 0 {
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
	s := NewService(name)
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
	if r.Redirect == nil && r.Respond == nil {
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

func (c *checker) redirect(r *Route, what string) {
	to := r.Redirect.To
	known := append([]string{"scheme", "host", "path", "query"}, commonParams(r.Paths)...)
	names, err := placeholders(to)
	if err != nil {
		c.errorf(r.Redirect, "to", "", "%s: redirect: to: %v", what, err)
		return
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			advice := didYouMean(n, known)
			if slices.Contains(route.Params(r.Paths), n) {
				advice = "Not every path of this route has that parameter."
			}
			c.errorf(r.Redirect, "to", advice, "%s: redirect: there is no {%s}", what, n)
		}
	}
	absolute := strings.HasPrefix(to, "http://") || strings.HasPrefix(to, "https://") || strings.HasPrefix(to, "{scheme}://")
	relative := strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "//") || strings.HasPrefix(to, "{path}")
	if !absolute && !relative {
		c.errorf(r.Redirect, "to", `Write it like "https://example.com{path}{query}" or "/new".`, "%s: redirect: %.200q is neither an http(s) URL nor a path", what, to)
	}
	if i := strings.IndexFunc(to, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }); i >= 0 {
		c.errorf(r.Redirect, "to", "Write it percent-encoded.", "%s: redirect: to has a character that no URL has", what)
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

// placeholders lists the names in braces.
func placeholders(s string) ([]string, error) {
	var names []string
	for {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			return names, nil
		}
		if s[i] == '}' {
			return nil, errors.New("has a } without its {")
		}
		s = s[i+1:]
		end := strings.IndexAny(s, "{}")
		if end < 0 || s[end] == '{' {
			return nil, errors.New("has a { without its }")
		}
		names = append(names, s[:end])
		s = s[end+1:]
	}
}

func (c *checker) respond(r *Route, what string) {
	a := r.Respond
	if (a.Status == http.StatusNoContent || a.Status == http.StatusNotModified) && a.Body != "" {
		c.errorf(a, "body", "", "%s: respond: a response with status %d has no body", what, a.Status)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Headers)) {
		at := c.entry(a, "headers", name)
		switch strings.ToLower(name) {
		case "content-length", "transfer-encoding", "connection", "upgrade", "trailer", "keep-alive":
			c.diags.Errorf(at, "Take it out.", "%s: respond: %s is the gateway's to write", what, name)
		}
		if !isToken(name) {
			c.diags.Errorf(at, "", "%s: respond: %q can't be the name of a header field", what, name)
		}
		if strings.ContainsFunc(a.Headers[name], func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			c.diags.Errorf(at, "", "%s: respond: the value of %s has a control character", what, name)
		}
	}
}

func (c *checker) sunset(r *Route, what string) {
	s := r.Sunset
	day := func(name, text string) (time.Time, bool) {
		t, err := time.Parse(time.DateOnly, text)
		if err != nil {
			c.errorf(s, name, `Write it like "2027-06-30".`, "%s: sunset: %s: %q isn't a day", what, name, text)
		}
		return t, err == nil
	}
	end, ok := day("date", s.Date)
	if s.Deprecated != "" {
		if from, fine := day("deprecated", s.Deprecated); fine && ok && from.After(end) {
			c.errorf(s, "deprecated", "", "%s: sunset: deprecated from %s on, after its end on %s", what, s.Deprecated, s.Date)
		}
	}
	if s.Link != "" {
		if err := webURL(s.Link, "http", "https"); err != nil {
			c.errorf(s, "link", "", "%s: sunset: link: %v", what, err)
		}
	}
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
