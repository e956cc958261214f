package h3

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// body is a request's body.
type body struct {
	st       *stream
	declared int64 // Content-Length; -1: none
	received int64
	left     uint64 // of the DATA frame
	trailers bool   // they came: nothing with a meaning follows
	err      error  // what ended it
	armed    time.Time
	closed   atomic.Bool
}

var _ exchange.Body = (*body)(nil)

func (b *body) init(st *stream) {
	b.st, b.declared, b.received, b.left, b.trailers, b.err, b.armed = st, -1, 0, 0, false, nil, time.Time{}
	b.closed.Store(false)
}

// begin enters a DATA frame. The lengths have to add up to the declared one
// (RFC 9114, 4.1.2).
func (b *body) begin(n uint64) error {
	if b.declared >= 0 && n > uint64(b.declared-b.received) {
		return b.st.malformed("more content than Content-Length says")
	}
	if n == 0 {
		b.st.odd(abuse.Empty)
	}
	b.left = n
	return nil
}

// advance goes to the next byte of content, or to the end of the stream:
// io.EOF, with the trailers taken over.
func (b *body) advance() error {
	for b.left == 0 {
		typ, n, err := b.st.in.header()
		switch {
		case errors.Is(err, io.EOF):
			if b.declared >= 0 && b.received != b.declared {
				return b.st.malformed("less content than Content-Length says")
			}
			return io.EOF
		case err != nil:
			return err
		case typ == frameData && !b.trailers:
			err = b.begin(n)
		case typ == frameHeaders && !b.trailers:
			b.trailers = true
			err = b.st.readTrailer(n)
		default:
			err = b.st.unknown(typ, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readTrailer takes the trailer section over.
func (st *stream) readTrailer(n uint64) error {
	if n > uint64(st.f.maxSection) {
		return refusal(exchange.HeadersTooLarge, "trailer section")
	}
	p, err := st.in.payload(int(n))
	if err != nil {
		return err
	}
	// Method and target are views of the memory that the head was decoded to.
	b := block{maxSize: st.f.cfg.MaxHeaders, maxFields: st.f.cfg.MaxFields}
	if err := b.read(p, &st.x.RequestTrailer, true); err != nil {
		return &connError{codeDecompressionFailed, err.Error()}
	}
	switch {
	case b.tooLarge:
		return refusal(exchange.HeadersTooLarge, "trailer section")
	case b.bad != "":
		return st.malformed(b.bad)
	}
	t := &st.x.RequestTrailer
	for i := range t.Len() {
		if t.ID(i).HopByHop() {
			t.Drop(i)
		}
	}
	return nil
}

// Next has what has arrived with the head, or since.
func (b *body) Next() ([]byte, bool) {
	in := &b.st.in
	for b.left == 0 && b.err == nil {
		typ, length, n := in.headerAtHand()
		if n == 0 || typ != frameData || b.trailers {
			break
		}
		in.r += n
		if err := b.begin(length); err != nil {
			b.err = err // for Read to tell
			return nil, false
		}
	}
	n := int(min(b.left, uint64(in.w-in.r)))
	p := in.buf[in.r : in.r+n]
	in.r += n
	b.took(n)
	done := in.fin && in.r == in.w && b.left == 0 && (b.declared < 0 || b.received == b.declared)
	if done && b.err == nil {
		b.err = io.EOF
	}
	return p, errors.Is(b.err, io.EOF)
}

func (b *body) took(n int) {
	b.left -= uint64(n)
	b.received += int64(n)
	b.st.x.BytesIn += int64(n)
}

func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	st := b.st
	if st.x.ExpectContinue {
		st.x.ExpectContinue = false
		_ = st.interim(http.StatusContinue, nil) // that it failed will show in the read
	}
	if now := time.Now(); now.Sub(b.armed) > st.f.cfg.StallTimeout/8 {
		b.armed = now
		if err := st.str.SetReadDeadline(now.Add(st.f.cfg.StallTimeout)); err != nil {
			return 0, st.asFault(err)
		}
	}
	if b.closed.Load() { // after arming: Close sets the deadline after the flag
		return 0, exchange.NewFault(exchange.FromInternal, exchange.Internal, "read of a closed request body")
	}
	n, err := b.read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.err = io.EOF
	default:
		b.err = st.asFault(err)
	}
	return n, b.err
}

// read reads what is in the buffer, or else straight into p.
func (b *body) read(p []byte) (int, error) {
	if err := b.advance(); err != nil {
		return 0, err
	}
	in := &b.st.in
	p = p[:min(uint64(len(p)), b.left)]
	if in.w > in.r {
		n := copy(p, in.buf[in.r:in.w])
		in.r += n
		b.took(n)
		return n, nil
	}
	if in.fin {
		return 0, errTruncated
	}
	n, err := in.from.Read(p)
	b.took(n)
	if errors.Is(err, io.EOF) {
		in.fin, err = true, nil
		if n == 0 && b.left > 0 {
			err = errTruncated
		}
	}
	return n, err
}

// Close lets a Read in progress fail. The rest of the body is refused when the
// exchange ends.
func (b *body) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.st.str.SetReadDeadline(time.Unix(1, 0))
}
