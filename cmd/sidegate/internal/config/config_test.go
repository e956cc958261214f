package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// update rewrites the goldens and the reference; review them like code.
func update() bool { return flag.Lookup("update").Value.String() == "true" }

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite goldens and the reference")
	flag.Parse()
	os.Exit(m.Run())
}

// keyed is a policy that may come several times, with a label of its own.
type keyed struct {
	Type  string        `hcl:"type,label" enum:"jwt|basic"`
	Realm string        `hcl:"realm,attr" default:"all"`
	Key   secret.String `hcl:"key,attr"`
}

// Validate is what a Config may have to check itself.
func (k *keyed) Validate() error {
	if k.Realm == "nobody" {
		return errors.New("nobody lives in that realm")
	}
	return nil
}

func kinds() []policy.Kind {
	return append(realKinds(), policy.Kind{Name: "keyed", Repeat: true, Config: func() any { return &keyed{} }})
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// options are with what the examples take from the environment.
func options() Options {
	return Options{Kinds: kinds(), Env: env(map[string]string{"INTROSPECT_SECRET": "a", "OIDC_SECRET": "b"})}
}

// good parses a text that must be right.
func good(t *testing.T, src string, opt Options) *File {
	t.Helper()
	f, diags := Parse("test.hcl", []byte(src), opt)
	if diags.HasErrors() {
		t.Fatalf("Parse:\n%s", diags)
	}
	return f
}

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if update() {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

// TestGoldens loads each testdata/*.hcl (*.hcl.json) and compares what a user
// sees with the .golden file beside it.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hcl*")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		if strings.HasSuffix(name, ".golden") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if err := os.Chmod(path, 0o644); err != nil { // as a warning wants it, whatever the umask was
				t.Fatal(err)
			}
			_, diags := Load(path, Options{Kinds: kinds(), Env: env(map[string]string{"SET": "x"})})
			if bad := strings.HasPrefix(name, "bad-"); bad != diags.HasErrors() {
				t.Errorf("HasErrors() = %v", diags.HasErrors())
			}
			golden(t, strings.TrimSuffix(strings.TrimSuffix(name, ".json"), ".hcl")+".golden", diags.String())
		})
	}
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../../../packaging/examples/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, diags := Load(path, options())
			if len(diags.List()) > 0 {
				t.Errorf("Load:\n%s", diags)
			}
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			formatted, err := Format(path, src)
			if err != nil {
				t.Fatal(err)
			}
			if update() {
				if err := os.WriteFile(path, formatted, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(formatted, src) {
				t.Error("it isn't formatted; -update does it")
			}
		})
	}
}

func TestSmallest(t *testing.T) {
	f := good(t, `route "shop" {
		hosts   = ["Shop.Example.com."]
		service = "shop"
	}`, Options{Env: env(map[string]string{"CONSUL_HTTP_ADDR": "127.0.0.1:8500", "STATE_DIRECTORY": "/run/state:/other"})})
	if got, want := f.Routes[0].Hosts[0], "shop.example.com"; got != want {
		t.Errorf("host = %q, want %q", got, want)
	}
	if len(f.Services) != 1 || f.Services[0].Name != "shop" {
		t.Fatalf("services = %v, want the implied one", f.Services)
	}
	s := f.Services[0]
	if s.Protocol != "http1" || s.Balance != "ewma" || !s.PreferLocal || s.SlowStart != 10*time.Second {
		t.Errorf("implied service = %+v", s)
	}
	if s.Outlier == nil || s.Outlier.Errors != 5 || s.Limits == nil || s.Limits.Queue != 128 || s.Timeouts == nil || s.Timeouts.Idle != time.Minute || s.Retry == nil || len(s.Retry.On) != 5 {
		t.Error("the blocks of the implied service aren't filled")
	}
	if s.HealthCheck != nil || s.Sticky != nil || s.TLS != nil || s.Consul != nil {
		t.Error("the implied service has blocks that nobody wrote")
	}
	if f.Consul == nil || f.Consul.Address != "127.0.0.1:8500" || f.Consul.KV != "sidegate/" {
		t.Errorf("Consul = %+v", f.Consul)
	}
	if f.StateDir != "/run/state" || f.Drain != 30*time.Second || f.Admin.Address != "127.0.0.1:9901" || f.Log.Level != "info" || f.AccessLog != nil {
		t.Errorf("defaults: %+v", f)
	}
	if len(f.Listeners) != 2 {
		t.Fatalf("%d listeners", len(f.Listeners))
	}
	https, http := f.Listeners[0], f.Listeners[1]
	if https.Address != ":443" || !https.TLS || !cmp.Equal(https.Protocols, []string{"h1", "h2", "h3"}) || https.Limits == nil || https.Limits.Headers != 32<<10 {
		t.Errorf("https = %+v", https)
	}
	if http.Address != ":80" || http.TLS || !http.RedirectHTTPS || !cmp.Equal(http.Protocols, []string{"h1", "h2"}) {
		t.Errorf("http = %+v", http)
	}
	if got := f.Origin(f.Routes[0]); got != "test.hcl:1:1" {
		t.Errorf("Origin = %q", got)
	}
}
