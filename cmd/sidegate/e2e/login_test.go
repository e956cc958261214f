package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc/oidctest"
)

const loginCallback = "/.sidegate/oidc/callback"

// loginConfig has a route whose users log in, and others of the same host.
func loginConfig(t *testing.T, p *oidctest.Provider, more string) string {
	t.Helper()
	return accessLog + twin(t, http.HandlerFunc(mirror)) + fmt.Sprintf(`
consumer "acme" {
  jwt { subject = "acme" }
}
policy "login" {
  auth "oidc" {
    issuer        = %q
    client_id     = %q
    client_secret = %q
    unlisted      = true
    labels        = { team = "department" }
    after_logout  = "/public/bye"
%s
  }
  request {
    set = {
      "X-User" = "{consumer.name}"
      "X-Team" = "{consumer.labels.team}"
    }
  }
}
route "app" {
  hosts   = ["app.test"]
  paths   = ["/app/*"]
  methods = ["GET", "POST"]
  service = "one"
  use     = ["login"]
}
route "admin" {
  hosts     = ["app.test"]
  paths     = ["/admin/*"]
  service   = "two"
  use       = ["login"]
  authorize = "consumer.name == 'root'"
}
route "public" {
  hosts   = ["app.test"]
  paths   = ["/public/*"]
  service = "two"
}
`, p.URL, oidctest.Client, oidctest.Secret, more)
}

// jar is a browser's cookies for the site.
type jar map[string]string

func (j jar) field() []string {
	var list []string
	for name, value := range j {
		list = append(list, name+"="+value)
	}
	if len(list) == 0 {
		return nil
	}
	return []string{"Cookie: " + strings.Join(list, "; ")}
}

