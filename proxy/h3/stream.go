package h3

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// stream is one request: the exchange, its front and its request body.
//
//	request stream: unknown* HEADERS (unknown | DATA)* [HEADERS unknown*] end    (RFC 9114, 4.1)
type stream struct {
	x   exchange.Exchange
	f   *Front
	c   *conn
	str *quic.Stream

	in    input
	block block
	body  body
	reset code // the code for a stream that doesn't end well
	mute  bool // it ends so without a response
	odds  int  // frames that brought nothing

	mu    sync.Mutex // guards begun and writing: a body may send 100 (Continue) from another goroutine
	begun bool       // the response has
	whole bool       // the response went out in full
	armed time.Time  // when the write deadline was set
	out   []byte     // what is being written

	request []byte // memory of the request's head
	trailer []byte // and of its trailer
}

var _ exchange.Front = (*stream)(nil)

// serve runs the request on a worker, and ends its stream.
func (st *stream) serve() {
	c, str := st.c, st.str
	defer c.ended(str)
	defer func() {
		if p := recover(); p != nil {
			// The handler answers for its own panics; this is the last net. The
			// stream isn't reused: its state is unknown.
			c.f.log.WithFields(logrus.Fields{"panic": p, "stack": string(debug.Stack())}).Error("request panicked")
			abort(str, codeInternal)
		}
	}()
	st.run()
	st.recycle()
}

func abort(str *quic.Stream, code code) {
	str.CancelRead(quic.StreamErrorCode(code))
	str.CancelWrite(quic.StreamErrorCode(code))
}

func (st *stream) run() {
	x := &st.x
	x.Reset(exchange.HTTP3, st.c.info.Load(), st)
	x.Request.Reset(st.request[:0])
	x.RequestTrailer.Reset(st.trailer[:0])
	st.in.reset(st.str)
	st.body.init(st)
	st.begun, st.whole, st.mute, st.reset, st.armed, st.odds = false, false, false, codeInternal, time.Time{}, 0
	if err := st.readHead(); err != nil {
		st.fail(err)
		return
	}
	st.f.cfg.Handler.Serve(x)
	if x.Err != nil {
		st.judge(x.Err)
	}
	if !st.whole {
		abort(st.str, st.reset)
		return
	}
	if !st.in.fin {
		// What is left of the request isn't wanted, and the response stands all
		// the same (RFC 9114, 4.1).
		st.str.CancelRead(quic.StreamErrorCode(codeNoError))
	}
	_ = st.str.Close() // fails when it has been reset, which Respond has reported
}

// fail ends a stream without a head to answer.
func (st *stream) fail(err error) {
	var e *connError
	if errors.As(err, &e) {
		st.c.fail(e)
	} else if st.abandoned(err) {
		st.c.gaveUp()
	}
	abort(st.str, codeRequestIncomplete) // for a stream that is reset already, of no effect
}

// maxKeep bounds each piece of memory that a pooled stream holds on to.
const maxKeep = 16 << 10

func (st *stream) recycle() {
	x := &st.x
	st.request = keep(st.request, x.Request.Buffer())
	st.trailer = keep(st.trailer, x.RequestTrailer.Buffer())
	st.out = keep(nil, st.out)
	st.block.sec.text = keep(nil, st.block.sec.text)
	st.block.cookies = keep(nil, st.block.cookies)
	if len(st.in.buf) > maxKeep {
		st.in.buf = nil
	}
	f := st.f
	x.Reset(exchange.HTTP3, nil, nil)
	st.f, st.c, st.str, st.in.from = nil, nil, nil, nil
	st.block.blockState, st.block.sec.rest = blockState{}, nil
	f.pool.Put(st)
}

func keep(old, b []byte) []byte {
	if cap(b) > maxKeep {
		return old
	}
	return b[:0]
}

// readHead fills the exchange. An error means that there is nothing to answer:
// the client has left, or broken the protocol of the connection.
func (st *stream) readHead() error {
	x := &st.x
	x.Method = "GET" // for the log, when it is refused
	if err := st.str.SetReadDeadline(time.Now().Add(st.f.cfg.HeaderTimeout)); err != nil {
		return err
	}
	p, err := st.headers()
	x.Start = time.Now()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.Fault = refusal(exchange.ClientTimeout, "the head wasn't complete in time")
		return nil
	case errors.Is(err, io.EOF):
		// Nobody waits for an answer, but it is counted (RFC 9114, 4.1.2).
		x.Fault = refusal(exchange.Malformed, "the stream ended before the head")
		st.mute, st.reset = true, codeRequestIncomplete
		return nil
	case err != nil:
		return err
	case p == nil:
		x.Fault = refusal(exchange.HeadersTooLarge, "request head")
		return nil
	}
	st.block.maxSize, st.block.maxFields, st.block.maxURI = st.f.cfg.MaxHeaders, st.f.cfg.MaxFields, st.f.cfg.MaxURI
	if err := st.block.read(p, &x.Request, false); err != nil {
		return &connError{codeDecompressionFailed, err.Error()}
	}
	if p := st.block.priority; p != "" {
		st.str.SetPriority(urgency(p))
	}
	st.fill()
	return nil
}

