package cors

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind()) }

const strict = `cors {
	origins     = ["https://app.example.com", "https://*.example.org", "http://*.dev.test:8080"]
	credentials = true
	methods     = ["GET", "PUT", "purge"]
	headers     = ["Content-Type", "X-A"]
	expose      = ["RateLimit", "X-B"]
	max_age     = "90s"
}`

const open = `cors {
	origins = ["*"]
	methods = ["*"]
	headers = ["*"]
}`

const null = `cors { origins = ["null"] }`

// cors returns the CORS fields that go out, and Vary.
func cors(x *exchange.Exchange) []string {
	var list []string
	for _, f := range policytest.Sent(&x.Response, &x.ResponseEdits) {
		if l := strings.ToLower(f); strings.HasPrefix(l, "access-control-") || strings.HasPrefix(l, "vary") {
			list = append(list, f)
		}
	}
	return list
}

func TestOrigins(t *testing.T) {
	tests := []struct {
		block, origin string
		want          string
	}{
		{strict, "https://app.example.com", "https://app.example.com"},
		{strict, "http://app.example.com", ""},
		{strict, "https://app.example.com:8443", ""},
		{strict, "https://app.example.com.evil.test", ""},
		{strict, "https://evilapp.example.com", ""},
		{strict, "https://APP.example.com", ""},
		{strict, "https://app.example.com/", ""},
		{strict, "https://app.example.com, https://app.example.com", ""},
		{strict, "https://a.example.org", "https://a.example.org"},
		{strict, "https://a.b.example.org", "https://a.b.example.org"},
		{strict, "https://example.org", ""},
		{strict, "https://.example.org", ""},
		{strict, "https://evilexample.org", ""},
		{strict, "https://a.example.org:444", ""},
		{strict, "https://evil.test/.example.org", ""},
		{strict, "https://evil.test#.example.org", ""},
		{strict, "https://u@a.example.org", ""},
		{strict, "https://evil.test:1.example.org", ""},
		{strict, "http://a.dev.test:8080", "http://a.dev.test:8080"},
		{strict, "http://a.dev.test", ""},
		{strict, "null", ""},
		{strict, "", ""},
		{open, "https://any.test", "*"},
		{null, "null", "null"},
		{null, "https://null", ""},
	}
	for _, tt := range tests {
		p := policytest.Policy(t, Kind(), tt.block).(*Policy)
		x := policytest.Exchange(t, "GET https://api.example.com/", "Origin: "+tt.origin)
		if v, err := p.Request(x); v != policy.Next || err != nil {
			t.Errorf("%q: Request = %v, %v; CORS keeps nobody out", tt.origin, v, err)
		}
		policytest.Answer(x, 200, "ok")
		if err := p.Response(x); err != nil {
			t.Fatal(err)
		}
		var want []string
		if p != nil && !strings.Contains(tt.block, `"*"]`) {
			want = append(want, "Vary: Origin")
		}
		if tt.want != "" {
			want = append(want, allowOrigin+": "+tt.want)
		}
		if tt.want != "" && tt.block == strict {
			want = append(want, allowCredentials+": true", exposeHeaders+": RateLimit, X-B")
		}
		if d := cmp.Diff(want, cors(x)); d != "" {
			t.Errorf("Origin %q: %s", tt.origin, d)
		}
	}
}

