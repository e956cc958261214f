package introspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

const issuer = "https://id.test"

// server knows tokens; it answers 401 to whoever isn't the gateway.
type server struct {
	*httptest.Server
	asked atomic.Int64
	says  atomic.Pointer[func(token string) (int, string)]
}

func newServer(t testing.TB, says func(token string) (int, string)) *server {
	t.Helper()
	s := &server{}
	s.says.Store(&says)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		id, password, _ := r.BasicAuth()
		if r.Method != "POST" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || id != "gate%3Away" || password != "p%C3%A4ss+word" || r.FormValue("token_type_hint") != "access_token" {
			w.WriteHeader(401)
			return
		}
		status, text := (*s.says.Load())(r.PostFormValue("token"))
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	return s
}

func newPolicy(t testing.TB, url, more string) policy.Requester {
	t.Helper()
	d, err := consumer.Compile(nil, []*consumer.Config{{Name: "acme", JWT: []*consumer.JWTConfig{{Subject: "acme-client", Issuer: issuer}}}})
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	deps := Deps{Consumers: d, Services: remote.NewStore(log).Plan(), Cache: NewCache()}
	return policytest.Policy(t, Kind(deps), fmt.Sprintf("auth \"introspect\" {\n  url = %q\n  client_id = \"gate:way\"\n  client_secret = \"päss word\"\n  issuer = %q\n%s\n}", url, issuer, more)).(policy.Requester)
}

func TestTokens(t *testing.T) {
	now := time.Now().Unix()
	tests := []struct {
		name, token, says, want string
		status                  int
		subject                 string
	}{
		{"active", "t", `{"active":true,"sub":"acme-client","scope":"a b"}`, "", 200, "acme"},
		{"active, of nobody", "t", `{"active":true,"sub":"other"}`, "", 200, ""},
		{"all that is checked", "t", fmt.Sprintf(`{"active":true,"sub":"acme-client","exp":%d,"nbf":%d,"iss":%q,"aud":["x","api"]}`, now+60, now-60, issuer), "", 200, "acme"},
		{"within the skew", "t", fmt.Sprintf(`{"active":true,"exp":%d,"nbf":%d}`, now-50, now+50), "", 200, ""},
		{"inactive", "t", `{"active":false,"sub":"acme-client"}`, "unauthenticated: the server says that the token isn't active", 200, ""},
		{"expired", "t", fmt.Sprintf(`{"active":true,"exp":%d}`, now-61), "unauthenticated: the token has expired", 200, ""},
		{"not yet", "t", fmt.Sprintf(`{"active":true,"nbf":%d}`, now+65), "unauthenticated: the token isn't valid yet", 200, ""},
		{"another issuer", "t", `{"active":true,"iss":"https://evil.test"}`, "unauthenticated: the token is of another issuer", 200, ""},
		{"no active", "t", `{"sub":"acme-client"}`, "auth-unavailable: what the server says of the token has no active", 200, ""},
		{"active is text", "t", `{"active":"true"}`, "auth-unavailable: what the server says of the token has no active", 200, ""},
		{"active twice", "t", `{"active":false,"active":true}`, "auth-unavailable: what the server says of the token can't be read: has a name twice", 200, ""},
		{"not JSON", "t", `active`, "auth-unavailable: what the server says of the token can't be read: invalid character 'a' looking for beginning of value", 200, ""},
		{"exp is text", "t", `{"active":true,"exp":"9999999999"}`, "auth-unavailable: what the server says of the token has an exp, nbf, iss, aud or sub of a wrong type", 200, ""},
		{"aud is a number", "t", `{"active":true,"aud":7}`, "auth-unavailable: what the server says of the token has an exp, nbf, iss, aud or sub of a wrong type", 200, ""},
		{"sub is a number", "t", `{"active":true,"sub":7}`, "auth-unavailable: what the server says of the token has an exp, nbf, iss, aud or sub of a wrong type", 200, ""},
		{"the gateway's credentials", "t", ``, "auth-unavailable: the server that knows tokens answers 401: check url, client_id and client_secret", 401, ""},
		{"a redirect", "t", ``, "auth-unavailable: the server that knows tokens answers 302: check url, client_id and client_secret", 302, ""},
		{"failed", "t", ``, "auth-unavailable: the server that knows tokens can't be asked: it answers 500 Internal Server Error", 500, ""},
		{"too large", "t", `{"active":true,"x":"` + strings.Repeat("x", maxBody) + `"}`, "auth-unavailable: the server that knows tokens can't be asked: the answer has more than 65536 bytes", 200, ""},
		{"empty", "", ``, "unauthenticated: the token is empty", 0, ""},
		{"not a token", "a&token=b", ``, "unauthenticated: the token has characters that no bearer token has", 0, ""},
		{"long", strings.Repeat("x", maxToken+1), ``, "unauthenticated: the token has more than 16384 bytes", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, func(token string) (int, string) {
				if token != tt.token {
					t.Errorf("asked about %q", token)
				}
				return tt.status, tt.says
			})
			x := policytest.Exchange(t, "GET https://a.test/", "Authorization: Bearer "+tt.token)
			verdict, err := newPolicy(t, s.URL, "").Request(x)
			if tt.want == "" {
				if err != nil || verdict != policy.Next || x.Claims == nil || (x.Consumer != nil) != (tt.subject != "") {
					t.Fatalf("Request = %v, %v, claims %v, consumer %v", verdict, err, x.Claims, x.Consumer)
				}
				if sent := policytest.Sent(&x.Request, &x.RequestEdits); len(sent) > 0 {
					t.Errorf("the service gets %q", sent)
				}
				return
			}
			if err == nil || err.Error() != tt.want || x.Claims != nil || x.Consumer != nil {
				t.Fatalf("Request = %v, %v, want %q", verdict, err, tt.want)
			}
			var fields []string
			if strings.HasPrefix(tt.want, "unauthenticated") {
				fields = []string{`WWW-Authenticate: Bearer realm="api", error="invalid_token"`}
			}
			if got := policytest.Sent(&x.Response, &x.ResponseEdits); strings.Join(got, "\n") != strings.Join(fields, "\n") {
				t.Errorf("the client gets %q", got)
			}
			if (s.asked.Load() != 0) != (tt.status != 0) {
				t.Errorf("asked %d times", s.asked.Load())
			}
		})
	}
	x := policytest.Exchange(t, "GET https://a.test/")
	if _, err := newPolicy(t, "http://127.0.0.1:1", "").Request(x); err == nil || err.Error() != "unauthenticated: no credential: a token that http://127.0.0.1:1 knows" {
		t.Errorf("without a token: %v", err)
	}
	x = policytest.Exchange(t, "GET https://a.test/", "Authorization: Bearer t")
	if _, err := newPolicy(t, "http://127.0.0.1:1", "").Request(x); err == nil || !strings.HasPrefix(err.Error(), "auth-unavailable: ") {
		t.Errorf("unreachable: %v", err)
	}
}

