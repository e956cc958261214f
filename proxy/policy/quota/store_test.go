package quota

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// node is a store with its writer, and a clock.
type node struct {
	t    testing.TB
	s    *Store
	hook *test.Hook
	stop func() // as a shutdown does

	mu  sync.Mutex
	now time.Time
}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func newNode(t testing.TB, path string, now time.Time) *node {
	t.Helper()
	n := &node{t: t, now: now}
	log, hook := test.NewNullLogger()
	log.SetOutput(io.Discard)
	n.hook = hook
	n.s = NewStore(Deps{Log: log, Path: path, Room: RoomConfig{Clients: 1000}, Now: n.clock})
	if err := n.s.open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.s.Run(ctx) }()
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(n.stop)
	return n
}

func (n *node) clock() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *node) set(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = at(text)
}

// use asks for cost units of a client's limit; used is what was used then.
func (n *node) use(client string, p exchange.Period, limit, cost int64) (used int64, ok bool) {
	a := ask{id: id{"route:r", client, p}, limit: limit, cost: cost, start: n.s.now(p, n.clock())}
	n.s.take(&a)
	if a.ok && a.short {
		n.s.settle(&a)
	}
	return a.used, a.ok
}

// crash returns a file as it is on the disk now, for another node to find.
func (n *node) crash() string {
	n.t.Helper()
	b, err := os.ReadFile(n.s.Path)
	if err != nil {
		n.t.Fatal(err)
	}
	path := filepath.Join(n.t.TempDir(), "quota.log")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		n.t.Fatal(err)
	}
	return path
}

func path(t testing.TB) string { return filepath.Join(t.TempDir(), "quota.log") }

const noon = "2026-11-24T12:00:00Z"

