package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
)

// handOver has the gateway pass on to a new process, and returns the ids of both.
func (g *gateway) handOver(t *testing.T) (old, now int) {
	t.Helper()
	out, code := run(t, "handover", "-config", filepath.Dir(g.config()))
	m := regexp.MustCompile(`\(pid (\d+)\) serves.*\(pid (\d+)\)`).FindStringSubmatch(out)
	if code != 0 || m == nil {
		t.Fatalf("handover: %d %s", code, out)
	}
	now, _ = strconv.Atoi(m[1])
	old, _ = strconv.Atoi(m[2])
	t.Cleanup(func() {
		if owns(now, g.dir) {
			_ = syscall.Kill(now, syscall.SIGKILL)
		}
	})
	return old, now
}

// owns reports whether a process is a gateway of this folder.
func owns(pid int, dir string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(text), dir)
}

// ends waits until a process has ended.
func (g *gateway) ends(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the process ends", func() error {
		if owns(pid, g.dir) {
			return fmt.Errorf("%d runs", pid)
		}
		return nil
	})
}

// yieldLoad is what clients have seen.
type yieldLoad struct {
	sent, served, failed, broken atomic.Int64

	mu       sync.Mutex
	complete map[string]bool
	first    string // what went wrong
}

func (l *yieldLoad) wrong(format string, args ...any) {
	l.broken.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == "" {
		l.first = fmt.Sprintf(format, args...)
	}
}

// client asks again and again. Each asks once in a while by a connection of its own.
func (l *yieldLoad) client(ctx context.Context, g *gateway, h2 bool) {
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}}
	defer c.CloseIdleConnections()
	for n := 1; ctx.Err() == nil; n++ {
		// A GET that a process which is killed has begun to answer would be sent once more.
		r, err := http.NewRequest("POST", fmt.Sprintf("https://127.0.0.1:%d/", g.https), nil)
		if err != nil {
			panic(err) // it is right
		}
		r.Host = "paid.test"
		r.Header.Set("X-Api-Key", acmeKey)
		l.sent.Add(1)
		resp, err := c.Do(r)
		if err != nil {
			l.wrong("%v", err)
			time.Sleep(10 * time.Millisecond) // nobody may be there
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		switch {
		case err != nil:
			l.wrong("a body: %v", err)
		case resp.StatusCode == 200:
			l.served.Add(1)
			l.mu.Lock()
			l.complete[resp.Header.Get("X-Id")] = true
			l.mu.Unlock()
		case resp.StatusCode == 500:
			l.failed.Add(1)
		default:
			l.wrong("status %d", resp.StatusCode)
		}
		if n%50 == 0 {
			c.CloseIdleConnections()
		}
	}
}

const yieldConfig = `
cache {
  memory = "2MiB"
  disk   = "64MiB"
}
usage { flush = "1s" }
route "paid" {
  hosts   = ["paid.test"]
  service = "one"
  auth "api_key" {}
  quota { limit = "10000000/day" }
  charge {
    meter   = "m"
    service = "billing"
    mode    = %q
    lease   = "100"
    timeout = "5s"
  }
}
route "stored" {
  hosts   = ["stored.test"]
  service = "stored"
  cache { max_object = "1MiB" }
}
route "slow" {
  hosts   = ["slow.test"]
  service = "stored"
  rate_limit {
    rate  = "1/h"
    burst = 5
  }
}
service "stored" { instances = [%q] }
`

// TestYieldUnderLoad: while clients pay for what they ask, one process after the other
// takes over, and one is killed while it drains. No request fails, and what was
// charged, used and stored is the same as if one process had done it all.
func TestYieldUnderLoad(t *testing.T) {
	for _, mode := range []string{"event", "reserve", "lease"} {
		t.Run(mode, func(t *testing.T) { yieldUnderLoad(t, mode) })
	}
}

