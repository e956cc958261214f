package config

import (
	"cmp"
	"fmt"
	"reflect"
	"strconv"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// place is an argument of a decoded struct: where it was written is kept until
// the checks are done. The name is empty for the block itself; elements of a
// list have name[i].
type place struct {
	of   any // pointer to the struct
	name string
}

// decoder fills structs from documents.
type decoder struct {
	diags    *Diagnostics
	opt      Options
	kinds    []*policy.Kind
	schemas  map[reflect.Type]*schema
	places   map[place]hcl.Range
	external map[place]bool // values that functions brought in
	broken   map[any]bool   // structs with an error in them
	opened   []string       // files that functions read
}

func newDecoder(opt Options, diags *Diagnostics) *decoder {
	d := &decoder{
		diags: diags, opt: opt,
		schemas: map[reflect.Type]*schema{}, places: map[place]hcl.Range{},
		external: map[place]bool{}, broken: map[any]bool{},
	}
	for i := range opt.Kinds {
		if opt.Kinds[i].Config != nil { // else it is an argument
			d.kinds = append(d.kinds, &opt.Kinds[i])
		}
	}
	return d
}

func (d *decoder) schema(t reflect.Type) *schema {
	s := d.schemas[t]
	if s == nil {
		s = newSchema(t, d.kinds)
		d.schemas[t] = s
	}
	return s
}

// at is where an argument of a struct was written, or the struct.
func (d *decoder) at(of any, name string) hcl.Range {
	if r, ok := d.places[place{of, name}]; ok {
		return r
	}
	return d.places[place{of, ""}]
}

// element is where element i of a list was written.
func (d *decoder) element(of any, name string, i int) hcl.Range {
	if r, ok := d.places[place{of, name + "[" + strconv.Itoa(i) + "]"}]; ok {
		return r
	}
	return d.at(of, name)
}

// entry is where the value of key in a map was written.
func (d *decoder) entry(of any, name, key string) hcl.Range {
	if r, ok := d.places[place{of, name + "[" + strconv.Quote(key) + "]"}]; ok {
		return r
	}
	return d.at(of, name)
}

// body decodes the arguments and blocks of b into the struct that v points
// to. what names the block in messages. Only the whole file is decoded from
// several bodies.
func (d *decoder) body(doc *document, b hcl.Body, v any, what string) {
	s := d.schema(reflect.TypeOf(v).Elem())
	before := d.diags.failed
	missed := map[string]bool{} // arguments that a typo most likely meant
	items := doc.items(b, s, d.diags)
	d.reserve(items, s, v)
	for _, it := range items {
		f := s.field(it.name)
		switch {
		case f != nil && f.block == (it.expr == nil):
			d.item(doc, it, f, v, what)
		case f != nil:
			missed[f.name] = true
			d.wrongForm(it, f, what)
		case it.expr == nil && s.hasPolicy(it.name):
			d.policy(doc, it, s, v, what)
		default:
			missed[d.unknown(it, s, what)] = true
		}
	}
	for _, f := range s.fields {
		if _, given := d.places[place{v, f.name}]; f.required && !given && !missed[f.name] {
			d.diags.Errorf(d.at(v, ""), "Add "+f.example()+" to it.", "%s lacks the argument %q", what, f.name)
		}
	}
	if d.diags.failed > before {
		d.broken[v] = true
	}
}

// reserve gives lists of structs their room at once: places know the elements
// by their address.
func (d *decoder) reserve(items []item, s *schema, v any) {
	for _, f := range s.fields {
		if !f.block || f.typ.Kind() != reflect.Slice || f.typ.Elem().Kind() != reflect.Struct {
			continue
		}
		n := 0
		for _, it := range items {
			if it.name == f.name {
				n++
			}
		}
		reflect.ValueOf(v).Elem().FieldByIndex(f.index).Set(reflect.MakeSlice(f.typ, 0, n))
	}
}

// item decodes an argument, or a block, that the schema knows.
func (d *decoder) item(doc *document, it item, f *field, v any, what string) {
	many := f.block && f.typ.Kind() == reflect.Slice
	here := place{v, f.name}
	if first, ok := d.places[here]; ok && !many {
		d.diags.Add(Diagnostic{
			Text: fmt.Sprintf("%s has %q twice", cmp.Or(what, "the configuration"), it.name), Range: it.at, Also: first,
			Advice: "Keep one of them.",
		})
		return
	}
	d.places[here] = it.at
	target := reflect.ValueOf(v).Elem().FieldByIndex(f.index)
	if !f.block {
		d.argument(doc, it, f, v, target)
		return
	}
	switch target.Kind() {
	case reflect.Struct:
		d.block(doc, it, target.Addr().Interface(), what)
	case reflect.Pointer:
		inner := reflect.New(f.typ.Elem())
		d.defaults(inner.Interface())
		if d.block(doc, it, inner.Interface(), what) {
			target.Set(inner)
		}
	default: // a list
		inner := reflect.New(structOf(f.typ))
		d.defaults(inner.Interface())
		if f.typ.Elem().Kind() == reflect.Pointer {
			if d.block(doc, it, inner.Interface(), what) {
				target.Set(reflect.Append(target, inner))
			}
			return
		}
		target.Set(reflect.Append(target, inner.Elem()))
		d.block(doc, it, target.Index(target.Len()-1).Addr().Interface(), what)
	}
}

// block decodes a block into the struct that v points to. It returns false
// when its header makes no sense.
func (d *decoder) block(doc *document, it item, v any, outer string) bool {
	d.places[place{v, ""}] = it.at
	s := d.schema(reflect.TypeOf(v).Elem())
	what := it.name
	switch {
	case s.label == nil && len(it.labels) > 0:
		d.diags.Errorf(it.at, fmt.Sprintf("Write: %s { … }", it.name), "%s takes no label", it.name)
		return false
	case s.label != nil && len(it.labels) != 1:
		d.diags.Errorf(it.at, fmt.Sprintf("Write: %s %q { … }", it.name, cmp.Or(append(it.labels, "NAME")...)), "%s takes one label, its %s", it.name, s.label.name)
		return false
	case s.label != nil:
		label := it.labels[0]
		what = fmt.Sprintf("%s %q", it.name, label)
		reflect.ValueOf(v).Elem().FieldByIndex(s.label.index).SetString(label)
		if !d.label(it, s.label, label) {
			d.broken[v] = true
		}
	}
	if outer != "" {
		what = outer + ": " + what
	}
	if r := reflect.ValueOf(v).Elem().FieldByName("Range"); r.IsValid() && r.Type() == reflect.TypeFor[hcl.Range]() {
		r.Set(reflect.ValueOf(it.at))
	}
	d.body(doc, it.inner, v, what)
	return true
}

// label checks the label of a block.
func (d *decoder) label(it item, f *field, label string) bool {
	if len(f.enum) > 0 {
		return d.oneOf(it.at, it.name, label, f.enum)
	}
	why := badName(label)
	if why != "" {
		d.diags.Errorf(it.at, "", "the name %q of the %s %s", label, it.name, why)
	}
	return why == ""
}

// badName says why label can't name something in logs, metrics and keys.
func badName(label string) string {
	if label == "" {
		return "is empty"
	}
	if len(label) > 128 {
		return "is longer than 128 bytes"
	}
	for i := range len(label) {
		c := label[i]
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return "has a character beyond letters, digits and simple punctuation"
		}
	}
	return ""
}

