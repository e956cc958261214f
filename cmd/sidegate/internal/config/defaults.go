package config

import (
	"encoding/json"
	"reflect"
	"strconv"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// Defaults sets all fields of the Config struct that v points to that have a
// default, those of the blocks in it that always count included.
func Defaults(v any) {
	setDefaults(reflect.ValueOf(v).Elem(), func(t reflect.Type) *schema { return newSchema(t, nil) })
}

// defaults is Defaults without reading the tags each time.
func (d *decoder) defaults(v any) {
	setDefaults(reflect.ValueOf(v).Elem(), d.schema)
}

// NewService is a service block of that name without any argument, as its
// first use in a route implies it.
func NewService(name string) *upstream.Config {
	c := &upstream.Config{}
	Defaults(c)
	c.Name = name
	return c
}

func setDefaults(v reflect.Value, schemaOf func(reflect.Type) *schema) {
	s := schemaOf(v.Type())
	for _, f := range s.fields {
		target := v.FieldByIndex(f.index)
		switch {
		case f.hasDefault:
			f.setDefault(target)
		case f.block && target.Kind() == reflect.Struct:
			setDefaults(target, schemaOf)
		case f.block && filled(f.typ):
			inner := reflect.New(f.typ.Elem())
			setDefaults(inner.Elem(), schemaOf)
			target.Set(inner)
		}
	}
}

// setDefault reads a tag. A wrong one is a programmer's error, which a test
// over all Config structs finds.
func (f *field) setDefault(target reflect.Value) {
	var err error
	switch {
	case f.typ == reflect.TypeFor[time.Duration]():
		var t time.Duration
		t, err = parseDuration(f.def)
		target.SetInt(int64(t))
	case f.unit == "bytes":
		var n int64
		n, err = parseSize(f.def)
		target.SetInt(n)
	case target.Kind() == reflect.String:
		target.SetString(f.def)
	case target.Kind() == reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(f.def)
		target.SetBool(b)
	case target.CanInt():
		var n int64
		n, err = strconv.ParseInt(f.def, 10, 64)
		target.SetInt(n)
	case target.CanFloat():
		var n float64
		n, err = strconv.ParseFloat(f.def, 64)
		target.SetFloat(n)
	default:
		// A list of strings is written in HCL as in JSON.
		err = json.Unmarshal([]byte(f.def), target.Addr().Interface())
	}
	if err != nil {
		panic("config: default " + f.def + " of " + f.name + ": " + err.Error())
	}
}
