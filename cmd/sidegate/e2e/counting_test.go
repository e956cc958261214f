package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
)

// TestRateLimitByToken: over each protocol, the claims of a verified token say
// whose limit it is, what a request costs, and what rate the client has.
func TestRateLimitByToken(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	g := newGateway(t, accessLog+twin(t, http.HandlerFunc(mirror))+fmt.Sprintf(`
route "tokens" {
  hosts   = ["tokens.test"]
  service = "one"
  auth "jwt" {
    issuer   = %q
    audience = ["api"]
  }
  rate_limit {
    rate       = "1/h"
    burst      = 5
    by         = "claim:sub"
    cost       = "request.path.startsWith('/dear') ? 3 : 1"
    rate_claim = "rate"
    rate_max   = "2/h"
  }
  rate_limit {
    rate    = "1/h"
    by      = "cel:claims.sub + request.method"
    dry_run = true
  }
}
`, i.URL)).start(t)
	for n, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			sub := fmt.Sprintf("client-%d", n)
			plain := "Authorization: Bearer " + i.Sign("k", tokenClaims(i, map[string]any{"sub": sub}))
			rich := "Authorization: Bearer " + i.Sign("k", tokenClaims(i, map[string]any{"sub": sub, "rate": "1000/s"}))
			for _, tt := range []struct {
				path, token string
				status      int
				answer      string
			}{
				{"/dear", plain, 200, `"claim:sub";r=2;`},
				{"/dear", plain, 429, `"claim:sub";r=2;`},
				{"/x/../dear", plain, 429, `"claim:sub";r=2;`}, // a cost is that of the canonical path
				{"/cheap", plain, 200, `"claim:sub";r=1;`},
				{"/cheap", plain, 200, `"claim:sub";r=0;`},
				{"/cheap", plain, 429, `"claim:sub";r=0;`},
				{"/cheap", rich, 200, `"claim:sub";r=4;t=1800`}, // never more than rate_max
			} {
				resp, body := send(t, c, c.scheme+"://tokens.test"+tt.path, tt.token)
				if got := resp.Header.Get("RateLimit"); resp.StatusCode != tt.status || !strings.HasPrefix(got, tt.answer) {
					t.Errorf("%s: %s, RateLimit %s; want %d, %s", tt.path, resp.Status, got, tt.status, tt.answer)
				}
				if tt.status == 429 {
					wantProblem(t, resp, body, 429, "rate-limited")
				}
			}
		})
	}
	text, err := g.get("/metrics")
	if err != nil || !strings.Contains(text, `sidegate_rate_limit_dry_run_refused_total{limit="cel",route="tokens"}`) {
		t.Errorf("the dry run isn't counted (%v)", err)
	}
}

// quotaConfig has two routes that count together, and one by a plan.
func quotaConfig(t *testing.T) string {
	t.Helper()
	return accessLog + twin(t, http.HandlerFunc(mirror)) + fmt.Sprintf(`
plan "gold" { quota = "7/month" }
consumer "acme" {
  plan = "gold"
  api_key { sha256 = %q }
}
consumer "umbrella" {
  api_key { sha256 = %q }
}
policy "metered" {
  quota {
    limit = "1000/month"
    by    = "query:client"
    name  = "metered"
    cost  = "request.method == 'POST' ? 5 : 1"
  }
}
route "metered-1" {
  hosts   = ["m1.test"]
  service = "one"
  use     = ["metered"]
}
route "metered-2" {
  hosts   = ["m2.test"]
  service = "one"
  use     = ["metered"]
  rate_limit {
    rate = "100000/s"
  }
}
route "plans" {
  hosts   = ["plans.test"]
  service = "one"
  auth "api_key" {}
  quota { limit = "3/month" }
}
`, keyHash(acmeKey), keyHash(umbrellaKey))
}

type quotaUse struct {
	Quota, Client, Period string
	Limit, Used, Left     int64
	Until                 time.Time
}

