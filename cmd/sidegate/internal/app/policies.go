package app

import (
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/basic"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/mtls"
	"github.com/sidegate-proxy/sidegate/proxy/policy/authorize"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/block"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cors"
	"github.com/sidegate-proxy/sidegate/proxy/policy/geo"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/limits"
	"github.com/sidegate-proxy/sidegate/proxy/policy/network"
	"github.com/sidegate-proxy/sidegate/proxy/policy/openapi"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	"github.com/sidegate-proxy/sidegate/proxy/policy/request"
	"github.com/sidegate-proxy/sidegate/proxy/policy/response"
	"github.com/sidegate-proxy/sidegate/proxy/policy/validate"
)

// means are what policies work with beside their blocks. Without them, kinds
// can only be checked.
type means struct {
	consumers *consumer.Directory // of the configuration being compiled
	counters  *ratelimit.Store    // the gateway's
	networks  *network.Files      // the gateway's
	geo       *geo.Files          // the gateway's
	flight    *limits.Store       // the gateway's
	bans      *ban.Store          // the gateway's
	keys      *keyset.Plan        // of the configuration being compiled
	tokens    *jwt.Cache          // the gateway's
	passwords *basic.Verifier     // the gateway's
	documents *openapi.Files      // the gateway's
	described *validate.Store     // the gateway's

	conditions func() (*condition.Compiler, error) // of the configuration being compiled
}

// kinds are the policies that there are, in the order in which they run on a
// request; on a response they run in the reverse order. A new policy is a
// folder below proxy/policy and a line here. Blocks of one name, as auth "…",
// run in the order of the configuration.
func kinds(m means) []policy.Kind {
	return []policy.Kind{
		block.Kind(block.Files{Networks: m.networks, Geo: m.geo}),
		ban.Kind(m.bans),
		limits.Kind(m.flight),
		cors.Kind(),
		apikey.Kind(m.consumers),
		jwt.Kind(jwt.Deps{Consumers: m.consumers, Keys: m.keys, Cache: m.tokens}),
		basic.Kind(m.consumers, m.passwords),
		mtls.Kind(m.consumers),
		authorize.Kind(m.conditions),
		ratelimit.Kind(m.counters),
		validate.Kind(m.documents, m.described),
		request.Kind(),
		response.Kind(),
	}
}
