package tls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// tool finds a real server that tests run.
func tool(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("runs %s", name)
	}
	if dir := os.Getenv("SIDEGATE_TOOLS"); dir != "" {
		if p := filepath.Join(dir, name); isFile(p) {
			return p
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for dir, err := os.Getwd(); err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if isFile(filepath.Join(dir, "go.mod")) {
			if p := filepath.Join(dir, ".cache", "tools", name); isFile(p) {
				return p
			}
			break
		}
	}
	t.Fatalf("%s isn't in SIDEGATE_TOOLS, PATH or .cache/tools: run make tools", name)
	return ""
}

func isFile(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.Mode().IsRegular()
}

// output collects what a server prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs a server until the test ends.
func start(t *testing.T, out *output, env []string, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			s := out.String()
			t.Logf("%s printed:\n%s", filepath.Base(path), s[max(0, len(s)-6000):])
		}
	})
	return cmd
}

// freePort is a loopback port that nobody listened on a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l := listen(t)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// wait polls until ok, or fails.
func wait(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s after %v", what, limit)
		}
		time.Sleep(20 * time.Millisecond) // between polls
	}
}

// pebble is a real ACME server with validation on, and a DNS server in which
// every name is this host.
type pebble struct {
	directory, manage string
	rootFile          string // of its own listeners
	client            *http.Client
	out               output
	cmd               *exec.Cmd
}

type pebbleOptions struct {
	httpPort, tlsPort int
	validity          time.Duration
	badNonces         int // percent; 0: Pebble's own 5
}

