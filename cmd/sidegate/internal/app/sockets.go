package app

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/handover"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/systemd"
)

// Sockets outlive a process in three ways: the process before passes them on
// (handover.go); a socket unit of systemd has opened them; or systemd kept, in the
// service's descriptor store, those that the process before had opened. Of the
// latter the name says what they were opened for.

// adminNetwork is the network of the admin address's socket.
const adminNetwork = "admin"

// keptPrefix begins the names of descriptors that systemd keeps for us.
const keptPrefix = "sidegate "

// keptName is the name of a kept descriptor. Names have no colons.
func keptName(network, address string) string {
	return keptPrefix + network + " " + strings.ReplaceAll(address, ":", "|")
}

// keptFor is what keptName was made of.
func keptFor(name string) (network, address string, ok bool) {
	text, ok := strings.CutPrefix(name, keptPrefix)
	if !ok {
		return "", "", false
	}
	network, address, ok = strings.Cut(text, " ")
	return network, strings.ReplaceAll(address, "|", ":"), ok
}

// inherit gives the server the sockets that are open already.
func (a *App) inherit() error {
	list, err := a.inherited()
	if err != nil {
		return err
	}
	a.handing.kept = map[string]bool{}
	for _, k := range list {
		if !k.Unit {
			a.handing.kept[keptName(k.Network, k.Address)] = a.handing.before == nil // else the process before may have failed to
		}
	}
	var sockets []proxy.Socket
	for _, k := range list {
		if k.Network == adminNetwork {
			a.handing.admin = k
			continue
		}
		sockets = append(sockets, proxy.Socket{Network: k.Network, Address: k.Address, Unit: k.Unit, Name: k.Name, File: k.Files[0], Links: k.Files[1:]})
	}
	a.server.Inherit(sockets)
	return nil
}

func (a *App) inherited() ([]handover.Socket, error) {
	if before := a.handing.before; before != nil {
		if before.State != a.file.StateDir {
			return nil, fmt.Errorf("state_dir changed from %s to %s, which takes a restart", before.State, a.file.StateDir)
		}
		a.log.WithFields(logrus.Fields{"from": before.PID, "version": before.Version, "sockets": len(before.Sockets)}).Info("taking over from the old process")
		return before.Sockets, nil
	}
	named, err := systemd.Listeners()
	if err != nil {
		return nil, err
	}
	var list []handover.Socket
	for name, ls := range named {
		for _, l := range ls {
			k, err := fromSystemd(name, l)
			if err != nil {
				return nil, fmt.Errorf("socket %q from systemd: %w", name, err)
			}
			list = append(list, k)
		}
	}
	return a.dropGone(list), nil
}

func fromSystemd(name string, l systemd.Listener) (handover.Socket, error) {
	k := handover.Socket{Unit: true, Name: name}
	var from interface{ File() (*os.File, error) }
	switch s := any(l.Stream).(type) {
	case *net.TCPListener:
		k.Network, from = "tcp", s
	case *net.UnixListener:
		k.Network, from = "unix", s
	default:
		udp, ok := l.Packet.(*net.UDPConn)
		if !ok {
			return k, fmt.Errorf("no listener is of that kind: take it out of the socket unit")
		}
		k.Network, from = "udp", udp
	}
	f, err := from.File()
	if err != nil {
		return k, err
	}
	if network, address, ok := keptFor(name); ok {
		k.Network, k.Address, k.Unit, k.Name = network, address, false, ""
	}
	k.Files = []*os.File{f}
	return k, l.Close() // f is a duplicate
}

// dropGone closes what systemd kept for addresses that the configuration doesn't
// have any more, before others are bound: it may be the same port.
func (a *App) dropGone(list []handover.Socket) []handover.Socket {
	wanted := map[string]bool{keptName(adminNetwork, a.file.Admin.Address): true}
	for _, l := range listenersOf(a.file) {
		wanted[keptName("tcp", l.Key())] = true
		wanted[keptName("udp", l.Key())] = slices.Contains(l.Protocols, "h3")
	}
	gone := 0
	list = slices.DeleteFunc(list, func(k handover.Socket) bool {
		name := keptName(k.Network, k.Address)
		if k.Unit || wanted[name] {
			return false
		}
		closeAll([]handover.Socket{k})
		removeSocket(k.Address)
		a.unkeep(name)
		gone++
		return true
	})
	if gone > 0 {
		if err := systemd.Barrier(2 * time.Second); err != nil {
			a.log.WithError(err).Warn("systemd may still have sockets open that the configuration doesn't name any more")
		}
	}
	return list
}

