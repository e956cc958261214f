package consumer

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// san is an alternative name of a certificate (RFC 5280, 4.2.1.6), so that equal
// ones are equal.
type san struct {
	kind sanKind
	// Of a URI: its parts, of which none is left out. Of a DNS name: name. Of an
	// address: name before the @, and host.
	scheme, opaque, host, name, raw string
}

type sanKind uint8

const (
	sanURI sanKind = iota + 1
	sanDNS
	sanEmail
)

// parseSAN reads what the configuration has: spiffe://example.com/acme, or
// another URI; acme.example.com; ops@example.com.
func parseSAN(text string) (san, error) {
	switch {
	case text == "" || strings.ContainsAny(text, " \t*"):
		return san{}, fmt.Errorf("%q isn't a name that a certificate may have: a URI, a DNS name or an e-mail address, without *", text)
	case strings.Contains(text, "://") || strings.HasPrefix(text, "urn:"):
		u, err := url.Parse(text)
		if err != nil {
			return san{}, fmt.Errorf("%q isn't a URI", text)
		}
		s, ok := uriSAN(u)
		if !ok {
			return san{}, fmt.Errorf("%q has a query, a fragment or a user, which no name of a client has", text)
		}
		// SPIFFE-ID, 2.1 to 2.3
		if s.scheme == "spiffe" && (s.host == "" || u.Port() != "" || s.raw != "" || strings.HasSuffix(s.name, "/") || s.host != strings.ToLower(s.host)) {
			return san{}, fmt.Errorf("%q isn't a SPIFFE id such as spiffe://example.com/acme", text)
		}
		return s, nil
	case strings.Contains(text, "@"):
		s, ok := emailSAN(text)
		if !ok {
			return san{}, fmt.Errorf("%q isn't an e-mail address", text)
		}
		return s, nil
	case strings.ContainsAny(text, "/:@_=") || strings.HasPrefix(text, ".") || strings.HasSuffix(text, "."):
		return san{}, fmt.Errorf("%q isn't a DNS name", text)
	default:
		return dnsSAN(text), nil
	}
}

// uriSAN takes a URI apart; ok is false for one with parts that aren't compared.
func uriSAN(u *url.URL) (s san, ok bool) {
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return san{}, false
	}
	return san{kind: sanURI, scheme: u.Scheme, opaque: u.Opaque, host: u.Host, name: u.Path, raw: u.RawPath}, true
}

func dnsSAN(name string) san { return san{kind: sanDNS, name: strings.ToLower(name)} }

// emailSAN has only the host in one case (RFC 5280, 7.5).
func emailSAN(address string) (s san, ok bool) {
	i := strings.LastIndexByte(address, '@')
	if i <= 0 || i == len(address)-1 {
		return san{}, false
	}
	return san{kind: sanEmail, name: address[:i], host: strings.ToLower(address[i+1:])}, true
}

// ErrSeveral is about a certificate with names of several consumers.
var ErrSeveral = errors.New("the certificate has names of several consumers")

// Certificate returns whose certificate it is, nil for nobody's that is known.
// Every name counts; those of two consumers are an error, for who it is must not
// depend on their order.
func (d *Directory) Certificate(c *x509.Certificate) (*exchange.Consumer, error) {
	more := d.beside()
	if d == nil || len(d.sans) == 0 && (more == nil || len(more.sans) == 0) {
		return nil, nil
	}
	var found *exchange.Consumer
	clash := false
	see := func(s san) {
		o := d.sans[s]
		if o == nil && more != nil {
			o = more.sans[s]
		}
		if o != nil {
			clash = clash || found != nil && found != o
			found = o
		}
	}
	for _, u := range c.URIs {
		if s, ok := uriSAN(u); ok {
			see(s)
		}
	}
	for _, name := range c.DNSNames {
		see(dnsSAN(name))
	}
	for _, address := range c.EmailAddresses {
		if s, ok := emailSAN(address); ok {
			see(s)
		}
	}
	if clash {
		return nil, ErrSeveral
	}
	return found, nil
}

func (d *Directory) addSANs(c *Config, x *exchange.Consumer) (errs error) {
	for _, m := range c.MTLS {
		s, err := parseSAN(m.SAN)
		if o := d.sans[s]; o != nil && err == nil {
			err = fmt.Errorf("consumer %q has the same one", o.Name)
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("consumer %q: mtls: san: %w", c.Name, err))
			continue
		}
		d.sans[s] = x
	}
	return errs
}

// Key returns the name in a form in which equal ones are equal.
func (c *MTLSConfig) Key() (any, error) {
	s, err := parseSAN(c.SAN)
	if err != nil {
		return nil, fmt.Errorf("san: %w", err)
	}
	return s, nil
}
