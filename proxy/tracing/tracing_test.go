package tracing

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

func quiet() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// collector takes traces as OpenTelemetry's own types have them.
type collector struct {
	*httptest.Server
	mu      sync.Mutex // guards the rest
	answers []func(http.ResponseWriter)
	taken   []*tracepb.ResourceSpans
	calls   int
	header  http.Header
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls++
		if len(c.answers) > 0 {
			answer := c.answers[0]
			c.answers = c.answers[1:]
			if answer != nil {
				answer(w)
				return
			}
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Error(err)
		}
		var data tracepb.TracesData // on the wire the same as ExportTraceServiceRequest
		if err := proto.Unmarshal(b, &data); err != nil {
			t.Errorf("%x: %v", b, err)
		}
		if r.URL.Path != "/v1/traces" || r.Method != "POST" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		c.taken, c.header = append(c.taken, data.ResourceSpans...), r.Header
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) spans() (list []*tracepb.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.taken {
		for _, s := range r.ScopeSpans {
			list = append(list, s.Spans...)
		}
	}
	return list
}

func (c *collector) will(answers ...func(http.ResponseWriter)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, answers...)
}

func status(code int, retryAfter string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
	}
}

func transport(string) *http.Transport { return &http.Transport{} }

// newExporter runs one until the test's end, or until stop.
func newExporter(t *testing.T, c Config) (e *Exporter, stop func()) {
	e = NewExporter(Deps{Log: quiet(), Version: "1.2.3", Transport: transport})
	e.Configure(&c, "")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); e.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return e, stop
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// incoming is a request with these fields.
func incoming(fields ...string) *exchange.Exchange {
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP2, &exchange.Conn{Scheme: "https", RemoteIP: "10.0.0.1"}, nil)
	x.Start, x.Method, x.RawTarget, x.RawHost = time.Unix(1_700_000_000, 5), "GET", "/o/7?token=s3cret", "api.example.com:8443"
	for i := 0; i < len(fields); i += 2 {
		x.Request.Append(fields[i], fields[i+1])
	}
	if f := x.Canonicalise(); f != nil {
		panic(f)
	}
	x.ClientIP = netip.MustParseAddr("2001:db8::1")
	return x
}

// edited is what goes out of a field; "": none, or as it came.
func edited(x *exchange.Exchange, id exchange.ID) (value string) {
	for i := range x.RequestEdits.Len() {
		if _, v, ok := x.RequestEdits.Field(i); ok && x.RequestEdits.ID(i) == id {
			value = v
		}
	}
	return value
}

// TestBegin: who decides what is sampled, and what goes on.
func TestBegin(t *testing.T) {
	from := func(flags string) string { return "00-" + traceID + "-" + parentID + "-" + flags }
	for _, tt := range []struct {
		name    string
		sample  float64
		trusted bool
		fields  []string
		sampled bool
		same    bool // the trace is the client's
		state   bool // and so goes its tracestate
	}{
		{"none, all", 1, false, nil, true, false, false},
		{"none, nothing", 0, false, nil, false, false, false},
		{"client asks", 0, false, []string{"traceparent", from("01"), "tracestate", "a=1"}, false, true, true},
		{"client doesn't", 1, false, []string{"traceparent", from("00"), "tracestate", "a=1"}, true, true, true},
		{"proxy asks", 0, true, []string{"Traceparent", from("01")}, true, true, false},
		{"proxy doesn't", 1, true, []string{"traceparent", from("00")}, false, true, false},
		{"proxy without", 1, true, []string{"tracestate", "a=1"}, true, false, false},
		{"malformed", 0, true, []string{"traceparent", from("1"), "tracestate", "a=1"}, false, false, false},
		{"two", 0, true, []string{"traceparent", from("01"), "traceparent", from("01"), "tracestate", "a=1"}, false, false, false},
		{"bad state", 0, true, []string{"traceparent", from("01"), "tracestate", "A"}, true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := incoming(tt.fields...)
			NewExporter(Deps{Log: quiet()}).Tracer(Config{Sample: tt.sample}).Begin(x, tt.trusted)
			if got := x.Trace.Spans != nil; got != tt.sampled {
				t.Errorf("sampled %v", got)
			}
			out := edited(x, exchange.Traceparent)
			c, ok := parseParent(out)
			if !ok || c.trace != x.Trace.ID || c.parent != x.Trace.Span || c.flags&flagSampled != 0 != tt.sampled || hex.EncodeToString(c.parent[:]) == parentID {
				t.Errorf("traceparent %q", out)
			}
			if same := hex.EncodeToString(c.trace[:]) == traceID; same != tt.same {
				t.Errorf("trace %x", c.trace)
			}
			if x.Trace.Text() != hex.EncodeToString(c.trace[:]) {
				t.Errorf("text %q", x.Trace.Text())
			}
			if kept := x.Request.Has(exchange.Tracestate) && !x.RequestEdits.Replaces("tracestate", exchange.Tracestate); kept != tt.state {
				t.Errorf("tracestate goes on: %v", kept)
			}
		})
	}
	x := incoming()
	tracer := NewExporter(Deps{Log: quiet()}).Tracer(Config{Sample: 0.25})
	n := 0
	for range 20_000 {
		x.Trace = exchange.Trace{}
		if tracer.Begin(x, false); x.Trace.Spans != nil {
			n++
		}
	}
	if n < 4500 || n > 5500 {
		t.Errorf("a quarter of 20,000 is %d", n)
	}
}

