package consul

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
)

// fleet is many watches, each of one service.
type fleet struct {
	known   []atomic.Int32 // instances by service; -1 before the first report
	updates atomic.Int64
	stop    func()
}

func serviceName(i int) string { return fmt.Sprintf("service-%04d", i) }

// manyServices is how many a test of many uses: the race detector takes ten
// times the CPU.
func manyServices() int {
	if testing.Short() || raceEnabled {
		return 400
	}
	return 2000
}

// watchFleet watches n services.
func watchFleet(src discovery.Source, n int) *fleet {
	f := &fleet{known: make([]atomic.Int32, n)}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i := range n {
		f.known[i].Store(-1)
		all.Go(func() {
			err := src.Watch(ctx, discovery.Query{Service: serviceName(i)}, func(set []discovery.Instance) {
				f.known[i].Store(int32(len(set)))
				f.updates.Add(1)
			})
			if err != nil {
				panic(err)
			}
		})
	}
	f.stop = func() { cancel(); all.Wait() }
	return f
}

// all says whether each service has n instances.
func (f *fleet) all(n int) func() bool {
	return func() bool {
		for i := range f.known {
			if int(f.known[i].Load()) != n {
				return false
			}
		}
		return true
	}
}

func (f *fake) setMany(services, instances int) {
	set := some(instances)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range services {
		f.index++
		f.services[serviceName(i)] = &fakeService{index: f.index, instances: set}
	}
	f.wake()
}

// connections is how many there were at once at most.
func (f *fake) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.maxConns
}

// 2,000 services with 10,000 instances over plain HTTP: 100 block, the others
// share a pulse, and the agent's 200 connections are never used up.
func TestManyServicesPlain(t *testing.T) {
	services := manyServices()
	f := startFake(t)
	f.setMany(services, 5)
	c := newClient(t, f.URL, "")
	begun := time.Now()
	fl := watchFleet(c, services)
	defer fl.stop()
	eventually(t, "all services are known", fl.all(5))
	t.Logf("%d services, %d instances known after %v, %d requests", services, 5*services, time.Since(begun), f.requests.Load())

	// One change costs one read of that service, beside the pulse.
	before, updates := f.requests.Load(), fl.updates.Load()
	begun = time.Now()
	f.set(serviceName(services-1), some(7))
	eventually(t, "the change of one service", func() bool { return fl.known[services-1].Load() == 7 })
	t.Logf("change to update: %v, %d requests", time.Since(begun), f.requests.Load()-before)
	if n := fl.updates.Load() - updates; n != 1 {
		t.Errorf("%d updates for one change, want 1", n)
	}
	if n := f.connections(); n > 150 {
		t.Errorf("%d connections at once, want at most 150 of the agent's 200", n)
	}
	t.Logf("%d connections at once at most", f.connections())
	shared := 0
	for _, s := range c.Status() {
		if s.Shared {
			shared++
		}
	}
	if want := services - maxBlockingPlain; shared != want {
		t.Errorf("%d watches share, want %d", shared, want)
	}

	f.failWith(status(500, "No cluster leader"))
	eventually(t, "the client notices", func() bool { ok, _ := c.Connected(); return !ok })
	f.failWith(nil)
	f.setMany(services, 6)
	eventually(t, "all services after an outage", fl.all(6))
}

// The same over HTTP/2: every service blocks, on few connections.
func TestManyServicesHTTP2(t *testing.T) {
	services := manyServices()
	f := newFake(t)
	f.EnableHTTP2 = true
	f.StartTLS()
	f.setMany(services, 5)
	c := newClient(t, f.URL, "", f.trust(t))
	begun := time.Now()
	fl := watchFleet(c, services)
	defer fl.stop()
	eventually(t, "all services are known", fl.all(5))
	t.Logf("%d services, %d instances known after %v", services, 5*services, time.Since(begun))
	begun = time.Now()
	f.set(serviceName(services-1), some(7))
	eventually(t, "the change of one service", func() bool { return fl.known[services-1].Load() == 7 })
	t.Logf("change to update: %v", time.Since(begun))
	if n := f.connections(); n > 50 {
		t.Errorf("%d connections at once, want at most 50", n)
	}
	t.Logf("%d connections at once at most", f.connections())
	for _, s := range c.Status() {
		if s.Shared {
			t.Errorf("%s shares", s.What)
		}
	}
}

// trust lets the client believe the fake's certificate.
func (f *fake) trust(t *testing.T) func(*Client) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	pemCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	if err := os.WriteFile(file, pemCA, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *Client) {
		c.conf.TLSConfig.CAFile = file
		if err := c.connect(); err != nil {
			t.Fatal(err)
		}
	}
}

// An https agent without HTTP/2 gets no more connections than a plain one.
func TestHTTPSWithoutHTTP2(t *testing.T) {
	f := newFake(t)
	f.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	f.StartTLS()
	f.setMany(200, 1)
	c := newClient(t, f.URL, "", f.trust(t))
	fl := watchFleet(c, 200)
	defer fl.stop()
	eventually(t, "all services are known", fl.all(1))
	f.set(serviceName(7), some(2))
	eventually(t, "a change", func() bool { return fl.known[7].Load() == 2 })
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if c.gate.limit != maxBlockingPlain {
		t.Errorf("limit = %d, want %d", c.gate.limit, maxBlockingPlain)
	}
}

