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

// TestCachePurgeAway: without Consul a purge holds here and says that the others don't
// know; they do when it is back. Nodes that start meanwhile, too.
func TestCachePurgeAway(t *testing.T) {
	a := newAgent(t)
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port))
	urls := []string{"http://a.test/1", "http://a.test/2"}
	for _, c := range clients {
		fill(t, c, urls...)
	}
	a.stop(syscall.SIGKILL)
	out, code := nodes[0].cacheCommand(t, "purge", urls[0])
	if code == 0 || !strings.Contains(out, "1 answer is forgotten here") || !strings.Contains(out, "the other nodes haven't been told: ") {
		t.Errorf("exit %d: %s", code, out)
	}
	if got, _ := nodes[0].stored(urls); got != "gone fresh" {
		t.Error(got)
	}
	if got, _ := nodes[1].stored(urls); got != "fresh fresh" {
		t.Error(got)
	}
	a.start(t)
	nodes[1].becomes(t, "told when Consul is back", urls, "gone fresh")
	// Somebody else writes there what isn't a purge.
	key := fmt.Sprintf("%013d-else-1", time.Now().UnixMilli())
	if _, err := a.do("PUT", "/v1/kv/sidegate-cache/purges/"+key, `{"at": 1, "purges": [{"urls": ["nonsense"]}]}`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reported", func() error {
		for _, p := range nodes[0].status(t).Problems {
			if p.Where == "KV sidegate-cache/purges/"+key && strings.Contains(p.Text, `"nonsense" isn't a URL`) {
				return nil
			}
		}
		return fmt.Errorf("problems: %v", nodes[0].status(t).Problems)
	})
	if out, code := nodes[0].cacheCommand(t, "purge", urls[1]); code != 0 {
		t.Error(out)
	}
	nodes[1].becomes(t, "then as before", urls, "gone gone")
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
	if err != nil || resp.StatusCode != 405 {
		t.Errorf("%v %v", resp, err)
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
	if code != 0 || !strings.Contains(out, "tagged: 1 answers weren't stored: private") {
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

// tagCases are rules of tags, as those of cacheCases.
func tagCases() []cacheCase {
	many := strings.TrimSuffix(strings.Repeat("t%d ", 1001), " ")
	numbers := make([]any, 1001)
	for i := range numbers {
		numbers[i] = i
	}
	many = fmt.Sprintf(many, numbers...)
	fresh := "Cache-Control: max-age=100"
	return []cacheCase{
		{name: "tags: hidden from a miss and a hit", says: []string{"200 " + fresh + "|Surrogate-Key: a b|Cache-Tag: c"}, asks: []string{"GET -> 1 200 1 Surrogate-Key=~|Cache-Tag=~", "GET -> 1 200 1 Surrogate-Key=~|Cache-Tag=~"}},
		{name: "tags: hidden from what isn't stored", says: []string{"200 Cache-Control: private|Surrogate-Key: a b|Cache-Tag: c"}, asks: []string{"GET -> 1 200 1 Surrogate-Key=~|Cache-Tag=~"}},
		{name: "tags: hidden from other methods", says: []string{"200 Surrogate-Key: a b|Cache-Tag: c"}, asks: []string{"POST -> 1 200 1 Surrogate-Key=~|Cache-Tag=~"}},
		{name: "RFC 9213 2: our own field, of other methods", says: []string{"200 Sidegate-Cache-Control: max-age=1"}, asks: []string{"POST -> 1 200 1 Sidegate-Cache-Control=~"}},
		{name: "RFC 9213 2: our own field, of what isn't looked up", says: []string{"200 Sidegate-Cache-Control: max-age=1"}, asks: []string{"GET Cache-Control: no-store -> 1 200 1 Sidegate-Cache-Control=~"}},
		{name: "tags: hidden from HEAD", says: []string{"200 Surrogate-Key: a b|Cache-Tag: c"}, asks: []string{"HEAD -> 1 200 - Surrogate-Key=~|Cache-Tag=~"}},
		{name: "tags: hidden from a validated answer", says: []string{"200 Cache-Control: max-age=0|ETag: \"a\"|Surrogate-Key: a", "304 ETag: \"a\"|Surrogate-Key: b"}, asks: []string{"GET -> 1 200 1 Surrogate-Key=~", "GET -> 2 200 1 Surrogate-Key=~"}},
		{name: "tags: other fields with such names stay", says: []string{"200 " + fresh + "|Surrogate-Keys: a|Surrogate-Control: b"}, asks: []string{"GET -> 1 200 1 Surrogate-Keys=a|Surrogate-Control=b", "GET -> 1 200 1 Surrogate-Keys=a|Surrogate-Control=b"}},
		{name: "tags: more than are kept aren't stored", says: []string{"200 " + fresh + "|Surrogate-Key: " + many}, asks: []string{"GET -> 1 200 1 Cache-Status=sidegate; fwd=uri-miss; detail=\"it has more tags than are kept\"", "GET -> 2 200 2"}},
		{name: "tags: longer ones than are kept aren't stored", says: []string{"200 " + fresh + "|Cache-Tag: " + strings.Repeat("x", 1025)}, asks: []string{"GET -> 1 200 1", "GET -> 2 200 2"}},
		{name: "tags: shown where the route says so", host: "shown.test", says: []string{"200 " + fresh + "|Surrogate-Key: a b|Cache-Tag: c"}, asks: []string{"GET -> 1 200 1 Surrogate-Key=a b|Cache-Tag=c", "GET -> 1 200 1 Surrogate-Key=a b|Cache-Tag=c"}},
	}
}

// TestCacheTags: rules of tags, and that a 304 changes them.
func TestCacheTags(t *testing.T) {
	real(t)
	list := tagCases()
	list = append(list, cacheCase{says: []string{"200 Cache-Control: max-age=0|ETag: \"a\"|Surrogate-Key: first", "304 ETag: \"a\"", "304 ETag: \"a\"|Cache-Tag: second"}})
	o := &origin{cases: map[string]*cacheCase{}, calls: map[string]int{}, seen: map[string][]http.Header{}}
	for i := range list {
		o.cases[fmt.Sprintf("/%d", i)] = &list[i]
	}
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	g := newGateway(t, fmt.Sprintf("service \"origin\" {\n  instances = [%q]\n}\n", s.Listener.Addr())+`
route "shown" {
  hosts   = ["shown.test"]
  service = "origin"
  cache { show_tags = true }
}
`+cacheRoutes).start(t)
	client := plainClient(g)
	for i := range list[:len(list)-1] {
		t.Run(list[i].name, func(t *testing.T) {
			for n, line := range list[i].asks {
				if why := o.ask(client, &list[i], fmt.Sprintf("/%d", i), line); why != "" {
					t.Fatalf("request %d, %q: %s", n+1, line, why)
				}
			}
		})
	}
	u := fmt.Sprintf("http://cache.test/%d", len(list)-1)
	for n, want := range []string{"first", "first", "second", "second"} {
		fill(t, client, u)
		i, err := g.inspect(u)
		if err != nil || len(i.Answers) != 1 || strings.Join(i.Answers[0].Tags, " ") != want {
			t.Errorf("after %d answers: %+v %v, want the tag %s", n+1, i, err, want)
		}
	}
}

// TestCacheInvalidatedBeside: what a route without a cache changes is forgotten by the
// caches of others of its host.
func TestCacheInvalidatedBeside(t *testing.T) {
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, `
route "writes" {
  hosts   = ["*.test"]
  methods = ["PUT"]
  service = "origin"
}
route "all" {
  paths   = ["/all/*"]
  service = "origin"
}
route "elsewhere" {
  hosts   = ["other.example"]
  service = "origin"
}
route "reads" {
  hosts   = ["c.test"]
  methods = ["GET"]
  service = "origin"
  cache { key = ["path"] }
}
`)
	g, c := nodes[0], clients[0]
	put := func(u string) {
		t.Helper()
		req, err := http.NewRequest("PUT", u, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
	}
	for _, tt := range []struct{ stored, changed, want string }{
		{"http://c.test/1", "http://c.test/1", "gone"},
		{"http://c.test/2?a", "http://c.test/2?b", "gone"},
		{"http://c.test/3", "http://c.test/4", "fresh"},
		{"http://a.test/5", "http://a.test/5", "gone"},
		{"http://c.test/6", "http://b.test/6", "fresh"},
		{"http://a.test/7", "http://other.example/7", "fresh"},
	} {
		fill(t, c, tt.stored)
		put(tt.changed)
		if got, err := g.stored([]string{tt.stored}); got != tt.want {
			t.Errorf("PUT %s: %s is %s, want %s: %v", tt.changed, tt.stored, got, tt.want, err)
		}
	}
	out, _ := run(t, "routes", "-json", "-config", filepath.Join(g.dir, "etc"))
	if n := strings.Count(out, "make caches of other routes forget"); n == 0 {
		t.Errorf("routes don't say it: %s", out)
	}
}

// TestCachePurgeWhileDown: what was purged while a node was down is gone from its disk
// before anybody gets it; what wasn't is used; without Consul nothing of it is.
func TestCachePurgeWhileDown(t *testing.T) {
	a := newAgent(t)
	o := &tagged{calls: map[string]int{}}
	nodes, clients := purgeNodes(t, o, fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port)+`
cache {
  memory = "16MiB"
  disk   = "64MiB"
}
`)
	g, c := nodes[1], clients[1]
	urls := []string{"http://a.test/large/1", "http://a.test/large/2"}
	onDisk := func() {
		t.Helper()
		fill(t, c, urls...)
		eventually(t, "on disk", func() error {
			if n := g.metric(t, "sidegate_cache_disk_items"); n != 2 {
				return fmt.Errorf("%d items", n)
			}
			return nil
		})
	}
	onDisk()
	// What was purged before isn't purged again after a restart.
	if out, code := nodes[0].cacheCommand(t, "purge", "-tag", "large/2"); code != 0 {
		t.Fatal(out)
	}
	g.becomes(t, "told", urls, "fresh gone")
	onDisk()
	asked := [2]int{o.asked("a.test/large/1"), o.asked("a.test/large/2")}
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		g.stop(how)
		if out, code := nodes[0].cacheCommand(t, "purge", "-tag", "large/1"); code != 0 {
			t.Fatal(out)
		}
		g.start(t)
		g.becomes(t, "after a restart", urls, "gone fresh")
		fill(t, c, urls...)
		if got := [2]int{o.asked("a.test/large/1"), o.asked("a.test/large/2")}; got[0] != asked[0]+1 || got[1] != asked[1] {
			t.Errorf("%v: the service was asked %v, %v before", how, got, asked)
		}
		asked[0]++
		eventually(t, "on disk", func() error {
			if n := g.metric(t, "sidegate_cache_disk_items"); n != 2 {
				return fmt.Errorf("%d items", n)
			}
			return nil
		})
	}
	// Without Consul, nobody knows what was purged.
	g.stop(syscall.SIGTERM)
	a.stop(syscall.SIGKILL)
	g.start(t)
	fill(t, c, urls[0])
	if n := o.asked("a.test/large/1"); n != asked[0]+1 {
		t.Errorf("without Consul an answer of before is used: %d requests, want %d", n, asked[0]+1)
	}
}

