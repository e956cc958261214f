package h1

import (
	"net/http"
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// appendField appends a field line, or nothing if it isn't one: whoever made
// it, no value may end the line (RFC 9112, 11.1: response splitting).
func appendField(dst []byte, name, value string) []byte {
	if !isToken(name) || !validValue(bytesOf(value)) {
		return dst
	}
	dst = append(dst, name...)
	dst = append(dst, ':', ' ')
	dst = append(dst, value...)
	return append(dst, '\r', '\n')
}

// own reports whether fields of that id are ours to write: those of one
// connection, of framing and of routing.
func own(id exchange.ID) bool {
	return id.HopByHop() || id == exchange.ContentLength || id == exchange.Host
}

// appendFields appends the end-to-end fields of h, changed by e. What came over
// HTTP/1.1 and stays as it is, is copied line by line, neighbours in one piece.
func appendFields(dst []byte, h *exchange.Head, e *exchange.Edits, skip exchange.ID) []byte {
	plain := e == nil || e.Empty()
	lines := h.Buffer()
	from, to := 0, 0 // of the lines that are yet to be copied
	for i := range h.Len() {
		id := h.ID(i)
		if own(id) || h.Dropped(i) || id == skip && skip != exchange.Other {
			continue
		}
		name, value := h.Field(i)
		if !plain && e.Replaces(name, id) {
			continue
		}
		begin, end, ok := h.Line(i)
		if !ok || begin != to {
			dst = append(dst, lines[from:to]...)
			from, to = begin, begin
		}
		if ok {
			to = end
			continue
		}
		if !validValue(bytesOf(value)) || id == exchange.Other && !isToken(name) {
			continue
		}
		dst = append(dst, name...)
		dst = append(dst, ':', ' ')
		dst = append(dst, value...)
		dst = append(dst, '\r', '\n')
	}
	dst = append(dst, lines[from:to]...)
	if plain {
		return dst
	}
	for i := range e.Len() {
		name, value, ok := e.Field(i)
		switch id := e.ID(i); {
		case !ok || own(id):
		case id == exchange.Other:
			dst = appendField(dst, name, value)
		case validValue(bytesOf(value)): // the name is a known one, so it is a token
			dst = append(append(dst, name...), ':', ' ')
			dst = append(append(dst, value...), '\r', '\n')
		}
	}
	return dst
}

func appendStatusLine(dst []byte, status int) []byte {
	if status == 200 {
		return append(dst, "HTTP/1.1 200 OK\r\n"...)
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendUint(dst, uint64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(status)...)
	return append(dst, '\r', '\n')
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, '\r', '\n')
}

// maxTokens bounds the work that one Connection list can make.
const maxTokens = 32

// dropNamed drops the unknown fields that Connection names: they belong to one
// connection (RFC 9110, 7.6.1). It reports whether it names an end-to-end field
// that we know, which nobody has an honest reason to.
func dropNamed(h *exchange.Head) (abused bool) {
	tokens := 0
	for i := range h.Len() {
		if h.ID(i) != exchange.Connection {
			continue
		}
		_, value := h.Field(i)
		exchange.EachToken(value, func(token string) bool {
			if tokens++; tokens > maxTokens {
				abused = true
				return false
			}
			id := exchange.Lookup(token)
			if id != exchange.Other {
				abused = abused || !id.HopByHop()
				return true
			}
			if exchange.EqualFold(token, "close") {
				return true
			}
			for j := range h.Len() {
				if name, _ := h.Field(j); h.ID(j) == exchange.Other && exchange.EqualFold(name, token) {
					h.Drop(j)
				}
			}
			return true
		})
	}
	return abused
}
