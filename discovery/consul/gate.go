package consul

import (
	"sync"
	"time"
)

// Bounds of the gate.
const (
	minBlocking   = 8
	forgetRefusal = 5 * time.Minute // then the full number is tried again
)

// gate counts the blocking queries. The zero value lets none through.
type gate struct {
	mu         sync.Mutex // guards what follows
	max, limit int
	used       int
	refusedAt  time.Time
}

// enter takes a place if there is one.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
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

// crowded says that more blocks than may, so that who asks should leave.
func (g *gate) crowded() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used > g.limit
}

// refused halves the places after a 429: others of this host need theirs.
// Refusals that come together count once.
func (g *gate) refused() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.refusedAt) > time.Second {
		g.limit = max(minBlocking, g.limit/2)
	}
	g.refusedAt = time.Now()
}

// shrink allows no more than n, for an https agent that doesn't speak HTTP/2.
func (g *gate) shrink(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.max > n {
		g.max, g.limit = n, min(g.limit, n)
	}
}
