package config

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// JSONSchema describes the JSON form of the language (files *.hcl.json) as JSON
// Schema, draft 2020-12, for editors and whatever generates configurations. doc is
// as for Reference. It is a little narrower than what is read: HCL takes lists of
// objects in more places. What arguments mean together only validate knows.
func JSONSchema(kinds []policy.Kind, doc func(t reflect.Type, field string) string) ([]byte, error) {
	w := &jsonSchema{doc: doc, defs: node{"call": node{
		"description": `A template that calls a function: ${env("NAME")}, ${file("/path")} or ${credential("name")}.`,
		"type":        "string", "pattern": `\$\{`,
	}}}
	for i := range kinds {
		if kinds[i].Config != nil { // else it is an argument
			w.kinds = append(w.kinds, &kinds[i])
		}
	}
	root := w.body(reflect.TypeFor[File]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Configuration of sidegate, in its JSON form"
	root["$defs"] = w.defs
	return json.MarshalIndent(root, "", "  ")
}

type node map[string]any

type jsonSchema struct {
	defs  node
	doc   func(reflect.Type, string) string
	kinds []*policy.Kind
}

// ref refers to what describes a block's body, once for each type.
func (w *jsonSchema) ref(t reflect.Type) node {
	path := t.PkgPath()
	if _, own, ok := strings.Cut(path, "sidegate-proxy/sidegate/"); ok {
		path = own
	}
	name := strings.ReplaceAll(path, "/", ".") + "." + t.Name()
	if _, ok := w.defs[name]; !ok {
		w.defs[name] = nil // a type that has itself inside ends here
		w.defs[name] = w.body(t)
	}
	return node{"$ref": "#/$defs/" + name}
}

func (w *jsonSchema) body(t reflect.Type) node {
	s := newSchema(t, w.kinds)
	properties := node{"//": node{"description": "A comment."}}
	var required []string
	for _, f := range s.fields {
		var p node
		if f.block {
			inner := structOf(f.typ)
			p = times(byLabel(w.ref(inner), newSchema(inner, nil).label), f.typ.Kind() == reflect.Slice)
		} else {
			p = f.json()
		}
		p["description"] = strings.Join(strings.Fields(w.doc(f.owner, f.goName)), " ")
		properties[f.name] = p
		if f.required {
			required = append(required, f.name)
		}
	}
	if s.policies != nil {
		for _, name := range s.policyNames() {
			properties[name] = w.policy(s, name)
		}
	}
	out := node{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		out["required"] = required
	}
	return out
}

// policy is what stands at the name of a policy's block.
func (w *jsonSchema) policy(s *schema, name string) node {
	labels := s.labels(name)
	if labels[0] == "" {
		kind := s.kind(name, nil)
		t := structOf(reflect.TypeOf(kind.Config()))
		return times(byLabel(w.ref(t), newSchema(t, nil).label), kind.Repeat)
	}
	properties := node{}
	for _, l := range labels {
		kind := s.kind(name, []string{l})
		properties[l] = times(w.ref(structOf(reflect.TypeOf(kind.Config()))), kind.Repeat)
	}
	return times(node{"type": "object", "properties": properties, "additionalProperties": false, "minProperties": 1}, true)
}

// byLabel is a block whose label is a key in JSON.
func byLabel(body node, label *field) node {
	if label == nil {
		return body
	}
	out := node{"type": "object", "additionalProperties": times(body, true), "minProperties": 1}
	if len(label.enum) > 0 {
		out["propertyNames"] = node{"enum": label.enum}
	}
	return out
}

// times is one, or a list of one or of many.
func times(one node, many bool) node {
	list := node{"type": "array", "items": one}
	if !many {
		list["maxItems"] = 1
	}
	return node{"anyOf": []node{one, list}}
}

// The texts that stand for a duration and for a size, as decode reads them.
const (
	durationPattern = `^(0|[0-9]+d|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))*)$`
	sizePattern     = `^[0-9]+(B|KiB|MiB|GiB|TiB)$`
)

// json describes an argument's value. Whatever isn't text may be a call.
func (f *field) json() node {
	var v node
	t := f.typ
	switch {
	case t == reflect.TypeFor[time.Duration]():
		v = node{"type": "string", "pattern": durationPattern}
	case f.unit == "bytes":
		v = node{"type": "string", "pattern": sizePattern}
	case t.Kind() == reflect.Slice:
		item := f.element(t.Elem())
		v = node{"type": "array", "items": either(item)}
	case t.Kind() == reflect.Map:
		v = node{"type": "object", "additionalProperties": either(f.element(t.Elem()))}
	default:
		v = f.element(t)
	}
	v = either(v)
	if d, ok := f.jsonDefault(); ok {
		v["default"] = d
	}
	return v
}

// either lets a call stand in the place of a value.
func either(v node) node {
	if v["type"] == "string" && v["pattern"] == nil && v["enum"] == nil {
		return v // text may be a call anyway
	}
	return node{"anyOf": []node{v, {"$ref": "#/$defs/call"}}}
}

// element describes one value of a kind of Go.
func (f *field) element(t reflect.Type) node {
	v := node{"type": "string"}
	switch t.Kind() {
	case reflect.Bool:
		v["type"] = "boolean"
	case reflect.Int, reflect.Int64:
		v["type"] = "integer"
	case reflect.Float64:
		v["type"] = "number"
	}
	if len(f.enum) > 0 {
		v["enum"] = f.enum
		if v["type"] != "string" {
			delete(v, "enum")
		}
	}
	if v["type"] == "integer" || v["type"] == "number" {
		for name, bound := range map[string]string{"minimum": f.min, "maximum": f.max} {
			if n, err := strconv.ParseFloat(bound, 64); err == nil {
				v[name] = n
			}
		}
	}
	return v
}

// jsonDefault is the default as JSON has it.
func (f *field) jsonDefault() (any, bool) {
	if !f.hasDefault || f.typ == reflect.TypeFor[secret.String]() {
		return nil, false
	}
	k := f.typ.Kind()
	if k == reflect.String || f.typ == reflect.TypeFor[time.Duration]() || f.unit == "bytes" {
		return f.def, true
	}
	var v any
	if json.Unmarshal([]byte(f.def), &v) != nil { // a default is written as in the language
		return f.def, true
	}
	return v, true
}
