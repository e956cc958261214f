package h1

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// phase is what a client's connection is at.
type phase uint32

const (
	fresh  phase = iota // no request so far
	idle                // waiting for the next request
	parked              // the same, for long: on a goroutine with a small stack
	busy                // with a request
)

const (
	maxDrain   = 64 << 10        // unread request bytes that keeping a connection is worth
	maxLinger  = 8 << 20         // unread bytes that are thrown away before closing
	lingerTime = 3 * time.Second // and for how long
)

// conn is a client's connection, and the Front of each exchange on it.
type conn struct {
	f     *Front
	info  *exchange.Conn
	w     wire
	place sweep.Place
	phase atomic.Uint32
	ahead atomic.Bool // bytes of the next request are buffered

	*turn // nil while it waits for a request

	hasBody  bool
	keep     bool // the connection may go on after this exchange
	answered bool
	broken   bool // the response wasn't completed
	unread   bool // the peer may be sending: linger

	// 100 (Continue) comes from whoever reads the body, which may be another
	// goroutine than the one that responds.
	expects    bool // the client said so; not changed while an exchange runs
	unasked    bool // the final response came before anybody wanted the body
	continueMu sync.Mutex
	awaits     bool // the client awaits 100; under continueMu

	trailer []byte // memory of the request's trailers

	score   *abuse.Score // nil: nothing was amiss so far
	leaving bool         // the next response is the last, for the score
}

// turn is what a connection needs for one exchange, and not while it is idle.
type turn struct {
	x    exchange.Exchange
	p    parser
	body body
	out  outgoing
}

var (
	_ exchange.Front = (*conn)(nil)
	_ sweep.Member   = (*conn)(nil)
	_ owner          = (*conn)(nil)
)

// Sweep looks at the limits of the connection.
func (c *conn) Sweep(now int64) {
	c.w.sweep(now)
	if c.longIdle(now) || c.overdue(now) {
		_ = c.w.nc.SetReadDeadline(past())
	}
}

// serve runs the connection until it ends or parks: wait, read a head, hand it
// over, tidy up.
func (c *conn) serve() {
	for c.awaitRequest() {
		if !c.serveOne() {
			break
		}
	}
	if phase(c.phase.Load()) == parked {
		go c.resume() // ends with the connection, or when that parks again
		return
	}
	c.f.remove(c)
}

// serveOne serves one request; it returns whether the connection goes on.
func (c *conn) serveOne() bool {
	c.phase.Store(uint32(busy))
	t := c.f.turn()
	c.turn = t
	t.x.Reset(exchange.HTTP11, c.info, c)
	ok := c.readHead()
	if ok {
		t.x.Start = c.f.cfg.Sweeper.Time()
		c.f.cfg.Handler.Serve(&t.x)
		if f := t.x.Err; f != nil {
			c.judge(f)
		}
		ok = c.finish()
	}
	c.turn = nil
	c.f.free.Put(t)
	c.w.release()
	return ok
}

// awaitRequest waits until bytes of a request are there. False: the connection
// ends or parks.
func (c *conn) awaitRequest() bool {
	w := &c.w
	if w.buffered() > 0 {
		return true
	}
	if phase(c.phase.Load()) == busy {
		c.phase.Store(uint32(idle))
	}
	w.armRead(c.f.cfg.IdleTimeout)
	for {
		err := w.await()
		if err == nil {
			w.disarmRead()
			return true
		}
		if !errors.Is(err, errWoken) {
			return false
		}
		if c.overdue(c.f.cfg.Sweeper.Now()) {
			if c.w.empty() {
				return false
			}
			continue // a request has come just now
		}
		if c.longIdle(c.f.cfg.Sweeper.Now()) {
			c.phase.Store(uint32(parked))
			return false
		}
	}
}

// parkAfter is how long a connection is idle before it parks.
const parkAfter = int64(time.Second)

// longIdle reports whether the connection is to park.
func (c *conn) longIdle(now int64) bool {
	if !c.f.parks || c.w.sock == nil || phase(c.phase.Load()) != idle {
		return false
	}
	by := c.w.rd.by.Load()
	return by > 0 && now-by+int64(c.f.cfg.IdleTimeout) >= parkAfter
}

// overdue reports whether the connection is to be closed for a drain.
func (c *conn) overdue(now int64) bool {
	p := phase(c.phase.Load())
	if p == busy {
		return false
	}
	by := c.f.ends[p].Load()
	return by > 0 && now >= by
}

// resume waits for something to read and serves on. A stack that was deep once
// stays so, while that of a new goroutine has 2 KiB: most of what a connection
// costs while idle.
func (c *conn) resume() {
	err := c.w.doze()
	c.phase.Store(uint32(idle))
	if err == nil || errors.Is(err, errWoken) {
		c.serve()
		return
	}
	c.f.remove(c)
}

