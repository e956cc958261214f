package app

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// ownRoutes are those to the paths that policies of the routes answer by
// themselves (policy.Pather): with the same chain, for the same hosts, whatever
// paths and conditions the routes have. Routes that share a host and a policy's
// path share the first one's; fail is told of one that can't.
func ownRoutes(routes []*config.Route, compiled []*proxy.Route, fail func(*config.Route, error)) (own []*proxy.Route, rules []route.Rule) {
	type place struct{ host, path string }
	type owner struct{ id, route string }
	taken := map[place]owner{}
	for i, p := range compiled {
		paths := p.Chain.Paths()
		hosts := routes[i].Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, path := range slices.Sorted(maps.Keys(paths)) {
			rule := route.Rule{Name: p.Name, Paths: []string{path}, When: always{}, WhenText: `auth "oidc"`}
			free := false
			for _, host := range hosts {
				at := place{strings.ToLower(host), path}
				if o, ok := taken[at]; ok {
					if o.id != paths[path] {
						fail(routes[i], fmt.Errorf("route %q: auth \"oidc\" uses the path %s of the host %q, which is that of another provider, client or cookie_secret in route %q: give one of them callback and logout of its own", p.Name, path, host, o.route))
					}
					continue
				}
				taken[at], free = owner{paths[path], p.Name}, true
				if host != "" {
					rule.Hosts = append(rule.Hosts, host)
				}
			}
			if free {
				rules = append(rules, rule)
				own = append(own, &proxy.Route{Name: p.Name, Origin: p.Origin, Chain: p.Chain, Answer: nothing{}})
			}
		}
	}
	return own, rules
}

// always is a condition that holds. Its text is no condition of the language, so
// that such a rule takes what no other one takes in the same way.
type always struct{}

// Eval says so.
func (always) Eval(*exchange.Exchange) bool { return true }

// nothing answers what no policy has answered.
type nothing struct{}

// Request is a route's answer.
func (nothing) Request(*exchange.Exchange) (policy.Verdict, error) {
	return policy.Done, exchange.NewFault(exchange.FromClient, exchange.NoRoute, "only logins lead here")
}

// logsIn reports whether some route or bundle of a configuration has users log in.
func logsIn(file *config.File) bool {
	for _, r := range file.Routes {
		if hasLogin(r.Policies) {
			return true
		}
	}
	for _, b := range file.Bundles {
		if hasLogin(b.Policies) {
			return true
		}
	}
	return false
}

func hasLogin(blocks []config.Block) bool {
	return slices.ContainsFunc(blocks, func(b config.Block) bool {
		_, ok := b.Config.(*oidc.Config)
		return ok
	})
}
