package setup

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// Complete fills in what goes without saying, and refuses what can't be meant.
func (a *Answers) Complete() error {
	if err := a.words(); err != nil {
		return err
	}
	if err := absolute(&a.ConsulToken, &a.CAFile, &a.CertFile, &a.KeyFile, &a.StateDir); err != nil {
		return err
	}
	if err := a.services(); err != nil {
		return err
	}
	a.Admin = or(a.Admin, "127.0.0.1:9901")
	if err := checkAddress(a.Admin, false); err != nil {
		return fmt.Errorf("admin server: %w", err)
	}
	if err := a.addresses(); err != nil {
		return err
	}
	return a.tls()
}

// words refuses what no argument may have in it.
func (a *Answers) words() error {
	all := append([]string{a.Consul, a.ConsulToken, a.Email, a.Directory, a.CAFile, a.CertFile, a.KeyFile, a.Listen, a.Redirect, a.Admin, a.StateDir}, a.Hosts...)
	for _, w := range all {
		if strings.ContainsFunc(w, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }) {
			return fmt.Errorf("%.100q has control characters", w)
		}
	}
	for _, h := range a.Hosts {
		if strings.TrimSpace(h) == "" {
			return errors.New("a host is empty")
		}
		if strings.ContainsAny(h, "/ ") {
			return fmt.Errorf("host %.100q: write the name alone, like api.example.com", h)
		}
	}
	return nil
}

func (a *Answers) services() error {
	var names []string
	for _, s := range a.Services {
		if slices.Contains(names, s.Name) {
			return fmt.Errorf("service %q is given twice: list its addresses as NAME=HOST:PORT,HOST:PORT", s.Name)
		}
		names = append(names, s.Name)
		if len(s.Instances) == 0 && a.Consul == "" {
			return fmt.Errorf("service %q: say where it is, %s=HOST:PORT, or which Consul agent knows", s.Name, s.Name)
		}
	}
	if len(a.Services) > 0 {
		return nil
	}
	if a.Consul == "" {
		return errors.New("there is nothing to route to: name a service, NAME=HOST:PORT, or a Consul agent")
	}
	if len(a.Hosts) == 0 {
		return errors.New("say which hosts registrations in Consul may claim, *.example.com perhaps, or name a service")
	}
	return nil
}

// addresses fills in where to listen.
func (a *Answers) addresses() error {
	if a.TLS == Plain {
		if a.Redirect != "" {
			return errors.New("without TLS there is nothing to redirect to")
		}
		a.Listen = or(a.Listen, ":80")
	} else if a.Listen == "" {
		a.Listen = ":443"
	}
	if err := checkAddress(a.Listen, false); err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	host, port, _ := net.SplitHostPort(a.Listen) // just checked
	if a.Redirect == "" && a.TLS != Plain && port == "443" {
		a.Redirect = net.JoinHostPort(host, "80")
	}
	if a.Redirect == "none" {
		a.Redirect = ""
	}
	if a.Redirect == "" {
		return nil
	}
	if err := checkAddress(a.Redirect, false); err != nil {
		return fmt.Errorf("listener that redirects: %w", err)
	}
	return nil
}

func (a *Answers) tls() error {
	if (a.CertFile == "") != (a.KeyFile == "") {
		return errors.New("a certificate and its key go together")
	}
	if a.TLS == Files && a.CertFile == "" {
		return errors.New("name the files of the certificate and its key")
	}
	if len(a.Hosts) == 0 {
		switch a.TLS {
		case ACME:
			return errors.New("name the hosts that certificates are to be for")
		case Files:
			a.Hosts = namesOf(a.CertFile)
		case Local, "":
			a.Hosts = []string{"localhost"}
		}
	}
	private := 0
	for _, h := range a.Hosts {
		if edgetls.PrivateName(strings.TrimPrefix(h, "*.")) {
			private++
		}
	}
	if a.TLS == ACME && private == len(a.Hosts) {
		return fmt.Errorf("no public authority certifies %s: leave ACME out, and the gateway's own authority does", strings.Join(a.Hosts, ", "))
	}
	if a.TLS == "" || a.TLS == Local {
		if private < len(a.Hosts) {
			return fmt.Errorf("say where the certificate for %s comes from: ACME (-acme, -acme-email), files (-cert-file, -key-file), or serve without TLS (-plain)", strings.Join(a.Hosts, ", "))
		}
		a.TLS = Local
	}
	return nil
}

// namesOf are the names in a certificate; none, when it can't be read: validation
// says why.
func namesOf(file string) []string {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert.DNSNames
}

// checkAddress checks host:port. An instance needs both.
func checkAddress(address string, instance bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%.100q isn't HOST:PORT", address)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%.100q has no port from 1 to 65535", address)
	}
	if instance && host == "" {
		return fmt.Errorf("%.100q has no host", address)
	}
	if strings.ContainsFunc(host, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("/@ \"\\$%", r) }) {
		return fmt.Errorf("%.100q isn't HOST:PORT", address)
	}
	return nil
}

// checkName checks a service's name, which becomes a route's name and a path.
func checkName(name string) error {
	if name == "" {
		return errors.New("a service has no name: write NAME=HOST:PORT")
	}
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.') {
			return fmt.Errorf("service %.60q: a name has letters, digits, and - _ . only", name)
		}
	}
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// checkConsul checks an agent's address.
func checkConsul(address string) error {
	if strings.Contains(address, "://") {
		return nil // validation knows URLs
	}
	return checkAddress(address, true)
}

// readable reports whether a file can be opened.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
