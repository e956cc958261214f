package app

import (
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
)

const (
	// purgesSaved is what the fleet's purges are known by in the snapshots.
	purgesSaved = "purges"
	// purgesHeard is how often it is noted that the fleet's purges are known.
	purgesHeard = time.Minute
)

// purgesPrefix is where the fleet's purges are, beside what lies below consul.kv.
func purgesPrefix(kv string) string { return strings.TrimSuffix(kv, "/") + "-cache/purges/" }

// newPurges has purges hold on all nodes.
func (a *App) newPurges() *cache.Fleet {
	var state cache.FleetState
	a.snapshots.Load(purgesSaved, &state) // without it, nothing of an earlier run is used
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return cache.NewFleet(a.cached, a.log.WithField("component", "cache"), host, state, func(s cache.FleetState) { a.snapshots.Save(purgesSaved, s) })
}

// purgesShared says whether a configuration has purges go to other nodes.
func purgesShared(c *consul.Config) (off string) {
	switch {
	case c == nil:
		return "there is no consul block"
	case c.KV == "":
		return "consul.kv is empty"
	default:
		return ""
	}
}

// sharePurges has purges hold on all nodes until ctx ends, once there is a cache
// block. Three goroutines of its own end with it.
func (a *App) sharePurges(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.cached.Used():
	}
	err := a.consul.follow(ctx, func(ctx context.Context, c *consul.Client) error {
		kv := a.consul.config().KV
		if kv == "" {
			<-ctx.Done()
			return nil
		}
		prefix := purgesPrefix(kv)
		store, err := c.Store(prefix)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		fleet := watched{store}
		over := make(chan excess, 1)
		wg.Go(func() { a.purges.Share(ctx, fleet) })
		wg.Go(func() { a.cleanPurges(ctx, fleet, over) })
		wg.Go(func() { a.hearPurges(ctx, c, "kv "+prefix) })
		return c.WatchKV(ctx, prefix, func(all map[string][]byte) {
			keys := make(map[string][]byte, len(all))
			for key, value := range all {
				keys[strings.TrimPrefix(key, prefix)] = value
			}
			var e excess
			if e.keys, e.trim = a.purges.Merge(keys, time.Now()); len(e.keys) == 0 {
				return
			}
			select {
			case over <- e:
			default: // it is being done; the next change shows what is left
			}
		})
	})
	if err != nil {
		a.log.WithError(err).Error("purges of the cache aren't shared with other nodes")
	}
}

// excess are purges that can leave the fleet.
type excess struct {
	keys []string
	trim *time.Time
}

func (a *App) cleanPurges(ctx context.Context, fleet cache.Shared, over <-chan excess) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-over:
			if err := a.purges.Clean(ctx, fleet, e.keys, e.trim); err != nil && ctx.Err() == nil {
				a.log.WithError(err).Debug("old purges can't be taken out of Consul") // another node may, or the next change
			}
		}
	}
}

// hearPurges notes when the watch was answered last, also without news.
func (a *App) hearPurges(ctx context.Context, c *consul.Client, watch string) {
	t := time.NewTicker(purgesHeard)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, w := range c.Status() {
			if w.What == watch && !w.LastAnswer.IsZero() {
				a.purges.Heard(w.LastAnswer)
			}
		}
	}
}

// Purge forgets answers, here and, unless local, on all nodes.
func (a *App) Purge(ctx context.Context, p cache.Purge, local bool) (admin.Purged, error) {
	if err := a.mayChange(); err != nil {
		return admin.Purged{}, err
	}
	for _, name := range p.Routes {
		if !slices.ContainsFunc(a.cached.Counts(), func(c cache.Count) bool { return c.Route == name }) {
			return admin.Purged{}, admin.Refuse(http.StatusNotFound, "no route %q with a cache: sidegate cache stats lists them", name)
		}
	}
	n, err := a.cached.Purge(p)
	if err != nil {
		return admin.Purged{}, admin.Refuse(http.StatusBadRequest, "%v", err)
	}
	out := admin.Purged{Purged: n, Nodes: admin.PurgedHere}
	if !local {
		switch err := a.purges.Tell(ctx, p); {
		case err == nil:
			out.Nodes = admin.PurgedEverywhere
		case !errors.Is(err, cache.ErrNoFleet):
			out.Nodes, out.Error = admin.PurgeWaits, err.Error()
		}
	}
	a.log.WithField("what", p.String()).WithField("soft", p.Soft).WithField("nodes", out.Nodes).WithField("answers", n).Info("answers in the cache are forgotten")
	return out, nil
}
