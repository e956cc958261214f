package consumer

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC)

func hash(key string) Hash { return sha256.Sum256([]byte(key)) }

// ringed is a directory of files, with a ring that it is in force on.
func ringed(t testing.TB, plans []*PlanConfig, files, beside []*Config) (*Directory, *Keyring) {
	t.Helper()
	d, err := Compile(plans, files)
	if err != nil {
		t.Fatal(err)
	}
	k := NewKeyring()
	d.Attach(k)
	more, left := d.Extend(beside)
	if len(left) > 0 {
		t.Fatal(left)
	}
	k.SetFiles(d, more)
	return d, k
}

// said is what Find says, in words.
func said(d *Directory, key string, at time.Time) string {
	c, s := d.Find([]byte(key), at)
	if s != Active {
		return s.String()
	}
	return c.Name + " " + c.PlanName()
}

func TestKeyring(t *testing.T) {
	d, k := ringed(t, []*PlanConfig{{Name: "gold"}}, []*Config{{Name: "acme", Plan: "gold", Keys: []*KeyConfig{{SHA256: sum("file")}}}}, []*Config{{Name: "umbrella"}})
	check := func(what string, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for key := range want {
			got[key] = said(d, key, noon)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("no keys", map[string]string{"file": "acme gold", "a": "unknown"})
	k.Update(FromConsul, map[string]Record{
		"acme":     {Keys: []Key{{Hash: hash("a"), Created: 1}, {Hash: hash("a2"), Created: 2, Revoked: 3}}},
		"umbrella": {Keys: []Key{{Hash: hash("u"), Expires: noon.Unix() + 1}, {Hash: hash("u2"), Expires: noon.Unix()}}},
		"nobody":   {Keys: []Key{{Hash: hash("n")}}},
	})
	check("keys", map[string]string{"file": "acme gold", "a": "acme gold", "a2": "revoked", "u": "umbrella ", "u2": "expired", "n": "no consumer", "x": "unknown"})
	if got := said(d, "u", noon.Add(time.Second)); got != "expired" {
		t.Errorf("at its second: %s", got)
	}
	k.Update(FromDisk, map[string]Record{"acme": Record{Keys: []Key{{Hash: hash("disk")}}}})
	check("both origins", map[string]string{"a": "acme gold", "disk": "acme gold"})
	k.Update(FromConsul, map[string]Record{
		"acme":     {Keys: []Key{{Hash: hash("a"), Created: 1, Revoked: 5}}},
		"umbrella": {},
		"nobody":   {Keys: []Key{{Hash: hash("n")}, {Hash: hash("n2")}}},
	})
	check("changed", map[string]string{"a": "revoked", "a2": "unknown", "u": "unknown", "disk": "acme gold", "n2": "no consumer"})

	// Another configuration: who is gone is nobody, who comes has keys at once.
	other, err := Compile(nil, []*Config{{Name: "nobody"}})
	if err != nil {
		t.Fatal(err)
	}
	other.Attach(k)
	more, _ := other.Extend(nil)
	k.SetFiles(other, more)
	d = other
	check("another configuration", map[string]string{"file": "unknown", "disk": "no consumer", "n": "nobody ", "n2": "nobody "})
	if got, want := k.Counts(), [origins]int{3, 1}; got != want {
		t.Errorf("Counts = %v, want %v", got, want)
	}
	if got, want := k.Owners(), []string{"acme", "nobody"}; !cmp.Equal(got, want) {
		t.Errorf("Owners = %v, want %v", got, want)
	}
	k.Update(FromConsul, map[string]Record{"acme": {}, "nobody": {}, "never": {}})
	k.Update(FromDisk, map[string]Record{"acme": {}})
	check("none", map[string]string{"n": "unknown", "disk": "unknown"})
	if n := len(k.owners); n != 0 {
		t.Errorf("%d owners of no key", n)
	}
}

// TestSameKey: a key that two have is the first's, and is told of.
func TestSameKey(t *testing.T) {
	d, k := ringed(t, nil, []*Config{{Name: "a"}, {Name: "b"}}, nil)
	k.Update(FromConsul, map[string]Record{"a": {Keys: []Key{{Hash: hash("x")}}}, "b": {Keys: []Key{{Hash: hash("x")}, {Hash: hash("y")}}}})
	if got := said(d, "x", noon) + said(d, "y", noon); got != "a b " {
		t.Errorf("x and y are of %q", got)
	}
	h := hash("x")
	if got, want := k.Problems(), map[string]string{"consul b": "key " + h.ID() + ` is consumer "a"'s already, and isn't used`}; !cmp.Equal(got, want) {
		t.Errorf("Problems = %v, want %v", got, want)
	}
	k.Update(FromConsul, map[string]Record{"a": {}, "b": {Keys: []Key{{Hash: hash("x")}}}})
	if got := said(d, "x", noon); got != "b " || len(k.Problems()) > 0 {
		t.Errorf("x is of %q, problems %v", got, k.Problems())
	}
}

// TestLift: what is revoked here stays revoked until its origin says so, too.
func TestLift(t *testing.T) {
	d, k := ringed(t, nil, []*Config{{Name: "a"}}, nil)
	before := map[string]Record{"a": {Keys: []Key{{Hash: hash("x")}, {Hash: hash("y")}}}}
	k.Update(FromConsul, before)
	k.Lift(map[Hash]int64{hash("x"): 7, hash("later"): 7})
	if got := said(d, "x", noon) + said(d, "y", noon); got != "revokeda " {
		t.Errorf("x and y: %q", got)
	}
	if got := k.Of("a"); len(got) != 2 || got[0].Revoked+got[1].Revoked != 7 {
		t.Errorf("Of = %+v", got)
	}
	before["b"] = Record{Keys: []Key{{Hash: hash("later")}}}
	if known := k.Update(FromConsul, before); len(known) > 0 {
		t.Errorf("known: %v", known)
	}
	if got := said(d, "x", noon) + said(d, "later", noon); got != "revokedrevoked" {
		t.Errorf("after an old answer: %q", got)
	}
	known := k.Update(FromConsul, map[string]Record{"a": {Keys: []Key{{Hash: hash("x"), Revoked: 9}}}, "b": {}})
	if len(known) != 2 { // x is revoked there, later is gone
		t.Errorf("known: %d, want 2", len(known))
	}
	if known := k.Update(FromConsul, map[string]Record{"a": {}}); len(known) != 0 {
		t.Errorf("known again: %v", known)
	}
}

func TestDescribe(t *testing.T) {
	d, k := ringed(t, nil, []*Config{{Name: "a"}}, []*Config{{Name: "kv", Keys: []*KeyConfig{{SHA256: sum("static")}}}})
	k.Update(FromConsul, map[string]Record{
		"a": {Keys: []Key{{Hash: hash("on")}, {Hash: hash("off"), Revoked: noon.Unix()}, {Hash: hash("end"), Expires: noon.Unix()}}},
		"z": {Keys: []Key{{Hash: hash("orphan")}}},
	})
	for key, want := range map[string]string{
		"on":     `of consumer "a"`,
		"off":    `of consumer "a", revoked 2027-01-01T12:00:00Z`,
		"end":    `of consumer "a", expired 2027-01-01T12:00:00Z`,
		"orphan": `of consumer "z", which isn't there`,
		"static": `of consumer "kv"`,
		"none":   "no consumer has a key " + sum("none")[:12],
	} {
		if key != "none" {
			want = "key " + sum(key)[:12] + " " + want
		}
		if got := d.Describe([]byte(key), noon); got != want {
			t.Errorf("Describe(%s) = %q, want %q", key, got, want)
		}
	}
}

// TestExtend: a consumer beside the files is in as a whole or not at all.
func TestExtend(t *testing.T) {
	const bcrypt = "$2a$04$5WwUD2cq97oR1rUs6cGKD.Nj3.4bSlu.L2QFbZOq6hNN9AmOaa/j."
	files, err := Compile([]*PlanConfig{{Name: "gold"}}, []*Config{
		{Name: "file", Keys: []*KeyConfig{{SHA256: sum("f")}}, JWT: []*JWTConfig{{"s", "i"}}, Basic: []*BasicConfig{{User: "u", Bcrypt: bcrypt}}, MTLS: []*MTLSConfig{{"a.test"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	k := NewKeyring()
	files.Attach(k)
	list := []*Config{
		{Name: "good", Plan: "gold", Keys: []*KeyConfig{{SHA256: sum("g")}}, JWT: []*JWTConfig{{"g", "i"}}, Basic: []*BasicConfig{{User: "g", Bcrypt: bcrypt}}, MTLS: []*MTLSConfig{{"g.test"}}},
		{Name: "file"},
		{Name: "good"},
		{Name: "plan", Plan: "golf", Keys: []*KeyConfig{{SHA256: sum("plan")}}},
		{Name: "key", Keys: []*KeyConfig{{SHA256: sum("key")}, {SHA256: sum("f")}}},
		{Name: "key2", Keys: []*KeyConfig{{SHA256: sum("key2")}, {SHA256: sum("g")}}},
		{Name: "jwt", JWT: []*JWTConfig{{"j", "i"}, {"s", "i"}}},
		{Name: "user", Basic: []*BasicConfig{{User: "free", Bcrypt: bcrypt}, {User: "u", Bcrypt: bcrypt}}},
		{Name: "san", MTLS: []*MTLSConfig{{"san.test"}, {"a.test"}}},
		{Name: "twice", Keys: []*KeyConfig{{SHA256: sum("t")}, {SHA256: sum("t")}}},
		{Name: "last", Keys: []*KeyConfig{{SHA256: sum("key")}}},
	}
	more, left := files.Extend(list)
	k.SetFiles(files, more)
	want := map[int]string{
		1: `consumer "file" stands in the configuration's files, too, which come first`,
		2: `there is another consumer "good", which comes first`,
		3: `consumer "plan": plan: there is no plan "golf"`,
		4: `consumer "key": api_key: sha256: consumer "file" has the same key`,
		5: `consumer "key2": api_key: sha256: consumer "good" has the same key`,
		6: `consumer "jwt": jwt: consumer "file" has the same subject`,
		7: `consumer "user": basic: user: consumer "file" has the same one`,
		8: `consumer "san": mtls: san: consumer "file" has the same one`,
		9: `consumer "twice": api_key: sha256: consumer "twice" has the same key`,
	}
	got := map[int]string{}
	for i, err := range left {
		got[i] = err.Error()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	for key, want := range map[string]string{"f": "file ", "g": "good gold", "plan": "unknown", "key": "last ", "key2": "unknown", "t": "unknown"} {
		if got := said(files, key, noon); got != want {
			t.Errorf("%s is of %q, want %q", key, got, want)
		}
	}
	if c := files.Subject("i", "g"); c == nil || c.Name != "good" {
		t.Errorf("the subject of good: %v", c)
	}
	if c := files.Subject("i", "j"); c != nil {
		t.Errorf("the subject of a consumer that was left out: %v", c)
	}
	if p, ok := files.User([]byte("g")); !ok || p.Consumer.Name != "good" {
		t.Errorf("the user of good: %v %v", p, ok)
	}
	if p, ok := files.User([]byte("free")); ok || p == nil {
		t.Errorf("the user of a consumer that was left out: %v %v", p, ok)
	}
	var names []string
	for _, k := range more.From("l") {
		names = append(names, k.Name)
	}
	if !cmp.Equal(names, []string{"last"}) || files.Named("good") != nil || more.Named("good") == nil {
		t.Errorf("From(l) = %v", names)
	}
}

// TestRequestsDuringChanges: a key that stays is found whatever changes beside
// it; run it with -race.
func TestRequestsDuringChanges(t *testing.T) {
	d, k := ringed(t, nil, []*Config{{Name: "a"}}, nil)
	stays := []Key{{Hash: hash("stays")}}
	k.Update(FromConsul, map[string]Record{"a": Record{Keys: stays}})
	end := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					if got := said(d, "stays", noon); got != "a " {
						t.Errorf("a key that stays is %s", got)
						return
					}
				}
			}
		})
	}
	for i := range 300 {
		list := append([]Key(nil), stays...)
		for j := range i % 40 {
			list = append(list, Key{Hash: hash(fmt.Sprint(i, j))})
		}
		k.Update(FromConsul, map[string]Record{"a": Record{Keys: list}})
		if i%50 == 0 {
			more, _ := d.Extend(nil)
			k.SetFiles(d, more)
		}
	}
	close(end)
	wg.Wait()
}

// filled is a ring with n keys of n/100 consumers, the numbers.
func filled(tb testing.TB, n int) (*Directory, *Keyring) {
	d, k := ringed(tb, nil, []*Config{{Name: "0"}}, nil)
	all := map[string]Record{}
	for i := range n {
		name := fmt.Sprint(i / 100)
		r := all[name]
		r.Keys = append(r.Keys, Key{Hash: sha256.Sum256(fmt.Append(nil, i)), Created: 1})
		all[name] = r
	}
	k.Update(FromConsul, all)
	return d, k
}

// TestKeyringMemory: a million keys would fit into 150 MiB.
func TestKeyringMemory(t *testing.T) {
	const n = 200_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d, k := filled(t, n)
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%.1f bytes for each key", per)
	if per > 150 {
		t.Errorf("%.1f bytes for each key, want at most 150", per)
	}
	if got := said(d, "7", noon) + said(d, "199999", noon) + said(d, "200000", noon); got != "0 no consumerunknown" {
		t.Errorf("found: %q", got)
	}
	// A change touches its shard alone.
	shards := k.shards.Load()
	var was [shardCount]*shard
	for i := range shards {
		was[i] = shards[i].Load()
	}
	k.Update(FromConsul, map[string]Record{"new": Record{Keys: []Key{{Hash: hash("new")}}}})
	changed := 0
	for i := range shards {
		if shards[i].Load() != was[i] {
			changed++
		}
	}
	if got := said(d, "new", noon); changed != 1 || got != "no consumer" {
		t.Errorf("%d shards changed, want 1; the key is %s", changed, got)
	}
}

func TestKeyringAllocatesNothing(t *testing.T) {
	d, _ := filled(t, 1000)
	for _, key := range []string{"7", "999", "unknown"} {
		b := []byte(key)
		if n := testing.AllocsPerRun(100, func() { d.Find(b, noon) }); n != 0 {
			t.Errorf("%s: %v allocations", key, n)
		}
	}
}

func BenchmarkKeyring(b *testing.B) {
	for _, n := range []int{1, 1_000_000} {
		d, _ := filled(b, n)
		keys := make([][]byte, 4096)
		for i := range keys {
			keys[i] = fmt.Append(nil, i*211%n)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				if _, s := d.Find(keys[i&4095], noon); s == Unknown {
					b.Fatal("not found")
				}
			}
		})
	}
	_, k := filled(b, 1_000_000)
	b.Run("change among 1000000", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			k.Update(FromConsul, map[string]Record{"new": Record{Keys: []Key{{Hash: hash(fmt.Sprint("new", i))}}}})
		}
	})
}

