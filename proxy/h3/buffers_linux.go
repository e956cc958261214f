package h3

import (
	"net"
	"os"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// socketBuffer is what all clients' packets have to fit in while we are busy.
// It is what quic-go asks for, too.
const socketBuffer = 7 << 20

// widen gives the socket large buffers, as large as the kernel allows: without
// CAP_NET_ADMIN that is net.core.rmem_max and net.core.wmem_max, of which
// Debian's default (208 KiB) drops packets from some 100 MB/s on.
func widen(socket *net.UDPConn, log logrus.FieldLogger) {
	// quic-go would say it again, on the standard logger: this is its way to
	// keep it from that.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") // can't fail for this name
	raw, err := socket.SyscallConn()
	if err != nil {
		return // the socket is broken: quic-go will say so
	}
	var read, write int
	_ = raw.Control(func(fd uintptr) { // fails on a closed socket only
		read = widenTo(int(fd), unix.SO_RCVBUF, unix.SO_RCVBUFFORCE)
		write = widenTo(int(fd), unix.SO_SNDBUF, unix.SO_SNDBUFFORCE)
	})
	if read < socketBuffer || write < socketBuffer {
		log.WithFields(logrus.Fields{"receive": read, "send": write, "wanted": socketBuffer}).
			Info("small UDP buffers, enough for moderate HTTP/3 traffic; for more, set net.core.rmem_max and net.core.wmem_max to 7340032")
	}
}

// widenTo sets one buffer and returns its size, which for the kernel includes
// its own overhead: twice what was asked for.
func widenTo(fd, option, force int) int {
	if size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); err == nil && size >= socketBuffer {
		return size
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBuffer) // what was given is read below
	}
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if err != nil {
		return 0
	}
	return size
}
