package schema

import (
	"strconv"
)

// members applies the keywords for objects. In a branch the simple members come
// first: one like "kind" tells branches apart, and what is below the others need
// not be looked at in each of them.
func (c *Checker) members(o *mapped, v *Value, i uint32, m []bool) bool {
	ok := c.counts(int(v.nodes[i].from), o.least, o.most, "members")
	have := c.take(len(o.required))
	if c.quiet == 0 {
		ok = c.pass(o, v, i, m, have, Null, Object) && ok
		ok = c.required(o, have) && ok
	} else {
		ok = ok && c.pass(o, v, i, m, have, Null, String) && c.required(o, have) && c.pass(o, v, i, m, have, Array, Object)
	}
	c.give(len(o.required))
	for d := 0; d < len(o.needs) && (ok || c.quiet == 0); d++ {
		ok = c.dependent(&o.needs[d], v, i, m) && ok
	}
	return ok
}

// pass checks the members whose values are of a kind in a range, and notes in
// have which of the required ones are there, of any kind.
func (c *Checker) pass(o *mapped, v *Value, i uint32, m, have []bool, from, to Kind) bool {
	ok, k := true, -1
	end := v.nodes[i].next
	for at := i + 1; at < end && (ok || c.quiet == 0); at = v.nodes[at+1].next {
		k++
		name := v.str(at)
		p, known := o.properties[name]
		if known && p.required >= 0 {
			have[p.required] = true
		}
		if kind := v.nodes[at+1].kind; kind < from || kind > to {
			continue
		}
		seen, fine := c.value(o, p.schema, name, v, at+1)
		if o.names != nil {
			fine = c.at(part{name, -1}, o.names, v, at) && fine
		}
		if m != nil && seen {
			m[k] = true
		}
		ok = fine && ok
	}
	return ok
}

// value checks a member's value. seen tells that a keyword for it was there.
func (c *Checker) value(o *mapped, s *Schema, name string, v *Value, at uint32) (seen, ok bool) {
	ok = true
	if s != nil {
		seen, ok = true, c.at(part{name, -1}, s, v, at)
	}
	for p := range o.patterns {
		c.steps--
		if c.matches(o.patterns[p].re, name) {
			seen, ok = true, c.at(part{name, -1}, o.patterns[p].schema, v, at) && ok
		}
	}
	if !seen && o.additional != nil {
		seen, ok = true, c.at(part{name, -1}, o.additional, v, at)
	}
	return seen, ok
}

// required reports whether all members that have to be there are.
func (c *Checker) required(o *mapped, have []bool) bool {
	needed := o.inRequest
	if c.Response {
		needed = o.inResponse
	}
	ok := true
	for k, there := range have {
		if !there && (needed == nil || needed[k]) {
			ok = c.missing(o.required[k])
		}
	}
	return ok
}

// missing says that a member isn't there.
func (c *Checker) missing(name string) bool {
	c.path = append(c.path, part{name, -1})
	c.fail("is required")
	c.path = c.path[:len(c.path)-1]
	return false
}

func (c *Checker) dependent(d *dependent, v *Value, i uint32, m []bool) bool {
	if _, there := c.member(v, i, d.name); !there {
		return true
	}
	ok := true
	for _, name := range d.names {
		if _, there := c.member(v, i, name); !there {
			ok = c.missing(name)
		}
	}
	return c.check(d.schema, v, i, m) && ok
}

// counts checks how many parts there are.
func (c *Checker) counts(n, least, most int, what string) bool {
	switch {
	case most >= 0 && n > most:
		return c.fail("has to have at most ", strconv.Itoa(most), " ", what)
	case n < least:
		return c.fail("has to have at least ", strconv.Itoa(least), " ", what)
	}
	return true
}

// list applies the keywords for arrays.
func (c *Checker) list(a *listed, v *Value, i uint32, m []bool) bool {
	n := &v.nodes[i]
	ok := c.counts(int(n.from), a.least, a.most, "items")
	if a.prefix != nil || a.items != nil {
		k := 0
		for at := i + 1; at < n.next && (ok || c.quiet == 0); at = v.nodes[at].next {
			s := a.items
			if k < len(a.prefix) {
				s = a.prefix[k]
			}
			if s == nil {
				break
			}
			if m != nil {
				m[k] = true
			}
			ok = c.at(part{index: k}, s, v, at) && ok
			k++
		}
	}
	if a.contains != nil && (ok || c.quiet == 0) {
		ok = c.contains(a, v, i, m) && ok
	}
	if a.unique && (ok || c.quiet == 0) && !c.distinct(v, i) {
		ok = c.fail("has an item twice")
	}
	return ok
}

func (c *Checker) contains(a *listed, v *Value, i uint32, m []bool) bool {
	n := &v.nodes[i]
	found, k := 0, 0
	for at := i + 1; at < n.next; at = v.nodes[at].next {
		if c.silently(a.contains, v, at, nil) {
			found++
			if m != nil {
				m[k] = true
			}
		}
		k++
	}
	switch {
	case found < a.fewest:
		return c.fail("has to have an item that it lacks")
	case a.greatest >= 0 && found > a.greatest:
		return c.fail("has too many items of a kind")
	}
	return true
}

// unevaluated checks the parts that nothing else has looked at.
func (c *Checker) unevaluated(s *Schema, v *Value, i uint32, m []bool) bool {
	n := &v.nodes[i]
	ok := true
	if n.kind == Object && s.rest != nil {
		k := 0
		for at := i + 1; at < n.next; at = v.nodes[at+1].next {
			if !m[k] {
				m[k] = true
				ok = c.at(part{v.str(at), -1}, s.rest, v, at+1) && ok
			}
			k++
		}
	}
	if n.kind == Array && s.restOf != nil {
		k := 0
		for at := i + 1; at < n.next; at = v.nodes[at].next {
			if !m[k] {
				m[k] = true
				ok = c.at(part{index: k}, s.restOf, v, at) && ok
			}
			k++
		}
	}
	return ok
}
