package limits

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(&Store{})) }

// ask returns the kind of fault that p refuses x with, "" if it doesn't.
func ask(t *testing.T, p policy.Requester, x *exchange.Exchange) exchange.Kind {
	t.Helper()
	_, err := p.Request(x)
	if err == nil {
		return ""
	}
	f, ok := err.(*exchange.Fault) //nolint:errorlint // it must be one itself
	if !ok {
		t.Fatalf("Request = %v", err)
	}
	return f.Kind
}

// from makes an exchange of a client, on a connection of its own.
func from(t *testing.T, client string) *exchange.Exchange {
	t.Helper()
	x := policytest.Exchange(t, "GET https://a.test/")
	x.ClientIP = netip.MustParseAddr(client)
	return x
}

func TestSize(t *testing.T) {
	p := policytest.Policy(t, Kind(&Store{}), `limits {
		body    = "10B"
		uri     = "5B"
		headers = "256B"
	}`).(*Policy)
	request := func(target string, length int64, fields ...string) *exchange.Exchange {
		x := policytest.Exchange(t, "POST https://a.test"+target, fields...)
		x.RequestLength = length
		return x
	}
	// POST, target, HTTP/1.1 and line ends are 19 bytes with /; "A: " and a line end 5.
	for _, tt := range []struct {
		name string
		x    *exchange.Exchange
		want exchange.Kind
	}{
		{"small", request("/", 10, "A: b"), ""},
		{"body", request("/", 11), exchange.BodyTooLarge},
		{"target", request("/abcd", 0), ""},
		{"longer target", request("/abcde", 0), exchange.URITooLong},
		{"query", request("/?abcd", 0), exchange.URITooLong},
		{"escapes", request("/%61%61", 0), exchange.URITooLong},
		{"head", request("/", 0, "A: "+strings.Repeat("a", 256-19-5)), ""},
		{"larger head", request("/", 0, "A: "+strings.Repeat("a", 256-19-4)), exchange.HeadersTooLarge},
		{"many fields", request("/", 0, strings.Split(strings.TrimSuffix(strings.Repeat("A: |", 60), "|"), "|")...), exchange.HeadersTooLarge},
	} {
		if got := ask(t, p, tt.x); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if test := p.Test(tt.x); (tt.want == "") != (strings.HasPrefix(test, "admits")) {
			t.Errorf("%s: Test = %q", tt.name, test)
		}
	}
}

// parts is a body that gives its parts one after the other.
type parts struct {
	io.Reader
	memory [][]byte
}

func (p *parts) Next() ([]byte, bool) {
	if len(p.memory) == 0 {
		return nil, false
	}
	b := p.memory[0]
	p.memory = p.memory[1:]
	return b, false
}
func (*parts) Close() error { return nil }

func TestStreamed(t *testing.T) {
	p := policytest.Policy(t, Kind(&Store{}), `limits { body = "10B" }`).(*Policy)
	for _, tt := range []struct {
		memory []string
		read   string
		over   bool
	}{
		{nil, "0123456789", false},
		{nil, "0123456789a", true},
		{[]string{"01234"}, "56789", false},
		{[]string{"01234"}, "56789a", true},
		{[]string{"01234", "56789"}, "", false},
		{[]string{"01234", "56789a"}, "", true},
		{[]string{"01234567890123"}, "0", true},
	} {
		x := policytest.Exchange(t, "POST https://a.test/")
		body := &parts{Reader: iotest.OneByteReader(strings.NewReader(tt.read))}
		for _, m := range tt.memory {
			body.memory = append(body.memory, []byte(m))
		}
		x.RequestBody, x.RequestLength = body, -1
		if got := ask(t, p, x); got != "" {
			t.Fatalf("refused before it was read: %s", got)
		}
		var got []byte
		for range tt.memory {
			b, done := x.RequestBody.Next()
			got = append(got, b...)
			if done {
				t.Error("a body that isn't over is done")
			}
		}
		rest, err := io.ReadAll(x.RequestBody)
		got = append(got, rest...)
		if len(got) > 10 {
			t.Errorf("%q, %q: %d bytes passed", tt.memory, tt.read, len(got))
		}
		var f *exchange.Fault
		if tt.over != (errors.As(err, &f) && f.Kind == exchange.BodyTooLarge) || !tt.over && err != nil {
			t.Errorf("%q, %q: %v, want too large: %t", tt.memory, tt.read, err, tt.over)
		}
		if b, done := x.RequestBody.Next(); tt.over && (len(b) > 0 || done) {
			t.Errorf("%q, %q: afterwards Next = %q, %t", tt.memory, tt.read, b, done)
		}
	}
}

