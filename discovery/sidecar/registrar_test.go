package sidecar

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// logs collects what is logged.
type logs struct {
	t    *testing.T
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if os.Getenv("SIDEGATE_TEST_LOG") != "" {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return l.text.Write(b)
}

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func yes(context.Context) bool { return true }

func orders() Service {
	return Service{
		ID: ID("orders", "", 8443), Name: "orders", Port: 8443, Tags: []string{"v2", "a"}, Meta: map[string]string{"team": "x"},
		Passing: 10, Warning: 2, DeregisterAfter: 10 * time.Minute, Ready: yes,
		Check: Check{URL: "http://127.0.0.1:9/", Interval: time.Hour, Timeout: time.Second},
	}
}

const ordersID = "orders-sidecar-8443"

func TestID(t *testing.T) {
	for _, tt := range []struct{ host, want string }{
		{"", ordersID}, {"0.0.0.0", ordersID}, {"::", ordersID},
		{"10.0.0.7", "orders-sidecar-10.0.0.7-8443"}, {"fd00::7", "orders-sidecar-fd00--7-8443"},
	} {
		if got := ID("orders", tt.host, 8443); got != tt.want {
			t.Errorf("ID(%q) = %q, want %q", tt.host, got, tt.want)
		}
	}
}

func TestRegisterAndLeave(t *testing.T) {
	a := newAgent(t, false, "")
	dir := filepath.Join(t.TempDir(), "state")
	r := newRegistrar(t, a.address(), "", dir)
	var ready atomic.Bool
	s := orders()
	s.Ready = func(context.Context) bool { return ready.Load() }
	r.Set([]Service{s})
	eventually(t, "it waits", func() bool { return r.state(ordersID).State == Waiting })
	if _, ok := a.service(ordersID); ok {
		t.Error("registered though the app isn't ready")
	}
	ready.Store(true)
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	got, ok := a.service(ordersID)
	want := service{ID: ordersID, Service: "orders", Port: 8443, Tags: []string{"v2", "a"}, Meta: map[string]string{"team": "x", metaOwner: r.note.Owner}}
	want.Weights.Passing, want.Weights.Warning = 10, 2
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("registered %+v, want %+v", got, want)
	}
	if c := a.check("service:" + ordersID); c.Status != "passing" {
		t.Errorf("check %+v, want it passing at once", c)
	}

	r.Leave(context.Background(), 50*time.Millisecond)
	if c := a.check(maintenanceID); c.Status != "critical" || c.Notes != Reason {
		t.Errorf("after Leave the maintenance check is %+v", c)
	}
	if got := r.state(ordersID).State; got != Leaving {
		t.Errorf("after Leave the state is %q", got)
	}
	r.Gone(context.Background())
	if _, ok := a.service(ordersID); ok {
		t.Error("registered after Gone")
	}
	if got := r.state(ordersID).State; got != Left {
		t.Errorf("after Gone the state is %q", got)
	}
	if n, err := readNote(dir); err != nil || len(n.IDs) != 0 || n.Owner != r.note.Owner {
		t.Errorf("note after Gone: %+v, %v", n, err)
	}
}

const maintenanceID = "_service_maintenance:" + ordersID

// An agent that forgets, that is away, or whose registrations others take off.
func TestKept(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	r.Set([]Service{orders()})
	there := func() bool { _, ok := a.service(ordersID); return ok }
	eventually(t, "registered", there)
	a.put(t, "agent/service/deregister/"+ordersID, "")
	begun := time.Now()
	eventually(t, "registered again after somebody deregistered it", there)
	t.Logf("deregistered to registered: %v", time.Since(begun))
	a.kill(t)
	eventually(t, "the status tells", func() bool { return r.state(ordersID).Error != "" })
	a.start(t)
	begun = time.Now()
	eventually(t, "registered at the agent that forgot", there)
	t.Logf("agent ready to registered: %v", time.Since(begun))
	if c := a.check("service:" + ordersID); c.Status != "passing" {
		t.Errorf("check %+v, want it passing, as the app was ready", c)
	}
	eventually(t, "the status is well again", func() bool { s := r.state(ordersID); return s.Error == "" && s.State == Registered })
	// An agent that starts may say 500 to what it took.
	if n := r.log.count("service registered"); n < 2 || n > 3 {
		t.Errorf("registered %d times, want 3", n)
	}
}

