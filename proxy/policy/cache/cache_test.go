package cache

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(Deps{})) }

func newPolicy(t testing.TB, s *Store, text string) *Policy {
	t.Helper()
	return policytest.Policy(t, Kind(Deps{Store: s}), "cache {\n"+text+"\n}").(*Policy)
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`key = ["path", "cookie.a"]`, `"cookie.a" is none of host, path, query, header.NAME`},
		{`key = ["host"]`, "without path, one answer would be that of all paths"},
		{`when = "request.path +"`, "when: "},
		{`bypass = "1"`, "bypass: "},
	} {
		_, err := policytest.Try(t, Kind(Deps{}), "cache {\n"+tt.text+"\n}")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.text, err, tt.want)
		}
	}
}

func TestExplain(t *testing.T) {
	p := newPolicy(t, nil, "default_ttl = \"30s\"\npublic = true")
	if got, want := p.Explain(), "answers of up to 1048576 bytes, as they say; 30s if they don't say; the same for everyone"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	const line = "GET https://api.example.com/a"
	answer(t, p, line, "no", "Cache-Control: private")
	x := policytest.Exchange(t, line)
	for _, want := range []string{
		"sends it on, since nothing is stored for it; the answer is stored if it says for how long (", "), or by default_ttl and not no-store, ", "has 1048576 bytes at most",
		"found by https://api.example.com/a and its Vary, for everyone", "the last one that wasn't stored, 0s ago: 200, private",
	} {
		if got := p.Test(x); !strings.Contains(got, want) {
			t.Errorf("Test = %q, want %q", got, want)
		}
	}
	answer(t, p, line, "body", "Cache-Control: max-age=100")
	if got, want := p.Test(x), "answers from memory: 200, 4 bytes, 0s old, fresh for 1m"; !strings.HasPrefix(got, want) {
		t.Errorf("Test = %q, want %q", got, want)
	}
}

