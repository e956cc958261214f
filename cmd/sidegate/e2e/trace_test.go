package e2e

import (
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/net/websocket"
	"google.golang.org/protobuf/proto"
)

// collector takes traces, read by OpenTelemetry's own types.
type collector struct {
	*httptest.Server
	mu    sync.Mutex // guards spans
	spans []span
}

// span is one of them, in text.
type span struct {
	service, name, kind, trace, id, parent string
	attributes                             map[string]string
	failed                                 bool
	from, to                               uint64
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		b, err := io.ReadAll(z)
		var data tracepb.TracesData
		if err == nil {
			err = proto.Unmarshal(b, &data)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		c.take(&data)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) take(data *tracepb.TracesData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range data.ResourceSpans {
		service := r.Resource.Attributes[0].Value.GetStringValue()
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				one := span{
					service: service, name: s.Name, kind: strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_")),
					trace: hex.EncodeToString(s.TraceId), id: hex.EncodeToString(s.SpanId), parent: hex.EncodeToString(s.ParentSpanId),
					attributes: map[string]string{}, failed: s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR, from: s.StartTimeUnixNano, to: s.EndTimeUnixNano,
				}
				for _, kv := range s.Attributes {
					one.attributes[kv.Key] = kv.Value.GetStringValue()
					if n := kv.Value.GetIntValue(); n != 0 {
						one.attributes[kv.Key] = fmt.Sprint(n)
					}
				}
				c.spans = append(c.spans, one)
			}
		}
	}
}

// of waits for n spans whose server span has that path, or none if n is 0, and
// returns all of its trace.
func (c *collector) of(t *testing.T, path string, n int) []span {
	t.Helper()
	var list []span
	eventually(t, "trace of "+path, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		list = nil
		trace := ""
		for _, s := range c.spans {
			if s.attributes["url.path"] == path {
				trace = s.trace
			}
		}
		for _, s := range c.spans {
			if s.trace == trace {
				list = append(list, s)
			}
		}
		if len(list) != n {
			return fmt.Errorf("%d of %d spans: %+v", len(list), n, list)
		}
		return nil
	})
	return list
}

func only(t *testing.T, list []span, f func(span) bool) span {
	t.Helper()
	var found []span
	for _, s := range list {
		if f(s) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d of %+v", len(found), list)
	}
	return found[0]
}

func tracingBlock(c *collector, name string, sample float64) string {
	return fmt.Sprintf("tracing {\n endpoint = %q\n service_name = %q\n sample = %g\n}\n", c.URL, name, sample)
}

// contexts is a backend that keeps the traceparent of each path.
type contexts struct {
	mu   sync.Mutex // guards seen
	seen map[string]string
}

func (c *contexts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]string{}
	}
	c.seen[r.URL.Path] = r.Header.Get("Traceparent") + "|" + strings.Join(r.Header["Tracestate"], ",")
	_, _ = io.WriteString(w, "hello")
}

func (c *contexts) of(path string) (parent, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parent, state, _ = strings.Cut(c.seen[path], "|")
	return parent, state
}