// headers waits for the first HEADERS frame. Its payload is nil when it is too
// large.
func (st *stream) headers() ([]byte, error) {
	for {
		typ, n, err := st.in.header()
		if err != nil {
			return nil, err
		}
		if typ == frameHeaders {
			if n > uint64(st.f.maxSection) {
				return nil, nil
			}
			return st.in.payload(int(n))
		}
		if err := st.unknown(typ, n); err != nil {
			return nil, err
		}
	}
}

// unknown passes over a frame that has no meaning, unless it must not be there
// (RFC 9114, 7.2).
func (st *stream) unknown(typ, n uint64) error {
	switch typ {
	case frameData, frameHeaders, frameCancelPush, frameSettings, framePushPromise, frameGoAway, frameMaxPushID,
		framePriorityRequest, framePriorityPush:
		return &connError{codeFrameUnexpected, "a frame that has no place here on a request stream"}
	}
	if reserved(typ) {
		return &connError{codeFrameUnexpected, "a frame of HTTP/2"}
	}
	st.odd(abuse.Unknown)
	return st.in.skip(n)
}

// fill makes the exchange of a decoded head, or sets its fault.
func (st *stream) fill() {
	x, b := &st.x, &st.block
	if b.method != "" {
		x.Method = exchange.KnownMethod([]byte(b.method))
	}
	x.RawTarget, x.RawHost = b.path, b.authority
	if x.RawHost == "" {
		x.RawHost = b.host
	}
	if x.Fault = st.refuse(); x.Fault != nil {
		return
	}
	if !st.c.whole.Load() {
		if !safe(x.Method) {
			x.Fault = refusal(exchange.TooEarly, x.Method+" before the end of the handshake")
			return
		}
		b.early = true
	}
	if b.early {
		x.Request.Append("early-data", "1") // RFC 8470, 5.1
	}
	if v := x.Request.Get(exchange.Expect); v != "" || x.Request.Has(exchange.Expect) {
		if x.Request.Count(exchange.Expect) > 1 || !exchange.EqualFold(v, "100-continue") {
			x.Fault = exchange.NewFault(exchange.FromClient, exchange.Expectation, "Expect: %.60q", v)
			return
		}
		x.ExpectContinue = true
	}
	x.Fault = st.fillBody()
}

// refuse says why a head isn't served.
func (st *stream) refuse() *exchange.Fault {
	b := &st.block
	switch {
	case b.longURI:
		return refusal(exchange.URITooLong, "request target")
	case b.tooLarge:
		return refusal(exchange.HeadersTooLarge, "request head")
	}
	if why := b.flaw(); why != "" {
		return st.malformed(why)
	}
	if b.twice {
		return refusal(exchange.Malformed, "several Authorization fields")
	}
	if b.method == "CONNECT" {
		return refusal(exchange.NotImplemented, "CONNECT over HTTP/3")
	}
	if st.in.fin && len(st.in.buffered()) == 0 && b.length > 0 {
		return st.malformed("Content-Length without a body")
	}
	return nil
}

// malformed is a stream error; there is nobody to explain it to (RFC 9114,
// 4.1.2). The handler counts and logs it.
func (st *stream) malformed(why string) *exchange.Fault {
	st.mute, st.reset = true, codeMessage
	return refusal(exchange.Malformed, why)
}

// fillBody finds out whether there is a body. Without a length it isn't known
// until the stream ends or goes on; for a method that rarely has a body that is
// waited for: otherwise each such GET would go to the backend in chunks.
func (st *stream) fillBody() *exchange.Fault {
	x := &st.x
	x.RequestLength = st.block.length
	if x.RequestLength == 0 || st.in.fin && len(st.in.buffered()) == 0 {
		x.RequestLength = 0
		return nil
	}
	st.body.declared = x.RequestLength
	x.RequestBody = &st.body
	if x.RequestLength > 0 {
		return nil
	}
	switch x.Method {
	case "GET", "HEAD", "DELETE", "OPTIONS", "TRACE":
	default:
		return nil
	}
	// It has until the deadline of the head.
	switch err := st.body.advance(); {
	case err == nil:
	case errors.Is(err, io.EOF):
		x.RequestBody, x.RequestLength = nil, 0
	default:
		return st.asFault(err)
	}
	return nil
}

// asFault is an error of the client's stream as a fault.
func (st *stream) asFault(err error) *exchange.Fault {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f
	}
	var e *connError
	if errors.As(err, &e) {
		st.c.fail(e)
		return &exchange.Fault{Source: exchange.FromClient, Kind: exchange.Malformed, Err: err}
	}
	kind := exchange.ClientGone // reset, or with the whole connection
	if errors.Is(err, os.ErrDeadlineExceeded) {
		kind = exchange.ClientTimeout
	}
	return &exchange.Fault{Source: exchange.FromClient, Kind: kind, Err: err}
}

// ctx ends when the client doesn't want the response any more.
func (st *stream) ctx() context.Context { return st.str.Context() }
