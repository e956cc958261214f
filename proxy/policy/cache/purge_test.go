package cache

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestPurge(t *testing.T) {
	lines := []string{
		"GET https://api.example.com/a", "GET https://api.example.com/a?b", "GET https://api.example.com/ab", "GET https://api.example.com/", "GET http://api.example.com/a",
		"GET https://api.example.com:8443/a", "GET https://other.example.com/a", "GET https://[2001:db8::1]/a", "GET https://[2001:db8::1]:8443/a", "GET https://api.example.com/caf%c3%a9/",
	}
	const all = "0 1 2 3 4 5 6 7 8 9"
	for _, tt := range []struct {
		what Purge
		gone string // the numbers of the lines
	}{
		{Purge{URLs: []string{"https://api.example.com/a"}}, "0"},
		{Purge{URLs: []string{"https://API.example.com.:443/%61"}}, "0"},
		{Purge{URLs: []string{"https://api.example.com/x/../a"}}, "0"},
		{Purge{URLs: []string{"https://api.example.com/café/"}}, "9"},
		{Purge{URLs: []string{"https://api.example.com/caf%C3%A9/"}}, "9"},
		{Purge{URLs: []string{"https://api.example.com/a?b"}}, "1"},
		{Purge{URLs: []string{"https://api.example.com/a*"}}, "0 1 2"},
		{Purge{URLs: []string{"https://api.example.com/a?*"}}, "1"},
		{Purge{URLs: []string{"https://api.example.com/"}}, "3"},
		{Purge{URLs: []string{"https://api.example.com"}}, "0 1 2 3 9"},
		{Purge{URLs: []string{"https://api.example.com:8443"}}, "5"},
		{Purge{URLs: []string{"https://api.example.com/*"}}, "0 1 2 3 9"},
		{Purge{URLs: []string{"https://api.example.com:8443/*"}}, "5"},
		{Purge{URLs: []string{"http://api.example.com/*"}}, "4"},
		{Purge{URLs: []string{"*"}}, all},
		{Purge{All: true}, all},
		{Purge{URLs: []string{"https://api.example.com/c"}}, ""},
		{Purge{URLs: []string{"https://api.example.com/a", "https://other.example.com/*"}}, "0 6"},
		{Purge{Hosts: []string{"API.example.com"}}, "0 1 2 3 4 5 9"},
		{Purge{Hosts: []string{"api.example.com:443"}}, "0 1 2 3 9"},
		{Purge{Hosts: []string{"api.example.com:80"}}, "4"},
		{Purge{Hosts: []string{"other.example.com", "[2001:db8::1]:8443"}}, "6 8"},
		{Purge{Hosts: []string{"[2001:db8::1]"}}, "7 8"},
		{Purge{Hosts: []string{"example.com"}}, ""},
		{Purge{Tags: []string{"even"}}, "0 2 4 6 8"},
		{Purge{Tags: []string{"EVEN", "n3"}}, "0 2 3 4 6 8"},
		{Purge{Tags: []string{"n"}}, ""},
		{Purge{Routes: []string{"other"}}, ""},
		{Purge{Routes: []string{"other", "test"}}, all},
	} {
		for _, soft := range []bool{false, true} {
			p := newPolicy(t, nil, "")
			for i, line := range lines {
				tags := fmt.Sprintf("Cache-Tag: n%d", i)
				if i%2 == 0 {
					tags += ",Even"
				}
				answer(t, p, line, "old", "Cache-Control: max-age=100", "Vary: X-A", tags)
			}
			tt.what.Soft = soft
			n, err := p.store.Purge(tt.what)
			if err != nil || n != len(strings.Fields(tt.gone)) {
				t.Errorf("Purge(%+v) = %d, %v", tt.what, n, err)
			}
			if got := p.store.Counts()[0].Purged; got != uint64(n) {
				t.Errorf("Purge(%+v): %d are counted, want %d", tt.what, got, n)
			}
			var left []string
			for i, line := range lines {
				if _, hit := answer(t, p, line, "new"); !hit {
					left = append(left, fmt.Sprint(i))
				}
			}
			if got := strings.Join(left, " "); got != tt.gone {
				t.Errorf("Purge(%+v): %s are gone, want %s", tt.what, got, tt.gone)
			}
		}
	}
}

