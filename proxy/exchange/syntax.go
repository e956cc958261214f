package exchange

// The classes of bytes in a field name: lower-case token characters, and the
// two that some servers take for "-" (RFC 9113, 8.2.1; RFC 9114, 4.2 and 10.3).
const (
	inName = 1 << iota
	isOdd
)

var nameClass = newNameClass()

func newNameClass() *[256]uint8 {
	var t [256]uint8
	for c := '0'; c <= '9'; c++ {
		t[c] = inName
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c] = inName
	}
	for _, c := range "!#$%&'*+-^`|~" {
		t[c] = inName
	}
	t['_'], t['.'] = inName|isOdd, inName|isOdd
	return &t
}

// LowerName reports whether a field name may stand in HTTP/2 and HTTP/3, and
// whether it is odd: some servers would take it for another.
func LowerName(s string) (ok, odd bool) {
	class := uint8(0)
	for i := range len(s) {
		c := nameClass[s[i]]
		if c == 0 {
			return false, false
		}
		class |= c
	}
	return s != "", class&isOdd != 0
}

// IsToken reports whether a method is a token (RFC 9110, 5.6.2).
func IsToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if nameClass[c] == 0 {
			return false
		}
	}
	return s != ""
}

// ValidValue refuses control characters other than HTAB, and white space at
// either end (RFC 9110, 5.5).
func ValidValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return s == "" || !isSpace(s[0]) && !isSpace(s[len(s)-1])
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// ParseLength reads a Content-Length: digits and nothing else.
func ParseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
