package app

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// counting is where the nodes of a fleet count together, by a configuration.
type counting struct {
	redis   *shared.RedisConfig // nil: Consul
	backend shared.Backend      // nil: nowhere
	name    string
	timeout time.Duration
}

// planCounting makes what the fleet counts by, unless that stays as it is.
func (a *App) planCounting(file *config.File) (*counting, error) {
	if now := a.counting; now != nil && now.backend != nil && now.redis != nil && reflect.DeepEqual(now.redis, file.Redis) {
		return now, nil
	}
	switch {
	case file.Redis != nil:
		b, err := shared.NewRedis(*file.Redis)
		if err != nil {
			return nil, err
		}
		return &counting{redis: file.Redis, backend: b, name: "redis " + file.Redis.Address, timeout: file.Redis.Timeout}, nil
	case file.Consul == nil:
		return &counting{}, nil
	case a.counting != nil && a.counting.redis == nil && a.counting.backend != nil:
		return a.counting, nil // it asks whichever Consul client there is
	default:
		return &counting{backend: shared.NewLeases(placeCounters{a.consul}, nil), name: "consul", timeout: shared.LeaseTimeout}, nil
	}
}

// count puts it in force.
func (a *App) count(c *counting) {
	if c != a.counting {
		a.fleet.Use(c.backend, c.name, c.timeout)
		a.counting = c
	}
}

// countersPrefix is where the fleet's counters are, beside what lies below
// consul.kv: there, each change would look like one of the configuration.
func countersPrefix(kv string) string {
	return cmp.Or(strings.TrimSuffix(kv, "/"), "sidegate") + "-counters/"
}

// placeCounters are the counters of whichever client stands in a place.
type placeCounters struct{ p *consulPlace }

var _ shared.KV = placeCounters{}

func (c placeCounters) store() (*consul.Store, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.p.counts == nil {
		return nil, errors.New("no consul block is configured")
	}
	return c.p.counts, nil
}

func (c placeCounters) Load(ctx context.Context, key string) ([]byte, uint64, error) {
	st, err := c.store()
	if err != nil {
		return nil, 0, err
	}
	return st.Load(ctx, key)
}

func (c placeCounters) Swap(ctx context.Context, key string, value []byte, index uint64) (bool, error) {
	st, err := c.store()
	if err != nil {
		return false, err
	}
	return st.Swap(ctx, key, value, index)
}

func (c placeCounters) List(ctx context.Context, prefix string) ([]string, error) {
	st, err := c.store()
	if err != nil {
		return nil, err
	}
	return st.List(ctx, prefix)
}

func (c placeCounters) DeleteIf(ctx context.Context, key string, f func(value []byte) bool) error {
	st, err := c.store()
	if err != nil {
		return err
	}
	return st.DeleteIf(ctx, key, f)
}

// countersStatus is how what the fleet counts by is; nil: nothing.
func (a *App) countersStatus() *admin.CountersStatus {
	name, outage := a.fleet.Status()
	if name == "" {
		return nil
	}
	s := &admin.CountersStatus{In: name, Up: true}
	if outage != nil {
		s.Up, s.Since, s.Error = false, outage.Since, outage.Error
	}
	return s
}

// fleet shows how the fleet's counters are, once there are any.
func (c *collector) fleet(count, gauge emit) {
	f := c.app.fleet
	up, used := f.Up()
	if !used {
		return
	}
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("sidegate_shared_counters_"+name, help, nil, nil)
	}
	gauge(d("up", "1 while the counters that nodes share can be asked."), number(up))
	count(d("failures_total", "Questions to the shared counters that failed."), float64(f.Failures()))
	count(d("alone_total", "Requests that this node decided by itself, since the shared counters couldn't be asked."), float64(f.Alone()))
}
