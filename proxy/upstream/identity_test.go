package upstream

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// fleet is an authority of a test and what it has issued.
type fleet struct {
	t  testing.TB
	ca *edgetls.FleetCA
}

func newFleet(t testing.TB, domain string) *fleet {
	t.Helper()
	ca, err := edgetls.InitFleetCA(t.TempDir(), domain, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t, ca}
}

func (f *fleet) identity(service string) *edgetls.IdentityFiles {
	f.t.Helper()
	dir := f.t.TempDir()
	_, cert, err := f.ca.Issue(dir, service, time.Hour, time.Now(), false)
	if err != nil {
		f.t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	id, err := edgetls.NewIdentityFiles(edgetls.IdentitySettings{
		CAFile: f.ca.RootFile(), CertFile: cert, KeyFile: filepath.Join(dir, service+".key"),
	}, edgetls.Deps{Log: log})
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// sidecar answers with who called it, by which protocol.
func (f *fleet) sidecar(service string, allow []string, protocols ...string) string {
	f.t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto+" "+r.TLS.PeerCertificates[0].URIs[0].String())
	}))
	s.Config.ErrorLog = nullLog()
	s.EnableHTTP2 = true
	s.TLS = f.identity(service).Server(allow, protocols...)
	s.StartTLS()
	f.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func inFleet(addr string) discovery.Instance {
	in := at(addr)
	in.Meta = map[string]string{IdentityMeta: "spiffe://whatever/svc/x"}
	return in
}

func deps(id Identity) Deps {
	return Deps{Identity: func(*Config) Identity { return id }}
}

func TestIdentity(t *testing.T) {
	const edge = "spiffe://fleet.example/svc/edge"
	f := newFleet(t, "fleet.example")
	id := f.identity("edge")
	for protocol, want := range map[string]string{"": "HTTP/1.1 " + edge, "https": "HTTP/1.1 " + edge, "h2c": "HTTP/2.0 " + edge, "h2": "HTTP/2.0 " + edge} {
		addr := f.sidecar("orders", nil, "h2", "http/1.1")
		b := newBench(t, &Config{Protocol: protocol, Consul: &ConsulQuery{Name: "orders"}}, deps(id), inFleet(addr))
		for range 2 { // the second on the same connection
			if a := b.get("/"); a.fault != nil || a.body != want {
				t.Errorf("protocol %q: %v, want %s", protocol, a, want)
			}
		}
		if st := b.instance(addr); st.Open != 1 || st.Identity != "orders" || st.TLSError != "" {
			t.Errorf("protocol %q: status %+v", protocol, st)
		}
	}
}

func TestIdentityRefusals(t *testing.T) {
	f, other, foreign := newFleet(t, "fleet.example"), newFleet(t, "fleet.example"), newFleet(t, "foreign.example")
	var plain Config
	for _, tt := range []struct {
		name string
		addr string
		id   Identity
		want string
	}{
		{"no identity", f.sidecar("s", nil, "h2", "http/1.1"), nil, "write an identity block"},
		{"another service", f.sidecar("billing", nil, "h2", "http/1.1"), f.identity("edge"), "spiffe://fleet.example/svc/billing: it isn't svc/s"},
		{"not allowed", f.sidecar("s", []string{"orders"}, "h2", "http/1.1"), f.identity("edge"), "the instance refuses our certificate"},
		{"another authority", other.sidecar("s", nil, "h2", "http/1.1"), f.identity("edge"), "certificate signed by unknown authority"},
		{"another trust domain", foreign.sidecar("s", nil, "h2", "http/1.1"), f.identity("edge"), "certificate signed by unknown authority"},
		{"plain text", newBackend(t, nil).addr, f.identity("edge"), "does not look like a TLS handshake"},
	} {
		for _, protocol := range []string{"http1", "h2c"} {
			t.Run(tt.name+" "+protocol, func(t *testing.T) {
				cfg := plain
				cfg.Protocol, cfg.Retry = protocol, &RetryConfig{}
				var d Deps
				if tt.id != nil {
					d = deps(tt.id)
				}
				b := newBench(t, &cfg, d, inFleet(tt.addr))
				x := withBody(request("POST", "/"), "hello", true)
				a := b.send(x)
				wantFault(t, a, exchange.ConnectFailed)
				if !strings.Contains(a.fault.Error(), tt.want) {
					t.Errorf("%v, want …%s…", a.fault, tt.want)
				}
				if st := b.instance(tt.addr); !strings.Contains(st.TLSError, tt.want) || st.Failures != 1 {
					t.Errorf("status %+v", st)
				}
			})
		}
	}
}