// readHead reads the request's head and fills x. It returns false when there
// is nobody to answer.
func (c *conn) readHead() bool {
	w, x := &c.w, &c.x
	c.keep, c.answered, c.broken, c.unread = false, false, false, false
	c.hasBody, c.expects, c.unasked = false, false, false
	w.startHead()
	c.p.reset(0)
	x.Request.Reset(w.buf)
	slow := false
	for {
		done, f := c.p.request(w.buf, w.w, &x.Request, c.f.lim)
		if f != nil {
			return c.refuse(f)
		}
		if done {
			break
		}
		if !slow {
			slow = true
			w.armRead(c.f.cfg.HeaderTimeout)
		}
		w.growHead(&x.Request)
		if err := w.fill(); err != nil {
			if errors.Is(err, errLapsed) && w.w > 0 {
				return c.refuse(&flaw{exchange.ClientTimeout, "request head didn't come in time"})
			}
			return false
		}
	}
	if slow {
		w.disarmRead()
	}
	w.endHead(c.p.pos)
	c.fillRequestLine()
	if f := c.fill(); f != nil {
		return c.refuse(f)
	}
	return true
}

func (c *conn) fillRequestLine() {
	x, buf := &c.x, c.w.buf
	x.Method = exchange.KnownMethod(buf[c.p.method:c.p.methodEnd])
	x.RawTarget = view(buf[c.p.target:c.p.targetEnd])
	if c.p.minor == 0 {
		x.Proto = exchange.HTTP10
	}
}

// refuse hands a request over that can't be read: for the answer and the log.
// Nothing behind it on the connection can be trusted (RFC 9112, 2.2).
func (c *conn) refuse(f *flaw) bool {
	x := &c.x
	if c.p.stage > atStart && x.RawTarget == "" {
		c.fillRequestLine()
	}
	if x.Method == "" {
		x.Method = "-"
	}
	x.Fault = exchange.NewFault(exchange.FromClient, f.kind, "%s", f.why)
	x.RequestBody, x.RequestLength, x.ExpectContinue, x.Upgrade = nil, 0, false, ""
	c.hasBody, c.expects, c.keep, c.unread = false, false, false, true
	c.w.endHead(c.w.w)
	return true
}

// finish ends the exchange; it returns whether the connection goes on.
func (c *conn) finish() bool {
	w := &c.w
	if c.broken || !c.answered || w.broken.Load() != nil {
		w.cut()
		return false
	}
	if w.closed.Load() {
		w.closed.Store(false)
		_ = w.nc.SetReadDeadline(time.Time{})
	}
	if c.hasBody {
		c.trailer = c.x.RequestTrailer.Buffer()[:0]
		if cap(c.trailer) > smallBuffer {
			c.trailer = nil
		}
		if !c.body.done.Load() {
			c.keep = c.keep && c.drain()
			c.unread = true
		}
	}
	if c.keep {
		return true
	}
	if c.unread || w.buffered() > 0 {
		c.linger()
	}
	return false
}

// drain reads the rest of a small request body that nobody wanted.
func (c *conn) drain() bool {
	if c.body.err != nil {
		return false
	}
	s := c.f.cfg.Sweeper
	c.w.deadline.Store(s.Now() + int64(c.f.cfg.HeaderTimeout))
	defer c.w.deadline.Store(0)
	return c.body.discard(maxDrain)
}

// linger lets the client read the response before the connection goes: closing
// with unread bytes makes the kernel send a reset, which destroys what the
// client hasn't read yet (RFC 9112, 9.6).
func (c *conn) linger() {
	w := &c.w
	if err := w.closeWrite(); err != nil {
		return
	}
	_ = w.nc.SetReadDeadline(time.Now().Add(lingerTime))
	buf := take(outBuffer)
	defer give(buf)
	for n := 0; n < maxLinger; {
		m, err := w.nc.Read(buf)
		if err != nil {
			return
		}
		n += m
	}
}

// Gone reports whether the client has left. One that closed only its sending
// side counts as gone, unless bytes that it sent before are still to be read.
func (c *conn) Gone(*exchange.Exchange) bool {
	if c.w.broken.Load() != nil {
		return true
	}
	return c.w.sock != nil && !c.ahead.Load() && hungUp(c.w.sock, c.w.tcp == nil)
}

// bodyWanted sends 100 (Continue) to a client that waits for it, unless part of
// the body is there already or a final response came first (RFC 9110, 10.1.1).
func (c *conn) bodyWanted() {
	if !c.expects {
		return
	}
	c.continueMu.Lock()
	defer c.continueMu.Unlock()
	if !c.awaits {
		return
	}
	c.awaits = false
	c.x.ExpectContinue = false
	if c.w.buffered() == 0 {
		// If it fails, so does reading the body.
		_, _ = c.w.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
}

func (c *conn) bodyEnded() { c.ahead.Store(c.w.buffered() > 0) }

func (c *conn) bodyFault(err error) error {
	if f, ok := asFault(err); ok {
		return f
	}
	var bad *flaw
	switch {
	case errors.As(err, &bad):
		return exchange.NewFault(exchange.FromClient, bad.kind, "%s", bad.why)
	case errors.Is(err, errLapsed):
		return exchange.NewFault(exchange.FromClient, exchange.ClientTimeout, "request body stalled")
	case errors.Is(err, errClosed):
		return err
	case errors.Is(err, io.EOF):
		return exchange.NewFault(exchange.FromClient, exchange.ClientGone, "request body: %w", io.ErrUnexpectedEOF)
	default:
		return exchange.NewFault(exchange.FromClient, exchange.ClientGone, "request body: %w", err)
	}
}
