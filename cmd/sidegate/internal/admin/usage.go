package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// ErrNoUsage is a gateway that doesn't count who uses what.
var ErrNoUsage = errors.New("usage isn't counted: add a usage block to the configuration")

// questionTime is how long an answer may take to be put together.
const questionTime = 30 * time.Second

// Usage is what the gateway knows of who uses what.
type Usage interface {
	Usage(ctx context.Context, q *usage.Query) (*usage.Report, error)
	LiveUsage(ctx context.Context) (*LiveUsage, error)
}

// LiveUsage is what was counted since the process started.
type LiveUsage struct {
	Started  time.Time    `json:"started"`
	Now      time.Time    `json:"now"`
	Overflow int64        `json:"overflow"` // requests counted for "(other)"
	Series   []LiveSeries `json:"series"`
}

// LiveSeries is that of a consumer, route and service.
type LiveSeries struct {
	Consumer    string   `json:"consumer"`
	Route       string   `json:"route"`
	Service     string   `json:"service"`
	Requests    int64    `json:"requests"`
	Classes     [6]int64 `json:"classes"` // by status/100; 0: no response
	BytesIn     int64    `json:"bytes_in"`
	BytesOut    int64    `json:"bytes_out"`
	Errors      int64    `json:"errors"`
	RateLimited int64    `json:"rate_limited"`
	CacheHits   int64    `json:"cache_hits"`
	Charged     float64  `json:"charged"`
	Seconds     float64  `json:"seconds"` // latencies together
	Latency     [][2]int `json:"latency"` // upper bound in microseconds, and count
}

// LiveSeriesOf is a series as it is told.
func LiveSeriesOf(t *usage.Total) LiveSeries {
	s := LiveSeries{
		Consumer: t.Consumer, Route: t.Route, Service: t.Service, Requests: t.Requests, Classes: t.Classes, BytesIn: t.BytesIn, BytesOut: t.BytesOut,
		Errors: t.Errors, RateLimited: t.Limited, CacheHits: t.Hits, Charged: float64(t.Charged) / 1e6, Seconds: t.Latency.Sum().Seconds(), Latency: [][2]int{},
	}
	t.Latency.Coarse(func(below time.Duration, n uint64) {
		s.Latency = append(s.Latency, [2]int{int(below.Microseconds()), int(n)})
	})
	return s
}

// usage answers a question about what was used.
func (s *Server) usage(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	q, err := usage.ParseQuery(v, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	format := v.Get("format")
	if format != "" && format != "json" && format != "csv" {
		http.Error(w, "format: it is json or csv", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), questionTime)
	defer cancel()
	report, err := s.Gateway.Usage(ctx, q)
	if s.usageFailed(w, err) {
		return
	}
	if format != "csv" {
		s.json(w, http.StatusOK, report)
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="usage.csv"`)
	w.Header().Set("Cache-Control", "no-store")
	if report.Next != "" {
		w.Header().Set("X-Next-Cursor", report.Next)
	}
	if report.Note != "" {
		w.Header().Set("Warning", `199 - "`+report.Note+`"`)
	}
	_ = report.CSV(w) // the client's loss
}

func (s *Server) liveUsage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), questionTime)
	defer cancel()
	live, err := s.Gateway.LiveUsage(ctx)
	if !s.usageFailed(w, err) {
		s.json(w, http.StatusOK, live)
	}
}

// usageFailed answers with an error, if there is one.
func (s *Server) usageFailed(w http.ResponseWriter, err error) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, ErrNoUsage):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, usage.ErrTooMuch):
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
	return true
}
