package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
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

// TestCORSRefusals: over each protocol a page may read refusals of policies that
// run before cors, when its origin may read at all.
func TestCORSRefusals(t *testing.T) {
	g := newGateway(t, accessLog+twin(t, http.HandlerFunc(mirror))+`
trusted_proxies = ["127.0.0.0/8"]
policy "app" {
  cors {
    origins     = ["https://app.example.com"]
    credentials = true
    expose      = ["Retry-After"]
  }
}
route "refusals" {
  hosts   = ["refusals.test"]
  service = "one"
  use     = ["app"]
  block { deny = ["192.0.2.1"] }
  limits { body = "10B" }
  ban {
    after    = 1
    statuses = [413]
  }
  response { set = { "X-Frame-Options" = "DENY" } }
}
`).start(t)
	clients := g.clients(t)
	for i, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			client := fmt.Sprintf("198.51.100.%d", i+1)
			for _, tt := range []struct {
				name, client, body string
				status             int
				kind               string
			}{
				{"block", "192.0.2.1", "", 403, "forbidden"},
				{"limits", client, strings.Repeat("x", 11), 413, "body-too-large"},
				{"ban", client, "", 403, "forbidden"},
			} {
				for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://evil.test": "", "": ""} {
					if tt.name == "limits" && origin == "" {
						continue // the first one bans
					}
					fields := []string{"X-Forwarded-For: " + tt.client}
					if tt.name == "limits" {
						fields[0] = fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", 10*i+len(want))
					}
					if origin != "" {
						fields = append(fields, "Origin: "+origin)
					}
					if tt.name == "ban" {
						_, _ = exchangeOf(t, c, "POST", c.scheme+"://refusals.test/", strings.Repeat("x", 11), fields...)
					}
					resp, body := exchangeOf(t, c, "POST", c.scheme+"://refusals.test/", tt.body, fields...)
					wantProblem(t, resp, body, tt.status, tt.kind)
					h := resp.Header
					if got := strings.Join(h.Values("Access-Control-Allow-Origin"), "|"); got != want || h.Get("Vary") != "Origin" || h.Get("X-Frame-Options") != "DENY" ||
						(h.Get("Access-Control-Allow-Credentials") == "true") != (want != "") || (h.Get("Access-Control-Expose-Headers") == "Retry-After") != (want != "") {
						t.Errorf("%s, Origin %q: %v", tt.name, origin, h)
					}
				}
			}
			resp, body := exchangeOf(t, c, "OPTIONS", c.scheme+"://refusals.test/", "", "X-Forwarded-For: 192.0.2.1", "Origin: https://app.example.com", "Access-Control-Request-Method: PUT")
			wantProblem(t, resp, body, 403, "forbidden")
			if h := resp.Header; h.Get("Access-Control-Allow-Methods") != "" || h.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("a preflight that is blocked: %v", h)
			}
		})
	}
}

