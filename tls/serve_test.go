package tls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/sirupsen/logrus"
)

func newServedEdge(t *testing.T) (*edge, string) {
	t.Helper()
	e, dir := newEdge(t), t.TempDir()
	e.serve(t, dir)
	return e, dir
}

func TestWhichCertificate(t *testing.T) {
	e, _ := newServedEdge(t)
	commit(t, e.m, nil, "shop.example.com", "*.wild.example.com", "db.internal")
	roots := localRoots(e.m)
	for _, tt := range []struct{ name, sni, host, alert string }{
		{"no server name", "", "127.0.0.1", ""},
		{"localhost", "localhost", "", ""},
		{"one label", "printer", "", ""},
		{"under internal", "db.internal", "", ""},
		{"under internal, upper case", "DB.Internal", "", ""},
		{"under home.arpa", "nas.home.arpa", "", ""},
		{"route without certificate", "shop.example.com", "", ""},
		{"under a route's wildcard", "a.wild.example.com", "", ""},
		{"in no route", "other.example.com", "", "unrecognized name"},
		{"beside a suffix", "notinternal.example", "", "unrecognized name"},
		{"not a name", "a_b.-c.test", "", "unrecognized name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conf := &tls.Config{ServerName: tt.sni, RootCAs: roots}
			if tt.sni == "" {
				// crypto/tls sends no address as a server name, but checks it.
				conf.ServerName = tt.host
			}
			st, err := dial(e.tls.Addr().String(), conf)
			if tt.alert != "" {
				if err == nil || !strings.Contains(err.Error(), tt.alert) {
					t.Fatalf("handshake error %v, want alert %q", err, tt.alert)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if st.Version != tls.VersionTLS13 || st.CurveID != tls.X25519MLKEM768 {
				t.Errorf("version %x, group %v; want TLS 1.3 with X25519MLKEM768", st.Version, st.CurveID)
			}
		})
	}
}

func TestVersionsAndSuites(t *testing.T) {
	e, _ := newServedEdge(t)
	addr, roots := e.tls.Addr().String(), localRoots(e.m)
	conf := func(f func(*tls.Config)) *tls.Config {
		c := &tls.Config{ServerName: "localhost", RootCAs: roots, NextProtos: []string{"http/1.1", "h2"}}
		f(c)
		return c
	}
	_, err := dial(addr, conf(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }))
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1: error %v, want alert protocol version", err)
	}
	_, err = dial(addr, conf(func(c *tls.Config) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	}))
	if err == nil {
		t.Error("a CBC suite was accepted")
	}
	st, err := dial(addr, conf(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }))
	if err != nil || st.NegotiatedProtocol != "h2" {
		t.Errorf("TLS 1.2: protocol %q, %v; want h2", st.NegotiatedProtocol, err)
	}
	commit(t, e.m, &Settings{MinVersion: "1.3"})
	if _, err = dial(addr, conf(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })); err == nil {
		t.Error("TLS 1.2 was accepted after min_version = 1.3")
	}
	if st, err = dial(addr, conf(func(*tls.Config) {})); err != nil || st.NegotiatedProtocol != "h2" {
		t.Errorf("TLS 1.3 under min_version = 1.3: %q, %v", st.NegotiatedProtocol, err)
	}
	// A validation that nobody waits for gets no certificate, and no protocol
	// of ours.
	_, err = dial(addr, conf(func(c *tls.Config) { c.NextProtos = []string{ChallengeProtocol} }))
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("unexpected validation: error %v, want alert unrecognized name", err)
	}
	_, err = dial(addr, conf(func(c *tls.Config) { c.NextProtos = []string{ChallengeProtocol, "foo"} }))
	if err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("validation protocol beside another: error %v, want no application protocol", err)
	}
}

func TestResumptionSurvivesRestart(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			e, dir := newServedEdge(t)
			cache := tls.NewLRUClientSessionCache(10)
			conf := &tls.Config{ServerName: "localhost", RootCAs: localRoots(e.m), MaxVersion: version, ClientSessionCache: cache}
			resumed := func() bool {
				st, err := dial(e.tls.Addr().String(), conf)
				if err != nil {
					t.Fatal(err)
				}
				return st.DidResume
			}
			if resumed() {
				t.Error("resumed at once")
			}
			if !resumed() {
				t.Error("not resumed")
			}
			e.restart(t, dir)
			if !resumed() {
				t.Error("not resumed after a restart")
			}
			if err := os.Remove(filepath.Join(dir, "tickets.json")); err != nil {
				t.Fatal(err)
			}
			e.restart(t, dir)
			if resumed() {
				t.Error("resumed with other keys")
			}
		})
	}
}

