package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
)

// paidRoute is a route that charges; more are policies beside.
func paidRoute(name, service, charge, more string) string {
	return fmt.Sprintf(`
route %q {
  hosts   = ["%[1]s.test"]
  service = %q
  auth "api_key" {}
  charge {
    service = "billing"
%s
  }
%s
}
`, name, service, charge, more)
}

// TestCharge: one charge for each answered request, by every protocol, whatever it
// took to answer it.
func TestCharge(t *testing.T) {
	bill := newBiller(t)
	bill.refuse = func(m *chargetest.Message) string {
		if m.Consumer == "umbrella" && m.Meter == "dear" {
			return "no credit is left"
		}
		return ""
	}
	bill.live()
	var reached, flaky, mirrored atomic.Int64
	fails := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		flaky.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(fails.Close)
	shadow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { mirrored.Add(1) }))
	t.Cleanup(shadow.Close)
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		time.Sleep(5 * time.Millisecond) // so that others wait for the same
		w.Header().Set("X-Tokens", r.Header.Get("X-Want"))
		switch r.URL.Path {
		case "/404":
			w.WriteHeader(http.StatusNotFound)
		case "/cached":
			w.Header().Set("Cache-Control", "public, max-age=100")
		}
		_, _ = io.WriteString(w, "0123456789")
	}))
	t.Cleanup(good.Close)
	address := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	g := newGateway(t, bill.block()+fmt.Sprintf(`
service "good" { instances = [%q] }
service "shadow" { instances = [%q] }
service "both" {
  instances = [%[1]q, %[3]q]
  balance   = "round_robin"
  retry {
    attempts = 2
    budget   = 1
  }
  outlier { errors = 0 }
}
`, address(good), address(shadow), address(fails))+
		paidRoute("reserve", "good", `meter = "calls"`, "cache {}")+
		paidRoute("lease", "good", "meter = \"leased\"\nmode = \"lease\"\nunits = \"0.25\"", "")+
		paidRoute("event", "good", "meter = \"events\"\nmode = \"event\"", "")+
		paidRoute("retry", "both", `meter = "retried"`, "")+
		paidRoute("mirror", "good", "meter = \"mirrored\"\nrepeats = 19", `mirror { service = "shadow" }`)+
		paidRoute("tokens", "good", "meter = \"tokens\"\nunits = \"int(response.headers['x-tokens'])\"\nestimate = \"100\"", "")+
		paidRoute("bytes", "good", "meter = \"bytes\"\nmode = \"event\"\nunits = \"response.bytes_in * 1000 + response.bytes_out\"", "compress {}")+
		paidRoute("free", "good", "meter = \"free\"\ncache_hits = false", "cache {}")+
		paidRoute("dear", "good", "meter = \"dear\"\nmode = \"reserve\"", "cache { public = true }")).start(t)
	clients := g.clients(t)
	want := map[string]float64{}
	do := func(c protocolClient, host, path string, fields ...string) (*http.Response, string) {
		t.Helper()
		return send(t, c, c.scheme+"://"+host+".test"+path, append([]string{"X-Api-Key: " + acmeKey}, fields...)...)
	}
	for _, c := range clients {
		for _, tt := range []struct {
			host, path, meter string
			units             float64
			fields            []string
		}{
			{"reserve", "/", "calls", 1, nil}, {"reserve", "/404", "calls", 0, nil}, {"reserve", "/cached", "calls", 1, nil}, {"reserve", "/cached", "calls", 1, nil},
			{"lease", "/", "leased", 0.25, nil}, {"event", "/", "events", 1, nil}, {"event", "/404", "events", 0, nil},
			{"retry", "/", "retried", 1, nil}, {"retry", "/", "retried", 1, nil}, {"mirror", "/", "mirrored", 1, nil},
			{"tokens", "/", "tokens", 42, []string{"X-Want: 42"}}, {"tokens", "/", "tokens", 100, []string{"X-Want: none"}},
			{"bytes", "/", "bytes", 10, nil}, {"free", "/", "free", 1, nil},
		} {
			resp, body := do(c, tt.host, tt.path, tt.fields...)
			if wrong := resp.StatusCode != 200; wrong != (tt.path == "/404") {
				t.Fatalf("%s %s%s: %s %s", c.name, tt.host, tt.path, resp.Status, body)
			}
			want[tt.meter] += tt.units
		}
		if resp, body := send(t, c, c.scheme+"://dear.test/cached", "X-Api-Key: "+acmeKey); resp.StatusCode != 200 {
			t.Fatal(resp.Status, body)
		}
		want["dear"]++
		before := reached.Load()
		resp, body := send(t, c, c.scheme+"://dear.test/cached", "X-Api-Key: "+umbrellaKey)
		wantProblem(t, resp, body, 402, "payment-required")
		if !strings.Contains(body, "no credit is left") || reached.Load() != before {
			t.Errorf("%s: %s; the service was asked %d times", c.name, body, reached.Load()-before)
		}
		post := request(t, context.Background(), "POST", c.scheme+"://bytes.test/", strings.NewReader("12345"))
		if resp, body := sendWith(t, c, post, "X-Api-Key: "+acmeKey); resp.StatusCode != 200 {
			t.Fatal(resp.Status, body)
		}
		want["bytes"] += 5010
	}
	// What several ask for at a time is fetched once; each of them pays, unless hits are free.
	before := reached.Load()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { do(clients[0], "reserve", "/cached?together") })
		wg.Go(func() { do(clients[0], "free", "/cached?together") })
		wg.Go(func() { do(clients[0], "mirror", "/", "Idempotency-Key: one") })
	}
	wg.Wait()
	want["calls"] += 20
	want["free"]++
	want["mirrored"]++
	if n := reached.Load() - before; n > 22 {
		t.Errorf("the service was asked %d times", n)
	}
	if mirrored.Load() == 0 || flaky.Load() == 0 {
		t.Errorf("nothing was mirrored (%d), or tried again (%d)", mirrored.Load(), flaky.Load())
	}
	g.told(t)
	g.chargeCommands(t)
	g.stop(syscall.SIGTERM)
	for meter, units := range want {
		if got := bill.now().Units("acme", meter); got != fmt.Sprintf("%g", units) {
			t.Errorf("%s: %s units were charged, want %g", meter, got, units)
		}
	}
	if got := bill.now().Units("umbrella", ""); got != "0" {
		t.Errorf("who was refused was charged %s", got)
	}
}

