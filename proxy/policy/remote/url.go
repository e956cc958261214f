package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// CheckURL refuses what can't be asked safely: whoever can change answers on the
// way decides in the service's place. what says what comes from there, in the
// plural.
func CheckURL(text, what string) error {
	u, err := parse(text)
	switch {
	case err != nil:
		return err
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("%.200q isn't an https URL: %s from another host need TLS", text, what)
	default:
		return nil
	}
}

// CheckNamed is CheckURL for what from names, a URL that was checked: what was asked
// over TLS leads nowhere without.
func CheckNamed(text, from, what string) error {
	if err := CheckURL(text, what); err != nil {
		return err
	}
	u, _ := url.Parse(text) // checked, and so has its scheme in lower case
	if f, err := url.Parse(from); u.Scheme == "http" && (err != nil || f.Scheme != "http") {
		return fmt.Errorf("%.200q isn't an https URL", text)
	}
	return nil
}

// Shown is a URL as people see it, in status, metrics and logs: its query may have a
// secret in it.
func Shown(text string) string {
	shown, _, _ := strings.Cut(text, "?")
	return shown
}

// CheckPlain is CheckURL for what the operator may ask over http as well.
func CheckPlain(text string) error {
	_, err := parse(text)
	return err
}

func parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%.200q isn't an https URL", text)
	}
	if u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("%.200q has more than host, path and query", u.Redacted())
	}
	return u, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// ReadCAs reads the argument ca_file: root certificates in PEM; "": none.
func ReadCAs(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("ca_file: %w", err)
	}
	return string(pem), CheckCAs(string(pem))
}

// CheckCAs reports whether root certificates are there; "" is fine, too.
func CheckCAs(pem string) error {
	if pem != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(pem)) {
		return errors.New("ca_file: has no certificate in PEM")
	}
	return nil
}

// Transport returns one that trusts these roots ("": the system's). Environment
// variables name a proxy for what is outside; who is asked about each request is
// near, and asked without.
func Transport(cas string, outside bool) *http.Transport {
	roots := &tls.Config{MinVersion: tls.VersionTLS12}
	if cas != "" {
		roots.RootCAs = x509.NewCertPool()
		roots.RootCAs.AppendCertsFromPEM([]byte(cas))
	}
	t := &http.Transport{TLSClientConfig: roots, ForceAttemptHTTP2: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	if outside {
		t.Proxy = http.ProxyFromEnvironment
	}
	return t
}

// NoRedirects is a client's CheckRedirect: the configuration says who is asked.
func NoRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