// What is as it should be isn't touched, whoever registered it.
func TestUntouched(t *testing.T) {
	a := newAgent(t, true, "")
	dir := t.TempDir()
	r := newRegistrar(t, a.address(), "", dir)
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	index := a.index(t)
	a.kill(t)
	eventually(t, "the status tells", func() bool { return r.state(ordersID).Error != "" })
	a.start(t)
	eventually(t, "the status is well again", func() bool { return r.state(ordersID).Error == "" })
	r.Yield()
	next := newRegistrar(t, a.address(), "", dir)
	next.Set([]Service{orders()})
	eventually(t, "the next has it", func() bool { return next.state(ordersID).State == Registered })
	r.Leave(context.Background(), time.Minute)
	r.Gone(context.Background())
	r.stop()
	if got := a.index(t); got != index {
		t.Errorf("the instance's index is %d, want %d: it was touched", got, index)
	}
	if n := r.log.count("service registered") + next.log.count("service registered"); n != 1 {
		t.Errorf("registered %d times, want once", n)
	}
	if c := a.check(maintenanceID); c.Status != "" {
		t.Error("a registrar that yielded has put it into maintenance")
	}
}

// index is when the catalog last changed the instance or its check.
func (a *agent) index(t *testing.T) (latest uint64) {
	t.Helper()
	eventually(t, "the catalog has it", func() bool {
		var list []struct {
			Service struct{ ModifyIndex uint64 }
			Checks  []struct {
				ServiceID   string
				ModifyIndex uint64
			}
		}
		if a.ask(&list, "health/service/orders", nil) != nil || len(list) != 1 || len(list[0].Checks) != 2 {
			return false
		}
		latest = list[0].Service.ModifyIndex
		for _, c := range list[0].Checks {
			if c.ServiceID != "" {
				latest = max(latest, c.ModifyIndex)
			}
		}
		return true
	})
	return latest
}

// Yield, and then the new process fails.
func TestResume(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	r.Yield()
	a.put(t, "agent/service/deregister/"+ordersID, "")
	if r.Leave(context.Background(), time.Minute); r.log.count("leaving") != 0 {
		t.Error("left after Yield")
	}
	if _, ok := a.service(ordersID); ok {
		t.Error("registered after Yield")
	}
	r.Resume()
	eventually(t, "registered again", func() bool { _, ok := a.service(ordersID); return ok })
}

// Tags, meta, weights, address and check change in place.
func TestChange(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	for _, tt := range []struct {
		name   string
		change func(*Service)
		seen   func(service) bool
	}{
		{"tags", func(s *Service) { s.Tags = []string{"v3"} }, func(s service) bool { return reflect.DeepEqual(s.Tags, []string{"v3"}) }},
		{"no tags", func(s *Service) { s.Tags = nil }, func(s service) bool { return len(s.Tags) == 0 }},
		{"meta", func(s *Service) { s.Meta = map[string]string{"b": "c"} }, func(s service) bool { return s.Meta["b"] == "c" && s.Meta["team"] == "" }},
		{"weights", func(s *Service) { s.Passing = 3 }, func(s service) bool { return s.Weights.Passing == 3 }},
		{"weights by default", func(s *Service) { s.Passing, s.Warning = 0, 0 }, func(s service) bool { return s.Weights.Passing == 1 && s.Weights.Warning == 1 }},
		{"address", func(s *Service) { s.Address = "10.9.9.9" }, func(s service) bool { return s.Address == "10.9.9.9" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := orders()
			tt.change(&s)
			select {
			case <-r.Set([]Service{s}):
			case <-time.After(time.Minute):
				t.Error("a change in place waits for something to leave")
			}
			eventually(t, "changed", func() bool { got, ok := a.service(ordersID); return ok && tt.seen(got) })
			eventually(t, "content", func() bool { s := r.state(ordersID); return s.State == Registered && s.Error == "" })
			if c := a.check("service:" + ordersID); c.Status != "passing" {
				t.Errorf("check %+v, want it as it was", c)
			}
		})
	}
	if n := r.log.count("is leaving"); n != 0 {
		t.Errorf("left %d times for a change", n)
	}
}

