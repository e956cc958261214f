package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
)

func register(t testing.TB, a *agent, token, body string) {
	t.Helper()
	a.put(t, "PUT", "agent/service/register", token, body)
}

// byID finds the instance whose Consul service id is id.
func byID(set []discovery.Instance, id string) (discovery.Instance, bool) {
	i := slices.IndexFunc(set, func(in discovery.Instance) bool { return strings.HasSuffix(in.ID, "/"+id) })
	if i < 0 {
		return discovery.Instance{}, false
	}
	return set[i], true
}

func has(id string, fits func(discovery.Instance) bool) func([]discovery.Instance) bool {
	return func(set []discovery.Instance) bool {
		in, ok := byID(set, id)
		return ok && fits(in)
	}
}

func health(h discovery.Health, weight int) func(discovery.Instance) bool {
	return func(in discovery.Instance) bool { return in.Health == h && in.Weight == weight }
}

func TestAgentStates(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
	r.Await(t, "empty, as nothing is registered", func(s []discovery.Instance) bool { return len(s) == 0 })

	begun := time.Now()
	register(t, a, "", `{"ID":"w1","Name":"web","Port":8081,"Address":"10.1.2.3","Tags":["v2","gold"],"Meta":{"tier":"gold"},
		"Weights":{"Passing":10,"Warning":3},"Check":{"CheckID":"ttl1","TTL":"10m","Status":"passing"}}`)
	r.Await(t, "the registered instance", has("w1", health(discovery.Passing, 10)))
	t.Logf("registration to update, PUT included: %v", time.Since(begun))
	in, _ := byID(r.Last(), "w1")
	if in.Address != "10.1.2.3:8081" || in.Node != "node-1" || !in.Local || in.Meta["tier"] != "gold" ||
		!slices.Equal(in.Tags, []string{"v2", "gold"}) || in.ID != "node-1/w1" {
		t.Errorf("instance = %+v", in)
	}

	begun = time.Now()
	a.put(t, "PUT", "agent/check/warn/ttl1", "", "")
	r.Await(t, "warning", has("w1", health(discovery.Warning, 3)))
	t.Logf("warning to update: %v", time.Since(begun))
	a.put(t, "PUT", "agent/check/fail/ttl1", "", "")
	r.Await(t, "critical", has("w1", func(in discovery.Instance) bool { return in.Health == discovery.Critical }))
	a.put(t, "PUT", "agent/check/pass/ttl1", "", "")
	r.Await(t, "passing", has("w1", health(discovery.Passing, 10)))
	a.put(t, "PUT", "agent/service/maintenance/w1?enable=true", "", "")
	r.Await(t, "maintenance of the service", has("w1", func(in discovery.Instance) bool { return in.Health == discovery.Maintenance }))
	a.put(t, "PUT", "agent/service/maintenance/w1?enable=false", "", "")
	r.Await(t, "passing again", has("w1", health(discovery.Passing, 10)))
	a.put(t, "PUT", "agent/maintenance?enable=true", "", "")
	r.Await(t, "maintenance of the node", has("w1", func(in discovery.Instance) bool { return in.Health == discovery.Maintenance }))
	a.put(t, "PUT", "agent/maintenance?enable=false", "", "")

	register(t, a, "", `{"ID":"w1","Name":"web","Port":8081,"Weights":{"Passing":65535,"Warning":1}}`)
	r.Await(t, "capped weight and the node's address", has("w1", func(in discovery.Instance) bool {
		return in.Weight == 128 && in.Address == "127.0.0.1:8081"
	}))
	a.put(t, "PUT", "agent/service/deregister/w1", "", "")
	r.Await(t, "empty after deregistration", func(s []discovery.Instance) bool { return len(s) == 0 })
}

func TestAgentOtherNode(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	r := discoverytest.Watch(t, c, discovery.Query{Service: "far"})
	a.put(t, "PUT", "catalog/register", "", `{"Node":"far-1","Address":"192.0.2.9","Service":{"ID":"f","Service":"far","Port":99}}`)
	r.Await(t, "an instance of another node, without an address of its own", has("f", func(in discovery.Instance) bool {
		return in.Address == "192.0.2.9:99" && !in.Local && in.Node == "far-1" && in.Weight == 1
	}))
	a.put(t, "PUT", "catalog/register", "", `{"Node":"far-1","Address":"192.0.2.9","Service":{"ID":"p","Service":"far"}}`)
	r.Await(t, "an instance without a port is critical", has("p", func(in discovery.Instance) bool {
		return in.Health == discovery.Critical
	}))
}

