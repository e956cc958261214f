package h3

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// copyBuffer is how much of a response body moves at a time; and, with
	// StallTimeout, the slowest client that we wait for.
	copyBuffer = 32 << 10
	// maxFrameHeader is what a frame's type and length can take.
	maxFrameHeader = 1 + 8
	// oneWrite is up to where content goes out together with the head.
	oneWrite = 16 << 10
)

// Gone implements exchange.Front.
func (st *stream) Gone(*exchange.Exchange) bool { return st.ctx().Err() != nil }

// Interim implements exchange.Front.
func (st *stream) Interim(_ *exchange.Exchange, status int, h *exchange.Head) error {
	if status < 100 || status > 199 || status == http.StatusSwitchingProtocols {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "interim response %d", status)
	}
	return st.interim(status, h)
}

func (st *stream) interim(status int, h *exchange.Head) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.begun {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "interim response %d after the final one", status)
	}
	st.out = appendStatus(appendPrefix(st.openFrame()), status)
	if h != nil {
		st.out = appendFields(st.out, h, nil)
	}
	return st.write(st.closeFrame())
}

// openFrame gives st.out room for the header of a frame that begins there.
func (st *stream) openFrame() []byte { return append(st.out[:0], make([]byte, maxFrameHeader)...) }

// closeFrame returns st.out as a HEADERS frame.
func (st *stream) closeFrame() []byte {
	return framed(st.out, frameHeaders, len(st.out)-maxFrameHeader)
}

// framed puts the header of a frame of length n before b[maxFrameHeader:].
func framed(b []byte, typ byte, n int) []byte {
	var h [maxFrameHeader]byte
	head := appendVarint(append(h[:0], typ), uint64(n))
	from := maxFrameHeader - len(head)
	copy(b[from:], head)
	return b[from:]
}

// write sends b.
func (st *stream) write(b []byte) error {
	if now := time.Now(); now.Sub(st.armed) > st.f.cfg.StallTimeout/8 {
		st.armed = now
		if err := st.str.SetWriteDeadline(now.Add(st.f.cfg.StallTimeout)); err != nil {
			return st.asFault(err)
		}
	}
	if _, err := st.str.Write(b); err != nil {
		return st.asFault(err)
	}
	return nil
}

// Respond implements exchange.Front.
func (st *stream) Respond(x *exchange.Exchange) error {
	if st.mute {
		return nil
	}
	st.mu.Lock() // an interim response that is being written comes first
	second := st.begun
	st.begun = true
	st.mu.Unlock()
	if second {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "second response")
	}
	if x.Status < 200 || x.Status > 999 {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "response status %d over HTTP/3", x.Status)
	}
	st.encode(x)
	if !x.HasResponseBody() || x.ResponseBody == nil {
		return st.finish(x, st.write(st.closeFrame()))
	}
	b, done := x.ResponseBody.Next()
	if done {
		return st.finish(x, st.send(x, b, true))
	}
	// A client that leaves must free the backend, also while it is silent. When
	// the close has begun it is waited for: a body may be reused afterwards.
	body, closed := x.ResponseBody, make(chan struct{})
	stop := context.AfterFunc(st.ctx(), func() {
		defer close(closed)
		_ = body.Close() // Respond reports that the client left
	})
	err := st.send(x, b, false)
	if err == nil {
		err = st.pump(x)
	}
	if !stop() {
		<-closed
	}
	return st.finish(x, err)
}

// finish ends a response whose last write ended with err.
func (st *stream) finish(x *exchange.Exchange, err error) error {
	if err == nil && x.HasResponseBody() && x.ResponseTrailer.Len() > 0 {
		err = st.sendTrailer(x)
	}
	if err != nil {
		if st.ctx().Err() != nil {
			return &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: err}
		}
		return err
	}
	st.whole = true
	return nil
}

// encode makes the response's head, in st.out.
func (st *stream) encode(x *exchange.Exchange) {
	r, e, f := &x.Response, &x.ResponseEdits, st.f
	b := appendStatus(appendPrefix(st.openFrame()), x.Status)
	b = appendFields(b, r, e)
	if !r.Has(exchange.Date) && !e.Replaces("date", exchange.Date) {
		b = appendField(b, exchange.Date, "", f.dateField())
	}
	if f.cfg.ServerHeader != "" && !r.Has(exchange.Server) && !e.Replaces("server", exchange.Server) {
		b = appendField(b, exchange.Server, "", f.cfg.ServerHeader)
	}
	if n := contentLength(x); n >= 0 {
		b = appendLength(b, n)
	}
	st.out = b
}

