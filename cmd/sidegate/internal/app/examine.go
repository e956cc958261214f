package app

import (
	"context"
	"slices"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// Load reads a configuration as the gateway does, and makes nothing of it.
func Load(opt Options) (*config.File, error) { return load(opt) }

// Listeners are those of a configuration, those of its sidecars among them.
func Listeners(file *config.File) []*proxy.ListenerConfig { return listenersOf(file) }

// Reaches reports why nothing takes a connection at an address: host:port, or unix://
// and a path; nil: something does.
func Reaches(ctx context.Context, address string) error { return reaches(address).connect(ctx) }

// Certificates are the settings by which a configuration gets certificates, with
// ACME where it goes without saying.
func Certificates(file *config.File) *edgetls.Settings { return certificates(file) }

// Need is a right that the token for Consul has to have.
type Need struct {
	consul.Permission
	For   string // what needs it
	Grant string // the rule of a policy that grants it
	// Some goes without: only what For says doesn't work.
	Some bool
}

// ConsulNeeds are the rights that a configuration makes use of.
func ConsulNeeds(file *config.File) []Need {
	if file.Consul == nil {
		return nil
	}
	kv := file.Consul.KV
	need := func(resource, access, segment, why string, some bool) Need {
		kind := resource + "_prefix"
		return Need{consul.Permission{Resource: resource, Access: access, Segment: segment}, why,
			kind + ` "` + segment + `" { policy = "` + access + `" }`, some}
	}
	var list []Need
	if finds(file) {
		list = append(list, need("service", "read", "", "finding services", false), need("node", "read", "", "finding services", false))
	}
	for _, s := range file.Sidecars {
		list = append(list, Need{consul.Permission{Resource: "service", Access: "write", Segment: s.Name}, "registering " + s.Name,
			`service "` + s.Name + `" { policy = "write" }`, false})
	}
	if kv != "" && (!file.SidecarOnly() || knowsCallers(file)) {
		list = append(list, need("key", "read", kv, "routes and consumers in KV", false))
	}
	if file.TLS.Storage == "consul" {
		list = append(list, need("key", "write", kv+storePrefix, "certificates that all nodes share", false),
			need("session", "write", "", "certificates that all nodes share", false))
	}
	if uses(file, func(c any) bool { _, ok := c.(*ban.Config); return ok }) {
		list = append(list, need("key", "write", bansPrefix(kv), "bans that hold on all nodes", true))
	}
	if uses(file, func(c any) bool { _, ok := c.(*cache.Config); return ok }) {
		list = append(list, need("key", "write", purgesPrefix(kv), "purges that hold on all nodes", true))
	}
	if uses(file, func(c any) bool { _, ok := c.(*apikey.Config); return ok }) {
		list = append(list, need("key", "read", keysPrefix(kv), "API keys that were made by command", false),
			need("key", "write", keysPrefix(kv), "sidegate key create, rotate and revoke", true))
	}
	if file.Redis == nil && uses(file, counts) {
		list = append(list, need("key", "write", countersPrefix(kv), "limits that all nodes share", false))
	}
	return list
}

// finds reports whether instances, or routes, come from Consul's catalog.
func finds(file *config.File) bool {
	proxies := slices.ContainsFunc(file.Sidecars, func(s *config.Sidecar) bool { return s.Proxy != "" })
	return proxies || file.Consul.Expose != nil || slices.ContainsFunc(file.Services, func(s *upstream.Config) bool { return len(s.Instances) == 0 })
}

// counts reports whether a policy counts on all nodes together.
func counts(c any) bool {
	switch c := c.(type) {
	case *ratelimit.Config:
		return c.Shared
	case *quota.Config:
		return c.Shared
	default:
		return false
	}
}

// uses reports whether some policy's block is so.
func uses(file *config.File, is func(any) bool) bool {
	in := func(list []config.Block) bool {
		return slices.ContainsFunc(list, func(b config.Block) bool { return is(b.Config) })
	}
	return slices.ContainsFunc(file.Routes, func(r *config.Route) bool { return in(r.Policies) }) ||
		slices.ContainsFunc(file.Bundles, func(b *config.Bundle) bool { return in(b.Policies) })
}
