package rules

import (
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Flag is a directive that is there or isn't.
type Flag uint16

// The directives without a value.
const (
	NoStore Flag = 1 << iota
	NoCache
	Private
	Public
	MustRevalidate
	ProxyRevalidate
	MustUnderstand
	Immutable
	OnlyIfCached
	MaxStaleAny // max-stale without a value: however stale
)

// none stands for a directive that isn't there.
const none = -1

// most is the longest time that is told apart (RFC 9111, 1.2.2).
const most = 1 << 31

// Control are the directives of a message's Cache-Control.
type Control struct {
	Flags Flag
	// In seconds; none: not given.
	MaxAge, SMaxAge, MaxStale, MinFresh, WhileRevalidate, IfError int64
	// Names of fields that no-cache="…" and private="…" are about.
	NoCacheFields, PrivateFields []string
	Given                        bool // there is a field at all
}

// Has reports whether one of the flags is there.
func (c *Control) Has(f Flag) bool { return c.Flags&f != 0 }

func newControl() Control {
	return Control{MaxAge: none, SMaxAge: none, MaxStale: none, MinFresh: none, WhileRevalidate: none, IfError: none}
}

// RequestControl reads Cache-Control of a request; without it Pragma: no-cache
// says the same (RFC 9111, 5.4).
func RequestControl(h *exchange.Head) Control {
	c := newControl()
	c.read(h)
	if !c.Given && h.Has(exchange.Pragma) && h.HasToken(exchange.Pragma, "no-cache") {
		c.Flags |= NoCache
	}
	return c
}

// ResponseControl reads Cache-Control of a response. Pragma means nothing there.
func ResponseControl(h *exchange.Head) Control {
	c := newControl()
	c.read(h)
	return c
}

func (c *Control) read(h *exchange.Head) {
	if !h.Has(exchange.CacheControl) {
		return
	}
	for i := range h.Len() {
		if h.ID(i) == exchange.CacheControl {
			_, v := h.Field(i)
			c.Given = true
			EachDirective(v, c.add)
		}
	}
}

// Seconds is the time of a directive; 0 when it isn't there.
func Seconds(n int64) time.Duration {
	if n < 0 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// add takes one directive. Of one that is repeated the first counts (4.2.1), and
// a flag holds wherever it stands; an unknown one means nothing (5.2.3).
func (c *Control) add(name, value string, valued bool) {
	switch strings.ToLower(name) {
	case "no-store":
		c.Flags |= NoStore
	case "no-cache":
		c.named(NoCache, &c.NoCacheFields, value)
	case "private":
		c.named(Private, &c.PrivateFields, value)
	case "public":
		c.Flags |= Public
	case "must-revalidate":
		c.Flags |= MustRevalidate
	case "proxy-revalidate":
		c.Flags |= ProxyRevalidate
	case "must-understand":
		c.Flags |= MustUnderstand
	case "immutable":
		c.Flags |= Immutable
	case "only-if-cached":
		c.Flags |= OnlyIfCached
	case "max-age":
		first(&c.MaxAge, value)
	case "s-maxage":
		first(&c.SMaxAge, value)
	case "min-fresh":
		first(&c.MinFresh, value)
	case "stale-while-revalidate":
		first(&c.WhileRevalidate, value)
	case "stale-if-error":
		first(&c.IfError, value)
	case "max-stale":
		if valued {
			first(&c.MaxStale, value)
		} else {
			c.Flags |= MaxStaleAny
		}
	}
}

// first sets the value of a directive that hasn't come before. One that isn't a
// number is 0: stale (4.2.1).
func first(to *int64, value string) {
	if *to == none {
		*to = ParseDelta(value)
	}
}

// named is no-cache or private: of all, or of the fields that it names (5.2.2.4,
// 5.2.2.7). An empty list is taken for all, the stricter reading.
func (c *Control) named(f Flag, to *[]string, value string) {
	n := len(*to)
	exchange.EachToken(value, func(name string) bool {
		*to = append(*to, strings.ToLower(name))
		return true
	})
	if len(*to) == n {
		c.Flags |= f
	}
}

// ParseDelta reads delta-seconds (1.2.2): what isn't a number is 0, and one too
// large is the largest.
func ParseDelta(s string) int64 {
	if s == "" {
		return 0
	}
	var n int64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0
		}
		if n = n*10 + int64(c-'0'); n > most {
			n = most
		}
	}
	return n
}

// EachDirective gives each directive of a Cache-Control value: its name, and its
// value without quotes (5.2). White space around "=" isn't allowed: such a value
// is none, and so a time is 0.
func EachDirective(s string, f func(name, value string, valued bool)) {
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return
		}
		end := strings.IndexAny(s, ",=")
		if end < 0 {
			end = len(s)
		}
		name := strings.TrimRight(s[:end], " \t")
		spaced := len(name) != end
		s = s[end:]
		if s == "" || s[0] == ',' {
			f(name, "", false)
			continue
		}
		var value string
		value, s = argument(s[1:])
		if spaced {
			value = ""
		}
		f(name, value, true)
	}
}

// argument reads a token or quoted string up to the next comma.
func argument(s string) (value, rest string) {
	if s == "" || s[0] != '"' {
		end := strings.IndexByte(s, ',')
		if end < 0 {
			end = len(s)
		}
		return strings.TrimRight(s[:end], " \t"), s[end:]
	}
	plain := true
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			plain = false
			i++
		case '"':
			value, rest = s[1:i], s[i+1:]
			if !plain {
				value = unquote(value)
			}
			if end := strings.IndexByte(rest, ','); end < 0 {
				return value, ""
			} else {
				return value, rest[end:]
			}
		}
	}
	return s[1:], "" // never closed: it names all that follows
}

func unquote(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// NoControl is what a request without Cache-Control says.
func NoControl() Control { return newControl() }
