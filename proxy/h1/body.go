package h1

import (
	"errors"
	"io"
	"net"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// owner is the end of an exchange that a body arrives at.
type owner interface {
	// bodyFault says what a failure to read the body means.
	bodyFault(err error) error
	// bodyWanted is called before the body is read the first time.
	bodyWanted()
	// bodyEnded is called once all of it was read.
	bodyEnded()
}

// body is the content of an incoming message: of a request at the front, of a
// response at the client.
type body struct {
	w       *wire
	o       owner
	trailer *exchange.Head
	count   *int64 // of bytes read
	lim     limits
	reply   bool // of a response

	framing framing
	left    int64 // of the body; of the chunk; unknown with untilClose
	chunk   chunkState
	err     error // what every Read gives from now on

	started atomic.Bool
	failed  atomic.Bool // err is set
	done    atomic.Bool // all of it was read
}

var _ exchange.Spliceable = (*body)(nil)

func (b *body) begin(f framing, n int64) {
	b.framing, b.left, b.err = f, n, nil
	b.chunk.reset()
	lower(&b.started)
	lower(&b.failed)
	if empty := f == noBody || f == fixed && n == 0; empty != b.done.Load() {
		b.done.Store(empty)
	}
}

// lower makes a flag false. Mostly it is, and looking costs less than storing.
func lower(flag *atomic.Bool) {
	if flag.Load() {
		flag.Store(false)
	}
}

// wanted starts the body's own time limit.
func (b *body) wanted() {
	if !b.started.Load() {
		b.started.Store(true)
		b.o.bodyWanted()
	}
}

// Next returns what is in the buffer.
func (b *body) Next() ([]byte, bool) {
	if b.done.Load() {
		return nil, true
	}
	if b.err != nil || b.w.closed.Load() {
		return nil, false
	}
	b.wanted()
	w := b.w
	at := w.r
	var n int
	if b.framing == chunked {
		// Decoding only ever moves bytes towards the front.
		var err error
		if n, err = b.decode(w.buf[w.r:w.w]); err != nil {
			b.fail(err)
		}
	} else {
		n = b.consume(w.buffered())
	}
	b.counted(n)
	return w.buf[at : at+n : at+n], b.done.Load()
}

// consume takes up to n plain bytes out of the buffer.
func (b *body) consume(n int) int {
	if b.framing == fixed {
		n = int(min(int64(n), b.left))
		b.took(n)
	}
	b.w.r += n
	return n
}

func (b *body) took(n int) {
	if b.left -= int64(n); b.left == 0 {
		b.end()
	}
}

func (b *body) end() {
	b.done.Store(true)
	b.o.bodyEnded()
}

func (b *body) fail(err error) {
	b.err = b.o.bodyFault(err)
	b.failed.Store(true)
}

func (b *body) counted(n int) {
	if b.count != nil {
		*b.count += int64(n)
	}
}

// Read reads decoded bytes.
func (b *body) Read(p []byte) (int, error) {
	if b.done.Load() {
		return 0, io.EOF
	}
	if b.err == nil && len(p) > 0 {
		b.wanted()
		n, err := b.read(p)
		b.counted(n)
		if err == nil {
			if b.done.Load() {
				return n, io.EOF
			}
			return n, nil
		}
		if err == io.EOF && b.framing == untilClose {
			b.end()
			return n, io.EOF
		}
		b.fail(err)
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

func (b *body) read(p []byte) (int, error) {
	w := b.w
	if b.framing == chunked {
		return b.readChunked(p)
	}
	if w.buffered() > 0 {
		if w.closed.Load() {
			return 0, errClosed
		}
		return b.consume(copy(p, w.buf[w.r:w.w])), nil
	}
	if b.framing == fixed {
		p = p[:min(int64(len(p)), b.left)]
	}
	w.armRead(w.stall)
	n, err := w.read(p)
	w.disarmRead()
	if b.framing == fixed && n > 0 {
		b.took(n)
	}
	return n, err
}

func (b *body) readChunked(p []byte) (int, error) {
	w := b.w
	for {
		if w.closed.Load() {
			return 0, errClosed
		}
		n, err := b.decode(p)
		if n > 0 || err != nil || b.done.Load() {
			return n, err
		}
		if w.w == len(w.buf) && len(w.buf) < copyBuffer && w.r == w.w {
			w.enlarge() // the last read filled it: there is a lot to come
		}
		w.armRead(w.stall)
		err = w.fill()
		w.disarmRead()
		if err != nil {
			return 0, err
		}
	}
}

// Close gives the rest of the body up.
func (b *body) Close() error {
	if !b.done.Load() {
		b.w.giveUp()
	}
	return nil
}

// Raw says whether the rest can be spliced.
func (b *body) Raw() (*net.TCPConn, int64, bool) {
	if b.w.tcp == nil || b.framing != fixed || b.done.Load() || b.err != nil || b.w.buffered() > 0 || b.w.closed.Load() {
		return nil, 0, false
	}
	b.wanted()
	b.w.splicing.Store(true)
	b.w.armRead(b.w.stall)
	return b.w.tcp, b.left, true
}

// Spliced notes what was.
func (b *body) Spliced(n int64) {
	b.w.splicing.Store(false)
	b.w.disarmRead()
	if b.count != nil {
		*b.count += n
	}
	if n > 0 {
		b.took(int(n))
	}
}

// discard reads and drops the rest, at most n bytes of it, and reports whether
// that was all.
func (b *body) discard(n int) bool {
	buf := take(smallBuffer)
	defer give(buf)
	for n > 0 && !b.done.Load() {
		m, err := b.Read(buf)
		if err != nil && err != io.EOF {
			return false
		}
		n -= m
	}
	return b.done.Load()
}

// asFault finds the fault in err.
func asFault(err error) (*exchange.Fault, bool) {
	var f *exchange.Fault
	ok := errors.As(err, &f)
	return f, ok
}

// drainBuffered drops what is in memory of a body that nobody reads, and
// reports whether that was all.
func (b *body) drainBuffered() bool {
	b.started.Store(true)
	for {
		if p, done := b.Next(); done || len(p) == 0 {
			return done
		}
	}
}
