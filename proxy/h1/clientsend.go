package h1

import (
	"errors"
	"io"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// RoundTrip sends the request of x and receives the head of its response into
// x. The response's body is read from x.ResponseBody afterwards. When it fails,
// Progress says how far it came; a request body that was being copied is closed
// then, so that only a request whose body was wholly in memory (or that had
// none) can be tried again.
func (c *ClientConn) RoundTrip(x *exchange.Exchange) (exchange.Progress, *exchange.Fault) {
	c.keep, c.sent, c.sending = true, false, false
	c.body.begin(fixed, 1) // not done: nothing is reusable before the response
	if f := c.setDeadline(x); f != nil {
		c.sent = false
		return exchange.NotSent, f
	}
	c.watch(x)
	progress, f := c.send(x)
	if f == nil {
		progress, f = c.receive(x)
	}
	if f != nil {
		c.keep = false
		c.unwatch()
		c.w.disarmRead()
		c.endSending()
	}
	return progress, f
}

func (c *ClientConn) setDeadline(x *exchange.Exchange) *exchange.Fault {
	c.w.hurry = false
	if x.Deadline.IsZero() {
		if c.w.deadline.Load() != 0 {
			c.w.deadline.Store(0)
		}
		return nil
	}
	at := c.w.sweeper.At(x.Deadline)
	if left := at - c.w.sweeper.Now(); left < int64(realBelow) {
		c.w.hurry = true
		if !time.Now().Before(x.Deadline) {
			return exchange.NewFault(exchange.FromUpstream, exchange.DeadlineExceeded, "no time left for the request")
		}
	}
	c.w.deadline.Store(max(at, 1))
	return nil
}

// send sends the head and what is in memory of the body; the rest is left to a
// goroutine.
func (c *ClientConn) send(x *exchange.Exchange) (exchange.Progress, *exchange.Fault) {
	o := &c.out
	o.w, o.body, o.trailer, o.edits, o.count = &c.w, x.RequestBody, &x.RequestTrailer, &x.RequestEdits, nil
	o.left = max(x.RequestLength, 0)
	switch {
	case x.RequestBody == nil || x.RequestLength == 0:
		o.framing, o.left = noBody, 0
	case x.RequestLength > 0:
		o.framing = fixed
	default:
		o.framing = chunked
	}
	head := take(max(outBuffer, len(x.Request.Buffer())+smallBuffer))
	out, f := c.appendHead(head[:0], x)
	if f != nil {
		give(out)
		return exchange.NotSent, f
	}
	if x.ExpectContinue && o.framing != noBody {
		return c.sendExpecting(x, out)
	}
	done, err := o.start(out)
	if err != nil {
		return c.sendFailed(err)
	}
	if done {
		c.requestSent()
		return exchange.Sent, nil
	}
	c.startSending()
	return exchange.Sent, nil
}

// sendFailed says what a failure of the first write means.
func (c *ClientConn) sendFailed(err error) (exchange.Progress, *exchange.Fault) {
	progress := exchange.NotSent
	if c.out.written > 0 {
		progress = exchange.Sent
	}
	if c.out.fromBody {
		return progress, requestFault(err)
	}
	if c.w.wr.hit() {
		err = errLapsed
	}
	return progress, c.fault(err)
}

// sendExpecting sends the head alone and waits for 100 (Continue) or a final
// response, a bounded time: a backend need not know of it (RFC 9110, 10.1.1).
func (c *ClientConn) sendExpecting(x *exchange.Exchange, head []byte) (exchange.Progress, *exchange.Fault) {
	n, err := c.w.write(head)
	give(head)
	c.out.written = int64(n)
	if err != nil {
		return c.sendFailed(err)
	}
	wait := c.cfg.ExpectTimeout
	if wait <= 0 {
		wait = time.Second
	}
	c.w.armReal(wait)
	err = c.w.fill()
	c.w.disarmRead()
	switch {
	case err == nil:
		// Most likely a head; receive knows whether it is 100.
		c.w.armRead(c.firstByte)
		return exchange.Answered, nil
	case errors.Is(err, errLapsed) && !c.overdue():
		c.startSending()
		return exchange.Sent, nil
	default:
		return exchange.Sent, c.fault(err)
	}
}

// overdue reports whether the exchange's own deadline has passed.
func (c *ClientConn) overdue() bool {
	d := c.w.deadline.Load()
	return d != 0 && c.w.sweeper.At(time.Now()) >= d
}

// requestSent starts the time for the response's first byte.
func (c *ClientConn) requestSent() {
	c.sent = true
	c.w.armRead(c.firstByte)
}

// startSending lets a goroutine copy the rest of the body.
func (c *ClientConn) startSending() {
	c.sending = true
	c.stopped.Store(false)
	c.sendEnd.Store(false)
	if d := c.w.deadline.Load(); d != 0 {
		c.w.armRead(orNever(0)) // the deadline alone
	}
	if c.sender == nil {
		c.sender = make(chan struct{}, 1)
	}
	go c.copyBody()
}

func (c *ClientConn) copyBody() {
	defer func() { c.sender <- struct{}{} }()
	err := c.out.rest()
	if err == nil {
		c.sendEnd.Store(true)
		c.awaitAnswer()
		return
	}
	switch {
	case c.stopped.Load():
	case c.out.fromBody:
		// The request can't be completed: the backend must not take the part
		// for the whole, and nobody waits for an answer.
		c.w.fail(requestFault(err))
	case c.w.wr.hit():
		c.w.fail(exchange.NewFault(exchange.FromUpstream, exchange.BackendTimeout, "backend stopped reading the request"))
	default:
		// The backend doesn't want more; its answer may be on the way.
		c.awaitAnswer()
	}
}

// awaitAnswer starts the time for the response's first byte, unless it came.
func (c *ClientConn) awaitAnswer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.headDone {
		c.w.armRead(c.firstByte)
	}
}

