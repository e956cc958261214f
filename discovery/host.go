package discovery

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// hostRefresh is how long the list of this host's addresses is believed.
const hostRefresh = 30 * time.Second

// Host knows which addresses are this host's own. The zero value is ready; it
// starts no goroutine.
type Host struct {
	mu    sync.Mutex // guards the two below
	at    time.Time
	addrs map[netip.Addr]struct{}
}

// Has says whether a host:port or bare address is loopback or one of this
// host's. A name that isn't an address is none, but for localhost.
func (h *Host) Has(address string) bool {
	host := address
	if name, _, err := net.SplitHostPort(address); err == nil {
		host = name
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap().WithZone("")
	if ip.IsLoopback() {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.addrs == nil || time.Since(h.at) > hostRefresh {
		h.refresh()
	}
	_, own := h.addrs[ip]
	return own
}

// refresh reads the interfaces. When they can't be read the old list stays.
func (h *Host) refresh() {
	h.at = time.Now()
	list, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	h.addrs = make(map[netip.Addr]struct{}, len(list))
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			h.addrs[p.Addr().Unmap().WithZone("")] = struct{}{}
		}
	}
}
