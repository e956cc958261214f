// Package personal is the policy that runs the policies of who is calling: those
// that its plan uses, then its own. It stands behind auth on every route that
// has some, and knows no route: what counts in it counts on all of them
// together.
package personal

import (
	"fmt"
	"slices"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Kinds are those that a plan or a consumer may use: they look at requests alone,
// and have nothing to do before it is known who is calling.
func Kinds() []string { return []string{"block", "authorize", "rate_limit", "quota", "request"} }

// Policy runs the policies of consumers. It never changes.
type Policy struct {
	sets map[string][]policy.Named // of requesters, in their order
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
)

// New makes the policy of the named sets that there are.
func New() *Policy { return &Policy{sets: map[string][]policy.Named{}} }

// Add makes a set known, before the first use. It refuses a policy that isn't for
// consumers: one that has to see more than requests, or that asks for a route's
// path parameters.
func (p *Policy) Add(name string, set []policy.Named) error {
	for _, n := range set {
		_, sees := n.Policy.(policy.Requester)
		_, answers := n.Policy.(policy.Responder)
		_, ends := n.Policy.(policy.Finisher)
		if !sees || answers || ends || !slices.Contains(Kinds(), n.Name) {
			return fmt.Errorf("%s can't be a consumer's", n.Name)
		}
	}
	if err := policy.Compile(set).CheckParams(nil); err != nil {
		return err
	}
	p.sets[name] = set
	return nil
}

// Sets are the names of the sets that there are.
func (p *Policy) Sets() []string {
	var names []string
	for name := range p.sets {
		names = append(names, name)
	}
	return names
}

// Request runs the policies of the consumer's plan and its own. A consumer that
// stands in no file may use a set that isn't there: it is refused, since what
// should hold for it can't be told.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	c := x.Consumer
	if c == nil {
		return policy.Next, nil
	}
	if c.Plan != nil {
		for _, name := range c.Plan.Use {
			if verdict, err := p.run(x, name); verdict != policy.Next || err != nil {
				return verdict, err
			}
		}
	}
	for _, name := range c.Use {
		if verdict, err := p.run(x, name); verdict != policy.Next || err != nil {
			return verdict, err
		}
	}
	return policy.Next, nil
}

func (p *Policy) run(x *exchange.Exchange, name string) (policy.Verdict, error) {
	set, ok := p.sets[name]
	if !ok {
		return policy.Done, exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "consumer %q uses the policy %q, which there isn't for consumers", x.Consumer.Name, name)
	}
	for i := range set {
		if verdict, err := set[i].Policy.(policy.Requester).Request(x); verdict != policy.Next || err != nil {
			return verdict, err
		}
	}
	return policy.Next, nil
}

// Explain says what it is.
func (p *Policy) Explain() string { return "what its plan and its own block use" }

// Test says what the policies of who is calling would decide.
func (p *Policy) Test(x *exchange.Exchange) string {
	c := x.Consumer
	if c == nil {
		return "none"
	}
	names := c.Use
	if c.Plan != nil {
		names = append(slices.Clone(c.Plan.Use), c.Use...)
	}
	text := ""
	for _, name := range names {
		if text != "" {
			text += "; "
		}
		set, ok := p.sets[name]
		if !ok {
			return text + fmt.Sprintf("refuses: there is no policy %q for consumers", name)
		}
		for i, said := range policy.Compile(set).Test(x) {
			if i > 0 {
				text += ", "
			}
			text += said
		}
	}
	if text == "" {
		return "none"
	}
	return text
}