// TestBlock: over each protocol what is blocked is refused in any spelling, and
// a list that changes holds within moments, unless it has an error.
func TestBlock(t *testing.T) {
	g := newGateway(t, "")
	list := write(t, filepath.Join(g.dir, "etc", "deny.txt"), "198.51.100.0/24\n")
	write(t, filepath.Join(g.dir, "etc", "country.mmdb"), string(policytest.MMDB(map[string]any{"127.0.0.0/8": map[string]any{"country": map[string]any{"iso_code": "DE"}}})))
	g.configure(t, accessLog+twin(t, http.HandlerFunc(mirror))+`
route "blocked" {
  hosts   = ["blocked.test"]
  service = "one"
  block { deny = ["127.0.0.0/8"] }
}
policy "base" {
  block {
    paths       = ["/internal/*"]
    user_agents = ["~(?i)sqlmap"]
    methods     = ["DELETE"]
  }
}
route "abroad" {
  hosts   = ["abroad.test"]
  service = "one"
  block {
    countries    = ["DE"]
    country_file = "country.mmdb"
  }
}
route "home" {
  hosts   = ["home.test"]
  service = "one"
  block {
    allow_countries = ["DE"]
    country_file    = "country.mmdb"
  }
}
route "listed" {
  hosts   = ["listed.test"]
  service = "two"
  use     = ["base"]
  block { deny_file = "deny.txt" }
}
`)
	g.start(t)
	clients := g.clients(t)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			resp, body := send(t, c, c.scheme+"://blocked.test/")
			wantProblem(t, resp, body, 403, "forbidden")
			if strings.Contains(body, "127.0") || strings.Contains(body, "block") || strings.Contains(body, "deny") {
				t.Errorf("the refusal says why: %s", body)
			}
			resp, body = send(t, c, c.scheme+"://abroad.test/")
			wantProblem(t, resp, body, 403, "forbidden")
			if resp, _ := send(t, c, c.scheme+"://home.test/"); resp.StatusCode != 200 {
				t.Errorf("from a country that is allowed: %s", resp.Status)
			}
			base := c.scheme + "://listed.test"
			for _, path := range []string{"/internal/a", "/%69nternal/a", "/x/../internal", "//internal", "/./internal/"} {
				resp, body := send(t, c, base+path)
				wantProblem(t, resp, body, 403, "forbidden")
			}
			resp, body = send(t, c, base+"/", "User-Agent: SqlMap/1")
			wantProblem(t, resp, body, 403, "forbidden")
			resp, body = exchangeOf(t, c, "DELETE", base+"/", "")
			wantProblem(t, resp, body, 403, "forbidden")
			if resp, _ := send(t, c, base+"/ok"); resp.StatusCode != 200 {
				t.Errorf("others: %s", resp.Status)
			}
		})
	}
	g.logged(t, "why", func(l logLine) bool { return l.Error == "forbidden: block: the address is among those in deny" })
	become := func(what string, status int) {
		eventually(t, what, func() error {
			if resp, _ := send(t, clients[0], "https://listed.test/"); resp.StatusCode != status {
				return fmt.Errorf("%s", resp.Status)
			}
			return nil
		})
	}
	write(t, list, "198.51.100.0/24\n127.0.0.1\n")
	become("the longer list holds", 403)
	write(t, list, "nonsense\n")
	eventually(t, "a wrong list is reported", func() error {
		if by := g.status(t).Config.RejectedBy; !strings.Contains(by, `deny_file: line 1: "nonsense"`) {
			return fmt.Errorf("%q", by)
		}
		return nil
	})
	become("the old list stays", 403)
	write(t, list, "")
	become("an empty list blocks nobody", 200)
}

