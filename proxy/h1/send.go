package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

var (
	errTooLong  = errors.New("body longer than its declared length")
	errTooShort = errors.New("body shorter than its declared length")
)

// Room around content for the framing of a chunk: its size before it, and
// behind it the line end and the last chunk without trailers.
const (
	chunkHead = 18
	chunkTail = 2 + 5
)

// outgoing writes one message: a head with what is there of the body, then the
// rest, in its own framing.
type outgoing struct {
	w       *wire
	body    exchange.Body
	trailer *exchange.Head
	edits   *exchange.Edits // of the head, which bind the trailers, too
	count   *int64          // of content bytes written
	framing framing
	left    int64 // with fixed: content bytes that are due

	fromBody bool  // an error came from the body, not from the connection
	written  int64 // by start, of head and all

	pieces net.Buffers
	vec    [3][]byte
	lim    io.LimitedReader
}

// start writes the head, which is in a buffer of take and is given back, and
// the content that is in memory, in one call. done tells that the message is
// complete.
func (o *outgoing) start(head []byte) (done bool, err error) {
	var content []byte
	o.fromBody, o.written = false, 0
	switch {
	case o.framing == noBody || o.framing == fixed && o.left == 0:
		done = true
	case o.body == nil:
		done, o.fromBody, err = true, true, errTooShort
	default:
		content, done = o.body.Next()
		done, err = o.due(len(content), done)
	}
	if err != nil {
		give(head)
		return false, err
	}
	err = o.first(head, content, done)
	if err == nil && o.count != nil {
		*o.count += int64(len(content))
	}
	return done, err
}

// due accounts for n content bytes that are to be written next.
func (o *outgoing) due(n int, end bool) (done bool, err error) {
	if o.framing != fixed {
		return end, nil
	}
	o.left -= int64(n)
	switch {
	case o.left < 0:
		o.fromBody = true
		return false, errTooLong
	case o.left > 0 && end:
		o.fromBody = true
		return false, errTooShort
	default:
		return o.left == 0, nil
	}
}

// first writes head and content, copied together when they are small.
func (o *outgoing) first(head, content []byte, done bool) error {
	some := len(content) > 0
	if o.framing == chunked && some {
		head = append(strconv.AppendUint(head, uint64(len(content)), 16), "\r\n"...)
	}
	var tail []byte
	if len(head)+len(content)+chunkTail <= cap(head) {
		head = append(head, content...)
		content = nil
		if o.framing == chunked {
			head = o.appendEnd(head, some, done)
		}
	} else if o.framing == chunked {
		tail = o.appendEnd(take(smallBuffer)[:0], some, done)
	}
	var err error
	if len(content) == 0 {
		var n int
		n, err = o.w.write(head)
		o.written = int64(n)
	} else {
		o.vec = [3][]byte{head, content, tail}
		o.pieces = o.vec[:]
		o.written, err = o.w.writeAll(&o.pieces)
		o.vec = [3][]byte{}
	}
	give(head)
	if tail != nil {
		give(tail)
	}
	return err
}

// appendEnd appends what follows content: the chunk's end, and the body's.
func (o *outgoing) appendEnd(dst []byte, some, done bool) []byte {
	if some {
		dst = append(dst, "\r\n"...)
	}
	if done {
		dst = append(dst, "0\r\n"...)
		dst = appendTrailer(dst, o.trailer, o.edits)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// rest writes what start left.
func (o *outgoing) rest() error {
	if s, ok := o.body.(exchange.Spliceable); ok && o.framing == fixed && o.w.tcp != nil {
		if done, err := o.splice(s); done || err != nil {
			return err
		}
	}
	// A stream of events waits here with a small buffer; a download is moved in
	// large pieces.
	buf := take(smallBuffer)
	defer func() { give(buf) }()
	for {
		room := buf[chunkHead : len(buf)-chunkTail]
		n, err := o.body.Read(room)
		if err != nil && err != io.EOF {
			o.fromBody = true
			return err
		}
		done, err := o.due(n, err == io.EOF)
		if err != nil {
			return err
		}
		if err := o.piece(buf, n, done); err != nil {
			return err
		}
		if done {
			return nil
		}
		switch {
		case n == len(room) && len(buf) < copyBuffer:
			give(buf)
			buf = take(copyBuffer)
		case n < smallBuffer/2 && len(buf) > smallBuffer:
			give(buf)
			buf = take(smallBuffer)
		}
	}
}

// piece writes n bytes of content that stand in buf behind chunkHead.
func (o *outgoing) piece(buf []byte, n int, done bool) error {
	out := buf[chunkHead : chunkHead+n]
	if o.framing == chunked {
		from := chunkHead
		if n > 0 {
			var size [chunkHead]byte
			line := append(strconv.AppendUint(size[:0], uint64(n), 16), "\r\n"...)
			from -= len(line)
			copy(buf[from:], line)
		}
		out = o.appendEnd(buf[from:chunkHead+n], n > 0, done)
	}
	if len(out) == 0 {
		return nil
	}
	if _, err := o.w.write(out); err != nil {
		return err
	}
	if o.count != nil {
		*o.count += int64(n)
	}
	return nil
}

// splicePiece is how much the kernel moves between two looks at the clock.
const splicePiece = 4 << 20

// spliceFrom is the size from which splicing pays for its pipe.
const spliceFrom = 64 << 10

// splice lets the kernel move the content. done false without an error means
// that the ordinary way has to go on.
func (o *outgoing) splice(s exchange.Spliceable) (done bool, err error) {
	for {
		src, n, ok := s.Raw()
		if !ok || n < spliceFrom || n > o.left {
			if ok {
				s.Spliced(0)
			}
			return false, nil
		}
		o.lim = io.LimitedReader{R: src, N: min(n, splicePiece)}
		o.w.armWrite()
		moved, err := o.w.tcp.ReadFrom(&o.lim)
		stalled := o.w.wr.hit()
		o.w.disarmWrite()
		s.Spliced(moved)
		o.lim.R = nil
		o.left -= moved
		if o.count != nil {
			*o.count += moved
		}
		if o.left == 0 {
			return true, nil
		}
		if moved == 0 && err == nil || err != nil && !(stalled && errors.Is(err, os.ErrDeadlineExceeded)) && o.w.broken.Load() == nil {
			// The source ended or failed, or the way out did: one of them fails
			// again, and then says so with its own name. Bytes that the kernel
			// held between the two are lost only if the way out failed.
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// appendTrailer appends the trailer fields that may follow a head changed by e.
func appendTrailer(dst []byte, h *exchange.Head, e *exchange.Edits) []byte {
	if h == nil {
		return dst
	}
	for i := range h.Len() {
		name, value := h.Field(i)
		if !h.Dropped(i) && e.MayTrail(name, h.ID(i)) {
			dst = appendField(dst, name, value)
		}
	}
	return dst
}
