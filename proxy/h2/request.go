package h2

import (
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// headers begins a field block: of a new stream, or the trailers of one.
func (c *conn) headers(f *http2.HeadersFrame) error {
	id := f.StreamID
	if id&1 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol) // RFC 9113, 5.1.1
	}
	c.headFor, c.headEnd = id, f.StreamEnded()
	c.selfDep = f.HasPriority() && f.Priority.StreamDep == id
	c.fresh = nil
	switch {
	case id <= c.maxID:
		trailer := &c.block.trailer
		trailer.Reset(trailer.Buffer()[:0])
		c.block.begin(forTrailer, trailer)
	case c.takes(id):
		c.fresh = c.f.stream(c)
		c.fresh.begin(id)
		c.block.begin(forRequest, &c.fresh.x.Request)
	default:
		c.block.begin(forNobody, nil)
	}
	if !f.HeadersEnded() {
		c.headAt.Store(c.clock.Now())
		if len(f.HeaderBlockFragment()) == 0 {
			if err := c.charge(abuse.Empty); err != nil {
				return err
			}
		}
	}
	return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

// takes reports whether a new stream gets served: not when as many are open as
// may be, nor when twice as many handlers run, which the client may have reset,
// nor after a drain.
func (c *conn) takes(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maxID = id
	c.meter.opened++
	if c.leaveAt != 0 && c.draining == 0 && c.err == nil {
		c.announce()
	}
	limit := c.f.cfg.MaxStreams
	return c.draining != drained && len(c.streams) < limit && c.running < 2*limit
}

// fragment takes a piece of the field block, and acts on a complete one.
func (c *conn) fragment(p []byte, last bool) error {
	if len(p) == 0 && !last {
		if err := c.charge(abuse.Empty); err != nil {
			return err
		}
	}
	if err := c.block.write(p, last); err != nil {
		c.dropFresh()
		return err
	}
	if !last {
		return nil
	}
	if c.headAt.Load() != 0 {
		c.headAt.Store(0)
	}
	switch {
	case c.fresh != nil:
		return c.request()
	case c.block.use == forNobody:
		c.mu.Lock()
		ignore := c.draining == drained
		c.mu.Unlock()
		if ignore {
			return nil // the client has been told that it won't be served
		}
		return streamError(c.headFor, http2.ErrCodeRefusedStream)
	default:
		return c.trailers()
	}
}

// dropFresh gives up a stream that never came to life.
func (c *conn) dropFresh() {
	if c.fresh != nil {
		c.fresh.recycle()
		c.fresh = nil
	}
}

// request starts the stream whose head is complete.
func (c *conn) request() error {
	st := c.fresh
	if c.selfDep {
		c.dropFresh()
		return streamError(c.headFor, http2.ErrCodeProtocol)
	}
	c.fresh = nil
	st.fill(c.block, c.headEnd)
	c.mu.Lock()
	bearable := true
	if f := st.x.Fault; f != nil {
		kind := abuse.Headers
		switch {
		case st.malformed:
			bearable = c.gaveUp()
			kind = abuse.Malformed
		case f.Kind == exchange.Malformed:
			kind = abuse.Refused
		}
		bearable = c.bear(kind) && bearable
	}
	if !bearable {
		c.mu.Unlock()
		st.recycle()
		return errCalm
	}
	if c.streams == nil {
		c.streams = make(map[uint32]*stream, 8)
	}
	c.streams[st.id] = st
	st.known = true
	c.running++
	c.mu.Unlock()
	c.f.busy.Add(1)
	if c.f.crew.start(job{st: st}) {
		return nil
	}
	c.mu.Lock()
	c.forget(st)
	c.running--
	c.mu.Unlock()
	c.f.busy.Add(-1)
	st.recycle()
	return streamError(c.headFor, http2.ErrCodeRefusedStream)
}

// trailers takes the second field block of a stream (RFC 9113, 8.1).
func (c *conn) trailers() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[c.headFor]
	switch {
	case st == nil && c.ours.has(c.headFor):
		if !c.bear(abuse.Stray) {
			return errCalm
		}
		return nil // sent before our RST_STREAM arrived
	case st == nil:
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	case st.remoteEnd:
		return streamError(st.id, http2.ErrCodeStreamClosed)
	case !c.headEnd || c.block.bad != "" || c.block.tooLarge || st.declared >= 0 && st.received != st.declared:
		return streamError(st.id, http2.ErrCodeProtocol)
	}
	st.trailer, c.block.trailer = c.block.trailer, st.trailer
	st.remoteEnd = true
	st.reader.Broadcast()
	if st.localEnd {
		c.forget(st)
	}
	return nil
}

