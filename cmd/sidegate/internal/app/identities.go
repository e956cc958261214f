package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// identities are who this process is in the fleet: mostly one, more where sidecars
// have their own. They outlive reloads, so that connections do.
type identities struct {
	log logrus.FieldLogger

	mu     sync.Mutex // guards what follows
	live   map[edgetls.IdentitySettings]*liveIdentity
	closed bool
}

type liveIdentity struct {
	*edgetls.IdentityFiles
	stop func() // waits for its end
}

// identityPlan are the identities of a configuration that is being made ready.
type identityPlan struct {
	of      *identities
	file    *config.File
	members map[edgetls.IdentitySettings]*edgetls.IdentityFiles
}

// plan reads the files of new identities. diags says what is wrong with them.
func (i *identities) plan(file *config.File, diags *config.Diagnostics) *identityPlan {
	p := &identityPlan{of: i, file: file, members: map[edgetls.IdentitySettings]*edgetls.IdentityFiles{}}
	p.add(file.Identity, "identity", diags)
	for _, s := range file.Sidecars {
		what := fmt.Sprintf("sidecar %q", s.Name)
		p.add(s.Identity, what+": identity", diags)
		if id := p.ofSidecar(s); id != nil && id.Name().Service != s.Name {
			diags.Errorf(file.Place(s), "Give it an identity block of its own, with the certificate that sidegate ca issue -service "+s.Name+" makes.",
				"%s: the certificate is that of %s, so that all who call %s would refuse it", what, id.Name(), s.Name)
		}
	}
	return p
}

func (p *identityPlan) add(s *edgetls.IdentitySettings, what string, diags *config.Diagnostics) {
	if s == nil || p.members[*s] != nil {
		return
	}
	p.of.mu.Lock()
	live := p.of.live[*s]
	p.of.mu.Unlock()
	if live != nil {
		p.members[*s] = live.IdentityFiles
		return
	}
	id, err := edgetls.NewIdentityFiles(*s, edgetls.Deps{Log: p.of.log})
	if err != nil {
		diags.Errorf(p.file.Place(s), "", "%s: %v", what, err)
		return
	}
	p.members[*s] = id
}

// find is an identity of the plan; nil: there is none.
func (p *identityPlan) find(s *edgetls.IdentitySettings) *edgetls.IdentityFiles {
	if p == nil || s == nil {
		return nil
	}
	return p.members[*s]
}

// ofSidecar is who a sidecar is: its own identity, or the process's.
func (p *identityPlan) ofSidecar(s *config.Sidecar) *edgetls.IdentityFiles {
	if s.Identity != nil {
		return p.find(s.Identity)
	}
	return p.find(p.file.Identity)
}

// commit keeps the plan's identities fresh, and lets go of others.
func (p *identityPlan) commit() {
	i := p.of
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return
	}
	for s, l := range i.live {
		if p.members[s] == nil {
			l.stop()
			delete(i.live, s)
		}
	}
	for s, id := range p.members {
		if i.live[s] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { // ends with stop, which awaits it
			defer close(done)
			id.Run(ctx)
		}()
		i.live[s] = &liveIdentity{id, func() { cancel(); <-done }}
	}
}

// close ends all.
func (i *identities) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	for s, l := range i.live {
		l.stop()
		delete(i.live, s)
	}
}

// status is that of the certificates.
func (i *identities) status() []edgetls.CertStatus {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []edgetls.CertStatus
	for _, l := range i.live {
		out = append(out, l.Status())
	}
	return out
}

// towards is who this process is to the instances of a service: a service that a
// sidecar calls by an identity of its own has the sidecar's name in its.
func (a *App) towards(cfg *upstream.Config) upstream.Identity {
	p := a.planIdentities
	if p == nil {
		return nil
	}
	id := p.find(p.file.Identity)
	for _, s := range p.file.Sidecars {
		if strings.HasPrefix(cfg.Name, s.Inbound()+"/") {
			id = p.ofSidecar(s)
		}
	}
	if id == nil {
		return nil // and not an interface that holds nil
	}
	return id
}

// fleetTLS is the configuration of handshakes with those of the fleet.
func (a *App) fleetTLS(cfg *proxy.ListenerConfig) (*tls.Config, error) {
	for s, id := range a.planIdentities.members {
		if identityKey(s) == cfg.Peers.Identity {
			return id.Server(cfg.Peers.Allow, "h2", "http/1.1"), nil
		}
	}
	return nil, errors.New("its identity isn't known")
}

// identityKey names an identity in a listener's configuration.
func identityKey(s edgetls.IdentitySettings) string {
	return s.CertFile + "\n" + s.KeyFile + "\n" + s.CAFile
}

// refused tells of a caller that a sidecar's listener hasn't let in.
func (a *App) refused(cfg *proxy.ListenerConfig, from netip.AddrPort, err error) {
	if cfg.Peers == nil {
		return
	}
	a.identities.mu.Lock()
	defer a.identities.mu.Unlock()
	for s, l := range a.identities.live {
		if identityKey(s) == cfg.Peers.Identity {
			l.Refused(cfg.Name, from, err)
		}
	}
}

// of is the name of a sidecar in the fleet; "": it has none.
func (i *identities) of(file *config.File, s *config.Sidecar) string {
	settings := s.Identity
	if settings == nil {
		settings = file.Identity
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if settings == nil || i.live[*settings] == nil {
		return ""
	}
	return i.live[*settings].Name().String()
}
