package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/h3"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// ServerDeps are what a Server works with.
type ServerDeps struct {
	Log     logrus.FieldLogger
	Handler exchange.Handler
	Sweeper *sweep.Sweeper
	// Memory says whether new connections may come; nil: they may.
	Memory *memory.Guard
	// Abused is told of each address whose connection was closed for what it sent;
	// nil: nobody is.
	Abused func(netip.Addr)
	// TLS returns the configuration of a listener's handshakes, for TCP or for
	// QUIC.
	TLS func(cfg *ListenerConfig, quic bool) (*tls.Config, error)
	// Secrets are QUIC's, which the next process should have, too; nil: new ones.
	Secrets *h3.Secrets
}

// Server owns the listening sockets. A socket is kept as long as a listener of
// the configuration has its address, whatever else of it changes; that of QUIC
// also until its last connection has ended.
type Server struct {
	ServerDeps
	abuses  *abuses

	mu        sync.Mutex           // guards what follows
	listeners map[string]*listener // by address
	ports     map[string]port      // the UDP ports beside them, by the address that TCP is bound to
	retired   []*serving           // replaced or gone, with connections that haven't ended
	inherited []Socket             // that no listener has taken so far
	draining  bool
}

// NewServer returns a server without listeners.
func NewServer(d ServerDeps) *Server {
	if d.Secrets == nil {
		d.Secrets = h3.NewSecrets()
	}
	return &Server{ServerDeps: d, abuses: newAbuses(), listeners: map[string]*listener{}, ports: map[string]port{}}
}

// ServerPlan is a set of listeners that is ready, with sockets bound, but
// doesn't serve yet.
type ServerPlan struct {
	server *Server
	steps  []step
	trust  Trust
}

// step is one listener of a plan: an old one that goes on, with or without new
// settings, or a new one.
type step struct {
	old   *listener // nil: new
	next  *serving  // nil: goes on as it is
	fresh *listener
}

// Plan binds the addresses that aren't bound yet and prepares the protocols.
// Nothing that serves is touched. Commit or Abort must follow.
func (s *Server) Plan(cfgs []*ListenerConfig, trust Trust) (*ServerPlan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &ServerPlan{server: s, trust: trust}
	var errs []error
	names := map[string]bool{}
	for _, cfg := range cfgs {
		names[cfg.Name] = true
	}
	for _, cfg := range cfgs {
		st, err := s.plan(cfg, trust, names)
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %q: %w", cfg.Name, err))
			continue
		}
		p.steps = append(p.steps, st)
	}
	if len(errs) > 0 {
		p.Abort()
		return nil, errors.Join(errs...)
	}
	return p, nil
}

func (s *Server) plan(cfg *ListenerConfig, trust Trust, names map[string]bool) (step, error) {
	old := s.listeners[cfg.Address]
	if old != nil {
		now := old.now.Load()
		same, err := s.sameAuthorities(now, cfg)
		if err != nil {
			return step{}, err
		}
		if same && reflect.DeepEqual(now.cfg, *cfg) && reflect.DeepEqual(now.trust, trust) {
			return step{old: old}, nil
		}
	}
	held := newPlaces()
	if old != nil {
		held = old.now.Load().places
	}
	next, err := newServing(s.ServerDeps, s.abuses, held, cfg, trust)
	if err != nil {
		return step{}, err
	}
	if old != nil {
		return step{old: old, next: next}, nil
	}
	l, err := s.listen(cfg, names)
	if err != nil {
		return step{}, err
	}
	return step{next: next, fresh: l}, nil
}

// sameAuthorities reports whether the file of client authorities says what it
// said: its path alone doesn't tell.
func (s *Server) sameAuthorities(now *serving, cfg *ListenerConfig) (bool, error) {
	if cfg.ClientCAFile == "" || !cfg.TLS || now.tls == nil {
		return true, nil
	}
	next, err := s.TLS(cfg, false)
	if err != nil {
		return false, err
	}
	return next.ClientCAs.Equal(now.tls.ClientCAs), nil
}

