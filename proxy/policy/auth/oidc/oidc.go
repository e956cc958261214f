package oidc

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// Method knows users by their sessions, and has them log in.
type Method struct {
	cfg                Config
	tokens             *jwt.Method // checks ID tokens
	who                *claims.Mapping
	service            *remote.Service // the provider; nil: the block is only checked
	store              *Store
	sessions, attempts box
	seed               remote.Sum // of the memories
	id                 string
	cookie, attempt    string // names of cookies; attempt is a prefix
	challenge          string
	faults             *faults
}

var (
	_ auth.Method = (*Method)(nil)
	_ auth.Tester = (*Method)(nil)
	_ auth.Pather = (*Method)(nil)
)

type faults struct {
	unavailable, invalid, plain, noHost, method                         *exchange.Fault
	query, attempt, late, code, issuer, nonce, azp, crossSite, notMeant *exchange.Fault
}

// newFaults makes the faults once: refusing many must not cost.
func newFaults() *faults {
	refuse := func(why string) *exchange.Fault {
		return exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "oidc: %s", why)
	}
	return &faults{
		unavailable: exchange.NewFault(exchange.FromPolicy, exchange.AuthUnavailable, "oidc: the provider can't be asked"),
		invalid:     auth.Refuse("the session has ended, or isn't one"),
		plain:       refuse("logging in needs https: browsers keep no session otherwise"),
		noHost:      refuse("the request names no host"),
		method:      exchange.NewFault(exchange.FromPolicy, exchange.MethodNotAllowed, "oidc: not a method of this path"),
		query:       refuse("the callback lacks a parameter, or has it twice"),
		attempt:     refuse("the callback isn't of a login that this browser began, or it was used before"),
		late:        refuse("the login took too long"),
		code:        refuse("the provider doesn't take the code of the callback"),
		issuer:      refuse("the callback is of another provider"),
		nonce:       refuse("the ID token is of another login"),
		azp:         refuse("the ID token is for another client"),
		crossSite:   refuse("another site asks to end the session"),
		notMeant:    refuse("nobody means to end the session: the request isn't for a page"),
	}
}

// Paths are those that the provider and logout links lead to. Blocks that don't read
// each other's sessions can't share them: a browser would log in again and again.
func (m *Method) Paths() map[string]string {
	id := m.id + string(m.seed[:])
	return map[string]string{m.cfg.Callback: id, m.cfg.Logout: id}
}

// Identify looks for a session, and answers what belongs to logging in and out.
// Without a session, the other blocks of the route are asked before a browser is
// sent to the provider.
func (m *Method) Identify(x *exchange.Exchange) (bool, error) {
	if m.service == nil {
		return true, m.faults.unavailable
	}
	switch x.Target.Path {
	case m.cfg.Callback:
		return true, m.finish(x)
	case m.cfg.Logout:
		return true, m.end(x)
	}
	s, sum, shown := m.session(x)
	if s != nil {
		s = m.fresh(x, s, &sum)
	}
	if s == nil {
		return false, m.none(x, shown)
	}
	m.admit(x, s)
	if m.cfg.Forward {
		x.RequestEdits.SetID(exchange.Authorization, "Authorization", s.bearer)
	}
	return true, nil
}

func (m *Method) admit(x *exchange.Exchange, s *session) {
	x.Claims = s.claims
	x.Consumer = m.who.Consumer(s.claims, &s.who)
}

// none is what becomes of a request without a session, should no other block know
// the client. shown: it has a cookie that isn't one any more.
func (m *Method) none(x *exchange.Exchange, shown bool) error {
	switch {
	case navigates(x):
		return &auth.Answer{Why: "sends the browser to log in at " + m.cfg.Issuer, Reply: m.begin}
	case shown:
		return m.faults.invalid
	default:
		return nil
	}
}

// navigates reports whether the request is a browser's for a page, which a person
// sees: only that may lead to a login page. Scripts and images get 401.
func navigates(x *exchange.Exchange) bool {
	if mode, ok := x.Request.Find("Sec-Fetch-Mode"); x.Method != "GET" || ok && mode != "navigate" { // Fetch Metadata, 2.2
		return false
	}
	html := false
	for i := range x.Request.Len() {
		if x.Request.ID(i) == exchange.Accept {
			_, value := x.Request.Field(i)
			exchange.EachToken(value, func(t string) bool {
				kind, _, _ := strings.Cut(t, ";")
				html = html || exchange.EqualFold(strings.TrimSpace(kind), "text/html")
				return !html
			})
		}
	}
	return html
}

// Hide takes the cookies of logins out of what goes to the backend.
func (m *Method) Hide(x *exchange.Exchange) { HideCookies(x) }

// Challenge names the cookie (there is no registered scheme for cookies; RFC 9110,
// 11.6.1 asks for some).
func (m *Method) Challenge(bool) string { return m.challenge }

// Explain says who logs users in.
func (m *Method) Explain() string { return "a session of a login at " + m.cfg.Issuer }

// Test asks nobody and refreshes nothing.
func (m *Method) Test(x *exchange.Exchange) (bool, error) {
	switch x.Target.Path {
	case m.cfg.Callback:
		return true, auth.Note("takes a login of " + m.cfg.Issuer)
	case m.cfg.Logout:
		return true, auth.Note("ends the session")
	}
	if m.service == nil {
		return true, m.faults.unavailable
	}
	if s, _, _ := m.session(x); s != nil {
		m.admit(x, s)
		return true, nil
	}
	if navigates(x) {
		return false, auth.Note("sends the browser to log in at " + m.cfg.Issuer)
	}
	return false, nil
}
