package h2

import (
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
)

// frame takes one frame from the client. An error ends the connection, but a
// http2.StreamError, which ends a stream.
func (c *conn) frame(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.HeadersFrame:
		return c.headers(f)
	case *http2.ContinuationFrame:
		return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.rstStream(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		return c.ping(f)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return streamError(f.StreamID, http2.ErrCodeProtocol) // RFC 7540, 5.3.1
		}
		return c.charge(abuse.Priority)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol) // RFC 9113, 8.4
	case *http2.GoAwayFrame:
		return c.charge(abuse.Unknown) // what runs is served all the same
	case *http2.PriorityUpdateFrame: // nothing is made of it, but browsers send one for each image that comes into sight
		return c.charge(abuse.Priority)
	default:
		return c.charge(abuse.Unknown) // ignored (RFC 9113, 5.5)
	}
}

func streamError(id uint32, code http2.ErrCode) error {
	return http2.StreamError{StreamID: id, Code: code}
}

// charge counts a frame that costs the client nothing.
func (c *conn) charge(k abuse.Kind) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.bear(k) {
		return errCalm
	}
	return nil
}

// refuse answers a stream error (RFC 9113, 5.4.2). Streams that break because
// of what the client sent count like streams that it resets.
func (c *conn) refuse(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := abuse.Malformed
	if code == http2.ErrCodeRefusedStream {
		kind = abuse.Refused
	}
	bearable := c.bear(kind)
	if st := c.streams[id]; st != nil {
		bearable = c.gaveUp() && bearable
		c.forget(st)
		st.drop(faultMalformed)
	}
	if !bearable {
		return errCalm
	}
	c.putReset(id, code)
	c.ours.add(id)
	c.spoke = true
	return nil
}

// forget takes a stream off the table; mu is held.
func (c *conn) forget(st *stream) {
	delete(c.streams, st.id)
	st.known = false
	if len(c.streams) == 0 && c.draining == drained {
		c.end(int(http2.ErrCodeNo))
	}
}

func (c *conn) data(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, n := f.StreamID, int64(f.Length)
	c.recvWindow -= n
	if c.recvWindow < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.meter.earn()
	if len(f.Data()) == 0 && !f.StreamEnded() && !c.bear(abuse.Empty) {
		return errCalm
	}
	st := c.streams[id]
	if st == nil || st.remoteEnd {
		c.consumed(n)
		c.spoke = true
		return c.stray(id)
	}
	// What a stream doesn't take is given back when it goes.
	if code := st.data(f); code != 0 {
		c.consumed(n)
		c.spoke = true
		return streamError(id, code)
	}
	c.spoke = c.spoke || len(c.out) > 0
	if st.remoteEnd && st.localEnd {
		c.forget(st)
	}
	return nil
}

// stray judges a frame for a stream that isn't open (RFC 9113, 5.1); mu is held.
func (c *conn) stray(id uint32) error {
	if id > c.maxID || id&1 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol) // idle
	}
	if !c.bear(abuse.Stray) {
		return errCalm
	}
	if c.draining == drained && id > c.lastID || c.ours.has(id) {
		return nil // sent before our frame arrived
	}
	return streamError(id, http2.ErrCodeStreamClosed)
}

func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.meter.widened() && !c.bear(abuse.Window) {
		return errCalm
	}
	n := int64(f.Increment)
	if f.StreamID == 0 {
		if c.sendWindow+n > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.sendWindow += n
		c.grant()
		return nil
	}
	st := c.streams[f.StreamID]
	if st == nil {
		if f.StreamID > c.maxID || f.StreamID&1 == 0 {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil // on its way when the stream ended
	}
	if !st.addWindow(n) {
		return streamError(f.StreamID, http2.ErrCodeFlowControl)
	}
	return nil
}

func (c *conn) rstStream(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[f.StreamID]
	if st == nil {
		if f.StreamID > c.maxID || f.StreamID&1 == 0 {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if !c.bear(abuse.Stray) {
			return errCalm
		}
		return nil
	}
	c.forget(st)
	st.drop(faultGone)
	if !c.gaveUp() {
		return errCalm
	}
	return nil
}

// maxSettings bounds the entries of one SETTINGS frame.
const maxSettings = 32

func (c *conn) settings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		if !c.bear(abuse.Unknown) {
			return errCalm
		}
		return nil
	}
	if f.NumSettings() > maxSettings {
		c.meter.Exceed(abuse.Settings)
		return errCalm
	}
	if !c.bear(abuse.Settings) {
		return errCalm
	}
	window, err := c.applySettings(f)
	if err != nil {
		return err
	}
	// Of several values the last counts: the streams are walked through once.
	if delta := window - c.peerWindow; delta != 0 {
		c.peerWindow = window
		for _, st := range c.streams {
			if !st.addWindow(delta) {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
		}
	}
	c.putSettingsAck()
	c.spoke = true
	return nil
}

// applySettings takes the peer's settings over, but for the window of streams,
// which it returns; mu is held.
func (l *link) applySettings(f *http2.SettingsFrame) (window int64, err error) {
	window = l.peerWindow
	for i := range f.NumSettings() {
		s := f.Setting(i)
		if err := s.Valid(); err != nil {
			return 0, err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			window = int64(s.Val)
		case http2.SettingHeaderTableSize:
			if s.Val < 4096 {
				l.shrunk = true
			}
		}
	}
	return window, nil
}

func (c *conn) ping(f *http2.PingFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		if c.draining == announced && f.Data == drainPing {
			c.settle()
			return nil
		}
		if !c.bear(abuse.Ping) {
			return errCalm
		}
		return nil
	}
	// Clients that measure the path ping as often as data comes.
	if !c.meter.explained() && !c.bear(abuse.Ping) {
		return errCalm
	}
	c.putPing(true, f.Data)
	c.spoke = true
	return nil
}

// The steps of a drain (RFC 9113, 6.8): announced with the highest stream id, so
// that requests on their way count; drained with the last id, a round trip or a
// second later.
const (
	announced = 1
	drained   = 2
)

var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'}

// freshGrace is how long a connection without a request so far may still send its
// first one when the front drains.
const freshGrace = int64(time.Second)

// drain begins to end the connection. One that has had no request yet is told
// with its first: a client that has just dialed would dial again at once, and meet
// the same, or take it for a failure. Any goroutine may call it.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining != 0 || c.err != nil {
		return
	}
	if c.maxID == 0 {
		c.leaveAt = c.clock.Now()
		return
	}
	c.announce()
}

// announce is the first step of a drain; mu is held.
func (c *conn) announce() {
	c.draining = announced
	c.drainAt = c.clock.Now()
	c.putGoAway(maxWindow, http2.ErrCodeNo)
	c.putPing(false, drainPing)
	if !c.writing {
		c.later()
	}
}

// settle is the second step of a drain; mu is held.
func (c *conn) settle() {
	c.draining = drained
	c.lastID = c.maxID
	if len(c.streams) == 0 {
		c.end(int(http2.ErrCodeNo)) // with a GOAWAY of its own
		return
	}
	c.putGoAway(c.lastID, http2.ErrCodeNo)
	if !c.writing {
		c.later()
	}
}
