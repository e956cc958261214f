package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The guides are run as they stand: on a machine of their own as far as network,
// /etc, /var/lib and /root go, with the ports and paths that they name. In their
// order,
//
//	```hcl PATH        is written there, and, unless it ends in bad, validated with what is
//	```hcl             is a whole configuration, which is validated
//	```json PATH       is written there
//	```sh              is run, line by line; each has to succeed, or fail after !
//	```text            has lines that have to be in what the commands before said
//
// Lines that only look (curl, sidegate status and its like) are run again until they
// say so.

// TestGuides runs packaging/doc/*.md.
func TestGuides(t *testing.T) {
	real(t)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, guide := range []struct {
		name    string
		prepare func(*testing.T, *machine)
	}{
		{"edge", consulOn}, {"acme", acmeOn}, {"policies", nil}, {"upgrade", nil}, {"sidecar", sidecarsOn}, {"troubleshooting", nil}, {"identity", nil},
	} {
		t.Run(guide.name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(root, "packaging/doc", guide.name+".md"))
			if err != nil {
				t.Fatal(err)
			}
			m := newMachine(t)
			if guide.prepare != nil {
				guide.prepare(t, m)
			}
			m.follow(t, string(text))
		})
	}
}

// machine is a place of its own to run a guide in.
type machine struct {
	dir string // on the host
	pid int    // of a process in its namespaces
}

// systemctl stands for systemd: it does what the unit has, and no more.
const systemctl = `#!/bin/sh
# The main process may have handed over to another one.
main() {
    now=$(sidegate status -json 2>/dev/null | sed -n 's/^  "pid": \([0-9]*\),*$/\1/p')
    echo "${now:-$(cat DIR/pid)}" >DIR/pid
}
start() {
    sidegate validate >/dev/null || exit 1
    sidegate run >>DIR/log 2>&1 </dev/null &
    echo $! >DIR/pid
    i=0
    until curl -sf http://127.0.0.1:9901/readyz >/dev/null; do
        i=$((i + 1))
        [ $i -lt 200 ] && kill -0 "$(cat DIR/pid)" || { cat DIR/log >&2; exit 1; }
        sleep 0.1
    done
}
sidecar() {
    sidegate validate -config "/etc/sidegate/sidecars/$1.hcl" >/dev/null || exit 1
    sidegate sidecar -config "/etc/sidegate/sidecars/$1.hcl" >>DIR/log 2>&1 </dev/null &
    until sidegate status -ready -config "/etc/sidegate/sidecars/$1.hcl" >/dev/null 2>&1; do
        kill -0 $! || { cat DIR/log >&2; exit 1; }
        sleep 0.1
    done
}
case "$*" in
"enable --now sidegate@"*) sidecar "${3#sidegate@}" ;;
"enable --now sidegate") start ;;
"reload sidegate") main && sidegate validate && kill -HUP "$(cat DIR/pid)" ;;
"restart sidegate")
    main
    kill "$(cat DIR/pid)"
    while kill -0 "$(cat DIR/pid)" 2>/dev/null; do sleep 0.1; done
    start ;;
*) echo "systemctl $*: not here" >&2; exit 1 ;;
esac
`

const guideHosts = "127.0.0.1 orders.internal shop.internal stock.apps.internal api.internal down.internal app.example.com a.wild.example.com acme.internal\n"

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a network of its own")
	}
	for _, name := range []string{"unshare", "nsenter", "ip", "mount"} {
		tool(t, name)
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{dir: t.TempDir()}
	stub := write(t, filepath.Join(m.dir, "bin", "systemctl"), strings.ReplaceAll(systemctl, "DIR", m.dir))
	if err := os.Chmod(stub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(m.dir, "bin", "sidegate")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(m.dir, "hosts"), "127.0.0.1 localhost\n"+guideHosts)
	p := start(t, "unshare", "-m", "-n", "--propagation", "private", "sh", "-ec", `
ip link set lo up
for a in 10.0.0.1 10.0.0.7 10.0.0.8 10.0.0.9; do ip addr add $a/32 dev lo; done
cp -a /etc "$0/etc" && mount --bind "$0/etc" /etc && mkdir -p /etc/sidegate && rm -rf /etc/sidegate/* && cp "$0/hosts" /etc/hosts
mount -t tmpfs -o size=64m tmpfs /var/lib && mkdir -m 0700 /var/lib/sidegate
mount -t tmpfs -o size=16m tmpfs /root
echo ready
exec sleep infinity`, m.dir)
	m.pid = p.cmd.Process.Pid
	eventually(t, "the machine", func() error {
		if !strings.Contains(p.log.String(), "ready") {
			return fmt.Errorf("it says %q", p.log)
		}
		return nil
	})
	t.Cleanup(m.stop)
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(m.dir, "log")); t.Failed() && err == nil {
			t.Logf("the gateway's log ends with:\n%s", log[max(0, len(log)-3000):])
		}
	})
	for i, host := range []string{"10.0.0.7", "10.0.0.8"} {
		s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "order %s\nfrom %d\n", strings.TrimPrefix(r.URL.Path, "/orders/"), i)
		})}
		l := m.listen(t, host+":8080")
		go func() { _ = s.Serve(l) }() // ends with Close
		t.Cleanup(func() { _ = s.Close() })
	}
	return m
}