func (g *gateway) quotas(t *testing.T, query string) (list []quotaUse) {
	t.Helper()
	text, err := g.get("/api/quotas" + query)
	if err == nil {
		err = json.Unmarshal([]byte(text), &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestQuota: over each protocol, a quota is used up exactly, by many at once and
// over two routes, and the answer says what is left and when there is more.
func TestQuota(t *testing.T) {
	g := newGateway(t, quotaConfig(t)).start(t)
	for n, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			url := func(host string) string { return fmt.Sprintf("%s://%s.test/?client=%d", c.scheme, host, n) }
			var passed, refused atomic.Int64
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					for range 70 {
						resp, err := c.Get(url([]string{"m1", "m2"}[i%2]))
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
			if passed.Load() != 1000 || refused.Load() != 120 {
				t.Errorf("%d passed and %d were refused, want 1000 and 120", passed.Load(), refused.Load())
			}
			resp, body := send(t, c, url("m2"))
			wantProblem(t, resp, body, 429, "quota-exceeded")
			after := resp.Header.Get("Retry-After")
			if d, err := time.ParseDuration(after + "s"); err != nil || time.Now().Add(d).UTC().Day() != 1 {
				t.Errorf("Retry-After = %q", after)
			}
			if got, want := resp.Header.Values("RateLimit"), `"metered/month";r=0;t=`+after; len(got) != 2 || got[1] != want {
				t.Errorf("RateLimit = %q, want %q", got, want)
			}
			resp, _ = sendWith(t, c, request(t, context.Background(), "POST", url("m1")+"x", strings.NewReader("a")))
			if got, want := resp.Header.Get("RateLimit"), `"metered/month";r=995;t=`; resp.StatusCode != 200 || !strings.HasPrefix(got, want) {
				t.Errorf("%s, RateLimit = %q, want %q", resp.Status, got, want)
			}
			if got, want := resp.Header.Get("RateLimit-Policy"), `"metered/month";q=1000;w=`; !strings.HasPrefix(got, want) {
				t.Errorf("RateLimit-Policy = %q, want %q", got, want)
			}
		})
	}
	text, err := g.get("/metrics")
	for _, want := range []string{`sidegate_quota_refused_total{quota="metered/month",route="metered-2"}`, `sidegate_quota_warnings_total{quota="metered/month",route=`, "sidegate_quota_clients 10", "sidegate_quota_disk_failing 0"} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics (%v)", want, err)
		}
	}
	if n := strings.Count(g.log.String(), "80 % of a quota is used"); n != len(g.clients(t)) {
		t.Errorf("%d warnings in the log, want one for each client", n)
	}
}

