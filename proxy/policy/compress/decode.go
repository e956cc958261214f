package compress

import (
	"errors"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// mostWindow is how far back a decoder looks (RFC 9659).
const mostWindow = 8 << 20

// decoding is a body without its coding. Reading it decodes.
type decoding struct {
	coding string
	src    exchange.Body
	r      io.Reader
	end    func() // gives back what r holds

	mu sync.Mutex // Close may come from elsewhere; it ends the Read of src
}

var _ exchange.Body = (*decoding)(nil)

func newDecoding(coding string, src exchange.Body) *decoding {
	return &decoding{coding: coding, src: src}
}

// begin reads the coding's header, for which src may have to be waited for.
func (d *decoding) begin() error {
	switch d.coding {
	case names[gzipCoding]:
		r, err := gzip.NewReader(d.src)
		if err != nil {
			return broken(err)
		}
		d.r = r
	case names[brotliCoding]:
		d.r = brotli.NewReader(d.src)
	default:
		r, err := zstd.NewReader(d.src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(mostWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return broken(err)
		}
		d.r, d.end = r, r.Close
	}
	return nil
}

// broken is the error of a body that isn't what its coding says, or breaks off.
func broken(err error) error {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f
	}
	return io.ErrUnexpectedEOF
}

// Read decodes.
func (d *decoding) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.r == nil {
		if err := d.begin(); err != nil {
			return 0, err
		}
	}
	n, err := d.r.Read(p)
	switch {
	case err == io.EOF:
		if more, _ := d.src.Read(make([]byte, 1)); more > 0 {
			return n, io.ErrUnexpectedEOF // bytes behind the end
		}
		d.release()
		return n, io.EOF
	case err != nil:
		return n, broken(err)
	default:
		return n, nil
	}
}

func (d *decoding) release() {
	if d.end != nil {
		d.end()
		d.end = nil
	}
}

// Next has nothing in memory that is decoded yet.
func (d *decoding) Next() ([]byte, bool) { return nil, false }

// Close gives src up.
func (d *decoding) Close() error {
	err := d.src.Close() // a Read that waits for it ends
	d.mu.Lock()
	defer d.mu.Unlock()
	d.release()
	return err
}