// A check's state is the agent's to say, and stays over a change.
func TestCheckStateStays(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	s := orders()
	s.Check.Interval = 100 * time.Millisecond // port 9: nothing listens
	r.Set([]Service{s})
	eventually(t, "critical", func() bool { return a.check("service:"+ordersID).Status == "critical" })
	s.Check.Interval, s.Tags = time.Hour, []string{"new"}
	r.Set([]Service{s})
	eventually(t, "changed", func() bool { got, _ := a.service(ordersID); return reflect.DeepEqual(got.Tags, s.Tags) })
	if c := a.check("service:" + ordersID); c.Status != "critical" {
		t.Errorf("check %+v, want it critical as before", c)
	}
	eventually(t, "the status tells its health", func() bool { return r.state(ordersID).Health == "critical" })

	a.put(t, "agent/service/maintenance/"+ordersID+"?enable=true&reason=by+hand", "")
	s.Tags = []string{"newer"}
	r.Set([]Service{s})
	eventually(t, "changed", func() bool { got, _ := a.service(ordersID); return reflect.DeepEqual(got.Tags, s.Tags) })
	if c := a.check(maintenanceID); c.Notes != "by hand" {
		t.Errorf("an operator's maintenance is now %+v", c)
	}
	eventually(t, "the status tells why", func() bool { return r.state(ordersID).Maintenance == "by hand" })
}

// What Set doesn't have any more leaves properly, and others stay.
func TestDropped(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	billing := orders()
	billing.ID, billing.Name = "billing-1", "billing"
	r.Set([]Service{orders(), billing})
	eventually(t, "both", func() bool {
		return r.state(ordersID).State == Registered && r.state("billing-1").State == Registered
	})
	r.wait = 300 * time.Millisecond
	left := r.Set([]Service{billing})
	eventually(t, "maintenance", func() bool { return a.check(maintenanceID).Notes == Reason })
	select {
	case <-left:
		t.Error("told at once that watchers have seen it")
	default:
	}
	<-left
	eventually(t, "deregistered", func() bool { _, ok := a.service(ordersID); return !ok })
	eventually(t, "forgotten", func() bool { return len(r.Status()) == 1 })
	if s, ok := a.service("billing-1"); !ok || s.Service != "billing" {
		t.Error("the other service isn't there")
	}

	r.Set([]Service{orders(), billing})
	eventually(t, "both again", func() bool { return r.state(ordersID).State == Registered })
	r.wait = time.Hour
	left = r.Set([]Service{billing})
	eventually(t, "maintenance", func() bool { return a.check(maintenanceID).Notes == Reason })
	r.Set([]Service{orders(), billing})
	<-left // nobody waits for what stays
	eventually(t, "out of maintenance, as it is wanted again", func() bool {
		return r.state(ordersID).State == Registered && a.check(maintenanceID).Notes == ""
	})
}

// A crash leaves ids that the next start deregisters, unless they are another's.
func TestCleanUp(t *testing.T) {
	a := newAgent(t, false, "")
	dir := t.TempDir()
	r := newRegistrar(t, a.address(), "", dir)
	old, taken := orders(), orders()
	old.ID, taken.ID = "orders-sidecar-7001", "orders-sidecar-7002"
	r.Set([]Service{old, taken, orders()})
	eventually(t, "all", func() bool {
		return r.state(ordersID).State == Registered && r.state(old.ID).State == Registered && r.state(taken.ID).State == Registered
	})
	r.stop() // as a crash: nothing is deregistered
	a.put(t, "agent/service/register", `{"ID":"orders-sidecar-7002","Name":"orders","Port":7002,"Meta":{"`+metaOwner+`":"other"}}`)

	a.kill(t) // the next start finds no agent at first
	b := *a
	next := newRegistrar(t, a.address(), "", dir)
	next.Set([]Service{orders()})
	eventually(t, "the status tells", func() bool { return next.state(ordersID).Error != "" })
	b.start(t)
	t.Cleanup(func() { b.kill(t) })
	b.put(t, "agent/service/register", `{"ID":"orders-sidecar-7001","Name":"orders","Port":7001,"Meta":{"`+metaOwner+`":"`+next.note.Owner+`"}}`)
	b.put(t, "agent/service/register", `{"ID":"orders-sidecar-7002","Name":"orders","Port":7002,"Meta":{"`+metaOwner+`":"other"}}`)
	eventually(t, "registered", func() bool { return next.state(ordersID).State == Registered })
	eventually(t, "noted is what is registered", func() bool {
		n, err := readNote(dir)
		return err == nil && reflect.DeepEqual(n.IDs, []string{ordersID})
	})
	if _, ok := b.service(taken.ID); !ok {
		t.Error("deregistered what is another's by now")
	}
}