// traced is an exchange with a policy that refused, and two tries.
func traced(t *Tracer) *exchange.Exchange {
	x := incoming("traceparent", "00-"+traceID+"-"+parentID+"-01", "tracestate", "a=1", "User-Agent", "curl/8\xff", "Authorization", "Bearer s3cret", "Cookie", "s3cret")
	t.Begin(x, true)
	x.RouteName, x.ServiceName, x.RequestID, x.Consumer = "orders", "svc", "r-1", &exchange.Consumer{Name: "acme"}
	x.Trace.Spans.Add(exchange.Span{ID: exchange.NewSpan(), Start: time.Millisecond, End: 2 * time.Millisecond, Policy: `auth "jwt"`})
	for i, instance := range []string{"10.1.0.7:80", "[2001:db8::2]:8080"} {
		id, start := x.BeginTry()
		x.InstanceAddr = instance
		if c, ok := parseParent(edited(x, exchange.Traceparent)); !ok || c.parent != id {
			panic("a try isn't the parent of what it sends")
		}
		if i == 0 {
			x.EndTry(id, start, true, exchange.NewFault(exchange.FromUpstream, exchange.BackendReset, "broke"))
			continue
		}
		x.Status = 503
		x.EndTry(id, start, false, nil)
	}
	x.BytesIn, x.BytesOut, x.Cached = 3, 1234, exchange.CacheMiss
	return x
}

// attributes are those of a span, as text.
func attributes(s *tracepb.Span) map[string]string {
	out := map[string]string{}
	for _, kv := range s.Attributes {
		v := kv.Value.String()
		_, v, _ = strings.Cut(v, ":")
		out[kv.Key] = strings.Trim(v, `"`)
	}
	return out
}

