package forward

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// service is an auth service; asked counts its requests.
type service struct {
	*httptest.Server
	asked atomic.Int64
	last  atomic.Pointer[http.Request]
}

func newService(t testing.TB, answer http.HandlerFunc) *service {
	t.Helper()
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.last.Store(r)
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// newPolicy makes a policy whose block is url and more.
func newPolicy(t testing.TB, url, more string) policy.Requester {
	t.Helper()
	d, err := consumer.Compile(nil, []*consumer.Config{{Name: "acme"}})
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	deps := Deps{Consumers: d, Services: remote.NewStore(log).Plan(), Cache: NewCache()}
	p, err := policytest.Try(t, Kind(deps), fmt.Sprintf("auth \"forward\" {\n  url = %q\n%s\n}", url, more))
	if err != nil {
		t.Fatal(err)
	}
	return p.(policy.Requester)
}

func kind(err error) exchange.Kind {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f.Kind
	}
	return ""
}

// TestAnswers: what each answer of the service does to the request, and what of
// it reaches the client and the service behind.
func TestAnswers(t *testing.T) {
	tests := []struct {
		name     string
		answer   http.HandlerFunc
		kind     exchange.Kind
		status   int      // of an answer of its own
		client   []string // fields of the response
		sent     []string // fields to the service behind
		consumer string
	}{
		{
			name: "admits",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Add("X-User", "alice")
				w.Header().Add("X-Groups", "a")
				w.Header().Add("X-Groups", "b")
				w.Header().Set("X-Other", "stays")
				w.Header().Set("X-Consumer", "acme")
				w.Header().Set("Set-Cookie", "s=1")
				w.WriteHeader(202)
			},
			client: []string{"Set-Cookie: s=1", "Cache-Control: private"}, sent: []string{"X-User: alice", "X-Groups: a", "X-Groups: b"}, consumer: "acme",
		},
		{name: "admits nobody known", answer: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Consumer", "nobody") }},
		{
			name: "401", kind: exchange.Unauthenticated, client: []string{`WWW-Authenticate: Basic realm="x"`, `WWW-Authenticate: Bearer`},
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
				w.Header().Add("WWW-Authenticate", "Bearer")
				w.Header().Set("X-User", "root")
				w.WriteHeader(401)
			},
		},
		{name: "403", kind: exchange.Forbidden, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }},
		{
			name: "302", status: 302, client: []string{"Location: https://login.test/?rd=/x", "Cache-Control: no-store", "Set-Cookie: state=1; Secure"},
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://login.test/?rd=/x")
				w.Header().Set("Set-Cookie", "state=1; Secure")
				w.WriteHeader(302)
			},
		},
		{name: "302 to nowhere", kind: exchange.AuthUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) }},
		{name: "302 to a script", kind: exchange.AuthUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "javascript:alert(1)")
			w.WriteHeader(302)
		}},
		{name: "304", kind: exchange.AuthUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }},
		{name: "404", kind: exchange.AuthUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }},
		{name: "500", kind: exchange.AuthUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
		{name: "too large", kind: exchange.AuthUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", maxBody+1)) // the client ends it
		}},
		{name: "too many fields", kind: exchange.AuthUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) {
			for range maxFields + 1 {
				w.Header().Add("X-User", "alice")
			}
		}},
		{name: "breaks off", kind: exchange.AuthUnavailable, answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{name: "too late", kind: exchange.AuthUnavailable, answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t, tt.answer)
			p := newPolicy(t, s.URL, "copy = [\"x-user\", \"X-Groups\"]\nconsumer = \"X-Consumer\"\ntimeout = \"300ms\"")
			x := policytest.Exchange(t, "POST https://a.test/x?y=1", "X-User: root", "x-user: root", "X-Groups: wheel", "Authorization: Bearer t")
			verdict, err := p.Request(x)
			if kind(err) != tt.kind || x.Status != tt.status {
				t.Fatalf("Request = %v, %v, status %d, want %q, %d", verdict, err, x.Status, tt.kind, tt.status)
			}
			if d := cmp.Diff(tt.client, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
				t.Errorf("the client gets: %s", d)
			}
			if want := policy.Next; (verdict == want) != (tt.kind == "" && tt.status == 0) {
				t.Errorf("verdict = %v", verdict)
			}
			if verdict != policy.Next {
				return
			}
			if d := cmp.Diff(tt.sent, policytest.Sent(&x.Request, &x.RequestEdits)); d != "" {
				t.Errorf("the service behind gets: %s", d)
			}
			if x.Consumer != nil && x.Consumer.Name != tt.consumer || x.Consumer == nil && tt.consumer != "" {
				t.Errorf("consumer = %+v, want %q", x.Consumer, tt.consumer)
			}
		})
	}
	p := newPolicy(t, "http://127.0.0.1:1/", "") // nobody listens
	if _, err := p.Request(policytest.Exchange(t, "GET https://a.test/")); kind(err) != exchange.AuthUnavailable {
		t.Errorf("unreachable: %v", err)
	}
}