// chargeCommands shows what operators see of what TestCharge did.
func (g *gateway) chargeCommands(t *testing.T) {
	t.Helper()
	etc := filepath.Dir(g.config())
	for _, tt := range []struct {
		args, want string
		code       int
	}{
		{"charges list --state done --route tokens --limit 1", "settled tokens 100 acme tokens billing/charges", 0},
		{"charges list --state dead", "no charges", 0},
		{"charges list --state pending --meter leased", "active leased (lease) 100 acme lease billing/charges", 0},
		{"charges list --state lost", "isn't pending, dead or done", 1},
		{"charges show nobody", "there is no such charge", 1},
		{"charges retry nobody", "there is no such charge", 1},
		{"charges retry", "say which", 1},
		{"charges retry --all", "0 dead letters are told again", 0},
		{"charges totals acme", "acme tokens 710 10 710 0 billing/charges", 0},
		{"charges totals --since yesterday", "isn't a day", 1},
		{"charges reconcile nobody", "no charge is told to", 1},
		{"status", "charges 0 pending, 0 dead letters", 0},
		{"explain http://tokens.test/", "charge: int(response.headers['x-tokens']) tokens, reserve at billing/charges, at first 100, when down: deny => 100 tokens for nobody at first", 0},
	} {
		out, code := run(t, append(strings.Fields(tt.args), "-config", etc)...)
		if text := strings.Join(strings.Fields(out), " "); !strings.Contains(text, tt.want) || code != tt.code {
			t.Errorf("%s said %s (%d), want %s", tt.args, text, code, tt.want)
		}
	}
	text, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`sidegate_charges_total{meter="dear",outcome="refused",route="dear"} 5`,
		`sidegate_charged_units_total{meter="tokens",outcome="charged",route="tokens"} 710`,
		`sidegate_charges_total{meter="tokens",outcome="error",route="tokens"} 5`,
		`sidegate_charges_total{meter="mirrored",outcome="repeated",route="mirror"} 19`,
		`sidegate_charge_service_down{service="billing/charges"} 0`,
		`sidegate_charges_dead 0`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

// TestChargeBreaksOff: who leaves while a stream comes pays for what it had; what the
// service breaks off costs nothing.
func TestChargeBreaksOff(t *testing.T) {
	bill := newBiller(t).live()
	origin := twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 1000))
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/broken" {
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	}))
	g := newGateway(t, origin+bill.block()+paidRoute("bytes", "one", "meter = \"bytes\"\nestimate = \"1\"\nunits = \"response.bytes_out\"", "")).start(t)
	for _, c := range g.clients(t) {
		for _, path := range []string{"/broken", "/left"} {
			ctx, leave := context.WithCancel(context.Background())
			r := request(t, ctx, "GET", c.scheme+"://bytes.test"+path, nil)
			r.Header.Set("X-Api-Key", acmeKey)
			resp, err := c.Do(r)
			if err != nil && path == "/broken" {
				leave()
				continue // its end came before its beginning was read
			}
			if err != nil {
				t.Fatal(c.name, err)
			}
			if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
				t.Fatal(c.name, err)
			}
			if path == "/broken" {
				if _, err := io.Copy(io.Discard, resp.Body); err == nil {
					t.Errorf("%s: it came to its end", c.name)
				}
			}
			leave()
			_ = resp.Body.Close()
		}
	}
	eventually(t, "all are over", func() error {
		if n := bill.now().Count("charged") + bill.now().Count("void"); n != 10 {
			return fmt.Errorf("%d of 10 are over", n)
		}
		return nil
	})
	if got := bill.now().Units("", ""); got != "5000" {
		t.Errorf("%s bytes were charged, want 5000", got)
	}
}