// page asks for a page as a browser does.
func (j jar) page(t *testing.T, c protocolClient, url string, fields ...string) (*http.Response, string) {
	t.Helper()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, body := send(t, c, url, append(append([]string{"Accept: text/html", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: none"}, j.field()...), fields...)...)
	for _, k := range resp.Cookies() {
		if k.MaxAge < 0 {
			delete(j, k.Name)
		} else {
			j[k.Name] = k.Value
		}
	}
	return resp, body
}

// approve logs a user in at the provider and returns the callback.
func approve(t *testing.T, location, user string) string {
	t.Helper()
	away := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := away.PostForm(location, url.Values{"user": {user}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if !strings.Contains(resp.Header.Get("Location"), loginCallback+"?") {
		t.Fatalf("the provider answers %s", resp.Status)
	}
	return resp.Header.Get("Location")
}

// TestLogin: over each protocol, a user logs in, is who the provider says, and logs
// out; services see who it is, and no session.
func TestLogin(t *testing.T) {
	p := oidctest.New(t, "https://app.test"+loginCallback)
	g := newGateway(t, loginConfig(t, p, "")).start(t)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			base := c.scheme + "://app.test"
			j := jar{}
			resp, body := j.page(t, c, base+"/app/deep?x=1")
			if c.scheme == "http" {
				wantProblem(t, resp, body, 403, "forbidden") // there is no keeping a session
				return
			}
			if resp.StatusCode != 302 || !strings.HasPrefix(resp.Header.Get("Location"), p.URL+"/authorize?") || body != "" || len(j) != 1 {
				t.Fatalf("a page: %s, %v", resp.Status, resp.Header)
			}
			for name, fields := range map[string][]string{"a script": {"Accept: */*", "Sec-Fetch-Mode: cors"}, "a forged session": {"Cookie: __Host-sidegate-00000000=1AAAA"}} {
				resp, body := send(t, c, base+"/app/x", fields...)
				wantProblem(t, resp, body, 401, "unauthenticated")
				if !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Cookie cookie-name=") {
					t.Errorf("%s: WWW-Authenticate = %q", name, resp.Header.Get("WWW-Authenticate"))
				}
			}
			back := approve(t, resp.Header.Get("Location"), "alice")
			wrong, body := jar{}.page(t, c, back) // another browser
			wantProblem(t, wrong, body, 403, "forbidden")
			back = approve(t, resp.Header.Get("Location"), "alice")
			if resp, _ := j.page(t, c, back); resp.StatusCode != 302 || resp.Header.Get("Location") != "/app/deep?x=1" || len(j) != 1 {
				t.Fatalf("the callback: %s, %v, %d cookies", resp.Status, resp.Header, len(j))
			}
			replay, body := j.page(t, c, back)
			wantProblem(t, replay, body, 403, "forbidden")
			spoofed := []string{"X-User: root", "X_User: root", "x-team: root", "Cookie: app=1"}
			for _, path := range []string{"/app/deep?x=1", "/app/other"} {
				resp, body := j.page(t, c, base+path, spoofed...)
				if resp.StatusCode != 200 {
					t.Fatalf("%s: %s: %s", path, resp.Status, body)
				}
				h := seenIn(t, body).Header
				if h.Get("X-User") != "alice" || h.Get("X-Team") != "web" || strings.Contains(body, "root") || strings.Contains(body, "__Host-") || h.Get("Cookie") != "app=1" {
					t.Errorf("the service saw %s", body)
				}
			}
			if resp, body := j.page(t, c, base+"/public/x"); resp.StatusCode != 200 || strings.Contains(body, "__Host-") {
				t.Errorf("a service without logins: %s: %s", resp.Status, body)
			}
			resp, body = j.page(t, c, base+"/admin/x") // the same session, another route
			wantProblem(t, resp, body, 403, "forbidden")
			for _, path := range []string{"/.sidegate/oidc/other", "/.sidegate/oidc/callback/x"} {
				resp, body = j.page(t, c, base+path)
				wantProblem(t, resp, body, 404, "no-route")
			}
			resp, body = send(t, c, base+"/.sidegate/oidc/logout", append(j.field(), "Sec-Fetch-Site: cross-site")...)
			wantProblem(t, resp, body, 403, "forbidden")
			copied := j.field()
			resp, _ = j.page(t, c, base+"/.sidegate/oidc/logout")
			if to := resp.Header.Get("Location"); resp.StatusCode != 303 || !strings.HasPrefix(to, p.URL+"/logout?") || !strings.Contains(to, "post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fpublic%2Fbye") || len(j) != 0 {
				t.Errorf("logout: %s, %v", resp.Status, resp.Header)
			}
			resp, body = send(t, c, base+"/app/x", copied...)
			wantProblem(t, resp, body, 401, "unauthenticated")
			// The provider fails: no login, and nothing of it for the client.
			resp, _ = j.page(t, c, base+"/app/x")
			back = approve(t, resp.Header.Get("Location"), "bob")
			p.Down(true)
			defer p.Down(false)
			resp, body = j.page(t, c, back)
			wantProblem(t, resp, body, 503, "auth-unavailable")
			if len(j) != 0 {
				t.Errorf("a failed login leaves %v", j)
			}
		})
	}
	g.logged(t, "a replay", func(l logLine) bool {
		return l.Status == 403 && l.Error == "forbidden: oidc: the callback isn't of a login that this browser began, or it was used before"
	})
	if strings.Contains(g.log.String(), "code=") || strings.Contains(g.log.String(), "päss") {
		t.Error("a code or a password stands in the log")
	}
	text, err := g.get("/metrics")
	for _, want := range []string{`sidegate_logins_total{issuer=%q,outcome="done"} 3`, `sidegate_login_sessions_total{issuer=%q,outcome="ended"} 3`, "sidegate_auth_service_requests_total{url=%q}", "sidegate_issuer_keys{issuer=%q} 1"} {
		if want := fmt.Sprintf(want, p.URL); err != nil || !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics (%v)", want, err)
		}
	}
	for address, want := range map[string]string{
		"https://app.test/app/x": "refuses: unauthenticated: no credential: a session of a login at " + p.URL, "https://app.test" + loginCallback: "takes a login of " + p.URL,
		"https://app.test/public/x": `cookies: sessions of auth "oidc" go no further`,
	} {
		out, code := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), address)
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("explain %s (%d), want %q:\n%s", address, code, want, out)
		}
	}
	out, code := run(t, "routes", "-config", filepath.Join(g.dir, "etc"))
	if code != 0 || strings.Count(out, loginCallback) != 1 {
		t.Errorf("routes (%d):\n%s", code, out)
	}
}

