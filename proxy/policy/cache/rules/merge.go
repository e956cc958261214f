package rules

import (
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// HTTPDate is how a date is written.
const HTTPDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// Copy is the head of a response as it is stored (3.1): without fields of one
// connection, those that mustn't be stored, framing, and Age, which is counted
// anew. One without Date gets that of its coming (RFC 9110, 6.6.1).
func Copy(h *exchange.Head, drop []string, came time.Time) *exchange.Head {
	out := &exchange.Head{}
	fields, bytes := 1, len("Date")+len(HTTPDate)
	for i := range h.Len() {
		if name, value := h.Field(i); stored(h, i, name, drop) {
			fields, bytes = fields+1, bytes+len(name)+len(value)
		}
	}
	out.Grow(fields, bytes)
	for i := range h.Len() {
		if name, value := h.Field(i); stored(h, i, name, drop) {
			out.Append(name, value)
		}
	}
	if !out.Has(exchange.Date) {
		out.Append("Date", came.UTC().Format(HTTPDate))
	}
	return out
}

func stored(h *exchange.Head, i int, name string, drop []string) bool {
	id := h.ID(i)
	switch {
	case h.Dropped(i) || id.HopByHop() || id == exchange.Age || id == exchange.ContentLength:
		return false
	case id == exchange.Other && exchange.EqualFold(name, "Proxy-Authentication-Info"): // 3.1
		return false
	default:
		return len(drop) == 0 || !slices.Contains(drop, strings.ToLower(name))
	}
}

// Decoded is the head of an answer whose coding was taken off. A strong entity tag
// is that of other bytes: it becomes the weak one of the same text (RFC 9110, 8.8.1).
func Decoded(h *exchange.Head) *exchange.Head {
	out := &exchange.Head{}
	out.Grow(h.Len(), len(h.Buffer())+len("W/"))
	for i := range h.Len() {
		name, value := h.Field(i)
		switch h.ID(i) {
		case exchange.ContentEncoding, exchange.AcceptRanges:
			continue
		case exchange.ETag:
			value = WeakTag(value)
		}
		out.Append(name, value)
	}
	return out
}

// WeakTag is the weak form of an entity tag.
func WeakTag(tag string) string {
	if strings.HasPrefix(tag, `"`) {
		return "W/" + tag
	}
	return tag
}

// Update is the head of a stored answer with what a 304 says in the place of its
// own fields (3.2), but for those that describe the content that was stored.
func Update(stored, news *exchange.Head, drop []string, came time.Time) *exchange.Head {
	fresh := Copy(news, drop, came)
	out := &exchange.Head{}
	for i := range stored.Len() {
		name, value := stored.Field(i)
		_, replaced := fresh.Find(name)
		if (!replaced || Kept(stored.ID(i))) && !slices.Contains(drop, strings.ToLower(name)) {
			out.Append(name, value)
		}
	}
	for i := range fresh.Len() {
		if name, value := fresh.Field(i); !Kept(fresh.ID(i)) {
			out.Append(name, value)
		}
	}
	return out
}
