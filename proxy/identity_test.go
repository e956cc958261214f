package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// fleetListener is a listener of the service orders, that answers with who
// calls; only edge may.
type fleetListener struct {
	*listening
	ca  *edgetls.FleetCA
	dir string

	mu      sync.Mutex
	refused []string
}

func (l *fleetListener) identity(t *testing.T, service string) *edgetls.IdentityFiles {
	t.Helper()
	_, cert, err := l.ca.Issue(l.dir, service, time.Hour, time.Now(), false)
	if err != nil {
		t.Fatal(err)
	}
	id, err := edgetls.NewIdentityFiles(edgetls.IdentitySettings{CAFile: l.ca.RootFile(), CertFile: cert, KeyFile: filepath.Join(l.dir, service+".key")}, edgetls.Deps{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newFleetListener(t *testing.T) *fleetListener {
	t.Helper()
	ca, err := edgetls.InitFleetCA(t.TempDir(), "fleet.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	f := &fleetListener{ca: ca, dir: t.TempDir()}
	id := f.identity(t, "orders")
	f.listening = listenWith(t, handlerFunc(func(x *exchange.Exchange) {
		if len(x.Conn.TLS.VerifiedChains) == 0 {
			t.Error("no verified chain, which auth \"mtls\" goes by")
		}
		x.Reply(200, "", []byte(x.Conn.Peer))
		_ = x.Front.Respond(x)
	}), func(d *ServerDeps, c *ListenerConfig) {
		c.TLS, c.Protocols = true, []string{"h1", "h2"}
		d.TLS = func(*ListenerConfig, bool) (*tls.Config, error) {
			return id.Server([]string{"edge"}, "h2", "http/1.1"), nil
		}
		d.Refused = func(cfg *ListenerConfig, from netip.AddrPort, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refused = append(f.refused, cfg.Name+": "+err.Error())
		}
	})
	return f
}

func TestFleetListener(t *testing.T) {
	f := newFleetListener(t)
	ask := func(service string) (string, error) {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: f.identity(t, service).Client("orders", "http/1.1"), DisableKeepAlives: true}}
		res, err := c.Post("https://"+f.addr+"/", "text/plain", bytes.NewReader(make([]byte, 48<<10)))
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err
	}
	if got, err := ask("edge"); err != nil || got != "spiffe://fleet.example/svc/edge" {
		t.Fatalf("edge: %q, %v", got, err)
	}
	billing := f.identity(t, "billing").Client("orders", "http/1.1")
	for range 30 { // the alert has to come each time
		nc, err := tls.Dial("tcp", f.addr, billing)
		if err != nil {
			t.Fatal(err)
		}
		_, err = nc.Write(make([]byte, 48<<10))
		if err == nil {
			_, err = nc.Read(make([]byte, 1))
		}
		nc.Close()
		if err == nil || !strings.Contains(err.Error(), "tls: bad certificate") {
			t.Fatalf("billing: %v, want the alert", err)
		}
	}
	told := func() []string {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Clone(f.refused)
	}
	for deadline := time.Now().Add(10 * time.Second); len(told()) < 30 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if all := told(); len(all) != 30 || all[0] != "l: spiffe://fleet.example/svc/billing: it isn't in allow" {
		t.Errorf("told of %d: %q", len(all), all)
	}
}

// TestFleetListenerForeign has others' TLS speak to the listener.
func TestFleetListenerForeign(t *testing.T) {
	f := newFleetListener(t)
	f.identity(t, "edge")
	f.identity(t, "billing")
	file := func(name string) string { return filepath.Join(f.dir, name) }
	pair := func(service string) []string {
		return []string{"--cert", file(service + ".pem"), "--key", file(service + ".key")}
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl isn't installed")
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"HTTP/1.1", append(pair("edge"), "--http1.1"), "spiffe://fleet.example/svc/edge"},
		{"HTTP/2", append(pair("edge"), "--http2"), "spiffe://fleet.example/svc/edge"},
		{"not allowed", pair("billing"), "alert bad certificate"},
		{"no certificate", nil, "alert certificate required"},
		{"TLS 1.2", append(pair("edge"), "--tls-max", "1.2"), "alert protocol version"},
	} {
		// -k: a certificate of the fleet has no host's name.
		out, _ := exec.Command(curl, append([]string{"-sSk", "https://" + f.addr + "/"}, tt.args...)...).CombinedOutput()
		if !strings.Contains(string(out), tt.want) {
			t.Errorf("curl, %s: %s, want %s", tt.name, out, tt.want)
		}
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl isn't installed")
	}
	talk := func(cert string) string {
		c := exec.Command(openssl, "s_client", "-connect", f.addr, "-CAfile", f.ca.RootFile(), "-verify_return_error", "-alpn", "http/1.1", "-cert", file(cert+".pem"), "-key", file(cert+".key"), "-ign_eof")
		c.Stdin = strings.NewReader("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
		out, _ := c.CombinedOutput() // its text says how it went
		return string(out)
	}
	if out := talk("edge"); !strings.Contains(out, "Verify return code: 0 (ok)") || !strings.Contains(out, "spiffe://fleet.example/svc/edge") || strings.Contains(out, "New Session Ticket") {
		t.Errorf("openssl: %s", out)
	}
	if out := talk("billing"); !strings.Contains(out, "alert bad certificate") {
		t.Errorf("openssl, not allowed: %s", out)
	}
}
