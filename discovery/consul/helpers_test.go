package consul

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
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// newClient makes a client with short back-offs; what it started must have
// ended when the test does.
func newClient(t testing.TB, address, token string, adjust ...func(*Client)) *Client {
	t.Helper()
	log := logrus.New()
	log.SetOutput(testingWriter{t})
	log.SetLevel(logrus.DebugLevel)
	c, err := New(Config{Address: address, Token: secret.String(token)}, Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	c.times.backoff, c.times.maxBackoff = 5*time.Millisecond, 200*time.Millisecond
	c.times.pace = 5 * time.Millisecond
	c.times.claimsGrace = 2 * time.Second
	for _, f := range adjust {
		f(c)
	}
	t.Cleanup(func() {
		c.Close()
		checkLeaks(t)
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.feeds)+len(c.pulses)+len(c.watches) != 0 {
			t.Errorf("left over: %d feeds, %d pulses, %d watches", len(c.feeds), len(c.pulses), len(c.watches))
		}
		if c.gate.used != 0 {
			t.Errorf("left over: %d places of the gate", c.gate.used)
		}
	})
	return c
}

type testingWriter struct{ t testing.TB }

func (w testingWriter) Write(b []byte) (int, error) {
	if os.Getenv("SIDEGATE_TEST_LOG") != "" {
		w.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// checkLeaks waits until none of this package's goroutines runs.
func checkLeaks(t testing.TB) {
	var left string
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		left = ""
		buf := make([]byte, 4<<20)
		buf = buf[:runtime.Stack(buf, true)]
		for g := range strings.SplitSeq(string(buf), "\n\n") {
			ours := strings.Contains(g, "discovery/consul.(*Client)") || strings.Contains(g, "discovery/consul.(*feed)") ||
				strings.Contains(g, "discovery/consul.(*pulse)") || strings.Contains(g, "discovery/consul.(*claimWatch)")
			if ours && !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, "checkLeaks") {
				left = g
			}
		}
		if left == "" {
			return
		}
		runtime.Gosched()
		<-time.After(time.Millisecond)
	}
	t.Errorf("goroutine left over:\n%s", left)
}

// tool finds a test server: in SIDEGATE_TOOLS, on PATH, in .cache/tools.
func tool(t testing.TB, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("needs %s", name)
	}
	if dir := os.Getenv("SIDEGATE_TOOLS"); dir != "" {
		if p := filepath.Join(dir, name); isFile(p) {
			return p
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if isFile(filepath.Join(dir, "go.mod")) {
			if p := filepath.Join(dir, ".cache", "tools", name); isFile(p) {
				return p
			}
		}
	}
	t.Fatalf("%s not found: run make tools", name)
	return ""
}

func isFile(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

// agent is a real Consul server on loopback.
type agent struct {
	bin, dir string
	ports    [3]int // http, server, serf
	args     []string
	config   string
	cmd      *exec.Cmd
	exited   chan error
}

func (a *agent) address() string { return fmt.Sprintf("127.0.0.1:%d", a.ports[0]) }

// newAgent starts `consul agent -dev`, or with persist a server that keeps its
// state over a restart.
func newAgent(t testing.TB, persist bool, extra string, flags ...string) *agent {
	t.Helper()
	a := &agent{bin: tool(t, "consul"), dir: t.TempDir()}
	a.ports = freePorts(t)
	a.config = filepath.Join(a.dir, "agent.hcl")
	hcl := fmt.Sprintf(`
disable_update_check = true
leave_on_terminate = false
node_name = "node-1"
bind_addr = "127.0.0.1"
client_addr = "127.0.0.1"
performance { raft_multiplier = 1 }
ports { http=%d server=%d serf_lan=%d dns=-1 grpc=-1 grpc_tls=-1 serf_wan=-1 https=-1 }
%s`, a.ports[0], a.ports[1], a.ports[2], extra)
	if err := os.WriteFile(a.config, []byte(hcl), 0o600); err != nil {
		t.Fatal(err)
	}
	a.args = append([]string{"agent", "-config-file=" + a.config, "-log-level=err"}, flags...)
	if persist {
		a.args = append(a.args, "-server", "-bootstrap-expect=1", "-data-dir="+filepath.Join(a.dir, "data"))
	} else {
		a.args = append(a.args, "-dev")
	}
	a.start(t)
	t.Cleanup(func() { a.kill(t) })
	return a
}

// freePorts finds three below the ephemeral range, where an outgoing
// connection can't take them meanwhile.
func freePorts(t testing.TB) (ports [3]int) {
	t.Helper()
	next := 20000 + (os.Getpid()*37+int(time.Now().UnixNano()%1000))%11000
	for i := range ports {
		for {
			if next++; next >= 32000 {
				next = 20000
			}
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", next))
			if err != nil {
				continue
			}
			ports[i] = next
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	return ports
}

func (a *agent) start(t testing.TB) {
	t.Helper()
	var out strings.Builder
	a.cmd = exec.Command(a.bin, a.args...)
	a.cmd.Stdout, a.cmd.Stderr = &out, &out
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.exited = make(chan error, 1)
	cmd, exited := a.cmd, a.exited
	go func() { exited <- cmd.Wait() }() // ended by kill
	deadline := time.After(60 * time.Second)
	for {
		resp, err := http.Get("http://" + a.address() + "/v1/catalog/service/consul")
		if err == nil {
			buf := make([]byte, 16)
			n, _ := resp.Body.Read(buf) // an error shows as a short text
			_ = resp.Body.Close()       // reading is over
			if resp.StatusCode == 200 && (n > 4 || strings.Contains(strings.Join(a.args, " "), "-dev") && n > 1) {
				return
			}
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("agent ended: %v\n%s", err, out.String())
		case <-deadline:
			t.Fatal("agent doesn't get ready")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kill ends the agent at once.
func (a *agent) kill(t testing.TB) {
	t.Helper()
	if a.cmd == nil {
		return
	}
	if err := a.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	<-a.exited
	a.cmd = nil
}

// put makes a request of the agent's API.
func (a *agent) put(t testing.TB, method, path, token, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.address()+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		buf := make([]byte, 500)
		n, _ := resp.Body.Read(buf) // only for the message
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, buf[:n])
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	discoverytest.Eventually(t, what, done)
}

func newNoLog() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}
