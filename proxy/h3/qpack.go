package h3

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Field sections are coded without a dynamic table: we announce a capacity of 0
// (the default of SETTINGS_QPACK_MAX_TABLE_CAPACITY), so clients may not refer
// to one, and we need none, as in HTTP/2 (proxy/h2/encode.go): with one, each
// connection would hold it, and streams could block each other.

// view is b as a string without a copy; it lives as long as b isn't written.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// errQPACK ends the connection (RFC 9204, 2.2).
var errQPACK = errors.New("field section can't be decompressed")

// section decodes a field section. The strings that it gives are views of the
// section and of text; they live until text is used again.
type section struct {
	rest []byte
	text []byte // what Huffman codes became
}

// begin takes the section's prefix (RFC 9204, 4.5.1): no insert count, and so a
// base that means nothing but must not be negative.
func (s *section) begin(p []byte) error {
	s.rest, s.text = p, s.text[:0]
	if count, err := s.int(8); err != nil || count != 0 {
		return errQPACK
	}
	if len(s.rest) == 0 || s.rest[0]&0x80 != 0 {
		return errQPACK
	}
	_, err := s.int(7)
	return err
}

func (s *section) more() bool { return len(s.rest) > 0 }

// next decodes one field line (RFC 9204, 4.5.2 to 4.5.6).
func (s *section) next() (name, value string, err error) {
	switch b := s.rest[0]; {
	case b&0xc0 == 0xc0: // indexed, static
		e, err := s.static(6)
		return e.name, e.value, err
	case b&0xd0 == 0x50: // literal with the name of a static entry
		e, err := s.static(4)
		if err != nil {
			return "", "", err
		}
		value, err := s.string(7)
		return e.name, value, err
	case b&0xe0 == 0x20: // literal
		if name, err = s.string(3); err != nil {
			return "", "", err
		}
		value, err = s.string(7)
		return name, value, err
	default: // refers to the dynamic table
		return "", "", errQPACK
	}
}

func (s *section) static(bits uint) (entry, error) {
	i, err := s.int(bits)
	if err != nil || i >= uint64(len(static)) {
		return entry{}, errQPACK
	}
	return static[i], nil
}

// int takes an integer with a prefix of that many bits (RFC 7541, 5.1; RFC
// 9204, 4.1.1 wants 62 bits; none that we need has more than 32).
func (s *section) int(bits uint) (uint64, error) {
	if len(s.rest) == 0 {
		return 0, errQPACK
	}
	limit := uint64(1)<<bits - 1
	n := uint64(s.rest[0]) & limit
	s.rest = s.rest[1:]
	if n < limit {
		return n, nil
	}
	for shift := uint(0); shift < 32; shift += 7 {
		if len(s.rest) == 0 {
			return 0, errQPACK
		}
		b := s.rest[0]
		s.rest = s.rest[1:]
		n += uint64(b&0x7f) << shift
		if b < 0x80 {
			return n, nil
		}
	}
	return 0, errQPACK
}

// string takes a string literal whose length has a prefix of that many bits,
// with the bit before it telling of Huffman codes (RFC 9204, 4.1.2).
func (s *section) string(bits uint) (string, error) {
	if len(s.rest) == 0 {
		return "", errQPACK
	}
	huffman := s.rest[0]&(1<<bits) != 0
	n, err := s.int(bits)
	if err != nil || n > uint64(len(s.rest)) {
		return "", errQPACK
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	if !huffman {
		return view(b), nil
	}
	from := len(s.text)
	if _, err := hpack.HuffmanDecode((*text)(s), b); err != nil {
		return "", errQPACK
	}
	return view(s.text[from:]), nil
}

// keep is v at a place that outlives the section's bytes.
func (s *section) keep(v string) string {
	from := len(s.text)
	s.text = append(s.text, v...)
	return view(s.text[from:])
}

// text appends what is written to a section's text.
type text section

func (t *text) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	return len(p), nil
}

// appendInt appends an integer with a prefix of the given bits.
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

// appendField appends a field line. Strings go without Huffman codes: bytes
// are cheaper than our time.
func appendField(b []byte, id exchange.ID, name, value string) []byte {
	never := byte(0)
	if id == exchange.Authorization || id == exchange.Cookie || id == exchange.SetCookie {
		never = 1 // not to be indexed by the hops behind us, either (RFC 9204, 7.1.3)
	}
	if i := staticName[id]; i != 0 {
		b = appendInt(b, 0x50|never<<5, 4, uint64(i-1))
	} else {
		b = appendInt(b, 0x20|never<<4, 3, uint64(len(name)))
		for i := range len(name) { // in lower case (RFC 9114, 4.2)
			c := name[i]
			if 'A' <= c && c <= 'Z' {
				c |= 0x20
			}
			b = append(b, c)
		}
	}
	return append(appendInt(b, 0, 7, uint64(len(value))), value...)
}

// appendPrefix begins a field section.
func appendPrefix(b []byte) []byte { return append(b, 0, 0) }

// appendStatus appends :status, which comes first.
func appendStatus(b []byte, status int) []byte {
	if i := statusIndex(status); i != 0 {
		return appendInt(b, 0xc0, 6, uint64(i))
	}
	b = append(appendInt(b, 0x50, 4, staticStatus), 3)
	return append(b, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

func appendLength(b []byte, n int64) []byte {
	var digits [20]byte
	return appendField(b, exchange.ContentLength, "", view(strconv.AppendInt(digits[:0], n, 10)))
}
