package template_test

import (
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/template"
)

func TestAppend(t *testing.T) {
	tests := []struct{ text, line, want string }{
		{"", "GET https://a.test/", ""},
		{"a{{b}}c", "GET https://a.test/", "a{b}c"},
		{"{{{path}}}", "GET https://a.test/x", "{/x}"},
		{"{path}{query}", "GET https://a.test/x?", "/x?"},
		{"{path}{query}", "GET https://a.test/x", "/x"},
		{"{host}", "GET https://[::1]:8443/", "[::1]"},
		{"{host}", "GET https://A.test.:8443/", "a.test"},
		{"{scheme} {method} {client_ip} {request_id} {route} {service} {consumer.name}", "PUT http://a.test/", "http PUT 192.0.2.1 r-1 test  acme"},
		{"{consumer.plan} {consumer.labels.team}{consumer.labels.none}", "GET https://a.test/", "gold search"},
		{"{claims.sub} {claims.level} {claims.aud} {claims.admin}{claims.none}{claims.o}", "GET https://a.test/", `u 3 ["a","b"] true{"p":[1.5]}`},
		{"{id}-{param.id}-{host_}", "GET https://a.test/", "7-7-"},
	}
	for _, tt := range tests {
		tpl, err := template.Compile(tt.text)
		if err != nil {
			t.Errorf("Compile(%q): %v", tt.text, err)
			continue
		}
		x := policytest.Exchange(t, tt.line)
		x.Params = []exchange.Param{{Name: "id", Value: "7"}}
		x.Consumer = &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "gold"}, Labels: map[string]string{"team": "search"}}
		x.Claims = exchange.NewClaims(map[string]any{"sub": "u", "level": int64(3), "aud": []any{"a", "b"}, "admin": true, "none": nil, "o": map[string]any{"p": []any{1.5}}})
		if got := string(tpl.Append(nil, x)); got != tt.want {
			t.Errorf("%q for %s = %q, want %q", tt.text, tt.line, got, tt.want)
		}
	}
	x := &exchange.Exchange{}
	x.Target.Path = "*"
	tpl, err := template.Compile("{path}{client_ip}{consumer.name}{consumer.plan}{consumer.labels.team}{claims.sub}")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(tpl.Append(nil, x)); got != "/" {
		t.Errorf("{path} of OPTIONS * = %q, want /", got)
	}
}
