package schema

import (
	"hash/maphash"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// How many steps a check may take: so many, and more for each value and for the
// text that patterns go through. A schema that looks at each value some ten times
// gets by with them; one whose branches try all that is below them again and
// again doesn't, and what makes them do it is refused. A step takes some ten
// nanoseconds.
const (
	baseSteps   = 10_000
	valueSteps  = 20
	textPerStep = 4  // bytes that allow for one more
	matchedStep = 16 // bytes that a pattern goes through in one

	// A pattern with large repetitions may go through all of its program for each
	// byte of a text. How much of that there may be, in bytes × instructions, of
	// ten to twenty nanoseconds: so much, and more for each byte of the value. With
	// patterns of usual sizes that is never too little.
	baseMatching    = 4 << 20
	matchingPerByte = 48
)

const (
	// maxFindings bounds what is said about one request.
	maxFindings = 10
	// maxWhere bounds the text that says where something is: names are the
	// client's.
	maxWhere = 200
)

// Checker checks values. It belongs to one goroutine at a time, and may be used
// again and again.
type Checker struct {
	Formats  bool               // check formats, too
	Response bool               // the value is the service's, not the client's
	Found    []exchange.Finding // what is wrong

	seed   maphash.Seed
	steps  int
	match  int // bytes × instructions of patterns that are left
	quiet  int // in a branch: what fails there need not be wrong
	where  string
	path   []part
	hashes []hashed
	bools  []bool
}

// part is a step of the way to a value.
type part struct {
	name  string
	index int // -1: it is a name
}

// NewChecker returns a checker.
func NewChecker() *Checker { return &Checker{seed: maphash.MakeSeed()} }

// Reset makes c ready for another request.
func (c *Checker) Reset() {
	c.Found, c.Response, c.quiet = c.Found[:0], false, 0
	clear(c.path[:cap(c.path)]) // names are views
	c.path, c.bools = c.path[:0], c.bools[:0]
}

// Add says what is wrong somewhere.
func (c *Checker) Add(where, what string) {
	if len(c.Found) < maxFindings {
		c.Found = append(c.Found, exchange.Finding{Where: clip(where), What: what})
	}
}

// Check reports whether v is as s has it. What isn't stands in Found, at where
// and a JSON pointer from there.
func (c *Checker) Check(s *Schema, v *Value, where string) bool {
	before := len(c.Found)
	c.steps, c.where = baseSteps+valueSteps*len(v.nodes)+(len(v.source)+len(v.extra))/textPerStep, where
	c.match = baseMatching + matchingPerByte*(len(v.source)+len(v.extra))
	ok := c.check(s, v, 0, nil)
	if c.steps < 0 {
		if c.quiet == 0 {
			c.Found = c.Found[:before]
			c.Add(where, "is too complex to be checked")
		}
		return false
	}
	return ok
}

// Accepts is Check that says nothing.
func (c *Checker) Accepts(s *Schema, v *Value) bool {
	c.quiet++
	ok := c.Check(s, v, "")
	c.quiet--
	return ok
}

// fail says what is wrong with the value that c is at. It is false.
func (c *Checker) fail(text ...string) bool {
	if c.quiet == 0 && len(c.Found) < maxFindings {
		c.Add(c.pointer(), strings.Join(text, ""))
	}
	return false
}

// pointer says where c is (RFC 6901).
func (c *Checker) pointer() string {
	b := []byte(c.where)
	for _, p := range c.path {
		if len(b) > maxWhere {
			break
		}
		b = append(b, '/')
		if p.index >= 0 {
			b = strconv.AppendInt(b, int64(p.index), 10)
			continue
		}
		for _, r := range []byte(p.name[:min(len(p.name), 2*maxWhere)]) {
			switch r {
			case '~':
				b = append(b, "~0"...)
			case '/':
				b = append(b, "~1"...)
			default:
				b = append(b, r)
			}
		}
	}
	return string(b)
}

// clip shortens a text to a bound, and leaves no half of a character.
func clip(s string) string {
	if len(s) <= maxWhere {
		return s
	}
	n := maxWhere
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// at checks a part of a value.
func (c *Checker) at(p part, s *Schema, v *Value, i uint32) bool {
	c.path = append(c.path, p)
	ok := c.check(s, v, i, nil)
	c.path = c.path[:len(c.path)-1]
	return ok
}

// silently is check in a branch.
func (c *Checker) silently(s *Schema, v *Value, i uint32, m []bool) bool {
	c.quiet++
	ok := c.check(s, v, i, m)
	c.quiet--
	return ok
}

// take is room for n marks; give gives it back.
func (c *Checker) take(n int) []bool {
	at := len(c.bools)
	for range n {
		c.bools = append(c.bools, false)
	}
	return c.bools[at : at+n : at+n]
}

func (c *Checker) give(n int) { c.bools = c.bools[:len(c.bools)-n] }

// check checks node i of v against s. In m, if there is one, it marks the parts
// of an array or object that s has looked at, by their place; what it marks
// when it returns false has no meaning.
func (c *Checker) check(s *Schema, v *Value, i uint32, m []bool) bool {
	if s == nil {
		return true
	}
	if c.steps--; c.steps < 0 {
		return false
	}
	n := &v.nodes[i]
	if s.rest == nil && s.restOf == nil || n.kind < Array {
		return c.apply(s, v, i, m)
	}
	// Its own marks: it doesn't see those of its neighbours in an allOf.
	count := int(n.from)
	own := c.take(count)
	ok := c.apply(s, v, i, own)
	if ok || c.quiet == 0 {
		ok = c.unevaluated(s, v, i, own) && ok
	}
	if m != nil && ok {
		for k := range own {
			m[k] = m[k] || own[k]
		}
	}
	c.give(count)
	return ok
}

// apply applies the keywords of s. In a branch it returns with the first that
// fails.
func (c *Checker) apply(s *Schema, v *Value, i uint32, m []bool) bool {
	if s.never {
		return c.fail("isn't allowed here")
	}
	if s.types != anyType && !ofType(s.types, v, i) {
		return c.fail("has to be ", s.types.String())
	}
	ok := s.ref == nil || c.check(s.ref, v, i, m)
	if s.only != nil && !c.same(v, i, s.only, 0) {
		ok = c.fail("has to be ", clip(s.only.write(0)))
	}
	if s.enum != nil && (ok || c.quiet == 0) {
		ok = c.among(s, v, i) && ok
	}
	if !ok && c.quiet > 0 {
		return false
	}
	switch kind := v.nodes[i].kind; {
	case kind == Array && s.array != nil:
		ok = c.list(s.array, v, i, m) && ok
	case kind == Object && s.object != nil:
		ok = c.members(s.object, v, i, m) && ok
	case kind == Number || kind == String:
		ok = c.scalar(s, v, i) && ok
	}
	if !ok && c.quiet > 0 {
		return false
	}
	for _, a := range s.all {
		if ok = c.check(a, v, i, m) && ok; !ok && c.quiet > 0 {
			return false
		}
	}
	if s.any != nil {
		ok = c.anyOf(s, v, i, m) && ok
	}
	if s.one != nil && (ok || c.quiet == 0) {
		ok = c.oneOf(s, v, i, m) && ok
	}
	if s.not != nil && c.silently(s.not, v, i, nil) {
		ok = c.fail("is something that isn't allowed here")
	}
	if s.when != nil && (ok || c.quiet == 0) {
		ok = c.conditional(s, v, i, m) && ok
	}
	return ok
}

func (c *Checker) among(s *Schema, v *Value, i uint32) bool {
	for _, e := range s.enum {
		if c.same(v, i, e, 0) {
			return true
		}
	}
	if c.quiet > 0 {
		return false
	}
	return c.fail("has to be one of ", s.listText())
}

// branch checks one of several branches, and keeps its marks if it fits.
func (c *Checker) branch(s *Schema, v *Value, i uint32, m []bool) bool {
	if m == nil {
		return c.silently(s, v, i, nil)
	}
	own := c.take(len(m))
	ok := c.silently(s, v, i, own)
	if ok {
		for k := range own {
			m[k] = m[k] || own[k]
		}
	}
	c.give(len(m))
	return ok
}

func (c *Checker) anyOf(s *Schema, v *Value, i uint32, m []bool) bool {
	ok := false
	for _, b := range s.any {
		if ok = c.branch(b, v, i, m) || ok; ok && m == nil {
			return true
		}
	}
	return ok || c.explain(s, s.any, v, i)
}

func (c *Checker) oneOf(s *Schema, v *Value, i uint32, m []bool) bool {
	fits := 0
	for _, b := range s.one {
		if c.branch(b, v, i, m) {
			if fits++; fits > 1 {
				return c.fail("fits several of the forms of which it has to have one")
			}
		}
	}
	return fits == 1 || c.explain(s, s.one, v, i)
}

// explain says why no branch fits: by the one that the discriminator names, or
// that alone is for such a value.
func (c *Checker) explain(s *Schema, list []*Schema, v *Value, i uint32) bool {
	if c.quiet > 0 {
		return false
	}
	found := c.guided(s, v, i)
	if found < 0 {
		found = onlyFor(list, typeOf(v, i))
	}
	if found < 0 {
		return c.fail("fits none of the ", strconv.Itoa(len(list)), " forms that it may have")
	}
	before := len(c.Found)
	c.check(list[found], v, i, nil)
	if len(c.Found) == before {
		return c.fail("doesn't have the form that it has to have")
	}
	return false
}

// guided is the branch that the discriminator names; -1: it names none.
func (c *Checker) guided(s *Schema, v *Value, i uint32) int {
	if s.guide == nil || v.nodes[i].kind != Object {
		return -1
	}
	if at, ok := c.member(v, i, s.guide.property); ok && v.nodes[at].kind == String {
		if b, ok := s.guide.branch[v.str(at)]; ok {
			return b
		}
	}
	return -1
}

// onlyFor is the only branch that may admit such a value; -1: none is alone.
func onlyFor(list []*Schema, t typeSet) int {
	found := -1
	for k, b := range list {
		if b.kinds&t == 0 {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = k
	}
	return found
}

func (c *Checker) conditional(s *Schema, v *Value, i uint32, m []bool) bool {
	if c.branch(s.when, v, i, m) {
		return c.check(s.then, v, i, m)
	}
	return c.check(s.other, v, i, m)
}

// scalar applies the keywords for numbers and strings. What came as text is
// what the schema's types say it may be.
func (c *Checker) scalar(s *Schema, v *Value, i uint32) bool {
	n := &v.nodes[i]
	ok := true
	if s.number != nil {
		text := v.str(i)
		if n.kind == Number || n.text && (s.types == anyType || s.types&(isInteger|isNumeric) != 0) && isNumber(text) {
			d, _ := parseDecimal(text)
			ok = c.number(s.number, &d)
		}
	}
	if s.text != nil && n.kind == String && (!n.text || s.types == anyType || s.types&isString != 0) {
		ok = c.text(s.text, v.str(i)) && ok
	}
	return ok
}

func (c *Checker) number(k *numeric, d *decimalNumber) bool {
	ok := true
	if k.multipleOf != nil {
		c.steps -= 4
		if !d.multipleOf(k.multipleOf) {
			ok = c.fail("has to be a multiple of ", k.texts[0])
		}
	}
	if k.most != nil && d.compare(k.most) > 0 {
		ok = c.fail("has to be at most ", k.texts[1])
	}
	if k.below != nil && d.compare(k.below) >= 0 {
		ok = c.fail("has to be less than ", k.texts[2])
	}
	if k.least != nil && d.compare(k.least) < 0 {
		ok = c.fail("has to be at least ", k.texts[3])
	}
	if k.above != nil && d.compare(k.above) <= 0 {
		ok = c.fail("has to be more than ", k.texts[4])
	}
	if c.Formats && k.low != nil && (d.compare(k.low) < 0 || d.compare(k.high) > 0) {
		ok = c.fail("is out of the range of ", k.format)
	}
	return ok
}

func (c *Checker) text(k *textual, s string) bool {
	if k.most >= 0 && len(s) > k.most && utf8.RuneCountInString(s) > k.most {
		return c.fail("has to have at most ", strconv.Itoa(k.most), " characters") // more of it isn't worth looking at
	}
	ok := true
	if k.least > 0 && utf8.RuneCountInString(s) < k.least {
		ok = c.fail("has to have at least ", strconv.Itoa(k.least), " characters")
	}
	if k.pattern != nil {
		if !c.matches(k.pattern, s) {
			ok = c.fail("doesn't match the pattern ", clip(k.source))
		}
	}
	if k.format != nil && c.Formats && !k.format(s) {
		ok = c.fail("isn't of the format ", k.formatName)
	}
	return ok
}

// matches reports whether a text has a match, unless that would take too long.
func (c *Checker) matches(p *Pattern, s string) bool {
	c.steps -= len(s) / matchedStep
	if c.match -= len(s) * p.size; c.match < 0 {
		c.steps = -1
		return false
	}
	return p.MatchString(s)
}

// ofType reports whether node i is of one of the types.
func ofType(t typeSet, v *Value, i uint32) bool {
	n := &v.nodes[i]
	switch n.kind {
	case Null:
		return t&isNull != 0
	case False, True:
		return t&isBool != 0
	case Array:
		return t&isArray != 0
	case Object:
		return t&isObject != 0
	case Number:
		return t&isNumeric != 0 || t&isInteger != 0 && whole(v.str(i))
	}
	if t&isString != 0 {
		return true
	}
	if !n.text {
		return false
	}
	s := v.str(i)
	return t&isNull != 0 && s == "" || t&isBool != 0 && (s == "true" || s == "false") ||
		t&isNumeric != 0 && isNumber(s) || t&isInteger != 0 && isNumber(s) && whole(s)
}

func whole(s string) bool {
	d, _ := parseDecimal(s)
	return d.whole()
}

// typeOf is the type of node i; what came as text may have several.
func typeOf(v *Value, i uint32) typeSet {
	var t typeSet
	for bit := isNull; bit <= isObject; bit <<= 1 {
		if ofType(bit, v, i) {
			t |= bit
		}
	}
	return t
}

// String is the types as an error names them.
func (t typeSet) String() string {
	var list []string
	for i, name := range typeNames {
		if t&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, " or ")
}
