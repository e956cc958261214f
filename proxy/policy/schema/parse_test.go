package schema

import (
	"bytes"
	"encoding/json"
	"io"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", ``, "isn't JSON: it ends too early, at byte 0"},
		{"trailing", `{} x`, "isn't JSON: has something behind its value, at byte 3"},
		{"two values", `{}{}`, "isn't JSON: has something behind its value, at byte 2"},
		{"name twice", `{"a":1,"b":2,"a":3}`, "isn't JSON: an object has a name twice, at byte 19"},
		{"name twice by an escape", `{"a":1,"\u0061":3}`, "isn't JSON: an object has a name twice, at byte 18"},
		{"name twice among many", `{"1":1,"2":2,"3":3,"4":4,"5":5,"6":6,"7":7,"8":8,"9":9,"10":1,"11":1,"12":1,"13":1,"7":1}`, "isn't JSON: an object has a name twice, at byte 89"},
		{"comma", `[1,]`, "isn't JSON: a value is missing, at byte 3"},
		{"no comma", `[1 2]`, "isn't JSON: a comma is missing, at byte 3"},
		{"name without quotes", `{a:1}`, "isn't JSON: a name is missing, at byte 1"},
		{"comment", `/**/1`, "isn't JSON: a value is missing, at byte 0"},
		{"zeros", `01`, "isn't JSON: has something behind its value, at byte 1"},
		{"plus", `+1`, "isn't JSON: a value is missing, at byte 0"},
		{"NaN", `NaN`, "isn't JSON: a value is missing, at byte 0"},
		{"point", `1.`, "isn't JSON: a number is malformed, at byte 0"},
		{"exponent", `1e9999999999`, "isn't JSON: a number's exponent is out of all bounds, at byte 12"},
		{"long number", strings.Repeat("1", 201), "isn't JSON: a number has more than 200 characters, at byte 0"},
		{"UTF-8", "\"\xff\"", "isn't JSON: a string isn't UTF-8, at byte 2"},
		{"UTF-8 behind an escape", "\"\\n\xc0\x80\"", "isn't JSON: a string isn't UTF-8, at byte 5"},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", "isn't JSON: a string isn't UTF-8, at byte 4"},
		{"half a pair", `"\ud800"`, "isn't JSON: a string has an escape that there isn't, at byte 1"},
		{"half a pair and more", `"\ud800\u0041"`, "isn't JSON: a string has an escape that there isn't, at byte 1"},
		{"control", "\"a\nb\"", "isn't JSON: a string has a control character, at byte 2"},
		{"escape", `"\x41"`, "isn't JSON: a string has an escape that there isn't, at byte 1"},
		{"open string", `"abc`, "isn't JSON: it ends too early, at byte 4"},
		{"byte order mark", "\ufeff{}", "isn't JSON: a value is missing, at byte 0"},
		{"deep", strings.Repeat("[", 1000), "isn't JSON: values stand more than 100 deep, at byte 100"},
		{"deep objects", strings.Repeat(`{"a":`, 1000), "isn't JSON: values stand more than 100 deep, at byte 500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &Value{}
			if err := v.Parse(tt.text); err == nil || err.Error() != tt.want {
				t.Errorf("Parse = %v, want %s", err, tt.want)
			}
		})
	}
}

// plain is a value as encoding/json gives it.
func plain(v *Value, i uint32) (any, uint32) {
	n := v.nodes[i]
	switch n.kind {
	case Null:
		return nil, n.next
	case False, True:
		return n.kind == True, n.next
	case Number:
		return json.Number(v.str(i)), n.next
	case String:
		return strings.Clone(v.str(i)), n.next
	case Array:
		list := []any{}
		for at := i + 1; at < n.next; {
			var one any
			one, at = plain(v, at)
			list = append(list, one)
		}
		return list, n.next
	default:
		m := map[string]any{}
		for at := i + 1; at < n.next; {
			name := strings.Clone(v.str(at))
			m[name], at = plain(v, at+1)
		}
		return m, n.next
	}
}

