package h3

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// newPair makes a link, and the end of it for another process.
func newPair() (*link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		widenTo(fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "quic-link"), os.NewFile(uintptr(fds[1]), "quic-link")
	c, err := net.FileConn(ours)
	_ = ours.Close() // it has been duplicated
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	l, err := newLink(c.(*net.UnixConn)) //nolint:forcetypeassert // it is a unix socket
	if err != nil {
		_ = c.Close()
		_ = theirs.Close()
		return nil, nil, err
	}
	return l, theirs, nil
}
