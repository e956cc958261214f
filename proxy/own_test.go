package proxy

import (
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// TestOwnRoutes: a listener with routes of its own reaches those and no other, and
// others don't reach them.
func TestOwnRoutes(t *testing.T) {
	compile := func(name, host string) *route.Matcher {
		m, err := route.Compile([]route.Rule{{Name: name, Hosts: []string{host}}})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	r := func(name string) *Route { return &Route{Name: name, Chain: policy.Compile(nil)} }
	table := &Table{
		Matcher: compile("edge", "edge.test"), Routes: []*Route{r("edge"), r("in"), r("out")},
		Own: map[string]Own{"in": {Matcher: compile("in", "in.test"), First: 1}, "out": {Matcher: compile("out", "out.test"), First: 2}},
	}
	for _, listener := range []string{"edge", "in", "out"} {
		for _, host := range []string{"edge", "in", "out"} {
			x := &exchange.Exchange{Method: "GET", Conn: &exchange.Conn{Listener: listener}}
			x.Target = exchange.Target{Host: host + ".test", Path: "/"}
			m := table.Match(x)
			switch {
			case (m.Rule >= 0) != (host == listener):
				t.Errorf("%s by the listener %s: rule %d", host, listener, m.Rule)
			case m.Rule >= 0 && table.Routes[m.Rule].Name != host:
				t.Errorf("%s leads to %s", host, table.Routes[m.Rule].Name)
			}
		}
	}
}
