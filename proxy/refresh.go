package proxy

import (
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// refreshAtOnce are a route's requests without a client at a time.
const refreshAtOnce = 64

// Refreshes gives policies of the route that fetch answers without a client the
// way to do so.
func (r *Route) Refreshes(log logrus.FieldLogger) {
	list := r.Chain.Policies()
	for i, n := range list {
		if p, ok := n.Policy.(policy.Refresher); ok {
			f := &refresher{route: r, own: policy.Compile(list[i : i+1]), rest: policy.Compile(list[i+1:]), log: log}
			p.Refresh(f.send)
		}
	}
}

// refresher sends requests without a client. Each has a goroutine of its own, which
// ends within mirrorTime.
type refresher struct {
	route     *Route
	own, rest *policy.Chain // the policy that asks, and those behind it
	log       logrus.FieldLogger
	running   atomic.Int32
}

func (f *refresher) send(x *exchange.Exchange, prepare func(c *exchange.Exchange)) bool {
	if len(f.route.Shares) == 0 {
		return false
	}
	if f.running.Add(1) > refreshAtOnce {
		f.running.Add(-1)
		return false
	}
	c := detach(x, nil)
	c.RouteName, c.Priority, c.ServiceName = f.route.Name, f.route.Priority, x.ServiceName
	c.Params = append(c.Params, x.Params...)
	for i := range c.Params {
		c.Params[i].Value = c.Keep([]byte(c.Params[i].Value))
	}
	prepare(c)
	go f.run(c)
	return true
}

// shareOf is the share of that service, any if it is none of the route's.
func (r *Route) shareOf(service string) *Share {
	for i := range r.Shares {
		if r.Shares[i].Service == service {
			return &r.Shares[i]
		}
	}
	return r.share()
}

// run is the line that a request without a client takes.
func (f *refresher) run(c *exchange.Exchange) {
	seen := 0
	defer f.running.Add(-1)
	defer func() { f.finish(c, seen, recover()) }()
	verdict, n, err := f.rest.Request(c)
	seen = n
	if err == nil && verdict == policy.Next {
		f.route.rewrite(c)
		if fault := f.route.shareOf(c.ServiceName).Pool.Send(c); fault != nil {
			err = fault
		}
	}
	if err != nil {
		refuse(c, asFault(err, exchange.FromPolicy))
	}
	if err := f.rest.Response(c, seen); err != nil {
		refuse(c, asFault(err, exchange.FromPolicy))
	}
	if err := f.own.Response(c, 1); err != nil {
		refuse(c, asFault(err, exchange.FromPolicy))
	}
	if c.ResponseBody != nil && c.HasResponseBody() {
		if _, err := io.Copy(io.Discard, c.ResponseBody); err != nil && c.Err == nil {
			c.Err = asFault(err, exchange.FromUpstream)
		}
	}
}

func (f *refresher) finish(c *exchange.Exchange, seen int, panicked any) {
	if panicked != nil {
		f.log.WithFields(logrus.Fields{"route": f.route.Name, "panic": fmt.Sprint(panicked), "stack": string(debug.Stack())}).
			Error("a request in the background panicked")
		c.Err = exchange.NewFault(exchange.FromInternal, exchange.Internal, "panic: %v", panicked)
	}
	if c.ResponseBody != nil {
		_ = c.ResponseBody.Close() // its outcome is the lease's
	}
	if c.Tunnel != nil {
		_ = c.Tunnel.Close()
	}
	if c.Lease != nil {
		var err error
		if c.Err != nil {
			err = c.Err
		}
		c.Lease.Release(c, err)
	}
	c.Response.Reset(nil)
	c.ResponseTrailer.Reset(nil)
	f.rest.Finish(c, seen)
	f.own.Finish(c, 1)
}
