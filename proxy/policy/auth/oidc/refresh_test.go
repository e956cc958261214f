package oidc

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc/oidctest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestRefresh: before the access token ends, once for all that ask at a time, and
// the session's end doesn't move.
func TestRefresh(t *testing.T) {
	r := newRig(t)
	r.p.Lasts(5 * time.Minute)
	b := newBrowser(t, r.policy(t, "forward = true\nsession = \"1h\""))
	b.login("/", "alice")
	name, first := b.only()
	bearer := func(got result) string {
		for _, f := range policytest.Sent(&got.x.Request, &got.x.RequestEdits) {
			if token, ok := strings.CutPrefix(f, "Authorization: Bearer "); ok {
				return token
			}
		}
		return ""
	}
	b.now = 3 * time.Minute
	old := bearer(b.do("GET "+site+"/", "Authorization: Bearer of-mine"))
	if _, value := b.only(); value != first || !strings.HasPrefix(old, "access-") || r.p.Asked("refresh_token") != 0 {
		t.Fatalf("long before: the service gets %q", old)
	}
	b.now = 4*time.Minute + 30*time.Second
	var wg sync.WaitGroup
	results := make([]result, 16)
	tabs := make([]*browser, len(results))
	for i := range results {
		tabs[i] = newBrowser(t, b.p)
		tabs[i].now, tabs[i].cookies[name] = b.now, first
		wg.Go(func() { results[i] = tabs[i].page("/") })
	}
	wg.Wait()
	_, second := tabs[0].only()
	for i, got := range results {
		if _, value := tabs[i].only(); !got.passed || bearer(got) == old || value == first || value != second {
			t.Fatalf("tab %d: %q, %v", i, bearer(got), got.err)
		}
	}
	if n := r.p.Asked("refresh_token"); n != 1 {
		t.Errorf("16 requests at once refreshed %d times", n)
	}
	b.now = 8 * time.Minute // who still has the old cookie gets what came of it
	if got := b.page("/"); !got.passed || bearer(got) == old || r.p.Asked("refresh_token") != 1 {
		t.Errorf("with the old cookie: %q, refreshed %d times", bearer(got), r.p.Asked("refresh_token"))
	} else if !slices.Contains(got.fields, "Cache-Control: private") { // no cache may keep the cookie that comes with it
		t.Errorf("the answer has %q", got.fields)
	}
	if got := b.page("/"); !got.passed || len(got.fields) > 0 {
		t.Errorf("with the new cookie: %v, %q", got.err, got.fields)
	}
	b.now = 9 * time.Minute
	if got := b.page("/"); !got.passed || r.p.Asked("refresh_token") != 2 {
		t.Errorf("again: %v, refreshed %d times", got.err, r.p.Asked("refresh_token"))
	}
	b.now = time.Hour + time.Second
	if got := b.page("/"); got.passed || got.status != 302 {
		t.Errorf("after its end: %+v", got)
	}
}

