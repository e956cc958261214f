package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

const management = "11111111-1111-1111-1111-111111111111"

const aclOn = `acl { enabled=true default_policy="deny" tokens { initial_management="` + management + `" agent="` + management + `" } }`

// agent is a real Consul agent on loopback, that forgets all when it ends
// unless it persists.
type agent struct {
	bin    string
	ports  [3]int
	args   []string
	cmd    *exec.Cmd
	exited chan error
	token  string
}

func consulTool(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs consul")
	}
	if p := filepath.Join(os.Getenv("SIDEGATE_TOOLS"), "consul"); os.Getenv("SIDEGATE_TOOLS") != "" && isFile(p) {
		return p
	}
	if p, err := exec.LookPath("consul"); err == nil {
		return p
	}
	p, err := filepath.Abs("../../.cache/tools/consul")
	if err != nil || !isFile(p) {
		t.Fatal("consul not found: run make tools")
	}
	return p
}

func isFile(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

func newAgent(t testing.TB, persist bool, extra string) *agent {
	t.Helper()
	a := &agent{bin: consulTool(t), ports: freePorts(t)}
	if strings.Contains(extra, management) {
		a.token = management
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.hcl")
	text := fmt.Sprintf(`
disable_update_check = true
leave_on_terminate = false
node_name = "node-1"
bind_addr = "127.0.0.1"
client_addr = "127.0.0.1"
performance { raft_multiplier = 1 }
ports { http=%d server=%d serf_lan=%d dns=-1 grpc=-1 grpc_tls=-1 serf_wan=-1 https=-1 }
%s`, a.ports[0], a.ports[1], a.ports[2], extra)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a.args = []string{"agent", "-config-file=" + file, "-log-level=err", "-dev"}
	if persist {
		a.args = append(a.args[:3], "-server", "-bootstrap-expect=1", "-data-dir="+filepath.Join(dir, "data"))
	}
	a.start(t)
	t.Cleanup(func() { a.kill(t); checkLeaks(t) }) // after the registrars' own
	return a
}

func (a *agent) address() string { return fmt.Sprintf("127.0.0.1:%d", a.ports[0]) }

// freePorts finds three below the ephemeral range.
func freePorts(t testing.TB) (ports [3]int) {
	t.Helper()
	next := 12000 + (os.Getpid()*37+int(time.Now().UnixNano()%1000))%7000
	for i := range ports {
		for {
			next++
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
	deadline := time.After(time.Minute)
	for {
		var leader string
		var token any
		if a.ask(&leader, "status/leader", nil) == nil && leader != "" && (a.token == "" || a.ask(&token, "acl/token/self", nil) == nil) {
			return
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

// do makes a request of the agent's API.
func (a *agent) do(method, path, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.address()+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("X-Consul-Token", a.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}

func (a *agent) put(t testing.TB, path, body string) {
	t.Helper()
	code, text, err := a.do(http.MethodPut, path, body)
	if err != nil || code != http.StatusOK {
		t.Fatalf("PUT %s: %d %s %v", path, code, text, err)
	}
}

func (a *agent) ask(into any, path string, q url.Values) error {
	code, data, err := a.do(http.MethodGet, path+"?"+q.Encode(), "")
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("%d %s", code, data)
	}
	return json.Unmarshal(data, into)
}

// checkState is one check as the agent has it.
type checkState struct{ Name, Status, Notes, ServiceID string }

// check gives a check of the agent, a zero one when there is none.
func (a *agent) check(id string) checkState {
	var all map[string]checkState
	if a.ask(&all, "agent/checks", nil) != nil {
		return checkState{}
	}
	return all[id]
}

// service is one as the agent has it.
type service struct {
	ID, Service, Address string
	Port                 int
	Tags                 []string
	Meta                 map[string]string
	Weights              struct{ Passing, Warning int }
	CreateIndex          uint64
}

func (a *agent) service(id string) (s service, ok bool) {
	ok = a.ask(&s, "agent/service/"+id, nil) == nil
	return s, ok
}

// registrar runs one against the agent.
type registrar struct {
	*Registrar
	stop func()
	log  *logs
}

func newClient(t *testing.T, address, token string, log logrus.FieldLogger) *consul.Client {
	t.Helper()
	client, err := consul.New(consul.Config{Address: address, Token: secret.String(token)}, consul.Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func newRegistrar(t *testing.T, address, token, dir string) *registrar {
	t.Helper()
	lines := &logs{t: t}
	log := logrus.New()
	log.SetOutput(lines)
	client := newClient(t, address, token, log)
	r := New(client, Deps{Log: log, StateDir: dir, Wait: 50 * time.Millisecond})
	r.times.maxBackoff = 200 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }() // ended by stop
	stop := func() {
		cancel()
		<-ended
		client.Close()
	}
	t.Cleanup(stop)
	return &registrar{r, stop, lines}
}

// checkLeaks waits until none of our goroutines runs.
func checkLeaks(t testing.TB) {
	t.Helper()
	var left string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		left = ""
		buf := make([]byte, 1<<20)
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "discovery/sidecar.(*Registrar)") || strings.Contains(g, "discovery/consul.(*Client)") {
				left = g
			}
		}
		if left == "" {
			return
		}
	}
	t.Errorf("goroutine left over:\n%s", left)
}

// state gives a service's state, "" when there is none of that id.
func (r *registrar) state(id string) Status {
	for _, s := range r.Status() {
		if s.ID == id {
			return s
		}
	}
	return Status{}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	discoverytest.Eventually(t, what, done)
}
