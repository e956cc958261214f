package config

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/basic"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/forward"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/introspect"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/mtls"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/block"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
	"github.com/sidegate-proxy/sidegate/proxy/policy/compress"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cors"
	"github.com/sidegate-proxy/sidegate/proxy/policy/limits"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	"github.com/sidegate-proxy/sidegate/proxy/policy/request"
	"github.com/sidegate-proxy/sidegate/proxy/policy/response"
	"github.com/sidegate-proxy/sidegate/proxy/policy/validate"
	"github.com/sidegate-proxy/sidegate/proxy/policy/waf"
)

const module = "github.com/sidegate-proxy/sidegate/"

const preface = `# Reference of the configuration

<!-- Made from the sources: go test ./cmd/sidegate/internal/config -run Reference -update -->

All blocks and arguments of the configuration language. [HCL 2](https://github.com/hashicorp/hcl/blob/main/hclsyntax/spec.md) in files ` + "`*.hcl`, or its JSON form in `*.hcl.json`" + `; ` + "`sidegate validate`" + ` checks them.

- A duration is text like ` + "`\"250ms\"`, `\"10s\"`, `\"2m\"`, `\"1h30m\"` or `\"30d\"`" + `; a size is text like ` + "`\"512B\"`, `\"32KiB\"`, `\"10MiB\"`" + `.
- A file is a path, relative to the folder of the file that it stands in.
- ` + "`env(\"NAME\")`, `file(\"/path\")` and `credential(\"name\")`" + ` bring in what doesn't belong into the file: a variable of the environment, a file's text without its last line break, a credential of systemd. Documents in Consul's KV can't call them.

`

// realKinds are the policies that there are, in their order.
func realKinds() []policy.Kind {
	return []policy.Kind{
		block.Kind(block.Files{}),
		ban.Kind(nil),
		limits.Kind(nil),
		waf.Kind(nil),
		cors.Kind(),
		apikey.Kind(nil),
		jwt.Kind(jwt.Deps{}),
		basic.Kind(nil, nil),
		mtls.Kind(nil),
		oidc.Kind(oidc.Deps{}),
		introspect.Kind(introspect.Deps{}),
		forward.Kind(forward.Deps{}),
		ratelimit.Kind(ratelimit.Deps{}),
		quota.Kind(nil, nil),
		validate.Kind(nil, nil),
		charge.Kind(charge.Means{}),
		cache.Kind(cache.Deps{}),
		request.Kind(),
		response.Kind(),
		compress.Kind(nil),
	}
}

func TestReference(t *testing.T) {
	docs := &comments{t: t, packages: map[string]map[string]string{}}
	got := append([]byte(preface), bytes.TrimRight(Reference(realKinds(), docs.of), "\n")...)
	got = append(got, '\n')
	path := "../../../../packaging/doc/reference.md"
	if update() {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is out of date (-it +sources); run go test with -update:\n%s", path, diff)
	}
}

// comments are the doc comments of fields, by "Type.Field", by package.
type comments struct {
	t        *testing.T
	packages map[string]map[string]string
}

func (c *comments) of(typ reflect.Type, field string) string {
	c.t.Helper()
	path := typ.PkgPath()
	if c.packages[path] == nil {
		c.packages[path] = c.read(path)
	}
	text := c.packages[path][typ.Name()+"."+field]
	if text == "" {
		c.t.Errorf("%s.%s has no doc comment", typ, field)
	}
	return text
}

func (c *comments) read(path string) map[string]string {
	c.t.Helper()
	folder := filepath.Join("../../../..", strings.TrimPrefix(path, module))
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		c.t.Fatalf("no sources of %s: %v", path, err)
	}
	out := map[string]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			c.t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return false
			}
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					out[spec.Name.Name+"."+name.Name] = strings.TrimSpace(field.Doc.Text())
				}
			}
			return false
		})
	}
	return out
}

// TestTags reads all tags of all Config structs, and sees that each default
// is within its own bounds and values.
func TestTags(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		v := reflect.New(typ)
		Defaults(v.Interface())
		d := newDecoder(Options{}, &Diagnostics{})
		for _, f := range newSchema(typ, nil).fields {
			if f.block {
				walk(structOf(f.typ))
				continue
			}
			for _, bound := range []string{f.min, f.max} {
				if bound != "" {
					f.bound(bound)
				}
			}
			if !f.hasDefault || f.typ.Kind() == reflect.Slice {
				continue
			}
			text := f.def
			if k := f.typ.Kind(); k == reflect.String || f.unit == "bytes" || f.kindText() == "duration" {
				text = `"` + text + `"`
			}
			doc := &document{name: "default.hcl", src: []byte(f.name + " = " + text + "\n")}
			if !doc.parse(d.diags) {
				t.Fatalf("%s.%s: default %s:\n%s", typ, f.goName, f.def, d.diags)
			}
			it := doc.items(doc.body, &schema{fields: []*field{f}}, d.diags)[0]
			d.argument(doc, it, f, v.Interface(), v.Elem().FieldByIndex(f.index))
			if d.diags.HasErrors() {
				t.Errorf("%s.%s: default %s:\n%s", typ, f.goName, f.def, d.diags)
			}
		}
	}
	walk(reflect.TypeFor[File]())
	walk(reflect.TypeFor[Route]())
	for _, k := range realKinds() {
		walk(structOf(reflect.TypeOf(k.Config())))
	}
}