// TestQuestion: the service gets what headers says and what the gateway knows,
// nothing else.
func TestQuestion(t *testing.T) {
	s := newService(t, func(http.ResponseWriter, *http.Request) {})
	p := newPolicy(t, s.URL+"/check?a=b", "headers = [\"Cookie\", \"X-Tenant\", \"Authorization\"]\nforward = true")
	x := policytest.Exchange(t, "DELETE https://a.test:8443/x/../y%20z?q=%2F", "Cookie: a=1; __Host-sidegate-0=1x; __Host-sidegate-0.1=y", "Cookie: __Host-sidegate-0-login-s=x", "X-Tenant: t", "X-Tenant: u", "Authorization: Basic eA==", "X-Secret: s", "Content-Length: 5", "X-Forwarded-User: root")
	if _, err := p.Request(x); err != nil {
		t.Fatal(err)
	}
	got := s.last.Load()
	want := http.Header{
		"Cookie": {"a=1"}, "X-Tenant": {"t", "u"}, "Authorization": {"Basic eA=="}, "User-Agent": {"sidegate"},
		"X-Forwarded-Method": {"DELETE"}, "X-Forwarded-Uri": {"/y%20z?q=%2F"}, "X-Forwarded-Host": {"a.test:8443"}, "X-Forwarded-Proto": {"https"},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Request-Id": {"r-1"},
	}
	if d := cmp.Diff(want, got.Header); d != "" || got.Method != "GET" || got.RequestURI != "/check?a=b" || got.ContentLength != 0 {
		t.Errorf("%s %s (%d bytes): %s", got.Method, got.RequestURI, got.ContentLength, d)
	}
	if sent := policytest.Sent(&x.Request, &x.RequestEdits); !strings.Contains(strings.Join(sent, "\n"), "Authorization: Basic eA==") {
		t.Errorf("forward = true, and the service behind gets %q", sent)
	}
	x = policytest.Exchange(t, "GET https://a.test/", "Authorization: Basic eA==", "Cookie: a=1")
	if _, err := newPolicy(t, s.URL, "").Request(x); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"Cookie: a=1"}, policytest.Sent(&x.Request, &x.RequestEdits)); d != "" {
		t.Errorf("the service behind gets: %s", d)
	}
}

