package app

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
)

// cachesOf are the caches of the routes that may have requests for a host.
type cachesOf struct {
	exact map[string][]*cache.Policy // by their hosts, and by wildcards that cover these; "": those of all hosts
	wild  map[string][]*cache.Policy // by their wildcards
	every []*cache.Policy
}

// invalidate has routes make the caches of others that have their hosts forget what
// they change.
func invalidate(routes []*config.Route, compiled []*proxy.Route) {
	by := cachesOf{exact: map[string][]*cache.Policy{}, wild: map[string][]*cache.Policy{}}
	own := make([]*cache.Policy, len(routes))
	for i, p := range compiled {
		for _, n := range p.Chain.Policies() {
			if c, ok := n.Policy.(*cache.Policy); ok {
				own[i] = c
				by.add(hostsOf(routes[i]), c)
			}
		}
	}
	if len(by.every) == 0 {
		return
	}
	for i, p := range compiled {
		if p.Answer != nil {
			continue
		}
		if v := cache.NewInvalidator(by.of(hostsOf(routes[i])), own[i]); v != nil {
			p.Chain = policy.Compile(append(p.Chain.Policies(), policy.Named{Name: "cache", Policy: v}))
		}
	}
}

func hostsOf(r *config.Route) []string {
	if len(r.Hosts) == 0 {
		return []string{""}
	}
	list := make([]string, len(r.Hosts))
	for i, h := range r.Hosts {
		list[i] = strings.ToLower(h)
	}
	return list
}

func (b *cachesOf) add(hosts []string, c *cache.Policy) {
	b.every = append(b.every, c)
	for _, h := range hosts {
		b.exact[h] = append(b.exact[h], c)
		if strings.HasPrefix(h, "*.") {
			b.wild[h] = append(b.wild[h], c)
		}
		eachWildcard(h, func(w string) { b.exact[w] = append(b.exact[w], c) })
	}
}

func (b *cachesOf) of(hosts []string) (list []*cache.Policy) {
	list = append(list, b.exact[""]...)
	for _, h := range hosts {
		if h == "" {
			return b.every
		}
		list = append(list, b.exact[h]...)
		eachWildcard(h, func(w string) { list = append(list, b.wild[w]...) })
	}
	return list
}

// eachWildcard calls f with the wildcards that cover a host, but itself.
func eachWildcard(host string, f func(string)) {
	rest := strings.TrimPrefix(host, "*.")
	for {
		_, parent, ok := strings.Cut(rest, ".")
		if !ok {
			return
		}
		f("*." + parent)
		rest = parent
	}
}
