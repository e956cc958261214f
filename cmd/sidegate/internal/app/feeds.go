package app

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
)

const (
	// firstFeed is how long a start waits for what registrations and KV say,
	// before it serves without.
	firstFeed = time.Second
	// feedPatience is how long the stored answer waits for a live one.
	feedPatience = 200 * time.Millisecond
	// feedSettle gathers changes that come together into one table.
	feedSettle = 20 * time.Millisecond
)

// feeds is what comes from Consul beside instances: claims of registrations and
// KV entries. Both are kept on disk, so that a restart without Consul routes as
// before.
type feeds struct {
	mu       sync.Mutex // guards what follows
	claims   []discovery.Claim
	problems []discovery.Problem
	kv       map[string][]byte
	known    [2]bool // claims, KV: live or from disk
	version  int     // counts what the feeds said
	first    chan struct{}
	dirty    chan struct{}
}

const (
	feedClaims = iota
	feedKV
)

// wait returns when both feeds have said something, or the time is over.
func (f *feeds) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-f.first:
	case <-t.C:
	}
}

// set takes over a feed's answer, if apply isn't nil.
func (f *feeds) set(which int, apply func()) {
	f.mu.Lock()
	if apply != nil {
		apply()
		f.version++
	}
	before := f.known[feedClaims] && f.known[feedKV]
	f.known[which] = true
	if !before && f.known[feedClaims] && f.known[feedKV] {
		close(f.first)
	}
	f.mu.Unlock()
	if apply == nil {
		return
	}
	select {
	case f.dirty <- struct{}{}:
	default:
	}
}

// touch asks for a new table without a feed of Consul's.
func (f *feeds) touch() {
	f.mu.Lock()
	f.version++
	f.mu.Unlock()
	select {
	case f.dirty <- struct{}{}:
	default:
	}
}

func (f *feeds) isKnown(which int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known[which]
}

// said is what the feeds have said so far.
type said struct {
	claims   []discovery.Claim
	problems []discovery.Problem
	kv       map[string][]byte
	version  int
}

// read is a consistent copy.
func (f *feeds) read() said {
	f.mu.Lock()
	defer f.mu.Unlock()
	return said{f.claims, f.problems, f.kv, f.version}
}

// storedClaims is what the disk keeps of the claims.
type storedClaims struct {
	Claims   []discovery.Claim
	Problems []discovery.Problem
}

// feed keeps the feeds up to date and makes a new table of each change, until
// ctx ends. Three goroutines of its own end with it.
func (a *App) feed(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { a.fromDisk(ctx) })
	wg.Go(func() { a.watchClaims(ctx) })
	wg.Go(func() { a.watchKV(ctx) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-a.feeds.dirty:
			pause(ctx, feedSettle)
			if a.serving() && a.view.shows() != a.feeds.read().version {
				a.refresh(ctx)
			}
		}
	}
	wg.Wait()
}

// fromDisk uses the stored answers when Consul is slow or away at the start.
func (a *App) fromDisk(ctx context.Context) {
	if a.consul.client() == nil {
		a.feeds.set(feedClaims, nil)
		a.feeds.set(feedKV, nil)
		return
	}
	pause(ctx, feedPatience)
	if !a.feeds.isKnown(feedClaims) {
		var s storedClaims
		if age, ok := a.snapshots.Load("claims", &s); ok {
			a.log.WithField("age", age.Round(time.Second).String()).Warn("Consul hasn't answered: routing by the registrations last known")
			a.feeds.set(feedClaims, func() { a.feeds.claims, a.feeds.problems = s.Claims, s.Problems })
		}
	}
	if !a.feeds.isKnown(feedKV) {
		kv, consumers := map[string][]byte{}, map[string][]byte{}
		if age, ok := a.snapshots.Load("consumers", &consumers); ok {
			a.keys.setDocuments(consumers, time.Now().Add(-age))
		}
		if _, ok := a.snapshots.Load("kv", &kv); ok {
			a.feeds.set(feedKV, func() { a.feeds.kv = kv })
		}
	}
}

func (a *App) watchClaims(ctx context.Context) {
	err := a.consul.follow(ctx, func(ctx context.Context, c *consul.Client) error {
		if a.consul.config().Expose == nil { // nothing may be claimed
			a.feeds.set(feedClaims, func() { a.feeds.claims, a.feeds.problems = nil, nil })
			<-ctx.Done()
			return nil
		}
		return c.WatchClaims(ctx, nil, func(claims []discovery.Claim, problems []discovery.Problem) {
			a.feeds.set(feedClaims, func() { a.feeds.claims, a.feeds.problems = claims, problems })
			a.snapshots.Save("claims", storedClaims{claims, problems})
		})
	})
	if err != nil {
		a.log.WithError(err).Error("registrations aren't watched any more")
	}
}

func (a *App) watchKV(ctx context.Context) {
	err := a.consul.follow(ctx, func(ctx context.Context, c *consul.Client) error {
		prefix := a.consul.config().KV
		if prefix == "" || a.current().SidecarOnly() && !knowsCallers(a.current()) {
			a.feeds.set(feedKV, func() { a.feeds.kv = nil })
			a.keys.setDocuments(nil, time.Time{})
			<-ctx.Done()
			return nil
		}
		first := true
		var last map[string][]byte
		return c.WatchKV(ctx, prefix, func(all map[string][]byte) {
			consumers := below(all, prefix, "consumers")
			a.keys.setDocuments(consumers, time.Time{})
			a.snapshots.Save("consumers", consumers)
			folders := []string{"routes", "services", "policies", listsFolder}
			if a.current().SidecarOnly() {
				folders = []string{listsFolder} // the routes there are the edges'
			}
			kv := below(all, prefix, folders...)
			if !first && maps.EqualFunc(last, kv, bytes.Equal) {
				return // a consumer needs no new table
			}
			first, last = false, kv
			a.feeds.set(feedKV, func() { a.feeds.kv = kv })
			a.snapshots.Save("kv", kv)
		})
	})
	if err != nil {
		a.log.WithError(err).Error("Consul's KV isn't watched any more")
	}
}

// below are the keys in some folders: those that hold configuration. Certificates,
// locks and what later parts of the gateway keep beside them aren't ours to parse.
func below(all map[string][]byte, prefix string, folders ...string) map[string][]byte {
	kv := map[string][]byte{}
	for key, value := range all {
		folder, name, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
		if name != "" && slices.Contains(folders, folder) {
			kv[key] = value
		}
	}
	return kv
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
