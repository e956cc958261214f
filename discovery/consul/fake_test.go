package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
)

// fake answers as an agent 1.22.7 does, in the shapes recorded from one, and
// fails in ways that an agent can't be made to fail.
type fake struct {
	*httptest.Server
	requests atomic.Int64 // all
	failures atomic.Int64 // those answered by fail

	mu       sync.Mutex // guards what follows
	changed  chan struct{}
	services map[string]*fakeService
	index    uint64 // of everything
	fail     func(w http.ResponseWriter, r *http.Request) bool
	conns    map[net.Conn]struct{}
	maxConns int // in use at once
}

type fakeService struct {
	index     uint64
	instances []discovery.Instance
	once      sync.Once
	body      []byte // of health/service
}

// health is the service's body, made once: thousands of watches ask for it.
func (s *fakeService) health(name string) []byte {
	s.once.Do(func() { s.body = healthBody(name, s.instances) })
	return s.body
}

func newFake(t testing.TB) *fake {
	f := &fake{changed: make(chan struct{}), services: make(map[string]*fakeService), index: 10, conns: make(map[net.Conn]struct{})}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.Config.ConnState = func(c net.Conn, s http.ConnState) {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch s {
		case http.StateNew:
			f.conns[c] = struct{}{}
			f.maxConns = max(f.maxConns, len(f.conns))
		case http.StateClosed, http.StateHijacked:
			delete(f.conns, c)
		}
	}
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func startFake(t testing.TB) *fake {
	f := newFake(t)
	f.Start()
	return f
}

// set replaces a service's instances.
func (f *fake) set(name string, set []discovery.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	f.services[name] = &fakeService{index: f.index, instances: slices.Clone(set)}
	f.wake()
}

// wake must be called with mu held.
func (f *fake) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// failWith lets requests be answered by fail, those that wait too; nil ends it.
func (f *fake) failWith(fail func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
	f.wake()
}

// restore puts the index back to a low value, as a restored cluster has.
func (f *fake) restore() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = 1
	for _, s := range f.services {
		s.index = 1
	}
	f.wake()
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.requests.Add(1)
	min, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64) // absent: 0
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		wait = 0
	}
	late := time.After(wait)
	for {
		f.mu.Lock()
		fail, changed := f.fail, f.changed
		index, body := f.answer(r)
		f.mu.Unlock()
		if fail != nil && fail(w, r) {
			f.failures.Add(1)
			return
		}
		if body == nil {
			http.NotFound(w, r)
			return
		}
		if min == 0 || index != min { // a lower one answers at once here, to test the rule
			w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
			w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body()) // the client may have gone
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-late:
			min = 0
		case <-changed:
		}
	}
}

// answer gives the index and body for a request; called with mu held.
func (f *fake) answer(r *http.Request) (uint64, func() []byte) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	name, isService := strings.CutPrefix(path, "health/service/")
	switch {
	case isService:
		s := f.services[name]
		if s == nil {
			s = &fakeService{index: f.index}
		}
		return s.index, func() []byte { return s.health(name) }
	case path == "health/state/any":
		return f.index, f.stateBody()
	case path == "catalog/services":
		names := map[string][]string{"consul": {}}
		for n := range f.services {
			names[n] = []string{}
		}
		return f.index, func() []byte { return marshal(names) }
	case path == "agent/self":
		return f.index, func() []byte {
			return []byte(`{"Config":{"Datacenter":"dc1","NodeName":"here","Version":"1.22.7"}}`)
		}
	case path == "internal/acl/authorize":
		return f.index, func() []byte {
			return []byte(`[{"Resource":"service","Segment":"x","Access":"read","Allow":true},{"Resource":"node","Segment":"x","Access":"read","Allow":true}]`)
		}
	}
	return 0, nil
}

func (f *fake) stateBody() func() []byte {
	services := make(map[string]*fakeService, len(f.services))
	for n, s := range f.services {
		services[n] = s
	}
	return func() []byte {
		var list []any
		for n, s := range services {
			for _, in := range s.instances {
				list = append(list, checkBody(n, in, s.index))
			}
		}
		return marshal(list)
	}
}

func marshal(v any) []byte {
	b, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		panic(err)
	}
	return b
}

func checkBody(service string, in discovery.Instance, index uint64) map[string]any {
	status := in.Health.String()
	id := "service:" + in.ID
	if in.Health == discovery.Maintenance {
		status, id = "critical", "_service_maintenance:"+in.ID
	}
	return map[string]any{"Node": "node-" + in.ID, "CheckID": id, "Name": "Service check", "Status": status,
		"Notes": "", "Output": "TCP connect 10.0.0.1:8080: Success", "ServiceID": in.ID, "ServiceName": service, "ServiceTags": in.Tags,
		"Type": "tcp", "Interval": "10s", "Timeout": "2s", "ExposedPort": 0, "Definition": map[string]any{}, "CreateIndex": 3, "ModifyIndex": index}
}

