package proxy

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/linelog"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// recorder is a front that keeps what it is told to answer.
type recorder struct {
	status  int
	headers map[string]string
	body    string
	calls   int
}

func (r *recorder) Respond(x *exchange.Exchange) error {
	r.calls++
	r.status, r.headers = x.Status, map[string]string{}
	for i := range x.Response.Len() {
		name, value := x.Response.Field(i)
		if !x.ResponseEdits.Replaces(name, x.Response.ID(i)) {
			r.headers[strings.ToLower(strings.Clone(name))] = strings.Clone(value)
		}
	}
	for i := range x.ResponseEdits.Len() {
		if name, value, ok := x.ResponseEdits.Field(i); ok {
			r.headers[strings.ToLower(name)] = strings.Clone(value)
		}
	}
	if x.ResponseBody != nil {
		b, err := io.ReadAll(x.ResponseBody)
		if err != nil {
			return err
		}
		r.body = string(b)
	}
	return nil
}

func (*recorder) Interim(*exchange.Exchange, int, *exchange.Head) error { return nil }
func (*recorder) Gone(*exchange.Exchange) bool                          { return false }

// scripted is a policy made of functions.
type scripted struct {
	request  func(*exchange.Exchange) (policy.Verdict, error)
	response func(*exchange.Exchange)
	finished *int
}

func (s scripted) Request(x *exchange.Exchange) (policy.Verdict, error) { return s.request(x) }
func (s scripted) Finish(*exchange.Exchange)                            { *s.finished++ }
func (s scripted) Response(x *exchange.Exchange) error {
	if s.response != nil {
		s.response(x)
	}
	return nil
}

type answerer func(*exchange.Exchange)

func (a answerer) Request(x *exchange.Exchange) (policy.Verdict, error) {
	a(x)
	return policy.Done, nil
}

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

type request struct {
	listener, scheme, peer, method, target, host string
	headers                                      [][2]string
	fault                                        *exchange.Fault
}

// serve runs one request through a handler with the given routes.
func serve(t *testing.T, q request, trust Trust, routes ...*Route) (*recorder, *exchange.Exchange, *Handler) {
	t.Helper()
	h := NewHandler(Deps{Log: quiet(), Stats: NewStats(), Challenge: func(host, path string) (string, bool) {
		return "proof", host == "a.test" && path == challengePrefix+"token"
	}})
	var rules []route.Rule
	for _, r := range routes {
		rules = append(rules, route.Rule{Name: r.Name, Hosts: []string{"a.test"}, Methods: []string{"GET"}})
		r.Stats = h.Stats.Route(r.Name, "")
		if r.Chain == nil {
			r.Chain = policy.Compile(nil)
		}
	}
	m, err := route.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	h.SetTable(&Table{Matcher: m, Routes: routes, Trust: trust, HTTPS: map[string]string{"http": "8443"}})
	r := &recorder{}
	x := &exchange.Exchange{}
	peer := netip.MustParseAddr(q.peer)
	x.Reset(exchange.HTTP11, &exchange.Conn{Listener: q.listener, Scheme: q.scheme, Remote: netip.AddrPortFrom(peer, 1), RemoteIP: q.peer}, r)
	x.Start, x.Method, x.RawTarget, x.RawHost, x.Fault = time.Now(), q.method, q.target, q.host, q.fault
	for _, f := range q.headers {
		x.Request.Append(f[0], f[1])
	}
	h.Serve(x)
	return r, x, h
}

func usual() request {
	return request{listener: "https", scheme: "https", peer: "192.0.2.1", method: "GET", target: "/x", host: "a.test"}
}

func respondOK() *Route {
	return &Route{Name: "r", Answer: answerer(func(x *exchange.Exchange) { x.Reply(200, "text/plain", []byte("ok")) })}
}

