package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace with a Consul agent, as a machine of a fleet is.
type host struct {
	name, address string
	pid           int // of a process in the namespace
	consul        []string
	agent         *process
}

// inside runs f on a thread in the host's network.
func (h *host) inside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never let go: the thread ends with this goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			_ = ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// enter gives the command that runs another one on the host.
func (h *host) enter(args ...string) []string {
	return append([]string{"nsenter", "-t", fmt.Sprint(h.pid), "-n", "--"}, args...)
}

// twoHosts makes two that are joined, with a server of Consul on the first and a
// client on the second.
func twoHosts(t *testing.T) []*host {
	t.Helper()
	real(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, for two hosts with networks of their own")
	}
	for _, name := range []string{"unshare", "nsenter", "ip"} {
		tool(t, name)
	}
	var hosts []*host
	for i := range 2 {
		p := start(t, "unshare", "-n", "sh", "-c", "echo ready; exec sleep infinity")
		eventually(t, "the host", func() error {
			if !p.running() {
				t.Skipf("no network of its own is allowed here: %s", p.log)
			}
			if !strings.Contains(p.log.String(), "ready") {
				return errors.New("isn't up")
			}
			return nil
		})
		hosts = append(hosts, &host{name: fmt.Sprintf("host%d", i+1), address: fmt.Sprintf("10.77.0.%d", i+1), pid: p.cmd.Process.Pid})
	}
	one, two := hosts[0], hosts[1]
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("hosts can't be joined here: %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("ip", "link", "add", "eth0", "netns", fmt.Sprint(one.pid), "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(two.pid))
	for _, h := range hosts {
		ip(h.enter("ip", "addr", "add", h.address+"/24", "dev", "eth0")...)
		ip(h.enter("ip", "link", "set", "eth0", "up")...)
		ip(h.enter("ip", "link", "set", "lo", "up")...)
	}
	for i, h := range hosts {
		h.consul = h.enter(tool(t, "consul"), "agent", "-node", h.name, "-bind", h.address, "-client", "127.0.0.1", "-data-dir", t.TempDir(), "-log-level", "warn",
			"-hcl", "disable_update_check = true", "-hcl", "ports { dns = -1 grpc = -1 grpc_tls = -1 }", "-hcl", "performance { raft_multiplier = 1 }")
		if i == 0 {
			h.consul = append(h.consul, "-server", "-bootstrap-expect", "1")
		} else {
			h.consul = append(h.consul, "-retry-join", one.address, "-retry-interval", "1s", "-hcl", "leave_on_terminate = true")
		}
		h.startAgent(t)
	}
	return hosts
}

func (h *host) startAgent(t *testing.T) {
	t.Helper()
	h.agent = start(t, h.consul[0], h.consul[1:]...)
	eventually(t, "consul on "+h.name, func() error {
		_, err := h.ask("/v1/health/service/consul?passing")
		return err
	})
}

// client makes one that connects from the host.
func (h *host) client() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			var d net.Dialer
			err = h.inside(func() (err error) { c, err = d.DialContext(ctx, network, address); return err })
			return c, err
		},
	}}
}

// ask asks the host's agent; an empty list is an error.
func (h *host) ask(path string) (string, error) {
	c := h.client()
	defer c.CloseIdleConnections()
	text, err := fetch(c, "http://127.0.0.1:8500"+path)
	if err == nil && text == "[]" {
		err = errors.New("nothing there")
	}
	return text, err
}

// replica is an app with its sidecar.
type replica struct {
	host    *host
	id, dir string
	app     int    // port
	proof   string // its identity block; "": it speaks plain HTTP
	server  *http.Server
	sidecar *process
}

// serve starts a version of the app: it says who it is, some requests take their
// time, and bodies are read.
func (r *replica) serve(t *testing.T, version int) {
	t.Helper()
	var l net.Listener
	if err := r.host.inside(func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.app)); return err }); err != nil {
		t.Fatal(err)
	}
	r.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/healthz" && q.URL.Query().Has("slow") {
			time.Sleep(50 * time.Millisecond) // it works
		}
		b, err := io.ReadAll(q.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%s %s v%d %d", r.host.name, r.id, version, len(b))
	})}
	s := r.server
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = s.Close() })
}

