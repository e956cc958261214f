package h2

import (
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Field blocks are encoded here without a dynamic table: names that the static
// table has go as its index, all else as literals that aren't indexed (RFC 7541,
// 6.2.2). hpack.Encoder would keep the strings that it indexes, so each view
// would need a copy, it costs several KiB for each idle connection, and blocks
// would have to be encoded in the order in which they are sent, under the lock.

// staticName is the index of a name in the static table (RFC 7541, appendix A).
var staticName = [256]uint8{
	exchange.AcceptEncoding: 16, exchange.AcceptLanguage: 17, exchange.AcceptRanges: 18, exchange.Accept: 19,
	exchange.Age: 21, exchange.Allow: 22, exchange.Authorization: 23, exchange.CacheControl: 24,
	exchange.ContentEncoding: 26, exchange.ContentLength: 28, exchange.ContentRange: 30, exchange.ContentType: 31,
	exchange.Cookie: 32, exchange.Date: 33, exchange.ETag: 34, exchange.Expect: 35, exchange.Expires: 36,
	exchange.Host: 38, exchange.IfMatch: 39, exchange.IfModifiedSince: 40, exchange.IfNoneMatch: 41,
	exchange.IfRange: 42, exchange.LastModified: 44, exchange.Link: 45, exchange.Location: 46, exchange.Range: 50,
	exchange.Referer: 51, exchange.RetryAfter: 53, exchange.Server: 54, exchange.SetCookie: 55,
	exchange.UserAgent: 58, exchange.Vary: 59, exchange.Via: 60, exchange.WWWAuthenticate: 61,
}

// The indices of pseudo-fields.
const (
	staticAuthority  = 1
	staticMethod     = 2
	staticPath       = 4
	staticSchemeHTTP = 6
	staticSchemeTLS  = 7
	staticStatus     = 8
)

// appendInt appends an integer with a prefix of the given bits (RFC 7541, 5.1).
func appendInt(b []byte, pattern byte, bits uint, n uint64) []byte {
	limit := uint64(1)<<bits - 1
	if n < limit {
		return append(b, pattern|byte(n))
	}
	b = append(b, pattern|byte(limit))
	n -= limit
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendString(b []byte, s string) []byte {
	return append(appendInt(b, 0, 7, uint64(len(s))), s...)
}

// appendField appends a field whose name gets lower-cased (RFC 9113, 8.2.1).
func appendField(b []byte, id exchange.ID, name, value string) []byte {
	pattern := byte(0) // literal without indexing
	if id == exchange.Authorization || id == exchange.Cookie || id == exchange.SetCookie {
		pattern = 0x10 // never indexed, for the hops behind us, too (RFC 7541, 7.1.3)
	}
	if i := staticName[id]; i != 0 {
		b = appendInt(b, pattern, 4, uint64(i))
		return appendString(b, value)
	}
	b = append(b, pattern)
	b = appendInt(b, 0, 7, uint64(len(name)))
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		b = append(b, c)
	}
	return appendString(b, value)
}

// appendPseudo appends a literal for a pseudo-field in the static table.
func appendPseudo(b []byte, index uint64, value string) []byte {
	return appendString(appendInt(b, 0, 4, index), value)
}

func appendIndexed(b []byte, index byte) []byte { return append(b, 0x80|index) }

// appendStatus appends :status.
func appendStatus(b []byte, status int) []byte {
	switch status {
	case 200:
		return appendIndexed(b, 8)
	case 204:
		return appendIndexed(b, 9)
	case 206:
		return appendIndexed(b, 10)
	case 304:
		return appendIndexed(b, 11)
	case 400:
		return appendIndexed(b, 12)
	case 404:
		return appendIndexed(b, 13)
	case 500:
		return appendIndexed(b, 14)
	}
	b = append(appendInt(b, 0, 4, staticStatus), 3)
	return append(b, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

func appendLength(b []byte, n int64) []byte {
	var digits [20]byte
	return appendField(b, exchange.ContentLength, "content-length", view(strconv.AppendInt(digits[:0], n, 10)))
}

// forwards reports whether a field with that id may follow a message to the
// next hop; framing is made anew. Trailer goes on as the trailers do: net/http
// drops those that weren't announced (RFC 9110, 6.6.2).
func forwards(id exchange.ID) bool {
	return (!id.HopByHop() || id == exchange.TrailerField) && id != exchange.ContentLength && id != exchange.Host && id != exchange.Expect
}

// appendHead appends the fields of h that go on, changed by e, which may be nil.
func appendHead(b []byte, h *exchange.Head, e *exchange.Edits) []byte {
	edited := e != nil && !e.Empty()
	for i := range h.Len() {
		id := h.ID(i)
		if h.Dropped(i) || !forwards(id) {
			continue
		}
		name, value := h.Field(i)
		if edited && e.Replaces(name, id) {
			continue
		}
		b = appendField(b, id, name, value)
	}
	if !edited {
		return b
	}
	for i := range e.Len() {
		name, value, ok := e.Field(i)
		if !ok {
			continue
		}
		if id := exchange.Lookup(name); forwards(id) {
			b = appendField(b, id, name, value)
		}
	}
	return b
}

// appendTrailer appends the fields of a trailer section that may follow a head
// changed by e, and reports whether there are any.
func appendTrailer(b []byte, h *exchange.Head, e *exchange.Edits) ([]byte, bool) {
	n := len(b)
	for i := range h.Len() {
		name, value := h.Field(i)
		if id := h.ID(i); !h.Dropped(i) && e.MayTrail(name, id) {
			b = appendField(b, id, name, value)
		}
	}
	return b, len(b) > n
}
