package cache

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestCookiesGoAlone: an answer that doesn't say how long it is fresh isn't given to
// a request with cookies that waits for it, either.
func TestCookiesGoAlone(t *testing.T) {
	const line = "GET https://api.example.com/a"
	for _, tt := range []struct {
		block, says string
		alone       bool
	}{
		{`default_ttl = "1m"`, "X: y", true},
		{"default_ttl = \"1m\"\npublic = true", "X: y", false},
		{"", "Cache-Control: max-age=100", false},
	} {
		p := newPolicy(t, nil, tt.block+"\nwait = \"1m\"")
		x := policytest.Exchange(t, line)
		x.Start = time.Now()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		f := x.Cache.(*task).flight
		var wg sync.WaitGroup
		wg.Go(func() {
			w := policytest.Exchange(t, line, "Cookie: session=1")
			w.Start = time.Now()
			v, err := p.Request(w)
			if err != nil || (v == policy.Next) != tt.alone {
				t.Errorf("%s, %s: %v, %v", tt.block, tt.says, v, err)
			}
			if v == policy.Next {
				w.Err = exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "test")
				_ = p.Response(w)
			}
			p.Finish(w)
		})
		until(t, "it waits", func() bool { return f.waiting.Load() == 1 })
		x.Tries = 1
		policytest.Answer(x, 200, "anybody's", tt.says)
		_ = p.Response(x)
		p.Finish(x)
		wg.Wait()
	}
}

// TestForgottenStandsForNoError: what is forgotten while a request asks whether it
// holds isn't given instead of an error, nor stored again when it holds.
func TestForgottenStandsForNoError(t *testing.T) {
	const line = "GET https://api.example.com/a"
	for _, tt := range []struct {
		name   string
		forget func(s *Store)
		stale  bool
	}{
		{"nothing", func(*Store) {}, true},
		{"soft", func(s *Store) { _, _ = s.Purge(Purge{All: true, Soft: true}) }, true},
		{"purge", func(s *Store) { _, _ = s.Purge(Purge{All: true}) }, false},
		{"unsafe method", func(s *Store) { s.forget(line[4:]) }, false},
	} {
		p := newPolicy(t, nil, `stale_if_error = "1h"`)
		answer(t, p, line, "old", "Cache-Control: max-age=0", `ETag: "a"`)
		x := policytest.Exchange(t, line)
		x.Start = time.Now()
		if v, err := p.Request(x); v != policy.Next || err != nil {
			t.Fatal(v, err)
		}
		tt.forget(p.store)
		x.Tries, x.Err = 1, exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "test")
		_ = p.Response(x)
		if stale := x.Err == nil; stale != tt.stale {
			t.Errorf("%s: stale is %v, want %v", tt.name, stale, tt.stale)
		}
		p.Finish(x)
	}
}

// TestForgottenStaysForgotten: an answer that was found just before a purge, and about
// which is asked just after it, isn't stored again by a 304; one that only depends on
// something else now is.
func TestForgottenStaysForgotten(t *testing.T) {
	const line = "GET https://api.example.com/a"
	for _, tt := range []struct {
		name, says string
		purge      bool
		want       bool
	}{
		{"", "Cache-Control: max-age=100", false, true},
		{"other Vary", "Vary: X-A", false, true},
		{"purged", "Cache-Control: max-age=100", true, false},
	} {
		p := newPolicy(t, nil, "")
		answer(t, p, line, "old", "Cache-Control: max-age=0", `ETag: "a"`)
		x := policytest.Exchange(t, line)
		x.Start = time.Now()
		l, _ := p.look(x)
		e := l.find()
		if tt.purge {
			_, _ = p.store.Purge(Purge{All: true})
		}
		l.lead(l.start(false), e)
		x.Tries = 1
		policytest.Answer(x, 304, "", `ETag: "a"`, "Cache-Control: max-age=100", tt.says)
		if err := p.Response(x); err != nil {
			t.Fatal(err)
		}
		p.Finish(x)
		if got, hit := answer(t, p, line, "new", "Cache-Control: no-store"); hit != tt.want || hit && got != "old" {
			t.Errorf("%s: %q, hit %v, want %v", tt.name, got, hit, tt.want)
		}
	}
}

// TestPublicTakenBack: what was stored for everyone because the route said so isn't
// used any more once it doesn't.
func TestPublicTakenBack(t *testing.T) {
	const line = "GET https://api.example.com/a"
	s := NewStore(StoreConfig{})
	answer(t, newPolicy(t, s, "public = true"), line, "ann's", "Cache-Control: max-age=100")
	if got, hit := answer(t, newPolicy(t, s, ""), line, "new", "Cache-Control: max-age=100"); hit {
		t.Errorf("got %q", got)
	}
}

// TestRecordingIsBounded: what a service's coding is kept of is part of the memory of
// answers on their way, and all of it is given back.
func TestRecordingIsBounded(t *testing.T) {
	s := NewStore(StoreConfig{Memory: 4 << 20})
	body := func() exchange.Body { return pipe{bytes.NewReader(make([]byte, 400<<10)), io.NopCloser(nil)} }
	for _, tt := range []struct {
		most, room int64
		whole      bool
	}{{1 << 20, 0, true}, {100 << 10, 0, false}, {1 << 20, 1900 << 10, false}} {
		if !s.reserveFlying(tt.room) {
			t.Fatal("no room")
		}
		r := &recording{Body: body(), store: s, most: tt.most}
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err != nil {
			t.Fatal(err)
		}
		if n := s.flying.Load() - tt.room; r.whole() != tt.whole || tt.whole && (n < int64(cap(r.b)) || n > 600<<10) || !tt.whole && n != 0 {
			t.Errorf("%+v: whole %v, %d bytes fly", tt, r.whole(), n)
		}
		r.done()
		s.releaseFlying(tt.room)
		if n := s.flying.Load(); n != 0 {
			t.Errorf("%+v: %d bytes are left", tt, n)
		}
	}
}

