package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Named is a policy and what it is called in the configuration: its block's
// type, with the label where it has one.
type Named struct {
	Name   string
	Policy Policy
}

// ParamReader says which path parameters the policy reads, so that loading can
// refuse one that the route hasn't.
type ParamReader interface {
	Params() []string
}

// Chain runs the policies of one route. Each phase is a list of its own, so a
// policy costs nothing in a phase that it hasn't.
type Chain struct {
	all        []Named
	requesters []requester
	responders []responder // last policy first
	finishers  []finisher  // last policy first
	preflight  Preflighter // nil: none
	encoder    Encoder     // nil: none
}

// The entries carry the policy's place in all, as far as its request part is
// concerned: a responder or finisher whose policy has none, and a responder that
// says so, sees every exchange, and its place is -1.
type (
	requester struct {
		Requester
		place int
	}
	responder struct {
		Responder
		place, index int
	}
	finisher struct {
		Finisher
		place int
	}
)

// Compile makes the chain of the policies in the order in which they run.
func Compile(list []Named) *Chain {
	c := &Chain{all: slices.Clone(list)}
	for i, n := range c.all {
		place := -1
		if p, ok := n.Policy.(Requester); ok {
			place = i
			c.requesters = append(c.requesters, requester{p, i})
		}
		if p, ok := n.Policy.(Responder); ok {
			from := place
			if _, every := p.(EveryResponder); every {
				from = -1
			}
			c.responders = append(c.responders, responder{p, from, i})
		}
		if p, ok := n.Policy.(Encoder); ok {
			c.encoder, place = p, -1 // its Finish, too, is for every exchange
		}
		if p, ok := n.Policy.(Finisher); ok {
			c.finishers = append(c.finishers, finisher{p, place})
		}
		if p, ok := n.Policy.(Preflighter); ok {
			c.preflight = p
		}
	}
	slices.Reverse(c.responders)
	slices.Reverse(c.finishers)
	return c
}

// Paths are those that policies answer by themselves: see Pather.
func (c *Chain) Paths() map[string]string {
	for _, n := range c.all {
		if p, ok := n.Policy.(Pather); ok {
			if paths := p.Paths(); paths != nil {
				return paths
			}
		}
	}
	return nil
}

// Policies are those of the chain, in the order in which they run.
func (c *Chain) Policies() []Named { return slices.Clone(c.all) }

// Preflights reports whether some policy answers preflights.
func (c *Chain) Preflights() bool { return c.preflight != nil }

// Preflight reports whether the request that the preflight x asks leave for may
// be sent: never, where no policy says so.
func (c *Chain) Preflight(x *exchange.Exchange) bool {
	return c.preflight != nil && c.preflight.Preflight(x)
}

// Request lets the policies see the request, in order, until one answers or
// refuses it. It returns how many saw it, the one that ended it included, which
// Response and Finish want to know. While it runs, the same number stands in
// x.Seen, for whoever recovers from a policy's panic.
func (c *Chain) Request(x *exchange.Exchange) (Verdict, int, error) {
	if x.Trace.Spans != nil {
		return c.tracedRequest(x)
	}
	for i := range c.requesters {
		r := &c.requesters[i]
		x.Seen = r.place + 1
		verdict, err := r.Request(x)
		if err != nil {
			return Done, x.Seen, c.named(r.place, err)
		}
		if verdict != Next {
			return verdict, x.Seen, nil
		}
	}
	x.Seen = len(c.all)
	return Next, x.Seen, nil
}

// Response lets the policies see the response, in the reverse order: those
// that saw the request, those that have no request part, and those that see every
// response. After an error of
// one the others still run; the errors are joined.
func (c *Chain) Response(x *exchange.Exchange, seen int) error {
	var errs error
	for i := range c.responders {
		r := &c.responders[i]
		if r.place >= seen {
			continue
		}
		if err := c.respond(x, r); err != nil && errs == nil {
			errs = c.named(r.index, err) // alone, a fault stays one
		} else if err != nil {
			errs = errors.Join(errs, c.named(r.index, err))
		}
	}
	return errs
}

// Encode has the response coded as it goes out, and is the last to change it.
func (c *Chain) Encode(x *exchange.Exchange) {
	if c.encoder != nil {
		c.encoder.Encode(x)
	}
}

// named says whose error it is. A fault stays what it is: its kind tells, and
// refusing many must not cost.
func (c *Chain) named(i int, err error) error {
	if f, ok := err.(*exchange.Fault); ok { //nolint:errorlint // a wrapped fault isn't one
		return f
	}
	return fmt.Errorf("policy %s: %w", c.all[i].Name, err)
}

// Finish tells the policies that saw the request that its exchange is over, in
// the reverse order.
func (c *Chain) Finish(x *exchange.Exchange, seen int) {
	for i := range c.finishers {
		if f := &c.finishers[i]; f.place < seen {
			f.Finish(x)
		}
	}
}

// Explain says what each policy would do, in the order in which they run.
func (c *Chain) Explain() []string {
	list := make([]string, len(c.all))
	for i, n := range c.all {
		list[i] = n.Name
		if e, ok := n.Policy.(Explainer); ok {
			list[i] += ": " + e.Explain()
		}
	}
	return list
}

// Test says what each policy would do and, where it can tell, what it would
// decide about x, which isn't to be forwarded.
func (c *Chain) Test(x *exchange.Exchange) []string {
	list := c.Explain()
	for i, n := range c.all {
		if t, ok := n.Policy.(Tester); ok {
			list[i] += " => " + t.Test(x)
		}
	}
	return list
}

// CheckParams refuses path parameters that a policy reads and no path of the
// route has.
func (c *Chain) CheckParams(have []string) error {
	var errs error
	for _, n := range c.all {
		p, ok := n.Policy.(ParamReader)
		if !ok {
			continue
		}
		for _, name := range p.Params() {
			if !slices.Contains(have, name) {
				errs = errors.Join(errs, fmt.Errorf("policy %s: {%s} is neither a known placeholder nor a parameter of the route's paths", n.Name, name))
			}
		}
	}
	return errs
}