// TestEncode: OpenTelemetry's own types read what is sent, and it is what was
// recorded, without credentials.
func TestEncode(t *testing.T) {
	c := newCollector(t)
	e, stop := newExporter(t, Config{Endpoint: c.URL + "/", ServiceName: "edge", Headers: map[string]secret.String{"X-Token": "tok"}})
	tracer := e.Tracer(Config{})
	x := traced(tracer)
	took := 12 * time.Millisecond
	tracer.End(x, took, "/o/{id}")
	if x.Trace.Spans != nil {
		t.Error("the spans weren't given back")
	}
	stop()
	spans := c.spans()
	if len(spans) != 4 {
		t.Fatalf("%d spans", len(spans))
	}
	if c.header.Get("X-Token") != "tok" || c.header.Get("User-Agent") != "sidegate/1.2.3" {
		t.Errorf("fields %v", c.header)
	}
	r := c.taken[0]
	if got := r.Resource.Attributes[0]; got.Key != "service.name" || got.Value.GetStringValue() != "edge" || r.SchemaUrl != schemaURL || r.ScopeSpans[0].Scope.Name == "" {
		t.Errorf("resource %v", r.Resource)
	}
	server, policy, failed, answered := spans[0], spans[1], spans[2], spans[3]
	start := uint64(time.Unix(1_700_000_000, 5).UnixNano())
	if server.Name != "GET /o/{id}" || server.Kind != tracepb.Span_SPAN_KIND_SERVER || hex.EncodeToString(server.ParentSpanId) != parentID || server.TraceState != "a=1" ||
		server.StartTimeUnixNano != start || server.EndTimeUnixNano != start+uint64(took) || server.Flags != 0x301 || server.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("server span %v", server)
	}
	want := map[string]string{
		"http.request.method": "GET", "http.route": "/o/{id}", "url.scheme": "https", "url.path": "/o/7", "server.address": "api.example.com", "server.port": "8443",
		"client.address": "2001:db8::1", "network.peer.address": "10.0.0.1", "network.protocol.version": "2", "user_agent.original": "curl/8\ufffd",
		"http.response.status_code": "503", "http.request.body.size": "3", "http.response.body.size": "1234", "sidegate.route": "orders", "sidegate.service": "svc",
		"sidegate.consumer": "acme", "sidegate.request_id": "r-1", "sidegate.cache": "miss", "error.type": "503",
	}
	if d := cmp.Diff(want, attributes(server)); d != "" {
		t.Error(d)
	}
	for _, s := range spans {
		if hex.EncodeToString(s.TraceId) != traceID || len(s.SpanId) != 8 || s != server && string(s.ParentSpanId) != string(server.SpanId) {
			t.Errorf("span %v", s)
		}
		if strings.Contains(s.String(), "s3cret") {
			t.Errorf("a credential in %v", s)
		}
	}
	if policy.Name != `auth "jwt"` || policy.Kind != tracepb.Span_SPAN_KIND_INTERNAL || policy.EndTimeUnixNano-policy.StartTimeUnixNano != uint64(time.Millisecond) {
		t.Errorf("policy span %v", policy)
	}
	want = map[string]string{"http.request.method": "GET", "server.address": "10.1.0.7", "server.port": "80", "sidegate.service": "svc", "sidegate.connection_reused": "true", "error.type": "backend-reset"}
	if d := cmp.Diff(want, attributes(failed)); d != "" || failed.Kind != tracepb.Span_SPAN_KIND_CLIENT || failed.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR {
		t.Error(d, failed)
	}
	want = map[string]string{"http.request.method": "GET", "server.address": "2001:db8::2", "server.port": "8080", "sidegate.service": "svc", "sidegate.connection_reused": "false",
		"http.response.status_code": "503", "http.request.resend_count": "1", "error.type": "503"}
	if d := cmp.Diff(want, attributes(answered)); d != "" {
		t.Error(d)
	}
}

// TestEncodeFault: a fault is an event, and the client's isn't an error of the span.
func TestEncodeFault(t *testing.T) {
	for _, tt := range []struct {
		status int
		err    bool
	}{{401, false}, {504, true}, {0, true}} {
		e := NewExporter(Deps{Log: quiet()})
		x := incoming()
		x.Method = "BREW"
		e.Tracer(Config{Sample: 1}).Begin(x, false)
		x.Status, x.Err = tt.status, exchange.NewFault(exchange.FromPolicy, exchange.Unauthenticated, "no s3cret")
		b, n := appendSpans(nil, x, time.Second, "")
		var data tracepb.TracesData
		if err := proto.Unmarshal(request(nil, resource("s", "", ""), b), &data); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		s := data.ResourceSpans[0].ScopeSpans[0].Spans[0]
		if got := s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; got != tt.err {
			t.Errorf("%d: error %v", tt.status, got)
		}
		a := attributes(s)
		if s.Name != "HTTP" || a["http.request.method"] != "_OTHER" || a["http.request.method_original"] != "BREW" || a["error.type"] != "unauthenticated" {
			t.Errorf("%v", s)
		}
		if len(s.Events) != 1 || s.Events[0].Name != "sidegate.fault" || len(s.Events[0].Attributes) != 2 || s.ParentSpanId != nil || s.Flags != 0x103 || strings.Contains(s.String(), "s3cret") {
			t.Errorf("%v", s)
		}
	}
}