// FuzzRecord: what a node reads of Consul it writes back as it was.
func FuzzRecord(f *testing.F) {
	f.Add((&Record{Keys: []Key{{Hash: hash("a"), Created: 1, Expires: 2, Revoked: 3}}}).Text())
	f.Add([]byte(`{"keys":null}`))
	f.Add([]byte(`{"keys":[{"sha256":"` + sum("a") + `","expires":1764000000000}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecord(text)
		if err != nil {
			return
		}
		again, err := ParseRecord(r.Text())
		if diff := cmp.Diff(r, again); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		for _, k := range r.Keys { // as the admin API shows it
			if _, err := json.Marshal([]time.Time{time.Unix(k.Created, 0).UTC(), time.Unix(k.Expires, 0).UTC(), time.Unix(k.Revoked, 0).UTC()}); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestRecord(t *testing.T) {
	var r Record
	add := func(key string, expires int64) {
		t.Helper()
		if err := r.Add(Key{Hash: hash(key), Created: noon.Unix(), Expires: expires}, noon); err != nil {
			t.Fatal(err)
		}
	}
	add("a", 0)
	add("b", noon.Unix()+100)
	if err := r.Revoke(hash("a"), noon); err != nil || r.Keys[0].State(noon) != Revoked {
		t.Errorf("Revoke: %v, %v", err, r.Keys[0])
	}
	if err := r.Revoke(hash("a"), noon); err != ErrRevoked {
		t.Errorf("again: %v", err)
	}
	if err := r.Revoke(hash("x"), noon); err != ErrNoKey {
		t.Errorf("another: %v", err)
	}
	until, err := r.Rotate(hash("b"), Key{Hash: hash("c"), Created: noon.Unix(), Expires: r.Keys[1].After(noon.Add(time.Minute))}, noon, 10*time.Second)
	if err != nil || until != noon.Unix()+10 || r.Keys[1].Expires != until || r.Keys[2].Expires != noon.Unix()+160 {
		t.Errorf("Rotate: %v, %v, %+v", until, err, r.Keys)
	}
	if until, err = r.Rotate(hash("c"), Key{Hash: hash("d")}, noon, 24*time.Hour); err != nil || until != noon.Unix()+160 {
		t.Errorf("Rotate beyond the key's end: %v, %v", until, err)
	}
	if last := (&Key{Expires: lastTime}).After(noon); last != lastTime { // else no record with it is read again
		t.Errorf("After the last of all times: %d", last)
	}
	for key, want := range map[string]error{"a": ErrRevoked, "b": ErrExpired, "x": ErrNoKey} {
		if _, err := r.Rotate(hash(key), Key{Hash: hash("e")}, noon.Add(time.Minute), time.Hour); err != want {
			t.Errorf("Rotate(%s): %v, want %v", key, err, want)
		}
	}
	again, err := ParseRecord(r.Text())
	if diff := cmp.Diff(r, again); err != nil || diff != "" {
		t.Errorf("ParseRecord: %v %s", err, diff)
	}
	if err := r.Add(Key{Hash: hash("f")}, noon.Add(40*24*time.Hour)); err != nil || len(r.Keys) != 2 || r.Keys[0].Hash != hash("d") {
		t.Errorf("after 40 days: %v, %d keys", err, len(r.Keys))
	}
	for i := range maxKeys {
		err = r.Add(Key{Hash: hash(fmt.Sprint(i))}, noon)
	}
	if err == nil || len(r.Keys) != maxKeys {
		t.Errorf("%d keys: %v", len(r.Keys), err)
	}
	for text, want := range map[string]string{
		`{"keys":[{}]}`: "has a key without a hash",
		`{"keys":[{"sha256":"` + sum("a") + `"},{"sha256":"` + sum("a") + `"}]}`: "or one twice",
		`{"keys":[{"sha256":"ab"}]}`:                                       "isn't a SHA-256",
		`{"keys":[{"sha256":"` + sum("a") + `","expires":1764000000000}]}`: "which isn't one in seconds",
		`{"keys":[{"sha256":"` + sum("a") + `","revoked":-1}]}`:            "which isn't one in seconds",
		`x`: "can't be read",
	} {
		if _, err := ParseRecord([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRecord(%s) = %v, want %q", text, err, want)
		}
	}
}
