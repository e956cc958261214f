package discovery

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStaticRefuses(t *testing.T) {
	tests := []struct {
		in   []string
		want string
	}{
		{nil, "none given"},
		{[]string{"10.0.0.1"}, `"10.0.0.1": must be host:port`},
		{[]string{"10.0.0.1:0"}, "port must be 1 to 65535"},
		{[]string{"10.0.0.1:http"}, "port must be 1 to 65535"},
		{[]string{"10.0.0.300:80"}, "neither an address nor a host name"},
		{[]string{"http://a:80"}, "must be host:port"},
		{[]string{":80"}, "neither an address nor a host name"},
		{[]string{"a b:80"}, "neither an address nor a host name"},
		{[]string{"-a.x:80"}, "neither an address nor a host name"},
		{[]string{"a..x:80"}, "neither an address nor a host name"},
		{[]string{"[::1]:80", "[0:0::1]:80"}, "given twice"},
		{[]string{"A.x:80", "a.x:080"}, "given twice"},
		{make([]string, maxStatic+1), "at most 4096"},
	}
	for _, tt := range tests {
		if _, err := Static(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Static(%.80q) = %v, want %q", tt.in, err, tt.want)
		}
	}
	_, err := Static([]string{"a", "b", "10.0.0.1:80"})
	if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("Static = %v, want all problems", err)
	}
}

// world answers look-ups, and lets the test decide when the next ones happen.
type world struct {
	mu    sync.Mutex // guards addrs
	addrs map[string][]string
	tick  chan time.Time
	sets  chan []Instance
}

func (w *world) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []netip.Addr
	for _, a := range w.addrs[host] {
		list = append(list, netip.MustParseAddr(a))
	}
	if len(list) == 0 {
		return nil, errors.New("no such host")
	}
	return list, nil
}

func (w *world) set(host string, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addrs[host] = addrs
}

func addresses(set []Instance) string {
	var list []string
	for _, in := range set {
		list = append(list, in.Address)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestStaticNames(t *testing.T) {
	src, err := Static([]string{"192.0.2.7:9", "a.test:80", "b.test:80"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{addrs: make(map[string][]string), tick: make(chan time.Time), sets: make(chan []Instance, 10)}
	s := src.(*static)
	s.lookup, s.after = w.lookup, func(time.Duration) <-chan time.Time { return w.tick }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- src.Watch(ctx, Query{}, func(set []Instance) { w.sets <- set }) }()
	await := func(want string) {
		t.Helper()
		select {
		case set := <-w.sets:
			if got := addresses(set); got != want {
				t.Errorf("set = %q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no report of %q", want)
		}
	}
	await("192.0.2.7:9") // no name can be looked up yet
	w.set("a.test", "10.0.0.2", "10.0.0.1", "::ffff:10.0.0.1")
	w.tick <- time.Now()
	await("10.0.0.1:80 10.0.0.2:80 192.0.2.7:9")
	w.set("b.test", "10.0.0.2", "fe80::1%lo")
	w.set("a.test") // fails now and keeps what it had
	w.tick <- time.Now()
	await("10.0.0.1:80 10.0.0.2:80 192.0.2.7:9 [fe80::1%lo]:80")
	w.tick <- time.Now() // no change, no report
	w.set("a.test", "10.0.0.9")
	w.tick <- time.Now()
	await("10.0.0.2:80 10.0.0.9:80 192.0.2.7:9 [fe80::1%lo]:80")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch = %v, want nil", err)
	}
	if n := len(w.sets); n != 0 {
		t.Errorf("%d reports more", n)
	}
}

func TestHost(t *testing.T) {
	var h Host
	tests := []struct {
		in   string
		want bool
	}{
		{"127.0.0.1:80", true}, {"127.8.8.8", true}, {"[::1]:80", true}, {"::1", true}, {"localhost:80", true},
		{"[::ffff:127.0.0.1]:1", true}, {"192.0.2.1:80", false}, {"example.com:80", false}, {"", false},
	}
	for _, tt := range tests {
		if got := h.Has(tt.in); got != tt.want {
			t.Errorf("Has(%q) = %v, want %v", tt.in, got, tt.want)
		}
	}
}
