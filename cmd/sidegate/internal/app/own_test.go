package app

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// ownPaths is a policy that answers paths by itself.
type ownPaths map[string]string

func (o ownPaths) Paths() map[string]string { return o }

// TestOwnRoutes: each path of a policy is on each host once, before whatever other
// route has it, and who can't share one is told.
func TestOwnRoutes(t *testing.T) {
	var routes []*config.Route
	var compiled []*proxy.Route
	var rules []route.Rule
	add := func(name string, hosts, paths []string, own ownPaths) {
		r := &config.Route{}
		r.Name, r.Hosts, r.Paths = name, hosts, paths
		chain := policy.Compile(nil)
		if own != nil {
			chain = policy.Compile([]policy.Named{{Name: "auth", Policy: own}})
		}
		routes = append(routes, r)
		compiled = append(compiled, &proxy.Route{Name: name, Chain: chain})
		rules = append(rules, route.Rule{Name: name, Hosts: hosts, Paths: paths})
	}
	login := ownPaths{"/callback": "a", "/logout": "a"}
	add("one", []string{"a.test", "b.test"}, []string{"/one/*"}, login)
	add("two", []string{"a.test", "c.test"}, []string{"/two/*"}, login)
	add("three", []string{"a.test"}, []string{"/three/*"}, ownPaths{"/callback": "b"})
	add("four", nil, []string{"/four/*"}, login)
	add("five", []string{"a.test"}, []string{"/callback", "/five"}, nil)
	var told []string
	own, more := ownRoutes(routes, compiled, func(r *config.Route, _ error) { told = append(told, r.Name) })
	if d := cmp.Diff([]string{"three"}, told); d != "" {
		t.Errorf("told: %s", d)
	}
	m, err := route.Compile(append(rules, more...))
	if err != nil {
		t.Fatal(err)
	}
	all := append(compiled, own...)
	for target, want := range map[string]string{
		"a.test/callback": "one", "b.test/logout": "one", "c.test/callback": "two", "d.test/logout": "four", "a.test/one/x": "one", "a.test/five": "five", "d.test/x": "",
	} {
		x := &exchange.Exchange{}
		x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: "https"}, nil)
		x.Method, x.RawHost, x.RawTarget = "GET", target[:6], target[6:]
		if f := x.Canonicalise(); f != nil {
			t.Fatal(f)
		}
		got := ""
		if r := m.Match(x); r.Rule >= 0 {
			got = all[r.Rule].Name
			if a := all[r.Rule].Answer; a != nil {
				_, err := a.Request(x)
				var f *exchange.Fault
				if !errors.As(err, &f) || f.Kind != exchange.NoRoute {
					t.Errorf("%s: %v", target, err)
				}
			}
		}
		if got != want {
			t.Errorf("%s is of route %q, want %q", target, got, want)
		}
	}
}
