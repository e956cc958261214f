package cache

import (
	"slices"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// FuzzPurgeURL: a URL that a purge takes finds what a request for it is stored by,
// whatever the route's key has, and so does each beginning of it with *.
func FuzzPurgeURL(f *testing.F) {
	for _, seed := range [][2]string{
		{"api.example.com", "/a/b?c=d"}, {"API.example.com.:443", "/%61//b/../c"}, {"[2001:db8::1]:8443", "/caf%c3%a9?"}, {"a", "/;v=1/x?y?z"}, {"a:80", "/é"}, {"a:", "/"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, host, target string) {
		x := &exchange.Exchange{}
		x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: "https"}, nil)
		x.Method, x.RawHost, x.RawTarget = "GET", host, target
		if !strings.HasPrefix(target, "/") || x.Canonicalise() != nil {
			return
		}
		p := Purge{URLs: []string{"https://" + host + target}}
		sel, err := p.compile()
		if err != nil || len(sel.uris) == 0 {
			return // what can't be typed
		}
		for _, key := range [][]string{nil, {"path"}, {"host", "path"}, {"path", "query"}, {"host", "path", "query", "header.x-a"}} {
			var policy Policy
			if policy.parts, err = parseKey(key); err != nil {
				t.Fatal(err)
			}
			uri := policy.uri(x, x.Target.Path, x.Target.Query, x.Target.HasQuery)
			for _, s := range []*selection{sel, {hosts: []string{strings.ToLower(x.Target.Host)}}, {prefixes: []string{sel.uris[0][:len(sel.uris[0])/2]}}} {
				if len(s.prefixes) > 0 && !slices.Contains(key, "host") && key != nil {
					continue // begins with a host that it doesn't have
				}
				var wanted index[bool]
				wanted.add(s, func(bool) bool { return true })
				a, found := newSubject(uri, "", ""), false
				if wanted.visit(&a, func(bool) { found = true }); !found {
					t.Errorf("https://%s%s, key %q: %q isn't found by %+v", host, target, key, uri, s)
				}
			}
		}
	})
}

// FuzzPurgeEntry: whatever stands in Consul is a purge that can be done, or an error.
func FuzzPurgeEntry(f *testing.F) {
	f.Add("1764031200000-abc-1", []byte(`{"by":"a","at":1,"purges":[{"urls":["https://a.test/x*"],"soft":true},{"tags":["a"]}]}`))
	f.Add("1764031200000-abc-1", []byte(`{"purges":[{"all":true}]}`))
	f.Fuzz(func(t *testing.T, key string, text []byte) {
		e, list, err := readEntry(key, text)
		if err != nil {
			return
		}
		if len(list) != len(e.Purges) || len(list) == 0 {
			t.Fatalf("%d of %d purges", len(list), len(e.Purges))
		}
		var wanted index[bool]
		for _, s := range list {
			wanted.add(s, func(bool) bool { return true })
		}
		a := newSubject("https://a.test/x", "route", "a b")
		wanted.visit(&a, func(bool) {})
		_ = e.String()
	})
}
