package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cacheCase is one rule of a standard: what the origin says, in order (the last
// again and again), and what clients ask and get.
//
//	says:  STATUS[ Field: value| Field: value]
//	asks:  METHOD[ Field: value| Field: value] -> CALLS STATUS BODY[ Field=value| Field=value]
//
// CALLS is how often the origin has been asked by then (*: that depends); BODY the number of the
// answer, "-" for an empty one; of a field, ~ stands for "not there" and * at the end
// for anything. {-100} is the date of 100 seconds ago.
type cacheCase struct {
	name string
	host string // which route; "": one with cache {}
	says []string
	asks []string
}

// origin answers as the cases say.
type origin struct {
	mu    sync.Mutex
	cases map[string]*cacheCase
	calls map[string]int
	seen  map[string][]http.Header
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	c := o.cases[r.URL.Path]
	o.calls[r.URL.Path]++
	n := o.calls[r.URL.Path]
	o.seen[r.URL.Path] = append(o.seen[r.URL.Path], r.Header.Clone())
	o.mu.Unlock()
	if c == nil {
		w.WriteHeader(599)
		return
	}
	status, fields, _ := strings.Cut(c.says[min(n, len(c.says))-1], " ")
	for _, f := range splitFields(fields) {
		if f[1] == "~" {
			w.Header()[f[0]] = nil
			continue
		}
		w.Header().Add(f[0], f[1])
	}
	code, _ := strconv.Atoi(status)
	w.WriteHeader(code)
	if code != 204 && code != 304 && r.Method != "HEAD" {
		fmt.Fprintf(w, "answer %d", n)
	}
}

var ago = regexp.MustCompile(`\{(-?\d+)\}`)

func splitFields(s string) (out [][2]string) {
	for f := range strings.SplitSeq(s, "|") {
		name, value, ok := strings.Cut(strings.TrimLeft(f, " "), ":")
		if !ok {
			continue
		}
		value = ago.ReplaceAllStringFunc(strings.TrimPrefix(value, " "), func(m string) string {
			n, _ := strconv.Atoi(m[1 : len(m)-1])
			return time.Now().Add(time.Duration(n) * time.Second).UTC().Format(http.TimeFormat)
		})
		out = append(out, [2]string{name, value})
	}
	return out
}

const cacheRoutes = `
consumer "ann" {
  api_key { sha256 = "8b166d3af66cd7682b8319627d847cd916324737125f4387fd4c7bd4e8fb8be1" }
}
consumer "bob" {
  api_key { sha256 = "f8596239fe2c5a7d74a70da44c981f5459c078c0060e69b541814edc07d50699" }
}
route "plain" {
  hosts   = ["cache.test"]
  service = "origin"
  cache {}
}
route "ttl" {
  hosts   = ["ttl.test"]
  service = "origin"
  cache {
    default_ttl            = "1m"
    negative_ttl           = "1m"
    stale_while_revalidate = "1m"
    stale_if_error         = "1h"
    max_object             = "100B"
  }
}
route "override" {
  hosts   = ["override.test"]
  service = "origin"
  cache {
    override_ttl = "1m"
    client_control = false
  }
}
route "guess" {
  hosts   = ["guess.test"]
  service = "origin"
  cache { heuristics = true }
}
route "keys" {
  hosts   = ["keys.test"]
  service = "origin"
  auth "api_key" {}
  cache {}
}
route "public" {
  hosts   = ["public.test"]
  service = "origin"
  auth "api_key" {}
  cache {
    public      = true
    default_ttl = "1m"
  }
}
route "rules" {
  hosts   = ["rules.test"]
  service = "origin"
  cache {
    when   = "request.path != '/never'"
    bypass = "'x-preview' in request.headers"
    key    = ["host", "path", "header.X-Tenant"]
  }
}
`

// cacheGateway starts a gateway in front of h.
func cacheGateway(t *testing.T, h http.Handler) (*gateway, *http.Client) {
	t.Helper()
	real(t)
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	g := newGateway(t, fmt.Sprintf("service \"origin\" {\n  instances = [%q]\n}\n", s.Listener.Addr()))
	write(t, g.config()[:len(g.config())-len("sidegate.hcl")]+"cache.hcl", cacheRoutes)
	g.start(t)
	return g, plainClient(g)
}

func plainClient(g *gateway) *http.Client {
	return &http.Client{
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableCompression: true, MaxIdleConnsPerHost: 2000,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.http))
			},
		},
	}
}

