package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// folder writes files into a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, src := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shown is what a user sees, without the temporary folder.
func shown(dir string, d *Diagnostics) string {
	return strings.ReplaceAll(d.String(), dir, "DIR")
}

func TestFolder(t *testing.T) {
	dir := folder(t, map[string]string{
		"10-base.hcl":      "drain = \"1m\"\nlistener \"a\" { address = \":8001\" }\n",
		"20-orders.hcl":    "service \"orders\" { instances = [\"127.0.0.1:1\"] }\nroute \"o\" {\n  service = \"orders\"\n  use = [\"p\"]\n}\n",
		"30-json.hcl.json": `{"policy": {"p": {}}}`,
		"readme.txt":       "not { hcl",
		".hidden.hcl":      "not { hcl",
	})
	f, diags := Load(dir, options())
	if len(diags.List()) > 0 {
		t.Fatalf("Load:\n%s", diags)
	}
	if f.Drain != time.Minute || len(f.Listeners) != 1 || len(f.Services) != 1 || len(f.Routes) != 1 || len(f.Bundles) != 1 {
		t.Errorf("File = %+v", f)
	}
	if len(f.Files) != 3 {
		t.Errorf("Files = %v, want the three", f.Files)
	}
	if !cmp.Equal(f.Listeners[0].Protocols, []string{"h1", "h2", "h3"}) {
		t.Errorf("protocols = %v", f.Listeners[0].Protocols)
	}
}

func TestFolderConflicts(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.hcl": "drain = \"1m\"\nadmin {}\nroute \"r\" {\n  hosts = [\"a.test\"]\n  respond {}\n}\n",
		"b.hcl": "drain = \"2m\"\nadmin {}\nroute \"r\" {\n  hosts = [\"b.test\"]\n  respond {}\n}\nroute \"s\" {\n  hosts = [\"a.test\"]\n  respond {}\n}\n",
	})
	_, diags := Load(dir, options())
	golden(t, "folder-conflicts.txt", shown(dir, diags))
}

