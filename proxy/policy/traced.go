package policy

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// notable is how long a policy takes at least to get a span of its own in a trace.
// One that ends the request always gets one.
const notable = 50 * time.Microsecond

// tracedRequest is Request for an exchange whose trace is recorded.
func (c *Chain) tracedRequest(x *exchange.Exchange) (Verdict, int, error) {
	for i := range c.requesters {
		r := &c.requesters[i]
		x.Seen = r.place + 1
		start := time.Since(x.Start)
		verdict, err := r.Request(x)
		c.span(x, r.place, start, false, err, err != nil || verdict != Next)
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

// respond runs a policy's response part.
func (c *Chain) respond(x *exchange.Exchange, r *responder) error {
	if x.Trace.Spans == nil {
		return r.Response(x)
	}
	start := time.Since(x.Start)
	err := r.Response(x)
	c.span(x, r.index, start, true, err, err != nil)
	return err
}

// span records what policy i did, if it is worth telling.
func (c *Chain) span(x *exchange.Exchange, i int, start time.Duration, response bool, err error, tell bool) {
	end := time.Since(x.Start)
	if !tell && end-start < notable {
		return
	}
	s := exchange.Span{ID: exchange.NewSpan(), Start: start, End: end, Policy: c.all[i].Name, Response: response}
	if err != nil {
		s.Fault = exchange.Internal
		if f, ok := err.(*exchange.Fault); ok { //nolint:errorlint // a wrapped fault isn't one
			s.Fault = f.Kind
		}
	}
	x.Trace.Spans.Add(s)
}
