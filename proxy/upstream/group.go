package upstream

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

const (
	// keepInterval is how far apart the keeper's rounds are.
	keepInterval = 250 * time.Millisecond
	// sweepEvery is the number of rounds between looks for idle connections.
	sweepEvery = 20
)

// Deps are a group's collaborators.
type Deps struct {
	Log     logrus.FieldLogger
	Sweeper *sweep.Sweeper // must run
	// Sources returns where a service's instances come from. When it returns an
	// equal source and query after a reload, the watch goes on.
	Sources func(cfg *Config) (discovery.Source, discovery.Query, error)
	// Identity returns who this process is towards a service's instances; nil, or
	// when it returns nil: nobody. An equal one after a reload keeps connections.
	Identity func(cfg *Config) Identity
	// StickyKey makes the names in sticky cookies. With the same key, they are
	// the same after a restart and on other gateways; without one, it is random.
	StickyKey []byte
	Now       func() time.Time                                                  // nil: time.Now
	Dial      func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer's
}

// Group is the pools of all services. It outlives reloads.
type Group struct {
	d       Deps
	log     logrus.FieldLogger
	base    time.Time
	ctx     context.Context // ends with the group: what its goroutines stop by
	cancel  context.CancelFunc
	running sync.WaitGroup
	leases  sync.Pool
	buffers buffers
	speakers

	mu      sync.Mutex
	pools   map[string]*Pool
	keeping bool
	closed  bool
}

