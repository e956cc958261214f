package h1

import (
	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// judge charges the client for a request that was refused for its form. Mostly
// the connection ends with such a request anyway, since nothing behind it can be
// trusted; where it doesn't, many of them end it.
func (c *conn) judge(f *exchange.Fault) {
	if c.x.Fault != nil || f.Kind == exchange.Malformed || f.Kind == exchange.BadHost {
		if k, blamed := fatal(f.Kind); blamed {
			c.f.abusive(c.info, k, true)
		}
		return
	}
	if !f.Breach() {
		return
	}
	if c.score == nil {
		c.score = new(abuse.Score)
	}
	switch c.score.Add(c.f.cfg.Sweeper.Now(), abuse.Refused, 1) {
	case abuse.Leave:
		if !c.leaving {
			c.leaving = true // the next response says so
			c.f.abusive(c.info, c.score.Worst(), false)
		}
	case abuse.Cut:
		c.keep, c.unread = false, true
		c.f.abusive(c.info, c.score.Worst(), true)
	}
}

// fatal is what a connection that ends with a refusal is closed for, if it is
// for what no client does in earnest.
func fatal(k exchange.Kind) (abuse.Kind, bool) {
	switch k {
	case exchange.Malformed, exchange.BadHost:
		return abuse.Malformed, true
	case exchange.HeadersTooLarge, exchange.URITooLong:
		return abuse.Headers, true
	case exchange.ClientTimeout:
		return abuse.Slow, true
	default:
		return 0, false
	}
}

func (f *Front) abusive(info *exchange.Conn, k abuse.Kind, closed bool) {
	if f.cfg.Abusive != nil {
		f.cfg.Abusive(info, k, closed)
	}
}
