package upstream

import (
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// replayMost is the largest request body that is kept for another try.
	replayMost = 64 << 10
	// replaySmall is the size that most bodies fit into.
	replaySmall = 4 << 10
)

// replay is a request's body that can be read again: it keeps what passes
// through as long as that is little and another try is possible. Of other
// bodies it only notes whether somebody began to read them.
type replay struct {
	inner   exchange.Body
	g       *Group
	buf     *[]byte // nil: nothing is kept
	pos     int     // up to where buf has been read again
	keeping atomic.Bool
	touched atomic.Bool // something was read
	ended   atomic.Bool // the inner body ended
	endedAt atomic.Int64
	closed  atomic.Bool // a try gave it up
	left    int64       // bytes that are still to come; -1: not known
	seat    seat
}

var _ exchange.Spliceable = (*replay)(nil)

// buffers are where kept bodies are.
type buffers struct{ small, large sync.Pool }

func (b *buffers) get(n int) *[]byte {
	pool, size := &b.small, replaySmall
	if n > replaySmall {
		pool, size = &b.large, replayMost
	}
	if p, _ := pool.Get().(*[]byte); p != nil {
		return p
	}
	p := make([]byte, 0, size)
	return &p
}

func (b *buffers) put(p *[]byte) {
	*p = (*p)[:0]
	if cap(*p) > replaySmall {
		b.large.Put(p)
	} else {
		b.small.Put(p)
	}
}

// start begins a body of length bytes, -1 when that isn't known.
func (r *replay) start(inner exchange.Body, length int64, keep bool) {
	r.inner, r.left = inner, length
	keep = keep && length <= replayMost
	r.keeping.Store(keep)
	if keep {
		r.buf = r.g.buffers.get(int(max(length, 0)))
	}
}

// rewind lets the next read begin at the start. It reports whether that is
// possible.
func (r *replay) rewind() bool {
	if !r.touched.Load() {
		return true
	}
	if !r.keeping.Load() || (r.closed.Load() && !r.ended.Load()) {
		return false
	}
	r.pos = 0
	return true
}

// came notes n bytes of the inner body. A reader that knows the length may stop
// there, without asking for the end.
func (r *replay) came(n int, end bool) {
	if r.left > 0 {
		r.left -= int64(n)
		end = end || r.left <= 0
	}
	if end && !r.ended.Load() {
		r.endedAt.Store(r.g.now())
		r.seat.bodyCame()
		r.ended.Store(true)
	}
}

// settled reports whether nobody reads the body any more, and it can be read
// again: after a response that came early, somebody may.
func (r *replay) settled() bool {
	return r.inner == nil || !r.touched.Load() || (r.keeping.Load() && r.ended.Load())
}

// forget gives up the possibility of another try: what was kept but isn't read
// yet stays.
func (r *replay) forget() { r.keeping.Store(false) }

// again returns what is to be read again.
func (r *replay) again() []byte {
	if r.buf == nil {
		return nil
	}
	return (*r.buf)[r.pos:]
}

func (r *replay) keep(b []byte) {
	if !r.keeping.Load() || r.buf == nil {
		return
	}
	have := len(*r.buf)
	if have+len(b) > replayMost {
		r.keeping.Store(false)
		return
	}
	if have+len(b) > cap(*r.buf) {
		large := r.g.buffers.get(replayMost)
		*large = append(*large, *r.buf...)
		r.g.buffers.put(r.buf)
		r.buf = large
	}
	*r.buf = append(*r.buf, b...)
	r.pos = len(*r.buf)
}

func (r *replay) Read(p []byte) (int, error) {
	r.touched.Store(true)
	if b := r.again(); len(b) > 0 {
		n := copy(p, b)
		r.pos += n
		return n, nil
	}
	if r.ended.Load() {
		return 0, io.EOF
	}
	n, err := r.inner.Read(p)
	r.keep(p[:n])
	r.came(n, err == io.EOF)
	return n, err
}

func (r *replay) Next() ([]byte, bool) {
	r.touched.Store(true)
	if b := r.again(); len(b) > 0 {
		r.pos = len(*r.buf)
		return b, r.ended.Load()
	}
	if r.ended.Load() {
		return nil, true
	}
	b, done := r.inner.Next()
	r.keep(b)
	r.came(len(b), done)
	return b, done
}

// Close gives the inner body up, unless all of it has come: another try may
// want it.
func (r *replay) Close() error {
	r.closed.Store(true)
	if r.ended.Load() {
		return nil
	}
	return r.inner.Close()
}

// Raw lets the kernel move a body that isn't kept.
func (r *replay) Raw() (*net.TCPConn, int64, bool) {
	s, ok := r.inner.(exchange.Spliceable)
	if !ok || r.keeping.Load() || len(r.again()) > 0 || r.ended.Load() {
		return nil, 0, false
	}
	c, n, ok := s.Raw()
	if ok {
		r.touched.Store(true)
	}
	return c, n, ok
}

func (r *replay) Spliced(n int64) {
	if s, ok := r.inner.(exchange.Spliceable); ok {
		s.Spliced(n)
		r.came(int(n), false)
	}
}

// idle reports whether nobody can be reading any more, so that r may be used
// for another exchange.
func (r *replay) idle() bool { return r.inner == nil || !r.touched.Load() || r.ended.Load() }

// reset makes r ready for the next exchange; only when it is idle.
func (r *replay) reset() {
	if r.inner == nil {
		return
	}
	if r.buf != nil {
		r.g.buffers.put(r.buf)
	}
	r.inner, r.buf, r.pos = nil, nil, 0
	r.keeping.Store(false)
	r.touched.Store(false)
	r.ended.Store(false)
	r.endedAt.Store(0)
	r.closed.Store(false)
}
