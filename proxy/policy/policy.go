// Package policy is the contract of gateway policies and the chain that runs
// them. Each policy lives in a folder below; which there are, and in what order
// they run, is one list in cmd/sidegate/internal/app/policies.go.
//
// A policy is made once for each place in the configuration that names it, is
// shared by all exchanges, and so holds nothing of one. It starts no goroutine
// and owns nothing that needs closing.
package policy

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// Verdict is what a policy decided about a request.
type Verdict uint8

// The verdicts.
const (
	Next Verdict = iota // go on
	Done                // the policy has answered (Exchange.Reply): nothing is forwarded
)

// Policy is anything that implements one or more of Requester, Responder, Encoder
// and Finisher.
type Policy any

// Requester sees requests before they are forwarded. An error refuses the
// request; a *exchange.Fault says how, any other is an internal error.
type Requester interface {
	Request(x *exchange.Exchange) (Verdict, error)
}

// Responder sees responses, also those that policies or the gateway made, in
// the reverse order, and only when its Request part (if any) ran, unless it is an
// EveryResponder.
type Responder interface {
	Response(x *exchange.Exchange) error
}

// EveryResponder is a Responder that sees every response of its route, also to a
// request that a policy before it has refused: a page can only tell its user why
// when it may read the refusal.
type EveryResponder interface {
	Responder
	EveryResponse() // marks it, and does nothing
}

// Encoder decides how what goes out is coded, when all else about it is settled:
// behind all Response parts, and also for a refusal that came of them. Its Finish
// (if any) sees the end of every exchange of its route. A route has one at most.
type Encoder interface {
	Encode(x *exchange.Exchange)
}

// Coder is an Encoder for a route that keeps answers: it can tell what is coded how, and
// take codings off.
type Coder interface {
	Encoder
	// Coded is the coding of the response of x; "": it has none, or one that can't,
	// or mustn't, be taken off.
	Coded(x *exchange.Exchange) string
	// Decode is src without the coding. Closing it closes src.
	Decode(coding string, src exchange.Body) exchange.Body
}

// Recoded is a policy that wants to know that its route has a Coder.
type Recoded interface {
	Recoded(by Coder) // called before the first request
}

// Finisher sees the end of each exchange that its Request part saw, whatever
// became of it. All counts are final then, and the head and trailers of a
// backend's response are gone: what Finish needs of them, Response keeps.
type Finisher interface {
	Finish(x *exchange.Exchange)
}

// Preflighter answers preflights (Fetch, 4.8). A request whose route has one is
// asked for by an OPTIONS request, which its route takes then, whatever methods
// it has.
type Preflighter interface {
	// Preflight reports whether the request that x asks leave for may be sent.
	Preflight(x *exchange.Exchange) bool
}

// Pather is a policy that answers some paths of its route's hosts by itself,
// whatever paths the route has: requests for them run the route's chain, and what
// it lets through is answered with 404. The map says whose each path is: two routes
// of one host share a path if it is the same one's.
type Pather interface {
	Paths() map[string]string // nil: none
}

// Splitter is a policy of which a part has to know who is calling, and so runs
// right behind auth.
type Splitter interface {
	AfterAuth() Policy // nil: no part does
}

// Stripped is a policy that goes by the path that the service sees.
type Stripped interface {
	// Strip is called before the first request, with the route's strip_prefix
	// without a slash at its end; "": it has none.
	Strip(prefix string)
}

// Guarded is a policy that wants to know whether its route asks who is calling.
type Guarded interface {
	Guarded() // called before the first request, if the route has auth
}

// Refresher is a policy that fetches answers without a client.
type Refresher interface {
	// Refresh is called before the first request. by sends a copy of x's request,
	// as it is after the policies before this one, through those behind it to the
	// service, in a goroutine of its own; what comes is given to those policies'
	// and to this one's Response and Finish, and its body is read to the end.
	// prepare is given the copy before. by returns false when too many are on
	// their way.
	Refresh(by func(x *exchange.Exchange, prepare func(c *exchange.Exchange)) bool)
}

// Explainer says in a few words what the policy would do, for sidegate explain.
type Explainer interface {
	Explain() string
}

// Tester says what the policy would decide about x, for sidegate explain. It
// spends nothing and leaves no trace but in x, which nobody forwards.
type Tester interface {
	Test(x *exchange.Exchange) string
}

// Kind describes a policy to the configuration.
type Kind struct {
	Name   string                        // the block's type
	Label  string                        // the block's label, where kinds share a type: auth "api_key"; "": none, or Config has it
	Repeat bool                          // several blocks on one route are allowed
	Config func() any                    // a pointer to a new Config, to decode into; nil: an argument of routes and bundles, not a block
	New    func(cfg any) (Policy, error) // from what Config returned, decoded
	// Join makes one policy of all that New made of a route's blocks of this
	// type, in their order; nil: each is one by itself. What New returns need
	// not run then.
	Join func(route string, list []Policy) (Policy, error)
}
