package consul

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Pauses between two wake-ups of a pulse.
const (
	pulseLeast = 50 * time.Millisecond
	pulseMost  = 2 * time.Second
	sweepStep  = 2 * time.Millisecond // between two feeds of a sweep
)

// place is how a feed waits for changes: by a blocking query of its own, or as
// a member of a pulse.
type place struct {
	blocking bool
	pulse    *pulse
	wake     chan struct{}
}

// take gets a place before a read. When the feed shares a pulse and has read
// already (index > 0), take returns as soon as a read is worth while.
func (p *place) take(ctx context.Context, f *feed, index uint64) error {
	if p.blocking && f.c.gate.crowded() {
		f.c.gate.leave()
		p.blocking = false
		index = 0
	}
	if p.blocking {
		return nil
	}
	if f.c.gate.enter() {
		p.blocking = true
		p.part(f)
		return nil
	}
	if p.pulse == nil {
		// Join before reading: what changes after the read wakes us up.
		p.wake = make(chan struct{}, 1)
		p.pulse = f.c.join(f, p.wake)
		f.watch.share(true)
		return p.pulse.await(ctx)
	}
	if index == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(f.c.times.wait + rand.N(f.c.times.wait/16+1)) // however the pulse does
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.wake:
	case <-t.C:
	}
	return nil
}

// part leaves the pulse.
func (p *place) part(f *feed) {
	if p.pulse != nil {
		f.c.part(p.pulse, f)
		p.pulse = nil
		f.watch.share(false)
	}
}

// leave gives the place back.
func (p *place) leave(f *feed) {
	if p.blocking {
		f.c.gate.leave()
		p.blocking = false
	}
	p.part(f)
}

// pulse wakes the feeds of a datacenter that have no blocking query of their
// own. Three goroutines, from the first member to the last: one for each of its
// two blocking queries, and the sweeper.
type pulse struct {
	c      *Client
	dc     string
	cancel context.CancelFunc
	seed   maphash.Seed
	dirty  chan struct{} // capacity 1: the catalog moved
	ready  chan struct{} // closed when both queries were answered or failed once
	first  sync.WaitGroup
	done   sync.WaitGroup

	refs int // guarded by Client.mu

	mu      sync.Mutex // guards what follows
	members map[*feed]chan struct{}
	again   context.CancelCauseFunc // ends the query that asks only for the members; nil: there is none
}

// errMembers ends a query that asks for others than the members of now.
var errMembers = errors.New("the members have changed")

// maxFiltered is how many members a filter names.
const maxFiltered = 32

// join makes f a member, and starts the pulse for the first one.
func (c *Client) join(f *feed, wake chan struct{}) *pulse {
	c.mu.Lock()
	p := c.pulses[f.key.dc]
	start := p == nil
	if start {
		p = &pulse{c: c, dc: f.key.dc, seed: maphash.MakeSeed(), dirty: make(chan struct{}, 1),
			ready: make(chan struct{}), members: make(map[*feed]chan struct{})}
		c.pulses[f.key.dc] = p
	}
	p.refs++
	c.mu.Unlock()
	p.mu.Lock()
	p.members[f] = wake
	p.changed()
	p.mu.Unlock()
	if start {
		p.start()
	}
	return p
}

// part takes f out; the last member ends the pulse and waits for that.
func (c *Client) part(p *pulse, f *feed) {
	p.mu.Lock()
	delete(p.members, f)
	p.changed()
	p.mu.Unlock()
	c.mu.Lock()
	p.refs--
	last := p.refs == 0
	if last {
		delete(c.pulses, p.dc)
	}
	c.mu.Unlock()
	if last {
		p.cancel()
		p.done.Wait()
	}
}

func (p *pulse) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.first.Add(2)
	p.done.Go(func() { p.watchChecks(ctx) })
	p.done.Go(func() { p.watchCatalog(ctx) })
	p.done.Go(func() { p.sweep(ctx) })
	p.done.Go(func() { p.first.Wait(); close(p.ready) })
}

// changed has the query begin anew that asks for the members; p.mu is held.
func (p *pulse) changed() {
	if p.again != nil {
		p.again(errMembers)
		p.again = nil
	}
}

// ask reads once, of a thrifty client only what is about the members: else a
// sidecar would be told of every check in the datacenter.
func (p *pulse) ask(ctx context.Context, r read, filtered bool) (answer, error) {
	for {
		ctx, cancel := context.WithCancelCause(ctx)
		if filtered {
			p.mu.Lock()
			p.again = cancel
			r.params = p.filter()
			p.mu.Unlock()
		}
		a, err := p.c.get(ctx, r)
		cancel(nil)
		if !errors.Is(err, errMembers) {
			return a, err
		}
		r.index = 0
	}
}

// filter is what chooses the checks of the members, and of nodes that aren't well;
// nil: it would be too long. p.mu is held.
func (p *pulse) filter() url.Values {
	if len(p.members) > maxFiltered {
		return nil
	}
	parts := make([]string, 0, len(p.members)+1)
	parts = append(parts, `ServiceName == "" and Status != "passing"`)
	for f := range p.members {
		if strings.ContainsAny(f.key.service, "\"\\`") {
			return nil
		}
		parts = append(parts, `ServiceName == "`+f.key.service+`"`)
	}
	return url.Values{"filter": {strings.Join(parts, " or ")}}
}

