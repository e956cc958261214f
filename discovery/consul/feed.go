package consul

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// feedKey is what a feed asks: one service in one datacenter.
type feedKey struct {
	service, tags, filter, dc string
}

// state is what a feed knows. It is never changed once published.
type state struct {
	set   []discovery.Instance
	known bool  // set was told by Consul
	err   error // why the last read failed
}

// usable says whether an instance may get requests.
func (s *state) usable() bool {
	return slices.ContainsFunc(s.set, func(in discovery.Instance) bool { return in.Health <= discovery.Warning })
}

// feed keeps one query's instances and tells its subscribers. It has one
// goroutine.
type feed struct {
	c      *Client
	key    feedKey
	read   read
	watch  *watch
	cancel context.CancelFunc
	done   chan struct{}
	state  atomic.Pointer[state]

	refs int // guarded by Client.mu

	mu   sync.Mutex // guards subs
	subs map[chan struct{}]struct{}
}

// subscribe joins the feed for key, and starts it if it is the first. wake, of
// capacity 1, gets a token after each change.
func (c *Client) subscribe(key feedKey, wake chan struct{}) *feed {
	c.mu.Lock()
	f := c.feeds[key]
	start := f == nil
	if start {
		f = c.newFeed(key)
		c.feeds[key] = f
	}
	f.refs++
	c.mu.Unlock()

	f.mu.Lock()
	f.subs[wake] = struct{}{}
	f.mu.Unlock()
	if start {
		ctx, cancel := context.WithCancel(context.Background())
		f.cancel = cancel
		f.watch = c.track(f.what())
		go f.run(ctx) // ended and waited for by the last unsubscribe
	}
	poke(wake) // what is known already
	return f
}

func (c *Client) newFeed(key feedKey) *feed {
	params := make(url.Values, 2)
	if key.tags != "" {
		params["tag"] = strings.Split(key.tags, "\x00")
	}
	if key.filter != "" {
		params.Set("filter", key.filter)
	}
	f := &feed{c: c, key: key, done: make(chan struct{}), subs: make(map[chan struct{}]struct{})}
	f.read = read{path: "health/service/" + url.PathEscape(key.service), params: params, dc: key.dc}
	f.state.Store(new(state))
	return f
}

func (f *feed) what() string {
	q := discovery.Query{Service: f.key.service, Filter: f.key.filter}
	if f.key.tags != "" {
		q.Tags = strings.Split(f.key.tags, "\x00")
	}
	if f.key.dc != "" {
		q.Datacenters = []string{f.key.dc}
	}
	return "service " + q.String()
}

// unsubscribe leaves the feed; the last one ends it and waits for that.
func (c *Client) unsubscribe(f *feed, wake chan struct{}) {
	f.mu.Lock()
	delete(f.subs, wake)
	f.mu.Unlock()
	c.mu.Lock()
	f.refs--
	last := f.refs == 0
	if last {
		delete(c.feeds, f.key)
	}
	none := len(c.feeds) == 0
	c.mu.Unlock()
	if none {
		c.gate.unshare()
	}
	if last {
		f.cancel()
		<-f.done
		c.untrack(f.watch)
	}
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default: // it has been told already
	}
}

// run reads until ctx ends. It blocks on a query of its own while the gate has
// a place for it, and else waits for the datacenter's pulse.
func (f *feed) run(ctx context.Context) {
	defer close(f.done)
	var p place
	defer func() { p.leave(f) }()
	f.c.poll(ctx, f.watch, func(ctx context.Context, index uint64) (uint64, error) {
		got, err := f.step(ctx, index, &p)
		if errors.Is(err, errCrowded) { // it has left the gate, and now shares
			got, err = f.step(ctx, index, &p)
		}
		if err != nil && ctx.Err() == nil {
			old := f.state.Load()
			f.publish(&state{set: old.set, known: old.known, err: err}, !old.known)
		}
		return got, err
	})
}

