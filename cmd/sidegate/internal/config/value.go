package config

import (
	"bytes"
	"encoding"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// value is one value on its way into a field.
type value struct {
	field   *field
	cty     cty.Value
	outside bool // a function brought it in
	at      hcl.Range
	name    string // as messages name it
}

// argument decodes the expression of an argument into target, a field of the
// struct that v points to.
func (d *decoder) argument(doc *document, it item, f *field, v any, target reflect.Value) {
	if doc.eval == nil {
		doc.eval = functions(doc, d.opt, func(path string) { d.opened = append(d.opened, path) })
	}
	at := it.expr.Range()
	d.places[place{v, f.name}] = at
	isSecret := f.typ == reflect.TypeFor[secret.String]()
	if (isSecret || f.hidden) && !calls(it.expr, doc.src) {
		d.diags.secrets = append(d.diags.secrets, at)
	}
	got, found := it.expr.Value(doc.eval)
	if found.HasErrors() {
		d.notEvaluated(f, found)
		return
	}
	got, marks := got.UnmarkDeep()
	val := value{field: f, cty: got, outside: len(marks) > 0, at: at, name: f.name}
	if val.outside {
		d.external[place{v, f.name}] = true
	}
	if got.IsNull() {
		delete(d.places, place{v, f.name}) // null: as if it weren't there
		return
	}
	switch target.Kind() {
	case reflect.Slice:
		d.list(val, it.expr, v, target)
	case reflect.Map:
		d.mapping(val, it.expr, v, target)
	default:
		d.scalar(val, target)
	}
	if isSecret && !val.outside && doc.others && target.String() != "" {
		d.diags.warnf(at, fmt.Sprintf("Write %s = file(\"/path\"), env(\"NAME\") or credential(\"name\"), or take the others' right to read: chmod o-r.", f.name),
			"a secret stands in a file that every user of this host may read")
	}
	if f.isFile() && target.String() != "" {
		d.file(doc, val, target)
	}
}

// calls reports whether an expression is a function's call, whose text isn't
// secret.
func calls(e hcl.Expression, src []byte) bool {
	if _, ok := e.(*hclsyntax.FunctionCallExpr); ok {
		return true
	}
	return bytes.HasPrefix(e.Range().SliceBytes(src), []byte(`"${`))
}

// notEvaluated reports why an expression has no value, in fewer words than the
// HCL library.
func (d *decoder) notEvaluated(f *field, found hcl.Diagnostics) {
	for _, h := range found {
		_, why, ok := strings.Cut(h.Detail, " parameter: ")
		switch {
		case h.Summary == "Invalid function argument" && ok && h.Subject != nil:
			d.diags.Errorf(*h.Subject, "", "%s: %s", f.name, strings.TrimSuffix(why, "."))
		case h.Summary == "Variables not allowed" && h.Subject != nil:
			d.diags.Errorf(*h.Subject, "Text stands in quotes: "+f.example(), "%s: there are no variables", f.name)
		default:
			d.diags.addHCL(hcl.Diagnostics{h})
		}
	}
}

// file makes the path of a file absolute and sees that it can be read.
func (d *decoder) file(doc *document, v value, target reflect.Value) {
	path := target.String()
	if !filepath.IsAbs(path) {
		if doc.remote {
			d.diags.Errorf(v.at, "Write the whole path.", "%s in KV must be an absolute path", v.name)
			return
		}
		path = filepath.Join(doc.dir, path)
		target.SetString(path)
	}
	if _, _, err := readBounded(path, maxNamed); err != nil {
		advice := "Check the path, which is relative to the file that it stands in."
		if os.IsPermission(err) {
			advice = "Give the user that sidegate runs as the right to read it."
		}
		d.diags.Errorf(v.at, advice, "%s: %v", v.name, plain(err))
		return
	}
	d.opened = append(d.opened, path)
}

func (d *decoder) list(v value, expr hcl.Expression, of any, target reflect.Value) {
	if t := v.cty.Type(); !t.IsTupleType() && !t.IsListType() && !t.IsSetType() {
		d.wrongType(v)
		return
	}
	parts, found := hcl.ExprList(expr)
	if found.HasErrors() || len(parts) != v.cty.LengthInt() {
		parts = nil
	}
	out := reflect.MakeSlice(target.Type(), 0, v.cty.LengthInt())
	i := 0
	for it := v.cty.ElementIterator(); it.Next(); i++ {
		_, e := it.Element()
		one := value{field: v.field, cty: e, outside: v.outside, at: v.at, name: fmt.Sprintf("%s[%d]", v.name, i)}
		if parts != nil {
			one.at = parts[i].Range()
			d.places[place{of, one.name}] = one.at
		}
		slot := reflect.New(target.Type().Elem()).Elem()
		if d.scalar(one, slot) {
			out = reflect.Append(out, slot)
		}
	}
	if out.Len() == v.cty.LengthInt() {
		target.Set(out)
	}
}

func (d *decoder) mapping(v value, expr hcl.Expression, of any, target reflect.Value) {
	if t := v.cty.Type(); !t.IsObjectType() && !t.IsMapType() {
		d.wrongType(v)
		return
	}
	at := map[string]hcl.Range{}
	if pairs, found := hcl.ExprMap(expr); !found.HasErrors() {
		for _, p := range pairs {
			k, found := p.Key.Value(nil)
			k, _ = k.UnmarkDeep()
			if found.HasErrors() || k.IsNull() || !k.IsKnown() || k.Type() != cty.String {
				continue // the expression's own evaluation has reported it
			}
			key := k.AsString()
			if first, ok := at[key]; ok {
				d.diags.Add(Diagnostic{Text: fmt.Sprintf("%s has %q twice", v.name, key), Range: p.Key.Range(), Also: first, Advice: "Keep one of them."})
			}
			at[key] = p.Value.Range()
		}
	}
	out := reflect.MakeMap(target.Type())
	for it := v.cty.ElementIterator(); it.Next(); {
		k, e := it.Element()
		key := k.AsString()
		one := value{field: v.field, cty: e, outside: v.outside, at: v.at, name: v.name + "[" + strconv.Quote(key) + "]"}
		if r, ok := at[key]; ok {
			one.at = r
			d.places[place{of, one.name}] = r
		}
		slot := reflect.New(target.Type().Elem()).Elem()
		if d.scalar(one, slot) {
			out.SetMapIndex(reflect.ValueOf(key), slot)
		}
	}
	target.Set(out)
}

// scalar sets target, which is no list and no map, and reports whether the
// value was right.
func (d *decoder) scalar(v value, target reflect.Value) bool {
	if v.cty.IsNull() || !v.cty.IsKnown() {
		d.wrongType(v)
		return false
	}
	want := cty.String
	switch {
	case target.Type() == reflect.TypeFor[time.Duration](), v.field.unit == "bytes":
	case target.Kind() == reflect.Bool:
		want = cty.Bool
	case target.CanInt(), target.CanFloat():
		want = cty.Number
	}
	if v.cty.Type() != want {
		// The environment has text only.
		c, err := convert.Convert(v.cty, want)
		if err != nil || !v.outside || v.cty.Type() != cty.String {
			d.wrongType(v)
			return false
		}
		v.cty = c
	}
	switch want {
	case cty.Bool:
		target.SetBool(v.cty.True())
		return true
	case cty.Number:
		return d.number(v, target)
	default:
		return d.text(v, target)
	}
}

func (d *decoder) number(v value, target reflect.Value) bool {
	big := v.cty.AsBigFloat()
	var shown string
	if target.CanInt() {
		n, acc := big.Int64()
		if acc != 0 || target.OverflowInt(n) {
			d.wrongType(v)
			return false
		}
		target.SetInt(n)
		shown = strconv.FormatInt(n, 10)
	} else {
		f, _ := big.Float64()
		if math.IsInf(f, 0) {
			d.wrongType(v)
			return false
		}
		target.SetFloat(f)
		shown = strconv.FormatFloat(f, 'g', -1, 64)
	}
	if len(v.field.enum) > 0 {
		return d.oneOf(v.at, v.name, shown, v.field.enum)
	}
	return d.bounds(v, big.Cmp, shown)
}

// bounds checks min and max; compare compares the value with a bound.
func (d *decoder) bounds(v value, compare numberCompare, shown string) bool {
	if m := v.field.min; m != "" && compare(v.field.bound(m)) < 0 {
		d.diags.Errorf(v.at, "", "%s must be at least %s, and is %s", v.name, m, shown)
		return false
	}
	if m := v.field.max; m != "" && compare(v.field.bound(m)) > 0 {
		d.diags.Errorf(v.at, "", "%s must be at most %s, and is %s", v.name, m, shown)
		return false
	}
	return true
}

func (d *decoder) text(v value, target reflect.Value) bool {
	s := v.cty.AsString()
	switch {
	case target.Type() == reflect.TypeFor[time.Duration]():
		t, err := parseDuration(s)
		if err != nil {
			d.wrongType(v)
			return false
		}
		target.SetInt(int64(t))
		if v.field.min == "" && t < 0 {
			d.diags.Errorf(v.at, "", "%s must not be negative", v.name)
			return false
		}
		return d.bounds(v, compareInt(int64(t)), s)
	case v.field.unit == "bytes":
		n, err := parseSize(s)
		if err != nil {
			d.wrongType(v)
			return false
		}
		target.SetInt(n)
		return d.bounds(v, compareInt(n), s)
	case target.Type() == reflect.TypeFor[netip.Prefix]():
		p, err := parseNetwork(s)
		if err != nil {
			d.diags.Errorf(v.at, `Write a network like "10.0.0.0/8", or an address.`, "%s: %v", v.name, err)
			return false
		}
		target.Set(reflect.ValueOf(p))
		return true
	case target.Kind() == reflect.String:
		target.SetString(s)
		if target.Type() == reflect.TypeFor[secret.String]() {
			return true
		}
		return len(v.field.enum) == 0 || d.oneOf(v.at, v.name, s, v.field.enum)
	}
	if u, ok := target.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(s)); err != nil {
			d.diags.Errorf(v.at, "", "%s: %v", v.name, err)
			return false
		}
		return true
	}
	d.wrongType(v)
	return false
}

