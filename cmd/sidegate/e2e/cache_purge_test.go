package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// tagged is an origin whose answers are fresh for long, tagged by their path, and say
// how often it was asked for them.
type tagged struct {
	mu    sync.Mutex
	calls map[string]int
	slow  chan struct{} // what /slow waits for
}

func (o *tagged) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	at := r.Host + r.URL.RequestURI()
	o.calls[at]++
	n := o.calls[at]
	o.mu.Unlock()
	if r.URL.Path == "/slow" && n == 1 {
		<-o.slow
	}
	w.Header().Set("Cache-Control", "max-age=1000, stale-while-revalidate=1000")
	if r.URL.Path == "/private" {
		w.Header().Set("Cache-Control", "private")
	}
	w.Header().Set("Surrogate-Key", "all "+strings.Trim(r.URL.Path, "/"))
	w.Header().Set("Cache-Tag", "cf,Path-"+strings.Trim(r.URL.Path, "/"))
	fmt.Fprintf(w, "answer %d", n)
	if strings.HasPrefix(r.URL.Path, "/large") {
		_, _ = w.Write(make([]byte, 600<<10))
	}
}

func (o *tagged) asked(at string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls[at]
}

// purgeNodes are two gateways with one configuration and an origin.
func purgeNodes(t *testing.T, o *tagged, more string) (nodes []*gateway, clients []*http.Client) {
	t.Helper()
	real(t)
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	for range 2 {
		g := newGateway(t, fmt.Sprintf("service \"origin\" {\n  instances = [%q]\n}\n", s.Listener.Addr())+`
route "tagged" {
  hosts   = ["a.test", "b.test"]
  service = "origin"
  cache {}
}
`+more).start(t)
		nodes, clients = append(nodes, g), append(clients, plainClient(g))
	}
	return nodes, clients
}

// inspection is a part of what inspect says.
type inspection struct {
	Answers []struct {
		Route, Consumer string
		Fresh           time.Duration
		Tags            []string
	}
	Refused struct{ Why string }
}

func (g *gateway) inspect(u string) (i inspection, err error) {
	text, err := g.get("/api/cache/inspect?" + url.Values{"url": {u}}.Encode())
	if err == nil {
		err = json.Unmarshal([]byte(text), &i)
	}
	return i, err
}

// stored says of each URL whether its answer is fresh, stale or gone.
func (g *gateway) stored(urls []string) (string, error) {
	var list []string
	for _, u := range urls {
		i, err := g.inspect(u)
		switch {
		case err != nil:
			return "", err
		case len(i.Answers) == 0:
			list = append(list, "gone")
		case i.Answers[0].Fresh > 0:
			list = append(list, "fresh")
		default:
			list = append(list, "stale")
		}
	}
	return strings.Join(list, " "), nil
}

func (g *gateway) becomes(t *testing.T, what string, urls []string, want string) {
	t.Helper()
	eventually(t, what, func() error {
		if got, err := g.stored(urls); err != nil || got != want {
			return fmt.Errorf("%s %w, want %s", got, err, want)
		}
		return nil
	})
}

func (g *gateway) cacheCommand(t *testing.T, args ...string) (string, int) {
	t.Helper()
	return run(t, append(append([]string{"cache"}, args...), "-config", filepath.Join(g.dir, "etc"))...)
}

