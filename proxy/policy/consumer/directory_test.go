package consumer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func sum(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

// TestPriority: a consumer's own priority goes before its plan's.
func TestPriority(t *testing.T) {
	d, err := Compile([]*PlanConfig{{Name: "gold", Priority: "high"}, {Name: "free"}}, []*Config{
		{Name: "a", Plan: "gold", Keys: []*KeyConfig{{sum("a")}}},
		{Name: "b", Plan: "gold", Priority: "low", Keys: []*KeyConfig{{sum("b")}}},
		{Name: "c", Plan: "free", Keys: []*KeyConfig{{sum("c")}}},
		{Name: "d", Priority: "normal", Keys: []*KeyConfig{{sum("d")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]exchange.Priority{
		"a": exchange.HighPriority, "b": exchange.LowPriority, "c": exchange.Unranked, "d": exchange.NormalPriority,
	} {
		if got := d.Find([]byte(key)).Priority; got != want {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
}

func TestDirectory(t *testing.T) {
	d, err := Compile([]*PlanConfig{{Name: "gold", Rate: "500/s"}, {Name: "free"}}, []*Config{
		{Name: "acme", Plan: "gold", Labels: map[string]string{"team": "search"}, Keys: []*KeyConfig{{sum("a")}, {strings.ToUpper(sum("b"))}}},
		{Name: "umbrella", Plan: "free", Keys: []*KeyConfig{{sum("c")}}},
		{Name: "keyless"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d.Len() != 3 {
		t.Errorf("Len = %d, want 3", d.Len())
	}
	for key, want := range map[string]string{"a": "acme", "b": "acme", "c": "umbrella", "d": "", "": "", "A": ""} {
		got := ""
		if c := d.Find([]byte(key)); c != nil {
			got = c.Name
		}
		if got != want {
			t.Errorf("Find(%q) = %q, want %q", key, got, want)
		}
	}
	acme := d.Find([]byte("a"))
	if acme.PlanName() != "gold" || acme.Plan.Rate.Count != 500 || acme.Labels["team"] != "search" {
		t.Errorf("acme = %+v", acme)
	}
	if free := d.Find([]byte("c")); free.PlanName() != "free" || free.Plan.Rate.Interval != 0 {
		t.Errorf("umbrella = %+v", free)
	}
	var none *Directory
	if none.Find([]byte("a")) != nil || none.Len() != 0 || (*exchange.Consumer)(nil).PlanName() != "" {
		t.Error("an empty directory knows somebody")
	}
}

func TestCompileErrors(t *testing.T) {
	_, err := Compile([]*PlanConfig{{Name: "odd", Rate: "1/x"}, {Name: "burst", Burst: 1}}, []*Config{
		{Name: "a", Plan: "none", Keys: []*KeyConfig{{sum("a")}, {"x"}, {sum("")}}},
		{Name: "b", Keys: []*KeyConfig{{sum("a")}}},
	})
	for _, want := range []string{
		`plan "odd": rate: "1/x"`, `plan "burst": burst: without a rate`, `consumer "a": plan: there is no plan "none"`,
		`consumer "a": api_key: sha256: "x" isn't a SHA-256`, `consumer "a": api_key: sha256: that is the hash of an empty key`,
		`consumer "b": api_key: sha256: consumer "a" has the same key`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Compile = %v, want %q", err, want)
		}
	}
}

// million is a directory of a million keys, the numbers.
func million(tb testing.TB) *Directory {
	const n = 1_000_000
	d := newDirectory(n)
	c := &exchange.Consumer{Name: "c"}
	for i := range n {
		if err := d.add(sha256.Sum256(fmt.Append(nil, i)), c); err != nil {
			tb.Fatal(err)
		}
	}
	return d
}

// TestMemory: a million keys fit well into 100 MiB.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d := million(t)
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / float64(d.Len())
	t.Logf("%.1f bytes for each key", per)
	if per > 50 {
		t.Errorf("%.1f bytes for each key, want at most 50", per)
	}
	for _, i := range []int{0, 1, 499_999, 999_999} {
		if d.Find(fmt.Append(nil, i)) == nil {
			t.Errorf("key %d isn't found", i)
		}
	}
	if d.Find([]byte("1000000")) != nil {
		t.Error("a key is found that isn't there")
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	d := newDirectory(1)
	if err := d.add(sha256.Sum256([]byte("k")), &exchange.Consumer{}); err != nil {
		t.Fatal(err)
	}
	var buf [64]byte
	if n := testing.AllocsPerRun(100, func() { d.Find(buf[:copy(buf[:], "k")]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	key := []byte("0123456789abcdef0123456789abcdef0123456789a")
	small := newDirectory(1)
	_ = small.add(sha256.Sum256(key), &exchange.Consumer{})
	b.Run("1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			small.Find(key)
		}
	})
	d := million(b)
	keys := make([][]byte, 4096)
	for i := range keys {
		keys[i] = fmt.Append(nil, i*211)
	}
	b.Run("1000000", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if i++; d.Find(keys[i&4095]) == nil {
				b.Fatal("not found")
			}
		}
	})
	b.Run("1000000/unknown", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d.Find(key)
		}
	})
}

// TestSubjects: a subject is somebody with its issuer only.
func TestSubjects(t *testing.T) {
	d, err := Compile(nil, []*Config{
		{Name: "acme", JWT: []*JWTConfig{{Subject: "s", Issuer: "i"}, {Subject: "t", Issuer: "i"}}},
		{Name: "umbrella", JWT: []*JWTConfig{{Subject: "s", Issuer: "j"}, {Subject: "nowhere"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ issuer, subject, want string }{
		{"i", "s", "acme"}, {"i", "t", "acme"}, {"j", "s", "umbrella"}, {"j", "t", ""}, {"k", "s", ""}, {"", "s", ""}, {"i", "", ""}, {"", "nowhere", ""}, {"i", "nowhere", ""},
	} {
		got := ""
		if c := d.Subject(tt.issuer, tt.subject); c != nil {
			got = c.Name
		}
		if got != tt.want {
			t.Errorf("Subject(%q, %q) = %q, want %q", tt.issuer, tt.subject, got, tt.want)
		}
	}
	_, err = Compile(nil, []*Config{{Name: "a", JWT: []*JWTConfig{{"s", "i"}}}, {Name: "b", JWT: []*JWTConfig{{"s", "i"}}}})
	if want := `consumer "b": jwt: consumer "a" has the same subject`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestUsers: each name is one consumer's, and an unknown one is checked against
// a password, too.
func TestUsers(t *testing.T) {
	const hash = "$2a$04$5WwUD2cq97oR1rUs6cGKD.Nj3.4bSlu.L2QFbZOq6hNN9AmOaa/j."
	d, err := Compile(nil, []*Config{{Name: "acme", Basic: []*BasicConfig{{User: "a", Bcrypt: hash}}}})
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := d.User([]byte("a")); !ok || p.Consumer.Name != "acme" || !p.Check([]byte("correct horse")) || p.Check([]byte("wrong")) {
		t.Errorf("a: %+v, %v", p, ok)
	}
	if p, ok := d.User([]byte("b")); ok || p == nil {
		t.Errorf("b: %+v, %v", p, ok)
	}
	if p, ok := (*Directory)(nil).User([]byte("a")); ok || p != nil {
		t.Errorf("without users: %+v, %v", p, ok)
	}
	_, err = Compile(nil, []*Config{{Name: "a", Basic: []*BasicConfig{{User: "u", Bcrypt: hash}}}, {Name: "b", Basic: []*BasicConfig{{User: "u", Bcrypt: hash}, {User: "v"}}}})
	for _, want := range []string{`consumer "b": basic: user: consumer "a" has the same one`, `consumer "b": basic: user: has no password`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, text := range []string{
		"", "$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=16$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=1,p=0$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=19$m=64,t=1,p=1,x=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=4294967360,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=19$m=64,t=1,p=257$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$", "$argon2id$v=19$m=64,t=1,p=1$$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=19$m=0064,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
	} {
		if _, err := parseArgon(text); err == nil {
			t.Errorf("%q is taken for a hash", text)
		}
	}
}
