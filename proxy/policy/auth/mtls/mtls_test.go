package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func directory(t testing.TB) *consumer.Directory {
	t.Helper()
	names := func(list ...string) (out []*consumer.MTLSConfig) {
		for _, n := range list {
			out = append(out, &consumer.MTLSConfig{SAN: n})
		}
		return out
	}
	d, err := consumer.Compile(nil, []*consumer.Config{
		{Name: "acme", MTLS: names("spiffe://example.com/acme", "Acme.Example.com", "ops@Example.com", "urn:uuid:1")},
		{Name: "umbrella", MTLS: names("spiffe://example.com/umbrella/a/b")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// certificate has alternative names: URIs, DNS names, addresses.
func certificate(t testing.TB, names ...string) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "spiffe://example.com/acme"}}
	for _, n := range names {
		switch {
		case strings.Contains(n, "://") || strings.HasPrefix(n, "urn:"):
			u, err := url.Parse(n)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		case strings.Contains(n, "@"):
			c.EmailAddresses = append(c.EmailAddresses, n)
		default:
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	return c
}

func shows(x *exchange.Exchange, c *x509.Certificate) {
	x.Conn = &exchange.Conn{Scheme: "https", TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}}
}

func TestRequest(t *testing.T) {
	const none = "forbidden: no credential: a consumer's certificate"
	unknown := "forbidden: the client's certificate is no consumer's"
	d := directory(t)
	known, any := policytest.Policy(t, Kind(d), `auth "mtls" {}`), policytest.Policy(t, Kind(d), `auth "mtls" { any = true }`)
	ended := certificate(t, "spiffe://example.com/acme")
	ended.NotAfter = time.Now().Add(-time.Second)
	tests := []struct {
		name string
		cert *x509.Certificate
		want string // the consumer; "": refused
		err  string
		any  string // with any = true: the consumer, "-": nobody; "": refused
	}{
		{"SPIFFE id", certificate(t, "spiffe://example.com/acme"), "acme", "", "acme"},
		{"DNS name", certificate(t, "x.example.com", "ACME.example.com"), "acme", "", "acme"},
		{"address", certificate(t, "ops@EXAMPLE.com"), "acme", "", "acme"},
		{"opaque URI", certificate(t, "urn:uuid:1"), "acme", "", "acme"},
		{"several of one consumer", certificate(t, "spiffe://example.com/acme", "acme.example.com"), "acme", "", "acme"},
		{"of two consumers", certificate(t, "spiffe://example.com/acme", "spiffe://example.com/umbrella/a/b"), "", "forbidden: the certificate has names of several consumers", ""},
		{"no name", certificate(t), "", unknown, "-"}, // its common name doesn't count
		{"longer", certificate(t, "spiffe://example.com/acme/x"), "", unknown, "-"},
		{"shorter", certificate(t, "spiffe://example.com/umbrella/a"), "", unknown, "-"},
		{"another trust domain", certificate(t, "spiffe://example.org/acme"), "", unknown, "-"},
		{"another scheme", certificate(t, "https://example.com/acme"), "", unknown, "-"},
		{"escaped slash", certificate(t, "spiffe://example.com/umbrella/a%2fb"), "", unknown, "-"},
		{"with a query", certificate(t, "spiffe://example.com/acme?x=1"), "", unknown, "-"},
		{"with a fragment", certificate(t, "spiffe://example.com/acme#x"), "", unknown, "-"},
		{"with a user", certificate(t, "spiffe://u@example.com/acme"), "", unknown, "-"},
		{"with a port", certificate(t, "spiffe://example.com:443/acme"), "", unknown, "-"},
		{"DNS name below", certificate(t, "a.acme.example.com"), "", unknown, "-"},
		{"wildcard", certificate(t, "*.example.com"), "", unknown, "-"},
		{"address in other letters", certificate(t, "OPS@example.com"), "", unknown, "-"},
		{"ended", ended, "", "forbidden: the client's certificate has expired since it connected", ""},
		{"none", nil, "", none, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for p, want := range map[policy.Policy]string{known: tt.want, any: tt.any} {
				x := policytest.Exchange(t, "GET https://a.test/")
				if tt.cert != nil {
					shows(x, tt.cert)
				}
				_, err := p.(policy.Requester).Request(x)
				got := ""
				switch {
				case err == nil && x.Consumer == nil:
					got = "-"
				case err == nil:
					got = x.Consumer.Name
				}
				if got != want {
					t.Errorf("any %v: %q (%v), want %q", p == any, got, err, want)
				}
				var f *exchange.Fault
				if err != nil && (!errors.As(err, &f) || f.Kind != exchange.Forbidden || x.Consumer != nil || len(policytest.Sent(&x.Response, &x.ResponseEdits)) > 0) {
					t.Errorf("fault %v", err)
				}
				if p == known && err != nil && err.Error() != tt.err {
					t.Errorf("refused: %q, want %q", err, tt.err)
				}
			}
		})
	}
	// One that no authority of the listener has signed.
	x := policytest.Exchange(t, "GET https://a.test/")
	x.Conn = &exchange.Conn{Scheme: "https", TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate(t, "acme.example.com")}}}
	if _, err := known.(policy.Requester).Request(x); err == nil || err.Error() != none {
		t.Errorf("unverified: %v", err)
	}
}

// TestBeside: with another way in, a stranger's certificate leaves it open.
func TestBeside(t *testing.T) {
	d := directory(t)
	key, err := apikey.New(apikey.Config{Header: "X-API-Key"}, d)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Kind(d).Join("r", []policy.Policy{New(Config{}, d), key})
	if err != nil {
		t.Fatal(err)
	}
	for names, want := range map[string]string{
		"":                          "unauthenticated: no credential: a consumer's certificate, else an API key in X-API-Key",
		"x.example.com":             "unauthenticated: no credential: a consumer's certificate, else an API key in X-API-Key",
		"spiffe://example.com/acme": "",
	} {
		x := policytest.Exchange(t, "GET https://a.test/")
		if names != "" {
			shows(x, certificate(t, names))
		}
		_, err := p.(policy.Requester).Request(x)
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%q: %v, want %q", names, err, want)
		}
		if err != nil && strings.Join(policytest.Sent(&x.Response, &x.ResponseEdits), "") != `WWW-Authenticate: ApiKey header="X-API-Key"` {
			t.Errorf("%q: answer %q", names, policytest.Sent(&x.Response, &x.ResponseEdits))
		}
	}
}

func TestNoAllocations(t *testing.T) {
	p := policytest.Policy(t, Kind(directory(t)), `auth "mtls" {}`).(policy.Requester)
	x := policytest.Exchange(t, "GET https://a.test/")
	shows(x, certificate(t, "spiffe://example.com/acme", "acme.example.com", "ops@example.com"))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(nil)) }
