package consul

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// selfRetry is how long a failed look at the agent isn't repeated.
const selfRetry = 30 * time.Second

// self is who the agent says it is.
type self struct {
	mu         sync.Mutex // held during the question, so that one asks
	tried      time.Time
	known      bool
	node       string
	datacenter string
}

// whoAmI gives the agent's node and datacenter, "" when it doesn't say: reading
// them needs agent:read, which a token for discovery may lack. Then only
// addresses tell what is local.
func (c *Client) whoAmI(ctx context.Context) (node, datacenter string) {
	s := &c.self
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known || !s.tried.IsZero() && time.Since(s.tried) < selfRetry {
		return s.node, s.datacenter
	}
	a, err := c.get(ctx, read{path: "agent/self", limit: 8 * maxSmallReply})
	if ctx.Err() != nil {
		return "", ""
	}
	s.tried = time.Now()
	var body struct {
		Config struct{ NodeName, Datacenter string }
	}
	if err != nil || json.Unmarshal(a.body, &body) != nil {
		return "", ""
	}
	s.known, s.node, s.datacenter = true, body.Config.NodeName, body.Config.Datacenter
	return s.node, s.datacenter
}

// locality gives the function that says whether an instance is on this host.
func (c *Client) locality(ctx context.Context) func(node, datacenter, address string) bool {
	name, dc := c.whoAmI(ctx)
	return func(node, datacenter, address string) bool {
		return name != "" && node == name && (datacenter == "" || datacenter == dc) || c.host.Has(address)
	}
}
