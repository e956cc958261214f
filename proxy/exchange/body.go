package exchange

import (
	"io"
	"net"
)

// Body is the content of a message, without the framing of its protocol.
type Body interface {
	// Read returns bytes as soon as there are any, and io.EOF at the end of a
	// complete body, alone or with the last bytes. A body that breaks off gives
	// io.ErrUnexpectedEOF or a *Fault, never io.EOF.
	io.Reader
	// Next returns bytes that are in memory already, and consumes them; it
	// never blocks. done tells that the body ends with them (trailers are
	// complete then). The bytes are valid until the next call.
	Next() (b []byte, done bool)
	// Close gives the body up. It is safe to call more than once, and from
	// another goroutine than the reader's, whose Read then fails soon.
	io.Closer
}

// Spliceable is a body whose remaining bytes stand unframed on a TCP
// connection, so that the kernel can move them without a copy.
type Spliceable interface {
	Body
	// Raw returns the connection and how many bytes are left, with ok false
	// when some are in memory (Next gets them), the framing isn't plain, or the
	// connection is encrypted.
	Raw() (c *net.TCPConn, n int64, ok bool)
	// Spliced says how many bytes the caller took from the connection; with all
	// of them taken, the body has ended.
	Spliced(n int64)
}

// bytesBody is a body in memory.
type bytesBody struct{ b []byte }

func (r *bytesBody) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	if len(r.b) == 0 {
		return n, io.EOF
	}
	return n, nil
}

func (r *bytesBody) Next() ([]byte, bool) {
	b := r.b
	r.b = nil
	return b, true
}

func (r *bytesBody) Close() error {
	r.b = nil
	return nil
}

// Bytes is a body of the given bytes.
func Bytes(b []byte) Body { return &bytesBody{b: b} }