func healthBody(service string, set []discovery.Instance) []byte {
	list := []any{}
	for _, in := range set {
		host, port, err := net.SplitHostPort(in.Address)
		if err != nil {
			panic(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			panic(err)
		}
		list = append(list, map[string]any{
			"Node": map[string]any{"ID": "4990ad79-ac19-33b6-7a8b-37aac1065e16", "Node": "node-" + in.ID, "Address": host, "Datacenter": "dc1",
				"TaggedAddresses": map[string]string{"lan": host, "lan_ipv4": host, "wan": host, "wan_ipv4": host},
				"Meta":            map[string]string{"consul-network-segment": "", "consul-version": "1.22.7"}, "CreateIndex": 11, "ModifyIndex": 16},
			"Service": map[string]any{"ID": in.ID, "Service": service, "Tags": in.Tags, "Address": host, "Meta": in.Meta, "Port": n,
				"Weights": map[string]int{"Passing": in.Weight, "Warning": in.Weight}, "EnableTagOverride": false, "PeerName": "", "CreateIndex": 20, "ModifyIndex": 20},
			"Checks": []any{checkBody(service, in, 20)},
		})
	}
	return marshal(list)
}

func some(n int) []discovery.Instance {
	var set []discovery.Instance
	for i := range n {
		set = append(set, discovery.Instance{ID: fmt.Sprintf("i%d", i), Address: fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1),
			Weight: 1 + i%9, Tags: []string{"v1"}})
	}
	return set
}

func status(code int, text string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, text, code)
		return true
	}
}

func TestContract(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%v", shared), func(t *testing.T) {
			discoverytest.Run(t, func(t *testing.T) discoverytest.Subject {
				f := startFake(t)
				first := some(3)
				f.set("web", first)
				c := newClient(t, f.URL, "", func(c *Client) {
					if shared {
						c.gate.max, c.gate.limit = 0, 0
					}
				})
				return discoverytest.Subject{
					Source: c, Query: discovery.Query{Service: "web"}, First: first,
					Set:   func(_ *testing.T, set []discovery.Instance) { f.set("web", set) },
					Break: func(*testing.T) { f.failWith(status(500, "No cluster leader")) },
					Mend:  func(*testing.T) { f.failWith(nil) },
					Settled: func(t *testing.T) {
						n := f.failures.Load()
						eventually(t, "some failures", func() bool { return f.failures.Load() >= n+3 })
					},
				}
			})
		})
	}
}

// Each fault leaves the last set in place and is got over.
func TestFaults(t *testing.T) {
	body := func(content string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("X-Consul-Index", "99")
			_, _ = w.Write([]byte(content)) // the client may have gone
			return true
		}
	}
	hijack := func(do func(net.Conn)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				do(c)
				_ = c.Close() // done with
			}
			return true
		}
	}
	write := func(c net.Conn, s string) error { _, err := c.Write([]byte(s)); return err }
	tests := []struct {
		name string
		fail func(http.ResponseWriter, *http.Request) bool
		want string // in the status
	}{
		{"429", status(429, "Your IP is issuing too many concurrent connections"), "429"},
		{"500", status(500, "No cluster leader"), "No cluster leader"},
		{"403", status(403, "Permission denied"), "Permission denied"},
		{"404", status(404, "nothing"), "404"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
			return true
		}, "302"},
		{"garbage", body("<html>not consul</html>"), "can't be read"},
		{"json of another shape", body(`{"a":1}`), "can't be read"},
		{"entries of nothing", body(`[{}]`), "without service id"},
		{"wrong types", body(`[{"Node":{"Node":7}}]`), "can't be read"},
		{"truncated json", body(`[{"Node":{"Node":"n"`), "can't be read"},
		{"truncated body", hijack(func(c net.Conn) {
			_ = write(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Consul-Index: 5\r\n\r\n[{") // the client may have gone
		}), "EOF"},
		{"not http", hijack(func(c net.Conn) { _ = write(c, "SSH-2.0-OpenSSH_9.2\r\n") }), "malformed"},
		{"endless header", hijack(func(c net.Conn) {
			err := write(c, "HTTP/1.1 200 OK\r\n")
			for err == nil {
				err = write(c, "X-Filler: "+strings.Repeat("x", 8000)+"\r\n")
			}
		}), "header"},
		{"closed at once", hijack(func(net.Conn) {}), "EOF"},
		{"slow drip", func(w http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush() // ends with the context
				select {
				case <-r.Context().Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
			return true
		}, errSlow.Error()},
		{"silence", func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }, errSlow.Error()},
		{"huge", func(w http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			return true
		}, "larger than"},
		{"filtered by ACLs", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("X-Consul-Index", "7")
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
			_, _ = w.Write([]byte("[]")) // the client may have gone
			return true
		}, "filtered by ACLs"},
		{"empty to stale readers only", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Has("stale") {
				return body("[]")(w, r)
			}
			return status(500, "No cluster leader")(w, r)
		}, "No cluster leader"},
		{"empty to those who may not read", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost {
				return body(`[{"Resource":"service","Segment":"web","Allow":false},{"Resource":"node","Segment":"n","Allow":false}]`)(w, r)
			}
			return body("[]")(w, r)
		}, "proves nothing"},
		{"empty, older agent, default deny", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost {
				return status(404, "")(w, r)
			}
			w.Header().Set("X-Consul-Default-Acl-Policy", "deny")
			return body("[]")(w, r)
		}, "default policy is deny"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t)
			f.set("web", some(2))
			c := newClient(t, f.URL, "", func(c *Client) {
				c.times.answer, c.times.wait = 500*time.Millisecond, 200*time.Millisecond
				if tt.name == "huge" {
					c.times.answer = 20 * time.Second // the bound is the size, not the time
				}
			})
			r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
			r.Await(t, "both instances", func(s []discovery.Instance) bool { return len(s) == 2 })
			n := r.Count()
			f.failWith(tt.fail)
			defer func() {
				if t.Failed() {
					t.Logf("status: %+v", c.Status())
				}
			}()
			eventually(t, "the status tells of "+tt.want, statusHas(c, tt.want))
			if r.Count() != n {
				t.Errorf("reported %+v, want nothing", r.Last())
			}
			f.failWith(nil)
			f.set("web", some(3))
			r.Await(t, "the new set after the fault", func(s []discovery.Instance) bool { return len(s) == 3 })
			eventually(t, "the status is good again", func() bool { return c.Status()[0].Error == "" })
		})
	}
}

