package tls

import (
	"container/list"
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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	rootLife  = 10 * 365 * 24 * time.Hour
	leafLife  = 7 * 24 * time.Hour
	maxLeaves = 1000
)

// authority is the local certificate authority: a root that the operator may
// trust, and short certificates made when a client asks for a name.
type authority struct {
	now  func() time.Time
	dir  string
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	err  error // why the root lives in memory alone; nil: it is on disk

	mu     sync.Mutex // guards the two below
	leaves map[string]*list.Element
	recent list.List // of *leaf, the last used first
}

type leaf struct {
	name  string
	cert  *tls.Certificate
	renew time.Time
}

// newAuthority loads the root from dir, or makes one there. When dir can't be
// used the root is in memory, and a.err says why.
func newAuthority(dir string, now func() time.Time) (*authority, error) {
	a := &authority{now: now, dir: dir, leaves: make(map[string]*list.Element)}
	err := withFileLock(filepath.Join(dir, "lock"), func() error {
		err := a.load()
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := a.create(); err != nil {
			return err
		}
		return a.save()
	})
	if err == nil {
		return a, nil
	}
	a.err = fmt.Errorf("local authority in %s: %w; its root is in memory only", dir, err)
	if a.root == nil {
		return a, a.create()
	}
	return a, nil
}

func (a *authority) rootFile() string { return filepath.Join(a.dir, "root.pem") }
func (a *authority) keyFile() string  { return filepath.Join(a.dir, "root.key") }

// load reads the root. It gives fs.ErrNotExist when there is none, or none
// that outlives its next leaf; a broken one is an error, never overwritten.
func (a *authority) load() error {
	certPEM, err := readFile(a.rootFile())
	if err != nil {
		return err
	}
	keyPEM, err := readFile(a.keyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there but %s isn't: restore it, or remove both", a.rootFile(), a.keyFile())
	}
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", a.rootFile(), a.keyFile(), err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return fmt.Errorf("%s isn't an ECDSA root", a.rootFile())
	}
	if a.now().Add(2 * leafLife).After(pair.Leaf.NotAfter) {
		return fs.ErrNotExist
	}
	a.root, a.key, a.pem = pair.Leaf, key, certPEM
	return nil
}

// create makes a root in memory.
func (a *authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := a.now()
	serial, err := newSerial()
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			Organization: []string{"sidegate local authority"},
			CommonName:   fmt.Sprintf("sidegate on %.40s, %s", host, now.UTC().Format(time.DateOnly)),
		},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err == nil {
		a.root, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return fmt.Errorf("making a root: %w", err)
	}
	a.key, a.pem = key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return nil
}

// save writes the key first: a certificate on disk always has its key.
func (a *authority) save() error {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	if err := writeSecret(a.keyFile(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return err
	}
	return writeSecret(a.rootFile(), a.pem)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// certificate returns one for a name or address, made anew when two thirds of
// its life are over.
func (a *authority) certificate(name string) (*tls.Certificate, error) {
	now := a.now()
	a.mu.Lock()
	if e, ok := a.leaves[name]; ok && now.Before(e.Value.(*leaf).renew) {
		a.recent.MoveToFront(e)
		cert := e.Value.(*leaf).cert
		a.mu.Unlock()
		return cert, nil
	}
	a.mu.Unlock()

	cert, err := a.issue(name, now)
	if err != nil {
		return nil, fmt.Errorf("local certificate for %q: %w", name, err)
	}
	l := &leaf{name: name, cert: cert, renew: now.Add(leafLife * 2 / 3)}
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.leaves[name]; ok {
		e.Value = l
		a.recent.MoveToFront(e)
		return cert, nil
	}
	if len(a.leaves) >= maxLeaves {
		last := a.recent.Back()
		delete(a.leaves, last.Value.(*leaf).name)
		a.recent.Remove(last)
	}
	a.leaves[name] = a.recent.PushFront(l)
	return cert, nil
}

func (a *authority) issue(name string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.root, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}, nil
}

// list returns the certificates in memory, the last used first.
func (a *authority) list() []leaf {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]leaf, 0, len(a.leaves))
	for e := a.recent.Front(); e != nil; e = e.Next() {
		all = append(all, *e.Value.(*leaf))
	}
	return all
}
