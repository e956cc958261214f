package tls

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// filePairFor writes a certificate for names, signed by a new authority.
func filePairFor(t *testing.T, dir, name string) (FileSettings, *authority) {
	t.Helper()
	a, err := newAuthority(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	f := FileSettings{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	rewrite(t, f, a, name)
	return f, a
}

func rewrite(t *testing.T, f FileSettings, a *authority, name string) {
	t.Helper()
	c, err := a.issue(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	writePair(t, c, f.CertFile, f.KeyFile)
}

func poolOf(a *authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.root)
	return p
}

func TestFilesAreReloaded(t *testing.T) {
	e, _ := newServedEdge(t)
	f, a := filePairFor(t, t.TempDir(), "*.files.example.com")
	commit(t, e.m, &Settings{Certificates: []FileSettings{f}}, "a.files.example.com")
	first := e.served("a.files.example.com", poolOf(a))
	if first == nil {
		t.Fatal("the file's certificate isn't served")
	}
	if e.served("a.b.files.example.com", poolOf(a)) != nil {
		t.Error("a wildcard covers two labels")
	}

	writeFile(t, f.KeyFile, []byte("broken"))
	wait(t, "the error in the status", 10*time.Second, func() bool {
		return statusOf(t, e.m, "*.files.example.com").Error != ""
	})
	if c := e.served("a.files.example.com", poolOf(a)); c == nil || !c.Equal(first) {
		t.Error("the certificate from before isn't served when the new one is broken")
	}

	rewrite(t, f, a, "*.files.example.com")
	wait(t, "the new certificate", 10*time.Second, func() bool {
		c := e.served("a.files.example.com", poolOf(a))
		return c != nil && !c.Equal(first)
	})
	if st := statusOf(t, e.m, "*.files.example.com"); st.Error != "" || st.Source != "file" || st.File != f.CertFile {
		t.Errorf("Status() = %+v", st)
	}
	if err := os.Remove(f.CertFile); err != nil {
		t.Fatal(err)
	}
	wait(t, "the missing file in the status", 10*time.Second, func() bool {
		return strings.Contains(statusOf(t, e.m, "*.files.example.com").Error, "no such file")
	})
	if e.served("a.files.example.com", poolOf(a)) == nil {
		t.Error("the certificate is gone with its file")
	}
}

// A file that covers other names than before gives its old ones back to ACME.
func TestFileChangesItsNames(t *testing.T) {
	m := newManager(t, t.TempDir())
	f, a := filePairFor(t, t.TempDir(), "one.example.com")
	s := &Settings{Certificates: []FileSettings{f}, ACME: &ACMESettings{Directory: "https://127.0.0.1:1/dir"}}
	commit(t, m, s, "one.example.com", "two.example.com")
	wanted := func(name string) bool {
		_, ok := (*m.live.Load().unit.names.Load())[name]
		return ok
	}
	if wanted("one.example.com") || !wanted("two.example.com") {
		t.Fatal("want ACME for two.example.com alone")
	}
	rewrite(t, f, a, "two.example.com")
	wait(t, "ACME for one.example.com", 10*time.Second, func() bool {
		return wanted("one.example.com") && !wanted("two.example.com")
	})
}

func TestFileWinsOverLocal(t *testing.T) {
	e, _ := newServedEdge(t)
	f, a := filePairFor(t, t.TempDir(), "127.0.0.1")
	commit(t, e.m, &Settings{Certificates: []FileSettings{f}})
	st, err := dial(e.tls.Addr().String(), &tls.Config{ServerName: "127.0.0.1", RootCAs: poolOf(a)})
	if err != nil {
		t.Fatalf("by address: %v", err)
	}
	if len(st.PeerCertificates) != 1 {
		t.Errorf("%d certificates", len(st.PeerCertificates))
	}
}

func TestPlanErrors(t *testing.T) {
	dir := t.TempDir()
	m := newManager(t, filepath.Join(dir, "state"))
	f, _ := filePairFor(t, dir, "a.example.com")
	otherDir := t.TempDir()
	other, _ := filePairFor(t, otherDir, "b.example.com")
	text := filepath.Join(dir, "text")
	writeFile(t, text, []byte("hello"))
	missing := filepath.Join(dir, "missing.pem")
	good := ACMESettings{Directory: "https://ca.example/dir"}
	for _, tt := range []struct {
		name string
		s    Settings
		want []string
	}{
		{"missing certificate", Settings{Certificates: []FileSettings{{CertFile: missing, KeyFile: f.KeyFile}}}, []string{"certificate 1: cert_file", missing, "no such file"}},
		{"missing key", Settings{Certificates: []FileSettings{{CertFile: f.CertFile, KeyFile: missing}}}, []string{"key_file", missing}},
		{"a directory", Settings{Certificates: []FileSettings{{CertFile: dir, KeyFile: f.KeyFile}}}, []string{dir, "not a regular file"}},
		{"no PEM", Settings{Certificates: []FileSettings{{CertFile: text, KeyFile: f.KeyFile}}}, []string{text, "failed to find any PEM data"}},
		{"another key", Settings{Certificates: []FileSettings{{CertFile: f.CertFile, KeyFile: other.KeyFile}}}, []string{f.CertFile, other.KeyFile, "private key does not match public key"}},
		{"two at once", Settings{Certificates: []FileSettings{{CertFile: missing, KeyFile: missing}, f, {CertFile: text, KeyFile: text}}}, []string{"certificate 1:", "certificate 3:"}},
		{"plain directory", Settings{ACME: &ACMESettings{Directory: "http://ca.example/dir"}}, []string{"acme: directory", "isn't an https URL"}},
		{"bad email", Settings{ACME: &ACMESettings{Directory: good.Directory, Email: "nobody"}}, []string{"acme: email"}},
		{"missing root", Settings{ACME: &ACMESettings{Directory: good.Directory, CAFile: missing}}, []string{"acme: ca_file", missing}},
		{"root without PEM", Settings{ACME: &ACMESettings{Directory: good.Directory, CAFile: text}}, []string{"acme: ca_file", text, "no PEM certificate"}},
		{"on demand without ACME", Settings{OnDemand: &OnDemandSettings{Ask: "http://localhost/"}}, []string{"on_demand: needs an acme block"}},
		{"bad ask", Settings{ACME: &good, OnDemand: &OnDemandSettings{Ask: "ftp://localhost/"}}, []string{"on_demand: ask"}},
		{"consul without consul", Settings{Storage: "consul", ACME: &good}, []string{`storage = "consul" is not available yet`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := m.Plan(&tt.s, nil)
			if err == nil {
				t.Fatal("Plan accepted it")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("Plan() = %v, want %q in it", err, w)
				}
			}
		})
	}
	p, err := m.Plan(&Settings{Certificates: []FileSettings{f}, ACME: &good}, []string{"a.example.com", "c.example.com", "*.d.example.com", "x.internal"})
	if err != nil {
		t.Fatal(err)
	}
	if n := p.hosts.certified(p.files); len(n) != 1 || len(p.Warnings()) != 1 || !strings.Contains(p.Warnings()[0], "*.d.example.com") {
		t.Errorf("names %v, warnings %v; want c.example.com and the wildcard", n, p.Warnings())
	}
	if m.live.Load().unit != nil {
		t.Error("planning changed what is live")
	}
}
