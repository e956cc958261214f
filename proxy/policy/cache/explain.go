package cache

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// Explain says what is stored, and for how long.
func (p *Policy) Explain() string {
	var list []string
	add := func(d time.Duration, text string) {
		if d > 0 {
			list = append(list, fmt.Sprintf("%s %s", d, text))
		}
	}
	add(p.OverrideTTL, "whatever answers say")
	add(p.DefaultTTL, "if they don't say")
	add(p.NegativeTTL, "for errors")
	add(p.StaleWhileRevalidate, "stale while a new one is fetched")
	add(p.StaleIfError, "stale instead of an error")
	text := fmt.Sprintf("answers of up to %d bytes, as they say", p.MaxObject)
	if len(list) > 0 {
		text += "; " + strings.Join(list, ", ")
	}
	switch {
	case p.Public:
		text += "; the same for everyone"
	case p.guarded:
		text += "; for each caller apart, unless they say public"
	}
	return text
}

// Test says what would become of x, and why.
func (p *Policy) Test(x *exchange.Exchange) string {
	l, _ := p.look(x)
	if l == nil {
		text := "sends it on, and stores nothing: " + p.passes(x)
		if !rules.Understands(x.Method) {
			text += "; if it succeeds, what is stored of its URI is forgotten"
		}
		return text
	}
	e := l.find()
	if e == nil {
		return "sends it on, since nothing is stored for it; " + l.stores()
	}
	defer e.release()
	age := e.age(l.now).Truncate(time.Second)
	switch rules.Decide(&e.Shelf, e.age(l.now), &l.control) {
	case rules.Fresh:
		return fmt.Sprintf("answers from %s: %d, %d bytes, %s old, fresh for %s", e.where(), e.status, e.length, age, (e.Lifetime - age).Truncate(time.Second))
	case rules.Validate:
		return fmt.Sprintf("asks the service whether the answer in %s, %s old, still holds; %s", e.where(), age, l.stores())
	default:
		return fmt.Sprintf("answers from %s, stale: %d, %d bytes, %s old", e.where(), e.status, e.length, age)
	}
}

// passes says why a request has nothing to do with the cache. The order is that of
// look.
func (p *Policy) passes(x *exchange.Exchange) string {
	h := &x.Request
	_, unmodified := h.Find("If-Unmodified-Since")
	switch {
	case !rules.Understands(x.Method):
		return x.Method + " is neither GET nor HEAD"
	case x.Upgrade != "":
		return "it asks for an upgrade"
	case x.RequestLength != 0 || x.RequestBody != nil:
		return "it has a body, which is in no key"
	case h.Has(exchange.IfMatch) || unmodified:
		return "of its condition (If-Match, If-Unmodified-Since) only the service can tell"
	}
	if p.when != nil {
		if ok, err := p.when.EvalErr(x); err != nil {
			return "when can't be evaluated: " + err.Error()
		} else if !ok {
			return "when doesn't hold"
		}
	}
	if p.bypass != nil {
		if skip, err := p.bypass.EvalErr(x); err != nil {
			return "bypass can't be evaluated: " + err.Error()
		} else if skip {
			return "bypass holds"
		}
	}
	if p.ClientControl {
		if c := rules.RequestControl(h); c.Has(rules.NoStore) {
			return "it says no-store"
		}
	}
	return "the route has auth, and it isn't known who is calling"
}

// stores says under what conditions the answer would be stored, and what found by.
func (l *look) stores() string {
	p := l.p
	if l.x.Method == "HEAD" {
		return "answers to HEAD aren't stored"
	}
	var b strings.Builder
	b.WriteString("the answer is stored if it says for how long (Sidegate-Cache-Control, CDN-Cache-Control, Cache-Control, Expires)")
	switch {
	case p.OverrideTTL > 0:
		b.WriteString(", by override_ttl whatever it says,")
	case p.DefaultTTL > 0:
		b.WriteString(", or by default_ttl")
		if l.cookies && !p.Public {
			b.WriteString(" (not this one: the request has cookies)")
		}
	case p.Heuristics:
		b.WriteString(", or has Last-Modified")
	}
	fmt.Fprintf(&b, " and not no-store, private, Set-Cookie or Vary: *, and has %d bytes at most", p.MaxObject)
	if l.authorized && !p.Public {
		b.WriteString("; the request has Authorization, so it has to say public, s-maxage or must-revalidate")
	}
	var v Stored
	v.readBase(l.own)
	fmt.Fprintf(&b, "; it is found by %s", plainURI(l.uri))
	key := fieldsOf(fieldsOfKey(l.uri))
	for _, name := range slices.Sorted(maps.Keys(key)) {
		fmt.Fprintf(&b, ", %s: %s", name, key[name])
	}
	fmt.Fprintf(&b, " and its Vary, for %s", v.Whom())
	if l.own != l.public {
		b.WriteString(", or for everyone if it says public")
	}
	if r := p.store.reason(plainURI(l.uri)); r != nil {
		fmt.Fprintf(&b, "; the last one that wasn't stored, %s ago: %d, %s", l.now.Sub(r.at).Truncate(time.Second), r.status, r.why)
	}
	return b.String()
}

func (e *entry) where() string {
	if e.file != nil {
		return "disk"
	}
	return "memory"
}
