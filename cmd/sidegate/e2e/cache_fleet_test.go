package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestCachePurgeAway: without Consul a purge holds here and says that the others don't
// know; they do when it is back. Nodes that start meanwhile, too.
func TestCachePurgeAway(t *testing.T) {
	a := newAgent(t)
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port))
	urls := []string{"http://a.test/1", "http://a.test/2"}
	for _, c := range clients {
		fill(t, c, urls...)
	}
	a.stop(syscall.SIGKILL)
	out, code := nodes[0].cacheCommand(t, "purge", urls[0])
	if code == 0 || !strings.Contains(out, "1 answer is forgotten here") || !strings.Contains(out, "the other nodes haven't been told: ") {
		t.Errorf("exit %d: %s", code, out)
	}
	if got, _ := nodes[0].stored(urls); got != "gone fresh" {
		t.Error(got)
	}
	if got, _ := nodes[1].stored(urls); got != "fresh fresh" {
		t.Error(got)
	}
	a.start(t)
	nodes[1].becomes(t, "told when Consul is back", urls, "gone fresh")
	// Somebody else writes there what isn't a purge.
	key := fmt.Sprintf("%013d-else-1", time.Now().UnixMilli())
	if _, err := a.do("PUT", "/v1/kv/sidegate-cache/purges/"+key, `{"at": 1, "purges": [{"urls": ["nonsense"]}]}`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reported", func() error {
		for _, p := range nodes[0].status(t).Problems {
			if p.Where == "KV sidegate-cache/purges/"+key && strings.Contains(p.Text, `"nonsense" isn't a URL`) {
				return nil
			}
		}
		return fmt.Errorf("problems: %v", nodes[0].status(t).Problems)
	})
	if out, code := nodes[0].cacheCommand(t, "purge", urls[1]); code != 0 {
		t.Error(out)
	}
	nodes[1].becomes(t, "then as before", urls, "gone gone")
}

// TestCachePurgeWhileDown: what was purged while a node was down is gone from its disk
// before anybody gets it; what wasn't is used; without Consul nothing of it is.
func TestCachePurgeWhileDown(t *testing.T) {
	a := newAgent(t)
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port)+`
cache {
  memory = "16MiB"
  disk   = "64MiB"
}
`)
	g, c := nodes[1], clients[1]
	urls := []string{"http://a.test/large/1", "http://a.test/large/2"}
	onDisk := func() {
		t.Helper()
		fill(t, c, urls...)
		eventually(t, "on disk", func() error {
			if n := g.metric(t, "sidegate_cache_disk_items"); n != 2 {
				return fmt.Errorf("%d items", n)
			}
			return nil
		})
	}
	onDisk()
	// What was purged before isn't purged again after a restart.
	if out, code := nodes[0].cacheCommand(t, "purge", "-tag", "large/2"); code != 0 {
		t.Fatal(out)
	}
	g.becomes(t, "told", urls, "fresh gone")
	onDisk()
	asked := [2]int{o.asked("a.test/large/1"), o.asked("a.test/large/2")}
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		g.stop(how)
		if out, code := nodes[0].cacheCommand(t, "purge", "-tag", "large/1"); code != 0 {
			t.Fatal(out)
		}
		g.start(t)
		g.becomes(t, "after a restart", urls, "gone fresh")
		fill(t, c, urls...)
		if got := [2]int{o.asked("a.test/large/1"), o.asked("a.test/large/2")}; got[0] != asked[0]+1 || got[1] != asked[1] {
			t.Errorf("%v: the service was asked %v, %v before", how, got, asked)
		}
		asked[0]++
		eventually(t, "on disk", func() error {
			if n := g.metric(t, "sidegate_cache_disk_items"); n != 2 {
				return fmt.Errorf("%d items", n)
			}
			return nil
		})
	}
	// Without Consul, nobody knows what was purged.
	g.stop(syscall.SIGTERM)
	a.stop(syscall.SIGKILL)
	g.start(t)
	fill(t, c, urls[0])
	if n := o.asked("a.test/large/1"); n != asked[0]+1 {
		t.Errorf("without Consul an answer of before is used: %d requests, want %d", n, asked[0]+1)
	}
}

