package consul

import (
	"context"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// claimWatch finds the services that claim routes, and reads their instances.
type claimWatch struct {
	c        *Client
	prefixes []string
	wake     chan struct{} // capacity 1
	held     map[string]*claimant

	mu     sync.Mutex // guards listed
	listed map[string]bool
}

// claimant is a service that claims routes, or may.
type claimant struct {
	feed     *feed
	seen     *state
	claims   []discovery.Claim
	problems []discovery.Problem
}

// WatchClaims calls update with all that registrations claim, and what is wrong
// with them, whenever it changes, until ctx ends. The lists are sorted and the
// callee's to keep; discovery.Merge makes routes of them. Prefixes are
// "sidegate." and "urlprefix-" unless given.
//
// The catalog's list of names and tags is held by a blocking query. Tags in it
// tell who claims. Meta isn't in it, and Consul can filter by a whole meta key
// only: services that claim by meta alone are found by sidegate-host or
// sidegate-route (also spelt with _), and those with named routes alone
// (sidegate-NAME-host) need a meta key "sidegate" of any value beside them.
// Only the services found are watched. An instance's claims stay while it is
// registered, however its checks are.
//
// The first report waits until every such service has answered, 10 s at most;
// one that hasn't by then is told as a problem. A service that vanished from
// the list keeps its claims until its own feed says, by its own rule about empty
// answers, that it has no instances. WatchClaims always returns nil.
func (c *Client) WatchClaims(ctx context.Context, prefixes []string, update func([]discovery.Claim, []discovery.Problem)) error {
	if len(prefixes) == 0 {
		prefixes = []string{ownPrefix, fabioPrefix}
	}
	cw := &claimWatch{c: c, prefixes: slices.Clone(prefixes), wake: make(chan struct{}, 1), held: make(map[string]*claimant)}
	var catalog sync.WaitGroup
	defer cw.drop()
	defer catalog.Wait()
	catalog.Go(func() { cw.watchCatalog(ctx) })

	deadline := time.Now().Add(c.times.claimsGrace)
	grace := time.AfterFunc(c.times.claimsGrace, func() { poke(cw.wake) })
	defer grace.Stop()
	var lastClaims []discovery.Claim
	var lastProblems []discovery.Problem
	told := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-cw.wake:
		}
		if told && !sleep(ctx, c.times.settle) { // the first report is what a start waits for
			return nil
		}
		claims, problems, ready := cw.collect(told || !time.Now().Before(deadline))
		if !ready || told && reflect.DeepEqual(claims, lastClaims) && slices.Equal(problems, lastProblems) {
			continue
		}
		lastClaims, lastProblems, told = claims, problems, true
		update(slices.Clone(claims), slices.Clone(problems))
	}
}

// drop leaves all feeds.
func (cw *claimWatch) drop() {
	for _, h := range cw.held {
		cw.c.unsubscribe(h.feed, cw.wake)
	}
}

// watchCatalog keeps the list of services that may claim something.
func (cw *claimWatch) watchCatalog(ctx context.Context) {
	c := cw.c
	w := c.track("claims")
	defer c.untrack(w)
	c.poll(ctx, w, func(ctx context.Context, index uint64) (uint64, error) {
		a, err := c.get(ctx, read{path: "catalog/services", index: index, dc: c.dc})
		if err != nil {
			return 0, err
		}
		names, err := parseCatalog(a)
		if err != nil {
			return 0, err
		}
		if len(names) == 0 { // Consul itself is always there, for who may read
			if a.filtered {
				return 0, complain("the token may not read this: the answer was filtered by ACLs")
			}
			if err := c.maySee(ctx, a.deny, c.dc, []permission{{"service", "read", "any"}}); err != nil {
				return 0, err
			}
		}
		found := make(map[string]bool)
		for name, tags := range names {
			if slices.ContainsFunc(tags, cw.isClaim) {
				found[name] = true
			}
		}
		if err := cw.findByMeta(ctx, found); err != nil {
			return 0, err
		}
		w.count(len(found))
		cw.mu.Lock()
		cw.listed = found
		cw.mu.Unlock()
		poke(cw.wake)
		return a.index, nil
	})
}

func (cw *claimWatch) isClaim(tag string) bool {
	return slices.ContainsFunc(cw.prefixes, func(p string) bool { return strings.HasPrefix(tag, p) })
}

// findByMeta adds the services that have one of the meta keys.
func (cw *claimWatch) findByMeta(ctx context.Context, found map[string]bool) error {
	var conditions []string
	for _, prefix := range cw.prefixes {
		base, own := strings.CutSuffix(prefix, ".")
		if !own {
			continue
		}
		for _, key := range []string{"", "-host", "_host", "-route", "_route"} {
			conditions = append(conditions, "`"+base+key+"` in ServiceMeta")
		}
	}
	if len(conditions) == 0 {
		return nil
	}
	a, err := cw.c.shortGet(ctx, read{path: "catalog/services", dc: cw.c.dc,
		params: url.Values{"filter": {strings.Join(conditions, " or ")}}})
	if err != nil {
		return err
	}
	names, err := parseCatalog(a)
	for name := range names {
		found[name] = true
	}
	return err
}

// collect joins and leaves feeds as listed, and gathers what they say. When
// force is false it is ready only if every feed has answered.
func (cw *claimWatch) collect(force bool) (claims []discovery.Claim, problems []discovery.Problem, ready bool) {
	cw.mu.Lock()
	listed := cw.listed
	cw.mu.Unlock()
	if listed == nil {
		return nil, nil, false
	}
	for name := range listed {
		if cw.held[name] == nil {
			cw.held[name] = &claimant{feed: cw.c.subscribe(feedKey{service: name, dc: cw.c.dc}, cw.wake)}
		}
	}
	ready = true
	for _, name := range slices.Sorted(maps.Keys(cw.held)) {
		h := cw.held[name]
		s := h.read(name, cw.prefixes)
		if !listed[name] && len(h.claims)+len(h.problems) == 0 {
			cw.c.unsubscribe(h.feed, cw.wake)
			delete(cw.held, name)
			continue
		}
		if !s.known {
			ready = ready && force
			if s.err != nil {
				problems = append(problems, discovery.Problem{Service: name, Text: "its instances can't be read: " + s.err.Error()})
			}
			continue
		}
		claims = append(claims, h.claims...)
		problems = append(problems, h.problems...)
	}
	discovery.SortProblems(problems)
	return claims, problems, ready
}

// read parses the feed's state if it is new.
func (h *claimant) read(service string, prefixes []string) *state {
	s := h.feed.state.Load()
	if s == h.seen {
		return s
	}
	h.seen = s
	h.claims, h.problems = nil, nil
	for _, in := range s.set {
		claims, problems := parseClaims(service, in, prefixes)
		h.claims = append(h.claims, claims...)
		h.problems = append(h.problems, problems...)
	}
	return s
}