// await waits until the pulse has something to compare with, or has failed to
// get it: then its first answer wakes all.
func (p *pulse) await(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ready:
		return nil
	}
}

// wake tells those members that are chosen.
func (p *pulse) wake(chosen func(*feed) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f, w := range p.members {
		if chosen(f) {
			poke(w)
		}
	}
}

// digests are what one answer says, by name. Nil: nothing was told yet.
type digests map[string]uint64

// differ gives the names whose digests aren't the same.
func (d digests) differ(old digests) map[string]bool {
	names := make(map[string]bool)
	for n, v := range d {
		if o, ok := old[n]; !ok || o != v {
			names[n] = true
		}
	}
	for n := range old {
		if _, ok := d[n]; !ok {
			names[n] = true
		}
	}
	return names
}

// stateCheck is what we read of one element of health/state.
type stateCheck struct {
	Node, CheckID, Status, ServiceID, ServiceName string
	ModifyIndex                                   uint64
}

// watchChecks holds health/state/any.
func (p *pulse) watchChecks(ctx context.Context) {
	var services, nodes digests
	p.hold(ctx, "all checks", read{path: "health/state/any"}, p.c.thrifty > 0, func(a answer) (func(*feed) bool, error) {
		var checks []stateCheck
		if err := json.Unmarshal(a.body, &checks); err != nil {
			return nil, complain("answer can't be read: %v", err)
		}
		s, n := make(digests), make(digests)
		for _, c := range checks {
			h := maphash.Comparable(p.seed, c)
			if c.ServiceName == "" {
				n[c.Node] += h // a sum, so that the order doesn't matter
			} else {
				s[c.ServiceName] += h
			}
		}
		movedServices, movedNodes := s.differ(services), n.differ(nodes)
		services, nodes = s, n
		return func(f *feed) bool {
			return movedServices[f.key.service] || len(movedNodes) > 0 && f.livesOn(movedNodes)
		}, nil
	})
}

// livesOn says whether an instance is on one of the nodes.
func (f *feed) livesOn(nodes map[string]bool) bool {
	for _, in := range f.state.Load().set {
		if nodes[in.Node] {
			return true
		}
	}
	return false
}

// watchCatalog holds catalog/services.
func (p *pulse) watchCatalog(ctx context.Context) {
	var names digests
	p.hold(ctx, "catalog", read{path: "catalog/services"}, false, func(a answer) (func(*feed) bool, error) {
		listed, err := parseCatalog(a)
		if err != nil {
			return nil, err
		}
		d := make(digests, len(listed))
		for name, tags := range listed {
			d[name] = 1
			for _, t := range tags {
				d[name] += maphash.String(p.seed, t)
			}
		}
		if names != nil {
			poke(p.dirty)
		}
		moved := d.differ(names)
		names = d
		return func(f *feed) bool { return moved[f.key.service] }, nil
	})
}

// hold keeps one blocking query and wakes the members that judge chooses. The
// first answer is only to compare with, unless members read before it.
func (p *pulse) hold(ctx context.Context, what string, r read, filtered bool, judge func(answer) (func(*feed) bool, error)) {
	if p.dc != "" {
		what += " in " + p.dc
	}
	w := p.c.track(what)
	defer p.c.untrack(w)
	compared := false
	var once sync.Once
	defer once.Do(p.first.Done)
	p.c.poll(ctx, w, func(ctx context.Context, index uint64) (uint64, error) {
		r := r
		r.index, r.dc = index, p.dc
		a, err := p.ask(ctx, r, filtered)
		if index == 0 {
			defer once.Do(p.first.Done)
		}
		if err != nil {
			return 0, err
		}
		begun := time.Now()
		chosen, err := judge(a)
		if err != nil {
			return 0, err
		}
		if compared || p.isReady() {
			p.wake(chosen)
		}
		compared = true
		sleep(ctx, min(max(pulseLeast, 5*time.Since(begun)), pulseMost))
		return a.index, nil
	})
}

func (p *pulse) isReady() bool {
	select {
	case <-p.ready:
		return true
	default:
		return false
	}
}

// sweep lets all members read again, one after the other, when the catalog
// moved: not sooner than times.sweep after it did so last.
func (p *pulse) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.dirty:
		}
		p.mu.Lock()
		wakes := make([]chan struct{}, 0, len(p.members))
		for _, w := range p.members {
			wakes = append(wakes, w)
		}
		p.mu.Unlock()
		for _, w := range wakes {
			poke(w)
			if !sleep(ctx, sweepStep) {
				return
			}
		}
		if !sleep(ctx, p.c.times.sweep) {
			return
		}
	}
}

// parseCatalog reads catalog/services: names and the tags of all instances.
func parseCatalog(a answer) (map[string][]string, error) {
	var names map[string][]string
	if a.missing {
		return nil, &statusError{code: 404}
	}
	if err := json.Unmarshal(a.body, &names); err != nil {
		return nil, complain("answer can't be read: %v", err)
	}
	return names, nil
}