func TestCacheRules(t *testing.T) {
	list := cacheCases()
	names := map[string]bool{}
	o := &origin{cases: map[string]*cacheCase{}, calls: map[string]int{}, seen: map[string][]http.Header{}}
	for i := range list {
		if names[list[i].name] {
			t.Fatalf("two cases %q", list[i].name)
		}
		names[list[i].name] = true
		o.cases[fmt.Sprintf("/%d", i)] = &list[i]
	}
	if len(list) < 250 {
		t.Errorf("%d cases, want 250", len(list))
	}
	_, client := cacheGateway(t, o)
	for i := range list {
		t.Run(list[i].name, func(t *testing.T) {
			c := &list[i]
			for n, line := range c.asks {
				if why := o.ask(client, c, fmt.Sprintf("/%d", i), line); why != "" {
					t.Fatalf("request %d, %q: %s", n+1, line, why)
				}
			}
		})
	}
}

// ask sends one request, and says what is wrong with the answer.
func (o *origin) ask(client *http.Client, c *cacheCase, path, line string) string {
	request, want, _ := strings.Cut(line, " -> ")
	method, fields, _ := strings.Cut(request, " ")
	host := c.host
	if host == "" {
		host = "cache.test"
	}
	r, err := http.NewRequest(method, "http://"+host+path, nil)
	if err != nil {
		return err.Error()
	}
	for _, f := range splitFields(fields) {
		r.Header.Add(f[0], f[1])
	}
	resp, err := client.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	words := strings.SplitN(want, " ", 4)
	o.mu.Lock()
	calls := o.calls[path]
	o.mu.Unlock()
	number := "-"
	if len(body) > 0 {
		number = strings.TrimPrefix(string(body), "answer ")
	}
	got := fmt.Sprintf("%d %d %s", calls, resp.StatusCode, number)
	if words[0] == "*" {
		words[0] = fmt.Sprint(calls)
	}
	if wanted := strings.Join(words[:3], " "); got != wanted {
		return fmt.Sprintf("got %s, want %s (%v)", got, wanted, resp.Header)
	}
	if len(words) < 4 {
		return ""
	}
	for f := range strings.SplitSeq(words[3], "|") {
		name, value, _ := strings.Cut(strings.TrimSpace(f), "=")
		have, there := resp.Header[http.CanonicalHeaderKey(name)]
		text := strings.Join(have, ", ")
		if prefix, ok := strings.CutSuffix(value, "*"); ok && prefix != "" && strings.HasPrefix(text, prefix) {
			continue
		}
		switch {
		case value == "~" && there, value == "*" && !there, value != "~" && value != "*" && text != value:
			return fmt.Sprintf("%s is %q, want %q", name, text, value)
		}
	}
	return ""
}

