package e2e

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/usage/postgres/pgtest"
)

// usageLine is a part of a row of sidegate usage.
type usageLine struct {
	Consumer, Route, Service, Status string
	Requests                         int64
	BytesIn                          int64 `json:"bytes_in"`
	BytesOut                         int64 `json:"bytes_out"`
	Errors                           int64
	Limited                          int64 `json:"rate_limited"`
	Hits                             int64 `json:"cache_hits"`
	Latency                          struct{ P50, P99 float64 }
}

// usage asks sidegate usage.
func (g *gateway) usage(t *testing.T, args ...string) (lines []usageLine, note string) {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd := exec.Command(bin, append([]string{"usage", "-config", g.config(), "--json"}, args...)...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sidegate usage: %v: %s%s", err, out, &said)
	}
	var r struct{ Rows []usageLine }
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r.Rows, said.String()
}

// used is how many requests sidegate usage knows of.
func (g *gateway) used(t *testing.T, args ...string) (n int64) {
	t.Helper()
	lines, _ := g.usage(t, args...)
	for i := range lines {
		n += lines[i].Requests
	}
	return n
}

// stored waits until nothing waits to be stored.
func (g *gateway) storedUsage(t *testing.T) {
	t.Helper()
	eventually(t, "usage stored", func() error {
		if _, err := g.get("/api/usage/live"); err != nil { // what was counted since the last look becomes a row
			return err
		}
		text, err := g.get("/api/status")
		var s struct {
			Usage struct {
				Up       bool
				Unstored int
				Error    string
			}
		}
		if err == nil {
			err = json.Unmarshal([]byte(text), &s)
		}
		if err == nil && s.Usage.Up && s.Usage.Unstored == 0 {
			return nil
		}
		return fmt.Errorf("%+v, %w", s.Usage, err)
	})
}

const usageKey = "correct-horse-battery-staple-of-acme"

// usageConfig has routes with all outcomes.
func usageConfig(t *testing.T, usage string) string {
	t.Helper()
	return usage + twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/fail":
			w.WriteHeader(500)
		case "/missing":
			w.WriteHeader(404)
		case "/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "short")
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "answer to ", r.URL.Path)
	})) + fmt.Sprintf(`
consumer "acme" {
  api_key { sha256 = "%x" }
}
route "keyed" {
  hosts   = ["keyed.test"]
  paths   = ["/c"]
  service = "one"
  auth "api_key" { header = "X-API-Key" }
}
route "limited" {
  hosts   = ["limited.test"]
  service = "one"
  rate_limit {
    rate  = "1/h"
    burst = 3
    by    = "route"
  }
}
route "cached" {
  hosts   = ["cached.test"]
  service = "two"
  cache { default_ttl = "1h" }
}
`, sha256.Sum256([]byte(usageKey)))
}

