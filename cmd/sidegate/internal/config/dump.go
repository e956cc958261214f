package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// String is the configuration in effect, as MarshalJSON writes it, on lines.
func (f *File) String() string {
	raw, err := f.MarshalJSON()
	if err != nil {
		return err.Error()
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return err.Error()
	}
	return b.String()
}

// MarshalJSON writes the configuration in effect: what is given, and all defaults, in the JSON form of the language. Secrets, and all that functions
// brought in, are hidden.
func (f *File) MarshalJSON() ([]byte, error) {
	return json.Marshal(f.object(reflect.ValueOf(f)))
}

// object is an ordered JSON object.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON keeps the order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// object is the struct that p points to.
func (f *File) object(p reflect.Value) object {
	var out object
	v := p.Elem()
	s := newSchema(v.Type(), nil)
	for _, fd := range s.fields {
		member := member{name: fd.name}
		field := v.FieldByIndex(fd.index)
		switch {
		case !fd.block && !fd.hasDefault && empty(field):
			continue
		case !fd.block:
			member.value = f.argument(place{p.Interface(), fd.name}, fd, field)
		case field.Kind() == reflect.Struct:
			member.value = f.object(field.Addr())
		case field.Kind() != reflect.Struct && empty(field):
			continue
		case field.Kind() == reflect.Pointer:
			member.value = f.object(field)
		default:
			member.value = f.blocks(field)
		}
		out = append(out, member)
	}
	if s.policies != nil {
		out = append(out, f.policies(v.FieldByIndex(s.policies).Interface().([]Block))...)
	}
	return out
}

// empty reports whether a value is as good as not given.
func empty(v reflect.Value) bool {
	if v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
		return v.Len() == 0
	}
	return v.IsZero()
}

// blocks is a list of blocks, or an object of them by label.
func (f *File) blocks(list reflect.Value) any {
	label := newSchema(structOf(list.Type()), nil).label
	byLabel, plain := object{}, []object{}
	for i := range list.Len() {
		p := list.Index(i)
		if p.Kind() != reflect.Pointer {
			p = p.Addr()
		}
		if label == nil {
			plain = append(plain, f.object(p))
			continue
		}
		byLabel = append(byLabel, member{p.Elem().FieldByIndex(label.index).String(), f.object(p)})
	}
	if label == nil {
		return plain
	}
	return byLabel
}

func (f *File) policies(list []Block) object {
	var out object
	at := map[string]int{}
	for _, b := range list {
		one := f.object(reflect.ValueOf(b.Config))
		if b.Kind.Label != "" {
			one = object{{b.Kind.Label, one}}
		}
		i, ok := at[b.Kind.Name]
		if !ok {
			at[b.Kind.Name] = len(out)
			out = append(out, member{b.Kind.Name, []object{one}})
			continue
		}
		out[i].value = append(out[i].value.([]object), one)
	}
	return out
}

// argument is a value as it is written in a file.
func (f *File) argument(at place, fd *field, v reflect.Value) any {
	if (f.external[at] || fd.hidden) && !v.IsZero() {
		return secret.String("hidden")
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return durationText(x)
	case secret.String:
		return x
	}
	switch {
	case fd.unit == "bytes":
		return sizeText(v.Int())
	default:
		return v.Interface()
	}
}