// TestAudience: where the block names one, a token must be for it.
func TestAudience(t *testing.T) {
	for says, want := range map[string]string{
		`{"active":true,"aud":"api"}`: "", `{"active":true,"aud":["b","api"]}`: "",
		`{"active":true,"aud":"web"}`: "unauthenticated: the token is for another audience", `{"active":true}`: "unauthenticated: the token is for another audience",
	} {
		s := newServer(t, func(string) (int, string) { return 200, says })
		got := ""
		if _, err := newPolicy(t, s.URL, `audience = ["api"]`).Request(policytest.Exchange(t, "GET https://a.test/", "Authorization: Bearer t")); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", says, got, want)
		}
	}
}

// TestCache: what is said of a token holds for its time, a failure for none.
func TestCache(t *testing.T) {
	now := time.Now()
	tests := []struct {
		name, says  string
		status      int
		other, more string
		later       time.Duration
		asks        int64
	}{
		{"good", `{"active":true}`, 200, "t", "", 29 * time.Second, 1},
		{"good, later", `{"active":true}`, 200, "t", "", 31 * time.Second, 2},
		{"good, until it ends", fmt.Sprintf(`{"active":true,"exp":%d}`, now.Add(10*time.Second).Unix()), 200, "t", "", 15 * time.Second, 2},
		{"another token", `{"active":true}`, 200, "u", "", 0, 2},
		{"bad", `{"active":false}`, 200, "t", "", 9 * time.Second, 1},
		{"bad, later", `{"active":false}`, 200, "t", "", 11 * time.Second, 2},
		{"failed", ``, 500, "t", "", 0, 2},
		{"off", `{"active":true}`, 200, "t", `cache = "0s"`, 0, 2},
		{"short", `{"active":false}`, 200, "t", `cache = "2s"`, 3 * time.Second, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, func(string) (int, string) { return tt.status, tt.says })
			p := newPolicy(t, s.URL, tt.more)
			x := policytest.Exchange(t, "GET https://a.test/", "Authorization: Bearer t")
			x.Start = now
			_, err1 := p.Request(x)
			y := policytest.Exchange(t, "GET https://b.test/", "Authorization: bearer "+tt.other)
			y.Start = now.Add(tt.later)
			_, err2 := p.Request(y)
			if s.asked.Load() != tt.asks || (err1 == nil) != (err2 == nil) {
				t.Errorf("asked %d times (%v, %v), want %d", s.asked.Load(), err1, err2, tt.asks)
			}
		})
	}
}

