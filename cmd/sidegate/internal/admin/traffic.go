package admin

import (
	"cmp"
	"net/http"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// Traffic is how many requests there are, and how they end.
type Traffic struct {
	Now     time.Time    `json:"now"`
	Started time.Time    `json:"started"` // what All counts from
	Window  float64      `json:"window"`  // seconds that Recent is about
	Buckets []float64    `json:"buckets"` // upper bounds of Latency's buckets, in seconds; what is beyond is the last
	Total   traffic.Row  `json:"total"`
	Rows    []TrafficRow `json:"rows,omitempty"`
	Count   int          `json:"count"` // of the rows that were asked for, of which Rows may be a part
}

// TrafficRow is a route or a service.
type TrafficRow struct {
	Name   string `json:"name"` // "": what no route took
	Places int    `json:"places,omitempty"`
	Place  string `json:"place,omitempty"` // the first host and path of a route
	To     string `json:"to,omitempty"`
	Origin string `json:"origin,omitempty"`
	traffic.Row
}

// ServiceRow is a service with its instances and its traffic.
type ServiceRow struct {
	upstream.PoolStatus
	Stale    bool        `json:"stale,omitempty"` // its instances are the last known ones
	Down     int         `json:"down"`            // instances that get nothing
	InFlight int         `json:"in_flight"`
	Traffic  traffic.Row `json:"traffic"`
	Window   float64     `json:"window"` // seconds that Traffic.Recent is about
}

func trafficOrders() orders[TrafficRow] {
	return orders[TrafficRow]{
		"name":     func(a, b *TrafficRow) int { return cmp.Compare(a.Name, b.Name) },
		"rate":     func(a, b *TrafficRow) int { return cmp.Compare(a.Recent.Requests, b.Recent.Requests) },
		"errors":   func(a, b *TrafficRow) int { return cmp.Compare(a.Recent.Errors, b.Recent.Errors) },
		"p50":      func(a, b *TrafficRow) int { return cmp.Compare(a.Recent.P50, b.Recent.P50) },
		"p99":      func(a, b *TrafficRow) int { return cmp.Compare(a.Recent.P99, b.Recent.P99) },
		"bytes":    func(a, b *TrafficRow) int { return cmp.Compare(volume(&a.Recent), volume(&b.Recent)) },
		"requests": func(a, b *TrafficRow) int { return cmp.Compare(a.All.Requests, b.All.Requests) },
	}
}

func volume(f *traffic.Figures) uint64 { return f.BytesIn + f.BytesOut }

// traffic answers with the traffic of now: of all, and by route or service.
func (s *Server) traffic(w http.ResponseWriter, r *http.Request) {
	s.answer(func(r *http.Request) (any, error) {
		by, window, err := trafficQuery(r)
		if err != nil {
			return nil, err
		}
		l, err := listingOf(r, pageUsual)
		if err != nil {
			return nil, err
		}
		t := s.Gateway.Traffic(by, window)
		list := []TrafficRow{}
		for i := range t.Rows {
			if v := &t.Rows[i]; (!r.Form.Has("name") || v.Name == r.Form.Get("name")) && l.has(v.Name, v.Place, v.To, v.Origin) {
				list = append(list, *v)
			}
		}
		t.Count = len(list)
		t.Rows, err = part(w, &l, list, trafficOrders())
		if r.Form.Get("latency") == "false" {
			for i := range t.Rows {
				t.Rows[i].All.Latency = nil
			}
		}
		return t, err
	})(w, r)
}

func trafficQuery(r *http.Request) (by traffic.Dimension, window time.Duration, err error) {
	by, window = traffic.Total, time.Minute
	if text := r.FormValue("by"); text != "" {
		by = traffic.Dimension(text)
	}
	if by != traffic.Total && by != traffic.Route && by != traffic.Service {
		return by, 0, Refuse(http.StatusBadRequest, "by: %.20q isn't total, route or service", by)
	}
	if text := r.FormValue("window"); text != "" {
		if window, err = time.ParseDuration(text); err != nil || window < 0 || window > time.Minute {
			return by, 0, Refuse(http.StatusBadRequest, "window: %.20q isn't a time up to 1m", text)
		}
	}
	return by, window, nil
}

// history answers with a line over time.
func (s *Server) history(r *http.Request) (any, error) {
	by, _, err := trafficQuery(r)
	if err != nil {
		return nil, err
	}
	switch span := r.FormValue("span"); span {
	case "", "15m":
		return s.Gateway.History(by, r.FormValue("name"), false), nil
	case "24h":
		return s.Gateway.History(by, r.FormValue("name"), true), nil
	default:
		return nil, Refuse(http.StatusBadRequest, "span: %.20q isn't 15m or 24h", span)
	}
}

func serviceOrders() orders[ServiceRow] {
	return orders[ServiceRow]{
		"name":      func(a, b *ServiceRow) int { return cmp.Compare(a.Service, b.Service) },
		"instances": func(a, b *ServiceRow) int { return cmp.Compare(len(a.Instances), len(b.Instances)) },
		"down":      func(a, b *ServiceRow) int { return cmp.Compare(a.Down, b.Down) },
		"in_flight": func(a, b *ServiceRow) int { return cmp.Compare(a.InFlight, b.InFlight) },
		"rate":      func(a, b *ServiceRow) int { return cmp.Compare(a.Traffic.Recent.Requests, b.Traffic.Recent.Requests) },
		"errors":    func(a, b *ServiceRow) int { return cmp.Compare(a.Traffic.Recent.Errors, b.Traffic.Recent.Errors) },
		"p99":       func(a, b *ServiceRow) int { return cmp.Compare(a.Traffic.Recent.P99, b.Traffic.Recent.P99) },
	}
}

// wantService filters by text, name and state=down.
func wantService(l *listing, r *http.Request, v *ServiceRow) bool {
	q := r.URL.Query()
	if q.Has("name") && q.Get("name") != v.Service || q.Get("state") == "down" && v.Down == 0 && len(v.Instances) > 0 {
		return false
	}
	if l.has(v.Service) {
		return true
	}
	for i := range v.Instances {
		if l.has(v.Instances[i].Address, v.Instances[i].Node) {
			return true
		}
	}
	return false
}
