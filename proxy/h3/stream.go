package h3

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// writer is what http3's response writer offers besides http.ResponseWriter.
type writer interface {
	http.ResponseWriter
	FlushError() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// stream is one request: the exchange, its front and its request body.
type stream struct {
	x    exchange.Exchange
	f    *Front
	c    *conn
	ctx  context.Context // the request's; ends when the client leaves //nolint:containedctx // lives as long
	w    writer
	r    *http.Request
	body body

	mu      sync.Mutex // guards the response's head: a body may send 100 (Continue) from another goroutine
	begun   bool       // the response has
	whole   bool       // the response went out in full
	request []byte     // memory of the request's head
	trailer []byte     // and of its trailer
}

var _ exchange.Front = (*stream)(nil)

// serve is one request from http3. It ends by panicking with
// http.ErrAbortHandler where the stream must be reset (H3_INTERNAL_ERROR): that
// is http3's way to do so, and it ends there.
func (f *Front) serve(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		panic(http.ErrAbortHandler) // a connection that we didn't accept: can't be
	}
	f.streams.Add(1)
	defer f.streams.Add(-1)
	defer c.active.Add(-1)
	// A client that resets its requests gets new stream credit before their
	// handlers have ended, so the number of streams alone doesn't bound them.
	if c.active.Add(1) > 2*int64(f.cfg.MaxStreams) {
		_ = c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "too many requests reset")
		panic(http.ErrAbortHandler)
	}
	s := f.pool.Get().(*stream) //nolint:forcetypeassert // the pool holds nothing else
	if !s.run(f, c, w, r) {
		panic(http.ErrAbortHandler)
	}
}

// run serves the request and reports whether its stream ends well.
func (s *stream) run(f *Front, c *conn, w http.ResponseWriter, r *http.Request) (whole bool) {
	x := &s.x
	x.Reset(exchange.HTTP3, &c.Conn, s)
	x.Request.Reset(s.request[:0])
	x.RequestTrailer.Reset(s.trailer[:0])
	s.f, s.c, s.ctx, s.r = f, c, r.Context(), r
	s.w = w.(writer) //nolint:forcetypeassert // http3 documents these methods for ResponseController
	s.begun, s.whole = false, false
	s.body.reset(s)
	defer func() {
		if p := recover(); p != nil {
			// The handler answers for its own panics; this is the last net.
			f.log.WithFields(logrus.Fields{"panic": p, "stack": string(debug.Stack())}).Error("request panicked")
			return // s isn't reused: its state is unknown
		}
		whole = s.whole
		s.recycle()
	}()
	s.fill(r)
	f.cfg.Handler.Serve(x)
	return s.whole // replaced above
}

// maxKeep bounds the memory for heads that a pooled stream holds on to.
const maxKeep = 16 << 10

func (s *stream) recycle() {
	x := &s.x
	s.request = keep(s.request, x.Request.Buffer())
	s.trailer = keep(s.trailer, x.RequestTrailer.Buffer())
	f := s.f
	x.Reset(exchange.HTTP3, nil, nil)
	s.f, s.c, s.ctx, s.w, s.r = nil, nil, nil, nil, nil
	s.body.s = nil
	f.pool.Put(s)
}

func keep(old, b []byte) []byte {
	if cap(b) > maxKeep {
		return old
	}
	return b[:0]
}

// fill takes the request over into the exchange, or sets its fault.
func (s *stream) fill(r *http.Request) {
	x := &s.x
	x.Start = time.Now()
	x.Method = r.Method
	x.RawTarget = r.RequestURI
	x.RawHost = r.Host
	x.RequestLength = r.ContentLength
	x.Fault = s.fillHead(r)
	switch {
	case len(r.RequestURI) > s.f.cfg.MaxURI:
		x.Fault = exchange.NewFault(exchange.FromClient, exchange.URITooLong, "request target of %d bytes", len(r.RequestURI))
	case x.Fault == nil && r.Method == http.MethodConnect:
		x.Fault = exchange.NewFault(exchange.FromClient, exchange.NotImplemented, "CONNECT over HTTP/3")
	}
	if x.Fault != nil {
		return
	}
	if v, ok := r.Header["Expect"]; ok {
		if len(v) != 1 || !exchange.EqualFold(v[0], "100-continue") {
			x.Fault = exchange.NewFault(exchange.FromClient, exchange.Expectation, "Expect: %.60q", v)
			return
		}
		x.ExpectContinue = true
	}
	x.Fault = s.fillBody(r)
}

// fillHead copies the fields, names in lower case.
func (s *stream) fillHead(r *http.Request) *exchange.Fault {
	x := &s.x
	var name [64]byte
	size, fields := len(r.Method)+len(r.RequestURI)+len(r.Host), 0
	for k, values := range r.Header {
		fields += len(values)
		for _, v := range values {
			size += len(k) + len(v)
		}
		if fields > s.f.cfg.MaxFields || size > s.f.cfg.MaxHeaders {
			return exchange.NewFault(exchange.FromClient, exchange.HeadersTooLarge, "more than %d fields, or a head of more than %d bytes", s.f.cfg.MaxFields, s.f.cfg.MaxHeaders)
		}
		// A name with _ or . becomes that of another field in the environment of
		// a CGI-like backend, and Proxy a setting of its. Host went to RawHost.
		if strings.ContainsAny(k, "_.") || k == "Host" || k == "Proxy" {
			continue
		}
		if k == "Authorization" && len(values) > 1 {
			// The backend may look at another one than we do.
			return exchange.NewFault(exchange.FromClient, exchange.Malformed, "several Authorization fields")
		}
		var lower string
		if id := exchange.Lookup(k); id != exchange.Other {
			lower = id.Name()
		} else {
			lower = string(appendLower(name[:0], k))
		}
		for _, v := range values {
			x.Request.Append(lower, v)
		}
	}
	// http3 took Trailer away; backends like net/http's drop the trailers of an
	// HTTP/2 request that it doesn't announce.
	for k := range r.Trailer {
		fields, size = fields+1, size+len("trailer")+len(k)
		if fields > s.f.cfg.MaxFields || size > s.f.cfg.MaxHeaders {
			return exchange.NewFault(exchange.FromClient, exchange.HeadersTooLarge, "too many announced trailer fields")
		}
		if k != "" {
			x.Request.Append(exchange.TrailerField.Name(), k)
		}
	}
	return nil
}

