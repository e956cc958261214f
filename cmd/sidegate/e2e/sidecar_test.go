package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// app is a service that tells what it was asked.
type app struct {
	t       *testing.T
	name    string
	address string // host:port, or unix:// and a path
	server  *http.Server
	served  atomic.Int64
	sick    atomic.Bool // its /healthz fails
}

// heard is what an app has heard.
type heard struct {
	App, Host, Path string
	Header          http.Header
}

func newApp(t *testing.T, name, address string) *app {
	t.Helper()
	a := &app{t: t, name: name, address: address}
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *app) start() *app {
	a.t.Helper()
	network, address := "tcp", a.address
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, address = "unix", path
	}
	l, err := net.Listen(network, address)
	if err != nil {
		a.t.Fatal(err)
	}
	s := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	a.server = s
	go func() { _ = s.Serve(l) }() // ends with stop
	return a
}

func (a *app) stop() {
	if a.server != nil {
		_ = a.server.Close()
	}
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		if a.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	a.served.Add(1)
	_, _ = io.Copy(io.Discard, r.Body) // the client's loss
	_ = json.NewEncoder(w).Encode(heard{a.name, r.Host, r.URL.RequestURI(), r.Header})
}

// hear gets a URL from an app.
func hear(c *http.Client, url string) (heard, error) {
	var h heard
	text, err := fetch(c, url)
	if err == nil {
		err = json.Unmarshal([]byte(text), &h)
	}
	return h, err
}

// startSidecar runs a configuration with sidecar blocks.
func startSidecar(t *testing.T, a *agent, text string) *sidecarProcess {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &sidecarProcess{agent: a, dir: t.TempDir()}
	s.write(t, text)
	s.process = start(t, bin, "sidecar", "-config", s.config())
	return s
}

// sidecarProcess is a process with sidecars.
type sidecarProcess struct {
	*process
	agent *agent
	dir   string
}

func (s *sidecarProcess) config() string { return filepath.Join(s.dir, "sidecars.hcl") }

func (s *sidecarProcess) write(t *testing.T, text string) {
	t.Helper()
	write(t, s.config(), fmt.Sprintf("state_dir = %q\nconsul {\n  address = \"127.0.0.1:%d\"\n}\n%s", filepath.Join(s.dir, "state"), s.agent.port, text))
}

// registration is what Consul says of an instance.
type registration struct {
	Service struct {
		ID, Address string
		Port        int
		Tags        []string
		Meta        map[string]string
	}
	Checks []struct{ CheckID, Status string }
}

func (r *registration) url() string { return fmt.Sprintf("http://127.0.0.1:%d/", r.Service.Port) }

// registered waits for the one instance of a service whose checks all pass.
func (a *agent) registered(t *testing.T, service string) *registration {
	t.Helper()
	var list []registration
	eventually(t, service+" registered and passing", func() error {
		text, err := a.do("GET", "/v1/health/service/"+service+"?passing", nil)
		if err != nil {
			return err
		}
		list = nil
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return err
		}
		if len(list) != 1 {
			return fmt.Errorf("there are %d instances", len(list))
		}
		return nil
	})
	return &list[0]
}

// absent is an error while Consul knows instances of a service.
func (a *agent) absent(service string) error {
	text, err := a.do("GET", "/v1/catalog/service/"+service, nil)
	if err == nil && strings.TrimSpace(text) != "[]" {
		err = fmt.Errorf("still there: %s", text)
	}
	return err
}

