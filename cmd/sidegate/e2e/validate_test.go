package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// findings are what a 400 of the policy validate says, "where what" each.
func findings(t *testing.T, body string) string {
	t.Helper()
	var p struct {
		Errors []struct{ Where, What string }
	}
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	var list []string
	for _, e := range p.Errors {
		list = append(list, e.Where+" "+e.What)
	}
	return strings.Join(list, "; ")
}

// once is a body of no known length, in pieces.
type once struct{ io.Reader }

func (o once) Read(p []byte) (int, error) { return o.Reader.Read(p[:min(len(p), 1000)]) }

// ordersFile copies the document of the examples beside the configuration.
func (g *gateway) ordersFile(t *testing.T) (path, text string) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "packaging", "examples", "orders.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(g.dir, "etc", "orders.yaml"), string(b)), string(b)
}

// TestValidate: over each protocol, to backends of both, what the document has
// passes byte by byte, and what it hasn't is refused with its place.
func TestValidate(t *testing.T) {
	var calls atomic.Int64
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Path", r.URL.RequestURI())
		w.Header().Set("X-Sum", r.Trailer.Get("X-Sum"))
		if r.Method == "POST" {
			w.WriteHeader(201)
		}
		_, _ = w.Write(b)
	})
	g := newGateway(t, "")
	g.ordersFile(t)
	var routes strings.Builder
	for _, service := range []string{"one", "two"} {
		fmt.Fprintf(&routes, `
route "orders-%[1]s" {
  hosts        = ["orders-%[1]s.test"]
  paths        = ["/orders/*"]
  service      = %[1]q
  strip_prefix = "/orders"
  validate {
    openapi = "orders.yaml"
    strict  = true
    body    = "512KiB"
  }
}
route "report-%[1]s" {
  hosts   = ["report-%[1]s.test"]
  service = %[1]q
  validate {
    openapi   = "orders.yaml"
    mode      = "report"
    responses = "report"
  }
}
`, service)
	}
	g.configure(t, accessLog+twin(t, backend)+routes.String())
	g.start(t)
	item := `{"sku":"AB-1234","count":2}`
	small := ` {"customer" : "caf\u00e9", "items":[` + item + `]}` + "\n"
	large := `{"customer":null,"items":[` + strings.Repeat(item+",", 99) + item + `]` + strings.Repeat(" ", 300_000) + `}`
	const typed = "Content-Type: application/json"
	for _, c := range g.clients(t) {
		for _, service := range []string{"one", "two"} {
			t.Run(c.name+" to "+service, func(t *testing.T) {
				base := c.scheme + "://orders-" + service + ".test/orders"
				for name, body := range map[string]string{"small": small, "large": large} {
					for _, how := range []string{"length", "streamed", "expect"} {
						var in io.Reader = strings.NewReader(body)
						if how == "streamed" {
							in = once{in}
						}
						r := request(t, context.Background(), "POST", base, in)
						sum := ""
						if how == "expect" {
							r.Header.Set("Expect", "100-continue")
						}
						if how == "streamed" && c.name != "h3" { // whose client sends no trailers
							sum = "s-1"
							r.Trailer = http.Header{"X-Sum": {sum}}
						}
						resp, got := sendWith(t, c, r, typed)
						if resp.Header.Get("X-Sum") != sum {
							t.Errorf("%s, %s: the trailer is %q", name, how, resp.Header.Get("X-Sum"))
						}
						if resp.StatusCode != 201 || got != body || resp.Header.Get("X-Path") != "/" {
							t.Errorf("%s, %s: %s, %d bytes of %d came to %q: %.200s", name, how, resp.Status, len(got), len(body), resp.Header.Get("X-Path"), got)
						}
					}
				}
				before := calls.Load()
				for _, tt := range []struct {
					name, method, path, body string
					fields                   []string
					status                   int
					kind, says               string
				}{
					{"no path", "GET", "/a/b/c", "", nil, 404, "not-in-api", ""},
					{"no path behind dots", "GET", "/f81d4fae-7dec-11d0-a765-00a0c91e6bf6/items/..", "", nil, 404, "not-in-api", ""},
					{"no method", "PATCH", "", small, []string{typed}, 405, "method-not-allowed", ""},
					{"parameter", "GET", "?limit=1000&status=nope", "", nil, 400, "invalid-request", `query.limit has to be at most 100; query.status/0 has to be one of "open", "paid", "sent"`},
					{"unknown parameter", "GET", "?debug=1", "", nil, 400, "invalid-request", "query.debug isn't a parameter here"},
					{"path", "GET", "/7/items", "", nil, 400, "invalid-request", "path.id isn't of the format uuid"},
					{"body", "POST", "", `{"customer":"hunter2hunter2","items":[{"sku":"hunter2hunter2"}],"role":"admin"}`, []string{typed}, 400, "invalid-request", "body/items/0/sku doesn't match the pattern ^[A-Z]{2}-[0-9]{4}$; body/items/0/count is required; body/role isn't allowed here"},
					{"name twice", "POST", "", `{"customer":"a","customer":"b","items":[` + item + `]}`, []string{typed}, 400, "invalid-request", "body isn't JSON: an object has a name twice, at byte 69"},
					{"deep", "POST", "", strings.Repeat("[", 100_000), []string{typed}, 400, "invalid-request", "body isn't JSON: values stand more than 100 deep, at byte 100"},
					{"no body", "POST", "", "", []string{typed}, 400, "invalid-request", "body is required"},
					{"too large", "POST", "", strings.Repeat(" ", 600_000), []string{typed}, 413, "body-too-large", ""},
					{"type", "POST", "", small, []string{"Content-Type: text/xml"}, 415, "unsupported-media-type", ""},
					{"compressed", "POST", "", small, []string{typed, "Content-Encoding: gzip"}, 415, "unsupported-media-type", ""},
				} {
					for _, streamed := range []bool{false, true} {
						var in io.Reader
						if in = strings.NewReader(tt.body); streamed {
							in = once{in}
						}
						if tt.body == "" {
							in = nil
						}
						resp, body := sendWith(t, c, request(t, context.Background(), tt.method, base+tt.path, in), tt.fields...)
						wantProblem(t, resp, body, tt.status, tt.kind)
						if got := findings(t, body); got != tt.says {
							t.Errorf("%s: it says %q, want %q", tt.name, got, tt.says)
						}
						if strings.Contains(body, "hunter2") {
							t.Errorf("%s: the answer repeats what was sent: %s", tt.name, body)
						}
						h := resp.Header
						if tt.status == 405 && h.Get("Allow") != "GET, HEAD, POST" || tt.kind == "unsupported-media-type" && (h.Get("Accept") == "application/json") == (h.Get("Accept-Encoding") == "identity") {
							t.Errorf("%s: %v", tt.name, h)
						}
					}
				}
				if n := calls.Load() - before; n != 0 {
					t.Errorf("%d requests that were refused came to the backend", n)
				}
				resp, body := exchangeOf(t, c, "POST", c.scheme+"://report-"+service+".test/", `{"x":`, typed)
				if resp.StatusCode != 201 || body != `{"x":` {
					t.Errorf("reported only: %s %q", resp.Status, body)
				}
			})
		}
	}
	g.logged(t, "why", func(l logLine) bool { return l.Error == "invalid-request: validate: body is required" })
	eventually(t, "the metrics", func() error {
		text, err := g.get("/metrics")
		for _, want := range []string{
			`sidegate_validate_refused_total{route="orders-one"} 130`, `sidegate_validate_refused_total{route="orders-two"} 130`,
			`sidegate_validate_reported_total{route="report-one"} 5`, `sidegate_validate_responses_reported_total{route="report-two"} 5`,
		} {
			if !strings.Contains(text, want) {
				return errors.Join(err, fmt.Errorf("no %s", want))
			}
		}
		return err
	})
	if log := g.log.String(); !strings.Contains(log, "a request isn't as the document has it") || !strings.Contains(log, "a response isn't as the document has it") || strings.Contains(log, "hunter2") {
		t.Error("the log doesn't say what was reported, or says too much")
	}
	out, code := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "https://orders-one.test/orders?limit=0")
	if code != 0 || !strings.Contains(out, "validate: 3 operations of orders.yaml below /orders/ => refuses: invalid-request: validate: query.limit has to be at least 1") {
		t.Errorf("explain (%d):\n%s", code, out)
	}
}

