package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
)

// tokenConfig has a route that asks for tokens of an issuer.
func tokenConfig(t *testing.T, i *jwttest.Issuer) string {
	t.Helper()
	return accessLog + twin(t, http.HandlerFunc(mirror)) + fmt.Sprintf(`
consumer "acme" {
  jwt { subject = "acme-client" }
}
route "tokens" {
  hosts   = ["tokens.test"]
  service = "one"
  auth "jwt" {
    issuer   = %q
    audience = ["api"]
    labels   = { team = "org.team" }
  }
  authorize = "!request.path.startsWith('/write') || 'orders:write' in claims.scope.split(' ')"
  request {
    set = {
      "X-Consumer" = "{consumer.name}"
      "X-Subject"  = "{claims.sub}"
      "X-Team"     = "{consumer.labels.team}/{claims.org.team}"
    }
  }
}
`, i.URL)
}

// tokenClaims are claims that are right.
func tokenClaims(i *jwttest.Issuer, more ...map[string]any) map[string]any {
	c := map[string]any{"iss": i.URL, "aud": "api", "sub": "acme-client", "exp": time.Now().Add(time.Hour).Unix(), "scope": "orders:read", "org": map[string]any{"team": "web"}}
	for _, m := range more {
		maps.Copy(c, m)
	}
	return c
}

// TestTokens: over each protocol, a right token opens and goes no further,
// anything else doesn't, and nobody says of itself who it is.
func TestTokens(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	g := newGateway(t, tokenConfig(t, i)).start(t)
	token := i.Sign("k", tokenClaims(i))
	spoofed := []string{"X-Consumer: root", "X_Consumer: root", "X.Consumer: root", "X-Subject: root", "x_subject: root"}
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			url := c.scheme + "://tokens.test/"
			for name, fields := range map[string][]string{
				"none":     nil,
				"basic":    {"Authorization: Basic " + token},
				"cookie":   {"Cookie: token=" + token},
				"odd name": {"X_Authorization: Bearer " + token},
			} {
				resp, body := send(t, c, url, fields...)
				wantProblem(t, resp, body, 401, "unauthenticated")
				if got, want := resp.Header.Get("WWW-Authenticate"), `Bearer realm="api"`; got != want {
					t.Errorf("%s: WWW-Authenticate = %q, want %q", name, got, want)
				}
			}
			for name, wrong := range map[string]string{
				"none":     jwttest.Token(t, map[string]any{"alg": "none"}, tokenClaims(i), func([]byte) []byte { return nil }),
				"expired":  i.Sign("k", tokenClaims(i, map[string]any{"exp": time.Now().Add(-2 * time.Minute).Unix()})),
				"audience": i.Sign("k", tokenClaims(i, map[string]any{"aud": "web"})),
				"issuer":   i.Sign("k", tokenClaims(i, map[string]any{"iss": "https://evil.test"})),
				"cut":      token[:len(token)-8],
			} {
				resp, body := send(t, c, url, "Authorization: Bearer "+wrong)
				wantProblem(t, resp, body, 401, "unauthenticated")
				if got, want := resp.Header.Get("WWW-Authenticate"), `Bearer realm="api", error="invalid_token"`; got != want {
					t.Errorf("%s: WWW-Authenticate = %q, want %q", name, got, want)
				}
			}
			if resp, _ := send(t, c, url, "Authorization: Bearer "+token, "Authorization: Bearer "+token); resp.StatusCode != 400 {
				t.Errorf("two tokens: %s", resp.Status)
			}
			resp, body := send(t, c, url, append(spoofed, "Authorization: Bearer "+token)...)
			if resp.StatusCode != 200 {
				t.Fatalf("%s: %s", resp.Status, body)
			}
			for path, status := range map[string]int{"/write": 403, "/x/../write/": 403, "/%77rite": 403, "/read": 200} {
				resp, refused := send(t, c, strings.TrimSuffix(url, "/")+path, "Authorization: Bearer "+token)
				if resp.StatusCode != status {
					t.Errorf("%s: %s, want %d", path, resp.Status, status)
				}
				if status == 403 {
					wantProblem(t, resp, refused, 403, "forbidden")
					if got, want := resp.Header.Get("WWW-Authenticate"), `Bearer error="insufficient_scope"`; got != want {
						t.Errorf("%s: WWW-Authenticate = %q, want %q", path, got, want)
					}
				}
			}
			more := i.Sign("k", tokenClaims(i, map[string]any{"scope": "a orders:write"}))
			if resp, _ := send(t, c, url+"write", "Authorization: Bearer "+more); resp.StatusCode != 200 {
				t.Errorf("with the scope: %s", resp.Status)
			}
			h := seenIn(t, body).Header
			if h.Get("X-Consumer") != "acme" || h.Get("X-Subject") != "acme-client" || h.Get("X-Team") != "web/web" || strings.Contains(body, "root") || strings.Contains(body, token) {
				t.Errorf("the backend saw %s", body)
			}
		})
	}
	g.logged(t, "an expired token", func(l logLine) bool { return l.Status == 401 && l.Error == "unauthenticated: the token has expired" })
	g.logged(t, "who may not", func(l logLine) bool {
		return l.Status == 403 && strings.HasPrefix(l.Error, "forbidden: authorize: the condition doesn't hold: !request.path")
	})
	if strings.Contains(g.log.String(), strings.Split(token, ".")[2]) {
		t.Error("a token stands in the log")
	}
}