// NewGroup returns a group without pools.
func NewGroup(d Deps) *Group {
	if d.Dial == nil {
		d.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	if len(d.StickyKey) == 0 {
		d.StickyKey = make([]byte, 32)
		rand.Read(d.StickyKey) // never fails (crypto/rand)
	}
	g := &Group{d: d, log: d.Log.WithField("component", "upstream"), pools: map[string]*Pool{}}
	g.base = g.clock()
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.speakers = newSpeakers()
	return g
}

// now is the time in nanoseconds since the group was made, never 0.
func (g *Group) now() int64 {
	if g.d.Now != nil {
		return int64(g.d.Now().Sub(g.base)) + 1
	}
	return int64(time.Since(g.base)) + 1
}

// at is a time of now as a time.Time.
func (g *Group) at(now int64) time.Time { return g.base.Add(time.Duration(now - 1)) }

func (g *Group) clock() time.Time {
	if g.d.Now != nil {
		return g.d.Now()
	}
	return time.Now()
}

func (g *Group) rand() uint64 { return mathrand.Uint64() }

// nameOf is what a sticky cookie calls an instance: it tells nothing to those
// who don't have the key.
func (g *Group) nameOf(service, addr string) string {
	h := hmac.New(sha256.New, g.d.StickyKey)
	h.Write([]byte(service + "\n" + addr))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
}

// Plan is a set of pools that isn't live yet.
type Plan struct {
	g     *Group
	pools map[string]*planned
}

type planned struct {
	pool     *Pool
	settings *settings
	source   discovery.Source
	query    discovery.Query
}

// Plan checks the services and prepares their pools, TLS files read, without
// touching anything live. All that is wrong is in the error.
func (g *Group) Plan(cfgs []*Config) (*Plan, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errors.New("the group is closed")
	}
	p := &Plan{g: g, pools: make(map[string]*planned, len(cfgs))}
	var errs []error
	for _, cfg := range cfgs {
		if p.pools[cfg.Name] != nil {
			errs = append(errs, fmt.Errorf("service %q: defined twice", cfg.Name))
			continue
		}
		pool := g.pools[cfg.Name]
		var was *settings
		if pool == nil {
			pool = newPool(g, cfg.Name)
		} else {
			was = pool.settings.Load()
		}
		e := &planned{pool: pool}
		var err error
		if e.settings, err = compile(cfg, pool, was); err != nil {
			errs = append(errs, fmt.Errorf("service %q: %w", cfg.Name, err))
		}
		if e.source, e.query, err = g.d.Sources(cfg); err != nil {
			errs = append(errs, fmt.Errorf("service %q: %w", cfg.Name, err))
		}
		p.pools[cfg.Name] = e
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// Check says what Plan would find wrong with one service.
func (g *Group) Check(cfg *Config) error {
	_, err := compile(cfg, newPool(g, cfg.Name), nil)
	_, _, missing := g.d.Sources(cfg)
	return errors.Join(err, missing)
}

// Pool returns the pool of a service, nil when the plan has none. It serves
// from the commit on.
func (p *Plan) Pool(service string) *Pool {
	if e := p.pools[service]; e != nil {
		return e.pool
	}
	return nil
}

// Commit makes the plan live: new pools start, changed ones change in place,
// and those that aren't in it end. Of two plans made side by side, only one may
// be committed.
func (p *Plan) Commit() {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	if !g.keeping {
		g.keeping = true
		g.running.Add(1)
		go g.keep()
	}
	for name, pool := range g.pools {
		if p.pools[name] == nil {
			pool.stop()
			delete(g.pools, name)
		}
	}
	for name, e := range p.pools {
		g.pools[name] = e.pool
		e.pool.apply(e)
		if e.settings.route.block.Insecure {
			e.pool.log.Warn("tls: insecure: the instances' certificates aren't verified")
		}
	}
}

// apply makes settings and source those of a plan.
func (p *Pool) apply(e *planned) {
	p.mu.Lock()
	was := p.settings.Swap(e.settings)
	for _, in := range p.order {
		in.stats.SetLimit(e.settings.limit)
	}
	p.rebuild(p.g.now())
	order := p.order
	p.restartChecks(was, e.settings)
	p.restartWatch(e)
	p.unlock()
	if was != nil && (was.route != e.settings.route || was.fleet != e.settings.fleet) {
		for _, in := range order {
			in.conns.retireOthers(e.settings.way(&in.conns))
		}
	}
}

// restartWatch starts the watch of a plan's source, unless it runs. p.mu is
// held.
func (p *Pool) restartWatch(e *planned) {
	w := &p.watch
	if w.stop != nil && w.same(e) {
		return
	}
	if w.stop != nil {
		w.stop()
	}
	ctx, stop := context.WithCancel(p.g.ctx)
	*w = watching{id: w.id + 1, source: e.source, query: e.query, fixed: e.settings.cfg.Instances, stop: stop}
	id := w.id
	p.g.running.Add(1)
	go func() {
		defer p.g.running.Done()
		err := e.source.Watch(ctx, e.query, func(set []discovery.Instance) { p.update(id, set) })
		if err != nil && ctx.Err() == nil {
			p.gaveUp(id, err)
		}
	}()
}

// same reports whether a watch finds what e wants found. Fixed instances are
// the same when they are the same; another source must be equal itself, or else
// it may ask another server.
func (w *watching) same(e *planned) bool {
	if !slices.Equal(w.fixed, e.settings.cfg.Instances) || !reflect.DeepEqual(w.query, e.query) {
		return false
	}
	if len(w.fixed) > 0 {
		return true
	}
	t := reflect.TypeOf(w.source)
	return t == reflect.TypeOf(e.source) && t.Comparable() && w.source == e.source
}

// gaveUp notes that the source says there is no point in going on. The last
// set stays.
func (p *Pool) gaveUp(id int, err error) {
	p.mu.Lock()
	current := id == p.watch.id
	if current {
		p.problem = err.Error()
	}
	p.mu.Unlock()
	if current {
		p.log.WithError(err).Error("the source of instances gave up; the last known ones stay")
		p.readyOnce.Do(func() { close(p.ready) })
	}
}

// keep runs until the group is closed.
func (g *Group) keep() {
	defer g.running.Done()
	t := time.NewTicker(keepInterval)
	defer t.Stop()
	for round := 1; ; round++ {
		select {
		case <-g.ctx.Done():
			return
		case <-t.C:
		}
		now, coarse := g.now(), g.d.Sweeper.Now()
		for _, p := range g.list() {
			p.keep(now)
			if round%sweepEvery == 0 {
				p.sweep(coarse)
			}
		}
	}
}

// list returns the pools.
func (g *Group) list() []*Pool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Values(g.pools))
}

// Wait waits until every pool has had its first instances, or ctx ends.
func (g *Group) Wait(ctx context.Context) {
	for _, p := range g.list() {
		select {
		case <-p.ready:
		case <-ctx.Done():
			return
		}
	}
}

// Close ends all watches and checks and waits for them until ctx ends. Idle
// connections are closed, others when their exchanges end.
func (g *Group) Close(ctx context.Context) {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	for _, p := range g.list() {
		p.stop()
	}
	done := make(chan struct{})
	go func() { // ends with the goroutines it waits for
		g.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