// step waits for its turn and reads.
func (f *feed) step(ctx context.Context, index uint64, p *place) (uint64, error) {
	if err := p.take(ctx, f, index); err != nil {
		return 0, err
	}
	if !p.blocking || index == 0 {
		return f.fetch(ctx, index, false)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.c.gate.hold(p, cancel)
	defer f.c.gate.release(p)
	got, err := f.fetch(ctx, index, true)
	if err != nil && errors.Is(context.Cause(ctx), errCrowded) {
		f.c.gate.leave()
		p.blocking = false
		return 0, errCrowded
	}
	return got, err
}

// fetch reads once and publishes what changed.
func (f *feed) fetch(ctx context.Context, index uint64, block bool) (uint64, error) {
	r := f.read
	var a answer
	var err error
	old := f.state.Load()
	// A server that has just started may answer stale reads from a state that
	// it is still restoring: what would replace a known set begins consistent.
	r.consistent = index == 0 && old.known
	if block && index > 0 {
		r.index = index
		a, err = f.c.get(ctx, r)
	} else {
		a, err = f.c.shortGet(ctx, r)
	}
	if err != nil {
		return 0, err
	}
	set, err := f.parse(ctx, a)
	if err != nil {
		return 0, err
	}
	if len(set) == 0 && (len(old.set) > 0 || !old.known) {
		if set, err = f.confirm(ctx, a); err != nil {
			return 0, err
		}
	}
	changed := !old.known || !slices.EqualFunc(old.set, set, same)
	if changed || old.err != nil {
		f.watch.count(len(set))
		f.publish(&state{set: set, known: true}, changed)
	}
	return a.index, nil
}

func (f *feed) parse(ctx context.Context, a answer) ([]discovery.Instance, error) {
	if a.missing {
		return nil, &statusError{code: 404}
	}
	return parse(a.body, f.c.locality(ctx))
}

// confirm asks again when Consul says that there are no instances.
func (f *feed) confirm(ctx context.Context, a answer) ([]discovery.Instance, error) {
	if a.filtered {
		return nil, complain("the token may not read this: the answer was filtered by ACLs")
	}
	node := "any"
	if old := f.state.Load().set; len(old) > 0 {
		node = old[0].Node
	}
	a, err := f.c.confirmEmpty(ctx, f.read, func(a answer) bool { return emptyList(a.body) },
		permission{"service", "read", f.key.service}, permission{"node", "read", node})
	if err != nil {
		return nil, err
	}
	return f.parse(ctx, a)
}

func emptyList(body []byte) bool {
	s := strings.Join(strings.Fields(string(body[:min(len(body), 16)])), "")
	return s == "[]" || s == "null"
}

// publish makes s the state and, when told, wakes the subscribers.
func (f *feed) publish(s *state, wake bool) {
	f.state.Store(s)
	if !wake {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.subs {
		poke(w)
	}
}

// Watch reports the instances of q; see discovery.Source. With several
// datacenters it takes those of the first that has an instance fit for
// requests, else of the first that has any. One that can't be asked and never
// could be counts as having none.
func (c *Client) Watch(ctx context.Context, q discovery.Query, update func([]discovery.Instance)) error {
	if q.Service == "" {
		return errors.New("consul: watch: the query names no service")
	}
	tags := slices.Compact(slices.Sorted(slices.Values(q.Tags)))
	datacenters := slices.Clone(q.Datacenters)
	if len(datacenters) == 0 {
		datacenters = []string{c.dc}
	}
	wake := make(chan struct{}, 1)
	feeds := make([]*feed, 0, len(datacenters))
	for _, dc := range datacenters {
		f := c.subscribe(feedKey{q.Service, strings.Join(tags, "\x00"), q.Filter, dc}, wake)
		defer c.unsubscribe(f, wake)
		feeds = append(feeds, f)
	}
	var last []discovery.Instance
	told := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
		set, ok := prefer(feeds)
		if !ok || told && slices.EqualFunc(last, set, same) {
			continue
		}
		last, told = set, true
		update(slices.Clone(set))
	}
}

// prefer chooses among the datacenters; ok is false while it isn't known.
func prefer(feeds []*feed) (set []discovery.Instance, ok bool) {
	complete := true
	for _, f := range feeds {
		s := f.state.Load()
		switch {
		case s.known && s.usable():
			return s.set, true
		case s.known:
			if len(set) == 0 {
				set = s.set
			}
		case s.err == nil:
			return nil, false // it hasn't answered yet
		default:
			complete = false
		}
	}
	return set, complete || len(set) > 0
}
