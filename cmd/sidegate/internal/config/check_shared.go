package config

import (
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
)

// redis checks where the nodes of a fleet count together, and that there is
// somewhere, for limits that want it.
func (c *checker) redis() {
	if r := c.file.Redis; r != nil && !c.broken[r] {
		if err := r.Check(); err != nil {
			c.blame(r, "redis", err)
		}
		if r.TLS != nil && !c.broken[r.TLS] {
			c.pair(r.TLS, "redis: tls", r.TLS.CertFile, r.TLS.KeyFile)
		}
	}
	if !c.whole || c.file.Redis != nil || c.file.Consul != nil {
		return
	}
	c.file.eachPolicy(func(b Block) {
		wants := false
		switch cfg := b.Config.(type) {
		case *ratelimit.Config:
			wants = cfg.Shared
		case *quota.Config:
			wants = cfg.Shared
		}
		if wants {
			c.diags.Errorf(c.at(b.Config, "shared"), "Add redis { address = \"host:port\" }, or a consul block, at the top.", "%s: there is nothing to count in on all nodes together", b.Kind.Name)
		}
	})
}
