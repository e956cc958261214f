package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	sessionCookie = "sidegate_admin"
	sessionLasts  = 12 * time.Hour
	maxSessions   = 64
	maxLogin      = 4 << 10 // bytes of a login's body

	guesses      = 10              // wrong tokens of an address at once
	guessBack    = 5 * time.Second // until it may try another
	maxAddresses = 1024            // that are counted apart
)

// sessions are browsers that have shown the token. They end with the process.
type sessions struct {
	mu      sync.Mutex                      // guards what follows
	list    map[[sha256.Size]byte]time.Time // ends, by the hash of the cookie's value
	guessed map[netip.Addr]time.Time        // when an address has all its tries back
}

// open makes a session and returns the cookie's value. The oldest one ends when
// there are too many.
func (s *sessions) open(now time.Time) string {
	var id [32]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	value := hex.EncodeToString(id[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list == nil {
		s.list = map[[sha256.Size]byte]time.Time{}
	}
	var oldest [sha256.Size]byte
	var ends time.Time
	for k, end := range s.list {
		if !now.Before(end) {
			delete(s.list, k)
		} else if ends.IsZero() || end.Before(ends) {
			oldest, ends = k, end
		}
	}
	if len(s.list) >= maxSessions {
		delete(s.list, oldest)
	}
	s.list[sha256.Sum256([]byte(value))] = now.Add(sessionLasts)
	return value
}

// ends is when the session of a request ends; zero: it has none.
func (s *sessions) ends(r *http.Request, now time.Time) time.Time {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return time.Time{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.list[sha256.Sum256([]byte(c.Value))] // found by its hash: the time that takes tells nothing
	if !now.Before(end) {
		return time.Time{}
	}
	return end
}

func (s *sessions) close(r *http.Request) {
	if c, err := r.Cookie(sessionCookie); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.list, sha256.Sum256([]byte(c.Value)))
	}
}

// counted is what an address is counted by: itself or, when too many are counted,
// together with all others. The caller holds mu.
func (s *sessions) counted(from netip.Addr, now time.Time) netip.Addr {
	if _, known := s.guessed[from]; known || len(s.guessed) < maxAddresses {
		return from
	}
	for a, t := range s.guessed {
		if t.Before(now) {
			delete(s.guessed, a)
		}
	}
	if len(s.guessed) < maxAddresses {
		return from
	}
	return netip.Addr{}
}

// wait is how long an address must wait before it may show a token again.
func (s *sessions) wait(from netip.Addr, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guessed[s.counted(from, now)].Add(-(guesses - 1) * guessBack).Sub(now)
}

// wrong counts a wrong token.
func (s *sessions) wrong(from netip.Addr, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guessed == nil {
		s.guessed = map[netip.Addr]time.Time{}
	}
	from = s.counted(from, now)
	t := s.guessed[from]
	if t.Before(now) {
		t = now
	}
	s.guessed[from] = t.Add(guessBack)
}

// addressOf is who asks, by the /64 of an IPv6 address.
func addressOf(r *http.Request) netip.Addr {
	p, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a := p.Addr().Unmap().WithZone("")
	if a.Is6() {
		if n, err := a.Prefix(64); err == nil {
			return n.Addr()
		}
	}
	return a
}

// shows reports whether a token is the right one, for an address that may try.
// What is wrong is answered.
func (s *Server) shows(w http.ResponseWriter, r *http.Request, token string) bool {
	from, now := addressOf(r), time.Now()
	if d := s.sessions.wait(from, now); d > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(d/time.Second)+1))
		http.Error(w, "too many wrong tokens: wait a little", http.StatusTooManyRequests)
		return false
	}
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1 {
		return true
	}
	s.sessions.wrong(from, now)
	s.Log.WithField("client", from.String()).Warn("a wrong admin token")
	w.Header().Set("WWW-Authenticate", `Bearer realm="sidegate admin"`)
	http.Error(w, "that isn't the admin token", http.StatusUnauthorized)
	return false
}

// SessionStatus says what a browser may do.
type SessionStatus struct {
	Token   bool      `json:"token"`   // there is one
	Reads   bool      `json:"reads"`   // what the gateway shows
	Changes bool      `json:"changes"` // bans, quotas, the cache, the configuration
	Ends    time.Time `json:"ends,omitzero"`
}

// session says what the one who asks may do.
func (s *Server) session(w http.ResponseWriter, r *http.Request) {
	ends := s.sessions.ends(r, time.Now())
	in := !ends.IsZero()
	s.json(w, http.StatusOK, SessionStatus{Token: s.closed, Reads: in || !s.closed, Changes: in, Ends: ends})
}

// login opens a session for who has the token.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin)
	if !s.shows(w, r, strings.TrimSpace(r.PostFormValue("token"))) {
		return
	}
	http.SetCookie(w, sessionOf(r, s.sessions.open(time.Now()), int(sessionLasts/time.Second)))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	s.Log.WithField("client", addressOf(r).String()).Info("somebody logged in to the dashboard")
}

// logout ends a session.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	s.sessions.close(r)
	http.SetCookie(w, sessionOf(r, "", -1))
	w.WriteHeader(http.StatusNoContent)
}

// sessionOf is the cookie. The admin server speaks plain HTTP; a proxy in front of
// it that speaks TLS says so, and nobody gains by saying so without.
func sessionOf(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: sessionCookie, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	}
}
