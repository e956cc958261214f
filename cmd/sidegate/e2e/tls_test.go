package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
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

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// publicHost looks like a name of the internet; to Pebble it is this machine.
const publicHost = "app.example.com"

// site is a gateway in front of one backend, with certificates from a real
// Pebble that validates through the gateway's own listeners.
type site struct {
	*gateway
	pebble   *process
	acme     string // the tls block
	backend  string
	roots    *x509.CertPool
	rootFile string // what Pebble's certificates chain to
}

func newSite(t *testing.T, challenges ...string) *site {
	t.Helper()
	real(t)
	p := ports(t, 7)
	s := &site{gateway: &gateway{dir: t.TempDir(), https: p[0], http: p[1], admin: p[2]}}
	caFile := s.startPebble(t, p[3:])
	list, err := json.Marshal(challenges)
	if err != nil {
		t.Fatal(err)
	}
	s.acme = fmt.Sprintf(`tls {
  acme {
    email       = "ops@example.com"
    directory   = "https://127.0.0.1:%d/dir"
    ca_file     = %q
    challenges  = %s
    check_every = "1s"
  }
}
`, p[3], caFile, list)
	backend := httptest.NewServer(http.HandlerFunc(page))
	t.Cleanup(backend.Close)
	s.backend = backend.Listener.Addr().String()
	s.route(t, publicHost)
	s.start(t)
	return s
}

// route configures the hosts that the gateway serves.
func (s *site) route(t *testing.T, hosts ...string) {
	t.Helper()
	list, err := json.Marshal(hosts)
	if err != nil {
		t.Fatal(err)
	}
	s.configure(t, fmt.Sprintf("%sservice \"app\" { instances = [%q] }\nroute \"app\" {\n hosts = %s\n service = \"app\"\n}\n", s.acme, s.backend, list))
}

// page is the backend: a document whose script writes what the browser says of
// its connection, and the hash of what is posted.
func page(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil), err)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprint(w, `<!doctype html><title>app</title><p>the page came</p><p id="how"></p><script>
document.getElementById("how").textContent = "over " + performance.getEntriesByType("navigation")[0].nextHopProtocol
</script>`)
}

// startPebble starts Pebble and its DNS server, in which every name is this
// machine, on four ports. It returns the root of Pebble's own listeners.
func (s *site) startPebble(t *testing.T, p []int) (caFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile := selfSigned(t, dir)
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           fmt.Sprintf("127.0.0.1:%d", p[0]),
		"managementListenAddress": fmt.Sprintf("127.0.0.1:%d", p[1]),
		"certificate":             certFile,
		"privateKey":              keyFile,
		"httpPort":                s.http,
		"tlsPort":                 s.https,
		"keyAlgorithm":            "ecdsa",
		"retryAfter":              map[string]int{"authz": 1, "order": 1},
		// What browsers accept: they refuse certificates of more than 398 days.
		"profiles": map[string]any{"default": map[string]any{"description": "d", "validityPeriod": 90 * 24 * 3600}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	dns := fmt.Sprintf("127.0.0.1:%d", p[2])
	start(t, tool(t, "pebble-challtestsrv"), "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		"-dnsserver", dns, "-management", fmt.Sprintf("127.0.0.1:%d", p[3]))
	eventually(t, "DNS", func() error { return dial(p[3]) })
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	s.pebble = start(t, tool(t, "pebble"), "-config", write(t, filepath.Join(dir, "pebble.json"), string(conf)), "-dnsserver", dns)
	own, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(own)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: patience}
	var root string
	eventually(t, "pebble", func() error {
		if _, err := fetch(c, fmt.Sprintf("https://127.0.0.1:%d/dir", p[0])); err != nil {
			return err
		}
		root, err = fetch(c, fmt.Sprintf("https://127.0.0.1:%d/roots/0", p[1]))
		return err
	})
	s.rootFile = write(t, filepath.Join(dir, "root.pem"), root+"\n")
	s.roots = x509.NewCertPool()
	if !s.roots.AppendCertsFromPEM([]byte(root)) {
		t.Fatalf("Pebble's root is %q", root)
	}
	return certFile
}

// selfSigned makes the certificate of Pebble's own listeners.
func selfSigned(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pebble's listeners"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// said counts what Pebble printed.
func (s *site) said(text string) int { return strings.Count(s.pebble.log.String(), text) }

// certificate is what the gateway serves for a name, verified.
func (s *site) certificate(name string) (*x509.Certificate, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{RootCAs: s.roots, ServerName: name}}
	c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.https))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func (s *site) await(t *testing.T, name string) (c *x509.Certificate) {
	t.Helper()
	eventually(t, "Pebble's certificate for "+name, func() (err error) {
		c, err = s.certificate(name)
		return err
	})
	return c
}

