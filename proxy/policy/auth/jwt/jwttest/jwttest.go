// Package jwttest is an issuer of tokens for tests: a server with a discovery
// document and a key set, which rotates keys and fails when it is told to.
package jwttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Issuer is a server that issues tokens.
type Issuer struct {
	*httptest.Server
	t   testing.TB
	mux *http.ServeMux

	mu        sync.Mutex // guards what follows
	keys      []*key
	fetches   int
	discovery func(map[string]any) // changes what the discovery document says
	answer    http.HandlerFunc     // in the place of the key set; nil: the keys
	control   string               // Cache-Control
}

type key struct {
	id, alg string
	signer  crypto.Signer
	jwk     map[string]any
}

// New starts an issuer without keys.
func New(t testing.TB) *Issuer {
	mux := http.NewServeMux()
	i := &Issuer{t: t, mux: mux}
	mux.HandleFunc("/jwks", i.serveKeys)
	mux.HandleFunc("/.well-known/openid-configuration", i.serveDiscovery)
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// Handle has h answer what the issuer itself doesn't.
func (i *Issuer) Handle(pattern string, h http.HandlerFunc) { i.mux.HandleFunc(pattern, h) }

// JWKS is where the keys are.
func (i *Issuer) JWKS() string { return i.URL + "/jwks" }

func (i *Issuer) serveKeys(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.fetches++
	answer := i.answer
	set := map[string]any{"keys": []any{}}
	for _, k := range i.keys {
		set["keys"] = append(set["keys"].([]any), k.jwk)
	}
	text, _ := json.Marshal(set) // of strings only
	control := i.control
	i.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	if control != "" {
		w.Header().Set("Cache-Control", control)
	}
	_, _ = w.Write(text) // the client sees what it gets
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	doc := map[string]any{"issuer": i.URL, "jwks_uri": i.JWKS()}
	i.mu.Lock()
	change := i.discovery
	i.mu.Unlock()
	if change != nil {
		change(doc)
	}
	_ = json.NewEncoder(w).Encode(doc) // the client sees what it gets
}

// Discovery changes what the discovery document says.
func (i *Issuer) Discovery(change func(map[string]any)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.discovery = change
}

// Answer has f answer in the place of the key set; nil: the keys again.
func (i *Issuer) Answer(f http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = f
}

// Down is an Answer of an issuer that has failed.
func Down(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusBadGateway) }

// Fetches is how often the keys were asked for.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// Add makes a key for an algorithm.
func (i *Issuer) Add(id, alg string) {
	i.t.Helper()
	var s crypto.Signer
	var err error
	switch {
	case alg[1] == 'S' && alg[0] != 'E':
		s, err = rsa.GenerateKey(rand.Reader, 2048)
	case alg == "ES256":
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case alg == "ES384":
		s, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case alg == "ES512":
		s, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	default:
		_, s, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, &key{id: id, alg: alg, signer: s, jwk: JWK(i.t, id, alg, s.Public())})
}

// Remove takes a key out of the set; a Signer made before goes on signing.
func (i *Issuer) Remove(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n, k := range i.keys {
		if k.id == id {
			i.keys = append(i.keys[:n:n], i.keys[n+1:]...)
			return
		}
	}
}

// Change changes how a key stands in the set.
func (i *Issuer) Change(id string, f func(jwk map[string]any)) {
	i.t.Helper()
	k := i.find(id)
	i.mu.Lock()
	defer i.mu.Unlock()
	f(k.jwk)
}

func (i *Issuer) find(id string) *key {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.keys {
		if k.id == id {
			return k
		}
	}
	i.t.Fatalf("no key %q", id)
	return nil
}

// Public is the public key of an id.
func (i *Issuer) Public(id string) crypto.PublicKey { return i.find(id).signer.Public() }

// Sign makes a token with the key of an id. more changes the header.
func (i *Issuer) Sign(id string, claims map[string]any, more ...map[string]any) string {
	i.t.Helper()
	return i.Signer(id)(claims, more...)
}

// Signer signs with the key of an id, also when that isn't in the set any more.
func (i *Issuer) Signer(id string) func(claims map[string]any, more ...map[string]any) string {
	i.t.Helper()
	k := i.find(id)
	return func(claims map[string]any, more ...map[string]any) string {
		i.t.Helper()
		header := map[string]any{"alg": k.alg, "kid": k.id, "typ": "JWT"}
		for _, m := range more {
			maps.Copy(header, m)
		}
		for name, v := range header {
			if v == nil {
				delete(header, name)
			}
		}
		alg, _ := header["alg"].(string)
		return Token(i.t, header, claims, func(b []byte) []byte { return signature(i.t, k.signer, alg, b) })
	}
}

// Token makes a token of any header and claims.
func Token(t testing.TB, header, claims any, sign func([]byte) []byte) string {
	t.Helper()
	text := Part(t, header) + "." + Part(t, claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(text)))
}

// Part is a part of a token: a string as it is, anything else as JSON.
func Part(t testing.TB, v any) string {
	t.Helper()
	b, ok := v.(string)
	if !ok {
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b = string(j)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(b))
}

func signature(t testing.TB, s crypto.Signer, alg string, signed []byte) []byte {
	t.Helper()
	var digest []byte
	var opts crypto.SignerOpts = crypto.Hash(0)
	_, edwards := s.(ed25519.PrivateKey)
	switch {
	case edwards:
		digest = signed
	case strings.HasSuffix(alg, "384"):
		h := sha512.Sum384(signed)
		digest, opts = h[:], crypto.SHA384
	case strings.HasSuffix(alg, "512"):
		h := sha512.Sum512(signed)
		digest, opts = h[:], crypto.SHA512
	default: // also for what the key can't be used for
		h := sha256.Sum256(signed)
		digest, opts = h[:], crypto.SHA256
	}
	if e, ok := s.(*ecdsa.PrivateKey); ok {
		r, v, err := ecdsa.Sign(rand.Reader, e, digest)
		if err != nil {
			t.Fatal(err)
		}
		n := (e.Params().BitSize + 7) / 8
		b := make([]byte, 2*n)
		r.FillBytes(b[:n])
		v.FillBytes(b[n:])
		return b
	}
	if strings.HasPrefix(alg, "PS") {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
	}
	b, err := s.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// JWK is a public key as it stands in a set.
func JWK(t testing.TB, id, alg string, public crypto.PublicKey) map[string]any {
	t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	m := map[string]any{"kid": id, "alg": alg, "use": "sig"}
	switch p := public.(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", enc(p.N.Bytes()), enc([]byte{byte(p.E >> 16), byte(p.E >> 8), byte(p.E)})
	case *ecdsa.PublicKey:
		b, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		n := (len(b) - 1) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", fmt.Sprintf("P-%d", p.Params().BitSize), enc(b[1:n+1]), enc(b[n+1:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", enc(p)
	default:
		t.Fatalf("%T", p)
	}
	return m
}
