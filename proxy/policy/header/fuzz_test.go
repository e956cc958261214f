package header

import (
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// FuzzEdits: whatever the configuration and the request hold, what goes out is
// a field, and one that is set or removed goes out from nobody else.
func FuzzEdits(f *testing.F) {
	f.Add("X-Tenant", "{path}", "x_tenant", "/a?b", "v")
	f.Add("Host", "{host}", "X.Host", "/", "")
	f.Add("X-A", "a{{b}}\t", "X-A", "/%41", "x")
	f.Add("Connection", "close", "Connection", "/", "x")
	f.Fuzz(func(t *testing.T, name, value, other, target, came string) {
		e, err := Compile(Config{Set: map[string]string{name: value}, Remove: []string{"X-Gone"}}, true)
		if err != nil {
			return
		}
		x := &exchange.Exchange{Method: "GET", RawTarget: target, RawHost: "a.test", Proto: exchange.HTTP2, Conn: &exchange.Conn{Scheme: "https"}}
		if x.Canonicalise() != nil {
			return
		}
		x.Request.Append(other, came)
		x.Request.Append(name, came)
		e.Hide(&x.Request)
		e.Apply(x, &x.RequestEdits)
		for i := range x.RequestEdits.Len() {
			n, v, ok := x.RequestEdits.Field(i)
			if ok && (!Name(n) || !Value(v) || strings.ContainsAny(n+v, "\r\n\x00") || v == "" || exchange.Lookup(n).HopByHop()) {
				t.Errorf("sent %q: %q", n, v)
			}
		}
		if h := e.Host(x); !Value(h) {
			t.Errorf("host %q", h)
		}
		if exchange.Lookup(name) == exchange.Host {
			return
		}
		if !x.RequestEdits.Replaces(name, exchange.Lookup(name)) {
			t.Errorf("%q isn't replaced", name)
		}
		twin := exchange.Lookup(other) == exchange.Other && looksLike(other, name) && strings.ContainsAny(other, "_.")
		if twin && !x.Request.Dropped(0) {
			t.Errorf("%q passes for %q", other, name)
		}
	})
}