func TestIndexGoesBackwards(t *testing.T) {
	f := startFake(t)
	f.set("web", some(1))
	c := newClient(t, f.URL, "")
	r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
	r.Await(t, "the instance", func(s []discovery.Instance) bool { return len(s) == 1 })
	f.restore()
	eventually(t, "the low index is taken", func() bool { return c.Status()[0].Index == 1 })
	f.set("web", some(2))
	r.Await(t, "the change after that", func(s []discovery.Instance) bool { return len(s) == 2 })
	if r.Count() != 2 {
		t.Errorf("%d reports, want 2: an index alone is no change", r.Count())
	}
}

// Without an index there is nothing to block on; the agent mustn't be flooded.
func TestNoIndex(t *testing.T) {
	for _, index := range []string{"", "0", "-5", "rubbish"} {
		t.Run("index "+index, func(t *testing.T) {
			f := startFake(t)
			c := newClient(t, f.URL, "")
			f.failWith(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "health/service") {
					return false
				}
				if index != "" {
					w.Header().Set("X-Consul-Index", index)
				}
				_, _ = w.Write(healthBody("web", some(2))) // the client may have gone
				return true
			})
			r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
			r.Await(t, "both instances", func(s []discovery.Instance) bool { return len(s) == 2 })
			eventually(t, "some more reads", func() bool { return f.requests.Load() > 6 })
			if r.Count() != 1 {
				t.Errorf("%d reports, want 1", r.Count())
			}
			if strings.Contains(fmt.Sprint(c.Status()), "index=") {
				t.Error("an index was sent")
			}
		})
	}
}

// An index that always moves is paced, and reports nothing.
func TestPace(t *testing.T) {
	f := startFake(t)
	var n atomic.Int64
	f.failWith(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "health/service") {
			w.Header().Set("X-Consul-Index", strconv.FormatInt(n.Add(1), 10))
			_, _ = w.Write(healthBody("web", some(2))) // the client may have gone
			return true
		}
		return false
	})
	c := newClient(t, f.URL, "", func(c *Client) { c.times.pace = time.Hour })
	r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
	eventually(t, "the burst", func() bool { return n.Load() == paceBurst })
	if r.Count() != 1 {
		t.Errorf("%d reports, want 1", r.Count())
	}
}

