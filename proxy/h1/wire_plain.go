//go:build !linux || race

package h1

import "sync/atomic"

// rawIO is what reading needs on any net.Conn. The race detector doesn't see
// what system calls do to memory, so it gets this, too.
type rawIO struct {
	splicing atomic.Bool
	one      [1]byte
}

func (w *wire) initRaw() {}

func (w *wire) sysRead(p []byte) (int, error) { return w.nc.Read(p) }

func (w *wire) sysWrite(p []byte) (int, error) { return w.nc.Write(p) }

func (w *wire) sysAwait() error { return w.awaitByte() }

// awaitsReady reports whether await gets all that is there, not one byte.
func (w *wire) awaitsReady() bool { return false }
