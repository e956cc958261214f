package h3

import (
	"errors"
	"fmt"
	"io"
)

// The types of frames (RFC 9114, 7.2).
const (
	frameData        = 0x0
	frameHeaders     = 0x1
	frameCancelPush  = 0x3
	frameSettings    = 0x4
	framePushPromise = 0x5
	frameGoAway      = 0x7
	frameMaxPushID   = 0xd
	// PRIORITY_UPDATE of a request and of a push (RFC 9218, 7.2).
	framePriorityRequest = 0xf0700
	framePriorityPush    = 0xf0701
)

// reserved reports whether a frame type was one in HTTP/2 and must not be used
// (RFC 9114, 7.2.8).
func reserved(t uint64) bool { return t == 0x2 || t == 0x6 || t == 0x8 || t == 0x9 }

// The types of unidirectional streams (RFC 9114, 6.2; RFC 9204, 4.2).
const (
	streamControl = 0x0
	streamPush    = 0x1
	streamEncoder = 0x2
	streamDecoder = 0x3
)

// The settings that we send or look at (RFC 9114, 7.2.4.1).
const settingMaxFieldSection = 0x6

// code is an error code (RFC 9114, 8.1; RFC 9204, 6).
type code uint64

const (
	codeNoError             code = 0x100
	codeInternal            code = 0x102
	codeStreamCreation      code = 0x103
	codeClosedCritical      code = 0x104
	codeFrameUnexpected     code = 0x105
	codeFrame               code = 0x106
	codeExcessiveLoad       code = 0x107
	codeID                  code = 0x108
	codeSettings            code = 0x109
	codeMissingSettings     code = 0x10a
	codeRequestRejected     code = 0x10b
	codeRequestIncomplete   code = 0x10d
	codeMessage             code = 0x10e
	codeDecompressionFailed code = 0x200
	codeEncoderStream       code = 0x201
	codeDecoderStream       code = 0x202
)

// connError is an error of the peer that ends its connection.
type connError struct {
	code code
	why  string
}

func (e *connError) Error() string { return fmt.Sprintf("%s (0x%x)", e.why, uint64(e.code)) }

// errTruncated: RFC 9114, 7.1.
var errTruncated = &connError{codeFrame, "the stream ends within a frame"}

// errSkipped bounds what a client lets us read for nothing.
var errSkipped = &connError{codeExcessiveLoad, "too much in frames of unknown types"}

const (
	inputStart = 2 << 10
	maxSkipped = 64 << 10
)

// input reads frames from a stream.
type input struct {
	from    io.Reader
	buf     []byte
	r, w    int  // buf[r:w] hasn't been used yet
	fin     bool // nothing follows
	skipped int
}

func (in *input) reset(from io.Reader) {
	in.from, in.r, in.w, in.fin, in.skipped = from, 0, 0, false, 0
}

func (in *input) buffered() []byte { return in.buf[in.r:in.w] }

// fill waits until n bytes are in the buffer, which grows as they arrive, not
// as they are announced. io.EOF: the stream ends before.
func (in *input) fill(n int) error {
	for in.w-in.r < n {
		if in.fin {
			return io.EOF
		}
		if in.r > 0 {
			in.w = copy(in.buf, in.buf[in.r:in.w])
			in.r = 0
		}
		if in.w == len(in.buf) {
			in.buf = append(in.buf, make([]byte, max(inputStart, len(in.buf)))...)
		}
		m, err := in.from.Read(in.buf[in.w:])
		in.w += m
		switch {
		case errors.Is(err, io.EOF):
			in.fin = true
		case err != nil:
			return err
		}
	}
	return nil
}

// varint parses a variable-length integer (RFC 9000, 16). It reports how many
// bytes it has, 0 when they aren't all there.
func varint(b []byte) (v uint64, n int) {
	if len(b) == 0 || len(b) < 1<<(b[0]>>6) {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}

// appendVarint appends v in as few bytes as it takes.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, byte(v>>8)|0x40, byte(v))
	case v < 1<<30:
		return append(b, byte(v>>24)|0x80, byte(v>>16), byte(v>>8), byte(v))
	default:
		return append(b, byte(v>>56)|0xc0, byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	}
}

// number takes a variable-length integer. io.EOF: the stream ends before it.
func (in *input) number() (uint64, error) {
	for need := 1; ; {
		if err := in.fill(need); err != nil {
			if errors.Is(err, io.EOF) && in.w > in.r {
				return 0, errTruncated
			}
			return 0, err
		}
		v, n := varint(in.buffered())
		if n > 0 {
			in.r += n
			return v, nil
		}
		need = 1 << (in.buf[in.r] >> 6)
	}
}

// header takes the type and length of a frame. io.EOF: the stream ends before
// it.
func (in *input) header() (typ, length uint64, err error) {
	if typ, err = in.number(); err != nil {
		return 0, 0, err
	}
	if length, err = in.number(); errors.Is(err, io.EOF) {
		err = errTruncated
	}
	return typ, length, err
}

// headerAtHand is header for when both are in the buffer already.
func (in *input) headerAtHand() (typ, length uint64, n int) {
	typ, n = varint(in.buffered())
	if n == 0 {
		return 0, 0, 0
	}
	length, m := varint(in.buf[in.r+n : in.w])
	if m == 0 {
		return 0, 0, 0
	}
	return typ, length, n + m
}

// payload waits for n bytes and takes them; they are valid until the next call.
func (in *input) payload(n int) ([]byte, error) {
	if err := in.fill(n); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errTruncated
		}
		return nil, err
	}
	p := in.buf[in.r : in.r+n]
	in.r += n
	return p, nil
}

// skip passes over the payload of a frame of an unknown type (RFC 9114, 9).
func (in *input) skip(n uint64) error {
	if n > maxSkipped || in.skipped+int(n) > maxSkipped {
		return errSkipped
	}
	in.skipped += int(n) + 2 // an empty one counts, too
	for n > 0 {
		if err := in.fill(1); err != nil {
			if errors.Is(err, io.EOF) {
				return errTruncated
			}
			return err
		}
		m := min(n, uint64(in.w-in.r))
		in.r += int(m)
		n -= m
	}
	return nil
}