// TestReplaced: the service's fields go, its Vary stays.
func TestReplaced(t *testing.T) {
	own := []string{"Access-Control-Allow-Origin: *", "access-control-allow-credentials: true", "Access-Control-Allow-Methods: PUT", "ACCESS-CONTROL-ALLOW-HEADERS: a",
		"Access-Control-Expose-Headers: a", "Access-Control-Max-Age: 1", "Access-Control-Other: stays", "Vary: Accept"}
	for _, tt := range []struct {
		name, block string
		fields      []string
		status      int
		want        []string
	}{
		{"allowed", strict, []string{"Origin: https://app.example.com"}, 200, []string{
			"Access-Control-Other: stays", "Vary: Accept", "Vary: Origin", allowOrigin + ": https://app.example.com", allowCredentials + ": true", exposeHeaders + ": RateLimit, X-B"}},
		{"not allowed", strict, []string{"Origin: https://evil.test"}, 200, []string{"Access-Control-Other: stays", "Vary: Accept", "Vary: Origin"}},
		{"none", strict, nil, 200, []string{"Access-Control-Other: stays", "Vary: Accept", "Vary: Origin"}},
		{"two", strict, []string{"Origin: https://app.example.com", "Origin: https://app.example.com"}, 200, []string{"Access-Control-Other: stays", "Vary: Accept", "Vary: Origin"}},
		{"upgrade", strict, []string{"Origin: https://app.example.com"}, 101, []string{"Access-Control-Other: stays", "Vary: Accept", "Vary: Origin"}},
		{"every", open, nil, 200, []string{"Access-Control-Other: stays", "Vary: Accept", allowOrigin + ": *"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := policytest.Policy(t, Kind(), tt.block).(*Policy)
			x := policytest.Exchange(t, "GET https://api.example.com/", tt.fields...)
			policytest.Answer(x, tt.status, "", own...)
			if err := p.Response(x); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, cors(x)); d != "" {
				t.Error(d)
			}
		})
	}
	x := policytest.Exchange(t, "GET https://api.example.com/", "Origin: https://app.example.com")
	policytest.Answer(x, 200, "", "Vary: accept, ORIGIN")
	if err := policytest.Policy(t, Kind(), strict).(*Policy).Response(x); err != nil || cors(x)[0] != "Vary: accept, ORIGIN" || strings.HasPrefix(cors(x)[1], "Vary") {
		t.Errorf("Vary twice: %q, %v", cors(x), err)
	}
}

