package admin

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// policyOf is what the pages of the dashboard may do: what is here, nothing else.
const policyOf = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

// guard lets in who has the token or a session that was opened with it or, where
// there is no token, who names us by a loopback name: a page that a browser loaded
// from elsewhere can't (DNS rebinding). Other pages' changes are refused, whatever
// the browser adds to them.
func (s *Server) guard(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policyOf)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		switch {
		case r.URL.Path == "/healthz" || r.URL.Path == "/readyz":
		case cross.Check(r) != nil:
			http.Error(w, "a page from elsewhere may change nothing here", http.StatusForbidden)
			return
		case foreign(r):
			http.Error(w, "a page from elsewhere may ask nothing here", http.StatusForbidden)
			return
		case !s.closed && !s.known(r.Host):
			http.Error(w, "use a loopback name, or set admin.token", http.StatusForbidden)
			return
		case s.closed && !open(r) && !s.authorized(w, r):
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign reports whether a page from elsewhere asks for more than the dashboard. It
// couldn't read the answer, but look on (there may be few who do), or have others
// asked. A browser says so by itself (Fetch Metadata); others send no such field.
func foreign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return strings.HasPrefix(r.URL.Path, "/api/")
}

// open reports whether a request needs no token: the page that asks for one.
func open(r *http.Request) bool {
	switch r.URL.Path {
	case "/", "/api/session", "/api/login", "/api/logout":
		return true
	}
	return strings.HasPrefix(r.URL.Path, assetsPath)
}

// authorized reports whether a request has the token or a session. If not, it is
// answered.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request) bool {
	if given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return s.shows(w, r, given)
	}
	if !s.sessions.ends(r, time.Now()).IsZero() {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="sidegate admin"`)
	http.Error(w, "the admin token is needed", http.StatusUnauthorized)
	return false
}

func (s *Server) known(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if s.names[host] {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
