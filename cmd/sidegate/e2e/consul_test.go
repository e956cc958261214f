package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// load sends requests from several clients until stop is called, and returns
// how many succeeded and what failed.
func load(clients int, one func(client int) error) (stop func() (int64, []error)) {
	var wg sync.WaitGroup
	var ok atomic.Int64
	var mu sync.Mutex
	var errs []error
	end := make(chan struct{})
	for i := range clients {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if err := one(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				} else {
					ok.Add(1)
				}
			}
		})
	}
	return func() (int64, []error) {
		close(end)
		wg.Wait()
		return ok.Load(), errs
	}
}

func consulBlock(a *agent) string {
	return fmt.Sprintf(`
consul {
  address = "127.0.0.1:%d"
  expose {
    hosts = ["*.test"]
    use   = ["marked"]
  }
}
policy "marked" {
  cors { origins = ["https://app.test"] }
  response { set = { "X-Marked" = "yes" } }
}
`, a.port)
}

// TestConsul is the main job: three nginx backends that route themselves; one
// is killed under load, one is deregistered, Consul stops, the gateway starts
// again without it.
func TestConsul(t *testing.T) {
	a := newAgent(t)
	g := newGateway(t, consulBlock(a)).start(t)
	p := ports(t, 3)
	var backends []*process
	for i, port := range p {
		backends = append(backends, nginxBackend(t, fmt.Sprint("b", i), port))
		a.register(t, fmt.Sprint("web-", i), "web", port, "sidegate.host=app.test", "sidegate.path=/*")
	}
	c := g.client(false)
	eventually(t, "all three answer", func() error {
		seen := map[string]bool{}
		for range 40 {
			body, err := fetch(c, "https://app.test/")
			if err != nil {
				return err
			}
			seen[body] = true
		}
		if len(seen) != 3 {
			return fmt.Errorf("only %v answer", seen)
		}
		return nil
	})

	// Killed: only what is in flight on it may fail, and a GET is tried elsewhere.
	clients := make([]func() error, 8)
	for i := range clients {
		c := g.client(i%2 == 0)
		clients[i] = func() error { _, err := fetch(c, "https://app.test/"); return err }
	}
	var before atomic.Int64
	stop := load(len(clients), func(i int) error { before.Add(1); return clients[i]() })
	eventually(t, "load", func() error { return atLeast(&before, 500) })
	backends[1].stop(syscall.SIGKILL)
	mark := before.Load()
	eventually(t, "load goes on", func() error { return atLeast(&before, mark+1000) })
	if ok, errs := stop(); len(errs) > 0 {
		t.Errorf("%d of %d requests failed when a backend was killed: %v", len(errs), ok+int64(len(errs)), errs[0])
	}

	if _, err := a.do("PUT", "/v1/agent/service/deregister/web-2", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deregistered instance is gone", func() error {
		for _, s := range g.status(t).Services {
			for _, i := range s.Instances {
				if strings.HasSuffix(i.Address, fmt.Sprint(":", p[2])) {
					return errors.New("still there")
				}
			}
		}
		return nil
	})
	for range 20 {
		if body, err := fetch(c, "https://app.test/"); err != nil || body != "b0" {
			t.Fatalf("after the deregistration: %q, %v", body, err)
		}
	}

	a.stop(syscall.SIGTERM)
	if _, err := fetch(c, "https://app.test/"); err != nil {
		t.Errorf("with Consul stopped: %v", err)
	}
	g.stop(syscall.SIGTERM)
	g.start(t)
	if _, err := fetch(g.client(false), "https://app.test/"); err != nil {
		t.Errorf("restarted without Consul: %v", err)
	}
	ready, err := g.get("/readyz")
	if err != nil || !strings.Contains(ready, "Consul is away") {
		t.Errorf("readyz = %s, %v", ready, err)
	}

	// Consul comes back, empty: the routes go, since now it says so.
	a.start(t)
	a.register(t, "web-9", "web", p[0], "sidegate.host=app2.test")
	eventually(t, "the new registration is served", func() error { _, err := fetch(c, "https://app2.test/"); return err })
}

func atLeast(n *atomic.Int64, want int64) error {
	if have := n.Load(); have < want {
		return fmt.Errorf("%d of %d", have, want)
	}
	return nil
}

