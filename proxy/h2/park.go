package h2

import (
	"errors"

	"github.com/sidegate-proxy/sidegate/proxy/socket"
)

// A connection without streams parks: it gives back its engine, and its reader
// ends. A new goroutine waits for something to read in its place, since a stack
// that was deep once stays so, while a new one has 2 KiB; it is the next reader.
//
//	serve ── idle for parkAfter ──▸ resume ── something to read ──▸ reads on

// engine takes an engine to read and decode with.
func (c *conn) engine() *engine {
	e := c.pools.engine(c.fill)
	c.block = &e.block
	c.block.init(c.dec, c.f.cfg.MaxHeaders, c.f.cfg.MaxFields)
	return e
}

// leave is what the reader does at last: it parks the connection or ends it.
func (c *conn) leave(e *engine, err error) {
	if !errors.Is(err, errPark) {
		c.finish(e, err)
		c.f.remove(c)
		return
	}
	c.block = nil
	c.dec.SetEmitFunc(nil) // it would hold on to the engine
	c.pools.giveBack(e)
	c.mu.Lock()
	c.streams = nil
	c.mu.Unlock()
	go c.resume() // ends with the connection, or when that parks again
}

// resume waits for something to read and becomes the reader.
func (c *conn) resume() {
	err := c.rise()
	e := c.engine()
	if err == nil {
		e, err = c.readFrames(e)
	}
	c.leave(e, err)
}

// rise waits until a parked connection has something to read, or is to end.
func (c *conn) rise() error {
	for {
		err := c.doze()
		if err == nil || !isTimeout(err) || !c.rest() {
			c.mu.Lock()
			c.parked = false
			c.mu.Unlock()
			return err
		}
		if err := c.lookUp(); err != nil {
			return err
		}
	}
}

// doze waits until the socket has something to read, without a buffer, and on
// little stack: below TLS. It may be called when a read was woken, so that
// neither TLS nor any other layer holds a byte that could be read.
func (l *link) doze() error {
	if s := socket.Below(l.nc); s != nil {
		return s.AwaitReadable()
	}
	return nil
}
