package rules

import (
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Vary is the list of the fields that an answer depends on, in lower case, sorted,
// each once (RFC 9110, 12.5.5). any is Vary: *, which nothing matches (RFC 9111,
// 4.1).
func Vary(h *exchange.Head) (names []string, any bool) {
	if !h.Has(exchange.Vary) {
		return nil, false
	}
	for i := range h.Len() {
		if h.ID(i) != exchange.Vary {
			continue
		}
		_, v := h.Field(i)
		exchange.EachToken(v, func(t string) bool {
			if t == "*" || !exchange.IsToken(t) { // what can't be read could be anything
				any = true
			} else {
				names = append(names, strings.ToLower(t))
			}
			return true
		})
	}
	slices.Sort(names)
	return slices.Compact(names), any
}

// AppendVariant appends what a request has in a field that answers depend on, so
// that two requests that match have the same (RFC 9111, 4.1): lines of a field
// are one list, white space around commas says nothing, and of Accept-Encoding
// neither do order, preference and what isn't accepted anyway: whatever of its
// codings an answer has, each of these clients takes it.
func AppendVariant(dst []byte, h *exchange.Head, name string) []byte {
	id := exchange.Lookup(name)
	if id == exchange.AcceptEncoding {
		return appendCodings(dst, h)
	}
	found := false
	for i := range h.Len() {
		n, v := h.Field(i)
		if h.ID(i) != id || id == exchange.Other && !exchange.EqualFold(n, name) {
			continue
		}
		if !found {
			dst = append(dst, '=') // an empty field isn't none
		} else {
			dst = append(dst, ',')
		}
		found = true
		dst = appendTight(dst, v)
	}
	return dst
}

// appendTight appends a list without white space around its commas, outside of
// quoted strings.
func appendTight(dst []byte, v string) []byte {
	quoted := false
	for i := 0; i < len(v); i++ {
		c := v[i]
		switch {
		case quoted && c == '\\' && i+1 < len(v):
			dst = append(dst, c)
			i++
			c = v[i]
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			rest := strings.TrimLeft(v[i:], " \t")
			if rest == "" || rest[0] == ',' || len(dst) > 0 && dst[len(dst)-1] == ',' {
				continue
			}
		}
		dst = append(dst, c)
	}
	return dst
}

// appendCodings appends the codings that a client takes, sorted, each once.
func appendCodings(dst []byte, h *exchange.Head) []byte {
	if !h.Has(exchange.AcceptEncoding) {
		return dst
	}
	var room [8]string
	list := room[:0]
	for i := range h.Len() {
		if h.ID(i) != exchange.AcceptEncoding {
			continue
		}
		_, v := h.Field(i)
		exchange.EachToken(v, func(t string) bool {
			coding, q, weighed := strings.Cut(t, ";")
			coding = strings.ToLower(strings.TrimRight(coding, " \t"))
			if weighed && refused(q) {
				if coding == "identity" || coding == "*" {
					list = append(list, "!"+coding) // this one does say something
				}
				return true
			}
			if coding == "x-gzip" { // the same (RFC 9110, 8.4.1.3)
				coding = "gzip"
			}
			list = append(list, coding)
			return true
		})
	}
	slices.Sort(list)
	dst = append(dst, '=')
	for i, coding := range list {
		if i > 0 && coding == list[i-1] {
			continue
		}
		dst = append(append(dst, coding...), ',')
	}
	return dst
}

// refused reports whether a weight is 0.
func refused(s string) bool {
	s = strings.TrimSpace(s)
	if len(s) < 3 || s[0]|0x20 != 'q' || s[1] != '=' {
		return false
	}
	return strings.Trim(s[2:], "0.") == ""
}