// TestPeriods: periods are those of the calendar, in UTC.
func TestPeriods(t *testing.T) {
	tests := []struct {
		period           exchange.Period
		now, start, end_ string
	}{
		{exchange.Hour, "2026-11-24T12:34:56Z", "2026-11-24T12:00:00Z", "2026-11-24T13:00:00Z"},
		{exchange.Hour, "2026-11-24T12:34:56+05:30", "2026-11-24T07:00:00Z", "2026-11-24T08:00:00Z"},
		{exchange.Day, "2026-11-24T23:59:59Z", "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"},
		{exchange.Day, "2026-11-24T23:30:00-05:00", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"},
		{exchange.Day, "1969-12-31T12:00:00Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"},
		{exchange.Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{exchange.Month, "2028-02-29T10:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{exchange.Month, "2027-01-31T10:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"},
	}
	s := NewStore(Deps{})
	for _, tt := range tests {
		for range 2 {
			start := s.now(tt.period, at(tt.now))
			if start != at(tt.start).Unix() || endOf(tt.period, start) != at(tt.end_).Unix() {
				t.Errorf("%s by %v: from %v to %v", tt.now, tt.period, time.Unix(start, 0).UTC(), time.Unix(endOf(tt.period, start), 0).UTC())
			}
		}
	}
}

// TestExact: 64 clients at once get exactly the quota.
func TestExact(t *testing.T) {
	n := newNode(t, path(t), at(noon))
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 50 {
				if _, ok := n.use("a", exchange.Month, 1000, 1); ok {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != 1000 {
		t.Errorf("%d passed, want 1000", passed.Load())
	}
}

// TestNewPeriod: a new period begins with a whole quota, and not before.
func TestNewPeriod(t *testing.T) {
	n := newNode(t, path(t), at("2026-11-30T23:59:59Z"))
	for i := range 3 {
		if used, ok := n.use("a", exchange.Month, 2, 1); ok != (i < 2) || used != min(int64(i)+1, 2) {
			t.Errorf("request %d: %v, %d used", i, ok, used)
		}
	}
	n.set("2026-12-01T00:00:00Z")
	if used, ok := n.use("a", exchange.Month, 2, 1); !ok || used != 1 {
		t.Errorf("in December: %v, %d used", ok, used)
	}
}

// TestClockSteps: no step of the clock backwards gives anything back.
func TestClockSteps(t *testing.T) {
	n := newNode(t, path(t), at("2026-11-30T23:59:59Z"))
	steps := []struct {
		now  string
		cost int64
		used int64
		ok   bool
	}{
		{"2026-11-30T23:59:59Z", 8, 8, true},
		{"2026-12-01T00:00:01Z", 9, 9, true},
		{"2026-11-30T23:59:59Z", 5, 8, false}, // back: November is as it was
		{"2026-11-30T23:59:59Z", 2, 10, true},
		{"2026-11-30T23:59:59Z", 1, 10, false},
		{"2026-12-01T00:00:01Z", 2, 9, false}, // and so is December
		{"2026-08-01T00:00:00Z", 2, 9, false}, // far back: the latest goes on
		{"1999-01-01T00:00:00Z", 1, 10, true},
		{"2026-12-01T00:00:01Z", 1, 10, false},
		{"2027-05-01T00:00:00Z", 10, 10, true}, // forward, by mistake
		{"2026-12-02T00:00:00Z", 1, 10, false}, // December still knows
		{"2027-01-02T00:00:00Z", 1, 10, false}, // between the two: the latest goes on
		{"2027-06-01T00:00:00Z", 1, 1, true},
	}
	for i, s := range steps {
		n.set(s.now)
		if used, ok := n.use("a", exchange.Month, 10, s.cost); used != s.used || ok != s.ok {
			t.Errorf("step %d, %s: %v, %d used, want %+v", i, s.now, ok, used, s)
		}
	}
	// The same over a crash: the file has both periods.
	n.set("2027-05-30T00:00:00Z")
	if _, ok := newNode(t, n.crash(), n.clock()).use("a", exchange.Month, 10, 1); ok {
		t.Error("after a crash, a step backwards refills")
	}
}

// TestCrash: whatever moment a crash comes at, it gives nobody anything, and
// costs nobody more than was said.
func TestCrash(t *testing.T) {
	for _, limit := range []int64{3, 250, 5000, 3_000_000} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			n := newNode(t, path(t), at(noon))
			var used int64
			for i := range 40 {
				cost := max(1, limit/77)
				now, ok := n.use("a", exchange.Day, limit, cost)
				if !ok {
					break
				}
				used = now
				if i%13 != 0 {
					continue
				}
				after := newNode(t, n.crash(), n.clock())
				list := after.s.List("")
				if len(list) != 1 || list[0].Used < used || list[0].Used > min(limit, used+chunk(limit)) {
					t.Fatalf("%d were used; after the crash: %+v", used, list)
				}
				if chunk(limit) > max(1, limit/100) || chunk(limit) > 10_000 {
					t.Errorf("%d are set aside at a time", chunk(limit))
				}
			}
			n.stop()
			if list := newNode(t, n.s.Path, n.clock()).s.List(""); len(list) != 1 || list[0].Used != used {
				t.Errorf("%d were used; after a restart: %+v", used, list)
			}
		})
	}
}

// TestFile: a line that a crash cut off harms nothing; a damaged one costs itself
// alone; a file that can't be read stops everything.
func TestFile(t *testing.T) {
	n := newNode(t, path(t), at(noon))
	for _, client := range []string{"consumer=a", "consumer=b", "header:X=\"é\n\x00", "consumer=c"} {
		n.use(client, exchange.Day, 1000, 100)
	}
	n.stop()
	whole, err := os.ReadFile(n.s.Path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	if len(lines) != 5 {
		t.Fatalf("the file is %q", whole)
	}
	tests := []struct {
		name, text string
		known      int
		errors     int
	}{
		{"whole", string(whole), 4, 0},
		{"cut off", string(whole[:len(whole)-9]), 3, 0},
		{"damaged", lines[0] + strings.Replace(lines[1], " 100 ", " 001 ", 1) + lines[2] + lines[3], 3, 1},
		{"not ours", "hello\n\n" + lines[0] + "0 1 day\n", 1, 1},
		{"empty", "", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := path(t)
			if err := os.WriteFile(p, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			n := newNode(t, p, at(noon))
			var got []int64
			for _, u := range n.s.List("") {
				got = append(got, u.Used)
			}
			if len(got) != tt.known || len(n.hook.AllEntries()) != tt.errors {
				t.Errorf("%v are known, and %d errors logged, want %d and %d", got, len(n.hook.AllEntries()), tt.known, tt.errors)
			}
			if used, ok := n.use("consumer=new", exchange.Day, 10, 1); !ok || used != 1 {
				t.Errorf("a new client: %v, %d used", ok, used)
			}
			if after := newNode(t, n.crash(), at(noon)); len(after.s.List("")) != tt.known+1 || len(after.hook.AllEntries()) != 0 {
				t.Errorf("after the next crash: %+v", after.s.List(""))
			}
		})
	}
	if err := NewStore(Deps{Path: t.TempDir()}).open(); err == nil || !strings.Contains(err.Error(), "what was used of quotas can't be read") {
		t.Errorf("a folder in the file's place: %v", err)
	}
}

// TestShrink: the file doesn't grow with what is old.
func TestShrink(t *testing.T) {
	n := newNode(t, path(t), at(noon))
	long := strings.Repeat("x", 20_000)
	for i := range 200 {
		n.use(long, exchange.Day, 1000, 1)
		if i%50 != 0 {
			continue
		}
		if info, err := os.Stat(n.s.Path); err != nil || info.Size() > 2<<20 {
			t.Fatalf("the file has %v bytes (%v)", info.Size(), err)
		}
	}
}

// TestDisk: while the disk can't be written, counting goes on; once it can,
// nothing is lost.
func TestDisk(t *testing.T) {
	n := newNode(t, path(t), at(noon))
	n.use("a", exchange.Day, 10, 1)
	folder := filepath.Dir(n.s.Path)
	if err := os.Rename(folder, folder+".away"); err != nil { // no new file can be made
		t.Fatal(err)
	}
	// The file that is open goes on; as with a full disk, it must not.
	n.s.opening.Lock()
	_ = n.s.file.f.Close()
	n.s.opening.Unlock()
	for i := range 12 {
		if used, ok := n.use("a", exchange.Day, 10, 1); ok != (i < 9) || used != min(int64(i)+2, 10) {
			t.Errorf("request %d: %v, %d used", i, ok, used)
		}
	}
	if !n.s.Failing() {
		t.Error("the disk doesn't count as failing")
	}
	if _, err := n.s.Set("route:r", "a", "day", 3); err == nil || !strings.Contains(err.Error(), "can't be written") {
		t.Errorf("Set = %v", err)
	}
	if err := os.Rename(folder+".away", folder); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); n.s.Failing(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the disk goes on failing")
		}
	}
	if list := newNode(t, n.crash(), n.clock()).s.List(""); len(list) != 1 || list[0].Used != 4 { // the 3, and what is set aside
		t.Errorf("after it was written again: %+v", list)
	}
	var texts []string
	for _, e := range n.hook.AllEntries() {
		texts = append(texts, e.Level.String()+": "+e.Message)
	}
	want := []string{"error: quotas can't be written to the disk: they are counted in memory, and a crash would lose what is used meanwhile", "info: quotas are written to the disk again"}
	if d := cmp.Diff(want, texts); d != "" {
		t.Error(d)
	}
}

// TestSet: an operator's word counts, over a crash too.
func TestSet(t *testing.T) {
	n := newNode(t, path(t), at(noon))
	n.use("consumer=a", exchange.Day, 1000, 700)
	for _, used := range []int64{900, 10, 0} {
		u, err := n.s.Set("route:r", "consumer=a", "day", used)
		if err != nil || u.Used != used || u.Left != 1000-used {
			t.Fatalf("Set(%d) = %+v, %v", used, u, err)
		}
		list := newNode(t, n.crash(), n.clock()).s.List("a")
		if len(list) != 1 || list[0].Used < used || list[0].Used > used+10 {
			t.Errorf("after a crash: %+v, want %d", list, used)
		}
	}
	for _, tt := range []struct {
		quota, client, period string
		used                  int64
		want                  string
	}{
		{"route:r", "consumer=b", "day", 1, ErrUnknown.Error()},
		{"route:r", "consumer=a", "month", 1, ErrUnknown.Error()},
		{"route:r", "consumer=a", "week", 1, "isn't h, day or month"},
		{"route:r", "consumer=a", "day", -1, "less than 0"},
	} {
		if _, err := n.s.Set(tt.quota, tt.client, tt.period, tt.used); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	n.set("2026-11-26T00:00:00Z")
	if u, err := n.s.Set("route:r", "consumer=a", "day", 5); err != nil || !u.Since.Equal(at("2026-11-26T00:00:00Z")) {
		t.Errorf("in a new period: %+v, %v", u, err)
	}
}

// TestRoom: clients beyond those that there is room for share one quota; whose
// period is long over makes room.
func TestRoom(t *testing.T) {
	n := newNode(t, path(t), at(noon))
	n.s.Room.Clients = 100
	for i := range 100 {
		n.use(fmt.Sprint("client ", i), exchange.Hour, 2, 1)
	}
	for i := range 50 {
		if _, ok := n.use(fmt.Sprint("late ", i), exchange.Hour, 2, 1); ok != (i < 2) {
			t.Errorf("late client %d passed: %v", i, ok)
		}
	}
	if _, ok := n.use("client 7", exchange.Hour, 2, 1); !ok {
		t.Error("a client that was there first is refused")
	}
	if n.s.Clients() != 101 || n.s.Together() != 50 {
		t.Errorf("%d clients, %d together", n.s.Clients(), n.s.Together())
	}
	n.s.sweep(at("2026-11-24T13:59:59Z"))
	if n.s.Clients() != 101 {
		t.Errorf("%d clients, an hour after their period", n.s.Clients())
	}
	n.s.sweep(at("2026-11-24T14:00:01Z"))
	if n.s.Clients() != 0 {
		t.Errorf("%d clients, more than a period after theirs", n.s.Clients())
	}
}

// TestSlowDisk: a request doesn't wait for a writer that isn't there for ever.
func TestSlowDisk(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := NewStore(Deps{Log: log, Room: RoomConfig{Clients: 10}})
	s.failing.Store(true)
	a := ask{id: id{"route:r", "a", exchange.Day}, limit: 10, cost: 1, start: s.now(exchange.Day, time.Now())}
	s.take(&a)
	s.settle(&a) // returns at once
	if !a.ok || !a.short {
		t.Errorf("%+v", a)
	}
	if _, err := s.Set("route:x", "y", "day", 1); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// TestRoomAfterRestart: clients of long ago, which the file still has, take no
// room of those that count, and nobody's use is lost for want of it.
func TestRoomAfterRestart(t *testing.T) {
	n := newNode(t, path(t), at("2026-11-20T12:00:00Z"))
	for i := range 12 {
		n.use(fmt.Sprint("old", i), exchange.Day, 10, 10)
	}
	n.set(noon)
	for i := range 12 {
		n.use(fmt.Sprint("new", i), exchange.Day, 10, 10)
	}
	log, _ := test.NewNullLogger()
	s := NewStore(Deps{Log: log, Path: n.crash(), Room: RoomConfig{Clients: 10}, Now: n.clock})
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		a := ask{id: id{"route:r", fmt.Sprint("new", i), exchange.Day}, limit: 10, cost: 1, start: s.now(exchange.Day, n.clock())}
		if s.take(&a); a.ok {
			t.Errorf("%s has a whole quota again", a.client)
		}
	}
	if got := s.Together(); got != 0 {
		t.Errorf("%d requests were counted together", got)
	}
	if got := s.Clients(); got != 12 {
		t.Errorf("%d clients, want 12", got)
	}
}
