package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

const (
	// maxNamed are the services that are called by name at a time.
	maxNamed = 256
	// namedWait is how long the first request to a service waits for it.
	namedWait = 2 * time.Second
	// namedIdle is how long a service without requests is kept.
	namedIdle = 10 * time.Minute
	// namedEmpty is how long one without instances is.
	namedEmpty = 30 * time.Second
	// unknownFor is how long Consul isn't asked again for a name that it doesn't know.
	unknownFor = 5 * time.Second
	// asking are the names that are asked for at once.
	asking = 8
	// lookEvery is how often services are looked through for idle ones.
	lookEvery = 10 * time.Second
)

// nameSuffix is what names of services end in: TAG.NAME.service.DC.consul, with or
// without TAG and DC, as Consul's DNS has them.
const nameSuffix = ".consul"

var noTunnel = &exchange.Fault{
	Source: exchange.FromClient, Kind: exchange.NotImplemented, Err: errors.New("CONNECT to the proxy of a sidecar"),
	Findings: []exchange.Finding{{Where: "method", What: "must not be CONNECT: call http://NAME.service.consul, which the sidecar encrypts on its way"}},
}

// named is a service that was called by name.
type named struct {
	host    string
	query   discovery.Query
	service *upstream.Config // in the configuration that is made of it

	since    time.Time // it is idle, or has no instance
	requests uint64    // by then
}

// name tells it apart in routes' names: its host without the ending.
func (n *named) name() string { return strings.TrimSuffix(n.host, nameSuffix) }

// namedServices are the services that apps have called by name through a sidecar's
// proxy: a feed of the table. It is bounded, and forgets what isn't called any more.
type namedServices struct {
	a    *App
	slot chan struct{} // held while Consul is asked for a name

	mu      sync.Mutex // guards what follows
	known   map[string]*named
	unknown map[string]time.Time // when it was asked for
	changed chan struct{}        // closed when another table is in force
}

func newNamedServices(a *App) *namedServices {
	return &namedServices{a: a, slot: make(chan struct{}, asking), known: map[string]*named{}, unknown: map[string]time.Time{}, changed: make(chan struct{})}
}

// parseName takes a host apart; false: it isn't the name of a service.
func parseName(host string) (q discovery.Query, ok bool) {
	name, ok := strings.CutSuffix(host, nameSuffix)
	if !ok || len(host) > 253 {
		return q, false
	}
	labels := strings.Split(name, ".")
	if slices.ContainsFunc(labels, func(l string) bool { return !config.ServiceName(l) }) {
		return q, false
	}
	at := slices.Index(labels, "service")
	if at == 0 { // a service, or a tag, of that name
		at = slices.Index(labels[1:], "service") + 1
	}
	switch {
	case at < 1 || at > 2:
		return q, false
	case at == 2:
		q.Tags = labels[:1]
	}
	q.Service = labels[at-1]
	switch rest := labels[at+1:]; {
	case len(rest) == 0:
	case len(rest) == 1, len(rest) == 2 && rest[1] == "dc":
		q.Datacenters = rest[:1]
	default:
		return q, false
	}
	return q, true
}

// services are those that have been called by name, as a configuration says how. What
// its blocks can't say is left out.
func (n *namedServices) services(file *config.File) []*named {
	n.mu.Lock()
	defer n.mu.Unlock()
	blocks := map[string]*upstream.Config{}
	for _, s := range file.Services {
		blocks[s.Name] = s
	}
	var list []*named
	for _, w := range n.known {
		block := blocks[w.query.Service]
		plain := len(w.query.Tags)+len(w.query.Datacenters) == 0
		c := *w
		switch {
		case plain && block != nil:
			c.service = block
		case block != nil && len(block.Instances) > 0:
			continue // fixed ones have no tags
		default:
			c.service = askFor(w, block)
		}
		list = append(list, &c)
	}
	slices.SortFunc(list, func(a, b *named) int { return strings.Compare(a.host, b.host) })
	return list
}

// askFor is the service of a name, with what the block of its service says of how.
func askFor(w *named, block *upstream.Config) *upstream.Config {
	if block == nil {
		block = config.NewService(w.query.Service)
	}
	s := *block
	q := upstream.ConsulQuery{Name: w.query.Service}
	if s.Consul != nil {
		q = *s.Consul
		if q.Name == "" {
			q.Name = w.query.Service
		}
	}
	q.Tags = append(slices.Clip(q.Tags), w.query.Tags...)
	if len(w.query.Datacenters) > 0 {
		q.Datacenters = w.query.Datacenters
	}
	s.Consul = &q
	if len(w.query.Tags)+len(w.query.Datacenters) > 0 {
		s.Name = w.name()
	}
	return &s
}

// enforced tells that another table is in force.
func (n *namedServices) enforced() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// want makes sure that a service is among those of the next table. The error is what
// the client is told.
func (n *namedServices) want(ctx context.Context, host string, q discovery.Query) error {
	if known, err := n.isKnown(host); known || err != nil {
		return err
	}
	select {
	case n.slot <- struct{}{}:
		defer func() { <-n.slot }()
	case <-ctx.Done():
		return exchange.NewFault(exchange.FromUpstream, exchange.NoInstance, "too many names are asked for at once")
	}
	if known, err := n.isKnown(host); known || err != nil { // another request asked meanwhile
		return err
	}
	exists, err := n.ask(ctx, host, q)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err != nil:
		return exchange.NewFault(exchange.FromUpstream, exchange.NoInstance, "Consul doesn't say whether there is a service for %s: %w", host, err)
	case !exists:
		n.forgetUnknown(time.Now())
		n.unknown[host] = time.Now()
		return notKnown(host)
	case len(n.known) >= maxNamed && !n.evict():
		return exchange.NewFault(exchange.FromInternal, exchange.GatewayOverloaded, "%d services are called by name, and all are in use", maxNamed)
	}
	n.known[host] = &named{host: host, query: q, since: time.Now()}
	n.a.feeds.touch()
	return nil
}

