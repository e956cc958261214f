// Package oidctest is an OpenID Connect provider for tests: a page to log in at,
// tokens for codes with PKCE, refresh tokens that serve once, and an end of session.
package oidctest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
)

// The client that the provider knows.
const (
	Client = "gate:way"
	Secret = "päss word/"
)

// Provider is a server where users log in.
type Provider struct {
	*jwttest.Issuer
	t testing.TB

	mu        sync.Mutex // guards what follows
	users     map[string]string
	codes     map[string]*login
	refreshes map[string]*login
	asked     map[string]int
	down      bool
	lasts     time.Duration
	redirects []string
	change    func(claims map[string]any)
	answer    func(values map[string]any)
	ended     []url.Values
}

// login is a user who has logged in at the authorization endpoint.
type login struct {
	user                       string
	redirect, nonce, challenge string
	scope                      string
}

// New starts a provider that knows the client by these redirect URIs.
func New(t testing.TB, redirects ...string) *Provider {
	p := &Provider{
		Issuer: jwttest.New(t), t: t, users: map[string]string{}, codes: map[string]*login{}, refreshes: map[string]*login{}, asked: map[string]int{},
		lasts: time.Hour, redirects: redirects,
	}
	p.Add("k", "RS256")
	p.Discovery(func(d map[string]any) {
		d["authorization_endpoint"], d["token_endpoint"] = p.URL+"/authorize", p.URL+"/token"
		d["end_session_endpoint"], d["authorization_response_iss_parameter_supported"] = p.URL+"/logout", true
	})
	p.Handle("/authorize", p.page)
	p.Handle("/token", p.token)
	p.Handle("/logout", p.logout)
	return p
}

// Lasts is how long access tokens do.
func (p *Provider) Lasts(d time.Duration) { p.set(func() { p.lasts = d }) }

// Down has the provider fail, or not.
func (p *Provider) Down(down bool) { p.set(func() { p.down = down }) }

// Change changes the claims of ID tokens; nil: it doesn't.
func (p *Provider) Change(f func(claims map[string]any)) { p.set(func() { p.change = f }) }

// Answers changes the answers of the token endpoint; nil: it doesn't.
func (p *Provider) Answers(f func(values map[string]any)) { p.set(func() { p.answer = f }) }

// Redirects adds a redirect URI.
func (p *Provider) Redirects(uri string) { p.set(func() { p.redirects = append(p.redirects, uri) }) }

// Revoke takes all refresh tokens back.
func (p *Provider) Revoke() { p.set(func() { clear(p.refreshes) }) }

func (p *Provider) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// Asked is how often an endpoint, or a grant, was asked.
func (p *Provider) Asked(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[what]
}

// Ended are the parameters of the ends of sessions.
func (p *Provider) Ended() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ended)
}

// begun counts a request, and answers it when the provider is down.
func (p *Provider) begun(w http.ResponseWriter, what string) bool {
	p.asked[what]++
	if p.down {
		http.Error(w, "down", http.StatusBadGateway)
	}
	return !p.down
}

func text() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// page is the authorization endpoint: a form for the user's name. Who has a cookie
// of the provider's needs none.
func (p *Provider) page(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun(w, "authorize") {
		return
	}
	q := r.FormValue
	switch {
	case q("client_id") != Client || q("response_type") != "code" || !slices.Contains(strings.Fields(q("scope")), "openid"):
		http.Error(w, "not a request of the client", 400)
		return
	case !slices.Contains(p.redirects, q("redirect_uri")):
		http.Error(w, "unknown redirect URI "+q("redirect_uri"), 400)
		return
	case q("code_challenge_method") != "S256" || len(q("code_challenge")) != 43 || q("state") == "" || q("nonce") == "":
		http.Error(w, "no PKCE, state or nonce", 400)
		return
	}
	user := r.PostFormValue("user")
	if c, err := r.Cookie("sso"); user == "" && err == nil {
		user = p.users[c.Value]
	}
	if user == "" {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<title>Log in</title><form method="post" action="/authorize?%s"><input name="user" id="user"><button id="go">Log in</button></form>`, html.EscapeString(r.URL.RawQuery))
		return
	}
	back, err := url.Parse(q("redirect_uri"))
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	v := url.Values{"state": {q("state")}, "iss": {p.URL}}
	if user == "nobody" {
		v.Set("error", "access_denied")
	} else {
		session, code := text(), text()
		p.users[session] = user
		http.SetCookie(w, &http.Cookie{Name: "sso", Value: session, Path: "/", HttpOnly: true})
		p.codes[code] = &login{user: user, redirect: q("redirect_uri"), nonce: q("nonce"), challenge: q("code_challenge"), scope: q("scope")}
		v.Set("code", code)
	}
	back.RawQuery = v.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// token is the token endpoint.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun(w, "token") {
		return
	}
	fail := func(status int, code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":%q}`, code)
	}
	id, password, ok := r.BasicAuth()
	if !ok {
		id, password = url.QueryEscape(r.PostFormValue("client_id")), url.QueryEscape(r.PostFormValue("client_secret"))
	}
	if id != url.QueryEscape(Client) || password != url.QueryEscape(Secret) {
		fail(401, "invalid_client")
		return
	}
	grant := r.PostFormValue("grant_type")
	p.asked[grant]++
	var l *login
	switch grant {
	case "authorization_code":
		l = p.codes[r.PostFormValue("code")]
		delete(p.codes, r.PostFormValue("code"))
		proof := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if l == nil || l.redirect != r.PostFormValue("redirect_uri") || l.challenge != base64.RawURLEncoding.EncodeToString(proof[:]) {
			fail(400, "invalid_grant")
			return
		}
	case "refresh_token":
		l = p.refreshes[r.PostFormValue("refresh_token")]
		delete(p.refreshes, r.PostFormValue("refresh_token"))
		if l == nil {
			fail(400, "invalid_grant")
			return
		}
	default:
		fail(400, "unsupported_grant_type")
		return
	}
	p.write(w, l, grant == "refresh_token")
}

func (p *Provider) write(w http.ResponseWriter, l *login, refreshed bool) {
	now := time.Now()
	claims := map[string]any{
		"iss": p.URL, "aud": Client, "sub": l.user, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "email": l.user + "@example.com", "department": "web",
	}
	if !refreshed {
		claims["nonce"] = l.nonce
	}
	if p.change != nil {
		p.change(claims)
	}
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	refresh := text()
	p.refreshes[refresh] = l
	values := map[string]any{
		"id_token": p.Sign("k", claims), "access_token": "access-" + text(), "token_type": "Bearer", "expires_in": int(p.lasts / time.Second), "refresh_token": refresh,
	}
	if p.answer != nil {
		p.answer(values)
	}
	maps.DeleteFunc(values, func(_ string, v any) bool { return v == nil })
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(values) // the client sees what it gets
}

// logout is the end of session.
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun(w, "logout") {
		return
	}
	p.ended = append(p.ended, r.URL.Query())
	if c, err := r.Cookie("sso"); err == nil {
		delete(p.users, c.Value)
	}
	http.SetCookie(w, &http.Cookie{Name: "sso", Path: "/", MaxAge: -1})
	if to := r.URL.Query().Get("post_logout_redirect_uri"); to != "" && r.URL.Query().Get("id_token_hint") != "" {
		http.Redirect(w, r, to, http.StatusFound)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprint(w, `<title>Logged out</title>Logged out at the provider`)
}
