package usage

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reader is who has rows: a Keeper, or a Store by itself.
type Reader interface {
	Read(ctx context.Context, q *Filter, f func(*Row) error) error
}

const (
	limitRows = 1000
	mostRows  = 100_000
	// mostGroups bounds what an answer is made of.
	mostGroups = 250_000
)

// Query is a question about usage.
type Query struct {
	Filter
	Group  Group
	Top    int // that many rows with the most requests; 0: all
	Limit  int // rows in an answer
	Cursor string
	lacks  string // what isn't kept any more of what is asked for
}

// Group says what rows are told apart by.
type Group struct {
	Consumer, Route, Service, Status bool
	Time                             bool // by the step
	names                            []string
}

// ParseQuery reads a question:
//
//	by      what rows are told apart by: consumer, route, service, status, and one of day, hour and minute
//	since   where it begins: 2026-11-25, RFC 3339, or how long ago: 90m, 24h, 7d
//	until   where it ends, likewise
//	consumer, route, service, status   only these; may be repeated
//	top     that many rows, those with the most requests
//	limit, cursor   rows in an answer, and where it goes on
//
// What begins within a minute, an hour or a day (the step) begins with it.
func ParseQuery(v url.Values, now time.Time) (*Query, error) {
	q := &Query{}
	var errs []error
	fail := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	for name := range v {
		if !slices.Contains([]string{"by", "since", "until", "consumer", "route", "service", "status", "top", "limit", "cursor", "format"}, name) {
			fail(name, errors.New("there is no such parameter"))
		}
	}
	step, err := q.Group.parse(cmp.Or(v.Get("by"), "consumer,route"))
	fail("by", err)
	since, err := parseTime(cmp.Or(v.Get("since"), "24h"), now)
	fail("since", err)
	until := now
	if s := v.Get("until"); s != "" {
		until, err = parseTime(s, now)
		fail("until", err)
	}
	if len(errs) == 0 && !since.Before(until) {
		fail("since", errors.New("isn't before until"))
	}
	q.Consumers, q.Routes, q.Services = v["consumer"], v["route"], v["service"]
	for _, s := range v["status"] {
		class, err := parseClass(s)
		fail("status", err)
		q.Classes = append(q.Classes, class)
	}
	q.Top, err = count(v.Get("top"), 0, mostRows)
	fail("top", err)
	q.Limit, err = count(v.Get("limit"), limitRows, mostRows)
	fail("limit", err)
	if q.Cursor = v.Get("cursor"); q.Cursor != "" {
		_, err = parseCursor(q.Cursor)
		fail("cursor", err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if !q.Group.Time {
		step = stepOf(since, until, now)
	}
	q.Step = step
	q.Since = step.Floor(since.Unix())
	q.Until = step.Floor(until.Unix() + step.Seconds() - 1)
	if !until.Before(now) {
		q.Until = step.Floor(until.Unix()) + step.Seconds()
	}
	return q, nil
}

// Within makes do with rows that are kept for so long: where minutes or hours don't
// reach back to since, longer spans answer, and who asks for these by name is told
// what is missing.
func (q *Query) Within(keep Retention, now time.Time) {
	q.lacks = ""
	for q.Step < Day {
		from := now.Add(-keep[q.Step]).Unix()
		if q.Since >= q.Step.Floor(from) {
			return
		}
		if q.Group.Time {
			q.lacks = fmt.Sprintf("a %s is kept for %s: there is none of before %s", q.Step, strings.TrimSuffix(keep[q.Step].String(), "0m0s"), time.Unix(from, 0).UTC().Format(time.RFC3339))
			return
		}
		q.Step++
		q.Since = q.Step.Floor(q.Since)
		q.Until = q.Step.Floor(q.Until + q.Step.Seconds() - 1)
	}
}

// stepOf is how exact a time must be: days for whole days and what is long ago.
func stepOf(since, until, now time.Time) Span {
	whole := func(d time.Duration) bool {
		return since.Truncate(d).Equal(since) && (until.Truncate(d).Equal(until) || !until.Before(now))
	}
	switch age := now.Sub(since); {
	case whole(24*time.Hour) || age > 14*24*time.Hour:
		return Day
	case whole(time.Hour) || age > 3*time.Hour:
		return Hour
	default:
		return Minute
	}
}

func (g *Group) parse(by string) (step Span, err error) {
	for name := range strings.SplitSeq(by, ",") {
		name = strings.TrimSpace(name)
		if slices.Contains(g.names, name) {
			return 0, fmt.Errorf("%s is given twice", name)
		}
		time := false
		switch name {
		case "consumer":
			g.Consumer = true
		case "route":
			g.Route = true
		case "service":
			g.Service = true
		case "status":
			g.Status = true
		case "minute":
			time, step = true, Minute
		case "hour":
			time, step = true, Hour
		case "day":
			time, step = true, Day
		default:
			return 0, fmt.Errorf("%.40q isn't one of consumer, route, service, status, day, hour and minute", name)
		}
		if time && g.Time {
			return 0, errors.New("only one of day, hour and minute goes")
		}
		g.Time = g.Time || time
		g.names = append(g.names, name)
	}
	return step, nil
}

// parseTime reads a date, a time, or how long ago something was.
func parseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			return t.UTC(), nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100_000 {
			return now.Add(-time.Duration(n) * 24 * time.Hour).UTC(), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d).UTC(), nil
	}
	return time.Time{}, fmt.Errorf("%.40q isn't a date like 2026-11-25, a time like 2026-11-25T13:00:00Z, or an age like 90m, 24h or 7d", s)
}

