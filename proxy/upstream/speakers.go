package upstream

import (
	"net"

	"github.com/sidegate-proxy/sidegate/proxy/h1"
	"github.com/sidegate-proxy/sidegate/proxy/h2"
)

// speakers make connections speak their protocol.
type speakers struct {
	one  func(nc net.Conn, c *connPlan) single
	many func(nc net.Conn, c *connPlan) (shared, error)
}

// prepare fills in what the connections of a plan work with.
func (c *connPlan) prepare(d *Deps) {
	if c.h1 != nil {
		return // in use already
	}
	c.h1 = &h1.ClientConfig{Sweeper: d.Sweeper, FirstByte: c.timeouts.FirstByte, Idle: c.timeouts.Idle}
	c.h2 = &h2.ClientConfig{Sweeper: d.Sweeper, FirstByte: c.timeouts.FirstByte, Idle: c.timeouts.Idle, Log: d.Log}
}

func newSpeakers() speakers {
	return speakers{
		one:  func(nc net.Conn, c *connPlan) single { return h1.NewClientConn(nc, c.h1) },
		many: func(nc net.Conn, c *connPlan) (shared, error) { return h2.NewClientConn(nc, c.h2) },
	}
}

// speak lets c speak the plan's protocol on nc, which it closes on an error.
func (s *speakers) speak(c *conn, nc net.Conn) error {
	if !c.plan.multiplexed() {
		c.one = s.one(nc, c.plan)
		c.speaker = c.one
		return nil
	}
	many, err := s.many(nc, c.plan)
	if err != nil {
		// The error is the one that matters.
		_ = nc.Close()
		return err
	}
	c.many, c.speaker = many, many
	return nil
}
