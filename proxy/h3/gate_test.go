package h3

import (
	"net/netip"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func TestGate(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	s1, s2, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:0:1::1")
	var g gate
	g.init(4, 2, 8)
	var in []*visitor
	enter := func(ip netip.Addr, want bool) {
		t.Helper()
		v, err := g.admit(ip)
		if (err == nil) != want {
			t.Fatalf("admit(%v) = %v, want it let in: %v", ip, err, want)
		}
		if err == nil {
			in = append(in, v)
		}
	}
	enter(s1, true)
	enter(s2, true) // the same /64
	enter(s1, false)
	enter(other, true)
	g.leave(in[0])
	enter(s1, true)
	enter(a, true)
	enter(b, false) // four are in
	if g.refused.Load() != 2 || g.failed.Load() != 1 {
		t.Errorf("refused %d, failed %d, want 2, 1", g.refused.Load(), g.failed.Load())
	}
	for _, v := range in[1:] {
		g.settle(v)
		g.settle(v)
	}
	for _, v := range in[1:] {
		g.leave(v)
	}
	if g.total != 0 || g.halfOpen != 0 || len(g.perIP) != 0 || g.failed.Load() != 1 {
		t.Errorf("when all have left: %d connections, %d half open, %v, %d failed", g.total, g.halfOpen, g.perIP, g.failed.Load())
	}
}

// TestGateShares: a proven client takes one of the places that it shares with
// its other connections, and gives it back in any order of events.
func TestGateShares(t *testing.T) {
	held := 0
	var g gate
	g.init(4, 4, 8)
	g.claim = func(netip.Addr) bool { held++; return held <= 1 || func() bool { held--; return false }() }
	g.release = func(netip.Addr) { held-- }
	enter := func() *visitor {
		v, err := g.admit(netip.MustParseAddr("192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first, second, third := enter(), enter(), enter()
	if held != 0 {
		t.Errorf("%d places are held before anybody has proven an address", held)
	}
	if !g.settle(first) || g.settle(second) || held != 1 {
		t.Errorf("of one place %d are held", held)
	}
	g.leave(second)
	g.leave(first)
	if held != 0 {
		t.Errorf("%d places are held by who has left", held)
	}
	g.leave(third) // before its handshake has been looked at
	if g.settle(third); held != 0 {
		t.Errorf("%d places are held by who left first", held)
	}
}

func TestGateDoubts(t *testing.T) {
	var g gate
	g.init(100, 100, 8)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	doubts := func(when string, ofA, ofB bool) {
		t.Helper()
		if x, y := g.doubtful(a), g.doubtful(b); x != ofA || y != ofB {
			t.Errorf("%s: doubtful = %v, %v, want %v, %v", when, x, y, ofA, ofB)
		}
	}
	var in []*visitor
	enter := func(ip netip.Addr) {
		v, err := g.admit(ip)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, v)
	}
	doubts("nobody", false, false)
	enter(a)
	doubts("one handshake", false, false)
	enter(a)
	doubts("a quarter from one address", true, false)
	for i := range 6 {
		enter(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	doubts("as many as may be", true, true)
	g.settle(in[7])
	doubts("one less", true, false)
	g.leave(in[0])
	doubts("and one less", false, false)
}

// TestDoubtfulClientsProveTheirAddress: with as many handshakes open as may be,
// a client gets a Retry, and in with the token of that.
func TestDoubtfulClientsProveTheirAddress(t *testing.T) {
	f := start(t, nil, func(x *exchange.Exchange) { answer(x, 200, "ok") })
	g := &f.front.gate
	more := func(n int) {
		g.mu.Lock()
		g.halfOpen += n
		g.mu.Unlock()
	}
	r := newRelay(t, f.addr)
	for _, tt := range []struct {
		halfOpen int
		retry    bool
	}{{0, false}, {1000, true}} {
		more(tt.halfOpen)
		client := newClient()
		resp, err := client.RoundTrip(request(t, "GET", "https://"+r.addr()+"/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 || (r.retries.Load() > 0) != tt.retry {
			t.Errorf("with %d half open: status %d, %d Retry packets, want 200, some: %v", tt.halfOpen, resp.StatusCode, r.retries.Load(), tt.retry)
		}
		_ = client.Close()
		more(-tt.halfOpen)
	}
}
