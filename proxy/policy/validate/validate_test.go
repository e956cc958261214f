package validate

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/openapi"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// orders is the document of the examples.
func orders(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("../../../packaging/examples/orders.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(b))
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "orders.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestREADME(t *testing.T) {
	readme, err := filepath.Abs("README.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(orders(t)))
	policytest.README(t, readme, Kind(nil, nil))
}

// bench is a policy with what it says.
type bench struct {
	policy.Requester
	log   bytes.Buffer
	store *Store
}

// newBench makes the policy of a block for the document at path; more are its
// other arguments.
func newBench(t testing.TB, path, more string) *bench {
	t.Helper()
	b := &bench{}
	log := logrus.New()
	log.SetOutput(&b.log)
	b.store = NewStore(log)
	b.Requester = policytest.Policy(t, Kind(nil, b.store), "validate {\nopenapi = \""+path+"\"\n"+more+"\n}").(policy.Requester)
	return b
}

// body is one that comes in pieces of an unknown number.
type body struct {
	io.Reader
	read int
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p[:min(len(p), 3)])
	b.read += n
	return n, err
}
func (b *body) Next() ([]byte, bool) { return nil, false }
func (b *body) Close() error         { return nil }

// post makes an exchange with a body.
func post(t testing.TB, line, text string, length int64, fields ...string) (*exchange.Exchange, *body) {
	t.Helper()
	x := policytest.Exchange(t, line, fields...)
	b := &body{Reader: strings.NewReader(text)}
	x.RequestBody, x.RequestLength = b, length
	return x, b
}

// outcome is what became of a request: "" when it passes, else kind and reason.
func outcome(t testing.TB, p policy.Requester, x *exchange.Exchange) string {
	t.Helper()
	verdict, err := p.Request(x)
	if err == nil {
		if verdict != policy.Next {
			t.Error("it answers")
		}
		return ""
	}
	var f *exchange.Fault
	if !errors.As(err, &f) || verdict != policy.Done {
		t.Fatalf("Request = %v, %v", verdict, err)
	}
	if (f.Kind == exchange.Invalid) != (len(f.Findings) > 0) {
		t.Errorf("%v has findings %v", f, f.Findings)
	}
	return f.Error()
}

const json = "Content-Type: application/json"

const right = `{"customer":"c","items":[{"sku":"AB-1234","count":2}]}`

func TestRequests(t *testing.T) {
	b := newBench(t, orders(t), "strict = true\nbody = \"200B\"")
	for _, tt := range []struct {
		name, line, text string
		fields           []string
		want             string
	}{
		{"right", "POST http://x/", right, []string{json}, ""},
		{"GET", "GET http://x/?limit=5&status=open&status=paid", "", nil, ""},
		{"no path", "GET http://x/nothing/here/at/all", "", nil, "not-in-api: validate: the document has no such path"},
		{"no method", "DELETE http://x/", "", nil, "method-not-allowed: validate: the document has no such method of /"},
		{"preflight", "OPTIONS http://x/", "", []string{"Origin: http://y", "Access-Control-Request-Method: POST"}, ""},
		{"preflight of nothing", "OPTIONS http://x/nope", "", []string{"Origin: http://y", "Access-Control-Request-Method: POST"}, "not-in-api: validate: the document has no such path"},
		{"preflight with a body", "OPTIONS http://x/", "x", []string{"Origin: http://y", "Access-Control-Request-Method: POST"}, "method-not-allowed: validate: the document has no such method of /"},
		{"OPTIONS", "OPTIONS http://x/", "", nil, "method-not-allowed: validate: the document has no such method of /"},
		{"parameter", "GET http://x/?limit=500", "", nil, "invalid-request: validate: query.limit has to be at most 100"},
		{"unknown parameter", "GET http://x/?limits=5", "", nil, "invalid-request: validate: query.limits isn't a parameter here"},
		{"path", "GET http://x/7/items", "", nil, "invalid-request: validate: path.id isn't of the format uuid"},
		{"body", "POST http://x/", `{"items":[{"sku":"x","count":0,"secret":1}]}`, []string{json}, "invalid-request: validate: body/items/0/sku doesn't match the pattern ^[A-Z]{2}-[0-9]{4}$; body/items/0/count has to be at least 1; body/items/0/secret isn't allowed here; body/customer is required"},
		{"if", "POST http://x/", `{"customer":null,"items":[{"sku":"AB-1234","count":2,"gift":true}]}`, []string{json}, "invalid-request: validate: body/items/0/count has to be at most 1"},
		{"no JSON", "POST http://x/", `{"customer":`, []string{json}, "invalid-request: validate: body isn't JSON: it ends too early, at byte 12"},
		{"no body", "POST http://x/", "", []string{json}, "invalid-request: validate: body is required"},
		{"too large", "POST http://x/", `{"customer":"` + strings.Repeat("c", 200) + `"}`, []string{json}, "body-too-large: validate: a body of more than 200 bytes, which can't be checked"},
		{"type", "POST http://x/", right, []string{"Content-Type: text/plain"}, "unsupported-media-type: validate: the operation takes no body of such a media type"},
		{"no type", "POST http://x/", right, nil, "unsupported-media-type: validate: the operation takes no body of such a media type"},
		{"compressed", "POST http://x/", right, []string{json, "Content-Encoding: gzip"}, "unsupported-media-type: validate: the body is compressed, and can't be checked"},
		{"superfluous", "GET http://x/", right, []string{json}, "invalid-request: validate: body isn't allowed here"},
	} {
		for _, length := range []int64{int64(len(tt.text)), -1} {
			if tt.name == "preflight" && length < 0 {
				continue // no browser sends one so
			}
			x, _ := post(t, tt.line, tt.text, length, tt.fields...)
			if got := outcome(t, b, x); got != tt.want {
				t.Errorf("%s, length %d: %q, want %q", tt.name, length, got, tt.want)
			}
			if tt.want != "" {
				continue
			}
			if got, err := io.ReadAll(x.RequestBody); err != nil || string(got) != tt.text {
				t.Errorf("%s, length %d: %q goes on, %v", tt.name, length, got, err)
			}
		}
	}
	if got := b.store.Counts(); len(got) != 1 || got[0].Refused != 34 || got[0].Reported != 0 {
		t.Errorf("Counts = %v", got)
	}
}

// TestFields: what a client is told beside the status.
func TestFields(t *testing.T) {
	b := newBench(t, orders(t), "")
	for _, tt := range []struct {
		line, contentType string
		want              []string
	}{
		{"DELETE http://x/", "", []string{"Allow: GET, HEAD, POST"}},
		{"POST http://x/", "text/plain", []string{"Accept: application/json"}},
		{"POST http://x/", "application/json\nContent-Encoding: gzip", []string{"Accept-Encoding: identity"}},
		{"GET http://x/?limit=x", "", nil},
	} {
		x, _ := post(t, tt.line, "x", 1, strings.Split("Content-Type: "+tt.contentType, "\n")...)
		if outcome(t, b, x) == "" {
			t.Errorf("%s passes", tt.line)
		}
		if diff := cmp.Diff(tt.want, policytest.Sent(&x.Response, &x.ResponseEdits)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.line, diff)
		}
	}
}

