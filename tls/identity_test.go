package tls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
)

// identityBed is an authority and the folder of a service's pair.
type identityBed struct {
	t   testing.TB
	ca  *FleetCA
	dir string
}

func newIdentityBed(t testing.TB, domain string) *identityBed {
	t.Helper()
	ca, err := InitFleetCA(t.TempDir(), domain, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &identityBed{t: t, ca: ca, dir: t.TempDir()}
}

func (b *identityBed) settings(service string) IdentitySettings {
	return IdentitySettings{CAFile: b.ca.RootFile(), CertFile: filepath.Join(b.dir, service+".pem"), KeyFile: filepath.Join(b.dir, service+".key")}
}

func (b *identityBed) issue(service string) IdentitySettings {
	b.t.Helper()
	if _, _, err := b.ca.Issue(b.dir, service, time.Hour, time.Now(), true); err != nil {
		b.t.Fatal(err)
	}
	return b.settings(service)
}

func (b *identityBed) identity(service string) *IdentityFiles {
	b.t.Helper()
	id, err := NewIdentityFiles(b.issue(service), Deps{Log: silent()})
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func silent() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// odd is a certificate of the authority that change has made odd.
func (b *identityBed) odd(change func(*x509.Certificate)) *tls.Certificate {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	serial, err := newSerial()
	if err != nil {
		b.t.Fatal(err)
	}
	t := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs:        []*url.URL{{Scheme: "spiffe", Host: b.ca.trustDomain, Path: "/svc/edge"}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(t)
	der, err := x509.CreateCertificate(rand.Reader, t, b.ca.root, key.Public(), b.ca.key)
	if err != nil {
		b.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// shake lets a client and a server meet, and returns what each says of it: the
// client's includes its first read, for there it learns that it is refused.
func shake(t testing.TB, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer nc.Close()
		tc := tls.Server(nc, server)
		if err = tc.Handshake(); err == nil {
			_, err = tc.Write([]byte("x"))
		}
		done <- err
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	tc := tls.Client(nc, client)
	if clientErr = tc.Handshake(); clientErr == nil {
		_, clientErr = tc.Read(make([]byte, 1))
	}
	return <-done, clientErr
}

func TestIdentityServerRefuses(t *testing.T) {
	b, other, foreign := newIdentityBed(t, "fleet.example"), newIdentityBed(t, "fleet.example"), newIdentityBed(t, "foreign.example")
	orders := b.identity("orders")
	uri := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	named := func(uris ...string) *tls.Certificate {
		return b.odd(func(c *x509.Certificate) {
			c.URIs = nil
			for _, text := range uris {
				c.URIs = append(c.URIs, uri(text))
			}
		})
	}
	same := func(*x509.Certificate) {}
	tests := []struct {
		name  string
		cert  *tls.Certificate // nil: none
		allow []string
		want  string // of the server's error; "": it goes
		alert string // what the caller gets
	}{
		{"good", b.odd(same), nil, "", ""},
		{"allowed", b.odd(same), []string{"billing", "edge"}, "", ""},
		{"Consul's form", named("spiffe://fleet.example/ns/default/dc/dc1/svc/edge"), []string{"edge"}, "", ""},
		{"not allowed", b.odd(same), []string{"billing"}, "spiffe://fleet.example/svc/edge: it isn't in allow", "tls: bad certificate"},
		{"nobody allowed", b.odd(same), []string{}, "it isn't in allow", "tls: bad certificate"},
		{"none", nil, nil, "client didn't provide a certificate", "tls: certificate required"},
		{"other authority of that name", other.odd(same), nil, "certificate signed by unknown authority", "tls: unknown certificate authority"},
		{"other trust domain", foreign.odd(same), nil, "certificate signed by unknown authority", "tls: unknown certificate authority"},
		{"beyond the root's constraint", named("spiffe://foreign.example/svc/edge"), nil, "not permitted", "tls: bad certificate"},
		{"two URIs", named("spiffe://fleet.example/svc/edge", "spiffe://fleet.example/svc/admin"), nil, "2 URIs, and must have one", "tls: bad certificate"},
		{"no URI", named(), nil, "0 URIs, and must have one", "tls: bad certificate"},
		{"no service", named("spiffe://fleet.example/edge"), nil, "its path is another one", "tls: bad certificate"},
		{"longer path", named("spiffe://fleet.example/svc/edge/x"), nil, "its path is another one", "tls: bad certificate"},
		{"escaped", named("spiffe://fleet.example/svc/%65dge"), nil, "characters that no name has", "tls: bad certificate"},
		{"not SPIFFE", named("https://fleet.example/svc/edge"), nil, "its scheme is another one", "tls: bad certificate"},
		{"query", named("spiffe://fleet.example/svc/edge?x"), nil, "characters that no name has", "tls: bad certificate"},
		{"namespace", named("spiffe://fleet.example/ns/other/dc/dc1/svc/edge"), nil, "its path is another one", "tls: bad certificate"},
		{"ended", b.odd(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, "expired", "tls: expired certificate"},
		{"not yet", b.odd(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), nil, "not yet valid", "tls: expired certificate"},
		{"of a server only", b.odd(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), nil, "incompatible key usage", "tls: bad certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := &tls.Config{InsecureSkipVerify: true}
			if tt.cert != nil {
				// Not Certificates: a client would keep back what the server's list doesn't name.
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.cert, nil }
			}
			serverErr, clientErr := shake(t, orders.Server(tt.allow, "h2"), client)
			if tt.want == "" {
				if serverErr != nil || clientErr != nil {
					t.Errorf("server %v, client %v", serverErr, clientErr)
				}
				return
			}
			if serverErr == nil || !strings.Contains(serverErr.Error(), tt.want) {
				t.Errorf("server: %v, want …%s", serverErr, tt.want)
			}
			if clientErr == nil || !strings.HasSuffix(clientErr.Error(), tt.alert) {
				t.Errorf("client: %v, want %s", clientErr, tt.alert)
			}
		})
	}
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*b.odd(same)}}
	if serverErr, _ := shake(t, orders.Server(nil), old); serverErr == nil || !strings.Contains(serverErr.Error(), "unsupported versions") {
		t.Errorf("TLS 1.2: %v", serverErr)
	}
}

func TestIdentityClientRefuses(t *testing.T) {
	b, other := newIdentityBed(t, "fleet.example"), newIdentityBed(t, "fleet.example")
	edge := b.identity("edge")
	orders := func(c *x509.Certificate) { c.URIs[0].Path = "/svc/orders" }
	also := func(f func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) { orders(c); f(c) }
	}
	for _, tt := range []struct {
		name string
		cert *tls.Certificate
		want string
	}{
		{"good", b.odd(orders), ""},
		{"another service", b.odd(func(*x509.Certificate) {}), "spiffe://fleet.example/svc/edge: it isn't svc/orders"},
		{"another authority", other.odd(orders), "unknown authority"},
		{"ended", b.odd(also(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), "expired"},
		{"of a client only", b.odd(also(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })), "incompatible key usage"},
		{"two URIs", b.odd(also(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) })), "2 URIs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serverErr, clientErr := shake(t, &tls.Config{Certificates: []tls.Certificate{*tt.cert}, ClientAuth: tls.RequireAnyClientCert}, edge.Client("orders", "h2"))
			if (clientErr == nil) != (tt.want == "") || clientErr != nil && !strings.Contains(clientErr.Error(), tt.want) {
				t.Errorf("client: %v, want %q", clientErr, tt.want)
			}
			if tt.want != "" && (serverErr == nil || !strings.HasSuffix(serverErr.Error(), "tls: bad certificate")) {
				t.Errorf("server: %v", serverErr)
			}
		})
	}
}