// TestPurgeWithoutHostOrQuery: a URL is that of the answer that is given for it,
// whatever its route's key has.
func TestPurgeWithoutHostOrQuery(t *testing.T) {
	for _, tt := range []struct {
		key  string
		what Purge
		gone bool
	}{
		{`"path"`, Purge{URLs: []string{"https://api.example.com/a?b"}}, true},
		{`"path"`, Purge{URLs: []string{"https://api.example.com/a"}}, true},
		{`"path"`, Purge{URLs: []string{"https://api.example.com/a?*"}}, true},
		{`"path"`, Purge{URLs: []string{"https:///a"}}, true},
		{`"path"`, Purge{URLs: []string{"https:///*"}}, true},
		{`"path"`, Purge{Hosts: []string{"api.example.com"}}, true},
		{`"path"`, Purge{URLs: []string{"https://api.example.com"}}, true},
		{`"path"`, Purge{URLs: []string{"https://api.example.com/ab"}}, false},
		{`"path"`, Purge{URLs: []string{"http://api.example.com/a"}}, false},
		{`"host", "path"`, Purge{URLs: []string{"https://other.example.com/a?b"}}, false},
		{`"host", "path"`, Purge{URLs: []string{"https://api.example.com/a?c"}}, true},
		{`"host", "path", "query", "header.X-A"`, Purge{URLs: []string{"https://api.example.com/a?c"}}, false},
		{`"host", "path", "query", "header.X-A"`, Purge{URLs: []string{"https://api.example.com/a?b"}}, true},
		{`"host", "path", "query", "header.X-A"`, Purge{URLs: []string{"https://api.example.com/a"}}, false},
		{`"host", "path", "header.X-A"`, Purge{URLs: []string{"https://api.example.com/a?c"}}, true},
	} {
		p := newPolicy(t, nil, "key = ["+tt.key+"]")
		const line = "GET https://api.example.com/a?b"
		answer(t, p, line, "old", "Cache-Control: max-age=100")
		if _, err := p.store.Purge(tt.what); err != nil {
			t.Fatal(err)
		}
		if _, hit := answer(t, p, line, "new"); hit == tt.gone {
			t.Errorf("key %s, Purge(%+v): hit %v", tt.key, tt.what, hit)
		}
	}
}

func TestPurgeErrors(t *testing.T) {
	many := make([]string, mostPurged+1)
	for i := range many {
		many[i] = "a"
	}
	for _, tt := range []struct {
		what Purge
		want string
	}{
		{Purge{}, "say what to forget"},
		{Purge{Soft: true}, "say what to forget"},
		{Purge{URLs: []string{""}}, "isn't a URL such as"},
		{Purge{URLs: []string{"/a"}}, "isn't a URL such as"},
		{Purge{URLs: []string{"api.example.com/a"}}, "isn't a URL such as"},
		{Purge{URLs: []string{"ftp://api.example.com/"}}, "isn't a URL such as"},
		{Purge{URLs: []string{"https://u@api.example.com/"}}, "isn't a URL such as"},
		{Purge{URLs: []string{"https://api.example.com/#a"}}, "isn't a URL such as"},
		{Purge{URLs: []string{"://*"}}, "isn't a URL such as"},
		{Purge{URLs: []string{"https://api.example.com*"}}, "* stands behind a path; https://api.example.com is all of a host"},
		{Purge{URLs: []string{"https://"}}, "has no host"},
		{Purge{URLs: []string{"https://api.example.com/a*b"}}, "* may stand at the end only"},
		{Purge{URLs: []string{"https://api.example.com/**"}}, "* may stand at the end only"},
		{Purge{URLs: []string{"https://api.example.com/%2"}}, "isn't a URL such as"},
		{Purge{URLs: []string{"https://api.example.com/%2f"}}, "path has an escaped delimiter"},
		{Purge{URLs: []string{"https://api.example.com/" + strings.Repeat("a", longestURL)}}, "longer than 8192 bytes"},
		{Purge{Hosts: []string{"https://api.example.com"}}, "isn't a host such as"},
		{Purge{Hosts: []string{"*.example.com"}}, "isn't a host such as"},
		{Purge{Hosts: []string{"a b"}}, "has a character that no host name has"},
		{Purge{Hosts: []string{""}}, "isn't a host such as"},
		{Purge{Tags: []string{""}}, "a tag has 1 to 1024 bytes"},
		{Purge{Tags: []string{"a,b"}}, "has a space or comma"},
		{Purge{Tags: []string{"a b"}}, "has a space or comma"},
		{Purge{Tags: []string{"a\x00b"}}, "has a control character"},
		{Purge{Routes: []string{""}}, "a route's name has"},
		{Purge{Tags: []string{"a"}, Hosts: []string{"b"}}, "don't go together"},
		{Purge{All: true, Hosts: []string{"b"}}, "don't go together"},
		{Purge{Tags: many}, "more than 256 at once"},
		{Purge{URLs: []string{"https://a.test/1" + strings.Repeat("a", 8000), "https://a.test/2" + strings.Repeat("a", 8000), "https://a.test/3" + strings.Repeat("a", 8000), "https://a.test/4" + strings.Repeat("a", 8000)}}, "more than 28672 bytes at once"},
		{Purge{Tags: []string{"\xff"}}, "isn't UTF-8"},
	} {
		if _, err := NewStore(StoreConfig{}).Purge(tt.what); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Purge(%.200v): %v, want %q", tt.what, err, tt.want)
		}
	}
}

