package schema

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
)

// typeSet is a set of types.
type typeSet uint8

// The types of JSON Schema.
const (
	isNull typeSet = 1 << iota
	isBool
	isInteger
	isNumeric
	isString
	isArray
	isObject
	anyType typeSet = 0
)

// typeNames are the types in the order of their bits.
var typeNames = []string{"null", "boolean", "integer", "number", "string", "array", "object"}

// Schema is a compiled schema. It never changes.
type Schema struct {
	never bool // the schema false
	ref   *Schema
	types typeSet
	enum  []*Value
	only  *Value // const

	number  *numeric
	text    *textual
	array   *listed
	object  *mapped
	all     []*Schema
	any     []*Schema
	one     []*Schema
	not     *Schema
	when    *Schema // if, with then and otherwise
	then    *Schema
	other   *Schema
	readOn  bool // readOnly
	writeOn bool // writeOnly
	guide   *discriminator
	rest    *Schema // unevaluatedProperties
	restOf  *Schema // unevaluatedItems
	format  string
	kinds   typeSet // those that it may admit, at a glance
}

// numeric are the keywords for numbers.
type numeric struct {
	multipleOf, most, below, least, above *decimalNumber
	texts                                 [5]string      // as the schema has them
	low, high                             *decimalNumber // of the format
	format                                string
}

// textual are the keywords for strings.
type textual struct {
	least, most int // -1: no bound
	pattern     *Pattern
	source      string
	format      func(string) bool
	formatName  string
}

// listed are the keywords for arrays.
type listed struct {
	prefix      []*Schema
	items       *Schema
	contains    *Schema
	least, most int // -1: no bound
	fewest      int // minContains
	greatest    int // maxContains; -1: no bound
	unique      bool
}

// property is a name that an object's schema knows.
type property struct {
	schema   *Schema // nil: it says nothing about its value
	required int     // its place among the required ones; -1: it isn't
}

// mapped are the keywords for objects.
type mapped struct {
	properties  map[string]property
	required    []string
	inRequest   []bool // those that a request has to have, likewise; nil: all
	inResponse  []bool
	patterns    []patterned
	additional  *Schema
	names       *Schema
	least, most int // -1: no bound
	needs       []dependent
}

type patterned struct {
	re     *Pattern
	schema *Schema
}

// dependent is what a member calls for.
type dependent struct {
	name   string
	names  []string
	schema *Schema
}

// discriminator is OpenAPI's: it changes no verdict, and tells which branch an
// error is to be explained by.
type discriminator struct {
	property string
	branch   map[string]int
}

// Compiler compiles the schemas of a document. Each is compiled once, so that
// schemas may refer to themselves.
type Compiler struct {
	doc   *document.Document
	old   bool // OpenAPI 3.0
	known map[*document.Node]*Schema
	order []*document.Node
}

// NewCompiler returns a compiler for the schemas of doc; old says that they
// are those of OpenAPI 3.0.
func NewCompiler(doc *document.Document, old bool) *Compiler {
	return &Compiler{doc: doc, old: old, known: map[*document.Node]*Schema{}}
}

// Compile compiles a schema. All that is wrong is said, up to a bound.
func (c *Compiler) Compile(n *document.Node) (*Schema, error) {
	if s := c.known[n]; s != nil {
		return s, nil
	}
	s := &Schema{}
	c.known[n] = s
	c.order = append(c.order, n)
	switch {
	case n.Kind == document.Bool && !c.old:
		s.never = !n.True()
		return s, nil
	case n.Kind != document.Map:
		return s, n.Want("a schema", document.Map)
	}
	if ref := n.Get("$ref"); ref != nil {
		to, err := c.doc.Refer(ref)
		if err != nil {
			return s, err
		}
		if s.ref, err = c.Compile(to); err != nil {
			return s, err
		}
		if c.old {
			return s, nil // what stands beside it has no meaning there
		}
	}
	var errs error
	for i, key := range n.Keys {
		errs = errors.Join(errs, c.keyword(s, n, key, n.Items[i], i))
	}
	if errs == nil {
		errs = c.complete(s, n)
	}
	return s, errs
}

