package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// Merge returns the configuration with the parts that fit, f's own blocks
// first. A part that doesn't fit is left out and told of: one with a label or
// with requests that f or an earlier part has, or with a dangling reference.
func (f *File) Merge(parts []*Part) (*File, []Problem) {
	m := &merger{base: f, parts: parts, out: make([]bool, len(parts))}
	for _, p := range parts {
		if p.decoder == nil {
			p.decoder = newDecoder(Options{}, &Diagnostics{})
		} else {
			// Each merge judges anew: what a part lacked may have come.
			again := *p.decoder
			again.diags, again.broken = &Diagnostics{source: again.diags.source, secrets: again.diags.secrets}, map[any]bool{}
			p.decoder = &again
		}
	}
	m.labels()
	// A part that falls out takes along what others may have built on; so go
	// on until none falls. Conflicts come last, so that a part which falls for
	// another reason takes nobody's requests.
	for m.references() || m.conflicts() {
	}
	return m.result()
}

type merger struct {
	base    *File
	parts   []*Part
	out     []bool // part i doesn't fit
	implied []*upstream.Config

	conditions *condition.Compiler
}

// drop leaves part i out.
func (m *merger) drop(i int, d Diagnostic) {
	m.out[i] = true
	m.parts[i].decoder.diags.Add(d)
}

// labelled calls see with each labelled block.
func labelled(services []*upstream.Config, bundles []*Bundle, routes []*Route, see func(label string, v any)) {
	for _, s := range services {
		see(fmt.Sprintf("service %q", s.Name), s)
	}
	for _, b := range bundles {
		see(fmt.Sprintf("policy %q", b.Name), b)
	}
	for _, r := range routes {
		see(fmt.Sprintf("route %q", r.Name), r)
	}
}

// labels takes out parts with a block whose label is taken.
func (m *merger) labels() {
	type owner struct {
		at    hcl.Range
		where string
	}
	taken := map[string]owner{}
	labelled(m.base.Services, m.base.Bundles, m.base.Routes, func(label string, v any) {
		if s, ok := v.(*upstream.Config); !ok || !m.base.impliedServices[s] {
			taken[label] = owner{m.base.Place(v), "the configuration's files"}
		}
	})
	for i, p := range m.parts {
		labelled(p.Services, p.Bundles, p.Routes, func(label string, v any) {
			if o, ok := taken[label]; ok {
				m.drop(i, Diagnostic{
					Text:  fmt.Sprintf("%s stands in %s, too, which comes first", label, o.where),
					Range: p.decoder.at(v, ""), Also: o.at, Advice: "Rename one of them.",
				})
			}
		})
		if m.out[i] {
			continue
		}
		labelled(p.Services, p.Bundles, p.Routes, func(label string, v any) {
			taken[label] = owner{p.decoder.at(v, ""), p.Origin}
		})
	}
}

// references checks the parts by themselves and what they refer to. It
// reports whether one fell out.
func (m *merger) references() bool {
	services, bundles := map[string]*upstream.Config{}, map[string]bool{}
	see := func(list []*upstream.Config, named []*Bundle) {
		for _, s := range list {
			services[s.Name] = s
		}
		for _, b := range named {
			bundles[b.Name] = true
		}
	}
	see(m.base.Services, m.base.Bundles)
	for i, p := range m.parts {
		if !m.out[i] {
			see(p.Services, p.Bundles)
		}
	}
	fell := false
	view := &File{Consul: m.base.Consul}
	for i, p := range m.parts {
		if m.out[i] {
			continue
		}
		c := &checker{decoder: p.decoder, file: view, whole: true, services: services, bundles: bundles, conditions: m.conditions}
		for _, s := range p.Services {
			c.service(s)
		}
		for _, b := range p.Bundles {
			c.authorize(b, b.Authorize, fmt.Sprintf("policy %q", b.Name))
			c.policies(b, fmt.Sprintf("policy %q", b.Name), b.Policies, nil, true)
		}
		for _, r := range p.Routes {
			c.route(r)
		}
		c.compile(p.Routes)
		m.conditions = c.conditions
		if p.decoder.diags.HasErrors() {
			m.out[i], fell = true, true
		}
	}
	m.implied = view.Services
	return fell
}

// conflicts takes out parts whose routes take the requests of earlier ones.
// It reports whether one fell out.
func (m *merger) conflicts() bool {
	var rules []route.Rule
	var part []int // of each rule; -1: it is base's
	var routes []*Route
	add := func(list []*Route, i int) {
		for _, r := range list {
			rules, part, routes = append(rules, r.Rule()), append(part, i), append(routes, r)
		}
	}
	add(m.base.Routes, -1)
	for i, p := range m.parts {
		if !m.out[i] {
			add(p.Routes, i)
		}
	}
	if len(rules) == len(m.base.Routes) {
		return false
	}
	_, err := route.Compile(rules)
	fell := false
	list := ruleErrors(err)
	slices.SortStableFunc(list, func(a, b *route.Error) int { return a.Index - b.Index })
	for _, e := range list {
		i := part[e.Index]
		if i < 0 || m.out[i] || e.Other >= 0 && part[e.Other] >= 0 && m.out[part[e.Other]] {
			continue
		}
		d := Diagnostic{Text: e.Error(), Range: m.parts[i].decoder.at(routes[e.Index], "")}
		if e.Other >= 0 {
			d.Also = m.place(part[e.Other], routes[e.Other])
			d.Advice = "The one that comes first keeps the requests; tell them apart by hosts, paths, methods, headers or query."
		}
		m.drop(i, d)
		fell = true
	}
	return fell
}

func (m *merger) place(part int, v any) hcl.Range {
	if part < 0 {
		return m.base.Place(v)
	}
	return m.parts[part].decoder.at(v, "")
}

func (m *merger) result() (*File, []Problem) {
	f := *m.base
	f.ranges, f.external, f.origins = maps.Clone(f.ranges), maps.Clone(f.external), maps.Clone(f.origins)
	f.impliedServices = maps.Clone(f.impliedServices)
	if f.origins == nil {
		f.origins = map[any]string{}
	}
	f.Services, f.Bundles, f.Routes = slices.Clone(f.Services), slices.Clone(f.Bundles), slices.Clone(f.Routes)
	var problems []Problem
	described := map[string]bool{}
	for i, p := range m.parts {
		if len(p.decoder.diags.List()) > 0 {
			problems = append(problems, Problem{p.Origin, p.decoder.diags})
		}
		if m.out[i] {
			continue
		}
		for _, s := range p.Services {
			described[s.Name] = true
		}
		f.Services, f.Bundles, f.Routes = append(f.Services, p.Services...), append(f.Bundles, p.Bundles...), append(f.Routes, p.Routes...)
		labelled(p.Services, p.Bundles, p.Routes, func(_ string, v any) { f.origins[v] = p.Origin })
		f.note(p.decoder)
	}
	f.Services = slices.DeleteFunc(f.Services, func(s *upstream.Config) bool {
		return f.impliedServices[s] && described[s.Name]
	})
	for _, s := range m.implied {
		f.Services = append(f.Services, s)
		f.impliedServices[s] = true
	}
	return &f, problems
}
