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
	Network string // tcp or udp
	// Address is that of the listener it was opened for, as its configuration
	// writes it.
	Address string
	// Unit says that a socket unit has opened it: it goes to the listener of its
	// name, or else to one whose address it is bound to, whatever Address says.
	Unit bool
	Name string // of a unit's socket
	File *os.File
	// Links are the ways to the processes before, which still have connections on
	// it (h3.Port.HandOver).
	Links []*os.File
}

// String says which socket it is.
func (s Socket) String() string {
	switch {
	case !s.Unit:
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
	i := slices.IndexFunc(s.inherited, func(k Socket) bool { return !k.Unit && k.Network == network && k.Address == cfg.Address })
	if i < 0 {
		i = s.claimNamed(network, cfg)
	}
	if i < 0 {
		i = slices.IndexFunc(s.inherited, func(k Socket) bool {
			return k.Unit && k.Network == network && !names[k.Name] && fits(bound(k.File), cfg.Address)
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
		if !k.Unit || k.Network != network || k.Name != cfg.Name {
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
func (s *Server) listen(cfg *ListenerConfig, names map[string]bool) (*listener, error) {
	k, ok := s.claim("tcp", cfg, names)
	if !ok {
		l, err := net.Listen("tcp", cfg.Address)
		if err != nil {
			return nil, bindError(cfg.Address, err)
		}
		return &listener{server: s, tcp: l}, nil
	}
	l, err := net.FileListener(k.File)
	if err != nil {
		return nil, fmt.Errorf("the socket that was passed, %s: %w", k, err)
	}
	if k.Unit && !fits(addrPort(l.Addr()), cfg.Address) {
		s.Log.WithField("listener", cfg.Name).Warnf("the socket that systemd passes is bound to %s, which holds, not to the listener's address %s", l.Addr(), cfg.Address)
	}
	return &listener{server: s, tcp: l, unit: k.Unit, unitName: k.Name}, k.File.Close()
}

// port is a UDP port, and where its socket comes from.
type port struct {
	*h3.Port
	unit     bool // a socket unit
	unitName string
}

// listenQUIC opens the UDP socket beside a TCP one that is bound to address, or
// takes an inherited one. s.mu is held.
func (s *Server) listenQUIC(v *serving, address string, names map[string]bool) (port, error) {
	k, ok := s.claim("udp", &v.cfg, names)
	if !ok {
		p, err := h3.Listen(address, s.Secrets, v.log)
		return port{Port: p}, err
	}
	c, err := net.FilePacketConn(k.File)
	if err != nil {
		return port{}, fmt.Errorf("the socket that was passed, %s: %w", k, err)
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return port{}, errors.Join(fmt.Errorf("the socket that was passed, %s, isn't one of UDP", k), c.Close())
	}
	if err := k.File.Close(); err != nil { // udp has a duplicate
		return port{}, err
	}
	p, err := h3.ListenOn(udp, s.Secrets, k.Links, v.log)
	return port{Port: p, unit: k.Unit, unitName: k.Name}, err
}

// Sockets are duplicates of the sockets in use. The caller closes them.
func (s *Server) Sockets() ([]Socket, error) {
	return s.sockets(func(p port) (Socket, error) {
		f, err := p.File()
		return Socket{File: f}, err
	})
}

// HandOver is Sockets for another process that takes over: with the ways from it to
// this one. Reclaim must follow if it fails, and StopAccepting if it serves.
func (s *Server) HandOver() ([]Socket, error) {
	return s.sockets(func(p port) (Socket, error) {
		f, links, err := p.HandOver()
		return Socket{File: f, Links: links}, err
	})
}

// Reclaim undoes HandOver, after the end of the other process.
func (s *Server) Reclaim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		p.Reclaim()
	}
}

func (s *Server) sockets(ofPort func(port) (Socket, error)) ([]Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Socket
	for _, l := range s.listeners {
		v := l.now.Load()
		from, ok := l.tcp.(*net.TCPListener)
		if !ok {
			continue
		}
		f, err := from.File()
		if err == nil {
			list = append(list, Socket{Network: "tcp", Address: v.cfg.Address, Unit: l.unit, Name: l.unitName, File: f})
		}
		if p, ok := s.ports[l.tcp.Addr().String()]; ok && err == nil && v.h3 != nil {
			var k Socket
			if k, err = ofPort(p); err == nil {
				k.Network, k.Address, k.Unit, k.Name = "udp", v.cfg.Address, p.unit, p.unitName
				list = append(list, k)
			}
		}
		if err != nil {
			CloseSockets(list)
			return nil, fmt.Errorf("listener %q: %w", v.cfg.Name, err)
		}
	}
	return list, nil
}

// CloseSockets closes sockets that aren't passed on, or have been.
func CloseSockets(list []Socket) {
	for _, k := range list {
		_ = k.File.Close() // a duplicate, or not wanted
		for _, l := range k.Links {
			_ = l.Close() // likewise
		}
	}
}