// TestEarly: what is refused anyway isn't read.
func TestEarly(t *testing.T) {
	b := newBench(t, orders(t), "body = \"64B\"")
	for _, tt := range []struct{ line, contentType string }{
		{"POST http://x/", "application/json"}, // too large by what it says
		{"POST http://x/", "text/plain"},
		{"GET http://x/7/items", "application/json"},
		{"POST http://x/nope", "application/json"},
	} {
		x, in := post(t, tt.line, strings.Repeat(" ", 100), 100, "Content-Type: "+tt.contentType)
		if outcome(t, b, x) == "" || in.read > 0 {
			t.Errorf("%s %s: %d bytes are read", tt.line, tt.contentType, in.read)
		}
	}
	x, in := post(t, "POST http://x/", strings.Repeat(" ", 1000), -1, json)
	if outcome(t, b, x) == "" || in.read > 65 {
		t.Errorf("of a body of no known length %d bytes are read", in.read)
	}
}

func TestBroken(t *testing.T) {
	b := newBench(t, orders(t), "")
	x := policytest.Exchange(t, "POST http://x/", json)
	x.RequestBody, x.RequestLength = &body{Reader: io.MultiReader(strings.NewReader("{"), broken{})}, 10
	if got := outcome(t, b, x); got != "client-closed-request: request body: unexpected EOF" {
		t.Errorf("a body that breaks off: %s", got)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestReport: nothing is refused, all passes as it came, and it is said.
func TestReport(t *testing.T) {
	b := newBench(t, orders(t), "mode = \"report\"\nbody = \"64B\"")
	for _, tt := range []struct{ line, text, contentType string }{
		{"POST http://x/?limit=x", `{"customer":1}`, "application/json"},
		{"POST http://x/", strings.Repeat(" ", 1000), "application/json"},
		{"POST http://x/", "x", "text/plain"},
		{"GET http://x/nope", "", ""},
		{"DELETE http://x/", "", ""},
	} {
		x, _ := post(t, tt.line, tt.text, -1, "Content-Type: "+tt.contentType)
		if got := outcome(t, b, x); got != "" {
			t.Errorf("%s is refused: %s", tt.line, got)
		}
		if got, err := io.ReadAll(x.RequestBody); err != nil || string(got) != tt.text {
			t.Errorf("%s: %d bytes go on, %v", tt.line, len(got), err)
		}
		if sent := policytest.Sent(&x.Response, &x.ResponseEdits); sent != nil {
			t.Errorf("%s: the client is told %v", tt.line, sent)
		}
	}
	if got := b.store.Counts()[0]; got.Refused != 0 || got.Reported != 5 {
		t.Errorf("Counts = %v", got)
	}
	log := b.log.String()
	if n := strings.Count(log, "\n"); n == 0 || n >= 5 || !strings.Contains(log, `error="validate: body/customer has to be null or string; body/items is required"`) || !strings.Contains(log, "path=/") || !strings.Contains(log, "route=test") {
		t.Errorf("log:\n%s", log)
	}
}

// answer lets the policy see a response of the service, reads it, and ends it.
func answer(t testing.TB, b *bench, line string, status int, text string, length int64, fields ...string) {
	t.Helper()
	x := policytest.Exchange(t, line)
	x.Tries = 1
	policytest.Answer(x, status, text, fields...)
	x.ResponseLength = length
	if err := b.Requester.(policy.Responder).Response(x); err != nil {
		t.Fatal(err)
	}
	if x.ResponseBody == nil {
		return
	}
	got, err := io.ReadAll(x.ResponseBody)
	if err != nil || string(got) != text {
		t.Errorf("%s: %q goes on, %v", line, got, err)
	}
	for range 2 {
		if err := x.ResponseBody.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestResponses(t *testing.T) {
	b := newBench(t, orders(t), "responses = \"report\"\nbody = \"100B\"")
	const order = `{"id":"f81d4fae-7dec-11d0-a765-00a0c91e6bf6","customer":null,"items":[{"sku":"AB-1234","count":1}]}`
	for _, tt := range []struct {
		name, line string
		status     int
		text       string
		fields     []string
		wrong      uint64
		unseen     uint64
	}{
		{"right", "GET http://x/", 200, "[" + order[:0] + "]", []string{json}, 0, 0},
		{"right, with what is readOnly", "POST http://x/", 201, order, []string{json}, 0, 0},
		{"wrong", "GET http://x/", 200, `[{}]`, []string{json}, 1, 0},
		{"no JSON", "GET http://x/", 200, `[`, []string{json}, 1, 0},
		{"status", "GET http://x/", 500, ``, nil, 1, 0},
		{"media type", "GET http://x/", 200, `x`, []string{"Content-Type: text/plain"}, 1, 0},
		{"no body", "GET http://x/", 200, ``, nil, 0, 0},
		{"HEAD", "HEAD http://x/", 200, ``, []string{json}, 0, 0},
		{"too large", "GET http://x/", 200, strings.Repeat(" ", 101), []string{json}, 0, 1},
		{"compressed", "GET http://x/", 200, `x`, []string{json, "Content-Encoding: gzip"}, 0, 1},
		{"unknown path", "GET http://x/nope", 200, `x`, []string{json}, 0, 0},
		{"unknown method", "PATCH http://x/", 200, `x`, []string{json}, 0, 0},
		{"upgrade", "GET http://x/", 101, ``, nil, 0, 0},
	} {
		for _, length := range []int64{int64(len(tt.text)), -1} {
			before := b.store.Counts()[0]
			answer(t, b, tt.line, tt.status, tt.text, length, tt.fields...)
			after := b.store.Counts()[0]
			if after.Wrong-before.Wrong != tt.wrong || after.Unseen-before.Unseen != tt.unseen {
				t.Errorf("%s, length %d: %d wrong, %d unseen, want %d, %d", tt.name, length, after.Wrong-before.Wrong, after.Unseen-before.Unseen, tt.wrong, tt.unseen)
			}
		}
	}
	if !strings.Contains(b.log.String(), "a response isn't as the document has it") || !strings.Contains(b.log.String(), "response/0/") {
		t.Errorf("log:\n%s", b.log.String())
	}
}

// TestBrokenResponse: of a response that the client didn't get in full nothing
// is said.
func TestBrokenResponse(t *testing.T) {
	b := newBench(t, orders(t), "responses = \"report\"")
	x := policytest.Exchange(t, "GET http://x/")
	x.Tries = 1
	policytest.Answer(x, 200, "[{}]", json)
	if err := b.Requester.(policy.Responder).Response(x); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ResponseBody.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	_ = x.ResponseBody.Close()
	if got := b.store.Counts()[0]; got.Wrong+got.Unseen != 0 {
		t.Errorf("Counts = %v", got)
	}
}

// TestOff: unless asked for, and for what the gateway answers itself, responses
// are left alone.
func TestOff(t *testing.T) {
	path := orders(t)
	if _, ok := newBench(t, path, "").Requester.(policy.Responder); ok {
		t.Error("responses are looked at")
	}
	b := newBench(t, path, "responses = \"report\"")
	x := policytest.Exchange(t, "GET http://x/")
	policytest.Answer(x, 500, "{}", json)
	own := x.ResponseBody
	if err := b.Requester.(policy.Responder).Response(x); err != nil || x.ResponseBody != own || b.store.Counts()[0].Wrong != 0 {
		t.Errorf("a response of the gateway's own is looked at: %v", err)
	}
}

func TestPaths(t *testing.T) {
	doc := "openapi: 3.1.0\nservers: [{url: 'https://x/v1'}, {url: /v1/beta}]\npaths: {/: {get: {}}, /a: {get: {}}}\n"
	for _, tt := range []struct {
		more, strip string
		good, bad   []string
	}{
		{"", "", []string{"/v1/a", "/v1/beta/a", "/v1", "/v1/"}, []string{"/a", "/v1a", "/v2/a", "/"}},
		{"", "/shop", []string{"/shop/v1/a", "/v1/a"}, []string{"/shop/a", "/shopv1/a"}},
		{`base_path = "/"`, "/shop", []string{"/a", "/"}, []string{"/v1/a", "/shop/a"}},
		{`base_path = "/x/"`, "", []string{"/x/a", "/x"}, []string{"/a", "/xa"}},
	} {
		b := newBench(t, write(t, doc), tt.more)
		b.Requester.(policy.Stripped).Strip(tt.strip)
		for _, path := range tt.good {
			if got := outcome(t, b, policytest.Exchange(t, "GET http://x"+path)); got != "" {
				t.Errorf("%s, strip %q: %s: %s", tt.more, tt.strip, path, got)
			}
		}
		for _, path := range tt.bad {
			if got := outcome(t, b, policytest.Exchange(t, "GET http://x"+path)); !strings.HasPrefix(got, "not-in-api") {
				t.Errorf("%s, strip %q: %s passes: %s", tt.more, tt.strip, path, got)
			}
		}
	}
}

func TestRefusedBlocks(t *testing.T) {
	xml := write(t, "openapi: 3.1.0\npaths: {/: {post: {requestBody: {content: {application/xml: {schema: {type: object}}}}}}}\n")
	servers := write(t, "openapi: 3.1.0\nservers: [{url: '/{v}'}]\npaths: {}\n")
	for _, tt := range []struct{ path, more, want string }{
		{xml, "", `openapi: orders.yaml:2:61: bodies of the type "application/xml" can't be checked against a schema: only JSON, forms and text can; with unchecked = ["application/xml"] they pass as they are`},
		{xml, `unchecked = ["application/xml", "text/xml"]`, `unchecked: the document has no bodies of the type "text/xml" that couldn't be checked`},
		{servers, "", `openapi: orders.yaml:2:17: the server's url "/{v}" isn't one that a path can be taken from: set base_path`},
		{servers, `base_path = "v1"`, `base_path: "v1" isn't the beginning of a path, such as /api/v1`},
		{filepath.Join(t.TempDir(), "none.yaml"), "", `openapi: none.yaml can't be read: no such file or directory`},
	} {
		_, err := policytest.Try(t, Kind(nil, nil), "validate {\nopenapi = \""+tt.path+"\"\n"+tt.more+"\n}")
		if err == nil || err.Error() != tt.want {
			t.Errorf("%v\nwant %s", err, tt.want)
		}
	}
	for _, ok := range [][2]string{{xml, `unchecked = ["application/xml"]`}, {servers, `base_path = "/v1"`}} {
		newBench(t, ok[0], ok[1])
	}
	b := newBench(t, xml, `unchecked = ["application/xml"]`)
	x, in := post(t, "POST http://x/", "<a/>", 4, "Content-Type: application/xml")
	if got := outcome(t, b, x); got != "" || in.read > 0 {
		t.Errorf("a body that passes unchecked: %q, %d bytes read", got, in.read)
	}
}

func TestExplain(t *testing.T) {
	path := orders(t)
	b := newBench(t, path, "mode = \"report\"\nresponses = \"report\"")
	b.Requester.(policy.Stripped).Strip("/orders")
	if got, want := b.Requester.(policy.Explainer).Explain(), "3 operations of orders.yaml below /orders/, reported only; responses reported"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	for line, want := range map[string]string{
		"GET http://x/orders":         "admits it as GET /, if its body fits",
		"GET http://x/orders?limit=0": "reports: invalid-request: validate: query.limit has to be at least 1",
		"GET http://x/orders/none":    "reports: not-in-api: validate: the document has no such path",
	} {
		if got := b.Requester.(policy.Tester).Test(policytest.Exchange(t, line)); got != want {
			t.Errorf("Test(%s) = %q, want %q", line, got, want)
		}
	}
	p := newBench(t, path, "")
	if got, want := p.Requester.(policy.Tester).Test(policytest.Exchange(t, "PUT http://x/")), "refuses: method-not-allowed: validate: the document has no such method of /"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	if got, want := p.Requester.(policy.Tester).Test(policytest.Exchange(t, "OPTIONS http://x/", "Origin: http://y", "Access-Control-Request-Method: GET")), "admits the preflight"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
}

func TestRetain(t *testing.T) {
	s := NewStore(logrus.New())
	a, b := s.of("a"), s.of("b")
	a.refused.Add(1)
	b.refused.Add(2)
	s.Retain(map[string]bool{"b": true})
	if got := s.Counts(); len(got) != 1 || got[0].Route != "b" || got[0].Refused != 2 || s.of("b") != b {
		t.Errorf("Counts = %v", got)
	}
}

// TestShared: routes with the same document share it.
func TestShared(t *testing.T) {
	path, files := orders(t), &openapi.Files{}
	one, err := New(Config{OpenAPI: path, Mode: "block"}, files)
	if err != nil {
		t.Fatal(err)
	}
	two, err := New(Config{OpenAPI: path, Mode: "report"}, files)
	if err != nil {
		t.Fatal(err)
	}
	if one.api != two.api {
		t.Error("the document is read twice")
	}
}

// FuzzBody: whatever comes, the request passes as it came or is refused, and
// nothing panics.
func FuzzBody(f *testing.F) {
	b := newBench(f, orders(f), "body = \"4KiB\"")
	f.Add(right, "application/json", "limit=1&status=open", false)
	f.Add(`{"customer":"\ud800"}`, "application/json; charset=utf-8", "%zz&&=", true)
	f.Add("", "", "", true)
	f.Add("--B\r\n", "multipart/form-data; boundary=B", "a[b]=c", true)
	f.Fuzz(func(t *testing.T, text, contentType, query string, known bool) {
		if strings.ContainsFunc(query, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) {
			return
		}
		length := int64(-1)
		if known {
			length = int64(len(text))
		}
		x, _ := post(t, "POST http://x/?"+query, text, length, "Content-Type: "+contentType)
		if outcome(t, b, x) != "" {
			return
		}
		if got, err := io.ReadAll(x.RequestBody); err != nil || string(got) != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	})
}

// again is a body that can be sent as often as one likes.
type again struct {
	text string
	at   int
}

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.text[a.at:])
	if a.at += n; a.at == len(a.text) {
		return n, io.EOF
	}
	return n, nil
}
func (a *again) Next() ([]byte, bool) { return nil, false }
func (a *again) Close() error         { return nil }

func BenchmarkRequest(b *testing.B) {
	p := newBench(b, orders(b), "")
	large := `{"customer":"c","items":[` + strings.Repeat(`{"sku":"AB-1234","count":2},`, 99) + `{"sku":"AB-1234","count":2}]}`
	for _, tt := range []struct{ name, line, text string }{
		{"query", "GET http://x/?limit=5&status=open&status=paid", ""},
		{"path", "GET http://x/f81d4fae-7dec-11d0-a765-00a0c91e6bf6/items", ""},
		{"small body", "POST http://x/", right},
		{"3 KB body", "POST http://x/", large},
	} {
		b.Run(tt.name, func(b *testing.B) {
			x := policytest.Exchange(b, tt.line, json)
			in := &again{text: tt.text}
			b.ReportAllocs()
			b.SetBytes(int64(len(tt.text)))
			for b.Loop() {
				in.at = 0
				if tt.text != "" {
					x.RequestBody, x.RequestLength = in, int64(len(tt.text))
				}
				if _, err := p.Request(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