func TestAgentTagsAndFilter(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	register(t, a, "", `{"ID":"a","Name":"web","Port":1,"Tags":["v1","eu"],"Meta":{"tier":"gold"}}`)
	register(t, a, "", `{"ID":"b","Name":"web","Port":2,"Tags":["v2","eu"],"Meta":{"tier":"gold"}}`)
	register(t, a, "", `{"ID":"c","Name":"web","Port":3,"Tags":["v2","us"],"Meta":{"tier":"lead"}}`)
	tests := []struct {
		name string
		q    discovery.Query
		want []string
	}{
		{"all", discovery.Query{Service: "web"}, []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}},
		{"one tag", discovery.Query{Service: "web", Tags: []string{"eu"}}, []string{"127.0.0.1:1", "127.0.0.1:2"}},
		{"all of two tags", discovery.Query{Service: "web", Tags: []string{"eu", "v2"}}, []string{"127.0.0.1:2"}},
		{"filter", discovery.Query{Service: "web", Filter: `Service.Meta.tier == "gold"`}, []string{"127.0.0.1:1", "127.0.0.1:2"}},
		{"filter and tag", discovery.Query{Service: "web", Filter: `Service.Meta.tier == "gold"`, Tags: []string{"v2"}}, []string{"127.0.0.1:2"}},
		{"own datacenter by name", discovery.Query{Service: "web", Tags: []string{"us"}, Datacenters: []string{"dc1"}}, []string{"127.0.0.1:3"}},
		{"unreachable datacenter first", discovery.Query{Service: "web", Tags: []string{"us"}, Datacenters: []string{"dc9", "dc1"}}, []string{"127.0.0.1:3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := discoverytest.Watch(t, c, tt.q)
			r.Await(t, fmt.Sprint(tt.want), func(s []discovery.Instance) bool {
				return slices.Equal(discoverytest.Addresses(s), tt.want)
			})
		})
	}
	t.Run("wrong filter", func(t *testing.T) {
		r := discoverytest.Watch(t, c, discovery.Query{Service: "web", Filter: "Service.Meta.tier ==== 3"})
		eventually(t, "the status tells", func() bool {
			return slices.ContainsFunc(c.Status(), func(s WatchStatus) bool { return strings.Contains(s.Error, "boolean expression") })
		})
		if r.Count() != 0 {
			t.Errorf("reported %+v, want nothing", r.Last())
		}
		if ok, _ := c.Connected(); !ok {
			t.Error("Connected = false for an agent that refused a filter")
		}
	})
}

// A development agent forgets everything, its index too.
func TestAgentForgets(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	for i := range 5 { // so that the index is higher than the next agent's
		register(t, a, "", fmt.Sprintf(`{"ID":"x%d","Name":"other","Port":1}`, i))
		a.put(t, "PUT", "kv/sidegate/push", "", fmt.Sprint(i))
	}
	register(t, a, "", `{"ID":"w","Name":"web","Port":1}`)
	r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
	r.Await(t, "the instance", has("w", health(discovery.Passing, 1)))
	n := r.Count()
	a.kill(t)
	eventually(t, "the client notices", func() bool { ok, _ := c.Connected(); return !ok })
	if r.Count() != n {
		t.Errorf("reported %+v while the agent is away, want nothing", r.Last())
	}
	eventually(t, "the status tells an error and keeps the instance", func() bool {
		s := c.Status()
		return len(s) == 1 && s[0].Error != "" && s[0].Instances == 1
	})
	a.start(t)
	register(t, a, "", `{"ID":"w","Name":"web","Port":2}`)
	r.Await(t, "the instance at the new agent", has("w", func(in discovery.Instance) bool { return in.Address == "127.0.0.1:2" }))
	if ok, age := c.Connected(); !ok || age > time.Minute {
		t.Errorf("Connected = %v, %v", ok, age)
	}
	register(t, a, "", `{"ID":"w","Name":"web","Port":3}`)
	r.Await(t, "a change at the new agent", has("w", func(in discovery.Instance) bool { return in.Address == "127.0.0.1:3" }))
}

// A server that keeps its state never shows less than it has.
func TestAgentRestarts(t *testing.T) {
	a := newAgent(t, true, "")
	c := newClient(t, a.address(), "")
	for i := range 20 {
		register(t, a, "", fmt.Sprintf(`{"ID":"w%02d","Name":"web","Port":%d}`, i, i+1))
	}
	r := discoverytest.Watch(t, c, discovery.Query{Service: "web"})
	r.Await(t, "all instances", func(s []discovery.Instance) bool { return len(s) == 20 })
	n := r.Count()
	for range 2 {
		a.kill(t)
		a.start(t)
	}
	register(t, a, "", `{"ID":"w99","Name":"web","Port":99}`)
	r.Await(t, "the instance added after the restarts", func(s []discovery.Instance) bool { return len(s) == 21 })
	if got := r.Count(); got != n+1 {
		t.Errorf("%d reports over two restarts, want 1", got-n)
	}
}

