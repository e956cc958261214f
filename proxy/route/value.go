package route

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// maxExpression bounds the text of an RE2 expression; matching one takes time
// linear in the value, times its length.
const maxExpression = 1000

// value is a compiled pattern of a header field or query parameter.
type value struct {
	name string
	id   exchange.ID // of a header field
	kind uint8
	text string // without "*"; of an expression, with "~"
	re   *regexp.Regexp
}

const (
	valueExact uint8 = iota
	valuePrefix
	valueSuffix
	valueContains
	valueAny
	valueExpression
)

func compileValue(name, pattern string) (value, error) {
	v := value{name: name, text: pattern}
	if expr, ok := strings.CutPrefix(pattern, "~"); ok {
		if len(expr) > maxExpression {
			return v, fmt.Errorf("expression of %d bytes; at most %d are allowed", len(expr), maxExpression)
		}
		re, err := regexp.Compile(expr)
		if err != nil {
			return v, fmt.Errorf("expression: %w", err)
		}
		v.kind, v.re = valueExpression, re
		return v, nil
	}
	if pattern == "*" || pattern == "**" {
		v.kind, v.text = valueAny, ""
		return v, nil
	}
	head, tail := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
	v.text = strings.TrimSuffix(strings.TrimPrefix(pattern, "*"), "*")
	switch {
	case head && tail:
		v.kind = valueContains
	case head:
		v.kind = valueSuffix
	case tail:
		v.kind = valuePrefix
	}
	return v, nil
}

func (v *value) matches(s string) bool {
	switch v.kind {
	case valueExact:
		return s == v.text
	case valuePrefix:
		return strings.HasPrefix(s, v.text)
	case valueSuffix:
		return strings.HasSuffix(s, v.text)
	case valueContains:
		return strings.Contains(s, v.text)
	case valueAny:
		return true
	default:
		return v.re.MatchString(s)
	}
}

// inHead reports whether some field of h with v's name matches.
func (v *value) inHead(h *exchange.Head) bool {
	if v.id != exchange.Other && !h.Has(v.id) {
		return false
	}
	for i := range h.Len() {
		if h.ID(i) != v.id {
			continue
		}
		name, val := h.Field(i)
		if v.id == exchange.Other && (h.Dropped(i) || !exchange.EqualFold(name, v.name)) {
			continue // dropped: an odd spelling that the front doesn't believe
		}
		if v.matches(val) {
			return true
		}
	}
	return false
}

// inQuery reports whether some parameter of the query with v's name matches.
// Nothing is decoded that has no escapes.
func (v *value) inQuery(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, val, _ := strings.Cut(pair, "=")
		if pair == "" || !equalDecoded(name, v.name) {
			continue
		}
		if !escaped(val) {
			if v.matches(val) {
				return true
			}
			continue
		}
		if v.matchesEscaped(val) {
			return true
		}
	}
	return false
}

func (v *value) matchesEscaped(val string) bool {
	if v.kind == valueExpression {
		return v.re.Match(exchange.AppendUnescaped(nil, val))
	}
	var buf [256]byte
	b := exchange.AppendUnescaped(buf[:0], val)
	switch v.kind {
	case valueExact:
		return string(b) == v.text
	case valuePrefix:
		return len(b) >= len(v.text) && string(b[:len(v.text)]) == v.text
	case valueSuffix:
		return len(b) >= len(v.text) && string(b[len(b)-len(v.text):]) == v.text
	case valueContains:
		return contains(b, v.text)
	default:
		return true
	}
}

// contains is bytes.Contains for a string, without a copy.
func contains(b []byte, s string) bool {
	for i := 0; i+len(s) <= len(b); i++ {
		if string(b[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

func escaped(s string) bool { return strings.IndexByte(s, '%') >= 0 || strings.IndexByte(s, '+') >= 0 }

// equalDecoded reports whether s, decoded, is want.
func equalDecoded(s, want string) bool {
	if !escaped(s) {
		return s == want
	}
	var buf [64]byte
	return string(exchange.AppendUnescaped(buf[:0], s)) == want
}

// checkFieldName refuses what no header condition can see.
func checkFieldName(name string) error {
	if !token(name) {
		return errors.New("isn't the name of a header field")
	}
	if id := exchange.Lookup(name); id == exchange.Host {
		return errors.New("the host is matched by hosts")
	}
	return nil
}

// token reports whether s is a token (RFC 9110, 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
