package tls

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/sirupsen/logrus"
)

// Deps is what a Manager needs of the program around it.
type Deps struct {
	Log      logrus.FieldLogger
	StateDir string
	// SealDir is where the key is that seals what is kept in KV; "": StateDir.
	SealDir string
	// KV is where storage = "consul" keeps things; nil: it isn't available.
	KV KV
	// Now is the clock; nil: time.Now. certmagic's renewals have their own.
	Now func() time.Time
	// PollFiles is how often certificate files are looked at; 0: five seconds.
	PollFiles time.Duration
}

// Manager owns all certificates. It is made once and lives as long as the
// gateway; plans change what it does.
type Manager struct {
	log        logrus.FieldLogger
	now        func() time.Time
	dir        string
	sealDir    string
	kv         KV
	poll       time.Duration
	authority  *authority
	tickets    *ticketKeys
	challenges *challenges
	book       *book
	live       atomic.Pointer[live]
	lookups    chan struct{} // questions to shared storage that strangers cause

	mu      sync.Mutex // held while live changes
	closed  bool
	retired sync.WaitGroup // units that a plan has replaced
}

// live is what handshakes look at. It is immutable; its unit isn't.
type live struct {
	files    *fileSet
	hosts    *hostSet
	unit     *unit                       // nil: no ACME
	held     map[string]*tls.Certificate // of the unit before, until this one has its own
	strictly bool                        // TLS 1.3 only
}

// NewManager prepares the local authority and the ticket keys. A state
// directory that can't be used is reported by Problems and in the log, and
// what should be in it lives in memory.
func NewManager(d Deps) (*Manager, error) {
	if d.Log == nil || d.StateDir == "" {
		return nil, errors.New("tls: Log and StateDir are required")
	}
	m := &Manager{
		log: d.Log.WithField("component", "tls"), now: d.Now, dir: d.StateDir, sealDir: cmp.Or(d.SealDir, d.StateDir), kv: d.KV, poll: d.PollFiles,
		challenges: newChallenges(), book: newBook(), lookups: make(chan struct{}, 8),
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.poll <= 0 {
		m.poll = 5 * time.Second
	}
	var err error
	if m.authority, err = newAuthority(filepath.Join(d.StateDir, "ca"), m.now); err != nil {
		return nil, err
	}
	if m.tickets, err = newTicketKeys(filepath.Join(d.StateDir, "tickets.json"), m.now); err != nil {
		return nil, err
	}
	m.live.Store(&live{files: newFileSet(nil), hosts: newHostSet(nil)})
	for _, p := range m.Problems() {
		m.log.WithError(p).Error("state directory can't be used")
	}
	return m, nil
}

// Run rereads changed certificate files and rotates ticket keys until ctx
// ends.
func (m *Manager) Run(ctx context.Context) error {
	files := time.NewTicker(m.poll)
	defer files.Stop()
	keys := time.NewTicker(10 * time.Minute)
	defer keys.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-files.C:
			m.refreshFiles()
		case <-keys.C:
			before := m.tickets.problem()
			if err := m.tickets.rotate(); err != nil {
				m.log.WithError(err).Error("session ticket keys aren't rotated")
			}
			if err := m.tickets.problem(); err != nil && before == nil {
				m.log.WithError(err).Error("state directory can't be used")
			}
		}
	}
}

func (m *Manager) refreshFiles() {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := *m.live.Load()
	next, changed := l.files.refresh()
	if changed == nil {
		return
	}
	l.files = next
	m.live.Store(&l)
	if l.unit != nil && !m.closed {
		ctx, cancel := context.WithTimeout(context.Background(), loadTime)
		defer cancel()
		l.unit.setNames(ctx, l.hosts.certified(next)) // a file may cover other names now
	}
	for _, p := range changed {
		log := m.log.WithField("file", p.CertFile)
		if p.err != nil {
			log.WithError(p.err).Warn("changed certificate can't be used; the one from before is served")
			continue
		}
		log.WithFields(logrus.Fields{"names": p.names, "not_after": p.cert.Leaf.NotAfter}).Info("certificate reread")
	}
}

// Close ends all background work and waits for it; it may be called again. Configurations that the
// manager has given out go on serving what is in memory.
func (m *Manager) Close() {
	m.mu.Lock()
	u := m.live.Load().unit
	if m.closed {
		u = nil
	}
	m.closed = true
	m.mu.Unlock()
	if u != nil {
		u.stop()
	}
	m.retired.Wait()
}

// CA returns the local authority's root and the file that holds it; the path
// is empty when it is in memory only.
func (m *Manager) CA() (certPEM []byte, path string) {
	if m.authority.err != nil {
		return m.authority.pem, ""
	}
	return m.authority.pem, m.authority.rootFile()
}

// HTTPChallenge answers an authority's HTTP-01 request (RFC 8555, 8.3) on any
// plain listener, before redirects and policies. It knows only the tokens that
// are being validated now, each on its own host.
func (m *Manager) HTTPChallenge(host, path string) (body string, ok bool) {
	if !strings.HasPrefix(path, challengePath) {
		return "", false
	}
	name := normalName(host)
	if body, ok := m.challenges.body(name, path); ok {
		return body, true
	}
	chal, ok := m.fleetChallenge(context.Background(), acme.ChallengeTypeHTTP01, name)
	if !ok || chal.HTTP01ResourcePath() != path {
		return "", false
	}
	return chal.KeyAuthorization, true
}

// fleetChallenge looks for a challenge that another gateway of the fleet has
// presented. Strangers choose the names: only hosts of routes are looked up
// (all, with on_demand), and few at once.
func (m *Manager) fleetChallenge(ctx context.Context, kind, name string) (acme.Challenge, bool) {
	u := m.live.Load().unit
	if u == nil || !u.shared || !validName(name) {
		return acme.Challenge{}, false
	}
	if _, ok := (*u.names.Load())[name]; !ok && u.demand == nil {
		return acme.Challenge{}, false
	}
	select {
	case m.lookups <- struct{}{}:
		defer func() { <-m.lookups }()
	default:
		return acme.Challenge{}, false
	}
	return sharedChallenge(ctx, u.store, u.issuer.key, kind, name)
}
