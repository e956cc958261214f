package h1

import (
	"crypto/tls"
	"errors"
	"math"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/socket"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

var (
	errLapsed = errors.New("time limit passed")
	errClosed = errors.New("body closed")
	errWoken  = errors.New("woken while idle")
)

// past is a deadline that has passed.
func past() time.Time { return time.Unix(1, 0) }

// limit is when one direction of a connection must have moved on, on the
// sweeper's scale. Sweep turns a limit that has passed into lapsed, the owner
// lifts one that has not; both with compare-and-swap, so only one of them wins.
type limit struct {
	by   atomic.Int64 // 0: none
	real atomic.Bool  // a deadline on the socket stands for it
}

const lapsed = -1

// realBelow is the shortest limit that is swept.
const realBelow = 2 * time.Second

func (l *limit) set(by int64) {
	for {
		old := l.by.Load()
		if old == lapsed || old == by || l.by.CompareAndSwap(old, by) {
			return
		}
	}
}

// hit reports whether a deadline error is this limit's doing.
func (l *limit) hit() bool { return l.by.Load() == lapsed || l.real.Load() }

// wire is a connection's bytes: reading into a pooled buffer, writing, limits.
// One goroutine reads at a time, and one writes.
type wire struct {
	nc      net.Conn
	tcp     *net.TCPConn // nc, when it is plain TCP
	sock    *socket.Conn // nc, or what is below its TLS; nil: not TCP
	sweeper *sweep.Sweeper
	stall   time.Duration // in which some byte must move while one is due

	buf    []byte // nil while idle
	r, w   int    // buf[r:w] is not consumed
	floor  int    // below it stands the head of the exchange
	pinned []byte // an earlier buffer, which the head views

	rd, wr   limit
	deadline atomic.Int64                   // no read limit is later; 0: none
	hurry    bool                           // the deadline is too near to be swept
	closed   atomic.Bool                    // reading was given up
	broken   atomic.Pointer[exchange.Fault] // the exchange was: why

	// Of Sweep alone.
	received, acked uint64

	splicing atomic.Bool // the kernel moves what comes in by itself
}

func (w *wire) init(nc net.Conn, s *sweep.Sweeper, stall time.Duration) {
	w.nc, w.sweeper, w.stall = socket.Wrap(nc), s, orNever(stall)
	w.sock = socket.Below(w.nc)
	if w.sock != nil && w.nc == net.Conn(w.sock) {
		w.tcp = w.sock.TCPConn
	}
}

// orNever is d, or a limit that never passes for none.
func orNever(d time.Duration) time.Duration {
	if d <= 0 {
		return math.MaxInt64 / 4
	}
	return d
}

// armRead says that a byte must come within d.
func (w *wire) armRead(d time.Duration) {
	by := w.sweeper.Now() + int64(d)
	if w.hurry || d < realBelow {
		w.armReal(d)
		return
	}
	if d := w.deadline.Load(); d != 0 {
		by = min(by, d)
	}
	w.rd.set(by)
}

func (w *wire) armReal(d time.Duration) {
	at := time.Now().Add(d)
	if d := w.deadline.Load(); d != 0 {
		if left := d - w.sweeper.At(at); left < 0 {
			at = at.Add(time.Duration(left))
		}
	}
	w.rd.real.Store(true)
	// An error means that the connection is closed, which reading finds out.
	_ = w.nc.SetReadDeadline(at)
}

func (w *wire) disarmRead() {
	w.rd.set(0)
	if w.rd.real.Load() {
		w.rd.real.Store(false)
		_ = w.nc.SetReadDeadline(time.Time{})
	}
}

func (w *wire) armWrite() {
	if w.stall < realBelow {
		w.wr.real.Store(true)
		_ = w.nc.SetWriteDeadline(time.Now().Add(w.stall))
		return
	}
	w.wr.set(w.sweeper.Now() + int64(w.stall))
}

func (w *wire) disarmWrite() {
	w.wr.set(0)
	if w.wr.real.Load() {
		w.wr.real.Store(false)
		_ = w.nc.SetWriteDeadline(time.Time{})
	}
}

// sweep marks limits that have passed.
func (w *wire) sweep(now int64) {
	if w.over(&w.rd, &w.received, now, w.splicing.Load()) {
		_ = w.nc.SetReadDeadline(past())
	}
	if w.over(&w.wr, &w.acked, now, w.sock != nil) {
		_ = w.nc.SetWriteDeadline(past())
	}
}

// over marks l as lapsed if it has passed. A blocked writer's peer may be slow
// but alive, and so may either side while the kernel moves bytes by itself:
// with count, the socket's own counter tells what moved.
func (w *wire) over(l *limit, last *uint64, now int64, count bool) bool {
	by := l.by.Load()
	if by <= 0 {
		return false
	}
	if count && now-by > int64(sweep.Interval)-int64(w.stall) {
		if n := counter(w.sock, l == &w.rd); n != *last {
			*last = n
			next := now + int64(w.stall)
			if d := w.deadline.Load(); d != 0 && l == &w.rd {
				next = min(next, d)
			}
			if next > now {
				l.by.CompareAndSwap(by, next)
				return false
			}
		}
	}
	return now > by && l.by.CompareAndSwap(by, lapsed)
}

// lapse says why a read met a deadline, or clears it when for no reason that
// still holds: a kick that came late.
func (w *wire) lapse() error {
	if err := w.reason(); err != nil {
		return err
	}
	_ = w.nc.SetReadDeadline(time.Time{})
	// Whoever gives a reason sets the deadline after it; one that came between
	// would be lost but for this second look.
	return w.reason()
}

func (w *wire) reason() error {
	if f := w.broken.Load(); f != nil {
		return f
	}
	switch {
	case w.closed.Load():
		return errClosed
	case w.rd.hit():
		return errLapsed
	default:
		return nil
	}
}

// giveUp makes the reader fail, now and from now on.
func (w *wire) giveUp() {
	w.closed.Store(true)
	_ = w.nc.SetReadDeadline(past())
}

// fail makes reading and writing fail for good.
func (w *wire) fail(f *exchange.Fault) {
	if w.broken.CompareAndSwap(nil, f) {
		_ = w.nc.SetDeadline(past())
	}
}

// read reads into p.
func (w *wire) read(p []byte) (int, error) {
	for {
		n, err := w.nc.Read(p)
		if err == nil || n > 0 {
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			if f := w.broken.Load(); f != nil {
				err = f
			}
			return 0, err
		}
		if err := w.lapse(); err != nil {
			return 0, err
		}
	}
}

// await waits for bytes with an empty buffer, or none. It returns errWoken when
// a deadline passed without a reason.
func (w *wire) await() error {
	// Others first: by the time this goroutine's turn comes again the bytes are
	// mostly there, and a read that would find none (half a microsecond), a park
	// and a wake-up are saved. With nobody else to run it costs next to nothing.
	runtime.Gosched()
	buf, n, err := w.firstBytes()
	if err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := w.lapse(); err != nil {
			return err
		}
		return errWoken
	}
	w.buf, w.r, w.w, w.floor = buf, 0, n, 0
	return nil
}

