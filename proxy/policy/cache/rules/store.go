package rules

import (
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Options are what the operator says beside what the response says.
type Options struct {
	DefaultTTL  time.Duration // of a success that says nothing
	NegativeTTL time.Duration // of an error that says nothing
	OverrideTTL time.Duration // whatever the response says; 0: what it says holds
	Heuristics  bool          // guess from Last-Modified, without a DefaultTTL
	Public      bool          // answers are for everyone, whoever asks
	// Beyond that, where the response doesn't say (RFC 5861).
	WhileRevalidate, IfError time.Duration
}

// Asked is what of the request decides about storing.
type Asked struct {
	NoStore       bool
	Authorization bool
	Cookies       bool
	Came          time.Time // when the response came, for one without Date (RFC 9110, 6.6.1)
}

// Verdict is what becomes of a response.
type Verdict struct {
	Store bool
	Why   string // it isn't stored: one of few fixed texts
	Shelf
	Public bool     // it says that everyone may have it
	Drop   []string // fields that aren't stored, in lower case
}

// Shelf is how long a stored answer may be used.
type Shelf struct {
	Lifetime                 time.Duration // how long it is fresh (4.2.1)
	WhileRevalidate, IfError time.Duration // beyond that (RFC 5861)
	NoCache                  bool          // never without asking the origin first (5.2.2.4)
	Must                     bool          // never stale (5.2.2.2, 5.2.2.8, 5.2.2.10)
	Immutable                bool          // a reload doesn't change it (RFC 8246)
	Guessed                  bool          // the operator says how long, the response says nothing of it
}

func or(n int64, other time.Duration) time.Duration {
	if n == none {
		return other
	}
	return Seconds(n)
}

// understood are the statuses whose caching rules this cache knows, which is what
// must-understand asks for (5.2.2.3).
func understood(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 451, 501:
		return true
	default:
		return false
	}
}

// heuristic are the statuses that are cacheable without a word (RFC 9110, 15.1),
// but 206, of which this cache stores none.
func heuristic(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	default:
		return false
	}
}

// peculiar are the errors that say something of this one request, mostly of fields
// that are in no key. Stored, they would be everyone's.
func peculiar(status int) bool {
	switch status {
	case 400, 401, 402, 407, 408, 409, 411, 412, 413, 415, 416, 417, 421, 422, 423, 424, 425, 426, 428, 429, 431, 511:
		return true
	default:
		return false
	}
}

// Judge says what becomes of the response to a GET (3): whether it is stored, and
// how long it may be used.
func Judge(q Asked, status int, h *exchange.Head, o Options) Verdict {
	c, targeted := Targeted(h)
	if !targeted {
		c = ResponseControl(h)
	}
	v := Verdict{Public: c.Has(Public)}
	v.Drop = append(append(v.Drop, c.NoCacheFields...), c.PrivateFields...)
	v.Shelf = Shelf{
		WhileRevalidate: or(c.WhileRevalidate, o.WhileRevalidate), IfError: or(c.IfError, o.IfError), NoCache: c.Has(NoCache), Immutable: c.Has(Immutable),
		Must: c.Has(MustRevalidate|ProxyRevalidate) || c.SMaxAge != none,
	}
	if v.Why = refusal(&c, q, status, h, o, v.Drop); v.Why != "" {
		return v
	}
	v.Guessed = !c.Has(Public) && c.MaxAge == none && c.SMaxAge == none && (targeted || !h.Has(exchange.Expires))
	said := v.lifetime(&c, targeted, status, h, o, q.Came)
	switch {
	case !said && !c.Given && !h.Has(exchange.Expires):
		v.Why = "it says nothing of how long"
	case (v.Lifetime <= 0 || v.NoCache) && (c.WhileRevalidate <= 0 || v.NoCache || v.Must) && !h.Has(exchange.ETag) && !h.Has(exchange.LastModified):
		v.Why = "it is stale, and can't be validated"
	case !said && !heuristic(status):
		v.Why = "its status isn't stored without a word"
	case v.Guessed && v.Lifetime > 0 && q.Cookies && !o.Public:
		v.Why = "the request had cookies, and it says nothing of how long"
	default:
		v.Store = true
	}
	return v
}

// refusal says why a response mustn't be stored, whatever its age; "" if it may.
func refusal(c *Control, q Asked, status int, h *exchange.Head, o Options, drop []string) string {
	_, any := Vary(h)
	switch {
	case status < 200 || status == 206 || status == 304 || status > 599:
		return "its status isn't stored"
	case peculiar(status):
		return "its status is about this one request"
	case c.Has(MustUnderstand) && !understood(status):
		return "must-understand, and its status isn't"
	case c.Has(NoStore) && !c.Has(MustUnderstand):
		return "no-store"
	case q.NoStore:
		return "the request says no-store"
	case c.Has(Private):
		return "private"
	case h.Has(exchange.SetCookie) && !slices.Contains(drop, "set-cookie"):
		return "it sets a cookie"
	case any:
		return "Vary: *"
	case h.Has(exchange.ContentRange):
		return "it is a part"
	case strings.HasPrefix(h.Get(exchange.ContentType), "text/event-stream"): // it has no end
		return "it is a stream"
	case q.Authorization && !o.Public && !c.Has(Public|MustRevalidate) && c.SMaxAge == none: // 3.5
		return "the request had Authorization"
	default:
		return ""
	}
}

// lifetime sets how long it is fresh (4.2.1); said is false when neither the
// response nor the operator says so.
func (v *Verdict) lifetime(c *Control, targeted bool, status int, h *exchange.Head, o Options, came time.Time) (said bool) {
	switch {
	case o.OverrideTTL > 0 && heuristic(status):
		v.Lifetime, v.NoCache, v.Must = o.OverrideTTL, false, false
	case c.SMaxAge != none:
		v.Lifetime = Seconds(c.SMaxAge)
	case c.MaxAge != none:
		v.Lifetime = Seconds(c.MaxAge)
	case !targeted && h.Has(exchange.Expires):
		v.Lifetime = expires(h, came)
	case c.Has(NoCache):
		return true
	default:
		v.Lifetime = guess(status, h, o, came)
		return v.Lifetime > 0
	}
	return true
}

// expires is Expires without Date. What can't be read is in the past (5.3), and of
// several the first counts.
func expires(h *exchange.Head, came time.Time) time.Duration {
	at, ok := ParseDate(h.Get(exchange.Expires))
	if !ok {
		return 0
	}
	return min(max(0, at.Sub(made(h, came))), most*time.Second)
}

// made is when a response was made: its Date, or when it came.
func made(h *exchange.Head, came time.Time) time.Time {
	if date, ok := ParseDate(h.Get(exchange.Date)); ok {
		return date
	}
	return came
}

// guess is how long an answer is fresh that doesn't say (4.2.2): as the operator
// says, or a tenth of the time since it was changed last, a day at most.
func guess(status int, h *exchange.Head, o Options, came time.Time) time.Duration {
	if !heuristic(status) {
		return 0
	}
	if status >= 400 {
		return o.NegativeTTL
	}
	if o.DefaultTTL > 0 || !o.Heuristics {
		return o.DefaultTTL
	}
	modified, ok := ParseDate(h.Get(exchange.LastModified))
	if !ok {
		return 0
	}
	return min(max(0, made(h, came).Sub(modified)/10), 24*time.Hour)
}