// complete does what needs several keywords.
func (c *Compiler) complete(s *Schema, n *document.Node) error {
	if o := s.object; o != nil {
		o.sides()
	}
	if s.array != nil && s.array.contains == nil && (n.Get("minContains") != nil || n.Get("maxContains") != nil) {
		s.array.fewest, s.array.greatest = 0, -1
	}
	if c.old && n.Get("nullable").True() && s.types != anyType {
		s.types |= isNull
	}
	if low, high := numberFormat(s.format); low != "" && s.types&(isInteger|isNumeric) != 0 {
		if s.number == nil {
			s.number = &numeric{}
		}
		from, _ := parseDecimal(low)
		to, _ := parseDecimal(high)
		s.number.low, s.number.high, s.number.format = &from, &to, s.format
	}
	if s.guide != nil {
		return c.branches(s, n)
	}
	return nil
}

// sides tells for each required name whether a request has to have it, and
// whether a response has: what is readOnly is the service's to give, and what
// is writeOnly it keeps.
func (o *mapped) sides() {
	for i, name := range o.required {
		p := o.properties[name].schema
		if p == nil || !p.readOn && !p.writeOn {
			continue
		}
		if o.inRequest == nil {
			o.inRequest, o.inResponse = make([]bool, len(o.required)), make([]bool, len(o.required))
			for j := range o.required {
				o.inRequest[j], o.inResponse[j] = true, true
			}
		}
		o.inRequest[i], o.inResponse[i] = !p.readOn, !p.writeOn
	}
}

// branches tells which branch of oneOf or anyOf a discriminator's values name.
func (c *Compiler) branches(s *Schema, n *document.Node) error {
	list := n.Get("oneOf")
	if list == nil {
		list = n.Get("anyOf")
	}
	if list == nil {
		return nil // a parent of allOf: what it says, its children say
	}
	byNode := map[*document.Node]int{}
	for i, b := range list.Items {
		ref := b.Get("$ref")
		if ref == nil {
			continue
		}
		to, err := c.doc.Refer(ref)
		if err != nil {
			return err
		}
		byNode[to] = i
		s.guide.branch[ref.Text[strings.LastIndexByte(ref.Text, '/')+1:]] = i
	}
	mapping := n.Get("discriminator").Get("mapping")
	if mapping == nil {
		return nil
	}
	for i, value := range mapping.Keys {
		to := mapping.Items[i]
		if k, ok := s.guide.branch[to.Text]; ok {
			s.guide.branch[value] = k
			continue
		}
		node, err := c.doc.Refer(to)
		if err != nil {
			return err
		}
		if k, ok := byNode[node]; ok {
			s.guide.branch[value] = k
		}
	}
	return nil
}

// Check refuses schemas that would go on for ever: those that apply themselves
// to the same value again. It is called once all are compiled.
func (c *Compiler) Check() error {
	state := map[*Schema]uint8{}
	var visit func(s *Schema) bool
	visit = func(s *Schema) bool {
		if s == nil || state[s] == 2 {
			return true
		}
		if state[s] == 1 {
			return false
		}
		state[s] = 1
		for _, next := range s.inPlace() {
			if !visit(next) {
				return false
			}
		}
		state[s] = 2
		return true
	}
	for _, n := range c.order {
		if !visit(c.known[n]) {
			return n.Errorf("the schema applies itself to the same value without end")
		}
	}
	done := map[*Schema]typeSet{}
	for _, n := range c.order {
		c.known[n].kinds = c.known[n].possible(done)
	}
	return nil
}

// inPlace are the schemas that s applies to the same value.
func (s *Schema) inPlace() []*Schema {
	list := slices.Concat([]*Schema{s.ref, s.not, s.when, s.then, s.other}, s.all, s.any, s.one)
	if s.object != nil {
		for _, d := range s.object.needs {
			list = append(list, d.schema)
		}
	}
	return list
}