// FuzzParse: what is read, encoding/json reads, and as the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"x\u00e9\ud83d\ude00\n",null,true,false,{}]}`, `[]`, `" "`, `-0`, `[[[[]]]]`, `{"":""}`, "\t[ 1 , 2 ]\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v := &Value{}
		err := v.Parse(text)
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var want any
		theirs := d.Decode(&want)
		if _, end := d.Token(); theirs == nil && end != io.EOF {
			theirs = io.ErrUnexpectedEOF
		}
		if err != nil {
			if theirs != nil || !utf8.ValidString(text) {
				return
			}
			// What we refuse beyond: names twice, half pairs, depth, long numbers.
			for _, why := range []string{"a name twice", "an escape that there isn't", "deep", "characters", "out of all bounds"} {
				if strings.Contains(err.Error(), why) {
					return
				}
			}
			t.Fatalf("Parse(%q) = %v; encoding/json takes it", text, err)
		}
		if theirs != nil {
			t.Fatalf("Parse(%q) takes what encoding/json doesn't: %v", text, theirs)
		}
		got, next := plain(v, 0)
		if int(next) != len(v.nodes) {
			t.Fatalf("Parse(%q): %d nodes, the root ends at %d", text, len(v.nodes), next)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("Parse(%q) (-encoding/json +ours):\n%s", text, diff)
		}
	})
}

// FuzzNumber: numbers compare as exact fractions do.
func FuzzNumber(f *testing.F) {
	for _, s := range [][2]string{{"1", "1.0"}, {"0.1", "1e-1"}, {"-5", "5"}, {"100", "1e2"}, {"0", "-0.0"}, {"12.34", "12.340"}, {"9007199254740993", "9007199254740992"}, {"0.00120", "12e-4"}, {"10.10", "1.01e1"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if !isNumber(a) || !isNumber(b) {
			return
		}
		x, _ := parseDecimal(a)
		y, _ := parseDecimal(b)
		if max(x.point, -x.point, y.point, -y.point) > 2000 {
			return // too large for big.Rat, which is the point of having our own
		}
		p, ok := new(big.Rat).SetString(a)
		q, fine := new(big.Rat).SetString(b)
		if !ok || !fine {
			return
		}
		if got, want := x.compare(&y), p.Cmp(q); got != want {
			t.Errorf("compare(%s, %s) = %d, want %d", a, b, got, want)
		}
		if got, want := x.whole(), p.IsInt(); got != want {
			t.Errorf("whole(%s) = %v, want %v", a, got, want)
		}
		if q.Sign() > 0 {
			if got, want := x.multipleOf(&y), new(big.Rat).Quo(p, q).IsInt(); got != want {
				t.Errorf("multipleOf(%s, %s) = %v, want %v", a, b, got, want)
			}
		}
		c := NewChecker()
		if same := p.Cmp(q) == 0; same && c.hashNumber(&x) != c.hashNumber(&y) {
			t.Errorf("%s and %s are equal and have two hashes", a, b)
		}
	})
}

