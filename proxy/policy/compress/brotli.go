package compress

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/andybalholm/brotli"
	"github.com/andybalholm/brotli/matchfinder"
)

// brotliBlock is how much goes into one meta-block. Each has tables of its own:
// with less they weigh more, with more they fit less.
const brotliBlock = 64 << 10

// brotliCoder makes a brotli stream of the library's parts, its match finder
// and its encoder of blocks. Its own writers either can't be flushed or cost twice
// as much. It has the encoder make a whole stream of each block, takes the
// meta-block out of it, and joins these.
type brotliCoder struct {
	find    matchfinder.ZM
	matches []matchfinder.Match
	enc     brotli.Encoder
	in      []byte // waits for a block to be full
	one     []byte // a stream of one block
	begun   bool
	bits    uint64 // of the stream's last byte, which isn't full
	n       uint
}

var errBrotli = errors.New("brotli: a block isn't as expected")

func newBrotli() *brotliCoder {
	return &brotliCoder{find: matchfinder.ZM{MaxDistance: window}}
}

func (w *brotliCoder) reset() {
	w.find.Reset()
	w.in, w.begun, w.bits, w.n = w.in[:0], false, 0, 0
}

func (w *brotliCoder) write(dst, p []byte) ([]byte, error) {
	for len(p) > 0 {
		n := min(len(p), brotliBlock-len(w.in))
		w.in = append(w.in, p[:n]...)
		p = p[n:]
		if len(w.in) == brotliBlock {
			var err error
			if dst, err = w.block(dst); err != nil {
				return dst, err
			}
		}
	}
	return dst, nil
}

// begin writes the stream's header: WBITS of 18, which window fits in (RFC 7932,
// 9.1).
func (w *brotliCoder) begin(dst []byte) []byte {
	if !w.begun {
		w.begun = true
		dst = w.put(dst, 0b0011, 4)
	}
	return dst
}

// block writes what waits as a meta-block.
func (w *brotliCoder) block(dst []byte) ([]byte, error) {
	dst = w.begin(dst)
	if len(w.in) == 0 {
		return dst, nil
	}
	w.matches = w.find.FindMatches(w.matches[:0], w.in)
	w.enc.Reset()
	w.one = w.enc.Encode(w.one[:0], w.in, w.matches, true)
	var err error
	if len(w.one) < len(w.in)+4 {
		dst, err = w.join(dst, w.one)
	} else {
		dst = w.raw(dst)
	}
	w.in = w.in[:0]
	return dst, err
}

// raw writes what waits as it is: short events would be longer by the tables that
// a block begins with (RFC 7932, 9.2: ISLAST 0, MNIBBLES 4 as 0, MLEN - 1 in 16
// bits, ISUNCOMPRESSED 1).
func (w *brotliCoder) raw(dst []byte) []byte {
	dst = w.put(dst, uint64(len(w.in)-1)<<3|1<<19, 20)
	return append(w.fill(dst), w.in...)
}

// join writes what stands in a stream of one block between its header of four
// bits, and the empty meta-block of two ones that ends it, behind which zeros
// fill the byte (RFC 7932, 9.2).
func (w *brotliCoder) join(dst, one []byte) ([]byte, error) {
	if len(one) < 2 || one[0]&0xf != 0xf || one[len(one)-1] == 0 {
		return dst, errBrotli
	}
	end := len(one)*8 - bits.LeadingZeros8(one[len(one)-1]) - 2
	bit := 4
	for ; bit+60 <= end && bit/8+8 <= len(one); bit += 56 { // 4 bits into a byte, as long as it goes by 7 bytes
		dst = w.put(dst, binary.LittleEndian.Uint64(one[bit/8:])>>4&(1<<56-1), 56)
	}
	for ; bit < end; bit++ {
		dst = w.put(dst, uint64(one[bit/8])>>(bit%8)&1, 1)
	}
	return dst, nil
}

// put writes the n lowest bits of v, 56 at most.
func (w *brotliCoder) put(dst []byte, v uint64, n uint) []byte {
	w.bits |= v << w.n
	w.n += n
	for ; w.n >= 8; w.n -= 8 {
		dst = append(dst, byte(w.bits))
		w.bits >>= 8
	}
	return dst
}

// flush ends what is written with an empty block of metadata, which fills the
// last byte (RFC 7932, 9.2: ISLAST 0, MNIBBLES 3, a reserved bit, MSKIPBYTES 0).
func (w *brotliCoder) flush(dst []byte) ([]byte, error) {
	dst, err := w.block(dst)
	if err != nil {
		return dst, err
	}
	return w.fill(w.put(dst, 0b000110, 6)), nil
}

func (w *brotliCoder) finish(dst []byte) ([]byte, error) {
	dst, err := w.block(dst)
	if err != nil {
		return dst, err
	}
	return w.fill(w.put(dst, 0b11, 2)), nil
}

// fill fills the last byte with zeros.
func (w *brotliCoder) fill(dst []byte) []byte {
	if w.n > 0 {
		dst = w.put(dst, 0, 8-w.n)
	}
	return dst
}
