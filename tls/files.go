package tls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// fileSet is the certificates from files. It is immutable.
type fileSet struct {
	pairs []*filePair
	names map[string][]*tls.Certificate // exact and "*.example.com"
}

// filePair is one certificate and key.
type filePair struct {
	FileSettings
	cert  *tls.Certificate
	names []string
	stamp [2]fileStamp
	err   error // why what is on disk now isn't used
}

// fileStamp tells versions of a file apart.
type fileStamp struct {
	mod  time.Time
	size int64
}

func stampOf(path string) fileStamp {
	fi, err := os.Stat(path)
	if err != nil {
		return fileStamp{size: -1}
	}
	return fileStamp{fi.ModTime(), fi.Size()}
}

func (p *filePair) stamps() [2]fileStamp {
	return [2]fileStamp{stampOf(p.CertFile), stampOf(p.KeyFile)}
}

// loadPair reads a pair and checks that its halves belong together.
func loadPair(f FileSettings) (*filePair, error) {
	p := &filePair{FileSettings: f}
	p.stamp = p.stamps() // before reading: a later change is seen
	certPEM, err := readFile(f.CertFile)
	if err != nil {
		return nil, fmt.Errorf("cert_file: %w", err)
	}
	keyPEM, err := readFile(f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with key_file %s: %w", f.CertFile, f.KeyFile, err)
	}
	p.cert = &cert
	for _, n := range cert.Leaf.DNSNames {
		p.names = append(p.names, strings.ToLower(n))
	}
	for _, ip := range cert.Leaf.IPAddresses {
		p.names = append(p.names, ip.String())
	}
	if len(p.names) == 0 {
		return nil, fmt.Errorf("cert_file %s: the certificate has no subjectAltName, so no client accepts it", f.CertFile)
	}
	return p, nil
}

// loadFiles reads all pairs, or says all that is wrong with them.
func loadFiles(list []FileSettings) (*fileSet, error) {
	var pairs []*filePair
	var errs []error
	for i, f := range list {
		p, err := loadPair(f)
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %d: %w", i+1, err))
			continue
		}
		pairs = append(pairs, p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return newFileSet(pairs), nil
}

func newFileSet(pairs []*filePair) *fileSet {
	s := &fileSet{pairs: pairs, names: make(map[string][]*tls.Certificate)}
	for _, p := range pairs {
		for _, n := range p.names {
			s.names[n] = append(s.names[n], p.cert)
		}
	}
	return s
}

// covers reports whether a file's certificate is for the name.
func (s *fileSet) covers(name string) bool {
	return len(s.names[name]) > 0 || len(s.names[wildcardOf(name)]) > 0
}

// find returns the certificate for a name that the client can use best; nil
// when no file covers it.
func (s *fileSet) find(name string, hello *tls.ClientHelloInfo) *tls.Certificate {
	list := s.names[name]
	if len(list) == 0 {
		list = s.names[wildcardOf(name)]
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	for _, c := range list {
		if hello.SupportsCertificate(c) == nil {
			return c
		}
	}
	return list[0]
}

// refresh returns a set with what changed on disk read again. A pair that is
// broken now keeps its certificate and says why; changed lists the pairs that
// are new or newly broken. The set is s itself when nothing changed.
func (s *fileSet) refresh() (next *fileSet, changed []*filePair) {
	pairs := make([]*filePair, len(s.pairs))
	for i, p := range s.pairs {
		pairs[i] = p
		stamps := p.stamps()
		if stamps == p.stamp {
			continue
		}
		fresh, err := loadPair(p.FileSettings)
		if err != nil {
			old := *p
			old.stamp, old.err = stamps, err
			fresh = &old
		}
		pairs[i] = fresh
		changed = append(changed, fresh)
	}
	if changed == nil {
		return s, nil
	}
	return newFileSet(pairs), changed
}
