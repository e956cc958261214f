package tls

import (
	"cmp"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// CertStatus is one certificate, or a host that waits for one.
type CertStatus struct {
	Names      []string  `json:"names"`
	Source     string    `json:"source"` // acme, file, local, on-demand
	Issuer     string    `json:"issuer,omitempty"`
	File       string    `json:"file,omitempty"`
	NotBefore  time.Time `json:"not_before,omitzero"` // zero: no certificate yet
	NotAfter   time.Time `json:"not_after,omitzero"`
	Error      string    `json:"error,omitempty"` // of the last try; empty once one succeeds
	ErrorAt    time.Time `json:"error_at,omitzero"`
	NextTry    time.Time `json:"next_try,omitzero"`
	RenewAt    time.Time `json:"renew_at,omitzero"`
	RenewFrom  time.Time `json:"renew_from,omitzero"` // the window that the authority suggests (ARI)
	RenewUntil time.Time `json:"renew_until,omitzero"`
}

// book notes per host what happened last.
type book struct {
	mu    sync.Mutex // guards notes
	notes map[string]note
}

type note struct {
	err      string
	at, next time.Time
	info     acme.RenewalInfo
}

const maxNotes = 20000

func newBook() *book { return &book{notes: make(map[string]note)} }

func (b *book) change(name string, f func(*note)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.notes[name]
	if !ok && len(b.notes) >= maxNotes {
		return
	}
	f(&n)
	b.notes[name] = n
}

// fail notes an error and reports whether it is another one than before.
func (b *book) fail(name string, err error, at, next time.Time) (changed bool) {
	text := "failed"
	if err != nil {
		text = err.Error()
	}
	b.change(name, func(n *note) {
		changed = n.err == "" || next.IsZero() != n.next.IsZero()
		n.err, n.at, n.next = text, at, next
	})
	return changed
}

func (b *book) ok(name string) {
	b.change(name, func(n *note) { n.err, n.at, n.next = "", time.Time{}, time.Time{} })
}

func (b *book) renewal(name string, info acme.RenewalInfo) {
	b.change(name, func(n *note) { n.info = info })
}

func (b *book) drop(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.notes, name)
}

func (b *book) get(name string) note {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.notes[name]
}

// Status returns all certificates that are served, and the hosts that wait for
// one, by name. It reads memory only.
func (m *Manager) Status() []CertStatus {
	l := m.live.Load()
	var all []CertStatus
	for _, p := range l.files.pairs {
		s := describe("file", p.cert.Leaf)
		s.Names, s.File = p.names, p.CertFile
		if p.err != nil {
			s.Error = p.err.Error()
		}
		all = append(all, s)
	}
	if l.unit != nil {
		all = append(all, l.unit.status(l)...)
	}
	for _, c := range m.authority.list() {
		s := describe("local", c.cert.Leaf)
		s.Names, s.RenewAt = []string{c.name}, c.renew
		if m.authority.err != nil {
			s.Error = m.authority.err.Error()
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b CertStatus) int { return cmp.Compare(a.Names[0], b.Names[0]) })
	return all
}

func (u *unit) status(l *live) []CertStatus {
	var all []CertStatus
	add := func(name, source string) {
		s := CertStatus{Names: []string{name}, Source: source}
		c := u.newest(name)
		if c == nil {
			c = l.held[name]
		}
		if c != nil {
			s = describe(source, c.Leaf)
			s.Names = []string{name}
			life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
			s.RenewAt = c.Leaf.NotAfter.Add(-time.Duration(float64(life) * u.routes.RenewalWindowRatio))
		}
		n := u.book.get(name)
		s.Error, s.ErrorAt, s.NextTry = n.err, n.at, n.next
		if id := n.info.UniqueIdentifier; id != "" && c != nil && id == ariID(c.Leaf) {
			s.RenewAt, s.RenewFrom, s.RenewUntil = n.info.SelectedTime, n.info.SuggestedWindow.Start, n.info.SuggestedWindow.End
		}
		all = append(all, s)
	}
	for name := range *u.names.Load() {
		add(name, "acme")
	}
	if u.asker != nil {
		for _, name := range u.asker.names() {
			if _, ok := (*u.names.Load())[name]; !ok {
				add(name, "on-demand")
			}
		}
	}
	return all
}

func ariID(leaf *x509.Certificate) string {
	id, err := acme.ARIUniqueIdentifier(leaf)
	if err != nil {
		return ""
	}
	return id
}

func describe(source string, leaf *x509.Certificate) CertStatus {
	issuer := leaf.Issuer.CommonName
	if issuer == "" {
		issuer = leaf.Issuer.String()
	}
	return CertStatus{Source: source, Issuer: issuer, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
}

// Problems returns what is wrong with the manager itself: state that lives in
// memory because the state directory can't be used, and storage that can't be
// written.
func (m *Manager) Problems() []error {
	var all []error
	if m.authority.err != nil {
		all = append(all, m.authority.err)
	}
	if err := m.tickets.problem(); err != nil {
		all = append(all, err)
	}
	if u := m.live.Load().unit; u != nil {
		if err := u.storing.err(); err != nil {
			all = append(all, err)
		}
	}
	return all
}