// TestLong: lengths of any size are written right.
func TestLong(t *testing.T) {
	for _, n := range []int{0, 1, 100, 127, 128, 129, 16383, 16384, 3 << 20} {
		b, start := open([]byte{1, 2, 3}, 7)
		b = closed(append(b, strings.Repeat("x", n)...), start)
		num, typ, size := protowire.ConsumeTag(b[3:])
		v, end := protowire.ConsumeBytes(b[3+size:])
		if num != 7 || typ != protowire.BytesType || string(v) != strings.Repeat("x", n) || 3+size+end != len(b) {
			t.Errorf("%d bytes: field %d, %d bytes, %d of %d", n, num, len(v), 3+size+end, len(b))
		}
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("GET", "/a", "h", "curl", "r", "10.0.0.1:80", 200)
	f.Add("\xff", "/\xff\x00", "[::1", "\xc3\x28", "", "[::1]:", -1)
	f.Add("0", "0", "0", "0", "0", "]:", 0)
	f.Fuzz(func(t *testing.T, method, path, host, agent, route, instance string, status int) {
		e := NewExporter(Deps{Log: quiet()})
		x := &exchange.Exchange{}
		x.Reset(exchange.HTTP11, &exchange.Conn{}, nil)
		x.Start, x.Method, x.Status = time.Unix(1, 0), method, status
		x.Target = exchange.Target{Path: path, Host: host, Port: host}
		x.Request.Append("User-Agent", agent)
		e.Tracer(Config{Sample: 1}).Begin(x, false)
		x.InstanceAddr = instance
		x.EndTry([8]byte{1}, 0, true, nil)
		b, _ := appendSpans(nil, x, time.Second, "/"+strings.ToValidUTF8(route, ""))
		var data tracepb.TracesData
		if err := proto.Unmarshal(request(nil, resource("s", "v", "h"), b), &data); err != nil {
			t.Fatal(err)
		}
		if n := len(data.ResourceSpans[0].ScopeSpans[0].Spans); n != 2 {
			t.Errorf("%d spans", n)
		}
		if batch, n := split(b); n != 2 || len(batch) != len(b) {
			t.Errorf("a batch of %d spans, %d of %d bytes", n, len(batch), len(b))
		}
	})
}

// send has n exchanges traced.
func send(e *Exporter, n int) {
	tracer := e.Tracer(Config{Sample: 1})
	x := incoming()
	for range n {
		x.RequestEdits.Reset()
		tracer.Begin(x, false)
		tracer.End(x, time.Millisecond, "")
	}
}

// TestAgain: what a collector can't take now it is sent again.
func TestAgain(t *testing.T) {
	c := newCollector(t)
	c.will(status(503, "0"), status(429, "1"), nil)
	e, _ := newExporter(t, Config{Endpoint: c.URL})
	begin := time.Now()
	send(e, 3)
	until(t, "spans", func() bool { return len(c.spans()) == 3 })
	if took := time.Since(begin); took < time.Second {
		t.Errorf("Retry-After: 1, and it was tried again after %s", took)
	}
	until(t, "count", func() bool { n, _ := e.Counts(); return n.Sent == 3 && n.Failures == 2 && n.Dropped == 0 })
	// 400 means never again, and so does a redirect.
	c.will(status(400, ""), func(w http.ResponseWriter) { w.Header().Set("Location", "/v1/traces"); w.WriteHeader(307) })
	send(e, 2)
	until(t, "dropped", func() bool { n, _ := e.Counts(); return n.Dropped == 2 })
	send(e, 2)
	until(t, "dropped", func() bool { n, _ := e.Counts(); return n.Dropped == 4 })
	// Of a batch it may reject some.
	c.will(func(w http.ResponseWriter) {
		b, start := open(nil, 1)
		b = appendText(b, 2, "too old")
		b = appendVarint(b, 1, 2)
		_, _ = w.Write(closed(b, start))
	})
	send(e, 5)
	until(t, "rejected", func() bool { n, _ := e.Counts(); return n.Rejected == 2 && n.Sent == 6 })
}

// TestAway: a collector that is away, or silent, costs bounded memory and no wait,
// not even at the end.
func TestAway(t *testing.T) {
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(func() { close(hang); silent.Close() })
	for _, url := range []string{"http://127.0.0.1:1", silent.URL} {
		e, stop := newExporter(t, Config{Endpoint: url, Timeout: time.Minute})
		for {
			send(e, 1000)
			n, on := e.Counts()
			if !on || n.Waiting > maxQueue+64<<10 {
				t.Fatalf("%+v", n)
			}
			if n.Dropped > 0 {
				break
			}
		}
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("the end took %s", took)
		}
		if n, _ := e.Counts(); n.Waiting != 0 || n.Sent != 0 {
			t.Errorf("%+v", n)
		}
	}
}