func parseClass(s string) (uint8, error) {
	if len(s) == 3 && s[0] >= '0' && s[0] <= '5' && s[1:] == "xx" {
		return s[0] - '0', nil
	}
	return 0, fmt.Errorf("%.40q isn't a class of status like 2xx", s)
}

// ClassText is a class of status as queries and answers name it.
func ClassText(class uint8) string { return string(rune('0'+class)) + "xx" }

func count(s string, otherwise, most int) (int, error) {
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%.40q isn't a number from 1 to %d", s, most)
	}
	return n, nil
}

// Report is the answer to a Query.
type Report struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	By    []string  `json:"by"`
	Step  string    `json:"step"`
	Rows  []Line    `json:"rows"`
	Next  string    `json:"next,omitempty"` // the cursor of what follows
	Note  string    `json:"note,omitempty"` // what the answer lacks
}

// Line is a row of a Report. Of time, consumer, route, service and status it has
// those that the query asks for.
type Line struct {
	Time        *time.Time `json:"time,omitempty"`
	Consumer    *string    `json:"consumer,omitempty"`
	Route       *string    `json:"route,omitempty"`
	Service     *string    `json:"service,omitempty"`
	Status      string     `json:"status,omitempty"`
	Requests    int64      `json:"requests"`
	BytesIn     int64      `json:"bytes_in"`
	BytesOut    int64      `json:"bytes_out"`
	Errors      int64      `json:"errors"`
	RateLimited int64      `json:"rate_limited"`
	CacheHits   int64      `json:"cache_hits"`
	Charged     float64    `json:"charged"` // units
	Latency     Latency    `json:"latency"`
}

// Latency is what a histogram says, in seconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
}

// Latencies is what a histogram says.
func Latencies(h *Histogram) Latency {
	n := h.Count()
	if n == 0 {
		return Latency{}
	}
	q := func(q float64) float64 { return round(h.Quantile(q).Seconds()) }
	return Latency{Mean: round(h.Sum().Seconds() / float64(n)), P50: q(0.5), P90: q(0.9), P99: q(0.99), Max: q(1)}
}

// round leaves four digits, which is all that a histogram knows.
func round(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(v)))
	return math.Round(v*scale) / scale
}

