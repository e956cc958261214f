//go:build unix

package h2

import "golang.org/x/sys/unix"

// readable reports whether a read of the socket would not wait: there are bytes,
// or the end, or an error.
func readable(fd uintptr) bool {
	var b [1]byte
	for {
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return err != unix.EAGAIN
		}
	}
}
