package app

import (
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/basic"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/forward"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/introspect"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/mtls"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/policy/authorize"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/block"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
	"github.com/sidegate-proxy/sidegate/proxy/policy/compress"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cors"
	"github.com/sidegate-proxy/sidegate/proxy/policy/geo"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/limits"
	"github.com/sidegate-proxy/sidegate/proxy/policy/network"
	"github.com/sidegate-proxy/sidegate/proxy/policy/openapi"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
	"github.com/sidegate-proxy/sidegate/proxy/policy/request"
	"github.com/sidegate-proxy/sidegate/proxy/policy/response"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
	"github.com/sidegate-proxy/sidegate/proxy/policy/validate"
	"github.com/sidegate-proxy/sidegate/proxy/policy/waf"
)

// means are what policies work with beside their blocks. Without them, kinds
// can only be checked.
type means struct {
	// Of the configuration being compiled.

	consumers  *consumer.Directory
	keys       *keyset.Plan
	services   *remote.Plan
	billing    *charge.Plan
	conditions func() (*condition.Compiler, error)
	list       func(name string) *network.Set

	// The gateway's.

	networks  *network.Files
	geo       *geo.Files
	bans      *ban.Store
	waf       *waf.Store
	documents *openapi.Files
	described *validate.Store
	flight    *limits.Store
	counters  *ratelimit.Store
	quotas    *quota.Store
	fleet     *shared.Fleet
	tokens    *jwt.Cache
	passwords *basic.Verifier
	answers   *forward.Cache
	known     *introspect.Cache
	logins    *oidc.Store
	encoders  *compress.Store
	cached    *cache.Store
	charges   *charge.Ledger
}

// kinds are the policies that there are, in the order in which they run on a
// request; on a response they run in the reverse order. A new policy is a
// folder below proxy/policy and a line here. Blocks of one name, as auth "…",
// run in the order of the configuration.
func kinds(m means) []policy.Kind {
	return []policy.Kind{
		block.Kind(block.Files{Networks: m.networks, Geo: m.geo, List: m.list}),
		ban.Kind(m.bans),
		limits.Kind(m.flight),
		waf.Kind(m.waf),
		cors.Kind(),
		apikey.Kind(m.consumers),
		jwt.Kind(jwt.Deps{Consumers: m.consumers, Keys: m.keys, Cache: m.tokens}),
		basic.Kind(m.consumers, m.passwords),
		mtls.Kind(m.consumers),
		oidc.Kind(oidc.Deps{Consumers: m.consumers, Services: m.services, Keys: m.keys, Tokens: m.tokens, Store: m.logins}),
		introspect.Kind(introspect.Deps{Consumers: m.consumers, Services: m.services, Cache: m.known}),
		forward.Kind(forward.Deps{Consumers: m.consumers, Services: m.services, Cache: m.answers}),
		authorize.Kind(m.conditions),
		ratelimit.Kind(ratelimit.Deps{Store: m.counters, Fleet: m.fleet, Conditions: m.conditions}),
		quota.Kind(m.quotas, m.conditions),
		validate.Kind(m.documents, m.described),
		// In front of cache: what it answers by itself is charged, too, and refused to those who can't pay.
		charge.Kind(charge.Means{Ledger: m.charges, Plan: m.billing, Conditions: m.conditions}),
		cache.Kind(cache.Deps{Store: m.cached, Conditions: m.conditions}),
		request.Kind(),
		response.Kind(),
		compress.Kind(m.encoders), // a policy.Encoder: on a response, it is the last
	}
}