// TestLimits: over each protocol what is too large is refused, a streamed body
// too, and only so many requests are in flight.
func TestLimits(t *testing.T) {
	entered, leave := make(chan struct{}, 64), make(chan struct{})
	var whole atomic.Int64 // bodies that came to an end
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			entered <- struct{}{}
			<-leave
		}
		if n, err := io.Copy(io.Discard, r.Body); err == nil && n > 1024 {
			whole.Add(1)
		}
	})
	g := newGateway(t, accessLog+twin(t, backend)+fmt.Sprintf(`
consumer "acme" {
  api_key { sha256 = %q }
}
policy "small" {
  limits {
    body    = "1KiB"
    headers = "2KiB"
    uri     = "128B"
  }
}
route "small" {
  hosts   = ["small.test"]
  service = "one"
  use     = ["small"]
}
route "small2" {
  hosts   = ["small2.test"]
  service = "two"
  use     = ["small"]
}
route "address" {
  hosts   = ["address.test"]
  service = "two"
  limits { requests_per_ip = 2 }
}
route "whole" {
  hosts   = ["whole.test"]
  service = "two"
  limits { requests = 2 }
}
route "consumer" {
  hosts   = ["consumer.test"]
  service = "two"
  auth "api_key" {}
  limits { requests_per_consumer = 2 }
}
`, keyHash(acmeKey))).start(t)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			for _, host := range []string{"small.test", "small2.test"} {
				base := c.scheme + "://" + host
				resp, body := exchangeOf(t, c, "POST", base+"/", strings.Repeat("a", 1025))
				wantProblem(t, resp, body, 413, "body-too-large")
				if resp, _ := exchangeOf(t, c, "POST", base+"/", strings.Repeat("a", 1024)); resp.StatusCode != 200 {
					t.Errorf("a body of the limit: %s", resp.Status)
				}
				for _, size := range []int{1025, 100_000} {
					r := request(t, context.Background(), "POST", base+"/", io.LimitReader(zeros{}, int64(size))) // of no known length
					if r.ContentLength > 0 {
						t.Fatal("it has a length")
					}
					r.ContentLength = -1
					resp, body = sendWith(t, c, r)
					wantProblem(t, resp, body, 413, "body-too-large")
				}
				resp, body = send(t, c, base+"/"+strings.Repeat("a", 128))
				wantProblem(t, resp, body, 414, "uri-too-long")
				resp, body = send(t, c, base+"/", "X-Large: "+strings.Repeat("a", 2048))
				wantProblem(t, resp, body, 431, "headers-too-large")
				if resp, _ := send(t, c, base+"/"); resp.StatusCode != 200 {
					t.Errorf("afterwards: %s", resp.Status)
				}
			}
			for host, want := range map[string]int{"address.test": 429, "whole.test": 503, "consumer.test": 429} {
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						resp, err := c.Do(withKey(request(t, context.Background(), "GET", c.scheme+"://"+host+"/wait", nil)))
						if err != nil || resp.StatusCode != 200 {
							t.Errorf("%s: in flight: %v %v", host, resp, err)
							return
						}
						_ = resp.Body.Close()
					})
				}
				<-entered
				<-entered
				resp, body := send(t, c, c.scheme+"://"+host+"/", "X-Api-Key: "+acmeKey)
				if resp.StatusCode != want || resp.Header.Get("Retry-After") != "1" {
					t.Errorf("%s: a third one: %s %v %s", host, resp.Status, resp.Header, body)
				}
				leave <- struct{}{}
				leave <- struct{}{}
				wg.Wait()
				eventually(t, "room again", func() error {
					if resp, _ := send(t, c, c.scheme+"://"+host+"/", "X-Api-Key: "+acmeKey); resp.StatusCode != 200 {
						return errors.New(resp.Status)
					}
					return nil
				})
			}
		})
	}
	if n := whole.Load(); n != 0 {
		t.Errorf("%d bodies that were too large came to an end at the backend", n)
	}
}

func withKey(r *http.Request) *http.Request {
	r.Header.Set("X-Api-Key", acmeKey)
	return r
}

// zeros is a reader without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestBan: over each protocol an address that fails too often is kept out, a
// restart and a reload don't let it in, and an operator does.
func TestBan(t *testing.T) {
	config := accessLog + "trusted_proxies = [\"127.0.0.0/8\"]\n" + twin(t, http.NotFoundHandler()) + `
route "answers" {
  hosts = ["banned.test"]
  respond { body = "ok" }
  ban {}
}
route "fails" {
  hosts   = ["banned.test"]
  paths   = ["/missing"]
  service = "one"
  ban {
    after = 3
    for   = "1h"
  }
}
route "open" {
  hosts = ["open.test"]
  respond { body = "ok" }
}
`
	g := newGateway(t, config).start(t)
	status := func(c protocolClient, url, client string) int {
		resp, _ := send(t, c, url, "X-Forwarded-For: "+client)
		return resp.StatusCode
	}
	for i, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			url, client := c.scheme+"://banned.test", fmt.Sprintf("2001:db8:0:%d::1", i)
			for range 3 {
				if got := status(c, url+"/missing", client); got != 404 {
					t.Fatalf("status %d before the ban", got)
				}
			}
			eventually(t, "the ban", func() error { // a response is counted when it has been sent
				if got := status(c, url+"/", client); got != 403 {
					return fmt.Errorf("status %d", got)
				}
				return nil
			})
			if got := status(c, url+"/missing", fmt.Sprintf("2001:db8:0:%d:9::9", i)); got != 403 {
				t.Errorf("status %d for the same /64", got)
			}
			if got := status(c, url+"/", "192.0.2.1"); got != 200 {
				t.Errorf("status %d for others", got)
			}
			if got := status(c, c.scheme+"://open.test/", client); got != 200 {
				t.Errorf("status %d on a route without ban", got)
			}
		})
	}
	conf := filepath.Join(g.dir, "etc")
	for _, tt := range [][]string{
		{"add 198.51.100.7 --for 2h", "198.51.100.7 is banned until"},
		{"add 10.0.0.0/8", "isn't what a ban can be of"},
		{"add nobody", "isn't an address"},
		{"remove 2001:db8::1", "2001:db8::1 isn't banned any more"},
		{"remove 2001:db8::1", "2001:db8::1 wasn't banned"},
		{"list", "2001:db8:0:1::/64"},
		{"list", "fails"},
		{"list", "operator"},
	} {
		out, _ := run(t, append(append([]string{"ban"}, strings.Fields(tt[0])...), "-config", conf)...)
		if !strings.Contains(out, tt[1]) {
			t.Errorf("ban %s: %s", tt[0], out)
		}
	}
	if text, err := g.get("/api/bans"); err != nil || !strings.Contains(text, `"client": "198.51.100.7"`) {
		t.Errorf("/api/bans: %s %v", text, err)
	}
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/api/bans?address=192.0.2.1&for=1h", g.admin), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != 405 {
		t.Errorf("the admin address takes changes: %s", resp.Status)
	}
	text, err := g.get("/metrics")
	for _, want := range []string{"sidegate_bans 5\n", `sidegate_bans_total{route="fails"} 5`} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics (%v)", want, err)
		}
	}
	g.logged(t, "why", func(l logLine) bool { return l.Status == 403 && l.Error == "forbidden: ban: the address is banned" })
	g.stop(syscall.SIGTERM)
	g.configure(t, config+"route \"more\" {\n  hosts = [\"more.test\"]\n  respond { body = \"ok\" }\n}\n")
	g.start(t)
	c := g.clients(t)[0]
	for client, want := range map[string]int{"198.51.100.7": 403, "2001:db8:0:1::5": 403, "2001:db8::1": 200, "192.0.2.1": 200} {
		if got := status(c, "https://banned.test/", client); got != want {
			t.Errorf("after a restart: status %d for %s, want %d", got, client, want)
		}
	}
}

