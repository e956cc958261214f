package setup

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

// validate is what `sidegate validate` does.
func validate(path string) error {
	_, err := app.Validate(app.Options{Config: path, Stderr: io.Discard, Env: func(string) (string, bool) { return "", false }})
	return err
}

func services(t *testing.T, words ...string) []Service {
	t.Helper()
	var list []Service
	for _, w := range words {
		s, err := ParseService(w)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

// TestWrite: whatever the answers are, what is written is valid, and has what was
// asked for.
func TestWrite(t *testing.T) {
	one := services(t, "orders=10.0.0.7:8080, 10.0.0.8:8080")
	three := services(t, "a=127.0.0.1:1", "b=127.0.0.1:2", "c=127.0.0.1:3")
	token := filepath.Join(t.TempDir(), "consul.token")
	if err := os.WriteFile(token, []byte("c"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		in   Answers
		want []string
	}{
		{"local", Answers{Services: one}, []string{`hosts   = ["localhost"]`, `":443"`, `redirect_https = true`, `"10.0.0.8:8080"`}},
		{"acme", Answers{Services: one, Hosts: []string{"api.example.com"}, TLS: ACME, Email: "ops@example.com"}, []string{`email = "ops@example.com"`}},
		{"plain", Answers{Services: one, TLS: Plain}, []string{`":80"`, "# hosts"}},
		{"consul", Answers{Consul: "127.0.0.1:8500", ConsulToken: token, Hosts: []string{"*.example.com"}, TLS: ACME}, []string{"expose", `token   = file("` + token + `")`}},
		{"consul, service", Answers{Consul: "unix:///run/consul.sock", Services: services(t, "orders"), Hosts: []string{"orders.internal"}}, []string{`service "orders"`}},
		{"a host each", Answers{Services: three, Hosts: []string{"a.test", "b.test", "c.test"}}, []string{`["c.test"]`}},
		{"paths", Answers{Services: three, Hosts: []string{"all.test"}}, []string{`"/b/*"`}},
		{"admin for others", Answers{Services: one, Admin: ":9901"}, []string{`token   = file("admin.token")`}},
		{"odd folder", Answers{Services: one, StateDir: `/tmp/a "b" ${c} %{d}`}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etc")
			if err := tt.in.Complete(); err != nil {
				t.Fatal(err)
			}
			files, err := tt.in.Files(dir)
			if err != nil {
				t.Fatal(err)
			}
			target := Target{Dir: dir, Validate: validate}
			if err := target.Write(files); err != nil {
				t.Fatal(err)
			}
			if err := validate(dir); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, ConfigFile))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(got), want) {
					t.Errorf("no %s in\n%s", want, got)
				}
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != len(files) {
				t.Errorf("in the folder: %v, %v", entries, err)
			}
			for _, e := range entries {
				if info, _ := e.Info(); e.Name() == TokenFile && info.Mode().Perm() != 0o600 {
					t.Errorf("the token's mode is %v", info.Mode())
				}
			}
			if err := target.Write(files); err == nil || !strings.Contains(err.Error(), "exists") {
				t.Errorf("written twice: %v", err)
			}
		})
	}
}

