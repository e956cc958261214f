package route

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// methodBit is a known method as a bit; 0: it isn't known.
func methodBit(m string) uint16 {
	switch m {
	case "GET":
		return 1
	case "HEAD":
		return 1 << 1
	case "POST":
		return 1 << 2
	case "PUT":
		return 1 << 3
	case "PATCH":
		return 1 << 4
	case "DELETE":
		return 1 << 5
	case "OPTIONS":
		return 1 << 6
	case "CONNECT":
		return 1 << 7
	case "TRACE":
		return 1 << 8
	case "QUERY":
		return 1 << 9
	default:
		return 0
	}
}

// knownMethods are the methods by the place of their bit.
var knownMethods = [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"}

// conditions are what a rule asks for beyond host and path.
type conditions struct {
	bits    uint16   // methods; 0 and no others: every method
	others  []string // methods that have no bit
	headers []value
	query   []value
	when    Condition
	count   int
	when0   string // text of when, for Explain
}

func (c *conditions) anyMethod() bool { return c.bits == 0 && len(c.others) == 0 }

// plain reports whether bits say all.
func (c *conditions) plain() bool {
	return len(c.others) == 0 && len(c.headers) == 0 && len(c.query) == 0 && c.when == nil
}

func (c *conditions) takesMethod(method string, bit uint16) bool {
	if bit != 0 {
		return c.bits&bit != 0 || c.anyMethod()
	}
	return c.anyMethod() || slices.Contains(c.others, method)
}

// hold reports whether all but the method holds. The dearest comes last.
func (c *conditions) hold(x *exchange.Exchange) bool {
	for i := range c.headers {
		if !c.headers[i].inHead(&x.Request) {
			return false
		}
	}
	for i := range c.query {
		if !c.query[i].inQuery(x.Target.Query) {
			return false
		}
	}
	return c.when == nil || c.when.Eval(x)
}

// compileConditions reports what is wrong through fail(argument, error).
func compileConditions(r *Rule, fail func(string, error)) conditions {
	c := conditions{when: r.When, when0: r.WhenText, count: len(r.Headers) + len(r.Query)}
	for i, m := range r.Methods {
		switch bit := methodBit(m); {
		case slices.Contains(r.Methods[:i], m):
			fail("methods", fmt.Errorf("method %q is given twice", m))
		case bit != 0:
			c.bits |= bit
		case methodBit(strings.ToUpper(m)) != 0:
			fail("methods", fmt.Errorf("method %q: case matters, write %q", m, strings.ToUpper(m)))
		case !token(m):
			fail("methods", fmt.Errorf("%q isn't a method", m))
		default:
			c.others = append(c.others, m)
		}
	}
	if c.bits&methodBit("GET") != 0 {
		c.bits |= methodBit("HEAD")
	}
	if len(r.Methods) > 0 {
		c.count++
	}
	if r.When != nil {
		c.count++
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		v, err := compileValue(name, r.Headers[name])
		if err == nil {
			err = checkFieldName(name)
		}
		if err != nil {
			fail("headers", fmt.Errorf("header %q: %w", name, err))
		}
		v.id = exchange.Lookup(name)
		c.headers = append(c.headers, v)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Query)) {
		v, err := compileValue(name, r.Query[name])
		if err != nil {
			fail("query", fmt.Errorf("query parameter %q: %w", name, err))
		}
		c.query = append(c.query, v)
	}
	return c
}

// key is the same for rules whose conditions are equal.
func (c *conditions) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%x %q %q", c.bits, slices.Sorted(slices.Values(c.others)), c.when0)
	for _, list := range [][]value{c.headers, c.query} {
		lines := make([]string, len(list))
		for i, v := range list {
			name := v.name
			if i < len(c.headers) && &list[i] == &c.headers[i] {
				name = strings.ToLower(name)
			}
			lines[i] = fmt.Sprintf("%q %d %q", name, v.kind, v.text)
		}
		slices.Sort(lines)
		fmt.Fprintf(&b, " %q", lines)
	}
	return b.String()
}

// describe is the conditions of r in the words of the configuration.
func (r *Rule) describe() string {
	var parts []string
	if len(r.Methods) > 0 {
		parts = append(parts, "methods "+strings.Join(r.Methods, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		parts = append(parts, fmt.Sprintf("header %s = %q", name, r.Headers[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Query)) {
		parts = append(parts, fmt.Sprintf("query %s = %q", name, r.Query[name]))
	}
	if r.WhenText != "" {
		parts = append(parts, "when "+r.WhenText)
	}
	return strings.Join(parts, "; ")
}
