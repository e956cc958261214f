package h1

import (
	"encoding/binary"
	"unsafe"
)

// view is b as a string without a copy.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// The classes of bytes in a field name.
const (
	inToken = 1 << iota // a tchar (RFC 9110, 5.6.2)
	isOdd               // "_" and ".": some servers take them for "-"
)

var nameClass = newNameClass()

func newNameClass() *[256]uint8 {
	var t [256]uint8
	for c := '0'; c <= '9'; c++ {
		t[c] = inToken
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = inToken, inToken
	}
	for _, c := range "!#$%&'*+-^`|~" {
		t[c] = inToken
	}
	t['_'], t['.'] = inToken|isOdd, inToken|isOdd
	return &t
}

func isToken(s string) bool {
	for i := range len(s) {
		if nameClass[s[i]] == 0 {
			return false
		}
	}
	return s != ""
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plainWord reports whether none of the eight bytes is below floor (at most
// 0x80) or DEL. It may say no for a word that has none, never yes for one that
// has.
func plainWord(v uint64, floor uint64) bool {
	below := (v - floor*ones) &^ v
	del := v ^ 0x7f*ones
	del = (del - ones) &^ del
	return (below|del)&highs == 0
}

// validValue reports whether b may stand in a field value: no control
// character but HTAB; bytes above 0x7f are obs-text (RFC 9110, 5.5).
func validValue(b []byte) bool {
	for len(b) >= 8 && plainWord(binary.LittleEndian.Uint64(b), 0x20) {
		b = b[8:]
	}
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// validTarget reports whether b may stand in a request target as far as the
// message's syntax goes: no space, no control character.
func validTarget(b []byte) bool {
	for len(b) >= 8 && plainWord(binary.LittleEndian.Uint64(b), 0x21) {
		b = b[8:]
	}
	for _, c := range b {
		if c <= 0x20 || c == 0x7f {
			return false
		}
	}
	return true
}

func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