// TestSteps: what would take a schema's branches for ever is refused after a
// bounded number of steps, and honest values of the same schema are not.
func TestSteps(t *testing.T) {
	filter := mustCompile(t, `
$ref: '#/$defs/filter'
$defs:
  filter:
    oneOf:
    - {type: object, properties: {of: {type: array, items: {$ref: '#/$defs/filter'}}, op: {const: and}}, required: [op, of]}
    - {type: object, properties: {of: {type: array, items: {$ref: '#/$defs/filter'}}, op: {const: or}}, required: [op, of]}
    - {type: object, properties: {field: {type: string}}, required: [field]}
`)
	nest := func(n int) string {
		return strings.Repeat(`{"of":[`, n) + `{"field":"x"}` + strings.Repeat(`],"op":"or"}`, n)
	}
	if ok, found := check(t, filter, nest(45)); !ok { // "op" tells before "of" is looked at
		t.Errorf("an honest filter: %v", found)
	}
	twins := mustCompile(t, `
$ref: '#/$defs/filter'
$defs:
  filter:
    anyOf:
    - {type: object, properties: {of: {type: array, items: {$ref: '#/$defs/filter'}}, op: {const: and}}, required: [of]}
    - {type: object, properties: {of: {type: array, items: {$ref: '#/$defs/filter'}}}, required: [of], not: {required: [op]}}
    - {type: object, properties: {field: {const: y}}, required: [field]}
`)
	ok, found := check(t, twins, strings.ReplaceAll(nest(45), `,"op":"or"`, ""))
	if ok || len(found) != 1 || found[0].What != "is too complex to be checked" || found[0].Where != "body" {
		t.Errorf("a filter 40 deep: %v %v", ok, found)
	}
	unique := mustCompile(t, `{uniqueItems: true}`)
	var b strings.Builder
	for i := range 100_000 {
		b.WriteString(`,{"a":`)
		b.WriteString(big.NewInt(int64(i)).String())
		b.WriteByte('}')
	}
	if ok, found := check(t, unique, "["+b.String()[1:]+"]"); !ok {
		t.Errorf("100,000 different items: %v", found)
	}
	pattern := mustCompile(t, `{pattern: "^[A-Za-z0-9+/]*=*$"}`)
	if ok, found := check(t, pattern, `"`+strings.Repeat("QUJD", 250_000)+`"`); !ok {
		t.Errorf("a megabyte of base64: %v", found)
	}
	uri := mustCompile(t, `{pattern: "^data:image/(png|jpe?g|gif|webp);base64,[A-Za-z0-9+/]+={0,2}$"}`)
	if ok, found := check(t, uri, `"data:image/png;base64,`+strings.Repeat("QUJD", 250_000)+`"`); !ok {
		t.Errorf("a megabyte of base64 in a URI: %v", found)
	}
	for _, s := range []string{
		`{pattern: "(a|aa){1,900}b"}`, `{pattern: "[a-z]{1,1000}[0-9]"}`, `{allOf: [{pattern: "^(a|aa){1,900}$"}, {maxLength: 2000}]}`,
		`{items: {pattern: "(a|aa){1,900}b"}}`, `{patternProperties: {"(a|aa){1,900}b": true}}`, `{propertyNames: {pattern: "(a|aa){1,900}b"}}`,
	} {
		text := `"` + strings.Repeat("a", 250_000) + `"`
		switch {
		case strings.Contains(s, "items"):
			text = `["` + strings.Repeat(strings.Repeat("a", 1000)+`","`, 250) + `"]`
		case strings.Contains(s, "rop"):
			text = "{" + text + ": 1}"
		}
		if ok, found := check(t, mustCompile(t, s), text); ok || len(found) != 1 || found[0].What != "is too complex to be checked" {
			t.Errorf("%s: %v %v", s, ok, found)
		}
	}
	short := mustCompile(t, `{pattern: "(a|aa){1,900}b", maxLength: 2000}`)
	if ok, found := check(t, short, `"`+strings.Repeat("a", 250_000)+`"`); ok || len(found) != 1 || found[0].What != "has to have at most 2000 characters" {
		t.Errorf("what is too long anyway: %v %v", ok, found)
	}
	enum := mustCompile(t, `{items: {enum: [`+strings.Repeat(`[1,2,3,4,5,6,7,8,9,0],`, 999)+`1]}}`)
	if ok, found := check(t, enum, "["+strings.Repeat(`[1,2,3,4,5,6,7,8,9],`, 10_000)+"1]"); ok || found[0].What != "is too complex to be checked" {
		t.Errorf("a long enum and a long list: %v %v", ok, found)
	}
}

// FuzzCheck: whatever the value, a check ends, twice with the same outcome, and
// says nothing of values.
func FuzzCheck(f *testing.F) {
	s := mustCompile(f, `
type: [object, array, string, number, "null"]
properties:
  a: {type: integer, multipleOf: 0.5, minimum: -10}
  b: {type: array, uniqueItems: true, contains: {type: string}, prefixItems: [{const: 1}], unevaluatedItems: {maxLength: 3}}
  c: {$ref: '#'}
  d: {oneOf: [{required: [x]}, {required: [y]}, {type: string, pattern: "^[a-z]{1,5}$"}]}
patternProperties: {"^e": {format: date-time}}
dependentRequired: {a: [b]}
if: {required: [c]}
then: {maxProperties: 3}
unevaluatedProperties: {not: {type: boolean}}
items: {anyOf: [{$ref: '#'}, {minimum: 5}]}
`)
	for _, text := range []string{`{"a":1,"b":[1,"x"],"c":{"d":"q"}}`, `[1,[2,{"e":"2020-01-01T00:00:00Z"}]]`, `"secretsecret"`, `{"d":{"x":1,"y":2}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v := &Value{}
		if v.Parse(string(text)) != nil {
			return
		}
		c := NewChecker()
		c.Formats = true
		first := c.Check(s, v, "body")
		if first != (len(c.Found) == 0) {
			t.Errorf("Check = %v with %v", first, c.Found)
		}
		for _, found := range c.Found {
			if bytes.Contains([]byte(found.What), []byte("secretsecret")) {
				t.Errorf("a finding has the value: %v", found)
			}
		}
		c.Reset()
		if c.Accepts(s, v) != first {
			t.Error("a quiet check comes to another outcome")
		}
	})
}