// TestTraceOfTwo: through an edge and a second gateway behind it, a request is one
// trace, whatever protocol is between them.
func TestTraceOfTwo(t *testing.T) {
	real(t)
	c, backend := newCollector(t), &contexts{}
	inner := newGateway(t, "trusted_proxies = [\"127.0.0.1/32\"]\n"+accessLog+tracingBlock(c, "inner", 0)+twin(t, backend)).start(t)
	outer := newGateway(t, accessLog+tracingBlock(c, "outer", 1)+twinBlock(fmt.Sprintf("127.0.0.1:%d", inner.http), "")).start(t)
	for _, host := range []string{"one.test", "two.test"} {
		path := "/" + host
		if _, err := fetch(outer.client(true), "https://"+host+path+"?token=s3cret"); err != nil {
			t.Fatal(err)
		}
		list := c.of(t, path, 4)
		root := only(t, list, func(s span) bool { return s.service == "outer" && s.kind == "server" })
		try := only(t, list, func(s span) bool { return s.service == "outer" && s.kind == "client" })
		second := only(t, list, func(s span) bool { return s.service == "inner" && s.kind == "server" })
		last := only(t, list, func(s span) bool { return s.service == "inner" && s.kind == "client" })
		if root.parent != "" || try.parent != root.id || second.parent != try.id || last.parent != second.id {
			t.Errorf("not one behind the other: %+v", list)
		}
		if parent, _ := backend.of(path); parent != "00-"+root.trace+"-"+last.id+"-03" {
			t.Errorf("the backend saw %q, the last span is %s", parent, last.id)
		}
		if root.attributes["http.response.status_code"] != "200" || root.attributes["sidegate.route"] != host[:3] || root.attributes["network.protocol.version"] != "2" ||
			root.attributes["server.address"] != host || last.attributes["sidegate.service"] != host[:3] || root.failed {
			t.Errorf("attributes %v, %v", root.attributes, last.attributes)
		}
		if strings.Contains(fmt.Sprint(list), "s3cret") {
			t.Errorf("a query in %+v", list)
		}
		for _, g := range []*gateway{outer, inner} {
			eventually(t, "trace in the access log", func() error {
				for line := range strings.Lines(g.log.String()) {
					var l struct {
						Path    string
						TraceID string `json:"trace_id"`
					}
					if json.Unmarshal([]byte(line), &l) == nil && l.Path == path && l.TraceID == root.trace {
						return nil
					}
				}
				return errors.New("none")
			})
		}
	}
	// Who isn't trusted keeps its trace, and doesn't say what is recorded.
	req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/client", outer.http), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "one.test"
	req.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
	req.Header.Set("Tracestate", "a=1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	list := c.of(t, "/client", 4)
	if root := only(t, list, func(s span) bool { return s.service == "outer" && s.kind == "server" }); root.parent != "b7ad6b7169203331" || root.trace != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("%+v", root)
	}
	if _, state := backend.of("/client"); state != "a=1" {
		t.Errorf("tracestate %q", state)
	}
}

// TestTraceOff: without a tracing block traceparent passes as it came.
func TestTraceOff(t *testing.T) {
	real(t)
	backend := &contexts{}
	g := newGateway(t, twin(t, backend)).start(t)
	if _, _, err := ask(g.raw(t), "GET /off HTTP/1.1\r\nHost: one.test\r\nTraceparent: whatever\r\nTracestate: A\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if parent, state := backend.of("/off"); parent != "whatever" || state != "A" {
		t.Errorf("the backend saw %q, %q", parent, state)
	}
}