// TestBanOfFleet: two nodes know each other's bans through Consul, and the
// configuration doesn't see them.
func TestBanOfFleet(t *testing.T) {
	a := newAgent(t)
	config := fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port) + `
trusted_proxies = ["127.0.0.0/8"]
route "answers" {
  hosts = ["banned.test"]
  respond { body = "ok" }
  ban {}
}
`
	nodes := []*gateway{newGateway(t, config).start(t), newGateway(t, config).start(t)}
	status := func(i int, client string) int {
		resp, _ := send(t, nodes[i].clients(t)[0], "https://banned.test/", "X-Forwarded-For: "+client)
		return resp.StatusCode
	}
	become := func(what string, i int, client string, want int) {
		t.Helper()
		eventually(t, what, func() error {
			if got := status(i, client); got != want {
				return fmt.Errorf("status %d", got)
			}
			return nil
		})
	}
	command := func(i int, args ...string) {
		t.Helper()
		if out, code := run(t, append(append([]string{"ban"}, args...), "-config", filepath.Join(nodes[i].dir, "etc"))...); code != 0 {
			t.Fatalf("ban %q: %s", args, out)
		}
	}
	command(0, "add", "192.0.2.1")
	command(1, "add", "2001:db8::1")
	become("the first's ban at the second", 1, "192.0.2.1", 403)
	become("the second's ban at the first", 0, "2001:db8::2", 403)
	if text, err := a.do("GET", "/v1/kv/sidegate-bans/192.0.2.1?raw", nil); err != nil || !strings.Contains(text, `"by":"operator"`) {
		t.Errorf("in Consul: %s %v", text, err)
	}
	command(1, "remove", "192.0.2.1")
	become("lifted at the second", 1, "192.0.2.1", 200)
	become("lifted at the first", 0, "192.0.2.1", 200)
	// Consul goes, and comes back.
	a.stop(syscall.SIGKILL)
	command(0, "add", "192.0.2.9")
	become("a ban without Consul", 0, "192.0.2.9", 403)
	become("what was known", 1, "2001:db8::2", 403)
	a.start(t)
	become("told when Consul is back", 1, "192.0.2.9", 403)
	if n := nodes[0].status(t).Config.Reloads; n != 0 {
		t.Errorf("%d reloads", n)
	}
}
