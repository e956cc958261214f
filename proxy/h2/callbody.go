package h2

import (
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// end fails the call for what its backend or the connection did; mu is held.
func (st *call) end(kind exchange.Kind, err error) {
	st.broke(&exchange.Fault{Source: exchange.FromUpstream, Kind: kind, Err: err}, 0)
}

// broke is breakWith for a fault of the backend's. A response that came as a
// whole stands, whatever its backend does then; what ends is the sending of the
// request (RFC 9113, 8.1). mu is held.
func (st *call) broke(f *exchange.Fault, code http2.ErrCode) {
	switch {
	case !st.answered || !st.remoteEnd:
		st.breakWith(f, code)
	case st.err == nil && !st.localEnd:
		st.err = errReset
		st.c.leaveLine(st)
	}
}

// breakWith fails the call with f, and resets its stream unless code is 0; mu is
// held.
func (st *call) breakWith(f *exchange.Fault, code http2.ErrCode) {
	c := st.c
	if st.fault != nil {
		return
	}
	st.fault = f
	switch {
	case st.answered:
		st.progress = exchange.Answered
	case st.mark != 0 && c.taken >= st.mark:
		st.progress = exchange.Sent
	}
	if c.calls[st.id] == st {
		if code != 0 && c.err == nil {
			c.putReset(st.id, code)
			c.ours.add(st.id)
		}
		delete(c.calls, st.id)
	}
	st.fail(f)
	st.copied.Broadcast()
	c.leave()
}

// arm sets a timer for a limit that is too short for the sweeper; mu is held.
func (st *call) arm() {
	c := st.c
	limit := shortLimit
	if fb := c.cfg.FirstByte; fb > 0 && fb < limit {
		limit = fb
	}
	if x := st.x; !x.Deadline.IsZero() {
		if left := time.Until(x.Deadline); left < limit {
			limit = max(left, 0)
		}
	}
	if t := c.cfg.ExpectTimeout; !st.continued && t > 0 && t < limit {
		limit = t
	}
	if limit == shortLimit {
		return
	}
	id := st.id
	st.timer = time.AfterFunc(limit+time.Millisecond, func() { c.tick(id) })
}

// tick is Sweep for one call, at the exact time.
func (c *ClientConn) tick(id uint32) {
	c.mu.Lock()
	if st := c.calls[id]; st != nil {
		st.check(c.clock.At(time.Now()))
	}
	c.flush()
}

// check looks at the call's limits; it reports whether a frame is queued. mu is
// held.
func (st *call) check(now int64) bool {
	cfg := st.c.cfg
	timeout := func(kind exchange.Kind) bool {
		st.breakWith(&exchange.Fault{Source: exchange.FromUpstream, Kind: kind, Err: errTimedOut}, http2.ErrCodeCancel)
		return true
	}
	if !st.continued && now-st.askedAt >= int64(cfg.expectTimeout()) {
		st.continued = true // the backend knows no 100 (Continue)
		st.copied.Broadcast()
	}
	switch {
	case st.deadline != 0 && now >= st.deadline:
		return timeout(exchange.DeadlineExceeded)
	case st.x.Gone():
		st.breakWith(&exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: errGone}, http2.ErrCodeCancel)
		return true
	case !st.answered && st.sentAt != 0:
		if cfg.FirstByte > 0 && now-st.sentAt >= int64(cfg.FirstByte) {
			return timeout(exchange.BackendTimeout)
		}
	case cfg.Idle <= 0:
	case st.connect:
		if st.answered && now-st.movedAt > int64(cfg.Idle) {
			return timeout(exchange.BackendTimeout)
		}
	case st.waits(now, st.readSince, cfg.Idle), st.waits(now, st.sendSince, cfg.Idle):
		return timeout(exchange.BackendTimeout)
	}
	return false
}

// waits reports whether a wait for the backend has been too long. A response
// may be silent while the request's body still moves.
func (st *call) waits(now, since int64, limit time.Duration) bool {
	return since != 0 && now-max(since, st.movedAt) > int64(limit)
}

func (cfg *ClientConfig) expectTimeout() time.Duration {
	if cfg.ExpectTimeout > 0 {
		return cfg.ExpectTimeout
	}
	return time.Second
}

// responseBody is the body of one response. It is apart from the call, which is
// used again, so that closing it twice does no harm.
type responseBody struct {
	x *exchange.Exchange

	mu      sync.Mutex // guards what follows; link.mu may be taken with it
	st      *call      // nil once it has ended
	err     error      // what a later Read gives
	reading bool
	closing bool // Close came during a Read, which then ends the call
}

var _ exchange.Body = (*responseBody)(nil)

// enter begins a Read or Next; nil: the body has ended.
func (b *responseBody) enter() *call {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.st != nil {
		b.reading = true
	}
	return b.st
}

// exit ends what enter began; err other than nil ends the body.
func (b *responseBody) exit(err error) {
	b.mu.Lock()
	b.reading = false
	if b.closing && err == nil {
		err = errBodyClosed
	}
	st := b.st
	if err != nil {
		b.st, b.err = nil, err
	}
	b.mu.Unlock()
	if err != nil {
		b.release(st, err)
	}
}

// release lets go of the call.
func (b *responseBody) release(st *call, err error) {
	st.stopCopy()
	if err == io.EOF {
		st.moveTrailer(&b.x.ResponseTrailer)
	}
	st.finish()
}

// Read implements exchange.Body.
func (b *responseBody) Read(p []byte) (int, error) {
	st := b.enter()
	if st == nil {
		return 0, b.err
	}
	c := st.c
	c.mu.Lock()
	n, err := st.read(p)
	c.flush()
	b.exit(err)
	return n, err
}

// Next implements exchange.Body. Its bytes stay with the call, which so ends
// with the next use, or Close.
func (b *responseBody) Next() ([]byte, bool) {
	st := b.enter()
	if st == nil {
		return nil, b.err == io.EOF
	}
	c := st.c
	c.mu.Lock()
	p, done := st.take()
	if done {
		st.moveTrailer(&b.x.ResponseTrailer)
	}
	c.flush()
	b.exit(nil)
	return p, done
}

// Close implements exchange.Body.
func (b *responseBody) Close() error {
	b.mu.Lock()
	st := b.st
	switch {
	case st == nil:
		b.mu.Unlock()
	case b.reading:
		b.closing = true
		st.c.mu.Lock()
		st.shut()
		st.c.mu.Unlock()
		b.mu.Unlock()
	default:
		b.st, b.err = nil, errBodyClosed
		b.mu.Unlock()
		b.release(st, errBodyClosed)
	}
	return nil
}
