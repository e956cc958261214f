package upstream

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// Pool is one service: its instances, their health, the balancer and the
// connections. It is made by Group.Plan.
type Pool struct {
	name string
	g    *Group
	log  logrus.FieldLogger

	settings atomic.Pointer[settings]
	view     atomic.Pointer[view]
	stopped  atomic.Bool  // gone from the configuration: connections aren't kept
	inFlight atomic.Int64 // with balance = "hash" only
	counts   counts
	queue    queue
	budget   budget

	ready     chan struct{} // closed with the first set
	readyOnce sync.Once

	// Guards what follows and the fields of instances that say so. It is left
	// with unlock, which says in the log what happened.
	mu        sync.Mutex
	notes     []note
	rebuilt   bool
	instances map[string]*instance
	order     []*instance // by address
	settled   bool        // the first set is in; instances that come now start slowly
	updated   time.Time
	problem   string // why the source gave up
	watch     watching
	checks    checks
}

// watching is a running watch of a source.
type watching struct {
	id     int
	source discovery.Source
	query  discovery.Query
	fixed  []string // Config.Instances
	stop   context.CancelFunc
}

func newPool(g *Group, name string) *Pool {
	return &Pool{
		name: name, g: g, log: g.log.WithField("service", name),
		ready: make(chan struct{}), instances: map[string]*instance{},
	}
}

// note is something for the log: written without the lock, since a log may be
// slow.
type note struct {
	level  logrus.Level
	fields logrus.Fields
	text   string
}

// note keeps a line for unlock. p.mu is held.
func (p *Pool) note(level logrus.Level, fields logrus.Fields, text string) {
	p.notes = append(p.notes, note{level, fields, text})
}

// unlock ends what p.mu guards, and tells about it: the log, and those who wait
// for an instance.
func (p *Pool) unlock() {
	notes, rebuilt := p.notes, p.rebuilt
	p.notes, p.rebuilt = nil, false
	p.mu.Unlock()
	if rebuilt {
		p.queue.wakeAll()
	}
	for _, n := range notes {
		p.log.WithFields(n.fields).Log(n.level, n.text)
	}
}

// Name is the service's name.
func (p *Pool) Name() string { return p.name }

// update takes in a set from watch id.
func (p *Pool) update(id int, set []discovery.Instance) {
	now := p.g.now()
	p.mu.Lock()
	if id != p.watch.id {
		p.mu.Unlock()
		return // a watch that has been replaced
	}
	gone, added, turned := p.merge(set)
	p.updated, p.problem = p.g.clock(), ""
	p.rebuild(now)
	first := !p.settled
	p.settled = true
	if first || len(added)+len(gone) > 0 {
		p.note(logrus.InfoLevel, logrus.Fields{"instances": len(p.order), "added": some(added), "removed": some(addresses(gone))}, "instances changed")
	}
	s := p.settings.Load()
	p.unlock()

	for _, in := range gone {
		in.conns.retire()
	}
	for _, in := range turned {
		in.conns.retireOthers(s.way(&in.conns))
	}
	p.readyOnce.Do(func() { close(p.ready) })
}

// merge makes the instances those of set, keeping what is known of each whose
// address stays; turned are to be spoken to in another way than before. p.mu is
// held.
func (p *Pool) merge(set []discovery.Instance) (gone []*instance, added []string, turned []*instance) {
	limit := p.settings.Load().limit
	was := p.instances
	p.instances = make(map[string]*instance, len(set))
	p.order = make([]*instance, 0, len(set))
	for i := range set {
		addr := set[i].Address
		if in := p.instances[addr]; in != nil {
			in.fleet = in.fleet || set[i].Meta[IdentityMeta] != ""
			// Two registrations of one address: the better one counts.
			if set[i].Health < in.info.Health {
				in.info = set[i]
				in.stats.SetWeight(set[i].Weight)
			}
			continue
		}
		in := was[addr]
		if in == nil {
			in = newInstance(p, addr)
			added = append(added, addr)
		}
		in.info, in.fleet = set[i], set[i].Meta[IdentityMeta] != ""
		in.stats.SetWeight(set[i].Weight)
		in.stats.SetLimit(limit)
		p.instances[addr] = in
		p.order = append(p.order, in)
	}
	slices.SortFunc(p.order, func(a, b *instance) int { return strings.Compare(a.addr, b.addr) })
	for _, in := range p.order {
		if in.conns.fleet.Swap(in.fleet) != in.fleet {
			turned = append(turned, in)
		}
	}
	for addr, in := range was {
		if p.instances[addr] == nil {
			gone = append(gone, in)
		}
	}
	return gone, added, turned
}

func addresses(list []*instance) []string {
	out := make([]string, len(list))
	for i, in := range list {
		out[i] = in.addr
	}
	slices.Sort(out)
	return out
}

// some bounds what a log line lists.
func some(list []string) []string {
	const most = 20
	if len(list) <= most {
		return list
	}
	return append(slices.Clip(list[:most]), "…")
}

// eject takes an instance out for a while, if so many may be.
func (p *Pool) eject(in *instance, now int64, why string) {
	s := p.settings.Load()
	p.mu.Lock()
	defer p.unlock()
	if in.ejectedUntil != 0 || p.instances[in.addr] != in {
		return
	}
	out := 0
	for _, other := range p.order {
		if other.ejectedUntil != 0 {
			out++
		}
	}
	if out+1 > int(math.Floor(s.outlier.MaxEjected*float64(len(p.order)))) {
		return
	}
	if in.ejections > 0 && now-in.ejectedLast > maxEjections*int64(s.outlier.Eject) {
		in.ejections = 0 // it has behaved for long
	}
	in.ejections = min(in.ejections+1, maxEjections)
	d := time.Duration(in.ejections) * s.outlier.Eject
	in.ejectedUntil, in.ejectedWhy = now+int64(d), why
	p.rebuild(now)
	p.note(logrus.WarnLevel, logrus.Fields{"instance": in.addr, "for": d.String(), "why": why}, "instance ejected")
}

// readmit ends an ejection. p.mu is held, and the caller rebuilds.
func (p *Pool) readmit(in *instance, now int64, why string) {
	in.ejectedUntil, in.ejectedLast = 0, now
	p.note(logrus.InfoLevel, logrus.Fields{"instance": in.addr, "why": why}, "instance back from ejection")
}

// keep ends ejections whose time is over, feeds the retry budget and moves the
// adaptive limit. The keeper calls it.
func (p *Pool) keep(now int64) {
	p.budget.roll(now, p.counts.requests())
	if a := p.settings.Load().adaptive; a != nil {
		a.limit.Update(now)
	}
	p.mu.Lock()
	changed := false
	for _, in := range p.order {
		if in.ejectedUntil != 0 && in.ejectedUntil <= now {
			p.readmit(in, now, "its time is over")
			changed = true
		}
	}
	if changed {
		p.rebuild(now)
	}
	p.unlock()
}

// sweep closes connections that were idle for long.
func (p *Pool) sweep(coarse int64) {
	p.mu.Lock()
	order := p.order // the slice is replaced, never changed
	p.mu.Unlock()
	for _, in := range order {
		in.conns.sweep(coarse - int64(idleTime))
	}
}

// stop ends the watch and the checker. Exchanges that run, and those of tables
// that are still in use, go on with the last view.
func (p *Pool) stop() {
	p.stopped.Store(true)
	p.mu.Lock()
	p.watch.id++
	if p.watch.stop != nil {
		p.watch.stop()
	}
	p.checks.end()
	order := p.order
	p.mu.Unlock()
	for _, in := range order {
		in.conns.retire()
	}
}
