package authorize

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func newPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Kind(condition.NewCompiler).New(text)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*Policy)
}

func token() *exchange.Claims {
	return exchange.NewClaims(map[string]any{"sub": "u", "scope": "orders:read orders:write"})
}

func TestRequest(t *testing.T) {
	acme := &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "gold"}, Labels: map[string]string{"team": "search"}}
	const write = "'orders:write' in claims.scope.split(' ') || request.method == 'GET'"
	tests := []struct {
		name, text, line string
		consumer         *exchange.Consumer
		claims           *exchange.Claims
		err              string // "": admitted
	}{
		{"by scope", write, "POST https://a.test/", nil, token(), ""},
		{"by method", write, "GET https://a.test/", nil, nil, ""},
		{"neither", write, "POST https://a.test/", nil, exchange.NewClaims(map[string]any{"scope": "orders:read"}), "the condition doesn't hold: " + write},
		{"a scope that another begins with", write, "POST https://a.test/", nil, exchange.NewClaims(map[string]any{"scope": "orders:writer"}), "the condition doesn't hold: " + write},
		{"no claim", write, "POST https://a.test/", nil, exchange.NewClaims(map[string]any{}), "the condition can't be evaluated: no such key: scope"},
		{"no token", write, "POST https://a.test/", nil, nil, "the condition can't be evaluated: no such key: scope"},
		{"claim of another type", write, "POST https://a.test/", nil, exchange.NewClaims(map[string]any{"scope": []any{"orders:write"}}), "the condition can't be evaluated: no such overload"},
		{"consumer", "consumer.plan == 'gold' && consumer.labels.team == 'search'", "GET https://a.test/", acme, nil, ""},
		{"no consumer", "consumer.name == 'acme'", "GET https://a.test/", nil, token(), "the condition doesn't hold: consumer.name == 'acme'"},
		{"never", "false", "GET https://a.test/", acme, token(), "the condition doesn't hold: false"},
		{"negated error", "!(claims.admin)", "GET https://a.test/", nil, nil, "the condition can't be evaluated: no such key: admin"},
		{"too dear", "request.headers.exists(a, request.headers.exists(b, request.headers.exists(c, request.headers.exists(d, request.headers.exists(e, request.headers.exists(f, a+b+c+d+e+f == ''))))))", "GET https://a.test/", nil, nil, "the condition can't be evaluated: operation cancelled: actual cost limit exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPolicy(t, tt.text)
			fields := make([]string, 0, 20)
			for _, n := range strings.Split("abcdefghijklmnopqrst", "") {
				fields = append(fields, "X-"+n+": v")
			}
			x := policytest.Exchange(t, tt.line, fields...)
			x.Consumer, x.Claims = tt.consumer, tt.claims
			test := p.Test(x)
			verdict, err := p.Request(x)
			if tt.err == "" {
				if err != nil || verdict != policy.Next || test != "admits" {
					t.Errorf("Request = %v, %v; Test = %q", verdict, err, test)
				}
				return
			}
			var f *exchange.Fault
			if !errors.As(err, &f) || f.Kind != exchange.Forbidden || f.Source != exchange.FromPolicy || verdict != policy.Done {
				t.Fatalf("Request = %v, %v", verdict, err)
			}
			if want := "forbidden: authorize: " + tt.err; !strings.HasPrefix(err.Error(), want) || test != "refuses: "+err.Error() {
				t.Errorf("Request = %q, want %q; Test = %q", err, want, test)
			}
			var want []string
			if tt.claims != nil {
				want = []string{`WWW-Authenticate: Bearer error="insufficient_scope"`}
			}
			if d := cmp.Diff(want, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
				t.Errorf("answer's fields: %s", d)
			}
		})
	}
}

func TestNewErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "the condition is empty",
		"request.method":                 "the condition is of type string; it must be true or false",
		"request.methd == 'GET'":         "undeclared reference",
		"request.method == 1":            "no matching overload",
		"claims.scope":                   "the condition is of type dyn; it must be true or false",
		strings.Repeat("true && ", 1000): "at most 4096 are allowed",
	} {
		if _, err := Kind(condition.NewCompiler).New(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

// TestREADME compiles the conditions of the README.
func TestREADME(t *testing.T) {
	if n := policytest.Arguments(t, "README.md", "authorize", func(text string) { newPolicy(t, text) }); n < 3 {
		t.Errorf("%d conditions, want 3", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	for _, bb := range []struct{ name, text string }{
		{"method", "request.method == 'GET'"},
		{"claim", "claims.sub == 'u'"},
		{"scope", "'orders:write' in claims.scope.split(' ')"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p, x := newPolicy(b, bb.text), policytest.Exchange(b, "GET https://a.test/")
			x.Claims = token()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Request(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
