package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/kaptinlin/jsonschema"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// TestJSONSchema keeps packaging/doc/schema.json current.
func TestJSONSchema(t *testing.T) {
	docs := &comments{t: t, packages: map[string]map[string]string{}}
	got, err := JSONSchema(realKinds(), docs.of)
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := "../../../../packaging/doc/schema.json"
	if update() {
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

// TestJSONSchemaAgrees: another implementation of JSON Schema finds right, by the
// schema, what is read without an error, and wrong what has an error that a schema
// can see.
func TestJSONSchemaAgrees(t *testing.T) {
	src, err := os.ReadFile("../../../../packaging/doc/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.NewCompiler().Compile(src)
	if err != nil {
		t.Fatal(err)
	}
	valid := func(text []byte) (bool, string) {
		t.Helper()
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		result := schema.Validate(v)
		why, err := json.Marshal(result.ToList())
		if err != nil {
			t.Fatal(err)
		}
		return result.IsValid(), string(why)
	}
	folder, err := filepath.Abs("../../../../packaging/examples")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.hcl"))
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	t.Chdir(folder) // what a text names is relative to
	for _, path := range files {
		text, err := json.Marshal(jsonForm(t, path))
		if err != nil {
			t.Fatal(err)
		}
		// What is made of the example has to be read as JSON, too.
		if _, diags := Parse(path+".json", text, options()); diags.HasErrors() {
			t.Errorf("%s as JSON:\n%s", path, diags)
		}
		if ok, why := valid(text); !ok {
			t.Errorf("the schema refuses %s: %.2000s", filepath.Base(path), why)
		}
	}
	for _, tt := range []struct {
		text string
		ok   bool
	}{
		{`{}`, true},
		{`{"//": "comment", "drain": "1m30s", "memory_limit": "2GiB"}`, true},
		{`{"drain": "${env(\"SET\")}"}`, true},
		{`{"route": {"a": {"respond": {"status": "${env(\"N\")}"}}}}`, true},
		{`{"route": [{"a": {"service": "x"}}, {"b": {"hosts": ["b.test"], "service": "x"}}], "service": {"x": {"instances": ["127.0.0.1:1"]}}}`, true},
		{`{"route": {"a": {"auth": {"api_key": {}}, "respond": {"status": 204}}}, "consumer": {"c": {}}}`, true},
		{`{"route": {"a": {"auth": [{"api_key": {}}, {"basic": {"realm": "a"}}], "respond": {"status": 204}}}, "consumer": {"c": {}}}`, true},
		{`{"drian": "1m"}`, false},
		{`{"drain": 60}`, false},
		{`{"drain": "1 minute"}`, false},
		{`{"memory_limit": "2 GB"}`, false},
		{`{"log": {"level": "loud"}}`, false},
		{`{"log": {"level": "info", "level2": 1}}`, false},
		{`{"access_log": {"sample": 1.5}}`, false},
		{`{"listener": {"a": {"tls": false}}}`, false},
		{`{"listener": {"address": ":80"}}`, false},
		{`{"route": {"a": {"hosts": "a.example.com", "respond": {"status": 204}}}}`, false},
		{`{"route": {"a": {"auth": {"apikey": {}}, "respond": {"status": 204}}}}`, false},
		{`{"route": {"a": {"use": [1.5, {}], "respond": {"status": 204}}}}`, false},
	} {
		opt := options()
		opt.Env = env(map[string]string{"SET": "1m", "N": "204"})
		_, diags := Parse("test.hcl.json", []byte(tt.text), opt)
		if diags.HasErrors() == tt.ok {
			t.Errorf("%s: Parse says\n%s", tt.text, diags)
		}
		if ok, why := valid([]byte(tt.text)); ok != tt.ok {
			t.Errorf("%s: the schema says %v: %s", tt.text, ok, why)
		}
	}
}

// jsonForm writes a file of the native form in the JSON form.
func jsonForm(t *testing.T, path string) map[string]any {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, diags := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return jsonBody(t, src, f.Body.(*hclsyntax.Body))
}

func jsonBody(t *testing.T, src []byte, b *hclsyntax.Body) map[string]any {
	t.Helper()
	out := map[string]any{}
	for name, a := range b.Attributes {
		v, diags := a.Expr.Value(nil)
		if diags.HasErrors() { // a call
			out[name] = "${" + strings.TrimSpace(string(a.Expr.Range().SliceBytes(src))) + "}"
			continue
		}
		text, err := ctyjson.Marshal(v, v.Type())
		if err != nil {
			t.Fatal(err)
		}
		var plain any
		if err := json.Unmarshal(text, &plain); err != nil {
			t.Fatal(err)
		}
		out[name] = templated(plain)
	}
	for _, inner := range b.Blocks {
		var v any = jsonBody(t, src, inner.Body)
		for i := len(inner.Labels) - 1; i >= 0; i-- {
			v = map[string]any{inner.Labels[i]: v}
		}
		list, _ := out[inner.Type].([]any)
		out[inner.Type] = append(list, v)
	}
	return out
}

// templated escapes what JSON's form would take for a template.
func templated(v any) any {
	switch v := v.(type) {
	case string:
		return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(v)
	case []any:
		for i := range v {
			v[i] = templated(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = templated(v[k])
		}
	}
	return v
}
