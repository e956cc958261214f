package tls

import (
	"crypto/x509"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHTTP01(t *testing.T) {
	e := newEdge(t)
	p := startPebble(t, ports(e))
	e.serve(t, t.TempDir())
	commit(t, e.m, p.settings("http-01"), "http.example.com")
	c := e.await(t, "http.example.com", p.roots(t))
	if !strings.Contains(p.out.String(), "validate w/ HTTP") || p.issued() != 1 {
		t.Errorf("Pebble issued %d certificates, want 1 by http-01", p.issued())
	}
	if _, ok := e.m.HTTPChallenge("http.example.com", challengePath+"unknown"); ok {
		t.Error("an unknown token was answered")
	}
	st := statusOf(t, e.m, "http.example.com")
	if st.Source != "acme" || st.NotAfter != c.NotAfter || st.Error != "" || st.RenewFrom.IsZero() {
		t.Errorf("Status() = %+v, want an ACME certificate with its renewal window", st)
	}
}

func TestTLSALPN01(t *testing.T) {
	e := newEdge(t)
	p := startPebble(t, ports(e))
	e.serve(t, t.TempDir())
	commit(t, e.m, p.settings("tls-alpn-01"), "alpn.example.com")
	e.await(t, "alpn.example.com", p.roots(t))
}

// Before there is a certificate, and with a refused challenge, the local
// authority's is served; the error is in the status.
func TestWrongAnswerIsRefused(t *testing.T) {
	e := newEdge(t)
	p := startPebble(t, ports(e))
	e.wrong.Store(true)
	e.serve(t, t.TempDir())
	commit(t, e.m, p.settings("http-01"), "wrong.example.com")
	wait(t, "the refusal", 30*time.Second, func() bool {
		return statusOf(t, e.m, "wrong.example.com").Error != ""
	})
	st := statusOf(t, e.m, "wrong.example.com")
	if !st.NotAfter.IsZero() || st.NextTry.Before(time.Now().Add(30*time.Second)) {
		t.Errorf("Status() = %+v, want no certificate and a next try in about a minute", st)
	}
	if !strings.Contains(st.Error, "key authorization") {
		t.Errorf("Status() says %q, want the authority's reason", st.Error)
	}
	if p.issued() != 0 {
		t.Errorf("Pebble issued %d certificates, want 0", p.issued())
	}
	if e.served("wrong.example.com", localRoots(e.m)) == nil {
		t.Error("the local authority's certificate isn't served meanwhile")
	}
}

func TestBadNonces(t *testing.T) {
	e := newEdge(t)
	o := ports(e)
	o.badNonces = 50
	p := startPebble(t, o)
	e.serve(t, t.TempDir())
	commit(t, e.m, p.settings(), "nonce.example.com")
	e.await(t, "nonce.example.com", p.roots(t))
}

func TestRestartKeepsCertificateAndAccount(t *testing.T) {
	e := newEdge(t)
	p := startPebble(t, ports(e))
	dir := t.TempDir()
	e.serve(t, dir)
	commit(t, e.m, p.settings(), "keep.example.com")
	roots := p.roots(t)
	first := e.await(t, "keep.example.com", roots)
	accounts := strings.Count(p.out.String(), "POST /sign-me-up")
	checkModes(t, dir)

	e.restart(t, dir)
	commit(t, e.m, p.settings(), "keep.example.com")
	again := e.served("keep.example.com", roots) // at once: Commit loads what is stored
	if again == nil || !again.Equal(first) {
		t.Fatalf("after a restart the certificate isn't the one from before: %v", again)
	}
	commit(t, e.m, p.settings(), "keep.example.com", "more.example.com")
	e.await(t, "more.example.com", roots)
	if n := p.issued(); n != 2 {
		t.Errorf("Pebble issued %d certificates, want 2", n)
	}
	if n := strings.Count(p.out.String(), "POST /sign-me-up"); n != accounts {
		t.Errorf("%d more requests for an account after the restart", n-accounts)
	}
}

// Down from the start, and down later: what there is is served.
func TestAuthorityDown(t *testing.T) {
	e := newEdge(t)
	p := startPebble(t, ports(e))
	dir := t.TempDir()
	e.serve(t, dir)
	commit(t, e.m, p.settings(), "up.example.com")
	roots := p.roots(t)
	first := e.await(t, "up.example.com", roots)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	e.restart(t, dir)
	commit(t, e.m, p.settings(), "up.example.com", "new.example.com")
	if c := e.served("up.example.com", roots); c == nil || !c.Equal(first) {
		t.Error("the stored certificate isn't served while the authority is down")
	}
	if e.served("new.example.com", localRoots(e.m)) == nil {
		t.Error("a new host has no local certificate while the authority is down")
	}
	wait(t, "the error", 30*time.Second, func() bool { return statusOf(t, e.m, "new.example.com").Error != "" })
}

func TestRenewalBeforeExpiry(t *testing.T) {
	e := newEdge(t)
	o := ports(e)
	o.validity = 20 * time.Second
	p := startPebble(t, o)
	e.serve(t, t.TempDir())
	commit(t, e.m, p.settings(), "short.example.com")
	roots := p.roots(t)
	first := e.await(t, "short.example.com", roots)
	wait(t, "a renewal", 40*time.Second, func() bool {
		c := e.served("short.example.com", roots) // verified: never an expired one
		if c == nil {
			t.Fatal("no valid certificate is served")
		}
		return !c.Equal(first)
	})
}

// The authority moves the window, as it does before it revokes. The answer
// that is stored says to ask again in six hours; they are skipped by hand.
func TestRenewalInformation(t *testing.T) {
	e := newEdge(t)
	p := startPebble(t, ports(e))
	dir := t.TempDir()
	e.serve(t, dir)
	commit(t, e.m, p.settings(), "ari.example.com")
	roots := p.roots(t)
	first := e.await(t, "ari.example.com", roots)
	p.suggestRenewal(t, first)
	e.m.Close()
	skipRetryAfter(t, dir)
	e.restart(t, dir)
	commit(t, e.m, p.settings(), "ari.example.com")
	wait(t, "the renewal that the authority wants", 30*time.Second, func() bool {
		c := e.served("ari.example.com", roots)
		return c != nil && !c.Equal(first)
	})
	if !strings.Contains(p.out.String(), "is a replacement of") {
		t.Error("the order doesn't say what it replaces")
	}
}

// A renewal that fails leaves the certificate that there is.
func TestFailedRenewalKeepsServing(t *testing.T) {
	e := newEdge(t)
	p := startPebble(t, ports(e))
	dir := t.TempDir()
	e.serve(t, dir)
	commit(t, e.m, p.settings("http-01"), "stay.example.com")
	roots := p.roots(t)
	first := e.await(t, "stay.example.com", roots)
	p.suggestRenewal(t, first)
	e.m.Close()
	skipRetryAfter(t, dir)
	e.wrong.Store(true)
	e.restart(t, dir)
	commit(t, e.m, p.settings("http-01"), "stay.example.com")
	wait(t, "the failed renewal", 30*time.Second, func() bool {
		return statusOf(t, e.m, "stay.example.com").Error != ""
	})
	if c := e.served("stay.example.com", roots); c == nil || !c.Equal(first) {
		t.Error("the certificate from before isn't served")
	}
	if st := statusOf(t, e.m, "stay.example.com"); !st.NotAfter.Equal(first.NotAfter) || !st.RenewAt.Before(time.Now()) {
		t.Errorf("Status() = %+v, want the old certificate, due for renewal", st)
	}
}

func skipRetryAfter(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "certificates", "certificates", "*", "*", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("stored certificates: %v, %v; want one", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	data, _ := all["issuer_data"].(map[string]any)
	info, ok := data["renewal_info"].(map[string]any)
	if !ok {
		t.Fatalf("no renewal information in %s", b)
	}
	info["_retryAfter"] = time.Now().Add(-time.Minute).Format(time.RFC3339)
	if b, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	writeFile(t, files[0], b)
}

func TestOnDemand(t *testing.T) {
	asked := make(chan string, 100)
	ask := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := r.URL.Query().Get("domain")
		asked <- d
		switch d {
		case "yes.example.com":
		case "moved.example.com":
			http.Redirect(w, r, "/elsewhere?domain=yes.example.com", http.StatusFound)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(ask.Close)
	e := newEdge(t)
	p := startPebble(t, ports(e))
	e.serve(t, t.TempDir())
	s := p.settings()
	s.OnDemand = &OnDemandSettings{Ask: ask.URL}
	commit(t, e.m, s, "route.example.com")
	roots := p.roots(t)
	e.await(t, "yes.example.com", roots)
	for _, name := range []string{"no.example.com", "no.example.com", "moved.example.com"} {
		if e.served(name, roots) != nil {
			t.Errorf("%s got a certificate", name)
		}
	}
	e.await(t, "route.example.com", roots)
	close(asked)
	count := map[string]int{}
	for d := range asked {
		count[d]++
	}
	if count["yes.example.com"] != 1 || count["no.example.com"] != 1 || count["moved.example.com"] != 1 || count["route.example.com"] != 0 {
		t.Errorf("asked %v, want once for each name that is in no route", count)
	}
	if st := statusOf(t, e.m, "yes.example.com"); st.Source != "on-demand" {
		t.Errorf("Status() = %+v, want an on-demand certificate", st)
	}
}

// A new authority's certificate takes the place of the old one's only when it
// is there.
func TestChangeOfAuthority(t *testing.T) {
	e := newEdge(t)
	one, two := startPebble(t, ports(e)), startPebble(t, ports(e))
	e.serve(t, t.TempDir())
	commit(t, e.m, one.settings(), "change.example.com")
	e.await(t, "change.example.com", one.roots(t))
	both := one.roots(t)
	resp := two.roots(t)
	commit(t, e.m, two.settings(), "change.example.com")
	_ = both
	wait(t, "the second authority's certificate", 30*time.Second, func() bool {
		if e.served("change.example.com", resp) != nil {
			return true
		}
		if e.served("change.example.com", both) == nil && e.served("change.example.com", resp) == nil {
			t.Fatal("neither authority's certificate is served")
		}
		return false
	})
}

func statusOf(t *testing.T, m *Manager, name string) CertStatus {
	t.Helper()
	for _, s := range m.Status() {
		if s.Names[0] == name && s.Source != "local" {
			return s
		}
	}
	return CertStatus{}
}

func localRoots(m *Manager) *x509.CertPool {
	pool := x509.NewCertPool()
	b, _ := m.CA()
	pool.AppendCertsFromPEM(b)
	return pool
}

// checkModes walks what was written: nobody else may read any of it.
func checkModes(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return nil // a lock that is gone
		}
		if !d.IsDir() {
			files++
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, fi.Mode().Perm())
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Errorf("walked %d files: %v", files, err)
	}
}
