package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

const (
	acmeKey     = "c4f6a1b2-acme-0123456789abcdef0123456789abcdef"
	umbrellaKey = "99aa88bb-umbrella-0123456789abcdef0123456789ab"
	endedKey    = "0f0e0d0c-umbrella-0123456789abcdef0123456789ab"
)

// password has the bcrypt hash below, of the least cost.
const (
	password     = "correct horse"
	passwordHash = "$2a$04$5WwUD2cq97oR1rUs6cGKD.Nj3.4bSlu.L2QFbZOq6hNN9AmOaa/j."
)

func keyHash(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

// accessConfig has consumers, and a route for each thing to try. The backend
// tells what it saw.
func accessConfig(t *testing.T) string {
	t.Helper()
	return accessLog + twin(t, http.HandlerFunc(mirror)) + fmt.Sprintf(`
plan "gold" {
  rate  = "1/h"
  burst = 6
}
consumer "acme" {
  plan   = "gold"
  labels = { team = "search" }
  api_key { sha256 = %q }
}
consumer "umbrella" {
  api_key { sha256 = %q }
  api_key {
    sha256  = %q
    expires = "2026-01-01"
  }
}
route "keys" {
  hosts   = ["keys.test"]
  service = "one"
  auth "api_key" {
    header = "X-API-Key"
    query  = "key"
  }
  request {
    set = {
      "X-Consumer" = "{consumer.name}"
      "X-Plan"     = "{consumer.plan}/{consumer.labels.team}"
      "X-Target"   = "{path}{query}"
    }
  }
}
policy "limited" {
  rate_limit {
    rate  = "1/h"
    burst = 5
    by    = "query:client"
  }
}
route "limited" {
  hosts   = ["limited.test"]
  service = "two"
  use     = ["limited"]
}
consumer "umbrella2" {
  basic {
    user   = "umbrella"
    bcrypt = %q
  }
}
route "passwords" {
  hosts   = ["passwords.test"]
  service = "one"
  auth "basic" { realm = "reports" }
  request {
    set = { "X-Consumer" = "{consumer.name}" }
  }
}
route "plans" {
  hosts   = ["plans.test"]
  service = "two"
  auth "api_key" {}
  rate_limit {
    rate  = "1/h"
    burst = 3
    by    = "consumer"
  }
}
`, keyHash(acmeKey), keyHash(umbrellaKey), keyHash(endedKey), passwordHash)
}

// send sends a request with header fields, "Name: value" each.
func send(t *testing.T, c protocolClient, url string, fields ...string) (*http.Response, string) {
	t.Helper()
	return sendWith(t, c, request(t, context.Background(), "GET", url, nil), fields...)
}

// sendWith sends r with header fields.
func sendWith(t *testing.T, c protocolClient, r *http.Request, fields ...string) (*http.Response, string) {
	t.Helper()
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header[name] = append(r.Header[name], value) // in the spelling given
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// TestKeys: over each protocol, a key opens and goes no further, anything else
// doesn't, and nobody says of itself who it is.
func TestKeys(t *testing.T) {
	g := newGateway(t, accessConfig(t)).start(t)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			base := c.scheme + "://keys.test"
			for _, tt := range []struct {
				path   string
				fields []string
			}{
				{"/", nil},
				{"//x", nil},
				{"/x/../y", nil},
				{"/", []string{"X-Api-Key: wrong"}},
				{"/", []string{"X-Api-Key: "}},
				{"/", []string{"X-Api-Key: " + endedKey}},
				{"/?key=" + endedKey, nil},
				{"/", []string{"X-Api-Key: " + acmeKey + "," + acmeKey}},
				{"/", []string{"X_Api_Key: " + acmeKey}},
				{"/?key=wrong", nil},
				{"/?Key=" + acmeKey, nil},
			} {
				resp, body := send(t, c, base+tt.path, tt.fields...)
				wantProblem(t, resp, body, 401, "unauthenticated")
				if got, want := resp.Header.Get("WWW-Authenticate"), `ApiKey header="X-API-Key", query="key"`; got != want {
					t.Errorf("%s %q: WWW-Authenticate = %q, want %q", tt.path, tt.fields, got, want)
				}
			}
			for path, fields := range map[string][]string{
				"/?key=" + acmeKey + "&key=" + acmeKey: nil,
				"/?key=" + acmeKey:                     {"X-Api-Key: " + acmeKey},
				"/twice":                               {"X-Api-Key: " + acmeKey, "X-Api-Key: " + acmeKey},
			} {
				resp, body := send(t, c, base+path, fields...)
				wantProblem(t, resp, body, 400, "malformed-request")
			}
			spoofed := []string{"X-Consumer: root", "X_Consumer: root", "X.Consumer: root", "x-consumer: root", "X-CONSUMER: root"}
			if c.name != "h1" && c.name != "h1 plain" {
				spoofed = spoofed[:4] // names are in lower case there
			}
			for _, tt := range []struct {
				path   string
				fields []string
				name   string
				plan   string
				target string
			}{
				{"/a?b=1", []string{"X-Api-Key: " + acmeKey}, "acme", "gold/search", "/a?b=1"},
				{"/a", []string{"X-Api-Key: " + umbrellaKey}, "umbrella", "/", "/a"},
				{"/a?key=" + acmeKey + "&b=1", nil, "acme", "gold/search", "/a?b=1"},
				{"/a?k%65y=" + acmeKey, nil, "acme", "gold/search", "/a"},
			} {
				resp, body := send(t, c, base+tt.path, append(spoofed, tt.fields...)...)
				if resp.StatusCode != 200 {
					t.Errorf("%s: %s: %s", tt.path, resp.Status, body)
					continue
				}
				h := seenIn(t, body).Header
				if got := h.Values("X-Consumer"); len(got) != 1 || got[0] != tt.name {
					t.Errorf("%s: X-Consumer = %q, want %q", tt.path, got, tt.name)
				}
				if h.Get("X-Plan") != tt.plan || h.Get("X-Target") != tt.target {
					t.Errorf("%s: X-Plan = %q, X-Target = %q, want %q, %q", tt.path, h.Get("X-Plan"), h.Get("X-Target"), tt.plan, tt.target)
				}
				if strings.Contains(body, "root") || strings.Contains(body, acmeKey) || strings.Contains(body, umbrellaKey) {
					t.Errorf("%s: the backend saw %s", tt.path, body)
				}
			}
		})
	}
	g.logged(t, "an unknown key", func(l logLine) bool { return l.Status == 401 && l.Error == "unauthenticated: unknown key" })
	g.logged(t, "an expired key", func(l logLine) bool {
		return l.Status == 401 && l.Error == "unauthenticated: key "+id(endedKey)+` of consumer "umbrella", expired 2026-01-01T00:00:00Z`
	})
	g.logged(t, "two keys", func(l logLine) bool { return l.Status == 400 && l.Error == "malformed-request: more than one key" })
	eventually(t, "the consumer in the access log", func() error {
		if !strings.Contains(g.log.String(), `"consumer":"acme"`) {
			return fmt.Errorf("it isn't there")
		}
		return nil
	})
	if log := g.log.String(); strings.Contains(log, acmeKey) || strings.Contains(log, umbrellaKey) {
		t.Error("a key stands in the log")
	}
}

