package schema

import (
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of what is read, in the spirit of RFC 8259, 9. The length of the whole
// is the caller's matter.
const (
	maxDepth  = 100 // of arrays and objects in each other
	maxNumber = 200 // bytes of a number
)

// Parse reads one JSON value (RFC 8259). It is stricter than most readers where
// two of them could understand different things: no name twice in an object, no
// text that isn't Unicode, no bytes before or behind. v reads from text as long
// as it lives.
func (v *Value) Parse(text string) error {
	v.Reset()
	if uint64(len(text)) > 1<<31 {
		return errors.New("is too long")
	}
	v.source = text
	p := parser{v: v, s: text}
	p.space()
	if err := p.value(0); err != nil {
		return err
	}
	if p.space(); p.i < len(p.s) {
		return p.fail("has something behind its value")
	}
	return nil
}

// parser reads a text.
type parser struct {
	v *Value
	s string
	i int
}

// fail says what is wrong, and where. Of the text it says nothing.
func (p *parser) fail(what string) error {
	return fmt.Errorf("isn't JSON: %s, at byte %d", what, p.i)
}

func (p *parser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) add(n node) {
	n.next = uint32(len(p.v.nodes) + 1)
	p.v.nodes = append(p.v.nodes, n)
}

func (p *parser) value(depth int) error {
	if p.i >= len(p.s) {
		return p.fail("it ends too early")
	}
	switch c := p.s[p.i]; {
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		return p.string()
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case c == 't':
		return p.word("true", True)
	case c == 'f':
		return p.word("false", False)
	case c == 'n':
		return p.word("null", Null)
	default:
		return p.fail("a value is missing")
	}
}

func (p *parser) word(w string, k Kind) error {
	if len(p.s)-p.i < len(w) || p.s[p.i:p.i+len(w)] != w {
		return p.fail("a value is missing")
	}
	p.i += len(w)
	p.add(node{kind: k})
	return nil
}

func (p *parser) array(depth int) error {
	if depth >= maxDepth {
		return p.fail(fmt.Sprintf("values stand more than %d deep", maxDepth))
	}
	at, n := p.v.Begin(Array), 0
	p.i++
	if p.space(); p.i < len(p.s) && p.s[p.i] == ']' {
		p.i++
		p.v.End(at, 0)
		return nil
	}
	for {
		p.space()
		if err := p.value(depth + 1); err != nil {
			return err
		}
		n++
		if done, err := p.more(']'); err != nil {
			return err
		} else if done {
			p.v.End(at, n)
			return nil
		}
	}
}

func (p *parser) object(depth int) error {
	if depth >= maxDepth {
		return p.fail(fmt.Sprintf("values stand more than %d deep", maxDepth))
	}
	at, n := p.v.Begin(Object), 0
	p.i++
	if p.space(); p.i < len(p.s) && p.s[p.i] == '}' {
		p.i++
		p.v.End(at, 0)
		return nil
	}
	for {
		if p.space(); p.i >= len(p.s) || p.s[p.i] != '"' {
			return p.fail("a name is missing")
		}
		if err := p.string(); err != nil {
			return err
		}
		if p.space(); p.i >= len(p.s) || p.s[p.i] != ':' {
			return p.fail("a colon is missing")
		}
		p.i++
		p.space()
		if err := p.value(depth + 1); err != nil {
			return err
		}
		n++
		if done, err := p.more('}'); err != nil {
			return err
		} else if done {
			p.v.End(at, n)
			return p.unique(uint32(at), n)
		}
	}
}

// more reads a comma, or the end.
func (p *parser) more(end byte) (done bool, err error) {
	if p.space(); p.i >= len(p.s) {
		return false, p.fail("it ends too early")
	}
	c := p.s[p.i]
	if c != ',' && c != end {
		return false, p.fail("a comma is missing")
	}
	p.i++
	return c == end, nil
}

// unique refuses an object with a name twice: which one counts, readers don't
// agree about.
func (p *parser) unique(at uint32, n int) error {
	v := p.v
	const few = 12
	var names map[string]struct{}
	if n > few {
		names = make(map[string]struct{}, n)
	}
	for m, i := 0, at+1; m < n; m++ {
		name := v.str(i)
		if names != nil {
			if _, twice := names[name]; twice {
				return p.fail("an object has a name twice")
			}
			names[name] = struct{}{}
		} else {
			for k, j := 0, at+1; k < m; k++ {
				if v.str(j) == name {
					return p.fail("an object has a name twice")
				}
				j = v.nodes[j+1].next
			}
		}
		i = v.nodes[i+1].next
	}
	return nil
}

// number reads a number (RFC 8259, 6).
func (p *parser) number() error {
	from := p.i
	n, ok := numberLength(p.s[from:])
	if !ok {
		return p.fail("a number is malformed")
	}
	if n > maxNumber {
		return p.fail(fmt.Sprintf("a number has more than %d characters", maxNumber))
	}
	p.i += n
	if _, ok := parseDecimal(p.s[from:p.i]); !ok {
		return p.fail("a number's exponent is out of all bounds")
	}
	p.add(node{kind: Number, from: uint32(from), to: uint32(p.i)})
	return nil
}

// numberLength is how much of s is a number; not ok, if it doesn't begin with
// one.
func numberLength(s string) (n int, ok bool) {
	digits := func() bool {
		from := n
		for n < len(s) && '0' <= s[n] && s[n] <= '9' {
			n++
		}
		return n > from
	}
	if n < len(s) && s[n] == '-' {
		n++
	}
	if n < len(s) && s[n] == '0' {
		n++
	} else if !digits() {
		return 0, false
	}
	if n < len(s) && s[n] == '.' {
		if n++; !digits() {
			return 0, false
		}
	}
	if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
		if n++; n < len(s) && (s[n] == '+' || s[n] == '-') {
			n++
		}
		if !digits() {
			return 0, false
		}
	}
	return n, true
}

