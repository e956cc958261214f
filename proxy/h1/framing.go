package h1

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// framing is how the end of a message's body is told (RFC 9112, 6).
type framing uint8

const (
	noBody framing = iota
	fixed          // by Content-Length
	chunked
	untilClose // by the end of the connection; responses only
)

// framingOf reads the framing fields of a message: what isn't one clear length
// or exactly "chunked" is refused (RFC 9112, 6.1 and 6.3; each leniency here
// has been a way to smuggle a request). noBody means that there are none.
func framingOf(h *exchange.Head, minor uint8) (framing, int64, *flaw) {
	hasLength := h.Has(exchange.ContentLength)
	if h.Has(exchange.TransferEncoding) {
		switch {
		case hasLength:
			return 0, 0, malformed("both Content-Length and Transfer-Encoding")
		case minor == 0:
			return 0, 0, malformed("Transfer-Encoding in HTTP/1.0")
		case h.Count(exchange.TransferEncoding) > 1:
			return 0, 0, malformed("several Transfer-Encoding fields")
		case !exchange.EqualFold(h.Get(exchange.TransferEncoding), "chunked"):
			return 0, 0, malformed("transfer coding other than chunked")
		}
		return chunked, -1, nil
	}
	if !hasLength {
		return noBody, 0, nil
	}
	if h.Count(exchange.ContentLength) > 1 {
		return 0, 0, malformed("several Content-Length fields")
	}
	n, ok := parseLength(h.Get(exchange.ContentLength))
	if !ok {
		return 0, 0, malformed("Content-Length isn't a number of bytes")
	}
	return fixed, n, nil
}

// parseLength parses digits and nothing else; 18 of them can't overflow.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}

// mayTrail reports whether a field may stand in trailers. Those with a meaning
// of their own for framing, routing, authentication or content must not (RFC
// 9110, 6.5.1): whoever merges trailers into the head would be misled.
func mayTrail(id exchange.ID) bool {
	switch id {
	case exchange.Other, exchange.GRPCStatus, exchange.ETag:
		return true
	default:
		return false
	}
}
