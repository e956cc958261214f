package h1

import (
	"errors"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

var errStatus = errors.New("response has no valid status")

// Respond writes the response of x.
func (c *conn) Respond(x *exchange.Exchange) error {
	c.answered = true
	// Until the response is complete: whoever recovers from a panic in between
	// must not have another one follow.
	c.broken = true
	if c.expects {
		// From here on a 100 would come too late, or into the response.
		c.continueMu.Lock()
		c.unasked = c.awaits
		c.awaits = false
		c.continueMu.Unlock()
	}
	if x.Status == 101 && x.Tunnel != nil {
		return c.tunnel(x)
	}
	if x.Status < 200 || x.Status > 999 {
		return errStatus
	}
	c.frame(x)
	head := take(max(outBuffer, len(x.Response.Buffer())+smallBuffer))
	done, err := c.out.start(c.appendHead(head[:0], x))
	if err == nil && !done {
		err = c.out.rest()
	}
	c.out.body, c.out.trailer, c.out.edits = nil, nil, nil
	c.broken = err != nil
	return err
}

// frame decides how the response's end is told (RFC 9112, 6.3).
func (c *conn) frame(x *exchange.Exchange) {
	o := &c.out
	o.w, o.body, o.trailer, o.edits, o.count = &c.w, x.ResponseBody, &x.ResponseTrailer, &x.ResponseEdits, &x.BytesOut
	o.left = max(x.ResponseLength, 0)
	switch {
	case !x.HasResponseBody():
		o.framing = noBody
		if x.ResponseBody != nil {
			_ = x.ResponseBody.Close() // nobody asked for it
		}
	case x.ResponseLength >= 0 || x.ResponseBody == nil:
		o.framing = fixed
	case x.Proto == exchange.HTTP11:
		o.framing = chunked
	default:
		o.framing = untilClose
		c.keep = false
	}
	// Whoever sends what has two readings may mean another request's begin by
	// the next bytes.
	if x.Err != nil && (x.Err.Kind == exchange.Malformed || x.Err.Kind == exchange.BadHost) {
		c.keep, c.unread = false, true
	}
	if c.keep && (c.leaving || c.f.draining.Load() || c.hasBody && !c.body.done.Load() && !c.worthDraining()) {
		c.keep = false
	}
}

// worthDraining reports whether the rest of the request's body may be read and
// thrown away to keep the connection.
func (c *conn) worthDraining() bool {
	switch {
	case c.body.failed.Load():
		return false
	case c.unasked:
		// The client still waits for 100. With a final response instead it may
		// send the body or leave it (RFC 9110, 10.1.1): no way to tell.
		return false
	case !c.body.started.Load():
		if c.body.framing == chunked {
			return c.body.drainBuffered()
		}
		return c.x.RequestLength <= maxDrain
	case c.w.closed.Load():
		return c.x.RequestLength >= 0 && c.x.RequestLength <= maxDrain
	case c.x.Err != nil && c.x.Tries == 0:
		// A policy began to read it, and refused: nobody goes on.
		if c.body.framing == chunked {
			return c.body.drainBuffered()
		}
		return c.body.left <= maxDrain
	default:
		return true // it is being forwarded; finish sees what became of it
	}
}

// appendHead appends the response's head.
func (c *conn) appendHead(dst []byte, x *exchange.Exchange) []byte {
	h, e := &x.Response, &x.ResponseEdits
	dst = appendStatusLine(dst, x.Status)
	altSvc := ""
	if c.f.cfg.AltSvc != nil {
		altSvc = c.f.cfg.AltSvc()
	}
	skip := exchange.Other
	if altSvc != "" {
		skip = exchange.AltSvc // the backend's speaks of itself
	}
	if h.Has(exchange.Connection) {
		dropNamed(h)
	}
	dst = appendFields(dst, h, e, skip)
	if !h.Has(exchange.Date) && !e.Replaces("date", exchange.Date) {
		dst = c.f.appendDate(dst)
	}
	if c.f.cfg.ServerHeader != "" && !h.Has(exchange.Server) && !e.Replaces("server", exchange.Server) {
		dst = appendField(dst, "Server", c.f.cfg.ServerHeader)
	}
	if altSvc != "" && !e.Replaces("alt-svc", exchange.AltSvc) {
		dst = appendField(dst, "Alt-Svc", altSvc)
	}
	dst = c.appendFraming(dst, x)
	switch {
	case !c.keep:
		dst = append(dst, "Connection: close\r\n"...)
	case x.Proto == exchange.HTTP10:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return append(dst, '\r', '\n')
}

func (c *conn) appendFraming(dst []byte, x *exchange.Exchange) []byte {
	switch c.out.framing {
	case fixed:
		return appendLength(dst, c.out.left)
	case chunked:
		if names := x.Response.Get(exchange.TrailerField); names != "" {
			dst = appendField(dst, "Trailer", names)
		}
		return append(dst, "Transfer-Encoding: chunked\r\n"...)
	case noBody:
		// HEAD and 304 may tell the length that GET would have had, 204 never
		// (RFC 9110, 8.6). One of our own on 304 would be that of nothing.
		if x.Method == "HEAD" && x.Status != 204 && x.ResponseLength >= 0 && (x.Status != 304 || x.Response.Has(exchange.ContentLength)) ||
			x.Status == 304 && x.ResponseLength >= 0 && x.Response.Has(exchange.ContentLength) {
			return appendLength(dst, x.ResponseLength)
		}
	}
	return dst
}

// Interim writes a 1xx response, which clients of HTTP/1.0 don't know (RFC
// 9110, 15.2).
func (c *conn) Interim(x *exchange.Exchange, status int, h *exchange.Head) error {
	if x.Proto != exchange.HTTP11 || status < 100 || status > 199 || status == 101 {
		return nil
	}
	buf := take(max(outBuffer, len(h.Buffer())+smallBuffer))
	out := appendFields(appendStatusLine(buf[:0], status), h, nil, exchange.Other)
	out = append(out, '\r', '\n')
	c.continueMu.Lock()
	_, err := c.w.write(out)
	c.continueMu.Unlock()
	give(out)
	return err
}
