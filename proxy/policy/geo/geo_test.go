package geo

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func database(t testing.TB) *Database {
	t.Helper()
	d, err := Parse(policytest.MMDB(map[string]any{
		"10.0.0.0/8":      map[string]any{"country": map[string]any{"iso_code": "DE"}, "autonomous_system_number": uint32(64500)},
		"192.0.2.0/25":    map[string]any{"country": map[string]any{"iso_code": "FR"}, "autonomous_system_number": uint32(4200000001)},
		"198.51.100.0/24": map[string]any{"registered_country": map[string]any{"iso_code": "DE"}},
		"203.0.113.0/24":  map[string]any{},
		"2001:db8::/32":   map[string]any{"country": map[string]any{"iso_code": "DE"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestHas(t *testing.T) {
	d := database(t)
	countries, err := Countries(d, []string{"DE", "AT"})
	if err != nil {
		t.Fatal(err)
	}
	systems, err := Systems(d, []int{64500, 4200000001})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // decided, and remembered
		for _, tt := range []struct {
			address         string
			country, system bool
		}{
			{"10.1.2.3", true, true}, {"::ffff:10.1.2.3", true, true}, {"192.0.2.1", false, true}, {"192.0.2.200", false, false}, {"198.51.100.1", true, false},
			{"203.0.113.1", false, false}, {"11.0.0.1", false, false}, {"2001:db8::1", true, false}, {"2001:db9::1", false, false}, {"::1", false, false},
		} {
			a := netip.MustParseAddr(tt.address)
			if c, s := countries.Has(a), systems.Has(a); c != tt.country || s != tt.system {
				t.Errorf("%s: country %t, system %t, want %t, %t", a, c, s, tt.country, tt.system)
			}
		}
	}
	if countries.Has(netip.Addr{}) {
		t.Error("no address has a country")
	}
	a := netip.MustParseAddr("10.1.2.3")
	if n := testing.AllocsPerRun(100, func() { countries.Has(a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestErrors(t *testing.T) {
	d := database(t)
	for _, c := range []string{"de", "DEU", "", "D1"} {
		if _, err := Countries(d, []string{c}); err == nil {
			t.Errorf("%q is a country", c)
		}
	}
	for _, n := range []int{0, -1, 1 << 32} {
		if _, err := Systems(d, []int{n}); err == nil {
			t.Errorf("%d is a system", n)
		}
	}
	if _, err := Parse([]byte("nonsense")); err == nil {
		t.Error("anything is a database")
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.mmdb")
	put := func(networks map[string]any) {
		if err := os.WriteFile(path, policytest.MMDB(networks), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(map[string]any{"10.0.0.0/8": map[string]any{}})
	f := &Files{}
	a, err := f.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := f.Read(path); err != nil || a != b {
		t.Errorf("a file that stays is read twice (%v)", err)
	}
	put(map[string]any{"10.0.0.0/8": map[string]any{}, "11.0.0.0/8": map[string]any{"a": "b"}})
	if b, err := f.Read(path); err != nil || a == b {
		t.Errorf("a file that changed isn't read again (%v)", err)
	}
	var none *Files
	if _, err := none.Read(path); err != nil {
		t.Error(err)
	}
	if _, err := f.Read(path + "x"); err == nil {
		t.Error("a file that isn't there is no error")
	}
}

func BenchmarkHas(b *testing.B) {
	l, err := Countries(database(b), []string{"DE"})
	if err != nil {
		b.Fatal(err)
	}
	a := netip.MustParseAddr("10.1.2.3")
	for b.Loop() {
		l.Has(a)
	}
}
