package oidc

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// stored is a session as it stands in its cookies.
type stored struct {
	ID      string `json:"i"`
	Ends    int64  `json:"e"`           // seconds since 1970, as all times here
	Token   string `json:"d"`           // the ID token; without header and signature where it is large
	Refresh string `json:"r,omitempty"` // the refresh token
	Access  string `json:"a,omitempty"` // the access token, where it is forwarded
	Since   int64  `json:"s"`           // when it came
	Until   int64  `json:"u,omitempty"` // when it ends; 0: nobody said
}

// session is one that was read. It never changes.
type session struct {
	stored
	bearer string // of Authorization
	claims *exchange.Claims
	who    claims.Memo
	size   int64
}

// place binds a session or an attempt to a block and a host.
func (m *Method) place(x *exchange.Exchange) string { return m.id + " " + x.Target.Host }

// session returns that of x, nil without one; tried: there was something.
func (m *Method) session(x *exchange.Exchange) (s *session, sum remote.Sum, tried bool) {
	show := m.shown(x)
	n := show.count()
	if n == 0 {
		return nil, sum, show.has[0]
	}
	var buf [maxChunk + 512]byte // one cookie is usual
	b := append(append(buf[:0], m.store.sums[:]...), m.seed[:]...)
	b = append(append(b, x.Target.Host...), 0)
	for i := range n {
		b = append(b, show.parts[i]...)
	}
	sum = sha256.Sum256(b)
	s, ok := m.store.read.Get(&sum, x.Start)
	if !ok {
		text := strings.Join(show.parts[:n], "")
		if s = m.open(text[1:], m.place(x)); s == nil {
			return nil, sum, true
		}
		m.store.read.Put(&sum, s, s.size, x.Start, time.Unix(s.Ends, 0))
	}
	if x.Start.Unix() >= s.Ends || m.hasEnded(s, x.Start) {
		return nil, sum, true
	}
	return s, sum, true
}

// open reads what the browser shows; nil: it isn't ours.
func (m *Method) open(text, place string) *session {
	plain, ok := m.sessions.open(text, place)
	if !ok {
		return nil
	}
	s := &session{}
	if json.Unmarshal(plain, &s.stored) != nil {
		return nil
	}
	return s.complete()
}

// complete fills in what follows from a session's own text. Its ID token was
// verified when it came.
func (s *session) complete() *session {
	_, rest, _ := strings.Cut(s.Token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil
	}
	values, err := claims.Parse(text)
	if err != nil {
		return nil
	}
	s.claims = exchange.NewClaims(values)
	s.bearer = "Bearer " + s.Access
	s.size = int64(6*len(s.Token)+len(s.Refresh)+2*len(s.Access)) + 1024
	return s
}

// write is a session as cookies; nil: it is too large.
func (m *Method) write(s *stored, place string) []string {
	for range 2 {
		plain, err := json.Marshal(s)
		if err != nil {
			return nil
		}
		if list := chunks(m.sessions.seal(plain, place)); len(list) <= maxChunks {
			return list
		}
		_, rest, _ := strings.Cut(s.Token, ".")
		payload, _, _ := strings.Cut(rest, ".")
		s.Token = "." + payload + "." // the claims; logout goes without a hint then
	}
	return nil
}

// hint is the ID token as it came, "" where it is kept in part.
func (s *session) hint() string {
	if strings.HasPrefix(s.Token, ".") {
		return ""
	}
	return s.Token
}

func (m *Method) hasEnded(s *session, now time.Time) bool {
	sum := m.sum(s.ID)
	_, ended := m.store.ended.Get(&sum, now)
	return ended
}

// forget has a session count no more, until it would have ended.
func (m *Method) forget(s *session, now time.Time) {
	sum := m.sum(s.ID)
	m.store.ended.Put(&sum, struct{}{}, 96, now, time.Unix(s.Ends, 0))
}
