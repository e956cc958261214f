//go:build !linux

package socket

// Waits is explained beside the other AwaitReadable.
const Waits = false

// AwaitReadable returns at once: the read that follows waits.
func (c *Conn) AwaitReadable() error { return nil }
