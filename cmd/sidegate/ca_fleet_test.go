package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func runRoot(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(longFlags(args))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestFleetAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fleet")
	must := func(args ...string) string {
		t.Helper()
		out, err := runRoot(t, args...)
		if err != nil {
			t.Fatalf("sidegate %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	if out := must("ca", "init", "-trust-domain", "fleet.example", "-dir", dir); !strings.Contains(out, filepath.Join(dir, "ca.pem")+": the authority of spiffe://fleet.example, until ") {
		t.Errorf("init: %s", out)
	}
	if out := must("ca", "issue", "-dir", dir, "-service", "orders"); !strings.HasPrefix(out, filepath.Join(dir, "orders.pem")+": spiffe://fleet.example/svc/orders, until ") {
		t.Errorf("issue: %s", out)
	}
	before, err := os.ReadFile(filepath.Join(dir, "orders.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want string }{
		{"ca init -trust-domain fleet.example -dir " + dir, "ca.pem: file already exists: an authority is never overwritten"},
		{"ca init -dir " + dir, "say for which trust domain and where"},
		{"ca init -trust-domain Fleet_1 -dir " + dir, "the trust domain has other characters"},
		{"ca issue -dir " + dir + " -service orders", "orders.pem: file already exists: to replace certificate and key, say so (-renew)"},
		{"ca issue -dir " + dir + " -service a/b", "isn't spiffe://TRUST-DOMAIN/svc/NAME"},
		{"ca issue -dir " + dir + " -service billing -days 0", "-days: write 1 to 3650"},
		{"ca issue -dir " + dir + " -service billing -days 3000", ""},
		{"ca issue -dir " + dir + "x -service billing", "make an authority with sidegate ca init"},
		{"ca issue -service billing", "say where the authority is"},
		{"ca inspect " + dir + "/orders.key", "there is no certificate in it"},
		{"ca inspect", "accepts 1 arg(s)"},
	} {
		out, err := runRoot(t, strings.Fields(tt.args)...)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("sidegate %s: %v %s, want %q", tt.args, err, out, tt.want)
		}
	}
	must("ca", "issue", "-dir", dir, "-service", "orders", "-renew", "-days", "1")
	if after, err := os.ReadFile(filepath.Join(dir, "orders.key")); err != nil || bytes.Equal(before, after) {
		t.Errorf("renewed, the key is the same (%v)", err)
	}
	out := must("ca", "inspect", filepath.Join(dir, "orders.pem"))
	for _, want := range []string{"name     spiffe://fleet.example/svc/orders", "issuer   CN=fleet.example", "in 24h0m0s", "serial"} {
		if !strings.Contains(out, want) {
			t.Errorf("inspect lacks %q:\n%s", want, out)
		}
	}
	if out := must("ca", "inspect", filepath.Join(dir, "ca.pem")); !strings.Contains(out, "kind     authority") || !strings.Contains(out, "days") {
		t.Errorf("inspect of the root:\n%s", out)
	}
	// What others think of it, the name constraint included.
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl isn't installed")
	}
	for _, purpose := range []string{"sslserver", "sslclient"} {
		if out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", filepath.Join(dir, "ca.pem"), filepath.Join(dir, "orders.pem")).CombinedOutput(); err != nil {
			t.Errorf("openssl verify -purpose %s: %v %s", purpose, err, out)
		}
	}
}
