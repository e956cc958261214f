package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// chromium loads the page in a real browser that has Pebble's root among the
// user's own, and returns the document after its scripts.
func (s *site) chromium(t *testing.T, args ...string) string {
	t.Helper()
	home := t.TempDir()
	db := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, a := range [][]string{{"-N", "--empty-password"}, {"-A", "-t", "C,,", "-n", "pebble", "-i", s.rootFile}} {
		if out, err := exec.Command(tool(t, "certutil"), append([]string{"-d", "sql:" + db}, a...)...).CombinedOutput(); err != nil {
			t.Fatalf("certutil: %v: %s", err, out)
		}
	}
	return browse(t, home, append(append([]string{"--host-resolver-rules=MAP " + publicHost + " 127.0.0.1"}, args...), s.url("/"))...)
}

// browse loads a page in a real browser, and returns the document after its
// scripts.
func browse(t *testing.T, home string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, "chromium"), append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-crash-reporter", "--user-data-dir=" + filepath.Join(home, "profile"),
		"--virtual-time-budget=3000", "--dump-dom",
	}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"), "XDG_CACHE_HOME="+filepath.Join(home, ".cache"))
	// Its helpers are in its group: none outlives the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var dom, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &dom, &log
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // most often there is nobody
	}
	if err != nil {
		t.Fatalf("chromium: %v:\n%s", err, log.String())
	}
	if !strings.Contains(dom.String(), "the page came") {
		t.Logf("chromium said:\n%s", log.String())
	}
	return dom.String()
}

// TestBrowser: a real browser accepts the certificate as it accepts any, and
// speaks HTTP/2 with the gateway, or HTTP/3 when it is told to begin with it.
// The root isn't one of the browser's own, and only for an origin that it is
// told to use QUIC with does Chromium accept such a root there.
func TestBrowser(t *testing.T) {
	s := newSite(t, "http-01", "tls-alpn-01")
	s.await(t, publicHost)
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"TCP", "over h2", nil},
		{"QUIC", "over h3", []string{fmt.Sprintf("--origin-to-force-quic-on=%s:%d", publicHost, s.https)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dom := s.chromium(t, tt.args...)
			if !strings.Contains(dom, "the page came") || !strings.Contains(dom, tt.want) {
				t.Errorf("the document is %.3000q, want the page %s", dom, tt.want)
			}
		})
	}
}

// TestBrowserCORS: a page of another origin reads in a real browser why it is
// refused, by policies that run before cors and by later ones, if its origin may.
func TestBrowserCORS(t *testing.T) {
	g := newGateway(t, "")
	api := fmt.Sprintf("http://api.test:%d", g.http)
	g.ordersFile(t)
	page := fmt.Sprintf(`<!doctype html><p>the page came</p><p id="says"></p><script>
const tries = {large: {method: "POST", body: "x".repeat(3000), headers: {"Content-Type": "application/json"}}, wrong: {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}}}
Promise.all(Object.entries(tries).map(([name, how]) => fetch("%s/", how).then(async r => name + " " + r.status + " " + JSON.stringify(await r.json()), e => name + " nothing"))).then(list => { document.getElementById("says").textContent = list.join("; ") })
</script>`, api)
	g.configure(t, twin(t, http.HandlerFunc(mirror))+fmt.Sprintf(`
route "pages" {
  hosts = ["good.test", "other.test"]
  respond {
    body    = %q
    headers = { "Content-Type" = "text/html" }
  }
}
route "api" {
  hosts   = ["api.test"]
  service = "one"
  limits { body = "2KiB" }
  cors { origins = ["http://good.test:%d"] }
  validate { openapi = "orders.yaml" }
}
`, page, g.http))
	g.start(t)
	for host, want := range map[string][]string{
		"good.test":  {"large 413", "problem:body-too-large", "wrong 400", `{"where":"body/items","what":"is required"}`},
		"other.test": {"large nothing; wrong nothing"},
	} {
		dom := browse(t, t.TempDir(), "--host-resolver-rules=MAP *.test 127.0.0.1", fmt.Sprintf("http://%s:%d/", host, g.http))
		for _, text := range want {
			if !strings.Contains(dom, text) {
				t.Errorf("%s: the document is %.3000q, want %q", host, dom, text)
			}
		}
	}
}