func startPebble(t *testing.T, o pebbleOptions) *pebble {
	t.Helper()
	bin, dnsBin := tool(t, "pebble"), tool(t, "pebble-challtestsrv")
	dir := t.TempDir()
	a, err := newAuthority(filepath.Join(dir, "ca"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.certificate("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	writePair(t, cert, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	acmePort, managePort, dnsPort, dnsManage := freePort(t), freePort(t), freePort(t), freePort(t)
	if o.validity == 0 {
		o.validity = 90 * 24 * time.Hour
	}
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           fmt.Sprintf("127.0.0.1:%d", acmePort),
		"managementListenAddress": fmt.Sprintf("127.0.0.1:%d", managePort),
		"certificate":             filepath.Join(dir, "cert.pem"),
		"privateKey":              filepath.Join(dir, "key.pem"),
		"httpPort":                o.httpPort,
		"tlsPort":                 o.tlsPort,
		"keyAlgorithm":            "ecdsa",
		"retryAfter":              map[string]int{"authz": 1, "order": 1},
		"profiles":                map[string]any{"default": map[string]any{"description": "d", "validityPeriod": int(o.validity.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	confFile := filepath.Join(dir, "pebble.json")
	writeFile(t, confFile, conf)
	p := &pebble{
		directory: fmt.Sprintf("https://127.0.0.1:%d/dir", acmePort),
		manage:    fmt.Sprintf("https://127.0.0.1:%d", managePort),
		rootFile:  a.rootFile(),
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.root)
	p.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	t.Cleanup(p.client.CloseIdleConnections)
	start(t, new(output), nil, dnsBin, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		"-dnsserver", fmt.Sprintf("127.0.0.1:%d", dnsPort), "-management", fmt.Sprintf("127.0.0.1:%d", dnsManage))
	env := []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"}
	if o.badNonces > 0 {
		env = append(env, "PEBBLE_WFE_NONCEREJECT="+strconv.Itoa(o.badNonces))
	}
	p.cmd = start(t, &p.out, env, bin, "-config", confFile, "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dnsPort))
	for _, u := range []string{p.directory, p.manage + "/roots/0"} {
		wait(t, u, 20*time.Second, func() bool {
			resp, err := p.client.Get(u)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	wait(t, "DNS", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", dnsManage))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return p
}

// roots is what Pebble's certificates chain to.
func (p *pebble) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	resp, err := p.client.Get(p.manage + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || !pool.AppendCertsFromPEM(b) {
		t.Fatalf("no root from Pebble: %v", err)
	}
	return pool
}

// issued is how many certificates Pebble has made.
func (p *pebble) issued() int { return strings.Count(p.out.String(), "Issued certificate serial") }

// suggestRenewal makes Pebble's renewal information for a certificate say that
// its window was an hour ago.
func (p *pebble) suggestRenewal(t *testing.T, c *x509.Certificate) {
	t.Helper()
	now := time.Now().UTC()
	info := fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`,
		now.Add(-2*time.Hour).Format(time.RFC3339), now.Add(-time.Hour).Format(time.RFC3339))
	b, err := json.Marshal(map[string]string{
		"Certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
		"ARIResponse": info,
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.client.Post(p.manage+"/set-renewal-info/", "application/json", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("set-renewal-info answered %s", resp.Status)
	}
}

func (p *pebble) settings(challenges ...string) *Settings {
	return &Settings{Storage: "file", MinVersion: "1.2", ACME: &ACMESettings{
		Email: "ops@example.com", Directory: p.directory, CAFile: p.rootFile, Challenges: challenges, CheckEvery: time.Second,
	}}
}

// edge is a plain and a TLS listener served by a manager.
type edge struct {
	plain, tls net.Listener
	m          *Manager
	config     *tls.Config
	stop       func()
	kv         KV
	wrong      atomic.Bool // answers challenges with nonsense
}

func ports(e *edge) pebbleOptions {
	return pebbleOptions{httpPort: e.plain.Addr().(*net.TCPAddr).Port, tlsPort: e.tls.Addr().(*net.TCPAddr).Port}
}

func newManager(t *testing.T, dir string) *Manager {
	t.Helper()
	return newManagerKV(t, dir, nil)
}

func newManagerKV(t *testing.T, dir string, kv KV) *Manager {
	t.Helper()
	log := logrus.New()
	log.SetOutput(testWriter{t})
	m, err := NewManager(Deps{Log: log, StateDir: dir, KV: kv, PollFiles: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		m.Close()
	})
	return m
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// newEdge listens, so that the ports are known before there is a manager.
func newEdge(t *testing.T) *edge {
	t.Helper()
	return &edge{plain: listen(t), tls: listen(t)}
}

// serve starts answering with a manager on dir.
func (e *edge) serve(t *testing.T, dir string) {
	t.Helper()
	e.m = newManagerKV(t, dir, e.kv)
	e.config = e.m.ServerConfig([]string{"h2", "http/1.1"}, nil)
	m, config, plain, secure := e.m, e.config, e.plain, e.tls
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := m.HTTPChallenge(r.Host, r.URL.Path)
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if e.wrong.Load() {
			body = "wrong." + body
		}
		_, _ = io.WriteString(w, body)
	})}
	var work sync.WaitGroup
	work.Go(func() { _ = srv.Serve(plain) })
	work.Go(func() {
		for {
			c, err := secure.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				tc := tls.Server(c, config)
				if tc.Handshake() == nil && tc.ConnectionState().NegotiatedProtocol != ChallengeProtocol {
					_, _ = io.WriteString(tc, "hello")
					_ = tc.Close()
				}
			})
		}
	})
	e.stop = sync.OnceFunc(func() {
		_ = srv.Close()
		_ = plain.Close()
		_ = secure.Close()
		work.Wait()
	})
	t.Cleanup(e.stop)
}

// restart listens on the same ports with a new manager on the same state.
func (e *edge) restart(t *testing.T, dir string) {
	t.Helper()
	plain, secure := e.plain.Addr().String(), e.tls.Addr().String()
	e.stop()
	e.m.Close()
	var err error
	if e.plain, err = net.Listen("tcp", plain); err != nil {
		t.Fatal(err)
	}
	if e.tls, err = net.Listen("tcp", secure); err != nil {
		t.Fatal(err)
	}
	e.serve(t, dir)
}

func commit(t *testing.T, m *Manager, s *Settings, hosts ...string) {
	t.Helper()
	p, err := m.Plan(s, hosts)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(context.Background())
}

// dial shakes hands and reads what the server says.
func dial(addr string, conf *tls.Config) (tls.ConnectionState, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", addr, conf)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = io.ReadAll(c) // TLS 1.3 tickets come with the data
	return c.ConnectionState(), err
}

// served returns the certificate for name when it chains to roots, else nil.
func (e *edge) served(name string, roots *x509.CertPool) *x509.Certificate {
	st, err := dial(e.tls.Addr().String(), &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		return nil
	}
	return st.PeerCertificates[0]
}

func (e *edge) await(t *testing.T, name string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	var c *x509.Certificate
	wait(t, "a certificate for "+name, 40*time.Second, func() bool {
		c = e.served(name, roots)
		return c != nil
	})
	return c
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writePair(t *testing.T, c *tls.Certificate, certFile, keyFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	var chain []byte
	for _, b := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b})...)
	}
	writeFile(t, certFile, chain)
}
