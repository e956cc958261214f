package cache

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestInspect: each answer of a URL is shown with whom it is for and what it is found
// by, and nothing that lets anybody call.
func TestInspect(t *testing.T) {
	p := newPolicy(t, nil, "key = [\"host\", \"path\", \"header.X-Tenant\", \"header.X-Api-Key\"]\nstale_if_error = \"1m\"")
	p.Guarded()
	ask := func(consumer string, claims *exchange.Claims, fields ...string) {
		t.Helper()
		x := policytest.Exchange(t, "GET https://api.example.com/a?b", fields...)
		x.Consumer = &exchange.Consumer{Name: consumer}
		x.Claims = claims
		x.ServiceName = "orders"
		x.RequestEdits.Set("X-User", "ann@example.com")
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		x.Tries = 1
		policytest.Answer(x, 200, "body", "Cache-Control: max-age=100", "Vary: Accept-Language, Cookie", "ETag: \"e\"", "Cache-Tag: B,a")
		_ = p.Response(x)
		p.Finish(x)
	}
	ask("ann", nil, "X-Tenant: one", "X-Api-Key: secret-1", "Accept-Language: de", "Cookie: secret-2", "X-Forwarded-Host: shop.example.com")
	ask("bob", exchange.NewClaims(map[string]any{"sub": "secret-3"}))
	i, err := p.store.Inspect("https://api.example.com/a?c")
	if err != nil || len(i.Answers) != 2 {
		t.Fatalf("%+v, %v", i, err)
	}
	ann, bob := i.Answers[0], i.Answers[1]
	if ann.Consumer != "ann" {
		ann, bob = bob, ann
	}
	if ann.Age > time.Minute || ann.Fresh < 30*time.Second || ann.Memory <= 0 {
		t.Errorf("%+v", ann)
	}
	ann.Age, ann.Fresh, ann.Memory = 0, 0, 0
	want := Stored{
		Route: "test", Service: "orders", Consumer: "ann", Fields: []string{"X-User"}, Forwarded: map[string]string{"x-forwarded-host": "shop.example.com"},
		Key: map[string]string{"x-tenant": "one", "x-api-key": "…"}, Vary: map[string]string{"accept-language": "de", "cookie": "…"},
		Status: 200, Bytes: 4, StaleIfError: time.Minute, ETag: `"e"`, Tags: []string{"a", "b"},
	}
	ann.Forwarded = lower(ann.Forwarded)
	if !reflect.DeepEqual(ann, want) {
		t.Errorf("%+v\nwant %+v", ann, want)
	}
	if bob.Consumer != "bob" || len(bob.Key) > 0 || len(bob.Vary) > 0 || len(bob.Claims) != 8 || bob.Whom() != "consumer bob, tokens whose claims hash to "+bob.Claims+"…, requests to which policies add the same X-User" {
		t.Errorf("%+v", bob)
	}
	if i, err = p.store.Inspect("https://api.example.com"); err != nil || len(i.Answers) != 0 || i.URL != "https://api.example.com/" {
		t.Errorf("%+v, %v", i, err)
	}
	for _, text := range []string{"", "*", "https://api.example.com/*", "api.example.com"} {
		if _, err := p.store.Inspect(text); err == nil {
			t.Errorf("Inspect(%q) shows something", text)
		}
	}
}

func lower(m map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range m {
		out[strings.ToLower(name)] = value
	}
	return out
}
