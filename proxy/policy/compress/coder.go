package compress

import (
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// coder is one encoder. What it gives it appends to dst.
type coder interface {
	// reset begins a new stream.
	reset()
	// write takes p, and gives what it has ready.
	write(dst, p []byte) ([]byte, error)
	// flush gives all that it has taken.
	flush(dst []byte) ([]byte, error)
	// finish is flush, and ends the stream.
	finish(dst []byte) ([]byte, error)
}

// coding is a content coding.
type coding uint8

const (
	zstdCoding coding = iota
	brotliCoding
	gzipCoding
	codings
	identity = codings
)

// names are those of the codings (RFC 9110, 8.4.1; RFC 7932; RFC 8878).
var names = [codings]string{"zstd", "br", "gzip"}

// memory is what an encoder and the buffers of its response take at most,
// rounded up; a test measures it.
var memory = [codings]int64{1536 << 10, 2560 << 10, 1536 << 10}

// window is how far back an encoder looks. Browsers take up to 8 MiB (RFC
// 9659); what more than this saves of text isn't worth its memory, here and
// there.
const window = 128 << 10

// newCoder makes an encoder. The levels are those where the next one costs much
// more than it saves; on pages and JSON of 100 kB: zstd 450 MB/s to 31 %, gzip
// 350 MB/s to 32 %, br 140 MB/s to 28 %.
func newCoder(c coding) (coder, error) {
	switch c {
	case zstdCoding:
		w := &zstdCoder{}
		var err error
		// Concurrency of 1: it starts no goroutine. Checksums are TLS's matter.
		w.enc, err = zstd.NewWriter(&w.to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(window),
			zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		return w, err
	case gzipCoding:
		w := &gzipCoder{}
		var err error
		w.enc, err = gzip.NewWriterLevel(&w.to, 2)
		return w, err
	default:
		return newBrotli(), nil
	}
}

// sink appends what is written to it.
type sink struct{ b []byte }

func (s *sink) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}

// take gives what has been appended since its b was set to it.
func (s *sink) take() []byte {
	b := s.b
	s.b = nil
	return b
}

type zstdCoder struct {
	enc *zstd.Encoder
	to  sink
}

func (w *zstdCoder) reset() { w.enc.Reset(&w.to) }

func (w *zstdCoder) write(dst, p []byte) ([]byte, error) {
	w.to.b = dst
	_, err := w.enc.Write(p)
	return w.to.take(), err
}

func (w *zstdCoder) flush(dst []byte) ([]byte, error) {
	w.to.b = dst
	err := w.enc.Flush()
	return w.to.take(), err
}

func (w *zstdCoder) finish(dst []byte) ([]byte, error) {
	w.to.b = dst
	err := w.enc.Close()
	return w.to.take(), err
}

type gzipCoder struct {
	enc *gzip.Writer
	to  sink
}

func (w *gzipCoder) reset() { w.enc.Reset(&w.to) }

func (w *gzipCoder) write(dst, p []byte) ([]byte, error) {
	w.to.b = dst
	_, err := w.enc.Write(p)
	return w.to.take(), err
}

func (w *gzipCoder) flush(dst []byte) ([]byte, error) {
	w.to.b = dst
	err := w.enc.Flush()
	return w.to.take(), err
}

func (w *gzipCoder) finish(dst []byte) ([]byte, error) {
	w.to.b = dst
	err := w.enc.Close()
	return w.to.take(), err
}