// TestCachePurgeWithoutPermission: a token that may not write purges has the command
// say so, and what it may read is done.
func TestCachePurgeWithoutPermission(t *testing.T) {
	a := newAgent(t)
	a.stop(syscall.SIGKILL)
	a.args = append(a.args, "-config-file", write(t, filepath.Join(t.TempDir(), "acl.hcl"), `acl {
  enabled        = true
  default_policy = "deny"
  tokens { initial_management = "root" }
}`))
	a.start(t)
	do := func(path, body string) (text string) {
		t.Helper()
		eventually(t, path, func() error { // ACLs take a moment
			code, answer, err := askAs(http.DefaultClient, "PUT", fmt.Sprintf("http://127.0.0.1:%d%s", a.port, path), "", body, "X-Consul-Token: root")
			if text = answer; err == nil && code != 200 {
				err = fmt.Errorf("%d %s", code, text)
			}
			return err
		})
		return text
	}
	s := httptest.NewServer(&tagged{calls: map[string]int{}})
	t.Cleanup(s.Close)
	start := func(name, rules string) *gateway {
		t.Helper()
		rule, _ := json.Marshal("key_prefix \"sidegate/\" {\n  policy = \"read\"\n}\nnode_prefix \"\" {\n  policy = \"read\"\n}\nservice_prefix \"\" {\n  policy = \"read\"\n}\n" + rules)
		do("/v1/acl/policy", fmt.Sprintf(`{"Name": %q, "Rules": %s}`, name, rule))
		var out struct{ SecretID string }
		if err := json.Unmarshal([]byte(do("/v1/acl/token", fmt.Sprintf(`{"Policies": [{"Name": %q}]}`, name))), &out); err != nil {
			t.Fatal(err)
		}
		return newGateway(t, fmt.Sprintf("service \"origin\" {\n  instances = [%q]\n}\n", s.Listener.Addr())+`
route "tagged" {
  hosts   = ["a.test"]
  service = "origin"
  cache {}
}
`+fmt.Sprintf("consul {\n  address = \"127.0.0.1:%d\"\n  token   = %q\n}\n", a.port, out.SecretID)).start(t)
	}
	writes := start("writes", "key_prefix \"sidegate-cache/\" {\n  policy = \"write\"\n}\n")
	reads := start("reads", "key_prefix \"sidegate-cache/\" {\n  policy = \"read\"\n}\n")
	none := start("none", "")
	urls := []string{"http://a.test/y"}
	for _, g := range []*gateway{writes, reads, none} {
		fill(t, plainClient(g), urls...)
	}
	if out, code := writes.cacheCommand(t, "purge", urls[0]); code != 0 {
		t.Error(out)
	}
	reads.becomes(t, "with the right to read", urls, "gone")
	for _, g := range []*gateway{reads, none} {
		fill(t, plainClient(g), urls...)
		out, code := g.cacheCommand(t, "purge", urls[0])
		if code == 0 || !strings.Contains(out, "1 answer is forgotten here\n") || !strings.Contains(out, "the other nodes haven't been told: ") || !strings.Contains(out, "403") {
			t.Errorf("exit %d: %s", code, out)
		}
	}
	if out, _ := run(t, "status", "-config", filepath.Join(none.dir, "etc")); !strings.Contains(out, "sidegate-cache/") {
		t.Errorf("status doesn't say what the token may not:\n%s", out)
	}
}