// A 429 makes us block less, and the watches go on by sharing.
func TestTooManyConnections(t *testing.T) {
	f := startFake(t)
	f.setMany(60, 2)
	c := newClient(t, f.URL, "")
	fl := watchFleet(c, 60)
	defer fl.stop()
	eventually(t, "all services are known", fl.all(2))
	f.failWith(status(429, "Your IP is issuing too many concurrent connections"))
	eventually(t, "some refusals", func() bool { return f.failures.Load() > 60 })
	f.failWith(nil)
	f.setMany(60, 3)
	eventually(t, "all services after the refusals", fl.all(3))
	c.gate.mu.Lock()
	limit := c.gate.limit
	c.gate.mu.Unlock()
	if limit >= maxBlockingPlain || limit < minBlocking {
		t.Errorf("limit = %d, want fewer than %d", limit, maxBlockingPlain)
	}
}

// What neither checks nor tags show is found by the sweep.
func TestSweep(t *testing.T) {
	f := startFake(t)
	f.setMany(20, 2)
	c := newClient(t, f.URL, "", func(c *Client) {
		c.gate.max, c.gate.limit = 2, 2
		c.times.sweep = 10 * time.Millisecond
	})
	fl := watchFleet(c, 20)
	defer fl.stop()
	eventually(t, "all services are known", fl.all(2))
	// The checks say nothing new: state/any hides the change.
	f.failWith(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "health/state") {
			return false
		}
		w.Header().Set("X-Consul-Index", "1")
		_, _ = w.Write([]byte("[]")) // the client may have gone
		return true
	})
	f.setMany(20, 3)
	eventually(t, "all services by the sweep", fl.all(3))
}

// A smaller fleet on a real agent, most of it sharing.
func TestAgentManyServices(t *testing.T) {
	const services, instances = 250, 4
	a := newAgent(t, false, "")
	// A node of its own: what the agent's node has is put right by the agent.
	a.put(t, "PUT", "catalog/register", "", `{"Node":"ext","Address":"10.7.7.7"}`)
	for i := range services {
		var ops []string
		for j := range instances {
			ops = append(ops, fmt.Sprintf(`{"Service":{"Verb":"set","Node":"ext","Service":{"ID":"s%d-%d","Service":%q,"Port":%d}}}`, i, j, serviceName(i), 1000+j))
			ops = append(ops, fmt.Sprintf(`{"Check":{"Verb":"set","Check":{"Node":"ext","CheckID":"c%d-%d","ServiceID":"s%d-%d","Status":"passing"}}}`, i, j, i, j))
		}
		a.put(t, "PUT", "txn", "", "["+strings.Join(ops, ",")+"]")
	}
	c := newClient(t, a.address(), "", func(c *Client) { c.times.sweep = 50 * time.Millisecond })
	begun := time.Now()
	fl := watchFleet(c, services)
	defer fl.stop()
	eventually(t, "all services are known", fl.all(instances))
	t.Logf("%d services known after %v", services, time.Since(begun))

	shared := slices.IndexFunc(c.Status(), func(s WatchStatus) bool { return s.Shared })
	name := strings.TrimPrefix(c.Status()[shared].What, "service ")
	r := discoverytest.Watch(t, c, discovery.Query{Service: name})
	var i int
	if _, err := fmt.Sscanf(name, "service-%d", &i); err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	a.put(t, "PUT", "txn", "", fmt.Sprintf(`[{"Check":{"Verb":"set","Check":{"Node":"ext","CheckID":"c%d-0","ServiceID":"s%d-0","Status":"critical"}}}]`, i, i))
	r.Await(t, "a failing check through the pulse", has(fmt.Sprintf("s%d-0", i), func(in discovery.Instance) bool { return in.Health == discovery.Critical }))
	t.Logf("failing check to update through the pulse: %v", time.Since(begun))
	a.put(t, "PUT", "txn", "", fmt.Sprintf(`[{"Service":{"Verb":"set","Node":"ext","Service":{"ID":"s%d-1","Service":%q,"Port":7777}}}]`, i, name))
	r.Await(t, "a changed port through the sweep", has(fmt.Sprintf("s%d-1", i), func(in discovery.Instance) bool { return in.Address == "10.7.7.7:7777" }))
	a.put(t, "PUT", "txn", "", `[{"Check":{"Verb":"set","Check":{"Node":"ext","CheckID":"node-check","Status":"critical"}}}]`)
	r.Await(t, "a failing node check through the pulse", func(s []discovery.Instance) bool {
		return !slices.ContainsFunc(s, func(in discovery.Instance) bool { return in.Health != discovery.Critical })
	})
}

// BenchmarkParse is one answer of five instances.
func BenchmarkParse(b *testing.B) {
	body := healthBody("web", some(5))
	local := func(string, string, string) bool { return false }
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(body, local); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFleet is 2,000 services with 10,000 instances from nothing to
// known, and the changes of one after that.
func BenchmarkFleet(b *testing.B) {
	const services = 2000
	f := startFake(b)
	f.setMany(services, 5)
	await := func(done func() bool) {
		for !done() {
			runtime.Gosched()
			<-time.After(100 * time.Microsecond)
		}
	}
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			fl := watchFleet(newClient(b, f.URL, ""), services)
			await(fl.all(5))
			fl.stop()
		}
	})
	b.Run("change", func(b *testing.B) {
		c := newClient(b, f.URL, "")
		fl := watchFleet(c, services)
		defer fl.stop()
		await(fl.all(5))
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
		n := 5
		for b.Loop() {
			n = 11 - n
			f.set(serviceName(1), some(n))
			await(func() bool { return int(fl.known[1].Load()) == n })
		}
	})
}