// string reads a string (RFC 8259, 7).
func (p *parser) string() error {
	p.i++
	from := p.i
	ascii := true
	for ; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; {
		case c == '"':
			if !ascii && !utf8.ValidString(p.s[from:p.i]) {
				return p.fail("a string isn't UTF-8")
			}
			p.add(node{kind: String, from: uint32(from), to: uint32(p.i)})
			p.i++
			return nil
		case c == '\\':
			return p.escaped(from)
		case c < 0x20:
			return p.fail("a string has a control character")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return p.fail("it ends too early")
}

// escaped reads a string with escapes, whose first one is here.
func (p *parser) escaped(from int) error {
	v := p.v
	at := len(v.extra)
	v.extra = append(v.extra, p.s[from:p.i]...)
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == '"':
			if !utf8.Valid(v.extra[at:]) {
				return p.fail("a string isn't UTF-8")
			}
			p.i++
			p.add(node{kind: String, side: true, from: uint32(at), to: uint32(len(v.extra))})
			return nil
		case c < 0x20:
			return p.fail("a string has a control character")
		case c != '\\':
			v.extra = append(v.extra, c)
			p.i++
		default:
			r, n := unescape(p.s[p.i:])
			if n == 0 {
				return p.fail("a string has an escape that there isn't")
			}
			v.extra = utf8.AppendRune(v.extra, r)
			p.i += n
		}
	}
	return p.fail("it ends too early")
}

// unescape reads the escape that s begins with, of n bytes. Half a surrogate
// pair is none: what it means, nobody knows (RFC 8259, 8.2).
func unescape(s string) (r rune, n int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\', '/':
		return rune(s[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, ok := hex4(s[2:])
		if !ok {
			return 0, 0
		}
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if len(s) < 12 || s[6] != '\\' || s[7] != 'u' {
			return 0, 0
		}
		low, ok := hex4(s[8:])
		if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
			return 0, 0
		}
		return r, 12
	default:
		return 0, 0
	}
}

func hex4(s string) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for _, c := range []byte(s[:4]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
