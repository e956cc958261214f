package oidc

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc/oidctest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

const site = "https://app.test"

// rig is a node: what methods work with, and its keys being fetched.
type rig struct {
	Deps
	p    *oidctest.Provider
	keys *keyset.Store
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newNode(t, oidctest.New(t, site+"/.sidegate/oidc/callback"), "a key of this node")
}

func newNode(t testing.TB, p *oidctest.Provider, key string) *rig {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	d, err := consumer.Compile(nil, []*consumer.Config{{Name: "acme", JWT: []*consumer.JWTConfig{{Subject: "alice", Issuer: p.URL}}}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{p: p, keys: keyset.NewStore(keyset.Deps{Log: log, Patience: 10 * time.Second})}
	r.Deps = Deps{Consumers: d, Services: remote.NewStore(log).Plan(), Keys: r.keys.Plan(), Tokens: jwt.NewCache(), Store: NewStore([]byte(key))}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.keys.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

// policy makes a route's policy with one block.
func (r *rig) policy(t testing.TB, more string) policy.Requester {
	t.Helper()
	p := policytest.Policy(t, Kind(r.Deps), fmt.Sprintf("auth \"oidc\" {\nissuer = %q\nclient_id = %q\nclient_secret = %q\n%s\n}", r.p.URL, oidctest.Client, oidctest.Secret, more))
	r.Keys.Commit()
	return p.(policy.Requester)
}

// browser keeps cookies of the site, and has others of the provider's.
type browser struct {
	t       testing.TB
	p       policy.Requester
	now     time.Duration // after the real time
	cookies map[string]string
	away    *http.Client
}

func newBrowser(t testing.TB, p policy.Requester) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, p: p, cookies: map[string]string{}, away: &http.Client{Jar: jar, CheckRedirect: remote.NoRedirects}}
}

// result is what became of a request.
type result struct {
	x        *exchange.Exchange
	err      string
	passed   bool
	status   int
	location string
	fields   []string
}

// do sends a request and takes the cookies of the answer.
func (b *browser) do(line string, fields ...string) result {
	b.t.Helper()
	var list []string
	for _, name := range slices.Sorted(mapKeys(b.cookies)) {
		list = append(list, name+"="+b.cookies[name])
	}
	if len(list) > 0 {
		fields = append(fields, "Cookie: "+strings.Join(list, "; "))
	}
	x := policytest.Exchange(b.t, line, fields...)
	x.Start = x.Start.Add(b.now)
	verdict, err := b.p.Request(x)
	r := result{x: x, passed: verdict == policy.Next && err == nil, status: x.Status}
	if err != nil {
		r.err = err.Error()
	}
	for _, f := range policytest.Sent(&x.Response, &x.ResponseEdits) {
		name, value, _ := strings.Cut(f, ": ")
		switch name {
		case "Set-Cookie":
			b.take(value)
		case "Location":
			r.location = value
		default:
			r.fields = append(r.fields, f)
		}
	}
	return r
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (b *browser) take(field string) {
	b.t.Helper()
	pair, rest, _ := strings.Cut(field, "; ")
	name, value, _ := strings.Cut(pair, "=")
	if !strings.HasPrefix(name, Prefix) || len(field) > 4096 {
		b.t.Errorf("a cookie that isn't right: %.100q (%d bytes)", field, len(field))
	}
	attributes := strings.Split(rest, "; ")
	for _, a := range []string{"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} {
		if !slices.Contains(attributes, a) {
			b.t.Errorf("%.60s lacks %s", field, a)
		}
	}
	if slices.Contains(attributes, "Max-Age=0") {
		delete(b.cookies, name)
		return
	}
	b.cookies[name] = value
}

// page asks for a page as a browser does.
func (b *browser) page(path string) result {
	b.t.Helper()
	return b.do("GET "+site+path, "Accept: text/html,*/*;q=0.8", "Sec-Fetch-Mode: navigate")
}

// approve logs a user in at the provider, and returns where the browser is sent.
func (b *browser) approve(location, user string) string {
	b.t.Helper()
	resp, err := b.away.PostForm(location, url.Values{"user": {user}})
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	back := resp.Header.Get("Location")
	if !strings.HasPrefix(back, site+"/.sidegate/oidc/callback?") {
		text, _ := io.ReadAll(resp.Body) // for people
		b.t.Fatalf("the provider answers %s, to %q: %s", resp.Status, back, text)
	}
	return strings.TrimPrefix(back, site)
}

// login is all of it.
func (b *browser) login(path, user string) result {
	b.t.Helper()
	return b.page(b.approve(b.page(path).location, user))
}

// TestLogin: a page leads to the provider and back, scripts don't, and who has
// logged in passes.
func TestLogin(t *testing.T) {
	r := newRig(t)
	p := r.policy(t, `labels = { team = "department" }`)
	b := newBrowser(t, p)
	for name, fields := range map[string][]string{
		"a script": {"Accept: */*", "Sec-Fetch-Mode: cors"}, "a page's script that lies": {"Accept: text/html", "Sec-Fetch-Mode: cors"},
		"a program": nil, "JSON": {"Accept: application/json"}, "not quite": {"Accept: text/htmlx, application/xhtml+xml"},
	} {
		got := b.do("GET "+site+"/x", fields...)
		if !strings.HasPrefix(got.err, "unauthenticated: no credential: a session of a login at ") || len(got.fields) != 1 || !strings.HasPrefix(got.fields[0], `WWW-Authenticate: Cookie cookie-name="__Host-sidegate-`) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := b.do("POST "+site+"/x", "Accept: text/html", "Sec-Fetch-Mode: navigate"); !strings.HasPrefix(got.err, "unauthenticated") {
		t.Errorf("a form: %+v", got)
	}
	first := b.page("/deep/link?a=b&c=%2F")
	u, err := url.Parse(first.location)
	if err != nil || first.status != 302 || first.err != "" || !slices.Contains(first.fields, "Cache-Control: no-store") {
		t.Fatalf("a page: %+v", first)
	}
	q := u.Query()
	want := map[string]string{"response_type": "code", "client_id": oidctest.Client, "redirect_uri": site + "/.sidegate/oidc/callback", "scope": "openid", "code_challenge_method": "S256"}
	for name, value := range want {
		if q.Get(name) != value {
			t.Errorf("%s = %q, want %q", name, q.Get(name), value)
		}
	}
	if len(q.Get("state")) != 43 || len(q.Get("nonce")) != 43 || len(q.Get("code_challenge")) != 43 || q.Get("state") == q.Get("nonce") {
		t.Errorf("the request to the provider is %v", q)
	}
	done := b.page(b.approve(first.location, "alice"))
	if done.status != 302 || done.location != "/deep/link?a=b&c=%2F" || done.err != "" || len(b.cookies) != 1 {
		t.Fatalf("the callback: %+v, cookies %v", done, len(b.cookies))
	}
	for _, fields := range [][]string{{"Accept: text/html"}, {"Sec-Fetch-Mode: cors"}} {
		got := b.do("DELETE "+site+"/deep", append(fields, "Cookie: app=1; x; y=", "Cookie: z=2", "Authorization: Bearer of-the-app")...)
		if !got.passed || got.x.Consumer == nil || got.x.Consumer.Name != "acme" || got.x.Consumer.Labels["team"] != "web" || got.x.Claims.Text("email") != "alice@example.com" {
			t.Fatalf("with a session: %+v, consumer %+v", got, got.x.Consumer)
		}
		sent := policytest.Sent(&got.x.Request, &got.x.RequestEdits)
		if want := []string{fields[0], "Authorization: Bearer of-the-app", "Cookie: app=1; x; y=; z=2"}; !cmp.Equal(want, sent) {
			t.Errorf("the service gets %q, want %q", sent, want)
		}
	}
	if got := r.Store.Counts(); len(got) != 1 || got[0] != (Counts{Issuer: r.p.URL, Begun: 1, Done: 1}) {
		t.Errorf("counts = %+v", got)
	}
}

// TestTabs: several logins of one browser at a time, within bounds.
func TestTabs(t *testing.T) {
	r := newRig(t)
	b := newBrowser(t, r.policy(t, ""))
	one, two := b.page("/one"), b.page("/two")
	if got := b.page(b.approve(two.location, "alice")); got.location != "/two" {
		t.Errorf("the second tab: %+v", got)
	}
	if got := b.page(b.approve(one.location, "alice")); got.location != "/one" {
		t.Errorf("the first tab: %+v", got)
	}
	b = newBrowser(t, b.p)
	var last result
	for n := range 3 * maxAttempts {
		b.now = time.Duration(n) * time.Second
		last = b.page(fmt.Sprint("/", n))
	}
	if len(b.cookies) != maxAttempts {
		t.Errorf("%d cookies of logins", len(b.cookies))
	}
	if got := b.page(b.approve(last.location, "alice")); got.location != fmt.Sprint("/", 3*maxAttempts-1) {
		t.Errorf("the last of many: %+v", got)
	}
	b.now = time.Hour
	for name := range b.cookies {
		if !strings.Contains(name, "-login-") {
			delete(b.cookies, name)
		}
	}
	b.page("/late")
	if len(b.cookies) != 1 {
		t.Errorf("%d cookies of logins, all but one of which are over", len(b.cookies))
	}
}

// TestCallback is the attacks on the way back: each is refused, with its reason in
// the log and no session.
func TestCallback(t *testing.T) {
	r := newRig(t)
	p := r.policy(t, "")
	set := func(name, value string) func(*browser, url.Values) {
		return func(_ *browser, q url.Values) { q.Set(name, value) }
	}
	evil := newBrowser(t, p)
	stolen, err := url.ParseQuery(strings.SplitN(evil.approve(evil.page("/").location, "mallory"), "?", 2)[1])
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want string
		change     func(b *browser, q url.Values)
		claims     func(map[string]any)
		answer     func(map[string]any)
	}{
		{name: "right"},
		{name: "another state", want: "forbidden: oidc: the callback isn't of a login that this browser began, or it was used before", change: set("state", random())},
		{name: "the same cookie, another state", want: "forbidden: oidc: the callback isn't of a login that this browser began, or it was used before", change: func(_ *browser, q url.Values) {
			s := q.Get("state")
			q.Set("state", s[:stateName]+random()[stateName:])
		}},
		{name: "no state", want: "forbidden: oidc: the callback lacks a parameter, or has it twice", change: func(_ *browser, q url.Values) { q.Del("state") }},
		{name: "two states", want: "forbidden: oidc: the callback lacks a parameter, or has it twice", change: func(_ *browser, q url.Values) { q.Add("state", "x") }},
		{name: "no code", want: "forbidden: oidc: the callback lacks a parameter, or has it twice", change: func(_ *browser, q url.Values) { q.Del("code") }},
		{name: "code and error", want: "forbidden: oidc: the callback lacks a parameter, or has it twice", change: set("error", "x")},
		{name: "another browser's login", want: "forbidden: oidc: the callback isn't of a login that this browser began, or it was used before", change: func(_ *browser, q url.Values) {
			q.Set("state", stolen.Get("state"))
			q.Set("code", stolen.Get("code"))
		}},
		{name: "a browser without the cookie", want: "forbidden: oidc: the callback isn't of a login that this browser began, or it was used before", change: func(b *browser, _ url.Values) { clear(b.cookies) }},
		{name: "a cookie that was changed", want: "forbidden: oidc: the callback isn't of a login that this browser began, or it was used before", change: func(b *browser, _ url.Values) {
			for name, value := range b.cookies {
				b.cookies[name] = value[:20] + flip(value[20:21]) + value[21:]
			}
		}},
		{name: "another's code", want: "forbidden: oidc: the provider doesn't take the code of the callback", change: func(_ *browser, q url.Values) {
			q.Set("code", stolen.Get("code")) // PKCE: it is bound to the other's verifier
		}},
		{name: "a made-up code", want: "forbidden: oidc: the provider doesn't take the code of the callback", change: set("code", "x")},
		{name: "another issuer", want: "forbidden: oidc: the callback is of another provider", change: set("iss", "https://evil.test")},
		{name: "no issuer", want: "forbidden: oidc: the callback is of another provider", change: func(_ *browser, q url.Values) { q.Del("iss") }},
		{name: "too late", want: "forbidden: oidc: the login took too long", change: func(b *browser, _ url.Values) { b.now = attemptLasts + time.Second }},
		{name: "refused", want: `forbidden: oidc: the provider answers "access_denied"`, change: func(_ *browser, q url.Values) { q.Del("code"); q.Set("error", "access_denied") }},
		{name: "another nonce", want: "forbidden: oidc: the ID token is of another login", claims: func(c map[string]any) { c["nonce"] = random() }},
		{name: "no nonce", want: "forbidden: oidc: the ID token is of another login", claims: func(c map[string]any) { delete(c, "nonce") }},
		{name: "another audience", want: "forbidden: oidc: ID token: the token is for another audience", claims: func(c map[string]any) { c["aud"] = "x" }},
		{name: "another issuer's token", want: "forbidden: oidc: ID token: the token is of another issuer", claims: func(c map[string]any) { c["iss"] = "https://evil.test" }},
		{name: "expired", want: "forbidden: oidc: ID token: the token has expired", claims: func(c map[string]any) { c["exp"] = time.Now().Add(-2 * time.Minute).Unix() }},
		{name: "several audiences", want: "forbidden: oidc: the ID token is for another client", claims: func(c map[string]any) { c["aud"] = []string{"x", oidctest.Client} }},
		{name: "another azp", want: "forbidden: oidc: the ID token is for another client", claims: func(c map[string]any) { c["azp"] = "x" }},
		{name: "azp", claims: func(c map[string]any) { c["aud"], c["azp"] = []string{"x", oidctest.Client}, oidctest.Client }},
		{name: "a changed token", want: "forbidden: oidc: ID token: the token's signature is wrong", answer: func(v map[string]any) {
			text := v["id_token"].(string)
			v["id_token"] = text[:len(text)-10] + flip(text[len(text)-10:len(text)-9]) + text[len(text)-9:]
		}},
		{name: "no ID token", want: "forbidden: oidc: ID token: the token isn't a signed JWT: three parts in base64url", answer: func(v map[string]any) { delete(v, "id_token") }},
		{name: "another type", want: `auth-unavailable: oidc: the provider's tokens are of the type "mac"`, answer: func(v map[string]any) { v["token_type"] = "mac" }},
		{name: "a line break in the access token", want: "auth-unavailable: oidc: the provider's access token isn't one", answer: func(v map[string]any) { v["access_token"] = "a\r\nX-User: root" }},
		{name: "too large", want: "internal-error: oidc: the session is too large for cookies: have the provider put less into the ID token, or leave out forward", claims: func(c map[string]any) { c["groups"] = strings.Repeat("x", 11500) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r.p.Change(tt.claims)
			r.p.Answers(tt.answer)
			b := newBrowser(t, p)
			path, query, _ := strings.Cut(b.approve(b.page("/start").location, "alice"), "?")
			q, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				tt.change(b, q)
			}
			got := b.page(path + "?" + q.Encode())
			if got.err != tt.want || (got.location == "/start") != (tt.want == "") {
				t.Errorf("the callback: %+v, want %q", got, tt.want)
			}
			b.now = 0
			if again := b.page("/start"); again.passed != (tt.want == "") {
				t.Errorf("afterwards: %+v", again)
			}
			if again := b.page(path + "?" + q.Encode()); again.err == "" { // replayed
				t.Errorf("again: %+v", again)
			}
		})
	}
}

func flip(c string) string {
	if c == "A" {
		return "B"
	}
	return "A"
}
