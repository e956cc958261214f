package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// redisServer is a real Redis.
type redisServer struct {
	*process
	port int
	dir  string
}

func newRedis(t *testing.T) *redisServer {
	t.Helper()
	real(t)
	r := &redisServer{port: ports(t, 1)[0], dir: t.TempDir()}
	r.start(t)
	return r
}

func (r *redisServer) start(t *testing.T) {
	t.Helper()
	r.process = start(t, tool(t, "redis-server"), "--port", fmt.Sprint(r.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", r.dir, "--requirepass", "secret-of-redis")
	eventually(t, "redis", func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// sharedRoutes are limits that all nodes count together.
func sharedRoutes(t *testing.T) string {
	t.Helper()
	return accessLog + twin(t, http.HandlerFunc(mirror)) + `
route "fast" {
  hosts   = ["fast.test"]
  service = "one"
  rate_limit {
    rate   = "200/s"
    burst  = 40
    by     = "route"
    shared = true
    chunk  = 4
  }
}
route "slow" {
  hosts   = ["slow.test"]
  service = "one"
  rate_limit {
    rate   = "1/h"
    burst  = 20
    by     = "query:client"
    shared = true
    chunk  = 1
  }
  rate_limit {
    rate   = "1/h"
    burst  = 1000
    by     = "route"
    shared = true
  }
}
route "denied" {
  hosts   = ["denied.test"]
  service = "one"
  rate_limit {
    rate      = "1000/s"
    shared    = true
    when_down = "deny"
  }
}
route "metered" {
  hosts   = ["metered.test"]
  service = "one"
  quota {
    limit  = "100/month"
    by     = "query:client"
    shared = true
    chunk  = 5
  }
}
`
}

// node is a gateway with a client of its own.
type node struct {
	*gateway
	c *http.Client
}

// nodes starts gateways with one configuration.
func nodes(t *testing.T, n int, config string) (list []node) {
	t.Helper()
	for range n {
		g := newGateway(t, config).start(t)
		list = append(list, node{g, g.client(true)})
	}
	return list
}

// storm sends requests of 64 clients to the nodes, each as many, and returns how
// many passed, and how long it took. Any answer but 200 and 429 is an error.
func storm(t *testing.T, list []node, each int, url string) (passed int64, took time.Duration) {
	t.Helper()
	var n atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range 64 {
		wg.Go(func() {
			for range each {
				resp, err := list[i%len(list)].c.Get(url)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				switch resp.StatusCode {
				case 200:
					n.Add(1)
				case 429:
				default:
					t.Error(resp.Status)
				}
			}
		})
	}
	wg.Wait()
	return n.Load(), time.Since(begin)
}

// atMost is what a rate of 200/s with a burst of 40 admits.
func atMost(took time.Duration) int64 { return int64(took/(5*time.Millisecond)) + 40 }

func (g *gateway) metric(t *testing.T, name string) (n int64) {
	t.Helper()
	text, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var f float64
			if _, err := fmt.Sscan(rest, &f); err != nil {
				t.Fatal(err)
			}
			return int64(f)
		}
	}
	t.Fatalf("no %s in the metrics", name)
	return 0
}

func (g *gateway) isUp(t *testing.T, want int64) func() error {
	return func() error {
		if got := g.metric(t, "sidegate_shared_counters_up"); got != want {
			return fmt.Errorf("sidegate_shared_counters_up is %d, want %d", got, want)
		}
		return nil
	}
}

// TestShared: two nodes with one Redis behave as one limit, over each protocol,
// and under 64 clients at once; quotas likewise.
func TestShared(t *testing.T) {
	r := newRedis(t)
	config := sharedRoutes(t) + fmt.Sprintf(`
redis {
  address  = "127.0.0.1:%d"
  password = "secret-of-redis"
  timeout  = "5s" # the machine may be busy
}
`, r.port)
	list := nodes(t, 2, config)
	if passed, took := storm(t, list, 30, "https://fast.test/"); passed > atMost(took) || passed < 40 {
		t.Errorf("%d passed in %v, want %d at most", passed, took, atMost(took))
	}
	if passed, _ := storm(t, list, 2, "https://slow.test/?client=storm"); passed != 20 {
		t.Errorf("%d passed, want 20", passed)
	}
	if passed, _ := storm(t, list, 3, "https://metered.test/?client=storm"); passed != 100 {
		t.Errorf("%d of a quota passed, want 100", passed)
	}
	others := list[1].clients(t)
	for i, c := range list[0].clients(t) {
		t.Run(c.name, func(t *testing.T) {
			url := fmt.Sprintf("%s://slow.test/?client=%d", c.scheme, i)
			for n := range 24 {
				who := c
				if n%2 == 1 {
					who = others[i]
				}
				resp, body := send(t, who, url)
				if want := fmt.Sprintf(`"query:client";r=%d;`, max(0, 19-n)); !strings.HasPrefix(resp.Header.Get("RateLimit"), want) || (resp.StatusCode == 200) != (n < 20) {
					t.Errorf("request %d: %s, RateLimit %q, want %q", n, resp.Status, resp.Header.Get("RateLimit"), want)
				}
				if n >= 20 {
					wantProblem(t, resp, body, 429, "rate-limited")
				}
			}
			url = fmt.Sprintf("%s://metered.test/?client=%d", c.scheme, i)
			send(t, c, url)
			if resp, _ := send(t, others[i], url); !strings.HasPrefix(resp.Header.Get("RateLimit"), `"query:client/month";r=98;`) {
				t.Errorf("a quota on the other node: RateLimit %q", resp.Header.Get("RateLimit"))
			}
		})
	}
	if list[0].metric(t, "sidegate_shared_counters_alone_total") != 0 {
		t.Error("requests were decided alone")
	}
	// A restart of Redis with its file, and of a node, forgets nothing.
	r.stop(syscall.SIGTERM)
	r.start(t)
	list[0].stop(syscall.SIGKILL)
	list[0].start(t)
	list[0].c = list[0].client(true)
	for i := range list {
		for range 2 { // a connection that is dead may cost the first
			_, _ = fetch(list[i].c, "https://denied.test/")
		}
		eventually(t, "asked again", list[i].isUp(t, 1))
	}
	if passed, _ := storm(t, list, 1, "https://metered.test/?client=storm"); passed != 0 {
		t.Errorf("%d of a quota that was used up passed after restarts", passed)
	}
	// A reload goes over to another database, where nothing was used.
	list[1].configure(t, strings.Replace(config, "password = ", "db = 5\n  password = ", 1))
	list[1].signal(syscall.SIGHUP)
	eventually(t, "the other database", func() error {
		_, err := fetch(list[1].c, "https://metered.test/?client=storm")
		return err
	})
	if out := list[1].log.String(); strings.Contains(out, "secret-of-redis") {
		t.Error("the password is in the log")
	}
}

// TestSharedDown: when Redis is killed or hangs in the middle of the load, each
// node goes on with its share, nobody waits, and nothing is unlimited; when it is
// back, the nodes are one again.
func TestSharedDown(t *testing.T) {
	r := newRedis(t)
	list := nodes(t, 2, sharedRoutes(t)+fmt.Sprintf(`
redis {
  address  = "127.0.0.1:%d"
  password = "secret-of-redis"
  timeout  = "250ms"
}
`, r.port))
	for _, tt := range []struct {
		name     string
		down, up func()
	}{
		{"killed", func() { r.stop(syscall.SIGKILL) }, func() { r.start(t) }},
		{"hangs", func() { r.signal(syscall.SIGSTOP) }, func() { r.signal(syscall.SIGCONT) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, n := range list {
				eventually(t, "up", n.isUp(t, 1))
			}
			failures := list[0].metric(t, "sidegate_shared_counters_failures_total")
			var passed int64
			var took time.Duration
			var load sync.WaitGroup
			load.Go(func() { passed, took = storm(t, list, 60, "https://fast.test/") })
			for range 50 { // in the middle of it
				_, _ = fetch(list[0].c, "https://denied.test/")
			}
			tt.down()
			load.Wait()
			// The fleet's, and half of it on each of two nodes.
			if most := 2*atMost(took) + 2; passed > most || passed < 40 {
				t.Errorf("%d passed in %v, want %d at most", passed, took, most)
			}
			for _, n := range list {
				_, _ = fetch(n.c, "https://fast.test/") // whichever finds out
				eventually(t, "down", n.isUp(t, 0))
			}
			if out, _ := run(t, "status", "-config", list[0].config()); !strings.Contains(out, fmt.Sprintf("counters redis 127.0.0.1:%d, AWAY for", r.port)) || !strings.Contains(out, "shared counters can't be asked") {
				t.Errorf("status says %s", out)
			}
			resp, err := list[0].c.Get("https://denied.test/")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			wantProblem(t, resp, string(body), 503, "limit-unavailable")
			if resp.Header.Get("Retry-After") != "1" {
				t.Errorf("Retry-After = %q", resp.Header.Get("Retry-After"))
			}
			url := fmt.Sprintf("https://slow.test/?client=%s", tt.name)
			if passed, _ := storm(t, list, 2, url); passed != 20 {
				t.Errorf("%d passed alone, want 10 on each node", passed)
			}
			url = fmt.Sprintf("https://metered.test/?client=%s", tt.name)
			if passed, _ := storm(t, list, 3, url); passed != 100 {
				t.Errorf("%d of a quota passed alone, want 50 on each node", passed)
			}
			// Only those under way asked and waited: at most the 64 of each storm.
			if n := list[0].metric(t, "sidegate_shared_counters_failures_total") - failures; n == 0 || n > 4*64 {
				t.Errorf("%d questions failed", n)
			}
			tt.up()
			for _, n := range list {
				eventually(t, "up again", n.isUp(t, 1))
			}
			// The nodes tell what they owe with their next request, and the fleet
			// refuses the rest.
			for _, n := range list {
				_, _ = fetch(n.c, url)
			}
			if passed, _ := storm(t, list, 1, url); passed != 0 {
				t.Errorf("%d more passed of a quota that was used up alone", passed)
			}
		})
	}
}

// TestSharedConsul: without Redis, nodes lease chunks from Consul's KV, and admit
// nodes × chunk more at most; without Consul, each its share.
func TestSharedConsul(t *testing.T) {
	a := newAgent(t)
	list := nodes(t, 2, consulBlock(a)+sharedRoutes(t))
	if passed, took := storm(t, list, 30, "https://fast.test/"); passed > atMost(took)+2*4 || passed < 20 {
		t.Errorf("%d passed in %v, want %d at most", passed, took, atMost(took)+2*4)
	}
	if passed, _ := storm(t, list, 2, "https://slow.test/?client=storm"); passed > 20+2 || passed < 18 {
		t.Errorf("%d passed, want about 20", passed)
	}
	if passed, _ := storm(t, list, 3, "https://metered.test/?client=storm"); passed > 100 || passed < 90 {
		t.Errorf("%d of a quota passed, want 100 at most", passed)
	}
	out, err := a.do("GET", "/v1/kv/sidegate-counters/?keys", nil)
	if err != nil || strings.Count(out, "sidegate-counters/") < 4 {
		t.Errorf("the KV has %s (%v)", out, err)
	}
	a.stop(syscall.SIGKILL)
	for _, n := range list {
		eventually(t, "down", func() error {
			_, _ = fetch(n.c, fmt.Sprintf("https://slow.test/?client=%d", time.Now().UnixNano()))
			return n.isUp(t, 0)()
		})
	}
	if passed, _ := storm(t, list, 2, "https://slow.test/?client=alone"); passed != 20 {
		t.Errorf("%d passed alone, want 10 on each node", passed)
	}
	a.start(t)
	for _, n := range list {
		eventually(t, "up again", n.isUp(t, 1))
	}
}
