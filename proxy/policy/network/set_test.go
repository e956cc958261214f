package network

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func networks(t testing.TB, words ...string) []netip.Prefix {
	t.Helper()
	list, err := Parse([]byte(strings.Join(words, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestHas(t *testing.T) {
	s := New(networks(t, "198.51.100.0/24", "10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "2001:db8:1::/48", "::1", "::ffff:203.0.113.0/120", "fe80::/10", "255.255.255.255"))
	for address, want := range map[string]bool{
		"198.51.100.0": true, "198.51.100.255": true, "198.51.99.255": false, "198.51.101.0": false,
		"10.0.0.0": true, "10.1.2.3": true, "10.2.0.0": true, "10.255.255.255": true, "11.0.0.0": false, "9.255.255.255": false,
		"192.0.2.7": true, "192.0.2.6": false, "192.0.2.8": false, "::ffff:192.0.2.7": true, "0.0.0.0": false, "255.255.255.255": true, "255.255.255.254": false,
		"2001:db8::": true, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff": true, "2001:db9::": false, "2001:db7:ffff::": false,
		"::1": true, "::": false, "::2": false, "203.0.113.9": true, "::ffff:203.0.113.9": true, "fe80::1": true, "fe80::1%eth0": true, "fec0::": false, "ffff::": false,
	} {
		if got := s.Has(netip.MustParseAddr(address)); got != want {
			t.Errorf("Has(%s) = %t, want %t", address, got, want)
		}
	}
	if s.Has(netip.Addr{}) || New(nil).Has(netip.MustParseAddr("10.0.0.1")) || (&Set{}).Has(netip.MustParseAddr("::1")) {
		t.Error("an empty set has something, or a set no address")
	}
	all := New(networks(t, "0.0.0.0/0", "::/0"))
	for _, a := range []string{"0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::ffff:1.2.3.4"} {
		if !all.Has(netip.MustParseAddr(a)) {
			t.Errorf("everything lacks %s", a)
		}
	}
}

// TestRandom compares with asking each network.
func TestRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		list := random(r, 1+r.IntN(40), round%2 == 0, round%3 == 0)
		s := New(list)
		for range 200 {
			p := list[r.IntN(len(list))]
			a := address(r, p.Addr().Is4(), round%3 == 0)
			switch r.IntN(4) {
			case 0:
				a = p.Addr()
			case 1:
				a = p.Addr().Prev()
			case 2:
				a = last(p).Next()
			}
			want := false
			for _, p := range list {
				want = want || a.IsValid() && p.Contains(a)
			}
			if got := s.Has(a); got != want {
				t.Fatalf("Has(%s) = %t, want %t, of %v", a, got, want, list)
			}
		}
	}
}

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// address is a random one; dense ones are near each other.
func address(r *rand.Rand, v4, dense bool) netip.Addr {
	b := [16]byte{0x20, 1}
	for i := range b {
		if i >= 2 && (!dense || i >= 14) {
			b[i] = byte(r.Uint32())
		}
	}
	if v4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

func random(r *rand.Rand, n int, v4, dense bool) []netip.Prefix {
	list := make([]netip.Prefix, n)
	for i := range list {
		a := address(r, v4, dense)
		list[i] = netip.PrefixFrom(a, a.BitLen()-r.IntN(17)).Masked()
	}
	return list
}

func TestParse(t *testing.T) {
	list, err := Parse([]byte("# a list\r\n10.0.0.0/8 ; SBL1\n\n; x\n192.0.2.1\n2001:db8::1/32,AS1\n10.1.2.3/16 #\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		got = append(got, p.String())
	}
	if g, want := strings.Join(got, " "), "10.0.0.0/8 192.0.2.1/32 2001:db8::/32 10.1.0.0/16"; g != want {
		t.Errorf("Parse = %s, want %s", g, want)
	}
	_, err = Parse([]byte("10.0.0.0/8\nexample.com\n10.0.0.0/33\nfe80::1%eth0\n1\n2\n3\n"))
	if err == nil || !strings.HasPrefix(err.Error(), `line 2: "example.com" is neither a network nor an address`+"\n"+`line 3: "10.0.0.0/33"`) || strings.Count(err.Error(), "\n") != maxMistakes-1 {
		t.Errorf("Parse = %v", err)
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	put := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := &Files{}
	if _, err := f.Read(path); err == nil {
		t.Error("Read of nothing gives a set")
	}
	put("10.0.0.0/8\n")
	a, err := f.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := f.Read(path); err != nil || a != b {
		t.Errorf("a file that stays is read twice (%v)", err)
	}
	put("10.0.0.0/8\n11.0.0.0/8\n")
	b, err := f.Read(path)
	if err != nil || b.Len() != 2 || a.Len() != 1 {
		t.Errorf("a file that changed isn't read again (%v)", err)
	}
	var none *Files
	if c, err := none.Read(path); err != nil || c == b || c.Len() != 2 {
		t.Errorf("without a memory: %v", err)
	}
}

func TestHasAllocatesNothing(t *testing.T) {
	s := New(random(rand.New(rand.NewPCG(1, 2)), 1000, false, false))
	a := netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() { s.Has(a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHas(b *testing.B) {
	for _, bb := range []struct {
		name string
		v4   bool
	}{{"ipv4", true}, {"ipv6", false}} {
		b.Run(bb.name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 2))
			s := New(random(r, 100_000, bb.v4, false))
			ask := make([]netip.Addr, 1<<16)
			for i := range ask {
				ask[i] = address(r, bb.v4, false)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.Has(ask[i&(len(ask)-1)])
			}
		})
	}
}
