package exchange

import (
	"slices"
	"unsafe"
)

// view is b as a string without a copy; it lives as long as b's memory is not
// written again.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// field is a header field: offsets into Head.buf.
type field struct {
	name, nameEnd, value, valueEnd uint32
	id                             ID
	dropped                        bool
	line                           bool // buf holds "name: value CRLF", checked
}

// Head is the header fields of a message, in the order in which they came, as
// offsets into memory that somebody else owns (a connection's buffer) or that
// Append filled. Its zero value is empty and ready.
type Head struct {
	buf    []byte
	fields []field
	known  [2]uint64 // bit set of the ids present
}

// Reset empties h and lets it view buf, keeping its table's memory.
func (h *Head) Reset(buf []byte) {
	h.buf = buf
	h.fields = h.fields[:0]
	h.known = [2]uint64{}
}

// Mark adds the field whose name is buf[name:nameEnd] and whose value is
// buf[value:valueEnd] of the memory given to Reset, and returns its id.
func (h *Head) Mark(name, nameEnd, value, valueEnd int) ID {
	id := LookupBytes(h.buf[name:nameEnd])
	h.add(field{name: uint32(name), nameEnd: uint32(nameEnd), value: uint32(value), valueEnd: uint32(valueEnd), id: id})
	return id
}

// MarkLine is Mark for a field that a parser of HTTP/1.1 has checked. If it
// stands in the buffer just as HTTP/1.1 would write it, with one space before
// the value and CRLF behind it, Line gives it in one piece.
func (h *Head) MarkLine(name, nameEnd, value, valueEnd, lineEnd int) ID {
	id := h.Mark(name, nameEnd, value, valueEnd)
	h.fields[len(h.fields)-1].line = value == nameEnd+2 && h.buf[nameEnd+1] == ' ' && valueEnd == lineEnd
	return id
}

// Line is where field i stands in Buffer as a line of HTTP/1.1, its end
// included; ok is false when it doesn't.
func (h *Head) Line(i int) (from, to int, ok bool) {
	f := &h.fields[i]
	return int(f.name), int(f.valueEnd) + 2, f.line
}

// Rebase lets h view buf, which holds the same bytes at the same offsets: a
// connection's buffer that has been moved.
func (h *Head) Rebase(buf []byte) { h.buf = buf }

// Append adds a field, copying both into h's memory. It must not be mixed with
// Reset(buf) of a buffer that others still append to.
func (h *Head) Append(name, value string) ID {
	id := Lookup(name)
	h.AppendID(id, name, value)
	return id
}

// AppendID is Append for who knows the name's id already.
func (h *Head) AppendID(id ID, name, value string) {
	n := len(h.buf)
	h.buf = append(append(h.buf, name...), value...)
	h.add(field{
		name: uint32(n), nameEnd: uint32(n + len(name)),
		value: uint32(n + len(name)), valueEnd: uint32(len(h.buf)), id: id,
	})
}

// Buffer returns the memory behind h, so that its owner can use it again for
// the next Reset(buf[:0]).
func (h *Head) Buffer() []byte { return h.buf }

func (h *Head) add(f field) {
	h.fields = append(h.fields, f)
	h.known[f.id>>6] |= 1 << (f.id & 63)
}

// Len is the number of fields, dropped ones included.
func (h *Head) Len() int { return len(h.fields) }

// Field returns field i.
func (h *Head) Field(i int) (name, value string) {
	f := &h.fields[i]
	return view(h.buf[f.name:f.nameEnd]), view(h.buf[f.value:f.valueEnd])
}

// ID returns the id of field i, Other when its name isn't a known one.
func (h *Head) ID(i int) ID { return h.fields[i].id }

// Drop keeps field i from being forwarded. Get and its like still find it.
func (h *Head) Drop(i int) { h.fields[i].dropped = true }

// Dropped reports whether field i isn't to be forwarded.
func (h *Head) Dropped(i int) bool { return h.fields[i].dropped }

// Has reports whether a field of that id is present.
func (h *Head) Has(id ID) bool { return h.known[id>>6]&(1<<(id&63)) != 0 }

// Get returns the value of the first field of that id, "" when there is none.
func (h *Head) Get(id ID) string {
	if !h.Has(id) {
		return ""
	}
	for i := range h.fields {
		if h.fields[i].id == id {
			f := &h.fields[i]
			return view(h.buf[f.value:f.valueEnd])
		}
	}
	return ""
}

// Count is the number of fields of that id.
func (h *Head) Count(id ID) int {
	if !h.Has(id) {
		return 0
	}
	n := 0
	for i := range h.fields {
		if h.fields[i].id == id {
			n++
		}
	}
	return n
}

// Find returns the value of the first field with that name, in any case.
func (h *Head) Find(name string) (string, bool) {
	id := Lookup(name)
	if id != Other {
		return h.Get(id), h.Has(id)
	}
	for i := range h.fields {
		f := &h.fields[i]
		if f.id == Other && EqualFold(view(h.buf[f.name:f.nameEnd]), name) {
			return view(h.buf[f.value:f.valueEnd]), true
		}
	}
	return "", false
}

// HasToken reports whether the comma-separated lists in the fields of that id
// hold the token, in any case.
func (h *Head) HasToken(id ID, token string) bool {
	if !h.Has(id) {
		return false
	}
	for i := range h.fields {
		f := &h.fields[i]
		if f.id != id {
			continue
		}
		found := false
		EachToken(view(h.buf[f.value:f.valueEnd]), func(t string) bool {
			found = EqualFold(t, token)
			return !found
		})
		if found {
			return true
		}
	}
	return false
}

// EachToken calls f with each trimmed, non-empty element of a comma-separated
// list until it returns false. It doesn't know quoted strings.
func EachToken(list string, f func(string) bool) {
	for len(list) > 0 {
		end := 0
		for end < len(list) && list[end] != ',' {
			end++
		}
		t := list[:end]
		if end < len(list) {
			end++
		}
		list = list[end:]
		for len(t) > 0 && (t[0] == ' ' || t[0] == '\t') {
			t = t[1:]
		}
		for len(t) > 0 && (t[len(t)-1] == ' ' || t[len(t)-1] == '\t') {
			t = t[:len(t)-1]
		}
		if t != "" && !f(t) {
			return
		}
	}
}

// EqualFold compares two field names: equal but for ASCII case.
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// Grow makes room for what is going to be appended, so that no more is taken.
func (h *Head) Grow(fields, bytes int) {
	h.fields, h.buf = slices.Grow(h.fields, fields), slices.Grow(h.buf, bytes)
}

// Share makes h show the fields of t, which nobody changes any more, without
// copying their bytes. What is appended to h afterwards goes elsewhere.
func (h *Head) Share(t *Head) {
	h.buf = t.buf[:len(t.buf):len(t.buf)]
	h.fields = append(h.fields[:0], t.fields...)
	h.known = t.known
}
