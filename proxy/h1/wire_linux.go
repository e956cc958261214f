//go:build linux && !race

package h1

import (
	"io"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawMax bounds how long one call keeps the scheduler waiting.
const rawMax = 64 << 10

// rawIO calls the kernel from within RawConn's callbacks: the buffer is taken
// only once there are bytes, and the layers of net.Conn are skipped. The
// closures are made once for each connection.
type rawIO struct {
	splicing atomic.Bool
	one      [1]byte

	onRead, onWrite, onAwait func(fd uintptr) bool

	in, out   []byte
	inN, outN int
	inErr     error
	outErr    error
}

func (w *wire) initRaw() {
	if w.tcp == nil || w.sock == nil {
		return
	}
	w.raw.onRead = w.readReady
	w.raw.onWrite = w.writeReady
	w.raw.onAwait = w.awaitReady
}

func (w *wire) readReady(fd uintptr) bool {
	for {
		n, err := sysread(fd, w.raw.in)
		switch {
		case err == 0 && n == 0:
			w.raw.inN, w.raw.inErr = 0, io.EOF
		case err == 0:
			w.raw.inN, w.raw.inErr = n, nil
		case err == unix.EAGAIN:
			return false
		case err == unix.EINTR:
			continue
		default:
			w.raw.inN, w.raw.inErr = 0, err
		}
		return true
	}
}

func (w *wire) awaitReady(fd uintptr) bool {
	buf := take(smallBuffer)
	w.raw.in = buf
	if !w.readReady(fd) {
		give(buf)
		return false
	}
	return true
}

func (w *wire) writeReady(fd uintptr) bool {
	for w.raw.outN < len(w.raw.out) {
		n, err := syswrite(fd, w.raw.out[w.raw.outN:])
		switch err {
		case 0:
			w.raw.outN += n
		case unix.EAGAIN:
			return false
		case unix.EINTR:
		default:
			w.raw.outErr = err
			return true
		}
	}
	return true
}

func (w *wire) sysRead(p []byte) (int, error) {
	if w.raw.onRead == nil {
		return w.nc.Read(p)
	}
	w.raw.in = p
	err := w.sock.Read(w.raw.onRead)
	w.raw.in = nil
	if err != nil {
		return 0, err
	}
	return w.raw.inN, w.raw.inErr
}

func (w *wire) sysAwait() error {
	if w.raw.onAwait == nil {
		return w.awaitByte()
	}
	// Others first: by the time this goroutine's turn comes again the bytes are
	// mostly there, and a read that would find none (half a microsecond), a park
	// and a wake-up are saved. With nobody else to run it costs next to nothing.
	runtime.Gosched()
	err := w.sock.Read(w.raw.onAwait)
	buf := w.raw.in
	w.raw.in = nil
	if err != nil {
		return err // the callback has given its buffer back
	}
	if w.raw.inErr != nil {
		give(buf)
		return w.raw.inErr
	}
	w.buf, w.r, w.w, w.floor = buf, 0, w.raw.inN, 0
	return nil
}

func (w *wire) sysWrite(p []byte) (int, error) {
	if w.raw.onWrite == nil {
		return w.nc.Write(p)
	}
	w.raw.out, w.raw.outN, w.raw.outErr = p, 0, nil
	err := w.sock.Write(w.raw.onWrite)
	w.raw.out = nil
	if err == nil {
		err = w.raw.outErr
	}
	return w.raw.outN, err
}

// The socket doesn't block and a piece is small, so the calls skip telling the
// scheduler of them. That took a proxied request from 42.6 to 29.4 µs (medians
// of 6 interleaved rounds, nginx 36.1): without it, the monitor thread takes
// the processor away and threads hand it around.

func sysread(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(min(len(p), rawMax)))
	return int(n), err
}

func syswrite(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(min(len(p), rawMax)))
	return int(n), err
}

// awaitsReady reports whether await gets all that is there, not one byte.
func (w *wire) awaitsReady() bool { return w.raw.onAwait != nil }
