package upstream

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// newTLSBackend is a backend with TLS, whose certificate is for example.com and
// 127.0.0.1; ca is the file that holds it.
func newTLSBackend(t *testing.T, h2 bool, handler http.HandlerFunc) (be *httptest.Server, addr, ca string) {
	t.Helper()
	be = httptest.NewUnstartedServer(handler)
	be.EnableHTTP2 = h2
	be.Config.ErrorLog = nullLog()
	be.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	be.StartTLS()
	t.Cleanup(be.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: be.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return be, be.Listener.Addr().String(), ca
}

// newH2CBackend speaks HTTP/2 without TLS.
func newH2CBackend(t *testing.T, handler http.Handler) (addr string, conns *atomic.Int64) {
	t.Helper()
	conns = &atomic.Int64{}
	be := httptest.NewUnstartedServer(handler)
	be.Config.Protocols = new(http.Protocols)
	be.Config.Protocols.SetUnencryptedHTTP2(true)
	be.Config.ErrorLog = nullLog()
	be.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	be.Start()
	t.Cleanup(be.Close)
	return be.Listener.Addr().String(), conns
}

func proto(w http.ResponseWriter, r *http.Request) {
	name := ""
	if r.TLS != nil {
		name = r.TLS.ServerName
	}
	fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, name)
}

func TestHTTPS(t *testing.T) {
	_, addr, ca := newTLSBackend(t, false, proto)
	tests := []struct {
		name string
		tls  *TLSConfig
		host string
		want string // "": the connection fails
	}{
		{"name of the request", &TLSConfig{CAFile: ca}, "example.com", "HTTP/1.1 example.com example.com"},
		{"wrong name of the request", &TLSConfig{CAFile: ca}, "other.test", ""},
		{"name given", &TLSConfig{CAFile: ca, ServerName: "example.com"}, "other.test", "HTTP/1.1 other.test example.com"},
		{"address of the instance", &TLSConfig{CAFile: ca}, "127.0.0.1", "HTTP/1.1 127.0.0.1 "},
		{"unknown authority", nil, "example.com", ""},
		{"insecure", &TLSConfig{Insecure: true}, "other.test", "HTTP/1.1 other.test other.test"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, &Config{Protocol: "https", TLS: tt.tls}, Deps{}, at(addr))
			for range 2 {
				x := request("GET", "/")
				x.Target.Host, x.Target.Authority = tt.host, tt.host
				a := b.send(x)
				if tt.want == "" {
					wantFault(t, a, exchange.ConnectFailed)
				} else if a.body != tt.want {
					t.Errorf("answer = %+v, want %q", a, tt.want)
				}
			}
		})
	}
}

// TestConnectionsHaveNames: a connection verified for one host isn't used for
// another.
func TestConnectionsHaveNames(t *testing.T) {
	_, addr, ca := newTLSBackend(t, false, proto)
	b := newBench(t, &Config{Protocol: "https", TLS: &TLSConfig{CAFile: ca}}, Deps{}, at(addr))
	for _, tt := range []struct{ host, want string }{{"example.com", "HTTP/1.1 example.com example.com"}, {"other.test", ""}, {"example.com", "HTTP/1.1 example.com example.com"}} {
		x := request("GET", "/")
		x.Out.Host = tt.host
		if a := b.send(x); a.body != tt.want {
			t.Errorf("%s: answer = %+v, want %q", tt.host, a, tt.want)
		}
	}
	if st := b.instance(addr); st.Open != 1 {
		t.Errorf("status = %+v, want one connection, used twice", st)
	}
	// Idle connections of other names make room.
	b.apply(&Config{Name: "s", Protocol: "https", TLS: &TLSConfig{CAFile: ca}, Limits: &LimitsConfig{Connections: 1, Requests: 1}})
	for _, host := range []string{"example.com", "127.0.0.1", "example.com"} {
		x := request("GET", "/")
		x.Out.Host = host
		if a := b.send(x); a.status != 200 {
			t.Errorf("%s: answer = %+v", host, a)
		}
		if st := b.instance(addr); st.Open != 1 {
			t.Errorf("status = %+v, want one connection", st)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	be, addr, ca := newTLSBackend(t, false, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, len(r.TLS.PeerCertificates))
	})
	pair := be.TLS.Certificates[0] // any will do
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(path, kind string, der []byte) {
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cert, "CERTIFICATE", pair.Certificate[0])
	write(key, "PRIVATE KEY", pkcs8(t, pair.PrivateKey))
	b := newBench(t, &Config{Protocol: "https", TLS: &TLSConfig{CAFile: ca, ServerName: "example.com", CertFile: cert, KeyFile: key}}, Deps{}, at(addr))
	if a := b.get("/"); a.body != "1" {
		t.Errorf("answer = %+v, want our certificate seen", a)
	}
}

