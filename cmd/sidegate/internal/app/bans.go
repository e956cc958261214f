package app

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
)

// bansPrefix is where the fleet's bans are, beside what lies below consul.kv:
// there, each of them would look like a change of the configuration, and many
// would be too much for its watch.
func bansPrefix(kv string) string { return strings.TrimSuffix(kv, "/") + "-bans/" }

// shareBans keeps the bans of this node and the fleet's the same until ctx ends,
// once there is a ban block. A goroutine of its own ends with it.
func (a *App) shareBans(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.bans.Used():
	}
	err := a.consul.follow(ctx, func(ctx context.Context, c *consul.Client) error {
		kv := a.consul.config().KV
		if kv == "" {
			<-ctx.Done()
			return nil
		}
		prefix := bansPrefix(kv)
		store, err := c.Store(prefix)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		fleet := watched{store}
		wg.Go(func() { a.bans.Share(ctx, fleet) })
		return c.WatchKV(ctx, prefix, func(all map[string][]byte) {
			keys := make(map[string][]byte, len(all))
			for key, value := range all {
				keys[strings.TrimPrefix(key, prefix)] = value
			}
			stale := a.bans.Merge(keys, time.Now())
			if err := a.bans.Clean(ctx, fleet, stale); err != nil && ctx.Err() == nil {
				a.log.WithError(err).Debug("bans that are over can't be taken out of Consul") // another node may, or the next change
			}
		})
	})
	if err != nil {
		a.log.WithError(err).Error("bans aren't shared with the fleet")
	}
}

// watched writes where WatchKV looks, also when that is another datacenter than the
// agent's.
type watched struct{ *consul.Store }

func (w watched) Put(ctx context.Context, key string, value []byte) error {
	return w.Change(ctx, key, func([]byte) ([]byte, error) { return value, nil })
}

func (w watched) Delete(ctx context.Context, key string) error {
	return w.Change(ctx, key, func([]byte) ([]byte, error) { return nil, nil })
}

func (w watched) DeleteIf(ctx context.Context, key string, f func(value []byte) bool) error {
	return w.Change(ctx, key, func(value []byte) ([]byte, error) {
		if value == nil || f(value) {
			return nil, nil
		}
		return value, nil
	})
}

// bansOf are the ban policies of a table's routes.
func bansOf(t *proxy.Table) []*ban.Policy {
	var list []*ban.Policy
	for _, r := range t.Routes {
		for _, n := range r.Chain.Policies() {
			if p, ok := n.Policy.(*ban.Policy); ok {
				list = append(list, p)
			}
		}
	}
	return list
}

// abused counts a connection that was closed for what it sent.
func (a *App) abused(ip netip.Addr) { a.abuse.Load().Count(ip, time.Now()) }
