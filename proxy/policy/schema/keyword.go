package schema

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
)

// known are the keywords that there are.
var known = []string{
	"$ref", "$defs", "$schema", "$id", "$anchor", "$comment", "allOf", "anyOf", "oneOf", "not", "if", "then", "else",
	"dependentSchemas", "prefixItems", "items", "contains", "properties", "patternProperties", "additionalProperties",
	"propertyNames", "unevaluatedItems", "unevaluatedProperties", "type", "enum", "const", "multipleOf", "maximum",
	"exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern", "maxItems", "minItems",
	"uniqueItems", "maxContains", "minContains", "maxProperties", "minProperties", "required", "dependentRequired",
	"format", "contentEncoding", "contentMediaType", "contentSchema", "title", "description", "default", "deprecated",
	"readOnly", "writeOnly", "examples", "example", "discriminator", "xml", "externalDocs", "nullable",
}

// foreign says of keywords of other drafts what to write.
func foreign(key string) string {
	switch key {
	case "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor":
		return "references that depend on who refers aren't supported: use $ref"
	case "$vocabulary":
		return "vocabularies aren't supported"
	case "definitions":
		return "it is $defs since draft 2019-09"
	case "dependencies":
		return "it is dependentRequired or dependentSchemas since draft 2019-09"
	case "additionalItems":
		return "it is items, beside prefixItems, since draft 2020-12"
	case "id":
		return "it is $id since draft 6"
	default:
		return ""
	}
}

// keyword compiles one keyword. Those that only say something to people are
// passed over; unknown ones are refused: they would be a check that isn't made.
func (c *Compiler) keyword(s *Schema, n *document.Node, key string, v *document.Node, i int) error {
	if c.old {
		if err := oldKeyword(n, key, v); err != nil {
			return err
		}
	}
	var err error
	switch key {
	case "$ref", "$anchor", "$comment", "title", "description", "default", "deprecated", "examples", "example", "xml", "externalDocs",
		"contentEncoding", "contentMediaType", "contentSchema": // the last three are annotations, too (draft 2020-12, validation, 8)
	case "$schema":
		return c.dialect(v)
	case "$id":
		return v.Errorf("$id isn't supported: references go by the files' names")
	case "nullable":
		if !c.old {
			return v.Errorf(`nullable is of OpenAPI 3.0: write type: [..., "null"]`)
		}
	case "$defs":
		_, err = c.schemas(v, "$defs")
	case "type":
		s.types, err = types(v)
	case "enum":
		s.enum, err = values(v)
	case "const":
		s.only, err = valueOf(v)
	case "readOnly":
		s.readOn = v.True()
	case "writeOnly":
		s.writeOn = v.True()
	case "discriminator":
		s.guide, err = guideOf(v)
	case "format":
		err = s.setFormat(v)
	case "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "unevaluatedProperties", "unevaluatedItems":
		return c.applicator(s, key, v)
	case "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum":
		return s.numberKeyword(n, key, v, c.old)
	case "maxLength", "minLength", "pattern":
		return s.textKeyword(key, v)
	case "prefixItems", "items", "contains", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains":
		return c.arrayKeyword(s, key, v)
	case "properties", "patternProperties", "additionalProperties", "propertyNames", "maxProperties", "minProperties", "required", "dependentRequired", "dependentSchemas":
		return c.objectKeyword(s, key, v)
	default:
		if len(key) > 2 && key[:2] == "x-" {
			return nil
		}
		if why := foreign(key); why != "" {
			return v.Errorf("keyword %s: %s", key, why)
		}
		err = n.Unknown(i, "keyword", known)
	}
	return err
}

// oldKeyword refuses what OpenAPI 3.0 hasn't.
func oldKeyword(n *document.Node, key string, v *document.Node) error {
	switch key {
	case "const", "$defs", "$anchor", "if", "then", "else", "dependentSchemas", "prefixItems", "contains", "patternProperties", "propertyNames",
		"unevaluatedItems", "unevaluatedProperties", "maxContains", "minContains", "dependentRequired", "contentSchema", "examples", "$schema":
		return v.Errorf("keyword %s is of OpenAPI 3.1, and the document says 3.0", key)
	case "nullable":
		return v.Want("nullable", document.Bool)
	case "type":
		if err := v.Want("type", document.String); err != nil {
			return err
		}
		if v.Text == "null" {
			return v.Errorf("the type null is of OpenAPI 3.1, and the document says 3.0: write nullable: true")
		}
		if v.Text == "array" && n.Get("items") == nil {
			return n.Errorf("an array lacks its items")
		}
	}
	return nil
}

