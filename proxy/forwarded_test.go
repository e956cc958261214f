package proxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// FuzzForwardedFor walks X-Forwarded-For. The client is the peer or an address
// from the list; everything to the right of it is trusted; an untrusted peer's
// list isn't looked at.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{
		"203.0.113.9", "203.0.113.9, 10.0.0.1", "10.0.0.2,10.0.0.1", "x, 10.0.0.1", "[2001:db8::1], 10.0.0.1", "203.0.113.9,,10.0.0.1",
		"::ffff:10.0.0.1", "fe80::1%eth0", "10.0.0.1:80", " \t203.0.113.9\t", "unknown, 203.0.113.9",
	} {
		f.Add(s, "10.0.0.1", true)
		f.Add("8.8.8.8", s, false)
	}
	trust := Trust{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	f.Fuzz(func(t *testing.T, one, two string, inside bool) {
		remote := netip.MustParseAddrPort("192.0.2.1:1234")
		if inside {
			remote = netip.MustParseAddrPort("[::ffff:10.9.9.9]:1234")
		}
		x := &exchange.Exchange{Method: "GET", RawTarget: "/", RawHost: "h", Proto: exchange.HTTP11,
			Conn: &exchange.Conn{Remote: remote, RemoteIP: remote.Addr().Unmap().String(), Scheme: "http"}}
		x.Request.Append("X-Forwarded-For", one)
		x.Request.Append("X-Forwarded-For", two)
		if trusted := trust.identify(x); trusted != inside {
			t.Fatalf("trusted = %v", trusted)
		}
		want := remote.Addr().Unmap()
		if inside {
			want = walked(trust, want, two, one)
		}
		if x.ClientIP != want {
			t.Errorf("client of %q, %q is %v, want %v", one, two, x.ClientIP, want)
		}
	})
}

// walked is the client, said another way: strip trusted addresses off the right
// of the fields, the last one first. An empty one at a field's begin is none.
func walked(trust Trust, client netip.Addr, fields ...string) netip.Addr {
	for _, field := range fields {
		elements := strings.Split(field, ",")
		if elements[0] == "" {
			elements = elements[1:]
		}
		slices.Reverse(elements)
		for _, e := range elements {
			a, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(e), "[]"))
			if err != nil {
				return client
			}
			if client = a.Unmap(); !trust.Contains(client) {
				return client
			}
		}
	}
	return client
}
