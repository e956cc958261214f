package proxy

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/tail"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// Deps are what a Handler works with.
type Deps struct {
	Log   logrus.FieldLogger
	Stats *Stats
	Usage *usage.Counter // nil: who uses what isn't counted
	// Memory says whether there is enough of it; nil: there is.
	Memory *memory.Guard
	// Challenge returns the answer to an ACME HTTP-01 challenge (RFC 8555, 8.3).
	Challenge func(host, path string) (body string, ok bool)
	Tail      *tail.Tap // who looks on; nil: nobody can
}

// Handler takes every exchange of the gateway from its front to its end.
type Handler struct {
	Deps
	table   atomic.Pointer[Table]
	unknown *RouteStats // counts what no route took
}

var _ exchange.Handler = (*Handler)(nil)

// NewHandler returns a handler; SetTable must come before the first exchange.
func NewHandler(d Deps) *Handler {
	return &Handler{Deps: d, unknown: d.Stats.Route("", "")}
}

// SetTable makes t serve the exchanges that start from now on.
func (h *Handler) SetTable(t *Table) { h.table.Store(t) }

// Table is the one in force.
func (h *Handler) Table() *Table { return h.table.Load() }

// Serve is the line that every request takes: identify, canonicalise, match,
// policies, backend, policies, answer; and, whatever happens, finish.
func (h *Handler) Serve(x *exchange.Exchange) {
	l := line{h: h, t: h.table.Load(), x: x, stats: h.unknown}
	if x.Conn.SelfCheck {
		l.selfCheck()
		return
	}
	defer l.finish()

	trusted := l.t.Trust.identify(x)
	if l.t.Tracer != nil {
		l.t.Tracer.Begin(x, trusted)
	}
	fault := x.Fault
	if fault == nil {
		fault = x.Canonicalise()
	} else if x.Method == "CONNECT" {
		if own := l.t.Own[x.Conn.Listener]; own.Connect != nil {
			fault = own.Connect
		}
	}
	if fault == nil && x.Conn.Scheme == "http" && h.plainAnswer(l.t, x) {
		l.respond()
		return
	}
	if fault == nil {
		fault = l.match()
	}
	if fault == nil {
		fault = l.run(trusted)
	}
	if fault != nil {
		refuse(x, fault)
	}
	if l.r != nil {
		if err := l.r.Chain.Response(x, l.seen); err != nil {
			refuse(x, asFault(err, exchange.FromPolicy))
		}
		l.r.Chain.Encode(x)
	}
	l.respond()
}

// line is one exchange on its way.
type line struct {
	h     *Handler
	t     *Table
	x     *exchange.Exchange
	r     *Route
	stats *RouteStats
	seen  int // policies whose request part ran
	begun bool
}

const challengePrefix = "/.well-known/acme-challenge/"

// plainAnswer answers what a plain listener answers before any route: ACME
// challenges, and the redirect to https.
func (h *Handler) plainAnswer(t *Table, x *exchange.Exchange) bool {
	if h.Challenge != nil && strings.HasPrefix(x.Target.Path, challengePrefix) {
		if body, ok := h.Challenge(x.Target.Host, x.Target.Path); ok {
			x.Reply(200, "text/plain", []byte(body))
			return true
		}
	}
	port, ok := t.HTTPS[x.Conn.Listener]
	if !ok || x.Target.Host == "" {
		return false
	}
	b := make([]byte, 0, 128)
	b = append(b, "https://"...)
	if strings.IndexByte(x.Target.Host, ':') >= 0 {
		b = append(append(append(b, '['), x.Target.Host...), ']')
	} else {
		b = append(b, x.Target.Host...)
	}
	if port != "443" {
		b = append(append(b, ':'), port...)
	}
	b = append(b, x.Target.Path...)
	if x.Target.HasQuery {
		b = append(append(b, '?'), x.Target.Query...)
	}
	x.Reply(308, "", nil)
	x.Response.Append("Location", string(b))
	return true
}

func (l *line) match() *exchange.Fault {
	x := l.x
	m := l.t.Match(x)
	if m.Rule >= 0 {
		l.r = l.t.Routes[m.Rule]
		l.stats = l.r.Stats
		x.RouteName, x.Priority = l.r.Name, l.r.Priority
		return nil
	}
	if m.Miss == route.MethodNotAllowed {
		x.ResponseEdits.Set("Allow", m.Allow)
		return exchange.NewFault(exchange.FromClient, exchange.MethodNotAllowed, "%s isn't a method of this path", x.Method)
	}
	kind := exchange.NoRoute
	if m.Miss == route.TwoRoutes {
		kind = exchange.BadPath
	}
	return exchange.NewFault(exchange.FromClient, kind, "%s (host %q, path %q)", m.Miss, strings.Clone(x.Target.Host), strings.Clone(x.Target.Path))
}

