package remote

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

func get(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheckURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://id.test/x?y":   "",
		"http://127.0.0.1:1/":   "",
		"http://[::1]:1/":       "",
		"http://localhost/":     "",
		"http://id.test/":       `"http://id.test/" isn't an https URL: keys from another host need TLS`,
		"http://127.0.0.1.test": `"http://127.0.0.1.test" isn't an https URL: keys from another host need TLS`,
		"https://u:p@id.test/":  `"https://u:xxxxx@id.test/" has more than host, path and query`,
		"https://id.test/#x":    `"https://id.test/#x" has more than host, path and query`,
		"file:///etc/passwd":    `"file:///etc/passwd" isn't an https URL`,
		"":                      `"" isn't an https URL`,
	} {
		got := ""
		if err := CheckURL(url, "keys"); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("CheckURL(%q) = %q, want %q", url, got, want)
		}
	}
	if err := CheckPlain("http://id.test/"); err != nil {
		t.Errorf("CheckPlain: %v", err)
	}
}

// TestCheckNamed: no spelling of http gets out of TLS.
func TestCheckNamed(t *testing.T) {
	for _, tt := range []struct {
		url, from string
		ok        bool
	}{
		{"https://id.test/keys", "https://id.test", true}, {"http://localhost/keys", "http://127.0.0.1:1", true}, {"https://id.test", "http://127.0.0.1:1", true},
		{"http://localhost/keys", "https://id.test", false}, {"HTTP://localhost/keys", "https://id.test", false}, {"Http://[::1]/", "HTTPS://id.test", false},
		{"http://id.test/keys", "http://127.0.0.1:1", false}, {"ftp://localhost/", "http://127.0.0.1:1", false}, {"", "https://id.test", false},
	} {
		if err := CheckNamed(tt.url, tt.from, "keys"); (err == nil) != tt.ok {
			t.Errorf("CheckNamed(%q, %q) = %v", tt.url, tt.from, err)
		}
	}
}

// TestService: what is asked goes to the service alone, in bounds, and its state
// is told.
func TestService(t *testing.T) {
	away := httptest.NewServer(http.NotFoundHandler())
	defer away.Close()
	var mu sync.Mutex
	answer := func(http.ResponseWriter, *http.Request) {}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		f := answer
		mu.Unlock()
		f(w, r)
	}))
	defer s.Close()
	roots := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	store := NewStore(quiet())
	plan := store.Plan()
	set := Settings{URL: s.URL + "?key=secret", CAs: roots, Timeout: 5 * time.Second, MaxBody: 10}
	service := plan.Service(set)
	if plan.Service(set) != service {
		t.Error("equal settings make two services")
	}
	plan.Commit()
	if store.Plan().Service(set) != service {
		t.Error("a service doesn't outlive a reload")
	}
	for _, tt := range []struct {
		name, want string
		answer     http.HandlerFunc
	}{
		{"right", "200 0123456789", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "0123456789") }},
		{"too large", "the answer has more than 10 bytes", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "0123456789a") }},
		{"redirect", "302 ", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Location", away.URL); w.WriteHeader(302) }},
		{"5xx", "it answers 502 Bad Gateway", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }},
	} {
		mu.Lock()
		answer = tt.answer
		mu.Unlock()
		a, err := service.Do(get(t, s.URL))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%d %s", a.Status, a.Body)
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	st := store.Status()
	if len(st) != 1 || time.Since(st[0].Failed) > time.Minute {
		t.Fatalf("status = %+v", st)
	}
	if st[0].Failed = (time.Time{}); st[0] != (Status{URL: s.URL, Calls: 4, Failures: 2, Error: "it answers 502 Bad Gateway"}) {
		t.Errorf("status = %+v", st)
	}
	other := plan.Service(Settings{URL: s.URL, Timeout: 5 * time.Second, MaxBody: 10})
	if _, err := other.Do(get(t, s.URL)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without its root: %v", err)
	}
	plan.Commit()
	if st := store.Status(); len(st) != 2 || st[0].Failures+st[1].Failures != 3 {
		t.Errorf("status of the plan in force = %+v", st)
	}
}

