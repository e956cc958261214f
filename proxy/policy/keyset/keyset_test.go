package keyset_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
)

// rig is a store that runs, with a clock that the test moves.
type rig struct {
	*keyset.Store
	mu  sync.Mutex // guards now
	now time.Time
}

func newRig(t *testing.T, patience time.Duration) *rig {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	r := &rig{now: time.Now()}
	r.Store = keyset.NewStore(keyset.Deps{Log: log, Now: func() time.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.now
	}, Patience: patience})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	r.now = r.now.Add(d)
	r.mu.Unlock()
}

// use puts sources in force and waits for their first fetches.
func (r *rig) use(t *testing.T, list ...keyset.Source) []*keyset.Set {
	t.Helper()
	p := r.Plan()
	var sets []*keyset.Set
	for _, s := range list {
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		sets = append(sets, p.Set(s))
	}
	p.Commit()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r.Wait(ctx)
	if ctx.Err() != nil {
		t.Fatal("the keys weren't fetched")
	}
	return sets
}

// tick has the store look at its clock again, and waits until f holds.
func (r *rig) tick(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		r.Poke()
		if f() {
			return
		}
	}
	t.Fatalf("%s: it never came", what)
}

func source(i *jwttest.Issuer) keyset.Source {
	return keyset.Source{Issuer: "https://id.test/", URL: i.JWKS()}
}

func TestRotation(t *testing.T) {
	i := jwttest.New(t)
	i.Add("a", "ES256")
	r := newRig(t, 10*time.Second)
	set := r.use(t, source(i))[0]
	old, err := set.Find("a", keyset.ES256)
	if err != nil {
		t.Fatal(err)
	}
	i.Add("b", "ES256")
	if _, err := set.Find("b", keyset.ES256); err != nil {
		t.Errorf("a new key: %v", err)
	}
	if again, err := set.Find("a", keyset.ES256); err != nil || again != old || !old.Alive(r.now) {
		t.Errorf("the key that stayed: %v, the same %v", err, again == old)
	}
	// The next unknown key has to wait for its turn.
	i.Add("c", "ES256")
	if _, err := set.Find("c", keyset.ES256); err != keyset.ErrUnknown || i.Fetches() != 2 {
		t.Errorf("at once: %v after %d fetches", err, i.Fetches())
	}
	r.advance(31 * time.Second)
	if _, err := set.Find("c", keyset.ES256); err != nil {
		t.Errorf("31 s later: %v", err)
	}
	// One that is known to be missing has nothing fetched, though it would be time.
	r.advance(31 * time.Second)
	if _, err := set.Find("nobody", keyset.ES256); err != keyset.ErrUnknown || i.Fetches() != 4 {
		t.Errorf("%v after %d fetches", err, i.Fetches())
	}
	r.advance(31 * time.Second)
	if _, err := set.Find("nobody", keyset.ES256); err != keyset.ErrUnknown || i.Fetches() != 4 {
		t.Errorf("missing: %v after %d fetches", err, i.Fetches())
	}
	i.Remove("a")
	i.Add("d", "ES256")
	if _, err := set.Find("d", keyset.ES256); err != nil {
		t.Error(err)
	}
	if old.Alive(r.now) {
		t.Error("a key that was taken back is alive")
	}
}