const management = "11111111-1111-1111-1111-111111111111"

const aclOn = `acl { enabled=true default_policy="deny" tokens { initial_management="` + management + `" agent="` + management + `" } }`

// newToken makes a policy and a token that has it.
func newToken(t *testing.T, a *agent, id, rules string) (secretID string) {
	t.Helper()
	secretID = id + "-2222-2222-2222-222222222222"
	a.put(t, "PUT", "acl/policy", management, fmt.Sprintf(`{"Name":"p%s","Rules":%q}`, id, rules))
	a.put(t, "PUT", "acl/token", management, fmt.Sprintf(
		`{"SecretID":%q,"AccessorID":"%s-3333-3333-3333-333333333333","Policies":[{"Name":"p%s"}]}`, secretID, id, id))
	return secretID
}

const readServices = `service_prefix "" { policy="read" } node_prefix "" { policy="read" }`

func statusHas(c *Client, text string) func() bool {
	return func() bool {
		return slices.ContainsFunc(c.Status(), func(s WatchStatus) bool { return strings.Contains(s.Error, text) })
	}
}

func TestAgentACL(t *testing.T) {
	a := newAgent(t, false, aclOn)
	register(t, a, management, `{"ID":"w","Name":"web","Port":1}`)
	web := discovery.Query{Service: "web"}

	t.Run("token taken away during the watch", func(t *testing.T) {
		c := newClient(t, a.address(), newToken(t, a, "44444444", readServices))
		r := discoverytest.Watch(t, c, web)
		r.Await(t, "the instance", has("w", health(discovery.Passing, 1)))
		n := r.Count()
		a.put(t, "DELETE", "acl/token/44444444-3333-3333-3333-333333333333", management, "")
		eventually(t, "the status tells", statusHas(c, "403"))
		if r.Count() != n {
			t.Errorf("reported %+v, want nothing", r.Last())
		}
	})
	t.Run("rights taken away during the watch", func(t *testing.T) {
		c := newClient(t, a.address(), newToken(t, a, "55555555", readServices),
			// The agent's stream may keep a query waiting that sees nothing any more.
			func(c *Client) { c.times.wait = time.Second })
		r := discoverytest.Watch(t, c, web)
		r.Await(t, "the instance", has("w", health(discovery.Passing, 1)))
		n := r.Count()
		a.put(t, "PUT", "acl/token/55555555-3333-3333-3333-333333333333", management, `{"Policies":[]}`)
		eventually(t, "the status tells", statusHas(c, "filtered by ACLs"))
		if r.Count() != n {
			t.Errorf("reported %+v, want nothing", r.Last())
		}
	})
	t.Run("no token", func(t *testing.T) {
		c := newClient(t, a.address(), "")
		r := discoverytest.Watch(t, c, web)
		eventually(t, "the status tells", statusHas(c, "proves nothing"))
		if r.Count() != 0 {
			t.Errorf("reported %+v, want nothing", r.Last())
		}
	})
	t.Run("empty is believed of a token that may read", func(t *testing.T) {
		c := newClient(t, a.address(), newToken(t, a, "66666666", readServices))
		register(t, a, management, `{"ID":"g","Name":"gone","Port":1}`)
		r := discoverytest.Watch(t, c, discovery.Query{Service: "gone"})
		r.Await(t, "the instance", has("g", health(discovery.Passing, 1)))
		a.put(t, "PUT", "agent/service/deregister/g", management, "")
		r.Await(t, "empty", func(s []discovery.Instance) bool { return len(s) == 0 })
	})
	t.Run("kv", func(t *testing.T) {
		a.put(t, "PUT", "kv/sidegate/x", management, "1")
		c := newClient(t, a.address(), "")
		k := watchKV(t, c, "sidegate/")
		eventually(t, "the status tells", statusHas(c, "proves nothing"))
		if k.count() != 0 {
			t.Error("reported keys that can't be read")
		}
	})
	t.Run("claims", func(t *testing.T) {
		c := newClient(t, a.address(), "")
		w := watchClaims(t, c)
		eventually(t, "the status tells", statusHas(c, "proves nothing"))
		if w.count() != 0 {
			t.Error("reported claims that can't be read")
		}
	})
}