// TestBusy: only so many requests are under way, and none waits longer than its
// time.
func TestBusy(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	service := newService(Settings{URL: s.URL, Timeout: 20 * time.Second, MaxBody: 10}, quiet())
	var wg sync.WaitGroup
	for range concurrency {
		r := get(t, s.URL)
		wg.Go(func() {
			if _, err := service.Do(r); err != nil {
				t.Errorf("one of those that have a place: %v", err)
			}
		})
	}
	for len(service.places) < concurrency {
		time.Sleep(time.Millisecond)
	}
	late := &Service{settings: Settings{Timeout: 20 * time.Millisecond}, places: service.places, log: quiet()}
	if _, err := late.Do(get(t, s.URL)); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
	late.waiting.Store(maxWaiting)
	late.settings.Timeout = time.Hour
	if _, err := late.Do(get(t, s.URL)); !errors.Is(err, ErrBusy) {
		t.Errorf("one more than may wait: %v", err)
	}
	close(release)
	wg.Wait()
}

// TestMemory: within its bounds, for its time, and the one that ends first leaves
// first.
func TestMemory(t *testing.T) {
	now := time.Now()
	sum := func(n int) *Sum { return &Sum{0: 0, 8: byte(n), 9: byte(n >> 8)} } // of one row
	m := NewMemory[int](64, 100)
	for n := range ways {
		m.Put(sum(n), n, 10, now, now.Add(time.Duration(n+1)*time.Minute))
	}
	if v, ok := m.Get(sum(3), now.Add(4*time.Minute-1)); !ok || v != 3 {
		t.Errorf("Get = %v, %v", v, ok)
	}
	if _, ok := m.Get(sum(3), now.Add(4*time.Minute)); ok {
		t.Error("one that has ended is there")
	}
	m.Put(sum(100), 100, 10, now, now.Add(time.Hour)) // takes the place of the first to end
	if _, ok := m.Get(sum(0), now); ok || m.used.Load() != 80 {
		t.Errorf("the first to end is there: %v; %d bytes", ok, m.used.Load())
	}
	m.Put(sum(100), 101, 20, now, now.Add(time.Hour))
	if v, _ := m.Get(sum(100), now); v != 101 || m.used.Load() != 90 {
		t.Errorf("put again: %d; %d bytes", v, m.used.Load())
	}
	far := &Sum{1: 0, 0: 1}
	m.Put(far, 1, 20, now, now.Add(time.Hour))
	if _, ok := m.Get(far, now); ok || m.used.Load() > 100 {
		t.Errorf("one too many is there: %v; %d bytes", ok, m.used.Load())
	}
	later := now.Add(30 * time.Minute)
	m.Put(far, 1, 20, later, later.Add(time.Hour)) // those that are over make room
	if _, ok := m.Get(far, later); !ok || m.used.Load() != 40 {
		t.Errorf("after those before have ended: %v; %d bytes", ok, m.used.Load())
	}
	m.Forget(far)
	if _, ok := m.Get(far, later); ok || m.used.Load() != 20 {
		t.Errorf("forgotten: %v; %d bytes", ok, m.used.Load())
	}
}

// TestFlights: one asks for all, an error is for all, and a panic leaves nobody
// waiting.
func TestFlights(t *testing.T) {
	var f Flights[int]
	var s Sum
	started, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if v, err := f.Do(&s, func() (int, error) { close(started); <-release; return 7, nil }); v != 7 || err != nil {
			t.Errorf("who asks: %d, %v", v, err)
		}
	})
	<-started
	for range 4 {
		wg.Go(func() {
			if v, err := f.Do(&s, func() (int, error) { return 8, nil }); err != nil || v != 7 && v != 8 {
				t.Errorf("who waits: %d, %v", v, err)
			}
		})
	}
	close(release)
	wg.Wait()
	func() {
		defer func() { _ = recover() }() // as the handler does
		_, _ = f.Do(&s, func() (int, error) { panic("x") })
	}()
	if v, err := f.Do(&s, func() (int, error) { return 9, nil }); v != 9 || err != nil {
		t.Errorf("after a panic: %d, %v", v, err)
	}
}