// TestChargeDiskFull: without a disk nothing is charged, and nothing is given away.
func TestChargeDiskFull(t *testing.T) {
	real(t)
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	bill := newBiller(t).live()
	g := newGateway(t, twin(t, http.HandlerFunc(mirror))+bill.block()+
		paidRoute("reserve", "one", `meter = "reserve"`, "")+
		paidRoute("event", "one", "meter = \"event\"\nmode = \"event\"", "")+
		paidRoute("lease", "one", "meter = \"lease\"\nmode = \"lease\"", "")+
		paidRoute("owe", "one", "meter = \"owe\"\nmode = \"event\"\nwhen_down = \"owe\"\ncredit = \"3\"", "")+
		paidRoute("allow", "one", "meter = \"allow\"\nwhen_down = \"allow\"\ncredit = \"2\"", ""))
	state := filepath.Join(g.dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("this machine doesn't let a test mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	g.start(t)
	c := g.clients(t)[0]
	ask := func(host string) int {
		resp, _ := send(t, c, "https://"+host+".test/", "X-Api-Key: "+acmeKey)
		return resp.StatusCode
	}
	if n := ask("reserve"); n != 200 {
		t.Fatal(n)
	}
	fill := filepath.Join(state, "fill")
	if err := os.WriteFile(fill, make([]byte, 128<<10), 0o600); err == nil {
		t.Fatal("the disk isn't full")
	}
	served := map[string]int{}
	eventually(t, "the disk fails", func() error {
		if n := ask("event"); n == 200 {
			served["event"]++
			return errors.New("200")
		}
		return nil
	})
	for _, tt := range []struct {
		host string
		want int
	}{{"reserve", 0}, {"event", 0}, {"lease", 0}, {"owe", 3}, {"allow", 2}} {
		n := 0
		for range 6 {
			switch ask(tt.host) {
			case 200:
				n++
			case 503:
			default:
				t.Errorf("%s: neither 200 nor 503", tt.host)
			}
		}
		if n != tt.want {
			t.Errorf("%s: %d were served with a full disk, want %d", tt.host, n, tt.want)
		}
	}
	if text, err := g.get("/readyz"); err != nil || !strings.Contains(text, "charges can't be written to the disk") {
		t.Errorf("readyz: %s, %v", text, err)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk is back", func() error {
		if n := ask("reserve"); n != 200 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	g.told(t)
	for meter, want := range map[string]string{"reserve": "2", "event": fmt.Sprint(served["event"]), "lease": "0", "owe": "3", "allow": "0"} {
		if got := bill.now().Units("acme", meter); got != want {
			t.Errorf("%s: %s units were charged, want %s", meter, got, want)
		}
	}
}

// TestChargeReload: what is pending outlives reloads, and waits for a configuration
// that has the billing service again; a drain charges what it waits for.
func TestChargeReload(t *testing.T) {
	bill := newBiller(t).live()
	release := make(chan struct{})
	origin := twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	}))
	with := func(units string) string {
		return origin + bill.block() + paidRoute("paid", "one", "meter = \"m\"\nwhen_down = \"owe\"\ncredit = \"100\"\nunits = \""+units+"\"", "")
	}
	g := newGateway(t, with("2"))
	bill.die() // it isn't there yet
	g.start(t)
	c := g.clients(t)[0]
	ask := func(want int) {
		t.Helper()
		if resp, body := send(t, c, "https://paid.test/", "X-Api-Key: "+acmeKey); resp.StatusCode != want {
			t.Fatalf("%s %s, want %d", resp.Status, body, want)
		}
	}
	reload := func(more string) {
		t.Helper()
		n := g.status(t).Config.Reloads
		g.configure(t, more)
		g.signal(syscall.SIGHUP)
		eventually(t, "reload", func() error {
			if s := g.status(t); s.Config.Reloads == n {
				return errors.New(s.Config.RejectedBy)
			}
			return nil
		})
	}
	for range 3 {
		ask(200)
	}
	reload(with("5"))
	ask(200)
	reload(origin)
	var s chargeStatus
	if g.charges(t, "/status", &s); s.Pending != 4 {
		t.Errorf("%d are pending without a billing service, want 4", s.Pending)
	}
	bill.live()
	g.stop(syscall.SIGKILL)
	g.start(t)
	reload(with("7"))
	g.told(t)
	if got := bill.now().Units("", ""); got != "11" {
		t.Errorf("%s units were charged, want 11", got)
	}
	done := make(chan int)
	go func() {
		resp, err := c.Do(func() *http.Request {
			r, _ := http.NewRequest("GET", "https://paid.test/slow", nil)
			r.Header.Set("X-Api-Key", acmeKey)
			return r
		}())
		if err != nil {
			done <- 0
			return
		}
		_ = resp.Body.Close()
		done <- resp.StatusCode
	}()
	eventually(t, "it is reserved", func() error {
		if bill.now().Count("reserved") != 1 {
			return errors.New("it isn't")
		}
		return nil
	})
	g.signal(syscall.SIGTERM)
	eventually(t, "it drains", func() error {
		if !strings.Contains(g.log.String(), `"draining"`) {
			return errors.New("it doesn't")
		}
		return nil
	})
	close(release)
	if code := <-done; code != 200 {
		t.Errorf("answered %d while draining", code)
	}
	<-g.done
	if got, open := bill.now().Units("", ""), bill.now().Count("reserved"); got != "18" || open != 0 {
		t.Errorf("after the drain %s units were charged, want 18; %d reservations are open", got, open)
	}
}

