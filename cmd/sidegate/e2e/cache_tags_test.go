package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

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