// TestSidecarLife: flags alone; an app that comes late, restarts, is sick, goes; the end.
func TestSidecarLife(t *testing.T) {
	a := newAgent(t)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := ports(t, 1)
	app := newApp(t, "orders", fmt.Sprintf("127.0.0.1:%d", p[0]))
	state := filepath.Join(t.TempDir(), "state")
	s := start(t, "env", fmt.Sprintf("CONSUL_HTTP_ADDR=127.0.0.1:%d", a.port), bin, "sidecar", "-service", "orders", "-app", app.address,
		"-listen", "127.0.0.1:0", "-check", "/healthz", "-tag", "v2", "-state-dir", state)
	config := filepath.Join(state, "sidecar.hcl")
	eventually(t, "status", func() error {
		out, code := run(t, "status", "-config", config)
		if code != 0 || !strings.Contains(out, "waiting for the app") || !strings.Contains(out, "AWAY") {
			return errors.New(out)
		}
		return nil
	})
	if err := a.absent("orders"); err != nil {
		t.Fatal("registered before the app is there:", err)
	}

	app.start()
	r := a.registered(t, "orders")
	if r.Service.Address != "127.0.0.1" || len(r.Service.Tags) != 1 || r.Service.Tags[0] != "v2" {
		t.Errorf("the registration is %+v", r.Service)
	}
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	h, err := hear(c, r.url()+"x?y=1")
	if err != nil || h.App != "orders" || h.Path != "/x?y=1" || h.Host != fmt.Sprintf("127.0.0.1:%d", r.Service.Port) || h.Header.Get("X-Forwarded-For") != "127.0.0.1" {
		t.Fatalf("the app has heard %+v, %v", h, err)
	}
	if out, code := run(t, "status", "-config", config); code != 0 || !strings.Contains(out, "registered for") || !strings.Contains(out, "none: plain text") {
		t.Errorf("status says %s", out)
	}

	// A restart of the app costs nobody a request.
	stop := load(4, func(int) error { _, err := hear(c, r.url()); return err })
	for range 3 {
		n := app.served.Load()
		eventually(t, "load", func() error { return atLeast(&app.served, n+200) })
		gone := app.server
		_ = gone.Shutdown(context.Background()) // as a service that is restarted does
		app.start()
	}
	if ok, errs := stop(); len(errs) > 0 || ok == 0 {
		t.Errorf("%d of %d requests failed while the app restarted: %v", len(errs), ok+int64(len(errs)), errs[0])
	}

	// One that is away is told of at once.
	app.stop()
	eventually(t, "the check fails", func() error {
		text, err := a.do("GET", "/v1/health/service/orders?passing", nil)
		if err == nil && strings.TrimSpace(text) != "[]" {
			err = errors.New("it passes")
		}
		return err
	})
	resp, err := c.Get(r.url())
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("without the app: %s %s", resp.Status, body)
	}
	app.sick.Store(true)
	app.start()
	if _, err := hear(c, r.url()); err != nil {
		t.Errorf("the app is back: %v", err)
	}
	app.sick.Store(false)
	a.registered(t, "orders")

	s.signal(syscall.SIGTERM)
	<-s.done
	if err := a.absent("orders"); err != nil {
		t.Error(err)
	}
}

