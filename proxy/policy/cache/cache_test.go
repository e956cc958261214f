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
	x := policytest.Exchange(t, "GET https://api.example.com/a")
	x.Start = time.Now()
	if got, want := p.Test(x), "sends it on, and stores the answer if that may be stored"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	answer(t, p, "GET https://api.example.com/a", "body", "Cache-Control: max-age=100")
	if got, want := p.Test(x), "answers from memory: 200, 4 bytes, 0s old, fresh for 1m"; !strings.HasPrefix(got, want) {
		t.Errorf("Test = %q, want %q", got, want)
	}
	x = policytest.Exchange(t, "POST https://api.example.com/a")
	if got, want := p.Test(x), "sends it on: sidegate; fwd=method"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
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
		func() { _, _ = p.store.Purge("https://api.example.com/a") },
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
		policytest.Answer(x, 200, "", "Cache-Control: max-age=100")
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

func TestPurge(t *testing.T) {
	lines := []string{
		"GET https://api.example.com/a", "GET https://api.example.com/a?b", "GET https://api.example.com/ab", "GET https://api.example.com/", "GET http://api.example.com/a",
		"GET https://api.example.com:8443/a", "GET https://other.example.com/a",
	}
	for _, tt := range []struct {
		what string
		gone string // the numbers of the lines
	}{
		{"https://api.example.com/a", "0"}, {"https://API.example.com:443/a", "0"}, {"https://api.example.com/a?b", "1"}, {"https://api.example.com/a*", "0 1 2"}, {"https://api.example.com", "3"},
		{"https://api.example.com/*", "0 1 2 3"}, {"https://api.example.com:8443/*", "5"}, {"http://api.example.com/*", "4"}, {"*", "0 1 2 3 4 5 6"}, {"https://api.example.com/c", ""},
	} {
		p := newPolicy(t, nil, "")
		for _, line := range lines {
			answer(t, p, line, "old", "Cache-Control: max-age=100", "Vary: X-A")
		}
		n, err := p.store.Purge(tt.what)
		if err != nil || n != len(strings.Fields(tt.gone)) {
			t.Errorf("Purge(%q) = %d, %v", tt.what, n, err)
		}
		var gone []string
		for i, line := range lines {
			if _, hit := answer(t, p, line, "new"); !hit {
				gone = append(gone, fmt.Sprint(i))
			}
		}
		if got := strings.Join(gone, " "); got != tt.gone {
			t.Errorf("Purge(%q): %s are gone, want %s", tt.what, got, tt.gone)
		}
	}
	for _, what := range []string{"", "/a", "api.example.com/a", "ftp://api.example.com/", "https://u@api.example.com/", "https://api.example.com/#a", "://*"} {
		if _, err := NewStore(StoreConfig{}).Purge(what); err == nil {
			t.Errorf("Purge(%q) does something", what)
		}
	}
}

// TestPurgeOnTheWay: what was fetched before a purge isn't stored after it.
func TestPurgeOnTheWay(t *testing.T) {
	p := newPolicy(t, nil, "")
	const line = "GET https://api.example.com/a"
	x := policytest.Exchange(t, line)
	x.Start = time.Now()
	if _, err := p.Request(x); err != nil {
		t.Fatal(err)
	}
	if _, err := p.store.Purge("https://api.example.com/*"); err != nil {
		t.Fatal(err)
	}
	x.Tries = 1
	policytest.Answer(x, 200, "old", "Cache-Control: max-age=100")
	_ = p.Response(x)
	p.Finish(x)
	if _, hit := answer(t, p, line, "new"); hit {
		t.Error("it is stored")
	}
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
