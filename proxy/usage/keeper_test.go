package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
)

// memory is a store that can be away.
type memory struct {
	rows   []Row
	err    error
	opens  int
	closed int
}

func (m *memory) Add(_ context.Context, rows []Row) error {
	if m.err != nil {
		return m.err
	}
	for i := range rows {
		r := Row{Start: rows[i].Start, Key: rows[i].Key}
		r.Counts.Add(&rows[i].Counts)
		m.rows = append(m.rows, r)
	}
	return nil
}

func (m *memory) Read(_ context.Context, q *Filter, f func(*Row) error) error {
	for i := range m.rows {
		if q.Takes(&m.rows[i]) {
			if err := f(&m.rows[i]); err != nil {
				return err
			}
		}
	}
	return m.err
}

func (m *memory) Fold(context.Context, time.Time, Retention) (bool, error) { return false, nil }
func (m *memory) Status() StoreStatus                                      { return StoreStatus{} }
func (m *memory) Close() error                                             { m.closed++; return nil }

// bed is a keeper with a clock of its own.
type bed struct {
	*Keeper
	store *memory
	now   time.Time
	log   bytes.Buffer
}

func newBed(series int) *bed {
	b := &bed{store: &memory{}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	log := logrus.New()
	log.SetOutput(&b.log)
	b.Keeper = NewKeeper(Config{Flush: 10 * time.Second, Series: series, Retain: time.Hour, RetainHours: time.Hour, RetainMinutes: time.Hour}, "memory", KeeperDeps{
		Log: log, Counter: NewCounter(series), Now: func() time.Time { return b.now },
		Open: func(context.Context) (Store, error) {
			b.store.opens++
			return b.store, b.store.err
		},
	})
	return b
}

// ask answers a question given as the admin API has it.
func (b *bed) ask(t *testing.T, query string) *Report {
	t.Helper()
	v, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParseQuery(v, b.now)
	if err != nil {
		t.Fatal(err)
	}
	r, err := q.Run(t.Context(), b.Keeper)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Report) lines() (list []string) {
	for i := range r.Rows {
		l := &r.Rows[i]
		text := ""
		for _, by := range r.By {
			text += l.Name(by) + " "
		}
		list = append(list, fmt.Sprint(text, l.Requests))
	}
	return list
}

func (b *bed) count(consumer string, n int) {
	for range n {
		b.Counter.Count(ended(consumer, "r", "s", 200), time.Millisecond)
	}
}

func TestKeeper(t *testing.T) {
	b := newBed(100)
	b.count("a", 3)
	b.now = b.now.Add(10 * time.Second)
	b.round(t.Context())
	b.count("a", 4)
	b.count("b", 1)
	want := []string{"2026-03-01T12:00:00Z a 7", "2026-03-01T12:00:00Z b 1"}
	if d := cmp.Diff(want, b.ask(t, "by=minute,consumer&since=1h").lines()); d != "" {
		t.Errorf("stored and not: %s", d)
	}
	b.now = b.now.Add(50 * time.Second)
	b.drain(t.Context()) // the end of the minute
	b.count("b", 2)
	b.now = b.now.Add(10 * time.Second)
	b.round(t.Context())
	want = append(want, "2026-03-01T12:01:00Z b 2")
	if d := cmp.Diff(want, b.ask(t, "by=minute,consumer&since=1h").lines()); d != "" {
		t.Errorf("stored: %s", d)
	}
	if s := b.Status(); !s.Up || s.Unstored != 0 || s.Series != 2 || !s.Stored.Equal(b.now) {
		t.Errorf("status %+v", s)
	}
	b.now = b.now.Add(10 * time.Second)
	rows := len(b.store.rows)
	if b.round(t.Context()); len(b.store.rows) != rows {
		t.Error("nothing was stored as something")
	}
	b.count("a", 1)
	b.end()
	if d := cmp.Diff([]string{"a 8", "b 3"}, b.ask(t, "by=consumer&since=1h").lines()); d != "" || b.store.closed != 1 {
		t.Errorf("in the end (closed %d times): %s", b.store.closed, d)
	}
}

func TestKeeperWithoutStore(t *testing.T) {
	b := newBed(100)
	b.store.err = errors.New("disk full")
	for range 100 {
		b.count("a", 1)
		b.round(t.Context())
		b.now = b.now.Add(10 * time.Second)
	}
	if s := b.Status(); s.Up || s.Error != "disk full" || s.Unstored == 0 || s.Since.IsZero() {
		t.Errorf("status %+v", s)
	}
	if b.store.opens > 30 {
		t.Errorf("tried %d times in 17 minutes", b.store.opens)
	}
	if n := strings.Count(b.log.String(), "disk full"); n != 1 {
		t.Errorf("said %d times: %s", n, b.log.String())
	}
	r := b.ask(t, "by=consumer&since=1h")
	if d := cmp.Diff([]string{"a 100"}, r.lines()); d != "" || !strings.Contains(r.Note, "disk full") {
		t.Errorf("note %q: %s", r.Note, d)
	}
	b.store.err = nil
	b.now = b.now.Add(time.Minute)
	b.round(t.Context())
	r = b.ask(t, "by=consumer&since=1h")
	if d := cmp.Diff([]string{"a 100"}, r.lines()); d != "" || r.Note != "" {
		t.Errorf("note %q: %s", r.Note, d)
	}
	if s := b.Status(); !s.Up || s.Error != "" || s.Unstored != 0 || !strings.Contains(b.log.String(), "stored again") {
		t.Errorf("status %+v, log %s", s, &b.log)
	}
}

// TestPendingBound keeps counting for a long time without a store.
func TestPendingBound(t *testing.T) {
	const most = 1000
	b := newBed(most)
	b.store.err = errors.New("away")
	want := int64(0)
	for i := range 3 * 24 * 60 {
		for j := range 5 {
			b.Counter.Count(ended(fmt.Sprint("c", (i*5+j)%3000), fmt.Sprint("r", j%2), "s", 200+100*(j%3)), time.Millisecond)
			want++
		}
		b.now = b.now.Add(time.Minute)
		b.collect()
	}
	if n := len(b.wait.rows); n > 2*most+6 {
		t.Errorf("%d rows, want %d at most", n, 2*most)
	}
	got := int64(0)
	for _, c := range b.wait.rows {
		got += c.Requests
	}
	if got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
}

func TestKeeperClockJumps(t *testing.T) {
	b := newBed(100)
	for _, jump := range []time.Duration{time.Second, -48 * time.Hour, time.Minute, 100 * time.Hour, -200 * 365 * 24 * time.Hour, 290 * 365 * 24 * time.Hour} {
		b.count("a", 1)
		b.now = b.now.Add(jump)
		b.round(t.Context())
	}
	sum := int64(0)
	for i := range b.store.rows {
		if sum += b.store.rows[i].Requests; b.store.rows[i].Start < 0 {
			t.Errorf("a row of %d", b.store.rows[i].Start)
		}
	}
	if sum != 6 {
		t.Errorf("%d requests, want 6", sum)
	}
}

// TestKeeperTogether has everybody ask at once.
func TestKeeperTogether(t *testing.T) {
	b := newBed(100)
	b.Keeper.Now = time.Now
	ctx, cancel := context.WithCancel(t.Context())
	var running, wg sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				b.count("a", 1)
				switch i % 200 {
				case 0:
					b.ask(t, "by=minute,route")
				case 50:
					if _, _, err := b.Live(ctx, func(*Total) {}); err != nil {
						t.Error(err)
					}
				case 100:
					b.round(ctx)
				case 150:
					b.Status()
				}
			}
		})
	}
	wg.Wait()
	live := int64(0)
	if _, _, err := b.Live(ctx, func(n *Total) { live += n.Requests }); err != nil || live != 8000 {
		t.Errorf("%d live, %v", live, err)
	}
	cancel()
	running.Wait()
	stored := int64(0)
	for i := range b.store.rows {
		stored += b.store.rows[i].Requests
	}
	if stored != 8000 {
		t.Errorf("%d stored", stored)
	}
}