// TestCacheCollapses: many clients that want the same before anybody has it are
// one request to the service, and get it as it comes.
func TestCacheCollapses(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	begun, release := make(chan struct{}), make(chan struct{})
	halves := map[string][]byte{"/length": bytes.Repeat([]byte("0123456789"), 3000), "/large": bytes.Repeat([]byte("0123456789abcdef"), 160<<10)} // of 5 MiB: more than max_object
	halves["/chunked"] = halves["/length"]
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls[r.URL.Path]++
		first := calls[r.URL.Path] == 1
		mu.Unlock()
		w.Header().Set("Cache-Control", "max-age=100")
		part, early := halves[r.URL.Path], 30000
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(2*len(part)))
		}
		_, _ = w.Write(part[:early])
		_ = http.NewResponseController(w).Flush()
		if first {
			begun <- struct{}{}
			<-release
		}
		_, _ = w.Write(part[early:])
		_, _ = w.Write(part)
	})
	_, client := cacheGateway(t, h)
	client.Timeout = 3 * time.Minute // 5 GiB in all, and tests share the machine
	for _, path := range []string{"/length", "/chunked", "/large"} {
		part, clients := halves[path], 1000
		got := make(chan error, clients)
		streamed := make(chan struct{}, clients)
		one := func() {
			resp, err := client.Get("http://cache.test" + path)
			if err != nil {
				got <- err
				return
			}
			defer resp.Body.Close()
			b, read := make([]byte, 30000), 0
			for want := 2 * len(part); err == nil && read < want; {
				n, e := io.ReadFull(resp.Body, b[:min(len(b), want-read)])
				at := read % len(part)
				first := min(n, len(part)-at)
				if !bytes.Equal(b[:first], part[at:at+first]) || !bytes.Equal(b[first:n], part[:n-first]) {
					e = fmt.Errorf("other bytes at %d", read)
				}
				if read == 0 && e == nil {
					streamed <- struct{}{}
				}
				read, err = read+n, e
			}
			if n, e := resp.Body.Read(b); err == nil && (n > 0 || e != io.EOF) {
				err = fmt.Errorf("%d more bytes, %v", n, e)
			}
			got <- err
		}
		go one()
		<-begun
		<-streamed
		for range clients - 1 {
			go one()
		}
		for range clients - 1 { // all have the beginning while the rest isn't there
			<-streamed
		}
		release <- struct{}{}
		for range clients {
			if err := <-got; err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
		mu.Lock()
		if calls[path] != 1 {
			t.Errorf("%s: %d requests to the service, want 1", path, calls[path])
		}
		mu.Unlock()
	}
}

// TestCachePersons: nobody gets what another's key has fetched, unless the answer
// or the route says that everyone may.
func TestCachePersons(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", r.URL.Query().Get("cc"))
		fmt.Fprintf(w, "for %s", r.Header.Get("X-Who"))
	})
	_, client := cacheGateway(t, h)
	ask := func(host, path, key string) (body, status string) {
		t.Helper()
		r, _ := http.NewRequest("GET", "http://"+host+path, nil)
		r.Header.Set("X-API-Key", key+"-key-0123456789")
		r.Header.Set("X-Who", key)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b), resp.Header.Get("Cache-Status")
	}
	for _, tt := range []struct{ host, cc, bob string }{
		{"keys.test", "max-age=100", "for bob"},
		{"keys.test", "s-maxage=100", "for bob"},
		{"keys.test", "public,max-age=100", "for ann"},
		{"public.test", "", "for ann"},
		{"public.test", "private", "for bob"},
	} {
		path := "/p?cc=" + tt.cc
		first, _ := ask(tt.host, path, "ann")
		second, how := ask(tt.host, path, "ann")
		other, _ := ask(tt.host, path, "bob")
		if first != "for ann" || second != "for ann" || other != tt.bob {
			t.Errorf("%s %q: %q, %q, %q, want bob to get %q", tt.host, tt.cc, first, second, other, tt.bob)
		}
		if hit := strings.HasPrefix(how, "sidegate; hit"); hit != (tt.cc != "private") {
			t.Errorf("%s %q: the second is %q", tt.host, tt.cc, how)
		}
	}
	resp, err := client.Get("http://keys.test/p?cc=public,max-age=100")
	if err != nil || resp.StatusCode != 401 {
		t.Errorf("without a key: %v, %v", resp, err)
	}
}

