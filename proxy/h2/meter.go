package h2

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
)

const (
	second = int64(time.Second)
	// tinyData is how small a DATA frame of ours must be, for want of window, to
	// be held against who gave so little.
	tinyData = 256
)

// meter is the abuse score of a connection, and what is free of it. Times are
// the sweeper's.
type meter struct {
	abuse.Score
	resets  abuse.Resets
	opened  uint64 // streams so far
	credit  int    // control frames that data of ours explains
	starved int    // DATA frames of ours that a window cut to a few bytes
}

// add counts what costs us something, and reports whether the connection is
// still bearable.
func (m *meter) add(now int64, k abuse.Kind) bool { return m.Add(now, k, 1) != abuse.Cut }

// explained reports whether a frame answers data of ours: such frames are free
// as long as there are no more of them than twice the data.
func (m *meter) explained() bool {
	if m.credit == 0 {
		return false
	}
	m.credit--
	return true
}

// widened is explained for a WINDOW_UPDATE. What follows a window of a few bytes
// is never free: a client that reads in such pieces costs a frame, and a write,
// for each.
func (m *meter) widened() bool {
	if m.starved > 0 {
		m.starved--
		return false
	}
	return m.explained()
}

// earn counts a DATA frame, sent or received.
func (m *meter) earn() {
	if m.credit < 1000 {
		m.credit += 2
	}
}

// sent counts a DATA frame of ours with n bytes; cut says that there were more,
// and no window.
func (m *meter) sent(n int, cut bool) {
	if cut && n < tinyData {
		m.starved = min(m.starved+1, 1000)
		return
	}
	m.earn()
}

// reset counts a stream that ended early by the peer's doing, and reports
// whether that is one too many.
func (m *meter) reset(now int64, maxStreams int) bool {
	return m.resets.Reset(now, m.opened, maxStreams)
}

// bear charges the client, and reports whether its connection goes on; asked to
// end when its streams have it may be. mu is held.
func (c *conn) bear(k abuse.Kind) bool {
	switch c.meter.Add(c.clock.Now(), k, 1) {
	case abuse.Cut:
		return false
	case abuse.Leave:
		if c.draining == 0 && c.err == nil {
			c.announce()
			c.f.abusive(c.info, c.meter.Worst(), false)
		}
	}
	return true
}

// gaveUp charges a stream that the client reset, or that broke because of what it
// sent, unless it is one of the few of which there are in earnest. mu is held.
func (c *conn) gaveUp() bool {
	return !c.meter.reset(c.clock.Now(), c.f.cfg.MaxStreams) || c.bear(abuse.Reset)
}

// blame is what a connection is closed for, if it is for what the client did. mu
// is held.
func (c *conn) blame(err error, code int) (abuse.Kind, bool) {
	switch {
	case code == int(errCodeCalm):
		return c.meter.Worst(), true
	case c.sluggish:
		return abuse.Slow, true
	case isProtocolError(err) && !c.cutOff:
		return abuse.Malformed, true
	}
	return 0, false
}