// TestLoginOutlives: a session outlives a restart, a reload and its provider.
func TestLoginOutlives(t *testing.T) {
	p := oidctest.New(t, "https://app.test"+loginCallback)
	g := newGateway(t, loginConfig(t, p, "")).start(t)
	j := jar{}
	c := g.clients(t)[1]
	resp, _ := j.page(t, c, "https://app.test/app/x")
	j.page(t, c, approve(t, resp.Header.Get("Location"), "alice"))
	p.Down(true)
	p.Discovery(func(d map[string]any) { clear(d) })
	g.stop(syscall.SIGTERM)
	g.start(t)
	c = g.clients(t)[1]
	if resp, body := j.page(t, c, "https://app.test/app/x"); resp.StatusCode != 200 {
		t.Errorf("after a restart, without the provider: %s: %s", resp.Status, body)
	}
	resp, body := jar{}.page(t, c, "https://app.test/app/x")
	wantProblem(t, resp, body, 503, "auth-unavailable")
	text, err := os.ReadFile(g.config())
	if err != nil {
		t.Fatal(err)
	}
	write(t, g.config(), strings.Replace(string(text), "X-Team", "X-Squad", 1))
	eventually(t, "the reload", func() error {
		resp, body := j.page(t, c, "https://app.test/app/x")
		if resp.StatusCode != 200 || !strings.Contains(body, "X-Squad") {
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
		return nil
	})
}

// TestLoginConflict: two providers can't have one path of a host, or of a route.
func TestLoginConflict(t *testing.T) {
	p := oidctest.New(t)
	g := newGateway(t, loginConfig(t, p, "")+fmt.Sprintf(`
route "other" {
  hosts   = ["APP.test"]
  paths   = ["/other/*"]
  service = "one"
  auth "oidc" {
    issuer    = %q
    client_id = "another"
  }
}
`, p.URL))
	out, code := run(t, "validate", "-config", filepath.Join(g.dir, "etc"))
	if code != 1 || !strings.Contains(out, `error: route "other": auth "oidc" uses the path /.sidegate/oidc/callback of the host "app.test", which is that of another provider, client or cookie_secret in route "app"`) {
		t.Errorf("validate (%d):\n%s", code, out)
	}
	g = newGateway(t, loginConfig(t, p, "")+fmt.Sprintf(`
route "key" {
  hosts   = ["app.test"]
  paths   = ["/key/*"]
  service = "one"
  auth "oidc" {
    issuer        = %q
    client_id     = %q
    cookie_secret = "0123456789abcdef0123456789abcdef"
  }
}
`, p.URL, oidctest.Client))
	out, code = run(t, "validate", "-config", filepath.Join(g.dir, "etc"))
	if code != 1 || !strings.Contains(out, `error: route "key": auth "oidc" uses the path /.sidegate/oidc/callback of the host "app.test"`) {
		t.Errorf("validate (%d):\n%s", code, out)
	}
	g = newGateway(t, loginConfig(t, p, "")+fmt.Sprintf(`
route "both" {
  hosts   = ["both.test"]
  service = "one"
  use     = ["login"]
  auth "oidc" {
    issuer    = %q
    client_id = "another"
  }
}
`, p.URL))
	out, code = run(t, "validate", "-config", filepath.Join(g.dir, "etc"))
	if code != 1 || !strings.Contains(out, `error: route "both": auth: two blocks answer the path "/.sidegate/oidc/callback": give one of them others`) {
		t.Errorf("validate (%d):\n%s", code, out)
	}
}

// TestLoginFleet: nodes with one secret share sessions, also where a trusted proxy
// ends TLS, refresh them, and send the access token on.
func TestLoginFleet(t *testing.T) {
	p := oidctest.New(t, "https://app.test"+loginCallback)
	p.Lasts(time.Hour)
	more := "    cookie_secret = \"0123456789abcdef0123456789abcdef\"\n    forward = true\n"
	config := "trusted_proxies = [\"127.0.0.0/8\"]\n" + loginConfig(t, p, more)
	one, two := newGateway(t, config).start(t), newGateway(t, config).start(t)
	j := jar{}
	front := []string{"X-Forwarded-Proto: https"}
	plain := one.clients(t)[3]
	resp, body := j.page(t, plain, "http://app.test/app/x", front...)
	if resp.StatusCode != 302 || !strings.Contains(resp.Header.Get("Location"), "redirect_uri=https%3A%2F%2Fapp.test%2F") {
		t.Fatalf("behind a proxy: %s, %v: %s", resp.Status, resp.Header, body)
	}
	back := strings.Replace(approve(t, resp.Header.Get("Location"), "alice"), "https://", "http://", 1)
	if resp, body := j.page(t, plain, back, front...); resp.StatusCode != 302 {
		t.Fatalf("the callback behind a proxy: %s: %s", resp.Status, body)
	}
	seen := map[string]bool{}
	for _, g := range []*gateway{one, two} {
		for _, c := range g.clients(t)[:3] {
			resp, body := j.page(t, c, "https://app.test/app/x", "Authorization: Bearer of-the-client")
			if resp.StatusCode != 200 {
				t.Fatalf("%s: %s: %s", c.name, resp.Status, body)
			}
			token := seenIn(t, body).Header.Get("Authorization")
			if !strings.HasPrefix(token, "Bearer access-") || strings.Contains(body, "of-the-client") {
				t.Errorf("%s: the service saw %s", c.name, body)
			}
			seen[token] = true
		}
	}
	if len(seen) != 1 {
		t.Errorf("%d access tokens", len(seen))
	}
	p.Lasts(2 * time.Second) // due half a second before its end
	j = jar{}
	c := two.clients(t)[1]
	resp, _ = j.page(t, c, "https://app.test/app/x")
	j.page(t, c, approve(t, resp.Header.Get("Location"), "alice"))
	first := j.field()[0]
	eventually(t, "a refresh", func() error {
		resp, body := j.page(t, c, "https://app.test/app/x")
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %s", resp.Status, body)
		}
		if j.field()[0] == first {
			return errors.New("the same cookie")
		}
		return nil
	})
	if n := p.Asked("refresh_token"); n != 1 {
		t.Errorf("refreshed %d times", n)
	}
}
