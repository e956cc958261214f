package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const memoryLimit = 128 << 20

// controlGroup makes a control group with a limit that the kernel enforces, and
// returns the file that takes processes; "" where this user can't have one.
func controlGroup(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		base, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		switch {
		case len(parts) != 3:
			continue
		case parts[1] == "":
			base, limit = "/sys/fs/cgroup", "memory.max"
		case parts[1] != "memory":
			continue
		}
		dir := filepath.Join(base, parts[2], fmt.Sprintf("sidegate-test-%d", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) }) // the kernel refuses as long as somebody is in it
		if os.WriteFile(filepath.Join(dir, limit), fmt.Append(nil, memoryLimit), 0o600) == nil {
			return filepath.Join(dir, "cgroup.procs")
		}
	}
	return ""
}

// flood sends requests whose bodies the gateway has to keep, over a connection
// of its own: n of nearly 64 KiB, as much as a stream may have on its way.
func flood(t *testing.T, g *gateway, n int) net.Conn {
	t.Helper()
	nc := g.raw(t)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "stuck.test"}, {":path", "/"}, {"content-length", "65000"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}) // a buffer doesn't fail
	}
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(nc, nc)
	_ = fr.WriteSettings() // what fails here fails below, too
	body := make([]byte, 16<<10)
	for i := range n {
		id := uint32(2*i + 1)
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
		for left := 64000; left > 0; left -= len(body) {
			if err := fr.WriteData(id, false, body[:min(left, len(body))]); err != nil {
				return nc // turned away
			}
		}
	}
	return nc
}

// memoryOf is what the gateway says of its memory.
func memoryOf(t *testing.T, g *gateway) (level string, share float64, of string) {
	t.Helper()
	text, err := g.get("/api/status")
	if err != nil {
		t.Fatalf("the admin server while memory is short: %v", err)
	}
	var s struct {
		Memory struct {
			Level       string
			Used, Limit int64
			Of          string `json:"limit_of"`
		}
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s.Memory.Level, float64(s.Memory.Used) / float64(s.Memory.Limit), s.Memory.Of
}

// TestMemory: a gateway that is flooded with bodies refuses low priority, then
// everything new, lives, and recovers.
func TestMemory(t *testing.T) {
	release := make(chan struct{})
	stuck := newScript(t, map[string]func(net.Conn){"": func(c net.Conn) {
		<-release
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}})
	g := newGateway(t, "")
	group, limit := controlGroup(t), ""
	if group == "" {
		t.Log("no control group can be made here: the limit is the configuration's")
		limit = fmt.Sprintf("memory_limit = \"%dB\"\n", memoryLimit)
	}
	g.configure(t, limit+twin(t, http.HandlerFunc(mirror))+fmt.Sprintf(`
service "stuck" {
  instances = [%q]
  limits {
    connections = 1
    requests    = 1
    queue       = 100000
  }
  timeouts { connect = "120s" }
}
route "stuck" {
  hosts   = ["stuck.test"]
  service = "stuck"
}
route "low" {
  hosts    = ["low.test"]
  service  = "two"
  priority = "low"
}
`, stuck.listener.Addr()))
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	if group == "" {
		g.launch(t)
	} else {
		g.process = start(t, "/bin/sh", "-c", fmt.Sprintf("echo $$ >%q && exec %q run -config %q", group, bin, filepath.Join(g.dir, "etc")))
	}
	eventually(t, "gateway ready", func() error { _, err := g.get("/readyz"); return err })
	clients := g.clients(t)
	for _, c := range clients { // these have their connections before
		for _, host := range []string{"one.test", "low.test"} {
			if resp, _ := send(t, c, c.scheme+"://"+host+"/"); resp.StatusCode != 200 {
				t.Fatalf("%s: %s", c.name, resp.Status)
			}
		}
	}

	var conns []net.Conn
	level, share, of := memoryOf(t, g)
	t.Logf("before: %s, %.2f of %s", level, share, of)
	if want := map[bool]string{true: "memory_limit", false: "memory."}[group == ""]; !strings.HasPrefix(of, want) {
		t.Errorf("the limit that holds is %s", of)
	}
	until := func(want string) {
		for level != want {
			if len(conns) > 10*memoryLimit>>20 {
				t.Fatalf("%d connections, and memory is %s: %.2f", len(conns), level, share)
			}
			conns = append(conns, flood(t, g, 8))
			level, share, _ = memoryOf(t, g)
			if level == "full" {
				break
			}
		}
		t.Logf("%d connections: %s, %.2f", len(conns), level, share)
	}
	until("scarce")
	for _, c := range clients {
		resp, body := send(t, c, c.scheme+"://low.test/")
		wantProblem(t, resp, body, 503, "gateway-overloaded")
		if resp, _ := send(t, c, c.scheme+"://one.test/"); resp.StatusCode != 200 {
			t.Errorf("%s: normal priority while memory is scarce: %s", c.name, resp.Status)
		}
	}
	until("full")
	for _, c := range clients {
		resp, body := send(t, c, c.scheme+"://one.test/")
		wantProblem(t, resp, body, 503, "gateway-overloaded")
		if resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.name)
		}
	}
	for _, c := range g.clients(t) { // these need new connections
		if resp, err := c.Get(c.scheme + "://one.test/"); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s: a new connection is served with %s", c.name, resp.Status)
		}
	}
	for range 200 { // whoever goes on doesn't get further
		conns = append(conns, flood(t, g, 8))
	}
	if _, err := g.get("/healthz"); err != nil {
		t.Errorf("healthz: %v", err)
	}
	if _, err := g.get("/readyz"); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("readyz: %v", err)
	}
	metrics, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sidegate_memory_level 2\n", "sidegate_memory_refused_total{level=\"full\"}", "sidegate_memory_connections_refused_total"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if out, code := run(t, "status", "-config", g.config()); code != 0 || !strings.Contains(out, "full\n") {
		t.Errorf("status (%d):\n%s", code, out)
	}

	close(release)
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, "there is enough again", func() error {
		if level, share, _ := memoryOf(t, g); level != "enough" {
			return fmt.Errorf("%s: %.2f", level, share)
		}
		return nil
	})
	for _, c := range g.clients(t) {
		if body, err := fetch(c.Client, c.scheme+"://low.test/"); err != nil || body == "" {
			t.Errorf("%s: afterwards: %v", c.name, err)
		}
	}
	eventually(t, "the log", func() error {
		log := g.log.String()
		if !strings.Contains(log, "memory is nearly used up") || strings.Count(log, "there is enough memory again") != 1 || strings.Count(log, "memory is scarce") != 1 {
			return errors.New("doesn't tell of one episode")
		}
		return nil
	})
}
