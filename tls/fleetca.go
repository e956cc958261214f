package tls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// FleetCA is an authority that signs the certificates of a fleet's services. It
// lives in a folder of files and is for commands; nothing serves from it.
type FleetCA struct {
	dir         string
	trustDomain string
	root        *x509.Certificate
	key         *ecdsa.PrivateKey
}

// The names of its files.
const (
	fleetRootFile = "ca.pem"
	fleetKeyFile  = "ca.key"
)

// InitFleetCA makes an authority in dir, which must not have one. Its root may
// sign names of that trust domain only (RFC 5280, 4.2.1.10).
func InitFleetCA(dir, trustDomain string, now time.Time) (*FleetCA, error) {
	if err := checkTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	if strings.Contains(trustDomain, "_") || !validName(trustDomain) {
		return nil, fmt.Errorf("trust domain %q isn't a domain name, such as fleet.example: verifiers would refuse it", trustDomain)
	}
	a := &FleetCA{dir: dir, trustDomain: trustDomain}
	if err := absent(a.rootFile(), a.keyFile()); err != nil {
		return nil, fmt.Errorf("%w: an authority is never overwritten; take another folder", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: trustDomain + ", since " + now.UTC().Format(time.RFC3339), Organization: []string{"sidegate fleet authority"}},
		URIs:         []*url.URL{trustDomainURI(trustDomain)}, // X509-SVID, 2
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, // of all constraints
		PermittedURIDomains:         []string{trustDomain},
	}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, writeIssued(a.rootFile(), a.keyFile(), der, a.key)
}

// OpenFleetCA opens the authority in dir.
func OpenFleetCA(dir string) (*FleetCA, error) {
	a := &FleetCA{dir: dir}
	certPEM, err := readFile(a.rootFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: make an authority with sidegate ca init", err)
	}
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(a.keyFile())
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", a.rootFile(), a.keyFile(), err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA || len(pair.Leaf.URIs) != 1 || pair.Leaf.URIs[0].Scheme != "spiffe" {
		return nil, fmt.Errorf("%s isn't an authority that sidegate ca init has made", a.rootFile())
	}
	a.root, a.key, a.trustDomain = pair.Leaf, key, pair.Leaf.URIs[0].Host
	return a, nil
}

func (a *FleetCA) rootFile() string { return filepath.Join(a.dir, fleetRootFile) }
func (a *FleetCA) keyFile() string  { return filepath.Join(a.dir, fleetKeyFile) }

// Root is the authority's certificate.
func (a *FleetCA) Root() *x509.Certificate { return a.root }

// RootFile is the file for ca_file.
func (a *FleetCA) RootFile() string { return a.rootFile() }

// Issue writes a certificate and key of a service, SERVICE.pem and SERVICE.key,
// into a folder. A pair that is there is an error unless replace says otherwise.
func (a *FleetCA) Issue(out, service string, life time.Duration, now time.Time, replace bool) (cert *x509.Certificate, certFile string, err error) {
	id := SPIFFE{TrustDomain: a.trustDomain, Service: service}
	if _, err := ParseSPIFFE(id.String()); err != nil {
		return nil, "", err
	}
	if out == a.dir && service == "ca" {
		return nil, "", errors.New(`a service "ca" would overwrite the authority: write it to another folder`)
	}
	if life <= 0 || now.Add(life).After(a.root.NotAfter) {
		return nil, "", fmt.Errorf("the authority itself ends at %s: take fewer days, or make a new one", a.root.NotAfter.UTC().Format(time.DateOnly))
	}
	certFile, keyFile := filepath.Join(out, service+".pem"), filepath.Join(out, service+".key")
	if err := absent(certFile, keyFile); err != nil && !replace {
		return nil, "", fmt.Errorf("%w: to replace certificate and key, say so (-renew)", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: service},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: a.trustDomain, Path: "/svc/" + service}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.root, key.Public(), a.key)
	if err != nil {
		return nil, "", err
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(out, 0o755); err != nil { // others have to get to their own
		return nil, "", err
	}
	return cert, certFile, writeIssued(certFile, keyFile, der, key)
}

// absent is an error when one of the files is there.
func absent(paths ...string) error {
	for _, path := range paths {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				err = &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
			}
			return err
		}
	}
	return nil
}

// writeIssued writes the key for its owner alone and the certificate for all. Each
// file is replaced as a whole; who reads between the two finds halves that don't
// belong together, keeps what it has, and looks again.
func writeIssued(certFile, keyFile string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeLike(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return writeLike(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// ReadCertificates returns the certificates in a file.
func ReadCertificates(path string) ([]*x509.Certificate, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	all, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}
