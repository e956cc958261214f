package h3

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// goAwayGrace is for the requests that a client has sent before it has heard
	// that it shouldn't.
	goAwayGrace = 500 * time.Millisecond
	// linger is how long a connection that is going away stays after its last
	// response: quic-go doesn't tell when that has arrived, and forgets what
	// hasn't when it closes.
	linger = 3 * time.Second
	// glance is how often a connection that is going away is looked at.
	glance = 250 * time.Millisecond
	// maxStreamID is the largest id of a request (RFC 9114, 5.2).
	maxStreamID = 1<<62 - 4
)

// conn is a client's connection. It begins when its handshake has completed, or
// before that with early data.
type conn struct {
	f       *Front
	quic    *quic.Conn
	visitor *visitor
	info    atomic.Pointer[exchange.Conn] // replaced once, when the handshake completes
	whole   atomic.Bool                   // it has

	control *quic.SendStream
	idle    *time.Timer  // looks whether the connection is of use
	active  atomic.Int64 // requests in progress
	quiet   atomic.Int64 // when the last one ended, in Unix nanoseconds
	next    atomic.Int64 // one more than the id of the last request, in steps of 4
	leaving atomic.Bool  // the client has been told
	last    atomic.Bool  // no further request is served
	late    bool         // the front drained when it came; of the goroutine of serve

	seen [4]atomic.Bool // the client's unidirectional streams, by type

	blamed atomic.Bool // it has been closed for what the client did

	mu     sync.Mutex // guards what follows
	score  abuse.Score
	resets abuse.Resets
}

// serve is the life of a connection.
func (f *Front) serve(q *quic.Conn, v *visitor) {
	defer f.done.Done()
	c := &conn{f: f, quic: q, visitor: v}
	c.info.Store(c.describe(&tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true, NegotiatedProtocol: "h3", ServerName: v.serverName}))
	if !v.early.Load() {
		if !c.handshaken() {
			return
		}
	} else {
		f.done.Go(func() { c.handshaken() })
	}
	f.conns.Add(1)
	defer f.conns.Add(-1)
	if !c.open() {
		return
	}
	defer f.forget(c)
	f.done.Go(c.acceptUni)
	for {
		str, err := q.AcceptStream(context.Background())
		if err != nil {
			return // the connection has ended
		}
		c.request(str)
	}
}

// handshaken waits for the end of the handshake, which proves that the client
// is there now, and says whether it went well.
func (c *conn) handshaken() bool {
	select {
	case <-c.quic.HandshakeComplete():
	case <-c.quic.Context().Done():
		return false
	}
	if !c.f.gate.settle(c.visitor) {
		c.close(codeExcessiveLoad)
		return false
	}
	state := c.quic.ConnectionState().TLS
	c.info.Store(c.describe(&state))
	c.whole.Store(true)
	return true
}

func (c *conn) describe(state *tls.ConnectionState) *exchange.Conn {
	i := &exchange.Conn{
		Listener: c.f.cfg.Listener,
		Remote:   addrPort(c.quic.RemoteAddr()),
		Local:    addrPort(c.quic.LocalAddr()),
		TLS:      state,
		Scheme:   "https",
		Shard:    c.visitor.shard,
	}
	i.RemoteIP = i.Remote.Addr().String()
	return i
}

// open sends the settings, which come first (RFC 9114, 6.2.1).
func (c *conn) open() bool {
	var err error
	if c.control, err = c.quic.OpenUniStream(); err != nil {
		// The client has to allow three (RFC 9114, 6.2).
		c.fail(&connError{codeClosedCritical, "no stream is allowed for control"})
		return false
	}
	setting := appendVarint([]byte{settingMaxFieldSection}, uint64(c.f.maxSection))
	b := append([]byte{streamControl, frameSettings, byte(len(setting))}, setting...)
	if c.control.TryWriteAll(b) != nil {
		c.fail(&connError{codeClosedCritical, "no room is given on the control stream"})
		return false
	}
	c.quiet.Store(time.Now().UnixNano())
	c.idle = time.AfterFunc(c.f.cfg.IdleTimeout, c.look)
	context.AfterFunc(c.quic.Context(), func() { c.idle.Stop() })
	c.f.remember(c)
	return true
}

// look closes a connection that has had nothing to do for long, and otherwise
// comes back when it may have.
func (c *conn) look() {
	limit, again := c.f.cfg.IdleTimeout, c.f.cfg.IdleTimeout
	if c.last.Load() {
		limit, again = min(limit, c.linger()), glance
	}
	left := limit
	if c.active.Load() == 0 {
		left -= time.Since(time.Unix(0, c.quiet.Load()))
	}
	if left <= 0 {
		c.close(codeNoError)
		return
	}
	c.idle.Reset(min(left, again))
}

// linger is how long a connection that is going away stays. New clients wait for
// the end of a port that has been hushed: then it is enough for what is lost to
// be sent three times again (RFC 9002, 6.2), and arrive.
func (c *conn) linger() time.Duration {
	if !c.visitor.port.hushed.Load() {
		return linger
	}
	const ackDelay = 25 * time.Millisecond // what clients may wait before they acknowledge
	s := c.quic.ConnectionStats()
	return min(linger, 8*(s.SmoothedRTT+4*s.MeanDeviation+ackDelay))
}

func (c *conn) close(code code) {
	_ = c.quic.CloseWithError(quic.ApplicationErrorCode(code), "") // never an error
}

// fail ends the connection for what the client did.
func (c *conn) fail(e *connError) {
	k := abuse.Malformed
	if e.code == codeExcessiveLoad {
		k = abuse.Unknown
	}
	c.closeFor(k, e)
}

// request hands a new stream to a worker.
func (c *conn) request(str *quic.Stream) {
	c.next.Store(int64(str.StreamID()) + 4)
	c.active.Add(1)
	if c.last.Load() { // RFC 9114, 5.2
		str.CancelRead(quic.StreamErrorCode(codeRequestRejected))
		str.CancelWrite(quic.StreamErrorCode(codeRequestRejected))
		str.ReleaseStreamCredit()
		c.active.Add(-1)
		return
	}
	if c.late {
		c.leave()
	}
	c.f.streams.Add(1)
	st := c.f.pool.Get().(*stream) //nolint:forcetypeassert // the pool holds nothing else
	st.f, st.c, st.str = c.f, c, str
	c.f.crew.start(st)
}

// ended says that a request's stream is done with.
func (c *conn) ended(str *quic.Stream) {
	// Only now may the client open another: so there are never more handlers
	// than streams allowed, however fast it resets its requests.
	str.ReleaseStreamCredit()
	c.f.streams.Add(-1)
	if c.active.Add(-1) == 0 {
		c.quiet.Store(time.Now().UnixNano())
	}
}

// leave asks the client to go, in two steps (RFC 9114, 5.2): first it learns
// that it should send no more; what it has sent by then is still served. It
// reports false when that has been done already.
func (c *conn) leave() bool {
	if c.leaving.Swap(true) {
		return false
	}
	c.goAway(maxStreamID)
	time.AfterFunc(goAwayGrace, func() {
		c.last.Store(true)
		c.goAway(uint64(c.next.Load()))
		c.look()
	})
	return true
}

func (c *conn) goAway(id uint64) {
	v := appendVarint(nil, id)
	// A client that gives no room for it will see the connection end.
	_ = c.control.TryWriteAll(append([]byte{frameGoAway, byte(len(v))}, v...))
}

// addrPort is a UDP address without the IPv4-in-IPv6 form that a dual-stack
// socket reports.
func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
