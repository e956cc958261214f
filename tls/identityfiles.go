package tls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// warnAhead is how long before its end a certificate is warned of, or a third
	// of its life when that is shorter.
	warnAhead = 14 * 24 * time.Hour
	// warnEvery is the time between two such warnings.
	warnEvery = 24 * time.Hour
	// refusalsEvery is the time between two lines about callers that are refused.
	refusalsEvery = time.Second
)

// IdentityFiles is an Identity from three files. Make it with NewIdentityFiles
// and let Run keep it fresh.
type IdentityFiles struct {
	holder
	IdentitySettings
	log  logrus.FieldLogger
	poll time.Duration

	mu       sync.Mutex // guards what follows
	stamp    [3]fileStamp
	err      error // why what is on disk now isn't used
	errAt    time.Time
	warned   time.Time
	refused  time.Time // when a refusal was last told
	untold   int       // refusals since then
	refusals uint64
}

var _ Identity = (*IdentityFiles)(nil)

// NewIdentityFiles reads the files. What is missing, has ended or doesn't
// belong together is an error: nobody is to run without what was asked for.
// Deps.StateDir and Deps.KV aren't needed.
func NewIdentityFiles(s IdentitySettings, d Deps) (*IdentityFiles, error) {
	f := &IdentityFiles{IdentitySettings: s, log: d.Log.WithField("component", "identity"), poll: d.PollFiles}
	f.now = d.Now
	if f.now == nil {
		f.now = time.Now
	}
	if f.poll <= 0 {
		f.poll = 5 * time.Second
	}
	f.stamp = f.stamps() // before reading: a later change is seen
	c, err := f.load()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	f.live.Store(c)
	return f, nil
}

func (f *IdentityFiles) stamps() [3]fileStamp {
	return [3]fileStamp{stampOf(f.CAFile), stampOf(f.CertFile), stampOf(f.KeyFile)}
}

func (f *IdentityFiles) load() (*credentials, error) {
	var b [3][]byte
	var errs []error
	for i, file := range []struct{ name, path string }{{"ca_file", f.CAFile}, {"cert_file", f.CertFile}, {"key_file", f.KeyFile}} {
		var err error
		if b[i], err = readFile(file.path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file.name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return newCredentials(b[0], b[1], b[2], f.now())
}

// Run rereads changed files and warns of a certificate's end until ctx ends.
func (f *IdentityFiles) Run(ctx context.Context) {
	t := time.NewTicker(f.poll)
	defer t.Stop()
	for {
		f.warn()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f.Refresh()
		}
	}
}

// Refresh rereads the files if they have changed. Files that don't work leave
// what was there before in force, and are told of once.
func (f *IdentityFiles) Refresh() {
	f.mu.Lock()
	defer f.mu.Unlock()
	stamps := f.stamps()
	if stamps == f.stamp {
		return
	}
	c, err := f.load()
	f.stamp = stamps
	log := f.log.WithField("file", f.CertFile)
	if err != nil {
		f.err, f.errAt = err, f.now()
		log.WithError(err).Warn("changed files of the identity can't be used; those from before are")
		return
	}
	f.err, f.errAt, f.warned = nil, time.Time{}, time.Time{}
	f.live.Store(c)
	log.WithFields(logrus.Fields{"name": c.name.String(), "not_after": c.leaf.NotAfter, "authorities": len(c.issued)}).Info("identity reread")
}

// warn tells once a day of a certificate that ends soon or has ended, our own
// or an authority's.
func (f *IdentityFiles) warn() {
	c, now := f.live.Load(), f.now()
	f.mu.Lock()
	due := now.Sub(f.warned) >= warnEvery
	f.mu.Unlock()
	if !due {
		return
	}
	told := false
	for _, cert := range append([]*x509.Certificate{c.leaf}, c.issued...) {
		if why := ending(cert, now); why != "" {
			told = true
			f.log.WithFields(logrus.Fields{"name": named(cert), "not_after": cert.NotAfter}).Warn(why)
		}
	}
	if told {
		f.mu.Lock()
		f.warned = now
		f.mu.Unlock()
	}
}

// ending says that a certificate ends soon, or has; "": neither.
func ending(cert *x509.Certificate, now time.Time) string {
	left := cert.NotAfter.Sub(now)
	switch ahead := min(warnAhead, cert.NotAfter.Sub(cert.NotBefore)/3); {
	case left <= 0 && cert.IsCA:
		return "an authority of the fleet has ended"
	case left <= 0:
		return "the certificate of the fleet has ended: others refuse it"
	case left < ahead && cert.IsCA:
		return "an authority of the fleet ends soon"
	case left < ahead:
		return "the certificate of the fleet ends soon: issue it again"
	default:
		return ""
	}
}

// Refused tells of a handshake with a caller that failed, at most once a second:
// who it was and why.
func (f *IdentityFiles) Refused(listener string, from netip.AddrPort, err error) {
	var network net.Error
	if errors.Is(err, io.EOF) || errors.As(err, &network) && !told(err) {
		return // it went, or was too slow: that says nothing of certificates
	}
	now := f.now()
	f.mu.Lock()
	f.refusals++
	if now.Sub(f.refused) < refusalsEvery {
		f.untold++
		f.mu.Unlock()
		return
	}
	untold := f.untold
	f.refused, f.untold = now, 0
	f.mu.Unlock()
	fields := logrus.Fields{"listener": listener, "peer": from.String()}
	if untold > 0 {
		fields["others"] = untold // since the line before
	}
	var unverified *tls.CertificateVerificationError
	var caller *CallerError
	switch {
	case errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0:
		fields["caller"] = named(unverified.UnverifiedCertificates[0])
		err = unverified.Err
	case errors.As(err, &caller):
		fields["caller"] = caller.Peer
		err = caller.Err
	}
	f.log.WithFields(fields).WithError(err).Warn("caller refused")
}

// told reports whether err is what the other side has said of us.
func told(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// Refusals is how many callers were refused.
func (f *IdentityFiles) Refusals() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refusals
}

// Status is our certificate.
func (f *IdentityFiles) Status() CertStatus {
	c := f.live.Load()
	s := describe("identity", c.leaf)
	s.Names, s.File = []string{c.name.String()}, f.CertFile
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		s.Error, s.ErrorAt = f.err.Error(), f.errAt
	} else {
		s.Error = ending(c.leaf, f.now())
	}
	return s
}

// parseCertificates reads all certificates of a file.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break // words around the blocks
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return all, nil
}
