package oidc

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// only is the browser's only cookie.
func (b *browser) only() (name, value string) {
	b.t.Helper()
	if len(b.cookies) != 1 {
		b.t.Fatalf("%d cookies", len(b.cookies))
	}
	for name, value = range b.cookies {
	}
	return name, value
}

// TestSession: it is one on its host, for its time, as it was written, and for who
// has the key.
func TestSession(t *testing.T) {
	r := newRig(t)
	p := r.policy(t, "")
	b := newBrowser(t, p)
	b.login("/", "alice")
	name, value := b.only()
	other := newNode(t, r.p, "another key")
	secret := "cookie_secret = \"" + strings.Repeat("s", 32) + "\""
	shared, same := newNode(t, r.p, "a"), newNode(t, r.p, "b")
	tests := []struct {
		name   string
		p      policy.Requester
		url    string
		cookie string
		later  time.Duration
		want   bool
	}{
		{"as it was written", p, site, name + "=" + value, 0, true},
		{"at the end of its time", p, site, name + "=" + value, 8*time.Hour - 5*time.Second, true},
		{"over", p, site, name + "=" + value, 8*time.Hour + time.Second, false},
		{"on another host", p, "https://b.test", name + "=" + value, 0, false},
		{"on another port", p, site + ":8443", name + "=" + value, 0, true},
		{"in another case", p, site, strings.ToUpper(name) + "=" + value, 0, false},
		{"twice", p, site, name + "=" + value + "; " + name + "=" + value, 0, false},
		{"with another before it", p, site, name + "=x; " + name + "=" + value, 0, false},
		{"changed at its end", p, site, name + "=" + value[:len(value)-8] + flip(value[len(value)-8:len(value)-7]) + value[len(value)-7:], 0, false},
		{"changed at its start", p, site, name + "=1" + flip(value[1:2]) + value[2:], 0, false},
		{"cut", p, site, name + "=" + value[:len(value)-4], 0, false},
		{"longer", p, site, name + "=" + value + "AAAA", 0, false},
		{"of more cookies than there are", p, site, name + "=2" + value[1:], 0, false},
		{"of no cookies", p, site, name + "=0" + value[1:], 0, false},
		{"of too many", p, site, name + "=9" + value[1:], 0, false},
		{"empty", p, site, name + "=", 0, false},
		{"of a login", p, site, name + "=1" + attemptOf(t, r), 0, false},
		{"with another key", other.policy(t, ""), site, name + "=" + value, 0, false},
		{"with other scopes", r.policy(t, `scopes = ["openid", "email"]`), site, name + "=" + value, 0, false},
		{"with a secret", r.policy(t, secret), site, name + "=" + value, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := policytest.Exchange(t, "GET "+tt.url+"/", "Cookie: "+tt.cookie)
			x.Start = x.Start.Add(tt.later)
			_, err := tt.p.Request(x)
			if (err == nil) != tt.want || err != nil && (!strings.HasPrefix(err.Error(), "unauthenticated: ") || x.Claims != nil) {
				t.Errorf("Request = %v, want %v", err, tt.want)
			}
		})
	}
	b = newBrowser(t, shared.policy(t, secret))
	b.login("/", "alice")
	if b.p = same.policy(t, secret); !b.page("/").passed {
		t.Error("two nodes with one secret don't share a session")
	}
}

// attemptOf is the cookie of a login that has begun.
func attemptOf(t *testing.T, r *rig) string {
	t.Helper()
	b := newBrowser(t, r.policy(t, ""))
	b.page("/")
	_, value := b.only()
	return value
}

// TestLargeSession: one that doesn't fit into a cookie is in several, and what is
// left of it goes with the next.
func TestLargeSession(t *testing.T) {
	r := newRig(t)
	b := newBrowser(t, r.policy(t, `labels = { groups = "groups" }`))
	for _, tt := range []struct{ groups, cookies int }{{6000, 4}, {8000, 4}, {2500, 2}, {10, 1}} {
		r.p.Change(func(c map[string]any) { c["groups"] = strings.Repeat("g", tt.groups) })
		for name := range b.cookies { // as a session of another block would be
			if strings.HasSuffix(name, ".1") {
				b.cookies[name] = "x"
			}
		}
		b.login("/", "alice")
		got := b.page("/")
		if !got.passed || len(b.cookies) != tt.cookies || len(got.x.Consumer.Labels["groups"]) != tt.groups {
			t.Errorf("%d bytes: %+v with %d cookies, want %d", tt.groups, got.err, len(b.cookies), tt.cookies)
		}
	}
}

