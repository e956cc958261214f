package app

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery/sidecar"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// registering is what is registered in Consul of this process's sidecars.
type registering struct {
	registrar atomic.Pointer[sidecar.Registrar] // nil: there was no sidecar yet
	end       *cleanups                         // where its end is noted

	// leaving are the listeners at addresses that sidecars have left, for those
	// who haven't heard of it yet. Only Reload, which isn't called twice at a time,
	// touches them.
	leaving []*proxy.ListenerConfig
}

// register has the sidecars of a configuration registered: those whose listeners
// are bound; and more, that are there from before. end is given at the start.
func (a *App) register(file *config.File, end *cleanups, more ...sidecar.Service) (left <-chan struct{}) {
	g := &a.registered
	if end != nil {
		g.end = end
	}
	r := g.registrar.Load()
	if r == nil {
		if len(file.Sidecars) == 0 {
			return nil
		}
		r = sidecar.New(a.consul.client(), sidecar.Deps{Log: a.log, StateDir: file.StateDir, Wait: deregisterWait(file)})
		g.registrar.Store(r)
		g.end.background("registrations", r.Run)
	}
	r.Use(a.consul.client())
	list := slices.Clone(more)
	for _, s := range file.Sidecars {
		list = append(list, a.registration(s))
	}
	return r.Set(list)
}

// registration is what Consul gets to know of a sidecar.
func (a *App) registration(s *config.Sidecar) sidecar.Service {
	port := 0
	if at, ok := a.server.Address(s.Inbound(), s.Listen).(*net.TCPAddr); ok {
		port = at.Port
	}
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil {
		host = "" // checked when it was loaded
	}
	check := "http://"
	if at := a.server.Address(s.Checked(), s.Check.Listen); at != nil {
		check += at.String()
	}
	meta := s.Meta
	if id := a.identities.of(a.current(), s); id != "" {
		meta = maps.Clone(meta)
		if meta == nil {
			meta = map[string]string{}
		}
		meta[upstream.IdentityMeta] = id
	}
	return sidecar.Service{
		ID: sidecar.ID(s.Name, host, port), Name: s.Name, Address: s.Announced(), Port: port, Tags: s.Tags, Meta: meta,
		Passing: s.Weights.Passing, Warning: s.Weights.Warning,
		Check:           sidecar.Check{URL: check + s.CheckPath(), Interval: s.Check.Interval, Timeout: s.Check.Timeout},
		DeregisterAfter: s.Check.DeregisterAfter,
		Ready:           func(ctx context.Context) bool { return a.ready(ctx, s) },
	}
}

// deregisterWait is how long those who watch Consul are given: the longest that some
// sidecar wants.
func deregisterWait(file *config.File) time.Duration {
	var d time.Duration
	for _, s := range file.Sidecars {
		d = max(d, s.DeregisterWait)
	}
	return d
}

// leave takes the sidecars' services out of the way of new requests, which are served
// meanwhile; gone, which follows when all are answered, deregisters them.
func (a *App) leave(file *config.File) {
	if r := a.registered.registrar.Load(); r != nil {
		r.Leave(context.Background(), deregisterWait(file))
	}
}

func (a *App) gone() {
	if r := a.registered.registrar.Load(); r != nil {
		r.Gone(context.Background())
	}
}

// change puts a configuration in force whose sidecars may be others than those of
// now, and loses no request on it: what goes is served until those who watch Consul
// have seen that, and so is the address that a service had.
func (a *App) change(file *config.File) error {
	now := a.current()
	find := func(list []*config.Sidecar, name string) *config.Sidecar {
		if i := slices.IndexFunc(list, func(s *config.Sidecar) bool { return s.Name == name }); i >= 0 {
			return list[i]
		}
		return nil
	}
	stays := *now
	stays.Sidecars = nil
	var moved []*proxy.ListenerConfig
	var before []sidecar.Service
	for _, s := range now.Sidecars {
		next := find(file.Sidecars, s.Name)
		if next == nil {
			continue
		}
		stays.Sidecars = append(stays.Sidecars, s)
		if next.Listen != s.Listen {
			moved = append(moved, listenersOf(&config.File{Sidecars: []*config.Sidecar{s}, Identity: now.Identity})[0])
			before = append(before, a.registration(s))
		}
	}
	if len(stays.Sidecars) < len(now.Sidecars) {
		await(a.register(&stays, nil), 2*deregisterWait(now)+time.Second)
	}
	a.registered.leaving = moved
	if err := a.enforce(file, true); err != nil {
		a.registered.leaving = nil
		a.register(now, nil)
		return err
	}
	left := a.register(file, nil, before...)
	if len(moved) > 0 {
		a.awaitRegistered(len(file.Sidecars) + len(before))
		left = a.register(file, nil)
	}
	if a.registered.leaving = nil; len(moved) == 0 {
		return nil
	}
	await(left, 2*deregisterWait(now)+time.Second)
	return a.enforce(file, true)
}

// movePatience is how long a service that moves is announced at both addresses at most
// before the first one is taken back.
const movePatience = 5 * time.Second

// awaitRegistered waits until all services are registered.
func (a *App) awaitRegistered(services int) {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for until := time.Now().Add(movePatience); time.Now().Before(until); <-t.C {
		n := 0
		for _, s := range a.registered.registrar.Load().Status() {
			if s.State == sidecar.Registered {
				n++
			}
		}
		if n >= services {
			return
		}
	}
}

// await waits until a channel is closed, or the time is over.
func await(left <-chan struct{}, most time.Duration) {
	if left == nil {
		return
	}
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-left:
	case <-t.C:
	}
}
