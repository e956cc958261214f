package h1

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// tunnel is the backend's side of an upgraded connection. Bytes in either
// direction keep it alive; ClientConfig.Idle without any ends it.
type tunnel struct{ c *ClientConn }

func (t *tunnel) Read(p []byte) (int, error) {
	w := &t.c.w
	if w.buffered() > 0 {
		n := copy(p, w.buf[w.r:w.w])
		w.r += n
		return n, nil
	}
	w.armRead(w.stall)
	n, err := w.read(p)
	return n, t.fault(err)
}

// next waits for bytes without holding a buffer; they are valid until the next
// call.
func (t *tunnel) next() ([]byte, error) {
	w := &t.c.w
	w.armRead(w.stall)
	b, err := w.nextBytes()
	return b, t.fault(err)
}

func (t *tunnel) fault(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return t.c.fault(err)
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.c.w.write(p)
	t.c.w.armRead(t.c.w.stall)
	return n, err
}

func (t *tunnel) CloseWrite() error { return t.c.w.closeWrite() }

func (t *tunnel) Close() error {
	t.c.w.giveUp()
	return t.c.closeSocket()
}

// nextBytes waits for bytes and returns them.
func (w *wire) nextBytes() ([]byte, error) {
	w.park()
	for w.buffered() == 0 {
		if err := w.await(); err != nil && !errors.Is(err, errWoken) {
			return nil, err
		}
	}
	b := w.buf[w.r:w.w]
	w.r = w.w
	return b, nil
}

// tunnel answers 101 and moves bytes both ways until both have ended, or one
// has failed.
func (c *conn) tunnel(x *exchange.Exchange) error {
	c.keep = false
	if err := c.switchProtocols(x); err != nil {
		c.broken = true
		_ = x.Tunnel.Close()
		return err
	}
	// Both heads stay readable for the log.
	c.w.detach()
	var over atomic.Bool // the backend has nothing more to say
	up := make(chan error, 1)
	go func() {
		err := c.upload(x, &over)
		if err != nil {
			_ = x.Tunnel.Close() // ends download
		}
		up <- err
	}()
	err := c.download(x)
	if err != nil {
		c.w.giveUp() // ends upload
		_ = x.Tunnel.Close()
	} else {
		over.Store(true)
		_ = c.w.closeWrite()
		c.w.armRead(c.w.stall)
	}
	upErr := <-up
	_ = x.Tunnel.Close()
	if upErr != nil && !errors.Is(upErr, errClosed) {
		err = upErr
	}
	c.broken = err != nil
	return err
}

func (c *conn) switchProtocols(x *exchange.Exchange) error {
	head := take(max(outBuffer, len(x.Response.Buffer())+smallBuffer))
	out := appendFields(appendStatusLine(head[:0], 101), &x.Response, &x.ResponseEdits, exchange.Other)
	protocol := x.Response.Get(exchange.UpgradeField)
	if protocol == "" {
		protocol = x.Upgrade
	}
	out = appendField(out, "Connection", "Upgrade")
	out = appendField(out, "Upgrade", protocol)
	out = append(out, '\r', '\n')
	_, err := c.w.write(out)
	give(out)
	return err
}

// upload moves bytes from the client to the backend.
func (c *conn) upload(x *exchange.Exchange, over *atomic.Bool) error {
	for {
		b, err := c.w.nextBytes()
		if errors.Is(err, io.EOF) {
			if half, ok := x.Tunnel.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return errClosed // the backend's side can only be closed as a whole
		}
		if err != nil {
			return err
		}
		x.BytesIn += int64(len(b))
		if _, err := x.Tunnel.Write(b); err != nil {
			return err
		}
		if over.Load() {
			c.w.armRead(c.w.stall)
		}
	}
}

// download moves bytes from the backend to the client.
func (c *conn) download(x *exchange.Exchange) error {
	var buf []byte
	t, ours := x.Tunnel.(*tunnel)
	if !ours {
		buf = take(smallBuffer)
		defer give(buf)
	}
	for {
		var b []byte
		var err error
		if ours {
			b, err = t.next()
		} else {
			var n int
			n, err = x.Tunnel.Read(buf)
			b = buf[:n]
		}
		if len(b) > 0 {
			if _, err := c.w.write(b); err != nil {
				return err
			}
			x.BytesOut += int64(len(b))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
