package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is built once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "sidegate-e2e-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "sidegate")
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./cmd/sidegate")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, text)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	if stage := os.Getenv(fakeEnv); stage != "" {
		fakeSuccessor(stage)
	}
	if address := os.Getenv(workersEnv); address != "" {
		if err := serveWorkers(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if bin, err := binary(); err == nil && !testing.Short() {
		_ = os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no go.mod above the test")
}

// tool finds a test tool as .ci/tool does.
func tool(t *testing.T, name string) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{os.Getenv("SIDEGATE_TOOLS"), filepath.Join(root, ".cache/tools"), "/usr/sbin"} {
		if p := filepath.Join(dir, name); dir != "" {
			if info, err := os.Stat(p); err == nil && !info.IsDir() {
				return p
			}
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s isn't installed: run make tools", name)
	}
	return p
}

// real skips a test with -short.
func real(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs real servers")
	}
}

// ports finds n free TCP ports below the ephemeral range, where no outgoing
// connection takes them.
func ports(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for p := 20000 + os.Getpid()%4000; len(out) < n && p < 32000; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found
		out = append(out, p)
	}
	if len(out) < n {
		t.Fatal("no free ports")
	}
	return out
}

// process is a server that a test started.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.stop(syscall.SIGKILL)
		if t.Failed() {
			text := p.log.String()
			if len(text) > 6000 {
				text = text[:3000] + "\n...\n" + text[len(text)-3000:]
			}
			t.Logf("%s said:\n%s", filepath.Base(name), text)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v: %v", s, err)
	}
}

func (p *process) stop(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may be gone
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// eventually polls until f says nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// gateway is a running sidegate.
type gateway struct {
	*process
	dir                string
	https, http, admin int
}

// write writes a file below the gateway's folder.
func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newGateway writes a configuration; more is appended to the usual blocks.
func newGateway(t *testing.T, more string) *gateway {
	t.Helper()
	real(t)
	p := ports(t, 3)
	g := &gateway{dir: t.TempDir(), https: p[0], http: p[1], admin: p[2]}
	g.configure(t, more)
	return g
}

func (g *gateway) config() string { return filepath.Join(g.dir, "etc", "sidegate.hcl") }

func (g *gateway) configure(t *testing.T, more string) {
	t.Helper()
	write(t, g.config(), fmt.Sprintf(`
state_dir = %q
drain     = "10s"
admin { address = "127.0.0.1:%d" }
listener "https" {
  address   = "127.0.0.1:%d"
  protocols = ["h1", "h2", "h3"]
}
listener "http" {
  address   = "127.0.0.1:%d"
  tls       = false
  protocols = ["h1", "h2"]
}
%s`, filepath.Join(g.dir, "state"), g.admin, g.https, g.http, more))
}

func (g *gateway) start(t *testing.T) *gateway {
	t.Helper()
	g.launch(t)
	eventually(t, "gateway ready", func() error {
		if !g.running() {
			t.Fatalf("the gateway ended:\n%s", g.log)
		}
		_, err := g.get("/readyz")
		return err
	})
	return g
}

func (g *gateway) launch(t *testing.T) {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	g.process = start(t, bin, "run", "-config", filepath.Join(g.dir, "etc"))
}

// get asks the admin server.
func (g *gateway) get(path string) (string, error) {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", g.admin, path))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// status is a part of /api/status.
type status struct {
	Config struct {
		Reloads    int
		RejectedBy string `json:"rejected_by"`
	}
	Services []struct {
		Service   string
		Instances []struct{ Address, Health string }
	}
	Problems []struct{ Where, Text string }
}

func (g *gateway) status(t *testing.T) status {
	t.Helper()
	text, err := g.get("/api/status")
	if err != nil {
		t.Fatal(err)
	}
	var s status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs a command of the binary to its end.
func run(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := exec.Command(bin, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(b), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b), 0
}

// client speaks to the gateway whatever the host of the URL is.
func (g *gateway) client(h2 bool) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: h2, MaxIdleConnsPerHost: 64,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.https))
		},
	}
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func fetch(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return strings.TrimSpace(string(b)), err
}

// nginxBackend starts a real nginx that says its name.
func nginxBackend(t *testing.T, name string, port int) *process {
	t.Helper()
	dir := t.TempDir()
	conf := write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`
worker_processes 1; daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/err;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/c; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 127.0.0.1:%[2]d; location / { return 200 "%[3]s"; } }
}`, dir, port, name))
	p := start(t, tool(t, "nginx"), "-p", dir, "-c", conf)
	eventually(t, "nginx", func() error { return dial(port) })
	return p
}

func dial(port int) error {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		_ = c.Close()
	}
	return err
}

// agent is a real Consul agent.
type agent struct {
	*process
	port int
	args []string
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	real(t)
	p := ports(t, 4)
	a := &agent{port: p[0]}
	a.args = []string{
		"agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "e2e", "-http-port", fmt.Sprint(p[0]), "-dns-port", "-1",
		"-grpc-port", "-1", "-grpc-tls-port", "-1", "-server-port", fmt.Sprint(p[1]), "-serf-lan-port", fmt.Sprint(p[2]), "-serf-wan-port", fmt.Sprint(p[3]), "-log-level", "warn",
	}
	a.start(t)
	return a
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	a.process = start(t, tool(t, "consul"), a.args...)
	eventually(t, "consul", func() error {
		out, err := a.do("GET", "/v1/status/leader", nil)
		if err == nil && !strings.Contains(out, ":") {
			err = errors.New("no leader")
		}
		return err
	})
}

func (a *agent) do(method, path string, body any) (string, error) {
	var r io.Reader
	if s, ok := body.(string); ok {
		r = strings.NewReader(s)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return "", err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", a.port, path), r)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

type service struct {
	ID, Name, Address string
	Port              int
	Tags              []string
	Check             map[string]string
}

func (a *agent) register(t *testing.T, id, name string, port int, tags ...string) {
	t.Helper()
	_, err := a.do("PUT", "/v1/agent/service/register", service{
		ID: id, Name: name, Address: "127.0.0.1", Port: port, Tags: tags,
		Check: map[string]string{"TCP": fmt.Sprintf("127.0.0.1:%d", port), "Interval": "1s", "Status": "passing"},
	})
	if err != nil {
		t.Fatal(err)
	}
}