// TestRegistrations: what registrations may claim, and that one's fault is its
// own.
func TestRegistrations(t *testing.T) {
	a := newAgent(t)
	g := newGateway(t, consulBlock(a)+`
route "file" {
  hosts = ["taken.test"]
  respond { body = "file" }
}
policy "own" {
  cors { origins = ["*"] }
  response { set = { "X-Marked" = "no" } }
}
`).start(t)
	p := ports(t, 1)
	nginxBackend(t, "b", p[0])
	a.register(t, "good", "good", p[0], "sidegate.host=good.test", "sidegate.path=/api/*", "sidegate.strip=/api")
	a.register(t, "fabio", "fabio", p[0], "urlprefix-fabio.test/x")
	a.register(t, "outside", "outside", p[0], "sidegate.host=www.example.com")
	a.register(t, "bundle", "bundle", p[0], "sidegate.host=bundle.test", "sidegate.use=nosuch")
	a.register(t, "loose", "loose", p[0], "sidegate.host=loose.test", "sidegate.use=own")
	a.register(t, "taken", "taken", p[0], "sidegate.host=taken.test")
	a.register(t, "bad", "bad", p[0], "sidegate.host=bad.test", "sidegate.path=nopath")
	c := g.client(true)
	for _, url := range []string{"https://good.test/api/x", "https://fabio.test/x"} {
		eventually(t, url, func() error { _, err := fetch(c, url); return err })
	}
	eventually(t, "problems are told", func() error {
		var told []string
		for _, p := range g.status(t).Problems {
			told = append(told, p.Where+": "+p.Text)
		}
		all := strings.Join(told, "\n")
		for _, want := range []string{"outside", "nosuch", "taken", "bad", `the policy "own" has cors, which would take the place of the one that consul.expose.use has`} {
			if !strings.Contains(all, want) {
				return fmt.Errorf("no problem about %s in:\n%s", want, all)
			}
		}
		return nil
	})
	if body, err := fetch(c, "https://taken.test/"); err != nil || body != "file" {
		t.Errorf("a registration took a file's route: %q, %v", body, err)
	}
	for _, host := range []string{"www.example.com", "bundle.test", "bad.test", "loose.test"} {
		if _, err := fetch(c, "https://"+host+"/"); err == nil {
			t.Errorf("%s is served", host)
		}
	}
	resp, err := c.Get("https://good.test/api/x")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.Header.Get("X-Marked") != "yes" {
		t.Errorf("expose.use isn't on a claimed route")
	}
}

// TestKV: routes in Consul's KV come and go without a reload; a bad one is told.
func TestKV(t *testing.T) {
	a := newAgent(t)
	g := newGateway(t, consulBlock(a)).start(t)
	put := func(key, text string) {
		t.Helper()
		if _, err := a.do("PUT", "/v1/kv/sidegate/routes/"+key, text); err != nil {
			t.Fatal(err)
		}
	}
	c := g.client(false)
	put("hello", `route "hello" {
  hosts = ["kv.test"]
  respond { body = "from KV" }
}`)
	eventually(t, "KV route", func() error { _, err := fetch(c, "https://kv.test/"); return err })
	put("bad", `route "bad" {
  hosts = ["bad.test"]
  nonsense = true
}`)
	eventually(t, "the bad one is told", func() error {
		if p := g.status(t).Problems; len(p) == 0 || !strings.Contains(p[0].Text, "nonsense") {
			return fmt.Errorf("problems: %v", p)
		}
		return nil
	})
	if body, err := fetch(c, "https://kv.test/"); err != nil || body != "from KV" {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := a.do("DELETE", "/v1/kv/sidegate/routes/hello", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deleted", func() error {
		if _, err := fetch(c, "https://kv.test/"); err == nil {
			return errors.New("still served")
		}
		return nil
	})
}

// TestListsInKV: lists of networks in Consul's KV hold on every node at once,
// without a reload, and still when Consul is gone.
func TestListsInKV(t *testing.T) {
	a := newAgent(t)
	g := newGateway(t, consulBlock(a)+`
route "denied" {
  hosts = ["denied.test"]
  respond { body = "ok" }
  block { deny_kv = "deny" }
}
route "allowed" {
  hosts = ["allowed.test"]
  respond { body = "ok" }
  block { allow_kv = "allow" }
}
`).start(t)
	put := func(key, text string) {
		t.Helper()
		if _, err := a.do("PUT", "/v1/kv/sidegate/lists/"+key, text); err != nil {
			t.Fatal(err)
		}
	}
	become := func(what string, denied, allowed int) {
		t.Helper()
		eventually(t, what, func() error {
			for host, want := range map[string]int{"denied.test": denied, "allowed.test": allowed} {
				resp, err := g.client(false).Get("https://" + host + "/")
				if err != nil {
					return err
				}
				_ = resp.Body.Close()
				if resp.StatusCode != want {
					return fmt.Errorf("%s: %s, want %d", host, resp.Status, want)
				}
			}
			return nil
		})
	}
	told := func(what, text string) {
		t.Helper()
		eventually(t, what, func() error {
			for _, p := range g.status(t).Problems {
				if strings.Contains(p.Where+": "+p.Text, text) {
					return nil
				}
			}
			return fmt.Errorf("problems: %v", g.status(t).Problems)
		})
	}
	told("a list that isn't there", "KV lists/deny: there is no such list: it counts as empty")
	become("nobody is denied, nobody allowed", 200, 403)
	put("allow", "127.0.0.0/8\n")
	put("deny/1", "192.0.2.0/24\nnonsense\n")
	told("a line that is wrong", `KV lists/deny: line 2: "nonsense" is neither a network nor an address: the other lines count`)
	become("lists that let pass", 200, 200)
	put("deny/2", "127.0.0.1 # in two parts")
	become("a second part", 403, 200)
	a.stop(syscall.SIGKILL)
	g.stop(syscall.SIGTERM)
	g.start(t)
	become("what was known before a restart without Consul", 403, 200)
	a.start(t) // empty: it kept nothing
	become("an empty Consul", 200, 403)
}
