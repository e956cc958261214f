package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

func backendBlock(url string) string {
	return fmt.Sprintf("service \"app\" { instances = [%q] }\nroute \"app\" {\n  hosts   = [\"app.test\"]\n  service = \"app\"\n}\n", strings.TrimPrefix(url, "http://"))
}

// streaming is a backend with an endless event stream, a WebSocket echo, and a
// slow answer.
func streaming(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(1500 * time.Millisecond)
		fmt.Fprint(w, "slow")
	})
	mux.Handle("/ws", websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// TestReload: not one request fails while the configuration is loaded again and
// again; a WebSocket and a stream live on; a broken file changes nothing.
func TestReload(t *testing.T) {
	b := streaming(t)
	g := newGateway(t, backendBlock(b.URL)).start(t)

	ws, err := websocket.Dial(fmt.Sprintf("ws://127.0.0.1:%d/ws", g.http), "", "http://app.test")
	if err == nil {
		_ = ws.Close()
		t.Fatal("a request for another host was routed")
	}
	cfg, err := websocket.NewConfig("ws://app.test/ws", "http://app.test")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.http))
	if err != nil {
		t.Fatal(err)
	}
	ws, err = websocket.NewClient(cfg, raw)
	if err != nil {
		t.Fatalf("WebSocket: %v", err)
	}
	defer ws.Close()
	echo := func(text string) {
		t.Helper()
		if err := websocket.Message.Send(ws, text); err != nil {
			t.Fatalf("WebSocket: %v", err)
		}
		var got string
		if err := websocket.Message.Receive(ws, &got); err != nil || got != text {
			t.Fatalf("WebSocket: %q, %v; want %q", got, err, text)
		}
	}
	echo("before")
	resp, err := g.client(true).Get("https://app.test/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewScanner(resp.Body)

	var clients []func() error
	for i := range 6 {
		c := g.client(i%2 == 0)
		clients = append(clients, func() error { _, err := fetch(c, "https://app.test/"); return err })
	}
	var n atomic.Int64
	stop := load(len(clients), func(i int) error { n.Add(1); return clients[i]() })
	reloads := g.status(t).Config.Reloads
	for i := range 15 {
		before := n.Load()
		g.configure(t, backendBlock(b.URL)+fmt.Sprintf("route \"r%d\" {\n  hosts = [\"r%d.test\"]\n  respond { body = \"x\" }\n}\n", i, i))
		g.signal(syscall.SIGHUP)
		eventually(t, "reload", func() error {
			if now := g.status(t).Config.Reloads; now <= reloads {
				return fmt.Errorf("%d reloads", now)
			}
			return nil
		})
		reloads = g.status(t).Config.Reloads
		eventually(t, "load", func() error { return atLeast(&n, before+50) })
		if !events.Scan() {
			t.Fatalf("the event stream ended at reload %d: %v", i, events.Err())
		}
		echo(fmt.Sprint("reload ", i))
	}

	// A change without SIGHUP is seen, too.
	g.configure(t, backendBlock(b.URL)+"route \"seen\" {\n  hosts = [\"seen.test\"]\n  respond { body = \"seen\" }\n}\n")
	c := g.client(false)
	eventually(t, "changed file", func() error { _, err := fetch(c, "https://seen.test/"); return err })

	g.configure(t, backendBlock(b.URL)+"route \"bad\" {\n  hosst = [\"x\"]\n}\n")
	g.signal(syscall.SIGHUP)
	eventually(t, "rejected", func() error {
		if by := g.status(t).Config.RejectedBy; !strings.Contains(by, `"hosts"`) {
			return fmt.Errorf("rejected by %q", by)
		}
		return nil
	})
	if _, err := fetch(c, "https://seen.test/"); err != nil {
		t.Errorf("after a broken file: %v", err)
	}
	echo("after")
	if ok, errs := stop(); len(errs) > 0 {
		t.Errorf("%d of %d requests failed over the reloads: %v", len(errs), ok+int64(len(errs)), errs[0])
	}
}