func TestH2C(t *testing.T) {
	g := newGate(t)
	addr, conns := newH2CBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			g.serve(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %s", r.Proto, body)
	}))
	b := newBench(t, &Config{Protocol: "h2c"}, Deps{}, at(addr))
	if a := b.get("/"); a.body != "HTTP/2.0 " {
		t.Fatalf("answer = %+v", a)
	}
	if a := b.send(withBody(request("POST", "/"), "hello", true)); a.body != "HTTP/2.0 hello" {
		t.Fatalf("answer = %+v", a)
	}
	done := make(chan answer, 20)
	for range 20 {
		go func() { done <- b.get("/hold") }()
	}
	until(t, "20 requests at the backend", func() bool { return g.inside.Load() == 20 })
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 20 requests, want 1", n)
	}
	if st := b.instance(addr); st.Pending != 20 || st.Open != 1 || st.Idle != 0 {
		t.Errorf("status = %+v", st)
	}
	g.release()
	for range 20 {
		if a := <-done; a.body != "through" {
			t.Errorf("answer = %+v", a)
		}
	}
	if st := b.instance(addr); st.Pending != 0 || st.Open != 1 || st.Idle != 1 {
		t.Errorf("status = %+v", st)
	}
}

// TestH2CDialsOnce: requests that come at once share the first connection.
func TestH2CDialsOnce(t *testing.T) {
	addr, conns := newH2CBackend(t, http.HandlerFunc(proto))
	b := newBench(t, &Config{Protocol: "h2c"}, Deps{}, at(addr))
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if a := b.get("/"); a.status != 200 {
				t.Errorf("answer = %+v", a)
			}
		})
	}
	wg.Wait()
	if n := conns.Load(); n > 2 {
		t.Errorf("%d connections, want one", n)
	}
}

func TestH2OverTLS(t *testing.T) {
	_, addr, ca := newTLSBackend(t, true, proto)
	b := newBench(t, &Config{Protocol: "h2", TLS: &TLSConfig{CAFile: ca, ServerName: "example.com"}}, Deps{}, at(addr))
	for range 3 {
		if a := b.get("/"); a.body != "HTTP/2.0 s.test example.com" {
			t.Errorf("answer = %+v", a)
		}
	}
	// A backend without h2 says so.
	_, addr, ca = newTLSBackend(t, false, proto)
	b = newBench(t, &Config{Protocol: "h2", TLS: &TLSConfig{CAFile: ca, ServerName: "example.com"}}, Deps{}, at(addr))
	if a := b.get("/"); a.fault == nil || !strings.Contains(a.fault.Error(), "h2") && !strings.Contains(a.fault.Error(), "no application protocol") {
		t.Errorf("answer = %+v", a)
	}
}

func TestHTTPCheck(t *testing.T) {
	var broken atomic.Bool
	be := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			if r.Host != "health.test" || r.Header.Get("User-Agent") != "sidegate-check" {
				t.Errorf("check for host %q by %q", r.Host, r.Header.Get("User-Agent"))
			}
			if broken.Load() {
				w.WriteHeader(500)
			}
		}
	})
	good := newBackend(t, nil)
	cfg := &Config{SlowStart: time.Minute, HealthCheck: &HealthCheckConfig{Type: "http", Path: "/healthz", Host: "health.test", Interval: 20 * time.Millisecond, Timeout: time.Second, Rise: 2, Fall: 3}}
	b := newBench(t, cfg, Deps{}, at(be.addr), at(good.addr))
	until(t, "a passing check", func() bool { return b.instance(be.addr).Check == "passing" })
	if st := b.instance(be.addr); st.EffectiveWeight != 1 {
		t.Errorf("status = %+v: the first instances start at full weight", st)
	}
	broken.Store(true)
	until(t, "a failing check", func() bool { return b.instance(be.addr).Check == "failing" })
	if st := b.instance(be.addr); st.Eligible || st.Why != "its check fails" || st.CheckError != "GET /healthz: status 500" {
		t.Errorf("status = %+v", st)
	}
	broken.Store(false)
	until(t, "a passing check", func() bool { return b.instance(be.addr).Check == "passing" })
	if st := b.instance(be.addr); !st.Eligible || st.EffectiveWeight > 0.2 {
		t.Errorf("status = %+v, want a slow start", st)
	}
	// A passing check ends an ejection.
	b.p.eject(b.p.instances[be.addr], b.g.now(), "test")
	until(t, "the end of the ejection", func() bool { st := b.instance(be.addr); return st.Ejections == 1 && st.Eligible })
	// Without checks, their results are forgotten.
	b.apply(&Config{Name: "s"})
	if st := b.instance(be.addr); st.Check != "" || !st.Eligible {
		t.Errorf("status = %+v", st)
	}
}

