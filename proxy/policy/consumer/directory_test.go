package consumer

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func sum(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

// TestPriority: a consumer's own priority goes before its plan's.
func TestPriority(t *testing.T) {
	d, err := Compile([]*PlanConfig{{Name: "gold", Priority: "high"}, {Name: "free"}}, []*Config{
		{Name: "a", Plan: "gold", Keys: []*KeyConfig{{SHA256: sum("a")}}},
		{Name: "b", Plan: "gold", Priority: "low", Keys: []*KeyConfig{{SHA256: sum("b")}}},
		{Name: "c", Plan: "free", Keys: []*KeyConfig{{SHA256: sum("c")}}},
		{Name: "d", Priority: "normal", Keys: []*KeyConfig{{SHA256: sum("d")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]exchange.Priority{
		"a": exchange.HighPriority, "b": exchange.LowPriority, "c": exchange.Unranked, "d": exchange.NormalPriority,
	} {
		c, _ := d.Find([]byte(key), time.Now())
		if c == nil || c.Priority != want {
			t.Errorf("%s: %+v, want %v", key, c, want)
		}
	}
}

func TestDirectory(t *testing.T) {
	d, err := Compile([]*PlanConfig{{Name: "gold", Rate: "500/s"}, {Name: "free"}}, []*Config{
		{Name: "acme", Plan: "gold", Labels: map[string]string{"team": "search"}, Keys: []*KeyConfig{{SHA256: sum("a")}, {SHA256: strings.ToUpper(sum("b"))}}},
		{Name: "umbrella", Plan: "free", Keys: []*KeyConfig{{SHA256: sum("c")}}},
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
		if c, _ := d.Find([]byte(key), time.Now()); c != nil {
			got = c.Name
		}
		if got != want {
			t.Errorf("Find(%q) = %q, want %q", key, got, want)
		}
	}
	acme, _ := d.Find([]byte("a"), time.Now())
	if acme.PlanName() != "gold" || acme.Plan.Rate.Count != 500 || acme.Labels["team"] != "search" {
		t.Errorf("acme = %+v", acme)
	}
	if free, _ := d.Find([]byte("c"), time.Now()); free.PlanName() != "free" || free.Plan.Rate.Interval != 0 {
		t.Errorf("umbrella = %+v", free)
	}
	var none *Directory
	if c, s := none.Find([]byte("a"), time.Now()); c != nil || s != Unknown || none.Len() != 0 || (*exchange.Consumer)(nil).PlanName() != "" {
		t.Error("an empty directory knows somebody")
	}
}

func TestCompileErrors(t *testing.T) {
	_, err := Compile([]*PlanConfig{{Name: "odd", Rate: "1/x"}, {Name: "burst", Burst: 1}}, []*Config{
		{Name: "a", Plan: "none", Keys: []*KeyConfig{{SHA256: sum("a")}, {SHA256: "x"}, {SHA256: sum("")}, {SHA256: sum("z"), Expires: "soon"}}},
		{Name: "b", Keys: []*KeyConfig{{SHA256: sum("a")}}},
	})
	for _, want := range []string{
		`plan "odd": rate: "1/x"`, `plan "burst": burst: without a rate`, `consumer "a": plan: there is no plan "none"`,
		`consumer "a": api_key: sha256: "x" isn't a SHA-256`, `consumer "a": api_key: sha256: that is the hash of an empty key`,
		`consumer "b": api_key: sha256: consumer "a" has the same key`, `consumer "a": api_key: expires: "soon" isn't a day such as`,
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
		if c, _ := d.Find(fmt.Append(nil, i), time.Now()); c == nil {
			t.Errorf("key %d isn't found", i)
		}
	}
	if c, _ := d.Find([]byte("1000000"), time.Now()); c != nil {
		t.Error("a key is found that isn't there")
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	d := newDirectory(1)
	if err := d.add(sha256.Sum256([]byte("k")), &exchange.Consumer{}); err != nil {
		t.Fatal(err)
	}
	var buf [64]byte
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() { d.Find(buf[:copy(buf[:], "k")], now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	key := []byte("0123456789abcdef0123456789abcdef0123456789a")
	small := newDirectory(1)
	now := time.Now()
	_ = small.add(sha256.Sum256(key), &exchange.Consumer{})
	b.Run("1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			small.Find(key, now)
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
			i++
			if c, _ := d.Find(keys[i&4095], now); c == nil {
				b.Fatal("not found")
			}
		}
	})
	b.Run("1000000/unknown", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d.Find(key, now)
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

// TestExpires: a key ends at its second, in whatever form that was written.
func TestExpires(t *testing.T) {
	d, err := Compile(nil, []*Config{{Name: "acme", Keys: []*KeyConfig{
		{SHA256: sum("day"), Expires: "2027-06-30"}, {SHA256: sum("time"), Expires: "2027-06-30T18:00:00+02:00"}, {SHA256: sum("none")},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key, at string
		want    State
	}{
		{"day", "2027-06-29T23:59:59.999Z", Active},
		{"day", "2027-06-30T00:00:00Z", Expired},
		{"time", "2027-06-30T15:59:59.999Z", Active},
		{"time", "2027-06-30T16:00:00Z", Expired},
		{"none", "2999-01-01T00:00:00Z", Active},
		{"other", "2027-06-30T00:00:00Z", Unknown},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		c, s := d.Find([]byte(tt.key), at)
		if s != tt.want || (c != nil) != (s == Active) {
			t.Errorf("Find(%s, %s) = %v, %v, want %v", tt.key, tt.at, c, s, tt.want)
		}
	}
	at := time.Date(2027, 6, 30, 12, 0, 0, 0, time.UTC)
	for key, want := range map[string]string{
		"day":   `of consumer "acme", expired 2027-06-30T00:00:00Z`,
		"time":  `of consumer "acme", expires 2027-06-30T16:00:00Z`,
		"none":  "key " + sum("none")[:12] + ` of consumer "acme"`,
		"other": "no consumer has a key " + sum("other")[:12],
	} {
		if got := d.Describe([]byte(key), at); !strings.HasSuffix(got, want) {
			t.Errorf("Describe(%s) = %q, want %q", key, got, want)
		}
	}
}

func TestParseLifetime(t *testing.T) {
	now := time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"":                     "0001-01-01T00:00:00Z",
		"never":                "0001-01-01T00:00:00Z",
		"90d":                  "2027-04-01T12:00:00Z",
		"2w":                   "2027-01-15T12:00:00Z",
		"1h30m":                "2027-01-01T13:30:00Z",
		"2027-06-30":           "2027-06-30T00:00:00Z",
		"2027-01-01T12:00:01Z": "2027-01-01T12:00:01Z",
		"0s":                   "error: 0s isn't in the future",
		"0d":                   "error: 0d isn't in the future",
		"2027-01-01":           "error: 2027-01-01 isn't in the future",
		"2999-01-01":           "error: 2999-01-01 is more than 100 years off: leave it out, or write never",
		"99999d":               `error: "99999d" isn't how long a key lasts, such as 90d or 12h, a day such as 2027-06-30, or never`,
		"-1h":                  `error: "-1h" isn't how long a key lasts, such as 90d or 12h, a day such as 2027-06-30, or never`,
		"1.5d":                 `error: "1.5d" isn't how long a key lasts, such as 90d or 12h, a day such as 2027-06-30, or never`,
		"2027-13-01":           `error: "2027-13-01" isn't how long a key lasts, such as 90d or 12h, a day such as 2027-06-30, or never`,
		"0001-01-01":           `error: "0001-01-01" isn't how long a key lasts, such as 90d or 12h, a day such as 2027-06-30, or never`,
	} {
		got, err := ParseLifetime(text, now)
		shown := got.Format(time.RFC3339)
		if err != nil {
			shown = "error: " + err.Error()
		}
		if shown != want {
			t.Errorf("ParseLifetime(%q) = %s, want %s", text, shown, want)
		}
	}
}

// TestSecrets: keys are of 256 bits, no two alike, and their ids are the first
// digits of what sha256sum prints.
func TestSecrets(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		secret, h := NewSecret()
		random, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(secret, "sg_"))
		if err != nil || len(random) != 32 || seen[secret] {
			t.Fatalf("%q: %d bytes, %v", secret, len(random), err)
		}
		if seen[secret] = true; h.ID() != sum(secret)[:12] {
			t.Errorf("ID = %s, want %s", h.ID(), sum(secret)[:12])
		}
	}
}
