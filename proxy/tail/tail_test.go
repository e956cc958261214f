package tail

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func ended(path string, status int) *exchange.Exchange {
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{}, nil)
	x.Start, x.Method, x.Status, x.RouteName, x.ServiceName = time.Unix(1000, 0), "GET", status, "r", "s"
	x.Target.Host, x.Target.Path, x.Target.Query, x.Target.HasQuery = "api.test", path, "key=secret", true
	x.ClientIP = netip.MustParseAddr("192.0.2.7")
	x.Consumer = &exchange.Consumer{Name: "acme"}
	x.Request.Append("User-Agent", "curl/8")
	x.Request.Append("Authorization", "Bearer secret")
	return x
}

func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    Filter
		want bool
	}{
		{"all", Filter{Class: -1}, true},
		{"route", Filter{Class: -1, Route: "r"}, true},
		{"other route", Filter{Class: -1, Route: "q"}, false},
		{"other service", Filter{Class: -1, Service: "r"}, false},
		{"consumer", Filter{Class: -1, Consumer: "acme"}, true},
		{"other consumer", Filter{Class: -1, Consumer: "acm"}, false},
		{"class", Filter{Class: 4}, true},
		{"other class", Filter{Class: 0}, false},
		{"network", Filter{Class: -1, Client: netip.MustParsePrefix("192.0.2.0/24")}, true},
		{"other network", Filter{Class: -1, Client: netip.MustParsePrefix("198.51.100.0/24")}, false},
		{"text of the path", Filter{Class: -1, Text: "orders"}, true},
		{"text of the agent", Filter{Class: -1, Text: "curl"}, true},
		{"text of the query", Filter{Class: -1, Text: "secret"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tap := new(Tap)
			l, err := tap.Listen(tt.f)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			tap.Tell(ended("/Orders", 404), time.Second)
			if got := len(l.C) == 1; got != tt.want {
				t.Errorf("got it: %v, want %v", got, tt.want)
			}
		})
	}
}

// TestNoSecrets: neither queries nor credentials are told, and what is long or isn't
// UTF-8 doesn't go on as it is.
func TestNoSecrets(t *testing.T) {
	tap := new(Tap)
	l, err := tap.Listen(Filter{Class: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tap.Tell(ended("/"+strings.Repeat("é", 600)+"\xff", 200), 1500*time.Millisecond)
	e := <-l.C
	if len(e.Path) > maxText+3 || !strings.HasSuffix(e.Path, "\uFFFD") || !e.Query || e.Seconds != 1.5 || e.Consumer != "acme" || e.Client != "192.0.2.7" {
		t.Errorf("%+v", e)
	}
	for _, s := range []string{e.Path, e.Host, e.UserAgent, e.Error} {
		if strings.Contains(s, "secret") {
			t.Errorf("%q is told", s)
		}
	}
}

// TestTooFast: a listener gets a hundred at once, then one each 10 ms, and is told
// of the rest.
func TestTooFast(t *testing.T) {
	tap := new(Tap)
	l, err := tap.Listen(Filter{Class: -1})
	if err != nil {
		t.Fatal(err)
	}
	for range 125 {
		tap.Tell(ended("/", 200), 0)
	}
	if got, left := len(l.C), l.LeftOut(); got != 100 || left != 25 {
		t.Errorf("%d came and %d were left out, want 100 and 25", got, left)
	}
	for range 5 {
		tap.Tell(ended("/", 200), 20*time.Millisecond)
	}
	if got, left := len(l.C), l.LeftOut(); got != 102 || left != 3 {
		t.Errorf("then %d and %d, want 102 and 3", got, left)
	}
	for range 100 {
		tap.Tell(ended("/", 200), time.Second) // nobody takes them out
	}
	if got, left := len(l.C), l.LeftOut(); got != room || left != 74 {
		t.Errorf("then %d and %d, want %d and 74", got, left, room)
	}
	l.Close()
	<-l.C
	tap.Tell(ended("/", 200), time.Minute)
	if got := len(l.C); got != room-1 {
		t.Errorf("%d after Close, want %d", got, room-1)
	}
}

func TestMany(t *testing.T) {
	tap := new(Tap)
	var list []*Listener
	for range maxListeners {
		l, err := tap.Listen(Filter{Class: -1})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, l)
	}
	if _, err := tap.Listen(Filter{}); err != ErrMany {
		t.Errorf("one too many: %v", err)
	}
	list[3].Close()
	list[3].Close() // nothing more happens
	if _, err := tap.Listen(Filter{}); err != nil {
		t.Errorf("when one has gone: %v", err)
	}
}

func TestAllocNobody(t *testing.T) {
	tap, x := new(Tap), ended("/", 200)
	if n := testing.AllocsPerRun(100, func() { tap.Tell(x, 0); (*Tap)(nil).Tell(x, 0) }); n != 0 {
		t.Errorf("%v allocations while nobody looks on, want 0", n)
	}
	l, err := tap.Listen(Filter{Class: -1, Route: "another"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n := testing.AllocsPerRun(100, func() { tap.Tell(x, 0) }); n != 0 {
		t.Errorf("%v allocations for what nobody wants, want 0", n)
	}
}
