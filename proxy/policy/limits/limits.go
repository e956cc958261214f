// Package limits is the policy that bounds what one request may be, and how
// many may be in flight at once: of a route, an address, a consumer. How often
// somebody may ask is rate_limit's matter; what any client of a listener may
// send, the listener's. It starts no goroutine.
//
//	limits.go  the block, and the checks of a request
//	body.go    counting a body that doesn't say its length
//	store.go   who has how much in flight
package limits

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Config is a limits block of a route.
type Config struct {
	// Largest request body; one that doesn't say its length is counted while it passes.
	Body int64 `hcl:"body,attr" unit:"bytes" min:"1B"`
	// Largest request head: request line and all fields. The listener's own bound holds as well.
	Headers int64 `hcl:"headers,attr" unit:"bytes" min:"256B"`
	// Longest request target. The listener's own bound holds as well.
	URI int64 `hcl:"uri,attr" unit:"bytes" min:"1B"`
	// Connections of one address (IPv6: a /64) with requests for the route in flight.
	ConnectionsPerIP int `hcl:"connections_per_ip,attr" min:"1"`
	// Requests for the route in flight.
	Requests int `hcl:"requests,attr" min:"1"`
	// Requests of one address (IPv6: a /64) for the route in flight.
	RequestsPerIP int `hcl:"requests_per_ip,attr" min:"1"`
	// Requests of one consumer for the route in flight; who is none is counted by address.
	RequestsPerConsumer int `hcl:"requests_per_consumer,attr" min:"1"`
}

// Policy is the part that runs before anybody knows who is calling.
type Policy struct {
	Config
	flight *flight // nil: it counts nothing in flight

	body, head, uri, connections, requests, address *exchange.Fault
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Finisher  = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
	_ policy.Splitter  = (*Policy)(nil)
)

// Kind describes the policy to the configuration. What is in flight is counted
// in s.
func Kind(s *Store) policy.Kind {
	return policy.Kind{
		Name:   "limits",
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
		Join: func(route string, list []policy.Policy) (policy.Policy, error) {
			p := *list[len(list)-1].(*Policy) // the last block's, as with all that don't repeat
			p.flight = s.of(route)
			return &p, nil
		},
	}
}

// New checks a block. What counts in flight is the policy that Join makes.
func New(c Config) (*Policy, error) {
	if c == (Config{}) {
		return nil, errors.New("it limits nothing: give it body, headers, uri, connections_per_ip, requests, requests_per_ip or requests_per_consumer")
	}
	fault := func(s exchange.Source, k exchange.Kind, format string, args ...any) *exchange.Fault {
		return exchange.NewFault(s, k, format, args...) // made once: refusing many must not cost
	}
	return &Policy{
		Config: c,
		body:   fault(exchange.FromClient, exchange.BodyTooLarge, "limits: a body of more than %d bytes", c.Body),
		head:   fault(exchange.FromClient, exchange.HeadersTooLarge, "limits: a head of more than %d bytes", c.Headers),
		uri:    fault(exchange.FromClient, exchange.URITooLong, "limits: a target of more than %d bytes", c.URI),

		connections: fault(exchange.FromPolicy, exchange.RateLimited, "limits: more than %d connections of one address at once", c.ConnectionsPerIP),
		requests:    fault(exchange.FromPolicy, exchange.Overloaded, "limits: more than %d requests for the route at once", c.Requests),
		address:     fault(exchange.FromPolicy, exchange.RateLimited, "limits: more than %d requests of one address at once", c.RequestsPerIP),
	}, nil
}

// What of the limits an exchange holds: bits of Exchange.Held.
const (
	holdsConnection uint8 = 1 << iota
	holdsAddress
	holdsRequest
	holdsConsumer
)

// Request refuses what is too large, and takes a place in what is bounded.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if f := p.tooLarge(x); f != nil {
		return policy.Done, f
	}
	if f := p.take(x); f != nil {
		if f.Kind == exchange.RateLimited {
			x.ResponseEdits.SetID(exchange.RetryAfter, "Retry-After", "1")
		}
		return policy.Done, f
	}
	if p.Body > 0 && x.RequestLength < 0 && x.RequestBody != nil { // a tunnel isn't a body: it is 0 there
		x.RequestBody = &bounded{Body: x.RequestBody, left: p.Body, fault: p.body}
	}
	return policy.Next, nil
}

