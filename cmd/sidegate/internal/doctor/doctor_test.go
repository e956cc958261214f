package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

// at is a doctor for a configuration, in a world that nothing is wrong with.
func at(t *testing.T, text string) *doctor {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "sidegate.hcl")
	text = fmt.Sprintf("state_dir = %q\nadmin { address = \"127.0.0.1:0\" }\n", filepath.Join(dir, "state")) + text
	if !strings.Contains(text, "listener") {
		text += "\nlistener \"http\" {\n  address = \"127.0.0.1:0\"\n  tls = false\n}\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &doctor{
		Options: Options{Options: app.Options{Config: path, Env: func(string) (string, bool) { return "", false }}, Timeout: 2 * time.Second},
		root:    "/", now: time.Now, http01: "80",
		synced: func() (bool, error) { return true, nil },
		ours:   func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil },
		resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
	}
}

// expect finds a finding, and fails without it.
func expect(t *testing.T, found []Finding, check string, level Level, text string) {
	t.Helper()
	for _, f := range found {
		if f.Check == check && f.Level == level && strings.Contains(f.Text, text) {
			if f.Level == Fail && f.Advice == "" {
				t.Errorf("%s: %s: no advice", f.Check, f.Text)
			}
			return
		}
	}
	t.Errorf("no %s of %s with %q in %+v", level, check, text, found)
}

func pair(t *testing.T, from, until time.Time, names ...string) (certFile, keyFile string, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cert, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, cert
}

