package oidc

import (
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Prefix is that of the names of all cookies of logins. Browsers take cookies with
// __Host- only over https, for this host alone and for all its paths (RFC 6265bis,
// 4.1.3.2): no neighbour, and no one on the way, can put one in their place.
const Prefix = "__Host-sidegate-"

// The cookies of a session: as many as it takes, within the bounds of browsers
// (RFC 6265, 6.1: 4096 bytes each).
const (
	maxChunk  = 3800 // bytes of a value
	maxChunks = 4
)

// eachCookie calls f with each cookie of a request.
func eachCookie(h *exchange.Head, f func(name, value string)) {
	eachPair(h, func(pair string) {
		name, value, _ := strings.Cut(pair, "=")
		f(name, value)
	})
}

// eachPair is eachCookie with cookies as they are written.
func eachPair(h *exchange.Head, f func(pair string)) {
	if !h.Has(exchange.Cookie) {
		return
	}
	for i := range h.Len() {
		if h.ID(i) != exchange.Cookie || h.Dropped(i) {
			continue
		}
		_, rest := h.Field(i)
		for rest != "" {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			f(strings.Trim(pair, " \t"))
		}
	}
}

// HideCookies takes the cookies of logins out of what goes to the backend. Where
// Cookie is removed or set already, there are none.
func HideCookies(x *exchange.Exchange) {
	if x.RequestEdits.Replaces("Cookie", exchange.Cookie) {
		return
	}
	ours := false
	eachPair(&x.Request, func(pair string) { ours = ours || strings.HasPrefix(pair, Prefix) })
	if !ours {
		return
	}
	var buf [512]byte
	b := buf[:0]
	eachPair(&x.Request, func(pair string) {
		if strings.HasPrefix(pair, Prefix) || pair == "" {
			return
		}
		if len(b) > 0 {
			b = append(b, "; "...)
		}
		b = append(b, pair...) // "a=" isn't "a"
	})
	if len(b) == 0 {
		x.RequestEdits.Remove("Cookie")
		return
	}
	x.RequestEdits.SetID(exchange.Cookie, "Cookie", x.Keep(b))
}

// WithoutLogins is the value of a Cookie field without the cookies of logins, for who
// else sees what a browser sends. It may be a view into value.
func WithoutLogins(value string) string {
	if !strings.Contains(value, Prefix) {
		return value
	}
	var kept []string
	for pair := range strings.SplitSeq(value, ";") {
		if pair = strings.Trim(pair, " \t"); pair != "" && !strings.HasPrefix(pair, Prefix) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "; ")
}

// Hider is a policy for the routes without auth "oidc" of a configuration that has
// it somewhere: their services share hosts with others, and get no session either.
type Hider struct{}

var _ policy.Requester = Hider{}

// Request takes the cookies of logins out of what goes to the backend.
func (Hider) Request(x *exchange.Exchange) (policy.Verdict, error) {
	HideCookies(x)
	return policy.Next, nil
}

// Explain says what it is for.
func (Hider) Explain() string { return "sessions of auth \"oidc\" go no further" }

// setCookie is Set-Cookie for one of ours; lasts 0: it goes. Lax: it comes with
// links from other sites, and with nothing else of theirs.
func setCookie(name, value string, lasts time.Duration) string {
	return name + "=" + value + "; Path=/; Max-Age=" + strconv.FormatInt(int64(lasts/time.Second), 10) + "; Secure; HttpOnly; SameSite=Lax"
}

// chunks are the parts of a session's text, in the order of their names. The first
// says how many there are.
func chunks(text string) []string {
	n := (len(text) + 1 + maxChunk - 1) / maxChunk
	text = strconv.Itoa(n) + text
	var list []string
	for len(text) > maxChunk {
		list, text = append(list, text[:maxChunk]), text[maxChunk:]
	}
	return append(list, text)
}

// name is that of a session's cookie i.
func (m *Method) name(i int) string {
	if i == 0 {
		return m.cookie
	}
	return m.cookie + "." + strconv.Itoa(i)
}

// index is which of a session's cookies has that name; -1: none.
func (m *Method) index(name string) int {
	rest, ok := strings.CutPrefix(name, m.cookie)
	switch {
	case !ok:
		return -1
	case rest == "":
		return 0
	case len(rest) == 2 && rest[0] == '.' && rest[1] >= '1' && rest[1] < '0'+maxChunks:
		return int(rest[1] - '0')
	default:
		return -1
	}
}

// shown is what the browser shows for a session.
type shown struct {
	parts [maxChunks]string
	has   [maxChunks]bool
	twice bool
}

func (m *Method) shown(x *exchange.Exchange) (s shown) {
	eachCookie(&x.Request, func(name, value string) {
		if i := m.index(name); i >= 0 {
			s.twice = s.twice || s.has[i]
			s.parts[i], s.has[i] = value, true
		}
	})
	return s
}

// count is of how many cookies the session is; 0: it is none.
func (s *shown) count() int {
	if !s.has[0] || s.twice || s.parts[0] == "" || s.parts[0][0] < '1' || s.parts[0][0] > '0'+maxChunks {
		return 0
	}
	n := int(s.parts[0][0] - '0')
	for i := range n {
		if !s.has[i] || len(s.parts[i]) > maxChunk {
			return 0
		}
	}
	return n
}

// keep has the browser keep a session, and drop what is left of an older one.
func (m *Method) keep(x *exchange.Exchange, text []string, lasts time.Duration) {
	old := m.shown(x)
	for i := range maxChunks {
		switch {
		case i < len(text):
			x.ResponseEdits.AddID(exchange.SetCookie, "Set-Cookie", setCookie(m.name(i), text[i], lasts))
		case old.has[i]:
			x.ResponseEdits.AddID(exchange.SetCookie, "Set-Cookie", setCookie(m.name(i), "", 0))
		}
	}
}
