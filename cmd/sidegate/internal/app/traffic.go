package app

import (
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
	"github.com/sidegate-proxy/sidegate/proxy/tail"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

const (
	soonOver    = 7 * 24 * time.Hour // certificates that an operator should look at
	maxProblems = 100                // that the overview tells
	maxWorst    = 10                 // services that it names
	maxChanges  = 20                 // of the configuration that are remembered
)

// Tail is where requests are told.
func (a *App) Tail() *tail.Tap { return a.tail }

// History is a line over time.
func (a *App) History(by traffic.Dimension, name string, day bool) *traffic.History {
	return a.traffic.History(by, name, day)
}

// inFlight is how many requests are at work.
func (a *App) inFlight() int {
	n := 0
	for _, l := range a.server.Status() {
		n += l.Busy
	}
	return n
}

// Overview is how the gateway is, in an answer of bounded size.
func (a *App) Overview() admin.Overview {
	s := a.Status()
	now := time.Now()
	o := admin.Overview{Status: s, Now: now, Problems: len(s.Problems), Bans: len(a.Bans()), InFlight: a.inFlight()}
	o.Status.Services, o.Status.Certificate = nil, nil
	o.Status.Problems = s.Problems[:min(len(s.Problems), maxProblems)]
	for i := range s.Services {
		v := &s.Services[i]
		down := downOf(v)
		o.Services.Services++
		o.Services.Instances += len(v.Instances)
		o.Services.Down += down
		if down == len(v.Instances) {
			o.Services.Empty++
		}
		if (down > 0 || len(v.Instances) == 0) && len(o.Services.Worst) < maxWorst {
			o.Services.Worst = append(o.Services.Worst, v.Service)
		}
		for j := range v.Instances {
			if v.Instances[j].EjectedUntil.After(now) {
				o.Services.Ejected++
			}
		}
	}
	for i := range s.Certificate {
		c := &s.Certificate[i]
		o.Certs.All++
		if c.Error != "" {
			o.Certs.Failed++
		}
		if c.NotAfter.IsZero() {
			continue
		}
		if c.NotAfter.Sub(now) < soonOver && c.Source != "local" { // those never last longer
			o.Certs.Soon++
		}
		if o.Certs.Next.IsZero() || c.NotAfter.Before(o.Certs.Next) {
			o.Certs.Next = c.NotAfter
		}
	}
	n := a.traffic.Now(traffic.Total, time.Minute)
	o.Window, o.Traffic = n.Window, n.Total
	return o
}

// downOf counts the instances that get nothing.
func downOf(v *upstream.PoolStatus) int {
	n := 0
	for i := range v.Instances {
		if !v.Instances[i].Eligible {
			n++
		}
	}
	return n
}

// Certificates are those that the gateway has, or tries to get.
func (a *App) Certificates() []edgetls.CertStatus { return a.certs.Status() }

// Services are the services with their instances and their traffic of the last minute.
func (a *App) Services() []admin.ServiceRow {
	n := a.traffic.Now(traffic.Service, time.Minute)
	stale := a.stale()
	list := a.group.Status()
	out := make([]admin.ServiceRow, len(list))
	for i, v := range list {
		row := admin.ServiceRow{PoolStatus: v, Down: downOf(&v), Window: n.Window, Stale: slices.Contains(stale, v.Service)}
		for j := range v.Instances {
			row.InFlight += v.Instances[j].Pending
		}
		if t := n.Rows[v.Service]; t != nil {
			row.Traffic = *t
		}
		out[i] = row
	}
	return out
}

// Traffic is how many requests there are: of all and, by Route or Service, of each.
func (a *App) Traffic(by traffic.Dimension, window time.Duration) admin.Traffic {
	n := a.traffic.Now(by, window)
	t := admin.Traffic{Now: time.Now(), Started: n.Started, Window: n.Window, Buckets: traffic.Buckets(), Total: n.Total}
	about := map[string]*admin.TrafficRow{}
	if by == traffic.Route {
		about = a.routeRows()
	}
	for name, figures := range n.Rows {
		if by == traffic.Service && name == "" { // what the gateway answered by itself
			continue
		}
		row := about[name]
		if row == nil {
			row = &admin.TrafficRow{Name: strings.Clone(name)}
		}
		row.Row = *figures
		t.Rows = append(t.Rows, *row)
	}
	slices.SortFunc(t.Rows, func(a, b admin.TrafficRow) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// routeRows says of each route where it is and where it goes.
func (a *App) routeRows() map[string]*admin.TrafficRow {
	rows := map[string]*admin.TrafficRow{}
	t := a.handler.Table()
	if t == nil {
		return rows
	}
	for _, p := range t.Matcher.List() {
		r := t.Routes[p.Rule]
		row := rows[r.Name]
		if row == nil {
			row = &admin.TrafficRow{Name: r.Name, Place: p.Host + p.Path, To: target(r), Origin: r.Origin}
			rows[r.Name] = row
		}
		row.Places++
	}
	return rows
}

// Limits is what limits and quotas refused.
func (a *App) Limits() admin.LimitsStatus {
	l := admin.LimitsStatus{Rates: []admin.LimitCount{}, Quotas: []admin.LimitCount{}}
	for _, c := range a.counters.Counts() {
		l.Rates = append(l.Rates, admin.LimitCount{Route: c.Route, Name: c.Limit, DryRun: c.DryRun, Refused: c.Refused(), Errors: c.Errors()})
	}
	for _, c := range a.quotas.Counts() {
		l.Quotas = append(l.Quotas, admin.LimitCount{Route: c.Route, Name: c.Quota, Refused: c.Refused(), Warned: c.Warned(), Errors: c.Errors()})
	}
	return l
}