// TestPasswords: over each protocol, a right password opens and goes no further,
// and is checked once.
func TestPasswords(t *testing.T) {
	g := newGateway(t, accessConfig(t)).start(t)
	field := func(user, password string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			url := c.scheme + "://passwords.test/"
			for _, fields := range [][]string{nil, {field("umbrella", "wrong")}, {field("nobody", password)}, {"Authorization: Basic x"}, {"Authorization: Bearer x"}} {
				resp, body := send(t, c, url, fields...)
				wantProblem(t, resp, body, 401, "unauthenticated")
				if got, want := resp.Header.Get("WWW-Authenticate"), `Basic realm="reports", charset="UTF-8"`; got != want {
					t.Errorf("%q: WWW-Authenticate = %q, want %q", fields, got, want)
				}
			}
			for range 3 {
				resp, body := send(t, c, url, field("umbrella", password), "X-Consumer: root", "X_Consumer: root")
				if resp.StatusCode != 200 {
					t.Fatalf("%s: %s", resp.Status, body)
				}
				h := seenIn(t, body).Header
				if got := h.Values("X-Consumer"); len(got) != 1 || got[0] != "umbrella2" || h.Get("Authorization") != "" || strings.Contains(body, "root") {
					t.Errorf("the backend saw %s", body)
				}
			}
		})
	}
	text, err := g.get("/metrics")
	if want := "sidegate_password_checks_total 3\n"; err != nil || !strings.Contains(text, want) {
		t.Errorf("no %s in the metrics (%v): one right password, a wrong one and an unknown user are checked once each", want, err)
	}
	if strings.Contains(g.log.String(), password) {
		t.Error("a password stands in the log")
	}
}