// TestIdentityTriesAnother: a POST may go to another instance when one refuses
// the certificate, for it hasn't seen the request.
func TestIdentityTriesAnother(t *testing.T) {
	f := newFleet(t, "fleet.example")
	bad, good := f.sidecar("s", []string{"orders"}, "http/1.1"), f.sidecar("s", nil, "http/1.1")
	b := newBench(t, &Config{Balance: "round_robin", Outlier: &OutlierConfig{}}, deps(f.identity("edge")), inFleet(bad), inFleet(good))
	for range 4 {
		if a := b.send(request("POST", "/")); a.fault != nil || a.status != 200 {
			t.Fatalf("%v", a)
		}
	}
	if b.instance(bad).Failures == 0 {
		t.Error("the bad one was never tried")
	}
}

// TestIdentityTurns: registrations that begin or cease to have the meta count
// for the next connection, and the old ones aren't used any more.
func TestIdentityTurns(t *testing.T) {
	f := newFleet(t, "fleet.example")
	addr := f.sidecar("s", nil, "http/1.1")
	b := newBench(t, &Config{Retry: &RetryConfig{}, Outlier: &OutlierConfig{}}, deps(f.identity("edge")), at(addr))
	if a := b.get("/"); a.status != 400 { // net/http: an HTTP request to an HTTPS server
		t.Fatalf("plain: %v", a)
	}
	b.src.give(inFleet(addr))
	if a := b.get("/"); a.status != 200 {
		t.Fatalf("with meta: %v", a)
	}
	// Another registration of the address without it doesn't take it back.
	b.src.give(at(addr), inFleet(addr))
	if a := b.get("/"); a.status != 200 || b.instance(addr).Open != 1 {
		t.Fatalf("with two registrations: %v", a)
	}
	b.src.give(at(addr))
	if a := b.get("/"); a.status != 400 {
		t.Fatalf("without meta: %v", a)
	}
	// Insisting: no registration makes it plain text.
	b.apply(&Config{Name: "s", Identity: "required"})
	if a := b.get("/"); a.status != 200 {
		t.Fatalf("required: %v", a)
	}
	if _, err := b.g.Plan([]*Config{{Name: "s", Identity: "required", TLS: &TLSConfig{}, Protocol: "h2"}}); err == nil || !strings.Contains(err.Error(), "those of the fleet") {
		t.Errorf("required with tls: %v", err)
	}
}

func TestIdentityRequiredWithout(t *testing.T) {
	b := newBench(t, &Config{}, Deps{})
	if _, err := b.g.Plan([]*Config{{Name: "s", Identity: "required"}}); err == nil || err.Error() != `service "s": identity: "required" needs an identity block` {
		t.Error(err)
	}
}

func TestIdentityCheck(t *testing.T) {
	f := newFleet(t, "fleet.example")
	good, bad := f.sidecar("s", nil, "http/1.1"), f.sidecar("s", []string{"orders"}, "http/1.1")
	b := newBench(t, &Config{HealthCheck: &HealthCheckConfig{Type: "http", Path: "/", Interval: 10 * time.Millisecond, Timeout: 2 * time.Second, Rise: 1, Fall: 1}},
		deps(f.identity("edge")), inFleet(good), inFleet(bad))
	until(t, "checks", func() bool {
		return b.instance(good).Check == "passing" && b.instance(bad).Check == "failing"
	})
	if why := b.instance(bad).CheckError; !strings.Contains(why, "the instance refuses our certificate") {
		t.Errorf("check of one that refuses us: %s", why)
	}
}