// requestFault says what a failure to read the request's body means.
func requestFault(err error) *exchange.Fault {
	if f, ok := asFault(err); ok {
		return f
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return exchange.NewFault(exchange.FromClient, exchange.ClientGone, "request body: %w", err)
	}
	return exchange.NewFault(exchange.FromInternal, exchange.Internal, "request body: %w", err)
}

// sendGrace is how long a request may take to be complete after its response:
// the backend has seen the last byte before the goroutine that wrote it knows.
const sendGrace = 10 * time.Millisecond

// endSending stops the copying of the request body and waits for its end.
func (c *ClientConn) endSending() {
	if !c.sending {
		return
	}
	if !c.sendEnds() {
		c.stopped.Store(true)
		_ = c.out.body.Close()
		_ = c.w.nc.SetWriteDeadline(past())
		<-c.sender
	}
	c.sending = false
	// Having been stopped counts even if it came too late: the deadline that
	// stopped it is still on the socket.
	c.sent = c.sendEnd.Load() && !c.stopped.Load()
	c.out.body, c.out.trailer, c.out.edits = nil, nil, nil
}

// sendEnds reports whether the copying ends by itself.
func (c *ClientConn) sendEnds() bool {
	select {
	case <-c.sender:
		return true
	default:
	}
	if !c.body.done.Load() || c.w.broken.Load() != nil {
		return false
	}
	t := time.NewTimer(sendGrace)
	defer t.Stop()
	select {
	case <-c.sender:
		return true
	case <-t.C:
		return false
	}
}

// appendHead appends the request's head.
func (c *ClientConn) appendHead(dst []byte, x *exchange.Exchange) ([]byte, *exchange.Fault) {
	path, host := x.Out.Path, x.Out.Host
	if path == "" {
		path = x.Target.Path
	}
	if host == "" {
		host = x.Target.Authority
	}
	if !isToken(x.Method) || path == "" || !validTarget(bytesOf(path)) ||
		!validTarget(bytesOf(x.Target.Query)) || !validTarget(bytesOf(host)) {
		return dst, exchange.NewFault(exchange.FromInternal, exchange.Internal, "request line can't be written")
	}
	dst = append(dst, x.Method...)
	dst = append(dst, ' ')
	dst = append(dst, path...)
	if x.Target.HasQuery {
		dst = append(dst, '?')
		dst = append(dst, x.Target.Query...)
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, host...)
	dst = append(dst, '\r', '\n')
	dst = appendFields(dst, &x.Request, &x.RequestEdits, exchange.Expect)
	dst = c.appendOwn(dst, x)
	return append(dst, '\r', '\n'), nil
}

// appendOwn appends the fields of this connection and of framing.
func (c *ClientConn) appendOwn(dst []byte, x *exchange.Exchange) []byte {
	switch c.out.framing {
	case fixed:
		dst = appendLength(dst, c.out.left)
	case chunked:
		if names := x.Request.Get(exchange.TrailerField); names != "" {
			dst = appendField(dst, "Trailer", names)
		}
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	default:
		// RFC 9110, 8.6: said for methods that could have a body.
		switch x.Method {
		case "POST", "PUT", "PATCH":
			dst = appendLength(dst, 0)
		}
	}
	if x.ExpectContinue && c.out.framing != noBody {
		dst = append(dst, "Expect: 100-continue\r\n"...)
	}
	trailers := x.Request.HasToken(exchange.TE, "trailers")
	if trailers {
		dst = append(dst, "TE: trailers\r\n"...)
	}
	switch {
	case x.Upgrade != "":
		dst = append(dst, "Connection: Upgrade\r\n"...)
		dst = appendField(dst, "Upgrade", x.Upgrade)
	case trailers:
		dst = append(dst, "Connection: TE\r\n"...)
	}
	return dst
}
