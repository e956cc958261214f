package h1

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// ClientConfig is what the connections to a backend work with.
type ClientConfig struct {
	Sweeper *sweep.Sweeper

	FirstByte     time.Duration // for the response's head, from the request's end; 0: no limit
	Idle          time.Duration // in which some byte of a body or tunnel must move; 0: no limit
	ExpectTimeout time.Duration // how long 100 (Continue) is waited for; 0: one second

	MaxHeaders, MaxFields int // bounds of a response's head, and of its trailers
}

func (cfg *ClientConfig) limits() limits {
	return limits{bytes: orDefault(cfg.MaxHeaders), fields: orDefault(cfg.MaxFields)}
}

// ClientConn is a connection to a backend, for one exchange at a time:
//
//	RoundTrip ── the response's body is read ── Reusable ─(true)─▸ RoundTrip …
//	                                               └─(false)─▸ Close
//
// Reusable or Close must be called before the exchange ends: they wait for
// whatever still uses it.
type ClientConn struct {
	cfg   *ClientConfig
	w     wire
	place sweep.Place

	p         parser
	lim       limits
	body      body
	out       outgoing
	tunnel    tunnel
	keep      bool   // both sides want the connection to go on
	sent      bool   // the request was sent completely
	trailer   []byte // memory of the response's trailers
	firstByte time.Duration
	shut      atomic.Bool

	sender  chan struct{} // gets one when the goroutine that copies the request body ends
	sending bool          // it was started
	sendEnd atomic.Bool   // it has sent everything
	stopped atomic.Bool   // it is told to end

	peek  func(fd uintptr) // sets quiet
	quiet bool

	mu       sync.Mutex
	x        *exchange.Exchange // while it waits for the backend; under mu
	turn     uint64             // counts exchanges; under mu
	headDone bool               // under mu
	watched  bool               // x is set; of the exchange's goroutine alone

	swept uint64 // the turn that Sweep saw last; of Sweep alone
}

var (
	_ sweep.Member = (*ClientConn)(nil)
	_ owner        = (*ClientConn)(nil)
)

// NewClientConn makes an open connection to a backend usable. Close must be
// called in the end.
func NewClientConn(nc net.Conn, cfg *ClientConfig) *ClientConn {
	c := &ClientConn{cfg: cfg, lim: cfg.limits(), firstByte: orNever(cfg.FirstByte), keep: true, sent: true}
	c.w.init(nc, cfg.Sweeper, cfg.Idle)
	c.tunnel.c = c
	c.peek = func(fd uintptr) { c.quiet = quiet(fd) }
	c.body.w, c.body.o, c.body.lim, c.body.reply = &c.w, c, c.lim, true
	cfg.Sweeper.Add(c, &c.place)
	return c
}

// Sweep looks at the limits, and whether the client of an exchange that takes
// longer than a sweep is still there: the backend needn't work for nobody.
func (c *ClientConn) Sweep(now int64) {
	c.w.sweep(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.x == nil {
		return
	}
	if c.swept != c.turn {
		c.swept = c.turn
		return
	}
	if c.x.Gone() {
		c.w.fail(exchange.NewFault(exchange.FromClient, exchange.ClientGone, "client left before the response was complete"))
	}
}

func (c *ClientConn) watch(x *exchange.Exchange) {
	c.mu.Lock()
	c.x = x
	c.turn++
	c.headDone = false
	c.mu.Unlock()
	c.watched = true
}

// unwatch must come before the exchange ends: Sweep doesn't look at it after.
func (c *ClientConn) unwatch() {
	if !c.watched {
		return
	}
	c.watched = false
	c.mu.Lock()
	c.x = nil
	c.mu.Unlock()
}

// Reusable reports whether the connection can carry another exchange: the
// response was read to its end, the request sent completely, both sides want to
// go on, nothing unexpected came. It ends the exchange: the connection gives
// its buffer back, and what is left of the request body isn't sent.
func (c *ClientConn) Reusable() bool {
	c.unwatch()
	c.endSending()
	ok := c.keep && c.sent && c.body.done.Load() && c.w.buffered() == 0 &&
		!c.shut.Load() && !c.w.closed.Load() && c.w.broken.Load() == nil &&
		c.w.rd.by.Load() != lapsed && c.w.wr.by.Load() != lapsed
	c.w.release()
	return ok
}

// Alive reports whether an idle connection is still open and silent: bytes
// that no request asked for are as bad as an end (RFC 9112, 9.5). It costs a
// system call.
func (c *ClientConn) Alive() bool {
	if c.shut.Load() || c.w.broken.Load() != nil {
		return false
	}
	if c.w.sock == nil {
		return true
	}
	c.quiet = false
	return c.w.sock.Control(c.peek) == nil && c.quiet
}

// Close closes the connection and ends whatever uses it.
func (c *ClientConn) Close() error {
	c.unwatch()
	c.w.fail(exchange.NewFault(exchange.FromInternal, exchange.Internal, "backend connection closed"))
	c.endSending()
	err := c.closeSocket()
	c.w.release()
	return err
}

func (c *ClientConn) closeSocket() error {
	if !c.shut.CompareAndSwap(false, true) {
		return nil
	}
	c.cfg.Sweeper.Remove(&c.place)
	return c.w.nc.Close()
}

// bodyWanted is nothing to a response.
func (c *ClientConn) bodyWanted() {}

func (c *ClientConn) bodyEnded() {
	c.unwatch()
	if c.body.trailer != nil && c.body.framing == chunked {
		if c.trailer = c.body.trailer.Buffer()[:0]; cap(c.trailer) > smallBuffer {
			c.trailer = nil
		}
	}
}

func (c *ClientConn) bodyFault(err error) error {
	if errors.Is(err, errClosed) {
		return err
	}
	return c.fault(err)
}

// fault says what a failure to read from the backend means.
func (c *ClientConn) fault(err error) *exchange.Fault {
	if f := c.w.broken.Load(); f != nil {
		return f
	}
	if f, ok := asFault(err); ok {
		return f
	}
	var bad *flaw
	switch {
	case errors.As(err, &bad):
		return exchange.NewFault(exchange.FromUpstream, exchange.BackendMalformed, "%s", bad.why)
	case errors.Is(err, errLapsed):
		if d := c.w.deadline.Load(); d != 0 && c.w.sweeper.At(time.Now()) >= d {
			return exchange.NewFault(exchange.FromUpstream, exchange.DeadlineExceeded, "request took too long")
		}
		return exchange.NewFault(exchange.FromUpstream, exchange.BackendTimeout, "backend sent nothing in time")
	case errors.Is(err, io.EOF):
		return exchange.NewFault(exchange.FromUpstream, exchange.BackendReset, "backend closed the connection: %w", io.ErrUnexpectedEOF)
	default:
		return exchange.NewFault(exchange.FromUpstream, exchange.BackendReset, "backend: %w", err)
	}
}