// TestUsage sends requests with all outcomes over all protocols: what is counted
// is what came back, live, over a crash, over a restart and without a gateway.
func TestUsage(t *testing.T) {
	g := newGateway(t, usageConfig(t, "usage { flush = \"1s\" }\n")).start(t)
	want := map[string]usageLine{}
	traffic := func() {
		for _, c := range g.clients(t) {
			for _, r := range []struct{ host, service, path, key string }{
				{"one", "one", "/a", ""}, {"one", "one", "/fail", ""}, {"one", "one", "/cut", ""}, {"two", "two", "/missing", ""}, {"two", "two", "/b", ""},
				{"keyed", "one", "/c", usageKey}, {"keyed", "one", "/c", "wrong"}, {"limited", "one", "/d", ""}, {"cached", "two", "/e", ""}, {"keyed", "", "/nowhere", ""},
			} {
				req, err := http.NewRequestWithContext(t.Context(), "POST", c.scheme+"://"+r.host+".test"+r.path, strings.NewReader("12345"))
				if err != nil {
					t.Fatal(err)
				}
				if r.host == "cached" {
					req.Method, req.Body, req.ContentLength = "GET", nil, 0
				}
				w := usageLine{Route: r.host, Service: r.service}
				if r.service == "" {
					w.Route = ""
				}
				if r.key != "" {
					req.Header.Set("X-API-Key", r.key)
				}
				if r.key == usageKey {
					w.Consumer = "acme"
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatalf("%s %s: %v", c.name, req.URL, err)
				}
				body, broken := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				w.Status = fmt.Sprintf("%dxx", resp.StatusCode/100)
				key := w.Consumer + " " + w.Route + " " + w.Status
				if have, ok := want[key]; ok {
					w = have
				}
				w.Requests++
				w.BytesOut += int64(len(body))
				if resp.StatusCode >= 500 || broken != nil {
					w.Errors++
				}
				if resp.StatusCode == 429 {
					w.Limited++
				}
				if strings.Contains(resp.Header.Get("Cache-Status"), "; hit") {
					w.Hits++
				}
				want[key] = w
			}
		}
	}
	check := func(what string) {
		t.Helper()
		eventually(t, what, func() error { // an exchange ends after its answer
			got := map[string]usageLine{}
			lines, _ := g.usage(t, "--by", "consumer,route,service,status")
			for _, l := range lines {
				if l.Latency.P50 <= 0 || l.Latency.P99 < l.Latency.P50 || l.Latency.P99 > 20 {
					return fmt.Errorf("latencies %+v", l)
				}
				l.Latency, l.BytesIn = struct{ P50, P99 float64 }{}, 0
				got[l.Consumer+" "+l.Route+" "+l.Status] = l
			}
			if d := cmp.Diff(want, got); d != "" {
				return errors.New(d)
			}
			return nil
		})
	}
	traffic()
	if n := want[" limited 4xx"].Limited; n != 2 {
		t.Errorf("%d requests were limited, so the test tests nothing", n)
	}
	if n := want[" cached 2xx"].Hits; n != 3 { // http and https are apart
		t.Errorf("%d requests were answered from the cache", n)
	}
	check("live")
	g.storedUsage(t)
	check("stored")
	g.stop(syscall.SIGKILL)
	g.start(t)
	check("after a crash")
	traffic()
	check("stored and live")
	g.stop(syscall.SIGTERM) // flushes
	check("without a gateway")
	if _, note := g.usage(t); !strings.Contains(note, "no gateway is running: this is from") {
		t.Errorf("said %q", note)
	}
	g.start(t)
	check("after a restart")
}

// TestUsageCrash kills the gateway while it counts: what it had stored is there,
// and nothing twice.
func TestUsageCrash(t *testing.T) {
	g := newGateway(t, usageConfig(t, "usage { flush = \"1s\" }\n")).start(t)
	sent, before := int64(0), int64(0)
	c := g.clients(t)[3]
	for range 4 {
		g.storedUsage(t)
		before = g.used(t)
		for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); sent++ {
			send(t, c, "http://one.test/a")
		}
		g.stop(syscall.SIGKILL)
		if n := g.used(t); n < before || n > sent {
			t.Errorf("%d requests after a crash, want %d to %d", n, before, sent)
		}
		g.start(t)
		sent = g.used(t) // what it lost is lost
		c = g.clients(t)[3]
	}
	if before == 0 {
		t.Error("nothing was stored")
	}
}