// TestIdentityReload: an equal identity keeps the connections, another doesn't.
func TestIdentityReload(t *testing.T) {
	f := newFleet(t, "fleet.example")
	id := Identity(f.identity("edge"))
	addr := f.sidecar("s", nil, "http/1.1")
	b := newBench(t, &Config{}, Deps{Identity: func(*Config) Identity { return id }}, inFleet(addr))
	if a := b.get("/"); !strings.HasSuffix(a.body, "/svc/edge") {
		t.Fatal(a)
	}
	b.apply(&Config{Name: "s"})
	if n := b.instance(addr).Open; n != 1 {
		t.Errorf("%d connections after a reload that changes nothing, want 1", n)
	}
	id = f.identity("other")
	b.apply(&Config{Name: "s"})
	if a := b.get("/"); !strings.HasSuffix(a.body, "/svc/other") || b.instance(addr).Open != 1 {
		t.Errorf("after a change of identity: %v", a)
	}
}

// instantIdentity goes with connections that are instant.
type instantIdentity struct{}

func (instantIdentity) Client(string, ...string) *tls.Config { return nil }

// TestIdentityCost: which way an instance is spoken to costs a request nothing.
func TestIdentityCost(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	set := many(3)
	for i := range set {
		set[i].Meta = map[string]string{IdentityMeta: "x"}
	}
	b := instantBench(t, &Config{}, set...)
	b.g.d.Identity = func(*Config) Identity { return instantIdentity{} }
	b.apply(&Config{Name: "s"})
	x := request("GET", "/")
	once := func() {
		x.Tries = 0
		if f := b.p.Send(x); f != nil {
			t.Fatal(f)
		}
		x.Lease.Release(x, nil)
	}
	for range 100 {
		once()
	}
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}

// TestIdentityForeign speaks to the TLS of others.
func TestIdentityForeign(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl isn't installed")
	}
	f := newFleet(t, "fleet.example")
	dir := t.TempDir()
	for _, service := range []string{"orders", "billing"} {
		if _, _, err := f.ca.Issue(dir, service, time.Hour, time.Now(), false); err != nil {
			t.Fatal(err)
		}
	}
	serve := func(service string) string {
		_, port, err := net.SplitHostPort(deadAddr(t))
		if err != nil {
			t.Fatal(err)
		}
		pair := filepath.Join(dir, service)
		c := exec.Command(openssl, "s_server", "-accept", "127.0.0.1:"+port, "-cert", pair+".pem", "-key", pair+".key", "-CAfile", f.ca.RootFile(), "-Verify", "1", "-verify_return_error", "-www", "-alpn", "http/1.1", "-quiet")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		addr := "127.0.0.1:" + port
		until(t, "openssl s_server", func() bool {
			nc, err := net.Dial("tcp", addr)
			if err == nil {
				nc.Close()
			}
			return err == nil
		})
		return addr
	}
	good, wrong := serve("orders"), serve("billing")
	cfg := &Config{Consul: &ConsulQuery{Name: "orders"}, Retry: &RetryConfig{}}
	b := newBench(t, cfg, deps(f.identity("edge")), inFleet(good))
	if a := b.get("/"); a.status != 200 || !strings.Contains(a.body, "svc/edge") {
		t.Errorf("openssl: %v", a)
	}
	b.src.give(inFleet(wrong))
	if a := b.get("/"); a.fault == nil || !strings.Contains(a.fault.Error(), "svc/billing: it isn't svc/orders") {
		t.Errorf("openssl with another name: %v", a)
	}
}
