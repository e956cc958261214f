package ban

import (
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func store(t testing.TB, path string) *Store {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := NewStore(Deps{Log: log, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(store(t, ""))) }

// visitor is a client that asks at times of its own.
type visitor struct {
	t  testing.TB
	p  *Policy
	ip string
	at time.Time
}

// ask asks, and gets the status unless it is banned. It reports whether it is.
func (v *visitor) ask(status int) (banned bool) {
	v.t.Helper()
	x := policytest.Exchange(v.t, "GET https://a.test/")
	x.ClientIP, x.Start = netip.MustParseAddr(v.ip), v.at
	verdict, err := v.p.Request(x)
	if err != nil {
		f, ok := err.(*exchange.Fault) //nolint:errorlint // it must be one itself
		if !ok || f.Kind != exchange.Forbidden || verdict != policy.Done {
			v.t.Fatalf("Request = %v, %v", verdict, err)
		}
		x.Err, status = f, 403
	}
	x.Status = status
	v.p.Finish(x)
	return err != nil
}

// banned tells without leaving a strike.
func (v *visitor) banned() bool { v.t.Helper(); return v.ask(200) }

const block = `ban {
	after    = 3
	window   = "10s"
	statuses = [401, 403]
	for      = "60s"
	longest  = "150s"
	except   = ["10.0.0.0/8"]
}`

func TestBan(t *testing.T) {
	p := policytest.Policy(t, Kind(store(t, "")), block).(*Policy)
	begin := p.store.strikes.begin
	new := func(ip string) *visitor { return &visitor{t, p, ip, begin} }

	v := new("192.0.2.1")
	for i, status := range []int{401, 404, 200, 500, 0, 401, 499} {
		if v.ask(status); v.banned() {
			t.Fatalf("banned after %d responses, 2 of which count", i+1)
		}
	}
	if v.ask(403); !v.banned() {
		t.Fatal("not banned after the third")
	}
	if (&visitor{t, p, "::ffff:192.0.2.1", begin}).banned() != true {
		t.Error("another notation passes")
	}
	if new("192.0.2.2").banned() {
		t.Error("a neighbour is banned")
	}
	for range 10 {
		v.ask(0) // refused, and no strike
	}
	v.at = begin.Add(59 * time.Second)
	if !v.banned() {
		t.Error("over too early")
	}
	v.at = begin.Add(61 * time.Second)
	if v.banned() {
		t.Error("never over")
	}
	// The second lasts twice as long, the third as long as bans can.
	for i, lasts := range []int{120, 150, 150} {
		from := v.at
		for range 3 {
			v.ask(401)
		}
		if v.at = from.Add(time.Duration(lasts-1) * time.Second); !v.banned() {
			t.Errorf("ban %d is over too early", i+2)
		}
		if v.at = from.Add(time.Duration(lasts+1) * time.Second); v.banned() {
			t.Errorf("ban %d is longer than %d s", i+2, lasts)
		}
	}
	// Long after, it is a first one again.
	v.at = v.at.Add(151 * time.Second)
	for range 3 {
		v.ask(401)
	}
	if v.at = v.at.Add(61 * time.Second); v.banned() {
		t.Error("what was long ago counts")
	}
}

func TestWindow(t *testing.T) {
	p := policytest.Policy(t, Kind(store(t, "")), block).(*Policy)
	v := &visitor{t, p, "192.0.2.1", p.store.strikes.begin}
	for range 20 {
		if v.ask(401); v.banned() {
			t.Fatal("banned, though less than 3 ever come in 10 s")
		}
		v.at = v.at.Add(5100 * time.Millisecond)
	}
	v.at = v.at.Add(20 * time.Second)
	for i := range 3 {
		if v.banned() {
			t.Fatalf("banned after %d", i)
		}
		v.ask(401)
		v.at = v.at.Add(4900 * time.Millisecond)
	}
	if !v.banned() {
		t.Error("3 in 9.8 s don't ban")
	}
}

func TestIPv6AndExcept(t *testing.T) {
	p := policytest.Policy(t, Kind(store(t, "")), block).(*Policy)
	at := p.store.strikes.begin
	for _, ip := range []string{"2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:0:9::"} {
		(&visitor{t, p, ip, at}).ask(401)
	}
	if !(&visitor{t, p, "2001:db8::77", at}).banned() || (&visitor{t, p, "2001:db8:0:1::1", at}).banned() {
		t.Error("an IPv6 client isn't its /64")
	}
	v := &visitor{t, p, "10.1.2.3", at}
	for range 5 {
		v.ask(401)
	}
	if v.banned() {
		t.Error("an exception is banned")
	}
	if _, err := p.store.Add("10.1.2.3", at, time.Hour); err != nil || v.banned() {
		t.Errorf("an exception is banned by hand (%v)", err)
	}
	var x exchange.Exchange // without an address
	x.Status = 401
	for range 5 {
		p.Finish(&x)
	}
	if p.refuses(&x) {
		t.Error("nobody is banned")
	}
}

// TestRoutes: strikes are a route's own and survive its reload; bans hold on all.
func TestRoutes(t *testing.T) {
	s := store(t, "")
	kind := Kind(s)
	on := func(route, text string) *Policy {
		p := policytest.Policy(t, policy.Kind{Name: kind.Name, Config: kind.Config, New: kind.New, Join: func(_ string, l []policy.Policy) (policy.Policy, error) {
			return kind.Join(route, l)
		}}, text)
		return p.(*Policy)
	}
	v := &visitor{t, on("a", block), "192.0.2.1", s.strikes.begin}
	v.ask(401)
	v.ask(401)
	v.p = on("b", block)
	if v.ask(401); v.banned() {
		t.Error("routes count together")
	}
	v.p = on("a", strings.Replace(block, "after    = 3", "after    = 4", 1))
	if v.ask(401); v.banned() {
		t.Error("another block goes on counting")
	}
	v.p = on("a", strings.Replace(block, `"60s"`, `"61s"`, 1)) // counts the same
	if v.ask(401); !v.banned() {
		t.Error("a reload forgets")
	}
	v.p = on("c", `ban {}`)
	if !v.banned() {
		t.Error("a ban holds on its route alone")
	}
	if n := s.Counts()["a"]; n != 1 {
		t.Errorf("%d bans by a", n)
	}
	if s.Retain(map[string]bool{"b": true}); len(s.Counts()) != 0 {
		t.Errorf("Counts = %v", s.Counts())
	}
}

// TestAbuse: connections that are closed for abuse ban by themselves, where a
// block says so; blocks that say the same count once.
func TestAbuse(t *testing.T) {
	s := store(t, "")
	kind := Kind(s)
	on := func(route, text string) *Policy {
		p := policytest.Policy(t, policy.Kind{Name: kind.Name, Config: kind.Config, New: kind.New, Join: func(_ string, l []policy.Policy) (policy.Policy, error) {
			return kind.Join(route, l)
		}}, text)
		return p.(*Policy)
	}
	const text = "ban {\n abuse = 3\n window = \"10s\"\n except = [\"10.0.0.0/8\"]\n}"
	a, b, without := on("a", text), on("b", text), on("c", `ban {}`)
	if s.Abuse([]*Policy{without}) != nil {
		t.Error("a block that doesn't look at connections bans by them")
	}
	var none *Abuse
	none.Count(netip.MustParseAddr("192.0.2.1"), time.Now())
	at := s.strikes.begin
	rules := s.Abuse([]*Policy{a, without, b})
	v := &visitor{t, without, "192.0.2.1", at}
	for i := range 3 {
		if v.banned() {
			t.Fatalf("banned after %d", i)
		}
		rules.Count(netip.MustParseAddr("::ffff:192.0.2.1"), at)
		rules.Count(netip.MustParseAddr("10.0.0.1"), at)
		rules.Count(netip.Addr{}, at)
	}
	if !v.banned() {
		t.Error("not banned after the third, on a route that doesn't look at connections itself")
	}
	if (&visitor{t, without, "10.0.0.1", at}).banned() || (&visitor{t, without, "192.0.2.2", at}).banned() {
		t.Error("somebody else is banned")
	}
	if n := s.Counts(); n["a"] != 1 || n["b"] != 0 {
		t.Errorf("bans: %v", n)
	}
	// Few in a long time don't; a reload goes on counting.
	late := netip.MustParseAddr("192.0.2.3")
	rules.Count(late, at)
	rules.Count(late, at)
	s.Abuse([]*Policy{b}).Count(late, at.Add(11*time.Second))
	if (&visitor{t, without, "192.0.2.3", at.Add(11 * time.Second)}).banned() {
		t.Error("banned for 3 in more than the window")
	}
	s.Abuse([]*Policy{a}).Count(late, at.Add(12*time.Second))
	s.Abuse([]*Policy{b}).Count(late, at.Add(13*time.Second))
	if !(&visitor{t, without, "192.0.2.3", at.Add(13 * time.Second)}).banned() {
		t.Error("not banned for 3 within the window")
	}
	if got, want := a.Explain(), "10m after 20 responses of 401, 403, 404, 429 in 10s, or 1 refused by waf, or 3 connections closed for abuse"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
}

// TestMany: exactly one ban, whoever comes at once.
func TestMany(t *testing.T) {
	p := policytest.Policy(t, Kind(store(t, "")), `ban { after = 1000 }`).(*Policy)
	v := visitor{t, p, "192.0.2.1", p.store.strikes.begin}
	rush := func(n int) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				v := v
				for range n {
					v.ask(401)
				}
			})
		}
		wg.Wait()
	}
	if rush(124); v.banned() {
		t.Error("banned after 992")
	}
	if rush(1); !v.banned() || p.store.Counts()["test"] != 1 {
		t.Errorf("after 1000: %v", p.store.Counts())
	}
}