// TestClock: a wrong clock is told of by what the ACME server says the time is.
func TestClock(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"newOrder": "x"}`) }))
	defer s.Close()
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("tls {\n  acme {\n    directory = %q\n    ca_file = %q\n  }\n}\nroute \"a\" {\n  hosts = [\"a.example.com\"]\n  respond { status = 204 }\n}\n", s.URL, root)
	for _, tt := range []struct {
		off   time.Duration
		level Level
		text  string
	}{
		{0, OK, "agrees"}, {2 * time.Second, OK, "agrees"}, {20 * time.Second, Warn, "ahead"}, {-20 * time.Second, Warn, "behind"},
		{time.Hour, Fail, "ahead of that of the ACME server"}, {-time.Hour, Fail, "behind"},
	} {
		d := at(t, text)
		d.now = func() time.Time { return time.Now().Add(tt.off) }
		d.synced = func() (bool, error) { return tt.off == 0, nil }
		found := d.examine(t.Context())
		expect(t, found, "clock", tt.level, tt.text)
		if tt.off != 0 {
			expect(t, found, "clock", Warn, "nothing keeps")
		}
		expect(t, found, "acme", OK, "answers")
		expect(t, found, "acme", Warn, "no listener")
	}
}

// TestChallenge: the doctor comes to the port of HTTP-01 by the names of the
// routes, and knows whether it has met itself.
func TestChallenge(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.NotFoundHandler()}
	go func() { _ = s.Serve(other) }()
	defer s.Close()
	d := at(t, fmt.Sprintf(`tls {
  acme { directory = "https://127.0.0.1:1/" }
}
listener "http" {
  address = "127.0.0.1:%s"
  tls = false
}
route "a" {
  hosts = ["here.example.com", "there.example.com", "nowhere.example.com", "gone.example.com"]
  respond { status = 204 }
}
`, port))
	d.http01 = port
	addresses := map[string]string{"here.example.com": "127.0.0.1", "there.example.com": "127.0.0.2", "nowhere.example.com": "127.0.0.3"}
	d.resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
		if a := addresses[host]; a != "" {
			return []netip.Addr{netip.MustParseAddr(a)}, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	found := d.examine(t.Context())
	expect(t, found, "acme", Fail, "doesn't answer")
	expect(t, found, "acme", OK, "http://here.example.com:"+port+" leads to this machine")
	expect(t, found, "acme", Fail, "http://there.example.com:"+port+" is answered by another")
	expect(t, found, "acme", Warn, "http://nowhere.example.com:"+port+" can't be reached")
	expect(t, found, "dns", OK, "here.example.com leads to 127.0.0.1")
	expect(t, found, "dns", Warn, "there.example.com leads to 127.0.0.2, which no interface")
	expect(t, found, "dns", Fail, "gone.example.com has no address")
	d.resolve = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("server misbehaving") }
	expect(t, d.examine(t.Context()), "dns", Warn, "couldn't be looked up")
}

func TestCertificates(t *testing.T) {
	day := 24 * time.Hour
	for _, tt := range []struct {
		from, until time.Duration
		level       Level
		text        string
	}{
		{-day, 300 * day, OK, "lasts until"}, {-90 * day, 5 * day, Warn, "expires on"}, {-90 * day, -day, Fail, "has expired on"}, {day, 90 * day, Fail, "isn't valid before"},
		{-day, 5 * day, OK, "lasts until"}, // made for a week
	} {
		cert, key, _ := pair(t, time.Now().Add(tt.from), time.Now().Add(tt.until), "a.example.com")
		d := at(t, fmt.Sprintf("tls {\n  certificate {\n    cert_file = %q\n    key_file = %q\n  }\n}\n", cert, key))
		expect(t, d.examine(t.Context()), "certificates", tt.level, tt.text)
	}
	cert, _, _ := pair(t, time.Now(), time.Now().Add(day))
	_, key, _ := pair(t, time.Now(), time.Now().Add(day))
	d := at(t, fmt.Sprintf("tls {\n  certificate {\n    cert_file = %q\n    key_file = %q\n  }\n}\n", cert, key))
	found := d.examine(t.Context())
	expect(t, found, "configuration", Fail, "private key does not match")
	expect(t, found, "certificates", Fail, "private key does not match")
}

// TestPorts: what is taken, by whom; what isn't ours; what an unprivileged user
// may not bind.
func TestPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	d := at(t, fmt.Sprintf(`
listener "taken" {
  address = %q
  tls = false
}
listener "udp" {
  address = %q
}
listener "foreign" {
  address = "192.0.2.1:8443"
  tls = false
}
`, l.Addr(), u.LocalAddr()))
	found := d.examine(t.Context())
	expect(t, found, "ports", Fail, fmt.Sprintf("%s/tcp is taken by doctor.test, pid %d", l.Addr(), os.Getpid()))
	expect(t, found, "ports", Fail, fmt.Sprintf("%s/udp is taken by doctor.test, pid %d", u.LocalAddr(), os.Getpid()))
	expect(t, found, "ports", Fail, "no interface of this machine")
	expect(t, found, "ports", OK, "admin server")
}

// TestMachine: limits as a kernel shows them.
func TestMachine(t *testing.T) {
	root := t.TempDir() + "/"
	for path, text := range map[string]string{
		"proc/sys/net/core/rmem_max": "212992\n", "proc/sys/net/core/wmem_max": "7340032\n", "proc/sys/net/core/somaxconn": "128\n",
		"proc/sys/kernel/osrelease": "4.9.0-3-amd64\n", "proc/meminfo": "MemTotal:       524288 kB\nMemAvailable:   500000 kB\n",
	} {
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := at(t, "listener \"https\" { address = \"127.0.0.1:0\" }\nroute \"a\" {\n  cache {}\n  respond { status = 204 }\n}\ncache { memory = \"400MiB\" }\n")
	d.root = root
	found := d.examine(t.Context())
	expect(t, found, "quic", Warn, "net.core.rmem_max=212992")
	expect(t, found, "kernel", Warn, "Linux 4.9.0-3-amd64 is older")
	expect(t, found, "kernel", Warn, "somaxconn is 128")
	expect(t, found, "memory", Warn, "400 MiB of 512")
	for _, f := range found {
		if f.Check == "consul" || f.Check == "redis" || f.Check == "dns" || f.Check == "acme" || f.Check == "systemd" {
			t.Errorf("looked at what isn't used: %+v", f)
		}
	}
}

func TestRoom(t *testing.T) {
	for _, tt := range []struct {
		free      int64
		files     uint64
		freeFiles uint64
		want      Level
	}{{1 << 40, 0, 0, OK}, {1 << 40, 1e6, 10, Fail}, {100 << 20, 1e6, 1e5, Warn}, {1 << 20, 1e6, 1e5, Fail}} {
		if got := room("/x", tt.free, tt.files, tt.freeFiles); got.Level != tt.want {
			t.Errorf("room(%d, %d, %d) = %+v, want %s", tt.free, tt.files, tt.freeFiles, got, tt.want)
		}
	}
}

// TestRights: what another user may read and write, by modes.
func TestRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files away")
	}
	dir, err := os.MkdirTemp("/var/tmp", "doctor-") // whose parents everybody may search
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	set := func(path string, uid, gid int, mode fs.FileMode) {
		t.Helper()
		if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	who := account{name: "who", uid: 1234, gids: []int{5678}}
	for _, tt := range []struct {
		uid, gid int
		mode     fs.FileMode
		read     bool
	}{{0, 0, 0o640, false}, {0, 5678, 0o640, true}, {1234, 0, 0o600, true}, {0, 0, 0o644, true}, {1234, 5678, 0o044, false}, {0, 5678, 0o600, false}} {
		set(key, tt.uid, tt.gid, tt.mode)
		if err := who.may(key, 4); (err == nil) != tt.read {
			t.Errorf("%d:%d %04o: %v", tt.uid, tt.gid, tt.mode, err)
		}
	}
	set(key, 1234, 0, 0o600)
	set(dir, 0, 0, 0o700)
	if err := who.may(key, 4); err == nil || !strings.Contains(err.Error(), "may not search "+dir) {
		t.Errorf("below a closed folder: %v", err)
	}
	if err := (account{uid: 0}).may(filepath.Join(dir, "none"), 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what isn't there: %v", err)
	}
	if _, err := findAccount("no-such-user"); err == nil {
		t.Error("found a user that there isn't")
	}
}

// TestBounded: a check that hangs doesn't hold the others up.
func TestBounded(t *testing.T) {
	d := at(t, "")
	d.Timeout = 50 * time.Millisecond
	block := make(chan struct{})
	defer close(block)
	found := d.run(t.Context(), []check{
		{"dead", func(context.Context) []Finding { <-block; return nil }},
		{"slow", func(ctx context.Context) []Finding { <-ctx.Done(); return []Finding{good("ended")} }},
		{"odd", func(context.Context) []Finding { return []Finding{good("a\x1b[2J\nb")} }},
	})
	expect(t, found, "dead", Fail, "wasn't done after 50ms")
	expect(t, found, "slow", OK, "ended")
	expect(t, found, "odd", OK, "a?[2J b")
}

// TestDiagnosed: what validate prints for people has its advice with it.
func TestDiagnosed(t *testing.T) {
	got := diagnosed(`a.hcl:2:3: error: unknown argument "host" in route "a"
    2 |   host = ["error: x"]
      |   ^^^^
  see also a.hcl:1:1:
    1 | route "a" {
      | ^^^^^
  Did you mean "hosts"?
  Or not?

a.hcl:4:1: warning: it works
warning: cert_file a.pem expired
`)
	want := []Finding{
		{"configuration", Fail, `a.hcl:2:3: unknown argument "host" in route "a"`, `Did you mean "hosts"? Or not?`},
		{"configuration", Warn, "a.hcl:4:1: it works", ""},
		{"configuration", Warn, "cert_file a.pem expired", ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("diagnosed() = %+v", got)
	}
}

// TestBroken: a configuration that can't be loaded is told with its places.
func TestBroken(t *testing.T) {
	d := at(t, "rout \"a\" {}\ntls {\n  certificate {\n    cert_file = \"none.pem\"\n    key_file = \"none.key\"\n  }\n}\n")
	found := d.examine(t.Context())
	expect(t, found, "configuration", Fail, "sidegate.hcl:3:1")
	expect(t, found, "configuration", Fail, "there is no file")
	d.Config = filepath.Join(t.TempDir(), "none")
	expect(t, d.examine(t.Context()), "configuration", Fail, "there is no "+d.Config)
}
