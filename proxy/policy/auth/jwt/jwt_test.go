package jwt

import (
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

const issuerName = "https://id.test/"

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// rig is what methods work with, and its keys being fetched.
type rig struct {
	Deps
	store *keyset.Store
}

func newRig(t testing.TB, patience time.Duration) *rig {
	t.Helper()
	d, err := consumer.Compile(nil, []*consumer.Config{
		{Name: "acme", JWT: []*consumer.JWTConfig{{Subject: "acme-client", Issuer: issuerName}}},
		{Name: "other", JWT: []*consumer.JWTConfig{{Subject: "acme-client", Issuer: "https://other.test/"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{store: keyset.NewStore(keyset.Deps{Log: quiet(), Patience: patience})}
	r.Deps = Deps{Consumers: d, Keys: r.store.Plan(), Cache: NewCache()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.store.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

// policy makes a route's policy of blocks, with the keys there.
func (r *rig) policy(t testing.TB, blocks ...Config) policy.Policy {
	t.Helper()
	k := Kind(r.Deps)
	var list []policy.Policy
	for _, b := range blocks {
		if b.Realm == "" {
			b.Realm = "api"
		}
		m, err := k.New(&b)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	p, err := k.Join("r", list)
	if err != nil {
		t.Fatal(err)
	}
	r.Keys.Commit()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r.store.Wait(ctx)
	return p
}

func block(i *jwttest.Issuer, algs ...string) Config {
	return Config{Issuer: issuerName, Audience: []string{"api", "api2"}, JWKS: i.JWKS(), Algorithms: algs}
}

// good are claims that are right.
func good(more ...map[string]any) map[string]any {
	c := map[string]any{"iss": issuerName, "aud": "api", "sub": "u", "exp": time.Now().Add(5 * time.Minute).Unix()}
	for _, m := range more {
		maps.Copy(c, m)
	}
	for name, v := range c {
		if v == nil {
			delete(c, name)
		}
	}
	return c
}

type said = map[string]any

// ask sends a token and returns the exchange and why it was refused.
func ask(t testing.TB, p policy.Policy, fields ...string) (*exchange.Exchange, string) {
	t.Helper()
	x := policytest.Exchange(t, "GET https://a.test/", fields...)
	verdict, err := p.(policy.Requester).Request(x)
	if err == nil {
		if verdict != policy.Next {
			t.Fatalf("verdict %v without an error", verdict)
		}
		return x, ""
	}
	var f *exchange.Fault
	if !errors.As(err, &f) || verdict != policy.Done || x.Claims != nil || x.Consumer != nil {
		t.Fatalf("%v, %v, claims %v", verdict, err, x.Claims)
	}
	return x, err.Error()
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// TestAlgorithms: each algorithm verifies what its key signed, and nothing of
// any other key or algorithm.
func TestAlgorithms(t *testing.T) {
	all := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
	i := jwttest.New(t)
	for _, a := range all {
		i.Add(a, a)
	}
	r := newRig(t, 10*time.Second)
	p := r.policy(t, block(i, all...))
	for _, a := range all {
		token := i.Sign(a, good())
		if _, why := ask(t, p, bearer(token)); why != "" {
			t.Errorf("%s: %s", a, why)
		}
		// Another key's signature, another text, and a signature that is cut or longer.
		head, rest, _ := strings.Cut(token, ".")
		body, sig, _ := strings.Cut(rest, ".")
		other := jwttest.Part(t, good(said{"sub": "root"}))
		right, err := base64.RawURLEncoding.DecodeString(sig)
		if err != nil {
			t.Fatal(err)
		}
		cut, longer := base64.RawURLEncoding.EncodeToString(right[:len(right)-1]), base64.RawURLEncoding.EncodeToString(append(right, 0))
		for _, wrong := range []string{head + "." + other + "." + sig, head + "." + body + "." + cut, head + "." + body + "." + longer, head + "." + body + "."} {
			if _, why := ask(t, p, bearer(wrong)); why != "unauthenticated: the token's signature is wrong" {
				t.Errorf("%s: %s: %q", a, wrong, why)
			}
		}
		for _, b := range all {
			if a == b || strings.HasPrefix(a, "Ed") && strings.HasPrefix(b, "Ed") {
				continue
			}
			// The key of a, told to be for b: not b's, and a doesn't sign like b.
			if _, why := ask(t, p, bearer(i.Sign(a, good(), said{"alg": b}))); why != "unauthenticated: the issuer has no such key" {
				t.Errorf("%s as %s: %q", a, b, why)
			}
		}
	}
}

// TestTokens is the attacks: each is refused, with its reason in the log and
// nothing of it in the answer.
func TestTokens(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k1", "RS256")
	i.Add("k2", "ES256")
	i.Add("k3", "RS512") // not allowed
	i.Add("../../etc/passwd", "RS256")
	evil := jwttest.New(t)
	evil.Add("k1", "RS256")
	r := newRig(t, 10*time.Second)
	p := r.policy(t, block(i, "RS256", "ES256"))
	now := time.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	public, err := x509.MarshalPKIXPublicKey(i.Public("k1"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), "DER": public, "n": i.Public("k1").(*rsa.PublicKey).N.Bytes(), "nothing": nil,
	}
	type test struct{ name, token, want string }
	tests := []test{
		{"right", i.Sign("k1", good()), ""},
		{"right, ES256", i.Sign("k2", good()), ""},
		{"right, list of audiences", i.Sign("k1", good(said{"aud": []string{"x", "api2"}})), ""},
		{"right, at+jwt", i.Sign("k1", good(), said{"typ": "application/AT+JWT"}), ""},
		{"right, no typ", i.Sign("k1", good(), said{"typ": nil}), ""},
		{"expired within the skew", i.Sign("k1", good(said{"exp": at(-50 * time.Second)})), ""},
		{"fraction of a second", i.Sign("k1", good(said{"exp": float64(at(time.Minute)) + 0.5})), ""},
		{"nbf within the skew", i.Sign("k1", good(said{"nbf": at(50 * time.Second)})), ""},
		{"expired", i.Sign("k1", good(said{"exp": at(-70 * time.Second)})), "the token has expired"},
		{"no exp", i.Sign("k1", good(said{"exp": nil})), "the token has no exp"},
		{"exp of text", i.Sign("k1", good(said{"exp": "9999999999"})), "one of the token's exp, nbf, aud and sub is of a wrong type"},
		{"exp null", jwttest.Token(t, said{"alg": "RS256", "kid": "k1"}, `{"iss":"https://id.test/","aud":"api","exp":null}`, func([]byte) []byte { return nil }), "the token's signature is wrong"},
		{"exp beyond numbers", i.Sign("k1", good(said{"exp": 1e300})), "one of the token's exp, nbf, aud and sub is of a wrong type"},
		{"exp in capitals", i.Sign("k1", good(said{"exp": nil, "EXP": at(time.Minute)})), "the token has no exp"},
		{"not yet", i.Sign("k1", good(said{"nbf": at(70 * time.Second)})), "the token isn't valid yet"},
		{"other audience", i.Sign("k1", good(said{"aud": "x"})), "the token is for another audience"},
		{"no audience", i.Sign("k1", good(said{"aud": nil})), "the token is for another audience"},
		{"empty audiences", i.Sign("k1", good(said{"aud": []string{}})), "the token is for another audience"},
		{"odd audience", i.Sign("k1", good(said{"aud": []any{"api", 7}})), "one of the token's exp, nbf, aud and sub is of a wrong type"},
		{"audience in other letters", i.Sign("k1", good(said{"aud": "API"})), "the token is for another audience"},
		{"other issuer", i.Sign("k1", good(said{"iss": "https://evil.test/"})), "the token is of another issuer"},
		{"issuer without its slash", i.Sign("k1", good(said{"iss": "https://id.test"})), "the token is of another issuer"},
		{"no issuer", i.Sign("k1", good(said{"iss": nil})), "the token is of another issuer"},
		{"list of issuers", i.Sign("k1", good(said{"iss": []string{issuerName}})), "the token is of another issuer"},
		{"none", jwttest.Token(t, said{"alg": "none"}, good(), func([]byte) []byte { return nil }), "the token's algorithm isn't among algorithms"},
		{"None", jwttest.Token(t, said{"alg": "nOnE", "kid": "k1"}, good(), func([]byte) []byte { return nil }), "the token's algorithm isn't among algorithms"},
		{"no alg", i.Sign("k1", good(), said{"alg": nil}), "the token's algorithm isn't among algorithms"},
		{"alg in small letters", i.Sign("k1", good(), said{"alg": "rs256"}), "the token's algorithm isn't among algorithms"},
		{"not allowed", i.Sign("k3", good()), "the token's algorithm isn't among algorithms"},
		{"RS256 by the key for RS512", i.Sign("k3", good(), said{"alg": "RS256"}), "the issuer has no such key"},
		{"RS256 named with the EC key", jwttest.Token(t, said{"alg": "RS256", "kid": "k2"}, good(), func([]byte) []byte { return make([]byte, 256) }), "the issuer has no such key"},
		{"zeros for ES256", jwttest.Token(t, said{"alg": "ES256", "kid": "k2"}, good(), func([]byte) []byte { return make([]byte, 64) }), "the token's signature is wrong"},
		{"kid of another key", i.Sign("k1", good(), said{"kid": "../../etc/passwd"}), "the token's signature is wrong"},
		{"kid that is a path", i.Sign("k1", good(), said{"kid": "../../../dev/null"}), "the issuer has no such key"},
		{"kid that is SQL", i.Sign("k1", good(), said{"kid": "x' UNION SELECT 'a"}), "the issuer has no such key"},
		{"kid empty", i.Sign("k1", good(), said{"kid": ""}), "the issuer has no such key"},
		{"kid no text", i.Sign("k1", good(), said{"kid": []string{"k1"}}), "the issuer has no such key"},
		{"kid huge", i.Sign("k1", good(), said{"kid": strings.Repeat("k", 4000)}), "the issuer has no such key"},
		{"no kid, several keys", i.Sign("k1", good(), said{"kid": nil}), "the token names no key, and the issuer has several"},
		{"no kid, one key", i.Sign("k2", good(), said{"kid": nil}), ""},
		{"another issuer's key", evil.Sign("k1", good()), "the token's signature is wrong"},
		{"jku", evil.Sign("k1", good(), said{"jku": evil.JWKS()}), "the token's signature is wrong"},
		{"x5u", evil.Sign("k1", good(), said{"x5u": evil.JWKS()}), "the token's signature is wrong"},
		{"jwk", evil.Sign("k1", good(), said{"jwk": jwttest.JWK(t, "k1", "RS256", evil.Public("k1"))}), "the token's signature is wrong"},
		{"jwk and no kid", evil.Sign("k1", good(), said{"kid": nil, "jwk": jwttest.JWK(t, "k1", "RS256", evil.Public("k1"))}), "the token names no key, and the issuer has several"},
		{"crit", i.Sign("k1", good(), said{"crit": []string{"exp"}, "exp": 1}), "the token has critical header parameters, of which none is known"},
		{"crit empty", i.Sign("k1", good(), said{"crit": []string{}}), "the token has critical header parameters, of which none is known"},
		{"made for something else", i.Sign("k1", good(), said{"typ": "logout+jwt"}), "the token isn't of type JWT or at+jwt"},
		{"typ no text", i.Sign("k1", good(), said{"typ": 1}), "the token isn't of type JWT or at+jwt"},
		{"nested", jwttest.Token(t, said{"alg": "RS256", "kid": "k1", "cty": "JWT"}, i.Sign("k1", good()), func([]byte) []byte { return nil }), "the token's claims aren't one JSON object without repeated names"},
		{"encrypted", "e30.e30.e30.e30.e30", "the token isn't a signed JWT: three parts in base64url"},
		{"opaque", "b3BhcXVl", "the token isn't a signed JWT: three parts in base64url"},
		{"no text", "", "the token is empty"},
		{"only dots", "..", "the token's header isn't one JSON object without repeated names"},
		{"padded", strings.Replace(i.Sign("k1", good()), ".", "==.", 1), "the token isn't a signed JWT: three parts in base64url"},
		{"two in one field", i.Sign("k1", good()) + ", Bearer " + i.Sign("k1", good()), "the token isn't a signed JWT: three parts in base64url"},
		{"too long", strings.Repeat("a", 16<<10+1), "the token has more than 16384 bytes"},
		{"claim twice", jwttest.Token(t, said{"alg": "RS256", "kid": "k1"}, `{"iss":"https://id.test/","iss":"https://id.test/","aud":"api","exp":9999999999}`, func([]byte) []byte { return nil }), "the token's claims aren't one JSON object without repeated names"},
		{"alg twice", jwttest.Token(t, `{"alg":"RS256","kid":"k1","alg":"none"}`, good(), func([]byte) []byte { return nil }), "the token's header isn't one JSON object without repeated names"},
		{"deep", jwttest.Token(t, said{"alg": "RS256", "kid": "k1"}, `{"iss":"https://id.test/","a":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`, func([]byte) []byte { return nil }), "the token's claims aren't one JSON object without repeated names"},
		{"more than an object", jwttest.Token(t, said{"alg": "RS256", "kid": "k1"}, `{"iss":"https://id.test/"}{}`, func([]byte) []byte { return nil }), "the token's claims aren't one JSON object without repeated names"},
		{"no UTF-8", jwttest.Token(t, said{"alg": "RS256", "kid": "k1"}, "{\"iss\":\"https://id.test/\",\"sub\":\"\xff\"}", func([]byte) []byte { return nil }), "the token's claims aren't one JSON object without repeated names"},
	}
	for name, secret := range secrets {
		for _, kid := range []any{"k1", nil} {
			h := said{"alg": "HS256", "kid": kid}
			tests = append(tests, test{"HS256 with the public key: " + name, jwttest.Token(t, h, good(), func(b []byte) []byte {
				m := hmac.New(sha256.New, secret)
				m.Write(b)
				return m.Sum(nil)
			}), "the token's algorithm isn't among algorithms"})
		}
	}
	fetches := evil.Fetches()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, why := ask(t, p, bearer(tt.token))
			if got := strings.TrimPrefix(why, "unauthenticated: "); got != tt.want {
				t.Fatalf("refused: %q, want %q", got, tt.want)
			}
			if tt.want == "" {
				if x.Claims.Text("sub") != "u" || x.Consumer != nil {
					t.Errorf("claims %v, consumer %v", x.Claims, x.Consumer)
				}
				return
			}
			want := []string{`WWW-Authenticate: Bearer realm="api", error="invalid_token"`}
			if d := cmp.Diff(want, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
				t.Errorf("answer's fields: %s", d)
			}
		})
	}
	if n := evil.Fetches() - fetches; n != 0 {
		t.Errorf("a token had its own keys fetched, %d times", n)
	}
}

// TestRequests: where a token may stand, what is known of its client, and what
// goes on.
func TestRequests(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "ES256")
	r := newRig(t, 10*time.Second)
	keep := block(i, "ES256")
	keep.Forward = true
	hide, keeps := r.policy(t, block(i, "ES256")), r.policy(t, keep)
	token := i.Sign("k", good(said{"sub": "acme-client", "scope": "a b"}))
	tests := []struct {
		name   string
		p      policy.Policy
		fields []string
		err    string
		sent   []string
		answer string
	}{
		{"right", hide, []string{bearer(token), "A: b"}, "", []string{"A: b"}, ""},
		{"scheme in any case", hide, []string{"authorization: bEARER  " + token}, "", nil, ""},
		{"forwarded", keeps, []string{bearer(token)}, "", []string{bearer(token)}, ""},
		{"none", hide, nil, "unauthenticated: no credential: a token of https://id.test/ for api or api2", nil, `Bearer realm="api"`},
		{"another scheme", hide, []string{"Authorization: Basic " + token}, "unauthenticated: no credential: a token of https://id.test/ for api or api2", nil, `Bearer realm="api"`},
		{"no scheme", hide, []string{"Authorization: " + token}, "unauthenticated: no credential: a token of https://id.test/ for api or api2", nil, `Bearer realm="api"`},
		{"no token", hide, []string{"Authorization: Bearer"}, "unauthenticated: the token is empty", nil, `Bearer realm="api", error="invalid_token"`},
		{"twice", hide, []string{bearer(token), bearer(token)}, "malformed-request: more than one Authorization field", nil, ""},
		{"twice, one of another scheme", hide, []string{"Authorization: Basic x", bearer(token)}, "malformed-request: more than one Authorization field", nil, ""},
		{"in a cookie", hide, []string{"Cookie: access_token=" + token}, "unauthenticated: no credential: a token of https://id.test/ for api or api2", nil, `Bearer realm="api"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, why := ask(t, tt.p, tt.fields...)
			if why != tt.err {
				t.Fatalf("refused: %q, want %q", why, tt.err)
			}
			if why != "" {
				want := []string(nil)
				if tt.answer != "" {
					want = []string{"WWW-Authenticate: " + tt.answer}
				}
				if d := cmp.Diff(want, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
					t.Error(d)
				}
				return
			}
			if d := cmp.Diff(tt.sent, policytest.Sent(&x.Request, &x.RequestEdits)); d != "" {
				t.Error(d)
			}
			if x.Consumer == nil || x.Consumer.Name != "acme" || x.Claims.Text("scope") != "a b" {
				t.Errorf("consumer %v, claims %v", x.Consumer, x.Claims)
			}
		})
	}
	if got, want := hide.(policy.Tester).Test(policytest.Exchange(t, "GET https://a.test/", bearer(token))), `admits the consumer "acme"`; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	if got, want := hide.(policy.Tester).Test(policytest.Exchange(t, "GET https://a.test/", bearer(i.Sign("k", good())))), `admits the subject "u", no known consumer`; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
}

// TestIssuers: each token is for the block of its issuer, and one issuer's keys
// don't sign for another.
func TestIssuers(t *testing.T) {
	one, two := jwttest.New(t), jwttest.New(t)
	one.Add("k", "ES256")
	two.Add("k", "ES256")
	b := block(two, "ES256")
	b.Issuer, b.Realm = "https://other.test/", "other"
	r := newRig(t, 10*time.Second)
	p := r.policy(t, block(one, "ES256"), b)
	other := said{"iss": b.Issuer, "sub": "acme-client"}
	for range 2 { // the second time from memory
		for _, tt := range []struct{ token, err, consumer, answer string }{
			{one.Sign("k", good(said{"sub": "acme-client"})), "", "acme", ""},
			{two.Sign("k", good(other)), "", "other", ""},
			{one.Sign("k", good(other)), "unauthenticated: the token's signature is wrong", "", `WWW-Authenticate: Bearer realm="api"` + "\n" + `WWW-Authenticate: Bearer realm="other", error="invalid_token"`},
			{two.Sign("k", good()), "unauthenticated: the token's signature is wrong", "", `WWW-Authenticate: Bearer realm="api", error="invalid_token"` + "\n" + `WWW-Authenticate: Bearer realm="other"`},
			{one.Sign("k", good(said{"iss": "https://third.test/"})), "unauthenticated: the token is of another issuer", "", `WWW-Authenticate: Bearer realm="api", error="invalid_token"` + "\n" + `WWW-Authenticate: Bearer realm="other"`},
		} {
			x, why := ask(t, p, bearer(tt.token))
			if why != tt.err {
				t.Errorf("refused: %q, want %q", why, tt.err)
			}
			if why == "" && x.Consumer.Name != tt.consumer {
				t.Errorf("consumer %v, want %s", x.Consumer, tt.consumer)
			}
			if got := strings.Join(policytest.Sent(&x.Response, &x.ResponseEdits), "\n"); got != tt.answer {
				t.Errorf("answer %s, want %s", got, tt.answer)
			}
		}
	}
}

// TestRemembered: what is remembered is bound to its key, its time and the
// block, and costs no signature.
func TestRemembered(t *testing.T) {
	i := jwttest.New(t)
	i.Add("old", "ES256")
	i.Add("other", "RS256")
	r := newRig(t, 10*time.Second)
	p := r.policy(t, block(i, "ES256"))
	sign := i.Signer("old")
	token := sign(good(said{"exp": time.Now().Add(time.Minute).Unix()}))
	for range 3 {
		if _, why := ask(t, p, bearer(token)); why != "" {
			t.Fatal(why)
		}
	}
	if n := r.Cache.Checked(); n != 1 {
		t.Errorf("%d signatures checked, want 1", n)
	}
	x := policytest.Exchange(t, "GET https://a.test/", bearer(token))
	x.Start = x.Start.Add(3 * time.Minute)
	if _, err := p.(policy.Requester).Request(x); err == nil || err.Error() != "unauthenticated: the token has expired" {
		t.Errorf("later: %v", err)
	}
	for _, b := range []Config{
		{Issuer: issuerName, Audience: []string{"else"}, JWKS: i.JWKS(), Algorithms: []string{"ES256"}},
		{Issuer: issuerName, Audience: []string{"api"}, JWKS: i.JWKS(), Algorithms: []string{"RS256"}},
		{Issuer: "https://other.test/", Audience: []string{"api"}, JWKS: i.JWKS(), Algorithms: []string{"ES256"}},
	} {
		if _, why := ask(t, r.policy(t, b), bearer(token)); why == "" {
			t.Errorf("a token of another block is right for %+v", b)
		}
	}
	// A key that the issuer takes back takes along what was verified with it.
	i.Remove("old")
	i.Add("new", "ES256")
	if _, why := ask(t, p, bearer(i.Sign("new", good()))); why != "" {
		t.Fatal(why)
	}
	if _, why := ask(t, p, bearer(token)); why != "unauthenticated: the issuer has no such key" {
		t.Errorf("with a key that is gone: %q", why)
	}
}

func TestUnavailable(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "ES256")
	i.Answer(jwttest.Down)
	r := newRig(t, 10*time.Millisecond)
	p := r.policy(t, block(i, "ES256"))
	x, why := ask(t, p, bearer(i.Sign("k", good())))
	if why != "auth-unavailable: the issuer's keys can't be fetched" {
		t.Errorf("refused: %q", why)
	}
	if got := policytest.Sent(&x.Response, &x.ResponseEdits); len(got) > 0 {
		t.Errorf("answer's fields: %q", got)
	}
}

// TestFlood: who makes up key ids moves nothing.
func TestFlood(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "ES256")
	r := newRig(t, 10*time.Second)
	p := r.policy(t, block(i, "ES256"))
	sign := i.Signer("k")
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			for m := range 20 {
				if _, why := ask(t, p, bearer(sign(good(), said{"kid": fmt.Sprint(n, "-", m)}))); why == "" {
					t.Error("let in")
				}
			}
		})
	}
	wg.Wait()
	if n := i.Fetches(); n != 2 {
		t.Errorf("the keys were fetched %d times, want 2: at first, and once for all of that", n)
	}
	if _, why := ask(t, p, bearer(sign(good()))); why != "" {
		t.Errorf("afterwards: %s", why)
	}
}

func TestCacheBounds(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "ES256")
	r := newRig(t, 10*time.Second)
	r.policy(t, block(i, "ES256"))
	key, err := r.Keys.Set(keyset.Source{Issuer: issuerName, URL: i.JWKS()}).Find("k", keyset.ES256)
	if err != nil {
		t.Fatal(err)
	}
	c, now := NewCache(), time.Now()
	add := func(n int, size, exp int64) {
		for i := range n {
			c.add(&verified{sum: sha256.Sum256([]byte(fmt.Sprint(i, size, exp))), key: key, exp: exp, size: size}, now)
		}
	}
	held := func() (n int, sum int64) {
		for i := range c.slots() {
			for j := range c.slots()[i] {
				if v := c.slots()[i][j].Load(); v != nil {
					n++
					sum += v.size
				}
			}
		}
		return n, sum
	}
	soon, late := now.Add(time.Minute).Unix(), now.Add(time.Hour).Unix()
	add(100_000, 2000, soon)
	if n, sum := held(); n < 16000 || n > 16384 || sum != c.used.Load() {
		t.Errorf("%d tokens of %d bytes, counted %d", n, sum, c.used.Load())
	}
	add(50_000, 128<<10, late) // large ones
	if _, sum := held(); sum != c.used.Load() || sum > maxMemory {
		t.Errorf("%d bytes, counted %d", sum, c.used.Load())
	}
	now = now.Add(time.Hour) // the first ones are over
	add(100, 128<<10, late+3600)
	n, sum := held()
	if sum != c.used.Load() || sum > maxMemory || n > 600 {
		t.Errorf("%d tokens of %d bytes, counted %d", n, sum, c.used.Load())
	}
	var last [32]byte = sha256.Sum256([]byte(fmt.Sprint(99, 128<<10, late+3600)))
	if c.find(&last, key.Set()) == nil {
		t.Error("a new token isn't remembered though others are over")
	}
}

func TestNewErrors(t *testing.T) {
	base := `auth "jwt" {
  issuer = "https://id.test/"
  audience = ["api"]
`
	for block, want := range map[string]string{
		"jwks = \"http://id.test/jwks\"\n}":      `jwks: "http://id.test/jwks" isn't an https URL: keys from another host need TLS`,
		"jwks = \"https://u:p@id.test/jwks\"\n}": `jwks: "https://u:xxxxx@id.test/jwks" has more than`,
		"jwks = \"file:///etc/keys\"\n}":         `jwks: "file:///etc/keys" isn't an https URL`,
		"algorithms = []\n}":                     `algorithms: there is none`,
		"algorithms = [\"HS256\"]\n}":            `algorithms: "HS256" isn't one with a public key`,
		"algorithms = [\"none\"]\n}":             `algorithms: "none" isn't one with a public key`,
		"ca_file = \"/nowhere\"\n}":              `ca_file: open /nowhere`,
		"ca_file = \"jwt.go\"\n}":                `ca_file: has no certificate in PEM`,
		"realm = \"a\\\"b\"\n}":                  `realm: "a\"b" has a character`,
		"realm = \"\"\n}":                        `realm: is empty`,
	} {
		if _, err := policytest.Try(t, Kind(Deps{}), base+block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
	for block, want := range map[string]string{
		"auth \"jwt\" {\nissuer = \"id\"\naudience = [\"a\"]\n}":                          `issuer: "id" isn't an https URL`,
		"auth \"jwt\" {\nissuer = \"\"\naudience = [\"a\"]\njwks = \"https://a.test\"\n}": `issuer: is empty`,
		"auth \"jwt\" {\nissuer = \"https://id.test\"\naudience = []\n}":                  `audience: names nobody`,
		"auth \"jwt\" {\nissuer = \"https://id.test\"\naudience = [\"a\", \"\"]\n}":       `audience: one is empty`,
	} {
		if _, err := policytest.Try(t, Kind(Deps{}), block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	r := newRig(t, 10*time.Second)
	p := r.policy(t, block(i, "RS256")).(policy.Requester)
	x := policytest.Exchange(t, "GET https://a.test/", bearer(i.Sign("k", good(said{"sub": "acme-client"}))))
	if n := testing.AllocsPerRun(100, func() {
		x.RequestEdits.Reset()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(Deps{})) }

func BenchmarkRequest(b *testing.B) {
	i := jwttest.New(b)
	i.Add("rs", "RS256")
	i.Add("es", "ES256")
	r := newRig(b, 10*time.Second)
	p := r.policy(b, block(i, "RS256", "ES256")).(policy.Requester)
	for _, bb := range []struct {
		name, key string
		cached    bool
	}{{"remembered", "rs", true}, {"RS256", "rs", false}, {"ES256", "es", false}} {
		b.Run(bb.name, func(b *testing.B) {
			x := policytest.Exchange(b, "GET https://a.test/", bearer(i.Sign(bb.key, good(said{"sub": "acme-client", "scope": "orders:read orders:write", "jti": strings.Repeat("x", 64)}))))
			b.ReportAllocs()
			for b.Loop() {
				if !bb.cached {
					for n := range r.Cache.slots() {
						for m := range r.Cache.slots()[n] {
							if r.Cache.slots()[n][m].Load() != nil {
								r.Cache.slots()[n][m].Store(nil)
							}
						}
					}
				}
				x.RequestEdits.Reset()
				if _, err := p.Request(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestClaimsMakeConsumers: who it is, and with which labels, the block's mapping
// says, also for a token that is remembered.
func TestClaimsMakeConsumers(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	r := newRig(t, 10*time.Second)
	b := block(i, "RS256")
	b.Subject, b.Unlisted, b.Labels = "user.name", true, map[string]string{"team": "department"}
	p := r.policy(t, b)
	token := i.Sign("k", good(said{"sub": "acme-client", "department": "web", "user": said{"name": "alice"}}))
	for range 2 {
		x, why := ask(t, p, bearer(token))
		if why != "" || x.Consumer == nil || x.Consumer.Name != "alice" || x.Consumer.Labels["team"] != "web" {
			t.Errorf("%s, consumer %+v", why, x.Consumer)
		}
	}
	other := block(i, "RS256")
	if x, why := ask(t, r.policy(t, other), bearer(token)); why != "" || x.Consumer == nil || x.Consumer.Name != "acme" || len(x.Consumer.Labels) != 0 {
		t.Errorf("another block: %s, consumer %+v", why, x.Consumer)
	}
}
