package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
)

// TestCacheCallers: over each protocol and by each way to say who is calling,
// nobody gets another's answer out of the cache, and who has no answer of its own
// in it gets that of the service.
func TestCacheCallers(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	tokens := map[string]string{}
	for _, sub := range []string{"ann", "bob"} { // once each: another second makes another token, which is another caller
		tokens[sub] = "Authorization: Bearer " + i.Sign("k", tokenClaims(i, map[string]any{"sub": sub}))
	}
	token := func(sub string) string { return tokens[sub] }
	login := func(user string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/check", func(w http.ResponseWriter, r *http.Request) { // who it is stands in a cookie
		c, err := r.Cookie("who")
		if err != nil {
			w.WriteHeader(401)
			return
		}
		w.Header().Set("X-User", c.Value)
	})
	mux.HandleFunc("/introspect", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"active": true, "sub": %q}`, r.FormValue("token"))
	})
	authService := httptest.NewServer(mux)
	t.Cleanup(authService.Close)
	backend := func(w http.ResponseWriter, r *http.Request) {
		who := r.Header.Get("X-Who") + r.Header.Get("X-User") + r.Header.Get("Authorization")
		if c, err := r.Cookie("who"); err == nil {
			who += c.Value
		}
		w.Header().Set("Cache-Control", "max-age=100")
		fmt.Fprintf(w, "for %q", who)
	}
	config := twin(t, http.HandlerFunc(backend)) + fmt.Sprintf(`
consumer "ann" {
  basic {
    user   = "ann"
    bcrypt = %[1]q
  }
}
consumer "bob" {
  basic {
    user   = "bob"
    bcrypt = %[1]q
  }
}
`, passwordHash)
	for name, block := range map[string]string{
		"jwt":        fmt.Sprintf("auth \"jwt\" {\n issuer = %q\n audience = [\"api\"]\n }\n request { set = { \"X-Who\" = \"{claims.sub}\" } }", i.URL),
		"hidden":     fmt.Sprintf("auth \"jwt\" {\n issuer = %q\n audience = [\"api\"]\n forward = true\n }", i.URL),
		"basic":      "auth \"basic\" {}\n request { set = { \"X-Who\" = \"{consumer.name}\" } }",
		"introspect": fmt.Sprintf("auth \"introspect\" {\n url = \"%s/introspect\"\n client_id = \"a\"\n client_secret = \"b\"\n }\n request { set = { \"X-Who\" = \"{claims.sub}\" } }", authService.URL),
		"forward":    fmt.Sprintf("auth \"forward\" {\n url = \"%s/check\"\n copy = [\"X-User\"]\n }", authService.URL),
		"silent":     fmt.Sprintf("auth \"forward\" { url = \"%s/check\" }", authService.URL),
	} {
		config += fmt.Sprintf("route %[1]q {\n hosts = [\"%[1]s.test\"]\n service = \"one\"\n cache {}\n %[2]s\n}\n", name, block)
	}
	g := newGateway(t, config).start(t)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			for host, who := range map[string]func(string) string{
				"jwt": token, "hidden": token, "basic": login,
				"introspect": func(sub string) string { return "Authorization: Bearer " + sub },
				"forward":    func(user string) string { return "Cookie: who=" + user },
				"silent":     func(user string) string { return "Cookie: who=" + user },
			} {
				url := c.scheme + "://" + host + ".test/" + strings.ReplaceAll(c.name, " ", "")
				answer := func(name string) string {
					resp, body := send(t, c, url, who(name))
					if resp.StatusCode != 200 {
						t.Fatalf("%s: %s: %s", host, name, resp.Status)
					}
					return body
				}
				ann, bob := answer("ann"), answer("bob")
				if ann == bob || host != "hidden" && (!strings.Contains(ann, "ann") || !strings.Contains(bob, "bob")) {
					t.Fatalf("%s: ann gets %s, bob %s", host, ann, bob)
				}
				for range 2 {
					if again := answer("ann"); again != ann {
						t.Errorf("%s: ann gets %s, then %s", host, ann, again)
					}
					if again := answer("bob"); again != bob {
						t.Errorf("%s: bob gets %s, then %s", host, bob, again)
					}
				}
				if resp, body := send(t, c, url); resp.StatusCode != 401 || strings.Contains(body, "for ") {
					t.Errorf("%s: nobody gets %s %s", host, resp.Status, body)
				}
			}
		})
	}
}