// dialect checks a $schema.
func (c *Compiler) dialect(v *document.Node) error {
	switch v.Text {
	case "https://json-schema.org/draft/2020-12/schema", "https://spec.openapis.org/oas/3.1/dialect/base":
		return nil
	default:
		return v.Errorf("the dialect %q isn't supported: it has to be https://json-schema.org/draft/2020-12/schema", v.Text)
	}
}

func types(v *document.Node) (set typeSet, err error) {
	list := []*document.Node{v}
	if v.Kind == document.List {
		list = v.Items
	}
	if len(list) == 0 {
		return 0, v.Errorf("type has to name one")
	}
	for _, t := range list {
		i := slices.Index(typeNames, t.Text)
		if i < 0 || t.Kind != document.String {
			return 0, t.Errorf("there is no type %q%s", t.Text, document.Suggest(t.Text, typeNames))
		}
		set |= 1 << i
	}
	return set, nil
}

func values(v *document.Node) ([]*Value, error) {
	if err := v.Want("enum", document.List); err != nil {
		return nil, err
	}
	list := make([]*Value, 0, len(v.Items))
	for _, i := range v.Items {
		value, err := valueOf(i)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, nil
}

// valueOf is a node of the document as a value.
func valueOf(n *document.Node) (*Value, error) {
	v := &Value{}
	err := v.addNode(n, 0)
	return v, err
}

func (v *Value) addNode(n *document.Node, depth int) error {
	if depth > maxDepth {
		return n.Errorf("stands more than %d deep", maxDepth)
	}
	switch n.Kind {
	case document.Null, document.Bool:
		k := Null
		if n.Kind == document.Bool {
			if k = False; n.True() {
				k = True
			}
		}
		v.nodes = append(v.nodes, node{kind: k, next: uint32(len(v.nodes) + 1)})
	case document.Number:
		if !isNumber(n.Text) {
			return n.Errorf("%s is out of all bounds", n.Text)
		}
		v.Bytes(n.Text)
		v.nodes[len(v.nodes)-1].kind = Number
	case document.String:
		v.Bytes(n.Text)
	default:
		k := Array
		if n.Kind == document.Map {
			k = Object
		}
		at := v.Begin(k)
		for i, item := range n.Items {
			if k == Object {
				v.Name(n.Keys[i])
			}
			if err := v.addNode(item, depth+1); err != nil {
				return err
			}
		}
		v.End(at, len(n.Items))
	}
	return nil
}

func guideOf(v *document.Node) (*discriminator, error) {
	p := v.Get("propertyName")
	if p == nil || p.Kind != document.String {
		return nil, v.Errorf("discriminator lacks propertyName")
	}
	if m := v.Get("mapping"); m != nil {
		if err := m.Want("mapping", document.Map); err != nil {
			return nil, err
		}
	}
	return &discriminator{property: p.Text, branch: map[string]int{}}, nil
}

func (s *Schema) setFormat(v *document.Node) error {
	if err := v.Want("format", document.String); err != nil {
		return err
	}
	s.format = v.Text
	if f := formatOf(v.Text); f != nil {
		t := s.forText()
		t.format, t.formatName = f, v.Text
	}
	return nil
}

// schemas compiles a map of schemas.
func (c *Compiler) schemas(v *document.Node, what string) ([]*Schema, error) {
	if err := v.Want(what, document.Map); err != nil {
		return nil, err
	}
	return c.each(v)
}

// list compiles a list of schemas.
func (c *Compiler) list(v *document.Node, what string) ([]*Schema, error) {
	if err := v.Want(what, document.List); err != nil {
		return nil, err
	}
	if len(v.Items) == 0 {
		return nil, v.Errorf("%s has to have one schema at least", what)
	}
	return c.each(v)
}

func (c *Compiler) each(v *document.Node) ([]*Schema, error) {
	var errs error
	list := make([]*Schema, len(v.Items))
	for i, n := range v.Items {
		s, err := c.Compile(n)
		list[i], errs = s, errors.Join(errs, err)
	}
	return list, errs
}

func (c *Compiler) applicator(s *Schema, key string, v *document.Node) (err error) {
	switch key {
	case "allOf":
		s.all, err = c.list(v, key)
	case "anyOf":
		s.any, err = c.list(v, key)
	case "oneOf":
		s.one, err = c.list(v, key)
	case "not":
		s.not, err = c.Compile(v)
	case "if":
		s.when, err = c.Compile(v)
	case "then":
		s.then, err = c.Compile(v)
	case "else":
		s.other, err = c.Compile(v)
	case "unevaluatedProperties":
		s.rest, err = c.Compile(v)
	case "unevaluatedItems":
		s.restOf, err = c.Compile(v)
	}
	return err
}

func (s *Schema) numberKeyword(n *document.Node, key string, v *document.Node, old bool) error {
	if s.number == nil {
		s.number = &numeric{}
	}
	if old && v.Kind == document.Bool && (key == "exclusiveMaximum" || key == "exclusiveMinimum") {
		// Draft 5: whether the bound itself is excluded.
		bound := n.Get(map[string]string{"exclusiveMaximum": "maximum", "exclusiveMinimum": "minimum"}[key])
		if !v.True() || bound == nil {
			return nil
		}
		v = bound
	}
	if v.Kind != document.Number || !isNumber(v.Text) {
		return v.Errorf("%s has to be a number", key)
	}
	d, _ := parseDecimal(v.Text)
	switch i := slices.Index([]string{"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}, key); key {
	case "multipleOf":
		if d.len() == 0 || d.negative {
			return v.Errorf("multipleOf has to be more than 0")
		}
		s.number.multipleOf, s.number.texts[i] = &d, v.Text
	case "maximum":
		s.number.most, s.number.texts[i] = &d, v.Text
	case "exclusiveMaximum":
		s.number.below, s.number.texts[i] = &d, v.Text
	case "minimum":
		s.number.least, s.number.texts[i] = &d, v.Text
	default:
		s.number.above, s.number.texts[i] = &d, v.Text
	}
	return nil
}

func (s *Schema) forText() *textual {
	if s.text == nil {
		s.text = &textual{least: -1, most: -1}
	}
	return s.text
}

func (s *Schema) textKeyword(key string, v *document.Node) (err error) {
	t := s.forText()
	switch key {
	case "maxLength":
		t.most, err = count(v, key)
	case "minLength":
		t.least, err = count(v, key)
	default:
		t.source = v.Text
		t.pattern, err = pattern(v)
	}
	return err
}

func pattern(v *document.Node) (*Pattern, error) {
	if err := v.Want("pattern", document.String); err != nil {
		return nil, err
	}
	re, err := CompilePattern(v.Text)
	if err != nil {
		return nil, v.Errorf("%v", err)
	}
	return re, nil
}

// count reads a number of something.
func count(v *document.Node, key string) (int, error) {
	if v.Kind == document.Number && isNumber(v.Text) {
		d, _ := parseDecimal(v.Text)
		if n, ok := d.small(0); ok && !d.negative && n < 1<<40 {
			return int(n), nil
		}
		if d.len() == 0 {
			return 0, nil
		}
	}
	return -1, v.Errorf("%s has to be a whole number, 0 or more", key)
}

// listText is what an error names of an enum: texts that stand in the document.
func (s *Schema) listText() string {
	const most = 200
	text := ""
	for i, v := range s.enum {
		one := v.write(0)
		if len(text)+len(one) > most {
			return fmt.Sprintf("%s and %d more", text, len(s.enum)-i)
		}
		if i > 0 {
			text += ", "
		}
		text += one
	}
	return text
}

// write is a short text for a document's value.
func (v *Value) write(i uint32) string {
	switch n := &v.nodes[i]; n.kind {
	case Null:
		return "null"
	case False:
		return "false"
	case True:
		return "true"
	case Number:
		return v.str(i)
	case String:
		return strconv.Quote(v.str(i))
	case Array:
		return "a list"
	default:
		return "an object"
	}
}
