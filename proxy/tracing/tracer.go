package tracing

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Tracer decides about the traces of one configuration. It may be used by any
// number of goroutines.
type Tracer struct {
	exporter *Exporter
	upto     uint64 // random numbers below it are sampled
	all      bool
	pool     *sync.Pool
}

// Tracer returns one of that configuration, whose spans e sends.
func (e *Exporter) Tracer(c Config) *Tracer {
	return &Tracer{exporter: e, upto: uint64(c.Sample*(math.MaxUint64>>11)) << 11, all: c.Sample >= 1, pool: &e.spans}
}

// Begin puts x into the trace that its client names, or into one of its own, and
// decides whether it is recorded. What a trusted proxy has decided holds; what
// anybody else says of sampling counts for nothing, so that no client can have all
// its requests recorded.
func (t *Tracer) Begin(x *exchange.Exchange, trusted bool) {
	tr := &x.Trace
	var from caller
	ok := false
	if x.Request.Count(exchange.Traceparent) == 1 {
		from, ok = parseParent(x.Request.Get(exchange.Traceparent))
	}
	sampled := false
	switch {
	case ok && trusted:
		sampled = from.flags&flagSampled != 0
	default:
		sampled = t.all || rand.Uint64() < t.upto
	}
	if ok {
		tr.ID, tr.Parent, tr.Flags = from.trace, from.parent, from.flags&^flagSampled
	} else {
		tr.ID, tr.Flags = newTrace(), flagRandom
	}
	tr.Span = exchange.NewSpan()
	if sampled {
		tr.Flags |= flagSampled
		tr.Spans, _ = t.pool.Get().(*exchange.Spans)
		if tr.Spans == nil {
			tr.Spans = &exchange.Spans{}
		}
	}
	x.Propagate()
	x.RequestEdits.SetID(exchange.Traceparent, "Traceparent", tr.Context())
	if x.Request.Has(exchange.Tracestate) {
		if ok {
			tr.State, ok = tracestate(x)
		}
		if !ok { // without a parent it says nothing (3.3)
			x.RequestEdits.Remove("Tracestate")
		}
	}
}

// End sends what was recorded of x, which lasted as long as took. route is the
// pattern of its path; "": there is none.
func (t *Tracer) End(x *exchange.Exchange, took time.Duration, route string) {
	s := x.Trace.Spans
	if s == nil {
		return
	}
	t.exporter.add(x, took, route)
	x.Trace.Spans = nil
	s.Reset()
	t.pool.Put(s)
}

// newTrace makes the id of a trace: never zero, and random in its last seven bytes.
func newTrace() (id [16]byte) {
	hi, lo := rand.Uint64()|1, rand.Uint64()
	for i := range 8 {
		id[i], id[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	return id
}
