package compress

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// accepted is how much a client wants each coding, in thousandths; 0: it takes
// it not, or didn't say so.
type accepted struct {
	q     [codings + 1]int16
	named [codings + 1]bool
	rest  int16 // of "*"; -1: not given
}

// accept reads the Accept-Encoding fields of a request (RFC 9110, 12.5.3). What
// is malformed in them counts as not said.
func accept(h *exchange.Head) (a accepted) {
	a.rest = -1
	if !h.Has(exchange.AcceptEncoding) {
		return a // anything would be all right, but most who say nothing can't decode
	}
	for i := range h.Len() {
		if h.ID(i) == exchange.AcceptEncoding {
			_, list := h.Field(i)
			exchange.EachToken(list, func(member string) bool {
				a.add(member)
				return true
			})
		}
	}
	return a
}

// add takes one member of the list. Of several for one coding the last holds.
func (a *accepted) add(member string) {
	name, params, weighted := strings.Cut(member, ";")
	q, ok := int16(1000), true
	if weighted {
		q, ok = weight(params)
	}
	if !ok {
		return
	}
	switch name = strings.TrimRight(name, " \t"); {
	case name == "*":
		a.rest = q
	case exchange.EqualFold(name, "identity"):
		a.q[identity], a.named[identity] = q, true
	case exchange.EqualFold(name, "x-gzip"): // an old name of gzip (RFC 9110, 8.4.1.3)
		a.q[gzipCoding], a.named[gzipCoding] = q, true
	default:
		for c, own := range names {
			if exchange.EqualFold(name, own) {
				a.q[c], a.named[c] = q, true
			}
		}
	}
}

// weight reads "q=0.5", with white space around it (RFC 9110, 12.4.2), in
// thousandths.
func weight(s string) (q int16, ok bool) {
	s = strings.Trim(s, " \t")
	if len(s) < 3 || s[0]|0x20 != 'q' || s[1] != '=' || s[2] != '0' && s[2] != '1' {
		return 0, false
	}
	q = int16(s[2]-'0') * 1000
	if len(s) == 3 {
		return q, true
	}
	if s[3] != '.' || len(s) > 7 {
		return 0, false
	}
	scale := int16(100)
	for _, c := range []byte(s[4:]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		q += int16(c-'0') * scale
		scale /= 10
	}
	return q, q <= 1000
}

// of is how much the client wants c.
func (a *accepted) of(c coding) int16 {
	if !a.named[c] && a.rest > 0 {
		return a.rest
	}
	return a.q[c]
}

// choose is the coding that the client wants most, the first in the order of
// what it wants as much; identity, when it wants that more, or none of them. One
// that takes nothing at all gets identity, too, not 406: RFC 9110, 12.5.3 has a
// response without a coding for it.
func (a *accepted) choose(order []coding) coding {
	best, most := identity, int16(0)
	if a.named[identity] {
		// One that isn't named is taken, but less than what is.
		most = a.q[identity]
	}
	for _, c := range order {
		if q := a.of(c); q > most || q == most && q > 0 && best == identity {
			best, most = c, q
		}
	}
	return best
}
