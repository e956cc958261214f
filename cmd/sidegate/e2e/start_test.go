package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// greeter is a backend that says so.
func greeter(t *testing.T) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s", r.URL.Path) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// begin runs sidegate init, sees that what it wrote is valid and well formatted,
// and returns the commands that it says to go on with.
func begin(t *testing.T, dir string, args ...string) (next []string) {
	t.Helper()
	out, code := run(t, append([]string{"init", "-dir", dir}, args...)...)
	if code != 0 {
		t.Fatalf("init ended with %d: %s", code, out)
	}
	for _, args := range [][]string{{"validate", "-config", dir}, {"fmt", "-check", dir}} {
		if out, code := run(t, args...); code != 0 {
			t.Fatalf("%v ended with %d: %s", args, code, out)
		}
	}
	_, steps, _ := strings.Cut(out, "next:\n")
	for line := range strings.Lines(steps) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			next = append(next, line)
		}
	}
	return next
}

// sh runs a command as a user would.
func sh(t *testing.T, command string) (string, error) {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", "-c", strings.Replace(command, "curl ", "curl -sS --fail-with-body ", 1))
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"))
	out, err := c.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return string(out), err
}

// ownCertificate writes a certificate that is its own authority, as a.pem and
// a.key.
func ownCertificate(t *testing.T, dir string, from, until time.Time, names ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "its own"}, NotBefore: from, NotAfter: until, DNSNames: names, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(dir, "a.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, filepath.Join(dir, "a.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// TestInit: init, validate, doctor, run, curl, as init itself says to do it, for
// each way to begin.
func TestInit(t *testing.T) {
	real(t)
	backend := greeter(t)
	certFile, keyFile := ownCertificate(t, t.TempDir(), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour), "web.test", "www.web.test")
	for _, tt := range []struct {
		name, more string // more: for curl
		args       []string
		want       string
	}{
		{"local", "", []string{"-service", "web=" + backend}, "hello from /"},
		{"local name", "", []string{"-service", "web=" + backend, "-host", "*.shop.internal"}, "hello from /"},
		{"paths", "", []string{"-service", "web=" + backend, "-service", "api=" + backend, "-host", "all.test"}, "hello from /web/"},
		{"plain", "", []string{"-service", "web=" + backend, "-plain"}, "hello from /"},
		{"plain host", "", []string{"-service", "web=" + backend, "-plain", "-host", "www.example.com"}, "hello from /"},
		{"files", "--cacert " + certFile + " ", []string{"-service", "web=" + backend, "-cert-file", certFile, "-key-file", keyFile}, "hello from /"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := ports(t, 2)
			dir := filepath.Join(t.TempDir(), "it's here") // to be quoted for a shell
			next := begin(t, dir, append(tt.args, "-listen", fmt.Sprintf("127.0.0.1:%d", p[0]), "-admin", fmt.Sprintf("127.0.0.1:%d", p[1]))...)
			if len(next) != 3 {
				t.Fatalf("next: %q", next)
			}
			if out, err := sh(t, next[0]); err != nil {
				t.Errorf("doctor: %v", err)
			} else if strings.Contains(out, "fail ") || !strings.Contains(out, "is free") {
				t.Errorf("doctor says:\n%s", out)
			}
			bin, err := binary()
			if err != nil {
				t.Fatal(err)
			}
			start(t, "sh", "-c", "exec "+strings.Replace(next[1], "sidegate ", bin+" ", 1))
			curl := strings.Replace(next[2], "curl ", "curl "+tt.more, 1)
			eventually(t, "curl", func() error {
				out, err := sh(t, curl)
				if err == nil && out != tt.want {
					err = fmt.Errorf("%s = %q, want %q", curl, out, tt.want)
				}
				return err
			})
			if out, err := sh(t, next[0]); err != nil || !strings.Contains(out, "served by the running gateway") {
				t.Errorf("doctor beside the gateway: %v, %s", err, out)
			}
		})
	}
}

