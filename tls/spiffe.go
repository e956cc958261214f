package tls

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// SPIFFE is the name of a service in a certificate of the fleet: its one URI
// (SPIFFE-ID, 2; X509-SVID, 2). Two forms are known, that of our own authority
// and that of Consul's mesh:
//
//	spiffe://TRUST-DOMAIN/svc/NAME
//	spiffe://TRUST-DOMAIN/ns/default/dc/DC/svc/NAME
type SPIFFE struct {
	TrustDomain string
	Datacenter  string // "": the first form
	Service     string
}

const (
	spiffeScheme = "spiffe://"
	maxSPIFFE    = 2048 // SPIFFE-ID, 2.3
	maxDomain    = 255  // likewise, 2.1
)

// String is the name as a URI.
func (s SPIFFE) String() string {
	if s.Datacenter != "" {
		return spiffeScheme + s.TrustDomain + "/ns/default/dc/" + s.Datacenter + "/svc/" + s.Service
	}
	return spiffeScheme + s.TrustDomain + "/svc/" + s.Service
}

// ParseSPIFFE reads a service's name. It takes one spelling of each name only:
// no escapes, no port, no query, no capitals in the trust domain.
func ParseSPIFFE(uri string) (SPIFFE, error) {
	wrong := func(why string) (SPIFFE, error) {
		return SPIFFE{}, fmt.Errorf("%.200q isn't spiffe://TRUST-DOMAIN/svc/NAME: %s", uri, why)
	}
	rest, ok := strings.CutPrefix(uri, spiffeScheme)
	switch {
	case len(uri) > maxSPIFFE:
		return wrong("it is too long")
	case !ok:
		return wrong("its scheme is another one")
	}
	domain, path, _ := strings.Cut(rest, "/")
	if err := checkTrustDomain(domain); err != nil {
		return wrong(err.Error())
	}
	s := SPIFFE{TrustDomain: domain}
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 2 && parts[0] == "svc":
		s.Service = parts[1]
	case len(parts) == 6 && parts[0] == "ns" && parts[1] == "default" && parts[2] == "dc" && parts[4] == "svc":
		s.Datacenter, s.Service = parts[3], parts[5]
		if !segment(s.Datacenter) {
			return wrong("its datacenter has characters that no name has")
		}
	default:
		return wrong("its path is another one")
	}
	if !segment(s.Service) {
		return wrong("its service has characters that no name has")
	}
	return s, nil
}

// checkTrustDomain says what is wrong with a trust domain (SPIFFE-ID, 2.1).
func checkTrustDomain(d string) error {
	switch {
	case d == "":
		return errors.New("the trust domain is empty")
	case len(d) > maxDomain:
		return errors.New("the trust domain is too long")
	}
	for i := range len(d) {
		switch c := d[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return errors.New("the trust domain has other characters than a-z, 0-9, dot, hyphen and underscore")
		}
	}
	return nil
}

// segment reports whether s can be a part of a path (SPIFFE-ID, 2.2).
func segment(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != "" && s != "." && s != ".."
}

// spiffeOf is the name in a certificate: it has exactly one URI (X509-SVID, 2).
func spiffeOf(leaf *x509.Certificate) (SPIFFE, error) {
	if len(leaf.URIs) != 1 {
		return SPIFFE{}, fmt.Errorf("the certificate has %d URIs, and must have one", len(leaf.URIs))
	}
	return ParseSPIFFE(leaf.URIs[0].String())
}

// named is what a certificate calls itself, for logs: it may be anybody's.
func named(leaf *x509.Certificate) string {
	if len(leaf.URIs) > 0 {
		all := make([]string, 0, 2)
		for _, u := range leaf.URIs[:min(len(leaf.URIs), 2)] {
			all = append(all, fmt.Sprintf("%.200s", u))
		}
		return strings.Join(all, " ")
	}
	return fmt.Sprintf("%.200s", leaf.Subject)
}

// trustDomainURI is the name of an authority: a trust domain alone.
func trustDomainURI(domain string) *url.URL { return &url.URL{Scheme: "spiffe", Host: domain} }