// TestIssuerRotatesAndFails: a new key is right at once, keys outlive their
// issuer's outage, one that is taken back isn't right any more, and the operator
// sees it all.
func TestIssuerRotatesAndFails(t *testing.T) {
	i := jwttest.New(t)
	i.Add("old", "ES256")
	g := newGateway(t, tokenConfig(t, i)).start(t)
	c := g.clients(t)[0]
	status := func(token string) int {
		resp, _ := send(t, c, "https://tokens.test/", "Authorization: Bearer "+token)
		return resp.StatusCode
	}
	old := i.Sign("old", tokenClaims(i))
	if got := status(old); got != 200 {
		t.Fatalf("at first: %d", got)
	}
	i.Remove("old")
	i.Add("new", "ES256")
	fresh := i.Sign("new", tokenClaims(i))
	if a, b := status(fresh), status(old); a != 200 || b != 401 {
		t.Errorf("after the rotation %d with the new key, %d with the old one", a, b)
	}
	i.Answer(jwttest.Down)
	i.Discovery(func(d map[string]any) { clear(d) })
	if got := status(i.Sign("new", tokenClaims(i, map[string]any{"jti": "2"}))); got != 200 {
		t.Errorf("while the issuer is away: %d", got)
	}
	before := i.Fetches()
	for n := range 50 {
		if got := status(i.Sign("new", tokenClaims(i), map[string]any{"kid": fmt.Sprint(n)})); got != 401 {
			t.Fatalf("an unknown key: %d", got)
		}
	}
	if n := i.Fetches() - before; n > 1 {
		t.Errorf("50 unknown keys had the set fetched %d times", n)
	}
	text, err := g.get("/metrics")
	for _, want := range []string{"sidegate_issuer_keys{issuer=%q} 1", "sidegate_issuer_keys_age_seconds{issuer=%q}", "sidegate_issuer_keys_failures_total{issuer=%q}"} {
		if want := fmt.Sprintf(want, i.URL); err != nil || !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics (%v)", want, err)
		}
	}
	out, code := run(t, "status", "-config", filepath.Join(g.dir, "etc"))
	if code != 0 || !strings.Contains(out, "ISSUER") || !strings.Contains(out, i.URL) {
		t.Errorf("status (%d):\n%s", code, out)
	}
	out, code = run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "-header", "Authorization: Bearer "+fresh, "https://tokens.test/")
	if code != 0 || !strings.Contains(out, `admits the consumer "acme"`) || !strings.Contains(out, "authorize: !request.path") {
		t.Errorf("explain (%d):\n%s", code, out)
	}
}