// A session without a client certificate must not go on where one is asked
// for, nor one under another name.
func TestTicketsStayInScope(t *testing.T) {
	e, _ := newServedEdge(t)
	roots := localRoots(e.m)
	cache := &oneSession{}
	conf := &tls.Config{ServerName: "localhost", RootCAs: roots, ClientSessionCache: cache}
	if _, err := dial(e.tls.Addr().String(), conf); err != nil {
		t.Fatal(err)
	}
	other := newEdge(t)
	other.m, other.config = e.m, e.m.ServerConfig([]string{"http/1.1"}, x509.NewCertPool())
	serveOnce(t, other)
	st, err := dial(other.tls.Addr().String(), conf)
	if err != nil || st.DidResume {
		t.Errorf("on a listener with client certificates: resumed %v, %v; want a full handshake", st.DidResume, err)
	}
	conf.ClientSessionCache = cache.reset(t, e, conf)
	conf.ServerName = "other.internal"
	// crypto/tls's client itself refuses to resume under a name that the
	// session's certificate lacks; so the certificate isn't verified here.
	conf.InsecureSkipVerify = true //nolint:gosec // see above
	if st, err = dial(e.tls.Addr().String(), conf); err != nil || st.DidResume {
		t.Errorf("under another name: resumed %v, %v; want a full handshake", st.DidResume, err)
	}
}

// oneSession offers the same session whatever the server.
type oneSession struct{ s *tls.ClientSessionState }

func (o *oneSession) Get(string) (*tls.ClientSessionState, bool) { return o.s, o.s != nil }
func (o *oneSession) Put(_ string, s *tls.ClientSessionState)    { o.s = s }

func (o *oneSession) reset(t *testing.T, e *edge, conf *tls.Config) *oneSession {
	t.Helper()
	fresh := &oneSession{}
	c := conf.Clone()
	c.ClientSessionCache, c.InsecureSkipVerify = fresh, true
	if _, err := dial(e.tls.Addr().String(), c); err != nil {
		t.Fatal(err)
	}
	return fresh
}

func serveOnce(t *testing.T, e *edge) {
	t.Helper()
	_ = e.plain.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := e.tls.Accept()
		if err != nil {
			return
		}
		tc := tls.Server(c, e.config)
		if tc.Handshake() == nil {
			_, _ = tc.Write([]byte("hello"))
		}
		_ = tc.Close()
	}()
	t.Cleanup(func() { _ = e.tls.Close(); <-done })
}

func TestClientCertificates(t *testing.T) {
	e, _ := newServedEdge(t)
	a, err := newAuthority(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	conf := e.m.ServerConfig(nil, pool)
	if conf.ClientAuth != tls.VerifyClientCertIfGiven || conf.ClientCAs != pool {
		t.Errorf("ClientAuth = %v", conf.ClientAuth)
	}
	if conf := e.m.ServerConfig(nil, nil); conf.ClientAuth != tls.NoClientCert {
		t.Errorf("without a pool: ClientAuth = %v", conf.ClientAuth)
	}
}

func TestQUIC(t *testing.T) {
	m := newManager(t, t.TempDir())
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	srv := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(m.QUICConfig(nil)),
		Handler:   http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(udp) }()
	defer func() { _ = srv.Close(); <-done }()
	cache := tls.NewLRUClientSessionCache(10)
	get := func() *tls.ConnectionState {
		tr := &http3.Transport{
			TLSClientConfig: &tls.Config{RootCAs: localRoots(m), ServerName: "localhost", ClientSessionCache: cache},
			QUICConfig:      &quic.Config{HandshakeIdleTimeout: 5 * time.Second},
		}
		defer tr.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+udp.LocalAddr().String()+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.TLS
	}
	if st := get(); st.NegotiatedProtocol != "h3" || st.DidResume {
		t.Errorf("first: protocol %q, resumed %v", st.NegotiatedProtocol, st.DidResume)
	}
	wait(t, "a resumed connection", 10*time.Second, func() bool { return get().DidResume })
}

// Everything works from memory when the state directory can't be used.
func TestUnusableStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	writeFile(t, dir, []byte("not a directory"))
	e := newEdge(t)
	e.serve(t, dir)
	problems := e.m.Problems()
	if len(problems) != 2 || !strings.Contains(errors.Join(problems...).Error(), dir) {
		t.Errorf("Problems() = %v, want the authority's and the ticket keys', with the directory", problems)
	}
	if _, path := e.m.CA(); path != "" {
		t.Errorf("CA() says that the root is in %s", path)
	}
	cache := tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		st, err := dial(e.tls.Addr().String(), &tls.Config{ServerName: "localhost", RootCAs: localRoots(e.m), ClientSessionCache: cache})
		if err != nil || st.DidResume != (i == 1) {
			t.Errorf("connection %d: resumed %v, %v", i, st.DidResume, err)
		}
	}
	if _, _, err := LocalRoot(dir); err == nil {
		t.Error("LocalRoot gave a root that is on no disk")
	}
}

// What choosing a certificate costs in a handshake of some 100 µs.
func BenchmarkCertificate(b *testing.B) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	m, err := NewManager(Deps{Log: log, StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	p, err := m.Plan(&Settings{ACME: &ACMESettings{Directory: "https://127.0.0.1:1/dir"}}, []string{"acme.example.com"})
	if err != nil {
		b.Fatal(err)
	}
	p.Commit(b.Context())
	for _, name := range []string{"acme.example.com", "local.internal", "unknown.example.com"} {
		b.Run(name, func(b *testing.B) {
			hello := &tls.ClientHelloInfo{ServerName: name}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.certificate(hello); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
