package ban

import (
	"fmt"
	"net/netip"
	"time"
)

// Abuse bans addresses whose connections are closed for what they send, as the
// blocks of a configuration say. A connection belongs to no route, and so blocks
// that say the same count as one.
type Abuse struct {
	store *Store
	rules []*Policy
	ids   []uint64 // of the rules' counts
}

// Abuse returns what the policies say, nil when none of them looks at
// connections.
func (s *Store) Abuse(policies []*Policy) *Abuse {
	var a *Abuse
	seen := map[string]bool{}
	for _, p := range policies {
		key := fmt.Sprintf("abuse\x00%d %s %s %s %v", p.Config.Abuse, p.Window, p.For, p.Longest, p.Except)
		if p.Config.Abuse == 0 || seen[key] {
			continue
		}
		seen[key] = true
		if a == nil {
			a = &Abuse{store: s}
		}
		a.rules, a.ids = append(a.rules, p), append(a.ids, s.hash(key))
	}
	return a
}

// Count counts a connection of an address; a may be nil.
func (a *Abuse) Count(ip netip.Addr, at time.Time) {
	if a == nil || !ip.IsValid() {
		return
	}
	c := clientOf(ip)
	for i, p := range a.rules {
		if !p.except.Has(ip) && a.store.strike(a.ids[i], c, at, p.Config.Abuse, p.Window) {
			a.store.ban(c, p.route, at, p.For, p.Longest)
		}
	}
}
