package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

const base = `
consul {}
service "described" { instances = ["127.0.0.1:1"] }
policy "public" {}
route "file" {
  hosts   = ["file.test"]
  service = "implied"
}
`

// feed parses documents and merges them into base.
func feed(t *testing.T, docs map[string]string) (*File, string) {
	t.Helper()
	entries := map[string][]byte{}
	for k, v := range docs {
		entries[k] = []byte(v)
	}
	f := good(t, base, options())
	before := f.String()
	parts, problems := ParseKV(entries, options())
	merged, more := f.Merge(parts)
	if f.String() != before {
		t.Error("Merge changed its base")
	}
	var b strings.Builder
	for _, p := range append(problems, more...) {
		fmt.Fprintf(&b, "%s\n%s", p.Origin, p.Diagnostics)
	}
	return merged, b.String()
}

// TestParseConsumers: a document of consumers is of consumers alone, and each is
// checked as in a file.
func TestParseConsumers(t *testing.T) {
	src, err := os.ReadFile("../../../../packaging/examples/consumer.hcl")
	if err != nil {
		t.Fatal(err)
	}
	list, diags := ParseConsumers("kv", src, options())
	if len(diags.List()) > 0 || len(list) != 1 || list[0].Name != "umbrella" || len(list[0].JWT) != 1 {
		t.Fatalf("ParseConsumers of the example: %+v\n%s", list, diags)
	}
	again, diags := ParseConsumers("kv", FormatConsumer(list[0]), options())
	if diff := cmp.Diff(list, again); diff != "" || diags.HasErrors() {
		t.Errorf("FormatConsumer (-it +again):\n%s%s", diff, diags)
	}
	readme, err := os.ReadFile("../../../../proxy/policy/consumer/README.md")
	if err != nil {
		t.Fatal(err)
	}
	snippets := policytest.Snippets(string(readme))
	for _, s := range snippets {
		if list, diags := ParseConsumers("README.md", []byte(s), options()); len(diags.List()) > 0 || len(list) == 0 {
			t.Errorf("README.md:\n%s", diags)
		}
	}
	if len(snippets) == 0 {
		t.Error("README.md has no snippet")
	}
	odd := &consumer.Config{Name: "a${b}%{c}", Labels: map[string]string{"a b": "${x}", "c": "\n\"%{"}}
	again, diags = ParseConsumers("kv", FormatConsumer(odd), options())
	if diff := cmp.Diff([]*consumer.Config{odd}, again); diff != "" || diags.HasErrors() {
		t.Errorf("FormatConsumer of odd names (-it +again):\n%s%s", diff, diags)
	}
	for text, want := range map[string]string{
		`route "r" {}`:                                                  `unknown block "route"`,
		`plan "p" {}`:                                                   `unknown block "plan"`,
		`consumer "a" { lables = {} }`:                                  `Did you mean "labels"?`,
		`consumer "a" { plan = env("SET") }`:                            "calls not allowed",
		"consumer \"a\" {}\nconsumer \"a\" {}":                          `there are two blocks consumer "a"`,
		"consumer \"a\" {\n  api_key { sha256 = \"ab\" }\n}":            "isn't a SHA-256",
		"consumer \"a\" {\n  basic {\n    user = \"u\"\n  }\n}":         "has no password",
		"consumer \"a\" {\n  mtls { san = \"*.test\" }\n}":              "isn't a name that a certificate may have",
		"consumer \"a\" {\n  labels = { a = [for x in [1] : x][0] }\n}": "loops aren't allowed",
		`{"consumer": {"a": {}}}`:                                       "error",
		strings.Repeat("#", 600<<10):                                    "larger than",
	} {
		if list, diags := ParseConsumers("kv", []byte(text), options()); !strings.Contains(diags.String(), want) || !diags.HasErrors() || list != nil {
			t.Errorf("ParseConsumers(%.60q) = %v, %s, want %q", text, list, diags, want)
		}
	}
}

func routeNames(f *File) []string {
	var names []string
	for _, r := range f.Routes {
		names = append(names, r.Name)
	}
	return names
}

func serviceNames(f *File) []string {
	var names []string
	for _, s := range f.Services {
		names = append(names, s.Name)
	}
	return names
}

func TestMerge(t *testing.T) {
	f, problems := feed(t, map[string]string{
		"sidegate/routes/a":    "route \"a\" {\n  hosts = [\"a.test\"]\n  service = \"new\"\n  use = [\"public\", \"kv\"]\n}",
		"sidegate/policies/kv": "policy \"kv\" {\n  response { remove = [\"Server\"] }\n}",
		"sidegate/services/i":  "service \"implied\" {\n  balance = \"random\"\n}",
	})
	if problems != "" {
		t.Fatalf("problems:\n%s", problems)
	}
	if got, want := routeNames(f), []string{"file", "a"}; !cmp.Equal(got, want) {
		t.Errorf("routes = %v, want %v", got, want)
	}
	if got, want := serviceNames(f), []string{"described", "implied", "new"}; !cmp.Equal(got, want) {
		t.Errorf("services = %v, want %v", got, want)
	}
	if f.Services[1].Balance != "random" {
		t.Error("the service that the file implies isn't the one that KV describes")
	}
	if got := f.Origin(f.Routes[1]); got != "sidegate/routes/a" {
		t.Errorf("Origin = %q", got)
	}
	if got := f.Origin(f.Routes[0]); got != "test.hcl:5:1" {
		t.Errorf("Origin = %q", got)
	}
}

