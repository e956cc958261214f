package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
)

// topSource asks the gateway. It isn't for more than one goroutine at once.
type topSource struct {
	socket string
	before *liveUsage
}

// liveUsage is a part of what GET /api/usage/live says.
type liveUsage struct {
	Now    time.Time
	Series []struct {
		Consumer string
		Requests uint64
		Classes  [6]uint64
		BytesIn  uint64      `json:"bytes_in"`
		BytesOut uint64      `json:"bytes_out"`
		Latency  [][2]uint64 // upper bound in µs, requests
	}
}

// get takes a picture.
func (t *topSource) get(ctx context.Context, v topView) (*topPicture, error) {
	p := &topPicture{by: v.by}
	if err := ask(ctx, t.socket, "/api/overview", &p.overview); err != nil {
		return nil, err
	}
	by := map[byte]string{'r': "route", 's': "service", 'c': "total"}[v.by]
	var a admin.Traffic
	sort := map[byte]string{'t': "rate", 'e': "errors", 'l': "p99", 'b': "bytes", 'n': "name", 'a': "requests"}[v.sort]
	order := "desc"
	if v.turned != (v.sort == 'n') {
		order = "asc"
	}
	if err := ask(ctx, t.socket, fmt.Sprintf("/api/traffic?latency=false&window=10s&by=%s&sort=%s&order=%s&limit=%d", by, sort, order, topRows), &a); err != nil {
		return nil, err
	}
	p.total, p.window = a.Total.Recent, a.Window
	for _, r := range a.Rows {
		name := r.Name
		if name == "" {
			name = "(no route)"
		}
		p.rows = append(p.rows, topRow{name: name, more: r.To, figures: r.Recent, window: a.Window, all: r.All.Requests})
	}
	switch v.by {
	case 's':
		return p, t.instances(ctx, p)
	case 'c':
		return p, t.consumers(ctx, p)
	}
	return p, nil
}

// instances says of services how many of their instances are well.
func (t *topSource) instances(ctx context.Context, p *topPicture) error {
	var list []admin.ServiceRow
	if err := ask(ctx, t.socket, fmt.Sprintf("/api/services?limit=%d&sort=down&order=desc", topRows), &list); err != nil {
		return err
	}
	at := map[string]int{}
	for i, r := range p.rows {
		at[r.name] = i
	}
	for _, s := range list {
		more := fmt.Sprintf("%d", len(s.Instances))
		if s.Down > 0 || len(s.Instances) == 0 {
			more = fmt.Sprintf("%d of %d", len(s.Instances)-s.Down, len(s.Instances))
		}
		if i, ok := at[s.Service]; ok {
			p.rows[i].more = more
		}
	}
	return nil
}

// consumers are what has been counted since the picture before.
func (t *topSource) consumers(ctx context.Context, p *topPicture) error {
	var now liveUsage
	if err := ask(ctx, t.socket, "/api/usage/live", &now); err != nil {
		if strings.Contains(err.Error(), "404") || strings.Contains(err.Error(), "usage") {
			p.note = "consumers aren't counted: that takes a usage block"
			return nil
		}
		return err
	}
	before := t.before
	t.before = &now
	rows, seconds := sumUsage(&now), 0.0
	if before != nil {
		seconds = now.Now.Sub(before.Now).Seconds()
		for name, old := range sumUsage(before) {
			if r := rows[name]; r != nil && r.requests >= old.requests {
				r.less(old)
			}
		}
	}
	for name, r := range rows {
		row := topRow{name: name, all: r.all, window: seconds}
		if before != nil {
			row.figures = r.figures(seconds)
		}
		if name == "" {
			row.name = "(nobody known)"
		}
		p.rows = append(p.rows, row)
	}
	return nil
}

// used is what a consumer used.
type used struct {
	requests, errors, in, out, all uint64
	latency                        map[uint64]uint64
}

func sumUsage(u *liveUsage) map[string]*used {
	sum := map[string]*used{}
	for _, s := range u.Series {
		r := sum[s.Consumer]
		if r == nil {
			r = &used{latency: map[uint64]uint64{}}
			sum[s.Consumer] = r
		}
		r.requests += s.Requests
		r.all += s.Requests
		r.errors += s.Classes[5] + s.Classes[0]
		r.in += s.BytesIn
		r.out += s.BytesOut
		for _, b := range s.Latency {
			r.latency[b[0]] += b[1]
		}
	}
	return sum
}

func (r *used) less(o *used) {
	r.requests -= o.requests
	r.errors -= o.errors
	r.in -= o.in
	r.out -= o.out
	for bound, n := range o.latency {
		r.latency[bound] -= n
	}
}

func (r *used) figures(seconds float64) traffic.Figures {
	f := traffic.Figures{Requests: r.requests, Errors: r.errors, BytesIn: r.in, BytesOut: r.out, P50: r.quantile(0.5), P99: r.quantile(0.99)}
	if seconds > 0 {
		f.Rate = float64(r.requests) / seconds
	}
	return f
}

// quantile is the bound of the bucket that has it, in seconds.
func (r *used) quantile(q float64) float64 {
	rank, sum := q*float64(r.requests), 0.0
	for _, bound := range slices.Sorted(maps.Keys(r.latency)) {
		if sum += float64(r.latency[bound]); sum > 0 && sum >= rank {
			return float64(bound) / 1e6
		}
	}
	return 0
}
