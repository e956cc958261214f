package consul

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds of the gate.
const (
	minBlocking   = 8
	halveEvery    = time.Second
	forgetRefusal = 5 * time.Minute // then the full number is tried again
)

// errCrowded ends a blocking query whose connection others need.
var errCrowded = errors.New("too many blocking queries")

// gate counts the blocking queries. The zero value lets none through.
type gate struct {
	mu         sync.Mutex // guards what follows
	max, limit int
	used       int
	refusedAt  time.Time
	halvedAt   time.Time
	together   bool                               // either all block or all share
	sharing    bool                               // all share
	holders    map[*place]context.CancelCauseFunc // queries that run now
}

// enter takes a place if there is one.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.together && g.used >= g.limit && !g.sharing {
		g.sharing = true
		g.end(g.used)
	}
	if g.sharing {
		return false
	}
	if g.limit < g.max && time.Since(g.refusedAt) > forgetRefusal {
		g.limit = g.max
	}
	if g.used >= g.limit {
		return false
	}
	g.used++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used--
}

// crowded says that more block than may, so that who asks should leave.
func (g *gate) crowded() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used > g.limit || g.sharing
}

// unshare lets queries block again, as there are none.
func (g *gate) unshare() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sharing = false
}

// hold lets the gate end a running query by cancel, until release.
func (g *gate) hold(p *place, cancel context.CancelCauseFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holders == nil {
		g.holders = make(map[*place]context.CancelCauseFunc)
	}
	g.holders[p] = cancel
}

func (g *gate) release(p *place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.holders, p)
}

// refused halves the places after a 429: others of this host need theirs, and
// so do our reads that don't block. Refusals within a second count once. What
// blocks beyond the new limit is ended, as else it would keep its connection
// for minutes.
func (g *gate) refused() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusedAt = time.Now()
	if time.Since(g.halvedAt) < halveEvery || g.limit <= minBlocking {
		return
	}
	g.halvedAt = g.refusedAt
	g.limit = max(minBlocking, min(g.limit, g.used)/2)
	g.end(g.used - g.limit)
}

// end ends some of the running queries; g.mu is held.
func (g *gate) end(excess int) {
	for p, cancel := range g.holders {
		if excess <= 0 {
			break
		}
		cancel(errCrowded)
		delete(g.holders, p)
		excess--
	}
}

// shrink allows no more than n, for an https agent that doesn't speak HTTP/2.
func (g *gate) shrink(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.max > n {
		g.max, g.limit = n, min(g.limit, n)
	}
}

// guardedConn sees the agent's refusal of a connection. With too many of them
// the agent says 429 at once and closes, before it has read a request: to
// net/http that is an unsolicited answer, which it reports as any other broken
// connection (seen with 1.22.7).
type guardedConn struct {
	net.Conn
	gate *gate
	read bool // something was; only the transport's reading goroutine looks
}

// guard wraps what a dialer gave.
func (g *gate) guard(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &guardedConn{Conn: conn, gate: g}, nil
}

// Read looks at the first bytes that arrive.
func (c *guardedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.read || n == 0 {
		return n, err
	}
	c.read = true
	if bytes.HasPrefix(b[:n], []byte("HTTP/1.1 429")) {
		c.gate.refused()
		return 0, &statusError{http.StatusTooManyRequests, "too many connections"}
	}
	return n, err
}
