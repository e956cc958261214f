package cache

import (
	"strings"
	"sync"
	"time"
)

// Purge forgets answers, or makes them stale, and returns how many it was. Those on
// their way are stored neither, or as stale ones. When it returns nobody gets any of
// them any more, but who is being answered already.
//
// All answers are looked at, by one purge at a time; those that come meanwhile share
// the next look. So that many one after the other leave time for other work, a look
// begins only after a pause that goes by how long the last one took.
func (s *Store) Purge(p Purge) (int, error) {
	sel, err := p.compile()
	if err != nil {
		return 0, err
	}
	return s.purge([]*selection{sel})[0], nil
}

// purge is Purge for several at once.
func (s *Store) purge(list []*selection) []int {
	orders := make([]*order, len(list))
	for i, sel := range list {
		orders[i] = &order{selection: sel}
		s.recent.note(sel)
	}
	s.purging.do(orders, s.carryOut)
	counts := make([]int, len(orders))
	for i, o := range orders {
		counts[i] = o.purged
	}
	return counts
}

// order is a purge that waits for a look at all answers.
type order struct {
	*selection
	purged int
}

// purging has one walk at a time. The zero value is ready.
type purging struct {
	mu      sync.Mutex // guards waiting
	waiting *batch

	walking sync.Mutex // held during a walk, guards what follows; taken before mu
	next    time.Time  // the next one's earliest time
}

// batch are the orders of one walk.
type batch struct {
	orders []*order
	done   bool // guarded by walking
}

// restFactor is how long there is no walk after one, in times of how long it took,
// so that walks take a fifth of one core at most; mostRest bounds it.
const (
	restFactor = 4
	mostRest   = 2 * time.Second
)

// do has walk look at all answers for the orders, with those that others bring
// meanwhile.
func (p *purging) do(orders []*order, walk func([]*order)) {
	p.mu.Lock()
	if p.waiting == nil {
		p.waiting = &batch{}
	}
	mine := p.waiting
	mine.orders = append(mine.orders, orders...)
	p.mu.Unlock()

	p.walking.Lock()
	defer p.walking.Unlock()
	if mine.done {
		return
	}
	if rest := time.Until(p.next); rest > 0 {
		<-time.After(rest) // more orders join meanwhile
	}
	p.mu.Lock()
	p.waiting = nil
	p.mu.Unlock()
	begin := time.Now()
	walk(mine.orders)
	mine.done = true
	p.next = time.Now().Add(min(restFactor*time.Since(begin), mostRest))
}

// carryOut looks at all answers for the orders.
func (s *Store) carryOut(orders []*order) {
	oldest := s.settled()
	var wanted index[[]*order]
	for _, o := range orders {
		wanted.add(o.selection, func(list []*order) []*order { return append(list, o) })
	}
	perRoute := map[string]uint64{}
	var found []*order
	s.all(func(m *meta) action {
		if m.attached != "" {
			return keepIt // it goes with its answer
		}
		a := newSubject(m.uri, m.route, m.tags)
		found = found[:0]
		wanted.visit(&a, func(list []*order) { found = append(found, list...) })
		if len(found) == 0 {
			return keepIt
		}
		do := softenIt
		for i, o := range found {
			if !counted(found[:i], o) {
				o.purged++
			}
			if !o.soft {
				do = dropIt
			}
		}
		if n, ok := perRoute[m.route]; ok {
			perRoute[m.route] = n + 1
		} else {
			perRoute[strings.Clone(m.route)] = 1
		}
		return do
	})
	for route, n := range perRoute {
		s.of(route).purged.Add(n)
	}
	s.recent.forget(oldest)
}

func counted(before []*order, o *order) bool {
	for _, b := range before {
		if b == o {
			return true
		}
	}
	return false
}

// settled waits until what was being stored is there to be seen, and returns the
// last purge before the oldest answer on its way was asked for.
func (s *Store) settled() (oldest uint64) {
	oldest = s.recent.last.Load()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, list := range sh.flights {
			for _, f := range list {
				oldest = min(oldest, f.began)
			}
		}
		sh.mu.Unlock()
	}
	return oldest
}

// plainURI is a URI without the fields that a key may have.
func plainURI(uri string) string {
	uri, _, _ = strings.Cut(uri, "\x00")
	return uri
}

func newSubject(uri, route, tags string) subject {
	return subject{uri: plainURI(uri), route: route, tags: tags, noQuery: lacksQuery(uri)}
}

func lacksQuery(uri string) bool {
	i := strings.IndexByte(uri, 0)
	return i >= 0 && strings.HasPrefix(uri[i:], noQuery)
}

// heed sees whether an answer on its way has been purged since it was asked for. The
// lock of its shard is held.
func (s *Store) heed(f *flight, e *entry) fate {
	if f.gone || s.recent.last.Load() == f.began {
		return unpurged
	}
	a := newSubject(f.uri, routeOf(f.base), "")
	if e != nil {
		a.tags = e.tags
	}
	what := s.recent.since(f.began, &a)
	if what == hardPurged {
		f.gone, f.open, f.purged = true, false, true
	}
	return what
}

// routeOf is the route in what bases makes.
func routeOf(base string) string {
	route, _, _ := strings.Cut(base, "\x00")
	return route
}

// trust lets answers of an earlier run be used: all has been done that was purged
// meanwhile.
func (s *Store) trust() { s.doubted.Store(false) }

// doubt has answers of an earlier run not be used.
func (s *Store) doubt() { s.doubted.Store(true) }

// distrust forgets the answers of an earlier run: what was purged meanwhile isn't
// known.
func (s *Store) distrust() (forgotten int) {
	forgotten, _ = s.all(func(m *meta) action {
		if m.id < s.first {
			return dropIt
		}
		return keepIt
	})
	return forgotten
}