// TestExplainPasses: it is said why a request has nothing to do with the cache.
func TestExplainPasses(t *testing.T) {
	for _, tt := range []struct {
		block, line string
		fields      []string
		want        string
	}{
		{"", "POST https://a.test/", nil, "POST is neither GET nor HEAD; if it succeeds, what is stored of its URI is forgotten"},
		{"", "GET https://a.test/", []string{"If-Match: *"}, "only the service can tell"},
		{"", "GET https://a.test/", []string{"If-Unmodified-Since: x"}, "only the service can tell"},
		{"", "GET https://a.test/", []string{"Cache-Control: no-store"}, "it says no-store"},
		{`when = "request.path == '/b'"`, "GET https://a.test/", nil, "when doesn't hold"},
		{`bypass = "request.path == '/'"`, "GET https://a.test/", nil, "bypass holds"},
		{`bypass = "request.headers['x'] == '/'"`, "GET https://a.test/", nil, "bypass can't be evaluated: "},
		{"", "HEAD https://a.test/", nil, "answers to HEAD aren't stored"},
		{"", "GET https://a.test/", []string{"Authorization: x"}, "it has to say public, s-maxage or must-revalidate"},
		{`default_ttl = "1m"`, "GET https://a.test/", []string{"Cookie: a=b"}, "or by default_ttl (not this one: the request has cookies)"},
		{`key = ["path", "header.X-A"]`, "GET https://a.test/b", []string{"X-A: c"}, "found by https:///b, x-a: c and its Vary"},
	} {
		p := newPolicy(t, nil, tt.block)
		if got := p.Test(policytest.Exchange(t, tt.line, tt.fields...)); !strings.Contains(got, tt.want) {
			t.Errorf("%s %q, %s: %q, want %q", tt.line, tt.fields, tt.block, got, tt.want)
		}
	}
	p := newPolicy(t, nil, "")
	p.Guarded()
	if got, want := p.Test(policytest.Exchange(t, "GET https://a.test/")), "it isn't known who is calling"; !strings.Contains(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	x := policytest.Exchange(t, "GET https://a.test/")
	x.Consumer = &exchange.Consumer{Name: "ann"}
	if got, want := p.Test(x), "for consumer ann, or for everyone if it says public"; !strings.Contains(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// answer sends a request through p, to a service that answers with body, and
// returns what the client gets.
func answer(t testing.TB, p *Policy, line, body string, fields ...string) (got string, hit bool) {
	t.Helper()
	x := policytest.Exchange(t, line)
	x.Start = time.Now()
	v, err := p.Request(x)
	if err != nil {
		t.Fatal(err)
	}
	if hit = v == policy.Done; !hit {
		x.Tries = 1
		policytest.Answer(x, 200, body, fields...)
		if err := p.Response(x); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(x.ResponseBody)
	if err != nil {
		t.Fatal(err)
	}
	_ = x.ResponseBody.Close()
	p.Finish(x)
	return string(b), hit
}

// TestHitAllocates nothing but what Exchange keeps.
func TestHitAllocates(t *testing.T) {
	p := newPolicy(t, nil, "")
	answer(t, p, "GET https://api.example.com/a?b=c", "body", "Cache-Control: max-age=100", "Vary: Accept-Encoding", "ETag: \"a\"")
	x := policytest.Exchange(t, "GET https://api.example.com/a?b=c")
	run := func() {
		x.Start = time.Now()
		if v, err := p.Request(x); v != policy.Done || err != nil {
			t.Fatal(v, err)
		}
		x.ResponseEdits.Reset()
	}
	run()
	// look, and Vary's empty list of codings; otter's maintenance now and then.
	if n := testing.AllocsPerRun(1000, run); n > 2 {
		t.Errorf("%v allocations for a hit, want 2 at most", n)
	}
}

// coder is what compress is to the cache.
type coder struct{ policy.Encoder }

func (coder) Coded(x *exchange.Exchange) string { return x.Response.Get(exchange.ContentEncoding) }

// Decode halves what comes: each byte of it stands twice.
func (coder) Decode(_ string, src exchange.Body) exchange.Body { return &halved{Body: src} }

type halved struct{ exchange.Body }

func (h *halved) Read(p []byte) (int, error) {
	b := make([]byte, 2*len(p))
	n, err := io.ReadFull(h.Body, b)
	for i := range n / 2 {
		p[i] = b[2*i]
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n / 2, err
}

func (h *halved) Next() ([]byte, bool) { return nil, false }

// TestCodedHitAllocates no more than one without a coding.
func TestCodedHitAllocates(t *testing.T) {
	p := newPolicy(t, nil, "")
	p.Recoded(coder{})
	const line = "GET https://api.example.com/a?b=c"
	answer(t, p, line, "body", "Cache-Control: max-age=100", "Vary: Accept-Encoding", "ETag: \"a\"")
	x := policytest.Exchange(t, line)
	twice := func(content []byte) ([]byte, bool) {
		return append(content[:len(content):len(content)], content...), true
	}
	run := func() {
		x.Start = time.Now()
		if v, err := p.Request(x); v != policy.Done || err != nil {
			t.Fatal(v, err)
		}
		b, ok := x.Stored.Encoded("c", twice)
		if !ok || len(b) != 8 {
			t.Fatal(len(b), ok)
		}
		x.Replace(b)
		x.ResponseEdits.Reset()
	}
	run()
	if n := testing.AllocsPerRun(1000, run); n > 2 {
		t.Errorf("%v allocations for a hit, want 2 at most", n)
	}
}

// encode asks p for a stored answer in a coding.
func encode(t *testing.T, p *Policy, line string, make func([]byte) ([]byte, bool)) (string, bool) {
	t.Helper()
	x := policytest.Exchange(t, line)
	x.Start = time.Now()
	if v, err := p.Request(x); v != policy.Done || err != nil || x.Stored == nil {
		t.Fatal(v, err, x.Stored)
	}
	b, ok := x.Stored.Encoded("c", make)
	p.Finish(x)
	return string(b), ok
}

// TestEncoded: a coding is made once for all who want it at once and later, of what is
// stored now; one that can't be made isn't missed.
func TestEncoded(t *testing.T) {
	p := newPolicy(t, nil, "")
	p.Recoded(coder{})
	const line = "GET https://api.example.com/a"
	answer(t, p, line, "old", "Cache-Control: max-age=100", "Vary: Accept-Encoding")
	if b, ok := encode(t, p, line, nil); ok {
		t.Errorf("%q is there before it was made", b)
	}
	if b, ok := encode(t, p, line, func([]byte) ([]byte, bool) { return nil, false }); ok {
		t.Errorf("%q comes of a failure", b)
	}
	var made, got atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			b, ok := encode(t, p, line, func(content []byte) ([]byte, bool) {
				made.Add(1)
				return append([]byte("c:"), content...), true
			})
			if ok && b == "c:old" {
				got.Add(1)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || got.Load() != 100 {
		t.Errorf("made %d times, given %d times, want 1 and 100", made.Load(), got.Load())
	}
	for _, change := range []func(){
		func() { _, _ = p.store.Purge(Purge{URLs: []string{"https://api.example.com/a"}}) },
		func() { answer(t, p, "PUT https://api.example.com/a", "changed") },
	} {
		change()
		answer(t, p, line, "new", "Cache-Control: max-age=100")
		if b, ok := encode(t, p, line, nil); ok {
			t.Errorf("%q is there for another answer", b)
		}
		if b, ok := encode(t, p, line, func(content []byte) ([]byte, bool) { return content, true }); !ok || b != "new" {
			t.Errorf("the new one: %q, %v", b, ok)
		}
	}
}

// TestMissEncodes: what nobody else has asked for yet isn't kept in a coding.
func TestMissEncodes(t *testing.T) {
	for _, waiting := range []int32{0, 1} {
		p := newPolicy(t, nil, "")
		p.Recoded(coder{})
		x := policytest.Exchange(t, "GET https://api.example.com/a")
		x.Start = time.Now()
		_, _ = p.Request(x)
		x.Cache.(*task).flight.waiting.Store(waiting)
		x.Tries = 1
		policytest.Answer(x, 200, "body", "Cache-Control: max-age=100")
		_ = p.Response(x)
		if (x.Stored != nil) != (waiting > 0) {
			t.Errorf("%d wait: %v", waiting, x.Stored)
		}
		p.Finish(x)
	}
}

// TestDecoded: what comes coded is stored without it, and as it came beside.
func TestDecoded(t *testing.T) {
	p := newPolicy(t, nil, "")
	p.Recoded(coder{})
	const line = "GET https://api.example.com/a"
	got, _ := answer(t, p, line, "nneeww", "Cache-Control: max-age=100", "Content-Encoding: c", `ETag: "a"`)
	if got != "new" {
		t.Errorf("the first gets %q", got)
	}
	if got, hit := answer(t, p, line, ""); !hit || got != "new" {
		t.Errorf("the next gets %q, hit %v", got, hit)
	}
	if b, ok := encode(t, p, line, nil); !ok || b != "nneeww" {
		t.Errorf("coded: %q, %v", b, ok)
	}
	x := policytest.Exchange(t, line, "Cache-Control: no-cache")
	x.Start = time.Now()
	_, _ = p.Request(x)
	x.Tries = 1
	policytest.Answer(x, 304, "", `ETag: "a"`, "Cache-Control: max-age=200")
	_ = p.Response(x)
	if x.Status != 200 || x.Response.Get(exchange.ETag) != `W/"a"` {
		t.Errorf("validated: %d, ETag %s", x.Status, x.Response.Get(exchange.ETag))
	}
	p.Finish(x)
	if b, ok := encode(t, p, line, nil); !ok || b != "nneeww" {
		t.Errorf("coded, after a 304: %q, %v", b, ok)
	}
}

// TestMemory: what is stored stays within its room, whatever comes.
func TestMemory(t *testing.T) {
	const room = 2 << 20
	s := NewStore(StoreConfig{Memory: room})
	p := newPolicy(t, s, "")
	for i := range 2000 {
		answer(t, p, fmt.Sprintf("GET https://api.example.com/%d", i), strings.Repeat("x", 8000), "Cache-Control: max-age=100")
		if n, _ := s.Size(); n > room {
			t.Fatalf("%d bytes after %d answers, want %d at most", n, i, room)
		}
	}
	if n, _ := s.Size(); n < room/2 {
		t.Errorf("%d bytes are used of %d", n, room)
	}
	s.SetMemory(1 << 20)
	if n, _ := s.Size(); n > 1<<20 {
		t.Errorf("%d bytes after less room was given", n)
	}
	if len(s.shards[0].flights) > 0 {
		t.Error("flights are left")
	}
}

// TestForgottenOnTheWay: an answer that was fetched before its URI was changed is
// never stored.
func TestForgottenOnTheWay(t *testing.T) {
	p := newPolicy(t, nil, "")
	const line = "GET https://api.example.com/a"
	x := policytest.Exchange(t, line)
	x.Start = time.Now()
	if v, err := p.Request(x); v != policy.Next || err != nil {
		t.Fatal(v, err)
	}
	change := policytest.Exchange(t, "PUT https://api.example.com/a")
	change.Start = time.Now()
	if v, err := p.Request(change); v != policy.Next || err != nil {
		t.Fatal(v, err)
	}
	change.Tries = 1
	policytest.Answer(change, 204, "")
	if err := p.Response(change); err != nil {
		t.Fatal(err)
	}
	p.Finish(change)
	x.Tries = 1
	policytest.Answer(x, 200, "old", "Cache-Control: max-age=100")
	if err := p.Response(x); err != nil {
		t.Fatal(err)
	}
	p.Finish(x)
	if got, hit := answer(t, p, line, "new", "Cache-Control: max-age=100"); hit || got != "new" {
		t.Errorf("the next gets %q, hit %v", got, hit)
	}
	if got, hit := answer(t, p, line, "newer"); !hit || got != "new" {
		t.Errorf("the one after that gets %q, hit %v", got, hit)
	}
}

// TestLocation: what a response names in Location is forgotten, on the same host.
func TestLocation(t *testing.T) {
	for _, tt := range []struct {
		field  string
		forgot bool
	}{
		{"Location: /b?c=d", true}, {"Content-Location: https://api.example.com/b?c=d", true}, {"Location: b?c=d", true}, {"Location: https://API.example.com:443/b?c=d", true},
		{"Location: https://other.example.com/b?c=d", false}, {"Location: http://api.example.com/b?c=d", false}, {"Location: https://api.example.com:8443/b?c=d", false}, {"Location: /b", false}, {"Location: ://", false},
	} {
		p := newPolicy(t, nil, "")
		const line = "GET https://api.example.com/b?c=d"
		answer(t, p, line, "old", "Cache-Control: max-age=100")
		x := policytest.Exchange(t, "POST https://api.example.com/a")
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		x.Tries = 1
		policytest.Answer(x, 201, "", tt.field)
		if err := p.Response(x); err != nil {
			t.Fatal(err)
		}
		if _, hit := answer(t, p, line, "new"); hit == tt.forgot {
			t.Errorf("%s: hit %v", tt.field, hit)
		}
	}
}

// pipe is a body that comes as a test says.
type pipe struct {
	io.Reader
	io.Closer
}

func (pipe) Next() ([]byte, bool) { return nil, false }

func TestFillBreaksOff(t *testing.T) {
	for _, length := range []int64{-1, 10} {
		p := newPolicy(t, nil, "")
		x := policytest.Exchange(t, "GET https://api.example.com/a")
		x.Start = time.Now()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		x.Tries = 1
		policytest.Answer(x, 200, "", "Cache-Control: max-age=100")
		r, w := io.Pipe()
		x.ResponseBody, x.ResponseLength = pipe{r, r}, length
		if err := p.Response(x); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = w.Write([]byte("half"))
			_ = w.CloseWithError(io.ErrUnexpectedEOF)
		}()
		b, err := io.ReadAll(x.ResponseBody)
		if string(b) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("length %d: %q, %v", length, b, err)
		}
		_ = x.ResponseBody.Close()
		p.Finish(x)
		if _, hit := answer(t, p, "GET https://api.example.com/a", "new"); hit {
			t.Errorf("length %d: half an answer is stored", length)
		}
	}
}

// TestFillTooLarge: what turns out too large passes whole, and isn't stored.
func TestFillTooLarge(t *testing.T) {
	p := newPolicy(t, nil, `max_object = "1KiB"`)
	x := policytest.Exchange(t, "GET https://api.example.com/a")
	x.Start = time.Now()
	if _, err := p.Request(x); err != nil {
		t.Fatal(err)
	}
	x.Tries = 1
	policytest.Answer(x, 200, "", "Cache-Control: max-age=100")
	text := strings.Repeat("0123456789", 20000)
	r := io.NopCloser(strings.NewReader(text))
	x.ResponseBody, x.ResponseLength = pipe{r, r}, -1
	if err := p.Response(x); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(x.ResponseBody)
	if string(b) != text || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	_ = x.ResponseBody.Close()
	p.Finish(x)
	if _, hit := answer(t, p, "GET https://api.example.com/a", "new"); hit {
		t.Error("it is stored")
	}
}

// TestRace: many at once fetch, wait, change, and push out each other's answers;
// nobody ever gets what isn't that URI's, or half of it, or what was there before
// a change that was over.
func TestRace(t *testing.T) {
	s := NewStore(StoreConfig{Memory: 1 << 20})
	p := newPolicy(t, s, "wait = \"20ms\"")
	const uris = 40
	var versions [uris]version
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 300 {
				n := rnd.IntN(uris)
				if rnd.IntN(20) == 0 {
					versions[n].begun.Add(1)
					if _, err := s.Purge(purges(n)[rnd.IntN(3)]); err != nil {
						t.Error(err)
					}
					versions[n].done.Add(1)
					continue
				}
				if rnd.IntN(20) == 0 {
					x := policytest.Exchange(t, fmt.Sprintf("PUT https://api.example.com/%d", n))
					if _, err := p.Request(x); err != nil {
						t.Error(err)
					}
					versions[n].begun.Add(1)
					x.Tries = 1
					policytest.Answer(x, 204, "")
					_ = p.Response(x)
					p.Finish(x)
					versions[n].done.Add(1)
					continue
				}
				race(t, p, rnd, n, &versions[n])
			}
		})
	}
	wg.Wait()
	for i := range s.shards {
		if n := len(s.shards[i].flights); n > 0 {
			t.Errorf("%d flights are left", n)
		}
	}
	if n, _ := s.Size(); n > 1<<20 {
		t.Errorf("%d bytes", n)
	}
}

// purges are some that forget a URI.
func purges(n int) []Purge {
	return []Purge{{Tags: []string{fmt.Sprint("t", n)}}, {URLs: []string{fmt.Sprint("https://api.example.com/", n)}}, {Hosts: []string{"api.example.com"}}}
}

// version counts the changes of a URI.
type version struct{ begun, done atomic.Int64 }

// raced is a body that says of which URI and version it is, again and again.
func raced(n int, version int64) string {
	return strings.Repeat(fmt.Sprintf("%d/%d;", n, version), 4000)
}

func race(t *testing.T, p *Policy, rnd *rand.Rand, n int, changes *version) {
	least := changes.done.Load()
	x := policytest.Exchange(t, fmt.Sprintf("GET https://api.example.com/%d", n))
	x.Start = time.Now()
	v, err := p.Request(x)
	if err != nil {
		t.Error(err)
		return
	}
	if v == policy.Next {
		x.Tries = 1
		text := raced(n, changes.begun.Load())
		policytest.Answer(x, 200, "", "Cache-Control: max-age=100", fmt.Sprint("Surrogate-Key: t", n))
		r := io.NopCloser(strings.NewReader(text))
		x.ResponseBody, x.ResponseLength = pipe{r, r}, int64(len(text))
		if rnd.IntN(2) == 0 {
			x.ResponseLength = -1
		}
		_ = p.Response(x)
	}
	if rnd.IntN(5) > 0 { // the others leave before they have read it
		b, err := io.ReadAll(x.ResponseBody)
		var uri int
		var of int64
		if _, scan := fmt.Sscanf(string(b), "%d/%d;", &uri, &of); err != nil || scan != nil || uri != n || string(b) != raced(n, of) || of < least {
			t.Errorf("%d gets %d bytes, of %d/%d, want %d at least: %v", n, len(b), uri, of, least, err)
		}
	}
	_ = x.ResponseBody.Close()
	p.Finish(x)
}

// TestLeaderLeaves: when the client of the one that fetches leaves, one of those
// who wait takes its place, and the others wait for that; when the service fails,
// all are told so.
func TestLeaderLeaves(t *testing.T) {
	const line, waiters = "GET https://api.example.com/a", 20
	for _, tt := range []struct {
		from        exchange.Source
		kind        exchange.Kind
		next, fault int64
	}{{exchange.FromClient, exchange.ClientGone, 1, 0}, {exchange.FromUpstream, exchange.ConnectFailed, 0, waiters}} {
		p := newPolicy(t, nil, `wait = "1m"`)
		x := policytest.Exchange(t, line)
		x.Start = time.Now()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		var next, faults, hits atomic.Int64
		var wg sync.WaitGroup
		for range waiters {
			wg.Go(func() {
				w := policytest.Exchange(t, line)
				w.Start = time.Now()
				v, err := p.Request(w)
				switch {
				case err != nil:
					faults.Add(1)
				case v == policy.Next:
					next.Add(1)
					w.Tries = 1
					policytest.Answer(w, 200, "body", "Cache-Control: max-age=100")
					_ = p.Response(w)
				default:
					hits.Add(1)
				}
				p.Finish(w)
			})
		}
		f := x.Cache.(*task).flight
		for end := time.Now().Add(10 * time.Second); f.waiting.Load() < waiters && time.Now().Before(end); {
			runtime.Gosched()
		}
		x.Err = exchange.NewFault(tt.from, tt.kind, "test")
		_ = p.Response(x)
		p.Finish(x)
		wg.Wait()
		if next.Load() != tt.next || faults.Load() != tt.fault || hits.Load() != waiters-tt.next-tt.fault {
			t.Errorf("%s: %d fetch, %d fail, %d get an answer", tt.kind, next.Load(), faults.Load(), hits.Load())
		}
	}
}
