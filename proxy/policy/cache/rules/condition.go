package rules

import (
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// ParseDate reads a date in one of the three forms (RFC 9110, 5.6.7). ok is false
// for anything else, "0" above all.
func ParseDate(s string) (t time.Time, ok bool) {
	layout := "Monday, 02-Jan-06 15:04:05 GMT" // of RFC 850
	switch {
	case len(s) == 29:
		layout = "Mon, 02 Jan 2006 15:04:05 GMT" // IMF-fixdate
	case len(s) == len(time.ANSIC):
		layout = time.ANSIC // of asctime
	case len(s) < 30 || len(s) > 33:
		return time.Time{}, false
	}
	t, err := time.Parse(layout, s)
	return t.UTC(), err == nil
}

// StrongEqual compares entity tags so that the content is the same byte by byte
// (RFC 9110, 8.8.3.2).
func StrongEqual(a, b string) bool { return a == b && validTag(a) && a[0] == '"' }

// WeakEqual compares entity tags without the weakness.
func WeakEqual(a, b string) bool {
	a, b = strings.TrimPrefix(a, "W/"), strings.TrimPrefix(b, "W/")
	return a == b && validTag(a)
}

func validTag(s string) bool {
	s = strings.TrimPrefix(s, "W/")
	return len(s) >= 2 && s[0] == '"' && strings.IndexByte(s[1:], '"') == len(s)-2
}

// EachTag gives the entity tags of a list, whose commas may stand in a tag, until
// f says false.
func EachTag(s string, f func(tag string) bool) {
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return
		}
		from := 0
		if strings.HasPrefix(s, "W/") {
			from = 2
		}
		end := len(s)
		if from < len(s) && s[from] == '"' {
			if i := strings.IndexByte(s[from+1:], '"'); i >= 0 {
				end = from + i + 2
			}
		} else if i := strings.IndexByte(s, ','); i >= 0 {
			end = i
		}
		if !f(strings.TrimRight(s[:end], " \t")) {
			return
		}
		s = s[end:]
	}
}

// Validators are what a stored answer is compared by.
type Validators struct {
	ETag         string
	LastModified string
	Date         time.Time // when it was made
}

// Confirms reports whether a 304 is about the stored answer (RFC 9111, 4.3.4): it has
// the same validators, or none.
func Confirms(h *exchange.Head, v Validators) bool {
	if tag := h.Get(exchange.ETag); tag != "" {
		return WeakEqual(tag, v.ETag)
	}
	changed := h.Get(exchange.LastModified)
	return changed == "" || v.LastModified == "" || changed == v.LastModified
}

// NotModified reports whether the conditions of a GET or HEAD request say that the
// client has the answer already (RFC 9111, 4.3.2; RFC 9110, 13.2.2). If-None-Match
// comes first: where it stands, If-Modified-Since means nothing.
func NotModified(h *exchange.Head, v Validators) bool {
	if h.Has(exchange.IfNoneMatch) {
		found := false
		for i := range h.Len() {
			if h.ID(i) != exchange.IfNoneMatch {
				continue
			}
			_, list := h.Field(i)
			EachTag(list, func(tag string) bool {
				found = tag == "*" || v.ETag != "" && WeakEqual(tag, v.ETag)
				return !found
			})
			if found {
				return true
			}
		}
		return false
	}
	if h.Count(exchange.IfModifiedSince) != 1 {
		return false
	}
	since, ok := ParseDate(h.Get(exchange.IfModifiedSince))
	if !ok {
		return false
	}
	if v.LastModified == "" { // when it came will do (RFC 9111, 4.3.2)
		return !v.Date.IsZero() && !v.Date.After(since)
	}
	modified, ok := ParseDate(v.LastModified)
	return ok && !modified.After(since)
}

// ifRange compares strongly; a date is strong only if the answer was made a minute
// later at least (RFC 9110, 8.8.2.2).
func ifRange(s string, v Validators) bool {
	if strings.HasPrefix(s, `"`) || strings.HasPrefix(s, "W/") {
		return StrongEqual(s, v.ETag)
	}
	t, ok := ParseDate(s)
	modified, okToo := ParseDate(v.LastModified)
	return ok && okToo && t.Equal(modified) && v.Date.Sub(modified) >= time.Minute
}