// TestCachePoison: what is in no key doesn't reach the service, and what isn't
// stored for one client isn't another's.
func TestCachePoison(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=100")
		if r.Header.Get("X-Too-Large") != "" {
			w.WriteHeader(400)
		}
		for _, name := range []string{"X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "X-Host", "X-Forwarded-Host", "X-Forwarded-Scheme", "X-Forwarded-Server", "X-Forwarded-Prefix"} {
			fmt.Fprintf(w, "%s=%s;", name, r.Header.Get(name))
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.URL.RequestURI(), b)
	})
	_, client := cacheGateway(t, h)
	get := func(path, body string, fields ...string) string {
		t.Helper()
		var content io.Reader
		if body != "" {
			content = strings.NewReader(body)
		}
		r, _ := http.NewRequest("GET", "http://cache.test"+path, content)
		for _, f := range splitFields(strings.Join(fields, "|")) {
			r.Header.Add(f[0], f[1])
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	clean := get("/clean", "")
	for i, f := range []string{
		"X-Original-URL: /admin", "X-Rewrite-URL: /admin", "X-HTTP-Method-Override: POST", "X-Host: evil.test", "X-Forwarded-Host: evil.test", "X-Forwarded-Scheme: http",
		"X-Forwarded-Server: evil.test", "X-Forwarded-Prefix: /evil", "X-Too-Large: 1",
	} {
		path := fmt.Sprintf("/%05d", i)[:6]
		_ = get(path, "", f)
		want := strings.Replace(clean, "/clean", path, 1)
		if got := get(path, ""); got != want {
			t.Errorf("after %s everyone gets %q, want %q", f, got, want)
		}
	}
	_ = get("/bodyy", "evil")
	if got, want := get("/bodyy", ""), strings.Replace(clean, "/clean", "/bodyy", 1); got != want {
		t.Errorf("after GET with a body everyone gets %q, want %q", got, want)
	}
	if a, b := get("/clean?x=1", ""), get("/clean?x=2", ""); a == b {
		t.Errorf("two queries, one answer %q", a)
	}
	for _, path := range []string{"/clean%2f..%2fx.css", "/clean%00.css", "/clean%3b.css", "/clean/..%5cx.css"} {
		if got := get(path, ""); !strings.Contains(got, "problem:unacceptable-path") {
			t.Errorf("%s gets %q", path, got)
		}
	}
	if got := get("/a/../clean", ""); got != clean {
		t.Errorf("another spelling of the path gets %q, want %q", got, clean)
	}
}

// TestCacheRefreshes: a stale answer is given at once, and the next is the new one.
func TestCacheRefreshes(t *testing.T) {
	var calls atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		w.Header().Set("ETag", `"a"`)
		w.Header().Set("Cache-Control", "max-age=100, stale-while-revalidate=100")
		if n == 1 {
			w.Header().Set("Age", "110")
		} else if r.URL.Path == "/same" {
			w.WriteHeader(map[bool]int{true: 304, false: 500}[r.Header.Get("If-None-Match") == `"a"`])
			return
		}
		fmt.Fprintf(w, "answer %d", n)
	})
	g, client := cacheGateway(t, h)
	for path, want := range map[string]string{"/same": "answer 1", "/other": "answer 2"} {
		calls.Store(0)
		for range 2 {
			if got, err := fetch(client, "http://cache.test"+path); err != nil || got != "answer 1" {
				t.Errorf("%s: %q, %v, want the stale answer", path, got, err)
			}
		}
		eventually(t, "a new answer", func() error {
			resp, err := client.Get("http://cache.test" + path)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			if string(b) != want || resp.Header.Get("Age") == "110" {
				return fmt.Errorf("%q, Age %s", b, resp.Header.Get("Age"))
			}
			return nil
		})
		if n := calls.Load(); n != 2 {
			t.Errorf("%s: %d requests, want 2", path, n)
		}
	}
	text, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`sidegate_cache_requests_total{result="refresh",route="plain"} 2`, `sidegate_cache_stored_total{route="plain"} 4`, `sidegate_cache_items`} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// TestCacheProtocols: over each protocol, from services of both, an answer that is
