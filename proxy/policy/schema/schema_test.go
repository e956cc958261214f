package schema

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
)

// compile compiles a schema from its text.
func compile(t testing.TB, text string, old bool) (*Schema, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "schema.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var s *Schema
	_, err := document.Read(path, func(d *document.Document) (err error) {
		c := NewCompiler(d, old)
		if s, err = c.Compile(d.Root); err == nil {
			err = c.Check()
		}
		return err
	})
	return s, err
}

func mustCompile(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := compile(t, text, false)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

func check(t testing.TB, s *Schema, text string) (bool, []exchange.Finding) {
	t.Helper()
	v := &Value{}
	if err := v.Parse(text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	c := NewChecker()
	c.Formats = true
	ok := c.Check(s, v, "body")
	if ok != (len(c.Found) == 0) {
		t.Errorf("%s: Check = %v with findings %v", text, ok, c.Found)
	}
	if quiet := c.Accepts(s, v); quiet != ok {
		t.Errorf("%s: Accepts = %v where Check = %v", text, quiet, ok)
	}
	return ok, c.Found
}

// TestKeywords: each keyword of draft 2020-12 with values that it takes and
// values that it doesn't.
func TestKeywords(t *testing.T) {
	for _, tt := range []struct {
		schema   string
		good     string // values, with spaces between
		bad      string
		keywords string
	}{
		{schema: `true`, good: `1 null {} "x"`},
		{schema: `false`, bad: `1 null {} "x"`},
		{schema: `{}`, good: `1 null {} [] "x" true`},
		{schema: `{"type": "null"}`, good: `null`, bad: `0 "" false [] {}`},
		{schema: `{"type": "boolean"}`, good: `true false`, bad: `0 "true" null`},
		{schema: `{"type": "integer"}`, good: `1 -1 0 1.0 1e2 12345678901234567890123 1.5e1`, bad: `1.5 "1" null 1e-1 1.50`},
		{schema: `{"type": "number"}`, good: `1 1.5 1e-1`, bad: `"1" null true`},
		{schema: `{"type": "string"}`, good: `"" "x"`, bad: `1 null`},
		{schema: `{"type": "array"}`, good: `[] [1]`, bad: `{} "x"`},
		{schema: `{"type": "object"}`, good: `{} {"a":1}`, bad: `[] null`},
		{schema: `{"type": ["integer", "null"]}`, good: `1 null`, bad: `1.5 "x"`},
		{schema: `{"enum": [1, "a", null, [1,{"b":2}], {"x":1,"y":2}]}`, good: `1 1.0 10e-1 "a" null [1,{"b":2.0}] {"y":2,"x":1}`, bad: `2 "b" false [1] [1,{"b":3}] {"x":1} {"x":1,"y":2,"z":3}`},
		{schema: `{"const": 0}`, good: `0 0.0 -0 0e9`, bad: `false "" null 1`},
		{schema: `{"const": 1, "enum": [1, 2]}`, good: `1`, bad: `2 3`},
		{schema: `{"enum": [2], "const": 1}`, bad: `1 2`},
		{schema: `{"const": false}`, good: `false`, bad: `0 [] null`},
		{schema: `{"const": [false]}`, good: `[false]`, bad: `[0] [[]] false`},
		{schema: `{"const": 9007199254740993}`, good: `9007199254740993`, bad: `9007199254740992 9007199254740994`},
		{schema: `{"multipleOf": 2}`, good: `4 0 -2 "x" 1e300 4.0`, bad: `7 1.5 -3`},
		{schema: `{"multipleOf": 0.01}`, good: `4.02 0 19.99 4.035e2 1e20`, bad: `4.021 0.001 1e-3`},
		{schema: `{"multipleOf": 1e-8}`, good: `12391239123 1e-8 1e8`, bad: `1e-9`},
		{schema: `{"multipleOf": 3}`, good: `999999999999999999999999999 3e999999999`, bad: `1e999999999 1000000000000000000000000000`},
		{schema: `{"multipleOf": 1e30}`, good: `1e30 5e31 0`, bad: `1 1e29 15e29`},
		{schema: `{"maximum": 3}`, good: `3 3.0 -5 "x" 2.999999999999999999999`, bad: `3.000000000000000000001 4 1e999999999`},
		{schema: `{"exclusiveMaximum": 3}`, good: `2.9`, bad: `3 3.0 4`},
		{schema: `{"minimum": -1.5}`, good: `-1.5 0 -1`, bad: `-1.51 -2 -1e999999999`},
		{schema: `{"exclusiveMinimum": 0}`, good: `1e-999999999 1`, bad: `0 -0.0 -1`},
		{schema: `{"maximum": 9007199254740992}`, good: `9007199254740992`, bad: `9007199254740993`},
		{schema: `{"maxLength": 2}`, good: `"" "ab" "éé" "💩💩" 100`, bad: `"abc" "💩💩💩"`},
		{schema: `{"minLength": 2}`, good: `"ab" "éé" 1`, bad: `"a" "" "é" "💩"`},
		{schema: `{"pattern": "^a.c$"}`, good: `"abc" 1`, bad: `"abcd" "a\nc" ""`},
		{schema: `{"pattern": "b"}`, good: `"abc"`, bad: `"ac"`},
		{schema: `{"maxItems": 1}`, good: `[] [1] {}`, bad: `[1,2]`},
		{schema: `{"minItems": 1}`, good: `[1] "x"`, bad: `[]`},
		{schema: `{"uniqueItems": true}`, good: `[] [1,2] [1,"1"] [{"a":1},{"a":2}] [0,false] [1,true] [[1],[2]] ["a","b"] [{"a":false},{"a":0}]`, bad: `[1,1] [1,1.0] [1,10e-1] [{"a":1,"b":2},{"b":2,"a":1}] [null,null] [[1],[1]] [2,3,2]`},
		{schema: `{"uniqueItems": false}`, good: `[1,1]`},
		{schema: `{"items": {"type": "integer"}}`, good: `[] [1,2] {}`, bad: `[1,"x"]`},
		{schema: `{"items": false}`, good: `[]`, bad: `[1]`},
		{schema: `{"prefixItems": [{"type": "integer"}, {"type": "string"}]}`, good: `[] [1] [1,"a"] [1,"a",true]`, bad: `["a"] [1,2]`},
		{schema: `{"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}`, good: `[1,"a","b"]`, bad: `[1,2] ["a"]`},
		{schema: `{"contains": {"minimum": 5}}`, good: `[1,5] [6] {}`, bad: `[] [1,2]`},
		{schema: `{"contains": {"minimum": 5}, "minContains": 2, "maxContains": 3}`, good: `[5,6] [5,6,7,1]`, bad: `[5] [5,6,7,8]`},
		{schema: `{"contains": {"minimum": 5}, "minContains": 0}`, good: `[] [1]`},
		{schema: `{"minContains": 2}`, good: `[] [1]`},
		{schema: `{"properties": {"a": {"type": "integer"}, "b": false}}`, good: `{} {"a":1} {"c":"x"} []`, bad: `{"a":"x"} {"b":1}`},
		{schema: `{"required": ["a", "b"]}`, good: `{"a":1,"b":null} []`, bad: `{} {"a":1} {"b":1,"A":2}`},
		{schema: `{"required": ["a"], "properties": {"a": {"type": "string"}}}`, good: `{"a":"x"}`, bad: `{} {"a":1}`},
		{schema: `{"properties": {"a": {}}, "additionalProperties": false}`, good: `{} {"a":1}`, bad: `{"b":1} {"a":1,"b":1}`},
		{schema: `{"required": ["b"], "additionalProperties": false}`, bad: `{"b":1}`},
		{schema: `{"additionalProperties": {"type": "integer"}}`, good: `{"a":1}`, bad: `{"a":"x"}`},
		{schema: `{"patternProperties": {"^x-": {"type": "integer"}, "y$": {"minimum": 5}}, "additionalProperties": false}`, good: `{"x-a":1} {"x-y":5} {"ay":"s"}`, bad: `{"x-a":"s"} {"x-y":1} {"b":1}`},
		{schema: `{"propertyNames": {"pattern": "^[a-z]+$", "maxLength": 3}}`, good: `{} {"abc":1}`, bad: `{"A":1} {"abcd":1}`},
		{schema: `{"maxProperties": 1, "minProperties": 1}`, good: `{"a":1} []`, bad: `{} {"a":1,"b":2}`},
		{schema: `{"dependentRequired": {"a": ["b"]}}`, good: `{} {"b":1} {"a":1,"b":1}`, bad: `{"a":1}`},
		{schema: `{"dependentSchemas": {"a": {"required": ["b"], "properties": {"b": {"type": "integer"}}}}}`, good: `{} {"b":"x"} {"a":1,"b":1}`, bad: `{"a":1} {"a":1,"b":"x"}`},
		{schema: `{"allOf": [{"minimum": 1}, {"maximum": 2}]}`, good: `1 2 "x"`, bad: `0 3`},
		{schema: `{"anyOf": [{"type": "integer"}, {"minLength": 2}]}`, good: `1 "ab" 1.5`, bad: `"a"`},
		{schema: `{"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}`, good: `2 3 4`, bad: `6 5 "x"`},
		{schema: `{"not": {"type": "string"}}`, good: `1 null`, bad: `"x"`},
		{schema: `{"not": {}}`, bad: `1 null`},
		{schema: `{"if": {"properties": {"k": {"const": 1}}, "required": ["k"]}, "then": {"required": ["a"]}, "else": {"required": ["b"]}}`, good: `{"k":1,"a":1} {"b":1} {"k":2,"b":1}`, bad: `{"k":1} {"k":1,"b":1} {} {"k":2,"a":1}`},
		{schema: `{"then": false, "else": false}`, good: `1`},
		{schema: `{"if": false, "else": {"type": "string"}}`, good: `"x"`, bad: `1`},
		{schema: `{"unevaluatedProperties": false}`, good: `{} 1`, bad: `{"a":1}`},
		{schema: `{"allOf": [{"properties": {"a": true}}], "properties": {"b": true}, "unevaluatedProperties": false}`, good: `{"a":1,"b":2} {}`, bad: `{"c":1} {"a":1,"c":2}`},
		{schema: `{"anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"const": 1}}, "required": ["b"]}], "unevaluatedProperties": false}`, good: `{"a":1} {"b":1} {"a":1,"b":1}`, bad: `{"a":1,"b":2} {"a":1,"c":1}`},
		{schema: `{"oneOf": [{"properties": {"a": true}, "required": ["a"]}, {"properties": {"b": true}, "required": ["b"]}], "unevaluatedProperties": false}`, good: `{"a":1} {"b":1}`, bad: `{"a":1,"c":1} {"a":1,"b":1}`},
		{schema: `{"if": {"properties": {"k": {"const": 1}}, "required": ["k"]}, "then": {"properties": {"a": true}}, "else": {"properties": {"b": true}}, "unevaluatedProperties": false}`, good: `{"k":1} {"k":1,"a":2} {"b":2}`, bad: `{"k":1,"b":2} {"a":2} {"k":2}`},
		{schema: `{"not": {"not": {"properties": {"a": true}}}, "unevaluatedProperties": false}`, good: `{}`, bad: `{"a":1}`},
		{schema: `{"allOf": [{"properties": {"a": true}}, {"unevaluatedProperties": false}]}`, good: `{}`, bad: `{"a":1}`},
		{schema: `{"properties": {"b": true}, "allOf": [{"properties": {"a": true}, "unevaluatedProperties": {"type": "integer"}}], "unevaluatedProperties": false}`, good: `{"a":1} {"a":1,"x":2} {"b":1}`, bad: `{"b":"x"} {"x":"y"}`},
		{schema: `{"$ref": "#/$defs/d", "properties": {"b": true}, "unevaluatedProperties": false, "$defs": {"d": {"properties": {"a": true}}}}`, good: `{"a":1,"b":1}`, bad: `{"c":1}`},
		{schema: `{"dependentSchemas": {"a": {"properties": {"a": true, "b": true}}}, "unevaluatedProperties": false}`, good: `{"a":1,"b":1} {}`, bad: `{"b":1} {"a":1,"c":1}`},
		{schema: `{"patternProperties": {"^x": true}, "unevaluatedProperties": {"type": "null"}}`, good: `{"xa":1} {"b":null}`, bad: `{"b":1}`},
		{schema: `{"additionalProperties": true, "unevaluatedProperties": false}`, good: `{"a":1}`},
		{schema: `{"unevaluatedItems": false}`, good: `[] {}`, bad: `[1]`},
		{schema: `{"prefixItems": [true], "unevaluatedItems": false}`, good: `[1] []`, bad: `[1,2]`},
		{schema: `{"allOf": [{"prefixItems": [true, {"type": "integer"}]}], "prefixItems": [{"type": "string"}], "unevaluatedItems": {"type": "null"}}`, good: `["a",1] ["a",1,null]`, bad: `["a",1,1] ["a","b"]`},
		{schema: `{"items": true, "unevaluatedItems": false}`, good: `[1,2,3]`},
		{schema: `{"contains": {"type": "string"}, "unevaluatedItems": false}`, good: `["a","b"]`, bad: `["a",1] []`},
		{schema: `{"anyOf": [{"prefixItems": [{"const": 1}]}, {"prefixItems": [true, {"const": 2}]}], "unevaluatedItems": false}`, good: `[1] [1,2] [3,2] [3]`, bad: `[3,1] [1,3] [3,2,1]`},
		{schema: `{"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"type": "integer"}}, "required": ["v"], "additionalProperties": false}}, "$ref": "#/$defs/node"}`, good: `{"v":1} {"v":1,"next":{"v":2,"next":{"v":3}}}`, bad: `{"v":1,"next":{}} {"v":1,"next":{"v":2,"x":1}}`},
		{schema: `{"$defs": {"a": {"$anchor": "here", "type": "integer"}}, "$ref": "#here"}`, good: `1`, bad: `"x"`},
		{schema: `{"$defs": {"a/b~c%": {"type": "integer"}}, "$ref": "#/$defs/a~1b~0c%25"}`, good: `1`, bad: `"x"`},
		{schema: `{"$ref": "#/$defs/a", "minimum": 5, "$defs": {"a": {"type": "integer"}}}`, good: `5`, bad: `4 "x" 5.5`},
		{schema: `{"title": "t", "description": "d", "default": 1, "deprecated": true, "examples": [1], "$comment": "c", "x-own": 1, "contentMediaType": "application/json", "contentEncoding": "base64"}`, good: `1 "x"`},
		{schema: `{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "integer"}`, good: `1`, bad: `"x"`},
		{schema: `{"properties": {"n": {"format": "int32", "type": "integer"}}}`, good: `{"n":2147483647}`, bad: `{"n":2147483648} {"n":-2147483649}`},
	} {
		t.Run(tt.schema, func(t *testing.T) {
			s := mustCompile(t, tt.schema)
			for _, v := range strings.Fields(tt.good) {
				if ok, found := check(t, s, v); !ok {
					t.Errorf("Check(%s) finds %v", v, found)
				}
			}
			for _, v := range strings.Fields(tt.bad) {
				if ok, _ := check(t, s, v); ok {
					t.Errorf("Check(%s) finds nothing", v)
				}
			}
		})
	}
}

// TestFindings: what is said, and where.
func TestFindings(t *testing.T) {
	const order = `
type: object
required: [id, items]
additionalProperties: false
properties:
  id: {type: string, format: uuid}
  count: {type: integer, minimum: 1, maximum: 10}
  a/b~c: {type: boolean}
  kind: {enum: [new, used]}
  items:
    type: array
    maxItems: 2
    items:
      oneOf:
      - {$ref: '#/$defs/book'}
      - {$ref: '#/$defs/disc'}
      discriminator: {propertyName: kind, mapping: {b: '#/$defs/book'}}
  owner:
    anyOf:
    - {type: 'null'}
    - {type: object, required: [name]}
$defs:
  book: {type: object, required: [pages], properties: {pages: {type: integer}}}
  disc: {type: object, required: [tracks], properties: {tracks: {type: integer}}}
`
	s := mustCompile(t, order)
	id := `"id":"f81d4fae-7dec-11d0-a765-00a0c91e6bf6"`
	for _, tt := range []struct {
		name, text string
		want       []exchange.Finding
	}{
		{"missing", `{}`, []exchange.Finding{{Where: "body/id", What: "is required"}, {Where: "body/items", What: "is required"}}},
		{"wrong type", `[]`, []exchange.Finding{{Where: "body", What: "has to be object"}}},
		{"format", `{"id":"secret","items":[]}`, []exchange.Finding{{Where: "body/id", What: "isn't of the format uuid"}}},
		{"range", `{` + id + `,"items":[],"count":11}`, []exchange.Finding{{Where: "body/count", What: "has to be at most 10"}}},
		{"escaped name", `{` + id + `,"items":[],"a/b~c":1}`, []exchange.Finding{{Where: "body/a~1b~0c", What: "has to be boolean"}}},
		{"unknown", `{` + id + `,"items":[],"more":1}`, []exchange.Finding{{Where: "body/more", What: "isn't allowed here"}}},
		{"enum", `{` + id + `,"items":[],"kind":"x"}`, []exchange.Finding{{Where: "body/kind", What: `has to be one of "new", "used"`}}},
		{"count", `{` + id + `,"items":[{"pages":1},{"pages":1},{"pages":1}]}`, []exchange.Finding{{Where: "body/items", What: "has to have at most 2 items"}}},
		{"no branch", `{` + id + `,"items":[{"x":1}]}`, []exchange.Finding{{Where: "body/items/0", What: "fits none of the 2 forms that it may have"}}},
		{"both branches", `{` + id + `,"items":[{"pages":1,"tracks":1}]}`, []exchange.Finding{{Where: "body/items/0", What: "fits several of the forms of which it has to have one"}}},
		{"branch by mapping", `{` + id + `,"items":[{"kind":"b","pages":"x"}]}`, []exchange.Finding{{Where: "body/items/0/pages", What: "has to be integer"}}},
		{"branch by name", `{` + id + `,"items":[{"kind":"disc"}]}`, []exchange.Finding{{Where: "body/items/0/tracks", What: "is required"}}},
		{"branch by type", `{` + id + `,"items":[],"owner":{}}`, []exchange.Finding{{Where: "body/owner/name", What: "is required"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, found := check(t, s, tt.text)
			if diff := cmp.Diff(tt.want, found); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBounds: what is said is bounded, however much is wrong.
func TestBounds(t *testing.T) {
	s := mustCompile(t, `{"additionalProperties": false}`)
	var b strings.Builder
	for i := range 1000 {
		b.WriteString(`,"` + strconv.Itoa(i) + strings.Repeat("é", 5000) + `":1`)
	}
	_, found := check(t, s, "{"+b.String()[1:]+"}")
	if len(found) != maxFindings {
		t.Errorf("%d findings, want %d", len(found), maxFindings)
	}
	for _, f := range found {
		if len(f.Where) > maxWhere+4 {
			t.Errorf("where has %d bytes", len(f.Where))
		}
	}
}

// TestRefused: schemas that can't be checked in full are refused, with what to
// do about it.
func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, schema, want string }{
		{"typo", `{"maxLenght": 1}`, `schema.yaml:1:2: unknown keyword "maxLenght": did you mean "maxLength"?`},
		{"type", `{"type": "int"}`, `schema.yaml:1:10: there is no type "int"`},
		{"type typo", `{"type": "strin"}`, `schema.yaml:1:10: there is no type "strin": did you mean "string"?`},
		{"dynamic", `{"$dynamicRef": "#x"}`, `schema.yaml:1:17: keyword $dynamicRef: references that depend on who refers aren't supported: use $ref`},
		{"id", `{"$id": "https://example.com/x"}`, `schema.yaml:1:9: $id isn't supported: references go by the files' names`},
		{"dialect", `{"$schema": "http://json-schema.org/draft-07/schema#"}`, `schema.yaml:1:13: the dialect "http://json-schema.org/draft-07/schema#" isn't supported: it has to be https://json-schema.org/draft/2020-12/schema`},
		{"tuple", `{"items": [true]}`, `schema.yaml:1:11: a list of items is prefixItems since draft 2020-12`},
		{"definitions", `{"definitions": {}}`, `schema.yaml:1:17: keyword definitions: it is $defs since draft 2019-09`},
		{"nullable", `{"nullable": true}`, `schema.yaml:1:14: nullable is of OpenAPI 3.0: write type: [..., "null"]`},
		{"exclusive", `{"exclusiveMinimum": true}`, `schema.yaml:1:22: exclusiveMinimum has to be a number`},
		{"lookahead", `{"pattern": "^(?=a)b"}`, `schema.yaml:1:13: the pattern "^(?=a)b" has a lookaround, (?=…), which RE2 hasn't: write it as another keyword (not, allOf), or without`},
		{"back reference", `{pattern: '(a)\1'}`, `schema.yaml:1:11: the pattern "(a)\\1" has a reference back, which RE2 hasn't`},
		{"repeat", `{"pattern": "^a{1,2000}$"}`, `schema.yaml:1:13: the pattern "^a{1,2000}$" doesn't work: RE2 repeats no more than 1000 times; maxLength and maxItems have no such bound`},
		{"pattern of a name", `{"patternProperties": {"(": true}}`, `schema.yaml:1:29: the pattern "(" doesn't work: missing closing ): ` + "`(`"},
		{"no such", `{"$ref": "#/$defs/b", "$defs": {"a": {}}}`, `schema.yaml:1:10: "#/$defs/b": there is no "b": did you mean "a"?`},
		{"no anchor", `{"$ref": "#x"}`, `schema.yaml:1:10: "#x": schema.yaml has no such $anchor`},
		{"network", `{"$ref": "https://example.com/x.yaml"}`, `schema.yaml:1:10: "https://example.com/x.yaml": a document refers to files in its own folder and below, and to nothing else`},
		{"outside", `{"$ref": "../x.yaml"}`, `schema.yaml:1:10: "../x.yaml" leads out of the document's folder`},
		{"endless", `{"allOf": [{"$ref": "#"}]}`, `schema.yaml:1:1: the schema applies itself to the same value without end`},
		{"negative", `{"maxLength": -1}`, `schema.yaml:1:15: maxLength has to be a whole number, 0 or more`},
		{"multiple of 0", `{"multipleOf": 0}`, `schema.yaml:1:16: multipleOf has to be more than 0`},
		{"empty allOf", `{"allOf": []}`, `schema.yaml:1:11: allOf has to have one schema at least`},
		{"a number", `{"properties": 1}`, `schema.yaml:1:16: properties is a number, and has to be a map`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := compile(t, tt.schema, false)
			if err == nil || err.Error() != tt.want {
				t.Errorf("Compile = %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestOld: what is different in OpenAPI 3.0.
func TestOld(t *testing.T) {
	for _, tt := range []struct{ schema, good, bad string }{
		{`{type: integer, nullable: true}`, `1 null`, `"x"`},
		{`{type: integer}`, `1`, `null`},
		{`{type: integer, minimum: 1, exclusiveMinimum: true}`, `2`, `1`},
		{`{type: integer, minimum: 1, exclusiveMinimum: false, maximum: 5, exclusiveMaximum: true}`, `1 4`, `0 5`},
		{`{type: string, format: byte}`, `"YQ=="`, `"YQ" "?"`},
		{`{type: object, additionalProperties: false}`, `{}`, `{"a":1}`},
	} {
		s, err := compile(t, tt.schema, true)
		if err != nil {
			t.Errorf("%s: %v", tt.schema, err)
			continue
		}
		for _, v := range strings.Fields(tt.good) {
			if ok, found := check(t, s, v); !ok {
				t.Errorf("%s: Check(%s) finds %v", tt.schema, v, found)
			}
		}
		for _, v := range strings.Fields(tt.bad) {
			if ok, _ := check(t, s, v); ok {
				t.Errorf("%s: Check(%s) finds nothing", tt.schema, v)
			}
		}
	}
	for text, want := range map[string]string{
		`{const: 1}`:            "schema.yaml:1:9: keyword const is of OpenAPI 3.1, and the document says 3.0",
		`{type: [string]}`:      "schema.yaml:1:8: type is a list, and has to be text",
		`{type: array}`:         "schema.yaml:1:1: an array lacks its items",
		`{type: "null"}`:        "schema.yaml:1:8: the type null is of OpenAPI 3.1, and the document says 3.0: write nullable: true",
		`{propertyNames: {}}`:   "schema.yaml:1:17: keyword propertyNames is of OpenAPI 3.1, and the document says 3.0",
		`{minimum: x}`:          "schema.yaml:1:11: minimum has to be a number",
		`{properties: {a: 1 }}`: "schema.yaml:1:18: a schema is a number, and has to be a map",
	} {
		if _, err := compile(t, text, true); err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", text, err, want)
		}
	}
}

// TestSides: a request need not have what is the service's to give.
func TestSides(t *testing.T) {
	s := mustCompile(t, `{required: [id, name, secret], properties: {id: {readOnly: true}, name: {}, secret: {writeOnly: true}}}`)
	for _, tt := range []struct {
		text     string
		response bool
		want     bool
	}{
		{`{"name":1,"secret":1}`, false, true},
		{`{"name":1,"secret":1}`, true, false},
		{`{"id":1,"name":1}`, true, true},
		{`{"id":1,"name":1}`, false, false},
		{`{"id":1,"secret":1}`, false, false},
	} {
		v := &Value{}
		if err := v.Parse(tt.text); err != nil {
			t.Fatal(err)
		}
		c := NewChecker()
		c.Response = tt.response
		if got := c.Check(s, v, "body"); got != tt.want {
			t.Errorf("%s, response %v: %v, want %v: %v", tt.text, tt.response, got, tt.want, c.Found)
		}
	}
}

// TestText: what came as text is what the schema's types let it be.
func TestText(t *testing.T) {
	for _, tt := range []struct {
		schema   string
		good     []string
		bad      []string
		whatelse bool
	}{
		{schema: `{type: integer, minimum: 5}`, good: []string{"5", "10", "1e1"}, bad: []string{"4", "x", "", "5.5", "05", "0x10", " 5", "+5", "5 "}},
		{schema: `{type: number}`, good: []string{"5", "-1.5"}, bad: []string{"NaN", "Infinity", "1_0", ".5", "5."}},
		{schema: `{type: boolean}`, good: []string{"true", "false"}, bad: []string{"True", "1", "", "yes"}},
		{schema: `{type: string, maxLength: 2}`, good: []string{"", "12", "ab"}, bad: []string{"123"}},
		{schema: `{type: [integer, "null"]}`, good: []string{"5", ""}, bad: []string{"x", "null"}},
		{schema: `{type: [integer, string], maximum: 5}`, good: []string{"5", "x"}, bad: []string{"6"}},
		{schema: `{enum: [1, a, true]}`, good: []string{"1", "1.0", "a", "true"}, bad: []string{"2", "b", "false"}},
		{schema: `{type: string, enum: ["1"]}`, good: []string{"1"}, bad: []string{"2", "1.0"}},
		{schema: `{type: integer, pattern: "^a"}`, good: []string{"5"}},
		{schema: `{anyOf: [{type: integer, minimum: 10}, {type: string, maxLength: 1}]}`, good: []string{"10", "5"}, bad: []string{"ab"}},
		{schema: `{}`, good: []string{"", "x", "1"}},
		{schema: `{type: object}`, bad: []string{"", "x", "{}"}},
	} {
		s := mustCompile(t, tt.schema)
		for _, list := range [][]string{tt.good, tt.bad} {
			for _, text := range list {
				v := &Value{}
				v.Text(text)
				c := NewChecker()
				want := len(tt.good) > 0 && &list[0] == &tt.good[0]
				if got := c.Check(s, v, "x"); got != want {
					t.Errorf("%s: Check(%q) = %v, want %v", tt.schema, text, got, want)
				}
			}
		}
	}
}
