package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// exchangeOf sends a request with a method and header fields.
func exchangeOf(t *testing.T, c protocolClient, method, url string, body string, fields ...string) (*http.Response, string) {
	t.Helper()
	r := request(t, context.Background(), method, url, strings.NewReader(body))
	if body == "" {
		r = request(t, context.Background(), method, url, nil)
	}
	return sendWith(t, c, r, fields...)
}

// TestCORS: over each protocol preflights are answered by the route that takes
// the request, and every response carries the gateway's fields alone.
func TestCORS(t *testing.T) {
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("X-Saw", r.Method)
		fmt.Fprint(w, "ok")
	})
	g := newGateway(t, accessLog+twin(t, backend)+fmt.Sprintf(`
consumer "acme" {
  api_key { sha256 = %q }
}
policy "app" {
  cors {
    origins     = ["https://app.example.com", "https://*.example.org"]
    credentials = true
    expose      = ["X-Saw"]
  }
}
route "read" {
  hosts   = ["cors.test"]
  methods = ["GET"]
  service = "one"
}
route "write" {
  hosts   = ["cors.test"]
  methods = ["PUT"]
  service = "two"
  use     = ["app"]
  auth "api_key" {}
}
`, keyHash(acmeKey))).start(t)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			url := c.scheme + "://cors.test/x"
			ask := func(origin, method, headers string) *http.Response {
				fields := []string{"Origin: " + origin, "Access-Control-Request-Method: " + method}
				if headers != "" {
					fields = append(fields, "Access-Control-Request-Headers: "+headers)
				}
				resp, _ := exchangeOf(t, c, "OPTIONS", url, "", fields...)
				return resp
			}
			resp := ask("https://a.example.org", "PUT", "x-api-key")
			h := resp.Header
			if resp.StatusCode != 204 || h.Get("Access-Control-Allow-Origin") != "https://a.example.org" || h.Get("Access-Control-Allow-Credentials") != "true" ||
				!strings.Contains(h.Get("Access-Control-Allow-Methods"), "PUT") || !strings.Contains(h.Get("Access-Control-Allow-Headers"), "X-API-Key") ||
				h.Get("Access-Control-Max-Age") != "600" || h.Get("Vary") != "Origin" || h.Get("X-Saw") != "" {
				t.Errorf("preflight: %s %v", resp.Status, h)
			}
			for _, q := range [][3]string{{"https://evil.test", "PUT", ""}, {"https://a.example.org", "PUT", "x-other"}, {"null", "PUT", ""}, {"https://aexample.org", "PUT", ""}} {
				if resp := ask(q[0], q[1], q[2]); resp.StatusCode != 403 || resp.Header.Get("Access-Control-Allow-Origin") != "" || resp.Header.Get("Access-Control-Allow-Methods") != "" {
					t.Errorf("%q: %s %v", q, resp.Status, resp.Header)
				}
			}
			// The route for GET has no cors, and DELETE has no route.
			for _, method := range []string{"GET", "DELETE"} {
				if resp := ask("https://a.example.org", method, ""); resp.StatusCode != 405 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s: %s %v", method, resp.Status, resp.Header)
				}
			}
			resp, body := exchangeOf(t, c, "PUT", url, "x", "Origin: https://app.example.com")
			wantProblem(t, resp, body, 401, "unauthenticated")
			if got := resp.Header.Values("Access-Control-Allow-Origin"); len(got) != 1 || got[0] != "https://app.example.com" {
				t.Errorf("401: Access-Control-Allow-Origin = %q", got)
			}
			for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://evil.test": "", "": ""} {
				fields := []string{"X-Api-Key: " + acmeKey}
				if origin != "" {
					fields = append(fields, "Origin: "+origin)
				}
				resp, _ := exchangeOf(t, c, "PUT", url, "x", fields...)
				got := strings.Join(resp.Header.Values("Access-Control-Allow-Origin"), "|")
				if resp.StatusCode != 200 || resp.Header.Get("X-Saw") != "PUT" || got != want || resp.Header.Get("Vary") != "Origin" {
					t.Errorf("Origin %q: %s %v", origin, resp.Status, resp.Header)
				}
			}
		})
	}
	g.logged(t, "a refused preflight", func(l logLine) bool {
		return l.Status == 403 && l.Error == "forbidden: cors: the preflight's origin isn't allowed"
	})
}
