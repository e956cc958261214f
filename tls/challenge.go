package tls

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// ChallengeProtocol is the ALPN protocol of a TLS-ALPN-01 validation (RFC
// 8737). A connection that negotiated it is closed after its handshake.
const ChallengeProtocol = acmez.ACMETLS1Protocol

const challengePath = "/.well-known/acme-challenge/"

// challenges holds what the authority will ask for while it validates. Our own
// listeners answer: no solver opens a socket.
type challenges struct {
	mu    sync.RWMutex // guards both maps
	http  map[string]string
	hello map[string]alpnAnswer
}

type alpnAnswer struct {
	token string
	cert  *tls.Certificate
}

func newChallenges() *challenges {
	return &challenges{http: make(map[string]string), hello: make(map[string]alpnAnswer)}
}

// body answers HTTP-01: for a token that was presented, on its own host alone.
func (c *challenges) body(host, path string) (string, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b, ok := c.http[host+path]
	return b, ok
}

// certificate answers TLS-ALPN-01.
func (c *challenges) certificate(name string) *tls.Certificate {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.hello[name].cert
}

// solver presents challenges of one type. With a shared storage any gateway of
// the fleet answers them, whichever the authority happens to reach.
type solver struct {
	c      *challenges
	shared certmagic.Storage // nil: this process alone
	issuer string            // the issuer's key
}

// Present implements acmez.Solver.
func (s solver) Present(ctx context.Context, chal acme.Challenge) error {
	if s.shared != nil {
		b, err := json.Marshal(chal)
		if err != nil {
			return err
		}
		if err := s.shared.Store(ctx, tokenKey(s.issuer, chal.Type, chal.Identifier.Value), b); err != nil {
			return fmt.Errorf("sharing the challenge: %w", err)
		}
	}
	name := normalName(chal.Identifier.Value)
	if chal.Type == acme.ChallengeTypeHTTP01 {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		s.c.http[name+chal.HTTP01ResourcePath()] = chal.KeyAuthorization
		return nil
	}
	cert, err := acmez.TLSALPN01ChallengeCert(chal)
	if err != nil {
		return err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.hello[name] = alpnAnswer{chal.Token, cert}
	return nil
}

// CleanUp implements acmez.Solver.
func (s solver) CleanUp(ctx context.Context, chal acme.Challenge) error {
	name := normalName(chal.Identifier.Value)
	s.c.mu.Lock()
	if chal.Type == acme.ChallengeTypeHTTP01 {
		delete(s.c.http, name+chal.HTTP01ResourcePath())
	} else if s.c.hello[name].token == chal.Token {
		delete(s.c.hello, name)
	}
	s.c.mu.Unlock()
	if s.shared == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return s.shared.Delete(ctx, tokenKey(s.issuer, chal.Type, chal.Identifier.Value))
}

func tokenKey(issuer, kind, name string) string {
	return path.Join("acme", issuer, "challenges", kind, certmagic.StorageKeys.Safe(name)+".json")
}

// sharedChallenge reads what another gateway of the fleet presented.
func sharedChallenge(ctx context.Context, st certmagic.Storage, issuer, kind, name string) (acme.Challenge, bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var chal acme.Challenge
	b, err := st.Load(ctx, tokenKey(issuer, kind, name))
	if err != nil || json.Unmarshal(b, &chal) != nil || !strings.EqualFold(chal.Identifier.Value, name) {
		return chal, false
	}
	return chal, true
}

var _ acmez.Solver = solver{}
