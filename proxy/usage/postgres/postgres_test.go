package postgres

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
	"github.com/sidegate-proxy/sidegate/proxy/usage/postgres/pgtest"
	"github.com/sidegate-proxy/sidegate/proxy/usage/usagetest"
)

var (
	begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	key   = usage.Key{Consumer: "a", Route: "r", Service: "s", Class: 2}
)

// clock is one that jumps over pauses.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time {
	c.now = c.now.Add(2 * retryMost)
	return c.now
}

func opened(t testing.TB, url, dir string) *Store {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	s, err := Open(Deps{Log: log, URL: secret.String(url), Dir: dir, Most: 1 << 20, Now: (&clock{begin}).Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // it may be closed already
	return s
}

func add(t testing.TB, s *Store, rows ...usage.Row) {
	t.Helper()
	if err := s.Add(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
}

func row(n int) usage.Row { return usagetest.Row(begin, key, n, time.Millisecond) }

func TestStore(t *testing.T) {
	server := pgtest.New(t)
	n := 0
	usagetest.Run(t, func(t *testing.T) usage.Store {
		n++
		return opened(t, server.Database(fmt.Sprint("db", n)), t.TempDir())
	})
	t.Run("answers lost", func(t *testing.T) { answersLost(t, server) })
	t.Run("away", func(t *testing.T) { away(t, server) })
	t.Run("many nodes", func(t *testing.T) { manyNodes(t, server) })
	t.Run("newer", func(t *testing.T) {
		url := server.Database("newer")
		s := opened(t, url, t.TempDir())
		add(t, s, row(1))
		if _, err := pgtest.Query(url, "UPDATE sidegate_usage_schema SET version = 9"); err != nil {
			t.Fatal(err)
		}
		again := opened(t, url, t.TempDir())
		add(t, again, row(1))
		if st := again.Status(); !strings.Contains(st.Error, "schema 9, and this version knows 1: a newer version") || st.Spooled != 1 {
			t.Errorf("status %+v", st)
		}
	})
	t.Run("text that it can't hold", func(t *testing.T) {
		s := opened(t, server.Database("strange"), t.TempDir())
		k := key
		k.Consumer = "a\x00b\xff"
		same := key
		same.Consumer = "ab\xfe"
		add(t, s, usagetest.Row(begin, k, 2, time.Millisecond), usagetest.Row(begin, same, 1, time.Millisecond))
		usagetest.Check(t, "cleaned", usagetest.Sum(t, s, usage.Filter{Consumers: []string{"ab\uFFFD"}}), 3)
	})
	t.Run("refused", func(t *testing.T) {
		s := opened(t, server.Database("refused"), t.TempDir())
		huge := row(1)
		huge.Requests = 1 << 62
		add(t, s, huge)
		add(t, s, huge, usagetest.Row(begin.Add(time.Hour), key, 1, time.Millisecond)) // its sum is out of range
		add(t, s, usagetest.Row(begin.Add(time.Hour), key, 2, time.Millisecond))
		usagetest.Check(t, "the others", usagetest.Sum(t, s, usage.Filter{Since: begin.Unix() + 3600}), 2)
		if bad, _ := filepath.Glob(filepath.Join(s.Dir, "*.bad")); len(bad) != 1 || s.Status().Error != "" {
			t.Errorf("%v set aside, status %+v", bad, s.Status())
		}
	})
	t.Run("only read", func(t *testing.T) {
		url := server.Database("viewed")
		v := opened(t, url, "")
		err := v.Read(t.Context(), &usage.Filter{Until: 1 << 40}, func(*usage.Row) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "no gateway has stored anything there") {
			t.Errorf("Read = %v", err)
		}
		add(t, opened(t, url, t.TempDir()), row(2))
		usagetest.Check(t, "viewed", usagetest.Sum(t, v, usage.Filter{}), 2)
		enough := errors.New("enough")
		if err := v.Read(t.Context(), &usage.Filter{Until: 1 << 40}, func(*usage.Row) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("Read = %v", err)
		}
		usagetest.Check(t, "again", usagetest.Sum(t, v, usage.Filter{}), 2)
	})
}

// answersLost has the database commit, and its answers get lost.
func answersLost(t *testing.T, server *pgtest.Server) {
	url := server.Database("lost")
	cut := pgtest.NewCutter(t, server.Address())
	dir := t.TempDir()
	s := opened(t, pgtest.URL(cut.Address, "lost"), dir)
	add(t, s, row(1))
	want := int64(1)
	for i := range 20 {
		cut.CutCommits.Store(1)
		add(t, s, row(i+1))
		want += int64(i + 1)
		if st := s.Status(); st.Spooled != 1 || st.Error == "" {
			t.Fatalf("status %+v", st)
		}
		switch i % 3 {
		case 0: // tried again
			add(t, s)
		case 1: // together with what comes then
			add(t, s, row(1))
			want++
		case 2: // by another run
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = opened(t, pgtest.URL(cut.Address, "lost"), dir)
			add(t, s)
		}
		if st := s.Status(); st.Spooled != 0 || st.Error != "" {
			t.Fatalf("status %+v", st)
		}
	}
	if n := cut.Cut.Load(); n != 20 {
		t.Errorf("%d answers were lost, so the test tests nothing", n)
	}
	usagetest.Check(t, "each once", usagetest.Sum(t, opened(t, url, t.TempDir()), usage.Filter{}), want)
}

// away is a database that is gone for a while, in which the gateway restarts.
func away(t *testing.T, server *pgtest.Server) {
	url := server.Database("away")
	dir := t.TempDir()
	s := opened(t, url, dir)
	add(t, s, row(1))
	want := int64(1)
	server.Kill()
	for i := range 30 {
		add(t, s, row(1), usagetest.Row(begin.Add(time.Duration(i)*time.Minute), key, 2, time.Second))
		want += 3
		if i%10 == 9 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = opened(t, url, dir)
		}
	}
	if st := s.Status(); st.Spooled < 3 || st.Spooled > 8 {
		t.Errorf("%d batches, which should have been joined", st.Spooled)
	}
	err := s.Read(t.Context(), &usage.Filter{Until: 1 << 40}, func(*usage.Row) error { return nil })
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("Read = %v", err)
	}
	server.Start()
	add(t, s)
	if st := s.Status(); st.Spooled != 0 || st.Error != "" {
		t.Errorf("status %+v", st)
	}
	usagetest.Check(t, "each once", usagetest.Sum(t, s, usage.Filter{}), want)
	if list, _ := filepath.Glob(filepath.Join(dir, "*"+suffix)); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

// manyNodes add to the same rows, fold and lose answers, all at once, while the
// database crashes.
func manyNodes(t *testing.T, server *pgtest.Server) {
	const nodes, batches = 5, 30
	url := server.Database("many")
	cut := pgtest.NewCutter(t, server.Address())
	dirs := make([]string, nodes)
	var wg sync.WaitGroup
	sums := make([]int64, nodes)
	for n := range nodes {
		dirs[n] = t.TempDir()
		wg.Go(func() {
			s := opened(t, pgtest.URL(cut.Address, "many"), dirs[n])
			random := rand.New(rand.NewPCG(uint64(n), 7))
			for range batches {
				var rows []usage.Row
				for range 10 {
					k := key
					k.Consumer = fmt.Sprint("c", random.IntN(5))
					rows = append(rows, usagetest.Row(begin.Add(time.Duration(random.IntN(300))*time.Minute), k, 1, time.Millisecond))
				}
				rows = usage.Fold(rows, usage.Minute)
				sums[n] += 10
				add(t, s, rows...)
				switch random.IntN(5) {
				case 0:
					_, _ = s.Fold(t.Context(), begin.Add(time.Duration(random.IntN(40))*time.Hour), usagetest.Keep) // it may be away
				case 1:
					cut.CutCommits.Add(1)
				}
			}
		})
	}
	for range 3 {
		time.Sleep(50 * time.Millisecond) // somewhere in the middle
		server.Kill()
		server.Start()
	}
	wg.Wait()
	cut.CutCommits.Store(0)
	var want int64
	for n := range nodes {
		want += sums[n]
	}
	for _, dir := range dirs {
		_ = os.Remove(filepath.Join(dir, lock)) // its owner has a lock on a file that is gone
		s := opened(t, url, dir)
		add(t, s)
		if st := s.Status(); st.Spooled != 0 {
			t.Errorf("status %+v", st)
		}
	}
	s := opened(t, url, t.TempDir())
	for _, step := range []usage.Span{usage.Minute, usage.Hour, usage.Day} {
		usagetest.Check(t, step.String(), usagetest.Sum(t, s, usage.Filter{Step: step}), want)
	}
	usagetest.FoldAll(t, s, begin.Add(40*time.Hour))
	for _, step := range []usage.Span{usage.Minute, usage.Hour, usage.Day} {
		usagetest.Check(t, "folded, "+step.String(), usagetest.Sum(t, s, usage.Filter{Step: step}), want)
	}
}

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpool(dir, 4000, "run")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openSpool(dir, 4000, "other"); err == nil || !strings.Contains(err.Error(), "another gateway uses it") {
		t.Errorf("a second one: %v", err)
	}
	n := 0
	for ; n < 1000; n++ {
		k := key
		k.Consumer = fmt.Sprint("consumer", n)
		if err = s.add([]usage.Row{usagetest.Row(begin, k, 1, time.Millisecond)}); err != nil {
			break
		}
		if n%10 == 9 {
			s.fix(s.list[len(s.list)-1])
		}
	}
	if err == nil || !strings.Contains(err.Error(), "usage.spool") || n < 20 {
		t.Errorf("after %d: %v", n, err)
	}
	if size := folderSize(t, dir); size > 4000 || size != s.bytes {
		t.Errorf("%d bytes, %d counted", size, s.bytes)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, s.list[0].file()), []byte("cut off"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := openSpool(dir, 4000, "run2")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s.list, again.list, cmp.AllowUnexported(id{})); d != "" {
		t.Error(d)
	}
	if _, err := again.read(again.list[0]); !errors.Is(err, errDamaged) {
		t.Errorf("read = %v", err)
	}
	if err := again.setAside(); err != nil {
		t.Error(err)
	}
	found := 10
	for len(again.list) > 0 {
		rows, err := again.read(again.list[0])
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if want := fmt.Sprint("consumer", found); !slices.ContainsFunc(rows, func(r usage.Row) bool { return r.Consumer == want }) || rows[i].Requests != 1 || rows[i].Latency.Count() != 1 {
				t.Errorf("%s isn't there, or %+v isn't right", want, rows[i])
			}
			found++
		}
		if err := again.done(); err != nil {
			t.Fatal(err)
		}
	}
	if found != n || again.bytes != 0 || folderSize(t, dir) != 7 {
		t.Errorf("found %d of %d; %d bytes counted", found, n, again.bytes)
	}
}

