package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// TestIdentityOfConsul: what a real agent's own authority signs is an identity,
// and is understood by others of its trust domain; Consul's mesh is to be a
// source of them.
func TestIdentityOfConsul(t *testing.T) {
	real(t)
	a := newAgent(t)
	a.start(t)
	var roots struct {
		TrustDomain string
		Roots       []struct{ RootCert string }
	}
	get := func(path string, into any) {
		t.Helper()
		eventually(t, path, func() error {
			text, err := a.do("GET", path, nil)
			if err != nil {
				return err
			}
			return json.Unmarshal([]byte(text), into)
		})
	}
	get("/v1/agent/connect/ca/roots", &roots)
	dir := t.TempDir()
	var bundle strings.Builder
	for _, r := range roots.Roots {
		bundle.WriteString(r.RootCert)
	}
	ca := write(t, filepath.Join(dir, "ca.pem"), bundle.String())
	log := logrus.New()
	log.SetOutput(io.Discard)
	identity := func(service string) *edgetls.IdentityFiles {
		t.Helper()
		var leaf struct{ CertPEM, PrivateKeyPEM, ServiceURI string }
		get("/v1/agent/connect/ca/leaf/"+service, &leaf)
		id, err := edgetls.NewIdentityFiles(edgetls.IdentitySettings{
			CAFile: ca, CertFile: write(t, filepath.Join(dir, service+".pem"), leaf.CertPEM), KeyFile: write(t, filepath.Join(dir, service+".key"), leaf.PrivateKeyPEM),
		}, edgetls.Deps{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		if got := id.Name(); got.String() != leaf.ServiceURI || got.Service != service || got.TrustDomain != roots.TrustDomain {
			t.Errorf("name %s, want %s", got, leaf.ServiceURI)
		}
		return id
	}
	web, db, other := identity("web"), identity("db"), identity("other")
	l, err := tls.Listen("tcp", "127.0.0.1:0", db.Server([]string{"web"}, "http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Second, ErrorLog: nil, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].URIs[0])
	})}
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = s.Close() })
	ask := func(id edgetls.Identity, service string) (string, error) {
		c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: id.Client(service, "http/1.1"), DisableKeepAlives: true}}
		return fetch(c, "https://"+net.JoinHostPort("127.0.0.1", fmt.Sprint(l.Addr().(*net.TCPAddr).Port))+"/")
	}
	if got, err := ask(web, "db"); err != nil || !strings.HasSuffix(got, "/ns/default/dc/dc1/svc/web") {
		t.Errorf("web: %q, %v", got, err)
	}
	if got, err := ask(other, "db"); err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("other: %q, %v", got, err)
	}
	if got, err := ask(web, "api"); err == nil || !strings.Contains(err.Error(), "it isn't svc/api") {
		t.Errorf("another service: %q, %v", got, err)
	}
}