// TestUsageCommand is how a person asks.
func TestUsageCommand(t *testing.T) {
	g := newGateway(t, usageConfig(t, "usage {}\n")).start(t)
	c := g.clients(t)[0]
	for range 3 {
		send(t, c, "https://one.test/a")
	}
	send(t, c, "https://keyed.test/c", "X-API-Key: "+usageKey)
	eventually(t, "counted", func() error {
		if n := g.used(t); n != 4 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	for _, tt := range []struct {
		args string
		code int
		want []string
	}{
		{"", 0, []string{"CONSUMER  ROUTE  REQUESTS", "acme      keyed  1", "-         one    3", "together         4"}},
		{"--by route --top 1", 0, []string{"ROUTE  REQUESTS", "one    3"}},
		{"--consumer acme --by day", 0, []string{"DAY ", time.Now().UTC().Format("2006-01")}},
		{"--route nowhere", 0, []string{"nothing was used"}},
		{"--since 2026-01-01 --until 2026-02-01", 0, []string{"2026-01-01 00:00 to 2026-02-01 00:00 UTC", "nothing was used"}},
		{"--by colour", 1, []string{`by: "colour" isn't one of consumer, route`}},
		{"--since yesterday", 1, []string{`since: "yesterday" isn't a date like`}},
		{"--csv --json", 2, []string{"--csv or --json: not both"}},
		{"--status 200", 1, []string{`status: "200" isn't a class of status like 2xx`}},
	} {
		out, code := run(t, append([]string{"usage", "-config", g.config()}, strings.Fields(tt.args)...)...)
		for _, want := range tt.want {
			if code != tt.code || !strings.Contains(out, want) {
				t.Errorf("usage %s = %d %s, want %d with %q", tt.args, code, out, tt.code, want)
			}
		}
	}
	out, _ := run(t, "usage", "-config", g.config(), "--csv", "--by", "consumer")
	if list, err := csv.NewReader(strings.NewReader(out)).ReadAll(); err != nil || len(list) != 3 || list[2][0] != "acme" || list[2][1] != "1" {
		t.Errorf("CSV %v, %v", list, err)
	}
	text, err := g.get("/api/usage?by=route&limit=1")
	if err != nil || !strings.Contains(text, `"next": "`) {
		t.Errorf("no cursor: %s, %v", text, err)
	}
	if _, err := g.get("/api/usage?by=nothing"); err == nil || !strings.HasPrefix(err.Error(), "400 ") {
		t.Errorf("a wrong question: %v", err)
	}
	if text, err = g.get("/api/usage?format=csv"); err != nil || !strings.HasPrefix(text, "consumer,route,requests,") {
		t.Errorf("CSV: %s, %v", text, err)
	}
	if text, err = g.get("/metrics"); err != nil || !strings.Contains(text, "sidegate_usage_database_up 1\n") || !strings.Contains(text, "sidegate_usage_series 2\n") {
		t.Errorf("metrics lack usage, %v", err)
	}
	if out, _ = run(t, "status", "-config", g.config()); !strings.Contains(out, "usage    sqlite ") {
		t.Errorf("status: %s", out)
	}
}

func TestUsageOff(t *testing.T) {
	g := newGateway(t, usageConfig(t, "")).start(t)
	send(t, g.clients(t)[0], "https://one.test/a")
	if out, code := run(t, "usage", "-config", g.config()); code != 1 || !strings.Contains(out, "usage isn't counted: add a usage block") {
		t.Errorf("usage = %d %s", code, out)
	}
	if _, err := g.get("/api/usage"); err == nil || !strings.HasPrefix(err.Error(), "404 ") {
		t.Errorf("/api/usage: %v", err)
	}
	g.stop(syscall.SIGTERM)
	if out, code := run(t, "usage", "-config", g.config()); code != 1 || !strings.Contains(out, "usage isn't counted") {
		t.Errorf("usage without a gateway = %d %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "state", "usage.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a database: %v", err)
	}
}

// TestUsageDiskFull: a full disk costs no request and no count, and when there is
// room again, all of it is stored. So does a database that is none.
func TestUsageDiskFull(t *testing.T) {
	real(t)
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	g := newGateway(t, usageConfig(t, "usage { flush = \"1s\" }\n"))
	state := filepath.Join(g.dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=400k"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	g.start(t)
	c := g.clients(t)[3]
	get := func(n int) {
		for range n {
			if resp, _ := send(t, c, "http://one.test/a"); resp.StatusCode != 200 {
				t.Fatal(resp.Status)
			}
		}
	}
	get(5)
	g.storedUsage(t)
	fill := filepath.Join(state, "fill")
	if err := os.WriteFile(fill, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk isn't full")
	}
	get(5)
	down := func(what, says string) {
		t.Helper()
		eventually(t, what, func() error {
			get(1)
			text, err := g.get("/api/status")
			if err == nil && !strings.Contains(text, says) {
				err = errors.New("status doesn't say so")
			}
			return err
		})
		if text, err := g.get("/metrics"); err != nil || !strings.Contains(text, "sidegate_usage_database_up 0\n") {
			t.Errorf("metrics don't say so (%v)", err)
		}
	}
	down("a full disk", "disk is full")
	live := g.liveRequests(t)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	g.storedUsage(t)
	if n := g.used(t); n != live {
		t.Errorf("%d requests are stored, want %d", n, live)
	}

	g.stop(syscall.SIGTERM)
	path := filepath.Join(state, "usage.db")
	if err := os.Rename(path, path+".good"); err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.Repeat("this is no database\n", 100))
	g.start(t)
	c = g.clients(t)[3]
	down("no database", "file is not a database")
	if err := os.Rename(path+".good", path); err != nil {
		t.Fatal(err)
	}
	g.storedUsage(t)
	if n := g.used(t); n != live+g.liveRequests(t) {
		t.Errorf("%d requests are stored, want %d", n, live+g.liveRequests(t))
	}
}

// liveRequests is how many the gateway has counted since its start.
func (g *gateway) liveRequests(t *testing.T) (n int64) {
	t.Helper()
	text, err := g.get("/api/usage/live")
	var live struct{ Series []struct{ Requests int64 } }
	if err == nil {
		err = json.Unmarshal([]byte(text), &live)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range live.Series {
		n += s.Requests
	}
	return n
}

// TestUsageFleet has three gateways store in one PostgreSQL, which crashes and
// comes back, as do they: nothing is lost, nothing counted twice.
func TestUsageFleet(t *testing.T) {
	real(t)
	server := pgtest.New(t)
	url := server.Database("fleet")
	var fleet []*gateway
	for range 3 {
		g := newGateway(t, usageConfig(t, fmt.Sprintf("usage {\n  flush = \"1s\"\n  database = %q\n}\n", url))).start(t)
		fleet = append(fleet, g)
	}
	sent := map[string]int64{}
	traffic := func(n int) {
		for i, g := range fleet {
			c := g.clients(t)[3]
			for range n * (i + 1) {
				send(t, c, "http://one.test/a")
				send(t, c, "http://keyed.test/c", "X-API-Key: "+usageKey)
			}
			sent[" one"] += int64(n * (i + 1))
			sent["acme keyed"] += int64(n * (i + 1))
		}
	}
	check := func(what string, g *gateway) {
		t.Helper()
		eventually(t, what, func() error {
			got := map[string]int64{}
			lines, note := g.usage(t)
			for _, l := range lines {
				got[l.Consumer+" "+l.Route] += l.Requests
			}
			if d := cmp.Diff(sent, got); d != "" {
				return fmt.Errorf("%s%s", d, note)
			}
			return nil
		})
	}
	// spooled waits until a gateway has everything on its disk.
	spooled := func(g *gateway) {
		t.Helper()
		eventually(t, "usage on the disk", func() error {
			if _, err := g.get("/api/usage/live"); err != nil {
				return err
			}
			text, err := g.get("/api/status")
			if err == nil && (!strings.Contains(text, `"unstored": 0`) || strings.Contains(text, `"spooled": 0`)) {
				err = errors.New("there is more in memory")
			}
			return err
		})
	}
	traffic(10)
	for _, g := range fleet {
		g.storedUsage(t)
	}
	check("stored by all", fleet[0])

	server.Kill()
	traffic(10)
	for _, g := range fleet {
		spooled(g)
	}
	if text, err := fleet[1].get("/metrics"); err != nil || !strings.Contains(text, "sidegate_usage_database_up 0\n") || strings.Contains(text, "sidegate_usage_spooled_batches 0\n") {
		t.Errorf("metrics don't say that batches wait (%v)", err)
	}
	if out, code := run(t, "status", "-config", fleet[1].config()); code != 0 || !strings.Contains(out, "NOT STORED for") || !strings.Contains(out, "batches on the disk") {
		t.Errorf("status: %s", out)
	}
	if lines, note := fleet[1].usage(t); len(lines) == 0 || !strings.Contains(note, "the usage database can't be read") {
		t.Errorf("without the database: %v, %s", lines, note)
	}
	fleet[0].stop(syscall.SIGKILL)
	fleet[1].stop(syscall.SIGTERM)
	fleet[0].start(t)
	fleet[1].start(t)
	traffic(10)
	server.Start()
	for _, g := range fleet {
		g.storedUsage(t)
		eventually(t, "delivered", func() error {
			left, err := filepath.Glob(filepath.Join(g.dir, "state", "usage-spool", "*.batch"))
			if len(left) > 0 {
				err = fmt.Errorf("%v wait", left)
			}
			return err
		})
	}
	check("after the crash", fleet[2])
	for _, g := range fleet {
		g.stop(syscall.SIGTERM)
	}
	check("without a gateway", fleet[0])
	if sum, err := pgtest.Query(url, "SELECT sum(requests) FROM sidegate_usage"); err != nil || sum != fmt.Sprint(sent[" one"]+sent["acme keyed"]) {
		t.Errorf("%s requests in the database, %v", sum, err)
	}
}

// TestOwnUsage: consumers see what they have used and what is left, and nothing
// of each other.
func TestOwnUsage(t *testing.T) {
	const otherKey = "wrong-donkey-battery-staple-of-umbrella"
	g := newGateway(t, usageConfig(t, "usage {}\n")+fmt.Sprintf(`
plan "gold" { quota = "100/day" }
consumer "umbrella" {
  plan = "gold"
  api_key { sha256 = "%x" }
}
policy "known" {
  auth "api_key" { header = "X-API-Key" }
  quota {
    limit = "10/month"
    name  = "calls"
  }
}
route "api" {
  hosts   = ["api.test"]
  service = "one"
  use     = ["known"]
}
route "me" {
  hosts = ["api.test"]
  paths = ["/usage"]
  auth "api_key" { header = "X-API-Key" }
  usage {}
}
`, sha256.Sum256([]byte(otherKey)))).start(t)
	type answer struct {
		Consumer, Plan string
		Rows           []usageLine
		Quotas         []struct {
			Quota, Period     string
			Limit, Used, Left int64
		}
	}
	own := func(c protocolClient, key, query string) answer {
		t.Helper()
		resp, body := send(t, c, c.scheme+"://api.test/usage"+query, "X-API-Key: "+key)
		var a answer
		if err := json.Unmarshal([]byte(body), &a); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%s %s (%v)", resp.Status, body, err)
		}
		return a
	}
	clients := g.clients(t)
	first := own(clients[0], otherKey, "")
	if d := cmp.Diff(fmt.Sprintf("%+v", first), "{Consumer:umbrella Plan:gold Rows:[] Quotas:[{Quota:plan Period:day Limit:100 Used:0 Left:100}]}"); d != "" {
		t.Errorf("before anything was used: %s", d)
	}
	for i, c := range clients {
		for range 2 {
			send(t, c, c.scheme+"://api.test/a", "X-API-Key: "+usageKey)
		}
		send(t, c, c.scheme+"://api.test/a", "X-API-Key: "+otherKey)
		send(t, c, c.scheme+"://api.test/a", "X-API-Key: nobody's")
		used := int64(i + 1)
		eventually(t, c.name, func() error {
			a, b := own(c, usageKey, "?route=api"), own(c, otherKey, "?route=api&by=route,day")
			got := fmt.Sprintf("%s %s %v %s %s %v", a.Consumer, a.Plan, a.Quotas, b.Consumer, b.Plan, b.Quotas)
			want := fmt.Sprintf("acme  [{name:calls month 10 %d %d}] umbrella gold [{plan day 100 %d %d}]", 2*used, 10-2*used, used, 100-used)
			if len(a.Rows) != 1 || len(b.Rows) != 1 || a.Rows[0].Requests != 2*used || b.Rows[0].Requests != used || b.Rows[0].Route != "api" || a.Rows[0].Consumer != "" || got != want {
				return fmt.Errorf("%+v, %+v; want %s", a, b, want)
			}
			return nil
		})
	}
	for _, tt := range []struct {
		method, query, key string
		status             int
		kind, says         string
	}{
		{"GET", "", "nobody's", 401, "unauthenticated", ""},
		{"POST", "", usageKey, 405, "method-not-allowed", ""},
		{"GET", "?consumer=umbrella", usageKey, 400, "invalid-request", "has a parameter that there isn't"},
		{"GET", "?by=consumer", usageKey, 400, "invalid-request", "query.by"},
		{"GET", "?by=route,service", usageKey, 400, "invalid-request", "query.by"},
		{"GET", "?since=<script>", usageKey, 400, "invalid-request", "query.since"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "https://api.test/usage"+tt.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, body := sendWith(t, clients[1], req, "X-API-Key: "+tt.key)
		wantProblem(t, resp, body, tt.status, tt.kind)
		if !strings.Contains(body, tt.says) || strings.Contains(body, "umbrella") || strings.Contains(body, "script") {
			t.Errorf("%s %s: %s", tt.method, tt.query, body)
		}
	}
}
