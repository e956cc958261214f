package openapi

import (
	"strings"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/schema"
)

// pair is a name and a value of a query or form: the value with its escapes,
// since what separates the items of a list isn't escaped.
type pair struct{ name, value string }

// maxPairs bounds those of a query or a form.
const maxPairs = 10_000

// splitQuery splits a query into c.query.
func (c *Check) splitQuery(query string) {
	c.query = c.query[:0]
	for query != "" {
		if len(c.query) == maxPairs {
			c.Add("query", "has too many parameters")
			return
		}
		var one string
		one, query, _ = strings.Cut(query, "&")
		if one == "" {
			continue
		}
		name, value, _ := strings.Cut(one, "=")
		name, _ = c.plain(name, true)
		c.query = append(c.query, pair{name, value})
	}
}

// plain decodes a text's escapes: those of a form, where "+" is a space, or
// those of a URI alone. It isn't ok when an escape is broken or the outcome is no
// text.
func (c *Check) plain(s string, plus bool) (out string, ok bool) {
	if strings.IndexByte(s, '%') < 0 && (!plus || strings.IndexByte(s, '+') < 0) {
		return s, utf8.ValidString(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+' && plus:
			b = append(b, ' ')
		case s[i] != '%':
			b = append(b, s[i])
		case i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0:
			return s, false
		default:
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		}
	}
	return string(b), utf8.Valid(b)
}

// check checks one parameter of x.
func (p *parameter) check(c *Check, item *Item, x *exchange.Exchange) {
	v := &c.value
	v.Reset()
	switch {
	case p.in == inQuery && p.style == deep:
		p.object(c, func(put func(name, value string)) { p.brackets(c, put) })
		return
	case p.in == inQuery && p.shape.Object && p.explode:
		p.object(c, func(put func(name, value string)) {
			for _, q := range c.query {
				if p.members[q.name] != nil {
					put(q.name, q.value)
				}
			}
		})
		return
	}
	p.collect(c, x)
	switch n := len(c.raw); {
	case n == 0 && p.required:
		c.Add(p.where, "is required")
	case n == 0, n == 1 && p.empty && c.raw[0] == "":
	case p.style == asContent:
		p.json(c)
	case p.shape.Array && (!p.shape.Single || n > 1):
		p.list(c)
	case p.shape.Object:
		p.pairs(c)
	default:
		p.single(c)
	}
}

// collect gathers the parameter's values as they came in c.raw.
func (p *parameter) collect(c *Check, x *exchange.Exchange) {
	c.raw = c.raw[:0]
	switch p.in {
	case inPath:
		c.raw = append(c.raw, c.values[p.variable])
	case inQuery:
		for i := range c.query {
			if c.query[i].name == p.name {
				c.raw = append(c.raw, c.query[i].value)
			}
		}
	case inHeader:
		for i := range x.Request.Len() {
			if name, value := x.Request.Field(i); exchange.EqualFold(name, p.name) {
				c.raw = append(c.raw, value)
			}
		}
	case inCookie:
		for i := range x.Request.Len() {
			if x.Request.ID(i) != exchange.Cookie {
				continue
			}
			_, list := x.Request.Field(i)
			for list != "" {
				var one string
				one, list, _ = strings.Cut(list, ";")
				if name, value, ok := strings.Cut(strings.Trim(one, " \t"), "="); ok && name == p.name {
					c.raw = append(c.raw, value)
				}
			}
		}
	}
}

// decode takes the escapes off a value, in the way of the parameter's place.
func (p *parameter) decode(c *Check, s string) (string, bool) {
	switch p.in {
	case inQuery:
		return c.plain(s, true)
	case inCookie:
		return c.plain(s, false)
	default: // a path's are off; a header has none
		return s, utf8.ValidString(s)
	}
}

const notText = "isn't text: its escapes or its UTF-8 are broken"

// text adds a value to c.value.
func (p *parameter) text(c *Check, s string) bool {
	plain, ok := p.decode(c, s)
	if !ok {
		c.Add(p.where, notText)
		return false
	}
	c.value.Text(plain)
	return true
}

func (p *parameter) single(c *Check) {
	if len(c.raw) > 1 { // which one counts, the service alone would know
		c.Add(p.where, "stands there more than once")
		return
	}
	if !p.text(c, c.raw[0]) {
		return
	}
	if !p.shape.Array {
		c.Check(p.schema, &c.value, p.where)
		return
	}
	if c.Accepts(p.schema, &c.value) { // one value may be a list of one, too
		return
	}
	c.value.Reset()
	p.list(c)
}

func (p *parameter) json(c *Check) {
	if len(c.raw) > 1 {
		c.Add(p.where, "stands there more than once")
		return
	}
	plain, ok := p.decode(c, c.raw[0])
	if !ok {
		c.Add(p.where, notText)
		return
	}
	if err := c.value.Parse(plain); err != nil {
		c.Add(p.where, err.Error())
		return
	}
	c.Check(p.schema, &c.value, p.where)
}

