package schema

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// Sets of ECMA-262 that are wider than those of RE2.
const (
	spaces    = `\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}`
	notSpaces = `\x{0}-\x{8}\x{e}-\x{1f}!-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}`
	notBreaks = `[^\n\r\x{2028}\x{2029}]`
)

// CompilePattern makes RE2 of an expression of ECMA-262, which schemas are
// written in. Matching takes time in proportion to the text, so that what no
// such machine can do is refused: looking around, and references back.
func CompilePattern(text string) (*Pattern, error) {
	t := translator{s: text}
	for t.i < len(t.s) {
		if err := t.one(); err != nil {
			return nil, err
		}
	}
	re, err := regexp.Compile(t.out.String())
	if err != nil {
		why := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		if strings.HasPrefix(why, "invalid repeat count") {
			why = "RE2 repeats no more than 1000 times; maxLength and maxItems have no such bound"
		}
		return nil, fmt.Errorf("the pattern %q doesn't work: %s", text, why)
	}
	size, err := sizeOf(re)
	if err != nil {
		return nil, fmt.Errorf("the pattern %q doesn't work: %w", text, err)
	}
	return &Pattern{re, size}, nil
}

// Pattern is an expression that texts are matched with.
type Pattern struct {
	*regexp.Regexp
	size int // of its program: at worst, each byte of a text goes through all of it
}

func sizeOf(re *regexp.Regexp) (int, error) {
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return 0, err
	}
	return len(program.Inst), nil
}

// translator goes through an expression.
type translator struct {
	s   string
	i   int
	out strings.Builder
}

func (t *translator) refuse(what string) error {
	return fmt.Errorf("the pattern %q has %s", t.s, what)
}

// one translates what stands next.
func (t *translator) one() error {
	switch c := t.s[t.i]; {
	case c == '\\':
		return t.escape(false)
	case c == '[':
		return t.class()
	case c == '.':
		t.out.WriteString(notBreaks)
	case c == '(' && strings.HasPrefix(t.s[t.i:], "(?"):
		rest := t.s[t.i+2:]
		for _, look := range []string{"=", "!", "<=", "<!"} {
			if strings.HasPrefix(rest, look) {
				return t.refuse("a lookaround, (?" + look + "…), which RE2 hasn't: write it as another keyword (not, allOf), or without")
			}
		}
		t.out.WriteByte('(')
	default:
		t.out.WriteByte(c)
	}
	t.i++
	return nil
}

// class translates [...]: in RE2 "[:alpha:]" means something there, and an
// empty one is an error.
func (t *translator) class() error {
	switch {
	case strings.HasPrefix(t.s[t.i:], "[^]"):
		t.out.WriteString(`[\x{0}-\x{10ffff}]`)
		t.i += 3
		return nil
	case strings.HasPrefix(t.s[t.i:], "[]"):
		t.out.WriteString(`[^\x{0}-\x{10ffff}]`)
		t.i += 2
		return nil
	}
	t.out.WriteByte('[')
	if t.i++; t.i < len(t.s) && t.s[t.i] == '^' {
		t.out.WriteByte('^')
		t.i++
	}
	for t.i < len(t.s) {
		switch c := t.s[t.i]; c {
		case ']':
			t.out.WriteByte(c)
			t.i++
			return nil
		case '\\':
			if err := t.escape(true); err != nil {
				return err
			}
			continue
		case '[':
			t.out.WriteString(`\[`)
		default:
			t.out.WriteByte(c)
		}
		t.i++
	}
	return t.refuse("a [ without its ]")
}

// escape translates a backslash and what follows.
func (t *translator) escape(inClass bool) error {
	if t.i+1 >= len(t.s) {
		return t.refuse("a backslash at its end")
	}
	c := t.s[t.i+1]
	n := 2
	switch {
	case c == 's' && inClass:
		t.out.WriteString(spaces)
	case c == 's':
		t.out.WriteString("[" + spaces + "]")
	case c == 'S' && inClass:
		t.out.WriteString(notSpaces)
	case c == 'S':
		t.out.WriteString("[^" + spaces + "]")
	case c == 'b' && inClass:
		t.out.WriteString(`\x08`)
	case strings.IndexByte("dDwWtnrfv", c) >= 0, (c == 'b' || c == 'B') && !inClass:
		t.out.WriteString(t.s[t.i : t.i+2])
	case c == '0' && (t.i+2 == len(t.s) || t.s[t.i+2] < '0' || t.s[t.i+2] > '9'):
		t.out.WriteString(`\x00`)
	case c == 'k', '0' <= c && c <= '9':
		return t.refuse("a reference back, which RE2 hasn't")
	case c == 'u' || c == 'x' || c == 'c':
		code, length, err := t.code()
		if err != nil {
			return err
		}
		fmt.Fprintf(&t.out, `\x{%x}`, code)
		n = length
	case c == 'p' || c == 'P':
		end := strings.IndexByte(t.s[t.i:], '}')
		if !strings.HasPrefix(t.s[t.i+2:], "{") || end < 0 {
			return t.refuse(`a \p without {…}`)
		}
		name := t.s[t.i+3 : t.i+end]
		for _, prefix := range []string{"Script=", "sc=", "General_Category=", "gc="} {
			name = strings.TrimPrefix(name, prefix)
		}
		fmt.Fprintf(&t.out, `\%c{%s}`, c, name)
		n = end + 1
	case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
		return t.refuse(fmt.Sprintf(`\%c, which ECMA-262 hasn't`, c))
	default: // stands for itself
		t.out.WriteString(regexp.QuoteMeta(t.s[t.i+1 : t.i+2]))
		if c == '-' && inClass {
			t.undoDash()
		}
	}
	t.i += n
	return nil
}

// undoDash makes the dash just written one that isn't a range's.
func (t *translator) undoDash() {
	s := t.out.String()
	t.out.Reset()
	t.out.WriteString(s[:len(s)-1] + `\-`)
}

var errCode = errors.New("has an escape of a character that is cut short")

// code reads \xHH, \uHHHH, \u{H…} or \cX.
func (t *translator) code() (r rune, n int, err error) {
	s := t.s[t.i:]
	digits := ""
	switch {
	case s[1] == 'c' && len(s) > 2 && ('a' <= s[2]|0x20 && s[2]|0x20 <= 'z'):
		return rune(s[2] & 31), 3, nil
	case s[1] == 'x' && len(s) >= 4:
		digits, n = s[2:4], 4
	case strings.HasPrefix(s, `\u{`) && strings.IndexByte(s, '}') > 3:
		n = strings.IndexByte(s, '}') + 1
		digits = s[3 : n-1]
	case s[1] == 'u' && len(s) >= 6:
		digits, n = s[2:6], 6
	}
	for _, c := range []byte(digits) {
		d := strings.IndexByte("0123456789abcdef", c|0x20)
		if '0' <= c && c <= '9' {
			d = int(c - '0')
		}
		if d < 0 || r > 0x10ffff {
			return 0, 0, t.refuse("an escape that isn't hexadecimal")
		}
		r = r<<4 | rune(d)
	}
	if digits == "" {
		return 0, 0, fmt.Errorf("the pattern %q %w", t.s, errCode)
	}
	if r >= 0xd800 && r < 0xe000 || r > 0x10ffff {
		return 0, 0, t.refuse("half a surrogate pair: write \\u{…}")
	}
	return r, n, nil
}
