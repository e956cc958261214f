package upstream

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/balance"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// maxEjections bounds the factor by which ejections grow longer.
const maxEjections = 10

// instance is one address of a service, with all that is known of it.
type instance struct {
	pool *Pool
	addr string // host:port, or unix:// and a path
	host string
	key  uint64 // hash of addr
	name string // what a sticky cookie calls it

	stats    balance.Stats
	requests atomic.Uint64
	failures atomic.Uint64
	conns    connections
	away     atomic.Bool            // it refused connections for longer than its service's patience
	refusal  atomic.Pointer[string] // why TLS connections fail; nil: they don't

	// Failures in a row, and when the first of them was.
	inRow     atomic.Int32
	firstFail atomic.Int64

	// Guarded by Pool.mu.
	info         discovery.Instance
	fleet        bool // its registrations, or one of them, have IdentityMeta
	check        checkState
	ejectedUntil int64 // 0: not ejected
	ejections    int   // so far
	ejectedLast  int64 // when the last ejection ended
	ejectedWhy   string
	healthy      bool // in the last view
	known        bool // was in a view before
}

func newInstance(p *Pool, addr string) *instance {
	host, _, err := net.SplitHostPort(addr)
	switch {
	case strings.HasPrefix(addr, unixPrefix):
		host = "localhost"
	case err != nil:
		host = addr // the dial will say what is wrong with it
	}
	return &instance{pool: p, addr: addr, host: host, key: balance.Hash(addr), name: p.g.nameOf(p.name, addr)}
}

// eligible reports whether the instance may get requests, and if not, why.
// Pool.mu is held.
func (in *instance) eligible(checked bool) (bool, string) {
	switch {
	case in.info.Health == discovery.Critical || in.info.Health == discovery.Maintenance:
		return false, "the source calls it " + in.info.Health.String()
	case checked && in.check.state == checkFailing:
		return false, "its check fails"
	case in.ejectedUntil != 0: // until the keeper readmits it
		return false, "ejected: " + in.ejectedWhy
	}
	return true, ""
}

// notConnected takes in why there is no connection to the instance. What is
// wrong with certificates is shown, and told when it begins: it doesn't pass by
// itself.
func (in *instance) notConnected(way *connPlan, err error) *exchange.Fault {
	if op := (*net.OpError)(nil); (way.tls != nil || way.lacks != nil) && (!errors.As(err, &op) || op.Op != "dial") {
		text := err.Error()
		var f *exchange.Fault
		if errors.As(err, &f) {
			err = fmt.Errorf("the instance refuses our certificate: %w", f.Err)
			text = err.Error()
		}
		if in.refusal.Swap(&text) == nil {
			in.pool.log.WithField("instance", in.addr).WithError(err).Warn("no TLS connection")
		}
	}
	return exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "connect to %s: %w", in.addr, err)
}

// noStreams is why a new connection takes no request.
func (in *instance) noStreams(c *conn) *exchange.Fault {
	f := exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "%s allows no streams", in.addr)
	if err := c.many.Ended(); err != nil {
		f = exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "connect to %s: it closed the connection: %w", in.addr, err)
		if refusedUs(f, c) {
			return in.notConnected(c.plan, &exchange.Fault{Err: err})
		}
	}
	return f
}

// answered takes in a response's head that came after rtt, if that is known.
func (in *instance) answered(rtt time.Duration, known bool, now int64) {
	if in.refusal.Load() != nil {
		in.refusal.Store(nil)
	}
	if known {
		in.stats.Observe(rtt, now)
	}
	if in.inRow.Load() != 0 {
		in.inRow.Store(0)
	}
}

// slow takes in a failure that says nothing of reachability, for the picker's
// eyes only: a status like 500 or 429.
func (in *instance) slow(elapsed, pause time.Duration, now int64) {
	in.stats.Fail(elapsed, pause, now)
	if in.inRow.Load() != 0 {
		in.inRow.Store(0)
	}
}

// failed takes in a failure that counts towards an ejection.
func (in *instance) failed(o *OutlierConfig, elapsed, pause time.Duration, now int64, why string) {
	in.failures.Add(1)
	in.stats.Fail(elapsed, pause, now)
	if o.Errors == 0 {
		return
	}
	n := in.inRow.Add(1)
	if n == 1 || now-in.firstFail.Load() > int64(o.Window) {
		in.firstFail.Store(now)
		in.inRow.Store(1)
		n = 1
	}
	if int(n) >= o.Errors {
		in.inRow.Store(0)
		in.pool.eject(in, now, why)
	}
}
