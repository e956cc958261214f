package socket

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Waits tells that AwaitReadable does, and so that it pays to let go of a stack
// and a buffer before.
const Waits = true

// AwaitReadable waits until a read would not: there are bytes, or the end, or
// an error.
func (c *Conn) AwaitReadable() error {
	return c.raw.Read(peek)
}

func peek(fd uintptr) bool {
	var b [1]byte
	for {
		_, _, err := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		if err != unix.EINTR {
			return err != unix.EAGAIN
		}
	}
}
