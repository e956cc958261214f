package document

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plain is a node as encoding/json gives it.
func plain(n *Node) any {
	switch n.Kind {
	case Null:
		return nil
	case Bool:
		return n.True()
	case Number:
		return json.Number(n.Text)
	case String:
		return n.Text
	case List:
		list := []any{}
		for _, i := range n.Items {
			list = append(list, plain(i))
		}
		return list
	default:
		m := map[string]any{}
		for i, k := range n.Keys {
			m[k] = plain(n.Items[i])
		}
		return m
	}
}

func parse(t *testing.T, name, text string) (any, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out any
	_, err := Read(path, func(d *Document) error {
		out = plain(d.Root)
		return nil
	})
	return out, err
}

func TestScalars(t *testing.T) {
	for text, want := range map[string]any{
		"1":                        json.Number("1"),
		"-1.5e3":                   json.Number("-1.5e3"),
		"0x10":                     json.Number("16"),
		"0o17":                     json.Number("15"),
		"1_000":                    json.Number("1000"),
		"+5":                       json.Number("5"),
		".5":                       json.Number("0.5"),
		"5.":                       json.Number("5"),
		"-.5":                      json.Number("-0.5"),
		"true":                     true,
		"True":                     true,
		"yes":                      "yes",
		"no":                       "no",
		"~":                        nil,
		"null":                     nil,
		"2020-01-01":               "2020-01-01",
		`"1"`:                      "1",
		`'~'`:                      "~",
		"1.2.3":                    "1.2.3",
		"!!str 5":                  "5",
		"900719925474099399999999": json.Number("900719925474099399999999"),
	} {
		got, err := parse(t, "a.yaml", "v: "+text+"\n")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(map[string]any{"v": want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{".inf", ".nan", "-.Inf"} {
		if got, err := parse(t, "a.yaml", "v: "+text+"\n"); err == nil {
			t.Errorf("%s is %v", text, got)
		}
	}
}

func TestYAML(t *testing.T) {
	got, err := parse(t, "a.yaml", `
base: &base {a: 1, b: 2}
other: {<<: *base, b: 3, 200: x}
many:
  <<: [*base, {c: 4, a: 9}]
list: [*base]
`)
	one := map[string]any{"a": json.Number("1"), "b": json.Number("2")}
	want := map[string]any{
		"base":  one,
		"other": map[string]any{"a": json.Number("1"), "b": json.Number("3"), "200": "x"},
		"many":  map[string]any{"a": json.Number("1"), "b": json.Number("2"), "c": json.Number("4")},
		"list":  []any{one},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for _, c := range "bcdefghi" {
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 9) + "*" + string(c-1) + "]\n"
	}
	if _, err := parse(t, "a.yaml", bomb); err == nil || !strings.Contains(err.Error(), "has more than 1048576 values") {
		t.Errorf("a billion laughs: %v", err)
	}
}

// TestJSON: JSON is read as JSON, with its tabs and escapes.
func TestJSON(t *testing.T) {
	text := "{\n\t\"a\\/b\": [1, -2.50e+3, true, null, \"\\ud83d\\ude00\"],\n\t\"c\": {\"d\": \"e\"}\n}\n"
	var want any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.json", "a.yaml"} {
		got, err := parse(t, name, text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	for text, want := range map[string]string{
		"{\n \"a\": 1,\n \"a\": 2}": `a.json:3:2: "a" stands here for the second time`,
		"{\n \"a\": }":              `a.json:2:7: invalid character '}'`,
		"{} {}":                     `a.json:1:4: something follows the value`,
		"{":                         `a.json:1:2: unexpected EOF`,
		strings.Repeat("[", 300):    `a.json:1:202: stands more than 200 deep`,
	} {
		if _, err := parse(t, "a.json", text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.20q: %v, want %s", text, err, want)
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"required", "requestBody", "get", "put"}
	for word, want := range map[string]string{
		"requierd": `: did you mean "required"?`, "gt": `: did you mean "get"?`, "GET": `: did you mean "get"?`, "x": "", "something": "",
	} {
		if got := Suggest(word, known); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}
