package introspect

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// known is what the server said of a token (RFC 7662, 2.2). It never changes.
type known struct {
	active   bool
	exp, nbf int64 // seconds; 0: none
	issuer   string
	audience []string
	claims   *exchange.Claims
	who      claims.Memo
	size     int64 // bytes in memory, about
}

// parse reads an answer. One that can't be understood says nothing of the token.
func parse(body []byte) (*known, error) {
	values, err := claims.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("what the server says of the token can't be read: %w", err)
	}
	k := &known{size: int64(4*len(body)) + 512}
	var ok bool
	if k.active, ok = values["active"].(bool); !ok {
		return nil, errors.New("what the server says of the token has no active")
	}
	if !k.active {
		return &known{size: 128}, nil // what else it says of such a token counts for nothing
	}
	wrong := errors.New("what the server says of the token has an exp, nbf, iss, aud or sub of a wrong type")
	if v, given := values["exp"]; given {
		if k.exp, ok = claims.Date(v); !ok || k.exp == 0 {
			return nil, wrong
		}
	}
	if v, given := values["nbf"]; given {
		if k.nbf, ok = claims.Date(v); !ok {
			return nil, wrong
		}
	}
	if v, given := values["iss"]; given {
		if k.issuer, ok = v.(string); !ok || k.issuer == "" {
			return nil, wrong
		}
	}
	if v, given := values["aud"]; given {
		if k.audience, ok = claims.Texts(v); !ok {
			return nil, wrong
		}
	}
	if v, given := values["sub"]; given {
		if _, ok := v.(string); !ok {
			return nil, wrong
		}
	}
	k.claims = exchange.NewClaims(values)
	return k, nil
}

// Cache remembers what was said of tokens, by a hash of them, the good ones apart
// from the others: who makes up tokens pushes out nobody's. It serves all routes and
// outlives reloads.
type Cache struct {
	key       remote.Sum
	good, bad *remote.Memory[*known]
	flights   remote.Flights[*known]
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	return &Cache{key: remote.NewKey(), good: remote.NewMemory[*known](16384, 64<<20), bad: remote.NewMemory[*known](8192, 2<<20)}
}

// look is what the server says of a token, or said lately.
func (m *Method) look(token string, now time.Time) (*known, error) {
	if m.keep == 0 {
		return m.ask(token)
	}
	var buf [2048]byte
	b := append(append(buf[:0], m.cache.key[:]...), m.seed[:]...)
	sum := sha256.Sum256(append(b, token...))
	if k, ok := m.cache.good.Get(&sum, now); ok {
		return k, nil
	}
	if k, ok := m.cache.bad.Get(&sum, now); ok {
		return k, nil
	}
	return m.fetch(sum, token, now)
}

func (m *Method) fetch(sum remote.Sum, token string, now time.Time) (*known, error) {
	return m.cache.flights.Do(&sum, func() (*known, error) {
		k, err := m.ask(token)
		switch {
		case err != nil:
		case !k.active:
			m.cache.bad.Put(&sum, k, k.size, now, now.Add(min(m.keep, badFor)))
		default:
			until := now.Add(m.keep)
			if end := time.Unix(k.exp, 0); k.exp != 0 && end.Before(until) {
				until = end
			}
			m.cache.good.Put(&sum, k, k.size, now, until)
		}
		return k, err
	})
}