func TestServe(t *testing.T) {
	tests := []struct {
		name   string
		change func(*request)
		status int
		kind   exchange.Kind
		header [2]string
	}{
		{"answered", func(*request) {}, 200, "", [2]string{"content-type", "text/plain"}},
		{"no route", func(q *request) { q.host = "b.test" }, 404, exchange.NoRoute, [2]string{"content-type", "application/problem+json"}},
		{"wrong method", func(q *request) { q.method = "POST" }, 405, exchange.MethodNotAllowed, [2]string{"allow", "GET, HEAD"}},
		{"bad path", func(q *request) { q.target = "/a%2fb" }, 400, exchange.BadPath, [2]string{"cache-control", "no-store"}},
		{"bad host", func(q *request) { q.host = "a b" }, 400, exchange.BadHost, [2]string{}},
		{"refused by its front", func(q *request) {
			q.fault = exchange.NewFault(exchange.FromClient, exchange.HeadersTooLarge, "too many")
		}, 431, exchange.HeadersTooLarge, [2]string{}},
		{"host with a trailing dot and capitals", func(q *request) { q.host = "A.TEST." }, 200, "", [2]string{}},
		{"redirect to https", func(q *request) { q.listener, q.scheme, q.target = "http", "http", "/x?y=1" }, 308, "", [2]string{"location", "https://a.test:8443/x?y=1"}},
		{"challenge before the redirect", func(q *request) {
			q.listener, q.scheme, q.target = "http", "http", challengePrefix+"token"
		}, 200, "", [2]string{"content-type", "text/plain"}},
		{"unknown challenge", func(q *request) {
			q.listener, q.scheme, q.target = "http", "http", challengePrefix+"other"
		}, 308, "", [2]string{}},
		{"gRPC", func(q *request) {
			q.host, q.headers = "b.test", [][2]string{{"Content-Type", "application/grpc+proto"}}
		}, 200, exchange.NoRoute, [2]string{"grpc-status", "12"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := usual()
			tt.change(&q)
			r, x, h := serve(t, q, nil, respondOK())
			if r.status != tt.status || r.calls != 1 {
				t.Errorf("status = %d (%d answers), want %d", r.status, r.calls, tt.status)
			}
			var kind exchange.Kind
			if x.Err != nil {
				kind = x.Err.Kind
			}
			if kind != tt.kind {
				t.Errorf("fault = %q, want %q", kind, tt.kind)
			}
			if tt.header[0] != "" && r.headers[tt.header[0]] != tt.header[1] {
				t.Errorf("%s = %q, want %q", tt.header[0], r.headers[tt.header[0]], tt.header[1])
			}
			var total uint64
			for _, s := range h.Stats.Totals() {
				total += s.Requests
			}
			if total != 1 {
				t.Errorf("counted %d requests, want 1", total)
			}
		})
	}
}

func TestProblem(t *testing.T) {
	q := usual()
	q.host = "b.test"
	r, x, _ := serve(t, q, nil, respondOK())
	var p struct {
		Type, Title string
		Status      int
		RequestID   string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("body %q: %v", r.body, err)
	}
	if p.Type != "urn:sidegate:problem:no-route" || p.Status != 404 || p.Title == "" {
		t.Errorf("problem = %+v", p)
	}
	if len(p.RequestID) != 32 || p.RequestID != x.RequestID || r.headers["x-request-id"] != p.RequestID {
		t.Errorf("request id %q, header %q, exchange %q", p.RequestID, r.headers["x-request-id"], x.RequestID)
	}
	if strings.Contains(r.body, "b.test") {
		t.Errorf("the answer says more than it should: %s", r.body)
	}
}

func TestPolicies(t *testing.T) {
	var finished int
	mark := func(x *exchange.Exchange) { x.ResponseEdits.Set("X-Mark", "yes") }
	next := func(*exchange.Exchange) (policy.Verdict, error) { return policy.Next, nil }
	tests := []struct {
		name   string
		second func(*exchange.Exchange) (policy.Verdict, error)
		status int
	}{
		{"pass", next, 200},
		{"refuse", func(*exchange.Exchange) (policy.Verdict, error) {
			return policy.Next, exchange.NewFault(exchange.FromPolicy, exchange.Overloaded, "busy")
		}, 503},
		{"answer", func(x *exchange.Exchange) (policy.Verdict, error) {
			x.Reply(204, "", nil)
			return policy.Done, nil
		}, 204},
		{"panic", func(*exchange.Exchange) (policy.Verdict, error) { panic("boom") }, 500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			finished = 0
			r := respondOK()
			r.Chain = policy.Compile([]policy.Named{
				{Name: "first", Policy: scripted{request: next, response: mark, finished: &finished}},
				{Name: "second", Policy: scripted{request: tt.second, finished: &finished}},
			})
			got, _, _ := serve(t, usual(), nil, r)
			if got.status != tt.status {
				t.Errorf("status = %d, want %d", got.status, tt.status)
			}
			if finished != 2 {
				t.Errorf("%d policies were finished, want 2", finished)
			}
			if tt.name != "panic" && got.headers["x-mark"] != "yes" {
				t.Errorf("the first policy didn't see the response")
			}
		})
	}
}