// TestValidateReload: a document that changes holds within moments, with the
// files that it refers to, unless it has an error.
func TestValidateReload(t *testing.T) {
	g := newGateway(t, "")
	etc := filepath.Join(g.dir, "etc")
	write(t, filepath.Join(etc, "api.yaml"), "openapi: 3.1.0\npaths: {/a: {$ref: parts/a.yaml}}\n")
	part := filepath.Join(etc, "parts", "a.yaml")
	if err := os.MkdirAll(filepath.Dir(part), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, part, "get: {}\n")
	g.configure(t, twin(t, http.HandlerFunc(mirror))+"route \"api\" {\n  hosts = [\"api.test\"]\n  service = \"one\"\n  validate { openapi = \"api.yaml\" }\n}\n")
	g.start(t)
	c := g.clients(t)[0]
	become := func(what, method string, status int) {
		t.Helper()
		eventually(t, what, func() error {
			if resp, _ := exchangeOf(t, c, method, "https://api.test/a", ""); resp.StatusCode != status {
				return errors.New(resp.Status)
			}
			return nil
		})
	}
	become("the document holds", "GET", 200)
	become("the document holds", "DELETE", 405)
	write(t, part, "get: {}\ndelete: {}\n")
	become("the longer document holds", "DELETE", 200)
	write(t, part, "get: {}\ndelete: {parameter: []}\n")
	eventually(t, "a wrong document is reported", func() error {
		if by := g.status(t).Config.RejectedBy; !strings.Contains(by, `parts/a.yaml:2:10: unknown field of an operation "parameter": did you mean "parameters"?`) {
			return fmt.Errorf("%q", by)
		}
		return nil
	})
	become("the old document stays", "DELETE", 200)
	write(t, part, "put: {}\n")
	become("the mended document holds", "DELETE", 405)
	become("the mended document holds", "PUT", 200)
}