func TestStrikesAreBounded(t *testing.T) {
	s := store(t, "")
	s.open()
	at := s.strikes.begin
	for i := range 3 * sets * ways {
		a := netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
		s.strike(1, clientOf(a), at.Add(time.Duration(i)*time.Microsecond), 2, time.Hour)
	}
	// The last ones are still known.
	known := 0
	for i := 3*sets*ways - 1000; i < 3*sets*ways; i++ {
		a := netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
		if s.strike(1, clientOf(a), at.Add(time.Minute), 2, time.Hour) {
			known++
		}
	}
	if known < 900 {
		t.Errorf("of the last 1000, %d are known", known)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct{ block, want string }{
		{`ban { statuses = [200] }`, "statuses: 200 isn't the status of an error"},
		{`ban { statuses = [600] }`, "statuses: 600 isn't"},
		{"ban {\n for = \"2h\"\n longest = \"1h\"\n}", "longest: 1h is less than the first ban, 2h"},
	} {
		if _, err := policytest.Try(t, Kind(store(t, "")), tt.block); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%s) = %v, want %q", tt.block, err, tt.want)
		}
	}
}

// TestAttacks: requests that waf has refused count by themselves, and those that
// it has only detected don't.
func TestAttacks(t *testing.T) {
	for block, want := range map[string]int{
		"ban {}":                                      1,
		"ban { waf_after = 3 }":                       3,
		"ban {\n waf_after = 0\n after = 5\n}":        5, // by its status
		"ban {\n waf_after = 4\n after = 2\n}":        2,
		"ban {\n waf_after = 2\n statuses = [500]\n}": 2,
	} {
		p := policytest.Policy(t, Kind(store(t, "")), block).(*Policy)
		ask := func(attack string, blocked bool, status int) (banned bool) {
			x := policytest.Exchange(t, "GET https://a.test/")
			_, err := p.Request(x)
			x.Attack, x.Blocked, x.Status = attack, blocked, status
			p.Finish(x)
			return err != nil
		}
		for range 10 {
			ask("942100", false, 200)
		}
		n := 0
		for ; !ask("", false, 200) && n < 10; n++ {
			ask("942100", true, 403)
		}
		if n != want {
			t.Errorf("%s: banned after %d attacks, want %d", block, n, want)
		}
	}
}

