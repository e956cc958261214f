package h1

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// maxInterims bounds the 1xx responses before a final one.
const maxInterims = 8

// receive reads response heads up to the final one.
func (c *ClientConn) receive(x *exchange.Exchange) (exchange.Progress, *exchange.Fault) {
	progress := exchange.Sent
	for interims := 0; ; interims++ {
		if f := c.readHead(x, &progress); f != nil {
			return progress, f
		}
		status := c.p.status
		if status >= 200 || status == 101 {
			break
		}
		if interims == maxInterims {
			return progress, c.malformed("too many interim responses")
		}
		// It has no body, but what frames one must make sense: whoever reads it
		// otherwise would take the next head for a part of it.
		if _, _, bad := framingOf(&x.Response, c.p.minor); bad != nil {
			return progress, c.fault(bad)
		}
		if f := c.interim(x, status); f != nil {
			return progress, f
		}
	}
	if c.sending {
		c.mu.Lock()
		c.headDone = true
		c.mu.Unlock()
	}
	c.w.disarmRead()
	if c.w.rd.hit() {
		return progress, c.fault(errLapsed)
	}
	return progress, c.finalHead(x)
}

func (c *ClientConn) malformed(why string) *exchange.Fault {
	return exchange.NewFault(exchange.FromUpstream, exchange.BackendMalformed, "%s", why)
}

// readHead reads one head into x.Response.
func (c *ClientConn) readHead(x *exchange.Exchange, progress *exchange.Progress) *exchange.Fault {
	w := &c.w
	if w.buf == nil {
		if err := w.awaitHead(); err != nil {
			return c.fault(err)
		}
	}
	w.startHead()
	c.p.reset(0)
	x.Response.Reset(w.buf)
	for {
		if w.w > 0 {
			*progress = exchange.Answered
		}
		done, f := c.p.response(w.buf, w.w, &x.Response, c.lim)
		if f != nil {
			return c.fault(f)
		}
		if done {
			w.endHead(c.p.pos)
			return nil
		}
		w.growHead(&x.Response)
		if err := w.fill(); err != nil {
			return c.fault(err)
		}
	}
}

// awaitHead waits for the response without holding a buffer: a thousand slow
// answers cost no memory here.
func (w *wire) awaitHead() error {
	for {
		if err := w.await(); err != errWoken {
			return err
		}
	}
}

// interim passes a 1xx response on, but for 100: that one is between us and the
// backend, and the front makes its own (RFC 9110, 15.2.1).
func (c *ClientConn) interim(x *exchange.Exchange, status int) *exchange.Fault {
	if status == 100 {
		// Once sending, x.ExpectContinue is the body's reader's.
		if !c.sending && !c.sent && x.ExpectContinue && c.out.framing != noBody {
			c.w.disarmRead() // the response's time begins with the request's end
			c.startSending()
		}
		return nil
	}
	// Not hit, which also says that a deadline is set on the socket: one that
	// has passed would have failed the read.
	if c.w.rd.by.Load() == lapsed {
		return c.fault(errLapsed)
	}
	if err := x.Front.Interim(x, status, &x.Response); err != nil {
		return exchange.NewFault(exchange.FromClient, exchange.ClientGone, "interim response: %w", err)
	}
	return nil
}

// finalHead fills x with the head that was read.
func (c *ClientConn) finalHead(x *exchange.Exchange) *exchange.Fault {
	h := &x.Response
	kind, length, bad := framingOf(h, c.p.minor)
	if bad != nil {
		return c.fault(bad)
	}
	x.Status = c.p.status
	x.ResponseBody, x.ResponseLength, x.Tunnel = nil, 0, nil
	c.keep = c.p.minor == 1
	if h.Has(exchange.Connection) {
		c.keep = c.keep && !h.HasToken(exchange.Connection, "close")
		dropNamed(h)
	}
	if x.Status == 101 {
		return c.switched(x)
	}
	if !c.sending && !c.sent {
		c.keep = false // it answered instead of 100: the body won't be sent
	}
	c.beginBody(x, kind, length)
	if c.sending && x.Status >= 300 {
		// The backend has refused early: what is left of the request is of no
		// use to it. After a success both sides may stream on.
		c.endSending()
	}
	return nil
}

func (c *ClientConn) beginBody(x *exchange.Exchange, kind framing, length int64) {
	if x.Method == "HEAD" || x.Status == 204 || x.Status == 304 {
		// No body, whatever the head says (RFC 9112, 6.3).
		if x.ResponseLength = -1; kind == fixed {
			x.ResponseLength = length
		}
		c.body.begin(noBody, 0)
		c.bodyEnded()
		return
	}
	if kind == noBody {
		kind, length = untilClose, -1
		c.keep = false
	}
	x.ResponseLength = length
	x.ResponseTrailer.Reset(c.trailer[:0])
	c.body.trailer = &x.ResponseTrailer
	c.body.begin(kind, length)
	if c.body.done.Load() {
		c.bodyEnded()
		return
	}
	x.ResponseBody = &c.body
}

// switched makes the connection a tunnel (RFC 9110, 7.8). The exchange's
// deadline ends with the upgrade: it is for an answer, and that was it.
func (c *ClientConn) switched(x *exchange.Exchange) *exchange.Fault {
	h := &x.Response
	c.keep = false
	if x.Upgrade == "" || !h.HasToken(exchange.Connection, "upgrade") ||
		!exchange.EqualFold(h.Get(exchange.UpgradeField), x.Upgrade) {
		return exchange.NewFault(exchange.FromUpstream, exchange.UpgradeRefused,
			"backend switched to %.40q, asked for %.40q", h.Get(exchange.UpgradeField), x.Upgrade)
	}
	c.unwatch() // the front reads from the client now, and so knows
	c.w.deadline.Store(0)
	c.w.hurry = false
	c.w.detach()
	x.ResponseLength = -1
	x.Tunnel = &c.tunnel
	return nil
}