func yieldUnderLoad(t *testing.T, mode string) {
	bill := newBiller(t)
	bill.fault = func(*http.Request) chargetest.Fault { return chargetest.Fault{Twice: rand.N(100) < 5} }
	bill.live()
	origin := twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Id", r.Header.Get("X-Request-Id"))
		time.Sleep(rand.N(5 * time.Millisecond)) // as services do
		if rand.N(10) == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = w.Write(make([]byte, 2000))
	}))
	var fetched atomic.Int64
	stored := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = w.Write(make([]byte, 500_000))
	}))
	defer stored.Close()
	g := newGateway(t, origin+bill.block()+fmt.Sprintf(yieldConfig, mode, stored.Listener.Addr())).start(t)
	for range 5 {
		if s := g.status2(t, "slow.test", "/"); s != 200 {
			t.Fatalf("status %d", s)
		}
	}
	before := fetched.Load()
	for n := range 20 {
		g.status2(t, "stored.test", fmt.Sprint("/", n))
	}
	if n := fetched.Load() - before; n != 20 {
		t.Fatalf("%d of 20 were fetched", n)
	}
	eventually(t, "answers are on the disk", func() error {
		for n := range 20 { // one that the disk was too slow for is fetched again
			g.status2(t, "stored.test", fmt.Sprint("/", n))
		}
		if n := len(g.cacheFiles(t)); n < 20 {
			return fmt.Errorf("%d files", n)
		}
		return nil
	})
	t.Cleanup(func() { killAll(g.dir) })
	load := &yieldLoad{complete: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() { load.client(ctx, g, i%2 == 0) })
	}
	progress := func() {
		t.Helper()
		from := load.served.Load()
		eventually(t, "requests are served", func() error {
			if n := load.served.Load() - from; n < 100 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	progress()
	var pids []int
	for range 6 {
		old, _ := g.handOver(t)
		pids = append(pids, old)
		if s := g.status2(t, "slow.test", "/"); s != 429 {
			t.Errorf("a client whose bucket was empty gets %d from the process that took over", s)
		}
		eventually(t, "the folder of the cache is read", func() error {
			text, err := g.get("/api/cache")
			if err == nil && !strings.Contains(text, `"reading": false`) {
				err = errors.New(text)
			}
			return err
		})
		fetches := fetched.Load()
		for n := range 20 {
			if s := g.status2(t, "stored.test", fmt.Sprint("/", n)); s != 200 {
				t.Errorf("status %d", s)
			}
		}
		if n := fetched.Load() - fetches; n > 0 {
			t.Errorf("%d of 20 answers on the disk were fetched anew", n)
		}
		progress()
	}
	stop()
	clients.Wait()
	for _, pid := range pids {
		g.ends(t, pid)
	}
	g.balanced(t, bill, load, mode)
}

// status2 is the status of an answer over a connection of its own.
func (g *gateway) status2(t *testing.T, host, path string) int {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d%s", g.http, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// balanced compares what clients have seen with what was charged, used and counted.
func (g *gateway) balanced(t *testing.T, bill *biller, load *yieldLoad, mode string) {
	t.Helper()
	eventually(t, "what the old processes charged is taken in", func() error {
		var s struct{ Draining int }
		g.charges(t, "/status", &s)
		if s.Draining > 0 {
			return fmt.Errorf("%d drain", s.Draining)
		}
		return nil
	})
	g.told(t)
	ours, served := g.units(t), load.served.Load()
	if ours != fmt.Sprint(served) {
		t.Errorf("%s units were charged for %d answers", ours, served)
	}
	var used []quotaUse
	eventually(t, "what the old processes counted is taken in", func() error {
		used = g.quotas(t, "")
		if len(used) != 1 || used[0].Used != load.sent.Load() {
			return fmt.Errorf("%+v, want %d", used, load.sent.Load())
		}
		return nil
	})
	eventually(t, "usage is stored", func() error {
		text, err := g.get("/api/usage?by=route")
		if err != nil {
			return err
		}
		var u struct {
			Rows []struct {
				Route    string
				Requests int64
			}
		}
		if err := json.Unmarshal([]byte(text), &u); err != nil {
			return err
		}
		for _, r := range u.Rows {
			if r.Route == "paid" && r.Requests == load.sent.Load() {
				return nil
			}
		}
		return fmt.Errorf("%s, want %d", text, load.sent.Load())
	})
	t.Logf("%d sent, %d served, %d failed at the service, %d broken", load.sent.Load(), served, load.failed.Load(), load.broken.Load())
	if load.broken.Load() > 0 {
		t.Errorf("%d requests failed; the first: %s", load.broken.Load(), load.first)
	}
	if mode == "lease" {
		old, _ := g.handOver(t) // whose leases go back, when it has ended
		g.ends(t, old)
		return
	}
	if theirs := bill.now().Units("", ""); theirs != ours {
		t.Errorf("%s units were charged here, and %s there", ours, theirs)
	}
	charges := bill.now().Requests()
	for id := range load.complete {
		if charges[id] != 1 {
			t.Errorf("request %s was answered, and charged %d times", id, charges[id])
		}
	}
	if n := bill.now().Count("reserved"); n > 0 {
		t.Errorf("%d reservations have no outcome", n)
	}
	if out, code := run(t, "charges", "reconcile", "-config", filepath.Dir(g.config())); code != 0 {
		t.Errorf("reconcile: %s", out)
	}
}

// TestYieldKilled: the new process is killed while it takes over, or the old one while
// it drains, under load. What no client has seen the end of may be charged, once, and
// nothing else differs.
func TestYieldKilled(t *testing.T) {
	for _, mode := range []string{"reserve", "lease"} {
		t.Run(mode, func(t *testing.T) { yieldKilled(t, mode) })
	}
}

func yieldKilled(t *testing.T, mode string) {
	bill := newBiller(t).live()
	origin := twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Id", r.Header.Get("X-Request-Id"))
		time.Sleep(rand.N(20 * time.Millisecond)) // as services do
		_, _ = w.Write(make([]byte, 2000))
	}))
	g := newGateway(t, origin+bill.block()+fmt.Sprintf(yieldConfig, mode, "127.0.0.1:1")).start(t)
	t.Cleanup(func() { killAll(g.dir) })
	load := &yieldLoad{complete: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() { load.client(ctx, g, i%2 == 0) })
	}
	went, failed, dead := 0, 0, 0
	now := g.cmd.Process.Pid
	for n := range 12 {
		time.Sleep(rand.N(200 * time.Millisecond))
		if n%3 == 2 { // the old one
			old, next := g.handOver(t)
			now = next
			time.Sleep(rand.N(30 * time.Millisecond))
			if owns(old, g.dir) {
				_ = syscall.Kill(old, syscall.SIGKILL)
			}
			continue
		}
		before := g.child()
		ended := make(chan int, 1)
		go func() { // ends with the command, which has a time
			_, code := run(t, "handover", "-config", filepath.Dir(g.config()))
			ended <- code
		}()
		child := before
		for end := time.Now().Add(10 * time.Second); child == before && time.Now().Before(end); time.Sleep(time.Millisecond) {
			child = g.child()
		}
		if n%3 == 1 { // else at once
			time.Sleep(rand.N(100 * time.Millisecond))
		}
		if child != before && owns(child, g.dir) {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
		if code := <-ended; code == 0 {
			went++
			now = child
		} else {
			failed++
		}
		if code := g.status3(); code != 200 { // it had taken over already
			dead++
			g.ends(t, now)
			g.start(t)
			now = g.cmd.Process.Pid
		}
	}
	stop()
	clients.Wait()
	eventually(t, "what the old processes charged is taken in", func() error {
		var s struct{ Draining int }
		g.charges(t, "/status", &s)
		if s.Draining > 0 {
			return fmt.Errorf("%d drain", s.Draining)
		}
		return nil
	})
	g.told(t)
	_ = syscall.Kill(now, syscall.SIGTERM)
	g.ends(t, now)
	g.start(t)
	g.told(t)
	ours, theirs := g.units(t), bill.now().Units("", "")
	served, unsure := load.served.Load(), load.broken.Load()
	t.Logf("%d served, %d unsure; %d handovers went well, %d failed, %d new processes died after; %s units here, %s there", served, unsure, went, failed, dead, ours, theirs)
	if ours != theirs {
		t.Errorf("%s units were charged here, and %s there", ours, theirs)
	}
	var units int64
	if _, err := fmt.Sscan(theirs, &units); err != nil || units < served || units > served+unsure {
		t.Errorf("%s units were charged for %d answers, and %d that nobody knows of", theirs, served, unsure)
	}
	if failed == 0 {
		t.Error("no new process was killed in time")
	}
	charges := bill.now().Requests()
	for id := range load.complete {
		if n := charges[id]; mode != "lease" && n != 1 {
			t.Errorf("request %s was answered, and charged %d times", id, n)
		}
	}
	if n := bill.now().Count("reserved"); n > 0 {
		t.Errorf("%d reservations have no outcome", n)
	}
}

// killAll kills what is left of a gateway.
func killAll(dir string) {
	list, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range list {
		if pid, _ := strconv.Atoi(filepath.Base(p)); pid != os.Getpid() && owns(pid, dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// child is the process that was started last to take over; 0: none was.
func (g *gateway) child() int {
	all := regexp.MustCompile(`"a new process was started[^\n]*"pid":(\d+)`).FindAllStringSubmatch(g.log.String(), -1)
	if len(all) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(all[len(all)-1][1])
	return pid
}

// status3 is that of /readyz, whoever answers within a second; 0: nobody.
func (g *gateway) status3() int {
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := g.get("/readyz"); err == nil {
			return 200
		}
	}
	return 0
}
