package upstream

import (
	"errors"
	"net"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/h1"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// speakers make connections speak their protocol.
type speakers struct {
	one  func(nc net.Conn, c *connPlan) single
	many func(nc net.Conn, c *connPlan) (shared, error)
}

func newSpeakers(s *sweep.Sweeper, log logrus.FieldLogger) speakers {
	return speakers{
		one: func(nc net.Conn, c *connPlan) single {
			return h1.NewClientConn(nc, &h1.ClientConfig{Sweeper: s, FirstByte: c.timeouts.FirstByte, Idle: c.timeouts.Idle})
		},
		many: func(nc net.Conn, c *connPlan) (shared, error) {
			return nil, errors.New("HTTP/2 isn't there yet")
		},
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
