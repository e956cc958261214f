package policytest

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/gocty"
)

// decode fills the struct behind into from a block, by the tags that
// proxy/config.go describes. Bounds and enums are left to the gateway.
func decode(b *hclsyntax.Block, into any) error {
	v := reflect.ValueOf(into).Elem()
	attributes, blocks, labels := map[string]bool{}, map[string]bool{}, b.Labels
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		field, tag := v.FieldByIndex(f.Index), f.Tag
		switch kind {
		case "label":
			if len(labels) == 0 {
				return fmt.Errorf("%s: lacks its label", b.Type)
			}
			field.SetString(labels[0])
			labels = labels[1:]
		case "attr":
			attributes[name] = true
			if err := decodeAttribute(b, name, field, tag); err != nil {
				return fmt.Errorf("%s: %s: %w", b.Type, name, err)
			}
		case "block":
			blocks[name] = true
			if err := decodeBlocks(b, name, field); err != nil {
				return fmt.Errorf("%s: %w", b.Type, err)
			}
		}
	}
	if len(labels) > 0 {
		return fmt.Errorf("%s: label %q is one too many", b.Type, labels[0])
	}
	for name := range b.Body.Attributes {
		if !attributes[name] {
			return fmt.Errorf("%s: unknown argument %q", b.Type, name)
		}
	}
	for _, inner := range b.Body.Blocks {
		if !blocks[inner.Type] {
			return fmt.Errorf("%s: unknown block %q", b.Type, inner.Type)
		}
	}
	return nil
}

func decodeAttribute(b *hclsyntax.Block, name string, field reflect.Value, tag reflect.StructTag) error {
	a, ok := b.Body.Attributes[name]
	var val cty.Value
	switch text, hasDefault := tag.Lookup("default"); {
	case ok:
		v, diags := a.Expr.Value(nil)
		if diags.HasErrors() {
			return diags
		}
		val = v
	case tag.Get("required") == "true":
		return fmt.Errorf("must be given")
	case !hasDefault:
		return nil
	default:
		v, err := defaultValue(text, field)
		if err != nil {
			return err
		}
		val = v
	}
	return assign(val, field, tag.Get("unit"))
}

// defaultValue reads a default tag: strings stand there bare, all else is HCL.
func defaultValue(text string, field reflect.Value) (cty.Value, error) {
	if field.Kind() == reflect.String || field.Type() == reflect.TypeFor[time.Duration]() {
		return cty.StringVal(text), nil
	}
	expr, diags := hclsyntax.ParseExpression([]byte(text), "default", hcl.InitialPos)
	if diags.HasErrors() {
		return cty.StringVal(text), nil // a size
	}
	v, diags := expr.Value(nil)
	if diags.HasErrors() {
		return cty.StringVal(text), nil
	}
	return v, nil
}

func assign(val cty.Value, field reflect.Value, unit string) error {
	if val.Type() == cty.String {
		switch {
		case field.Type() == reflect.TypeFor[time.Duration]():
			d, err := time.ParseDuration(val.AsString())
			field.SetInt(int64(d))
			return err
		case field.Type() == reflect.TypeFor[netip.Prefix]():
			p, err := netip.ParsePrefix(val.AsString())
			field.Set(reflect.ValueOf(p))
			return err
		case unit == "bytes":
			n, err := size(val.AsString())
			field.SetInt(n)
			return err
		}
	}
	switch field.Kind() {
	case reflect.Slice:
		for _, e := range elements(val) {
			item := reflect.New(field.Type().Elem()).Elem()
			if err := assign(e, item, unit); err != nil {
				return err
			}
			field.Set(reflect.Append(field, item))
		}
		return nil
	case reflect.Map:
		field.Set(reflect.MakeMap(field.Type()))
		if !val.CanIterateElements() {
			return fmt.Errorf("want a map")
		}
		for it := val.ElementIterator(); it.Next(); {
			k, v := it.Element()
			item := reflect.New(field.Type().Elem()).Elem()
			if err := assign(v, item, unit); err != nil {
				return err
			}
			field.SetMapIndex(reflect.ValueOf(k.AsString()), item)
		}
		return nil
	default:
		return gocty.FromCtyValue(val, field.Addr().Interface())
	}
}

func elements(val cty.Value) []cty.Value {
	if !val.CanIterateElements() {
		return []cty.Value{val}
	}
	return val.AsValueSlice()
}

func decodeBlocks(b *hclsyntax.Block, name string, field reflect.Value) error {
	for _, inner := range b.Body.Blocks {
		if inner.Type != name {
			continue
		}
		elem := field.Type().Elem()
		pointer := elem.Kind() == reflect.Pointer
		if pointer {
			elem = elem.Elem()
		}
		item := reflect.New(elem)
		if err := decode(inner, item.Interface()); err != nil {
			return err
		}
		switch {
		case field.Kind() == reflect.Pointer && !field.IsNil():
			return fmt.Errorf("block %q is given twice", name)
		case field.Kind() == reflect.Pointer:
			field.Set(item)
		case pointer:
			field.Set(reflect.Append(field, item))
		default:
			field.Set(reflect.Append(field, item.Elem()))
		}
	}
	return nil
}

// size reads "10MiB".
func size(text string) (int64, error) {
	for i, unit := range []string{"KiB", "MiB", "GiB", "B"} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseInt(digits, 10, 64)
			if unit == "B" {
				return n, err
			}
			return n << (10 * (i + 1)), err
		}
	}
	return 0, fmt.Errorf("%q isn't a size", text)
}