// large, in pieces, and asked for in parts and by HEAD, is the service's.
func TestCacheProtocols(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 20000)
	var calls atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("Cache-Control", "max-age=100")
		w.Header().Set("ETag", `"a"`)
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		_, _ = io.WriteString(w, body)
	})
	g := newGateway(t, twin(t, h)+`
route "cached-one" {
  hosts   = ["cached-one.test"]
  service = "one"
  cache {}
}
route "cached-two" {
  hosts   = ["cached-two.test"]
  service = "two"
  cache {}
}`)
	g.start(t)
	for _, c := range g.clients(t) {
		for _, service := range []string{"one", "two"} {
			for _, query := range []string{"?length", "?chunked"} {
				t.Run(c.name+" "+service+query, func(t *testing.T) {
					url := c.scheme + "://cached-" + service + ".test/" + strings.ReplaceAll(c.name, " ", "-") + query
					before := calls.Load()
					for i := range 3 {
						if got, err := fetch(c.Client, url); err != nil || got != body {
							t.Fatalf("request %d: %d bytes, %v", i, len(got), err)
						}
					}
					r, _ := http.NewRequest("GET", url, nil)
					r.Header.Set("Range", "bytes=16-31")
					resp, err := c.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					b, _ := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode != 206 || string(b) != body[16:32] {
						t.Errorf("a part: %s, %q", resp.Status, b)
					}
					if resp, err = c.Head(url); err != nil || resp.ContentLength != int64(len(body)) || resp.Header.Get("Age") == "" {
						t.Errorf("HEAD: %v, %v", resp, err)
					}
					r, _ = http.NewRequest("GET", url, nil)
					r.Header.Set("If-None-Match", `"a"`)
					if resp, err = c.Do(r); err != nil || resp.StatusCode != 304 {
						t.Errorf("If-None-Match: %v, %v", resp, err)
					} else {
						_ = resp.Body.Close()
					}
					// What the client has already is fetched whole, for the others.
					r, _ = http.NewRequest("GET", url+"&first", nil)
					r.Header.Set("If-None-Match", `"a"`)
					if resp, err = c.Do(r); err != nil || resp.StatusCode != 304 {
						t.Errorf("If-None-Match of what isn't stored: %v, %v", resp, err)
					} else {
						_ = resp.Body.Close()
					}
					if got, err := fetch(c.Client, url+"&first"); err != nil || got != body {
						t.Errorf("after it: %d bytes, %v", len(got), err)
					}
					if n := calls.Load() - before; n != 2 {
						t.Errorf("%d requests to the service, want 2", n)
					}
				})
			}
		}
	}
}

// TestCachePurge: an operator makes the running gateway forget, and sees what it
// answers from memory; explain says what would become of a request.
func TestCachePurge(t *testing.T) {
	var calls atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=100")
		fmt.Fprintf(w, "answer %d", calls.Add(1))
	})
	g, client := cacheGateway(t, h)
	dir := g.config()[:len(g.config())-len("/sidegate.hcl")]
	ask := func(path, want string) {
		t.Helper()
		if got, err := fetch(client, "http://cache.test"+path); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	sidegate := func(want string, args ...string) {
		t.Helper()
		if out, code := run(t, append(args, "-config", dir)...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("sidegate %s: exit %d, %s, want %q", strings.Join(args, " "), code, out, want)
		}
	}
	ask("/a/1", "answer 1")
	ask("/a/2", "answer 2")
	ask("/b", "answer 3")
	ask("/b", "answer 3")
	sidegate("answers from memory: 200, 8 bytes", "explain", "http://cache.test/b")
	sidegate("plain ", "cache", "stats")
	sidegate("2 answers are forgotten", "cache", "purge", "http://cache.test/a/*")
	sidegate("0 answers are forgotten", "cache", "purge", "https://cache.test/b")
	ask("/a/1", "answer 4")
	ask("/b", "answer 3")
	sidegate("1 answer is forgotten", "cache", "purge", "http://cache.test/b")
	ask("/b", "answer 5")
	if out, code := run(t, "cache", "purge", "cache.test/b", "-config", dir); code == 0 || !strings.Contains(out, "isn't a URL") {
		t.Errorf("exit %d, %s", code, out)
	}
}