// TestConfigure: another collector gets what comes then; nobody, when there is none.
func TestConfigure(t *testing.T) {
	a, b := newCollector(t), newCollector(t)
	e, _ := newExporter(t, Config{Endpoint: a.URL})
	send(e, 1)
	until(t, "span", func() bool { return len(a.spans()) == 1 })
	e.Configure(&Config{Endpoint: b.URL + "/v1/traces"}, "")
	send(e, 1)
	until(t, "span", func() bool { return len(b.spans()) == 1 })
	e.Configure(nil, "")
	send(e, 1)
	until(t, "dropped", func() bool { n, on := e.Counts(); return n.Dropped == 1 && !on })
	if len(a.spans()) != 1 || len(b.spans()) != 1 {
		t.Error("spans went elsewhere")
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Endpoint: "http://127.0.0.1:4318"}, ""},
		{Config{Endpoint: "https://otlp.example.com/otlp/v1/traces", Headers: map[string]secret.String{"Authorization": "Bearer x"}}, ""},
		{Config{Endpoint: "127.0.0.1:4318"}, `endpoint: "127.0.0.1:4318" isn't an http or https URL`},
		{Config{Endpoint: "grpc://h:4317"}, `endpoint: "grpc://h:4317" isn't an http or https URL`},
		{Config{Endpoint: "http://u:p@h/"}, `endpoint: "http://u:xxxxx@h/" has more than host and path; credentials go into headers`},
		{Config{Endpoint: "http://h", Headers: map[string]secret.String{"a b": "x", "Host": "y", "X": "a\nb"}},
			"headers: \"Host\" has a meaning of its own\nheaders: the value of \"X\" has a control character\nheaders: \"a b\" isn't the name of a header field"},
	} {
		got := ""
		if err := tt.c.Validate(); err != nil {
			got = err.Error()
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Error(d)
		}
	}
}

// TestAllocTracing: what isn't sampled costs no allocation, and what is none either,
// but for the memory that is sent.
func TestAllocTracing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools forget at random")
	}
	for _, sample := range []float64{0, 1} {
		e := NewExporter(Deps{Log: quiet()})
		tracer := e.Tracer(Config{Sample: sample})
		x := incoming("traceparent", "00-"+traceID+"-"+parentID+"-01", "tracestate", "a=1")
		x.Keep(make([]byte, 1<<20)) // room
		one := func() {
			x.RequestEdits.Reset()
			tracer.Begin(x, false)
			id, start := x.BeginTry()
			x.EndTry(id, start, true, nil)
			tracer.End(x, time.Millisecond, "/o/{id}")
			x.Trace = exchange.Trace{}
			e.list[0].buf, e.list[0].spans = e.list[0].buf[:0], 0
			e.waiting.Store(0)
		}
		one()
		if n := testing.AllocsPerRun(1000, one); n > 0.1 {
			t.Errorf("sample %v: %v allocations", sample, n)
		}
	}
}

func BenchmarkTracing(b *testing.B) {
	for name, sample := range map[string]float64{"propagate": 0, "record": 1} {
		b.Run(name, func(b *testing.B) {
			e := NewExporter(Deps{Log: quiet()})
			tracer := e.Tracer(Config{Sample: sample})
			x := incoming()
			b.ReportAllocs()
			for b.Loop() {
				x.RequestEdits.Reset()
				x.Trace = exchange.Trace{}
				tracer.Begin(x, false)
				id, start := x.BeginTry()
				x.EndTry(id, start, true, nil)
				tracer.End(x, time.Millisecond, "/o/{id}")
				e.list[0].buf, e.list[0].spans = e.list[0].buf[:0], 0
				e.waiting.Store(0)
			}
		})
	}
}
