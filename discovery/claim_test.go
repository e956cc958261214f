package discovery_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/discovery"
)

func TestMerge(t *testing.T) {
	c := func(instance, route, hosts string, weight int) discovery.Claim {
		return discovery.Claim{Service: "s", Instance: instance, Route: route, Hosts: strings.Fields(hosts), Weight: weight}
	}
	tests := []struct {
		name     string
		claims   []discovery.Claim
		want     []string // route: hosts by instances
		problems []string // instances
	}{
		{"none", nil, nil, nil},
		{"one", []discovery.Claim{c("a", "", "x", 0)}, []string{": x by a"}, nil},
		{"agreed, in another order", []discovery.Claim{c("b", "", "x y", 0), c("a", "", "y x", 3)}, []string{": y x by a b"}, nil},
		{"most win", []discovery.Claim{c("a", "", "x", 0), c("b", "", "y", 0), c("c", "", "y", 0)}, []string{": y by b c"}, []string{"a"}},
		{"a tie goes to the smallest id", []discovery.Claim{c("d", "", "x", 0), c("b", "", "y", 0), c("a", "", "x", 0), c("c", "", "y", 0)},
			[]string{": x by a d"}, []string{"b", "c"}},
		{"routes apart", []discovery.Claim{c("a", "r2", "x", 0), c("a", "r1", "y", 0), c("b", "r1", "y", 0)}, []string{"r1: y by a b", "r2: x by a"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			routes, problems := discovery.Merge(tt.claims)
			var got, who []string
			for _, r := range routes {
				if r.Instance != "" {
					t.Errorf("Instance = %q, want none", r.Instance)
				}
				got = append(got, r.Route+": "+strings.Join(r.Hosts, " ")+" by "+strings.Join(r.Instances, " "))
			}
			for _, p := range problems {
				who = append(who, p.Instance)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("routes (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.problems, who); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
}

func TestMergeWeights(t *testing.T) {
	routes, problems := discovery.Merge([]discovery.Claim{
		{Service: "s", Instance: "a", Hosts: []string{"x"}, Weight: 5},
		{Service: "s", Instance: "b", Hosts: []string{"x"}},
		{Service: "s", Instance: "c", Hosts: []string{"x"}, Weight: 9},
	})
	if len(problems) != 0 || len(routes) != 1 || routes[0].Weight != 9 {
		t.Fatalf("Merge = %+v, %+v", routes, problems)
	}
	if d := cmp.Diff(map[string]int{"a": 5, "c": 9}, routes[0].Weights); d != "" {
		t.Error(d)
	}
}

func TestExposed(t *testing.T) {
	tests := []struct {
		claim, expose string
		want          string // in the error; "" for none
	}{
		{"api.example.com", "*.example.com", ""},
		{"API.example.com", "*.Example.com", ""},
		{"a.b.example.com", "*.example.com", ""},
		{"example.com", "*.example.com", `"example.com"`},
		{"example.com", "example.com *.example.com", ""},
		{"*.example.com", "*.example.com", ""},
		{"*.a.example.com", "*.example.com", ""},
		{"*.example.com", "example.com api.example.com", `"*.example.com"`},
		{"*.com", "*.example.com", `"*.com"`},
		{"evilexample.com", "*.example.com", `"evilexample.com"`},
		{"a.example.com b.other.com", "*.example.com", `"b.other.com"`},
		{"a.example.com", "", `"a.example.com"`},
		{"a", "*.", `"a"`},
		{"", "*.example.com", "names no host"},
	}
	for _, tt := range tests {
		err := discovery.Exposed(strings.Fields(tt.claim), strings.Fields(tt.expose))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Exposed(%q, %q) = %v, want %q", tt.claim, tt.expose, err, tt.want)
		}
	}
}
