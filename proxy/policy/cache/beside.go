package cache

import (
	"slices"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// Invalidator has requests that change something forget answers that other routes of
// their host have stored: the standard goes by URIs (RFC 9111, 4.4), and often a
// route of its own takes what isn't GET.
type Invalidator struct{ of []*Policy }

var (
	_ policy.Responder = (*Invalidator)(nil)
	_ policy.Explainer = (*Invalidator)(nil)
)

// NewInvalidator makes a policy for a route beside those of these caches; own is that
// of the route itself, which needs none, or nil. It returns nil where there is nothing
// to do.
func NewInvalidator(of []*Policy, own *Policy) *Invalidator {
	var v Invalidator
	for _, p := range of { // URIs are made of key alone
		same := func(o *Policy) bool { return o.parts.equal(&p.parts) }
		if !slices.ContainsFunc(v.of, same) && (own == nil || !same(own)) {
			v.of = append(v.of, p)
		}
	}
	if len(v.of) == 0 {
		return nil
	}
	return &v
}

func (p *parts) equal(o *parts) bool {
	return p.host == o.host && p.path == o.path && p.query == o.query && slices.Equal(p.headers, o.headers)
}

// Response forgets what doesn't hold any more.
func (v *Invalidator) Response(x *exchange.Exchange) error {
	if rules.Understands(x.Method) {
		return nil
	}
	for _, p := range v.of {
		p.invalidate(x)
	}
	return nil
}

// Explain says so.
func (v *Invalidator) Explain() string {
	return "requests that change something make caches of other routes forget their URI"
}
