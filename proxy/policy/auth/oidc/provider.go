package oidc

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// How long what a provider says of itself is believed.
const (
	freshFor = time.Hour
	staleFor = 24 * time.Hour // while it is away
	retry    = 10 * time.Second
)

// metadata is what a provider says of itself (OpenID Connect Discovery 1.0, 3).
// It never changes.
type metadata struct {
	authorize, token, endSession string
	post                         bool      // the client's password goes into the form
	namesItself                  bool      // the callback has iss (RFC 9207)
	next, until                  time.Time // it is fetched again, and believed while that fails
}

// about returns what the provider says of itself, fetched if need be.
func (m *Method) about(now time.Time) (*metadata, error) {
	sum := m.sum("about")
	known, ok := m.store.metadata.Get(&sum, now)
	if ok && now.Before(known.next) {
		return known, nil
	}
	return m.store.asking.Do(&sum, func() (*metadata, error) {
		md, err := m.discover()
		if err == nil {
			md.next, md.until = now.Add(freshFor), now.Add(staleFor)
			m.store.metadata.Put(&sum, md, 2048, now, md.until)
			return md, nil
		}
		if !ok {
			return nil, unavailable(err)
		}
		again := *known
		again.next = now.Add(retry)
		m.store.metadata.Put(&sum, &again, 2048, now, again.until)
		return &again, nil
	})
}

func unavailable(err error) *exchange.Fault {
	return &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.AuthUnavailable, Err: fmt.Errorf("oidc: %w", err)}
}

// sum is a name in the store's memories, for this block.
func (m *Method) sum(what string) remote.Sum {
	var buf [256]byte
	return sha256.Sum256(append(append(append(buf[:0], m.store.sums[:]...), m.seed[:]...), what...))
}

func (m *Method) discover() (*metadata, error) {
	from := strings.TrimSuffix(m.cfg.Issuer, "/") + "/.well-known/openid-configuration"
	r, err := http.NewRequest(http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "sidegate")
	a, err := m.service.Do(r)
	if err != nil {
		return nil, fmt.Errorf("the provider can't be asked: %w", err)
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", from, a.Status)
	}
	return m.read(from, a.Body)
}

// read takes what counts out of the discovery document at an address.
func (m *Method) read(from string, text []byte) (*metadata, error) {
	var doc struct {
		Issuer     string   `json:"issuer"`
		Authorize  string   `json:"authorization_endpoint"`
		Token      string   `json:"token_endpoint"`
		EndSession string   `json:"end_session_endpoint"`
		Methods    []string `json:"token_endpoint_auth_methods_supported"`
		Iss        bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	// One that speaks for another issuer must not be believed (ibid., 4.3).
	if doc.Issuer != m.cfg.Issuer {
		return nil, fmt.Errorf("%s is about the issuer %.200q, not %q", from, doc.Issuer, m.cfg.Issuer)
	}
	for name, endpoint := range map[string]string{"authorization_endpoint": doc.Authorize, "token_endpoint": doc.Token, "end_session_endpoint": doc.EndSession} {
		if err := remote.CheckNamed(endpoint, m.cfg.Issuer, "logins"); err != nil && (endpoint != "" || name != "end_session_endpoint") {
			return nil, fmt.Errorf("%s: %s: %w", from, name, err)
		}
	}
	md := &metadata{authorize: doc.Authorize, token: doc.Token, endSession: doc.EndSession, namesItself: doc.Iss}
	// Basic goes without saying (ibid., 3).
	md.post = len(doc.Methods) > 0 && !slices.Contains(doc.Methods, "client_secret_basic") && slices.Contains(doc.Methods, "client_secret_post")
	return md, nil
}

// tokens are what the provider gives for a code, or for a refresh token.
type tokens struct {
	id, access, refresh string
	lasts               time.Duration // of access; 0: it doesn't say
}

// errGrant is a code or a refresh token that the provider doesn't take.
var errGrant = errors.New("the provider answers invalid_grant")

// grant asks the provider for tokens (RFC 6749, 4.1.3 and 6).
func (m *Method) grant(md *metadata, form url.Values) (*tokens, error) {
	post := md.post || m.cfg.ClientSecret == ""
	if post {
		form.Set("client_id", m.cfg.ClientID)
		if m.cfg.ClientSecret != "" {
			form.Set("client_secret", m.cfg.ClientSecret.Reveal())
		}
	}
	r, err := http.NewRequest(http.MethodPost, md.token, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "sidegate")
	if !post {
		r.Header.Set("Authorization", auth.Basic(m.cfg.ClientID, m.cfg.ClientSecret))
	}
	a, err := m.service.Do(r)
	if err != nil {
		return nil, fmt.Errorf("the provider can't be asked for tokens: %w", err)
	}
	values, err := claims.Parse(a.Body)
	if a.Status != http.StatusOK {
		code, _ := values["error"].(string)
		if code == "invalid_grant" {
			return nil, errGrant
		}
		return nil, fmt.Errorf("the provider answers %d %.64q when asked for tokens: check client_id, client_secret and the redirect URI", a.Status, code)
	}
	if err != nil {
		return nil, fmt.Errorf("the provider's tokens can't be read: %w", err)
	}
	t := &tokens{}
	t.id, _ = values["id_token"].(string)
	t.access, _ = values["access_token"].(string)
	t.refresh, _ = values["refresh_token"].(string)
	if n, ok := claims.Date(values["expires_in"]); ok && n > 0 {
		t.lasts = time.Duration(min(n, int64(366*24*time.Hour/time.Second))) * time.Second
	}
	if kind, _ := values["token_type"].(string); !strings.EqualFold(kind, "Bearer") { // OpenID Connect Core 1.0, 3.1.3.3
		return nil, fmt.Errorf("the provider's tokens are of the type %.64q", kind)
	}
	if !sendable(t.access) {
		return nil, errors.New("the provider's access token isn't one")
	}
	return t, nil
}

// sendable reports whether a token can stand in a header field.
func sendable(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
