package app

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// source says where the instances of a service come from. A new source of
// instances is a folder below discovery and a case here.
func (a *App) source(cfg *upstream.Config) (discovery.Source, discovery.Query, error) {
	q := discovery.Query{Service: cfg.Name}
	if len(cfg.Instances) > 0 {
		src, err := discovery.Static(cfg.Instances)
		return src, q, err
	}
	if a.planning.Consul == nil {
		return nil, q, fmt.Errorf("service %q: no instances, and no Consul to ask: write `instances = [\"host:port\"]`, or a consul block", cfg.Name)
	}
	if c := cfg.Consul; c != nil {
		q.Tags, q.Filter, q.Datacenters = c.Tags, c.Filter, c.Datacenters
		if c.Name != "" {
			q.Service = c.Name
		}
	}
	return a.remembered, q, nil
}

// sidecarBlocking is how many of a sidecar's watches hold a connection each: the
// agent allows 200 for all of a host.
const sidecarBlocking = 2

// consulPlace is where the Consul client stands. A reload may put another one
// in its place; the watches then go over to it and keep the last set meanwhile.
type consulPlace struct {
	log      logrus.FieldLogger
	blocking int // consul.Deps.Blocking

	mu      sync.Mutex // guards what follows
	cfg     *consul.Config
	now     *consul.Client
	store   *consul.Store // of now, below storePrefix
	counts  *consul.Store // of now, below countersPrefix
	changed chan struct{} // closed when now is replaced
}

var _ discovery.Source = (*consulPlace)(nil)

func newConsulPlace(log logrus.FieldLogger) *consulPlace {
	return &consulPlace{log: log, changed: make(chan struct{})}
}

// configure makes the client of a configuration; nil: none.
func (p *consulPlace) configure(cfg *consul.Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil && reflect.DeepEqual(p.cfg, cfg) {
		return nil
	}
	var client *consul.Client
	var store, counts *consul.Store
	if cfg != nil {
		var err error
		if client, err = consul.New(*cfg, consul.Deps{Log: p.log, Blocking: p.blocking}); err != nil {
			return fmt.Errorf("consul: %w", err)
		}
		if store, err = client.Store(cfg.KV + storePrefix); err != nil {
			return err
		}
		if counts, err = client.Store(countersPrefix(cfg.KV)); err != nil {
			return err
		}
	}
	if p.now == nil && client == nil {
		return nil
	}
	if p.now != nil {
		p.now.Close() // its idle connections; what watches with it ends by itself
	}
	p.cfg, p.now, p.store, p.counts = cfg, client, store, counts
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

func (p *consulPlace) client() *consul.Client {
	c, _ := p.current()
	return c
}

// config is what the client was made from; the zero Config without one.
func (p *consulPlace) config() consul.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg == nil {
		return consul.Config{}
	}
	return *p.cfg
}

func (p *consulPlace) current() (*consul.Client, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.changed
}

// Watch asks whichever client stands here.
func (p *consulPlace) Watch(ctx context.Context, q discovery.Query, update func([]discovery.Instance)) error {
	return p.follow(ctx, func(ctx context.Context, c *consul.Client) error { return c.Watch(ctx, q, update) })
}

// follow runs f with the client that stands here, again with each that takes
// its place, until ctx ends.
func (p *consulPlace) follow(ctx context.Context, f func(context.Context, *consul.Client) error) error {
	for ctx.Err() == nil {
		client, changed := p.current()
		if client == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		inner, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- f(inner, client) }()
		select {
		case err := <-done:
			cancel()
			if err != nil {
				return err
			}
		case <-changed:
			cancel()
			<-done
		}
	}
	return nil
}

// storePrefix is where, below consul.kv, certificates are kept with
// tls.storage = "consul".
const storePrefix = "tls/"

// placeStore is the shared storage of whichever client stands in a place.
type placeStore struct{ p *consulPlace }

var _ edgetls.KV = placeStore{}

func (s placeStore) store() (*consul.Store, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.p.store == nil {
		return nil, errors.New("no consul block is configured")
	}
	return s.p.store, nil
}

func (s placeStore) Get(ctx context.Context, key string) ([]byte, error) {
	st, err := s.store()
	if err != nil {
		return nil, err
	}
	return st.Get(ctx, key)
}

func (s placeStore) Put(ctx context.Context, key string, value []byte) error {
	st, err := s.store()
	if err != nil {
		return err
	}
	return st.Put(ctx, key, value)
}

func (s placeStore) Delete(ctx context.Context, key string) error {
	st, err := s.store()
	if err != nil {
		return err
	}
	return st.Delete(ctx, key)
}

func (s placeStore) List(ctx context.Context, prefix string) ([]string, error) {
	st, err := s.store()
	if err != nil {
		return nil, err
	}
	return st.List(ctx, prefix)
}

func (s placeStore) Lock(ctx context.Context, key string) (<-chan struct{}, func() error, error) {
	st, err := s.store()
	if err != nil {
		return nil, nil, err
	}
	return st.Lock(ctx, key)
}