// list makes an array.
func (p *parameter) list(c *Check) {
	if !p.explode && p.in != inHeader && len(c.raw) > 1 {
		c.Add(p.where, "stands there more than once")
		return
	}
	at, n := c.value.Begin(schema.Array), 0
	for _, raw := range c.raw {
		if p.explode && p.in != inPath && p.in != inHeader {
			if !p.text(c, raw) {
				return
			}
			n++
			continue
		}
		for rest, more := raw, true; more; n++ {
			var one string
			one, rest, more = p.cut(rest)
			if !p.text(c, one) {
				return
			}
		}
	}
	c.value.End(at, n)
	c.Check(p.schema, &c.value, p.where)
}

// cut takes the first item off a list.
func (p *parameter) cut(s string) (item, rest string, more bool) {
	switch p.style {
	case spaced:
		for i := range len(s) {
			if s[i] == '+' || s[i] == ' ' {
				return s[:i], s[i+1:], true
			}
			if strings.HasPrefix(s[i:], "%20") {
				return s[:i], s[i+3:], true
			}
		}
	case piped:
		for i := range len(s) {
			if s[i] == '|' {
				return s[:i], s[i+1:], true
			}
			if strings.HasPrefix(s[i:], "%7C") || strings.HasPrefix(s[i:], "%7c") {
				return s[:i], s[i+3:], true
			}
		}
	default:
		item, rest, more = strings.Cut(s, ",")
		if p.in == inHeader {
			item = strings.Trim(item, " \t")
		}
		return item, rest, more
	}
	return s, "", false
}

// pairs makes an object of "a,1,b,2" or, exploded, "a=1,b=2".
func (p *parameter) pairs(c *Check) {
	if len(c.raw) > 1 && p.in != inHeader {
		c.Add(p.where, "stands there more than once")
		return
	}
	p.object(c, func(put func(name, value string)) {
		for _, raw := range c.raw {
			for rest, more := raw, true; more; {
				var name, value string
				name, rest, more = p.cut(rest)
				ok := more
				if p.explode {
					name, value, ok = strings.Cut(name, "=")
				} else if more {
					value, rest, more = p.cut(rest)
				}
				if !ok {
					c.Add(p.where, "isn't a list of names and values")
					return
				}
				if name, ok = p.decode(c, name); !ok {
					c.Add(p.where, notText)
					return
				}
				put(name, value)
			}
		}
	})
}

// brackets finds the members of an object in the style deepObject.
func (p *parameter) brackets(c *Check, put func(name, value string)) {
	for _, q := range c.query {
		rest, ok := strings.CutPrefix(q.name, p.name)
		if !ok || !strings.HasPrefix(rest, "[") {
			continue
		}
		name, ok := strings.CutSuffix(rest[1:], "]")
		if !ok || strings.ContainsAny(name, "[]") {
			c.Add(p.where, "isn't of the form "+clip(p.name)+"[name]=value")
			return
		}
		put(name, q.value)
	}
}

// object makes an object of the members that each puts, and checks it. A member
// that is an array may come again and again.
func (p *parameter) object(c *Check, each func(put func(name, value string))) {
	before := len(c.Found)
	var list []pair
	each(func(name, value string) { list = append(list, pair{name, value}) })
	if len(c.Found) > before {
		return
	}
	if len(list) == 0 {
		if p.required {
			c.Add(p.where, "is required")
		}
		return
	}
	if c.group(p.where, list, p.arrays, func(i int) bool { return p.text(c, list[i].value) }) {
		c.Check(p.schema, &c.value, p.where)
	}
}

// group makes c.value an object of pairs. Names that come twice become one
// member, if it is an array, in whose place one value is an array, too.
func (c *Check) group(where string, list []pair, arrays map[string]bool, add func(i int) bool) bool {
	v := &c.value
	at, n := v.Begin(schema.Object), 0
	first := make(map[string]int, len(list))
	for i := range list {
		if _, twice := first[list[i].name]; !twice {
			first[list[i].name] = i
		} else if !arrays[list[i].name] {
			c.Add(where+"/"+clip(list[i].name), "stands there more than once")
			return false
		}
	}
	for i := range list {
		name := list[i].name
		if first[name] != i {
			continue
		}
		n++
		v.Name(name)
		if !arrays[name] {
			if !add(i) {
				return false
			}
			continue
		}
		inner, count := v.Begin(schema.Array), 0
		for j := i; j < len(list); j++ {
			if list[j].name != name {
				continue
			}
			if !add(j) {
				return false
			}
			count++
		}
		v.End(inner, count)
	}
	v.End(at, n)
	return true
}
