package discovery

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// ClaimedRoute is a route that a service's instances agreed on.
type ClaimedRoute struct {
	Claim                    // what they agreed on; Instance is "", Weight the largest said
	Instances []string       // who agrees, sorted
	Weights   map[string]int // by instance, of those that said one
}

// Merge makes one route of what the instances of a service claim under one
// route name. When they disagree (a deploy in progress, a typing error) the
// variant that most instances have wins, and on a tie the one that has the
// smallest instance id, so that the outcome is the same everywhere; the others
// are told in problems. A weight is an instance's own and no disagreement. The
// result is sorted by service and route.
func Merge(claims []Claim) (routes []ClaimedRoute, problems []Problem) {
	type name struct{ service, route string }
	groups := make(map[name]map[string][]Claim)
	for _, c := range claims {
		n := name{c.Service, c.Route}
		if groups[n] == nil {
			groups[n] = make(map[string][]Claim)
		}
		v := variant(c)
		groups[n][v] = append(groups[n][v], c)
	}
	for _, variants := range groups {
		best := ""
		for v, list := range variants {
			slices.SortFunc(list, func(a, b Claim) int { return strings.Compare(a.Instance, b.Instance) })
			if best == "" || beats(list, variants[best]) {
				best = v
			}
		}
		route := agreed(variants[best])
		routes = append(routes, route)
		for v, list := range variants {
			if v == best {
				continue
			}
			for _, c := range list {
				problems = append(problems, Problem{Service: c.Service, Instance: c.Instance, Text: fmt.Sprintf(
					"route %q: differs from what %d of its other instances claim, as %s does; not used",
					c.Route, len(route.Instances), route.Instances[0])})
			}
		}
	}
	slices.SortFunc(routes, func(a, b ClaimedRoute) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Route, b.Route))
	})
	SortProblems(problems)
	return routes, problems
}

// beats says whether the variant that has list comes before the other one.
func beats(list, other []Claim) bool {
	if len(list) != len(other) {
		return len(list) > len(other)
	}
	return list[0].Instance < other[0].Instance
}

func agreed(list []Claim) ClaimedRoute {
	r := ClaimedRoute{Claim: list[0]}
	r.Instance = ""
	for _, c := range list {
		r.Instances = append(r.Instances, c.Instance)
		if c.Weight > 0 {
			if r.Weights == nil {
				r.Weights = make(map[string]int)
			}
			r.Weights[c.Instance] = c.Weight
			r.Weight = max(r.Weight, c.Weight)
		}
	}
	return r
}

// variant is what must be equal for two claims to be one route. The order of
// hosts and paths means nothing, that of bundles does.
func variant(c Claim) string {
	c.Instance, c.Weight = "", 0
	c.Hosts = slices.Sorted(slices.Values(c.Hosts))
	c.Paths = slices.Sorted(slices.Values(c.Paths))
	b, err := json.Marshal(c)
	if err != nil {
		panic("discovery: a claim can't be marshalled: " + err.Error()) // strings and numbers only
	}
	return string(b)
}

// SortProblems puts problems in a stable order.
func SortProblems(problems []Problem) {
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Service, b.Service),
			strings.Compare(a.Instance, b.Instance), strings.Compare(a.Text, b.Text))
	})
}

// Exposed says whether a registration may claim these hosts: each must be
// covered by one of the operator's patterns, exact or *.suffix. A claim without
// a host would take every host and is never allowed. The error names the first
// host that isn't covered.
func Exposed(claimHosts, exposeHosts []string) error {
	if len(claimHosts) == 0 {
		return fmt.Errorf("names no host; a registration must name one")
	}
	for _, h := range claimHosts {
		if !slices.ContainsFunc(exposeHosts, func(p string) bool { return covers(p, h) }) {
			return fmt.Errorf("host %q isn't among the hosts that registrations may claim", h)
		}
	}
	return nil
}

// covers says whether every host that h means is one that pattern means.
func covers(pattern, h string) bool {
	pattern, h = strings.ToLower(pattern), strings.ToLower(h)
	suffix, wild := strings.CutPrefix(pattern, "*.")
	if !wild {
		return pattern == h
	}
	host := strings.TrimPrefix(h, "*.") // *.a.example.com lies within *.example.com
	if host == suffix {
		return host != h // the bare suffix itself isn't covered, its wildcard is
	}
	return strings.HasSuffix(host, "."+suffix) && suffix != ""
}