// TestRateLimit: over each protocol exactly the burst passes, also when many
// come at once; the rest is told when to come back.
func TestRateLimit(t *testing.T) {
	g := newGateway(t, accessConfig(t)).start(t)
	for i, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			url := fmt.Sprintf("%s://limited.test/?client=%d", c.scheme, i)
			var passed, refused atomic.Int64
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 5 {
						resp, err := c.Get(url)
						if err != nil {
							t.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						switch resp.StatusCode {
						case 200:
							passed.Add(1)
						case 429:
							refused.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if passed.Load() != 5 || refused.Load() != 35 {
				t.Errorf("%d passed and %d were refused, want 5 and 35", passed.Load(), refused.Load())
			}
			resp, body := send(t, c, url)
			wantProblem(t, resp, body, 429, "rate-limited")
			after := resp.Header.Get("Retry-After")
			if !strings.HasPrefix(after, "35") && after != "3600" {
				t.Errorf("Retry-After = %q", after)
			}
			if got, want := resp.Header.Get("RateLimit"), `"query:client";r=0;t=`+after; got != want {
				t.Errorf("RateLimit = %q, want %q", got, want)
			}
			resp, _ = send(t, c, url+"x")
			if got, want := resp.Header.Get("RateLimit-Policy"), `"query:client";q=5;w=18000`; resp.StatusCode != 200 || got != want {
				t.Errorf("%s, RateLimit-Policy = %q, want %q", resp.Status, got, want)
			}
			if got, want := resp.Header.Get("RateLimit"), `"query:client";r=4;t=3600`; got != want {
				t.Errorf("RateLimit = %q, want %q", got, want)
			}
		})
	}
	text, err := g.get("/metrics")
	if want := `sidegate_rate_limit_refused_total{limit="query:client",route="limited"} 180`; err != nil || !strings.Contains(text, want) {
		t.Errorf("no %s in the metrics (%v)", want, err)
	}
}