func TestChecksOfKinds(t *testing.T) {
	var status atomic.Int64 // of grpc
	status.Store(1)
	grpc := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/grpc.health.v1.Health/Check" || r.Header.Get("Content-Type") != "application/grpc" || r.Header.Get("Te") != "trailers" ||
			string(body) != "\x00\x00\x00\x00\x05\x0a\x03abc" {
			t.Errorf("check %s %v %q %v", r.URL.Path, r.Header, body, err)
		}
		w.Header().Set("Content-Type", "application/grpc")
		if status.Load() < 0 {
			w.Header().Set("Grpc-Status", "12")
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write([]byte{0, 0, 0, 0, 2, 0x08, byte(status.Load())})
		w.Header().Set("Grpc-Status", "0")
	})
	h2c, _ := newH2CBackend(t, grpc)
	_, secure, ca := newTLSBackend(t, true, grpc)
	_, https, ca1 := newTLSBackend(t, false, func(http.ResponseWriter, *http.Request) {})
	tcp := newBackend(t, nil)
	hang, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer hang.Close()
	tests := []struct {
		name, addr, protocol, kind, ca string
		status                         int64
		want                           string // the error; "": none
	}{
		{"tcp", tcp.addr, "http1", "tcp", "", 1, ""},
		{"tcp refused", deadAddr(t), "http1", "tcp", "", 1, "connection refused"},
		{"https by address", https, "https", "http", ca1, 1, ""},
		{"https of an unknown authority", https, "https", "http", "", 1, "unknown authority"},
		{"no answer", hang.Addr().String(), "http1", "http", "", 1, "no answer within 200ms"},
		{"no HTTP/2 answer", hang.Addr().String(), "h2c", "http", "", 1, "no answer within 200ms"},
		{"grpc", h2c, "h2c", "grpc", "", 1, ""},
		{"grpc over TLS", secure, "h2", "grpc", ca, 1, ""},
		{"grpc not serving", h2c, "h2c", "grpc", "", 2, "grpc check: not serving"},
		{"grpc unknown", h2c, "h2c", "grpc", "", 3, "grpc check: the service isn't known"},
		{"grpc without health", h2c, "h2c", "grpc", "", -1, `grpc check: grpc-status "12"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status.Store(tt.status)
			cfg := &Config{Protocol: tt.protocol, HealthCheck: &HealthCheckConfig{Type: tt.kind, Service: "abc", Interval: time.Hour, Timeout: 200 * time.Millisecond}}
			if tt.ca != "" {
				cfg.TLS = &TLSConfig{CAFile: tt.ca}
			}
			if !strings.Contains(tt.want, "no answer") {
				cfg.HealthCheck.Timeout = 5 * time.Second
			}
			b := newBench(t, cfg, Deps{}, at(tt.addr))
			until(t, "a result", func() bool { return b.instance(tt.addr).Check != "unknown" })
			st := b.instance(tt.addr)
			if (st.Check == "passing") != (tt.want == "") || !strings.Contains(st.CheckError, tt.want) {
				t.Errorf("check = %s %q, want %q", st.Check, st.CheckError, tt.want)
			}
			if st.Open != 0 {
				t.Errorf("%d connections counted, want none: checks have their own", st.Open)
			}
		})
	}
}

func TestCheckState(t *testing.T) {
	bad := errors.New("bad")
	h := &HealthCheckConfig{Rise: 2, Fall: 3}
	tests := []struct {
		name string
		in   []error
		want checkResult
	}{
		{"first good", []error{nil}, checkPassing},
		{"first bad", []error{bad}, checkFailing},
		{"two bad", []error{nil, bad, bad}, checkPassing},
		{"three bad", []error{nil, bad, bad, bad}, checkFailing},
		{"not in a row", []error{nil, bad, bad, nil, bad, bad}, checkPassing},
		{"one good", []error{bad, nil}, checkFailing},
		{"two good", []error{bad, nil, nil}, checkPassing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c checkState
			for _, err := range tt.in {
				c.take(err, h)
			}
			if c.state != tt.want {
				t.Errorf("state = %v, want %v", c.state, tt.want)
			}
		})
	}
}

func TestGRPCServing(t *testing.T) {
	for _, in := range []string{"", "\x00\x00\x00\x00", "\x01\x00\x00\x00\x02\x08\x01", "\x00\x00\x00\x00\x03\x08\x01", "\x00\x00\x00\x00\x01\x08", "\x00\x00\x00\x00\x02\x0a\x01", "\x00\x00\x00\x00\x00"} {
		if err := grpcServing([]byte(in)); err == nil {
			t.Errorf("grpcServing(%q) = nil, want an error", in)
		}
	}
}
