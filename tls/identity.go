package tls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Identity is who this process is among the fleet's: a certificate with the
// name of a service, and the authorities that sign those of the others. Its
// configurations follow renewed certificates and authorities by themselves.
//
// Connections are of TLS 1.3, both sides show certificates, and every one is
// verified in full: nothing is resumed, so that no ticket outlives an authority
// or a list of callers. What that costs is in packaging/doc/identity.md.
type Identity interface {
	// Name is our own name.
	Name() SPIFFE
	// Server is the configuration of a listener that takes calls from the
	// services in allow; nil allows every service of our trust domain, an empty
	// list none. protocols are those for ALPN. A caller that is refused gets an
	// alert; the handshake's error tells who it was and why.
	Server(allow []string, protocols ...string) *tls.Config
	// Client is the configuration of connections to a service, whose certificate
	// must have its name: host names and addresses mean nothing.
	Client(service string, protocols ...string) *tls.Config
}

// IdentitySettings is an identity block: who this process is in the fleet.
type IdentitySettings struct {
	// The authorities of the fleet, PEM: several while one replaces another.
	CAFile string `hcl:"ca_file,attr" required:"true"`
	// Our certificate, PEM, with one URI: spiffe://TRUST-DOMAIN/svc/NAME.
	CertFile string `hcl:"cert_file,attr" required:"true"`
	// Its key, PEM.
	KeyFile string `hcl:"key_file,attr" required:"true"`
}

// credentials are a certificate and the authorities it goes with. They are
// immutable.
type credentials struct {
	name   SPIFFE
	cert   *tls.Certificate
	leaf   *x509.Certificate
	roots  *x509.CertPool
	issued []*x509.Certificate // the authorities, for status
}

// newCredentials reads a pair and authorities, and checks that all belong
// together: what it returns works, at now, with others of the fleet.
func newCredentials(caPEM, certPEM, keyPEM []byte, now time.Time) (*credentials, error) {
	c := &credentials{roots: x509.NewCertPool()}
	var err error
	if c.issued, err = parseCertificates(caPEM); err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	for _, ca := range c.issued {
		if !ca.IsCA {
			return nil, fmt.Errorf("ca_file: %s isn't an authority's certificate", named(ca))
		}
		c.roots.AddCert(ca)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("cert_file with key_file: %w", err)
	}
	c.cert, c.leaf = &pair, pair.Leaf
	if c.name, err = spiffeOf(c.leaf); err != nil {
		return nil, fmt.Errorf("cert_file: %w: see sidegate ca issue", err)
	}
	if now.After(c.leaf.NotAfter) {
		return nil, fmt.Errorf("cert_file: the certificate of %s has ended at %s: issue it again", c.name, c.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	chain := []*x509.Certificate{c.leaf}
	for _, der := range pair.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		chain = append(chain, cert)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := verifyFleet(chain, c.roots, usage, now); err != nil {
			return nil, fmt.Errorf("cert_file: the authorities in ca_file don't stand for the certificate of %s: %w", c.name, err)
		}
	}
	return c, nil
}

func verifyFleet(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// CallerError is why a peer with a certificate is refused.
type CallerError struct {
	Peer string // what its certificate calls it
	Err  error
}

func (e *CallerError) Error() string { return fmt.Sprintf("%s: %v", e.Peer, e.Err) }
func (e *CallerError) Unwrap() error { return e.Err }

// peer checks the name in a verified certificate.
func (c *credentials) peer(leaf *x509.Certificate, admit func(SPIFFE) error) error {
	id, err := spiffeOf(leaf)
	switch {
	case err != nil:
	case id.TrustDomain != c.name.TrustDomain:
		err = fmt.Errorf("it is of another trust domain than %s", c.name.TrustDomain)
	default:
		err = admit(id)
	}
	if err != nil {
		return &CallerError{Peer: named(leaf), Err: err}
	}
	return nil
}

// holder is where an implementation of Identity keeps its credentials.
type holder struct {
	now  func() time.Time
	live atomic.Pointer[credentials]
}

// Name is our own name.
func (h *holder) Name() SPIFFE { return h.live.Load().name }

// Server is the configuration of a listener; see Identity.
func (h *holder) Server(allow []string, protocols ...string) *tls.Config {
	allow, all := slices.Clone(allow), allow == nil
	admit := func(id SPIFFE) error {
		if all || slices.Contains(allow, id.Service) {
			return nil
		}
		return errors.New("it isn't in allow")
	}
	var made atomic.Pointer[madeConfig]
	current := func() *tls.Config {
		c := h.live.Load()
		if m := made.Load(); m != nil && m.of == c {
			return m.cfg
		}
		cfg := h.serverConfig(c, admit, protocols)
		made.Store(&madeConfig{c, cfg})
		return cfg
	}
	base := current().Clone()
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current(), nil }
	return base
}

// madeConfig is the configuration of some credentials.
type madeConfig struct {
	of  *credentials
	cfg *tls.Config
}

func (h *holder) serverConfig(c *credentials, admit func(SPIFFE) error, protocols []string) *tls.Config {
	return &tls.Config{
		Time:                   h.now,
		MinVersion:             tls.VersionTLS13,
		NextProtos:             slices.Clone(protocols),
		Certificates:           []tls.Certificate{*c.cert},
		ClientAuth:             tls.RequireAndVerifyClientCert, // with usage clientAuth
		ClientCAs:              c.roots,
		SessionTicketsDisabled: true,
		// Not VerifyPeerCertificate, which is left out when a session is resumed:
		// nobody is to depend on the line above.
		VerifyConnection: func(cs tls.ConnectionState) error { return c.peer(cs.PeerCertificates[0], admit) },
	}
}

// Client is the configuration of connections to a service; see Identity.
func (h *holder) Client(service string, protocols ...string) *tls.Config {
	admit := func(id SPIFFE) error {
		if id.Service == service {
			return nil
		}
		return fmt.Errorf("it isn't svc/%s", service)
	}
	return &tls.Config{
		Time:       h.now,
		MinVersion: tls.VersionTLS13,
		NextProtos: slices.Clone(protocols),
		// The name to verify is in the URI, which crypto/tls doesn't look at:
		// VerifyConnection does all that this leaves out.
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return h.live.Load().cert, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			c := h.live.Load()
			if err := verifyFleet(cs.PeerCertificates, c.roots, x509.ExtKeyUsageServerAuth, h.now()); err != nil {
				return &CallerError{Peer: named(cs.PeerCertificates[0]), Err: err}
			}
			return c.peer(cs.PeerCertificates[0], admit)
		},
	}
}