// restart ends the gateway and starts it again on the same state; the
// certificate must be there from the first handshake.
func (s *site) restart(t *testing.T, want *x509.Certificate) {
	t.Helper()
	s.stop(syscall.SIGTERM)
	s.start(t)
	got, err := s.certificate(publicHost)
	if err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	if !got.Equal(want) {
		t.Fatalf("after a restart: serial %x, want %x", got.SerialNumber, want.SerialNumber)
	}
}

// curl gets the page by a real client that knows Pebble's root.
func (s *site) curl(t *testing.T) {
	t.Helper()
	for _, version := range []string{"1.1", "2"} {
		out, err := exec.Command(tool(t, "curl"), "-sS", "--max-time", "20", "--http"+version, "--cacert", s.rootFile, "-w", "version %{http_version}",
			"--resolve", fmt.Sprintf("%s:%d:127.0.0.1", publicHost, s.https), s.url("/")).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "the page came") || !strings.HasSuffix(string(out), "version "+version) {
			t.Errorf("curl --http%s: %v: %s", version, err, out)
		}
	}
}

func (s *site) url(path string) string {
	return fmt.Sprintf("https://%s:%d%s", publicHost, s.https, path)
}

// TestACME: the built binary gets a certificate by each challenge alone; a
// restart keeps it and the account, with the authority there or gone.
func TestACME(t *testing.T) {
	real(t)
	for _, tt := range []struct {
		challenge string
		http      bool // the authority came to the plain listener
	}{
		{"http-01", true},
		{"tls-alpn-01", false},
	} {
		t.Run(tt.challenge, func(t *testing.T) {
			s := newSite(t, tt.challenge)
			first := s.await(t, publicHost)
			s.curl(t)
			if n := s.said("validate w/ HTTP"); (n > 0) != tt.http {
				t.Errorf("Pebble validated over HTTP %d times", n)
			}
			accounts := s.said("POST /sign-me-up")

			s.restart(t, first)
			s.curl(t)
			// A second name: by the time it has come, the first was looked at, too.
			s.route(t, publicHost, "more.example.com")
			s.signal(syscall.SIGHUP)
			s.await(t, "more.example.com")
			if n := s.said("Added order"); n != 2 {
				t.Errorf("Pebble got %d orders, want one for each name", n)
			}
			if n := s.said("POST /sign-me-up"); n != accounts {
				t.Errorf("Pebble was asked for an account %d times, %d before the restart", n, accounts)
			}

			s.pebble.stop(syscall.SIGKILL)
			s.restart(t, first)
			s.curl(t)
		})
	}
}

// TestHTTP3: requests over QUIC with the certificate of the authority, to which
// the answers over TCP point.
func TestHTTP3(t *testing.T) {
	s := newSite(t, "http-01", "tls-alpn-01")
	s.await(t, publicHost)
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.roots},
		Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, fmt.Sprintf("127.0.0.1:%d", s.https), c, q)
		},
	}
	defer tr.Close()
	c := &http.Client{Transport: tr, Timeout: patience}
	resp, err := c.Get(s.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.Proto != "HTTP/3.0" || !strings.Contains(string(body), "the page came") {
		t.Errorf("GET: %s %s %q, %v", resp.Proto, resp.Status, body, err)
	}

	data := make([]byte, 1<<20)
	_, _ = rand.Read(data) // it never fails
	resp, err = c.Post(s.url("/"), "application/octet-stream", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	body, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if want := fmt.Sprintf("%d %x <nil>", len(data), sha256.Sum256(data)); err != nil || string(body) != want {
		t.Errorf("POST: %s %q, %v, want %q", resp.Status, body, err, want)
	}

	h2 := s.client(true)
	defer h2.CloseIdleConnections()
	resp, err = h2.Get(s.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get("Alt-Svc"); !strings.Contains(got, fmt.Sprintf(`h3=":%d"`, s.https)) {
		t.Errorf("Alt-Svc over %s is %q", resp.Proto, got)
	}
}
