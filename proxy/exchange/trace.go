package exchange

import (
	"encoding/hex"
	"math/rand/v2"
	"time"
)

// Trace is where an exchange stands in a distributed trace (W3C Trace Context).
// Zero: requests aren't traced.
type Trace struct {
	ID      [16]byte
	Span    [8]byte // of the exchange as a whole
	Parent  [8]byte // whoever sent the request; zero: the trace begins here
	Flags   byte    // as they go on
	State   string  // what came as tracestate, if it made sense
	Spans   *Spans  // what is recorded; nil: the trace isn't sampled here
	context []byte  // traceparent as it goes on, with the id of who sends it
}

// maxSpans bounds what one exchange records.
const maxSpans = 64

// Spans are parts of a sampled exchange, in the order in which they began.
type Spans struct {
	List    []Span
	Dropped int // those beyond the bound
}

// Span is a part of an exchange: a policy's, or a try at a backend.
type Span struct {
	ID         [8]byte
	Start, End time.Duration // since the exchange's start
	Policy     string        // its name in the configuration, which may be kept; "": a try
	Response   bool          // of a policy: its response part
	Instance   string        // of a try
	Status     int           // of a try's response; 0: there was none
	Reused     bool          // the try's connection had been used before
	Fault      Kind          // how it failed; "": it didn't
}

// Reset empties s, keeping its memory.
func (s *Spans) Reset() {
	clear(s.List)
	s.List, s.Dropped = s.List[:0], 0
}

// Add adds a span, if there is room for it.
func (s *Spans) Add(n Span) {
	if len(s.List) == maxSpans {
		s.Dropped++
		return
	}
	s.List = append(s.List, n)
}

// NewSpan makes the id of a span: never zero, which would be none.
func NewSpan() (id [8]byte) {
	n := rand.Uint64() | 1
	for i := range id {
		id[i] = byte(n >> (8 * i))
	}
	return id
}

// traceparent is 00-TRACE-SPAN-FLAGS (W3C Trace Context, 3.2).
const (
	traceparentLen = 55
	traceAt        = 3
	spanAt         = 36
	flagsAt        = 53
)

// Propagate makes the traceparent that goes on, for the exchange's own span.
func (x *Exchange) Propagate() {
	t := &x.Trace
	var b [traceparentLen]byte
	b[0], b[1], b[2], b[spanAt-1], b[flagsAt-1] = '0', '0', '-', '-', '-'
	hex.Encode(b[traceAt:], t.ID[:])
	hex.Encode(b[spanAt:], t.Span[:])
	hex.Encode(b[flagsAt:], []byte{t.Flags})
	n := len(x.arena)
	x.arena = append(x.arena, b[:]...)
	t.context = x.arena[n:len(x.arena):len(x.arena)]
}

// Context is the traceparent that goes on; "" without tracing.
func (t *Trace) Context() string { return view(t.context) }

// Text is the trace's id in hexadecimal; "" without tracing.
func (t *Trace) Text() string {
	if len(t.context) == 0 {
		return ""
	}
	return view(t.context[traceAt : spanAt-1])
}

// BeginTry makes the next try at a backend a span of its own, which the request
// names as its parent; EndTry ends it. Without sampling, both do nothing.
func (x *Exchange) BeginTry() (id [8]byte, start time.Duration) {
	if x.Trace.Spans == nil {
		return id, 0
	}
	id = NewSpan()
	// The field is an edit already, which may have been replaced or removed since.
	// Its memory is ours, and nothing has been sent of it yet.
	hex.Encode(x.Trace.context[spanAt:], id[:])
	return id, time.Since(x.Start)
}

// EndTry ends the span that BeginTry began.
func (x *Exchange) EndTry(id [8]byte, start time.Duration, reused bool, f *Fault) {
	if x.Trace.Spans == nil {
		return
	}
	n := Span{ID: id, Start: start, End: time.Since(x.Start), Instance: x.InstanceAddr, Reused: reused}
	if f != nil {
		n.Fault = f.Kind
	} else {
		n.Status = x.Status
	}
	x.Trace.Spans.Add(n)
}
