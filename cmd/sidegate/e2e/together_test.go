package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestBodiesTogether: a body that limits counts, waf and validate both look at,
// a mirror copies and a retry sends again comes to the service byte by byte with
// its trailer; who refuses it, a page may read why, and the connection goes on.
func TestBodiesTogether(t *testing.T) {
	var calls atomic.Int64
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Type", "application/json")
		digest(w, r)
	})
	copied := make(chan string, 1000)
	copies := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			copied <- string(b)
		}
	}))
	t.Cleanup(copies.Close)
	g := newGateway(t, "")
	g.ordersFile(t)
	// Every second try finds nobody, and is made again.
	twins := strings.ReplaceAll(twin(t, backend), "instances = [", fmt.Sprintf("outlier { errors = 0 }\n retry { budget = 1 }\n balance = \"round_robin\"\n instances = [%q, ", "127.0.0.1:1"))
	var routes strings.Builder
	fmt.Fprintf(&routes, "service \"copy\" { instances = [%q] }\n", copies.Listener.Addr())
	for _, service := range []string{"one", "two"} {
		fmt.Fprintf(&routes, `
route "orders-%[1]s" {
  hosts   = ["orders-%[1]s.test"]
  service = %[1]q
  limits { body = "200KiB" }
  waf { body = "128KiB" }
  cors { origins = ["https://page.test"] }
  quota {
    limit = "1000000/h"
    by    = "client_ip"
  }
  validate {
    openapi = "orders.yaml"
    body    = "64KiB"
  }
  mirror { service = "copy" }
}
`, service)
	}
	g.configure(t, accessLog+twins+routes.String())
	g.start(t)
	item := `{"sku":"AB-1234","count":2}`
	small := ` {"customer" : "caf\u00e9", "items":[` + item + `]}` + "\n"
	large := `{"customer":null,"items":[` + strings.Repeat(item+",", 99) + item + `]` + strings.Repeat(" ", 50_000) + `}`
	typed := []string{"Content-Type: application/json", "Origin: https://page.test"}
	for _, c := range g.clients(t) {
		for _, service := range []string{"one", "two"} {
			t.Run(c.name+" to "+service, func(t *testing.T) {
				url := c.scheme + "://orders-" + service + ".test/"
				good := func(body, how string) {
					t.Helper()
					var in io.Reader = strings.NewReader(body)
					length := int64(len(body))
					if how == "streamed" {
						in, length = once{in}, -1
					}
					r := request(t, context.Background(), "POST", url, in)
					sum := ""
					if how == "expect" {
						r.Header.Set("Expect", "100-continue")
					}
					if how == "streamed" && c.name != "h3" { // whose client sends no trailers
						sum = "s-1"
						r.Trailer = http.Header{"X-Sum": {sum}}
					}
					resp, got := sendWith(t, c, r, typed...)
					if want := digestOf([]byte(body), length, sum); resp.StatusCode != 200 || got != want {
						t.Errorf("%s, %d bytes: %s %.300s, want %s", how, len(body), resp.Status, got, want)
					}
					if how != "streamed" { // of which no copy is made
						if got := <-copied; got != body {
							t.Errorf("%s: the copy has %d bytes of %d", how, len(got), len(body))
						}
					}
				}
				for _, body := range []string{small, large} {
					for _, how := range []string{"length", "streamed", "expect"} {
						good(body, how)
					}
				}
				before := calls.Load()
				refusals := 0
				for _, tt := range []struct {
					name, body string
					status     int
					kind       string
				}{
					{"limits", strings.Repeat(" ", 250_000), 413, "body-too-large"},
					{"waf, for its size", strings.Repeat(" ", 150_000), 413, "body-too-large"},
					{"waf", `{"customer":"<script>alert(1)</script>","items":[` + item + `]}`, 403, "forbidden"},
					{"validate, for its size", large + strings.Repeat(" ", 30_000), 413, "body-too-large"},
					{"validate", `{"customer":"a","items":[]}`, 400, "invalid-request"},
				} {
					for _, how := range []string{"length", "streamed", "expect"} {
						var in io.Reader = strings.NewReader(tt.body)
						if how == "streamed" {
							in = once{in}
						}
						r := request(t, context.Background(), "POST", url, in)
						if how == "expect" {
							r.Header.Set("Expect", "100-continue")
						}
						resp, body := sendWith(t, c, r, typed...)
						wantProblem(t, resp, body, tt.status, tt.kind)
						if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "https://page.test" {
							t.Errorf("%s, %s: the page that may read it is %q", tt.name, how, got)
						}
						refusals++
						good(small, "length")
					}
				}
				if n := calls.Load() - before; n != int64(refusals) {
					t.Errorf("%d requests came to the backend, want %d", n, refusals)
				}
			})
		}
	}
	g.logged(t, "a body that was sent again", func(l logLine) bool { return l.Tries == 2 && l.Status == 200 })
}