// TestSidecarsCall: two services call each other by listeners and by name.
func TestSidecarsCall(t *testing.T) {
	a := newAgent(t)
	p := ports(t, 5)
	orders := newApp(t, "orders", fmt.Sprintf("127.0.0.1:%d", p[0])).start()
	billing := newApp(t, "billing", fmt.Sprintf("127.0.0.1:%d", p[1])).start()
	startSidecar(t, a, fmt.Sprintf(`
policy "internal" {
  request { set = { "X-Guarded" = "yes" } }
  block { deny = ["203.0.113.0/24"] }
}
trusted_proxies = ["127.0.0.1/32"]
sidecar "billing" {
  app    = %q
  listen = "127.0.0.1:0"
  tags   = ["v1"]
  use    = ["internal"]
}`, billing.address))
	s := startSidecar(t, a, fmt.Sprintf(`
access_log {}
sidecar "orders" {
  app    = %q
  listen = "127.0.0.1:0"
  proxy  = "127.0.0.1:%d"
  upstream "billing" {
    listen = "127.0.0.1:%d"
  }
}`, orders.address, p[2], p[3]))
	r := a.registered(t, "orders")
	a.registered(t, "billing")
	c := &http.Client{Timeout: 10 * time.Second}
	upstream := fmt.Sprintf("http://127.0.0.1:%d/", p[3])
	eventually(t, "the upstream answers", func() error {
		h, err := hear(c, upstream+"pay")
		if err == nil && (h.App != "billing" || h.Path != "/pay" || h.Header.Get("X-Guarded") != "yes") {
			err = fmt.Errorf("heard %+v", h)
		}
		return err
	})
	proxy := fmt.Sprintf("127.0.0.1:%d", p[2])
	byProxy := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})}}
	for _, host := range []string{"billing.service.consul", "BILLING.service.consul:80", "v1.billing.service.consul", "billing.service.dc1.consul", "billing.service.dc1.dc.consul"} {
		if h, err := hear(byProxy, "http://"+host+"/by-name"); err != nil || h.App != "billing" || h.Path != "/by-name" {
			t.Errorf("%s: heard %+v, %v", host, h, err)
		}
	}
	for host, want := range map[string]int{"nobody.service.consul": 404, "v9.billing.service.consul": 404, "billing.service.dc9.consul": 404, "billing.consul": 404, "example.com": 404, "127.0.0.1": 404} {
		if status, text := plain(t, proxy, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); status != want || !strings.Contains(text, "NAME.service.consul") {
			t.Errorf("%s: %d %s, want %d with words", host, status, text, want)
		}
	}
	if status, text := plain(t, proxy, "CONNECT billing.service.consul:443 HTTP/1.1\r\nHost: billing.service.consul:443\r\n\r\n"); status != 501 || !strings.Contains(text, "http://NAME.service.consul") {
		t.Errorf("CONNECT: %d %s", status, text)
	}
	if status, _ := plain(t, proxy, "GET / HTTP/1.1\r\nHost: billing.service.consul\r\nConnection: close\r\n\r\n"); status != 200 {
		t.Errorf("a plain request to the proxy: %d", status)
	}

	// Nobody reaches anything but the app by the port that is announced.
	before := billing.served.Load()
	for _, host := range []string{"billing.service.consul", "billing", "sidecar/orders/upstream/billing"} {
		_, text := plain(t, fmt.Sprintf("127.0.0.1:%d", r.Service.Port), "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		if strings.Contains(text, `"App":"billing"`) || billing.served.Load() != before {
			t.Errorf("%s on the announced port has reached billing", host)
		}
	}

	t.Run("unknown names cost nothing", func(t *testing.T) {
		services := s.status(t)
		for i := range 1000 {
			if status, _ := plain(t, proxy, fmt.Sprintf("GET / HTTP/1.1\r\nHost: name-%d.service.consul\r\nConnection: close\r\n\r\n", i)); status != 404 {
				t.Fatalf("name %d: %d", i, status)
			}
		}
		if now := s.status(t); len(now) != len(services) {
			t.Errorf("there were %d services, and are %d", len(services), len(now))
		}
		if h, err := hear(byProxy, "http://billing.service.consul/"); err != nil || h.App != "billing" {
			t.Errorf("afterwards: %+v, %v", h, err)
		}
	})
	t.Run("policies of use", func(t *testing.T) {
		req, err := http.NewRequest("GET", upstream, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "203.0.113.7") // the app says for whom it calls
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 403 {
			t.Errorf("a client whose network is blocked: %s", resp.Status)
		}
	})
	t.Run("lists", func(t *testing.T) {
		out, code := run(t, "routes", "-config", s.config())
		for _, want := range []string{"on sidecar/orders alone:", "sidecar/orders/proxy/billing.service", "sidecar/orders/upstream/billing"} {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("routes has no %q: %s", want, out)
			}
		}
		out, code = run(t, "explain", "-config", s.config(), "-listener", "sidecar/orders/upstream/billing", "http://billing/")
		if code != 0 || !strings.Contains(out, "service    billing") {
			t.Errorf("explain: %s", out)
		}
		if out, code = run(t, "validate", "-config", s.config()); code != 0 || !strings.Contains(out, "ok: sidecars of orders") {
			t.Errorf("validate: %s", out)
		}
		if out, _ = run(t, "doctor", "-config", s.config()); !strings.Contains(out, "takes connections") || strings.Contains(out, "\nfail") {
			t.Errorf("doctor: %s", out)
		}
		if log := s.log.String(); strings.Contains(log, `"route":"sidecar/orders/check"`) || !strings.Contains(log, `"route":"sidecar/orders/upstream/billing"`) {
			t.Errorf("the access log has the agent's checks, or lacks calls:\n%.2000s", log)
		}
	})
}

// status are the services of a process with sidecars.
func (s *sidecarProcess) status(t *testing.T) []string {
	t.Helper()
	out, code := run(t, "status", "-json", "-config", s.config())
	var st status
	if code != 0 {
		t.Fatal(out)
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range st.Services {
		names = append(names, v.Service)
	}
	return names
}

// plain sends text to an address, or to a unix socket, and reads the answer.
func plain(t *testing.T, address, text string) (status int, answer string) {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, address = "unix", path
	}
	nc, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return 0, err.Error()
	}
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestSidecarUnix: an app and a listener on unix sockets.
func TestSidecarUnix(t *testing.T) {
	a := newAgent(t)
	dir := t.TempDir()
	billing := newApp(t, "billing", "unix://"+filepath.Join(dir, "billing.sock")).start()
	orders := newApp(t, "orders", "unix://"+filepath.Join(dir, "orders.sock")).start()
	calls := filepath.Join(dir, "calls.sock")
	left, err := net.Listen("unix", calls) // by somebody who is gone
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = left.Close()
	text := fmt.Sprintf(`
access_log {}
sidecar "billing" {
  app    = %q
  listen = "127.0.0.1:0"
}
sidecar "orders" {
  app    = %q
  listen = "127.0.0.1:0"
  upstream "billing" {
    listen = "unix://%s"
  }
  proxy = "unix://%s"
}`, billing.address, orders.address, calls, filepath.Join(dir, "proxy.sock"))
	s := startSidecar(t, a, text)
	r := a.registered(t, "orders")
	a.registered(t, "billing")
	c := &http.Client{Timeout: 10 * time.Second}
	if h, err := hear(c, r.url()); err != nil || h.App != "orders" {
		t.Fatalf("heard %+v, %v", h, err)
	}
	eventually(t, "the upstream answers", func() error {
		status, answer := plain(t, "unix://"+calls, "GET /x HTTP/1.1\r\nHost: billing\r\nConnection: close\r\n\r\n")
		if status != 200 || !strings.Contains(answer, `"App":"billing"`) {
			return fmt.Errorf("%d %s", status, answer)
		}
		return nil
	})
	status, answer := plain(t, "unix://"+filepath.Join(dir, "proxy.sock"), "GET http://orders.service.consul/x HTTP/1.1\r\nHost: orders.service.consul\r\nConnection: close\r\n\r\n")
	if status != 200 || !strings.Contains(answer, `"App":"orders"`) {
		t.Errorf("by the proxy: %d %s", status, answer)
	}
	if info, err := os.Stat(calls); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	eventually(t, "the log names the socket", func() error {
		if !strings.Contains(s.log.String(), `"instance":"`+orders.address+`"`) {
			return errors.New("not yet")
		}
		return nil
	})

	// Somebody else's is left alone.
	other := startSidecar(t, a, strings.ReplaceAll(strings.ReplaceAll(text, `"billing" {`, `"shop" {`), `"orders" {`, `"stock" {`))
	<-other.done
	if log := other.log.String(); !strings.Contains(log, "is taken by another process") {
		t.Errorf("a second process says %s", log)
	}
	s.signal(syscall.SIGTERM)
	<-s.done
	if _, err := os.Stat(calls); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	write(t, calls, "no socket")
	third := startSidecar(t, a, text)
	<-third.done
	if log := third.log.String(); !strings.Contains(log, "isn't a socket") {
		t.Errorf("with a file there: %s", log)
	}
}

