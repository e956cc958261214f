package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// usageFlags are what sidegate usage is asked.
type usageFlags struct {
	config                               string
	by, since, until                     string
	consumers, routes, services, classes []string
	top                                  int
	csv, json                            bool
}

func usageCommand() *cobra.Command {
	var f usageFlags
	c := &cobra.Command{
		Use:   "usage",
		Short: "Show who used what: requests, bytes, errors, latencies, charges",
		Long: `Show what was used, by the running gateway up to this moment or, when none
runs, from its database. Days are UTC. What begins or ends within a minute, an
hour or a day is shown with all of it; the first line says from when to when.`,
		Example: `  sidegate usage
  sidegate usage --since 7d --by consumer,day
  sidegate usage --since 2026-11-01 --until 2026-12-01 --by consumer --csv
  sidegate usage --since 1h --by route,status --top 10`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	configFlag(c, &f.config)
	c.Flags().StringVar(&f.by, "by", "consumer,route", "what rows are told apart by: consumer, route, service, status, and one of day, hour, minute")
	c.Flags().StringVar(&f.since, "since", "24h", "where it begins: a date, a time (RFC 3339), or how long ago: 90m, 24h, 7d")
	c.Flags().StringVar(&f.until, "until", "", "where it ends, likewise (default now)")
	c.Flags().StringSliceVar(&f.consumers, "consumer", nil, "only these consumers")
	c.Flags().StringSliceVar(&f.routes, "route", nil, "only these routes")
	c.Flags().StringSliceVar(&f.services, "service", nil, "only these services")
	c.Flags().StringSliceVar(&f.classes, "status", nil, "only these classes of status: 2xx, 5xx")
	c.Flags().IntVar(&f.top, "top", 0, "only that many rows, those with the most requests")
	c.Flags().BoolVar(&f.csv, "csv", false, "print CSV")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return c
}

// values is the question as the admin API has it.
func (f *usageFlags) values() url.Values {
	v := url.Values{"by": {f.by}, "since": {f.since}, "limit": {"100000"}, "consumer": f.consumers, "route": f.routes, "service": f.services, "status": f.classes}
	if f.until != "" {
		v.Set("until", f.until)
	}
	if f.top != 0 {
		v.Set("top", strconv.Itoa(f.top))
	}
	return v
}

func (f *usageFlags) run(c *cobra.Command) error {
	if f.csv && f.json {
		return usageError{errors.New("--csv or --json: not both")}
	}
	r, err := f.report(c.Context(), c.ErrOrStderr())
	if err != nil {
		return reported(c, err)
	}
	if r.Note != "" {
		fmt.Fprintln(c.ErrOrStderr(), "sidegate:", r.Note)
	}
	switch {
	case f.json:
		return printJSON(c.OutOrStdout(), r)
	case f.csv:
		return r.CSV(c.OutOrStdout())
	default:
		return printUsage(c.OutOrStdout(), r)
	}
}

// report asks the running gateway for all pages or, without one, the database.
func (f *usageFlags) report(ctx context.Context, stderr io.Writer) (*usage.Report, error) {
	v := f.values()
	if _, err := usage.ParseQuery(v, time.Now()); err != nil { // before anybody is asked
		return nil, err
	}
	r, err := pages(v, func(v url.Values) (r *usage.Report, err error) {
		err = ask(ctx, socketPath(f.config), "/api/usage?"+v.Encode(), &r)
		return r, err
	})
	if !errors.Is(err, errNotRunning) {
		return r, err
	}
	from := ""
	r, err = pages(v, func(v url.Values) (*usage.Report, error) {
		q, err := usage.ParseQuery(v, time.Now())
		if err != nil {
			return nil, err
		}
		var r *usage.Report
		r, from, err = app.StoredUsage(ctx, app.Options{Config: f.config, Stderr: stderr}, q)
		return r, err
	})
	if err == nil {
		fmt.Fprintf(stderr, "no gateway is running: this is from %s\n", from)
	}
	return r, err
}

// pages joins the pages of an answer.
func pages(v url.Values, get func(url.Values) (*usage.Report, error)) (*usage.Report, error) {
	all, err := get(v)
	for err == nil && all.Next != "" {
		v.Set("cursor", all.Next)
		var more *usage.Report
		if more, err = get(v); err == nil {
			all.Rows, all.Next = append(all.Rows, more.Rows...), more.Next
		}
	}
	return all, err
}

func printUsage(out io.Writer, r *usage.Report) error {
	fmt.Fprintf(out, "%s to %s\n\n", r.Since.Format("2006-01-02 15:04"), r.Until.Format("2006-01-02 15:04 MST"))
	if len(r.Rows) == 0 {
		_, err := fmt.Fprintln(out, "nothing was used")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, by := range r.By {
		fmt.Fprintf(t, "%s\t", strings.ToUpper(by))
	}
	fmt.Fprintln(t, "REQUESTS\tERRORS\tLIMITED\tCACHED\tIN\tOUT\tCHARGED\tP50\tP90\tP99")
	var sum usage.Line
	for i := range r.Rows {
		l := &r.Rows[i]
		for _, by := range r.By {
			fmt.Fprintf(t, "%s\t", shown(by, l.Name(by)))
		}
		counts(t, l)
		fmt.Fprintf(t, "\t%s\t%s\t%s\n", seconds(l.Latency.P50), seconds(l.Latency.P90), seconds(l.Latency.P99))
		sum.Requests += l.Requests
		sum.Errors += l.Errors
		sum.RateLimited += l.RateLimited
		sum.CacheHits += l.CacheHits
		sum.BytesIn += l.BytesIn
		sum.BytesOut += l.BytesOut
		sum.Charged += l.Charged
	}
	if len(r.Rows) > 1 {
		fmt.Fprint(t, "together"+strings.Repeat("\t", len(r.By)))
		counts(t, &sum)
		fmt.Fprintln(t, "\t\t\t")
	}
	return t.Flush()
}

func counts(t io.Writer, l *usage.Line) {
	fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%s\t%s\t%s", l.Requests, l.Errors, l.RateLimited, l.CacheHits, byteSize(l.BytesIn), byteSize(l.BytesOut),
		strconv.FormatFloat(l.Charged, 'f', -1, 64))
}

// shown is what a row is told apart by, for people.
func shown(by, name string) string {
	switch {
	case name == "":
		return "-"
	case by == "day":
		return name[:len(time.DateOnly)]
	case by == "hour" || by == "minute":
		return strings.Replace(name[:len("2006-01-02T15:04")], "T", " ", 1)
	case strconv.Quote(name) != `"`+name+`"`: // a consumer's name may come from a token
		return strconv.Quote(name)
	default:
		return name
	}
}

// byteSize is a number of bytes in three digits or four.
func byteSize(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

// seconds is a latency in three digits or so.
func seconds(v float64) string {
	d := time.Duration(v * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}

// printUsageState says how keeping the usage is.
func printUsageState(out io.Writer, s *usage.Status) {
	if s == nil {
		return
	}
	state := "stored"
	if !s.Stored.IsZero() {
		state += " " + time.Since(s.Stored).Round(time.Second).String() + " ago"
	} else if s.Up {
		state = "nothing stored yet"
	}
	if !s.Up {
		state = fmt.Sprintf("NOT STORED for %s: %s", time.Since(s.Since).Round(time.Second), s.Error)
	}
	fmt.Fprintf(out, "usage    %s, %s, %d series", s.Database, state, s.Series)
	if s.Unstored > 0 {
		fmt.Fprintf(out, ", %d rows in memory", s.Unstored)
	}
	if s.Spooled > 0 {
		fmt.Fprintf(out, ", %d batches on the disk", s.Spooled)
	}
	if s.Overflow > 0 {
		fmt.Fprintf(out, ", %d requests OVER usage.series", s.Overflow)
	}
	fmt.Fprintln(out)
}
