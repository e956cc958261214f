package h1

import (
	"bytes"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Bounds on what is in a chunked body beside its content (RFC 9112, 7.1.1 asks
// for them).
const (
	maxChunkLine  = 256     // a chunk's size and extensions
	maxExtensions = 8 << 10 // all extensions of a body
	maxSizeDigits = 15
)

// chunkState is where in a chunked body the reader stands (RFC 9112, 7.1):
//
//	size ── data ── dataEnd ──▸ size
//	  └─(0)─ trailers ── end
type chunkState struct {
	stage      uint8
	extensions int // bytes of them so far
	trailers   int // bytes of them so far
}

const (
	chunkSize uint8 = iota
	chunkData
	chunkDataEnd
	chunkTrailers
)

func (s *chunkState) reset() { *s = chunkState{} }

// decode consumes buffered bytes and writes content into dst, until either
// ends. dst may begin where the buffered bytes do.
func (b *body) decode(dst []byte) (n int, err error) {
	w := b.w
	for !b.done.Load() {
		if b.chunk.stage == chunkData {
			m := int(min(int64(len(dst)-n), int64(w.buffered()), b.left))
			copy(dst[n:], w.buf[w.r:w.r+m])
			n += m
			w.r += m
			if b.left -= int64(m); b.left > 0 {
				return n, nil
			}
			b.chunk.stage = chunkDataEnd
		}
		more, f := b.chunkLine()
		if f != nil {
			return n, f
		}
		if more {
			return n, nil
		}
	}
	return n, nil
}

// chunkLine consumes one line between pieces of content; more tells that it
// isn't complete.
func (b *body) chunkLine() (more bool, f *flaw) {
	w := b.w
	limit := maxChunkLine
	if b.chunk.stage == chunkTrailers {
		limit = b.lim.bytes
	}
	unread := w.buf[w.r:w.w]
	i := bytes.IndexByte(unread[:min(len(unread), limit)], '\n')
	if i < 0 {
		if len(unread) >= limit {
			return false, malformed("line in a chunked body too long")
		}
		if b.chunk.stage == chunkDataEnd && len(unread) > 0 && unread[0] != '\r' {
			return false, malformed("chunk longer than its size")
		}
		return true, nil
	}
	if i == 0 || unread[i-1] != '\r' {
		return false, malformed("line feed without carriage return in a chunked body")
	}
	line := unread[:i-1]
	w.r += i + 1
	switch b.chunk.stage {
	case chunkSize:
		return false, b.chunkSizeLine(line)
	case chunkDataEnd:
		if len(line) > 0 {
			return false, malformed("chunk longer than its size")
		}
		b.chunk.stage = chunkSize
		return false, nil
	default:
		return false, b.trailerLine(line)
	}
}

func (b *body) chunkSizeLine(line []byte) *flaw {
	var size int64
	i := 0
	for ; i < len(line); i++ {
		d := hexDigit(line[i])
		if d < 0 {
			break
		}
		size = size<<4 | int64(d)
		if i == maxSizeDigits {
			return malformed("chunk size too large")
		}
	}
	if i == 0 || i < len(line) && line[i] != ';' {
		return malformed("chunk size isn't a number")
	}
	// Extensions are read and forgotten: they mean something on one connection
	// only (RFC 9112, 7.1.1).
	b.chunk.extensions += len(line) - i
	if b.chunk.extensions > maxExtensions || !validValue(line[i:]) {
		return malformed("chunk extensions")
	}
	b.left = size
	b.chunk.stage = chunkData
	if size == 0 {
		b.chunk.stage = chunkTrailers
	}
	return nil
}

func (b *body) trailerLine(line []byte) *flaw {
	if len(line) == 0 {
		b.end()
		return nil
	}
	b.chunk.trailers += len(line)
	if b.chunk.trailers > b.lim.bytes || b.trailer.Len() >= b.lim.fields {
		return &flaw{exchange.HeadersTooLarge, "trailers too large"}
	}
	nameEnd, value, valueEnd, odd, f := field(line, 0, len(line))
	if f != nil {
		return f
	}
	if (!odd || b.reply) && mayTrail(exchange.LookupBytes(line[:nameEnd])) {
		b.trailer.Append(view(line[:nameEnd]), view(line[value:valueEnd]))
	}
	return nil
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}
