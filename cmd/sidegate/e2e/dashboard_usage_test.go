package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// TestDashboardUsage: what consumers used and were charged is on the page as it was
// sent, in its export, and in sidegate top.
func TestDashboardUsage(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fails" {
			w.WriteHeader(500)
		}
		_, _ = io.WriteString(w, "12345")
	}))
	t.Cleanup(s.Close)
	billing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(billing.Close)
	var consumers strings.Builder
	for _, name := range []string{"acme", "umbrella"} {
		fmt.Fprintf(&consumers, "consumer %q {\n  api_key { sha256 = \"%x\" }\n}\n", name, sha256.Sum256([]byte("key-of-"+name)))
	}
	g := newGateway(t, "")
	g.configure(t, fmt.Sprintf(`
usage {}
service "origin" { instances = [%q] }
service "billing" { instances = [%q] }
%s
route "free" {
  hosts   = ["free.test"]
  service = "origin"
  auth "api_key" {}
}
route "paid" {
  hosts   = ["paid.test"]
  service = "origin"
  auth "api_key" {}
  charge {
    meter   = "answers"
    units   = "0.25"
    service = "billing"
    mode    = "event"
  }
}
route "limited" {
  hosts   = ["limited.test"]
  service = "origin"
  auth "api_key" {}
  quota {
    limit = "4/day"
    by    = "consumer"
  }
}
`, s.Listener.Addr().String(), billing.Listener.Addr().String(), consumers.String()))
	g.start(t)
	c := g.clients(t)[0]
	for i := range 20 {
		send(t, c, c.scheme+"://free.test/", "X-Api-Key: key-of-acme")
		if i < 6 {
			send(t, c, c.scheme+"://limited.test/", "X-Api-Key: key-of-acme")
			send(t, c, c.scheme+"://paid.test/", "X-Api-Key: key-of-acme")
			send(t, c, c.scheme+"://paid.test/", "X-Api-Key: key-of-umbrella")
		}
		if i < 4 {
			send(t, c, c.scheme+"://free.test/fails", "X-Api-Key: key-of-acme")
		}
		if i < 3 {
			send(t, c, c.scheme+"://free.test/", "X-Api-Key: wrong")
		}
	}

	p := g.openDashboard(t, newDevtools(t, "nobody.test"), "#/consumers")
	// row waits for a row of a table that begins and goes on so.
	row := func(cells ...string) {
		t.Helper()
		p.await(strings.Join(cells, " "), fmt.Sprintf("[...document.querySelectorAll('tbody tr')].some(r => [...r.children].map(c => c.innerText.trim().replaceAll('\\n', ' ')).join('|').includes(%s))", quote(strings.Join(cells, "|"))))
	}
	row("acme", "36", "11.1 %", "2", "0")
	row("umbrella", "6", "0 %", "0", "0")
	row("(nobody known)", "3", "0 %", "0", "0")
	p.unharmed("consumers")
	p.shot("usage")
	href, err := p.run("document.querySelector('a[download]').getAttribute('href')")
	if err != nil {
		t.Fatal(err)
	}
	csv, err := g.get(href.(string))
	if err != nil || !strings.Contains(csv, "acme,free") || !strings.HasPrefix(csv, "consumer,route") {
		t.Errorf("the export: %v\n%s", err, csv)
	}
	p.to("#/consumers/acme", "a consumer", has("36")+" && "+has("1.5"))
	row("free", "2xx", "20", "0 %")
	row("free", "5xx", "4", "100 %")
	row("limited", "4xx", "2", "0 %", "2")
	row("paid", "2xx", "6")
	p.unharmed("consumer")
	p.to("#/charges", "what was charged", has("answers"))
	row("acme", "answers", "1.5", "6", "1.5", "0")
	row("umbrella", "answers", "1.5", "6", "1.5", "0")
	row("billing/charges", "● answers")
	p.unharmed("charges")
	for _, at := range []string{"consumers", "consumers/acme", "charges"} {
		p.size(360, 740)
		p.to("#/"+at, at, has("acme"))
		p.narrow(at)
		p.shot("phone-usage-" + strings.ReplaceAll(at, "/", "-"))
	}
	out, code := run(t, "top", "-once", "-by", "consumer", "-config", filepath.Join(g.dir, "etc"))
	if code != 0 || !strings.Contains(out, "\nacme ") || !strings.Contains(out, " 36\n") || !strings.Contains(out, "\n(nobody known) ") {
		t.Errorf("top by consumer: %d\n%s", code, out)
	}
}
