package jwt

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
)

const (
	maxToken = 16 << 10 // bytes
	skew     = 60       // seconds that clocks may differ
)

// faults are those that a token may have. They are made once for a method:
// refusing many must not cost.
type faults struct {
	empty, long, form, header, payload, issuer, typ, crit, alg   *exchange.Fault
	unknown, ambiguous, signature, claims, noExp, expired, early *exchange.Fault
	audience, unavailable, twice                                 *exchange.Fault
}

func newFaults() *faults {
	return &faults{
		empty:       auth.Refuse("the token is empty"),
		long:        auth.Refuse("the token has more than 16384 bytes"),
		form:        auth.Refuse("the token isn't a signed JWT: three parts in base64url"),
		header:      auth.Refuse("the token's header isn't one JSON object without repeated names"),
		payload:     auth.Refuse("the token's claims aren't one JSON object without repeated names"),
		issuer:      auth.Refuse("the token is of another issuer"),
		typ:         auth.Refuse("the token isn't of type JWT or at+jwt"),
		crit:        auth.Refuse("the token has critical header parameters, of which none is known"),
		alg:         auth.Refuse("the token's algorithm isn't among algorithms"),
		unknown:     auth.Refuse(keyset.ErrUnknown.Error()),
		ambiguous:   auth.Refuse(keyset.ErrAmbiguous.Error()),
		signature:   auth.Refuse("the token's signature is wrong"),
		claims:      auth.Refuse("one of the token's exp, nbf, aud and sub is of a wrong type"),
		noExp:       auth.Refuse("the token has no exp"),
		expired:     auth.Refuse("the token has expired"),
		early:       auth.Refuse("the token isn't valid yet"),
		audience:    auth.Refuse("the token is for another audience"),
		unavailable: exchange.NewFault(exchange.FromPolicy, exchange.AuthUnavailable, "%s", keyset.ErrUnavailable.Error()),
		twice:       auth.Twice(),
	}
}

// verify takes a token apart and checks everything that stays so as long as its
// key does: form, issuer, algorithm, signature. foreign tells that the token may
// be another method's.
func (m *Method) verify(token string, sum *[sha256.Size]byte) (v *verified, foreign bool, fault *exchange.Fault) {
	f := m.faults
	head, rest, ok := strings.Cut(token, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.IndexByte(sig, '.') >= 0 {
		return nil, true, f.form
	}
	header, fault := part(head, f.form, f.header)
	if fault != nil {
		return nil, true, fault
	}
	values, fault := part(body, f.form, f.payload)
	if fault != nil {
		return nil, true, fault
	}
	// Only to know whose keys to look at; what it says is believed further down.
	if iss, _ := values["iss"].(string); iss != m.issuer {
		return nil, true, f.issuer
	}
	alg, kid, fault := m.header(header)
	if fault != nil {
		return nil, false, fault
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(sig)
	if err != nil {
		return nil, false, f.form
	}
	key, err := m.keys.Find(kid, alg)
	switch err {
	case nil:
	case keyset.ErrUnavailable:
		return nil, false, f.unavailable
	case keyset.ErrAmbiguous:
		return nil, false, f.ambiguous
	default:
		return nil, false, f.unknown
	}
	m.cache.checked.Add(1)
	if !key.Verify(alg, []byte(token[:len(head)+1+len(body)]), signature) {
		return nil, false, f.signature
	}
	v = &verified{sum: *sum, key: key, alg: alg, claims: exchange.NewClaims(values), size: int64(8*len(token)) + 1024}
	return v, false, f.read(v, values)
}

// part decodes a part of a token that is a JSON object.
func part(text string, form, fault *exchange.Fault) (map[string]any, *exchange.Fault) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, form
	}
	m, err := claims.Parse(b)
	if err != nil {
		return nil, fault
	}
	return m, nil
}

// header reads what counts of a header: typ, crit, alg and kid. jku, jwk, x5u and
// x5c don't: a token can't say which key is right for it (RFC 8725, 3.10).
func (m *Method) header(h map[string]any) (keyset.Alg, string, *exchange.Fault) {
	if typ, ok := h["typ"]; ok {
		// Tokens made for something else aren't for us (RFC 8725, 3.11; RFC 9068, 4).
		text, _ := typ.(string)
		text = strings.TrimPrefix(strings.ToLower(text), "application/")
		if text != "jwt" && text != "at+jwt" {
			return 0, "", m.faults.typ
		}
	}
	if _, ok := h["crit"]; ok { // RFC 7515, 4.1.11
		return 0, "", m.faults.crit
	}
	name, _ := h["alg"].(string)
	alg, ok := keyset.ParseAlg(name)
	if !ok || !m.allows(alg) {
		return 0, "", m.faults.alg
	}
	kid, ok := h["kid"].(string)
	if _, given := h["kid"]; given && (!ok || kid == "") {
		return 0, "", m.faults.unknown
	}
	return alg, kid, nil
}

// read takes the registered claims (RFC 7519, 4.1) into v.
func (f *faults) read(v *verified, values map[string]any) *exchange.Fault {
	exp, ok := values["exp"]
	if !ok {
		return f.noExp
	}
	if v.exp, ok = claims.Date(exp); !ok {
		return f.claims
	}
	if nbf, given := values["nbf"]; given {
		if v.nbf, ok = claims.Date(nbf); !ok {
			return f.claims
		}
	}
	if aud, given := values["aud"]; given {
		if v.audience, ok = claims.Texts(aud); !ok {
			return f.claims
		}
	}
	if sub, given := values["sub"]; given {
		if _, ok = sub.(string); !ok {
			return f.claims
		}
	}
	return nil
}

// check decides about a token with a right signature.
func (m *Method) check(v *verified, now time.Time) *exchange.Fault {
	f, t := m.faults, now.Unix()
	switch {
	case t-skew >= v.exp: // RFC 7519, 4.1.4
		return f.expired
	case t+skew < v.nbf: // ibid., 4.1.5
		return f.early
	case !m.allows(v.alg):
		return f.alg
	}
	for _, a := range v.audience {
		if slices.Contains(m.audience, a) {
			return nil
		}
	}
	return f.audience
}

func (m *Method) allows(a keyset.Alg) bool { return m.algs&(1<<a) != 0 }