// policy decodes a policy's block in a route or a bundle.
func (d *decoder) policy(doc *document, it item, s *schema, v any, what string) {
	kind := s.kind(it.name, it.labels)
	if kind == nil {
		d.unknownKind(it, s, what)
		return
	}
	if kind.Label != "" {
		it.name, it.labels = fmt.Sprintf("%s %q", kind.Name, kind.Label), nil
	}
	list := reflect.ValueOf(v).Elem().FieldByIndex(s.policies).Addr().Interface().(*[]Block)
	for _, b := range *list {
		if b.Kind.Name == kind.Name && !kind.Repeat {
			d.diags.Add(Diagnostic{
				Text: fmt.Sprintf("%s has %q twice", what, it.name), Range: it.at, Also: b.Range,
				Advice: "Keep one of them.",
			})
			return
		}
	}
	cfg := kind.Config()
	d.defaults(cfg)
	if !d.block(doc, it, cfg, what) {
		return
	}
	*list = append(*list, Block{Kind: kind, Config: cfg, Range: it.at})
	if c, ok := cfg.(interface{ Validate() error }); ok && !d.broken[cfg] {
		if err := c.Validate(); err != nil {
			d.broken[v] = true
			d.diags.Errorf(it.at, "", "%s: %s: %v", what, it.name, err)
		}
	}
}

// unknownKind reports a policy's block whose label names none of its kinds.
func (d *decoder) unknownKind(it item, s *schema, what string) {
	kinds := s.labels(it.name)
	switch {
	case len(it.labels) != 1:
		d.diags.Errorf(it.at, fmt.Sprintf("Write: %s %q { … }", it.name, kinds[0]), "%s takes one label, its kind", it.name)
	default:
		d.oneOf(it.at, it.name, it.labels[0], kinds)
	}
}

// wrongForm reports a block written as an argument, or the other way round.
func (d *decoder) wrongForm(it item, f *field, what string) {
	form, advice := "an argument", "Write: "+f.example()
	if f.block {
		form, advice = "a block", fmt.Sprintf("Write: %s { … }", f.name)
	}
	d.diags.Errorf(it.at, advice, "%s is %s%s", it.name, form, in(what))
}

// unknown reports what the schema doesn't know, and returns the name that was
// most likely meant.
func (d *decoder) unknown(it item, s *schema, what string) string {
	for _, l := range s.later {
		if l == it.name {
			d.diags.Errorf(it.at, "Remove it for now: this version of sidegate would ignore it.", "%s is not available yet%s", it.name, in(what))
			return ""
		}
	}
	form := "block"
	if it.expr != nil {
		form = "argument"
	}
	names := s.names()
	advice := didYouMean(it.name, names)
	if advice == "" {
		advice = "The reference lists what there is."
	}
	d.diags.Errorf(it.at, advice, "unknown %s %q%s", form, it.name, in(what))
	return nearest(it.name, names)
}

func in(what string) string {
	if what == "" {
		return ""
	}
	return " in " + what
}