// bindError says who has the port, when that can be known.
func bindError(address string, err error) error {
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text) // "" and names give 0, which nobody owns
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		if who := portOwner(port); who != "" {
			return fmt.Errorf("%s is taken by %s: stop it, or choose another address", address, who)
		}
		return fmt.Errorf("%s is taken by another process: find it with `ss -ltnp`, or choose another address", address)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: no permission to bind it: ports below 1024 need root or CAP_NET_BIND_SERVICE", address)
	default:
		return err
	}
}

// Abort gives up a plan and the sockets that it bound.
func (p *ServerPlan) Abort() {
	for _, st := range p.steps {
		if st.fresh != nil {
			_ = st.fresh.tcp.Close()
		}
	}
}

// Commit serves the plan's listeners and drains those that aren't in it. The
// error is of UDP sockets: the TCP side serves all the same.
func (p *ServerPlan) Commit() error {
	s := p.server
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := map[string]*listener{}
	for _, st := range p.steps {
		l := st.old
		if l == nil {
			l = st.fresh
		}
		if st.next != nil {
			if before := l.now.Swap(st.next); before != nil {
				s.retire(before)
			}
		}
		if st.fresh != nil {
			l.start()
		}
		kept[l.now.Load().cfg.Address] = l
	}
	for address, l := range s.listeners {
		if kept[address] != l {
			_ = l.tcp.Close() // ends its accept loops
			s.retire(l.now.Load())
		}
	}
	s.listeners = kept
	err := s.serveQUIC()
	s.bury()
	return err
}

// serveQUIC opens the UDP ports beside the TCP ones, and lets go of those that
// no listener speaks h3 on. s.mu is held.
func (s *Server) serveQUIC() error {
	if s.draining {
		return nil // the ports are closed for good
	}
	var errs []error
	fronts, names := map[string]*h3.Front{}, map[string]bool{}
	for _, l := range s.listeners {
		names[l.now.Load().cfg.Name] = true
	}
	for _, l := range s.listeners {
		v, address := l.now.Load(), l.tcp.Addr().String()
		if v.h3 == nil {
			continue
		}
		fronts[address] = v.h3
		if p, ok := s.ports[address]; ok && p.Use(v.h3) {
			continue
		}
		p, err := s.listenQUIC(v, address, names)
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %q: http/3: %w", v.cfg.Name, err))
			delete(s.ports, address)
			continue
		}
		p.Use(v.h3)
		s.ports[address] = p
	}
	for address, p := range s.ports {
		// It stays in the map: should a listener come back before the last
		// connection has ended, it is the same socket that serves it.
		if fronts[address] == nil {
			p.Use(nil)
		}
	}
	return errors.Join(errs...)
}

// retire ends a serving, and remembers it as long as it has connections. s.mu
// is held.
func (s *Server) retire(v *serving) {
	v.drain(replacedGrace)
	s.retired = append(s.retired, v)
}

// bury closes the retired servings whose last connection has ended: a front
// holds a place in the sweeper, and workers, until then. s.mu is held.
func (s *Server) bury() {
	s.retired = slices.DeleteFunc(s.retired, func(v *serving) bool {
		if v.left() > 0 {
			return false
		}
		v.close()
		return true
	})
}

// ListenerStatus is what is known of a listener.
type ListenerStatus struct {
	Name        string   `json:"name"`
	Address     string   `json:"address"`
	Protocols   []string `json:"protocols"`
	TLS         bool     `json:"tls"`
	Connections int      `json:"connections"`
	Busy        int      `json:"busy"` // requests, or streams, in flight
	Accepted    uint64   `json:"accepted"`
	Refused     uint64   `json:"refused"`    // over a limit, or not PROXY protocol
	Handshakes  uint64   `json:"handshakes"` // failed ones
}

// Status is the state of all listeners.
func (s *Server) Status() []ListenerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ListenerStatus, 0, len(s.listeners))
	for _, l := range s.listeners {
		out = append(out, l.status())
	}
	return out
}