func TestMergeIsolates(t *testing.T) {
	f, problems := feed(t, map[string]string{
		"k/01-fine":       "route \"fine\" {\n  hosts = [\"fine.test\"]\n  service = \"x\"\n}",
		"k/02-syntax":     "route \"x\" {",
		"k/03-unknown":    "route \"x\" {\n  host = [\"x.test\"]\n  service = \"x\"\n}",
		"k/04-label":      "route \"file\" {\n  hosts = [\"y.test\"]\n  service = \"x\"\n}",
		"k/05-requests":   "route \"steals\" {\n  hosts = [\"file.test\"]\n  service = \"x\"\n}",
		"k/06-second":     "route \"second\" {\n  hosts = [\"fine.test\"]\n  service = \"x\"\n}",
		"k/07-dangling":   "route \"dangling\" {\n  hosts = [\"d.test\"]\n  service = \"unwatched\"\n  use = [\"none\"]\n}\npolicy \"lost\" {}",
		"k/08-depends":    "route \"depends\" {\n  hosts = [\"e.test\"]\n  service = \"x\"\n  use = [\"lost\"]\n}",
		"k/09-twice":      "policy \"p\" {}\npolicy \"p\" {}",
		"k/10-top":        "admin { address = \"0.0.0.0:80\" }",
		"k/11-function":   "route \"leak\" {\n  respond { body = file(\"/etc/passwd\") }\n}",
		"k/12-loop":       "route \"loop\" {\n  hosts = [for a in [1, 2]: \"x\"]\n  service = \"x\"\n}",
		"k/13-path":       "service \"s\" {\n  protocol = \"h2\"\n  tls { ca_file = \"ca.pem\" }\n}",
		"k/14-fine.json":  "route \"also\" {\n  hosts = [\"also.test\"]\n  service = \"x\"\n}",
		"k/15-same-label": "route \"fine\" {\n  hosts = [\"z.test\"]\n  service = \"x\"\n}",
		"k/16-bad-host":   "route \"bad\" {\n  hosts = [\"a:1\"]\n  service = \"x\"\n}",
		"k/17-insecure":   "service \"warned\" {\n  protocol = \"h2\"\n  tls { insecure = true }\n}",
		"k/18-large":      "# " + strings.Repeat("x", maxDocument),
	})
	golden(t, "merge-isolates.txt", problems)
	if got, want := routeNames(f), []string{"file", "fine", "also"}; !cmp.Equal(got, want) {
		t.Errorf("routes = %v, want %v", got, want)
	}
	if got, want := serviceNames(f), []string{"described", "implied", "warned", "x"}; !cmp.Equal(got, want) {
		t.Errorf("services = %v, want %v", got, want)
	}
}

// TestMergeClaims merges parts that nobody wrote in the language.
func TestMergeClaims(t *testing.T) {
	f := good(t, base, options())
	part := func(origin, name, host string, use ...string) *Part {
		r := &Route{Config: route.Config{Name: name, Hosts: []string{host}, Service: name, Use: use}}
		return &Part{Origin: origin, Routes: []*Route{r}, Services: []*upstream.Config{NewService(name)}}
	}
	parts := []*Part{
		part("service a", "a", "A.test", "public"),
		part("service b", "b", "file.test"),
		part("service c", "c", "c.test", "nope"),
	}
	for range 2 { // the same parts may be merged again
		merged, problems := f.Merge(parts)
		if got, want := routeNames(merged), []string{"file", "a"}; !cmp.Equal(got, want) {
			t.Errorf("routes = %v, want %v", got, want)
		}
		if merged.Routes[1].Hosts[0] != "a.test" {
			t.Errorf("hosts = %v", merged.Routes[1].Hosts)
		}
		if len(problems) != 2 || problems[0].Origin != "service b" || problems[1].Origin != "service c" {
			t.Fatalf("problems = %v", problems)
		}
		if got := problems[0].Diagnostics.Err().Error(); !strings.Contains(got, `takes the same requests as route "file"`) {
			t.Errorf("problem = %s", got)
		}
	}
}

// TestPersonalREADME: what it shows is a configuration.
func TestPersonalREADME(t *testing.T) {
	readme, err := os.ReadFile("../../../../proxy/policy/personal/README.md")
	if err != nil {
		t.Fatal(err)
	}
	snippets := policytest.Snippets(string(readme))
	if len(snippets) != 1 {
		t.Fatalf("%d snippets", len(snippets))
	}
	path := filepath.Join(t.TempDir(), "readme.hcl")
	if err := os.WriteFile(path, []byte(snippets[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Kinds = realKinds()
	f, diags := Load(path, o)
	if diags.HasErrors() || len(f.Consumers) != 1 || len(f.Consumers[0].Use) != 1 {
		t.Errorf("README.md:\n%s", diags)
	}
}