// TestBeside: what clients send under the names of copied fields is dropped where
// another block decides, too.
func TestBeside(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-User", "alice") })
	sum := sha256.Sum256([]byte("key"))
	d, err := consumer.Compile(nil, []*consumer.Config{{Name: "acme", Keys: []*consumer.KeyConfig{{SHA256: hex.EncodeToString(sum[:])}}}})
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	k := Kind(Deps{Services: remote.NewStore(log).Plan(), Cache: NewCache()})
	first, err := apikey.Kind(d).New(&apikey.Config{Header: "X-API-Key"})
	if err != nil {
		t.Fatal(err)
	}
	second, err := k.New(&Config{URL: s.URL, Headers: []string{"Authorization"}, Copy: []string{"X-User"}, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Join("r", []policy.Policy{first, second})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"X-API-Key: key": "", "X-Other: key": "X-Other: key, X-User: alice"} {
		x := policytest.Exchange(t, "GET https://a.test/", key, "X-User: root", "x-user: root", "Authorization: Bearer t")
		if _, err := p.(policy.Requester).Request(x); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(policytest.Sent(&x.Request, &x.RequestEdits), ", "); got != want {
			t.Errorf("%s: the service behind gets %q, want %q", key, got, want)
		}
	}
	x := policytest.Exchange(t, "GET https://a.test/", "X-API-Key: wrong")
	if _, err := p.(policy.Requester).Request(x); kind(err) != exchange.Unauthenticated || s.asked.Load() != 1 {
		t.Errorf("a wrong key: %v, asked %d times", err, s.asked.Load())
	}
}

// TestCache: an answer serves the same question only, for its time, and one that
// is for one client serves nobody else.
func TestCache(t *testing.T) {
	var answer atomic.Pointer[http.HandlerFunc]
	say := func(f http.HandlerFunc) { answer.Store(&f) }
	s := newService(t, func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) })
	whole, host := newPolicy(t, s.URL, `cache = "10s"`), newPolicy(t, s.URL, "cache = \"10s\"\nkey = [\"host\"]\nheaders = [\"Authorization\"]")
	base := []string{"Authorization: Bearer a", "Cookie: c=1"}
	status := func(code int, fields ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for _, f := range fields {
				name, value, _ := strings.Cut(f, ": ")
				w.Header().Add(name, value)
			}
			w.WriteHeader(code)
		}
	}
	var n int
	fresh := func() string { n++; return fmt.Sprintf("Authorization: Bearer fresh-%d", n) }
	tests := []struct {
		name          string
		p             policy.Requester
		answer        http.HandlerFunc
		line1, line2  string
		first, second []string
		later         time.Duration
		asks          int64
	}{
		{"the same", whole, status(200), "GET https://a.test/1", "GET https://a.test/1", base, base, 9 * time.Second, 1},
		{"too old", whole, status(200), "GET https://a.test/2", "GET https://a.test/2", base, base, 11 * time.Second, 2},
		{"another path", whole, status(200), "GET https://a.test/3", "GET https://a.test/4", base, base, 0, 2},
		{"another query", whole, status(200), "GET https://a.test/5", "GET https://a.test/5?", base, base, 0, 2},
		{"another method", whole, status(200), "GET https://a.test/6", "POST https://a.test/6", base, base, 0, 2},
		{"another host", whole, status(200), "GET https://a.test/7", "GET https://b.test/7", base, base, 0, 2},
		{"another scheme", whole, status(200), "GET https://a.test/8", "GET http://a.test/8", base, base, 0, 2},
		{"another credential", whole, status(200), "GET https://a.test/9", "GET https://a.test/9", base, []string{"Authorization: Bearer b", "Cookie: c=1"}, 0, 2},
		{"another cookie", whole, status(200), "GET https://a.test/10", "GET https://a.test/10", base, []string{"Authorization: Bearer a", "Cookie: c=2"}, 0, 2},
		{"a value in another field", whole, status(200), "GET https://a.test/11", "GET https://a.test/11", []string{"Authorization: x"}, []string{"Cookie: x"}, 0, 2},
		{"two fields for one", whole, status(200), "GET https://a.test/12", "GET https://a.test/12", []string{"Cookie: a=1; b=2"}, []string{"Cookie: a=1", "Cookie: b=2"}, 0, 2},
		{"a field that isn't sent", whole, status(200), "GET https://a.test/13", "GET https://a.test/13", base, append([]string{"X-Other: 1"}, base...), 0, 1},
		{"a refusal", whole, status(403), "GET https://a.test/14", "GET https://a.test/14", base, base, time.Second, 1},
		{"a redirect", whole, status(302, "Location: /login"), "GET https://a.test/15", "GET https://a.test/15", base, base, 0, 2},
		{"with a cookie", whole, status(200, "Set-Cookie: s=1"), "GET https://a.test/16", "GET https://a.test/16", base, base, 0, 2},
		{"no-store", whole, status(200, "Cache-Control: private, no-store"), "GET https://a.test/17", "GET https://a.test/17", base, base, 0, 2},
		{"max-age", whole, status(200, "Cache-Control: max-age=5"), "GET https://a.test/18", "GET https://a.test/18", base, base, 6 * time.Second, 2},
		{"a failure", whole, status(500), "GET https://a.test/19", "GET https://a.test/19", base, base, 0, 2},
		{"by host alone", host, status(200), "GET https://a.test/20", "POST http://a.test/21?q", []string{fresh()}, nil, 0, 1},
		{"by host, another one", host, status(200), "GET https://a.test/20", "GET https://b.test/20", []string{fresh()}, nil, 0, 2},
		{"by host, another credential", host, status(200), "GET https://a.test/20", "GET https://a.test/20", []string{fresh()}, []string{fresh()}, 0, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			say(tt.answer)
			before := s.asked.Load()
			x := policytest.Exchange(t, tt.line1, tt.first...)
			_, err1 := tt.p.Request(x)
			if tt.second == nil {
				tt.second = tt.first
			}
			y := policytest.Exchange(t, tt.line2, tt.second...)
			y.Start = x.Start.Add(tt.later)
			_, err2 := tt.p.Request(y)
			if got := s.asked.Load() - before; got != tt.asks || kind(err1) != kind(err2) {
				t.Errorf("asked %d times (%v, %v), want %d", got, err1, err2, tt.asks)
			}
		})
	}
}

// TestAtOnce: equal questions at a time are one.
func TestAtOnce(t *testing.T) {
	release := make(chan struct{})
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.Header().Set("X-User", "alice")
	})
	p := newPolicy(t, s.URL, "cache = \"10s\"\ncopy = [\"X-User\"]\ntimeout = \"20s\"")
	var wg sync.WaitGroup
	var entered, wrong atomic.Int64
	for range 64 {
		x := policytest.Exchange(t, "GET https://a.test/", "Authorization: a")
		wg.Go(func() {
			entered.Add(1)
			if _, err := p.Request(x); err != nil || strings.Join(policytest.Sent(&x.Request, &x.RequestEdits), "") != "X-User: alice" {
				wrong.Add(1)
			}
		})
	}
	for entered.Load() < 64 || s.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if s.asked.Load() != 1 || wrong.Load() != 0 {
		t.Errorf("asked %d times, %d wrong", s.asked.Load(), wrong.Load())
	}
}

