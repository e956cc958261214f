package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestForwardAuth: over each protocol, another service decides, what it says
// reaches the service behind under its name alone, and without it nobody gets in.
func TestForwardAuth(t *testing.T) {
	var down atomic.Bool
	var asked atomic.Int64
	decide := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch {
		case down.Load():
			http.Error(w, "down", http.StatusServiceUnavailable)
		case r.Method != "GET" || r.ContentLength != 0 || r.Header.Get("X-Secret") != "" || r.Header.Get("X-Forwarded-Host") != "forward.test":
			http.Error(w, "not what it should be", http.StatusTeapot)
		case strings.HasPrefix(r.Header.Get("X-Forwarded-Uri"), "/admin"):
			w.WriteHeader(403)
		case r.Header.Get("Authorization") == "Bearer alice":
			w.Header().Set("X-User", "alice")
			w.Header().Set("X-Consumer", "acme")
			w.Header().Set("X-Method", r.Header.Get("X-Forwarded-Method"))
		case strings.Contains(r.Header.Get("Accept"), "text/html"):
			w.Header().Set("Set-Cookie", "login=1; Path=/; HttpOnly")
			http.Redirect(w, r, "https://login.test/?rd=https://"+r.Header.Get("X-Forwarded-Host")+r.Header.Get("X-Forwarded-Uri"), http.StatusFound)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="forward"`)
			w.WriteHeader(401)
		}
	}))
	t.Cleanup(decide.Close)
	g := newGateway(t, accessLog+twin(t, http.HandlerFunc(mirror))+fmt.Sprintf(`
consumer "acme" {}
route "forward" {
  hosts   = ["forward.test"]
  service = "one"
  auth "forward" {
    url      = %q
    copy     = ["X-User", "X-Method", "X-Missing"]
    consumer = "X-Consumer"
    cache    = "1m"
  }
  request {
    set = { "X-Known-As" = "{consumer.name}" }
  }
}
`, decide.URL)).start(t)
	for _, c := range g.clients(t) {
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		t.Run(c.name, func(t *testing.T) {
			down.Store(false)
			url := c.scheme + "://forward.test"
			spoofed := []string{"X-User: root", "x-user: root", "X_User: root", "X.User: root", "X-Missing: root", "X-Secret: s", "X-Forwarded-Uri: /public", "X-Forwarded-User: root"}
			resp, body := send(t, c, url+"/x", append(spoofed, "Authorization: Bearer alice", "Cookie: app=1")...)
			if resp.StatusCode != 200 {
				t.Fatalf("%s: %s", resp.Status, body)
			}
			h := seenIn(t, body).Header
			if h.Get("X-User") != "alice" || h.Get("X-Known-As") != "acme" || h.Get("Cookie") != "app=1" || h.Get("X-Missing") != "" || strings.Contains(body, "root") || strings.Contains(body, "Bearer") {
				t.Errorf("the service behind saw %s", body)
			}
			before := asked.Load()
			if resp, _ := send(t, c, url+"/x", "Authorization: Bearer alice", "Cookie: app=1"); resp.StatusCode != 200 || asked.Load() != before {
				t.Errorf("again: %s, asked %d times more", resp.Status, asked.Load()-before)
			}
			resp, body = sendWith(t, c, request(t, t.Context(), "POST", url+"/post", strings.NewReader("a body")), "Authorization: Bearer alice")
			if resp.StatusCode != 200 || seenIn(t, body).Header.Get("X-Method") != "POST" || seenIn(t, body).Header.Get("Content-Length") != "6" {
				t.Errorf("POST: %s: %s", resp.Status, body)
			}
			for _, path := range []string{"/admin/x", "/x/../admin/x", "/%61dmin/x", "//admin/x"} {
				resp, body = send(t, c, url+path, "Authorization: Bearer alice")
				wantProblem(t, resp, body, 403, "forbidden")
			}
			resp, body = send(t, c, url+"/x", spoofed...)
			wantProblem(t, resp, body, 401, "unauthenticated")
			if got, want := resp.Header.Get("WWW-Authenticate"), `Bearer realm="forward"`; got != want {
				t.Errorf("WWW-Authenticate = %q, want %q", got, want)
			}
			resp, body = send(t, c, url+"/deep?a=b", "Accept: text/html")
			if resp.StatusCode != 302 || resp.Header.Get("Location") != "https://login.test/?rd=https://forward.test/deep?a=b" || !strings.HasPrefix(resp.Header.Get("Set-Cookie"), "login=1;") || body != "" {
				t.Errorf("a browser: %s, %v, %q", resp.Status, resp.Header, body)
			}
			down.Store(true)
			resp, body = send(t, c, url+"/down", "Authorization: Bearer alice")
			wantProblem(t, resp, body, 503, "auth-unavailable")
			if resp, _ := send(t, c, url+"/x", "Authorization: Bearer alice", "Cookie: app=1"); resp.StatusCode != 200 {
				t.Errorf("an answer from before: %s", resp.Status)
			}
		})
	}
	g.logged(t, "the failure", func(l logLine) bool {
		return l.Status == 503 && l.Error == "auth-unavailable: the auth service can't be asked: it answers 503 Service Unavailable"
	})
	text, err := g.get("/metrics")
	for _, name := range []string{"requests_total", "failures_total", "requests_in_flight"} {
		if want := fmt.Sprintf("sidegate_auth_service_%s{url=%q} ", name, decide.URL); err != nil || !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics (%v)", want, err)
		}
	}
	out, code := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "https://forward.test/x")
	if code != 0 || !strings.Contains(out, "auth: whom "+decide.URL+" admits => asks "+decide.URL) {
		t.Errorf("explain (%d):\n%s", code, out)
	}
	out, code = run(t, "status", "-config", filepath.Join(g.dir, "etc"))
	if code != 0 || !strings.Contains(out, "AUTH SERVICE") || !strings.Contains(out, decide.URL) || !strings.Contains(out, "it answers 503 Service Unavailable") {
		t.Errorf("status (%d):\n%s", code, out)
	}
	if ready, err := g.get("/readyz"); err != nil || !strings.Contains(ready, "the auth service "+decide.URL+" doesn't answer") {
		t.Errorf("readyz: %q, %v", ready, err)
	}
}

// TestIntrospection: over each protocol, a token is worth what its server says,
// goes no further, and without the server nobody gets in.
func TestIntrospection(t *testing.T) {
	var down atomic.Bool
	var asked atomic.Int64
	knows := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		id, password, _ := r.BasicAuth()
		switch {
		case down.Load():
			http.Error(w, "down", http.StatusServiceUnavailable)
		case r.Method != "POST" || id != "gateway" || password != "s3cret%2F":
			w.WriteHeader(401)
		case strings.HasPrefix(r.PostFormValue("token"), "good-"):
			fmt.Fprint(w, `{"active":true,"client_id":"acme-client","sub":"7","scope":"orders:read","exp":9999999999}`)
		default:
			fmt.Fprint(w, `{"active":false}`)
		}
	}))
	t.Cleanup(knows.Close)
	g := newGateway(t, accessLog+twin(t, http.HandlerFunc(mirror))+fmt.Sprintf(`
consumer "acme" {
  jwt { subject = "acme-client" }
}
route "opaque" {
  hosts   = ["opaque.test"]
  service = "one"
  auth "introspect" {
    url           = %q
    client_id     = "gateway"
    client_secret = "s3cret/"
    subject       = "client_id"
  }
  authorize = "request.method == 'GET' || 'orders:write' in claims.scope.split(' ')"
  request {
    set = { "X-Known-As" = "{consumer.name}/{claims.sub}" }
  }
}
`, knows.URL)).start(t)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			down.Store(false)
			url := c.scheme + "://opaque.test/x"
			good := "Authorization: Bearer good-" + strings.ReplaceAll(c.name, " ", "-")
			resp, body := send(t, c, url, good, "X-Known-As: root")
			if resp.StatusCode != 200 || seenIn(t, body).Header.Get("X-Known-As") != "acme/7" || strings.Contains(body, "good-") || strings.Contains(body, "root") {
				t.Errorf("a good token: %s: %s", resp.Status, body)
			}
			before := asked.Load()
			if resp, _ := send(t, c, url, good); resp.StatusCode != 200 || asked.Load() != before {
				t.Errorf("again: %s, asked %d times more", resp.Status, asked.Load()-before)
			}
			for token, want := range map[string]string{"": `Bearer realm="api"`, "Authorization: Bearer bad": `Bearer realm="api", error="invalid_token"`, "Authorization: Bearer a b": `Bearer realm="api", error="invalid_token"`} {
				var fields []string
				if token != "" {
					fields = append(fields, token)
				}
				resp, body = send(t, c, url, fields...)
				wantProblem(t, resp, body, 401, "unauthenticated")
				if got := resp.Header.Get("WWW-Authenticate"); got != want {
					t.Errorf("%q: WWW-Authenticate = %q, want %q", token, got, want)
				}
			}
			resp, body = sendWith(t, c, request(t, t.Context(), "POST", url, nil), good)
			wantProblem(t, resp, body, 403, "forbidden")
			down.Store(true)
			resp, body = send(t, c, url, "Authorization: Bearer good-new")
			wantProblem(t, resp, body, 503, "auth-unavailable")
			if resp, _ := send(t, c, url, good); resp.StatusCode != 200 {
				t.Errorf("a token that is remembered: %s", resp.Status)
			}
		})
	}
	g.logged(t, "a bad token", func(l logLine) bool {
		return l.Status == 401 && l.Error == "unauthenticated: the server says that the token isn't active"
	})
	if strings.Contains(g.log.String(), "good-") || strings.Contains(g.log.String(), "s3cret") {
		t.Error("a token or a password stands in the log")
	}
	out, code := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "-header", "Authorization: Bearer x", "https://opaque.test/x")
	if code != 0 || !strings.Contains(out, "=> asks "+knows.URL) {
		t.Errorf("explain (%d):\n%s", code, out)
	}
}