func TestInFlight(t *testing.T) {
	s := &Store{}
	p := policytest.Policy(t, Kind(s), `limits {
		requests           = 4
		requests_per_ip    = 2
		connections_per_ip = 2
	}`).(*Policy)
	a1, a2, a3 := from(t, "192.0.2.1"), from(t, "::ffff:192.0.2.1"), from(t, "192.0.2.1")
	six1, six2, six3 := from(t, "2001:db8::1"), from(t, "2001:db8::ffff:2"), from(t, "2001:db8:0:1::1")
	for i, tt := range []struct {
		x    *exchange.Exchange
		want exchange.Kind
	}{
		{a1, ""}, {a2, ""}, {a3, exchange.RateLimited},
		{six1, ""}, {six2, ""}, {six3, exchange.Overloaded},
	} {
		if got := ask(t, p, tt.x); got != tt.want {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
		}
	}
	if got := policytest.Sent(&a3.Response, &a3.ResponseEdits); len(got) != 1 || got[0] != "Retry-After: 1" {
		t.Errorf("429 says %q", got)
	}
	p.Finish(a3) // refused: what it held by then is given back, and nothing else
	p.Finish(six3)
	if got := ask(t, p, from(t, "192.0.2.1")); got != exchange.RateLimited {
		t.Errorf("after a refusal: %q", got)
	}
	// The same route after a reload has what is in flight; another hasn't.
	again := policytest.Policy(t, Kind(s), `limits { requests = 4 }`).(*Policy)
	if got := ask(t, again, from(t, "192.0.2.9")); got != exchange.Overloaded {
		t.Errorf("after a reload: %q", got)
	}
	for _, x := range []*exchange.Exchange{a1, a2, six1, six2} {
		p.Finish(x)
		p.Finish(x) // twice is once
	}
	f := s.of("test")
	if n := f.requests.Load(); n != 0 {
		t.Errorf("%d requests are left", n)
	}
	for i := range f.addresses.list {
		if n := len(f.addresses.list[i].n) + len(f.connections.list[i].flight) + len(f.connections.list[i].clients); n > 1 {
			t.Errorf("%d keys are left", n) // that of the one which wasn't finished
		}
	}
	s.Retain(map[string]bool{"other": true})
	if s.of("test") == f {
		t.Error("a route that is gone is remembered")
	}
}

func TestConnections(t *testing.T) {
	p := policytest.Policy(t, Kind(&Store{}), `limits { connections_per_ip = 1 }`).(*Policy)
	first, stream, second, other := from(t, "192.0.2.1"), from(t, "192.0.2.1"), from(t, "192.0.2.1"), from(t, "192.0.2.2")
	stream.Conn = first.Conn
	for i, tt := range []struct {
		x    *exchange.Exchange
		want exchange.Kind
	}{{first, ""}, {stream, ""}, {second, exchange.RateLimited}, {other, ""}} {
		if got := ask(t, p, tt.x); got != tt.want {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
		}
	}
	p.Finish(first)
	if got := ask(t, p, second); got != exchange.RateLimited {
		t.Errorf("one stream is left: %q", got)
	}
	p.Finish(stream)
	if got := ask(t, p, second); got != "" {
		t.Errorf("nothing is left: %q", got)
	}
}