// kvRecorder collects reports of WatchKV.
type kvRecorder struct {
	mu   sync.Mutex // guards all
	all  []map[string][]byte
	stop context.CancelFunc
}

func watchKV(t *testing.T, c *Client, prefix string) *kvRecorder {
	ctx, cancel := context.WithCancel(context.Background())
	k := &kvRecorder{stop: cancel}
	done := make(chan error, 1)
	go func() {
		done <- c.WatchKV(ctx, prefix, func(m map[string][]byte) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.all = append(k.all, m)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("WatchKV = %v, want nil", err)
		}
	})
	return k
}

func (k *kvRecorder) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.all)
}

func (k *kvRecorder) is(want map[string]string) func() bool {
	return func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.all) == 0 || len(k.all[len(k.all)-1]) != len(want) {
			return false
		}
		for key, v := range k.all[len(k.all)-1] {
			if w, ok := want[key]; !ok || w != string(v) {
				return false
			}
		}
		return true
	}
}

func TestAgentKV(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	k := watchKV(t, c, "sidegate/")
	eventually(t, "no keys", k.is(map[string]string{}))
	a.put(t, "PUT", "kv/sidegate/routes/a b", "", "one\x00\xff")
	eventually(t, "one key", k.is(map[string]string{"sidegate/routes/a b": "one\x00\xff"}))
	a.put(t, "PUT", "kv/other", "", "x")
	a.put(t, "PUT", "kv/sidegate/two", "", "")
	a.put(t, "PUT", "kv/sidegate/folder/", "", "")
	eventually(t, "two keys", k.is(map[string]string{"sidegate/routes/a b": "one\x00\xff", "sidegate/two": ""}))
	a.put(t, "DELETE", "kv/sidegate/?recurse", "", "")
	eventually(t, "no keys again", k.is(map[string]string{}))
}

// What the snapshots keep serves a restart without Consul.
func TestAgentSnapshotRestart(t *testing.T) {
	a := newAgent(t, false, "")
	log := logrus.New()
	log.SetOutput(testingWriter{t})
	dir := t.TempDir()
	register(t, a, "", `{"ID":"w","Name":"web","Port":8081,"Tags":["v2"],"Weights":{"Passing":5,"Warning":1}}`)

	c := newClient(t, a.address(), "")
	snaps := discovery.NewSnapshots(dir, log)
	r := discoverytest.Watch(t, snaps.Wrap("consul", c), discovery.Query{Service: "web"})
	r.Await(t, "the instance", has("w", health(discovery.Passing, 5)))
	want, _ := byID(r.Last(), "w")
	r.Stop(t)
	if err := snaps.Close(); err != nil {
		t.Fatal(err)
	}
	a.kill(t)

	c = newClient(t, a.address(), "")
	snaps = discovery.NewSnapshots(dir, log)
	r = discoverytest.Watch(t, snaps.Wrap("consul", c), discovery.Query{Service: "web"})
	r.Await(t, "the stored instance", has("w", func(in discovery.Instance) bool { return same(in, want) }))
	if s := snaps.Status(); len(s) != 1 || s[0].State != discovery.SnapshotStale {
		t.Errorf("Status = %+v, want stale", s)
	}
	a.start(t)
	register(t, a, "", `{"ID":"w","Name":"web","Port":8082}`)
	r.Await(t, "the live instance", has("w", func(in discovery.Instance) bool { return in.Address == "127.0.0.1:8082" }))
	if s := snaps.Status(); len(s) != 1 || s[0].State != discovery.SnapshotLive {
		t.Errorf("Status = %+v, want live", s)
	}
}

func TestAgentRegister(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	ctx := context.Background()
	r := discoverytest.Watch(t, c, discovery.Query{Service: "demo"})
	err := c.Register(ctx, Registration{ID: "demo-1", Name: "demo", Address: "127.0.0.1", Port: a.ports[0],
		Tags: []string{"sidegate.host=demo.localhost"}, Meta: map[string]string{"a": "b"}, CheckTCP: a.address(), Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	r.Await(t, "the demo instance", has("demo-1", func(in discovery.Instance) bool {
		return in.Health == discovery.Passing && in.Address == a.address() && in.Meta["a"] == "b"
	}))
	for range 2 { // the second finds nothing to do
		if err := c.Deregister(ctx, "demo-1"); err != nil {
			t.Fatal(err)
		}
	}
	r.Await(t, "empty", func(s []discovery.Instance) bool { return len(s) == 0 })
	if err := c.Register(ctx, Registration{ID: "x"}); err == nil {
		t.Error("Register without a name = nil, want an error")
	}
}