// TestOthers: a token that the server doesn't know may be another block's.
func TestOthers(t *testing.T) {
	s := newServer(t, func(token string) (int, string) { return 200, fmt.Sprintf(`{"active":%v}`, token == "second") })
	none := newServer(t, func(string) (int, string) { return 200, `{"active":false}` })
	log := logrus.New()
	log.SetOutput(io.Discard)
	k := Kind(Deps{Services: remote.NewStore(log).Plan(), Cache: NewCache()})
	var list []policy.Policy
	for _, url := range []string{none.URL, s.URL} {
		m, err := k.New(&Config{URL: url, ClientID: "gate:way", ClientSecret: "päss word", TokenTypeHint: "access_token", Timeout: 5 * time.Second, Realm: "api"})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m.(auth.Method))
	}
	p, err := k.Join("r", list)
	if err != nil {
		t.Fatal(err)
	}
	for token, ok := range map[string]bool{"second": true, "third": false} {
		x := policytest.Exchange(t, "GET https://a.test/", "Authorization: Bearer "+token)
		_, err := p.(policy.Requester).Request(x)
		var f *exchange.Fault
		if (err == nil) != ok || err != nil && (!errors.As(err, &f) || f.Kind != exchange.Unauthenticated) {
			t.Errorf("%s: %v", token, err)
		}
	}
}

func TestErrors(t *testing.T) {
	for more, want := range map[string]string{
		`url = "http://id.test/introspect"`:                 `url: "http://id.test/introspect" isn't an https URL: answers from another host need TLS`,
		"url = \"https://id.test\"\nrealm = \"\"":           `realm: is empty`,
		"url = \"https://id.test\"\naudience = [\"\"]":      `audience: one is empty`,
		"url = \"https://id.test\"\nlabels = { a = \"\" }":  `labels: "a" = "" names nothing`,
		"url = \"https://id.test\"\nca_file = \"known.go\"": `ca_file: has no certificate in PEM`,
	} {
		block := "auth \"introspect\" {\nclient_id = \"a\"\nclient_secret = \"b\"\n" + more + "\n}"
		if _, err := policytest.Try(t, Kind(Deps{}), block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
	if _, err := policytest.Try(t, Kind(Deps{}), "auth \"introspect\" {\nurl = \"https://id.test\"\nclient_id = \"\"\nclient_secret = \"\"\n}"); err == nil || err.Error() != "client_id: is empty\nclient_secret: is empty" {
		t.Errorf("without credentials: %v", err)
	}
}

func TestNoAllocations(t *testing.T) {
	s := newServer(t, func(string) (int, string) { return 200, `{"active":true,"sub":"acme-client"}` })
	p := newPolicy(t, s.URL, "")
	x := policytest.Exchange(t, "GET https://a.test/", "Authorization: Bearer t")
	if n := testing.AllocsPerRun(100, func() {
		x.RequestEdits.Reset()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestExplain(t *testing.T) {
	s := newServer(t, func(string) (int, string) { return 200, `{"active":true}` })
	p := newPolicy(t, s.URL+"?key=secret", "").(policy.Tester)
	if got := p.Test(policytest.Exchange(t, "GET https://a.test/", "Authorization: Bearer t")); got != "asks "+s.URL || s.asked.Load() != 0 {
		t.Errorf("Test = %q, asked %d times", got, s.asked.Load())
	}
	if got := p.Test(policytest.Exchange(t, "GET https://a.test/")); got != "refuses: unauthenticated: no credential: a token that "+s.URL+" knows" {
		t.Errorf("Test = %q", got)
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(Deps{})) }

func BenchmarkRemembered(b *testing.B) {
	s := newServer(b, func(string) (int, string) { return 200, `{"active":true,"sub":"acme-client"}` })
	p := newPolicy(b, s.URL, `cache = "1h"`)
	x := policytest.Exchange(b, "GET https://a.test/", "Authorization: Bearer "+strings.Repeat("t", 64))
	b.ReportAllocs()
	for b.Loop() {
		x.RequestEdits.Reset()
		if _, err := p.Request(x); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzParse: what can be understood of an answer is a token or none, and says the
// same again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"active":false,"sub":7}`, `{"active":true,"exp":1764000000,"nbf":1e9,"iss":"i","aud":["a","b"],"sub":"s"}`, `{"active":true,"aud":"a"}`,
		`{"active":true,"exp":-9223372036854775808}`, `{"active":true,"exp":1e400}`, `{"active":true,"exp":0}`, `{"Active":true}`, `{"active":true,"a":[[[]]],"b":{"":null}}`, `[]`, ``,
	} {
		f.Add([]byte(s))
	}
	m := &Method{issuer: issuer, audience: []string{"a"}, faults: newFaults()}
	now := time.Unix(1764000000, 0)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parse(text)
		if err != nil {
			return
		}
		if !k.active {
			if k.claims != nil {
				t.Error("a token that isn't active has claims")
			}
			return
		}
		if k.claims == nil || k.size < int64(len(text)) {
			t.Errorf("%+v", k)
		}
		if m.check(k, now) == nil && !slices.Contains(k.audience, "a") {
			t.Errorf("for %q", k.audience)
		}
		again, err := json.Marshal(k.claims.Values())
		if err != nil {
			t.Fatal(err)
		}
		if o, err := parse(again); err != nil || o.exp != k.exp || o.nbf != k.nbf || o.issuer != k.issuer || !slices.Equal(o.audience, k.audience) {
			t.Errorf("%v: %+v, then %+v", err, k, o)
		}
	})
}