// TestTraceParts: each try is a span, a policy that refuses is one, a WebSocket's
// lasts as long as it does, and the latency histogram has the trace as an example.
func TestTraceParts(t *testing.T) {
	real(t)
	c := newCollector(t)
	mux := http.NewServeMux()
	mux.Handle("/socket", websocket.Handler(func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }))
	mux.Handle("/", hello())
	good := httptest.NewServer(mux)
	t.Cleanup(good.Close)
	bad := newScript(t, map[string]func(net.Conn){"tried": reset, "second": reset})
	g := newGateway(t, tracingBlock(c, "edge", 1)+fmt.Sprintf(`
service "two" {
  instances = [%q, %q]
  balance   = "round_robin"
  outlier {}
}
service "one" { instances = [%[2]q] }
route "two" {
  hosts   = ["app.test"]
  paths   = ["/{page}"]
  service = "two"
}
route "keyed" {
  hosts   = ["keyed.test"]
  service = "one"
  auth "api_key" {}
}
route "one" {
  hosts   = ["one.test"]
  service = "one"
}
`, bad.listener.Addr().String(), good.Listener.Addr())).start(t)
	cl := g.clients(t)[3]
	for _, path := range []string{"/tried", "/second"} { // one of them comes to the bad one first
		if _, err := fetch(cl.Client, "http://app.test"+path); err != nil {
			t.Fatal(err)
		}
	}
	var retried []span
	eventually(t, "trace with two tries", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.spans {
			if s.attributes["http.request.resend_count"] != "1" {
				continue
			}
			retried = nil
			for _, o := range c.spans {
				if o.trace == s.trace {
					retried = append(retried, o)
				}
			}
			return nil
		}
		return errors.New("none")
	})
	if len(retried) != 3 {
		t.Fatalf("%+v", retried)
	}
	root := only(t, retried, func(s span) bool { return s.kind == "server" })
	first := only(t, retried, func(s span) bool { return s.kind == "client" && s.failed })
	second := only(t, retried, func(s span) bool { return s.kind == "client" && !s.failed })
	if root.name != "GET /{page}" || root.failed || first.attributes["error.type"] != "backend-reset" || second.attributes["http.response.status_code"] != "200" ||
		first.parent != root.id || second.parent != root.id || first.to > second.from+1_000_000 || root.from > first.from || root.to < second.to {
		t.Errorf("%+v", retried)
	}

	if resp, err := cl.Get("http://keyed.test/refused"); err != nil || resp.StatusCode != 401 {
		t.Fatal(resp, err)
	}
	list := c.of(t, "/refused", 2)
	policy := only(t, list, func(s span) bool { return s.kind == "internal" })
	root = only(t, list, func(s span) bool { return s.kind == "server" })
	if policy.name != "auth" || policy.attributes["error.type"] != "unauthenticated" || policy.parent != root.id || root.failed || root.attributes["error.type"] != "unauthenticated" {
		t.Errorf("%+v", list)
	}

	cfg, err := websocket.NewConfig(fmt.Sprintf("ws://one.test:%d/socket", g.http), "http://one.test")
	if err != nil {
		t.Fatal(err)
	}
	nc := g.raw(t)
	ws, err := websocket.NewClient(cfg, nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := websocket.Message.Send(ws, "hello"); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := websocket.Message.Receive(ws, &got); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
	c.mu.Lock()
	for _, s := range c.spans {
		if s.attributes["url.path"] == "/socket" {
			t.Error("the span ended before the WebSocket")
		}
	}
	c.mu.Unlock()
	_ = ws.Close()
	if root := only(t, c.of(t, "/socket", 2), func(s span) bool { return s.kind == "server" }); root.attributes["http.response.status_code"] != "101" || root.attributes["http.response.body.size"] == "" {
		t.Errorf("%+v", root)
	}

	req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/metrics", g.admin), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	m := regexp.MustCompile(`sidegate_request_duration_seconds_bucket\{route="keyed",service="[^"]*",le="[^"]*"\} \d+ # \{trace_id="([0-9a-f]{32})"\} `).FindSubmatch(text)
	if err != nil || m == nil || string(m[1]) != policy.trace || !strings.HasSuffix(string(text), "# EOF\n") {
		t.Errorf("no example of the trace %s: %q, %v", policy.trace, m, err)
	}
}

// TestTraceCollectorAway: a collector that is away, or hangs, costs no request; what
// it would have had is counted.
func TestTraceCollectorAway(t *testing.T) {
	real(t)
	hang, hung := make(chan struct{}), make(chan struct{}, 100)
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hung <- struct{}{}; <-hang }))
	t.Cleanup(func() { close(hang); slow.Close() })
	away := &collector{Server: &httptest.Server{URL: fmt.Sprintf("http://127.0.0.1:%d", ports(t, 1)[0])}}
	g := newGateway(t, tracingBlock(away, "edge", 1)+twin(t, hello())).start(t)
	stop := g.load(t, 4)
	metric := func(text string) {
		t.Helper()
		eventually(t, text, func() error {
			m, err := g.get("/metrics")
			if err == nil && !regexp.MustCompile(`(?m)^`+text).MatchString(m) {
				err = errors.New("none")
			}
			return err
		})
	}
	metric(`sidegate_tracing_export_failures_total [1-9]`)
	metric(`sidegate_tracing_spans_total\{outcome="dropped"\} [1-9]`) // the queue is full
	if n := strings.Count(g.log.String(), "the collector takes no traces"); n != 1 {
		t.Errorf("said %d times", n)
	}
	stop()
	g.configure(t, tracingBlock(&collector{Server: &httptest.Server{URL: slow.URL}}, "edge", 1)+twin(t, hello()))
	g.signal(syscall.SIGHUP)
	<-hung
	if _, err := fetch(g.client(true), "https://one.test/"); err != nil {
		t.Error(err)
	}
	g.stop(syscall.SIGTERM)
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ends with %d", code)
	}
}
