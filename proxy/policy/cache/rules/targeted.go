package rules

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Own is the targeted field that speaks to this cache alone (RFC 9213, 2).
const Own = "Sidegate-Cache-Control"

// targets are the targeted fields, ours first (RFC 9213, 2.2).
var targets = [...]string{Own, "CDN-Cache-Control"}

// Targeted is what the first targeted field says that is there, valid and not
// empty; ok is false when there is none. Cache-Control and Expires mean nothing
// then (RFC 9213, 2.2).
func Targeted(h *exchange.Head) (c Control, ok bool) {
	for _, name := range targets {
		var all []string
		for i := range h.Len() {
			if h.ID(i) == exchange.Other {
				if n, v := h.Field(i); exchange.EqualFold(n, name) {
					all = append(all, v)
				}
			}
		}
		if len(all) == 0 {
			continue
		}
		c = newControl()
		if given, valid := c.dictionary(strings.Join(all, ",")); valid && given {
			c.Given = true
			return c, true
		}
	}
	return newControl(), false
}

// dictionary reads a dictionary of structured fields (RFC 9651, 4.2.2). Of a key
// that is repeated the last counts. Only what directives can be is read: integers,
// booleans, strings and tokens; a directive of another type means nothing.
func (c *Control) dictionary(s string) (given, valid bool) {
	type member struct {
		key, value string
		kind       byte
	}
	var members []member
	s = strings.Trim(s, " ")
	for s != "" {
		var m member
		if m.key, s = sfKey(s); m.key == "" {
			return false, false
		}
		m.kind = '?'
		m.value = "1"
		if s != "" && s[0] == '=' {
			var ok bool
			if m.value, m.kind, s, ok = sfItem(s[1:]); !ok {
				return false, false
			}
		}
		var ok bool
		if s, ok = sfParameters(s); !ok {
			return false, false
		}
		members = append(members, m)
		if s = strings.TrimLeft(s, " \t"); s == "" {
			break
		}
		if s[0] != ',' {
			return false, false
		}
		if s = strings.TrimLeft(s[1:], " \t"); s == "" {
			return false, false // a comma at the end
		}
	}
	for i, m := range members {
		last := true
		for _, later := range members[i+1:] {
			last = last && later.key != m.key
		}
		if last {
			c.member(m.key, m.value, m.kind)
		}
	}
	return len(members) > 0, true
}

// member takes a directive if its value is of the type that it has to be.
func (c *Control) member(key, value string, kind byte) {
	switch key {
	case "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error":
		if kind == 'i' {
			c.add(key, value, true)
		}
	case "no-cache", "private":
		switch {
		case kind == '?' && value == "1":
			c.add(key, "", false)
		case kind == '"':
			c.add(key, value, true)
		}
	default:
		if kind == '?' && value == "1" {
			c.add(key, "", false)
		}
	}
}

func sfKey(s string) (key, rest string) {
	i := 0
	for i < len(s) {
		b := s[i]
		if 'a' <= b && b <= 'z' || b == '*' || i > 0 && ('0' <= b && b <= '9' || b == '_' || b == '-' || b == '.') {
			i++
			continue
		}
		break
	}
	return s[:i], s[i:]
}

// sfItem reads a bare item (RFC 9651, 4.2.3.1). kind is i, " and ?, or 0 for what
// no directive has.
func sfItem(s string) (value string, kind byte, rest string, ok bool) {
	if s == "" {
		return "", 0, "", false
	}
	switch b := s[0]; {
	case b == '"':
		for i := 1; i < len(s); i++ {
			switch {
			case s[i] == '\\':
				i++
				if i == len(s) || s[i] != '"' && s[i] != '\\' {
					return "", 0, "", false
				}
			case s[i] == '"':
				return unquote(s[1:i]), '"', s[i+1:], true
			case s[i] < 0x20 || s[i] > 0x7e:
				return "", 0, "", false
			}
		}
		return "", 0, "", false
	case b == '?':
		if len(s) < 2 || s[1] != '0' && s[1] != '1' {
			return "", 0, "", false
		}
		return s[1:2], '?', s[2:], true
	case b == '-' || '0' <= b && b <= '9':
		return sfNumber(s)
	case b == '*' || 'a' <= b|0x20 && b|0x20 <= 'z':
		end := strings.IndexAny(s, " \t,;=\"()")
		if end < 0 {
			end = len(s)
		}
		return s[:end], 0, s[end:], true
	default:
		return "", 0, "", false
	}
}

func sfNumber(s string) (value string, kind byte, rest string, ok bool) {
	i := 0
	if s[0] == '-' {
		i = 1
	}
	from, dot := i, false
	for i < len(s) && ('0' <= s[i] && s[i] <= '9' || s[i] == '.' && !dot) {
		dot = dot || s[i] == '.'
		i++
	}
	if i == from || i-from > 16 || s[i-1] == '.' || s[from] == '.' {
		return "", 0, "", false
	}
	if kind = 'i'; dot {
		kind = 0
	}
	return s[:i], kind, s[i:], true // below 0 isn't a time: ParseDelta makes it 0
}

// sfParameters skips parameters (RFC 9651, 4.2.3.2).
func sfParameters(s string) (rest string, ok bool) {
	for s != "" && s[0] == ';' {
		s = strings.TrimLeft(s[1:], " ")
		var key string
		if key, s = sfKey(s); key == "" {
			return "", false
		}
		if s != "" && s[0] == '=' {
			if _, _, s, ok = sfItem(s[1:]); !ok {
				return "", false
			}
		}
	}
	return s, true
}
