// Package introspect is auth "introspect": a client shows a token, and the server
// that issued it says what it is worth (RFC 7662). It starts no goroutine.
package introspect

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// Config is an auth "introspect" block.
type Config struct {
	// The server's introspection endpoint, an https URL.
	URL string `hcl:"url,attr" required:"true"`
	// Who the gateway is to that server.
	ClientID string `hcl:"client_id,attr" required:"true"`
	// Its password there (HTTP Basic, RFC 6749, 2.3.1).
	ClientSecret secret.String `hcl:"client_secret,attr" required:"true"`
	// Whose tokens they are, for jwt { issuer = … } of consumers; url unless given. An answer with another iss refuses the token.
	Issuer string `hcl:"issuer,attr"`
	// Whom tokens must be for: their aud has one of these. Unless given, aud isn't looked at.
	Audience []string `hcl:"audience,attr"`
	claims.Config
	// What the server is told to look for first.
	TokenTypeHint string `hcl:"token_type_hint,attr" default:"access_token"`
	// How long an answer is remembered: that a token is good, until it ends at most; that it isn't, ten seconds at most. So long a token that is revoked goes on.
	Cache time.Duration `hcl:"cache,attr" default:"30s" min:"0s" max:"1h"`
	// How long an answer may take.
	Timeout time.Duration `hcl:"timeout,attr" default:"2s" min:"10ms" max:"60s"`
	// Root certificates for the server, in PEM; the system's unless given.
	CAFile string `hcl:"ca_file,attr"`
	// What WWW-Authenticate calls the protected space.
	Realm string `hcl:"realm,attr" default:"api"`
	// Send the token on to the service. Unless it does, no service, and no log of one, gets hold of a client's token.
	Forward bool `hcl:"forward,attr" default:"false"`
}

const (
	maxToken = 16 << 10 // bytes
	maxBody  = 64 << 10 // of an answer
	skew     = 60       // seconds that clocks may differ
	badFor   = 10 * time.Second
)

// Deps are what a method works with. Without services it can only be checked.
type Deps struct {
	Consumers *consumer.Directory
	Services  *remote.Plan
	Cache     *Cache
}

// Method identifies clients by tokens that a server knows.
type Method struct {
	url, hint    string
	basic        string // what Authorization says
	issuer       string // "": any
	audience     []string
	who          *claims.Mapping
	keep         time.Duration
	forward      bool
	service      *remote.Service
	seed         remote.Sum
	cache        *Cache
	faults       *faults
	plain, wrong string // what WWW-Authenticate says
}

var (
	_ auth.Method = (*Method)(nil)
	_ auth.Tester = (*Method)(nil)
)

type faults struct{ twice, empty, long, form, inactive, expired, early, issuer, audience, unavailable *exchange.Fault }

// newFaults makes the faults once: refusing many must not cost.
func newFaults() *faults {
	return &faults{
		twice:       auth.Twice(),
		empty:       auth.Refuse("the token is empty"),
		long:        auth.Refuse("the token has more than 16384 bytes"),
		form:        auth.Refuse("the token has characters that no bearer token has"),
		inactive:    auth.Refuse("the server says that the token isn't active"),
		expired:     auth.Refuse("the token has expired"),
		early:       auth.Refuse("the token isn't valid yet"),
		issuer:      auth.Refuse("the token is of another issuer"),
		audience:    auth.Refuse("the token is for another audience"),
		unavailable: exchange.NewFault(exchange.FromPolicy, exchange.AuthUnavailable, "the server that knows tokens can't be asked"),
	}
}

// Kind describes the method to the configuration.
func Kind(d Deps) policy.Kind {
	return auth.Kind("introspect", func() any { return &Config{} }, func(cfg any) (auth.Method, error) {
		return New(*cfg.(*Config), d)
	})
}