func TestLive(t *testing.T) {
	b := newBed(100)
	b.Counter.Count(ended("a", "r", "s", 200), time.Millisecond)
	b.Counter.Count(ended("a", "r", "s", 503), time.Second)
	b.Counter.Count(ended("a", "r", "t", 200), time.Millisecond)
	b.Counter.Count(ended("", "", "", 404), time.Millisecond)
	b.round(t.Context())
	b.Counter.Count(ended("a", "r", "s", 200), time.Millisecond)
	var got []string
	_, _, err := b.Live(t.Context(), func(n *Total) {
		got = append(got, fmt.Sprint(n.Consumer, n.Route, n.Service, n.Classes, n.Requests, n.Errors, n.Latency.Count()))
	})
	want := []string{"[0 0 0 0 1 0] 1 0 1", "ars[0 0 2 0 0 1] 3 1 3", "art[0 0 1 0 0 0] 1 0 1"}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v: %s", err, d)
	}
}

func TestParseQueryErrors(t *testing.T) {
	for query, want := range map[string]string{
		"by=x":                              `by: "x" isn't one of`,
		"by=day,hour":                       "only one of day, hour and minute",
		"by=route,route":                    "route is given twice",
		"since=x":                           `since: "x" isn't a date`,
		"since=-1h":                         `"-1h" isn't a date`,
		"until=2026-13-01":                  `until: "2026-13-01" isn't`,
		"since=1h&until=2h":                 "since: isn't before until",
		"status=200":                        `status: "200" isn't a class`,
		"top=-1":                            `top: "-1" isn't a number from 1`,
		"limit=100000":                      "limit: ",
		"cursor=x":                          "cursor: isn't the next",
		"sinse=1h":                          "sinse: there is no such parameter",
		"since=999999999999d&consumer=a":    "isn't a date",
		"since=2026-11-25T13:00:00%2B01:00": "since: isn't before until",
	} {
		v, _ := url.ParseQuery(query)
		if _, err := ParseQuery(v, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseQuery(%s) = %v, want %q", query, err, want)
		}
	}
}