// stop ends the gateway that a guide has started.
func (m *machine) stop() {
	b, err := os.ReadFile(filepath.Join(m.dir, "pid"))
	if err != nil {
		return
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
	}
}

// sidecarsOn starts Consul and two services on loopback.
func sidecarsOn(t *testing.T, m *machine) {
	consulOn(t, m)
	if _, err := m.sh("mkdir -p /etc/sidegate/sidecars"); err != nil {
		t.Fatal(err)
	}
	for address, path := range map[string]string{"127.0.0.1:8080": "order", "127.0.0.1:8081": "bill"} {
		s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s\n", path, strings.TrimPrefix(r.URL.Path, "/"+path+"s/"))
		})}
		l := m.listen(t, address)
		go func() { _ = s.Serve(l) }() // ends with Close
		t.Cleanup(func() { _ = s.Close() })
	}
	t.Cleanup(m.clear)
}

// clear ends what a guide has left running there.
func (m *machine) clear() {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", m.pid))
	if err != nil {
		return
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		return
	}
	for _, path := range all {
		ns, err := os.Readlink(path)
		var pid int
		if _, bad := fmt.Sscanf(path, "/proc/%d/", &pid); err == nil && bad == nil && ns == own && pid != m.pid {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
		}
	}
}

// listen listens in the machine's network.
func (m *machine) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never let go: the thread ends with this goroutine
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.pid))
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			_ = f.Close()
		}
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", address)
		}
		done <- result{l, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.l
}

func (m *machine) command(name string, args ...string) []string {
	return append([]string{"nsenter", "-t", fmt.Sprint(m.pid), "-m", "-n", "--", "env", "PATH=" + filepath.Join(m.dir, "bin") + ":" + os.Getenv("PATH"), "HOME=/root", "REDIS_PASSWORD=x", name}, args...)
}

func (m *machine) start(t *testing.T, name string, args ...string) {
	t.Helper()
	c := m.command(tool(t, name), args...)
	start(t, c[0], c[1:]...)
}

// sh runs a line there.
func (m *machine) sh(line string) (string, error) {
	line, wrong := strings.CutPrefix(line, "! ")
	line = strings.ReplaceAll(line, "curl ", "curl -sS ")
	c := m.command("sh", "-c", "cd /root || exit; "+line)
	out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
	switch {
	case wrong && err == nil:
		return string(out), fmt.Errorf("%s: succeeded: %s", line, out)
	case wrong:
		return string(out), nil
	case err != nil:
		return string(out), fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return string(out), nil
}

// put writes a file there.
func (m *machine) put(t *testing.T, path, text string) {
	t.Helper()
	c := m.command("sh", "-c", `cat >"$0"`, path)
	cmd := exec.Command(c[0], c[1:]...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v, %s", path, err, out)
	}
}

// block is a fenced one of a guide.
type block struct {
	kind, args, text string
	line             int
}

func blocks(text string) []block {
	var list []block
	open := false
	for i, line := range strings.Split(text, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !open:
			kind, args, _ := strings.Cut(info, " ")
			list = append(list, block{kind: kind, args: args, line: i + 1})
			open = true
		case fence:
			open = false
		case open:
			list[len(list)-1].text += line + "\n"
		}
	}
	return list
}