// firstBytes waits for bytes and reads them into a new buffer. Without TLS, it
// is taken once they are there.
func (w *wire) firstBytes() (buf []byte, n int, err error) {
	if w.tcp != nil {
		return w.sock.Await(takeSmall, give)
	}
	buf = takeSmall()
	for n == 0 && err == nil {
		n, err = w.nc.Read(buf)
	}
	if n == 0 {
		give(buf)
		return nil, 0, err
	}
	return buf, n, nil
}

// doze waits until the socket has something to read, on as little stack as can
// be, and below TLS: await must have been woken before, so that TLS holds
// nothing that could be read. Its errors are those of await.
func (w *wire) doze() error {
	err := w.sock.AwaitReadable()
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		if err := w.lapse(); err != nil {
			return err
		}
		return errWoken
	}
	return err
}

// fill reads more bytes behind those in the buffer.
func (w *wire) fill() error {
	w.makeRoom()
	n, err := w.read(w.buf[w.w:])
	w.w += n
	return err
}

// makeRoom sees to it that something can be read into the buffer. What the
// head views stays where it is.
func (w *wire) makeRoom() {
	switch {
	case w.buf == nil:
		w.buf = take(smallBuffer)
		w.r, w.w, w.floor = 0, 0, 0
	case w.r == w.w && len(w.buf)-w.floor >= smallBuffer/4:
		w.r, w.w = w.floor, w.floor
	case w.w < len(w.buf):
	case w.r > w.floor && len(w.buf)-w.floor >= smallBuffer/4:
		w.w = w.floor + copy(w.buf[w.floor:], w.buf[w.r:w.w])
		w.r = w.floor
	default:
		w.enlarge()
	}
}

