package proxy

import (
	"net/netip"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestAbusive: who closes connections is counted each time, told of once in a
// while, and made known to who bans, unless it is a proxy that we trust.
func TestAbusive(t *testing.T) {
	log, hook := test.NewNullLogger()
	var banned []netip.Addr
	d := ServerDeps{Log: log, Abused: func(ip netip.Addr) { banned = append(banned, ip) }}
	s := NewServer(d)
	v := &serving{log: log, trust: Trust{netip.MustParsePrefix("10.0.0.0/8")}}
	f := v.abusive(&d, s.abuses, "h2")
	client := &exchange.Conn{Remote: netip.MustParseAddrPort("192.0.2.1:1"), RemoteIP: "192.0.2.1"}
	f(client, abuse.Ping, false)
	for range 100 {
		f(client, abuse.Ping, true)
	}
	f(&exchange.Conn{Remote: netip.MustParseAddrPort("10.1.1.1:1"), RemoteIP: "10.1.1.1"}, abuse.Reset, true)
	if len(banned) != 100 || banned[0].String() != "192.0.2.1" || banned[99] != banned[0] {
		t.Errorf("who bans knows of %d addresses: %v", len(banned), banned[:min(len(banned), 3)])
	}
	if n := len(hook.AllEntries()); n != 1 || hook.LastEntry().Level != logrus.WarnLevel || hook.LastEntry().Data["kind"] != "ping" {
		t.Errorf("%d lines in the log, the last %+v", n, hook.LastEntry())
	}
	if n := s.abuses.unsaid.Load(); n != 100 {
		t.Errorf("%d connections are still to be told of, want 100", n)
	}
	got := map[AbuseCount]bool{}
	for _, c := range s.Abuse() {
		got[c] = true
	}
	for _, want := range []AbuseCount{{"h2", "ping", false, 1}, {"h2", "ping", true, 100}, {"h2", "reset", true, 1}} {
		if !got[want] {
			t.Errorf("counts %v, want %v among them", got, want)
		}
	}
}