// TestQuotaSurvives: neither a restart nor kill -9 gives anything back, and an
// operator can.
func TestQuotaSurvives(t *testing.T) {
	g := newGateway(t, quotaConfig(t)).start(t)
	c := g.clients(t)[0]
	ask := func(url, key string, n int) (passed int) {
		t.Helper()
		for range n {
			if resp, _ := send(t, c, url, "X-Api-Key: "+key); resp.StatusCode == 200 {
				passed++
			}
		}
		return passed
	}
	const plans, metered = "https://plans.test/", "https://m1.test/?client=a"
	if n := ask(plans, umbrellaKey, 2) + ask(plans, acmeKey, 5) + ask(metered, "", 123); n != 2+5+123 {
		t.Fatalf("%d passed", n)
	}
	g.stop(syscall.SIGTERM)
	g.start(t)
	c = g.clients(t)[0]
	if n := ask(metered, "", 100); n != 100 {
		t.Errorf("%d passed after a restart", n)
	}
	for _, u := range g.quotas(t, "") {
		want := map[string]int64{"route:plans/consumer=umbrella": 2, "plan/consumer=acme": 5}[u.Quota+"/"+u.Client]
		if u.Quota == "name:metered" {
			want = 223
		}
		if u.Used != want || u.Left != u.Limit-want {
			t.Errorf("after a restart %+v, want %d used", u, want)
		}
	}
	g.stop(syscall.SIGKILL)
	g.start(t)
	c = g.clients(t)[0]
	if n := ask(plans, umbrellaKey, 4); n > 1 {
		t.Errorf("after kill -9, %d more of 3 passed, and 2 had", n)
	}
	if n := ask(plans, acmeKey, 4); n > 2 {
		t.Errorf("after kill -9, %d more of 7 passed, and 5 had", n)
	}
	if n := ask(metered, "", 900); n > 777 || n < 767 {
		t.Errorf("after kill -9, %d more of 1000 passed, and 223 had", n)
	}
	etc := filepath.Join(g.dir, "etc")
	for _, tt := range []struct{ args, want string }{
		{"list", `route:plans consumer=umbrella month 3 3 0`},
		{"list acme", `plan consumer=acme`},
		{"set route:plans consumer=umbrella month 1", "consumer=umbrella has used 1 of 3 until"},
		{"set route:plans consumer=nobody month 1", "nothing was used"},
		{"set route:plans consumer=umbrella month x", "used:"},
	} {
		args := strings.Fields(tt.args)
		if out, _ := run(t, append([]string{"quota", args[0], "-config", etc}, args[1:]...)...); !strings.Contains(strings.Join(strings.Fields(out), " "), tt.want) {
			t.Errorf("quota %s said %s, want %s", tt.args, out, tt.want)
		}
	}
	g.stop(syscall.SIGKILL)
	g.start(t)
	c = g.clients(t)[0]
	if n := ask(plans, umbrellaKey, 4); n > 2 || n < 1 {
		t.Errorf("after an operator gave 2 back and kill -9, %d passed", n)
	}
	if list := g.quotas(t, "?client=acme"); len(list) != 1 || list[0].Quota != "plan" || list[0].Left != 0 {
		t.Errorf("of acme: %+v", list)
	}
}

// TestQuotaDiskFull: a full disk costs persistence, not service; counting goes on.
func TestQuotaDiskFull(t *testing.T) {
	real(t)
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	g := newGateway(t, quotaConfig(t))
	state := filepath.Join(g.dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("this machine doesn't let a test mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	g.start(t)
	c := g.clients(t)[0]
	send(t, c, "https://plans.test/", "X-Api-Key: "+umbrellaKey)
	fill := filepath.Join(state, "fill")
	if err := os.WriteFile(fill, make([]byte, 64<<10), 0o600); err == nil {
		t.Fatal("the disk isn't full")
	}
	failing := func(want string) func() error {
		return func() error {
			// Each new client asks for something to be written.
			send(t, c, fmt.Sprintf("https://m1.test/?client=%d", time.Now().UnixNano()))
			if text, err := g.get("/metrics"); err != nil || !strings.Contains(text, "\nsidegate_quota_disk_failing "+want+"\n") {
				return fmt.Errorf("disk_failing isn't %s (%v)", want, err)
			}
			return nil
		}
	}
	eventually(t, "the disk fails", failing("1"))
	passed := 0
	for range 5 {
		if resp, _ := send(t, c, "https://plans.test/", "X-Api-Key: "+umbrellaKey); resp.StatusCode == 200 {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d of 3 passed with a full disk, and 1 before", passed)
	}
	if n := strings.Count(g.log.String(), "quotas can't be written to the disk"); n != 1 {
		t.Errorf("the log says so %d times", n)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk is back", failing("0"))
	g.stop(syscall.SIGKILL)
	g.start(t)
	c = g.clients(t)[0]
	if resp, _ := send(t, c, "https://plans.test/", "X-Api-Key: "+umbrellaKey); resp.StatusCode != 429 {
		t.Errorf("what was used with a full disk is lost: %s", resp.Status)
	}
}