// TestPlansAndReload: a plan takes the place of the route's rate; a reload
// neither forgets nor doubles what was counted.
func TestPlansAndReload(t *testing.T) {
	config := accessConfig(t)
	g := newGateway(t, config).start(t)
	c := g.clients(t)[0]
	count := func(key string, n int) (passed int) {
		for range n {
			if resp, _ := send(t, c, "https://plans.test/", "X-Api-Key: "+key); resp.StatusCode == 200 {
				passed++
			}
		}
		return passed
	}
	if got := count(acmeKey, 4) + 10*count(umbrellaKey, 2); got != 24 {
		t.Fatalf("%d", got)
	}
	out, code := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "-header", "X-API-Key: "+acmeKey, "https://plans.test/")
	if code != 0 || !strings.Contains(out, `admits the consumer "acme"`) || !strings.Contains(out, "consumer admits 2 of 6") {
		t.Errorf("explain (%d):\n%s", code, out)
	}
	if strings.Contains(out, acmeKey) {
		t.Error("explain shows a key")
	}
	reloads := g.status(t).Config.Reloads
	g.configure(t, config+"route \"more\" {\n  hosts = [\"more.test\"]\n  respond { body = \"ok\" }\n}\n")
	g.signal(syscall.SIGHUP)
	eventually(t, "reload", func() error {
		if s := g.status(t).Config; s.Reloads <= reloads || s.RejectedBy != "" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if acme, umbrella := count(acmeKey, 6), count(umbrellaKey, 6); acme != 2 || umbrella != 1 {
		t.Errorf("after a reload %d and %d more passed, want 2 and 1", acme, umbrella)
	}
	// Without its key a consumer is nobody.
	g.configure(t, strings.ReplaceAll(config, keyHash(umbrellaKey), keyHash("another")))
	g.signal(syscall.SIGHUP)
	eventually(t, "the key is revoked", func() error {
		if resp, _ := send(t, c, "https://plans.test/", "X-Api-Key: "+umbrellaKey); resp.StatusCode != 401 {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	})
}

// TestPersonal: over each protocol, what a plan or a consumer uses holds for its
// requests on every route, and counts on all of them together.
func TestPersonal(t *testing.T) {
	g := newGateway(t, accessLog+twin(t, http.HandlerFunc(mirror))+fmt.Sprintf(`
policy "office" {
  block { allow = ["192.0.2.0/24"] }
}
policy "reader" {
  authorize = "request.method == 'GET'"
  request { set = { "X-Plan" = "{consumer.plan}" } }
}
policy "few" {
  rate_limit {
    rate  = "1/h"
    burst = 12
    by    = "consumer"
  }
}
plan "free" { use = ["reader", "few"] }
consumer "acme" {
  plan = "free"
  api_key { sha256 = %q }
}
consumer "umbrella" {
  use = ["office"]
  api_key { sha256 = %q }
}
consumer "initech" {
  api_key { sha256 = %q }
}
route "first" {
  hosts   = ["first.test"]
  service = "one"
  auth "api_key" {}
  rate_limit {
    rate  = "1000/s"
    burst = 1000
  }
}
route "second" {
  hosts   = ["second.test"]
  service = "two"
  auth "api_key" {}
}
route "open" {
  hosts   = ["open.test"]
  service = "one"
}
`, keyHash(acmeKey), keyHash(umbrellaKey), keyHash("initech"))).start(t)
	for n, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			acme, umbrella := "X-Api-Key: "+acmeKey, "X-Api-Key: "+umbrellaKey
			resp, body := send(t, c, c.scheme+"://first.test/", "X-Api-Key: initech", "x-plan: root", "X_Plan: root")
			if resp.StatusCode != 200 || strings.Contains(body, "root") {
				t.Errorf("one without a plan says that it has one: %s: %s", resp.Status, body)
			}
			for _, host := range []string{"first.test", "second.test"} {
				resp, body := send(t, c, c.scheme+"://"+host+"/", umbrella)
				wantProblem(t, resp, body, 403, "forbidden")
				resp, body = exchangeOf(t, c, "PUT", c.scheme+"://"+host+"/", "x", acme)
				wantProblem(t, resp, body, 403, "forbidden")
				resp, body = send(t, c, c.scheme+"://"+host+"/", acme)
				if resp.StatusCode != 200 || seenIn(t, body).Header.Get("X-Plan") != "free" {
					t.Errorf("%s: %s: %s", host, resp.Status, body)
				}
				if got, want := strings.Join(resp.Header.Values("RateLimit"), ", "), fmt.Sprintf(`"consumer";r=%d;`, 11-2*n-len(host)+len("first.test")); !strings.Contains(got, want) {
					t.Errorf("%s: RateLimit = %q, want %q", host, got, want)
				}
			}
			if resp, _ := send(t, c, c.scheme+"://open.test/", umbrella); resp.StatusCode != 200 {
				t.Errorf("where nobody asks who is calling: %s", resp.Status)
			}
		})
	}
	clients := g.clients(t)
	for range 2 {
		send(t, clients[0], "https://first.test/", "X-Api-Key: "+acmeKey)
	}
	resp, body := send(t, clients[0], "https://second.test/", "X-Api-Key: "+acmeKey)
	wantProblem(t, resp, body, 429, "rate-limited")
	g.logged(t, "an address of another network", func(l logLine) bool {
		return l.Status == 403 && l.Error == "forbidden: block: the address isn't among those in allow"
	})
	out, code := run(t, "explain", "-config", g.config(), "-header", "X-API-Key: "+umbrellaKey, "https://first.test/")
	if code != 0 || !strings.Contains(out, "the consumer's: what its plan and its own block use => block: allow 1 networks => refuses") {
		t.Errorf("explain: %s", out)
	}
}
