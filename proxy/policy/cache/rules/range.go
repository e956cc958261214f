package rules

import (
	"math"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// RangeVerdict is what a Range asks for of an answer of a known length.
type RangeVerdict uint8

// The verdicts.
const (
	Whole         RangeVerdict = iota // all of it: no range, not a valid one, or too many
	Part                              // 206
	Unsatisfiable                     // 416
)

// Span is a part of an answer: its bytes from From up to To.
type Span struct{ From, To int64 }

// Len is how many bytes it is.
func (s Span) Len() int64 { return s.To - s.From }

const (
	// MostRanges is how many ranges a request may have (RFC 9110, 17.15).
	MostRanges = 16
	// gap is about what one more part costs in a multipart answer: ranges that are
	// less than that apart are one (RFC 9110, 15.3.7.2).
	gap = 80
)

// Range says which parts of size bytes a GET asks for (RFC 9110, 14.2), and appends
// them to dst, which may be nil: none overlaps another, and they stand in the order
// in which they were asked for. What isn't valid, or too much, gives the whole answer, which is always
// right. If-Range lets parts go only when the client has the same answer, byte by byte (13.1.5).
func Range(h *exchange.Head, v Validators, size int64, dst []Span) (RangeVerdict, []Span) {
	if h.Count(exchange.Range) != 1 {
		return Whole, dst
	}
	if h.Has(exchange.IfRange) && (h.Count(exchange.IfRange) != 1 || !ifRange(h.Get(exchange.IfRange), v)) {
		return Whole, dst
	}
	unit, set, ok := strings.Cut(h.Get(exchange.Range), "=")
	if !ok || !exchange.EqualFold(unit, "bytes") { // range-unit is case-insensitive (14.1)
		return Whole, dst
	}
	specs, own := 0, len(dst)
	for set != "" {
		var spec string
		if spec, set, _ = strings.Cut(set, ","); strings.Trim(spec, " \t") == "" {
			continue // an empty element of a list (5.6.1.2)
		}
		if specs++; specs > MostRanges {
			return Whole, dst[:own]
		}
		s, valid := span(strings.Trim(spec, " \t"), size)
		if !valid {
			return Whole, dst[:own]
		}
		if s.Len() > 0 {
			dst = merge(dst, own, s)
		}
	}
	switch {
	case specs == 0 || size == 0: // 416 would say nothing that is of use
		return Whole, dst
	case len(dst) == own:
		return Unsatisfiable, dst
	default:
		return Part, dst
	}
}

// Parts reports whether the request asks for parts in bytes.
func Parts(h *exchange.Head) bool {
	unit, _, ok := strings.Cut(h.Get(exchange.Range), "=")
	return ok && exchange.EqualFold(unit, "bytes")
}

// Near reports whether the parts that a request asks for, in bytes, begin within the
// first most bytes, whatever the answer's length: then little is lost by fetching what
// comes before them. The last bytes of what isn't known may be anywhere.
func Near(h *exchange.Head, most int64) bool {
	unit, set, ok := strings.Cut(h.Get(exchange.Range), "=")
	if !ok || !exchange.EqualFold(unit, "bytes") {
		return false
	}
	for spec := range strings.SplitSeq(set, ",") {
		first, _, _ := strings.Cut(strings.Trim(spec, " \t"), "-")
		if from, ok := position(first); !ok || from >= most {
			return false
		}
	}
	return true
}

// span is what one range of the list asks for; of no length, if that isn't there
// (RFC 9110, 14.1.2).
func span(spec string, size int64) (s Span, valid bool) {
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return s, false
	}
	if first == "" { // the last bytes
		n, ok := position(last)
		return Span{max(0, size-n), size}, ok // n of 0: nothing
	}
	from, ok := position(first)
	if !ok {
		return s, false
	}
	to := size
	if last != "" {
		n, ok := position(last)
		if !ok || n < from {
			return s, false
		}
		if n < size {
			to = n + 1
		}
	}
	if from >= size {
		return Span{}, true
	}
	return Span{from, to}, true
}

// position reads a number. One that is too large for any content is still one.
func position(s string) (int64, bool) {
	for len(s) > 18 && s[0] == '0' {
		s = s[1:]
	}
	if len(s) <= 18 {
		return exchange.ParseLength(s)
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	return math.MaxInt64, true
}

// merge adds s to the spans behind the first own ones. Those that it touches become
// one with it, where the first of them stands.
func merge(dst []Span, own int, s Span) []Span {
	at := -1
	for i := own; i < len(dst); {
		o := dst[i]
		if s.From > o.To+gap || o.From > s.To+gap {
			i++
			continue
		}
		s = Span{min(s.From, o.From), max(s.To, o.To)}
		dst = append(dst[:i], dst[i+1:]...)
		if at < 0 || i < at {
			at = i
		}
		i = own // it may touch others now
	}
	if at < 0 || at >= len(dst) {
		return append(dst, s)
	}
	dst = append(dst, Span{})
	copy(dst[at+1:], dst[at:])
	dst[at] = s
	return dst
}
