package shared

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
)

// server is a real Redis.
type server struct {
	t    testing.TB
	port int
	dir  string
	args []string
	cmd  *exec.Cmd
}

func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a real server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, port: l.Addr().(*net.TCPAddr).Port, dir: t.TempDir(), args: args}
	_ = l.Close()
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

func (s *server) start() {
	s.t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		s.t.Fatal("redis-server isn't installed: run make tools")
	}
	args := append([]string{"--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", s.dir}, s.args...)
	s.cmd = exec.Command(path, args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", s.address())
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			s.t.Fatal("redis-server doesn't come up")
		}
	}
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// newFleet is a node that counts in a server.
func newFleet(t testing.TB, b Backend, timeout time.Duration) (*Fleet, *test.Hook) {
	t.Helper()
	log, hook := test.NewNullLogger()
	log.SetOutput(io.Discard)
	f := NewFleet(log)
	f.Use(b, "test", timeout)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return f, hook
}

func redisFleet(t testing.TB, c RedisConfig) *Fleet {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second // the machine may be busy
	}
	if c.Connections == 0 {
		c.Connections = 16
	}
	b, err := NewRedis(c)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := newFleet(t, b, c.Timeout)
	return f
}

func up(t testing.TB, f *Fleet) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if ok, _ := f.Up(); ok {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the server stays down")
		}
	}
}