// Run answers q from what r has.
func (q *Query) Run(ctx context.Context, r Reader) (*Report, error) {
	groups := map[place]*Counts{}
	after, _ := parseCursor(q.Cursor) // it was parsed before
	err := r.Read(ctx, &q.Filter, func(row *Row) error {
		at := q.Group.of(q.Step.Floor(row.Start), &row.Key)
		if q.Cursor != "" && q.Top == 0 && at.compare(after) <= 0 {
			return nil
		}
		c := groups[at]
		if c == nil {
			if len(groups) == mostGroups {
				return fmt.Errorf("%w: the answer would be made of more than %d rows: ask for a shorter time, or by less", ErrTooMuch, mostGroups)
			}
			c = &Counts{}
			groups[at] = c
		}
		c.Add(&row.Counts)
		return nil
	})
	report := &Report{Since: time.Unix(q.Since, 0).UTC(), Until: time.Unix(q.Until, 0).UTC(), By: q.Group.names, Step: q.Step.String(), Rows: []Line{}, Note: q.lacks}
	var away *AwayError
	switch {
	case errors.As(err, &away):
		report.Note = away.Error() + "; this lacks what is in it"
	case err != nil:
		return nil, err
	}
	list := make([]Row, 0, len(groups))
	for at, c := range groups {
		list = append(list, Row{at.start, at.Key, *c})
	}
	q.cut(list, report)
	return report, nil
}

// ErrTooMuch is a question whose answer would be too large.
var ErrTooMuch = errors.New("too much")

// cut puts the rows that are asked for into a report.
func (q *Query) cut(list []Row, report *Report) {
	byKey := func(a, b Row) int { return place{a.Start, a.Key}.compare(place{b.Start, b.Key}) }
	most := q.Limit
	if q.Top > 0 {
		most = q.Top
		slices.SortFunc(list, func(a, b Row) int { return cmp.Or(cmp.Compare(b.Requests, a.Requests), byKey(a, b)) })
	} else {
		slices.SortFunc(list, byKey)
	}
	if len(list) > most {
		list = list[:most]
		if q.Top == 0 {
			last := &list[most-1]
			report.Next = place{last.Start, last.Key}.cursor()
		}
	}
	for i := range list {
		report.Rows = append(report.Rows, q.Group.line(&list[i]))
	}
}

// of is where a row counts.
func (g *Group) of(start int64, k *Key) (at place) {
	if g.Time {
		at.start = start
	}
	if g.Consumer {
		at.Consumer = k.Consumer
	}
	if g.Route {
		at.Route = k.Route
	}
	if g.Service {
		at.Service = k.Service
	}
	if g.Status {
		at.Class = k.Class
	}
	return at
}

// line is a row as it is told.
func (g *Group) line(r *Row) Line {
	l := Line{
		Requests: r.Requests, BytesIn: r.BytesIn, BytesOut: r.BytesOut, Errors: r.Errors, RateLimited: r.Limited, CacheHits: r.Hits,
		Charged: float64(r.Charged) / 1e6, Latency: Latencies(&r.Latency),
	}
	if g.Time {
		t := time.Unix(r.Start, 0).UTC()
		l.Time = &t
	}
	if g.Consumer {
		l.Consumer = &r.Consumer
	}
	if g.Route {
		l.Route = &r.Route
	}
	if g.Service {
		l.Service = &r.Service
	}
	if g.Status {
		l.Status = ClassText(r.Class)
	}
	return l
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.start, o.start), p.Key.Compare(&o.Key))
}

// cursor is the place as an answer's next.
func (p place) cursor() string {
	b, _ := json.Marshal(struct {
		Start int64
		Key
	}{p.start, p.Key}) // numbers and strings: it can't fail
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(s string) (place, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	var at struct {
		Start int64
		Key
	}
	if err != nil || json.Unmarshal(b, &at) != nil {
		return place{}, errors.New("isn't the next of an answer")
	}
	return place{at.Start, at.Key}, nil
}
