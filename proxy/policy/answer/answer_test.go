package answer

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

func TestRespond(t *testing.T) {
	tests := []struct {
		cfg    route.RespondConfig
		fields []string
	}{
		{route.RespondConfig{Status: 200, Body: "ok"}, []string{"Content-Type: text/plain; charset=utf-8"}},
		{route.RespondConfig{Status: 204}, nil},
		{route.RespondConfig{Status: 503, Body: "{}", Headers: map[string]string{"content-type": "application/json", "Retry-After": "5", "A": "{b}"}},
			[]string{"Content-Type: application/json", "A: {b}", "Retry-After: 5"}},
	}
	for _, tt := range tests {
		p, err := Respond(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the body can be sent more than once
			x := policytest.Exchange(t, "GET https://a.test/")
			if v, err := p.Request(x); v != policy.Done || err != nil {
				t.Fatalf("Request = %v, %v", v, err)
			}
			body := ""
			if x.ResponseBody != nil {
				b, err := io.ReadAll(x.ResponseBody)
				if err != nil {
					t.Fatal(err)
				}
				body = string(b)
			}
			if x.Status != tt.cfg.Status || body != tt.cfg.Body || x.ResponseLength != int64(len(body)) {
				t.Errorf("answer = %d %q (%d bytes), want %d %q", x.Status, body, x.ResponseLength, tt.cfg.Status, tt.cfg.Body)
			}
			if d := cmp.Diff(tt.fields, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
				t.Errorf("fields: %s", d)
			}
		}
	}
}

func TestRespondErrors(t *testing.T) {
	tests := []struct {
		cfg  route.RespondConfig
		want string
	}{
		{route.RespondConfig{Status: 101}, "status: 101 isn't from 200 to 599"},
		{route.RespondConfig{Status: 204, Body: "x"}, "body: a response with status 204 has none"},
		{route.RespondConfig{Status: 200, Headers: map[string]string{"A:": "x"}}, `headers: "A:" isn't the name`},
		{route.RespondConfig{Status: 200, Headers: map[string]string{"A": "x\r\ny"}}, `headers: "A": the value has a control character`},
		{route.RespondConfig{Status: 200, Headers: map[string]string{"content-length": "7"}}, `headers: "content-length" can't be set`},
	}
	for _, tt := range tests {
		if _, err := Respond(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Respond(%+v) = %v, want %q", tt.cfg, err, tt.want)
		}
	}
}

func TestRedirect(t *testing.T) {
	tests := []struct {
		to, url string
		params  []exchange.Param
		want    string
	}{
		{to: "https://example.com{path}{query}", url: "http://a.test/b/c?d=e", want: "https://example.com/b/c?d=e"},
		{to: "https://example.com{path}{query}", url: "http://a.test/b?", want: "https://example.com/b?"},
		{to: "https://{host}{path}", url: "http://A.test:8080/b?x", want: "https://a.test/b"},
		{to: "{scheme}://www.{host}:8443/x{path}", url: "https://a.test/b", want: "https://www.a.test:8443/x/b"},
		{to: "https://{host}/", url: "http://[::1]:80/", want: "https://[::1]/"},
		{to: "/new/{id}?a={id}#f", url: "http://a.test/old/7", params: []exchange.Param{{Name: "id", Value: "7%20"}}, want: "/new/7%20?a=7%20#f"},
		{to: "/{id}/{name}", url: "http://a.test/", params: []exchange.Param{{Name: "name", Value: "evil.test"}}, want: "/evil.test"},
		{to: "{path}/", url: "http://a.test//evil.test", want: "/evil.test/"},
		{to: "https://example.com/{query}", url: "http://a.test/?a=<\"\xc3\xa9|x", want: "https://example.com/?a=%3C%22%C3%A9%7Cx"},
		{to: "https://example.com", url: "http://a.test/", want: "https://example.com"},
	}
	for _, tt := range tests {
		p, err := Redirect(route.RedirectConfig{To: tt.to, Status: 308})
		if err != nil {
			t.Fatalf("Redirect(%q): %v", tt.to, err)
		}
		x := policytest.Exchange(t, "POST "+tt.url)
		x.Params = tt.params
		if v, err := p.Request(x); v != policy.Done || err != nil {
			t.Fatalf("Request = %v, %v", v, err)
		}
		if got := x.Response.Get(exchange.Location); got != tt.want || x.Status != 308 {
			t.Errorf("%q for %s = %d %q, want 308 %q", tt.to, tt.url, x.Status, got, tt.want)
		}
	}
}

func TestRedirectErrors(t *testing.T) {
	tests := []struct{ to, want string }{
		{"", "is empty"},
		{"//evil.test", "starts with //"},
		{"/{path}", "starts with //"},
		{"{host}/x", "must start with"},
		{"{id}", "must start with"},
		{"ftp://a.test/", "must start with"},
		{"javascript:alert(1)", "must start with"},
		{"https:/{path}", "must start with"},
		{"https://", "has no host"},
		{"https:///x", "has no host"},
		{"https://{path}", "has no host"},
		{"{scheme}:/x", "must have ://"},
		{"{scheme}", "must have ://"},
		{"https://example.com{id}", "the host can hold no placeholder but {host}"},
		{"https://{id}.example.com/", "the host can hold no placeholder but {host}"},
		{"https://user@example.com/", "has a user name before the host"},
		{"https://{host}@example.com/", "has a user name before the host"},
		{"https://a.test/x y", "has the character ' '"},
		{"https://a.test/\r\nX: y", `has the character '\r'`},
		{`/\evil.test`, `has the character '\\'`},
		{"https://a.test/{consumer}x{", "without its }"},
		{"https://a.test/{a.b}", "unknown placeholder {a.b}"},
	}
	for _, tt := range tests {
		if _, err := Redirect(route.RedirectConfig{To: tt.to, Status: 302}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Redirect(%q) = %v, want %q", tt.to, err, tt.want)
		}
	}
	if _, err := Redirect(route.RedirectConfig{To: "/", Status: 200}); err == nil {
		t.Error("Redirect with status 200: no error")
	}
}

func TestRedirectWithoutHost(t *testing.T) {
	p, err := Redirect(route.RedirectConfig{To: "https://{host}/", Status: 302})
	if err != nil {
		t.Fatal(err)
	}
	x := policytest.Exchange(t, "GET http://a.test/")
	x.Target.Host = ""
	if _, err := p.Request(x); err == nil || x.Status != 0 {
		t.Errorf("Request = %v, status %d, want an error", err, x.Status)
	}
}

func TestExplain(t *testing.T) {
	r, err := Redirect(route.RedirectConfig{To: "/new/{id}", Status: 301})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.(policy.Explainer).Explain(), "redirects with 301 to /new/{id}"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	if d := cmp.Diff([]string{"id"}, r.(policy.ParamReader).Params()); d != "" {
		t.Errorf("Params: %s", d)
	}
	f, err := Respond(route.RespondConfig{Status: 200, Body: "ok"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.(policy.Explainer).Explain(), "answers 200 with 2 bytes of text/plain; charset=utf-8"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
}

func TestREADME(t *testing.T) {
	policytest.README(t, "README.md", policy.Kind{
		Name:   "redirect",
		Config: func() any { return &route.RedirectConfig{} },
		New:    func(cfg any) (policy.Policy, error) { return Redirect(*cfg.(*route.RedirectConfig)) },
	})
	policytest.README(t, "README.md", policy.Kind{
		Name:   "respond",
		Config: func() any { return &route.RespondConfig{} },
		New:    func(cfg any) (policy.Policy, error) { return Respond(*cfg.(*route.RespondConfig)) },
	})
}
