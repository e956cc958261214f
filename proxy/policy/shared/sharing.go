package shared

import (
	"errors"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Sharing is what blocks say of counting on all nodes together.
type Sharing struct {
	// Count on all nodes together: in Redis, or without a redis block by leases from Consul's KV.
	Shared bool `hcl:"shared,attr" default:"false"`
	// What holds while Redis or Consul can't be asked: local: each node admits its share by itself; deny: 503; allow: nothing is refused.
	WhenDown string `hcl:"when_down,attr" default:"local" enum:"local|deny|allow"`
	// The part that a node admits by itself then; 1 divided by the number of nodes keeps to the limit.
	Share float64 `hcl:"share,attr" default:"0.5"`
	// Without Redis: how many are leased at a time. Nodes may admit that many more than the limit, each; a tenth of the burst, or a hundredth of the quota, unless given.
	Chunk int64 `hcl:"chunk,attr" min:"1" max:"1000000"`
}

// Check reports what is wrong with it.
func (s *Sharing) Check() error {
	if s.Share == 0 {
		s.Share = 0.5
	}
	var errs error
	if !(s.Share > 0 && s.Share <= 1) {
		errs = errors.New("share: must be more than 0, and 1 at most")
	}
	if s.Chunk != 0 && !s.Shared {
		errs = errors.Join(errs, errors.New("chunk: without shared = true"))
	}
	return errs
}

// Part is a node's own part of n, one at least.
func (s *Sharing) Part(n int64) int64 { return max(1, int64(float64(n)*s.Share)) }

// Unavailable is the fault of a request that when_down = "deny" keeps out.
func Unavailable(limit string) *exchange.Fault {
	return exchange.NewFault(exchange.FromPolicy, exchange.LimitUnavailable, "%s: %w", limit, ErrDown)
}
