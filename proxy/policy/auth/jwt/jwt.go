// Package jwt is auth "jwt": a client shows a token that an issuer has signed
// (RFC 7519, as a bearer token of RFC 6750). It starts no goroutine; the keys
// are fetched by package keyset.
package jwt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
)

// Config is an auth "jwt" block.
type Config struct {
	// Who signs the tokens: what their iss says, to the letter.
	Issuer string `hcl:"issuer,attr" required:"true"`
	// Whom tokens must be for: their aud has one of these.
	Audience []string `hcl:"audience,attr" required:"true"`
	// Where the issuer's keys are, an https URL; unless given, the issuer's discovery document (issuer + /.well-known/openid-configuration) tells.
	JWKS string `hcl:"jwks,attr"`
	// What tokens may be signed with; what a token says of that is never believed.
	Algorithms []string `hcl:"algorithms,attr" default:"[\"RS256\", \"ES256\"]" enum:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA|Ed25519"`
	// Root certificates for the issuer's server, in PEM; the system's unless given.
	CAFile string `hcl:"ca_file,attr"`
	claims.Config
	// What WWW-Authenticate calls the protected space.
	Realm string `hcl:"realm,attr" default:"api"`
	// Send the token on to the service. Unless it does, no service, and no log of one, gets hold of a client's token.
	Forward bool `hcl:"forward,attr" default:"false"`
}

// Deps are what a method works with. Without keys it can only be checked.
type Deps struct {
	Consumers *consumer.Directory
	Keys      *keyset.Plan
	Cache     *Cache
}

// Method identifies clients by their tokens.
type Method struct {
	issuer       string
	audience     []string
	algs         uint32 // bits by keyset.Alg
	forward      bool
	who          *claims.Mapping
	keys         *keyset.Set
	cache        *Cache
	faults       *faults
	plain, wrong string // what WWW-Authenticate says
}

var _ auth.Method = (*Method)(nil)

// Kind describes the method to the configuration.
func Kind(d Deps) policy.Kind {
	return auth.Kind("jwt", func() any { return &Config{} }, func(cfg any) (auth.Method, error) {
		return New(*cfg.(*Config), d)
	})
}

// New makes the method of a block.
func New(c Config, d Deps) (*Method, error) {
	m := &Method{issuer: c.Issuer, audience: c.Audience, forward: c.Forward, cache: d.Cache, faults: newFaults()}
	src := keyset.Source{Issuer: c.Issuer, URL: c.JWKS}
	var errs error
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			errs = fmt.Errorf("ca_file: %w", err)
		}
		src.CAs = string(pem)
	}
	var err error
	m.who, err = c.Compile(c.Issuer, d.Consumers)
	errs = errors.Join(errs, src.Check(), err)
	if len(c.Audience) == 0 {
		errs = errors.Join(errs, errors.New("audience: names nobody, so that no token is right"))
	}
	for _, a := range c.Audience {
		if a == "" {
			errs = errors.Join(errs, errors.New("audience: one is empty"))
		}
	}
	if len(c.Algorithms) == 0 {
		errs = errors.Join(errs, errors.New("algorithms: there is none, so that no token is right"))
	}
	for _, name := range c.Algorithms {
		a, ok := keyset.ParseAlg(name)
		if !ok {
			errs = errors.Join(errs, fmt.Errorf("algorithms: %.20q isn't one with a public key", name))
		}
		m.algs |= 1 << a
	}
	errs = errors.Join(errs, auth.CheckRealm(c.Realm))
	if errs != nil {
		return nil, errs
	}
	// RFC 6750, 3 and 3.1.
	m.plain = `Bearer realm="` + c.Realm + `"`
	m.wrong = m.plain + `, error="invalid_token"`
	if d.Keys != nil {
		m.keys = d.Keys.Set(src)
	}
	return m, nil
}

// Identify looks at the token of Authorization: Bearer. Those of other issuers,
// and what is no JWT at all, are left to the other methods.
func (m *Method) Identify(x *exchange.Exchange) (bool, error) {
	token, n := auth.Credentials(&x.Request, "Bearer")
	switch {
	case n == 0:
		return false, nil
	case n > 1:
		return true, m.faults.twice
	case m.keys == nil:
		return true, m.faults.unavailable
	case token == "":
		return true, m.faults.empty
	case len(token) > maxToken:
		return true, m.faults.long
	}
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(token), len(token)))
	v := m.cache.find(&sum, m.keys)
	known := v != nil && v.key.Alive(x.Start)
	if known && v.key.Set() != m.keys {
		if v.key.Set().Issuer() != m.issuer {
			return false, m.faults.issuer
		}
		known = false
	}
	if !known {
		var foreign bool
		var fault *exchange.Fault
		if v, foreign, fault = m.verify(token, &sum); fault != nil {
			return !foreign, fault
		}
	}
	if fault := m.check(v, x.Start); fault != nil {
		return true, fault
	}
	if !known {
		m.cache.add(v, x.Start)
	}
	x.Claims = v.claims
	x.Consumer = m.who.Consumer(v.claims, &v.who)
	return true, nil
}

// Verify checks a token that comes some other way than in Authorization, as a
// block would, and returns what it says. It remembers nothing.
func (m *Method) Verify(token string, now time.Time) (*exchange.Claims, *exchange.Fault) {
	switch {
	case m.keys == nil:
		return nil, m.faults.unavailable
	case len(token) > maxToken:
		return nil, m.faults.long
	}
	sum := sha256.Sum256([]byte(token))
	v, _, fault := m.verify(token, &sum)
	if fault == nil {
		fault = m.check(v, now)
	}
	if fault != nil {
		return nil, fault
	}
	return v.claims, nil
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

// Explain says whose tokens are right.
func (m *Method) Explain() string {
	return fmt.Sprintf("a token of %s for %s", m.issuer, strings.Join(m.audience, " or "))
}