// TestAtOnceForOne: what is made for one client reaches no other one, however
// equal their questions are.
func TestAtOnceForOne(t *testing.T) {
	release := make(chan struct{})
	var n atomic.Int64
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.Header().Set("Set-Cookie", fmt.Sprintf("state=%d", n.Add(1)))
		w.Header().Set("Location", "https://login.test/")
		w.WriteHeader(302)
	})
	p := newPolicy(t, s.URL, "cache = \"10s\"\nkey = [\"host\"]\ntimeout = \"20s\"")
	var wg sync.WaitGroup
	var entered atomic.Int64
	var mu sync.Mutex
	cookies := map[string]bool{}
	for range 16 {
		x := policytest.Exchange(t, "GET https://a.test/")
		wg.Go(func() {
			entered.Add(1)
			_, _ = p.Request(x) // seen below
			mu.Lock()
			defer mu.Unlock()
			cookies[strings.Join(policytest.Sent(&x.Response, &x.ResponseEdits), ", ")] = true
		})
	}
	for entered.Load() < 16 || s.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if len(cookies) != 16 || s.asked.Load() != 16 {
		t.Errorf("asked %d times for %d answers: %v", s.asked.Load(), len(cookies), cookies)
	}
}

func TestErrors(t *testing.T) {
	for block, want := range map[string]string{
		`auth "forward" { url = "ftp://a.test/" }`:                                        `url: "ftp://a.test/" isn't an https URL`,
		`auth "forward" { url = "http://u:p@a.test/" }`:                                   `url: "http://u:xxxxx@a.test/" has more than host, path and query`,
		"auth \"forward\" {\nurl = \"http://a.test\"\nheaders = [\"Host\"]\n}":            `headers: "Host" is about the request itself`,
		"auth \"forward\" {\nurl = \"http://a.test\"\nheaders = [\"X-Forwarded-For\"]\n}": `headers: "X-Forwarded-For" is the gateway's own to set`,
		"auth \"forward\" {\nurl = \"http://a.test\"\ncopy = [\"X_User\"]\n}":             `copy: "X_User" never arrives`,
		"auth \"forward\" {\nurl = \"http://a.test\"\ncopy = [\"Cookie\"]\n}":             `copy: "Cookie" has more in it`,
		"auth \"forward\" {\nurl = \"http://a.test\"\ncopy = [\"Transfer-Encoding\"]\n}":  `copy: "Transfer-Encoding" is about the request itself`,
		"auth \"forward\" {\nurl = \"http://a.test\"\nconsumer = \"a b\"\n}":              `consumer: "a b" isn't the name of a header field`,
		"auth \"forward\" {\nurl = \"https://a.test\"\nca_file = \"forward_test.go\"\n}":  `ca_file: has no certificate in PEM`,
		"auth \"forward\" {\nurl = \"https://a.test\"\nca_file = \"/nowhere/ca.pem\"\n}":  `ca_file: open /nowhere/ca.pem`,
	} {
		if _, err := policytest.Try(t, Kind(Deps{}), block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
}

// TestNoAllocations: an answer that is remembered costs none.
func TestNoAllocations(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-User", "alice")
		w.Header().Set("X-Consumer", "acme")
	})
	p := newPolicy(t, s.URL, "cache = \"1h\"\ncopy = [\"X-User\"]\nconsumer = \"X-Consumer\"")
	x := policytest.Exchange(t, "GET https://a.test/", "Authorization: a", "X-User: root")
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
	s := newService(t, func(http.ResponseWriter, *http.Request) {})
	p := newPolicy(t, s.URL+"?key=secret", "")
	if got := p.(policy.Explainer).Explain(); got != "whom "+s.URL+" admits" {
		t.Errorf("Explain = %q", got)
	}
	if got := p.(policy.Tester).Test(policytest.Exchange(t, "GET https://a.test/")); got != "asks "+s.URL || s.asked.Load() != 0 {
		t.Errorf("Test = %q, asked %d times", got, s.asked.Load())
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(Deps{})) }

func BenchmarkRemembered(b *testing.B) {
	s := newService(b, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-User", "alice") })
	p := newPolicy(b, s.URL, "cache = \"1h\"\ncopy = [\"X-User\"]")
	x := policytest.Exchange(b, "GET https://a.test/orders/7?x=1", "Authorization: Bearer "+strings.Repeat("x", 64), "Cookie: session="+strings.Repeat("y", 200))
	b.ReportAllocs()
	for b.Loop() {
		x.RequestEdits.Reset()
		if _, err := p.Request(x); err != nil {
			b.Fatal(err)
		}
	}
}