func fill(t *testing.T, c *http.Client, urls ...string) {
	t.Helper()
	for _, u := range urls {
		if _, err := fetch(c, u); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCachePurgeKinds: each kind of purge, by command on one node, holds on both.
func TestCachePurgeKinds(t *testing.T) {
	a := newAgent(t)
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port))
	urls := []string{"http://a.test/x/1", "http://a.test/x/1?q", "http://a.test/x/2", "http://a.test/y", "http://b.test/y"}
	for i, tt := range []struct {
		args []string
		want string // of each URL
	}{
		{[]string{"http://a.test/x/1"}, "gone fresh fresh fresh fresh"},
		{[]string{"http://a.test/x/*"}, "gone gone gone fresh fresh"},
		{[]string{"http://a.test"}, "gone gone gone gone fresh"},
		{[]string{"-host", "b.test"}, "fresh fresh fresh fresh gone"},
		{[]string{"-tag", "Y", "-tag", "path-x/2"}, "fresh fresh gone gone gone"},
		{[]string{"-tag", "x/1", "-soft"}, "stale stale fresh fresh fresh"},
		{[]string{"-route", "tagged"}, "gone gone gone gone gone"},
		{[]string{"*", "-soft"}, "stale stale stale stale stale"},
		{[]string{"*"}, "gone gone gone gone gone"},
		{[]string{"http://a.test/y", "-local"}, "fresh fresh fresh gone fresh"},
	} {
		for j, c := range clients {
			fill(t, c, urls...) // what is stale is fetched again meanwhile
			nodes[j].becomes(t, "stored", urls, "fresh fresh fresh fresh fresh")
		}
		out, code := nodes[i%2].cacheCommand(t, append([]string{"purge"}, tt.args...)...)
		local := slices.Contains(tt.args, "-local")
		n := len(urls) - strings.Count(tt.want, "fresh")
		if code != 0 || !strings.HasPrefix(out, fmt.Sprint(n, " answer")) || strings.Contains(out, "all other nodes are told through Consul") == local {
			t.Errorf("%q: %s", tt.args, out)
		}
		if got, err := nodes[i%2].stored(urls); got != tt.want {
			t.Errorf("%q: %s %v, want %s", tt.args, got, err, tt.want)
		}
		want := tt.want
		if local {
			want = "fresh fresh fresh fresh fresh"
		}
		nodes[1-i%2].becomes(t, fmt.Sprintf("%q at the other", tt.args), urls, want)
	}
	if n := nodes[0].metric(t, `sidegate_cache_purged_total{route="tagged"}`); n != 29 {
		t.Errorf("sidegate_cache_purged_total is %d, want 29", n)
	}
	latency(t, nodes, clients)
}

// latency says how long it takes until the other node has done a purge.
func latency(t *testing.T, nodes []*gateway, clients []*http.Client) {
	t.Helper()
	const u, times = "http://a.test/y", 11
	apart := time.NewTicker(300 * time.Millisecond) // a watch that is busy reads ten times a second
	defer apart.Stop()
	var took []time.Duration
	for range times {
		<-apart.C
		for j, c := range clients {
			fill(t, c, u)
			nodes[j].becomes(t, "stored", []string{u}, "fresh")
		}
		begin := time.Now()
		if err := nodes[0].purgeBySocket(`{"urls": ["` + u + `"]}`); err != nil {
			t.Fatal(err)
		}
		for {
			got, err := nodes[1].stored([]string{u})
			if err != nil || time.Since(begin) > 10*time.Second {
				t.Fatal(got, err)
			}
			if got == "gone" {
				break
			}
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("a purge holds on the other node after %v (median of %d, from the call; most %v)", took[times/2], times, took[times-1])
}

// socketClient speaks to the admin API as the commands do.
func (g *gateway) socketClient() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(g.dir, "state", "admin.sock"))
	}}}
}

// purgeBySocket asks the admin API as the commands do.
func (g *gateway) purgeBySocket(body string) error {
	c := g.socketClient()
	defer c.CloseIdleConnections()
	resp, err := c.Post("http://sidegate/api/cache/purge", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
		return fmt.Errorf("%s: %s %w", resp.Status, text, err)
	}
	return nil
}