// TestChargeNodes: several gateways, each with its own ids, and a billing service
// behind mutual TLS that is asked for by service and by URL.
func TestChargeNodes(t *testing.T) {
	b, err := chargetest.New("")
	if err != nil {
		t.Fatal(err)
	}
	ca := newTestCA(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ca.pem))
	var tokens sync.Map
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens.Store(r.Header.Get("Authorization"), true)
		b.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	other, err := chargetest.New("")
	if err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(other)
	t.Cleanup(plain.Close)
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(ca.client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, kind string, der []byte) string {
		return write(t, filepath.Join(dir, name), string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	root := file("root.pem", "CERTIFICATE", s.Certificate().Raw)
	cert, keyFile := file("cert.pem", "CERTIFICATE", ca.client.Certificate[0]), file("key.pem", "PRIVATE KEY", key)
	token := write(t, filepath.Join(dir, "token"), "s3cret-token")
	config := twin(t, http.HandlerFunc(mirror)) + fmt.Sprintf(`
service "billing" {
  instances = [%q]
  protocol  = "https"
  tls {
    server_name = "example.com"
    ca_file     = %q
    cert_file   = %q
    key_file    = %q
  }
}
consumer "acme" {
  api_key { sha256 = %q }
}
`, s.Listener.Addr().String(), root, cert, keyFile, keyHash(acmeKey)) +
		paidRoute("paid", "one", fmt.Sprintf("meter = \"m\"\nmode = \"lease\"\nlease = \"10\"\ntoken = file(%q)", token), "") +
		strings.Replace(paidRoute("url", "one", "meter = \"u\"", ""), `service = "billing"`, fmt.Sprintf("url = %q\n path = \"/charges\"", plain.URL), 1)
	var nodes []*gateway
	for i := range 3 {
		protocol := []string{"https", "h2"}[i%2]
		nodes = append(nodes, newGateway(t, strings.Replace(config, `"https"`, strconv.Quote(protocol), 1)).start(t))
	}
	for i, g := range nodes {
		c := g.clients(t)[0]
		for range 10*i + 5 {
			for _, host := range []string{"paid", "url"} {
				if resp, body := send(t, c, "https://"+host+".test/", "X-Api-Key: "+acmeKey); resp.StatusCode != 200 {
					t.Fatal(resp.Status, body)
				}
			}
		}
	}
	for i, g := range nodes {
		g.stop(syscall.SIGTERM)
		g.start(t)
		var c struct {
			Services []struct {
				Service, Error string
				Compared       int
				Differences    []json.RawMessage
			}
		}
		g.charges(t, "/reconcile", &c)
		if len(c.Services) != 2 {
			t.Fatalf("node %d: %+v", i, c)
		}
		for _, s := range c.Services {
			if s.Error != "" || len(s.Differences) > 0 || s.Compared != 1 {
				t.Errorf("node %d: %+v", i, s)
			}
		}
		if text, err := g.get("/api/config"); err != nil || strings.Contains(text, "s3cret-token") || strings.Contains(g.log.String(), "s3cret-token") {
			t.Errorf("node %d tells its token (%v)", i, err)
		}
	}
	if m, u := b.Units("acme", ""), other.Units("acme", ""); m != "45" || u != "45" {
		t.Errorf("%s and %s units were charged, want 45 of each", m, u)
	}
	if _, ok := tokens.Load("Bearer s3cret-token"); !ok {
		t.Error("the billing service got no token")
	}
	for _, w := range append(b.Wrong(), other.Wrong()...) {
		t.Error("the billing service saw: ", w)
	}
}

// TestChargeDeadLetters: a person finds out, and has them told again; it outlasts
// kill -9.
func TestChargeDeadLetters(t *testing.T) {
	bill := newBiller(t).live()
	var fixed atomic.Bool
	bill.now().Reject = func(m *chargetest.Message) string {
		if m.Consumer == "umbrella" && !fixed.Load() {
			return "there is no such customer"
		}
		return ""
	}
	g := newGateway(t, twin(t, http.HandlerFunc(mirror))+bill.block()+paidRoute("paid", "one", "meter = \"m\"\nmode = \"event\"", "")).start(t)
	c := g.clients(t)[0]
	for range 3 {
		send(t, c, "https://paid.test/", "X-Api-Key: "+acmeKey)
		send(t, c, "https://paid.test/", "X-Api-Key: "+umbrellaKey)
	}
	etc := filepath.Dir(g.config())
	list := func() (list []struct{ ID, Reason, Consumer string }) {
		out, _ := run(t, "charges", "list", "--state", "dead", "--json", "-config", etc)
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return list
	}
	eventually(t, "dead letters", func() error {
		if n := len(list()); n != 3 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	g.stop(syscall.SIGKILL)
	g.start(t)
	dead := list()
	if len(dead) != 3 || dead[0].Reason != "there is no such customer" {
		t.Fatalf("after kill -9: %+v", dead)
	}
	if out, code := run(t, "charges", "reconcile", "-config", etc); code != 0 || !strings.Contains(out, "no difference") { // they are known to be untold
		t.Errorf("reconcile said %s (%d)", out, code)
	}
	fixed.Store(true)
	if out, code := run(t, "charges", "retry", dead[0].ID, "-config", etc); code != 0 || !strings.Contains(out, "1 dead letters") {
		t.Errorf("retry said %s", out)
	}
	if out, code := run(t, "charges", "retry", "--all", "-config", etc); code != 0 || !strings.Contains(out, "2 dead letters") {
		t.Errorf("retry said %s", out)
	}
	g.told(t)
	if a, u := bill.now().Units("acme", ""), bill.now().Units("umbrella", ""); a != "3" || u != "3" {
		t.Errorf("%s and %s units were charged, want 3 of each", a, u)
	}
}