// forwards reports whether a field of a response goes on; framing is made anew.
func forwards(id exchange.ID) bool { return !id.HopByHop() && id != exchange.ContentLength }

// appendFields appends the fields of h that go on, changed by e, which may be
// nil.
func appendFields(b []byte, h *exchange.Head, e *exchange.Edits) []byte {
	edited := e != nil && !e.Empty()
	for i := range h.Len() {
		id := h.ID(i)
		if h.Dropped(i) || !forwards(id) {
			continue
		}
		name, value := h.Field(i)
		if edited && e.Replaces(name, id) {
			continue
		}
		b = appendField(b, id, name, value)
	}
	if !edited {
		return b
	}
	for i := range e.Len() {
		name, value, ok := e.Field(i)
		if id := e.ID(i); ok && forwards(id) {
			b = appendField(b, id, name, value)
		}
	}
	return b
}

// contentLength is the Content-Length to send, -1 for none.
func contentLength(x *exchange.Exchange) int64 {
	switch {
	case x.Status == http.StatusNoContent:
		return -1
	case x.HasResponseBody():
		if x.ResponseBody == nil {
			return 0
		}
		return x.ResponseLength
	}
	if x.ResponseEdits.Replaces("content-length", exchange.ContentLength) {
		return -1 // it would have been coded here
	}
	// HEAD and 304 may say how long the body would have been (RFC 9110, 8.6).
	if n, err := strconv.ParseInt(x.Response.Get(exchange.ContentLength), 10, 64); err == nil && n >= 0 {
		return n
	}
	if x.Method == http.MethodHead && x.ResponseLength > 0 {
		return x.ResponseLength
	}
	return -1
}

var (
	errShort = errors.New("the body is shorter than its announced length")
	errLong  = errors.New("the body is longer than its announced length")
)

func upstreamFault(err error) *exchange.Fault {
	return &exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendMalformed, Err: err}
}

// send writes the head with the content that is at hand: a body whose length is
// known is one DATA frame, another one a frame for each piece.
func (st *stream) send(x *exchange.Exchange, b []byte, done bool) error {
	known, head := x.ResponseLength >= 0, len(st.out)-maxFrameHeader
	switch n := int64(len(b)); {
	case known && n > x.ResponseLength:
		return upstreamFault(errLong)
	case known && done && n < x.ResponseLength:
		return upstreamFault(errShort)
	case known && x.ResponseLength > 0:
		st.out = appendVarint(append(st.out, frameData), uint64(x.ResponseLength))
	case !known && n > 0:
		st.out = appendVarint(append(st.out, frameData), uint64(n))
	}
	rest := b
	if len(b) <= oneWrite {
		st.out, rest = append(st.out, b...), nil
	}
	err := st.write(framed(st.out, frameHeaders, head))
	if err == nil && len(rest) > 0 {
		err = st.write(rest)
	}
	if err == nil {
		x.BytesOut += int64(len(b))
	}
	return err
}

// pump moves the rest of the body, each piece as soon as it is there.
func (st *stream) pump(x *exchange.Exchange) error {
	mem := st.f.bufs.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer st.f.bufs.Put(mem)
	buf, known := *mem, x.ResponseLength >= 0
	for {
		n, err := x.ResponseBody.Read(buf[maxFrameHeader:])
		if known && x.BytesOut+int64(n) > x.ResponseLength {
			return upstreamFault(errLong)
		}
		if n > 0 {
			b := buf[maxFrameHeader : maxFrameHeader+n]
			if !known {
				b = framed(buf[:maxFrameHeader+n], frameData, n)
			}
			if err := st.write(b); err != nil {
				return err
			}
			x.BytesOut += int64(n)
		}
		if errors.Is(err, io.EOF) {
			if known && x.BytesOut != x.ResponseLength {
				return upstreamFault(errShort)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sendTrailer writes the trailer section, if anything of it goes on.
func (st *stream) sendTrailer(x *exchange.Exchange) error {
	t, some := &x.ResponseTrailer, false
	b := appendPrefix(st.openFrame())
	for i := range t.Len() {
		name, value := t.Field(i)
		if t.Dropped(i) || !x.ResponseEdits.MayTrail(name, t.ID(i)) {
			continue
		}
		b = appendField(b, t.ID(i), name, value)
		some = true
	}
	st.out = b
	if !some {
		return nil
	}
	return st.write(st.closeFrame())
}
