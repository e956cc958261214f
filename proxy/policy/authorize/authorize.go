// Package authorize is the policy that says what a caller may do: a condition
// over the request, the consumer and the claims of its token. Who is calling is
// the matter of auth, before it. It starts no goroutine.
//
// The condition is checked for its types when it is loaded, and its cost is
// bounded. One that doesn't hold, or that can't be evaluated because it asks for
// a claim that isn't there, say, refuses the request.
package authorize

import (
	"errors"
	"fmt"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
)

// Policy is a condition that requests must meet.
type Policy struct {
	condition *condition.Program
	denied    *exchange.Fault
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
)

// Kind describes the policy to the configuration: an argument, not a block, so
// that it has no Config; New takes the condition's text. Those of a route and of
// its bundles must all hold. compiler may be nil where nothing is made.
func Kind(compiler func() (*condition.Compiler, error)) policy.Kind {
	return policy.Kind{Name: "authorize", Repeat: true, New: func(cfg any) (policy.Policy, error) {
		c, err := compiler()
		if err != nil {
			return nil, err
		}
		return New(c, cfg.(string))
	}}
}

// New makes the policy of a condition.
func New(c *condition.Compiler, text string) (*Policy, error) {
	p, err := c.Compile(text)
	if err != nil {
		return nil, err
	}
	return &Policy{condition: p, denied: &exchange.Fault{
		// Made once: refusing many must not cost.
		Source: exchange.FromPolicy, Kind: exchange.Forbidden, Err: errors.New("authorize: the condition doesn't hold: " + text),
	}}, nil
}

// Request refuses what the condition doesn't hold for.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	err := p.decide(x)
	if err == nil {
		return policy.Next, nil
	}
	if x.Claims != nil { // RFC 6750, 3.1: the token is right, and lets its owner do less
		x.ResponseEdits.AddID(exchange.WWWAuthenticate, "WWW-Authenticate", `Bearer error="insufficient_scope"`)
	}
	return policy.Done, err
}

func (p *Policy) decide(x *exchange.Exchange) error {
	holds, err := p.condition.EvalErr(x)
	switch {
	case err != nil:
		return exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "authorize: the condition can't be evaluated: %w", err)
	case !holds:
		return p.denied
	default:
		return nil
	}
}

// Explain is the condition.
func (p *Policy) Explain() string { return p.condition.String() }

// Test says whether the condition holds.
func (p *Policy) Test(x *exchange.Exchange) string {
	if err := p.decide(x); err != nil {
		return fmt.Sprintf("refuses: %v", err)
	}
	return "admits"
}