// enlarge moves the unread bytes into a larger buffer of their own.
func (w *wire) enlarge() {
	size := copyBuffer
	if n := w.w - w.r; n >= size/2 {
		size = 2 * n
	}
	buf := take(size)
	n := copy(buf, w.buf[w.r:w.w])
	if w.floor > 0 && w.pinned == nil {
		w.pinned = w.buf
	} else {
		give(w.buf)
	}
	w.buf, w.r, w.w, w.floor = buf, 0, n, 0
}

// startHead moves unread bytes to the buffer's begin.
func (w *wire) startHead() {
	w.floor = 0
	if w.r > 0 {
		w.w = copy(w.buf, w.buf[w.r:w.w])
		w.r = 0
	}
}

// growHead makes room behind an unfinished head, which h views.
func (w *wire) growHead(h *exchange.Head) {
	if w.w < len(w.buf) {
		return
	}
	buf := take(len(w.buf) + 1)
	copy(buf, w.buf[:w.w])
	give(w.buf)
	w.buf = buf
	h.Rebase(buf)
}

// endHead says that the head ends at n.
func (w *wire) endHead(n int) { w.r, w.floor = n, n }

// release gives back what the exchange no longer needs.
func (w *wire) release() {
	if w.pinned != nil {
		give(w.pinned)
		w.pinned = nil
	}
	w.floor = 0
	if w.r == w.w && w.buf != nil {
		give(w.buf)
		w.buf, w.r, w.w = nil, 0, 0
	}
}

// detach sets the head's buffer aside, and so lets park give up the one after.
func (w *wire) detach() {
	if w.floor == 0 || w.pinned != nil {
		return
	}
	if w.r < w.w {
		w.enlarge()
		return
	}
	w.pinned, w.buf = w.buf, nil
	w.r, w.w, w.floor = 0, 0, 0
}

// park gives the empty buffer back while waiting for more.
func (w *wire) park() {
	if w.r == w.w && w.floor == 0 && w.buf != nil {
		give(w.buf)
		w.buf, w.r, w.w = nil, 0, 0
	}
}

// empty reports whether nothing that could be read has come.
func (w *wire) empty() bool { return w.buffered() == 0 && (w.sock == nil || empty(w.sock)) }

func (w *wire) buffered() int { return w.w - w.r }

// write writes all of p.
func (w *wire) write(p []byte) (int, error) {
	n, err := 0, error(nil)
	if w.tcp != nil { // mostly the socket has room, and nothing is to be timed
		n, err = w.sock.TryWrite(p)
	}
	if n < len(p) && err == nil {
		var more int
		w.armWrite()
		more, err = w.nc.Write(p[n:])
		w.disarmWrite()
		n += more
	}
	if err != nil {
		if f := w.broken.Load(); f != nil {
			err = f
		}
	}
	return n, err
}

// writeAll writes several pieces in one call where the connection can.
func (w *wire) writeAll(pieces *net.Buffers) (int64, error) {
	w.armWrite()
	n, err := pieces.WriteTo(w.nc)
	w.disarmWrite()
	return n, err
}

// cut ends the connection so that the peer sees a failure, not an end: with a
// reset, and below TLS, which would say goodbye.
func (w *wire) cut() {
	if w.sock != nil {
		_ = w.sock.SetLinger(0)
		_ = w.sock.Close()
	} else if t, ok := w.nc.(*tls.Conn); ok {
		_ = t.NetConn().Close()
	} else {
		_ = w.nc.Close()
	}
}

// closeWrite tells the peer that nothing more comes.
func (w *wire) closeWrite() error {
	type half interface{ CloseWrite() error }
	var err error = errors.ErrUnsupported
	if h, ok := w.nc.(half); ok {
		err = h.CloseWrite()
	}
	if t, ok := w.nc.(*tls.Conn); ok {
		if h, ok := t.NetConn().(half); ok {
			err = h.CloseWrite()
		}
	}
	return err
}