func TestForwarded(t *testing.T) {
	spoofed := [][2]string{
		{"X-Forwarded-For", "6.6.6.6"}, {"X-Forwarded-Proto", "gopher"}, {"X-Forwarded-Host", "evil.test"}, {"X-Forwarded-Port", "1"},
		{"X-Forwarded-Prefix", "/evil"}, {"X-Forwarded-Client-Cert", "evil"}, {"X-Real-IP", "6.6.6.6"}, {"Forwarded", "for=6.6.6.6"}, {"X-Request-Id", "evil"},
	}
	chain := [][2]string{{"X-Forwarded-For", "6.6.6.6, 203.0.113.9"}, {"X-Forwarded-For", "10.0.0.5"}, {"X-Forwarded-Proto", "https"}, {"X-Request-Id", "given-1"}}
	trust := Trust{netip.MustParsePrefix("10.0.0.0/8")}
	tests := []struct {
		name, peer string
		headers    [][2]string
		client     string
		want       map[string]string // "": absent
	}{
		{"untrusted", "192.0.2.1", spoofed, "192.0.2.1", map[string]string{
			"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https", "x-forwarded-host": "a.test", "x-forwarded-port": "", "x-forwarded-prefix": "",
			"x-forwarded-client-cert": "", "x-real-ip": "", "forwarded": "for=192.0.2.1;host=a.test;proto=https", "via": "1.1 sidegate",
		}},
		{"untrusted IPv6", "2001:db8::1", nil, "2001:db8::1", map[string]string{
			"x-forwarded-for": "2001:db8::1", "forwarded": `for="[2001:db8::1]";host=a.test;proto=https`,
		}},
		{"trusted", "10.1.2.3", chain, "203.0.113.9", map[string]string{
			"x-forwarded-for": "6.6.6.6, 203.0.113.9, 10.0.0.5, 10.1.2.3", "x-forwarded-proto": "https", "x-request-id": "given-1",
		}},
		{"trusted, rubbish in the chain", "10.1.2.3", [][2]string{{"X-Forwarded-For", "6.6.6.6, unknown, 10.0.0.5"}}, "10.0.0.5", nil},
		{"trusted, nothing said", "10.1.2.3", nil, "10.1.2.3", map[string]string{"x-forwarded-for": "10.1.2.3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := usual()
			q.peer, q.headers = tt.peer, tt.headers
			r := respondOK()
			out := map[string]string{}
			r.Answer = answerer(func(x *exchange.Exchange) {
				for i := range x.Request.Len() {
					name, value := x.Request.Field(i)
					if !x.Request.Dropped(i) && !x.RequestEdits.Replaces(name, x.Request.ID(i)) {
						out[strings.ToLower(name)] = strings.Clone(value)
					}
				}
				for i := range x.RequestEdits.Len() {
					if name, value, ok := x.RequestEdits.Field(i); ok {
						out[strings.ToLower(name)] = strings.Clone(value)
					}
				}
				x.Reply(200, "", nil)
			})
			_, x, _ := serve(t, q, trust, r)
			if x.ClientIP.String() != tt.client {
				t.Errorf("ClientIP = %v, want %v", x.ClientIP, tt.client)
			}
			for name, want := range tt.want {
				if out[name] != want {
					t.Errorf("%s = %q, want %q", name, out[name], want)
				}
			}
			if out["x-request-id"] == "evil" || out["x-request-id"] == "" {
				t.Errorf("x-request-id = %q", out["x-request-id"])
			}
		})
	}
}

