package oidc

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// Config is an auth "oidc" block.
type Config struct {
	// The provider: an https URL below which its discovery document is, and what iss of its tokens says, to the letter.
	Issuer string `hcl:"issuer,attr" required:"true"`
	// Who the gateway is to the provider.
	ClientID string `hcl:"client_id,attr" required:"true"`
	// Its password there; none for a public client.
	ClientSecret secret.String `hcl:"client_secret,attr"`
	// What is asked for; openid is among it.
	Scopes []string `hcl:"scopes,attr" default:"[\"openid\"]"`
	// What ID tokens may be signed with; what a token says of that is never believed.
	Algorithms []string `hcl:"algorithms,attr" default:"[\"RS256\", \"ES256\"]" enum:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA|Ed25519"`
	claims.Config
	// What sessions are encrypted with, 32 characters or more: the same on all nodes that serve a host. Unless given, a key of this node's own in state_dir.
	CookieSecret secret.String `hcl:"cookie_secret,attr"`
	// How long a session lasts; then the user is sent to the provider again.
	Session time.Duration `hcl:"session,attr" default:"8h" min:"1m" max:"720h"`
	// The path on the route's hosts that the provider sends browsers back to: https://HOST and this is the redirect URI to register there.
	Callback string `hcl:"callback,attr" default:"/.sidegate/oidc/callback"`
	// The path on the route's hosts that ends a session, here and at the provider.
	Logout string `hcl:"logout,attr" default:"/.sidegate/oidc/logout"`
	// Where the browser goes after that: a path of the host, or an https URL; the provider must know it. Unless given, it stays there.
	AfterLogout string `hcl:"after_logout,attr"`
	// Further parameters of the authorization request: { prompt = "select_account" }.
	Parameters map[string]string `hcl:"parameters,attr"`
	// How long an answer of the provider may take.
	Timeout time.Duration `hcl:"timeout,attr" default:"5s" min:"10ms" max:"60s"`
	// Root certificates for the provider, in PEM; the system's unless given.
	CAFile string `hcl:"ca_file,attr"`
	// Send the access token on to the service, as Authorization: Bearer.
	Forward bool `hcl:"forward,attr" default:"false"`
}

const (
	maxAnswer = 256 << 10 // bytes of the provider's
	minSecret = 32
)

// Deps are what a method works with. Without services it can only be checked.
type Deps struct {
	Consumers *consumer.Directory
	Services  *remote.Plan
	Keys      *keyset.Plan
	Tokens    *jwt.Cache
	Store     *Store
}

// Kind describes the method to the configuration.
func Kind(d Deps) policy.Kind {
	return auth.Kind("oidc", func() any { return &Config{} }, func(cfg any) (auth.Method, error) {
		return New(*cfg.(*Config), d)
	})
}

// New makes the method of a block.
func New(c Config, d Deps) (*Method, error) {
	cas, err := remote.ReadCAs(c.CAFile)
	errs := errors.Join(err, c.check())
	m := &Method{cfg: c, store: d.Store, faults: newFaults()}
	if m.tokens, err = jwt.New(jwt.Config{
		Issuer: c.Issuer, Audience: []string{c.ClientID}, Algorithms: c.Algorithms, CAFile: c.CAFile, Realm: "login",
	}, jwt.Deps{Keys: d.Keys, Cache: d.Tokens}); err != nil && errs == nil {
		errs = err
	}
	m.who, err = c.Compile(c.Issuer, d.Consumers)
	if errs = errors.Join(errs, err); errs != nil {
		return nil, errs
	}
	// What a session has in it, and for whom, is in its name: blocks that differ
	// in that never read each other's.
	scopes := slices.Sorted(slices.Values(c.Scopes))
	id := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %v %v", c.Issuer, c.ClientID, scopes, c.Forward, c.Session))
	m.id = hex.EncodeToString(id[:4])
	m.cookie, m.attempt = Prefix+m.id, Prefix+m.id+"-login-"
	m.challenge = `Cookie cookie-name="` + m.cookie + `"`
	if d.Services != nil {
		m.service = d.Services.Service(remote.Settings{URL: c.Issuer, CAs: cas, Timeout: c.Timeout, MaxBody: maxAnswer, Outside: true})
		key := d.Store.key
		if c.CookieSecret != "" {
			key = []byte(c.CookieSecret.Reveal())
		}
		m.seed = sha256.Sum256(append(id[:], key...)) // what was read with another key isn't known
		m.sessions, m.attempts = newBox(key, "sidegate oidc session"), newBox(key, "sidegate oidc attempt")
	}
	return m, nil
}

// check collects what is wrong with the block by itself.
func (c *Config) check() (errs error) {
	fail := func(format string, args ...any) { errs = errors.Join(errs, fmt.Errorf(format, args...)) }
	if err := remote.CheckURL(c.Issuer, "logins"); err != nil {
		fail("issuer: %w", err)
	}
	if c.ClientID == "" {
		fail("client_id: is empty")
	}
	if !slices.Contains(c.Scopes, "openid") {
		fail(`scopes: "openid" must be among them (OpenID Connect Core 1.0, 3.1.2.1)`)
	}
	for _, s := range c.Scopes {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) { // RFC 6749, 3.3
			fail("scopes: %q isn't a scope", s)
		}
	}
	if n := len(c.CookieSecret); n > 0 && n < minSecret {
		fail("cookie_secret: has %d characters, and needs %d: openssl rand -base64 32 makes one", n, minSecret)
	}
	if err := ownPath(c.Callback); err != nil {
		fail("callback: %w", err)
	}
	if err := ownPath(c.Logout); err != nil {
		fail("logout: %w", err)
	}
	if c.Callback == c.Logout {
		fail("logout: is the same path as callback")
	}
	if a := c.AfterLogout; a != "" && remote.CheckURL(a, "users") != nil && (!strings.HasPrefix(a, "/") || strings.HasPrefix(a, "//") || strings.ContainsRune(a, '\\') || !header.Value(a)) {
		fail("after_logout: %q is neither a path nor an https URL", a)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Parameters)) {
		if slices.Contains(reserved(), name) || name == "" {
			fail("parameters: %q is the gateway's own to set", name)
		}
	}
	return errs
}

func reserved() []string {
	return []string{
		"response_type", "response_mode", "client_id", "client_secret", "redirect_uri", "scope", "state", "nonce", "code_challenge",
		"code_challenge_method", "request", "request_uri", "code",
	}
}

// ownPath refuses what isn't a path as the gateway itself would write it: others
// never match.
func ownPath(path string) error {
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: "https"}, nil)
	x.Method, x.RawHost, x.RawTarget = "GET", "a.test", path
	u, err := url.Parse(path)
	if path == "" || path[0] != '/' || path == "/" || err != nil || u.RawQuery != "" || strings.ContainsAny(path, "*{}") || x.Canonicalise() != nil || x.Target.Path != path || x.Target.HasQuery {
		return fmt.Errorf("%q isn't a path of its own, such as /.sidegate/oidc/callback", path)
	}
	return nil
}