// TestCachePurgeWithoutPermission: a token that may not write purges has the command
// say so, and what it may read is done.
func TestCachePurgeWithoutPermission(t *testing.T) {
	a := newAgent(t)
	a.stop(syscall.SIGKILL)
	a.args = append(a.args, "-config-file", write(t, filepath.Join(t.TempDir(), "acl.hcl"), `acl {
  enabled        = true
  default_policy = "deny"
  tokens { initial_management = "root" }
}`))
	a.start(t)
	do := func(path, body string) (text string) {
		t.Helper()
		eventually(t, path, func() error { // ACLs take a moment
			code, answer, err := askAs(http.DefaultClient, "PUT", fmt.Sprintf("http://127.0.0.1:%d%s", a.port, path), "", body, "X-Consul-Token: root")
			if text = answer; err == nil && code != 200 {
				err = fmt.Errorf("%d %s", code, text)
			}
			return err
		})
		return text
	}
	s := httptest.NewServer(&tagged{calls: map[string]int{}})
	t.Cleanup(s.Close)
	start := func(name, rules string) *gateway {
		t.Helper()
		rule, _ := json.Marshal("key_prefix \"sidegate/\" {\n  policy = \"read\"\n}\nnode_prefix \"\" {\n  policy = \"read\"\n}\nservice_prefix \"\" {\n  policy = \"read\"\n}\n" + rules)
		do("/v1/acl/policy", fmt.Sprintf(`{"Name": %q, "Rules": %s}`, name, rule))
		var out struct{ SecretID string }
		if err := json.Unmarshal([]byte(do("/v1/acl/token", fmt.Sprintf(`{"Policies": [{"Name": %q}]}`, name))), &out); err != nil {
			t.Fatal(err)
		}
		return newGateway(t, fmt.Sprintf("service \"origin\" {\n  instances = [%q]\n}\n", s.Listener.Addr())+`
route "tagged" {
  hosts   = ["a.test"]
  service = "origin"
  cache {}
}
`+fmt.Sprintf("consul {\n  address = \"127.0.0.1:%d\"\n  token   = %q\n}\n", a.port, out.SecretID)).start(t)
	}
	writes := start("writes", "key_prefix \"sidegate-cache/\" {\n  policy = \"write\"\n}\n")
	reads := start("reads", "key_prefix \"sidegate-cache/\" {\n  policy = \"read\"\n}\n")
	none := start("none", "")
	urls := []string{"http://a.test/y"}
	for _, g := range []*gateway{writes, reads, none} {
		fill(t, plainClient(g), urls...)
	}
	if out, code := writes.cacheCommand(t, "purge", urls[0]); code != 0 {
		t.Error(out)
	}
	reads.becomes(t, "with the right to read", urls, "gone")
	for _, g := range []*gateway{reads, none} {
		fill(t, plainClient(g), urls...)
		out, code := g.cacheCommand(t, "purge", urls[0])
		if code == 0 || !strings.Contains(out, "1 answer is forgotten here\n") || !strings.Contains(out, "the other nodes haven't been told: ") || !strings.Contains(out, "403") {
			t.Errorf("exit %d: %s", code, out)
		}
	}
	if out, _ := run(t, "status", "-config", filepath.Join(none.dir, "etc")); !strings.Contains(out, "sidegate-cache/") {
		t.Errorf("status doesn't say what the token may not:\n%s", out)
	}
}

// cable is a way to a server that can be cut.
type cable struct {
	listener net.Listener
	mu       sync.Mutex
	cut      bool
	conns    []net.Conn
}

func newCable(t *testing.T, port int) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l}
	t.Cleanup(func() { _ = l.Close(); c.set(true) })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			c.mu.Lock()
			if c.cut || err != nil {
				_ = from.Close()
				if err == nil {
					_ = to.Close()
				}
				c.mu.Unlock()
				continue
			}
			c.conns = append(c.conns, from, to)
			c.mu.Unlock()
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
		}
	}()
	return c
}

// set cuts it, or mends it.
func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	if cut {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.conns = nil
	}
}

// TestCachePurgeCutOff: a node that is cut off from Consul does what it missed when it
// is back, once.
func TestCachePurgeCutOff(t *testing.T) {
	a := newAgent(t)
	wire := newCable(t, a.port)
	o := &tagged{calls: map[string]int{}}
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	var nodes []*gateway
	for _, at := range []string{fmt.Sprintf("127.0.0.1:%d", a.port), wire.listener.Addr().String()} {
		nodes = append(nodes, newGateway(t, fmt.Sprintf("service \"origin\" {\n  instances = [%q]\n}\nconsul { address = %q }\n", s.Listener.Addr(), at)+`
route "tagged" {
  hosts   = ["a.test"]
  service = "origin"
  cache {}
}
`).start(t))
	}
	urls := []string{"http://a.test/1", "http://a.test/2", "http://a.test/3"}
	c := plainClient(nodes[1])
	fill(t, c, urls...)
	purge := func(i int, args ...string) (string, int) {
		return nodes[i].cacheCommand(t, append([]string{"purge"}, args...)...)
	}
	if out, code := purge(0, urls[0]); code != 0 {
		t.Fatal(out)
	}
	nodes[1].becomes(t, "before", urls, "gone fresh fresh")
	fill(t, c, urls...)
	wire.set(true)
	for _, args := range [][]string{{urls[1]}, {"-tag", "3", "-soft"}} {
		if out, code := purge(0, args...); code != 0 {
			t.Fatal(out)
		}
	}
	if out, code := purge(1, urls[0], "-soft"); code == 0 {
		t.Error(out)
	}
	if got, err := nodes[1].stored(urls); got != "stale fresh fresh" {
		t.Errorf("cut off: %s %v", got, err)
	}
	fill(t, plainClient(nodes[0]), urls[0])
	wire.set(false)
	nodes[1].becomes(t, "when it is back", urls, "stale gone stale")
	nodes[0].becomes(t, "told by the one that was cut off", urls[:1], "stale")
	if n := nodes[1].metric(t, "sidegate_cache_purges_waiting"); n != 0 {
		t.Errorf("%d purges wait", n)
	}
}
