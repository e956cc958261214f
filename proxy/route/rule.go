package route

import (
	"fmt"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Condition is a compiled when.
type Condition interface {
	Eval(x *exchange.Exchange) bool
}

// Rule says which requests one route takes. Each of hosts, paths and methods
// may be empty: all of them.
type Rule struct {
	Name           string
	Hosts          []string
	Paths          []string
	Methods        []string
	Headers, Query map[string]string
	When           Condition // nil: none
	WhenText       string    // its text, to compare and to show
}

// Error is what is wrong with one rule.
type Error struct {
	Index    int    // of the rule
	Name     string // its name
	Argument string // "hosts", "paths", …: where it stands
	Other    int    // the rule that takes the same requests; -1: it isn't a conflict
	Err      error
}

func (e *Error) Error() string { return fmt.Sprintf("route %q: %v", e.Name, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Miss is why no route takes a request.
type Miss uint8

// The reasons.
const (
	Hit              Miss = iota // one does
	NoHost                       // no route is for that host: 404
	NoPath                       // none of the host's is for that path: 404
	NoCondition                  // there are some, but their headers, query or when don't hold: 404
	MethodNotAllowed             // there are some, for other methods: 405
	TwoRoutes                    // without the path's parameters (;) another one or none does: 400
)

// String is the reason in a few words.
func (m Miss) String() string {
	switch m {
	case Hit:
		return "a route takes it"
	case NoHost:
		return "no route is for this host"
	case NoPath:
		return "no route is for this path"
	case NoCondition:
		return "the conditions of the routes for this path don't hold"
	case MethodNotAllowed:
		return "no route for this path takes this method"
	case TwoRoutes:
		return "the path is another route's for a service that takes no parameters (;) for the path"
	default:
		return "unknown"
	}
}

// Result is the outcome of a match.
type Result struct {
	Rule  int // index of the rule; -1: none
	Miss  Miss
	Allow string // with MethodNotAllowed, the Allow field's value; it lives as long as the exchange
}