// begin starts the sidecar, and waits until everybody may know of it.
func (r *replica) begin(t *testing.T) {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, filepath.Join(r.dir, "sidecar.hcl"), fmt.Sprintf(`
state_dir = %q
drain     = "10s"
sidecar "orders" {
  app    = "127.0.0.1:%d"
  listen = "%s:0"
  check {
    http     = "/healthz"
    interval = "2s"
    timeout  = "1s"
  }
  tags            = [%q]
  deregister_wait = "500ms"
}
%s`, filepath.Join(r.dir, "state"), r.app, r.host.address, r.id, r.proof))
	args := r.host.enter(bin, "sidecar", "-config", path)
	r.sidecar = start(t, args[0], args[1:]...)
	eventually(t, "registered "+r.id, func() error {
		if !r.sidecar.running() {
			t.Fatalf("the sidecar ended:\n%s", r.sidecar.log)
		}
		_, err := r.host.ask("/v1/health/service/orders?passing&tag=" + r.id)
		return err
	})
}

// replace is how an instance is deployed: its sidecar ends, the app is another
// one, the sidecar begins.
func (r *replica) replace(t *testing.T, version int) {
	t.Helper()
	r.end(t)
	_ = r.server.Close() // nothing asks it any more
	r.serve(t, version)
	r.begin(t)
}

func (r *replica) end(t *testing.T) {
	t.Helper()
	r.sidecar.stop(syscall.SIGTERM)
	if code := r.sidecar.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the sidecar of %s ended with %d:\n%s", r.id, code, r.sidecar.log)
	}
}

// tally is who answered, and what failed.
type tally struct {
	mu     sync.Mutex // guards what follows
	by     map[string]int
	failed []string
	total  atomic.Int64
}

func (c *tally) add(what, answer string, err error) {
	c.total.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed = append(c.failed, fmt.Sprintf("%s: %s: %v", time.Now().Format("05.000"), what, err))
		return
	}
	c.by[strings.Join(strings.Fields(answer)[:2], " ")]++
}

// reset forgets who answered, and says who did.
func (c *tally) reset() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.by
	c.by = map[string]int{}
	return was
}

// TestRollingDeploy replaces all instances on two hosts, several times, going over
// to mTLS in the second, and then takes a host out of the fleet and back, under load
// at an edge on the first host. No request may fail, those that can't be repeated
// included.
func TestRollingDeploy(t *testing.T) {
	hosts := twoHosts(t)
	var replicas []*replica
	for i := range 4 {
		h := hosts[i/2]
		r := &replica{host: h, id: fmt.Sprintf("r%d", i), dir: t.TempDir(), app: 8081 + i}
		r.serve(t, 0)
		r.begin(t)
		replicas = append(replicas, r)
	}
	authority := newFleet(t, "fleet.test", "orders", "edge")
	edge := startEdge(t, hosts[0], authority.identity("edge"))

	local, spread := &tally{by: map[string]int{}}, &tally{by: map[string]int{}}
	stop := push(t, hosts[0], map[string]*tally{"local.test": local, "any.test": spread})
	eventually(t, "the edge knows all instances", func() error {
		return replied(spread, replicas...)
	})
	local.reset()
	for version := range 3 {
		for _, r := range replicas {
			if version > 0 {
				r.proof = authority.identity("orders")
			}
			r.replace(t, version+1)
		}
	}
	for who, n := range local.reset() {
		if !strings.HasPrefix(who, hosts[0].name) {
			t.Errorf("%d requests went to %s, though an instance of this host was there at any time", n, who)
		}
	}
	if err := replied(spread, replicas...); err != nil {
		t.Errorf("without prefer_local: %v", err)
	}
	if text, err := hosts[0].ask(`/v1/health/service/orders?passing`); err != nil || strings.Count(text, "spiffe://fleet.test/svc/orders") != len(replicas) {
		t.Errorf("not all are registered with an identity: %v\n%s", err, text)
	}

	drainHost(t, hosts[1], replicas[2:], spread)
	eventually(t, "the host that is back answers", func() error { return replied(spread, replicas...) })
	stop()
	for name, c := range map[string]*tally{"local": local, "spread": spread} {
		t.Logf("%s: %d requests, %d failed", name, c.total.Load(), len(c.failed))
		if len(c.failed) > 0 {
			t.Errorf("failed: %s", strings.Join(c.failed[:min(len(c.failed), 10)], "\n"))
		}
	}
	if t.Failed() {
		t.Logf("the edge said:\n%s", edge.log)
	}
}

