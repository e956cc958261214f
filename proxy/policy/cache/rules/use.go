package rules

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// InitialAge is how old a response was when it came (4.2.3): the larger of what
// Age says, with the time that the exchange took, and what Date says. An Age that
// can't be read means nothing, and of several the first counts (5.1).
func InitialAge(h *exchange.Head, sent, came time.Time) time.Duration {
	age := came.Sub(sent)
	if n, ok := ageValue(h.Get(exchange.Age)); ok {
		age += Seconds(n)
	}
	if date, ok := ParseDate(h.Get(exchange.Date)); ok {
		age = max(age, came.Sub(date))
	}
	return max(age, 0)
}

func ageValue(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] == ',' { // a list of them: the first
			s = s[:i]
			break
		}
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	return ParseDelta(s), s != ""
}

// Decision is what a request that finds a stored answer gets.
type Decision uint8

// The decisions.
const (
	Validate   Decision = iota // ask the origin first
	Fresh                      // the stored answer
	Stale                      // the stored answer, since the request takes stale ones
	Background                 // the stored answer, while the origin is asked (RFC 5861, 3)
)

// Decide says how a stored answer of that age may be used for a request (4.2, 5.2.1).
func Decide(s *Shelf, age time.Duration, q *Control) Decision {
	if s.NoCache || q.Has(NoCache) {
		return Validate
	}
	left := s.Lifetime - age
	if reload := s.Immutable && left > 0; q.MaxAge != none && age > Seconds(q.MaxAge) && !reload { // RFC 8246, 2
		return Validate // max-stale may soften it (5.2.1.1), and needn't
	}
	if q.MinFresh != none && left < Seconds(q.MinFresh) {
		return Validate
	}
	switch {
	case left > 0:
		return Fresh
	case s.Must:
		return Validate
	case q.Has(MaxStaleAny) || q.MaxStale != none && -left <= Seconds(q.MaxStale):
		return Stale
	case -left < s.WhileRevalidate && q.MaxAge == none:
		return Background
	default:
		return Validate
	}
}

// InsteadOfError reports whether a stored answer of that age may stand for an
// error (RFC 5861, 4): as the response or the request says.
func InsteadOfError(s *Shelf, age time.Duration, q *Control) bool {
	if s.NoCache || s.Must {
		return false
	}
	return age-s.Lifetime < max(s.IfError, Seconds(q.IfError))
}

// Error reports whether a status is one that a stored answer may stand for.
func Error(status int) bool {
	return status == 500 || status == 502 || status == 503 || status == 504
}

// Understands reports whether requests of that method may be answered from the
// cache.
func Understands(method string) bool { return method == "GET" || method == "HEAD" }

// Invalidates reports whether a response means that what is stored of its URI may
// not hold any more (4.4): a success or redirect of a method that isn't safe.
func Invalidates(method string, status int) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "QUERY":
		return false
	default:
		return status >= 200 && status < 400
	}
}

// Kept reports whether a field of a stored answer stays as it is when a 304 has
// another (3.2): what describes the content that was stored.
func Kept(id exchange.ID) bool {
	switch id {
	case exchange.ContentLength, exchange.ContentEncoding, exchange.ContentType, exchange.ContentRange:
		return true
	default:
		return id.HopByHop()
	}
}