// TestDrain: SIGTERM lets what is in flight end, on every protocol.
func TestDrain(t *testing.T) {
	b := streaming(t)
	g := newGateway(t, backendBlock(b.URL)).start(t)
	results := make(chan error, 4)
	for i := range 4 {
		c := g.client(i%2 == 0)
		go func() {
			body, err := fetch(c, "https://app.test/slow")
			if err == nil && body != "slow" {
				err = fmt.Errorf("%q", body)
			}
			results <- err
		}()
	}
	eventually(t, "in flight", func() error {
		text, err := g.get("/metrics")
		if err == nil && !strings.Contains(text, `sidegate_requests_in_flight{listener="https"} 4`) {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	g.signal(syscall.SIGTERM)
	for range 4 {
		if err := <-results; err != nil {
			t.Errorf("a request in flight failed: %v", err)
		}
	}
	select {
	case <-g.done:
	case <-time.After(15 * time.Second):
		t.Fatal("it didn't end")
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestPortTaken: the error says who has the port.
func TestPortTaken(t *testing.T) {
	g := newGateway(t, "")
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", g.https))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.launch(t)
	<-g.done
	want := fmt.Sprintf("(pid %d)", os.Getpid())
	if text := g.log.String(); g.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(text, want) || !strings.Contains(text, `listener "https"`) {
		t.Errorf("exit code %d, said %s; want %s", g.cmd.ProcessState.ExitCode(), text, want)
	}
}

// TestDiskFull: a full state_dir costs persistence, not service.
func TestDiskFull(t *testing.T) {
	real(t)
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	a := newAgent(t)
	g := newGateway(t, consulBlock(a))
	state := filepath.Join(g.dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("this machine doesn't let a test mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	g.start(t) // makes its authority
	if err := os.WriteFile(filepath.Join(state, "fill"), make([]byte, 64<<10), 0o600); err == nil {
		t.Fatal("the disk isn't full")
	}
	p := ports(t, 1)
	nginxBackend(t, "b", p[0])
	a.register(t, "web", "web", p[0], "sidegate.host=app.test")
	c := g.client(true)
	eventually(t, "served with a full disk", func() error { _, err := fetch(c, "https://app.test/"); return err })
	g.stop(syscall.SIGTERM)
	g.start(t)
	c = g.client(true)
	eventually(t, "started with a full disk", func() error { _, err := fetch(c, "https://app.test/"); return err })
}

// TestUnreadableStateDir says what to do.
func TestUnreadableStateDir(t *testing.T) {
	g := newGateway(t, "")
	write(t, filepath.Join(g.dir, "state"), "a file")
	g.launch(t)
	<-g.done
	if text := g.log.String(); g.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(text, "state_dir") {
		t.Errorf("exit code %d: %s", g.cmd.ProcessState.ExitCode(), text)
	}
}

// TestCommands: what the CLI says, with and without a running gateway.
func TestCommands(t *testing.T) {
	b := streaming(t)
	g := newGateway(t, backendBlock(b.URL))
	etc := filepath.Join(g.dir, "etc")
	check := func(want string, code int, args ...string) {
		t.Helper()
		out, got := run(t, args...)
		if got != code || !strings.Contains(out, want) {
			t.Errorf("sidegate %s: exit code %d, want %d with %q:\n%s", strings.Join(args, " "), got, code, want, out)
		}
	}
	check("ok: 1 routes, 1 services, 2 listeners", 0, "validate", "-config", etc)
	check("no gateway is running", 1, "status", "-config", etc)
	check("no gateway is running", 1, "status", "-ready", "-config", etc)
	check("may answer", 0, "explain", "-config", etc, "https://app.test/x")
	check("app.test", 0, "routes", "-config", etc)
	check("no route is for this host", 0, "explain", "-config", etc, "https://other.test/")
	check("isn't a URL", 1, "explain", "-config", etc, "other.test")
	check("escaped delimiter", 0, "explain", "-config", etc, "https://app.test/a%2fb")
	check("/nosuch", 1, "validate", "-config", "/nosuch")
	check("sidegate", 0, "version")
	check("complete", 0, "completion", "bash")
	g.start(t)
	check("ready", 0, "status", "-config", etc)
	check("ready", 0, "status", "-ready", "-config", etc)
	check(`"ready": true`, 0, "status", "-ready", "-json", "-config", etc)
	check("may answer", 0, "explain", "-config", etc, "https://app.test/x")
	check("app.test", 0, "routes", "-config", etc)
	if _, err := fetch(g.client(true), "https://app.test/"); err != nil { // makes the local authority
		t.Fatal(err)
	}
	check("BEGIN CERTIFICATE", 0, "ca", "show", "-config", etc)
	write(t, g.config(), "route \"x\" {\nhosts=[\"a\"]\n}\n")
	check("sidegate.hcl", 1, "fmt", "-check", etc)
	check("sidegate.hcl", 0, "fmt", etc)
	check("", 0, "fmt", "-check", etc)
}

// TestAdminGuard: the admin address answers neither other names nor changes.
func TestAdminGuard(t *testing.T) {
	g := newGateway(t, "").start(t)
	url := fmt.Sprintf("http://127.0.0.1:%d/", g.admin)
	req, err := http.NewRequest("GET", url+"api/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.example.com"
	for _, tt := range []struct {
		name string
		do   func() (*http.Response, error)
		want int
	}{
		{"other name", func() (*http.Response, error) { return http.DefaultClient.Do(req) }, 403},
		{"change", func() (*http.Response, error) { return http.Post(url+"api/reload", "", nil) }, 405},
		{"page", func() (*http.Response, error) { return http.Get(url) }, 200},
	} {
		resp, err := tt.do()
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, resp.StatusCode, tt.want)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); tt.want == 200 && !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("Content-Security-Policy %q", csp)
		}
	}
}

// TestDemo: what `make run` starts prints curl lines, and each of them works.
func TestDemo(t *testing.T) {
	real(t)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := ports(t, 3)
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", p[i]) }
	root := t.TempDir()
	t.Setenv("TMPDIR", root)
	d := start(t, bin, "demo", "-https", at(0), "-http", at(1), "-admin", at(2))
	eventually(t, "the demo says how to try it", func() error {
		if !strings.Contains(d.log.String(), "Try it:") {
			return fmt.Errorf("said %q", d.log)
		}
		return nil
	})
	tool(t, "curl")
	tried := 0
	for line := range strings.Lines(d.log.String()) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "curl ") || strings.Contains(line, "Consul") {
			continue
		}
		tried++
		out, err := exec.Command("sh", "-c", strings.Replace(line, "curl ", "curl -sS --fail ", 1)).CombinedOutput()
		if err != nil || len(out) == 0 {
			t.Errorf("%s: %v: %s", line, err, out)
		}
	}
	if tried < 3 {
		t.Errorf("%d curl lines in %s", tried, d.log)
	}
	d.stop(syscall.SIGINT)
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGINT", code)
	}
	left, err := os.ReadDir(root)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