func TestDatacenters(t *testing.T) {
	f := startFake(t)
	both := map[string][]discovery.Instance{"dc1": some(1), "dc2": some(2)}
	var mu sync.Mutex
	index := 5
	broken := ""
	f.failWith(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "health/service") {
			return false
		}
		for {
			mu.Lock()
			now, set, bad, i := f.changedNow(), both[r.URL.Query().Get("dc")], broken, index
			mu.Unlock()
			if bad == r.URL.Query().Get("dc") {
				return status(500, "No path to datacenter")(w, r)
			}
			if r.URL.Query().Get("index") != strconv.Itoa(i) {
				w.Header().Set("X-Consul-Index", strconv.Itoa(i))
				_, _ = w.Write(healthBody("web", set)) // the client may have gone
				return true
			}
			select {
			case <-now:
			case <-r.Context().Done():
				return true
			}
		}
	})
	change := func(do func()) {
		mu.Lock()
		do()
		index++
		mu.Unlock()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.wake()
	}
	c := newClient(t, f.URL, "")
	q := discovery.Query{Service: "web", Datacenters: []string{"dc1", "dc2"}}
	count := func(n int) func([]discovery.Instance) bool {
		return func(s []discovery.Instance) bool { return len(s) == n }
	}
	r := discoverytest.Watch(t, c, q)
	r.Await(t, "the first datacenter's", count(1))
	sick := some(1)
	sick[0].Health = discovery.Critical
	change(func() { both["dc1"] = sick })
	r.Await(t, "the second's, as the first has only a critical one", count(2))
	change(func() { both["dc2"] = nil })
	r.Await(t, "the critical one, as the second has none", count(1))
	change(func() { both["dc1"] = nil; both["dc2"] = some(3) })
	r.Await(t, "the second's", count(3))
	change(func() { both["dc1"], both["dc2"] = nil, nil })
	r.Await(t, "none", count(0))
	change(func() { both["dc1"], both["dc2"], broken = some(1), some(2), "dc1" })
	r.Await(t, "the second's, as the first can't be asked and had none", count(2))
	r2 := discoverytest.Watch(t, c, discovery.Query{Service: "web", Tags: []string{"x"}, Datacenters: q.Datacenters})
	r2.Await(t, "the second's, as the first never could be asked", count(2))
	change(func() { broken = "" })
	r.Await(t, "the first's again", count(1))
}

func (f *fake) changedNow() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Two watches of one query share what they ask.
func TestFeedIsShared(t *testing.T) {
	f := startFake(t)
	f.set("web", some(1))
	c := newClient(t, f.URL, "")
	a := discoverytest.Watch(t, c, discovery.Query{Service: "web", Tags: []string{"x", "y"}})
	b := discoverytest.Watch(t, c, discovery.Query{Service: "web", Tags: []string{"y", "x", "y"}})
	a.Await(t, "one", func(s []discovery.Instance) bool { return len(s) == 1 })
	b.Await(t, "one", func(s []discovery.Instance) bool { return len(s) == 1 })
	if n := len(c.Status()); n != 1 {
		t.Errorf("%d watches, want 1", n)
	}
}

func TestNew(t *testing.T) {
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_SSL", "CONSUL_CACERT"} {
		t.Setenv(name, "")
	}
	if Configured(nil) {
		t.Error("Configured(nil) = true")
	}
	if !Configured(new(Config)) {
		t.Error("Configured(block) = false")
	}
	t.Setenv("CONSUL_HTTP_ADDR", "https://consul.example:8501/prefix/")
	t.Setenv("CONSUL_HTTP_TOKEN", "from-env")
	if !Configured(nil) {
		t.Error("Configured(nil) with CONSUL_HTTP_ADDR = false")
	}
	c := newClient(t, "", "")
	if c.base != "https://consul.example:8501/prefix" || c.conf.Token != "from-env" || c.gate.limit != maxBlockingH2 {
		t.Errorf("base, token, limit = %q, %q, %d", c.base, c.conf.Token, c.gate.limit)
	}
	c = newClient(t, "127.0.0.1:8500", "own")
	if c.base != "http://127.0.0.1:8500" || c.conf.Token != "own" || c.gate.limit != maxBlockingPlain {
		t.Errorf("base, token, limit = %q, %q, %d", c.base, c.conf.Token, c.gate.limit)
	}
	for _, address := range []string{"ftp://x", "https://", "http://a b", "unix://"} {
		if _, err := New(Config{Address: address}, Deps{Log: newNoLog()}); err == nil {
			t.Errorf("New(%q) = nil error", address)
		}
	}
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "/nonexistent/token")
	if _, err := New(Config{}, Deps{Log: newNoLog()}); err == nil {
		t.Error("New without its token file = nil error")
	}
}

func TestWatchWithoutService(t *testing.T) {
	c := newClient(t, "127.0.0.1:1", "")
	if err := c.Watch(context.Background(), discovery.Query{}, nil); err == nil {
		t.Error("Watch without a service = nil, want an error")
	}
}

func TestUnixSocket(t *testing.T) {
	f := newFake(t)
	path := t.TempDir() + "/agent.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	f.Listener = l
	f.Start()
	f.set("web", some(2))
	c := newClient(t, "unix://"+path, "")
	r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
	r.Await(t, "both", func(s []discovery.Instance) bool { return len(s) == 2 })
}