// TestPurgeOnTheWay: what was asked for before a purge isn't stored after it, or only
// as stale, and isn't given to whoever asks after it.
func TestPurgeOnTheWay(t *testing.T) {
	const line = "GET https://api.example.com/a"
	for _, tt := range []struct {
		what Purge
		want string // hit, stale or gone
	}{
		{Purge{URLs: []string{line[4:]}}, "gone"},
		{Purge{URLs: []string{"https://api.example.com/*"}}, "gone"},
		{Purge{Hosts: []string{"api.example.com"}}, "gone"},
		{Purge{Tags: []string{"b"}}, "gone"},
		{Purge{Routes: []string{"test"}}, "gone"},
		{Purge{All: true}, "gone"},
		{Purge{Tags: []string{"c"}}, "hit"},
		{Purge{URLs: []string{"https://api.example.com/b"}}, "hit"},
		{Purge{Tags: []string{"b"}, Soft: true}, "stale"},
		{Purge{All: true, Soft: true}, "stale"},
	} {
		p := newPolicy(t, nil, "stale_while_revalidate = \"1m\"\nwait = \"1m\"")
		x := policytest.Exchange(t, line)
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		if _, err := p.store.Purge(tt.what); err != nil {
			t.Fatal(err)
		}
		// Another asks after the purge, and waits or goes by itself.
		var wg sync.WaitGroup
		var alone bool
		f := x.Cache.(*task).flight
		asked := make(chan struct{})
		wg.Go(func() {
			w := policytest.Exchange(t, line)
			v, err := p.Request(w)
			if alone = v == policy.Next; err != nil {
				t.Error(err)
			}
			if alone { // it fails, so that nothing is stored
				w.Err = exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "test")
				_ = p.Response(w)
			}
			p.Finish(w)
			close(asked)
		})
		for end := time.Now().Add(10 * time.Second); f.waiting.Load() == 0 && time.Now().Before(end); {
			select {
			case <-asked:
				end = time.Time{}
			case <-time.After(time.Millisecond):
			}
		}
		x.Tries = 1
		policytest.Answer(x, 200, "old", "Cache-Control: max-age=100", "Surrogate-Key: a b")
		_ = p.Response(x)
		p.Finish(x)
		wg.Wait()
		if alone != (tt.want == "gone") {
			t.Errorf("Purge(%+v): who asked after it went alone: %v", tt.what, alone)
		}
		y := policytest.Exchange(t, line)
		got := "gone"
		if v, _ := p.Request(y); v == policy.Done {
			got = "hit"
			if y.Cached == exchange.CacheStale {
				got = "stale"
			}
		}
		p.Finish(y)
		if got != tt.want {
			t.Errorf("Purge(%+v): %s, want %s", tt.what, got, tt.want)
		}
	}
}

