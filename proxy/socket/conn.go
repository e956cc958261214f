package socket

import (
	"io"
	"net"
	"syscall"
)

// Conn is a TCP connection. One goroutine at a time may read, and one may
// write; everything else is as with net.TCPConn. It must not be copied.
type Conn struct {
	*net.TCPConn
	raw syscall.RawConn
	rd  reading
	wr  writing
}

var _ net.Conn = (*Conn)(nil)

// New makes tcp, which must be open, a Conn.
func New(tcp *net.TCPConn) (*Conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{TCPConn: tcp, raw: raw}
	c.init()
	return c, nil
}

// Control calls f with the descriptor; see syscall.RawConn.
func (c *Conn) Control(f func(fd uintptr)) error { return c.raw.Control(f) }

// Wrap is nc as a Conn if it is a TCP connection, else nc itself.
func Wrap(nc net.Conn) net.Conn {
	if tcp, ok := nc.(*net.TCPConn); ok {
		if c, err := New(tcp); err == nil {
			return c
		}
	}
	return nc
}

// Below is the Conn that nc is, or that is below nc when it is a connection of
// crypto/tls; nil when there is none.
func Below(nc net.Conn) *Conn {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	c, _ := Wrap(nc).(*Conn)
	return c
}

// ended is what reading n bytes without an error means.
func ended(n int) error {
	if n == 0 {
		return io.EOF
	}
	return nil
}