// TestCachePurgeOnTheWay: what the service is answering when a purge comes isn't
// stored, on either node; nor is it given to whoever asks after the purge.
func TestCachePurgeOnTheWay(t *testing.T) {
	a := newAgent(t)
	o := &tagged{calls: map[string]int{}, slow: make(chan struct{})}
	nodes, clients := purgeNodes(t, o, fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port))
	const u = "http://b.test/slow"
	got := make(chan string, 1)
	go func() {
		text, err := fetch(clients[1], u)
		got <- fmt.Sprint(text, err)
	}()
	eventually(t, "asked", func() error {
		if n := o.asked("b.test/slow"); n != 1 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	if out, code := nodes[0].cacheCommand(t, "purge", "-tag", "slow"); code != 0 {
		t.Fatal(out)
	}
	eventually(t, "told", func() error {
		if !strings.Contains(nodes[1].log.String(), "as another node says") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	later := make(chan string, 1)
	go func() {
		text, err := fetch(clients[1], u)
		later <- fmt.Sprint(text, err)
	}()
	eventually(t, "waits", func() error { // or asks by itself
		if n := nodes[1].metric(t, `sidegate_requests_in_flight{listener="http"}`); n != 2 && o.asked("b.test/slow") < 2 {
			return fmt.Errorf("%d requests in flight", n)
		}
		return nil
	})
	close(o.slow)
	if text := <-got; text != "answer 1<nil>" {
		t.Errorf("who asked before: %s", text)
	}
	if text := <-later; text != "answer 2<nil>" {
		t.Errorf("who asked after it: %s", text)
	}
	if text, err := fetch(clients[1], u); text != "answer 2" || err != nil {
		t.Errorf("then: %s %v", text, err)
	}
}

// TestCachePurgeStorm: 10,000 purges while there is traffic are all done, on both
// nodes, and nothing fails.
func TestCachePurgeStorm(t *testing.T) {
	a := newAgent(t)
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port))
	const each, callers = 100, 100
	for _, c := range clients {
		for i := range 500 {
			fill(t, c, fmt.Sprintf("http://a.test/%d", i))
		}
		fill(t, c, "http://a.test/kept")
	}
	end := make(chan struct{})
	var wg, traffic sync.WaitGroup
	var requests, hits atomic.Int64
	for i := range 4 {
		traffic.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				u := "http://a.test/kept"
				if n%10 == 0 {
					u = fmt.Sprintf("http://b.test/%d", n%500)
				}
				resp, err := clients[i%2].Get(u)
				if err != nil || resp.StatusCode != 200 {
					t.Error(resp, err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				requests.Add(1)
				if strings.Contains(resp.Header.Get("Cache-Status"), "hit") {
					hits.Add(1)
				}
			}
		})
	}
	begin := time.Now()
	for i := range callers {
		wg.Go(func() {
			c := nodes[i%2].socketClient()
			defer c.CloseIdleConnections()
			for n := range each {
				resp, err := c.Post("http://sidegate/api/cache/purge", "", strings.NewReader(fmt.Sprintf(`{"tags": ["%d"]}`, i*each+n)))
				if err != nil {
					t.Error(err)
					return
				}
				text, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != 200 || !strings.Contains(string(text), `"nodes": "all"`) {
					t.Errorf("%s: %s", resp.Status, text)
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	var urls []string
	for i := range 500 {
		urls = append(urls, fmt.Sprintf("http://a.test/%d", i))
	}
	urls = append(urls, "http://a.test/kept")
	want := strings.Repeat("gone ", 500) + "fresh"
	for _, g := range nodes {
		g.becomes(t, "all of them are done", urls, want)
	}
	close(end)
	traffic.Wait()
	keys, err := a.do("GET", "/v1/kv/sidegate-cache/purges/?keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d purges of %d callers took %v; %d requests meanwhile, %d of them hits; %d entries in Consul", each*callers, callers, took, requests.Load(), hits.Load(), strings.Count(keys, ","))
	if requests.Load() == 0 || hits.Load() == 0 {
		t.Error("there was no traffic")
	}
}

// TestCachePurgeByHand: what is wrong is said; the API by curl's line; inspect.
func TestCachePurgeByHand(t *testing.T) {
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, "")
	g, c := nodes[0], clients[0]
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"purge"}, "say what to forget"},
		{[]string{"purge", "a.test/y"}, `"a.test/y" isn't a URL such as`},
		{[]string{"purge", "http://a.test/y", "-tag", "a"}, "don't go together"},
		{[]string{"purge", "-tag", "a b"}, "has a space or comma"},
		{[]string{"purge", "-host", "http://a.test"}, "isn't a host such as"},
		{[]string{"purge", "-everything"}, "unknown flag"},
		{[]string{"inspect", "*"}, "say one URL"},
		{[]string{"inspect", "a.test"}, "isn't a URL such as"},
		{[]string{"inspect"}, "accepts 1 arg"},
	} {
		if out, code := g.cacheCommand(t, tt.args...); code == 0 || !strings.Contains(out, tt.want) {
			t.Errorf("%q: exit %d: %s, want %q", tt.args, code, out, tt.want)
		}
	}
	for _, tt := range []struct{ body, want string }{
		{"", "isn't a purge"}, {"{}", "say what to forget"}, {`{"tag": "a"}`, "unknown field"}, {`{"tags": ["a"]}{}`, "something follows it"}, {`{"tags": "a"}`, "isn't a purge"},
	} {
		if err := g.purgeBySocket(tt.body); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.body, err, tt.want)
		}
	}
	// Without a token, the address changes nothing.
	req, _ := http.NewRequest("DELETE", fmt.Sprintf("http://127.0.0.1:%d/api/cache?url=*", g.admin), nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 405 || !strings.Contains(string(text), "admin.token") {
		t.Errorf("%s: %s", resp.Status, text)
	}
	_ = resp.Body.Close()
	fill(t, c, "http://a.test/y", "http://a.test/private")
	resp, err = c.Get("http://a.test/y")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.Header.Get("Surrogate-Key") != "" || resp.Header.Get("Cache-Tag") != "" {
		t.Errorf("the client sees tags: %v", resp.Header)
	}
	for u, want := range map[string][]string{
		"http://a.test/y":       {"200  8 bytes, ", "fresh for 16m", "route      tagged, service origin", "for        everyone", "tags       all cf path-y y", "in         memory"},
		"http://a.test/private": {"nothing is stored of http://a.test/private", "200 on route tagged: private"},
		"http://a.test/never":   {"nothing is stored", "sidegate explain http://a.test/never"},
	} {
		out, code := g.cacheCommand(t, "inspect", u)
		for _, text := range want {
			if code != 0 || !strings.Contains(out, text) {
				t.Errorf("inspect %s: exit %d, no %q in\n%s", u, code, text, out)
			}
		}
	}
	out, code := g.cacheCommand(t, "stats")
	if code != 0 || !strings.Contains(out, "tagged: 1 answer wasn't stored: private") {
		t.Errorf("stats: %s", out)
	}
	if out, code := g.cacheCommand(t, "purge", "http://a.test/y"); code != 0 || out != "1 answer is forgotten\n" {
		t.Errorf("purge: %s", out)
	}
}