// TestNoDescriptors: when no file can be opened, those on disk are left alone.
func TestNoDescriptors(t *testing.T) {
	dir := t.TempDir()
	s := NewStore(StoreConfig{Memory: 1 << 20, Disk: 10 << 20})
	stop := onDisk(t, s, dir)
	defer stop()
	p := newPolicy(t, s, "")
	const line = "GET https://api.example.com/a"
	first := policytest.Exchange(t, line)
	first.Start = time.Now()
	_, _ = p.Request(first)
	first.Tries = 1
	policytest.Answer(first, 200, "", "Cache-Control: max-age=100")
	first.ResponseBody, first.ResponseLength = pipe{bytes.NewReader(make([]byte, 200<<10)), io.NopCloser(nil)}, 200<<10
	_ = p.Response(first)
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{first.ResponseBody})
	_ = first.ResponseBody.Close()
	p.Finish(first)
	until(t, "on disk", func() bool { return s.Disk().Files == 1 })
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(f.Fd())
	_ = f.Close()
	less := limit
	less.Cur = n
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &less); err != nil {
		t.Fatal(err)
	}
	x := policytest.Exchange(t, line)
	x.Start = time.Now()
	l, _ := p.look(x)
	e := l.find()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if e != nil || s.Disk().Broken != 0 || s.Disk().Files != 1 {
		t.Errorf("%v, %+v", e != nil, s.Disk())
	}
	if _, hit := answer(t, p, line, "new"); !hit {
		t.Error("it is forgotten")
	}
}

// TestErrorsSay: what isn't answered has a Cache-Status, too, also for those who
// waited for it.
func TestErrorsSay(t *testing.T) {
	const line = "GET https://api.example.com/a"
	p := newPolicy(t, nil, `wait = "1m"`)
	x := policytest.Exchange(t, line)
	x.Start = time.Now()
	if _, err := p.Request(x); err != nil {
		t.Fatal(err)
	}
	f := x.Cache.(*task).flight
	var wg sync.WaitGroup
	wg.Go(func() {
		w := policytest.Exchange(t, line)
		w.Start = time.Now()
		if _, err := p.Request(w); err == nil {
			t.Error("no error")
		}
		if got, want := edit(w, cacheStatus), "sidegate; fwd=uri-miss; collapsed"; got != want {
			t.Errorf("who waits: %q, want %q", got, want)
		}
		p.Finish(w)
	})
	until(t, "it waits", func() bool { return f.waiting.Load() == 1 })
	x.Tries, x.Err = 1, exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "test")
	_ = p.Response(x)
	if got, want := edit(x, cacheStatus), "sidegate; fwd=uri-miss"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.Finish(x)
	wg.Wait()
}

func edit(x *exchange.Exchange, name string) string {
	for i := range x.ResponseEdits.Len() {
		if n, value, ok := x.ResponseEdits.Field(i); ok && n == name {
			return value
		}
	}
	return ""
}

// TestSaysWhy: Cache-Status says why a request was sent on, whatever its method, and
// whatever came of it.
func TestSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		says, asks, method string
		fails              bool
		want               string
	}{
		{"max-age=0", "", "HEAD", false, "sidegate; fwd=stale"},
		{"max-age=100", "no-cache", "HEAD", false, "sidegate; fwd=request"},
		{"max-age=100", "no-cache", "GET", true, `sidegate; fwd=request; detail="stale-if-error"; ttl=`},
		{"max-age=0", "", "GET", true, `sidegate; fwd=stale; detail="stale-if-error"; ttl=`},
	} {
		p := newPolicy(t, nil, `stale_if_error = "1m"`)
		answer(t, p, "GET https://api.example.com/a", "body", "Cache-Control: "+tt.says, `ETag: "a"`)
		x := policytest.Exchange(t, tt.method+" https://api.example.com/a", "Cache-Control: "+tt.asks)
		x.Start = time.Now()
		if v, err := p.Request(x); v != policy.Next || err != nil {
			t.Fatal(v, err)
		}
		x.Tries = 1
		if tt.fails {
			x.Err = exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "test")
		} else {
			policytest.Answer(x, 200, "")
		}
		_ = p.Response(x)
		if got := edit(x, cacheStatus); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%+v: %q", tt, got)
		}
		p.Finish(x)
	}
}

// TestWhoseFault: logs and metrics don't put it down to the service, or the client, when
// an answer is broken off for what is neither's doing.
func TestWhoseFault(t *testing.T) {
	f := &fill{store: NewStore(StoreConfig{}), readers: map[*reader]struct{}{}, at: map[int64]int{}}
	f.more.L, f.less.L = &f.mu, &f.mu
	r := f.reader(nil, false)
	f.waited = manySlow
	for r.blame = 0; !r.cut; {
		f.size, r.at = 2*mostBehind, 0
		f.cutOff(false)
	}
	var fault *exchange.Fault
	if _, err := r.Read(make([]byte, 1)); !errors.As(err, &fault) || fault.Source != exchange.FromClient {
		t.Errorf("who stands still: %v", err)
	}
	if err := unreadable(errBroken); !errors.As(err, &fault) || fault.Source != exchange.FromInternal || !errors.Is(err, errBroken) {
		t.Errorf("a broken file: %v", err)
	}
}