func (p *Policy) tooLarge(x *exchange.Exchange) *exchange.Fault {
	switch {
	case p.URI > 0 && int64(len(x.RawTarget)) > p.URI:
		return p.uri
	case p.Headers > 0 && size(x) > p.Headers:
		return p.head
	case p.Body > 0 && x.RequestLength > p.Body:
		return p.body
	}
	return nil
}

// size is that of the head as HTTP/1.1 would write it, whatever the protocol.
func size(x *exchange.Exchange) int64 {
	n := len(x.Method) + len(x.RawTarget) + len("  HTTP/1.1\r\n\r\n")
	for i := range x.Request.Len() {
		name, value := x.Request.Field(i)
		n += len(name) + len(value) + len(": \r\n")
	}
	return int64(n)
}

// take takes a place of each kind, those of the client first, so that one that
// has too many doesn't cost the others. Finish gives back what was taken, after
// a refusal, too.
func (p *Policy) take(x *exchange.Exchange) *exchange.Fault {
	if p.ConnectionsPerIP > 0 {
		if !p.flight.connections.enter(connection{clientOf(x), x.Conn}, p.ConnectionsPerIP) {
			return p.connections
		}
		x.Held |= holdsConnection
	}
	if p.RequestsPerIP > 0 {
		if !p.flight.addresses.enter(clientOf(x), p.RequestsPerIP) {
			return p.address
		}
		x.Held |= holdsAddress
	}
	if p.Requests > 0 {
		if p.flight.requests.Add(1) > int64(p.Requests) {
			p.flight.requests.Add(-1)
			return p.requests
		}
		x.Held |= holdsRequest
	}
	return nil
}

// Finish gives the places back.
func (p *Policy) Finish(x *exchange.Exchange) {
	if x.Held&holdsConnection != 0 {
		p.flight.connections.leave(connection{clientOf(x), x.Conn})
	}
	if x.Held&holdsAddress != 0 {
		p.flight.addresses.leave(clientOf(x))
	}
	if x.Held&holdsRequest != 0 {
		p.flight.requests.Add(-1)
	}
	x.Held &^= holdsConnection | holdsAddress | holdsRequest
}

// Explain says what the limits are.
func (p *Policy) Explain() string {
	var parts []string
	for _, l := range []struct {
		n    int64
		what string
	}{
		{p.Body, "bytes of body"}, {p.Headers, "bytes of head"}, {p.URI, "bytes of target"},
		{int64(p.ConnectionsPerIP), "connections of an address"}, {int64(p.Requests), "requests at once"},
		{int64(p.RequestsPerIP), "requests of an address at once"}, {int64(p.RequestsPerConsumer), "requests of a consumer at once"},
	} {
		if l.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", l.n, l.what))
		}
	}
	return "at most " + strings.Join(parts, ", ")
}

// Test says whether x is too large; it takes no place.
func (p *Policy) Test(x *exchange.Exchange) string {
	if f := p.tooLarge(x); f != nil {
		return "refuses: " + f.Error()
	}
	return "admits its size; places are counted when it comes"
}

// AfterAuth is the part that asks who is calling; nil: none does.
func (p *Policy) AfterAuth() policy.Policy {
	if p.RequestsPerConsumer == 0 {
		return nil
	}
	return &consumers{p.flight, p.RequestsPerConsumer, exchange.NewFault(exchange.FromPolicy, exchange.RateLimited, "limits: more than %d requests of one consumer at once", p.RequestsPerConsumer)}
}

// consumers bounds the requests of each consumer.
type consumers struct {
	flight *flight
	most   int
	fault  *exchange.Fault
}

var (
	_ policy.Requester = (*consumers)(nil)
	_ policy.Finisher  = (*consumers)(nil)
)

// Request takes a place.
func (c *consumers) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if !c.flight.consumers.enter(callerOf(x), c.most) {
		x.ResponseEdits.SetID(exchange.RetryAfter, "Retry-After", "1")
		return policy.Done, c.fault
	}
	x.Held |= holdsConsumer
	return policy.Next, nil
}

// Finish gives it back.
func (c *consumers) Finish(x *exchange.Exchange) {
	if x.Held&holdsConsumer != 0 {
		c.flight.consumers.leave(callerOf(x))
		x.Held &^= holdsConsumer
	}
}