func TestLoadNothing(t *testing.T) {
	dir := folder(t, map[string]string{"broken.hcl": "route \"r\" {", "fine.hcl": "route \"f\" {\n  service = \"x\"\n  use = [\"p\"]\n}"})
	for _, tt := range []struct{ name, path, want string }{
		{"no file", filepath.Join(dir, "none.hcl"), "error: there is no file DIR/none.hcl"},
		{"empty folder", t.TempDir(), "has no *.hcl file"},
		{"folder as file", "/dev/null", "isn't a regular file"},
		{"broken hides references", dir, "unclosed configuration block"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, diags := Load(tt.path, options())
			if got := shown(dir, diags); !strings.Contains(got, tt.want) || !diags.HasErrors() || strings.Contains(got, "isn't defined") {
				t.Errorf("Load:\n%s\nwant %q", got, tt.want)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	dir := folder(t, map[string]string{"a.hcl": "tls {\n  certificate {\n    cert_file = \"a.pem\"\n    key_file = \"a.key\"\n  }\n}", "a.pem": "x", "a.key": "x"})
	key := filepath.Join(dir, "a.key")
	want := "key_file: DIR/a.key can't be read: permission denied"
	if err := os.Chmod(key, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// Root may read everything but a link to itself.
		want = "key_file: DIR/a.key: too many levels of symbolic links"
		if err := errors.Join(os.Remove(key), os.Symlink(key, key)); err != nil {
			t.Fatal(err)
		}
	}
	_, diags := Load(dir, options())
	if got := shown(dir, diags); !strings.Contains(got, want) {
		t.Errorf("Load:\n%s\nwant %q", got, want)
	}
}

func TestFunctions(t *testing.T) {
	dir := folder(t, map[string]string{
		"token":  "from-file\n",
		"a.pem":  "x",
		"number": "7",
		"s.hcl": `
consul {
  address = "${env("HOST")}:8500"
  token   = file("token")
  ca_file = "a.pem"
}
admin { token = credential("admin") }
drain = env("DRAIN")
route "r" {
  service = "s"
  request { set = { "X-Key" = file("token"), "X-Other" = "plain" } }
  response { set = { "X-Other" = "plain" } }
}
service "s" {
  retry { attempts = file("number") }
  limits { requests = env("LIMIT") }
}`,
	})
	f, diags := Load(filepath.Join(dir, "s.hcl"), Options{Kinds: kinds(), Env: env(map[string]string{
		"HOST": "10.0.0.1", "DRAIN": "5s", "LIMIT": "12", "CREDENTIALS_DIRECTORY": folder(t, map[string]string{"admin": "from-systemd"}),
	})})
	if len(diags.List()) > 0 {
		t.Fatalf("Load:\n%s", diags)
	}
	if f.Consul.Token.Reveal() != "from-file" || f.Admin.Token.Reveal() != "from-systemd" || f.Consul.Address != "10.0.0.1:8500" {
		t.Errorf("tokens = %q %q", f.Consul.Token.Reveal(), f.Admin.Token.Reveal())
	}
	if f.Drain != 5*time.Second || f.Services[0].Retry.Attempts != 7 || f.Services[0].Limits.Requests != 12 {
		t.Error("values from functions aren't converted")
	}
	if f.Consul.CAFile != filepath.Join(dir, "a.pem") {
		t.Errorf("ca_file = %q, want it absolute", f.Consul.CAFile)
	}
	for _, name := range []string{"token", "a.pem", "number"} {
		if !strings.Contains(strings.Join(f.Files, " "), filepath.Join(dir, name)) {
			t.Errorf("Files = %v lacks %s", f.Files, name)
		}
	}
	dump := f.String()
	if strings.Contains(dump, "from-file") || strings.Contains(dump, "from-systemd") || strings.Contains(dump, "10.0.0.1") {
		t.Errorf("String() shows what functions brought in:\n%s", dump)
	}
	if !strings.Contains(dump, "plain") {
		t.Errorf("String() hides what is written in the file:\n%s", dump)
	}
}

func TestLiteralSecret(t *testing.T) {
	dir := folder(t, map[string]string{"a.hcl": "consul { token = \"hunter2\" }\n"})
	path := filepath.Join(dir, "a.hcl")
	for _, tt := range []struct {
		mode os.FileMode
		want bool
	}{{0o600, false}, {0o640, false}, {0o644, true}} {
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		f, diags := Load(path, options())
		if got := len(diags.List()) > 0; got != tt.want || diags.HasErrors() {
			t.Errorf("mode %o: warned = %v, want %v", tt.mode, got, tt.want)
		}
		if strings.Contains(diags.String()+f.String(), "hunter2") {
			t.Errorf("the secret is shown:\n%s", diags)
		}
	}
}

func TestConsulFromEnvironment(t *testing.T) {
	token := filepath.Join(folder(t, map[string]string{"token": "from-file\n"}), "token")
	for _, tt := range []struct {
		name, src, address, token string
		env                       map[string]string
	}{
		{"block alone", "consul {}", "", "", nil},
		{"block wins", `consul { address = "a:1" }`, "a:1", "t", map[string]string{"CONSUL_HTTP_ADDR": "b:2", "CONSUL_HTTP_TOKEN": "t"}},
		{"fills the block", "consul {}", "b:2", "", map[string]string{"CONSUL_HTTP_ADDR": "b:2"}},
		{"tls", "", "https://b:2", "from-file", map[string]string{"CONSUL_HTTP_ADDR": "b:2", "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_TOKEN_FILE": token}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := good(t, tt.src, Options{Env: env(tt.env)})
			if f.Consul == nil || f.Consul.Address != tt.address || f.Consul.Token.Reveal() != tt.token {
				t.Errorf("Consul = %#v, want address %q, token %q", f.Consul, tt.address, tt.token)
			}
		})
	}
	if f := good(t, "", options()); f.Consul != nil {
		t.Error("there is a Consul that nobody named")
	}
}

func TestValues(t *testing.T) {
	f := good(t, `
trusted_proxies = ["10.0.0.0/8", "::1", "192.0.2.1"]
drain           = null
listener "a" {
  address = "127.0.0.1:0"
  tls     = false
  limits {
    headers = "1MiB"
    uri     = "8192B"
  }
}
listener "b" {
  address        = "127.0.0.1:0"
  proxy_protocol = true
}
access_log { sample = 0.25 }
route "r" {
  headers = { Accept = "x", "X-Y" = "~^a$" }
  split = { a = 1, "b" = 2 }
  keyed "jwt" { realm = "x" }
  keyed "basic" {}
}`, Options{Kinds: kinds(), Env: env(map[string]string{"CONSUL_HTTP_ADDR": "a:1"})})
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("192.0.2.1/32")}
	if !cmp.Equal(f.TrustedProxies, want, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })) {
		t.Errorf("trusted_proxies = %v", f.TrustedProxies)
	}
	if f.Drain != 30*time.Second {
		t.Errorf("drain = %v with null, want the default", f.Drain)
	}
	a := f.Listeners[0]
	if a.Limits.Headers != 1<<20 || a.Limits.URI != 8192 || a.Limits.Fields != 100 {
		t.Errorf("limits = %+v", a.Limits)
	}
	if got := f.Listeners[1].Protocols; !cmp.Equal(got, []string{"h1", "h2"}) {
		t.Errorf("protocols behind a PROXY header = %v", got)
	}
	r := f.Routes[0]
	if r.Headers["X-Y"] != "~^a$" || r.Split["b"] != 2 || len(f.Services) != 2 || f.AccessLog.Sample != 0.25 {
		t.Errorf("route = %+v", r)
	}
	if len(r.Policies) != 2 || r.Policies[0].Config.(*keyed).Type != "jwt" || r.Policies[1].Config.(*keyed).Realm != "all" {
		t.Errorf("policies = %+v", r.Policies)
	}
}