// isKnown reports whether a service is among the wanted ones; an error: it is known
// that there is none.
func (n *namedServices) isKnown(host string) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[host] != nil {
		return true, nil
	}
	if at, ok := n.unknown[host]; ok && time.Since(at) < unknownFor {
		return false, notKnown(host)
	}
	return false, nil
}

func notKnown(host string) error {
	f := exchange.NewFault(exchange.FromClient, exchange.NoRoute, "Consul knows no service for %s", host)
	f.Findings = []exchange.Finding{{Where: "host", What: "must be NAME.service.consul of a service that is registered in Consul, with or without a tag in front of NAME"}}
	return f
}

// ask asks Consul, or the disk when Consul is away.
func (n *namedServices) ask(ctx context.Context, host string, q discovery.Query) (bool, error) {
	file := n.a.current()
	w := &named{host: host, query: q}
	for _, s := range file.Services {
		if s.Name != q.Service {
			continue
		}
		if len(s.Instances) > 0 {
			return len(q.Tags)+len(q.Datacenters) == 0, nil
		}
		w.service = s
	}
	c := askFor(w, w.service).Consul
	q.Service, q.Tags, q.Filter, q.Datacenters = c.Name, c.Tags, c.Filter, c.Datacenters
	client := n.a.consul.client()
	if client == nil {
		return false, errors.New("there is no Consul to ask")
	}
	exists, err := client.Exists(ctx, q)
	if err != nil && n.a.snapshots.Has("consul", q) {
		return true, nil
	}
	return exists, err
}

// evict forgets the service that was idle for longest; n.mu is held.
func (n *namedServices) evict() bool {
	var oldest *named
	for _, w := range n.known {
		if time.Since(w.since) > lookEvery && (oldest == nil || w.since.Before(oldest.since)) {
			oldest = w
		}
	}
	if oldest == nil {
		return false
	}
	delete(n.known, oldest.host)
	return true
}

// forgetUnknown makes room among the names that Consul doesn't know; n.mu is held.
func (n *namedServices) forgetUnknown(now time.Time) {
	if len(n.unknown) < maxNamed {
		return
	}
	for host, at := range n.unknown {
		if now.Sub(at) >= unknownFor {
			delete(n.unknown, host)
		}
	}
	if len(n.unknown) >= maxNamed {
		clear(n.unknown)
	}
}

// run forgets what isn't called any more, until ctx ends.
func (n *namedServices) run(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			n.look(time.Now())
		}
	}
}

// look goes through the services once.
func (n *namedServices) look(now time.Time) {
	n.mu.Lock()
	idle := len(n.known) == 0
	n.forgetUnknown(now)
	n.mu.Unlock()
	if idle {
		return
	}
	file := n.a.current()
	pools := map[string]upstream.PoolStatus{} // by service, those that sidecars call as themselves among it
	for _, s := range n.a.group.Status() {
		name := s.Service
		if _, of, ok := strings.Cut(name, "/to/"); ok {
			name = of
		}
		p := pools[name]
		p.Requests, p.Instances = p.Requests+s.Requests, append(p.Instances, s.Instances...)
		pools[name] = p
	}
	list := n.services(file)
	n.mu.Lock()
	defer n.mu.Unlock()
	gone := false
	for _, c := range list {
		w := n.known[c.host]
		if w == nil {
			continue
		}
		p := pools[c.service.Name]
		if p.Requests != w.requests && len(p.Instances) > 0 {
			w.requests, w.since = p.Requests, now
		}
		if rest := now.Sub(w.since); rest > namedIdle || len(p.Instances) == 0 && rest > namedEmpty {
			delete(n.known, c.host)
			gone = true
		}
	}
	if gone {
		n.a.feeds.touch()
	}
}

// finder answers what no route of a proxy's listener takes yet.
type finder struct {
	a        *App
	listener string
}

var _ policy.Requester = (*finder)(nil)

// Request finds the service that Host names, and sends the request there.
func (f *finder) Request(x *exchange.Exchange) (policy.Verdict, error) {
	host := strings.Clone(x.Target.Host)
	q, ok := parseName(host)
	if !ok {
		return policy.Done, notKnown(host)
	}
	ctx, cancel := context.WithTimeout(context.Background(), namedWait)
	defer cancel()
	for {
		changed := f.a.named.next()
		if err := f.a.named.want(ctx, host, q); err != nil {
			return policy.Done, err
		}
		if r := f.route(x); r != nil {
			x.RouteName, x.ServiceName = r.Name, r.Shares[0].Service
			if fault := r.Shares[0].Pool.Send(x); fault != nil {
				return policy.Done, fault
			}
			return policy.Done, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return policy.Done, exchange.NewFault(exchange.FromUpstream, exchange.NoInstance, "%s wasn't found within %s", host, namedWait)
		}
	}
}

// explain says what would become of the first request to a host.
func (f *finder) explain(host string) (string, error) {
	q, ok := parseName(host)
	if !ok {
		return "answered 404: the host isn't NAME.service.consul", nil
	}
	return "nobody has called it yet: Consul would be asked for " + q.String(), nil
}

// next is closed when another table is in force.
func (n *namedServices) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// route is the one that the table in force has for x; nil: none but the finder's.
func (f *finder) route(x *exchange.Exchange) *proxy.Route {
	t := f.a.handler.Table()
	m := t.Match(x)
	if m.Rule < 0 || len(t.Routes[m.Rule].Shares) == 0 {
		return nil
	}
	return t.Routes[m.Rule]
}
