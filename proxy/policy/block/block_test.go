package block

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/network"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(Files{})) }

// refused returns why p refuses x, "" if it doesn't.
func refused(t *testing.T, p policy.Policy, x *exchange.Exchange) string {
	t.Helper()
	verdict, err := p.(*Policy).Request(x)
	if err == nil {
		if verdict != policy.Next {
			t.Error("it answers")
		}
		return ""
	}
	f, ok := err.(*exchange.Fault) //nolint:errorlint // it must be one itself
	if !ok || f.Kind != exchange.Forbidden || verdict != policy.Done {
		t.Fatalf("Request = %v, %v", verdict, err)
	}
	return strings.TrimPrefix(f.Err.Error(), "block: ")
}

func TestAddresses(t *testing.T) {
	const allow, deny = "the address isn't among those in allow", "the address is among those in deny"
	tests := []struct{ block, client, want string }{
		{`block { deny = ["192.0.2.0/24"] }`, "192.0.2.9", deny},
		{`block { deny = ["192.0.2.0/24"] }`, "::ffff:192.0.2.9", deny},
		{`block { deny = ["192.0.2.0/24"] }`, "192.0.3.9", ""},
		{`block { deny = ["192.0.2.0/24"] }`, "2001:db8::1", ""},
		{`block { deny = ["192.0.2.0/24"] }`, "", deny},
		{`block { allow = ["192.0.2.0/24"] }`, "192.0.2.9", ""},
		{`block { allow = ["192.0.2.0/24"] }`, "192.0.3.9", allow},
		{`block { allow = ["0.0.0.0/0"] }`, "2001:db8::1", allow},
		{`block { allow = ["0.0.0.0/0"] }`, "", allow},
		{"block {\n allow = [\"0.0.0.0/0\", \"::/0\"]\n deny = [\"2001:db8::/32\"]\n}", "2001:db8::1", deny},
		{"block {\n allow = [\"0.0.0.0/0\", \"::/0\"]\n deny = [\"2001:db8::/32\"]\n}", "2001:db9::1", ""},
	}
	for _, tt := range tests {
		x := policytest.Exchange(t, "GET https://a.test/")
		x.ClientIP = netip.Addr{}
		if tt.client != "" {
			x.ClientIP = netip.MustParseAddr(tt.client)
		}
		if got := refused(t, policytest.Policy(t, Kind(Files{}), tt.block), x); got != tt.want {
			t.Errorf("%s: %s is refused for %q, want %q", tt.block, tt.client, got, tt.want)
		}
	}
}

