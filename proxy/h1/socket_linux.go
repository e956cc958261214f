package h1

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/proxy/socket"
)

// counter is how many bytes the socket has received, or has had acknowledged.
func counter(sock *socket.Conn, received bool) (n uint64) {
	// An error leaves 0, which reads as: nothing moved.
	_ = sock.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		if n = info.Bytes_acked; received {
			n = info.Bytes_received
		}
	})
	return n
}

// hungUp reports whether the peer has closed at least its sending side and
// nothing that it sent before waits to be read. Below TLS, its goodbye is
// nothing.
func hungUp(sock *socket.Conn, secure bool) bool {
	gone := false
	err := sock.Control(func(fd uintptr) {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p[:], 0)
		if err != nil || n == 0 {
			return
		}
		if p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
			gone = true
			return
		}
		why := peek(fd)
		gone = why != 0 && why != unix.EAGAIN || why == 0 && secure && goodbye(fd)
	})
	return gone || err != nil
}

// The records that hold close_notify: TLS 1.2 says that it is an alert, TLS 1.3
// disguises it (RFC 8446, 5.2), but two bytes, their type and a tag of 16 bytes
// are hardly anything else.
const (
	recordHead  = 5
	recordAlert = 21
	recordData  = 23
	alertSize   = 2 + 1 + 16
)

// goodbye reports whether the last that the peer sent, and all that waits to be
// read, is an alert of TLS.
func goodbye(fd uintptr) bool {
	var b [64]byte
	n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil || n < recordHead {
		return false
	}
	size := int(b[3])<<8 | int(b[4])
	return n == recordHead+size && (b[0] == recordAlert || b[0] == recordData && size == alertSize)
}

// peek looks at the next byte without waiting: 0 means there is one.
func peek(fd uintptr) syscall.Errno {
	var b [1]byte
	for {
		n, _, err := syscall.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == 0 && n == 0:
			return unix.ECONNRESET
		default:
			return err
		}
	}
}

// empty reports whether nothing waits to be read, or only the end.
func empty(sock *socket.Conn) bool {
	none := true
	err := sock.Control(func(fd uintptr) { none = peek(fd) != 0 })
	return none || err != nil
}

// quiet reports whether the socket is open with nothing to read.
func quiet(fd uintptr) bool { return peek(fd) == unix.EAGAIN }
