package proxy

import (
	"math/rand/v2"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/tracing"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// Table is all that serving a request needs to know. It is immutable; an
// exchange keeps the one that it started with.
type Table struct {
	Matcher *route.Matcher
	Routes  []*Route       // by the matcher's index
	Own     map[string]Own // by listener: those with routes of their own; Matcher's aren't reached there
	Trust   Trust
	Log     *AccessLog        // nil: no access log
	Tracer  *tracing.Tracer   // nil: requests aren't traced
	HTTPS   map[string]string // by listener: the port of https that its requests are redirected to
}

// Own are the routes of one listener alone.
type Own struct {
	Matcher *route.Matcher
	First   int             // where in Table.Routes its rules begin
	Connect *exchange.Fault // what CONNECT is answered with; nil: as on other listeners
}

// Route is a compiled route. Exactly one of Answer and Shares says who answers.
type Route struct {
	Name   string
	Path   string // the pattern of its paths, where it has but one
	Origin string // where it comes from: a file's place, a KV key, a registration
	Chain  *policy.Chain
	Answer policy.Requester
	Shares []Share
	Strip  string  // prefix cut off the path before it is forwarded
	Mirror *Mirror // nil: none
	Stats  *RouteStats
	Quiet  bool // its requests are neither logged nor counted as usage: the checks of Consul's agent

	Priority exchange.Priority
}

// Share is a service of a route and its part of the requests.
type Share struct {
	Service string
	Pool    *upstream.Pool
	Upto    uint32 // sum of the weights up to and with this one
	Stats   *RouteStats
}

// Match finds the route of x. A preflight belongs to the route of the request
// that it asks leave for, when that route answers preflights; otherwise it is a
// request like any other, which a service may answer.
func (t *Table) Match(x *exchange.Exchange) route.Result {
	if t.Own == nil {
		return t.match(x, t.Matcher, 0)
	}
	m, first := t.Of(x.Conn.Listener)
	return t.match(x, m, first)
}

// Of is the matcher of a listener's requests, and where in Routes its rules begin.
func (t *Table) Of(listener string) (m *route.Matcher, first int) {
	if own, ok := t.Own[listener]; ok {
		return own.Matcher, own.First
	}
	return t.Matcher, 0
}

// match lets m choose, whose rules are the routes from first on.
func (t *Table) match(x *exchange.Exchange, m *route.Matcher, first int) route.Result {
	if x.Method == "OPTIONS" && x.Request.Has(exchange.Origin) {
		if method, ok := x.Request.Find("Access-Control-Request-Method"); ok {
			rule := m.Preflight(x, method, func(rule int) bool { return t.Routes[first+rule].Chain.Preflight(x) })
			if rule >= 0 && t.Routes[first+rule].Chain.Preflights() {
				x.Preflight, x.Params = true, x.Params[:0]
				return route.Result{Rule: first + rule}
			}
		}
	}
	r := m.Match(x)
	if r.Rule >= 0 {
		r.Rule += first
	}
	return r
}

// share chooses a service by weight.
func (r *Route) share() *Share {
	if len(r.Shares) == 1 {
		return &r.Shares[0]
	}
	n := rand.Uint32N(r.Shares[len(r.Shares)-1].Upto)
	for i := range r.Shares {
		if n < r.Shares[i].Upto {
			return &r.Shares[i]
		}
	}
	return &r.Shares[len(r.Shares)-1]
}

// rewrite applies strip_prefix. The match stays on the original path.
func (r *Route) rewrite(x *exchange.Exchange) {
	if r.Strip == "" {
		return
	}
	rest, ok := strings.CutPrefix(x.Target.Path, r.Strip)
	switch {
	case !ok:
	case rest == "":
		x.Out.Path = "/"
	case rest[0] == '/':
		x.Out.Path = rest
	}
}

// ForwardedPath is the path that x would have towards the backend.
func (r *Route) ForwardedPath(x *exchange.Exchange) string {
	r.rewrite(x)
	if x.Out.Path != "" {
		return strings.Clone(x.Out.Path)
	}
	return strings.Clone(x.Target.Path)
}
