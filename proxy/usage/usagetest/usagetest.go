// Package usagetest is what every store of usage has to do, as tests.
package usagetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// Keep is how long the tests keep rows.
var Keep = usage.Retention{usage.Minute: 48 * time.Hour, usage.Hour: 60 * 24 * time.Hour, usage.Day: 400 * 24 * time.Hour}

// Row is a row of n requests that each took that long.
func Row(start time.Time, k usage.Key, n int, took time.Duration) usage.Row {
	r := usage.Row{Start: usage.Minute.Floor(start.Unix()), Key: k}
	for range n {
		r.Latency.Record(took)
	}
	m := int64(n)
	r.Requests, r.BytesIn, r.BytesOut, r.Errors, r.Limited, r.Hits, r.Charged = m, 2*m, 3*m, 4*m, 5*m, 6*m, 7*m
	return r
}

// Sum is what a store has for a filter.
func Sum(t testing.TB, s usage.Reader, q usage.Filter) (sum usage.Counts) {
	t.Helper()
	if q.Until == 0 {
		q.Until = 1 << 40
	}
	err := s.Read(t.Context(), &q, func(r *usage.Row) error {
		if start := q.Step.Floor(r.Start); start < q.Since || start >= q.Until {
			t.Errorf("a row of %d isn't from %d to %d", r.Start, q.Since, q.Until)
		}
		sum.Add(&r.Counts)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// FoldAll folds until there is nothing more to do.
func FoldAll(t testing.TB, s usage.Store, now time.Time) {
	t.Helper()
	for range 100_000 {
		more, err := s.Fold(t.Context(), now, Keep)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
	t.Fatal("folding doesn't end")
}

// Check compares what a store has for a filter with a number of requests of Row.
func Check(t testing.TB, what string, got usage.Counts, n int64) {
	t.Helper()
	if got.Latency.Count() != uint64(n) {
		t.Errorf("%s: %d latencies, want %d", what, got.Latency.Count(), n)
	}
	list := []int64{got.Requests, got.BytesIn, got.BytesOut, got.Errors, got.Limited, got.Hits, got.Charged}
	if d := cmp.Diff([]int64{n, 2 * n, 3 * n, 4 * n, 5 * n, 6 * n, 7 * n}, list); d != "" {
		t.Errorf("%s (-want +got): %s", what, d)
	}
}

// Run tests the stores that open makes, each of them empty.
func Run(t *testing.T, open func(*testing.T) usage.Store) {
	t.Run("adds up", func(t *testing.T) { addsUp(t, open(t)) })
	t.Run("filters", func(t *testing.T) { filters(t, open(t)) })
	t.Run("a year", func(t *testing.T) { aYear(t, open(t)) })
	t.Run("late", func(t *testing.T) { late(t, open(t)) })
	t.Run("many", func(t *testing.T) { many(t, open(t)) })
	t.Run("nothing in part", func(t *testing.T) { nothingInPart(t, open(t)) })
}

func add(t testing.TB, s usage.Store, rows ...usage.Row) {
	t.Helper()
	if err := s.Add(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
}

var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func addsUp(t *testing.T, s usage.Store) {
	k := usage.Key{Consumer: "acme", Route: "r", Service: "s", Class: 2}
	for range 3 {
		add(t, s, Row(begin, k, 5, time.Millisecond), Row(begin.Add(time.Minute), k, 1, time.Second))
	}
	Check(t, "both minutes", Sum(t, s, usage.Filter{}), 18)
	sum := Sum(t, s, usage.Filter{Until: begin.Unix() + 60})
	Check(t, "the first minute", sum, 15)
	if q := sum.Latency.Quantile(0.5); q < 990*time.Microsecond || q > 1010*time.Microsecond {
		t.Errorf("the median is %v", q)
	}
}

func filters(t *testing.T, s usage.Store) {
	var rows []usage.Row
	for i := range 16 {
		pick := func(bit int, a, b string) string {
			if i>>bit&1 == 0 {
				return a
			}
			return b
		}
		k := usage.Key{Consumer: pick(0, "", "it's \"é\" 'x'"), Route: pick(1, "r1", "r2"), Service: pick(2, "s1", "s2"), Class: uint8(2 + i>>3*3)}
		rows = append(rows, Row(begin, k, 1<<i%7+1, time.Millisecond))
	}
	add(t, s, rows...)
	for _, q := range []usage.Filter{
		{}, {Consumers: []string{""}}, {Consumers: []string{"it's \"é\" 'x'"}, Routes: []string{"r1", "r2", "r3"}}, {Services: []string{"s2"}, Classes: []uint8{5}},
		{Classes: []uint8{2, 5}}, {Routes: []string{"none"}}, {Since: begin.Unix() + 60},
	} {
		var want int64
		q.Until = begin.Unix() + 3600
		for i := range rows {
			if q.Takes(&rows[i]) {
				want += rows[i].Requests
			}
		}
		Check(t, fmt.Sprintf("%+v", q), Sum(t, s, q), want)
	}
}

// aYear lets time pass, folds as it does, and compares all sums with a list.
func aYear(t *testing.T, s usage.Store) {
	keys := []usage.Key{{Consumer: "a", Route: "r", Service: "s", Class: 2}, {Consumer: "b", Route: "r", Service: "s", Class: 5}}
	random := rand.New(rand.NewPCG(1, 2))
	var all []usage.Row
	now := begin
	for now.Before(begin.Add(450 * 24 * time.Hour)) {
		now = now.Add(time.Duration(random.Int64N(int64(90 * time.Hour))))
		var rows []usage.Row
		for range random.IntN(4) {
			rows = append(rows, Row(now.Add(-time.Duration(random.Int64N(int64(3*time.Hour)))), keys[random.IntN(2)], random.IntN(9)+1, time.Millisecond))
		}
		add(t, s, rows...)
		all = append(all, rows...)
		if random.IntN(3) == 0 {
			FoldAll(t, s, now)
		}
	}
	FoldAll(t, s, now)
	since := usage.Day.Floor(now.Add(-Keep[usage.Day]).Unix()) + 86400
	for i, q := range []usage.Filter{
		{Step: usage.Day, Since: since},
		{Step: usage.Day, Since: since, Until: since + 200*86400, Consumers: []string{"b"}},
		{Step: usage.Hour, Since: usage.Hour.Floor(now.Add(-59 * 24 * time.Hour).Unix())},
		{Step: usage.Minute, Since: usage.Minute.Floor(now.Add(-47 * time.Hour).Unix())},
		{Step: usage.Minute, Since: usage.Minute.Floor(now.Add(-47 * time.Hour).Unix()), Classes: []uint8{2}},
	} {
		if q.Until == 0 {
			q.Until = now.Unix() + 86400
		}
		var want int64
		for j := range all {
			r := all[j]
			if r.Start = q.Step.Floor(r.Start); q.Takes(&r) {
				want += r.Requests
			}
		}
		if want == 0 {
			t.Errorf("filter %d finds nothing", i)
		}
		Check(t, fmt.Sprintf("%+v", q), Sum(t, s, q), want)
	}
	if n := Sum(t, s, usage.Filter{Step: usage.Day, Until: since - 2*86400}).Requests; n != 0 {
		t.Errorf("%d requests stay that are too old", n)
	}
	if n := Sum(t, s, usage.Filter{Step: usage.Minute, Until: now.Add(-50 * time.Hour).Unix()}).Requests; n != 0 {
		t.Errorf("%d requests of minutes stay that are too old", n)
	}
}

// late has rows come long after their hour and day were over.
func late(t *testing.T, s usage.Store) {
	k := usage.Key{Consumer: "a", Route: "r", Service: "s", Class: 2}
	add(t, s, Row(begin, k, 10, time.Millisecond))
	now := begin
	for range 3 {
		now = now.Add(25 * time.Hour)
		FoldAll(t, s, now)
		add(t, s, Row(begin, k, 1, time.Second))
		Check(t, "before folding", Sum(t, s, usage.Filter{Step: usage.Day, Until: begin.Unix() + 86400}), 10+int64(now.Sub(begin)/(25*time.Hour)))
	}
	FoldAll(t, s, now.Add(10*24*time.Hour))
	for _, step := range []usage.Span{usage.Hour, usage.Day} {
		Check(t, step.String(), Sum(t, s, usage.Filter{Step: step, Until: usage.Day.Floor(begin.Unix()) + 86400}), 13)
	}
	FoldAll(t, s, now.Add(100*24*time.Hour))
	Check(t, "when the hours are gone", Sum(t, s, usage.Filter{Step: usage.Day}), 13)
	if n := Sum(t, s, usage.Filter{Step: usage.Hour}).Requests; n != 0 {
		t.Errorf("%d requests of hours stay", n)
	}
}

// many folds more rows than one transaction takes.
func many(t *testing.T, s usage.Store) {
	var rows []usage.Row
	for i := range 7000 {
		rows = append(rows, Row(begin.Add(time.Duration(i%7)*time.Minute), usage.Key{Consumer: fmt.Sprint("c", i/7), Route: "r", Class: 2}, 1, time.Millisecond))
	}
	add(t, s, rows...)
	FoldAll(t, s, begin.Add(2*time.Hour))
	for _, step := range []usage.Span{usage.Minute, usage.Hour, usage.Day} {
		Check(t, step.String(), Sum(t, s, usage.Filter{Step: step}), 7000)
	}
	Check(t, "one consumer", Sum(t, s, usage.Filter{Step: usage.Hour, Consumers: []string{"c999"}}), 7)
}

// nothingInPart gives up in the middle.
func nothingInPart(t *testing.T, s usage.Store) {
	k := usage.Key{Consumer: "a", Route: "r", Service: "s", Class: 2}
	add(t, s, Row(begin, k, 1, time.Millisecond))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Fold(ctx, begin.Add(48*time.Hour), Keep); err == nil {
		t.Error("folded without time")
	}
	if err := s.Read(ctx, &usage.Filter{Until: 1 << 40}, func(*usage.Row) error { return nil }); err == nil {
		t.Error("read without time")
	}
	for _, step := range []usage.Span{usage.Minute, usage.Hour, usage.Day} {
		Check(t, step.String(), Sum(t, s, usage.Filter{Step: step}), 1)
	}
}