// TestSidecarReload: sidecars come, move and go, and an edge that follows Consul loses no
// request.
func TestSidecarReload(t *testing.T) {
	a := newAgent(t)
	p := ports(t, 6)
	var apps []*app
	for i, name := range []string{"one", "two", "three"} {
		apps = append(apps, newApp(t, name, fmt.Sprintf("127.0.0.1:%d", p[i])).start())
	}
	block := func(name string, i, port int) string {
		return fmt.Sprintf("sidecar %q {\n  app = %q\n  listen = \"127.0.0.1:%d\"\n  deregister_wait = \"1s\"\n}\n", name, apps[i].address, port)
	}
	s := startSidecar(t, a, block("one", 0, p[3])+block("two", 1, p[4]))
	other := startSidecar(t, a, block("three", 2, p[5]))
	a.registered(t, "one")
	a.registered(t, "two")
	a.registered(t, "three")
	g := newGateway(t, fmt.Sprintf(`
consul { address = "127.0.0.1:%d" }
route "one" {
  paths   = ["/one"]
  service = "one"
}
service "pair" {
  consul { name = "pair" }
}
route "two" {
  paths   = ["/two"]
  service = "two"
}`, a.port)).start(t)
	c := g.client(false)
	eventually(t, "the edge finds both", func() error {
		for _, path := range []string{"/one", "/two"} {
			if _, err := fetch(c, "https://app.test"+path); err != nil {
				return err
			}
		}
		return nil
	})
	var done atomic.Int64
	stop := load(4, func(int) error { done.Add(1); _, err := fetch(c, "https://app.test/one"); return err })
	more := func() { n := done.Load(); eventually(t, "load", func() error { return atLeast(&done, n+200) }) }
	reload := func(text, want string) {
		t.Helper()
		n := strings.Count(s.log.String(), "configuration reloaded")
		s.write(t, text)
		s.signal(syscall.SIGHUP)
		eventually(t, want, func() error {
			if strings.Count(s.log.String(), "configuration reloaded") == n {
				return errors.New(s.log.String()[max(0, len(s.log.String())-500):])
			}
			return nil
		})
		more()
	}
	more()
	moved := ports(t, 1)[0]
	reload(block("one", 0, moved)+block("two", 1, p[4]), "one has moved")
	if r := a.registered(t, "one"); r.Service.Port != moved {
		t.Errorf("one is announced at %d, not %d", r.Service.Port, moved)
	}
	if err := dial(p[3]); err == nil {
		t.Error("the address before is still served")
	}
	reload(block("one", 0, moved), "two is gone")
	if err := a.absent("two"); err != nil {
		t.Error(err)
	}
	reload(block("one", 0, moved)+block("four", 1, p[4])+strings.Replace(block("five", 1, p[3]), "deregister_wait", "weights {\n passing = 7\n}\n deregister_wait", 1), "four is new")
	a.registered(t, "four")
	a.registered(t, "five")
	if ok, errs := stop(); len(errs) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(errs), ok+int64(len(errs)), errs[0])
	}
	other.signal(syscall.SIGTERM)
	<-other.done
}