// New makes the method of a block.
func New(c Config, d Deps) (*Method, error) {
	m := &Method{url: c.URL, hint: c.TokenTypeHint, issuer: c.Issuer, audience: c.Audience, keep: c.Cache, forward: c.Forward, cache: d.Cache, faults: newFaults()}
	cas, errs := remote.ReadCAs(c.CAFile)
	if err := remote.CheckURL(c.URL, "answers"); err != nil {
		errs = errors.Join(errs, fmt.Errorf("url: %w", err))
	}
	if c.ClientID == "" {
		errs = errors.Join(errs, errors.New("client_id: is empty"))
	}
	if c.ClientSecret == "" {
		errs = errors.Join(errs, errors.New("client_secret: is empty"))
	}
	if slices.Contains(c.Audience, "") {
		errs = errors.Join(errs, errors.New("audience: one is empty"))
	}
	var err error
	m.who, err = c.Compile(c.Tokens(), d.Consumers)
	errs = errors.Join(errs, err, auth.CheckRealm(c.Realm))
	if errs != nil {
		return nil, errs
	}
	m.basic = auth.Basic(c.ClientID, c.ClientSecret)
	// RFC 6750, 3 and 3.1.
	m.plain = `Bearer realm="` + c.Realm + `"`
	m.wrong = m.plain + `, error="invalid_token"`
	m.seed = sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", c.URL, m.basic, m.hint, cas))
	if d.Services != nil {
		m.service = d.Services.Service(remote.Settings{URL: c.URL, CAs: cas, Timeout: c.Timeout, MaxBody: maxBody, Outside: true})
	}
	return m, nil
}

// Tokens is whose tokens they are, as consumers name it.
func (c *Config) Tokens() string {
	if c.Issuer != "" {
		return c.Issuer
	}
	return c.URL
}

// Identify looks at the token of Authorization: Bearer. One that the server
// doesn't know may be another method's.
func (m *Method) Identify(x *exchange.Exchange) (bool, error) {
	token, fault := m.token(x)
	switch {
	case fault != nil:
		return true, fault
	case token == "":
		return false, nil
	case m.service == nil:
		return true, m.faults.unavailable
	}
	k, err := m.look(token, x.Start)
	if err != nil {
		return true, &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.AuthUnavailable, Err: err}
	}
	if !k.active {
		return false, m.faults.inactive
	}
	if fault := m.check(k, x.Start); fault != nil {
		return true, fault
	}
	x.Claims = k.claims
	x.Consumer = m.who.Consumer(k.claims, &k.who)
	return true, nil
}

// token is what the client shows; "": nothing.
func (m *Method) token(x *exchange.Exchange) (string, *exchange.Fault) {
	token, n := auth.Credentials(&x.Request, "Bearer")
	switch {
	case n == 0:
		return "", nil
	case n > 1:
		return "", m.faults.twice
	case token == "":
		return "", m.faults.empty
	case len(token) > maxToken:
		return "", m.faults.long
	}
	for i := range len(token) { // RFC 6750, 2.1: b64token
		c := token[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0) {
			return "", m.faults.form
		}
	}
	return token, nil
}

// check decides about a token that the server knows.
func (m *Method) check(k *known, now time.Time) *exchange.Fault {
	t := now.Unix()
	switch {
	case k.exp != 0 && t-skew >= k.exp:
		return m.faults.expired
	case t+skew < k.nbf:
		return m.faults.early
	case m.issuer != "" && k.issuer != "" && k.issuer != m.issuer:
		return m.faults.issuer
	case len(m.audience) == 0:
		return nil
	}
	for _, a := range k.audience {
		if slices.Contains(m.audience, a) {
			return nil
		}
	}
	return m.faults.audience
}

// ask asks the server about a token (RFC 7662, 2.1).
func (m *Method) ask(token string) (*known, error) {
	form := url.Values{"token": {token}}
	if m.hint != "" {
		form.Set("token_type_hint", m.hint)
	}
	r, err := http.NewRequest(http.MethodPost, m.url, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Authorization", m.basic)
	r.Header.Set("User-Agent", "sidegate")
	a, err := m.service.Do(r)
	if err != nil {
		return nil, fmt.Errorf("the server that knows tokens can't be asked: %w", err)
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("the server that knows tokens answers %d: check url, client_id and client_secret", a.Status)
	}
	return parse(a.Body)
}

// Hide takes the token out of what goes to the backend.
func (m *Method) Hide(x *exchange.Exchange) {
	if !m.forward {
		auth.HideCredentials(x, "Bearer")
	}
}

// Challenge asks for a token, or says that it is wrong; why is for the log.
func (m *Method) Challenge(wrong bool) string {
	if wrong {
		return m.wrong
	}
	return m.plain
}

// Explain says who knows the tokens.
func (m *Method) Explain() string { return "a token that " + remote.Shown(m.url) + " knows" }

// Test doesn't ask.
func (m *Method) Test(x *exchange.Exchange) (bool, error) {
	switch token, fault := m.token(x); {
	case fault != nil:
		return true, fault
	case token == "":
		return false, nil
	default:
		return true, auth.Note("asks " + remote.Shown(m.url))
	}
}
