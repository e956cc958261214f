package rate

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// The fields of draft-ietf-httpapi-ratelimit-headers: RateLimit-Policy says what
// holds, RateLimit what is left of it. Both are lists of the limits' names, with
// parameters (RFC 9651), and a list may be split over several fields (3.1). They
// replace what a service says under these names: it knows nothing of the
// gateway's limits.
const (
	policyName = "RateLimit-Policy"
	limitName  = "RateLimit"
)

// Tell puts limits into the answer to x, whoever makes it, beside those that
// other policies have told of.
func Tell(x *exchange.Exchange, policies, left string) {
	e := &x.ResponseEdits
	for i := range e.Len() {
		if name, _, ok := e.Field(i); ok && e.ID(i) == exchange.Other && name == policyName {
			e.AddID(exchange.Other, policyName, policies)
			e.AddID(exchange.Other, limitName, left)
			return
		}
	}
	e.SetID(exchange.Other, policyName, policies)
	e.SetID(exchange.Other, limitName, left)
}
