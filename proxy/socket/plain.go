//go:build !linux || race

package socket

// The race detector doesn't see what system calls do to memory, so it gets what
// other systems get: net.TCPConn as it is.

type (
	reading struct{}
	writing struct{}
)

func (c *Conn) init() {}

// Await takes a buffer with get, and waits for bytes to read into it. Without
// bytes, the buffer is given back with put.
func (c *Conn) Await(get func() []byte, put func([]byte)) (buf []byte, n int, err error) {
	buf = get()
	n, err = c.Read(buf)
	if n == 0 {
		put(buf)
		if err == nil {
			err = ended(n)
		}
		return nil, 0, err
	}
	return buf, n, nil
}

// TryWrite writes nothing here, since it couldn't without waiting.
func (c *Conn) TryWrite([]byte) (int, error) { return 0, nil }
