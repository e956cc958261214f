//go:build !linux

package socket

// AwaitReadable returns at once: the read that follows waits.
func (c *Conn) AwaitReadable() error { return nil }