// Shape is which kinds of values a schema may admit, as far as its keywords
// tell at a glance.
type Shape struct{ Single, Array, Object bool }

// Shape looks at a schema's types, for who has to make values of text. That an
// array or object may also be null makes it no single value.
func (s *Schema) Shape() Shape {
	t := s.possible(map[*Schema]typeSet{})
	if t&(isArray|isObject) != 0 {
		t &^= isNull
	}
	return Shape{Single: t&(isNull|isBool|isInteger|isNumeric|isString) != 0, Array: t&isArray != 0, Object: t&isObject != 0}
}

const everyType = isNull | isBool | isInteger | isNumeric | isString | isArray | isObject

// possible is worked out once for each schema; one that refers to itself may be
// anything meanwhile.
func (s *Schema) possible(done map[*Schema]typeSet) (t typeSet) {
	if s == nil {
		return everyType
	}
	if s.never {
		return 0
	}
	if t, ok := done[s]; ok {
		return t
	}
	done[s] = everyType
	defer func() { done[s] = t }()
	t = everyType
	switch {
	case s.types != anyType:
		t = s.types
	case s.only != nil:
		t = typeOf(s.only, 0)
	case s.enum != nil:
		t = 0
		for _, v := range s.enum {
			t |= typeOf(v, 0)
		}
	}
	if s.ref != nil {
		t &= s.ref.possible(done)
	}
	for _, a := range s.all {
		t &= a.possible(done)
	}
	for _, list := range [][]*Schema{s.any, s.one} {
		if list == nil {
			continue
		}
		var some typeSet
		for _, b := range list {
			some |= b.possible(done)
		}
		t &= some
	}
	if t == everyType { // nothing said so yet: the keywords hint
		switch {
		case s.object != nil && s.array == nil:
			return isObject
		case s.array != nil && s.object == nil:
			return isArray
		}
	}
	return t
}

// Properties are the schemas of an object's members, as far as they have names.
func (s *Schema) Properties() map[string]*Schema {
	out := map[string]*Schema{}
	s.gather(out, map[*Schema]bool{})
	return out
}

func (s *Schema) gather(out map[string]*Schema, seen map[*Schema]bool) {
	if s == nil || seen[s] {
		return
	}
	seen[s] = true
	if s.object != nil {
		for _, name := range slices.Sorted(maps.Keys(s.object.properties)) {
			if p := s.object.properties[name].schema; out[name] == nil {
				if p == nil {
					p = &Schema{}
				}
				out[name] = p
			}
		}
	}
	for _, next := range s.inPlace() {
		if next != s.not {
			next.gather(out, seen)
		}
	}
}

// Items is the schema of an array's items, as far as one is named; nil: none.
func (s *Schema) Items() *Schema { return s.itemsOf(map[*Schema]bool{}) }

func (s *Schema) itemsOf(seen map[*Schema]bool) *Schema {
	if s == nil || seen[s] {
		return nil
	}
	seen[s] = true
	if s.array != nil && s.array.items != nil {
		return s.array.items
	}
	for _, next := range s.inPlace() {
		if i := next.itemsOf(seen); next != s.not && i != nil {
			return i
		}
	}
	return nil
}

// Binary reports whether a schema says of a body no more than that it is bytes:
// nothing, or that it is a string.
func (s *Schema) Binary() bool {
	said := s.ref != nil || s.enum != nil || s.only != nil || s.number != nil || s.array != nil || s.object != nil || s.all != nil || s.any != nil || s.one != nil ||
		s.not != nil || s.when != nil || s.rest != nil || s.restOf != nil || s.text != nil && !s.text.only()
	return !s.never && !said && (s.types == anyType || s.types == isString)
}

// only reports whether the text's keywords say nothing but a format that isn't
// checked.
func (t *textual) only() bool {
	return t.least < 0 && t.most < 0 && t.pattern == nil && t.format == nil
}