// TestInitConsul: a service of Consul by name, and one that routes itself, by the
// registration that init shows.
func TestInitConsul(t *testing.T) {
	a := newAgent(t)
	backend := greeter(t)
	_, port, _ := net.SplitHostPort(backend)
	p := ports(t, 2)
	dir := t.TempDir()
	args := []string{"-consul", fmt.Sprintf("127.0.0.1:%d", a.port), "-host", "*.begin.test", "-listen", fmt.Sprintf("127.0.0.1:%d", p[0]), "-admin", fmt.Sprintf("127.0.0.1:%d", p[1])}
	next := begin(t, dir, args...)
	if out, err := sh(t, next[0]); err != nil || !strings.Contains(out, "everything is allowed") {
		t.Errorf("doctor: %v, %s", err, out)
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	g := start(t, bin, "run", "-config", dir)
	if _, err := sh(t, strings.Replace(next[2], "8080", port, 1)); err != nil {
		t.Fatalf("register: %v", err)
	}
	eventually(t, "the registration is served", func() error { _, err := sh(t, next[3]); return err })
	g.stop(syscall.SIGTERM)

	next = begin(t, dir, append(args, "-service", "hello", "-host", "hello.test", "-force")...)
	if _, err := os.Stat(filepath.Join(dir, "sidegate.hcl.old")); err != nil {
		t.Error(err)
	}
	start(t, bin, "run", "-config", dir)
	eventually(t, "the named service is served", func() error {
		out, err := sh(t, next[2])
		if err == nil && out != "hello from /" {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
}

// TestInitACME: a certificate from a real ACME server.
func TestInitACME(t *testing.T) {
	real(t)
	p := ports(t, 7)
	s := &site{gateway: &gateway{dir: t.TempDir(), https: p[0], http: p[1], admin: p[2]}}
	root := s.startPebble(t, p[3:])
	dir := t.TempDir()
	next := begin(t, dir, "-service", "web="+greeter(t), "-host", publicHost, "-acme-email", "ops@example.com", "-acme-directory", fmt.Sprintf("https://127.0.0.1:%d/dir", p[3]), "-acme-ca-file", root,
		"-listen", fmt.Sprintf("127.0.0.1:%d", s.https), "-redirect", fmt.Sprintf("127.0.0.1:%d", s.http), "-admin", fmt.Sprintf("127.0.0.1:%d", s.admin))
	out, code := run(t, "doctor", "-config", dir)
	if !strings.Contains(out, fmt.Sprintf("https://127.0.0.1:%d/dir answers", p[3])) || !strings.Contains(out, "no listener has a port that the authority comes to") {
		t.Errorf("doctor ended with %d:\n%s", code, out)
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	start(t, bin, "run", "-config", dir)
	curl := strings.Replace(next[2], "curl ", fmt.Sprintf("curl --cacert %s --resolve %s:%d:127.0.0.1 ", s.rootFile, publicHost, s.https), 1)
	eventually(t, "curl", func() error { _, err := sh(t, curl); return err })
}

// TestInitToken: an admin server that others reach gets a token, which only its
// owner may read, and which nothing else shows.
func TestInitToken(t *testing.T) {
	real(t)
	p := ports(t, 2)
	dir := filepath.Join(t.TempDir(), "etc")
	args := []string{"init", "-dir", dir, "-service", "web=" + greeter(t), "-listen", fmt.Sprintf("127.0.0.1:%d", p[0]), "-admin", fmt.Sprintf("0.0.0.0:%d", p[1])}
	out, code := run(t, args...)
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if code != 0 || err != nil {
		t.Fatalf("init ended with %d: %v, %s", code, err, out)
	}
	info, err := os.Stat(filepath.Join(dir, "admin.token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's mode is %v, %v", info.Mode(), err)
	}
	secret := strings.TrimSpace(string(token))
	more, _ := run(t, "doctor", "-config", dir)
	asJSON, _ := run(t, "doctor", "-config", dir, "-json")
	if len(secret) < 40 || strings.Contains(out+more+asJSON, secret) {
		t.Errorf("the token %q is shown in\n%s\n%s\n%s", secret, out, more, asJSON)
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	start(t, bin, "run", "-config", dir)
	url := fmt.Sprintf("http://127.0.0.1:%d/api/status", p[1])
	eventually(t, "status with the token", func() error {
		_, err := sh(t, fmt.Sprintf("curl -H 'Authorization: Bearer %s' %s", secret, url))
		return err
	})
	if _, err := sh(t, "curl "+url); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("status without the token: %v", err)
	}

	// Never over what exists, the token included.
	for _, name := range []string{"sidegate.hcl", "admin.token"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if name == "admin.token" {
			write(t, filepath.Join(dir, "sidegate.hcl"), "# mine\n")
		}
		if out, code := run(t, args...); code != 1 || !strings.Contains(out, "exists") {
			t.Errorf("without %s alone: %d, %s", name, code, out)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "sidegate.hcl")); string(b) != "# mine\n" {
		t.Errorf("the file is now %q", b)
	}
}

// TestInitWrong: wrong flags are told, and leave nothing behind.
func TestInitWrong(t *testing.T) {
	real(t)
	dir := filepath.Join(t.TempDir(), "etc")
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"", 1, "nobody to ask"},
		{"-service web", 1, "where it is"},
		{"-service web=127.0.0.1:80 -host www.example.com", 1, "-acme"},
		{"-service web=127.0.0.1:80 -host a..test", 1, "sidegate.hcl:35:14: error: route \"web\": host \"a..test\" has an empty label"},
		{"-service web=127.0.0.1:80 -acme -plain -host a.example.com", 1, "choose one"},
		{"-service web=127.0.0.1:80 -cert-file /nonexistent -key-file /nonexistent", 1, "there is no file /nonexistent"},
		{"-service web=127.0.0.1:80 -acme-ca-file x", 1, "-acme-directory"},
		{"-service web=127.0.0.1:80 -consul-token-file x", 1, "-consul"},
		{"-listen", 2, "needs an argument"},
		{"more", 2, "unknown command"},
	} {
		out, code := run(t, append([]string{"init", "-dir", dir}, strings.Fields(tt.args)...)...)
		if code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("init %s: %d, %s; want %d, %q", tt.args, code, out, tt.code, tt.want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Fatalf("init %s has left %s", tt.args, dir)
		}
	}
}

// TestInitAsks: at a terminal it asks, and takes the answers.
func TestInitAsks(t *testing.T) {
	real(t)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ptmx, tty := terminal(t)
	dir := filepath.Join(t.TempDir(), "etc")
	c := exec.Command(bin, "init", "-dir", dir)
	said := &lockedBuffer{}
	c.Stdin, c.Stdout, c.Stderr = tty, said, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	for _, answer := range []struct{ prompt, text string }{
		{"Number [1]: ", "1"}, {"A service", "web=127.0.0.1:8080"}, {"Another one", ""}, {"Hosts to serve", "web.test"}, {"no TLS", "3"}, {"Address to listen on", "127.0.0.1:8443"},
	} {
		eventually(t, answer.prompt, func() error {
			if text := said.String(); !strings.Contains(text, answer.prompt) {
				return fmt.Errorf("it says %q", text)
			}
			return nil
		})
		if _, err := fmt.Fprintln(ptmx, answer.text); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	case <-time.After(20 * time.Second):
		_ = c.Process.Kill()
		t.Fatalf("it goes on: %s", said)
	}
	got, err := os.ReadFile(filepath.Join(dir, "sidegate.hcl"))
	if err != nil || !strings.Contains(string(got), `hosts   = ["web.test"]`) {
		t.Errorf("%v, %s", err, got)
	}

	// Ctrl-C amid the questions.
	dir = filepath.Join(t.TempDir(), "etc")
	c = exec.Command(bin, "init", "-dir", dir)
	said = &lockedBuffer{}
	c.Stdin, c.Stdout, c.Stderr = tty, said, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { done <- c.Wait() }()
	eventually(t, "the first question", func() error {
		if !strings.Contains(said.String(), "Number") {
			return errors.New("not yet")
		}
		return nil
	})
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if _, missing := os.Stat(dir); err == nil || missing == nil || !strings.Contains(said.String(), "nothing was written") {
			t.Errorf("interrupted: %v, %s", err, said)
		}
	case <-time.After(20 * time.Second):
		_ = c.Process.Kill()
		t.Fatalf("it goes on: %s", said)
	}
}

// terminal is a terminal, and the other end of it.
func terminal(t *testing.T) (ptmx, tty *os.File) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ptmx.Close() })
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return ptmx, tty
}

