package proxy

import (
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// abuseSaidEvery bounds how often the log tells of connections closed for abuse:
// an attack makes thousands.
const abuseSaidEvery = 10 * time.Second

// abuseKey is what connections are counted by.
type abuseKey struct {
	protocol string
	kind     abuse.Kind
	closed   bool
}

// abuses counts the connections that were asked to end, or closed, for what
// their clients did.
type abuses struct {
	counts map[abuseKey]*atomic.Uint64 // filled once
	said   atomic.Int64                // when the log told of one the last time, in nanoseconds
	unsaid atomic.Uint64               // since then
}

func newAbuses() *abuses {
	a := &abuses{counts: map[abuseKey]*atomic.Uint64{}}
	for _, protocol := range []string{"h1", "h2", "h3"} {
		for _, k := range abuse.Kinds() {
			for _, closed := range []bool{false, true} {
				a.counts[abuseKey{protocol, k, closed}] = new(atomic.Uint64)
			}
		}
	}
	return a
}

// say tells of a connection that was closed, or only counts it.
func (a *abuses) say(log logrus.FieldLogger, c *exchange.Conn, k abuseKey) {
	now, said := time.Now().UnixNano(), a.said.Load()
	if now-said < int64(abuseSaidEvery) || !a.said.CompareAndSwap(said, now) {
		a.unsaid.Add(1)
		return
	}
	log.WithFields(logrus.Fields{"client": c.RemoteIP, "protocol": k.protocol, "kind": k.kind.String(), "others": a.unsaid.Swap(0)}).
		Warn("a connection was closed for what its client sent")
}

// abusive is what a front of v calls: it counts, tells, and has who bans know. A
// trusted proxy speaks for many clients, and isn't blamed for one.
func (v *serving) abusive(d *ServerDeps, a *abuses, protocol string) func(*exchange.Conn, abuse.Kind, bool) {
	return func(c *exchange.Conn, k abuse.Kind, closed bool) {
		key := abuseKey{protocol, k, closed}
		a.counts[key].Add(1)
		if !closed {
			return
		}
		a.say(v.log, c, key)
		if ip := c.Remote.Addr(); d.Abused != nil && !v.trust.Contains(ip) {
			d.Abused(ip)
		}
	}
}

// AbuseCount is how many connections there were of a kind.
type AbuseCount struct {
	Protocol, Kind string
	Closed         bool // else asked to end
	Connections    uint64
}

// Abuse returns the counts that aren't zero.
func (s *Server) Abuse() []AbuseCount {
	var list []AbuseCount
	for k, n := range s.abuses.counts {
		if n := n.Load(); n > 0 {
			list = append(list, AbuseCount{k.protocol, k.kind.String(), k.closed, n})
		}
	}
	return list
}
