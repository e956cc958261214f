package h2

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// handlerFunc answers exchanges; like the gateway's handler it closes the bodies.
type handlerFunc func(x *exchange.Exchange)

func (f handlerFunc) Serve(x *exchange.Exchange) {
	if x.Fault != nil {
		x.Reply(faultStatus(x.Fault), "text/plain", []byte(x.Fault.Error()))
	} else if fault := x.Canonicalise(); fault != nil {
		x.Reply(400, "text/plain", []byte(fault.Error()))
	} else {
		f(x)
	}
	if err := x.Front.Respond(x); err != nil {
		x.Err, _ = err.(*exchange.Fault)
	}
	if x.ResponseBody != nil {
		_ = x.ResponseBody.Close()
	}
	if x.RequestBody != nil {
		_ = x.RequestBody.Close()
	}
}

func faultStatus(f *exchange.Fault) int {
	switch f.Kind {
	case exchange.HeadersTooLarge:
		return 431
	case exchange.URITooLong:
		return 414
	case exchange.Expectation:
		return 417
	case exchange.NotImplemented:
		return 501
	default:
		return 400
	}
}

// echo answers with the request's body, as it comes.
func echo(x *exchange.Exchange) {
	x.Status = 200
	x.ResponseLength = -1
	if x.RequestBody == nil {
		x.Reply(200, "text/plain", []byte("hello\n"))
		return
	}
	x.ResponseBody = x.RequestBody
}

func quietLog() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(os.Stderr)
	return l
}

// sweeper runs a sweeper until the test ends.
func sweeper(t testing.TB) *sweep.Sweeper {
	s := sweep.New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// server is a front behind a listener.
type server struct {
	*Front
	addr string
	tls  *tls.Config // for clients; nil: plain
	wait chan struct{}
}

// serve starts a front; it ends with the test.
func serve(t testing.TB, cfg FrontConfig, secure bool) *server {
	t.Helper()
	if cfg.Sweeper == nil {
		cfg.Sweeper = sweeper(t)
	}
	if cfg.Log == nil {
		cfg.Log = quietLog()
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Front: NewFront(cfg), addr: ln.Addr().String(), wait: make(chan struct{})}
	var serverTLS *tls.Config
	if secure {
		cert, pool := certificate(t)
		serverTLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
		s.tls = &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	}
	go func() {
		defer close(s.wait)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				info := &exchange.Conn{Scheme: "http", Listener: "test", Remote: netip.MustParseAddrPort(nc.RemoteAddr().String())}
				if serverTLS != nil {
					info.Scheme = "https"
					tc := tls.Server(nc, serverTLS)
					if tc.Handshake() != nil {
						nc.Close()
						return
					}
					nc = tc
				}
				s.ServeConn(nc, info, nil)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-s.wait
		s.Front.Close()
	})
	return s
}

func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// until polls ok.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// noLeaks fails the test when it leaves goroutines of this package behind. It
// must be called before anything that has a cleanup of its own.
func noLeaks(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		var left string
		deadline := time.Now().Add(10 * time.Second)
		for time.Now().Before(deadline) {
			buf := make([]byte, 1<<20)
			left = ""
			for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				if strings.Contains(g, "proxy/h2.(*") && !strings.Contains(g, "testing.tRunner") {
					left += g + "\n\n"
				}
			}
			if left == "" {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Errorf("goroutines are left:\n%s", left)
	})
}

// tool finds a program that tests need.
func tool(t *testing.T, name string) string {
	t.Helper()
	if dir := os.Getenv("SIDEGATE_TOOLS"); dir != "" {
		if p := filepath.Join(dir, name); isFile(p) {
			return p
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for dir, _ := os.Getwd(); dir != "/" && dir != ""; dir = filepath.Dir(dir) {
		if isFile(filepath.Join(dir, "go.mod")) {
			if p := filepath.Join(dir, ".cache", "tools", name); isFile(p) {
				return p
			}
			break
		}
	}
	if testing.Short() {
		t.Skipf("%s is missing", name)
	}
	t.Fatalf("%s is missing: run make tools", name)
	return ""
}

func isFile(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular()
}