// Away at the end: each step is bounded, and the next start cleans up.
func TestLeaveWithoutAgent(t *testing.T) {
	a := newAgent(t, true, "")
	dir := t.TempDir()
	r := newRegistrar(t, a.address(), "", dir)
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	a.kill(t)
	begun := time.Now()
	r.Leave(context.Background(), 100*time.Millisecond)
	r.Gone(context.Background())
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("leaving took %v with an agent that is away", took)
	}
	r.stop()
	if n, err := readNote(dir); err != nil || !reflect.DeepEqual(n.IDs, []string{ordersID}) {
		t.Errorf("note: %+v, %v; want the id still", n, err)
	}
	a.start(t)
	if _, ok := a.service(ordersID); !ok {
		t.Error("the agent doesn't have it after its restart")
	}
	next := newRegistrar(t, a.address(), "", dir)
	next.Set(nil)
	eventually(t, "the next start deregisters", func() bool { _, ok := a.service(ordersID); return !ok })
	eventually(t, "and forgets", func() bool { n, err := readNote(dir); return err == nil && len(n.IDs) == 0 })
}

// An earlier run that had begun to leave: the next one ends that.
func TestLeavingIsUndone(t *testing.T) {
	a := newAgent(t, false, "")
	dir := t.TempDir()
	r := newRegistrar(t, a.address(), "", dir)
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	r.Leave(context.Background(), time.Millisecond)
	r.stop()
	next := newRegistrar(t, a.address(), "", dir)
	next.Set([]Service{orders()})
	eventually(t, "out of maintenance", func() bool {
		return next.state(ordersID).State == Registered && a.check(maintenanceID).Notes == ""
	})
	if n := next.log.count("service registered"); n != 0 {
		t.Errorf("registered %d times, want none: it was as it should be", n)
	}
}

func TestACL(t *testing.T) {
	a := newAgent(t, false, aclOn)
	const token = "44444444-2222-2222-2222-222222222222"
	a.put(t, "acl/policy", `{"Name":"orders","Rules":"service \"orders\" { policy=\"read\" }"}`)
	a.put(t, "acl/token", `{"SecretID":"`+token+`","Policies":[{"Name":"orders"}]}`)
	r := newRegistrar(t, a.address(), token, t.TempDir())
	r.Set([]Service{orders()})
	eventually(t, "the status tells which rule", func() bool {
		return strings.Contains(r.state(ordersID).Error, `the token lacks the rule service "orders" { policy = "write" }`)
	})
	id := a.policyID(t, "orders")
	a.put(t, "acl/policy/"+id, `{"Name":"orders","Rules":"service \"orders\" { policy=\"write\" }"}`)
	eventually(t, "registered once it may", func() bool { return r.state(ordersID).State == Registered && r.state(ordersID).Error == "" })
	r.Leave(context.Background(), 100*time.Millisecond)
	if c := a.check(maintenanceID); c.Notes != Reason {
		t.Errorf("after Leave the maintenance check is %+v", c)
	}
	r.Gone(context.Background())
	if _, ok := a.service(ordersID); ok {
		t.Error("registered after Gone")
	}
}

// A reload brings another token.
func TestUse(t *testing.T) {
	a := newAgent(t, false, aclOn)
	r := newRegistrar(t, a.address(), "", t.TempDir())
	r.Set([]Service{orders()})
	eventually(t, "the status tells", func() bool { return strings.Contains(r.state(ordersID).Error, "the token lacks") })
	client := newClient(t, a.address(), management, r.Registrar.log)
	t.Cleanup(client.Close)
	r.Use(client)
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered && r.state(ordersID).Error == "" })
}

