package h2

import (
	"errors"
	"io"
	"strconv"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

var (
	errShort = errors.New("the body is shorter than its announced length")
	errLong  = errors.New("the body is longer than its announced length")
)

// Interim implements exchange.Front.
func (st *stream) Interim(_ *exchange.Exchange, status int, h *exchange.Head) error {
	if status < 100 || status > 199 || status == 101 {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "interim response %d", status)
	}
	block := appendStatus(make([]byte, 0, 256), status)
	if h != nil {
		block = appendHead(block, h, nil)
	}
	c := st.c
	c.mu.Lock()
	if st.answered {
		c.mu.Unlock()
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "interim response %d after the final one", status)
	}
	err := st.sendHead(block, false)
	c.flush()
	return asFault(err)
}

// asFault is an error of sending to the client as a fault.
func asFault(err error) error {
	var f *exchange.Fault
	if err == nil || errors.As(err, &f) {
		return err
	}
	return &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: err}
}

// Respond implements exchange.Front.
func (st *stream) Respond(x *exchange.Exchange) error {
	c := st.c
	if st.malformed {
		// RFC 9113, 8.1.1: a stream error; there is nobody to explain it to.
		c.mu.Lock()
		st.abort(http2.ErrCodeProtocol)
		c.flush()
		return nil
	}
	tunnel := x.Status == 101 && x.Tunnel != nil && st.connect
	if !tunnel && (x.Status < 200 || x.Status > 999) {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "response status %d over HTTP/2", x.Status)
	}
	if st.answered { // which nobody else sets
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "second response")
	}
	st.encode(x, tunnel)
	if tunnel {
		return st.join(x)
	}
	var b []byte
	done := true
	if x.HasResponseBody() && x.ResponseBody != nil {
		b, done = x.ResponseBody.Next()
	}
	if done {
		return st.whole(x, b)
	}
	c.mu.Lock()
	st.answered = true
	err := st.sendHead(st.block, false)
	if err == nil && len(b) > 0 {
		err = st.sendBody(x, b, false)
	}
	c.flush()
	if err == nil {
		err = st.pump(x)
	}
	return st.ended(err)
}

// whole sends a response that is complete in memory: one write, if it is small.
func (st *stream) whole(x *exchange.Exchange, b []byte) error {
	c := st.c
	trailer := x.ResponseBody != nil && x.ResponseTrailer.Len() > 0
	c.mu.Lock()
	st.answered = true
	err := st.sendHead(st.block, len(b) == 0 && !trailer)
	if err == nil && (len(b) > 0 || trailer) {
		err = st.sendBody(x, b, true)
	}
	if err == nil {
		st.close()
	}
	c.flush()
	return st.ended(err)
}

// sendBody sends a piece of the body, the last one with what ends the stream;
// mu is held.
func (st *stream) sendBody(x *exchange.Exchange, b []byte, last bool) error {
	n := x.BytesOut + int64(len(b))
	if x.ResponseLength >= 0 && (n > x.ResponseLength || last && n < x.ResponseLength) {
		err := errShort
		if n > x.ResponseLength {
			err = errLong
		}
		return &exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendMalformed, Err: err}
	}
	var trailer bool
	if last && x.ResponseTrailer.Len() > 0 {
		st.block, trailer = appendTrailer(st.block[:0], &x.ResponseTrailer, &x.ResponseEdits)
	}
	if len(b) > 0 || last && !trailer {
		if err := st.send(b, last && !trailer); err != nil {
			return err
		}
		x.BytesOut = n
	}
	if trailer {
		return st.sendHead(st.block, true)
	}
	return nil
}

// pump sends the body as it comes, each piece at once.
func (st *stream) pump(x *exchange.Exchange) error {
	c := st.c
	buf := c.pools.get(midBuffer)
	defer c.pools.put(buf)
	for {
		n, err := x.ResponseBody.Read(buf[:midBuffer])
		last := err == io.EOF
		if err != nil && !last {
			return err
		}
		c.mu.Lock()
		if n > 0 || last {
			err = st.sendBody(x, buf[:n], last)
		}
		if last && err == nil {
			st.close()
		}
		c.flush()
		if last || err != nil {
			return err
		}
	}
}

// ended cuts the stream off when the response broke.
func (st *stream) ended(err error) error {
	if err == nil {
		return nil
	}
	c := st.c
	c.mu.Lock()
	st.abort(http2.ErrCodeInternal)
	c.flush()
	return asFault(err)
}

// close ends the stream behind a complete response. A client that is still
// sending is told to stop (RFC 9113, 8.1); mu is held.
func (st *stream) close() {
	c := st.c
	if !st.known {
		return
	}
	if !st.remoteEnd {
		c.putReset(st.id, http2.ErrCodeNo)
		c.ours.add(st.id)
		st.shut()
	}
	c.forget(st)
}

// abort resets the stream, unless that is over; mu is held.
func (st *stream) abort(code http2.ErrCode) {
	c := st.c
	if !st.known {
		return
	}
	if c.err == nil {
		c.putReset(st.id, code)
	}
	c.ours.add(st.id)
	c.forget(st)
	st.shut()
}

// encode makes the response's head in st.block.
func (st *stream) encode(x *exchange.Exchange, tunnel bool) {
	f := st.c.f
	b := st.block[:0]
	if tunnel {
		b = appendStatus(b, 200) // RFC 8441, 5
		st.dropHandshake(x)
	} else {
		b = appendStatus(b, x.Status)
	}
	r, e := &x.Response, &x.ResponseEdits
	b = appendHead(b, r, e)
	if !r.Has(exchange.Date) && !e.Replaces("date", exchange.Date) {
		b = appendField(b, exchange.Date, "date", *f.date.Load())
	}
	if s := f.cfg.ServerHeader; s != "" && !r.Has(exchange.Server) && !e.Replaces("server", exchange.Server) {
		b = appendField(b, exchange.Server, "server", s)
	}
	if f.cfg.AltSvc != nil && !r.Has(exchange.AltSvc) && !e.Replaces("alt-svc", exchange.AltSvc) {
		if s := f.cfg.AltSvc(); s != "" {
			b = appendField(b, exchange.AltSvc, "alt-svc", s)
		}
	}
	if n := contentLength(x); n >= 0 && !tunnel {
		b = appendLength(b, n)
	}
	st.block = b
}

// dropHandshake leaves out what only HTTP/1.1 needs.
func (st *stream) dropHandshake(x *exchange.Exchange) {
	for i := range x.Response.Len() {
		if name, _ := x.Response.Field(i); exchange.EqualFold(name, "sec-websocket-accept") {
			x.Response.Drop(i)
		}
	}
}

// contentLength is the Content-Length to send, -1 for none.
func contentLength(x *exchange.Exchange) int64 {
	switch {
	case x.Status == 204:
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
	if x.Method == "HEAD" && x.ResponseLength > 0 {
		return x.ResponseLength
	}
	return -1
}
