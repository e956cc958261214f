package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/sidegate-proxy/sidegate/proxy/h3"
)

// Socket is a listening socket that is open already: what a Server passes on, or
// takes instead of binding an address itself.
type Socket struct {
	Network string // tcp, which unix sockets count among, or udp
	// Address is that of the listener it was opened for, as its configuration
	// writes it; with any free port, behind the listener's name. "": somebody else opened it, a socket unit; it goes to the listener
	// of its name, or else to one whose address it is bound to.
	Address string
	Name    string
	File    *os.File
}

// String says which socket it is.
func (s Socket) String() string {
	switch {
	case s.Address != "":
		return s.Network + " " + s.Address
	case s.Name != "":
		return fmt.Sprintf("%s %s (%q)", s.Network, bound(s.File), s.Name)
	default:
		return s.Network + " " + bound(s.File).String()
	}
}

// bound is what a socket is bound to; the zero address, when that can't be known.
func bound(f *os.File) netip.AddrPort {
	if l, err := net.FileListener(f); err == nil {
		defer l.Close() //nolint:errcheck // a duplicate
		return addrPort(l.Addr())
	}
	if c, err := net.FilePacketConn(f); err == nil {
		defer c.Close() //nolint:errcheck // a duplicate
		if u, ok := c.LocalAddr().(*net.UDPAddr); ok {
			a := u.AddrPort()
			return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
	}
	return netip.AddrPort{}
}

// Inherit gives the server open sockets, which are its own from then on: Plan and
// Commit take what fits a listener. What doesn't, Unclaimed returns.
func (s *Server) Inherit(list []Socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inherited = append(s.inherited, list...)
}

// Unclaimed are the sockets of Inherit that no listener has taken. They are the
// caller's.
func (s *Server) Unclaimed() []Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.inherited
	s.inherited = nil
	return list
}

// claim takes the inherited socket of a listener, if there is one. names are those
// of all listeners. s.mu is held.
func (s *Server) claim(network string, cfg *ListenerConfig, names map[string]bool) (Socket, bool) {
	i := slices.IndexFunc(s.inherited, func(k Socket) bool { return k.Network == network && k.Address == cfg.key() })
	if i < 0 {
		i = s.claimNamed(network, cfg)
	}
	if i < 0 {
		i = slices.IndexFunc(s.inherited, func(k Socket) bool {
			return k.Network == network && k.Address == "" && !names[k.Name] && fits(bound(k.File), cfg.Address)
		})
	}
	if i < 0 {
		return Socket{}, false
	}
	found := s.inherited[i]
	s.inherited = slices.Delete(s.inherited, i, i+1)
	return found, true
}

// claimNamed finds the one with the listener's name; of several, which one socket
// unit may have, the one with its address.
func (s *Server) claimNamed(network string, cfg *ListenerConfig) int {
	only, named := -1, 0
	for i, k := range s.inherited {
		if k.Network != network || k.Address != "" || k.Name != cfg.Name {
			continue
		}
		if fits(bound(k.File), cfg.Address) {
			return i
		}
		only, named = i, named+1
	}
	if named == 1 {
		return only
	}
	return -1
}

// fits reports whether a socket is bound to what an address says. All addresses of
// IPv6 are those of IPv4, too, unless a socket is made otherwise.
func fits(at netip.AddrPort, address string) bool {
	want, err := net.ResolveTCPAddr("tcp", address)
	if err != nil || !at.IsValid() {
		return false
	}
	p := want.AddrPort()
	if at.Port() != p.Port() {
		return false
	}
	ip := p.Addr().Unmap()
	return at.Addr() == ip || at.Addr().IsUnspecified() && (!ip.IsValid() || ip.IsUnspecified())
}

// listen opens the TCP socket of a listener, or takes an inherited one. s.mu is
// held.
func (s *Server) listen(cfg *ListenerConfig, names map[string]bool) (net.Listener, error) {
	k, ok := s.claim("tcp", cfg, names)
	if !ok {
		return bind(cfg.Address)
	}
	l, err := net.FileListener(k.File)
	if err != nil {
		return nil, fmt.Errorf("the socket that was passed, %s: %w", k, err)
	}
	if k.Address == "" && !fits(addrPort(l.Addr()), cfg.Address) {
		s.Log.WithField("listener", cfg.Name).Warnf("the socket that systemd passes is bound to %s, which holds, not to the listener's address %s", l.Addr(), cfg.Address)
	}
	return l, k.File.Close()
}

// listenQUIC opens the UDP socket beside a TCP one that is bound to address, or
// takes an inherited one. s.mu is held.
func (s *Server) listenQUIC(v *serving, address string, names map[string]bool) (*h3.Port, error) {
	k, ok := s.claim("udp", &v.cfg, names)
	if !ok {
		return h3.Listen(address, s.secrets, v.log)
	}
	c, err := net.FilePacketConn(k.File)
	if err != nil {
		return nil, fmt.Errorf("the socket that was passed, %s: %w", k, err)
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the socket that was passed, %s, isn't one of UDP", k), c.Close())
	}
	if err := k.File.Close(); err != nil { // udp has a duplicate
		return nil, err
	}
	return h3.ListenOn(udp, s.secrets, v.log)
}

// Sockets are duplicates of the sockets in use, to pass on. The caller closes them.
func (s *Server) Sockets() ([]Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Socket
	add := func(network string, cfg *ListenerConfig, from interface{ File() (*os.File, error) }) error {
		f, err := from.File()
		if err != nil {
			return fmt.Errorf("listener %q: %w", cfg.Name, err)
		}
		list = append(list, Socket{Network: network, Address: cfg.key(), Name: cfg.Name, File: f})
		return nil
	}
	for _, l := range s.listeners {
		v := l.now.Load()
		from, ok := l.tcp.(interface{ File() (*os.File, error) })
		if !ok {
			continue
		}
		err := add("tcp", &v.cfg, from)
		if p := s.ports[l.tcp.Addr().String()]; err == nil && v.h3 != nil && p != nil {
			err = add("udp", &v.cfg, p)
		}
		if err != nil {
			CloseSockets(list)
			return nil, err
		}
	}
	return list, nil
}

// CloseSockets closes sockets that aren't passed on, or have been.
func CloseSockets(list []Socket) {
	for _, k := range list {
		_ = k.File.Close() // duplicates, or not wanted
	}
}
