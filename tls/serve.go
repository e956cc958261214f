package tls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// ServerConfig returns what a TCP listener needs: protocols for ALPN in order
// of preference, and, with clientCAs, a request for a client certificate that
// is verified when one is given. It follows plans that are committed later.
//
// A connection that negotiated ChallengeProtocol is an authority's validation:
// the listener closes it after the handshake.
func (m *Manager) ServerConfig(protocols []string, clientCAs *x509.CertPool) *tls.Config {
	base := m.config(protocols, clientCAs, "tcp")
	strict := base.Clone()
	strict.MinVersion = tls.VersionTLS13
	challenge := &tls.Config{
		MinVersion:             tls.VersionTLS12, // RFC 8737, 3
		NextProtos:             []string{ChallengeProtocol},
		GetCertificate:         m.challengeCertificate,
		SessionTicketsDisabled: true,
	}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == ChallengeProtocol {
			return challenge, nil
		}
		if m.live.Load().strictly {
			return strict, nil
		}
		return nil, nil
	}
	return base
}

// QUICConfig returns what a QUIC listener needs: TLS 1.3 and protocol h3.
func (m *Manager) QUICConfig(clientCAs *x509.CertPool) *tls.Config {
	c := m.config([]string{"h3"}, clientCAs, "quic")
	c.MinVersion = tls.VersionTLS13
	return c
}

func (m *Manager) config(protocols []string, clientCAs *x509.CertPool, transport string) *tls.Config {
	scope := ticketScope{t: m.tickets, label: transport + "|plain|"}
	auth := tls.NoClientCert
	if clientCAs != nil {
		scope.label = transport + "|mutual|"
		auth = tls.VerifyClientCertIfGiven
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     append([]string(nil), protocols...),
		ClientCAs:      clientCAs,
		ClientAuth:     auth,
		GetCertificate: m.certificate,
		WrapSession:    scope.wrap,
		UnwrapSession:  scope.unwrap,
		// For TLS 1.2; those of 1.3 are all good and crypto/tls's choice.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
	}
}

// certificate is crypto/tls's Config.GetCertificate. Without a certificate and
// without an error crypto/tls sends the alert unrecognized_name.
func (m *Manager) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	l := m.live.Load()
	name := strings.ToLower(hello.ServerName)
	if name == "" {
		name = localAddress(hello.Conn)
		if c := l.files.find(name, hello); c != nil {
			return c, nil
		}
		return m.authority.certificate(name)
	}
	if !validName(name) {
		return nil, nil
	}
	if c := l.files.find(name, hello); c != nil {
		return c, nil
	}
	if l.unit != nil {
		if c := l.unit.find(name); c != nil {
			return c, nil
		}
		if c := l.held[name]; c != nil {
			return c, nil
		}
	}
	if PrivateName(name) {
		return m.authority.certificate(name)
	}
	return m.unknown(l, name, hello)
}

// unknown serves a public name that has no certificate yet.
func (m *Manager) unknown(l *live, name string, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if _, exact := l.hosts.public[name]; !exact && l.unit != nil {
		c, err := l.unit.onDemand(hello, name)
		if c != nil && err == nil {
			return c, nil
		}
		if err != nil {
			m.log.WithField("host", name).WithError(err).Debug("no certificate on demand")
		}
	}
	if l.hosts.has(name) {
		return m.authority.certificate(name)
	}
	return nil, nil
}

// localAddress is the address that a client without SNI has connected to.
func localAddress(c net.Conn) string {
	if c == nil || c.LocalAddr() == nil {
		return "localhost"
	}
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return "localhost"
	}
	host, _, _ = strings.Cut(host, "%") // a zone means nothing to the client
	if net.ParseIP(host) == nil {
		return "localhost"
	}
	return host
}

// challengeCertificate answers TLS-ALPN-01 (RFC 8737) for the names that are
// being validated now.
func (m *Manager) challengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if c := m.challenges.certificate(name); c != nil {
		return c, nil
	}
	chal, ok := m.fleetChallenge(hello.Context(), acme.ChallengeTypeTLSALPN01, name)
	if !ok {
		return nil, nil
	}
	c, err := acmez.TLSALPN01ChallengeCert(chal)
	if err == nil && c == nil {
		err = errors.New("no certificate for the challenge")
	}
	return c, err
}