func TestRequests(t *testing.T) {
	const method, path, agent = "the method is blocked", "the path is blocked", "the user agent is blocked"
	block := `block {
		user_agents = ["~(?i)sqlmap", "", "evil*"]
		methods     = ["TRACE", "GET", "purge"]
		paths       = ["/internal/*", "/users/{id}/secrets"]
	}`
	tests := []struct {
		line   string
		fields []string
		want   string
	}{
		{"POST https://a.test/", []string{"User-Agent: curl"}, ""},
		{"POST https://a.test/", nil, agent},
		{"POST https://a.test/", []string{"User-Agent: "}, agent},
		{"POST https://a.test/", []string{"User-Agent: a SQLMap/1"}, agent},
		{"POST https://a.test/", []string{"User-Agent: curl", "user-agent: evil/2"}, agent},
		{"POST https://a.test/", []string{"User-Agent: not evil"}, ""},
		{"TRACE https://a.test/", []string{"User-Agent: curl"}, method},
		{"HEAD https://a.test/", []string{"User-Agent: curl"}, method},
		{"purge https://a.test/", []string{"User-Agent: curl"}, method},
		{"PURGE https://a.test/", []string{"User-Agent: curl"}, ""},
		{"POST https://a.test/internal", []string{"User-Agent: curl"}, path},
		{"POST https://a.test/x/..//internal/./a?b", []string{"User-Agent: curl"}, path},
		{"POST https://a.test/%69nternal/a", []string{"User-Agent: curl"}, path},
		{"POST https://a.test/internals", []string{"User-Agent: curl"}, ""},
		{"POST https://a.test/users/7/secrets", []string{"User-Agent: curl"}, path},
	}
	p := policytest.Policy(t, Kind(Files{}), block)
	for _, tt := range tests {
		if got := refused(t, p, policytest.Exchange(t, tt.line, tt.fields...)); got != tt.want {
			t.Errorf("%s %q is refused for %q, want %q", tt.line, tt.fields, got, tt.want)
		}
	}
	// An agent alone isn't asked of who has none.
	if got := refused(t, policytest.Policy(t, Kind(Files{}), `block { user_agents = ["~evil"] }`), policytest.Exchange(t, "GET https://a.test/")); got != "" {
		t.Errorf("no user agent is refused for %q", got)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := Files{Networks: &network.Files{}}
	x := policytest.Exchange(t, "GET https://a.test/")
	p, err := New(Config{DenyFile: put("deny", "# bad\n192.0.2.1 ; SBL\n"), Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, files)
	if err != nil {
		t.Fatal(err)
	}
	if refused(t, p, x) == "" {
		t.Error("the file's address passes")
	}
	if got, want := p.Explain(), "deny 2 networks"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	// An empty list of those who may call is one: nobody may.
	p, err = New(Config{AllowFile: put("allow", "# nobody\n")}, files)
	if err != nil {
		t.Fatal(err)
	}
	if refused(t, p, x) == "" {
		t.Error("an empty allow_file admits everybody")
	}
	if _, err := New(Config{DenyFile: put("bad", "x\n")}, files); err == nil || err.Error() != `deny_file: line 1: "x" is neither a network nor an address` {
		t.Errorf("New = %v", err)
	}
	if _, err := New(Config{AllowFile: filepath.Join(dir, "none")}, files); err == nil {
		t.Error("a file that isn't there is no error")
	}
}

func TestTest(t *testing.T) {
	p := policytest.Policy(t, Kind(Files{}), `block { methods = ["TRACE"] }`).(*Policy)
	if got, want := p.Test(policytest.Exchange(t, "TRACE https://a.test/")), "refuses: forbidden: block: the method is blocked"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	if got := p.Test(policytest.Exchange(t, "GET https://a.test/")); got != "admits" {
		t.Errorf("Test = %q", got)
	}
	if got := p.Explain(); got != "no methods TRACE" {
		t.Errorf("Explain = %q", got)
	}
}

func TestAllocatesNothing(t *testing.T) {
	p := policytest.Policy(t, Kind(Files{}), `block {
		deny        = ["10.0.0.0/8"]
		user_agents = ["*evil*"]
		methods     = ["TRACE"]
		paths       = ["/internal/*"]
	}`).(*Policy)
	for _, line := range []string{"GET https://a.test/x", "TRACE https://a.test/x"} {
		x := policytest.Exchange(t, line, "User-Agent: curl")
		if n := testing.AllocsPerRun(100, func() { _, _ = p.Request(x) }); n != 0 {
			t.Errorf("%s: %v allocations", line, n)
		}
	}
}

func TestCountries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.mmdb")
	record := func(country string, asn uint32) any {
		return map[string]any{"country": map[string]any{"iso_code": country}, "autonomous_system_number": asn}
	}
	if err := os.WriteFile(path, policytest.MMDB(map[string]any{"192.0.2.0/24": record("DE", 64500), "198.51.100.0/24": record("FR", 64501)}), 0o600); err != nil {
		t.Fatal(err)
	}
	const country, system = "the address's country is blocked", "the address's autonomous system is blocked"
	for _, tt := range []struct {
		c      Config
		client string
		want   string
	}{
		{Config{Countries: []string{"DE"}, CountryFile: path}, "192.0.2.1", country},
		{Config{Countries: []string{"DE"}, CountryFile: path}, "198.51.100.1", ""},
		{Config{Countries: []string{"DE"}, CountryFile: path}, "10.0.0.1", ""},
		{Config{AllowCountries: []string{"DE"}, CountryFile: path}, "192.0.2.1", ""},
		{Config{AllowCountries: []string{"DE"}, CountryFile: path}, "198.51.100.1", country},
		{Config{AllowCountries: []string{"DE"}, CountryFile: path}, "10.0.0.1", country},
		{Config{ASNs: []int{64501}, ASNFile: path}, "192.0.2.1", ""},
		{Config{ASNs: []int{64501}, ASNFile: path}, "198.51.100.1", system},
	} {
		p, err := New(tt.c, Files{})
		if err != nil {
			t.Fatal(err)
		}
		x := policytest.Exchange(t, "GET https://a.test/")
		x.ClientIP = netip.MustParseAddr(tt.client)
		if got := refused(t, p, x); got != tt.want {
			t.Errorf("%s: %s is refused for %q, want %q", p.Explain(), tt.client, got, tt.want)
		}
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Countries: []string{"DE"}}, "country_file: has to be given"},
		{Config{ASNs: []int{1}}, "asn_file: has to be given"},
		{Config{CountryFile: path, Methods: []string{"TRACE"}}, "country_file: nothing is asked of it"},
		{Config{Countries: []string{"Germany"}, CountryFile: path}, `countries: "Germany" isn't a country's code`},
		{Config{AllowCountries: []string{"de"}, CountryFile: path}, `allow_countries: "de" isn't`},
		{Config{ASNs: []int{0}, ASNFile: path}, "asns: 0 isn't"},
		{Config{ASNs: []int{1}, ASNFile: os.Args[0]}, "asn_file: isn't an MMDB file"},
	} {
		if _, err := New(tt.c, Files{}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("New(%+v) = %v, want %q", tt.c, err, tt.want)
		}
	}
}