// TestLogout: from this site only; then the session is over, also for who has a
// copy of its cookie, and at the provider.
func TestLogout(t *testing.T) {
	r := newRig(t)
	const path = "/.sidegate/oidc/logout"
	p := r.policy(t, `after_logout = "/bye"`)
	b := newBrowser(t, p)
	b.login("/", "alice")
	for name, fields := range map[string][]string{
		"another site's page": {"Sec-Fetch-Site: cross-site"}, "a neighbour": {"Sec-Fetch-Site: same-site"}, "an old browser, another site": {"Origin: https://evil.test"},
		"an old browser, a link": {"Referer: https://app.test.evil.test/"}, "no word of it": nil, "an old browser, an opaque origin": {"Origin: null"},
	} {
		for _, method := range []string{"GET ", "POST "} {
			if got := b.do(method+site+path, fields...); got.err != "forbidden: oidc: another site asks to end the session" {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
	for name, fields := range map[string][]string{
		"an image": {"Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors"}, "fetched ahead": {"Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate", "Sec-Purpose: prefetch;prerender"},
	} {
		if got := b.do("GET "+site+path, fields...); got.err != "forbidden: oidc: nobody means to end the session: the request isn't for a page" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := b.do("PUT "+site+path, "Sec-Fetch-Site: same-origin"); got.err != "method-not-allowed: oidc: not a method of this path" {
		t.Errorf("PUT: %+v", got)
	}
	if !b.page("/").passed {
		t.Fatal("a refused logout has ended the session")
	}
	name, value := b.only()
	b.page("/") // nothing
	got := b.do("GET "+site+path, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate")
	if got.status != 303 || !strings.HasPrefix(got.location, r.p.URL+"/logout?client_id=gate%3Away&id_token_hint=eyJ") || !strings.HasSuffix(got.location, "&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbye") || len(b.cookies) != 0 {
		t.Errorf("logout: %+v, %d cookies", got, len(b.cookies))
	}
	copied := newBrowser(t, p)
	copied.cookies[name] = value
	if got := copied.page("/"); got.passed {
		t.Error("a copy of the cookie goes on")
	}
	if got := b.do("POST "+site+path, "Origin: "+site); got.status != 303 || strings.Contains(got.location, "id_token_hint") {
		t.Errorf("without a session: %+v", got)
	}
	r.p.Discovery(func(d map[string]any) {
		d["authorization_endpoint"], d["token_endpoint"] = r.p.URL+"/authorize", r.p.URL+"/token"
	})
	plain := newNode(t, r.p, "k")
	if got := newBrowser(t, plain.policy(t, "")).do("GET "+site+path, "Sec-Fetch-Site: none"); got.status != 200 || got.location != "" {
		t.Errorf("a provider without an end of session: %+v", got)
	}
	if got := newBrowser(t, plain.policy(t, `after_logout = "https://bye.test/"`)).do("GET "+site+path, "Referer: "+site+"/x"); got.status != 303 || got.location != "https://bye.test/" {
		t.Errorf("likewise, with a place to go: %+v", got)
	}
	if c := r.Store.Counts(); len(c) != 1 || c[0].Ended != 1 {
		t.Errorf("counts = %+v", c)
	}
}

// TestPlain: no login without TLS, but where a trusted proxy has it, or on this
// machine.
func TestPlain(t *testing.T) {
	r := newRig(t)
	b := newBrowser(t, r.policy(t, ""))
	page := []string{"Accept: text/html"}
	for url, want := range map[string]string{
		"http://app.test/": "", "http://localhost:8080/": "http://localhost:8080/.sidegate", "http://127.0.0.1/": "http://127.0.0.1/.sidegate",
		"http://[::1]:80/": "http://[::1]:80/.sidegate", "http://localhost.test/": "",
	} {
		got := b.do("GET "+url, page...)
		if want == "" && got.err != "forbidden: oidc: logging in needs https: browsers keep no session otherwise" || !strings.Contains(strings.NewReplacer("%3A", ":", "%2F", "/", "%5B", "[", "%5D", "]").Replace(got.location), want) {
			t.Errorf("%s: %+v", url, got)
		}
	}
	if got := b.do("GET http://app.test/", append(page, "X-Forwarded-Proto: https")...); !strings.Contains(got.location, "redirect_uri=https%3A%2F%2Fapp.test") {
		t.Errorf("behind a trusted proxy: %+v", got)
	}
}

// TestOpenRedirect: a login leads back to this host, whatever was asked for.
func TestOpenRedirect(t *testing.T) {
	r := newRig(t)
	b := newBrowser(t, r.policy(t, ""))
	for target, want := range map[string]string{
		"//evil.test/x": "/evil.test/x", "/x?to=https://evil.test": "/x?to=https://evil.test", "/" + strings.Repeat("x", 2*maxURL): "/",
	} {
		if got := b.login(target, "alice"); got.location != want {
			t.Errorf("%.40s leads to %q, want %q", target, got.location, want)
		}
		clear(b.cookies)
	}
}

// TestParameters: what the block adds is sent, and a public client has no password.
func TestParameters(t *testing.T) {
	r := newRig(t)
	b := newBrowser(t, r.policy(t, "parameters = { prompt = \"login\", audience = \"api\" }\nscopes = [\"openid\", \"email\", \"offline_access\"]"))
	if got := b.page("/").location; !strings.Contains(got, "&prompt=login&") || !strings.Contains(got, "audience=api&") || !strings.Contains(got, "&scope=openid+email+offline_access&") {
		t.Errorf("the provider gets %s", got)
	}
	r.p.Discovery(func(d map[string]any) {
		d["authorization_endpoint"], d["token_endpoint"], d["token_endpoint_auth_methods_supported"] = r.p.URL+"/authorize", r.p.URL+"/token", []string{"client_secret_post"}
	})
	post := newNode(t, r.p, "k")
	if got := newBrowser(t, post.policy(t, "")).login("/x", "alice"); got.location != "/x" {
		t.Errorf("a provider that wants the password in the form: %+v", got)
	}
}

func TestExplain(t *testing.T) {
	r := newRig(t)
	p := r.policy(t, "")
	test := func(line string, fields ...string) string {
		return p.(policy.Tester).Test(policytest.Exchange(t, line, fields...))
	}
	b := newBrowser(t, p)
	b.login("/", "alice")
	name, value := b.only()
	asked := r.p.Asked("token")
	for got, want := range map[string]string{
		test("GET "+site+"/", "Accept: text/html"):                      "sends the browser to log in at " + r.p.URL,
		test("GET " + site + "/"):                                       "refuses: unauthenticated: no credential: a session of a login at " + r.p.URL,
		test("GET " + site + "/.sidegate/oidc/callback?code=x&state=y"): "takes a login of " + r.p.URL,
		test("GET " + site + "/.sidegate/oidc/logout"):                  "ends the session",
		test("GET "+site+"/", "Cookie: "+name+"="+value):                `admits the consumer "acme"`,
	} {
		if got != want {
			t.Errorf("Test = %q, want %q", got, want)
		}
	}
	if r.p.Asked("token") != asked || !b.page("/").passed {
		t.Error("explaining leaves a trace")
	}
}

func TestErrors(t *testing.T) {
	for more, want := range map[string]string{
		`issuer = "http://id.test"`:                                           `issuer: "http://id.test" isn't an https URL: logins from another host need TLS`,
		"issuer = \"https://id.test\"\nscopes = [\"email\"]":                  `scopes: "openid" must be among them`,
		"issuer = \"https://id.test\"\nscopes = [\"openid\", \"a b\"]":        `scopes: "a b" isn't a scope`,
		"issuer = \"https://id.test\"\ncookie_secret = \"short\"":             `cookie_secret: has 5 characters, and needs 32`,
		"issuer = \"https://id.test\"\ncallback = \"/x/../y\"":                `callback: "/x/../y" isn't a path of its own`,
		"issuer = \"https://id.test\"\ncallback = \"/\"":                      `callback: "/" isn't a path of its own`,
		"issuer = \"https://id.test\"\ncallback = \"https://a/b\"":            `callback: "https://a/b" isn't a path of its own`,
		"issuer = \"https://id.test\"\nlogout = \"/x?y\"":                     `logout: "/x?y" isn't a path of its own`,
		"issuer = \"https://id.test\"\nlogout = \"/x/*\"":                     `logout: "/x/*" isn't a path of its own`,
		"issuer = \"https://id.test\"\nlogout = \"/.sidegate/oidc/callback\"": `logout: is the same path as callback`,
		"issuer = \"https://id.test\"\nafter_logout = \"//evil.test\"":        `after_logout: "//evil.test" is neither a path nor an https URL`,
		"issuer = \"https://id.test\"\nparameters = { state = \"x\" }":        `parameters: "state" is the gateway's own to set`,
		"issuer = \"https://id.test\"\nca_file = \"seal.go\"":                 `ca_file: has no certificate in PEM`,
		"issuer = \"https://id.test\"\nlabels = { a = \"\" }":                 `labels: "a" = "" names nothing`,
	} {
		if _, err := policytest.Try(t, Kind(Deps{}), "auth \"oidc\" {\nclient_id = \"a\"\n"+more+"\n}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", more, err, want)
		}
	}
	if _, err := policytest.Try(t, Kind(Deps{}), "auth \"oidc\" {\nissuer = \"https://id.test\"\nclient_id = \"\"\n}"); err == nil || err.Error() != "client_id: is empty" {
		t.Errorf("without a client: %v", err)
	}
}

// TestHider: a service without logins gets no session of its host either.
func TestHider(t *testing.T) {
	for cookie, want := range map[string]string{
		"a=1; __Host-sidegate-x=2; b=3": "Cookie: a=1; b=3", "__Host-sidegate-x=2; __Host-sidegate-x.1=3": "", "a=1": "Cookie: a=1", "a=; __Host-sidegate-x=2;; b": "Cookie: a=; b", "a=__Host-sidegate-": "Cookie: a=__Host-sidegate-",
	} {
		x := policytest.Exchange(t, "GET https://a.test/", "Cookie: "+cookie)
		if _, err := (Hider{}).Request(x); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(policytest.Sent(&x.Request, &x.RequestEdits), "\n"); got != want {
			t.Errorf("%s: the service gets %q, want %q", cookie, got, want)
		}
	}
}

// TestHiderAndRequest: what a route removes isn't brought back.
func TestHiderAndRequest(t *testing.T) {
	x := policytest.Exchange(t, "GET https://a.test/", "Cookie: a=1; __Host-sidegate-x=2")
	x.RequestEdits.Remove("Cookie")
	if _, err := (Hider{}).Request(x); err != nil {
		t.Fatal(err)
	}
	if got := policytest.Sent(&x.Request, &x.RequestEdits); len(got) > 0 {
		t.Errorf("the service gets %q", got)
	}
	y := policytest.Exchange(t, "GET https://a.test/", "Cookie: a=1; b=2")
	if n := testing.AllocsPerRun(100, func() { _, _ = Hider{}.Request(y) }); n != 0 {
		t.Errorf("%v allocations without a session", n)
	}
}

func TestNoAllocations(t *testing.T) {
	r := newRig(t)
	b := newBrowser(t, r.policy(t, "forward = true\nlabels = { team = \"department\" }"))
	b.login("/", "alice")
	name, value := b.only()
	x := policytest.Exchange(t, "GET "+site+"/", "Cookie: a=1; "+name+"="+value)
	if n := testing.AllocsPerRun(100, func() {
		x.RequestEdits.Reset()
		if _, err := b.p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(Deps{})) }

// FuzzCookies: whatever a browser shows, it is no session of ours, and never more
// than it was.
func FuzzCookies(f *testing.F) {
	for _, s := range []string{"a=b", Prefix + "00000000=1abc", "=;;=", Prefix + "x.1=x", "a; b=; c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return // no field has such
		}
		x := policytest.Exchange(t, "GET https://a.test/")
		x.Request.Append("Cookie", text)
		HideCookies(x)
		for _, field := range append(policytest.Sent(&x.Request, &x.RequestEdits), "Cookie: "+WithoutLogins(text)) {
			_, value, _ := strings.Cut(field, ": ")
			for part := range strings.SplitSeq(value, ";") {
				if strings.HasPrefix(strings.Trim(part, " \t"), Prefix) {
					t.Errorf("%q goes on as %q", text, value)
				}
			}
		}
	})
}

// FuzzMetadata: whatever a provider says of itself, who was asked over TLS has
// nobody asked, and no browser sent anywhere, without.
func FuzzMetadata(f *testing.F) {
	const issuer = "https://id.test"
	for _, s := range []string{
		`{"issuer":"https://id.test","authorization_endpoint":"https://id.test/a","token_endpoint":"https://id.test/t","end_session_endpoint":""}`,
		`{"issuer":"https://id.test","authorization_endpoint":"HTTP://localhost/a","token_endpoint":"Http://[::1]:1/t"}`,
		`{"issuer":"https://id.test","authorization_endpoint":"https://id.test/a?b=c;d","token_endpoint":"//id.test/t","token_endpoint_auth_methods_supported":["client_secret_post"]}`,
		`[]`, `{"issuer":7}`,
	} {
		f.Add([]byte(s))
	}
	m := &Method{cfg: Config{Issuer: issuer}}
	f.Fuzz(func(t *testing.T, text []byte) {
		md, err := m.read(issuer, text)
		if err != nil {
			return
		}
		for _, endpoint := range []string{md.authorize, md.token, md.endSession} {
			u, err := url.Parse(endpoint)
			if err != nil || endpoint != "" && (u.Scheme != "https" || u.Host == "") || strings.ContainsAny(endpoint, "\r\n") {
				t.Errorf("%q may be asked", endpoint)
			}
		}
		if md.authorize == "" || md.token == "" {
			t.Error("an endpoint is missing")
		}
	})
}

func BenchmarkSession(b *testing.B) {
	r := newRig(b)
	br := newBrowser(b, r.policy(b, ""))
	br.login("/", "alice")
	name, value := br.only()
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprintf("remembered=%v", known), func(b *testing.B) {
			x := policytest.Exchange(b, "GET "+site+"/", "Cookie: a=1; "+name+"="+value)
			b.ReportAllocs()
			for b.Loop() {
				if !known {
					r.Store.read = remote.NewMemory[*session](8, 1<<20)
				}
				x.RequestEdits.Reset()
				if _, err := br.p.Request(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
