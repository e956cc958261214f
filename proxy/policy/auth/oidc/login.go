package oidc

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
)

const (
	attemptLasts = 10 * time.Minute
	maxAttempts  = 8    // cookies: so many tabs may log in at a time
	maxURL       = 2048 // bytes of what is restored after the login
	stateName    = 12   // characters of state that are in its cookie's name
	stateLen     = 43
)

// attempt is a login that a browser has begun; its cookie is the browser's proof.
type attempt struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	URL      string `json:"u"`
	Ends     int64  `json:"e"`
}

// origin is what stands in front of our paths for the browser, or why there is no
// logging in.
func (m *Method) origin(x *exchange.Exchange) (string, *exchange.Fault) {
	if x.Target.Authority == "" {
		return "", m.faults.noHost
	}
	scheme := auth.Scheme(x)
	if scheme != "https" {
		// Browsers trust a host of their own machine without TLS (Secure Contexts, 3.1).
		a, err := netip.ParseAddr(x.Target.Host)
		if x.Target.Host != "localhost" && (err != nil || !a.IsLoopback()) {
			return "", m.faults.plain
		}
	}
	return scheme + "://" + strings.Clone(x.Target.Authority), nil
}

// begin sends the browser to the provider (OpenID Connect Core 1.0, 3.1.2.1).
func (m *Method) begin(x *exchange.Exchange) error {
	origin, fault := m.origin(x)
	if fault != nil {
		return fault
	}
	md, err := m.about(x.Start)
	if err != nil {
		return err
	}
	to, err := url.Parse(md.authorize)
	if err != nil {
		return unavailable(err)
	}
	a := attempt{State: random(), Nonce: random(), Verifier: random(), URL: strings.Clone(x.Target.Path), Ends: x.Start.Add(attemptLasts).Unix()}
	if x.Target.HasQuery {
		a.URL += "?" + x.Target.Query
	}
	if len(a.URL) > maxURL {
		a.URL = "/"
	}
	challenge := sha256.Sum256([]byte(a.Verifier)) // RFC 7636, 4.2
	q := to.Query()
	for name, value := range m.cfg.Parameters {
		q.Set(name, value)
	}
	q.Set("response_type", "code")
	q.Set("client_id", m.cfg.ClientID)
	q.Set("redirect_uri", origin+m.cfg.Callback)
	q.Set("scope", strings.Join(m.cfg.Scopes, " "))
	q.Set("state", a.State)
	q.Set("nonce", a.Nonce)
	q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(challenge[:]))
	q.Set("code_challenge_method", "S256")
	to.RawQuery = q.Encode()
	plain, err := json.Marshal(a)
	if err != nil {
		return err
	}
	m.dropAttempts(x)
	x.Reply(302, "", nil)
	x.Response.Append("Location", to.String())
	x.Response.Append("Cache-Control", "no-store")
	x.Response.Append("Set-Cookie", setCookie(m.attempt+a.State[:stateName], m.attempts.seal(plain, m.place(x)), attemptLasts))
	m.store.of(m.cfg.Issuer).begun.Add(1)
	return nil
}

// dropAttempts makes room for one more login of this browser: those that are over
// go, and the oldest of too many.
func (m *Method) dropAttempts(x *exchange.Exchange) {
	type old struct {
		name string
		ends int64
	}
	var list []old
	eachCookie(&x.Request, func(name, value string) {
		if !strings.HasPrefix(name, m.attempt) || len(list) >= 64 {
			return
		}
		o := old{name: strings.Clone(name)}
		if a := m.readAttempt(x, value); a != nil && a.Ends > x.Start.Unix() {
			o.ends = a.Ends
		}
		list = append(list, o)
	})
	slices.SortFunc(list, func(a, b old) int { return cmp.Compare(b.ends, a.ends) })
	for i, o := range list {
		if o.ends == 0 || i >= maxAttempts-1 {
			m.drop(x, o.name)
		}
	}
}

// drop has the browser forget a cookie.
func (m *Method) drop(x *exchange.Exchange, name string) {
	for i := range len(name) { // it comes from the browser, and goes into a field
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return
		}
	}
	x.ResponseEdits.AddID(exchange.SetCookie, "Set-Cookie", setCookie(name, "", 0))
}

func (m *Method) readAttempt(x *exchange.Exchange, text string) *attempt {
	a := &attempt{}
	plain, ok := m.attempts.open(text, m.place(x))
	if !ok || json.Unmarshal(plain, a) != nil {
		return nil
	}
	return a
}

// finish answers the callback.
func (m *Method) finish(x *exchange.Exchange) error {
	counts := m.store.of(m.cfg.Issuer)
	to, err := m.callback(x)
	if err != nil {
		counts.failed.Add(1)
		return err
	}
	counts.done.Add(1)
	return &auth.Answer{Why: "the user has logged in", Reply: func(x *exchange.Exchange) error {
		x.Reply(302, "", nil)
		x.Response.Append("Location", to)
		x.Response.Append("Cache-Control", "no-store")
		return nil
	}}
}