// TestOutage: the last keys go on for a day, and new ones are asked for ahead
// of their time.
func TestOutage(t *testing.T) {
	i := jwttest.New(t)
	i.Add("a", "ES256")
	r := newRig(t, 10*time.Second)
	set := r.use(t, source(i))[0]
	i.Answer(jwttest.Down)
	r.advance(9 * time.Minute)
	r.tick(t, "a fetch ahead of ten minutes", func() bool { return r.Status()[0].Failures > 0 })
	if st := r.Status()[0]; st.Keys != 1 || !strings.Contains(st.Error, "answers 502") {
		t.Errorf("%+v", st)
	}
	key, err := set.Find("a", keyset.ES256)
	if err != nil {
		t.Errorf("while the issuer is away: %v", err)
	}
	r.advance(25 * time.Hour)
	if key.Alive(r.now) {
		t.Error("after a day the key is alive")
	}
	i.Answer(nil)
	r.tick(t, "the issuer is back", func() bool { return r.Status()[0].Error == "" })
	if _, err := set.Find("a", keyset.ES256); err != nil || !key.Alive(r.now) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestPlan(t *testing.T) {
	i, j := jwttest.New(t), jwttest.New(t)
	r := newRig(t, 10*time.Second)
	one := r.use(t, source(i))[0]
	p := r.Plan()
	if p.Set(source(i)) != one || p.Set(source(j)) == one {
		t.Error("sets aren't told apart by their source")
	}
	if two := p.Set(source(j)); two != p.Set(source(j)) {
		t.Error("one source has two sets")
	}
	if j.Fetches() != 0 || len(r.Status()) != 1 {
		t.Error("a plan that isn't in force has keys fetched")
	}
	r.use(t, source(j))
	if st := r.Status(); len(st) != 1 || st[0].URL != j.JWKS() {
		t.Errorf("%+v", st)
	}
	before := i.Fetches()
	if _, err := one.Find("x", keyset.RS256); err != keyset.ErrUnknown || i.Fetches() != before {
		t.Errorf("a set that isn't used any more: %v, %d fetches", err, i.Fetches()-before)
	}
}

func TestDiscovery(t *testing.T) {
	i := jwttest.New(t)
	i.Add("a", "RS256")
	for _, tt := range []struct {
		name   string
		change func(map[string]any)
		err    string
	}{
		{"right", nil, ""},
		{"another issuer", func(d map[string]any) { d["issuer"] = "https://evil.test" }, `is about the issuer "https://evil.test"`},
		{"keys elsewhere without TLS", func(d map[string]any) { d["jwks_uri"] = "http://192.0.2.1/keys" }, "isn't an https URL: keys from another host need TLS"},
		{"no keys", func(d map[string]any) { delete(d, "jwks_uri") }, `jwks_uri: "" isn't an https URL`},
		{"keys in a file", func(d map[string]any) { d["jwks_uri"] = "file:///etc/passwd" }, "isn't an https URL"},
		{"huge", func(d map[string]any) { d["x"] = strings.Repeat("x", 65<<10) }, "answers with more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i.Discovery(tt.change)
			r := newRig(t, 50*time.Millisecond)
			set := r.use(t, keyset.Source{Issuer: i.URL})[0]
			if got := r.Status()[0].Error; (got == "") != (tt.err == "") || !strings.Contains(got, tt.err) {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			_, err := set.Find("a", keyset.RS256)
			if (err == nil) != (tt.err == "") || err != nil && !errors.Is(err, keyset.ErrUnavailable) {
				t.Errorf("Find = %v", err)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	i := jwttest.New(t)
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s) }
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		err    string // in the status; "": none
	}{
		{"no JSON", text("<html>"), "isn't a JWK set"},
		{"no keys", text("{}"), "isn't a JWK set: it has no keys"},
		{"empty", text(`{"keys":[]}`), ""},
		{"too many", text(`{"keys":[` + strings.Repeat("{},", 100) + `{}]}`), "has 101 keys; at most 100 are allowed"},
		{"huge", text(`{"keys":[]}` + strings.Repeat(" ", 512<<10)), "answers with more than 524288 bytes"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "answers 302 Found"},
		{"missing", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, "answers 404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i.Answer(tt.answer)
			r := newRig(t, 50*time.Millisecond)
			set := r.use(t, source(i))[0]
			got := r.Status()[0].Error
			if (got == "") != (tt.err == "") || !strings.Contains(got, tt.err) {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			want := keyset.ErrUnavailable
			if tt.err == "" {
				want = keyset.ErrUnknown
			}
			if _, err := set.Find("a", keyset.RS256); err != want {
				t.Errorf("Find = %v, want %v", err, want)
			}
		})
	}
}

// TestKeys: only public keys for signatures that are strong enough are taken.
func TestKeys(t *testing.T) {
	for _, tt := range []struct {
		name, alg string
		change    func(map[string]any)
		taken     bool
	}{
		{"RSA", "RS256", nil, true},
		{"RSA without use and alg", "RS256", func(k map[string]any) { delete(k, "use"); delete(k, "alg") }, true},
		{"RSA for signing too", "RS256", func(k map[string]any) { k["key_ops"] = []string{"sign", "verify"} }, true},
		{"for encryption", "RS256", func(k map[string]any) { k["use"] = "enc" }, false},
		{"for wrapping", "RS256", func(k map[string]any) { k["key_ops"] = []string{"wrapKey"} }, false},
		{"for another algorithm", "RS256", func(k map[string]any) { k["alg"] = "RS512" }, false},
		{"for an unknown algorithm", "RS256", func(k map[string]any) { k["alg"] = "HS256" }, false},
		{"a secret", "RS256", func(k map[string]any) { k["kty"], k["k"] = "oct", "c2VjcmV0"; delete(k, "alg") }, false},
		{"RSA of 1024 bits", "RS256", func(k map[string]any) { k["n"] = k["n"].(string)[:171] }, false},
		{"RSA of 16384 bits", "RS256", func(k map[string]any) { k["n"] = strings.Repeat(k["n"].(string)[:340], 8) }, false},
		{"RSA, e = 1", "RS256", func(k map[string]any) { k["e"] = "AQ" }, false},
		{"RSA, e even", "RS256", func(k map[string]any) { k["e"] = "AQAA" }, false},
		{"RSA, e large", "RS256", func(k map[string]any) { k["e"] = "AQAAAAAB" }, false},
		{"RSA without n", "RS256", func(k map[string]any) { delete(k, "n") }, false},
		{"EC", "ES256", nil, true},
		{"EC off its curve", "ES256", func(k map[string]any) { k["y"] = k["x"] }, false},
		{"EC of another curve", "ES256", func(k map[string]any) { k["crv"] = "P-384" }, false},
		{"EC of an unknown curve", "ES256", func(k map[string]any) { k["crv"] = "secp256k1" }, false},
		{"EC cut short", "ES256", func(k map[string]any) { k["x"] = k["x"].(string)[:40] }, false},
		{"Ed25519", "EdDSA", nil, true},
		{"Ed25519, too short", "EdDSA", func(k map[string]any) { k["x"] = "AAAA" }, false},
		{"Ed448", "EdDSA", func(k map[string]any) { k["crv"] = "Ed448" }, false},
		{"id too long", "EdDSA", func(k map[string]any) { k["kid"] = strings.Repeat("k", 257) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := jwttest.New(t)
			i.Add("k", tt.alg)
			if tt.change != nil {
				i.Change("k", tt.change)
			}
			a, _ := keyset.ParseAlg(tt.alg)
			set := newRig(t, 10*time.Second).use(t, source(i))[0]
			_, err := set.Find("", a)
			if tt.taken && err != nil || !tt.taken && err != keyset.ErrUnknown {
				t.Errorf("Find = %v", err)
			}
		})
	}
}

// TestSlow: an issuer that doesn't answer holds nobody for long.
func TestSlow(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "ES256")
	r := newRig(t, 50*time.Millisecond)
	set := r.use(t, source(i))[0]
	release := make(chan struct{})
	i.Answer(func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	if _, err := set.Find("new", keyset.ES256); err != keyset.ErrUnknown { // the test's own end comes if it waits
		t.Error(err)
	}
	if _, err := set.Find("k", keyset.ES256); err != nil {
		t.Errorf("meanwhile: %v", err)
	}
}

// TestLate: who starts before its issuer serves as soon as that is there.
func TestLate(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "ES256")
	i.Answer(jwttest.Down)
	r := newRig(t, 10*time.Second)
	set := r.use(t, source(i))[0]
	i.Answer(nil)
	found := make(chan error, 1)
	go func() {
		_, err := set.Find("k", keyset.ES256)
		found <- err
	}()
	r.advance(time.Second)
	r.tick(t, "the keys", func() bool { return r.Status()[0].Keys == 1 })
	if err := <-found; err != nil {
		t.Error(err)
	}
}