// drainHost takes a whole host out, and brings it back.
func drainHost(t *testing.T, h *host, replicas []*replica, spread *tally) {
	t.Helper()
	maint := h.enter(tool(t, "consul"), "maint", "-enable", "-reason", "kernel")
	if out, err := exec.Command(maint[0], maint[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, "nothing goes to "+h.name, func() error {
		spread.reset()
		time.Sleep(200 * time.Millisecond) // a while with nothing is what to see
		for who, n := range spread.reset() {
			if strings.HasPrefix(who, h.name) {
				return fmt.Errorf("%d requests", n)
			}
		}
		return nil
	})
	var all sync.WaitGroup
	for _, r := range replicas {
		all.Go(func() { r.sidecar.stop(syscall.SIGTERM) })
	}
	all.Wait()
	for _, r := range replicas {
		_ = r.server.Close() // nothing asks it any more
	}
	h.agent.stop(syscall.SIGTERM) // it leaves
	h.startAgent(t)
	maint = h.enter(tool(t, "consul"), "maint", "-disable")
	if out, err := exec.Command(maint[0], maint[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, r := range replicas {
		r.serve(t, 9)
		r.begin(t)
	}
}

// replied is an error while one of some replicas has answered nothing.
func replied(c *tally, replicas ...*replica) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range replicas {
		if c.by[r.host.name+" "+r.id] == 0 {
			return fmt.Errorf("%s has answered nothing: %v", r.id, c.by)
		}
	}
	return nil
}

// startEdge starts a gateway on a host, with a route that prefers the host's own
// instances and one that doesn't.
func startEdge(t *testing.T, h *host, proof string) *process {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "sidegate.hcl"), fmt.Sprintf(`
state_dir = %q
consul { address = "127.0.0.1:8500" }
listener "http" {
  address   = "127.0.0.1:8080"
  tls       = false
  protocols = ["h1", "h2"]
}
route "local" {
  hosts   = ["local.test"]
  service = "orders"
}
route "any" {
  hosts   = ["any.test"]
  service = "spread"
}
service "orders" { prefer_local = true }
service "spread" {
  consul { name = "orders" }
  prefer_local = false
  slow_start   = "0s"
}
%s`, filepath.Join(dir, "state"), proof))
	args := h.enter(bin, "run", "-config", path)
	p := start(t, args[0], args[1:]...)
	c := h.client()
	defer c.CloseIdleConnections()
	eventually(t, "the edge", func() error {
		if !p.running() {
			t.Fatalf("the edge ended:\n%s", p.log)
		}
		return knock(c, "local.test", "GET", "/", "", nil)
	})
	return p
}

// knock makes one request of the edge, and has its answer counted.
func knock(c *http.Client, name, method, path, body string, count *tally) error {
	req, err := http.NewRequest(method, "http://127.0.0.1:8080"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Host = name
	resp, err := c.Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close() // it has been read
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, text)
		}
		if err == nil && !strings.HasSuffix(string(text), fmt.Sprintf(" %d", len(body))) {
			err = fmt.Errorf("answered %q to a body of %d bytes", text, len(body))
		}
	}
	if count != nil {
		count.add(method+" "+name+path, string(text), err)
	}
	return err
}

// push loads the edge from its host until stop: requests that may be repeated and
// such that may not, fast and slow ones, by names.
func push(t *testing.T, h *host, names map[string]*tally) (stop func()) {
	t.Helper()
	end := make(chan struct{})
	var all sync.WaitGroup
	kinds := []struct{ method, path, body string }{
		{"GET", "/", ""}, {"POST", "/?slow", strings.Repeat("x", 3000)}, {"POST", "/", "small"}, {"GET", "/?slow", ""},
	}
	for name, count := range names {
		for i := range 4 * len(kinds) {
			c := h.client()
			all.Go(func() {
				defer c.CloseIdleConnections()
				for n := i; ; n++ {
					select {
					case <-end:
						return
					case <-time.After(2 * time.Millisecond): // the machine is for others, too
					}
					k := kinds[n%len(kinds)]
					_ = knock(c, name, k.method, k.path, k.body, count) // it is counted
				}
			})
		}
	}
	stop = sync.OnceFunc(func() { close(end); all.Wait() })
	t.Cleanup(stop)
	return stop
}