// TestIdentityNoResumption: a client that would resume has to show its
// certificate again each time.
func TestIdentityNoResumption(t *testing.T) {
	b := newIdentityBed(t, "fleet.example")
	server, client := b.identity("orders").Server(nil), b.identity("edge").Client("orders")
	client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(4), "orders" // else each port has its sessions
	verify := client.VerifyConnection
	client.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.DidResume {
			t.Error("resumed")
		}
		return verify(cs)
	}
	for range 3 {
		if s, c := shake(t, server, client); s != nil || c != nil {
			t.Fatal(s, c)
		}
	}
}

func TestIdentityFilesMistakes(t *testing.T) {
	b, other := newIdentityBed(t, "fleet.example"), newIdentityBed(t, "fleet.example")
	good, billing := b.issue("orders"), b.issue("billing")
	write := func(name string, c *tls.Certificate) (cert, key string) {
		cert, key = filepath.Join(b.dir, name+".pem"), filepath.Join(b.dir, name+".key")
		if err := writeIssued(cert, key, c.Certificate[0], c.PrivateKey.(*ecdsa.PrivateKey)); err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	ended := good
	ended.CertFile, ended.KeyFile = write("ended", b.odd(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }))
	nameless := good
	nameless.CertFile, nameless.KeyFile = write("nameless", b.odd(func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"orders"} }))
	server := good
	server.CertFile, server.KeyFile = write("server", b.odd(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }))
	for _, tt := range []struct {
		name   string
		change func(*IdentitySettings)
		want   string
	}{
		{"good", func(*IdentitySettings) {}, ""},
		{"no ca_file", func(s *IdentitySettings) { s.CAFile += "x" }, "identity: ca_file: stat "},
		{"no key_file", func(s *IdentitySettings) { s.KeyFile += "x" }, "key_file: stat "},
		{"another's key", func(s *IdentitySettings) { s.KeyFile = billing.KeyFile }, "cert_file with key_file: tls: private key does not match"},
		{"another authority", func(s *IdentitySettings) { s.CAFile = other.ca.RootFile() }, "the authorities in ca_file don't stand for the certificate of spiffe://fleet.example/svc/orders"},
		{"no authority", func(s *IdentitySettings) { s.CAFile = billing.CertFile }, "spiffe://fleet.example/svc/billing isn't an authority's certificate"},
		{"a key as authority", func(s *IdentitySettings) { s.CAFile = s.KeyFile }, "ca_file: there is no certificate in it"},
		{"ended", func(s *IdentitySettings) { *s = ended }, "the certificate of spiffe://fleet.example/svc/edge has ended at"},
		{"nameless", func(s *IdentitySettings) { *s = nameless }, "the certificate has 0 URIs, and must have one: see sidegate ca issue"},
		{"of a server only", func(s *IdentitySettings) { *s = server }, "incompatible key usage"},
	} {
		s := good
		tt.change(&s)
		_, err := NewIdentityFiles(s, Deps{Log: silent()})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestIdentityRotation renews certificates and changes the authority in the
// documented order, with handshakes all the while: none fails.
func TestIdentityRotation(t *testing.T) {
	b := newIdentityBed(t, "fleet.example")
	bundle := filepath.Join(b.dir, "bundle.pem")
	oldPEM, err := os.ReadFile(b.ca.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	put := func(parts ...[]byte) {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		if err := writeLike(bundle, all, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(oldPEM)
	open := func(service string) *IdentityFiles {
		s := b.issue(service)
		s.CAFile = bundle
		id, err := NewIdentityFiles(s, Deps{Log: silent(), PollFiles: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	orders, edge := open("orders"), open("edge")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { orders.Run(ctx) })
	wg.Go(func() { edge.Run(ctx) })
	var shakes atomic.Int64
	for range 2 {
		wg.Go(func() {
			server, client := orders.Server([]string{"edge"}, "h2"), edge.Client("orders", "h2")
			for ctx.Err() == nil {
				if s, c := shake(t, server, client); s != nil || c != nil {
					t.Errorf("handshake: server %v, client %v", s, c)
					return
				}
				shakes.Add(1)
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	// Each step waits until both have taken it in, and for some handshakes.
	step := func(what string, done func(c *credentials) bool) {
		t.Helper()
		await(t, what, func() bool { return done(orders.live.Load()) && done(edge.live.Load()) })
		n := shakes.Load()
		await(t, what+": handshakes", func() bool { return shakes.Load() > n+20 || t.Failed() })
	}
	await(t, "handshakes", func() bool { return shakes.Load() > 20 || t.Failed() })
	was := map[string]bool{orders.live.Load().leaf.SerialNumber.String(): true, edge.live.Load().leaf.SerialNumber.String(): true}
	b.issue("orders")
	b.issue("edge")
	step("renewal", func(c *credentials) bool { return !was[c.leaf.SerialNumber.String()] })

	next, err := InitFleetCA(t.TempDir(), "fleet.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	newPEM, err := os.ReadFile(next.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	put(oldPEM, newPEM)
	step("both authorities", func(c *credentials) bool { return len(c.issued) == 2 })
	b.ca = next
	b.issue("orders") // one after the other: they meet mixed
	step("orders by the new one", func(c *credentials) bool {
		return c.name.Service == "edge" || c.leaf.CheckSignatureFrom(next.root) == nil
	})
	b.issue("edge")
	step("edge by the new one", func(c *credentials) bool { return c.leaf.CheckSignatureFrom(next.root) == nil })
	put(newPEM)
	step("the new one alone", func(c *credentials) bool { return len(c.issued) == 1 })
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// TestIdentityBrokenFiles: what doesn't work leaves what did, and says so once.
func TestIdentityBrokenFiles(t *testing.T) {
	b := newIdentityBed(t, "fleet.example")
	log, lines := logtest.NewNullLogger()
	s := b.issue("orders")
	id, err := NewIdentityFiles(s, Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	edge, was := b.identity("edge"), id.live.Load()
	if err := os.WriteFile(s.KeyFile, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	id.Refresh()
	id.Refresh()
	if all := lines.AllEntries(); len(all) != 1 || all[0].Level != logrus.WarnLevel || !strings.Contains(all[0].Message, "those from before are") {
		t.Errorf("log: %v", all)
	}
	if st := id.Status(); !strings.Contains(st.Error, "cert_file with key_file") || st.ErrorAt.IsZero() || st.Names[0] != "spiffe://fleet.example/svc/orders" || id.live.Load() != was {
		t.Errorf("status %+v", st)
	}
	if s, c := shake(t, id.Server(nil), edge.Client("orders")); s != nil || c != nil {
		t.Errorf("with a broken key: %v, %v", s, c)
	}
	b.issue("orders")
	id.Refresh()
	if st := id.Status(); st.Error != "" || id.live.Load() == was {
		t.Errorf("mended: %+v", st)
	}
}

func TestIdentityEnds(t *testing.T) {
	b := newIdentityBed(t, "fleet.example")
	log, lines := logtest.NewNullLogger()
	now := time.Now()
	if _, _, err := b.ca.Issue(b.dir, "orders", 90*24*time.Hour, now, false); err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentityFiles(b.settings("orders"), Deps{Log: log, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		later time.Duration
		lines int
		want  string
	}{
		{0, 0, ""},
		{75 * 24 * time.Hour, 0, ""},
		{25 * time.Hour, 1, "ends soon: issue it again"},
		{time.Hour, 1, "ends soon: issue it again"}, // once a day
		{23 * time.Hour, 2, "ends soon: issue it again"},
		{14 * 24 * time.Hour, 3, "has ended: others refuse it"},
	} {
		now = now.Add(tt.later)
		id.warn()
		all := lines.AllEntries()
		if len(all) != tt.lines || tt.lines > 0 && !strings.Contains(all[len(all)-1].Message, tt.want) {
			t.Errorf("after %v more: %d lines, want %d: %v", tt.later, len(all), tt.lines, all)
		}
		if st := id.Status(); !strings.Contains(st.Error, tt.want) || (tt.want == "") != (st.Error == "") {
			t.Errorf("after %v more: status %q", tt.later, st.Error)
		}
	}
}

func TestIdentityRefused(t *testing.T) {
	b, other := newIdentityBed(t, "fleet.example"), newIdentityBed(t, "fleet.example")
	log, lines := logtest.NewNullLogger()
	now := time.Now()
	id, err := NewIdentityFiles(b.issue("orders"), Deps{Log: log, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	from := netip.MustParseAddrPort("192.0.2.7:4711")
	tell := func(err error) { id.Refused("sidecar/orders", from, err) }
	server := func(client *tls.Config) error { s, _ := shake(t, id.Server([]string{}), client); return s }
	stranger := *other.identity("evil").live.Load().cert
	tell(server(&tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }}))
	tell(errors.New("within the second"))
	now = now.Add(2 * time.Second)
	tell(server(b.identity("edge").Client("orders")))
	all := lines.AllEntries()
	if len(all) != 2 || id.Refusals() != 3 {
		t.Fatalf("%d lines, %d refusals", len(all), id.Refusals())
	}
	if e := all[0]; e.Data["caller"] != "spiffe://fleet.example/svc/evil" || e.Data["peer"] != "192.0.2.7:4711" || !strings.Contains(e.Data["error"].(error).Error(), "unknown authority") {
		t.Errorf("stranger: %v", e.Data)
	}
	if e := all[1]; e.Data["caller"] != "spiffe://fleet.example/svc/edge" || e.Data["others"] != 1 || e.Data["error"].(error).Error() != "it isn't in allow" {
		t.Errorf("not allowed: %v", e.Data)
	}
}

func TestFleetCA(t *testing.T) {
	dir, out, now := t.TempDir(), filepath.Join(t.TempDir(), "certs"), time.Now()
	if _, err := OpenFleetCA(dir); err == nil || !strings.Contains(err.Error(), "sidegate ca init") {
		t.Errorf("no authority: %v", err)
	}
	for _, domain := range []string{"", "Fleet.example", "fleet..example", "a_b.example", "-x", "fleet.example:1", "fleet/x"} {
		if _, err := InitFleetCA(dir, domain, now); err == nil {
			t.Errorf("trust domain %q is taken", domain)
		}
	}
	if _, err := InitFleetCA(dir, "fleet.example", now); err != nil {
		t.Fatal(err)
	}
	if _, err := InitFleetCA(dir, "fleet.example", now); !errors.Is(err, os.ErrExist) {
		t.Errorf("again: %v", err)
	}
	a, err := OpenFleetCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"", ".", "..", "a/b", "a b", "../x"} {
		if _, _, err := a.Issue(out, service, time.Hour, now, false); err == nil {
			t.Errorf("service %q is certified", service)
		}
	}
	if _, _, err := a.Issue(dir, "ca", time.Hour, now, true); err == nil {
		t.Error("a service overwrites the authority")
	}
	if _, _, err := a.Issue(out, "orders", 11*365*24*time.Hour, now, false); err == nil || !strings.Contains(err.Error(), "the authority itself ends at") {
		t.Errorf("longer than the root: %v", err)
	}
	_, cert, err := a.Issue(out, "orders", time.Hour, now, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Issue(out, "orders", time.Hour, now, false); !errors.Is(err, os.ErrExist) {
		t.Errorf("again: %v", err)
	}
	key := filepath.Join(out, "orders.key")
	if err := os.Chmod(key, 0o640); err != nil { // so that a group may read it
		t.Fatal(err)
	}
	if _, _, err := a.Issue(out, "orders", time.Hour, now, true); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{out: 0o755, filepath.Join(dir, "ca.key"): 0o600, a.RootFile(): 0o644, cert: 0o644, key: 0o640} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, want %v (%v)", path, fi.Mode(), want, err)
		}
	}
	if all, err := ReadCertificates(cert); err != nil || len(all) != 1 {
		t.Errorf("%d certificates, %v", len(all), err)
	}
}

func BenchmarkIdentityHandshake(b *testing.B) {
	bed := newIdentityBed(b, "fleet.example")
	for _, resume := range []bool{false, true} {
		b.Run(map[bool]string{false: "full", true: "resumed"}[resume], func(b *testing.B) {
			server, client := bed.identity("orders").Server(nil), bed.identity("edge").Client("orders")
			if resume { // as it would be
				server.GetConfigForClient, server.SessionTicketsDisabled = nil, false
				client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(4), "orders"
			}
			b.ReportAllocs()
			for b.Loop() {
				if s, c := shake(b, server, client); s != nil || c != nil {
					b.Fatal(s, c)
				}
			}
		})
	}
}

func FuzzSPIFFE(f *testing.F) {
	for _, seed := range []string{
		"spiffe://fleet.example/svc/orders", "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web",
		"spiffe://a/svc/..", "spiffe://A/svc/x", "spiffe://a:1/svc/x", "spiffe://a/svc/x?q", "spiffe://a/svc/%41", "spiffe://u@a/svc/x", "SPIFFE://a/svc/x", "spiffe:///svc/x", "spiffe://a//svc/x", "spiffe://a/svc/x/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSPIFFE(text)
		if err != nil {
			return
		}
		if s.String() != text {
			t.Fatalf("%q is read as %+v, which is %q", text, s, s)
		}
		u, err := url.Parse(text)
		if err != nil || u.Host != s.TrustDomain || u.Port() != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.RawPath != "" || u.String() != text {
			t.Fatalf("%q: net/url reads %#v, %v", text, u, err)
		}
		if !strings.HasSuffix(u.Path, "/svc/"+s.Service) || strings.Contains(s.Service, "/") || strings.Contains(u.Path, "..") && !strings.Contains(s.Service+s.Datacenter, "..") {
			t.Fatalf("%q: path %q, service %q", text, u.Path, s.Service)
		}
	})
}

// TestSPIFFEOfConsul: the form that Consul's own authority signs is read from a
// certificate.
func TestSPIFFEOfConsul(t *testing.T) {
	b := newIdentityBed(t, "11111111-2222-3333-4444-555555555555.consul")
	der := b.odd(func(c *x509.Certificate) { c.URIs[0].Path = "/ns/default/dc/dc1/svc/web" }).Certificate[0]
	path := filepath.Join(b.dir, "web.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := ReadCertificates(path)
	if err != nil {
		t.Fatal(err)
	}
	id, err := spiffeOf(all[0])
	if want := (SPIFFE{TrustDomain: "11111111-2222-3333-4444-555555555555.consul", Datacenter: "dc1", Service: "web"}); err != nil || id != want {
		t.Errorf("%+v, %v", id, err)
	}
}
