package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
	"github.com/sidegate-proxy/sidegate/proxy/usage/postgres"
	"github.com/sidegate-proxy/sidegate/proxy/usage/sqlite"
)

// countUsage makes what counts who uses what, and what keeps it; nil: nobody
// asked for it. Nothing is opened yet.
func (a *App) countUsage(file *config.File) *usage.Counter {
	if file.Usage == nil {
		return nil
	}
	place := usagePlace(file)
	deps := usage.KeeperDeps{Log: a.log.WithField("component", "usage"), Counter: usage.NewCounter(file.Usage.Series), Early: place.url != ""}
	if place.url == "" {
		_, err := os.Stat(place.path)
		deps.Early = err == nil
	}
	deps.Open = func(ctx context.Context) (usage.Store, error) {
		return place.open(ctx, deps.Log, a.shares.yielded.Load())
	}
	a.usage = usage.NewKeeper(*file.Usage, place.name(), deps)
	a.own = &ownUsage{app: a, waiting: make(chan struct{}, ownAtOnce)}
	return deps.Counter
}

// place is where the usage is kept.
type place struct {
	url   secret.String // of PostgreSQL; "": a file
	path  string
	spool string
	most  int64
}

func usagePlace(file *config.File) place {
	return place{file.Usage.Database, filepath.Join(file.StateDir, "usage.db"), filepath.Join(file.StateDir, "usage-spool"), file.Usage.Spool}
}

func (p *place) name() string {
	if p.url != "" {
		return postgres.Name(p.url)
	}
	return "sqlite " + p.path
}

func (p *place) open(ctx context.Context, log logrus.FieldLogger, drains bool) (s usage.Store, err error) {
	if p.url != "" {
		s, err = postgres.Open(postgres.Deps{Log: log, URL: p.url, Dir: p.spool, Most: p.most, Drains: drains})
	} else {
		s, err = sqlite.Open(ctx, p.path)
	}
	if err != nil {
		return nil, err // a nil pointer isn't a nil Store
	}
	return s, nil
}

// view opens it without a gateway.
func (p *place) view(ctx context.Context) (s usage.Store, err error) {
	if p.url != "" {
		s, err = postgres.Open(postgres.Deps{URL: p.url})
	} else {
		s, err = sqlite.View(ctx, p.path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("nothing was counted yet: there is no %s", p.path)
	case err != nil:
		return nil, err
	}
	return s, nil
}

// usageStatus is how keeping the usage is; nil: it isn't counted.
func (a *App) usageStatus() *usage.Status {
	if a.usage == nil {
		return nil
	}
	s := a.usage.Status()
	return &s
}

// Usage answers a question about who used what.
func (a *App) Usage(ctx context.Context, q *usage.Query) (*usage.Report, error) {
	if a.usage == nil {
		return nil, admin.ErrNoUsage
	}
	q.Within(a.usage.Retention(), time.Now())
	return q.Run(ctx, a.usage)
}

// LiveUsage is what was counted since the start.
func (a *App) LiveUsage(ctx context.Context) (*admin.LiveUsage, error) {
	if a.usage == nil {
		return nil, admin.ErrNoUsage
	}
	live := &admin.LiveUsage{Series: []admin.LiveSeries{}, Overflow: a.usage.Status().Overflow}
	var err error
	live.Started, live.Now, err = a.usage.Live(ctx, func(t *usage.Total) { live.Series = append(live.Series, admin.LiveSeriesOf(t)) })
	return live, err
}

// StoredUsage answers a question without a running gateway, and says from where.
func StoredUsage(ctx context.Context, opt Options, q *usage.Query) (r *usage.Report, from string, err error) {
	file, err := load(opt)
	if err != nil {
		return nil, "", err
	}
	if file.Usage == nil {
		return nil, "", admin.ErrNoUsage
	}
	place := usagePlace(file)
	s, err := place.view(ctx)
	if err != nil {
		return nil, "", err
	}
	q.Within(file.Usage.Retention(), time.Now())
	r, err = q.Run(ctx, s)
	return r, place.name(), errors.Join(err, s.Close())
}

// usage shows how keeping the usage is, where it is counted.
func (c *collector) usage(count, gauge emit) {
	s := c.app.usageStatus()
	if s == nil {
		return
	}
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("sidegate_usage_"+name, help, nil, nil)
	}
	gauge(d("database_up", "1 while usage can be stored."), number(s.Up))
	count(d("database_failures_total", "Times that usage couldn't be stored."), float64(s.Failures))
	gauge(d("stored_timestamp_seconds", "When usage was last stored, in seconds since 1970."), stamp(s.Stored))
	gauge(d("unstored_rows", "Rows that wait in memory to be stored."), float64(s.Unstored))
	gauge(d("spooled_batches", "Batches that wait on the disk for the database."), float64(s.Spooled))
	gauge(d("series", "Combinations of consumer, route, service and class of status that are counted apart."), float64(s.Series))
	count(d("overflow_total", "Requests counted for the consumer (other): usage.series is too small."), float64(s.Overflow))
}

// stamp is a time for Prometheus; 0: never.
func stamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
