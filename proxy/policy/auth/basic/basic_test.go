package basic

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func bcryptOf(t testing.TB, password string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func argonOf(password string) string {
	salt, enc := []byte("salt of a test"), base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=19$m=64,t=1,p=1$%s$%s", enc.EncodeToString(salt), enc.EncodeToString(argon2.IDKey([]byte(password), salt, 1, 64, 1, 32)))
}

func directory(t testing.TB, password string) *consumer.Directory {
	t.Helper()
	d, err := consumer.Compile(nil, []*consumer.Config{
		{Name: "acme", Basic: []*consumer.BasicConfig{{User: "acme", Bcrypt: bcryptOf(t, password)}}},
		{Name: "umbrella", Basic: []*consumer.BasicConfig{{User: "umbrella user", Argon2id: argonOf("p:ä")}}},
		{Name: "long", Basic: []*consumer.BasicConfig{{User: "long", Bcrypt: bcryptOf(t, strings.Repeat("x", 72))}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func credentials(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestRequest(t *testing.T) {
	d, v := directory(t, "secret"), NewVerifier()
	p := policytest.Policy(t, Kind(d, v), `auth "basic" { realm = "api" }`).(policy.Requester)
	tests := []struct {
		name   string
		fields []string
		want   string // the consumer; "": refused
		err    string
	}{
		{"bcrypt", []string{credentials("acme", "secret")}, "acme", ""},
		{"argon2id", []string{credentials("umbrella user", "p:ä")}, "umbrella", ""},
		{"scheme in any case", []string{strings.Replace(credentials("acme", "secret"), "Basic", "bAsIc ", 1)}, "acme", ""},
		{"72 bytes", []string{credentials("long", strings.Repeat("x", 72))}, "long", ""},
		{"more than bcrypt looks at", []string{credentials("long", strings.Repeat("x", 73))}, "", "wrong password"},
		{"none", nil, "", "no credential: a name and a password (Basic)"},
		{"wrong password", []string{credentials("acme", "Secret")}, "", "wrong password"},
		{"empty password", []string{credentials("acme", "")}, "", "wrong password"},
		{"another's password", []string{credentials("acme", "p:ä")}, "", "wrong password"},
		{"unknown user", []string{credentials("nobody", "secret")}, "", "unknown user"},
		{"user in other letters", []string{credentials("ACME", "secret")}, "", "unknown user"},
		{"no user", []string{credentials("", "secret")}, "", "unknown user"},
		{"the decoy's password", []string{credentials("nobody", "secret"), "A: b"}, "", "unknown user"},
		{"the hash itself", []string{credentials("acme", bcryptOf(t, "secret"))}, "", "wrong password"},
		{"no colon", []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("acme"))}, "", "the credentials aren't"},
		{"no base64", []string{"Authorization: Basic acme:secret"}, "", "the credentials aren't"},
		{"nothing", []string{"Authorization: Basic"}, "", "the credentials aren't"},
		{"zero byte", []string{credentials("acme\x00", "secret")}, "", "the credentials aren't"},
		{"too long", []string{credentials("acme", strings.Repeat("x", 1000))}, "", "name and password have more than 1024 bytes"},
		{"twice", []string{credentials("acme", "secret"), credentials("acme", "secret")}, "", "more than one Authorization field"},
		{"another scheme", []string{"Authorization: Bearer x"}, "", "no credential"},
	}
	for range 2 { // the second time from memory
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				x := policytest.Exchange(t, "GET https://a.test/", tt.fields...)
				_, err := p.Request(x)
				if tt.want != "" {
					if err != nil || x.Consumer == nil || x.Consumer.Name != tt.want {
						t.Fatalf("Request: %v, consumer %v", err, x.Consumer)
					}
					if got := policytest.Sent(&x.Request, &x.RequestEdits); len(got) > 0 {
						t.Errorf("%q went on", got)
					}
					return
				}
				var f *exchange.Fault
				if !errors.As(err, &f) || !strings.Contains(err.Error(), tt.err) || x.Consumer != nil {
					t.Fatalf("Request: %v, consumer %v, want %q", err, x.Consumer, tt.err)
				}
				want := []string{`WWW-Authenticate: Basic realm="api", charset="UTF-8"`}
				if f.Kind == exchange.Malformed {
					want = nil
				}
				if d := cmp.Diff(want, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
					t.Errorf("answer's fields: %s", d)
				}
				if strings.Contains(err.Error(), "secret") {
					t.Error("the log gets to see a password")
				}
			})
		}
	}
	if n, busy := v.Checks(); n != 11 || busy != 0 {
		t.Errorf("%d passwords checked, %d refused, want 11 and 0: each once", n, busy)
	}
}

// TestChanged: what was right for one password of the configuration isn't for
// the next.
func TestChanged(t *testing.T) {
	v := NewVerifier()
	for _, password := range []string{"one", "two", "one"} {
		p := policytest.Policy(t, Kind(directory(t, password), v), `auth "basic" {}`).(policy.Requester)
		for _, given := range []string{"one", "two"} {
			_, err := p.Request(policytest.Exchange(t, "GET https://a.test/", credentials("acme", given)))
			if (err == nil) != (given == password) {
				t.Errorf("password %q, given %q: %v", password, given, err)
			}
		}
	}
}

// TestTogether: who comes many at once costs one check, and guessing pushes
// nobody out.
func TestTogether(t *testing.T) {
	v := NewVerifier()
	p := policytest.Policy(t, Kind(directory(t, "secret"), v), `auth "basic" {}`).(policy.Requester)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := p.Request(policytest.Exchange(t, "GET https://a.test/", credentials("acme", "secret"))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, _ := v.Checks(); n != 1 {
		t.Errorf("%d checks, want 1", n)
	}
	for i := range 100_000 {
		v.wrong.add(sha256.Sum256([]byte(fmt.Sprint(i))))
	}
	if _, err := p.Request(policytest.Exchange(t, "GET https://a.test/", credentials("acme", "secret"))); err != nil {
		t.Error(err)
	}
	if n, _ := v.Checks(); n != 1 {
		t.Errorf("%d checks after guessing, want 1", n)
	}
}

// TestBusy: while all places are taken, others aren't let in, and those that are
// remembered are.
func TestBusy(t *testing.T) {
	v := NewVerifier()
	p := policytest.Policy(t, Kind(directory(t, "secret"), v), `auth "basic" {}`).(policy.Requester)
	known := policytest.Exchange(t, "GET https://a.test/", credentials("acme", "secret"))
	if _, err := p.Request(known); err != nil {
		t.Fatal(err)
	}
	for range cap(v.work) {
		v.work <- struct{}{}
	}
	v.waiting.Store(maxWaiting)
	x := policytest.Exchange(t, "GET https://a.test/", credentials("acme", "guess"))
	_, err := p.Request(x)
	if err == nil || err.Error() != "auth-unavailable: too many passwords are being checked" || x.Consumer != nil {
		t.Errorf("Request: %v", err)
	}
	if _, busy := v.Checks(); busy != 1 {
		t.Errorf("%d refused, want 1", busy)
	}
	if _, err := p.Request(policytest.Exchange(t, "GET https://a.test/", credentials("acme", "secret"))); err != nil {
		t.Errorf("a remembered one: %v", err)
	}
}

func TestNewErrors(t *testing.T) {
	if _, err := policytest.Try(t, Kind(nil, nil), `auth "basic" { realm = "a\"b" }`); err == nil || !strings.Contains(err.Error(), `realm: "a\"b" has a character`) {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	p := policytest.Policy(t, Kind(directory(t, "secret"), NewVerifier()), `auth "basic" {}`).(policy.Requester)
	x := policytest.Exchange(t, "GET https://a.test/", credentials("acme", "secret"))
	if n := testing.AllocsPerRun(100, func() {
		x.RequestEdits.Reset()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(nil, nil)) }

func BenchmarkRemembered(b *testing.B) {
	p := policytest.Policy(b, Kind(directory(b, "secret"), NewVerifier()), `auth "basic" {}`).(policy.Requester)
	x := policytest.Exchange(b, "GET https://a.test/", credentials("acme", "secret"))
	b.ReportAllocs()
	for b.Loop() {
		x.RequestEdits.Reset()
		if _, err := p.Request(x); err != nil {
			b.Fatal(err)
		}
	}
}