// TestForce: with it the old file is kept beside; a folder with other files of
// configuration is refused in any case; what isn't valid leaves no trace.
func TestForce(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, ConfigFile)
	if err := os.WriteFile(old, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	files := []File{{Name: ConfigFile, Text: []byte("# new\n"), Mode: 0o644}}
	bad := errors.New("not valid")
	target := Target{Dir: dir, Force: true, Validate: func(string) error { return bad }}
	if err := target.Write(files); !errors.Is(err, bad) {
		t.Fatalf("Write() = %v", err)
	}
	if b, _ := os.ReadFile(old); string(b) != "# mine\n" {
		t.Fatalf("after a failure it is %q", b)
	}
	target.Validate = func(string) error { return nil }
	if err := target.Write(files); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(old); string(b) != "# new\n" {
		t.Errorf("it is %q", b)
	}
	if b, _ := os.ReadFile(old + ".old"); string(b) != "# mine\n" {
		t.Errorf("the old one is %q", b)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("in the folder: %v", entries)
	}
	if err := os.WriteFile(filepath.Join(dir, "more.hcl"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := target.Write(files); err == nil || !strings.Contains(err.Error(), "more.hcl") {
		t.Errorf("beside another file: %v", err)
	}
	fresh := Target{Dir: filepath.Join(dir, "fresh"), Validate: func(string) error { return bad }}
	if err := fresh.Write(files); !errors.Is(err, bad) {
		t.Errorf("Write() = %v", err)
	}
	if _, err := os.Stat(fresh.Dir); err == nil {
		t.Error("a folder was left")
	}
}

func TestWrongAnswers(t *testing.T) {
	one := services(t, "a=127.0.0.1:1")
	tests := []struct {
		in   Answers
		want string
	}{
		{Answers{}, "nothing to route to"},
		{Answers{Consul: "127.0.0.1:8500"}, "which hosts"},
		{Answers{Services: services(t, "a")}, "where it is"},
		{Answers{Services: append(one, one...)}, "twice"},
		{Answers{Services: one, Hosts: []string{"api.example.com"}}, "-acme"},
		{Answers{Services: one, Hosts: []string{"api.test"}, TLS: ACME}, "no public authority"},
		{Answers{Services: one, TLS: ACME}, "name the hosts"},
		{Answers{Services: one, TLS: Files}, "name the files"},
		{Answers{Services: one, CertFile: "a.pem"}, "go together"},
		{Answers{Services: one, Listen: "443"}, "HOST:PORT"},
		{Answers{Services: one, Listen: ":0"}, "no port"},
		{Answers{Services: one, Admin: "x"}, "admin server"},
		{Answers{Services: one, TLS: Plain, Redirect: ":81"}, "nothing to redirect"},
		{Answers{Services: one, Hosts: []string{"https://api.test/"}}, "the name alone"},
		{Answers{Services: one, Hosts: []string{""}}, "empty"},
		{Answers{Services: one, Email: "a\nb"}, "control characters"},
	}
	for _, tt := range tests {
		if err := tt.in.Complete(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Complete(%+v) = %v, want %q", tt.in, err, tt.want)
		}
	}
	for _, word := range []string{"", "=127.0.0.1:1", "a b=127.0.0.1:1", "a=", "a=127.0.0.1", "a=:1", "a=127.0.0.1:0", "a=127.0.0.1:99999", `a=$("x"):1`} {
		if s, err := ParseService(word); err == nil {
			t.Errorf("ParseService(%q) = %+v", word, s)
		}
	}
}

// TestAsk: a person is asked again after what can't be, and an input that ends
// early writes nothing.
func TestAsk(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string // in the configuration
		said     string
	}{
		{"usual", "\nweb=127.0.0.1:8080\n\n\n3\n:8443\n", []string{`service "web"`, `["localhost"]`, `":8443"`}, ""},
		{"again", "7\n1\nweb\nweb=127.0.0.1:8080\nweb=127.0.0.1:1\napi=127.0.0.1:1\n-\na.test,b.test\n1\n-\n2\n/nonexistent\n/dev/null\n/dev/null\n3\nx\n\n", nil, "no such file"},
		{"consul", "2\n\n\n\n1\nops@example.com\n\n", []string{"consul {", "expose {", `"*.example.com"`, "ops@example.com"}, ""},
		{"plain", "1\nweb=127.0.0.1:8080\n\nshop.example.com\n4\n\n", []string{`":80"`}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			var a Answers
			err := Ask(strings.NewReader(tt.in), &out, &a)
			if tt.name == "again" {
				// With -files and a certificate that can't be read it ends where validation says so.
				if !strings.Contains(out.String(), tt.said) || !strings.Contains(out.String(), "isn't one of 1 to 2") || !strings.Contains(out.String(), "already") || !strings.Contains(out.String(), "no public authority") {
					t.Errorf("Ask said\n%s", &out)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			if err := a.Complete(); err != nil {
				t.Fatal(err)
			}
			got := a.config("/etc/sidegate", false)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %s in\n%s", want, got)
				}
			}
			for i := range len(tt.in) { // any end before the last answer is an error
				if end := tt.in[:i]; strings.Count(end, "\n") < strings.Count(tt.in, "\n") && (end == "" || strings.HasSuffix(end, "\n")) {
					if err := Ask(strings.NewReader(end), io.Discard, &Answers{}); !errors.Is(err, errNoAnswer) {
						t.Errorf("Ask(%q) = %v", end, err)
					}
				}
			}
		})
	}
	if err := Ask(strings.NewReader(strings.Repeat("x", 10000)), io.Discard, &Answers{}); err == nil {
		t.Error("an endless answer was taken")
	}
}