func TestQueryTimes(t *testing.T) {
	now := time.Date(2026, 3, 5, 12, 34, 56, 0, time.UTC)
	tests := []struct {
		query, since, until string
		step                Span
	}{
		{"", "2026-03-04T12:00:00Z", "2026-03-05T13:00:00Z", Hour},
		{"since=90m", "2026-03-05T11:04:00Z", "2026-03-05T12:35:00Z", Minute},
		{"since=7d", "2026-02-26T12:00:00Z", "2026-03-05T13:00:00Z", Hour},
		{"since=30d", "2026-02-03T00:00:00Z", "2026-03-06T00:00:00Z", Day},
		{"since=2026-03-01", "2026-03-01T00:00:00Z", "2026-03-06T00:00:00Z", Day},
		{"since=2026-02-01&until=2026-03-01", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", Day},
		{"since=2026-03-05T12:10:30Z&until=2026-03-05T12:20:00Z", "2026-03-05T12:10:00Z", "2026-03-05T12:20:00Z", Minute},
		{"since=1h&by=day", "2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z", Day},
		{"since=30d&by=minute", "2026-02-03T12:34:00Z", "2026-03-05T12:35:00Z", Minute},
	}
	for _, tt := range tests {
		v, _ := url.ParseQuery(tt.query)
		q, err := ParseQuery(v, now)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		got := fmt.Sprint(time.Unix(q.Since, 0).UTC().Format(time.RFC3339), time.Unix(q.Until, 0).UTC().Format(time.RFC3339), q.Step)
		if want := fmt.Sprint(tt.since, tt.until, tt.step); got != want {
			t.Errorf("%s: %s, want %s", tt.query, got, want)
		}
	}
}

// TestQueryWithin: sums are made of what is still kept, and who asks for what isn't
// is told.
func TestQueryWithin(t *testing.T) {
	now := time.Date(2026, 3, 5, 12, 34, 56, 0, time.UTC)
	keep := Retention{Minute: time.Hour, Hour: 12 * time.Hour, Day: 400 * 24 * time.Hour}
	for _, tt := range []struct {
		query, since, until string
		step                Span
		note                string
	}{
		{"since=30m", "2026-03-05T12:04:00Z", "2026-03-05T12:35:00Z", Minute, ""},
		{"since=90m", "2026-03-05T11:00:00Z", "2026-03-05T13:00:00Z", Hour, ""},
		{"", "2026-03-04T00:00:00Z", "2026-03-06T00:00:00Z", Day, ""},
		{"since=2026-03-04T10:10:00Z&until=2026-03-04T11:00:00Z", "2026-03-04T00:00:00Z", "2026-03-05T00:00:00Z", Day, ""},
		{"since=90m&by=minute", "2026-03-05T11:04:00Z", "2026-03-05T12:35:00Z", Minute, "a minute is kept for 1h: there is none of before 2026-03-05T11:34:56Z"},
		{"since=2d&by=day", "2026-03-03T00:00:00Z", "2026-03-06T00:00:00Z", Day, ""},
	} {
		v, _ := url.ParseQuery(tt.query)
		q, err := ParseQuery(v, now)
		if err != nil {
			t.Fatalf("%s: %v", tt.query, err)
		}
		q.Within(keep, now)
		r, err := q.Run(t.Context(), &Keeper{turn: make(chan struct{}, 1), wait: newPending(1), KeeperDeps: KeeperDeps{Now: time.Now, Counter: NewCounter(100), Open: func(context.Context) (Store, error) { return &memory{}, nil }}})
		if err != nil {
			t.Fatalf("%s: %v", tt.query, err)
		}
		got := fmt.Sprint(r.Since.Format(time.RFC3339), " ", r.Until.Format(time.RFC3339), " ", r.Step, " ", r.Note)
		if want := fmt.Sprint(tt.since, " ", tt.until, " ", tt.step, " ", tt.note); got != want {
			t.Errorf("%s: %s, want %s", tt.query, got, want)
		}
	}
}

func TestPages(t *testing.T) {
	b := newBed(1000)
	for i := range 25 {
		b.count(fmt.Sprintf("c%02d", i), i+1)
	}
	var all []string
	query, cursor := "by=consumer&limit=10", ""
	for pages := 0; ; pages++ {
		r := b.ask(t, query+cursor)
		all = append(all, r.lines()...)
		if r.Next == "" {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
		cursor = "&cursor=" + r.Next
	}
	if d := cmp.Diff(b.ask(t, "by=consumer").lines(), all); d != "" || len(all) != 25 {
		t.Errorf("%d rows: %s", len(all), d)
	}
	if d := cmp.Diff([]string{"c24 25", "c23 24"}, b.ask(t, "by=consumer&top=2").lines()); d != "" {
		t.Error(d)
	}
}

func TestCSV(t *testing.T) {
	b := newBed(10)
	b.Counter.Count(ended(`a "b", c`, "r", "s", 200), 100*time.Millisecond)
	b.Counter.Count(ended(`=cmd()`, "r", "s", 500), 100*time.Millisecond)
	var out bytes.Buffer
	if err := b.ask(t, "by=consumer,status,day").CSV(&out); err != nil {
		t.Fatal(err)
	}
	want := "consumer,status,time,requests,bytes_in,bytes_out,errors,rate_limited,cache_hits,charged,mean,p50,p90,p99,max\n" +
		`'=cmd(),5xx,2026-03-01T00:00:00Z,1,0,0,1,0,0,0,0.1001,0.1001,0.1001,0.1001,0.1001` + "\n" +
		`"a ""b"", c",2xx,2026-03-01T00:00:00Z,1,0,0,0,0,0,0,0.1001,0.1001,0.1001,0.1001,0.1001` + "\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}