// TestRefreshFails: a provider that is away ends no session, one that takes it back
// does.
func TestRefreshFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		break_ func(r *rig)
		want   bool
	}{
		{"away", func(r *rig) { r.p.Down(true) }, true},
		{"not the client any more", func(r *rig) { r.p.Answers(func(v map[string]any) { v["token_type"] = "x" }) }, true},
		{"an ID token that isn't right", func(r *rig) { r.p.Change(func(c map[string]any) { c["aud"] = "x" }) }, true},
		{"taken back", func(r *rig) { r.p.Revoke() }, false},
		{"another user", func(r *rig) { r.p.Change(func(c map[string]any) { c["sub"] = "mallory" }) }, false},
		{"no ID token", func(r *rig) { r.p.Answers(func(v map[string]any) { delete(v, "id_token") }) }, true},
		{"no new refresh token", func(r *rig) { r.p.Answers(func(v map[string]any) { delete(v, "refresh_token") }) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.p.Lasts(5 * time.Minute)
			b := newBrowser(t, r.policy(t, ""))
			b.login("/", "alice")
			tt.break_(r)
			b.now = 5 * time.Minute
			for range 3 {
				got := b.page("/")
				if got.passed != tt.want || tt.want && got.x.Claims.Text("sub") != "alice" || !tt.want && got.status != 302 {
					t.Errorf("%+v", got)
				}
			}
			if got := b.do("GET " + site + "/"); !tt.want && got.err != "unauthenticated: the session has ended, or isn't one" {
				t.Errorf("a program: %+v", got)
			}
			if n := r.p.Asked("refresh_token"); n > 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// TestAwayForAll: one session finds out that the provider is away, for all others.
func TestAwayForAll(t *testing.T) {
	r := newRig(t)
	r.p.Lasts(5 * time.Minute)
	p := r.policy(t, "")
	browsers := make([]*browser, 5)
	for i := range browsers {
		browsers[i] = newBrowser(t, p)
		browsers[i].login("/", "alice")
		browsers[i].now = 5 * time.Minute
	}
	r.p.Down(true)
	before := r.p.Asked("token")
	for range 2 {
		for _, b := range browsers {
			if got := b.page("/"); !got.passed {
				t.Errorf("%+v", got)
			}
		}
	}
	if n := r.p.Asked("token") - before; n != 1 {
		t.Errorf("asked %d times", n)
	}
	r.p.Down(false)
	for _, b := range browsers {
		b.now += retry + time.Second
		if got := b.page("/"); !got.passed {
			t.Errorf("again there: %+v", got)
		}
	}
	if n := r.p.Asked("refresh_token"); n != len(browsers) {
		t.Errorf("refreshed %d sessions, want %d", n, len(browsers))
	}
}

// TestBeside: an access token that goes to the service stays, whatever the client
// sends for another block, and the other block's client has no session.
func TestBeside(t *testing.T) {
	r := newRig(t)
	k, other := Kind(r.Deps), jwt.Kind(jwt.Deps{Keys: r.Keys, Cache: r.Tokens})
	m, err := k.New(&Config{Issuer: r.p.URL, ClientID: oidctest.Client, ClientSecret: oidctest.Secret, Scopes: []string{"openid"}, Algorithms: []string{"RS256"}, Session: time.Hour, Callback: "/.sidegate/oidc/callback", Logout: "/l", Timeout: 5 * time.Second, Forward: true})
	if err != nil {
		t.Fatal(err)
	}
	j, err := other.New(&jwt.Config{Issuer: r.p.URL, Audience: []string{"api"}, Algorithms: []string{"RS256"}, Realm: "api"})
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]policy.Policy{{m, j}, {j, m}} {
		p, err := k.Join("r", list)
		if err != nil {
			t.Fatal(err)
		}
		r.Keys.Commit()
		b := newBrowser(t, p.(policy.Requester))
		b.login("/", "alice")
		got := b.do("GET "+site+"/", "Authorization: Bearer of.another.kind")
		sent := strings.Join(policytest.Sent(&got.x.Request, &got.x.RequestEdits), ", ")
		if !got.passed || !strings.HasPrefix(sent, "Authorization: Bearer access-") || strings.Contains(sent, ",") {
			t.Errorf("%+v: the service gets %q", got, sent)
		}
		token := r.p.Sign("k", map[string]any{"iss": r.p.URL, "aud": "api", "sub": "bob", "exp": time.Now().Add(time.Hour).Unix()})
		clear(b.cookies)
		if got := b.do("GET "+site+"/", "Authorization: Bearer "+token, "Accept: text/html"); !got.passed || got.x.Claims.Text("sub") != "bob" {
			t.Errorf("with a token: %+v", got)
		}
		if got := b.do("GET "+site+"/", "Accept: text/html"); got.status != 302 {
			t.Errorf("with neither: %+v", got)
		}
	}
}

// TestProviderAway: sessions go on, logins wait.
func TestProviderAway(t *testing.T) {
	r := newRig(t)
	p := r.policy(t, "")
	r.p.Discovery(func(d map[string]any) { d["issuer"] = "https://evil.test" })
	b := newBrowser(t, p)
	if got := b.page("/"); !strings.HasPrefix(got.err, "auth-unavailable: oidc: "+r.p.URL+"/.well-known/openid-configuration is about the issuer \"https://evil.test\"") {
		t.Errorf("a document of another issuer: %+v", got)
	}
	r.p.Discovery(func(d map[string]any) {
		d["authorization_endpoint"], d["token_endpoint"] = "http://evil.test", r.p.URL+"/token"
	})
	if got := b.page("/"); !strings.Contains(got.err, `authorization_endpoint: "http://evil.test" isn't an https URL`) {
		t.Errorf("an endpoint without TLS: %+v", got)
	}
	r = newRig(t)
	p = r.policy(t, "")
	b = newBrowser(t, p)
	b.login("/", "alice")
	r.p.Down(true)
	if got := b.page("/"); !got.passed {
		t.Errorf("a session while the provider is away: %+v", got)
	}
	other := newBrowser(t, p)
	begun := other.page("/")
	r.p.Down(false)
	back := other.approve(begun.location, "alice")
	r.p.Down(true)
	if got := other.page(back); got.err != "auth-unavailable: oidc: the provider can't be asked for tokens: it answers 502 Bad Gateway" {
		t.Errorf("a callback: %+v", got)
	}
	// What it said of itself holds for a day.
	r.p.Discovery(func(d map[string]any) { clear(d) })
	for _, tt := range []struct {
		now  time.Duration
		want bool
	}{{2 * time.Hour, true}, {2*time.Hour + time.Minute, true}, {23 * time.Hour, true}, {25 * time.Hour, false}} {
		late := newBrowser(t, p)
		late.now = tt.now
		if got := late.page("/"); (got.status == 302) != tt.want {
			t.Errorf("a login after %s: %+v", tt.now, got)
		}
	}
	r.p.Close()
	fresh := newNode(t, r.p, "k")
	if got := newBrowser(t, fresh.policy(t, "")).page("/"); !strings.HasPrefix(got.err, "auth-unavailable: oidc: the provider can't be asked: ") {
		t.Errorf("a login: %+v", got)
	}
}