func folderSize(t *testing.T, dir string) (n int64) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

func FuzzDecode(f *testing.F) {
	f.Add(encode([]usage.Row{row(3), row(4)})[len(magic)+4:])
	f.Add(encode(nil)[len(magic)+4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := append([]byte(magic), 0, 0, 0, 0)
		s := sum(b)
		whole[len(magic)], whole[len(magic)+1], whole[len(magic)+2], whole[len(magic)+3] = byte(s>>24), byte(s>>16), byte(s>>8), byte(s)
		rows, err := decode(append(whole, b...))
		if err != nil {
			return
		}
		again, err := decode(encode(rows))
		if err != nil || len(again) != len(rows) {
			t.Fatalf("%d rows are read again as %d, %v", len(rows), len(again), err)
		}
	})
}

func TestName(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u:p@db.internal:5433/usage?sslmode=require": "postgres db.internal:5433/usage",
		"postgres:///usage?host=/run/postgresql":                "postgres /usage",
		"postgres://u:p@ss@h/\x7f":                              "postgres",
	} {
		if got := Name(secret.String(url)); got != want {
			t.Errorf("Name(%s) = %s, want %s", url, got, want)
		}
	}
	for _, url := range []string{"postgres://u:hunter2@h:port/x", "postgres://u:hunter2@h/x?sslmode=nonsense"} {
		if _, err := Open(Deps{URL: secret.String(url)}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%s) = %v", url, err)
		}
	}
}