// TestPurgeMany: purges share their looks at all answers, and count by themselves.
func TestPurgeMany(t *testing.T) {
	p := newPolicy(t, nil, "")
	for i := range 1000 {
		answer(t, p, fmt.Sprintf("GET https://api.example.com/%d", i), "old", "Cache-Control: max-age=100", fmt.Sprintf("Surrogate-Key: all t%d", i/10))
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if n, err := p.store.Purge(Purge{Tags: []string{fmt.Sprintf("t%d", i)}}); n != 10 || err != nil {
				t.Errorf("Purge(t%d) = %d, %v", i, n, err)
			}
		})
	}
	wg.Wait()
	if n, err := p.store.Purge(Purge{Tags: []string{"all"}}); n != 0 || err != nil {
		t.Errorf("%d are left: %v", n, err)
	}
	if got := p.store.Counts()[0].Purged; got != 1000 {
		t.Errorf("%d are counted", got)
	}
}

// TestRecent: more purges than are remembered mean that what is on its way isn't
// stored; when nothing is, none is remembered.
func TestRecent(t *testing.T) {
	var r recent
	one := func(i int) *selection { return &selection{tags: []string{fmt.Sprint(i)}} }
	r.note(one(0))
	began := r.last.Load()
	a := subject{uri: "https://a/", tags: "1 5"}
	for i := range mostRecent - 1 {
		if got, want := r.since(began, &a), unpurged; i <= 1 && got != want {
			t.Fatalf("after %d: %v, want %v", i, got, want)
		}
		r.note(one(i))
	}
	if got := r.since(began, &a); got != hardPurged {
		t.Errorf("purged: %v", got)
	}
	b := subject{uri: "https://b/"}
	if got := r.since(began, &b); got != unpurged {
		t.Errorf("not purged: %v", got)
	}
	for i := range 2 {
		r.note(one(mostRecent + i))
	}
	if got := r.since(began, &b); got != hardPurged {
		t.Errorf("too many: %v", got)
	}
	if got := r.since(r.last.Load(), &a); got != unpurged {
		t.Errorf("begun after it: %v", got)
	}
	r.note(one(1))
	r.forget(r.last.Load())
	if n := r.marks.size(); n != 0 {
		t.Errorf("%d are remembered", n)
	}
}

func TestTags(t *testing.T) {
	for _, tt := range []struct {
		fields []string
		want   string
		ok     bool
	}{
		{nil, "", true},
		{[]string{"Surrogate-Key: b a  b"}, "a b", true},
		{[]string{"surrogate-key: Product/7,list"}, "list product/7", true},
		{[]string{"Cache-Tag: x, Y ,,z", "Surrogate-Key: a"}, "a x y z", true},
		{[]string{"Cache-Tag: x", "Cache-Tag: y"}, "x y", true},
		{[]string{"Cache-Tag:  , "}, "", true},
		{[]string{"Cache-Tag: " + strings.Repeat("a", longestName)}, strings.Repeat("a", longestName), true},
		{[]string{"Cache-Tag: " + strings.Repeat("a", longestName+1)}, "", false},
		{[]string{"Cache-Tag: " + strings.Repeat("a,", mostTagBytes/2)}, "", false},
	} {
		x := policytest.Exchange(t, "GET https://api.example.com/", tt.fields...)
		if got, ok := tagsOf(&x.Request); got != tt.want || ok != tt.ok {
			t.Errorf("tagsOf(%.60q) = %q, %v, want %q, %v", tt.fields, got, ok, tt.want, tt.ok)
		}
	}
	var many []string
	for i := range mostTagCount + 1 {
		many = append(many, fmt.Sprint("Surrogate-Key: ", i))
	}
	x := policytest.Exchange(t, "GET https://api.example.com/", many...)
	if _, ok := tagsOf(&x.Request); ok {
		t.Error("more tags than are kept")
	}
}
