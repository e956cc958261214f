package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// maxNear bounds the rules that Explain names for a path that none takes.
const maxNear = 16

// Place is one host and path of a rule, for sidegate routes.
type Place struct {
	Rule       int
	Name       string
	Host       string // "": every host
	Path       string // "": every path
	Conditions string // in the words of the configuration; "": none
}

// Candidate is a rule that was asked about a request.
type Candidate struct {
	Place
	Taken bool   // it takes the request
	Why   string // in a few words
}

// List returns all places in the order of precedence.
func (m *Matcher) List() []Place {
	order := make([]uint32, 0, len(m.entries))
	for i := range m.entries {
		order = append(order, uint32(i))
	}
	slices.SortFunc(order, func(a, b uint32) int {
		s, t := m.names[a].host, m.names[b].host
		if c := cmp.Compare(hostRank(s), hostRank(t)); c != 0 {
			return c
		}
		if c := cmp.Compare(len(t), len(s)); c != 0 && hostRank(s) == 1 {
			return c
		}
		return strings.Compare(s, t)
	})
	list := make([]Place, 0, len(m.takers))
	for _, e := range order {
		for l := m.names[e].first; l < m.names[e].end; l++ {
			for i := m.first[l]; i < m.first[l+1]; i++ {
				list = append(list, m.place(e, l, i))
			}
		}
	}
	return list
}

func hostRank(text string) int {
	switch {
	case text == "":
		return 2
	case text[0] == '*':
		return 1
	default:
		return 0
	}
}

func (m *Matcher) place(e uint32, l int32, i uint32) Place {
	r := int(m.takers[i].rule)
	return Place{
		Rule: r, Name: m.rules[r].Name, Host: m.names[e].host, Path: m.paths[l],
		Conditions: m.rules[r].describe(),
	}
}

// Explain returns the rules that Match would ask about x, in that order, and
// those behind the one that takes it, each with the reason why it does or
// doesn't. When the path fits none, it names some of the host's rules.
func (m *Matcher) Explain(x *exchange.Exchange) []Candidate {
	var list []Candidate
	taken := ""
	walk := m.walk(x.Target.Host)
	for e := walk.next(); e >= 0; e = walk.next() {
		last := int32(-1)
		for l := m.nextLeaf(uint32(e), x.Target.Path, last); l >= 0; l = m.nextLeaf(uint32(e), x.Target.Path, last) {
			for i := m.first[l]; i < m.first[l+1]; i++ {
				c := Candidate{Place: m.place(uint32(e), l, i)}
				why := m.conditions[c.Rule].why(x)
				switch {
				case why != "":
					c.Why = why
				case taken != "":
					c.Why = fmt.Sprintf("route %q is more specific", taken)
				default:
					taken = c.Name
					c.Taken, c.Why = true, "host, path and conditions fit"
				}
				list = append(list, c)
			}
			last = l
		}
	}
	if len(list) == 0 {
		list = m.near(x)
	}
	return list
}

// near returns rules for x's host whose paths don't fit, those with the most
// in common first.
func (m *Matcher) near(x *exchange.Exchange) []Candidate {
	type hit struct {
		common int
		entry  uint32
		leaf   int32
	}
	var hits []hit
	walk := m.walk(x.Target.Host)
	for e := walk.next(); e >= 0; e = walk.next() {
		for l := m.names[e].first; l < m.names[e].end; l++ {
			hits = append(hits, hit{common(m.paths[l], x.Target.Path), uint32(e), l})
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Compare(b.common, a.common) })
	var list []Candidate
	for _, h := range hits[:min(len(hits), maxNear)] {
		i := m.first[h.leaf]
		list = append(list, Candidate{Place: m.place(h.entry, h.leaf, i), Why: "path doesn't fit"})
	}
	return list
}

// common is how many bytes a and b have in common from the start.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// why returns the first condition that doesn't hold; "": all do.
func (c *conditions) why(x *exchange.Exchange) string {
	if !c.takesMethod(x.Method, methodBit(x.Method)) {
		return "method " + x.Method + " isn't among its methods"
	}
	for i := range c.headers {
		if !c.headers[i].inHead(&x.Request) {
			return "header " + c.headers[i].name + " doesn't match"
		}
	}
	for i := range c.query {
		if !c.query[i].inQuery(x.Target.Query) {
			return "query parameter " + c.query[i].name + " doesn't match"
		}
	}
	if c.when != nil && !c.when.Eval(x) {
		return "when is false: " + c.when0
	}
	return ""
}
