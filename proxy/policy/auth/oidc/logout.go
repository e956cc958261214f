package oidc

import (
	"net/url"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
)

// maxHint bounds the ID token in the address of the provider's logout.
const maxHint = 4096

// end answers the logout path: the session counts no more, and the browser goes to
// the provider's end of session (OpenID Connect RP-Initiated Logout 1.0, 2).
func (m *Method) end(x *exchange.Exchange) error {
	if x.Method != "GET" && x.Method != "POST" {
		return m.faults.method
	}
	origin, fault := m.origin(x)
	if fault != nil {
		return fault
	}
	if !ownSite(x, origin) {
		return m.faults.crossSite
	}
	if !meant(x) {
		return m.faults.notMeant
	}
	s, _, _ := m.session(x)
	if s != nil {
		m.forget(s, x.Start)
		m.store.of(m.cfg.Issuer).ended.Add(1)
	}
	m.keep(x, nil, 0)
	eachCookie(&x.Request, func(name, _ string) {
		if strings.HasPrefix(name, m.attempt) {
			m.drop(x, strings.Clone(name))
		}
	})
	to := m.afterLogout(x, s, origin)
	return &auth.Answer{Why: "ends the session", Reply: func(x *exchange.Exchange) error {
		if to == "" {
			x.Reply(200, "text/plain; charset=utf-8", []byte("You are logged out.\n"))
		} else {
			x.Reply(303, "", nil)
			x.Response.Append("Location", to)
		}
		x.Response.Append("Cache-Control", "no-store")
		return nil
	}}
}

// ownSite reports whether a page of the same origin, or the user himself, asks to
// end the session. Browsers say so (Fetch Metadata, 2.3); of older ones Origin or
// Referer must be this host's.
func ownSite(x *exchange.Exchange, origin string) bool {
	if site, ok := x.Request.Find("Sec-Fetch-Site"); ok {
		return site == "same-origin" || site == "none"
	}
	if from := x.Request.Get(exchange.Origin); from != "" {
		return from == origin
	}
	from := x.Request.Get(exchange.Referer)
	return from == origin || strings.HasPrefix(from, origin+"/")
}

// meant reports whether a person has asked: not a browser that fetches ahead
// (Sec-Purpose), nor an image that somebody has put into a page of this site.
func meant(x *exchange.Exchange) bool {
	if purpose, _ := x.Request.Find("Sec-Purpose"); strings.HasPrefix(purpose, "prefetch") {
		return false
	}
	mode, ok := x.Request.Find("Sec-Fetch-Mode")
	return x.Method == "POST" || !ok || mode == "navigate"
}

// afterLogout is where the browser goes; "": it stays.
func (m *Method) afterLogout(x *exchange.Exchange, s *session, origin string) string {
	back := m.cfg.AfterLogout
	if strings.HasPrefix(back, "/") {
		back = origin + back
	}
	md, err := m.about(x.Start)
	if err != nil || md.endSession == "" {
		return back // the session here is over in any case
	}
	to, err := url.Parse(md.endSession)
	if err != nil {
		return back
	}
	q := to.Query()
	q.Set("client_id", m.cfg.ClientID)
	if s != nil && s.hint() != "" && len(s.hint()) <= maxHint {
		q.Set("id_token_hint", s.hint())
	}
	if back != "" {
		q.Set("post_logout_redirect_uri", back)
	}
	to.RawQuery = q.Encode()
	return to.String()
}