// storm lets 64 goroutines ask nodes for one unit each time, for a while, and
// returns how many passed and how long it took, from before the first question
// to behind the last answer.
func storm(t *testing.T, fleets []*Fleet, each int, ask Ask) (passed int64, took time.Duration) {
	t.Helper()
	var n atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range 64 {
		wg.Go(func() {
			for range each {
				asks := []Ask{ask}
				if err := fleets[i%len(fleets)].Take(asks); err != nil {
					t.Error(err)
					return
				}
				if asks[0].OK {
					n.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return n.Load(), time.Since(begin)
}

// TestRedisExact: two nodes with 64 clients at once never admit more than rate ×
// time + burst, and what is within the rate.
func TestRedisExact(t *testing.T) {
	s := newServer(t)
	fleets := []*Fleet{redisFleet(t, RedisConfig{Address: s.address()}), redisFleet(t, RedisConfig{Address: s.address()})}
	for _, tt := range []struct {
		name     string
		interval time.Duration
		burst    int64
	}{
		{"slow", time.Hour, 100},
		{"one", time.Hour, 1},
		{"fast", 3333334 * time.Nanosecond, 50},
		{"odd", 333334 * time.Nanosecond, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			passed, took := storm(t, fleets, 100, Ask{Key: tt.name, Cost: 1, Interval: tt.interval, Burst: tt.burst})
			if most := int64(took/tt.interval) + tt.burst; passed > most || passed < tt.burst {
				t.Errorf("%d passed in %v, want %d at most", passed, took, most)
			}
		})
	}
	t.Run("quota", func(t *testing.T) {
		passed, _ := storm(t, fleets, 100, Ask{Key: "q", Cost: 1, Limit: 1234, Until: time.Now().Unix() + 3600})
		if passed != 1234 {
			t.Errorf("%d passed, want 1234", passed)
		}
	})
}

// TestRedisTake: what the script says, case by case.
func TestRedisTake(t *testing.T) {
	s := newServer(t)
	f := redisFleet(t, RedisConfig{Address: s.address()})
	take := func(asks ...Ask) []Ask {
		t.Helper()
		if err := f.Take(asks); err != nil {
			t.Fatal(err)
		}
		return asks
	}
	hour := func(key string, burst, cost int64) Ask {
		return Ask{Key: key, Interval: time.Hour, Burst: burst, Cost: cost}
	}
	day := func(key string, limit, cost, owed int64) Ask {
		return Ask{Key: key, Limit: limit, Cost: cost, Owed: owed, Until: time.Now().Unix() + 86400}
	}
	near := func(d, want time.Duration) bool { return d > want-time.Minute && d <= want }
	if a := take(hour("a", 10, 4))[0]; !a.OK || !near(a.Full, 4*time.Hour) {
		t.Errorf("4 of 10: %+v", a)
	}
	if a := take(hour("a", 10, 7))[0]; a.OK || !near(a.Full, 4*time.Hour) {
		t.Errorf("7 of 6: %+v", a)
	}
	if a := take(hour("a", 10, 0))[0]; !a.OK || !near(a.Full, 4*time.Hour) {
		t.Errorf("nothing: %+v", a)
	}
	if a := take(hour("a", 10, 6))[0]; !a.OK || !near(a.Full, 10*time.Hour) {
		t.Errorf("the rest: %+v", a)
	}
	// All or nothing, in one question.
	both := take(hour("b", 10, 1), hour("a", 10, 1))
	if !both[0].OK || both[1].OK || Refused(both) != 1 {
		t.Errorf("one of two: %+v", both)
	}
	if a := take(hour("b", 10, 0))[0]; a.Full != 0 {
		t.Errorf("a refusal took of the other: %+v", a)
	}
	dry := hour("a", 10, 1)
	dry.Dry = true
	if both = take(hour("b", 10, 1), dry, day("q", 10, 3, 0)); !both[0].OK || both[1].OK || !both[2].OK || Refused(both) != -1 || both[2].Used != 3 {
		t.Errorf("a dry run: %+v", both)
	}
	// Quotas: what is owed is added whatever the answer.
	if a := take(day("q", 10, 8, 0))[0]; a.OK || a.Used != 3 {
		t.Errorf("8 of 7: %+v", a)
	}
	if a := take(day("q", 10, 3, 5))[0]; a.OK || a.Used != 8 || a.Owed != 0 {
		t.Errorf("3 of 2 with 5 owed: %+v", a)
	}
	if a := take(day("q", 10, 2, 0))[0]; !a.OK || a.Used != 10 {
		t.Errorf("the rest: %+v", a)
	}
	big := int64(999_999_999_999_999)
	if a := take(day("big", big, big-1, 0))[0]; !a.OK || a.Used != big-1 {
		t.Errorf("a large number: %+v", a)
	}
	if a := take(day("big", big, 1, 0))[0]; !a.OK || a.Used != big {
		t.Errorf("one more: %+v", a)
	}
	if a := take(day("big", big, 1, 0))[0]; a.OK {
		t.Errorf("beyond: %+v", a)
	}
	set := Ask{Key: "q", Used: 4, Until: time.Now().Unix() + 86400}
	if err := f.Set(t.Context(), &set); err != nil {
		t.Fatal(err)
	}
	if a := take(day("q", 10, 6, 0))[0]; !a.OK || a.Used != 10 {
		t.Errorf("after an operator: %+v", a)
	}
}

// TestRedisKeysEnd: keys don't outlive what they say; and a value from the future
// of a clock that was set back is an empty bucket, not a locked one.
func TestRedisKeysEnd(t *testing.T) {
	s := newServer(t)
	b, err := NewRedis(RedisConfig{Address: s.address(), Timeout: 5 * time.Second, Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.Take(ctx, []Ask{{Key: "r", Cost: 3, Interval: time.Minute, Burst: 5}, {Key: "q", Cost: 1, Limit: 5, Until: time.Now().Unix() + 100}}); err != nil {
		t.Fatal(err)
	}
	number := func(args ...string) time.Duration {
		t.Helper()
		n, err := b.do(ctx, args...)
		if err != nil || len(n) != 1 {
			t.Fatal(n, err)
		}
		return time.Duration(n[0])
	}
	if d := number("PTTL", "sidegate:r") * time.Millisecond; d <= 2*time.Minute || d > 3*time.Minute+2*time.Millisecond {
		t.Errorf("the rate's key ends in %v", d)
	}
	if d := number("TTL", "sidegate:q") * time.Second; d < keepQuota*time.Second || d > (keepQuota+100)*time.Second {
		t.Errorf("the quota's key ends in %v", d)
	}
	if _, err := b.do(ctx, "SET", "sidegate:r", "9000000000000000"); err != nil {
		t.Fatal(err)
	}
	a := []Ask{{Key: "r", Cost: 1, Interval: time.Minute, Burst: 5}}
	if err := b.Take(ctx, a); err != nil || a[0].OK || a[0].Full != 5*time.Minute {
		t.Errorf("after a step of Redis's clock: %+v, %v", a, err)
	}
	// From then on it fills again, though it was refused.
	if d := number("PTTL", "sidegate:r") * time.Millisecond; d <= 4*time.Minute || d > 5*time.Minute+2*time.Millisecond {
		t.Errorf("the key from the future ends in %v", d)
	}
	a = []Ask{{Key: "short", Cost: 1, Interval: time.Nanosecond * 125, Burst: 1}}
	if err := b.Take(ctx, a); err != nil || a[0].Full != 125 {
		t.Errorf("a short bucket: %+v, %v", a, err)
	}
}

// TestRedisDown: a server that is killed, that hangs, or that refuses to write
// costs the requests under way their deadline and the others nothing; when it is
// back, the nodes are, too.
func TestRedisDown(t *testing.T) {
	s := newServer(t)
	b, err := NewRedis(RedisConfig{Address: s.address(), Timeout: 200 * time.Millisecond, Connections: 8})
	if err != nil {
		t.Fatal(err)
	}
	f, hook := newFleet(t, b, 200*time.Millisecond)
	take := func() error { return f.Take([]Ask{{Key: "a", Cost: 1, Interval: time.Millisecond, Burst: 1_000_000}}) }
	set := func(n string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.do(ctx, "CONFIG", "SET", "min-replicas-to-write", n); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name      string
		down, up_ func()
	}{
		{"killed", s.kill, s.start},
		{"hangs", func() { s.signal(syscall.SIGSTOP) }, func() { s.signal(syscall.SIGCONT) }},
		{"writes nothing", func() { set("1") }, func() { set("0") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			up(t, f)
			for end := time.Now().Add(20 * time.Second); take() != nil; { // the connections from before may be dead
				if time.Now().After(end) {
					t.Fatal("it doesn't answer")
				}
			}
			tt.down()
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() { _ = take() })
			}
			wg.Wait()
			if err := take(); err != ErrDown { //nolint:errorlint // at once, without a question
				t.Errorf("Take = %v, want %v", err, ErrDown)
			}
			alone := f.Alone()
			for range 10_000 {
				_ = take()
			}
			if n := f.Alone() - alone; n != 10_000 {
				t.Errorf("%d of 10000 requests were decided alone", n)
			}
			tt.up_()
			up(t, f)
		})
	}
	warned, back := 0, 0
	for _, e := range hook.AllEntries() {
		if e.Level == logrus.WarnLevel {
			warned++
		} else {
			back++
		}
	}
	if warned == 0 || back == 0 || warned > 12 {
		t.Errorf("the log says %d times that it's down, %d times that it's back", warned, back)
	}
	if f.Failures() == 0 {
		t.Error("no failure is counted")
	}
}

// TestRedisIdle: a connection that the server has closed meanwhile costs nothing.
func TestRedisIdle(t *testing.T) {
	s := newServer(t)
	a, b := redisFleet(t, RedisConfig{Address: s.address()}), redisFleet(t, RedisConfig{Address: s.address()})
	ask := []Ask{{Key: "a", Cost: 1, Interval: time.Microsecond, Burst: 1000}}
	for range 5 {
		if err := a.Take(ask); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		// All others', and waits until it is so.
		n, err := b.now.Load().Backend.(*Redis).do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		cancel()
		if err != nil || len(n) != 1 || n[0] == 0 {
			t.Fatalf("killed %v, %v", n, err)
		}
		idle := a.now.Load().Backend.(*Redis).idle
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // the end is on its way
			c := <-idle
			gone := c.dead()
			idle <- c
			if gone {
				break
			}
			if time.Now().After(end) {
				t.Fatal("a connection that was killed lives")
			}
		}
	}
	if err := a.Take(ask); err != nil || a.Failures() != 0 {
		t.Errorf("%v, %d failures", err, a.Failures())
	}
}

// TestGreet: a server that isn't there is found out before the first request, once
// somebody wants it.
func TestGreet(t *testing.T) {
	s := newServer(t)
	s.kill()
	r, err := NewRedis(RedisConfig{Address: s.address(), Timeout: time.Second, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := newFleet(t, r, time.Second)
	if name, outage := f.Status(); name != "" || outage != nil {
		t.Errorf("nobody wants it, and it is %q, %v", name, outage)
	}
	f.Want()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		name, outage := f.Status()
		if outage != nil && name == "test" && strings.Contains(outage.Error, "refused") && !outage.Since.IsZero() {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("Status = %q, %+v", name, outage)
		}
	}
	s.start()
	up(t, f)
}

// TestBusy: when all connections are in use for too long, a request is on its
// own, and the others aren't.
func TestBusy(t *testing.T) {
	s := newServer(t)
	r, err := NewRedis(RedisConfig{Address: s.address(), Timeout: time.Second, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := newFleet(t, r, 20*time.Millisecond)
	r.places <- struct{}{}
	ask := []Ask{{Key: "a", Cost: 1, Interval: time.Microsecond, Burst: 1000}}
	if err := f.Take(ask); err == nil || !strings.Contains(err.Error(), "no connection is free") {
		t.Errorf("Take = %v", err)
	}
	if ok, _ := f.Up(); !ok || f.Failures() != 0 || f.Alone() != 1 {
		t.Errorf("up %v, %d failures, %d alone", ok, f.Failures(), f.Alone())
	}
}

func BenchmarkRedis(b *testing.B) {
	s := newServer(b)
	f := redisFleet(b, RedisConfig{Address: s.address()})
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Take([]Ask{{Key: "a", Cost: 1, Interval: time.Microsecond, Burst: 1_000_000}}); err != nil {
			b.Fatal(err)
		}
	}
}
