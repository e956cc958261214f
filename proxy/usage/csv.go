package usage

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"
	"time"
)

// CSV writes a report as comma-separated values (RFC 4180), with a line of
// names. It holds what Rows do; latencies are in seconds. A name that spreadsheets
// would take for a formula has an apostrophe before it.
func (r *Report) CSV(w io.Writer) error {
	out := csv.NewWriter(w)
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	var names []string
	for _, by := range r.By {
		if by == "minute" || by == "hour" || by == "day" {
			by = "time"
		}
		names = append(names, by)
	}
	if err := out.Write(append(names, "requests", "bytes_in", "bytes_out", "errors", "rate_limited", "cache_hits", "charged", "mean", "p50", "p90", "p99", "max")); err != nil {
		return err
	}
	for i := range r.Rows {
		l := &r.Rows[i]
		var record []string
		for _, name := range names {
			record = append(record, cell(l.Name(name)))
		}
		for _, n := range []int64{l.Requests, l.BytesIn, l.BytesOut, l.Errors, l.RateLimited, l.CacheHits} {
			record = append(record, strconv.FormatInt(n, 10))
		}
		for _, v := range []float64{l.Charged, l.Latency.Mean, l.Latency.P50, l.Latency.P90, l.Latency.P99, l.Latency.Max} {
			record = append(record, number(v))
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// cell is a text that no spreadsheet takes for a formula: a consumer's name may
// come from a token.
func cell(s string) string {
	if s != "" && strings.IndexByte("=+-@", s[0]) >= 0 {
		return "'" + s
	}
	return s
}

// Name is what a row is told apart by: its time, consumer, route, service or
// status, "" when that isn't asked for.
func (l *Line) Name(by string) string {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	switch by {
	case "consumer":
		return text(l.Consumer)
	case "route":
		return text(l.Route)
	case "service":
		return text(l.Service)
	case "status":
		return l.Status
	default:
		if l.Time == nil {
			return ""
		}
		return l.Time.UTC().Format(time.RFC3339)
	}
}