// oneOf checks the values of an enumeration.
func (d *decoder) oneOf(at hcl.Range, name, got string, enum []string) bool {
	for _, e := range enum {
		if e == got {
			return true
		}
	}
	advice := ""
	if n := nearest(got, enum); n != "" && strings.Trim(got, "0123456789") != "" {
		advice = fmt.Sprintf("Did you mean %q?", n)
	}
	d.diags.Errorf(at, advice, "%s can't be %q: it is %s", name, got, or(enum))
	return false
}

func (d *decoder) wrongType(v value) {
	got := ""
	if t := v.cty.Type(); t.IsPrimitiveType() {
		got = ", not a " + t.FriendlyName()
		if t == cty.String && v.cty.IsKnown() && !v.cty.IsNull() && !v.outside && v.field.typ != reflect.TypeFor[secret.String]() {
			got = fmt.Sprintf(", not %.60q", v.cty.AsString())
		}
		if t == cty.Number && v.cty.IsKnown() && !v.cty.IsNull() {
			got = ", not " + v.cty.AsBigFloat().Text('g', 12)
		}
	} else if t.IsTupleType() {
		got = ", not a list"
	} else if t.IsObjectType() {
		got = ", not a map"
	}
	want, example := v.field.kindText(), v.field.example()
	if want == "secret" {
		want = "string"
	}
	if strings.Contains(v.name, "[") {
		want = strings.TrimSuffix(strings.NewReplacer("list of ", "", "map of ", "").Replace(want), "s")
	}
	article := "a "
	if strings.HasPrefix(want, "true") {
		article = ""
	}
	d.diags.Errorf(v.at, "Write it like this: "+example, "%s must be %s%s%s", v.name, article, want, got)
}

// example shows how an argument is written.
func (f *field) example() string {
	if f.block {
		return f.name + " { … }"
	}
	v := `"…"`
	switch f.kindText() {
	case "duration":
		v = `"250ms"`
	case "size":
		v = `"10MiB"`
	case "true or false":
		v = "true"
	case "whole number":
		v = "10"
	case "number":
		v = "0.5"
	case "list of strings":
		v = `["a", "b"]`
	case "list of whole numbers":
		v = "[1, 2]"
	case "list of networks":
		v = `["10.0.0.0/8"]`
	case "map of strings":
		v = `{ "name" = "value" }`
	case "map of whole numbers":
		v = `{ "name" = 10 }`
	case "file":
		v = `"/path"`
	}
	if len(f.enum) > 0 && f.typ.Kind() == reflect.String {
		v = strconv.Quote(f.enum[0])
	}
	return f.name + " = " + v
}
