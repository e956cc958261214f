package tls

import (
	"crypto/x509"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	now := time.Now()
	clock := func() time.Time { return now }
	a, err := newAuthority(dir, clock)
	if err != nil || a.err != nil {
		t.Fatal(err, a.err)
	}
	for _, name := range []string{"localhost", "db.internal", "127.0.0.1", "::1", "printer"} {
		c, err := a.certificate(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Leaf.Verify(x509.VerifyOptions{Roots: poolOf(a), DNSName: name, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if again, _ := a.certificate(name); again != c {
			t.Errorf("%s: not the one from memory", name)
		}
	}
	first, _ := a.certificate("localhost")
	now = now.Add(leafLife*2/3 + time.Second)
	if c, _ := a.certificate("localhost"); c == first || !c.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("not made anew after two thirds of its life")
	}
	b, err := newAuthority(dir, clock)
	if err != nil || !b.root.Equal(a.root) {
		t.Errorf("read again: another root, %v", err)
	}
	checkKey(t, filepath.Join(dir, "root.key"))
	for i := range maxLeaves + 50 {
		if _, err := a.certificate(fmt.Sprintf("n%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(a.list()); n != maxLeaves {
		t.Errorf("%d certificates in memory, want %d", n, maxLeaves)
	}
	now = now.Add(rootLife)
	if c, err := newAuthority(dir, clock); err != nil || c.root.Equal(a.root) {
		t.Errorf("the expired root is still used, %v", err)
	}
}

func checkKey(t *testing.T, path string) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%s: mode %v, %v; want 0600", path, fi.Mode(), err)
	}
}

// A root that is damaged is reported and never overwritten: somebody trusts it.
func TestAuthorityKeepsDamagedRoot(t *testing.T) {
	dir := t.TempDir()
	if _, err := newAuthority(dir, time.Now); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func(file string) error{
		func(f string) error { return os.WriteFile(f, []byte("broken"), 0o600) },
		os.Remove,
	} {
		if err := damage(filepath.Join(dir, "root.key")); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(filepath.Join(dir, "root.pem"))
		if err != nil {
			t.Fatal(err)
		}
		a, err := newAuthority(dir, time.Now)
		if err != nil || a.err == nil || !strings.Contains(a.err.Error(), "root.key") {
			t.Fatalf("newAuthority: %v, %v; want a root in memory and the reason", err, a.err)
		}
		after, err := os.ReadFile(filepath.Join(dir, "root.pem"))
		if err != nil || string(after) != string(before) {
			t.Errorf("the root was overwritten: %v", err)
		}
	}
}

func TestTicketRotation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tickets.json")
	now := time.Now()
	clock := func() time.Time { return now }
	a, err := newTicketKeys(file, clock)
	if err != nil || a.problem() != nil {
		t.Fatal(err, a.problem())
	}
	checkKey(t, file)
	ids := func(k *ticketKeys) (s string) {
		for _, key := range *k.keys.Load() {
			s += fmt.Sprintf("%x ", key.ID)
		}
		return s
	}
	first := ids(a)
	now = now.Add(ticketRotation - time.Minute)
	if err := a.rotate(); err != nil || ids(a) != first {
		t.Errorf("rotated early: %v", err)
	}
	now = now.Add(2 * time.Minute)
	b, err := newTicketKeys(file, clock) // another process
	if err != nil || !strings.HasSuffix(ids(b), first) || len(*b.keys.Load()) != 2 {
		t.Errorf("keys %q after %q, %v; want a new one in front", ids(b), first, err)
	}
	if err := a.rotate(); err != nil || ids(a) != ids(b) {
		t.Errorf("keys %q here and %q there, %v; want the same", ids(a), ids(b), err)
	}
	now = now.Add(ticketRotation + time.Minute)
	if err := a.rotate(); err != nil || strings.Contains(ids(a), first) || len(*a.keys.Load()) != 2 {
		t.Errorf("keys %q, %v; want two, without %q", ids(a), err, first)
	}
	writeFile(t, file, []byte("{"))
	if c, err := newTicketKeys(file, clock); err != nil || len(*c.keys.Load()) != 1 || c.problem() != nil {
		t.Errorf("after a broken file: %v, %v", err, c.problem())
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"localhost": true, "a.localhost": true, "127.0.0.1": true, "::1": true, "printer": true, "db.internal": true,
		"nas.home.arpa": true, "x.test": true, "x.local": true, "example.com": false, "internal.com": false, "homearpa.net": false,
	} {
		if got := PrivateName(name); got != want {
			t.Errorf("PrivateName(%q) = %v", name, got)
		}
	}
	for host, want := range map[string]string{
		"Example.COM.": "example.com", "example.com:8443": "example.com", "[::1]:443": "::1", "[::1]": "::1", "::1": "::1",
	} {
		if got := normalName(host); got != want {
			t.Errorf("normalName(%q) = %q, want %q", host, got, want)
		}
	}
	s := newHostSet([]string{"a.example.com", "*.b.example.com", "*", "", "x.internal", "bad name.com", "bücher.example", "*.bücher.example"})
	for name, want := range map[string]bool{
		"a.example.com": true, "x.b.example.com": true, "x.y.b.example.com": true, "b.example.com": false, "example.com": false,
		"xn--bcher-kva.example": true, "a.xn--bcher-kva.example": true,
	} {
		if got := s.has(name); got != want {
			t.Errorf("has(%q) = %v", name, got)
		}
	}
	if len(s.public) != 2 || len(s.bad) != 1 {
		t.Errorf("public hosts %v and bad ones %q, want two and one", s.public, s.bad)
	}
	for _, bad := range []string{"", "a..b", "-a.com", "a-.com", "a b.com", "a/b", "ä.com", strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 130) + "com"} {
		if validName(bad) {
			t.Errorf("validName(%q)", bad)
		}
	}
}

// An import of the wrong package must not compile: no name of ours is one of
// crypto/tls.
func TestNoNameOfCryptoTLS(t *testing.T) {
	ours, theirs := exported(t, "."), exported(t, filepath.Join(build.Default.GOROOT, "src", "crypto", "tls"))
	if len(ours) < 10 || !theirs["Config"] {
		t.Fatalf("%d names here, %d in crypto/tls", len(ours), len(theirs))
	}
	for n := range ours {
		if theirs[n] {
			t.Errorf("%s is a name of crypto/tls, too", n)
		}
	}
}

func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				names[d.Name.Name] = names[d.Name.Name] || d.Recv == nil && d.Name.IsExported()
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						names[s.Name.Name] = s.Name.IsExported()
					case *ast.ValueSpec:
						for _, n := range s.Names {
							names[n.Name] = n.IsExported()
						}
					}
				}
			}
		}
	}
	maps.DeleteFunc(names, func(_ string, exported bool) bool { return !exported })
	return names
}
