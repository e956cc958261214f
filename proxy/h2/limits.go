package h2

import (
	"errors"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

var errStalled = errors.New("nothing moved for too long")

var _ sweep.Member = (*conn)(nil)

// Sweep implements sweep.Member: the time limits of a client's connection.
func (c *conn) Sweep(now int64) {
	cfg := &c.f.cfg
	stall, head := int64(cfg.StallTimeout), int64(cfg.HeaderTimeout)
	late := func(since, limit int64) bool { return since != 0 && now-since > limit }

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken || c.ending != notEnding {
		return
	}
	frame := c.frameAt.Load()
	frameLimit := head
	if c.slowData.Load() {
		frameLimit = stall
	}
	switch {
	case late(c.writeSince.Load(), stall):
		c.ending = silent // it doesn't read: there is no use in talking
		c.breakOff()
	case late(frame, frameLimit), late(c.headAt.Load(), head):
		c.sluggish = late(c.headAt.Load(), head) || !c.slowData.Load()
		c.end(int(http2.ErrCodeNo))
	case c.running > 0:
		c.sweepStreams(now, stall)
	case c.maxID == 0 && late(c.started, head), late(c.idleAt, int64(cfg.IdleTimeout)):
		c.end(int(http2.ErrCodeNo))
	case !c.parked && late(c.idleAt, parkAfter):
		c.wake()
	}
	if c.draining == 0 && late(c.leaveAt, freshGrace) && c.err == nil {
		c.announce()
	}
	if c.draining == announced && late(c.drainAt, second) {
		c.settle()
	}
}

// sweepStreams resets the streams that wait for the client for too long: for
// its data, or for its window.
func (c *conn) sweepStreams(now, stall int64) {
	reset := false
	for _, st := range c.streams {
		since := st.sendSince
		if !st.connect && st.readSince != 0 && (since == 0 || st.readSince < since) {
			since = st.readSince
		}
		if since == 0 || now-since <= stall {
			continue
		}
		c.putReset(st.id, http2.ErrCodeCancel)
		c.ours.add(st.id)
		c.forget(st)
		st.drop(faultStalled)
		reset = true
	}
	if reset && !c.writing {
		c.later()
	}
}