// How long idle connections of HTTP/1.1 may still send a request, which then is
// their last, before they are closed.
const (
	replacedGrace = 5 * time.Second // when a listener's settings have changed, or it is gone
	stopGrace     = time.Second     // when the process stops: what is idle for longer hardly sends in that very moment
)

// StopAccepting closes the sockets: another process has duplicates, and accepts
// what comes. Drain must follow.
func (s *Server) StopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for _, l := range s.listeners {
		_ = l.tcp.Close() // ends its accept loops, after what they have
	}
}

// Drain stops accepting, lets the requests in flight end, and cuts what is left
// when ctx ends. Idle connections may stay until shortly before, and send another
// request: nothing waits for this process.
func (s *Server) Drain(ctx context.Context) {
	grace := stopGrace
	if by, ok := ctx.Deadline(); ok {
		grace = max(time.Until(by)-stopGrace, 0)
	}
	s.StopAccepting()
	all, ports := s.all()
	s.end(ctx, all, ports, grace)
	s.close(all, ports)
}

// Leave is Drain for a process that the next one waits for the end of, or that
// has none. It goes on accepting until all connections that there are have ended,
// or ctx has; each new one gets to send one request. Then it closes its sockets,
// which may stay open elsewhere, and lets the last ones end.
func (s *Server) Leave(ctx context.Context) {
	before, ports := s.all()
	for _, p := range ports {
		p.Stay()
	}
	if err := s.renew(); err != nil {
		s.Log.WithError(err).Warn("no connections are accepted while the gateway stops")
		s.StopAccepting()
	}
	if !s.end(ctx, before, nil, stopGrace) {
		s.close(before, nil)
	}
	s.StopAccepting()
	for _, p := range ports {
		p.Hush()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWait)
	defer cancel()
	all, ports := s.all()
	s.end(last, all, ports, 0)
	s.close(all, ports)
}

// lastWait is how long those may take who came while the gateway was stopping.
const lastWait = 3 * time.Second

// renew has connections from now on served by fronts that drain from their begin.
func (s *Server) renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[*listener]*serving{}
	for _, l := range s.listeners {
		now := l.now.Load()
		v, err := newServing(s.ServerDeps, s.abuses, now.places, &now.cfg, now.trust)
		if err != nil {
			return fmt.Errorf("listener %q: %w", now.cfg.Name, err)
		}
		next[l] = v
	}
	for l, v := range next {
		v.drain(v.cfg.Limits.IdleTimeout)
		s.retired = append(s.retired, l.now.Swap(v))
		if p, ok := s.ports[l.tcp.Addr().String()]; ok && v.h3 != nil {
			p.Use(v.h3)
		}
	}
	return nil
}

// all is what has, or may get, connections, and the UDP ports.
func (s *Server) all() ([]*serving, map[string]port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.retired)
	for _, l := range s.listeners {
		list = append(list, l.now.Load())
	}
	return list, maps.Clone(s.ports)
}

// end drains servings, and reports whether they, and ports, have no connections
// any more before ctx ends.
func (s *Server) end(ctx context.Context, list []*serving, ports map[string]port, grace time.Duration) bool {
	for _, v := range list {
		v.drain(grace)
	}
	left := await(ctx, func() (n int) {
		for _, v := range list {
			n += v.left()
		}
		shaking := 0 // a port has those in their handshake, too
		for _, p := range ports {
			shaking += p.Conns()
		}
		return max(n, shaking)
	})
	if left > 0 {
		s.Log.WithField("connections", left).Warn("drain: time is up, closing the connections that are left")
	}
	return left == 0
}

func (s *Server) close(list []*serving, ports map[string]port) {
	for _, v := range list {
		v.close()
	}
	for _, p := range ports {
		p.Close()
	}
}

// await waits until left is 0, and returns it when ctx ends first.
func await(ctx context.Context, left func() int) int {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		n := left()
		if n == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return n
		case <-t.C:
		}
	}
}