func (m *machine) follow(t *testing.T, guide string) {
	t.Helper()
	list := blocks(guide)
	if len(list) < 5 {
		t.Fatalf("the guide has %d blocks", len(list))
	}
	for i, b := range list {
		switch b.kind {
		case "hcl", "json":
			m.file(t, b)
		case "sh":
			want := ""
			if i+1 < len(list) && list[i+1].kind == "text" {
				want = list[i+1].text
			}
			m.run(t, b, want)
		case "text":
			if i == 0 || list[i-1].kind != "sh" {
				t.Errorf("line %d: text that no command says", b.line)
			}
		default:
			t.Errorf("line %d: a block of kind %q", b.line, b.kind)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

func (m *machine) file(t *testing.T, b block) {
	t.Helper()
	path, bad := strings.CutSuffix(b.args, " bad")
	if b.kind == "json" {
		if !json.Valid([]byte(b.text)) {
			t.Errorf("line %d: not JSON", b.line)
		}
		m.put(t, path, b.text)
		return
	}
	check := filepath.Dir(path)
	if filepath.Base(check) == "sidecars" { // a process for each
		check = path
	}
	if path == "" {
		check = "/root/alone"
		path = check + "/sidegate.hcl"
		if _, err := m.sh("mkdir -p /root/alone && echo token >/root/alone/admin.token"); err != nil {
			t.Fatal(err)
		}
	}
	m.put(t, path, b.text)
	if out, err := m.sh("sidegate fmt -check " + path); err != nil {
		t.Errorf("line %d: %v, %s", b.line, err, out)
	}
	if out, err := m.sh("sidegate validate -config " + check); err != nil && !bad && !strings.HasSuffix(path, "wild.hcl") {
		t.Errorf("line %d: %v, %s", b.line, err, out)
	}
}

// looks reports whether a command changes nothing, so that it may be repeated.
func looks(line string) bool {
	for _, begin := range []string{"curl --cacert", "curl -i", "curl http", "sidegate status", "sidegate explain", "sidegate routes", "sidegate doctor", "openssl s_client"} {
		if strings.HasPrefix(line, begin) {
			return true
		}
	}
	return false
}

func (m *machine) run(t *testing.T, b block, want string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(b.text), "\n")
	one := func() error {
		var all strings.Builder
		for _, line := range lines {
			out, err := m.sh(line)
			all.WriteString(out)
			if err != nil {
				return fmt.Errorf("line %d: %w", b.line, err)
			}
		}
		var errs []error
		for w := range strings.Lines(want) {
			if w = strings.TrimSpace(w); !strings.Contains(all.String(), w) {
				errs = append(errs, fmt.Errorf("line %d: %q isn't in what it says:\n%s", b.line, w, &all))
			}
		}
		return errors.Join(errs...)
	}
	if !slices.ContainsFunc(lines, func(line string) bool { return !looks(line) }) {
		eventually(t, lines[0], one)
		return
	}
	if err := one(); err != nil {
		t.Error(err)
	}
}

// consulOn runs an agent on its usual port.
func consulOn(t *testing.T, m *machine) {
	t.Helper()
	m.start(t, "consul", "agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "edge", "-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1", "-log-level", "warn")
	eventually(t, "consul", func() error {
		out, err := m.sh("curl http://127.0.0.1:8500/v1/status/leader")
		if err == nil && !strings.Contains(out, ":") {
			err = errors.New("no leader")
		}
		return err
	})
}

// acmeOn runs an ACME server at acme.internal, and an agent.
func acmeOn(t *testing.T, m *machine) {
	t.Helper()
	consulOn(t, m)
	certFile, keyFile := ownCertificate(t, filepath.Join(m.dir, "acme"), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour), "acme.internal")
	root, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	m.put(t, "/root/acme-root.pem", string(root))
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000", "certificate": certFile, "privateKey": keyFile,
		"httpPort": 80, "tlsPort": 443, "keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	m.start(t, "pebble-challtestsrv", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-dnsserver", "127.0.0.1:8053", "-management", "127.0.0.1:8055")
	m.start(t, "pebble", "-config", write(t, filepath.Join(m.dir, "acme", "pebble.json"), string(conf)), "-dnsserver", "127.0.0.1:8053")
	eventually(t, "pebble", func() error {
		_, err := m.sh("curl -f --cacert /root/acme-root.pem --resolve acme.internal:15000:127.0.0.1 https://acme.internal:15000/roots/0 >/root/issued-by.pem")
		return err
	})
}