// callback takes what the provider sends by the browser, and returns where the
// login began (OpenID Connect Core 1.0, 3.1.2.5 and on).
func (m *Method) callback(x *exchange.Exchange) (string, error) {
	if x.Method != "GET" {
		return "", m.faults.method
	}
	origin, fault := m.origin(x)
	if fault != nil {
		return "", fault
	}
	q, err := url.ParseQuery(x.Target.Query)
	for _, name := range []string{"state", "code", "error", "iss"} {
		if len(q[name]) > 1 {
			return "", m.faults.query
		}
	}
	state := q.Get("state")
	if err != nil || len(state) != stateLen || (q.Get("code") == "") == (q.Get("error") == "") {
		return "", m.faults.query
	}
	a, fault := m.proof(x, state)
	if fault != nil {
		return "", fault
	}
	md, err := m.about(x.Start)
	if err != nil {
		return "", err
	}
	if iss, given := q["iss"]; given && iss[0] != m.cfg.Issuer || !given && md.namesItself { // RFC 9207, 2.4
		return "", m.faults.issuer
	}
	if code := q.Get("error"); code != "" {
		return "", exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "oidc: the provider answers %.64q", code)
	}
	t, err := m.grant(md, url.Values{
		"grant_type": {"authorization_code"}, "code": {strings.Clone(q.Get("code"))}, "redirect_uri": {origin + m.cfg.Callback}, "code_verifier": {a.Verifier},
	})
	if errors.Is(err, errGrant) {
		return "", m.faults.code
	}
	if err != nil {
		return "", unavailable(err)
	}
	if err := m.start(x, t, a.Nonce); err != nil {
		return "", err
	}
	return a.URL, nil
}

// proof is the attempt that a callback belongs to. It serves once: the browser
// forgets it, whatever comes of it.
func (m *Method) proof(x *exchange.Exchange, state string) (*attempt, *exchange.Fault) {
	name, text, n := m.attempt+state[:stateName], "", 0
	eachCookie(&x.Request, func(o, value string) {
		if o == name {
			text = value
			n++
		}
	})
	if n != 1 {
		return nil, m.faults.attempt
	}
	m.drop(x, name)
	a := m.readAttempt(x, text)
	switch {
	case a == nil || subtle.ConstantTimeCompare([]byte(a.State), []byte(state)) != 1:
		return nil, m.faults.attempt
	case x.Start.Unix() >= a.Ends:
		return nil, m.faults.late
	default:
		return a, nil
	}
}

// start begins a session with the tokens of a login.
func (m *Method) start(x *exchange.Exchange, t *tokens, nonce string) error {
	if fault := m.checkID(t.id, nonce, x.Start); fault != nil {
		return fault
	}
	s := stored{ID: random(), Ends: x.Start.Add(m.cfg.Session).Unix()}
	m.take(&s, t, x.Start)
	text := m.write(&s, m.place(x))
	if text == nil {
		return exchange.NewFault(exchange.FromPolicy, exchange.Internal, "oidc: the session is too large for cookies: have the provider put less into the ID token, or leave out forward")
	}
	m.keep(x, text, m.cfg.Session)
	return nil
}

// checkID checks an ID token (OpenID Connect Core 1.0, 3.1.3.7): signature, iss, aud
// and exp are any token's.
func (m *Method) checkID(token, nonce string, now time.Time) *exchange.Fault {
	c, fault := m.tokens.Verify(token, now)
	if fault != nil {
		kind := exchange.Forbidden
		if fault.Kind == exchange.AuthUnavailable {
			kind = fault.Kind
		}
		return &exchange.Fault{Source: exchange.FromPolicy, Kind: kind, Err: fmt.Errorf("oidc: ID token: %w", fault.Err)}
	}
	azp, given := c.Find("azp")
	list, _ := c.Find("aud")
	if several, ok := list.([]any); given && azp != m.cfg.ClientID || !given && ok && len(several) > 1 {
		return m.faults.azp
	}
	if nonce != "" && subtle.ConstantTimeCompare([]byte(c.Text("nonce")), []byte(nonce)) != 1 {
		return m.faults.nonce
	}
	return nil
}

// take puts tokens into a session.
func (m *Method) take(s *stored, t *tokens, now time.Time) {
	if t.id != "" {
		s.Token = t.id
	}
	if t.refresh != "" {
		s.Refresh = t.refresh
	}
	if m.cfg.Forward {
		s.Access = t.access
	}
	s.Since, s.Until = now.Unix(), 0
	if t.lasts > 0 {
		s.Until = now.Add(t.lasts).Unix()
	}
}
