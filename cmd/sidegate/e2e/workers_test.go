package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// workersEnv makes this test's binary a backend of its own process, on the
// address in the variable.
const workersEnv = "SIDEGATE_E2E_WORKERS"

const (
	workers  = 4
	workTime = 20 * time.Millisecond // of a worker for a request
)

// workerStats are what the backend has seen since it was last asked.
type workerStats struct {
	Served  int
	Idle    int // requests after which their worker had nothing to do
	Ahead99 int // requests that were there before another one came: the 99th percentile
}

// serveWorkers is a backend with a fixed number of workers, whose latency grows
// with the requests that it is given at once.
func serveWorkers(address string) error {
	var mu sync.Mutex
	var st workerStats
	var ahead []int
	present := 0
	free := make(chan struct{}, workers)
	mux := http.NewServeMux()
	mux.HandleFunc("/stats", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if len(ahead) > 0 {
			slices.Sort(ahead)
			st.Ahead99 = ahead[len(ahead)*99/100]
		}
		_ = json.NewEncoder(w).Encode(st)
		if r.URL.Query().Has("reset") {
			st, ahead = workerStats{}, nil
		}
	})
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		ahead = append(ahead, present)
		present++
		mu.Unlock()
		free <- struct{}{}
		<-time.After(workTime) // the work
		<-free
		mu.Lock()
		present--
		st.Served++
		if present < workers {
			st.Idle++
		}
		mu.Unlock()
	})
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return http.Serve(l, mux)
}

// workerBackend is that backend, running.
type workerBackend struct{ address string }

func newWorkers(t *testing.T) *workerBackend {
	t.Helper()
	real(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	port := ports(t, 1)[0]
	b := &workerBackend{address: fmt.Sprintf("127.0.0.1:%d", port)}
	start(t, "/usr/bin/env", workersEnv+"="+b.address, self)
	eventually(t, "the backend", func() error { return dial(port) })
	return b
}

// stats waits until n requests have been served since it was last called.
func (b *workerBackend) stats(t *testing.T, n int) workerStats {
	t.Helper()
	var st workerStats
	read := func(query string) error {
		resp, err := http.Get("http://" + b.address + "/stats" + query)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&st)
	}
	if err := read("?reset"); err != nil {
		t.Fatal(err)
	}
	eventually(t, fmt.Sprintf("%d requests", n), func() error {
		if err := read(""); err != nil || st.Served < n {
			return fmt.Errorf("%+v: %w", st, err)
		}
		return nil
	})
	return st
}

// crowd is clients that send one request after another.
type crowd struct {
	end  chan struct{}
	done sync.WaitGroup

	mu  sync.Mutex
	got map[string]map[int]int // statuses, by host
}

func newCrowd(t *testing.T, g *gateway, clients map[string]int) *crowd {
	t.Helper()
	c := &crowd{end: make(chan struct{})}
	c.counts()
	for host, n := range clients {
		for range n {
			cl := g.client(false)
			c.done.Go(func() {
				defer cl.CloseIdleConnections()
				c.run(t, cl, host)
			})
		}
	}
	t.Cleanup(func() {
		close(c.end)
		c.done.Wait()
	})
	return c
}

func (c *crowd) run(t *testing.T, cl *http.Client, host string) {
	for {
		select {
		case <-c.end:
			return
		default:
		}
		resp, err := cl.Get("https://" + host + "/")
		if err != nil {
			t.Errorf("%s: %v", host, err)
			return
		}
		_ = resp.Body.Close()
		c.mu.Lock()
		if c.got[host] == nil {
			c.got[host] = map[int]int{}
		}
		c.got[host][resp.StatusCode]++
		c.mu.Unlock()
		if resp.StatusCode == 503 {
			select {
			case <-time.After(workTime): // a client that waits before it tries again
			case <-c.end:
			}
		}
	}
}

// counts returns what was answered since it was last called.
func (c *crowd) counts() map[string]map[int]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	c.got = map[string]map[int]int{}
	return got
}

// share is the part of a host's requests that were answered with 200.
func share(got map[string]map[int]int, host string) float64 {
	return float64(got[host][200]) / float64(max(got[host][200]+got[host][503], 1))
}

const adaptiveBlocks = `
service "work" {
  instances = [%q]
  limits { adaptive = %t }
}
plan "cheap" { priority = "low" }
route "low" {
  hosts    = ["low.test"]
  service  = "work"
  priority = "low"
}
route "normal" {
  hosts   = ["normal.test"]
  service = "work"
}
route "high" {
  hosts    = ["high.test"]
  service  = "work"
  priority = "high"
}
`

// TestAdaptive: a backend that gets ten times what it can do. With the adaptive
// limit its workers are busy, and nearly nobody waits for long; without it,
// everybody does. Who matters less is shed first.
func TestAdaptive(t *testing.T) {
	b := newWorkers(t)
	g := newGateway(t, fmt.Sprintf(adaptiveBlocks, b.address, true)).start(t)
	const inRow, window = 3, 200
	c := newCrowd(t, g, map[string]int{"low.test": 20, "normal.test": 20, "high.test": 1})
	good := 0
	for round := 0; good < inRow; round++ {
		c.counts()
		st := b.stats(t, window)
		got := c.counts()
		low, normal, high := share(got, "low.test"), share(got, "normal.test"), share(got, "high.test")
		t.Logf("%+v, answered %.2f low, %.2f normal, %.2f high", st, low, normal, high)
		good++
		if st.Ahead99 > 5*workers || st.Idle > window/5 || high < 0.95 || low > normal || low > 0.1 {
			good = 0 // it hasn't found its limit yet, or the machine is busy with something else
		}
		if round == 60 {
			t.Fatal("the limit isn't found")
		}
	}
	for _, cl := range g.clients(t) { // each protocol's refusal
		eventually(t, cl.name+": a refusal", func() error {
			resp, body := send(t, cl, cl.scheme+"://low.test/")
			if resp.StatusCode != 503 {
				return fmt.Errorf("%s", resp.Status)
			}
			wantProblem(t, resp, body, 503, "service-overloaded")
			if resp.Header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After: %v", cl.name, resp.Header)
			}
			return nil
		})
	}
	metrics, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`sidegate_adaptive_limit{service="work"}`, `sidegate_shed_total{priority="low",service="work"}`} {
		if !strings.Contains(metrics, want) || strings.Contains(metrics, want+" 0\n") {
			t.Errorf("no %s", want)
		}
	}
	if out, code := run(t, "status", "-config", g.config()); code != 0 || !strings.Contains(out, "ADAPTIVE LIMIT") {
		t.Errorf("status (%d):\n%s", code, out)
	}
	if out, code := run(t, "explain", "-config", g.config(), "https://low.test/"); code != 0 || !strings.Contains(out, "priority   low") || !strings.Contains(out, "adaptive limit ") {
		t.Errorf("explain (%d):\n%s", code, out)
	}

	g.configure(t, fmt.Sprintf(adaptiveBlocks, b.address, false))
	eventually(t, "everybody waits without the limit", func() error {
		if st := b.stats(t, window); st.Ahead99 < 30 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}
