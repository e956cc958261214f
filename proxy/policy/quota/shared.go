package quota

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// takeShared takes of the quotas that count on all nodes together. What the
// fleet says is noted here, too: when it can't be asked, a node admits its part
// of what was left then, and tells the fleet of it later.
func (p *Policy) takeShared(asks []ask) (refused int, fault *exchange.Fault) {
	fleet := make([]shared.Ask, 0, maxQuotas)
	for i := p.local; i < len(asks); i++ {
		if a := &asks[i]; !a.again {
			fleet = append(fleet, p.store.begin(a, p.quotas[i].fleet.Chunk))
		}
	}
	if p.store.Fleet == nil {
		return p.alone(asks, fleet)
	}
	if err := p.store.Fleet.Take(fleet); err != nil {
		return p.alone(asks, fleet)
	}
	refused = -1
	n := 0
	for i := p.local; i < len(asks); i++ {
		a := &asks[i]
		if a.ok = true; a.again {
			continue
		}
		f := &fleet[n]
		n++
		if p.store.learn(a, f) {
			p.warn(i, a)
		}
		if a.ok = f.OK; !a.ok && refused < 0 {
			refused = i
		}
	}
	if refused >= 0 {
		p.undo(asks[:p.local])
	}
	return refused, nil
}

// alone decides without the fleet.
func (p *Policy) alone(asks []ask, fleet []shared.Ask) (int, *exchange.Fault) {
	n := 0
	for i := p.local; i < len(asks); i++ {
		if a := &asks[i]; !a.again {
			p.store.owe(a, fleet[n].Owed)
			n++
		}
	}
	for i := p.local; i < len(asks); i++ {
		q, a := &p.quotas[i], &asks[i]
		if q.fleet.WhenDown == "deny" {
			p.undo(asks[:i])
			return -1, q.unavailable
		}
		a.part, a.allow = q.fleet.Share, q.fleet.WhenDown == "allow"
		if refused := p.take(asks, i, i+1); refused >= 0 {
			return refused, nil
		}
	}
	return -1, nil
}

// begin makes of a what is asked of the fleet, with what is owed to it.
func (s *Store) begin(a *ask, part int64) shared.Ask {
	sh := s.enter(a)
	defer sh.mu.Unlock()
	c := a.e.at(a.start)
	a.start, a.e.limit, a.e.shared = c.start, a.limit, true
	a.tells = c.owed > 0
	f := shared.Ask{Key: fleetKey(&a.e.id, c.start), Cost: a.cost, Chunk: part, Limit: a.limit, Until: endOf(a.period, c.start), Owed: c.owed}
	c.owed = 0
	if f.Chunk == 0 {
		f.Chunk = chunk(a.limit)
	}
	return f
}

// learn notes what the fleet said.
func (s *Store) learn(a *ask, f *shared.Ask) (warn bool) {
	sh := s.shard(&a.e.id)
	sh.mu.Lock()
	a.used = f.Used
	if c := a.e.find(a.start); c != nil {
		c.used, c.known = f.Used+c.owed, f.Used
		warn = s.warns(a.e, c)
	}
	// What was owed stands on the disk, too, and would be told again.
	wake := a.tells && !a.e.waiting
	a.e.waiting = a.e.waiting || wake
	sh.mu.Unlock()
	if wake {
		s.writer.enqueue(a.e)
	}
	return warn
}

// owe notes what the fleet still has to hear of.
func (s *Store) owe(a *ask, n int64) {
	sh := s.shard(&a.e.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if c := a.e.find(a.start); c != nil {
		c.owed += n
	}
}

// fleetKey names a counter in the same way on all nodes.
func fleetKey(k *id, start int64) string {
	b := append(make([]byte, 0, 256), k.scope...)
	b = append(append(b, 0, byte(k.period)), k.client...)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append(b, 0), uint64(start)))
	return "quota:" + base64.RawURLEncoding.EncodeToString(sum[:16])
}