// TestDump sees that what String writes is the language's own JSON form.
func TestDump(t *testing.T) {
	t.Chdir("../../../../packaging/examples") // beside the files that it names
	src, err := os.ReadFile("full.hcl")
	if err != nil {
		t.Fatal(err)
	}
	f := good(t, string(src), options())
	// A hash is hidden, and what stands in its place isn't one.
	hash := f.Consumers[slices.IndexFunc(f.Consumers, func(c *consumer.Config) bool { return len(c.Basic) > 0 })].Basic[0].Bcrypt
	if strings.Contains(f.String(), hash) {
		t.Error("String() shows a password's hash")
	}
	again, diags := Parse("dump.hcl.json", []byte(strings.Replace(f.String(), `"bcrypt": "\u003csecret\u003e"`, `"bcrypt": "`+hash+`"`, 1)), options())
	if diags.HasErrors() {
		t.Fatalf("Parse(String()):\n%s", diags)
	}
	if diff := cmp.Diff(f.String(), again.String()); diff != "" {
		t.Errorf("String() of what String() said (-want +got):\n%s", diff)
	}
	if !json.Valid([]byte(f.String())) {
		t.Error("String() isn't JSON")
	}
}

func TestNesting(t *testing.T) {
	for name, src := range map[string]string{
		"lists":     "a = " + strings.Repeat("[", 1<<17),
		"blocks":    strings.Repeat("a {\n", 1<<16),
		"operators": "a = " + strings.Repeat("!", 1<<17) + "true",
		"choices":   "a = " + strings.Repeat("true?", 1<<16),
		"templates": "a = " + strings.Repeat(`"${`, 1<<16),
	} {
		if _, diags := Parse("a.hcl", []byte(src), options()); !strings.Contains(diags.String(), "nested more than") {
			t.Errorf("%s: not refused: %.300s", name, diags)
		}
	}
	if _, diags := Parse("a.hcl.json", []byte(strings.Repeat(`{"a":`, 1<<17)), options()); !strings.Contains(diags.String(), "nested more than") {
		t.Errorf("JSON: not refused: %.300s", diags)
	}
}

// TestMany sees that a text that is wrong everywhere doesn't take everything.
func TestMany(t *testing.T) {
	_, diags := Parse("a.hcl", []byte(strings.Repeat("nope {}\n", 5000)), options())
	if got := len(diags.List()); got != maxFindings || !strings.HasSuffix(diags.String(), "\nand 4000 more\n") {
		t.Errorf("%d findings", got)
	}
}

func TestFormat(t *testing.T) {
	got, err := Format("a.hcl", []byte("route   \"a\" {\nhosts=[ \"b\" ]\n  service = \"c\"\n}\n"))
	if want := "route \"a\" {\n  hosts   = [\"b\"]\n  service = \"c\"\n}\n"; err != nil || string(got) != want {
		t.Errorf("Format = %q, %v, want %q", got, err, want)
	}
	if _, err := Format("a.hcl", []byte("a {")); err == nil || !strings.HasPrefix(err.Error(), "a.hcl:1:") {
		t.Errorf("Format of a broken text = %v, want its place", err)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.hcl*")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, strings.HasSuffix(path, ".json"))
	}
	f.Fuzz(func(t *testing.T, src []byte, isJSON bool) {
		name := "a.hcl"
		if isJSON {
			name = "a.hcl.json"
		}
		file, diags := Parse(name, src, options())
		_ = diags.String()
		_ = file.String()
		parts, problems := ParseKV(map[string][]byte{"k": src}, options())
		if len(parts)+len(problems) != 1 {
			t.Errorf("%d parts and %d problems of one document", len(parts), len(problems))
		}
		if !diags.HasErrors() {
			_, _ = file.Merge(parts)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	var src strings.Builder
	src.WriteString("consul {}\n")
	const routes = 10000
	for i := range routes {
		fmt.Fprintf(&src, "route \"r%d\" {\n  hosts   = [\"h%d.example.com\"]\n  paths   = [\"/orders/*\", \"/items/{id}\"]\n  service = \"s%d\"\n  request {\n    set = { \"X-Tenant\" = \"%d\" }\n  }\n}\n", i, i, i%2000, i)
	}
	text := []byte(src.String())
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, diags := Parse("bench.hcl", text, options()); diags.HasErrors() {
			b.Fatal(diags.Err())
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/routes, "ns/route")
}