// An agent that hangs keeps nobody from ending, and is served when it goes on.
func TestHangingAgent(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.cmd.Process.Signal(syscall.SIGCONT) }) // it may have gone on
	s := orders()
	s.Tags = []string{"while it hangs"}
	r.Set([]Service{s})
	begun := time.Now()
	r.Leave(context.Background(), 100*time.Millisecond)
	r.Gone(context.Background())
	took := time.Since(begun)
	t.Logf("leaving took %v", took)
	if took > 30*time.Second {
		t.Errorf("leaving took %v with an agent that hangs", took)
	}
	if n, err := readNote(filepath.Dir(r.note.path)); err != nil || !reflect.DeepEqual(n.IDs, []string{ordersID}) {
		t.Errorf("note: %+v, %v; want the id still", n, err)
	}
}

// An agent whose connections others use up: registered once there is a place.
func TestCrowdedAgent(t *testing.T) {
	a := newAgent(t, false, `limits { http_max_conns_per_client = 10 }`)
	http.DefaultClient.CloseIdleConnections()
	var others []net.Conn
	for range 10 {
		c, err := net.Dial("tcp", a.address())
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, c)
	}
	r := newRegistrar(t, a.address(), "", t.TempDir())
	r.Set([]Service{orders()})
	eventually(t, "the status tells", func() bool { return strings.Contains(r.state(ordersID).Error, "429") })
	for _, c := range others {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "registered", func() bool { s := r.state(ordersID); return s.State == Registered && s.Error == "" })
}

func (a *agent) policyID(t *testing.T, name string) string {
	t.Helper()
	var p struct{ ID string }
	if err := a.ask(&p, "acl/policy/name/"+name, nil); err != nil {
		t.Fatal(err)
	}
	return p.ID
}

// Two that register the same id don't wear out the agent.
func TestQuarrel(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	s := orders()
	r.Set([]Service{s})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	other := newRegistrar(t, a.address(), "", t.TempDir())
	s.Port = 1
	other.Set([]Service{s})
	eventually(t, "one of them complains", func() bool {
		return strings.Contains(r.state(ordersID).Error+other.state(ordersID).Error, "does another process register the same id?")
	})
}

// A note that can't be read or written doesn't keep from registering.
func TestBadNote(t *testing.T) {
	a := newAgent(t, false, "")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, noteName), []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRegistrar(t, a.address(), "", dir)
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	if n, err := readNote(dir); err != nil || !reflect.DeepEqual(n.IDs, []string{ordersID}) {
		t.Errorf("note: %+v, %v; want it written anew", n, err)
	}
	if r.log.count("isn't known") != 1 {
		t.Error("a note that can't be read isn't told")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := orders()
	s.ID = "orders-2"
	other := newRegistrar(t, a.address(), "", file) // a directory can't be below a file
	other.Set([]Service{s})
	eventually(t, "registered", func() bool { return other.state("orders-2").State == Registered })
}

// Who watches sees the maintenance before the listener closes, that is before
// Leave returns.
func TestWatcherSeesMaintenance(t *testing.T) {
	a := newAgent(t, false, "")
	r := newRegistrar(t, a.address(), "", t.TempDir())
	r.Set([]Service{orders()})
	eventually(t, "registered", func() bool { return r.state(ordersID).State == Registered })
	seen := make(chan time.Time, 1)
	go func() { // ends with the agent at the latest
		index := "0"
		for {
			resp, err := http.Get("http://" + a.address() + "/v1/health/service/orders?wait=1m&index=" + index)
			if err != nil {
				return
			}
			var text bytes.Buffer
			_, err = text.ReadFrom(resp.Body)
			_ = resp.Body.Close() // reading is over
			if err != nil {
				return
			}
			if strings.Contains(text.String(), Reason) {
				seen <- time.Now()
				return
			}
			index = resp.Header.Get("X-Consul-Index")
		}
	}()
	// Wait nothing after the catalog has it, but be patient for that.
	r.tell(context.Background(), "orders", ordersID, 3*time.Minute)
	inCatalog := time.Now()
	select {
	case at := <-seen:
		t.Logf("a watcher saw it %v after we did in the catalog", at.Sub(inCatalog))
	case <-time.After(time.Minute):
		t.Fatal("no watcher saw it")
	}
	var list []any
	if err := a.ask(&list, "health/service/orders", map[string][]string{"passing": {""}}); err != nil || len(list) != 0 {
		t.Errorf("the catalog still has %v as passing, %v", list, err)
	}
}
