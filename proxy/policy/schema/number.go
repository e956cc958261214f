package schema

import (
	"cmp"
	"math/big"
	"strings"
)

// decimalNumber is 0.DIGITS × 10^point, exactly. Zero has no digits.
type decimalNumber struct {
	negative bool
	digits   string // without zeros at the ends, unless there is a point in them; see dot
	dot      int    // where a point stands in digits; -1: nowhere
	point    int
}

// maxExponent bounds what an exponent may say.
const maxExponent = 1_000_000_000

// parseDecimal reads a number as JSON writes it. It allocates nothing.
func parseDecimal(s string) (d decimalNumber, ok bool) {
	d.dot = -1
	if s[0] == '-' {
		d.negative = true
		s = s[1:]
	}
	exponent := 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		if exponent, ok = parseExponent(s[i+1:]); !ok {
			return d, false
		}
		s = s[:i]
	}
	dot := strings.IndexByte(s, '.')
	if dot >= 0 {
		s = strings.TrimRight(s, "0")
		s = strings.TrimSuffix(s, ".")
	}
	whole := len(s)
	if dot >= 0 && dot < len(s) {
		whole = dot
	} else {
		dot = -1
		s = strings.TrimRight(s, "0") // their weight stays in whole
	}
	// Leading zeros: "0", or "0." with more of them.
	skipped := 0
	for skipped < len(s) && (s[skipped] == '0' || s[skipped] == '.') {
		if s[skipped] == '0' {
			whole--
		}
		skipped++
	}
	if s = s[skipped:]; s == "" {
		return decimalNumber{dot: -1}, true
	}
	if dot >= skipped && dot >= 0 {
		d.dot = dot - skipped
	}
	d.digits, d.point = s, whole+exponent
	return d, true
}

func parseExponent(s string) (n int, ok bool) {
	negative := false
	if s[0] == '+' || s[0] == '-' {
		negative = s[0] == '-'
		s = s[1:]
	}
	for _, c := range []byte(s) {
		if n = n*10 + int(c-'0'); n > maxExponent {
			return 0, false
		}
	}
	if negative {
		n = -n
	}
	return n, true
}

// len is the number of digits.
func (d *decimalNumber) len() int {
	if d.dot >= 0 {
		return len(d.digits) - 1
	}
	return len(d.digits)
}

// digit is one of them.
func (d *decimalNumber) digit(i int) byte {
	if d.dot >= 0 && i >= d.dot {
		i++
	}
	return d.digits[i]
}

// whole reports whether d is an integer, as 1.0 and 1e2 are.
func (d *decimalNumber) whole() bool { return d.len() <= d.point || d.len() == 0 }

// compare is -1, 0 or 1.
func (d *decimalNumber) compare(o *decimalNumber) int {
	sign := func(d *decimalNumber) int {
		switch {
		case d.len() == 0:
			return 0
		case d.negative:
			return -1
		default:
			return 1
		}
	}
	s := sign(d)
	if c := cmp.Compare(s, sign(o)); c != 0 || s == 0 {
		return c
	}
	if c := cmp.Compare(d.point, o.point); c != 0 {
		return c * s
	}
	for i := range min(d.len(), o.len()) {
		if c := cmp.Compare(d.digit(i), o.digit(i)); c != 0 {
			return c * s
		}
	}
	return cmp.Compare(d.len(), o.len()) * s
}

// integer is the digits as a whole number.
func (d *decimalNumber) integer() *big.Int {
	n, _ := new(big.Int).SetString(strings.Replace(d.digits, ".", "", 1), 10) // digits alone
	return n
}

// small is d × 10^shift for whole numbers that fit.
func (d *decimalNumber) small(shift int) (n uint64, ok bool) {
	zeros := d.point - d.len() + shift
	if zeros < 0 || d.len()+zeros > 18 {
		return 0, false
	}
	for i := range d.len() {
		n = n*10 + uint64(d.digit(i)-'0')
	}
	for range zeros {
		n *= 10
	}
	return n, true
}

// multipleOf reports whether d is a whole multiple of m, which is more than 0.
// It takes no time in proportion to an exponent.
func (d *decimalNumber) multipleOf(m *decimalNumber) bool {
	if d.len() == 0 {
		return true
	}
	shift := max(0, m.len()-m.point) // makes m whole
	if a, ok := d.small(shift); ok {
		if b, ok := m.small(shift); ok {
			return a%b == 0
		}
	}
	// d = a × 10^x and m = b × 10^y, so that d/m = a × 10^(x-y) / b.
	a, b, zeros := d.integer(), m.integer(), (d.point-d.len())-(m.point-m.len())
	if zeros < 0 {
		// a has no zero at its end, if it isn't written with some: with as many
		// digits as m × 10^-zeros has it would have to be as large.
		if -zeros > d.len() {
			return false
		}
		b.Mul(b, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-zeros)), nil))
		return a.Mod(a, b).Sign() == 0
	}
	p := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(zeros)), b)
	a.Mul(a, p)
	return a.Mod(a, b).Sign() == 0
}

// isNumber reports whether a text is a number as JSON writes it.
func isNumber(s string) bool {
	if s == "" || len(s) > maxNumber {
		return false
	}
	n, ok := numberLength(s)
	if !ok || n != len(s) {
		return false
	}
	_, ok = parseDecimal(s)
	return ok
}
