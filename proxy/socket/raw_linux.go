//go:build linux && !race

package socket

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// most bounds how long one call keeps the scheduler waiting.
const most = 64 << 10

// reading and writing are what the callbacks work with. The closures are made
// once for each connection.
type reading struct {
	ready func(fd uintptr) bool
	p     []byte
	get   func() []byte // takes the buffer, when there is none in p
	put   func([]byte)
	n     int
	err   error
}

type writing struct {
	ready func(fd uintptr) bool
	p     []byte
	once  bool // don't wait
	n     int
	err   error
}

func (c *Conn) init() {
	c.rd.ready = c.readReady
	c.wr.ready = c.writeReady
}

// Read reads into p, which must not be empty.
func (c *Conn) Read(p []byte) (int, error) {
	r := &c.rd
	r.p = p
	err := c.raw.Read(r.ready)
	r.p = nil
	if err != nil {
		return 0, err
	}
	return r.n, r.err
}

// Await waits for bytes without holding a buffer; then it takes one with get
// and reads into it. Without bytes, the buffer is given back with put.
func (c *Conn) Await(get func() []byte, put func([]byte)) (buf []byte, n int, err error) {
	r := &c.rd
	r.get, r.put = get, put
	err = c.raw.Read(r.ready)
	buf = r.p
	r.p, r.get, r.put = nil, nil, nil
	if err != nil {
		return nil, 0, err // the callback has given its buffer back
	}
	if r.err != nil {
		put(buf)
		return nil, 0, r.err
	}
	return buf, r.n, nil
}

func (c *Conn) readReady(fd uintptr) bool {
	r := &c.rd
	if r.get != nil {
		r.p = r.get()
	}
	for {
		n, err := receive(fd, r.p)
		switch err {
		case 0:
			r.n, r.err = n, ended(n)
		case unix.EAGAIN:
			if r.get != nil {
				r.put(r.p)
				r.p = nil
			}
			return false
		case unix.EINTR:
			continue
		default:
			r.n, r.err = 0, err
		}
		return true
	}
}

// Write writes all of p.
func (c *Conn) Write(p []byte) (int, error) { return c.write(p, false) }

// TryWrite writes what there is room for, without waiting.
func (c *Conn) TryWrite(p []byte) (int, error) { return c.write(p, true) }

func (c *Conn) write(p []byte, once bool) (int, error) {
	w := &c.wr
	w.p, w.once, w.n, w.err = p, once, 0, nil
	err := c.raw.Write(w.ready)
	w.p = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}

func (c *Conn) writeReady(fd uintptr) bool {
	w := &c.wr
	for w.n < len(w.p) {
		n, err := send(fd, w.p[w.n:])
		switch err {
		case 0:
			w.n += n
		case unix.EAGAIN:
			return w.once
		case unix.EINTR:
		default:
			w.err = err
			return true
		}
	}
	return true
}

// The socket doesn't block and a piece is small, so the calls skip telling the
// scheduler of them: with it, the monitor thread takes the processor away and
// threads hand it around. recvfrom and sendto are less work for the kernel than
// read and write, about 1 % of a proxied request.

func receive(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(min(len(p), most)), 0, 0, 0)
	return int(n), err
}

func send(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(min(len(p), most)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), err
}
