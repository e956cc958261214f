package cache

import (
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

type meta struct {
	uri, route, service string
	key                 []byte
	tags                string
	status              int
	size                int64
	memory, disk        int64
	born, used          time.Time
	shelf               rules.Shelf
	id                  uint64
	attached            string
}

type action uint8

const (
	keepIt action = iota
	softenIt
	dropIt
)

func (s *Store) all(f func(m *meta) action) (dropped, softened int) {
	for key, v := range s.items.All() {
		e, ok := v.(*entry)
		if !ok {
			continue
		}
		uri, rest, _ := strings.Cut(key, "\x00\x00")
		route, rest, _ := strings.Cut(rest[12:], "\x00")
		service, _, _ := strings.Cut(rest, "\x00")
		m := meta{uri: uri, route: route, service: service, key: []byte(key), tags: e.tags, status: e.status, size: int64(len(e.body)), memory: int64(e.weight()), born: e.born, shelf: e.Shelf}
		switch f(&m) {
		case dropIt:
			s.items.Invalidate(key)
			dropped++
		case softenIt:
			e2 := *e
			e2.Lifetime = min(e2.Lifetime, e.age(time.Now()))
			s.items.Set(key, &e2)
			softened++
		}
	}
	return dropped, softened
}

func (s *Store) allOf(uri string, f func(m *meta) action) (dropped, softened int) {
	return s.all(func(m *meta) action {
		if m.uri != uri {
			return keepIt
		}
		return f(m)
	})
}

// trust lets answers of an earlier run be used.
func (s *Store) trust() {}

// distrust forgets the answers of an earlier run.
func (s *Store) distrust() {}
