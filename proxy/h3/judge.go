package h3

import (
	"context"
	"errors"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// freeOdd is how many frames of unknown types, and of DATA with nothing in them,
// a stream may have: some clients grease (RFC 9114, 7.2.8), some end so.
const freeOdd = 4

// bear charges the client. At some point the connection is asked to end, and at
// another closed. What QUIC itself makes of packets is quic-go's business.
func (c *conn) bear(k abuse.Kind) {
	c.mu.Lock()
	verdict, worst := c.score.Add(time.Now().UnixNano(), k, 1), c.score.Worst()
	c.mu.Unlock()
	switch verdict {
	case abuse.Leave:
		if c.leave() {
			c.f.abusive(c, worst, false)
		}
	case abuse.Cut:
		c.closeFor(worst, &connError{codeExcessiveLoad, "too much of what is of no use: " + worst.String()})
	}
}

// gaveUp charges a request that the client gave up, unless it is one of the few
// of which there are in earnest.
func (c *conn) gaveUp() {
	c.mu.Lock()
	many := c.resets.Reset(time.Now().UnixNano(), uint64(c.next.Load()/4), c.f.cfg.MaxStreams)
	c.mu.Unlock()
	if many {
		c.bear(abuse.Reset)
	}
}

// closeFor ends the connection for what the client did.
func (c *conn) closeFor(k abuse.Kind, e *connError) {
	if c.blamed.Swap(true) || c.quic.Context().Err() != nil {
		return // it has ended, or is about to
	}
	c.f.log.WithError(e).WithField("client", c.quic.RemoteAddr()).Debug("connection closed")
	c.f.abusive(c, k, true) // first: the client may be back as soon as it hears of the end
	c.close(e.code)
}

// abusive tells of a connection, once its handshake has proven who is at the
// address: in early data, anybody could be blamed.
func (f *Front) abusive(c *conn, k abuse.Kind, closed bool) {
	if f.cfg.Abusive != nil && c.whole.Load() {
		f.cfg.Abusive(c.info.Load(), k, closed)
	}
}

// odd counts a frame that brings nothing.
func (st *stream) odd(k abuse.Kind) {
	if st.odds++; st.odds > freeOdd {
		st.c.bear(k)
	}
}

// judge charges the client for a request that ended in a fault.
func (st *stream) judge(f *exchange.Fault) {
	switch {
	case st.mute: // malformed
		st.c.bear(abuse.Malformed)
		st.c.gaveUp()
	case f.Kind == exchange.ClientGone:
		if st.abandoned(f.Err) {
			st.c.gaveUp()
		}
	case st.x.Fault == nil:
		if f.Breach() {
			st.c.bear(abuse.Refused)
		}
	case f.Kind == exchange.ClientTimeout:
		st.c.bear(abuse.Slow)
	case f.Kind == exchange.HeadersTooLarge, f.Kind == exchange.URITooLong:
		st.c.bear(abuse.Headers)
	case f.Breach():
		st.c.bear(abuse.Refused)
	}
}

// abandoned reports whether the client reset the stream, rather than left with
// the whole connection.
func (st *stream) abandoned(err error) bool {
	var e *quic.StreamError
	return errors.As(err, &e) && e.Remote || errors.As(context.Cause(st.ctx()), &e) && e.Remote
}