// TestCachePurgeByToken: with a token the API does it on its address, too.
func TestCachePurgeByToken(t *testing.T) {
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, "")
	g := nodes[0]
	g.stop(syscall.SIGTERM)
	withToken := strings.Replace(readFile(t, g.config()), "admin { ", "admin {\n  token = \"secret-of-admin\"\n  ", 1)
	withToken = strings.Replace(withToken, fmt.Sprintf("%d\" }", g.admin), fmt.Sprintf("%d\"\n}", g.admin), 1)
	write(t, g.config(), withToken)
	g.launch(t)
	eventually(t, "started", func() error { return dial(g.http) })
	fill(t, clients[0], "http://a.test/y", "http://a.test/z")
	curl := func(args ...string) string {
		t.Helper()
		p := start(t, tool(t, "curl"), append([]string{"-sS"}, args...)...)
		<-p.done
		return p.log.String()
	}
	at := fmt.Sprintf("http://127.0.0.1:%d/api/cache", g.admin)
	if out := curl("-X", "DELETE", at+"?tag=y"); !strings.Contains(out, "the admin token is needed") {
		t.Error(out)
	}
	if out := curl("-X", "DELETE", "-H", "Authorization: Bearer secret-of-admin", at+"?tag=y"); !strings.Contains(out, `"purged": 1`) || !strings.Contains(out, `"nodes": "this"`) {
		t.Error(out)
	}
	if out := curl("-H", "Authorization: Bearer secret-of-admin", "-d", `{"tags": ["z"], "soft": true}`, at+"/purge"); !strings.Contains(out, `"purged": 1`) {
		t.Error(out)
	}
	if out := curl("-X", "DELETE", "-H", "Authorization: Bearer secret-of-admin", at+"?tags=y"); !strings.Contains(out, "tags is none of url, host, tag, route, soft, local") {
		t.Error(out)
	}
}