func TestExplain(t *testing.T) {
	p := policytest.Policy(t, Kind(store(t, "")), "ban {}").(*Policy)
	if got, want := p.Explain(), "10m after 20 responses of 401, 403, 404, 429 in 1m, or 1 refused by waf"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	x := policytest.Exchange(t, "GET https://a.test/")
	if got := p.Test(x); got != "admits" {
		t.Errorf("Test = %q", got)
	}
	if _, err := p.store.Add("192.0.2.1", x.Start, time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := p.Test(x); got != "refuses: forbidden: ban: the address is banned" {
		t.Errorf("Test = %q", got)
	}
}

func TestAllocatesNothing(t *testing.T) {
	p := policytest.Policy(t, Kind(store(t, "")), block).(*Policy)
	if _, err := p.store.Add("192.0.2.77", time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	x := policytest.Exchange(t, "GET https://a.test/x")
	for _, status := range []int{200, 404} {
		x.Status = status
		if n := testing.AllocsPerRun(100, func() { _, _ = p.Request(x); p.Finish(x) }); n != 0 {
			t.Errorf("%d: %v allocations", status, n)
		}
	}
}

func BenchmarkBan(b *testing.B) {
	p := policytest.Policy(b, Kind(store(b, "")), "ban {}").(*Policy)
	x := policytest.Exchange(b, "GET https://a.test/x")
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if _, err := p.store.Add(a.String(), time.Now(), time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	x.Status = 200
	for b.Loop() {
		_, _ = p.Request(x)
		p.Finish(x)
	}
}