// examined is what doctor says.
func examined(t *testing.T, config string, args ...string) (list []struct{ Check, Level, Text, Advice string }, code int) {
	t.Helper()
	out, code := run(t, append([]string{"doctor", "-config", config, "-json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return list, code
}

// TestDoctor: what is broken is found, told with advice, and ends in 1; secrets
// aren't shown.
func TestDoctor(t *testing.T) {
	real(t)
	p := ports(t, 6)
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	ownCertificate(t, filepath.Join(dir, "etc"), time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour), "a.example.com")
	const consulToken, redisPassword = "5e1ec7ed-0000-4000-8000-00c0ffee0000", "redis-password-of-the-test"
	config := write(t, filepath.Join(dir, "etc", "sidegate.hcl"), fmt.Sprintf(`
state_dir = "%[1]s/state"
admin { address = "127.0.0.1:%[2]d" }
listener "taken" { address = "127.0.0.1:%[3]d" }
listener "foreign" {
  address = "192.0.2.7:443"
  tls     = false
}
tls {
  certificate {
    cert_file = "a.pem"
    key_file  = "a.key"
  }
}
consul {
  address = "127.0.0.1:%[4]d"
  token   = %[6]q
}
redis {
  address  = "127.0.0.1:%[5]d"
  password = %[7]q
}
route "a" {
  hosts   = ["a.example.com"]
  service = "a"
}
service "a" { instances = ["127.0.0.1:%[5]d"] }
`, dir, p[1], p[0], p[2], p[3], consulToken, redisPassword))
	list, code := examined(t, config, "-user", "nobody")
	if code != 1 {
		t.Errorf("it ended with %d", code)
	}
	for _, want := range []struct{ check, level, text string }{
		{"ports", "fail", fmt.Sprintf("127.0.0.1:%d/tcp is taken by e2e.test, pid %d", p[0], os.Getpid())},
		{"ports", "fail", "192.0.2.7:443/tcp: no interface"},
		{"ports", "ok", fmt.Sprintf("127.0.0.1:%d/tcp is free", p[1])},
		{"certificates", "fail", "a.pem has expired on"},
		{"files", "fail", "the user nobody may not"},
		{"consul", "fail", fmt.Sprintf("the agent on 127.0.0.1:%d doesn't answer", p[2])},
		{"redis", "fail", fmt.Sprintf("Redis on 127.0.0.1:%d", p[3])},
		{"instances", "warn", "takes no connection"},
	} {
		found := false
		for _, f := range list {
			found = found || f.Check == want.check && f.Level == want.level && strings.Contains(f.Text, want.text) && (f.Level == "ok" || f.Advice != "")
		}
		if !found {
			t.Errorf("no %+v in %+v", want, list)
		}
	}
	text, _ := run(t, "doctor", "-config", config)
	all, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{consulToken, redisPassword} {
		if strings.Contains(text+string(all), secret) {
			t.Errorf("it shows %s:\n%s\n%s", secret, text, all)
		}
	}
	if out, code := run(t, "doctor", "-config", config, "-nosuch"); code != 2 {
		t.Errorf("a wrong flag ended with %d: %s", code, out)
	}
	if out, code := run(t, "doctor", "-config", filepath.Join(dir, "none")); code != 1 || !strings.Contains(out, "sidegate init") {
		t.Errorf("without a configuration: %d, %s", code, out)
	}
}

// TestDoctorRights: a token that lacks rights is found out, with the rule that it
// lacks.
func TestDoctorRights(t *testing.T) {
	real(t)
	p := ports(t, 5)
	dir := t.TempDir()
	conf := write(t, filepath.Join(dir, "acl.hcl"), `acl {
  enabled        = true
  default_policy = "deny"
  tokens { initial_management = "11111111-1111-4111-8111-111111111111" }
}`)
	a := &agent{port: p[0]}
	a.process = start(t, tool(t, "consul"), "agent", "-dev", "-config-file", conf, "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "e2e", "-http-port", fmt.Sprint(p[0]), "-dns-port", "-1",
		"-grpc-port", "-1", "-grpc-tls-port", "-1", "-server-port", fmt.Sprint(p[1]), "-serf-lan-port", fmt.Sprint(p[2]), "-serf-wan-port", fmt.Sprint(p[3]), "-log-level", "warn")
	cli := func(args ...string) (string, error) {
		c := exec.Command(tool(t, "consul"), args...)
		c.Env = append(os.Environ(), fmt.Sprintf("CONSUL_HTTP_ADDR=127.0.0.1:%d", p[0]), "CONSUL_HTTP_TOKEN=11111111-1111-4111-8111-111111111111")
		out, err := c.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return string(out), err
	}
	rules := write(t, filepath.Join(dir, "rules.hcl"), `service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
key_prefix "sidegate/" { policy = "read" }`)
	eventually(t, "a policy", func() error {
		_, err := cli("acl", "policy", "create", "-name", "some", "-rules", "@"+rules)
		return err
	})
	const some = "22222222-2222-4222-8222-222222222222"
	if _, err := cli("acl", "token", "create", "-policy-name", "some", "-secret", some); err != nil {
		t.Fatal(err)
	}
	config := func(token string) string {
		return write(t, filepath.Join(dir, "etc", "sidegate.hcl"), fmt.Sprintf(`
state_dir = "%s/state"
admin { address = "127.0.0.1:%d" }
listener "http" {
  address = "127.0.0.1:0"
  tls     = false
}
consul {
  address = "127.0.0.1:%d"
  token   = %q
}
consumer "c" {}
route "a" {
  hosts   = ["a.test"]
  service = "a"
  auth "api_key" {}
  ban {}
}
`, dir, p[4], p[0], token))
	}
	for _, tt := range []struct {
		token, level, text, advice string
		code                       int
	}{
		{some, "fail", `may not read key "sidegate-keys/"`, `key_prefix "sidegate-keys/" { policy = "read" }`, 1},
		{some, "warn", `may not write key "sidegate-bans/"`, `key_prefix "sidegate-bans/" { policy = "write" }`, 1},
		{"11111111-1111-4111-8111-111111111111", "ok", "the token has the", "", 0},
		{"33333333-3333-4333-8333-333333333333", "fail", "ACL not found", "", 1},
		{"", "fail", `may not read service ""`, `service_prefix "" { policy = "read" }`, 1},
	} {
		list, code := examined(t, config(tt.token))
		found := false
		for _, f := range list {
			found = found || f.Check == "consul" && f.Level == tt.level && strings.Contains(f.Text, tt.text) && strings.Contains(f.Advice, tt.advice)
			if tt.token != "" && strings.Contains(f.Text+f.Advice, tt.token) {
				t.Errorf("it shows the token: %+v", f)
			}
		}
		if !found || code != tt.code {
			t.Errorf("%+v: ended with %d: %+v", tt, code, list)
		}
	}
}

// TestCompletion: a shell is offered what the running gateway knows, and without
// one nothing, in particular no files.
func TestCompletion(t *testing.T) {
	g := newGateway(t, `
consumer "acme" {}
consumer "anvil" {}
route "orders" {
  hosts = ["orders.test"]
  paths = ["/orders/*", "/x/{id}"]
  auth "api_key" {}
  ban {}
  respond { status = 204 }
}
`)
	words := func(args ...string) string {
		t.Helper()
		out, code := run(t, append([]string{"__complete"}, args...)...)
		if code != 0 {
			t.Errorf("complete %q ended with %d: %s", args, code, out)
		}
		list, rest, _ := strings.Cut(out, ":4\n") // cobra: no files
		if !strings.HasPrefix(rest, "Completion ended") {
			t.Errorf("complete %q = %s", args, out)
		}
		return strings.Join(strings.Fields(list), " ")
	}
	for i, running := range []bool{false, true} {
		if running {
			g.start(t)
			if out, code := run(t, "ban", "add", "192.0.2.7", "-config", g.config()); code != 0 {
				t.Fatal(out)
			}
		}
		for _, tt := range []struct {
			args []string
			want [2]string // without a gateway, with one
		}{
			{[]string{"key", "create", "-config", g.config(), "a"}, [2]string{"", "acme anvil"}},
			{[]string{"key", "create", "-config", g.config(), "an"}, [2]string{"", "anvil"}},
			{[]string{"key", "create", "-config", g.config(), "acme", ""}, [2]string{}},
			{[]string{"ban", "remove", "-config", g.config(), ""}, [2]string{"", "192.0.2.7"}},
			{[]string{"explain", "-config", g.config(), "https://"}, [2]string{"", "https://orders.test/orders/ https://orders.test/x/"}},
			{[]string{"status", ""}, [2]string{}},
			{[]string{"routes", ""}, [2]string{}},
		} {
			if got := words(tt.args...); got != tt.want[i] {
				t.Errorf("complete %q = %q, want %q (running: %v)", tt.args, got, tt.want[i], running)
			}
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, code := run(t, "completion", shell)
		if code != 0 || !strings.Contains(out, "__complete") {
			t.Errorf("completion %s ended with %d: %.200s", shell, code, out)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // not installed
		}
		if out, err := exec.Command(path, "-n", write(t, filepath.Join(t.TempDir(), shell), out)).CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v, %s", shell, err, out)
		}
	}
}