// removeSocket removes the file of a unix socket that nobody listens on any more.
func removeSocket(address string) {
	if path, ok := strings.CutPrefix(address, proxy.UnixPrefix); ok {
		_ = os.Remove(path) // who listens there next replaces it
	}
}

func (a *App) unkeep(name string) {
	network, address, _ := keptFor(name)
	a.log.WithFields(logrus.Fields{"network": network, "address": address}).Info("systemd is told to close a socket that no listener wants any more")
	if err := systemd.Unstore(name); err != nil {
		a.log.WithError(err).Warn("systemd wasn't told")
	}
	delete(a.handing.kept, name)
}

// adminSocket is the admin address's socket, when it was passed on; nil: it is to
// be opened.
func (a *App) adminSocket(address string) (net.Listener, error) {
	k := a.handing.admin
	if k.Files == nil || k.Address != address {
		closeAll([]handover.Socket{k})
		return nil, nil
	}
	defer closeAll([]handover.Socket{k}) // the listener has a duplicate
	l, err := net.FileListener(k.Files[0])
	if err != nil {
		return nil, fmt.Errorf("the admin socket that was passed on: %w", err)
	}
	return l, nil
}

// dropUnclaimed closes what no listener has taken.
func (a *App) dropUnclaimed() {
	left := a.server.Unclaimed()
	for _, k := range left {
		log := a.log.WithField("socket", k.String())
		if k.Unit {
			log.Error("systemd passes a socket that no listener wants: give it the name of one (FileDescriptorName=), or a listener its address, or take it out of the socket unit")
			continue
		}
		removeSocket(k.Address)
		log.Info("a socket that no listener wants any more is closed")
	}
	proxy.CloseSockets(left)
}

// keepsSockets reports whether there is somebody who may keep sockets open.
func (a *App) keepsSockets() bool { return a.opt.Handover && os.Getenv("NOTIFY_SOCKET") != "" }

// keepSockets has systemd keep the sockets in use while the service restarts, but
// for those of its own socket unit, and nothing else.
func (a *App) keepSockets() {
	if !a.keepsSockets() {
		return
	}
	list, err := a.sockets(a.server.Sockets)
	if err != nil {
		a.log.WithError(err).Warn("systemd keeps no sockets open over a restart")
		return
	}
	defer closeAll(list)
	before := a.handing.kept
	a.handing.kept = map[string]bool{}
	for _, k := range list {
		name := keptName(k.Network, k.Address)
		if k.Unit {
			continue
		}
		if !before[name] {
			if err := systemd.Store(name, k.Files[0]); err != nil {
				a.log.WithError(err).Warn("systemd doesn't keep a socket open over a restart")
				continue
			}
		}
		a.handing.kept[name] = true
	}
	for name := range before {
		if !a.handing.kept[name] {
			a.unkeep(name)
		}
	}
}

// sockets are duplicates of all that are in use; of tells those of the listeners.
func (a *App) sockets(of func() ([]proxy.Socket, error)) ([]handover.Socket, error) {
	list, err := of()
	if err != nil {
		return nil, err
	}
	f, err := a.admin.File()
	if err != nil {
		proxy.CloseSockets(list)
		return nil, err
	}
	var out []handover.Socket
	if f != nil { // a sidecar needn't have an admin address
		out = append(out, handover.Socket{Network: adminNetwork, Address: a.current().Admin.Address, Files: []*os.File{f}})
	}
	for _, k := range list {
		out = append(out, handover.Socket{Network: k.Network, Address: k.Address, Unit: k.Unit, Name: k.Name, Files: append([]*os.File{k.File}, k.Links...)})
	}
	return out, nil
}

func closeAll(list []handover.Socket) {
	for _, k := range list {
		for _, f := range k.Files {
			// Who passes a file on makes its socket block (os.File.Fd), for all who
			// have it: the listener that goes on would never be closed again.
			_ = syscall.SetNonblock(int(f.Fd()), true)
			_ = f.Close() // a duplicate, or of no use
		}
	}
}