// What is refused for want of memory. They are shared, so nobody may change
// them: refusing many must not cost.
var (
	faultFull   = exchange.NewFault(exchange.FromInternal, exchange.GatewayOverloaded, "memory is nearly used up")
	faultScarce = exchange.NewFault(exchange.FromInternal, exchange.GatewayOverloaded, "memory is scarce, and the request's priority low")
)

// run takes the request through its policies to whoever answers.
func (l *line) run(trusted bool) *exchange.Fault {
	x, r := l.x, l.r
	level := l.h.Memory.Level()
	if level == memory.Full {
		l.h.Memory.Refuse(level)
		return faultFull
	}
	var to *Share
	if r.Answer == nil { // chosen by chance alone, so that a refused request moves no balancer
		to = r.share()
		l.stats = to.Stats
		x.ServiceName = to.Service
	}
	forward(x, trusted)
	verdict, seen, err := r.Chain.Request(x)
	l.seen = seen
	if err != nil {
		return asFault(err, exchange.FromPolicy)
	}
	if verdict == policy.Done {
		return nil
	}
	if to == nil {
		if _, err := r.Answer.Request(x); err != nil {
			return asFault(err, exchange.FromPolicy)
		}
		return nil
	}
	// Only here is it known who is calling, and so what priority that is.
	if level == memory.Scarce && x.Rank() == exchange.LowPriority {
		l.h.Memory.Refuse(level)
		return faultScarce
	}
	r.rewrite(x)
	if r.Mirror != nil && level == memory.Enough {
		r.Mirror.send(x)
	}
	return to.Pool.Send(x)
}

// selfCheck answers the process itself, with an empty answer: the line without
// what belongs to somebody, its policies, service, counters and logs.
func (l *line) selfCheck() {
	defer func() { _ = recover() }() // it hasn't hung; a request that panics says so
	l.t.Trust.identify(l.x)
	if l.x.Fault == nil && l.x.Canonicalise() == nil {
		l.t.Match(l.x)
	}
	l.x.Reply(204, "", nil)
	l.respond()
}

func (l *line) respond() {
	l.begun = true
	if err := l.x.Front.Respond(l.x); err != nil && l.x.Err == nil {
		l.x.Err = asFault(err, exchange.FromClient)
	}
}

// finish runs for every exchange: refused, answered, broken off, panicked.
func (l *line) finish() {
	x := l.x
	if p := recover(); p != nil {
		l.h.Log.WithFields(logrus.Fields{"route": x.RouteName, "request_id": strings.Clone(x.RequestID), "panic": fmt.Sprint(p), "stack": string(debug.Stack())}).
			Error("a request panicked")
		fault := exchange.NewFault(exchange.FromInternal, exchange.Internal, "panic: %v", p)
		l.seen = max(l.seen, x.Seen)
		if l.begun {
			x.Err = fault
		} else {
			refuse(x, fault)
			l.respond()
		}
	}
	if x.ResponseBody != nil {
		_ = x.ResponseBody.Close() // its outcome is the lease's
	}
	if x.Tunnel != nil {
		_ = x.Tunnel.Close() // a front that joined it has done so already
	}
	if x.RequestBody != nil {
		_ = x.RequestBody.Close() // the front sees what was left unread
	}
	if l.t.Log != nil {
		l.t.Log.keep(x)
	}
	if x.Lease != nil {
		var err error
		if x.Err != nil {
			err = x.Err
		}
		x.Lease.Release(x, err)
		x.Lease = nil
		// They were views into the connection's memory, which is another's now.
		x.Response.Reset(nil)
		x.ResponseTrailer.Reset(nil)
	}
	if l.r != nil {
		l.r.Chain.Finish(x, l.seen)
	}
	took := time.Since(x.Start) // cheaper than time.Now
	l.h.Stats.Count(l.stats, x, took)
	l.h.Tail.Tell(x, took)
	quiet := l.r != nil && l.r.Quiet
	if l.h.Usage != nil && !quiet {
		l.h.Usage.Count(x, took)
	}
	if l.t.Log != nil && !quiet {
		l.t.Log.Log(x, x.Start.Add(took))
	}
	if x.Trace.Spans != nil {
		l.t.Tracer.End(x, took, l.path())
	}
}

// path is the pattern of the route's path, where it has one.
func (l *line) path() string {
	if l.r == nil {
		return ""
	}
	return l.r.Path
}

// asFault is err as a fault; what isn't one yet is put down to from.
func asFault(err error, from exchange.Source) *exchange.Fault {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f
	}
	kind := exchange.Internal
	if from == exchange.FromClient {
		kind = exchange.ClientGone
	}
	return &exchange.Fault{Source: from, Kind: kind, Err: err}
}
