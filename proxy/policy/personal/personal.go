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
	sets  map[string][]policy.Named // of requesters, in their order
	marks []mark                    // the fields that some set tells backends who is calling by
}

// mark is a header field that no client may send for itself: it hasn't got it of
// its plan or its own block, and would seem to.
type mark struct {
	id   exchange.ID
	name string
}

// marker is a policy that tells backends who is calling, by fields that it sets.
type marker interface {
	Marks(all bool) []string
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
// path parameters. own tells that it is meant for consumers: then all that it sets
// says who is calling.
func (p *Policy) Add(name string, set []policy.Named, own bool) error {
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
	for _, n := range set {
		if m, ok := n.Policy.(marker); ok {
			p.mark(m.Marks(own))
		}
	}
	return nil
}

func (p *Policy) mark(names []string) {
	for _, name := range names {
		if !slices.ContainsFunc(p.marks, func(m mark) bool { return exchange.EqualFold(m.name, name) }) {
			p.marks = append(p.marks, mark{exchange.Lookup(name), name})
		}
	}
}

// Sets are the names of the sets that there are.
func (p *Policy) Sets() []string {
	var names []string
	for name := range p.sets {
		names = append(names, name)
	}
	return names
}

// Request runs the policies of the consumer's plan and its own, after it has taken
// out what only they may say of a client. A consumer that stands in no file may
// use a set that isn't there: it is refused, since what should hold for it can't
// be told.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	for _, m := range p.marks {
		if !x.RequestEdits.Replaces(m.name, m.id) { // else auth has set it
			x.RequestEdits.Remove(m.name)
		}
	}
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