func TestPreflight(t *testing.T) {
	const origin = "Origin: https://app.example.com"
	granted := []string{"Vary: Origin", allowOrigin + ": https://app.example.com", allowCredentials + ": true", allowMethods + ": GET, PUT, purge", allowHeaders + ": Content-Type, X-A", maxAge + ": 90"}
	tests := []struct {
		name, block string
		fields      []string
		why         string // "": 204
		want        []string
	}{
		{"allowed", strict, []string{origin, requestMethod + ": PUT"}, "", granted},
		{"with fields", strict, []string{origin, requestMethod + ": PUT", requestHeaders + ": content-type,x-a"}, "", granted},
		{"fields in two", strict, []string{origin, requestMethod + ": PUT", requestHeaders + ": content-type", "access-control-request-headers: X-A"}, "", granted},
		{"own method", strict, []string{origin, requestMethod + ": purge"}, "", granted},
		{"method", strict, []string{origin, requestMethod + ": DELETE"}, "method", nil},
		{"case of the method", strict, []string{origin, requestMethod + ": PURGE"}, "method", nil},
		{"two methods", strict, []string{origin, requestMethod + ": PUT", requestMethod + ": PUT"}, "method", nil},
		{"field", strict, []string{origin, requestMethod + ": PUT", requestHeaders + ": content-type, x-b"}, "header field", nil},
		{"second field", strict, []string{origin, requestMethod + ": PUT", requestHeaders + ": x-a", requestHeaders + ": x-b"}, "header field", nil},
		{"origin", strict, []string{"Origin: https://evil.test", requestMethod + ": PUT"}, "origin", nil},
		{"two origins", strict, []string{origin, origin, requestMethod + ": PUT"}, "origin", nil},
		{"anything", open, []string{"Origin: https://a.test", requestMethod + ": REPORT", requestHeaders + ": x-a,authorization"}, "",
			[]string{allowOrigin + ": *", allowMethods + ": REPORT", allowHeaders + ": x-a, authorization", maxAge + ": 600"}},
		{"no fields", open, []string{"Origin: https://a.test", requestMethod + ": PUT"}, "", []string{allowOrigin + ": *", allowMethods + ": PUT", maxAge + ": 600"}},
		{"forbidden method", open, []string{"Origin: https://a.test", requestMethod + ": trace"}, "method", nil},
		{"no method", open, []string{"Origin: https://a.test", requestMethod + ": a b"}, "method", nil},
		{"no name", open, []string{"Origin: https://a.test", requestMethod + ": PUT", requestHeaders + ": a b"}, "header field", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := policytest.Policy(t, Kind(), tt.block).(*Policy)
			x := policytest.Exchange(t, "OPTIONS https://api.example.com/", tt.fields...)
			x.Preflight = true
			if got := p.Preflight(x); got != (tt.why == "") {
				t.Errorf("Preflight = %t", got)
			}
			verdict, err := p.Request(x)
			if verdict != policy.Done {
				t.Fatal("it goes on to the service")
			}
			if tt.why != "" {
				f, ok := err.(*exchange.Fault) //nolint:errorlint // it must be one itself
				if !ok || f.Kind != exchange.Forbidden || !strings.Contains(f.Error(), tt.why) {
					t.Fatalf("Request = %v, want a refusal for the %s", err, tt.why)
				}
				x.Err = f
				policytest.Answer(x, 403, "{}")
			} else if err != nil || x.Status != 204 {
				t.Fatalf("Request = %v, status %d", err, x.Status)
			}
			if err := p.Response(x); err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if tt.why != "" && tt.block == strict {
				want = []string{"Vary: Origin"}
			}
			if d := cmp.Diff(want, cors(x)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestOtherOPTIONS: one that isn't for this route's requests gives no leave,
// and goes to the service.
func TestOtherOPTIONS(t *testing.T) {
	p := policytest.Policy(t, Kind(), open).(*Policy)
	x := policytest.Exchange(t, "OPTIONS https://api.example.com/", "Origin: https://a.test", requestMethod+": PUT")
	if v, err := p.Request(x); v != policy.Next || err != nil {
		t.Errorf("Request = %v, %v", v, err)
	}
	policytest.Answer(x, 200, "", allowOrigin+": *", allowMethods+": PUT")
	if err := p.Response(x); err != nil || len(cors(x)) != 0 {
		t.Errorf("%q, %v", cors(x), err)
	}
}

func TestErrors(t *testing.T) {
	tests := []struct{ block, want string }{
		{"cors {\n origins = [\"*\"]\n credentials = true\n}", "never goes with credentials"},
		{"cors {\n origins = [\"null\"]\n credentials = true\n}", "never goes with credentials"},
		{`cors { origins = ["https://a.test:443"] }`, "usual port"},
		{`cors { origins = ["http://a.test:80"] }`, "usual port"},
		{`cors { origins = ["https://A.test"] }`, "capitals"},
		{`cors { origins = ["https://*"] }`, "isn't the whole first label"},
		{`cors { origins = ["https://*."] }`, "isn't an origin"},
		{`cors { origins = ["https://*.a.*"] }`, "isn't the whole first label"},
		{`cors { origins = ["https://bücher.test"] }`, "xn--"},
		{`cors { origins = ["//a.test"] }`, "isn't an origin"},
		{"cors {\n origins = [\"*\"]\n methods = [\"put\"]\n}", `write "PUT"`},
		{"cors {\n origins = [\"*\"]\n methods = [\"Track\"]\n}", "no page can use TRACK"},
		{"cors {\n origins = [\"https://a.test\"]\n credentials = true\n expose = [\"*\"]\n}", "expose"},
	}
	for _, tt := range tests {
		if _, err := policytest.Try(t, Kind(), tt.block); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%s) = %v, want %q", tt.block, err, tt.want)
		}
	}
}

func TestExplain(t *testing.T) {
	p := policytest.Policy(t, Kind(), strict).(*Policy)
	if got, want := p.Explain(), "https://app.example.com, https://*.example.org, http://*.dev.test:8080, with credentials"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	for _, tt := range []struct{ line, origin, want string }{
		{"GET https://a.test/", "https://app.example.com", "the origin may read the response"},
		{"GET https://a.test/", "https://evil.test", "the origin may not read the response"},
		{"OPTIONS https://a.test/", "https://evil.test", "refuses: forbidden: cors: the preflight's origin isn't allowed"},
		{"OPTIONS https://a.test/", "https://app.example.com", "answers the preflight with 204"},
	} {
		x := policytest.Exchange(t, tt.line, "Origin: "+tt.origin, requestMethod+": PUT")
		x.Preflight = x.Method == "OPTIONS"
		if got := p.Test(x); got != tt.want {
			t.Errorf("Test(%s, %s) = %q, want %q", tt.line, tt.origin, got, tt.want)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	p := policytest.Policy(t, Kind(), strict).(*Policy)
	x := policytest.Exchange(t, "GET https://api.example.com/", "Origin: https://a.example.org")
	policytest.Answer(x, 200, "ok", "Content-Type: a", allowOrigin+": *")
	if n := testing.AllocsPerRun(100, func() {
		x.ResponseEdits.Reset()
		_, _ = p.Request(x)
		_ = p.Response(x)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