func TestConsumers(t *testing.T) {
	p := policytest.Policy(t, Kind(&Store{}), `limits { requests_per_consumer = 1 }`).(*Policy)
	late := p.AfterAuth().(*consumers)
	as := func(name, client string) *exchange.Exchange {
		x := from(t, client)
		if name != "" {
			x.Consumer = &exchange.Consumer{Name: name}
		}
		return x
	}
	first := as("acme", "192.0.2.1")
	for i, tt := range []struct {
		x    *exchange.Exchange
		want exchange.Kind
	}{
		{first, ""}, {as("acme", "192.0.2.2"), exchange.RateLimited}, {as("umbrella", "192.0.2.1"), ""},
		{as("", "192.0.2.1"), ""}, {as("", "192.0.2.1"), exchange.RateLimited}, {as("", "192.0.2.2"), ""},
	} {
		if got := ask(t, late, tt.x); got != tt.want {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
		}
	}
	late.Finish(first)
	if got := ask(t, late, as("acme", "192.0.2.3")); got != "" {
		t.Errorf("when the first has ended: %q", got)
	}
	if policytest.Policy(t, Kind(&Store{}), `limits { requests = 1 }`).(*Policy).AfterAuth() != nil {
		t.Error("a part runs behind auth that has nothing to do")
	}
}

// TestMany: never more than the limit at once, and nothing is left.
func TestMany(t *testing.T) {
	s := &Store{}
	p := policytest.Policy(t, Kind(s), `limits {
		requests_per_ip    = 3
		connections_per_ip = 3
		requests           = 5
	}`).(*Policy)
	var wg sync.WaitGroup
	for i := range 8 {
		x := from(t, "192.0.2."+string(rune('1'+i%3)))
		wg.Go(func() {
			for range 2000 {
				if _, err := p.Request(x); err == nil && s.of("test").requests.Load() > 5+8 {
					t.Error("too many at once")
				}
				p.Finish(x)
			}
		})
	}
	wg.Wait()
	f := s.of("test")
	if f.requests.Load() != 0 {
		t.Errorf("%d requests are left", f.requests.Load())
	}
	for i := range f.addresses.list {
		if n := len(f.addresses.list[i].n) + len(f.connections.list[i].flight) + len(f.connections.list[i].clients); n != 0 {
			t.Errorf("%d keys are left", n)
		}
	}
}

func TestExplain(t *testing.T) {
	p := policytest.Policy(t, Kind(&Store{}), "limits {\n body = \"1KiB\"\n requests_per_ip = 3\n}").(*Policy)
	if got, want := p.Explain(), "at most 1024 bytes of body, 3 requests of an address at once"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	if _, err := policytest.Try(t, Kind(nil), "limits {}"); err == nil || !strings.HasPrefix(err.Error(), "it limits nothing") {
		t.Errorf("New = %v", err)
	}
}

func TestAllocatesNothing(t *testing.T) {
	p := policytest.Policy(t, Kind(&Store{}), `limits {
		body                  = "1KiB"
		headers               = "1KiB"
		uri                   = "1KiB"
		requests              = 5
		requests_per_ip       = 5
		requests_per_consumer = 5
		connections_per_ip    = 5
	}`).(*Policy)
	late := p.AfterAuth().(*consumers)
	x := policytest.Exchange(t, "GET https://a.test/x", "User-Agent: curl")
	x.Consumer = &exchange.Consumer{Name: "acme"}
	if n := testing.AllocsPerRun(100, func() {
		_, _ = p.Request(x)
		_, _ = late.Request(x)
		late.Finish(x)
		p.Finish(x)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLimits(b *testing.B) {
	p := policytest.Policy(b, Kind(&Store{}), "limits {\n requests = 5\n requests_per_ip = 5\n}").(*Policy)
	x := policytest.Exchange(b, "GET https://a.test/x")
	for b.Loop() {
		_, _ = p.Request(x)
		p.Finish(x)
	}
}