// fill makes the exchange of a decoded head.
func (st *stream) fill(b *block, end bool) {
	x := &st.x
	if b.now.IsZero() {
		b.now = time.Now()
	}
	x.Start = b.now
	x.Method, x.RawTarget, x.RawHost = b.method, b.path, b.authority
	if x.RawHost == "" {
		x.RawHost = b.host
	}
	st.remoteEnd = end
	if b.tooLarge || b.size > b.maxSize+5*32 || b.fields > b.maxFields+5 {
		st.refuse(exchange.HeadersTooLarge, "request head")
	} else if why := st.flaw(b); why != "" {
		st.malformed = true
		st.refuse(exchange.Malformed, why)
	} else if b.twice {
		st.refuse(exchange.Malformed, "several Authorization fields")
	} else if len(b.path) > st.c.f.cfg.MaxURI {
		st.refuse(exchange.URITooLong, "request target")
	}
	if x.Method == "" {
		x.Method = "GET" // for the log; it is refused
	}
	if x.Fault != nil || end {
		return
	}
	st.declared = b.length
	x.RequestLength = b.length
	if b.protocol != "" {
		x.RequestLength = 0 // what follows is the tunnel's
		return
	}
	if b.length != 0 {
		x.RequestBody = (*requestBody)(st)
	}
	if x.Request.Has(exchange.Expect) && x.RequestBody != nil {
		x.ExpectContinue = true
	}
}

// flaw says why a head is malformed, or "".
func (st *stream) flaw(b *block) string {
	x := &st.x
	switch {
	case b.bad != "":
		return b.bad
	case b.method == "":
		return "no :method"
	case !exchange.IsToken(b.method):
		return ":method is no token"
	case b.method == "CONNECT" && b.protocol == "":
		// The form for tunnels has no :scheme and :path; this is no forward proxy.
		return "CONNECT"
	case b.scheme == "" || b.path == "":
		return "no :scheme or no :path"
	case b.scheme != "http" && b.scheme != "https":
		return ":scheme is neither http nor https"
	case b.path[0] != '/' && (b.path != "*" || b.method != "OPTIONS"):
		return ":path doesn't start with /"
	case b.authority != "" && x.Request.Has(exchange.Host) && !exchange.EqualFold(b.host, b.authority):
		return ":authority and Host differ" // RFC 9113, 8.3.1; an empty Host differs, too
	case x.Request.Count(exchange.Expect) > 1 || x.Request.Has(exchange.Expect) && !exchange.EqualFold(x.Request.Get(exchange.Expect), "100-continue"):
		st.refuse(exchange.Expectation, "Expect")
	}
	if b.protocol != "" {
		return st.flawConnect(b)
	}
	if st.remoteEnd && b.length > 0 {
		return "Content-Length without a body"
	}
	return ""
}

// flawConnect looks at an extended CONNECT (RFC 8441), which becomes what a
// websocket's handshake is in HTTP/1.1.
func (st *stream) flawConnect(b *block) string {
	x := &st.x
	switch {
	case b.method != "CONNECT":
		return ":protocol goes with CONNECT only"
	case b.authority == "":
		return "CONNECT without :authority"
	case st.remoteEnd || b.length >= 0:
		return "CONNECT with a body"
	case b.protocol != "websocket":
		st.refuse(exchange.NotImplemented, ":protocol")
		return ""
	}
	x.Method = "GET"
	x.Upgrade = "websocket"
	st.connect = true
	for i := range x.Request.Len() {
		if name, _ := x.Request.Field(i); name == "sec-websocket-key" {
			x.Request.Drop(i) // it has no meaning here
		}
	}
	// A backend that speaks HTTP/1.1 wants a nonce (RFC 6455, 4.1).
	x.Request.Append("sec-websocket-key", newNonce())
	return ""
}

// refuse sets the exchange's fault, the first one.
func (st *stream) refuse(kind exchange.Kind, why string) {
	if st.x.Fault == nil {
		st.x.Fault = exchange.NewFault(exchange.FromClient, kind, "%s", why)
	}
}