func appendLower(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// fillBody finds out whether there is a body. http3 doesn't tell whether the
// stream ended with the head, so for a request without a length whose method
// rarely has a body the first byte or the end is waited for: without it, each
// GET would go to the backend in chunks.
func (s *stream) fillBody(r *http.Request) *exchange.Fault {
	x := &s.x
	if r.ContentLength == 0 {
		return nil
	}
	x.RequestBody = &s.body
	if r.ContentLength > 0 {
		return nil
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace:
	default:
		return nil
	}
	if err := s.w.SetReadDeadline(x.Start.Add(s.f.cfg.HeaderTimeout)); err != nil {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "read deadline: %w", err)
	}
	n, err := s.body.read(s.body.first[:])
	switch {
	case n > 0:
		s.body.ahead = true
		s.body.err = err
	case errors.Is(err, io.EOF):
		x.RequestBody, x.RequestLength = nil, 0
	default:
		return asFault(err)
	}
	return nil
}

// asFault is an error of the client's stream as a fault.
func asFault(err error) *exchange.Fault {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f
	}
	var stream *http3.Error
	var qs *quic.StreamError
	kind := exchange.Malformed
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		kind = exchange.ClientTimeout
	case errors.As(err, &stream), errors.As(err, &qs), isConnError(err):
		kind = exchange.ClientGone
	}
	return &exchange.Fault{Source: exchange.FromClient, Kind: kind, Err: err}
}

// isConnError reports whether err is the end of the QUIC connection.
func isConnError(err error) bool {
	var app *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	var transport *quic.TransportError
	var reset *quic.StatelessResetError
	return errors.As(err, &app) || errors.As(err, &idle) || errors.As(err, &transport) || errors.As(err, &reset) ||
		errors.Is(err, context.Canceled)
}

// body is the request's body.
type body struct {
	s      *stream
	first  [1]byte // read ahead
	ahead  bool
	err    error // what ended it
	closed atomic.Bool
	armed  time.Time // when the read deadline was set
}

var _ exchange.Body = (*body)(nil)

func (b *body) reset(s *stream) {
	b.s, b.ahead, b.err, b.armed = s, false, nil, time.Time{}
	b.closed.Store(false)
}

// Next has at most the one byte that was read ahead: quic-go doesn't say what
// it holds.
func (b *body) Next() ([]byte, bool) {
	if !b.ahead {
		return nil, errors.Is(b.err, io.EOF)
	}
	b.ahead = false
	b.s.x.BytesIn++
	return b.first[:], errors.Is(b.err, io.EOF)
}

func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.ahead {
		b.ahead = false
		p[0] = b.first[0]
		b.s.x.BytesIn++
		return 1, b.err
	}
	if b.err != nil {
		return 0, b.err
	}
	s := b.s
	if s.x.ExpectContinue {
		s.x.ExpectContinue = false
		s.interim(http.StatusContinue, nil)
	}
	if now := time.Now(); now.Sub(b.armed) > s.f.cfg.StallTimeout/8 {
		b.armed = now
		if err := s.w.SetReadDeadline(now.Add(s.f.cfg.StallTimeout)); err != nil {
			return 0, asFault(err)
		}
	}
	if b.closed.Load() { // after arming: Close sets the deadline after the flag
		return 0, exchange.NewFault(exchange.FromInternal, exchange.Internal, "read of a closed request body")
	}
	n, err := b.read(p)
	s.x.BytesIn += int64(n)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.err = io.EOF
	default:
		b.err = asFault(err)
	}
	return n, b.err
}

// read reads until there is a byte or an error; at the end it takes the
// trailers.
func (b *body) read(p []byte) (n int, err error) {
	for n == 0 && err == nil {
		n, err = b.s.r.Body.Read(p) // empty DATA frames and trailers give 0, nil
	}
	if errors.Is(err, io.EOF) {
		if f := b.s.fillTrailer(); f != nil {
			err = f
		}
	}
	return n, err
}

// Close lets a Read in progress fail. The rest of the body is refused when the
// exchange ends, with H3_NO_ERROR, which leaves the response standing (RFC
// 9114, 4.1).
func (b *body) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.s.w.SetReadDeadline(time.Unix(1, 0))
}

// fillTrailer takes the request's trailers over. http3 has refused those that
// no trailer may hold (RFC 9110, 6.5.1).
func (s *stream) fillTrailer() *exchange.Fault {
	fields := 0
	for k, values := range s.r.Trailer {
		fields += len(values)
		if fields > s.f.cfg.MaxFields {
			return exchange.NewFault(exchange.FromClient, exchange.HeadersTooLarge, "more than %d trailer fields", s.f.cfg.MaxFields)
		}
		if strings.ContainsAny(k, "_.") || exchange.Lookup(k).HopByHop() {
			continue
		}
		name := string(appendLower(nil, k))
		for _, v := range values {
			s.x.RequestTrailer.Append(name, v)
		}
	}
	return nil
}
