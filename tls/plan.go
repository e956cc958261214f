package tls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// Plan is checked settings that Commit makes live.
type Plan struct {
	m        *Manager
	files    *fileSet
	hosts    *hostSet
	id       unitID
	acme     bool
	roots    *x509.CertPool
	store    certmagic.Storage // nil: files
	strictly bool
	warnings []string
}

// loadTime bounds how long Commit waits for certificates from storage.
const loadTime = 5 * time.Second

// Plan checks settings against the hosts that the routes name: files are read
// and parsed, keys matched, URLs parsed. It changes nothing, on disk neither.
// Its error joins all that is wrong, each with its file and reason.
func (m *Manager) Plan(s *Settings, hosts []string) (*Plan, error) {
	if s == nil {
		s = &Settings{}
	}
	p := &Plan{m: m, hosts: newHostSet(hosts), strictly: s.MinVersion == "1.3"}
	var errs []error
	var err error
	if p.files, err = loadFiles(s.Certificates); err != nil {
		errs = append(errs, err)
		p.files = newFileSet(nil)
	}
	errs = append(errs, p.checkStorage(s.Storage), p.checkOnDemand(s), p.checkACME(s.ACME))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	p.warn()
	return p, nil
}

// Warnings are what an operator should know though the plan is valid.
func (p *Plan) Warnings() []string { return p.warnings }

func (p *Plan) checkStorage(storage string) error {
	p.id.storage = "file"
	if storage != "consul" {
		return nil
	}
	if p.m.kv == nil {
		return errors.New(`storage = "consul" is not available yet: there is no consul block to take it from`)
	}
	p.id.storage = "consul"
	seal, err := newSealer(p.m.sealDir)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	p.store = newKVStorage(p.m.kv, seal)
	return nil
}

func (p *Plan) checkOnDemand(s *Settings) error {
	if s.OnDemand == nil {
		return nil
	}
	if s.ACME == nil {
		return errors.New("on_demand: needs an acme block")
	}
	u, err := url.Parse(s.OnDemand.Ask)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = fmt.Errorf("%q isn't an http or https URL", s.OnDemand.Ask)
	}
	if err != nil {
		return fmt.Errorf("on_demand: ask: %w", err)
	}
	p.id.ask = s.OnDemand.Ask
	return nil
}

func (p *Plan) checkACME(a *ACMESettings) error {
	if a == nil {
		return nil
	}
	p.acme = true
	p.id.email, p.id.directory, p.id.checkEvery = a.Email, a.Directory, a.CheckEvery
	if p.id.checkEvery <= 0 {
		p.id.checkEvery = 10 * time.Minute
	}
	challenges := slices.Clone(a.Challenges)
	if len(challenges) == 0 {
		challenges = []string{"http-01", "tls-alpn-01"}
	}
	slices.Sort(challenges)
	p.id.challenges = strings.Join(slices.Compact(challenges), ",")
	var errs []error
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("acme: directory: %q isn't an https URL", a.Directory))
	}
	if a.Email != "" && (strings.Count(a.Email, "@") != 1 || strings.ContainsAny(a.Email, " \t\r\n,/?")) {
		errs = append(errs, fmt.Errorf("acme: email: %q isn't an address", a.Email))
	}
	if a.CAFile != "" {
		errs = append(errs, p.readRoots(a.CAFile))
	}
	return errors.Join(errs...)
}

func (p *Plan) readRoots(file string) error {
	b, err := readFile(file)
	if err != nil {
		return fmt.Errorf("acme: ca_file: %w", err)
	}
	if p.roots, err = x509.SystemCertPool(); err != nil {
		p.roots = x509.NewCertPool()
	}
	if !p.roots.AppendCertsFromPEM(b) {
		return fmt.Errorf("acme: ca_file: %s holds no PEM certificate", file)
	}
	p.id.caSum = sha256.Sum256(b)
	return nil
}

func (p *Plan) warn() {
	for _, h := range p.hosts.bad {
		p.warnings = append(p.warnings, fmt.Sprintf("host %q isn't a name that a certificate can have", h))
	}
	for _, f := range p.files.pairs {
		if now := p.m.now(); now.After(f.cert.Leaf.NotAfter) {
			p.warnings = append(p.warnings, fmt.Sprintf("cert_file %s expired on %s", f.CertFile, f.cert.Leaf.NotAfter.UTC().Format(time.DateTime)))
		}
		if fi, err := os.Stat(f.KeyFile); err == nil && fi.Mode().Perm()&0o007 != 0 {
			p.warnings = append(p.warnings, fmt.Sprintf("key_file %s is open to every user of this host (mode %04o)", f.KeyFile, fi.Mode().Perm()))
		}
	}
	for h := range p.hosts.wild {
		if !PrivateName(h) && !p.files.covers(h) && p.id.ask == "" {
			p.warnings = append(p.warnings, fmt.Sprintf("host %s: no certificate file covers it, and the challenges here can't certify a wildcard; the local authority's is served", h))
		}
	}
	if !p.acme {
		for h := range p.hosts.public {
			if !p.files.covers(h) {
				p.warnings = append(p.warnings, fmt.Sprintf("host %s: no certificate file covers it and there is no acme block; the local authority's is served", h))
			}
		}
	}
	slices.Sort(p.warnings)
}

// Commit makes the plan live. It loads the certificates that storage has, for
// at most five seconds; new ones are obtained in the background. No handshake
// fails on the way: what was served goes on until there is something newer.
func (p *Plan) Commit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	old := m.live.Load()
	next := &live{files: p.files, hosts: p.hosts, strictly: p.strictly, unit: old.unit, held: maps.Clone(old.held)}
	if p.acme && (old.unit == nil || old.unit.id != p.id) {
		st := p.store
		if st == nil {
			st = newFileStorage(filepath.Join(m.dir, "certificates"))
		}
		next.unit = newUnit(m, p.id, st, p.roots)
		next.held = make(map[string]*tls.Certificate)
		if old.unit != nil {
			next.held = old.unit.snapshot()
		}
	}
	if !p.acme {
		next.unit, next.held = nil, nil
	}
	if next.unit != nil {
		names := p.hosts.certified(p.files)
		maps.DeleteFunc(next.held, func(name string, _ *tls.Certificate) bool {
			_, ok := names[name]
			return !ok
		})
		next.unit.setNames(ctx, names)
	}
	m.live.Store(next)
	if old.unit != nil && old.unit != next.unit {
		m.retired.Go(old.unit.stop)
	}
}