func TestRewrite(t *testing.T) {
	for _, tt := range []struct{ strip, path, want string }{
		{"", "/orders/1", ""},
		{"/orders", "/orders/1", "/1"},
		{"/orders", "/orders", "/"},
		{"/orders", "/orders/", "/"},
		{"/orders", "/ordersx", ""},
	} {
		x := &exchange.Exchange{Target: exchange.Target{Path: tt.path}}
		(&Route{Strip: tt.strip}).rewrite(x)
		if x.Out.Path != tt.want {
			t.Errorf("strip %q of %q = %q, want %q", tt.strip, tt.path, x.Out.Path, tt.want)
		}
	}
}

func TestShare(t *testing.T) {
	r := &Route{Shares: []Share{{Service: "a", Upto: 90}, {Service: "b", Upto: 100}}}
	n := map[string]int{}
	for range 20000 {
		n[r.share().Service]++
	}
	if n["b"] < 1600 || n["b"] > 2400 {
		t.Errorf("10 %% of 20000 = %d", n["b"])
	}
}

// scribbler is a lease whose buffer goes to somebody else at the release.
type scribbler struct{ buf []byte }

func (s scribbler) Release(x *exchange.Exchange, _ error) {
	x.Lease = nil
	for i := range s.buf {
		s.buf[i] = '!'
	}
}

type finisher func(*exchange.Exchange)

func (f finisher) Finish(x *exchange.Exchange) { f(x) }

// TestFinishSeesNoForeignBytes: after the lease's release, the response's head
// would be a view into another exchange's bytes.
func TestFinishSeesNoForeignBytes(t *testing.T) {
	r := &Route{Name: "r", Answer: answerer(func(x *exchange.Exchange) {
		buf := []byte("x-cost7")
		x.Reply(200, "", nil)
		x.Response.Reset(buf)
		x.Response.Mark(0, 6, 6, 7)
		x.Lease = scribbler{buf}
	})}
	var cost string
	r.Chain = policy.Compile([]policy.Named{{Name: "f", Policy: finisher(func(x *exchange.Exchange) {
		for i := range x.Response.Len() {
			name, value := x.Response.Field(i)
			cost += name + value
		}
	})}})
	got, _, _ := serve(t, usual(), nil, r)
	if got.headers["x-cost"] != "7" {
		t.Errorf("the client got %v", got.headers)
	}
	if strings.Contains(cost, "!") {
		t.Errorf("Finish read %q", cost)
	}
}

// TestAccessLogReopen: after rotation lines go to the new file.
func TestAccessLogReopen(t *testing.T) {
	_, x, _ := serve(t, usual(), nil, respondOK())
	path := filepath.Join(t.TempDir(), "access.log")
	l := NewAccessLog(AccessLogConfig{Sample: 1}, Credentials{}, linelog.New("access_log", path, quiet()))
	out, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(done, out)
	}()
	lines := func(file string, want int) {
		t.Helper()
		have := -1
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && have != want; time.Sleep(5 * time.Millisecond) {
			b, _ := os.ReadFile(file) // it may not be there yet
			have = strings.Count(string(b), "\n")
		}
		if have != want {
			t.Fatalf("%s has %d lines, want %d", file, have, want)
		}
	}
	l.Log(x, time.Now())
	lines(path, 1)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	lines(path, 0)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the file wasn't opened again")
		}
	}
	l.Log(x, time.Now())
	lines(path, 1)
	lines(path+".1", 1)
	close(done)
	<-ended
}

type failing struct{}

func (failing) Response(*exchange.Exchange) error { return errors.New("no") }

type encoding struct{ statuses *[]int }

func (e encoding) Encode(x *exchange.Exchange) { *e.statuses = append(*e.statuses, x.Status) }

// TestEncodeLast: what is encoded is what goes out, a refusal on the way back
// included.
func TestEncodeLast(t *testing.T) {
	var statuses []int
	r := respondOK()
	r.Chain = policy.Compile([]policy.Named{{Name: "a", Policy: failing{}}, {Name: "b", Policy: encoding{&statuses}}})
	if got, _, _ := serve(t, usual(), nil, r); got.status != 500 || !slices.Equal(statuses, []int{500}) {
		t.Errorf("status %d; encoded: %v", got.status, statuses)
	}
}
