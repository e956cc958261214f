package config

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// schema is what the tags of a struct say.
type schema struct {
	fields   []*field // in order, those of embedded structs in their place
	label    *field
	policies []int // index of the field that takes policy blocks; nil: none
	kinds    []*policy.Kind
	later    []string // names of config.md that aren't built yet
}

// field is one argument or block.
type field struct {
	name, goName string
	owner        reflect.Type // the struct that declares it, for its doc comment
	index        []int
	typ          reflect.Type
	block        bool
	required     bool
	hasDefault   bool
	def          string
	enum         []string
	min, max     string
	unit         string
	hidden       bool // shown nowhere, though no credential by itself: a password's hash
}

// newSchema reads the tags of t. Wrong tags are a programmer's error.
func newSchema(t reflect.Type, kinds []*policy.Kind) *schema {
	s := &schema{}
	s.collect(t, nil)
	if s.policies != nil {
		s.kinds = kinds
	}
	for _, name := range later(t) {
		if s.field(name) == nil && !s.hasPolicy(name) {
			s.later = append(s.later, name)
		}
	}
	return s
}

func (s *schema) collect(t reflect.Type, at []int) {
	for i := range t.NumField() {
		sf := t.Field(i)
		index := append(slices.Clone(at), i)
		tag, ok := sf.Tag.Lookup("hcl")
		if !ok {
			if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
				s.collect(sf.Type, index)
			}
			continue
		}
		name, kind, _ := strings.Cut(tag, ",")
		f := &field{name: name, goName: sf.Name, owner: t, index: index, typ: sf.Type, min: sf.Tag.Get("min"), max: sf.Tag.Get("max"), unit: sf.Tag.Get("unit")}
		f.required, f.hidden = sf.Tag.Get("required") == "true", sf.Tag.Get("hidden") == "true"
		f.def, f.hasDefault = sf.Tag.Lookup("default")
		if e := sf.Tag.Get("enum"); e != "" {
			f.enum = strings.Split(e, "|")
		}
		switch kind {
		case "label":
			s.label = f
		case "policies":
			s.policies = index
		case "attr", "block":
			f.block = kind == "block"
			s.fields = append(s.fields, f)
		default:
			panic("config: " + t.String() + "." + sf.Name + ": hcl tag " + tag)
		}
	}
}

func (s *schema) field(name string) *field {
	for _, f := range s.fields {
		if f.name == name {
			return f
		}
	}
	return nil
}

// hasPolicy reports whether name is a policy's block.
func (s *schema) hasPolicy(name string) bool {
	return slices.ContainsFunc(s.kinds, func(k *policy.Kind) bool { return k.Name == name })
}

// kind is the policy of a block with these labels; nil: there is none.
func (s *schema) kind(name string, labels []string) *policy.Kind {
	for _, k := range s.kinds {
		if k.Name == name && (k.Label == "" || len(labels) == 1 && k.Label == labels[0]) {
			return k
		}
	}
	return nil
}

// labels are those of the policies that share a block's name.
func (s *schema) labels(name string) []string {
	var list []string
	for _, k := range s.kinds {
		if k.Name == name {
			list = append(list, k.Label)
		}
	}
	return list
}

// names are all that may stand in the block.
func (s *schema) names() []string {
	var list []string
	for _, f := range s.fields {
		list = append(list, f.name)
	}
	return append(append(list, s.policyNames()...), s.later...)
}

// policyNames are the names of the policies' blocks, in their order.
func (s *schema) policyNames() []string {
	var list []string
	for _, k := range s.kinds {
		if !slices.Contains(list, k.Name) {
			list = append(list, k.Name)
		}
	}
	return list
}

// hcl is the schema as the JSON reader wants it. What isn't built yet is any
// argument to it.
func (s *schema) hcl() *hcl.BodySchema {
	out := &hcl.BodySchema{}
	for _, f := range s.fields {
		if f.block {
			out.Blocks = append(out.Blocks, header(f.name, structOf(f.typ)))
			continue
		}
		out.Attributes = append(out.Attributes, hcl.AttributeSchema{Name: f.name})
	}
	for _, name := range s.policyNames() {
		h := header(name, structOf(reflect.TypeOf(s.kind(name, s.labels(name)[:1]).Config())))
		if label := s.labels(name)[0]; label != "" {
			h.LabelNames = []string{"kind"}
		}
		out.Blocks = append(out.Blocks, h)
	}
	for _, l := range s.later {
		out.Attributes = append(out.Attributes, hcl.AttributeSchema{Name: l})
	}
	return out
}

func header(name string, t reflect.Type) hcl.BlockHeaderSchema {
	h := hcl.BlockHeaderSchema{Type: name}
	if inner := newSchema(t, nil); inner.label != nil {
		h.LabelNames = []string{inner.label.name}
	}
	return h
}

// structOf is the struct that a block's field holds, or points to, or has a
// list of.
func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// filled reports whether the defaults of a block hold without the block, too,
// so that its pointer is never nil.
func filled(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[*upstream.OutlierConfig](), reflect.TypeFor[*upstream.LimitsConfig](),
		reflect.TypeFor[*upstream.TimeoutsConfig](), reflect.TypeFor[*upstream.RetryConfig](),
		reflect.TypeFor[*proxy.ListenerLimits]():
		return true
	default:
		return false
	}
}

// later names what the language has, but this version hasn't.
func later(t reflect.Type) []string {
	policies := []string{"block", "ban", "limits", "waf", "cors", "auth", "authorize", "rate_limit", "quota",
		"validate", "cache", "charge", "request", "response", "compress"}
	switch t {
	case reflect.TypeFor[File]():
		return []string{"redis"}
	case reflect.TypeFor[Route](), reflect.TypeFor[Bundle]():
		return policies
	case reflect.TypeFor[consumer.PlanConfig]():
		return []string{"quota"}
	case reflect.TypeFor[edgetls.ACMESettings]():
		return []string{"dns"}
	default:
		return nil
	}
}

// isFile reports whether the argument is the path of a file.
func (f *field) isFile() bool {
	return f.typ.Kind() == reflect.String && (f.unit == "file" || strings.HasSuffix(f.name, "_file"))
}

// kindText is how the type of an argument is written.
func (f *field) kindText() string {
	t := f.typ
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t == reflect.TypeFor[secret.String]():
		return "secret"
	case t == reflect.TypeFor[[]netip.Prefix]():
		return "list of networks"
	case f.unit == "bytes":
		return "size"
	case f.isFile():
		return "file"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Int {
			return "list of whole numbers"
		}
		return "list of strings"
	case reflect.Map:
		if t.Elem().Kind() == reflect.Int {
			return "map of whole numbers"
		}
		return "map of strings"
	default:
		return t.String()
	}
}
