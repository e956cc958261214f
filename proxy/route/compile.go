package route

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// maxTakers bounds hosts × paths over all rules, far above any use.
const maxTakers = 1 << 24

// Compile makes a matcher. Its error joins one *Error for each thing that is
// wrong; the rule that a conflict is reported for is the later of the two.
func Compile(rules []Rule) (*Matcher, error) {
	c := &compiler{reported: map[[2]uint32]bool{}, m: &Matcher{
		rules: rules, conditions: make([]conditions, len(rules)),
		hosts: map[string]uint32{}, suffixes: map[string]uint32{}, any: -1,
		exact: map[pathKey]int32{}, edges: map[edgeKey]uint32{}, nodes: make([]node, 1), params: make([][]param, 1), // 0 is "none" in both
	}}
	for i := range rules {
		c.add(i)
	}
	if len(c.errs) == 0 {
		c.build()
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return c.m, nil
}

// place is one host and path of a rule.
type place struct {
	entry uint32
	rule  uint32
	path  *pattern
}

type compiler struct {
	m      *Matcher
	paths  pathParser
	places []place
	errs   []error

	reported map[[2]uint32]bool // conflicts of two rules
}

func (c *compiler) fail(rule int, argument string, other int, err error) {
	c.errs = append(c.errs, &Error{Index: rule, Name: c.m.rules[rule].Name, Argument: argument, Other: other, Err: err})
}

// add reads one rule.
func (c *compiler) add(i int) {
	r := &c.m.rules[i]
	c.m.conditions[i] = compileConditions(r, func(argument string, err error) { c.fail(i, argument, -1, err) })
	patterns := make([]*pattern, 0, max(1, len(r.Paths)))
	for _, text := range r.Paths {
		p, err := c.paths.parse(text)
		if err != nil {
			c.fail(i, "paths", -1, fmt.Errorf("path %q %w", text, err))
			continue
		}
		patterns = append(patterns, &p)
	}
	if len(r.Paths) == 0 {
		patterns = append(patterns, &pattern{kind: anyPath})
	}
	hosts := make([]uint32, 0, max(1, len(r.Hosts)))
	for _, text := range r.Hosts {
		host, wild, err := parseHost(text)
		if err != nil {
			c.fail(i, "hosts", -1, fmt.Errorf("host %q %w", text, err))
			continue
		}
		hosts = append(hosts, c.entry(host, wild))
	}
	if len(r.Hosts) == 0 {
		hosts = append(hosts, c.everyHost())
	}
	if len(c.places)+len(hosts)*len(patterns) > maxTakers {
		c.fail(i, "hosts", -1, fmt.Errorf("too many hosts and paths; %d are allowed in all", maxTakers))
		return
	}
	for _, h := range hosts {
		for _, p := range patterns {
			c.places = append(c.places, place{entry: h, rule: uint32(i), path: p})
		}
	}
}

func (c *compiler) newEntry(text string) uint32 {
	c.m.entries = append(c.m.entries, entry{any: -1})
	c.m.names = append(c.m.names, name{host: text})
	return uint32(len(c.m.entries) - 1)
}

func (c *compiler) entry(host string, wild bool) uint32 {
	names, text := c.m.hosts, host
	if wild {
		names, text = c.m.suffixes, "*"+host
		c.m.maxSuffix = max(c.m.maxSuffix, len(host))
	}
	e, ok := names[host]
	if !ok {
		e = c.newEntry(text)
		names[host] = e
	}
	return e
}

func (c *compiler) everyHost() uint32 {
	if c.m.any < 0 {
		c.m.any = int64(c.newEntry(""))
	}
	return uint32(c.m.any)
}

// build sorts the places by precedence, and makes the leaves in that order.
func (c *compiler) build() {
	m := c.m
	slices.SortFunc(c.places, func(a, b place) int {
		if a.entry != b.entry {
			return cmp.Compare(a.entry, b.entry)
		}
		if o := a.path.compare(b.path); o != 0 {
			return o
		}
		if o := cmp.Compare(m.conditions[b.rule].count, m.conditions[a.rule].count); o != 0 {
			return o
		}
		if o := strings.Compare(m.rules[a.rule].Name, m.rules[b.rule].Name); o != 0 {
			return o
		}
		return cmp.Compare(a.rule, b.rule)
	})
	m.takers = make([]taker, 0, len(c.places))
	for first := 0; first < len(c.places); {
		p := c.places[first]
		end := first + 1
		for end < len(c.places) && c.places[end].entry == p.entry && c.places[end].path.compare(p.path) == 0 {
			end++
		}
		c.conflicts(c.places[first:end])
		c.leaf(c.places[first:end])
		first = end
	}
	m.first = append(slices.Clip(m.first), uint32(len(m.takers)))
	m.nodes = slices.Clip(m.nodes)
}

// conflicts reports the rules at one leaf whose conditions are equal.
func (c *compiler) conflicts(places []place) {
	if len(places) == 1 {
		return
	}
	seen := make(map[string]uint32, len(places))
	for _, p := range places {
		key := c.m.conditions[p.rule].key()
		other, ok := seen[key]
		if !ok {
			seen[key] = p.rule
			continue
		}
		at := "every host"
		if text := c.m.names[p.entry].host; text != "" {
			at = fmt.Sprintf("host %q", text)
		}
		if p.path.kind == anyPath {
			at += ", every path"
		} else {
			at += fmt.Sprintf(", path %q", p.path.text)
		}
		if other == p.rule {
			c.fail(int(p.rule), "paths", -1, fmt.Errorf("takes %s twice", at))
			continue
		}
		later, earlier := max(p.rule, other), min(p.rule, other)
		if c.reported[[2]uint32{earlier, later}] {
			continue // one place of theirs is enough
		}
		c.reported[[2]uint32{earlier, later}] = true
		c.fail(int(later), "paths", int(earlier), fmt.Errorf(
			"takes the same requests as route %q: %s, with the same conditions", c.m.rules[earlier].Name, at))
	}
}

// leaf adds the path that the places share, and their rules.
func (c *compiler) leaf(places []place) {
	m := c.m
	p, e, n := places[0].path, &m.entries[places[0].entry], &m.names[places[0].entry]
	id := int32(len(m.paths))
	m.paths = append(m.paths, p.text)
	m.first = append(m.first, uint32(len(m.takers)))
	if n.end == 0 {
		n.first = id
	}
	n.end = id + 1
	switch p.kind {
	case exactPath:
		e.hasPath = true
		m.exact[pathKey{places[0].entry, p.exact}] = id
	case anyPath:
		e.any = id
	default:
		c.grow(e, p, id)
	}
	for _, pl := range places {
		r := &m.conditions[pl.rule]
		t := taker{rule: pl.rule, bits: r.bits, plain: r.plain()}
		if params := pl.path.params(); params != nil {
			t.params = uint32(len(m.params))
			m.params = append(m.params, params)
		}
		m.takers = append(m.takers, t)
	}
}

// grow puts a path with parameters or a prefix into the tree.
func (c *compiler) grow(e *entry, p *pattern, id int32) {
	m := c.m
	if e.root == 0 {
		e.root = c.node()
	}
	at := e.root
	for i, segment := range p.segments {
		m.nodes[at].max = id // ids only grow
		m.nodes[at].min = min(m.nodes[at].min, id)
		at = c.child(at, segment, p.wild[i])
	}
	n := &m.nodes[at]
	n.min, n.max = min(n.min, id), id
	if p.kind == prefixPath {
		n.prefix = id
	} else {
		n.leaf = id
	}
}

func (c *compiler) node() uint32 {
	c.m.nodes = append(c.m.nodes, node{leaf: -1, prefix: -1, min: math.MaxInt32, max: -1})
	return uint32(len(c.m.nodes) - 1)
}

func (c *compiler) child(at uint32, segment string, wild bool) uint32 {
	m := c.m
	if wild {
		if m.nodes[at].param == 0 {
			child := c.node() // moves m.nodes: not in the assignment below
			m.nodes[at].param = child
		}
		return m.nodes[at].param
	}
	key := edgeKey{at, segment}
	child, ok := m.edges[key]
	if !ok {
		child = c.node()
		m.edges[key] = child
		m.nodes[at].literals = true
	}
	return child
}
