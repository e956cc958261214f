package app

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/discovery"
)

func TestParseName(t *testing.T) {
	for _, tt := range []struct {
		host string
		want *discovery.Query // nil: it isn't one
	}{
		{"billing.service.consul", &discovery.Query{Service: "billing"}},
		{"v2.billing.service.consul", &discovery.Query{Service: "billing", Tags: []string{"v2"}}},
		{"billing.service.dc2.consul", &discovery.Query{Service: "billing", Datacenters: []string{"dc2"}}},
		{"v2.billing.service.dc2.dc.consul", &discovery.Query{Service: "billing", Tags: []string{"v2"}, Datacenters: []string{"dc2"}}},
		{"service.service.consul", &discovery.Query{Service: "service"}},
		{"billing.consul", nil},
		{"service.consul", nil},
		{".service.consul", nil},
		{"a.b.c.service.consul", nil},
		{"billing.service.dc2.more.consul", nil},
		{"billing.query.consul", nil},
		{"billing.service.consul.example.com", nil},
		{"bil ling.service.consul", nil},
		{"consul", nil},
		{"", nil},
	} {
		q, ok := parseName(tt.host)
		if ok != (tt.want != nil) {
			t.Errorf("parseName(%q) = %v, %v", tt.host, q, ok)
		} else if ok && !cmp.Equal(q, *tt.want) {
			t.Errorf("parseName(%q): %s", tt.host, cmp.Diff(*tt.want, q))
		}
	}
}
