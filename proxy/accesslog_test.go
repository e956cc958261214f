package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/linelog"
)

// logged is the line of x.
func logged(cfg AccessLogConfig, c Credentials, x *exchange.Exchange, end time.Time) string {
	return string(NewAccessLog(cfg, c, linelog.New("access_log", "stdout", quiet())).append(nil, x, end))
}

func TestAccessLogLine(t *testing.T) {
	q := usual()
	q.headers = [][2]string{{"User-Agent", "a\"b\\c\x7f\xff"}, {"Authorization", "Bearer s3cret"}, {"Cookie", "s=s3cret"}}
	q.target = "/x?token=s3cret"
	_, x, _ := serve(t, q, nil, respondOK())
	for _, cfg := range []AccessLogConfig{{}, {Fields: []string{"path", "status", "route", "client_ip", "level", "query", "header.Cookie", "header.Authorization"}, Redact: []string{"*"}}} {
		line := logged(cfg, Credentials{}, x, time.Now())
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if strings.Contains(line, "s3cret") {
			t.Errorf("the line holds a credential: %s", line)
		}
		for k, want := range map[string]any{"path": "/x", "status": 200.0, "route": "r", "client_ip": "192.0.2.1", "level": "info"} {
			if got[k] != want {
				t.Errorf("%s = %v, want %v", k, got[k], want)
			}
		}
	}
}

// finished is an exchange as finish has it, with all that a line may tell.
func finished(target string) (*exchange.Exchange, time.Time) {
	start := time.Date(2026, 11, 25, 9, 5, 7, 123_000_000, time.FixedZone("", 3600))
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP2, &exchange.Conn{Listener: "https", RemoteIP: "10.0.0.1", Scheme: "https"}, nil)
	x.Start, x.Method, x.RawTarget, x.RawHost = start, "GET", target, "api.example.com"
	if f := x.Canonicalise(); f != nil {
		panic(f)
	}
	x.ClientIP = netip.MustParseAddr("2001:db8::1")
	x.Request.Append("Referer", "https://u:p4ss@www.example.com/a?k=s3cret#t=s3cret")
	x.Request.Append("User-Agent", `curl/8 "x"`)
	x.Request.Append("X-Tenant", "t1")
	x.Request.Append("X-API-Key", "s3cret")
	x.Consumer = &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "gold"}}
	x.RouteName, x.ServiceName, x.InstanceAddr, x.Tries = "orders", "orders", "10.1.0.7:80", 2
	x.Status, x.BytesIn, x.BytesOut, x.Upstream = 200, 3, 1234, 1500*time.Microsecond
	x.RequestID, x.Cached, x.Charged = "r-1", exchange.CacheMiss, 2_500_000
	x.Response.Append("Content-Type", "text/plain")
	x.Response.Append("X-Gone", "a")
	x.Response.Append("Location", "/login?code=s3cret")
	x.ResponseEdits.Set("X-Gone", "b")
	return x, start.Add(2345678 * time.Nanosecond)
}

// TestAccessLogFields: the fields that are asked for, in their order, and no
// credentials.
func TestAccessLogFields(t *testing.T) {
	tests := []struct {
		name, target string
		cfg          AccessLogConfig
		want         string
	}{
		{"usual", "/o/7?k=s3cret", AccessLogConfig{},
			`{"client_ip":"2001:db8::1","method":"GET","host":"api.example.com","path":"/o/7","protocol":"HTTP/2.0","status":200,"route":"orders","service":"orders","instance":"10.1.0.7:80","consumer":"acme","tries":2,"bytes_in":3,"bytes_out":1234,"duration_ms":2.345,"upstream_ms":1.500,"request_id":"r-1","user_agent":"curl/8 \"x\"","cache":"miss","charged":2.5,"level":"info","msg":"request","time":"2026-11-25T08:05:07.125Z"}`},
		{"chosen", "/o/7?k=s3cret", AccessLogConfig{Redact: []string{"*"}, Fields: []string{"status", "query", "referer", "plan", "listener", "peer_ip", "scheme", "tls_version", "header.X-Tenant", "header.X-None", "response.content-type", "response.X-Gone", "header.x-api-key"}},
			`{"status":200,"query":"k=***","referer":"https://www.example.com/a?k=***#t=***","plan":"gold","listener":"https","peer_ip":"10.0.0.1","scheme":"https","header.X-Tenant":"t1","response.content-type":"text/plain","response.X-Gone":"b","header.x-api-key":"***"}`},
		{"URLs in fields", "/", AccessLogConfig{Redact: []string{"*"}, Fields: []string{"header.referer", "response.Location", "header.X-None"}},
			`{"header.referer":"https://www.example.com/a?k=***#t=***","response.Location":"/login?code=***"}`},
		{"some", "/?a=1&K=s3cret;token=s3cret&%6b=s3cret&key=s3cret&b", AccessLogConfig{Redact: []string{"k", "token"}, Fields: []string{"query"}},
			`{"query":"a=1&K=***;token=***&%6b=***&key=***&b"}`},
		{"all but credentials", "/?a=1&key=s3cret&access_token=s3cret", AccessLogConfig{Fields: []string{"query"}}, `{"query":"a=1&key=***&access_token=***"}`},
		{"no name", "/?s3cret", AccessLogConfig{Redact: []string{"*"}, Fields: []string{"query"}}, `{"query":"***"}`},
		{"no query", "/", AccessLogConfig{Fields: []string{"query"}}, `{}`},
		{"combined", "/o/7?k=s3cret&b", AccessLogConfig{Format: "combined", Redact: []string{"*"}},
			`2001:db8::1 - acme [25/Nov/2026:08:05:07 +0000] "GET /o/7?k=***&*** HTTP/2.0" 200 1234 "https://www.example.com/a?k=***#t=***" "curl/8 \"x\""`},
		{"combined, as it came", "/%6f//7?k=v", AccessLogConfig{Format: "combined", Redact: []string{"t"}},
			`2001:db8::1 - acme [25/Nov/2026:08:05:07 +0000] "GET /%6f//7?k=v HTTP/2.0" 200 1234 "https://www.example.com/a?k=s3cret#t=***" "curl/8 \"x\""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, end := finished(tt.target)
			l := NewAccessLog(tt.cfg, Credentials{Headers: []string{"X-API-Key"}, Query: []string{"key"}}, linelog.New("access_log", "stdout", quiet()))
			l.keep(x)
			x.Response.Reset(nil) // as finish does
			if d := cmp.Diff(tt.want+"\n", string(l.append(nil, x, end))); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestAccessLogEmpty: what isn't there is "-" in a combined line.
func TestAccessLogEmpty(t *testing.T) {
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{}, nil)
	x.ClientIP, x.Start = netip.MustParseAddr("192.0.2.1"), time.Unix(0, 0)
	want := `192.0.2.1 - - [01/Jan/1970:00:00:00 +0000] "-" - - "-" "-"` + "\n"
	if got := logged(AccessLogConfig{Format: "combined"}, Credentials{}, x, x.Start); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// A URL with a password that was refused before it became a target.
	x.Method, x.RawTarget, x.Status = "GET", "http://u:s3cret@h/", 400
	x.Request.Append("User-Agent", "")
	want = `192.0.2.1 - - [01/Jan/1970:00:00:00 +0000] "GET - HTTP/1.1" 400 - "-" ""` + "\n"
	if got := logged(AccessLogConfig{Format: "combined"}, Credentials{}, x, x.Start); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := logged(AccessLogConfig{}, Credentials{}, x, x.Start); strings.Contains(got, "s3cret") || !json.Valid([]byte(got)) {
		t.Errorf("%s", got)
	}
}

func TestCheckAccessField(t *testing.T) {
	c := Credentials{Headers: []string{"X-Token"}}
	for name, want := range map[string]string{
		"status": "", "header.X-Tenant": "", "response.Content-Type": "", "header.Set-Cookie": "",
		"statuses": `there is no field "statuses"`, "header.": `"header.": "" isn't the name of a header field`, "header.a b": `"header.a b": "a b" isn't the name of a header field`,
		"header.authorization": `"header.authorization" holds credentials, which no log keeps`, "header.COOKIE": `"header.COOKIE" holds credentials, which no log keeps`,
		"header.proxy-authorization": `"header.proxy-authorization" holds credentials, which no log keeps`,
		"header.x-token":             `"header.x-token" holds credentials, which no log keeps`, "response.set-cookie": `"response.set-cookie" holds credentials, which no log keeps`,
	} {
		got := ""
		if err := CheckAccessField(name, c); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// combinedLine is a strict parser of the combined format: its groups are the
// fields, with their escapes.
var combinedLine = regexp.MustCompile(`^(\S+) (\S+) (\S+) \[(\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "((?:[^"\\]|\\.)*)" (\d{3}|-) (\d+|-) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"\n$`)

// unescaped undoes the escapes of Apache's logs.
func unescaped(s string) (string, error) {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			return "", fmt.Errorf("byte %#x in %q", s[i], s)
		}
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", errors.New("a backslash at the end")
		}
		switch c := s[i]; c {
		case '"', '\\':
			out = append(out, c)
		case 'x':
			if i+2 >= len(s) {
				return "", errors.New("a short escape")
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", err
			}
			out = append(out, byte(n))
			i += 2
		default:
			at := strings.IndexByte("bnrtv", c)
			if at < 0 {
				return "", fmt.Errorf("escape %q", c)
			}
			out = append(out, "\b\n\r\t\v"[at])
		}
	}
	return string(out), nil
}

// FuzzAccessLog: whatever a client sends, a line stays one line, JSON parses, and
// what it says is what came.
func FuzzAccessLog(f *testing.F) {
	f.Add("GET", "/a?b=c", "curl", "https://e.com/", "x", "t1")
	f.Add("G\"T\n", "/\\\x00\xff?\"=\n", "a\"b\\c\x7f\xff\u009b31m\u2028", "\r\n", "\x1b[2J", "\t\v\b")
	f.Fuzz(func(t *testing.T, method, target, agent, referer, route, tenant string) {
		x := &exchange.Exchange{}
		x.Reset(exchange.HTTP11, &exchange.Conn{}, nil)
		x.Start, x.Status, x.BytesOut = time.Unix(1e9, 0), 200, 5
		x.ClientIP = netip.MustParseAddr("192.0.2.1")
		x.Method, x.RawTarget, x.RouteName = method, target, route
		x.Target.Path, x.Target.Query, x.Target.HasQuery = strings.Cut(target, "?")
		x.Request.Append("User-Agent", agent)
		x.Request.Append("Referer", referer)
		x.Request.Append("X-Tenant", tenant)
		line := logged(AccessLogConfig{Fields: []string{"method", "path", "query", "user_agent", "route", "referer", "header.X-Tenant"}}, Credentials{}, x, x.Start)
		checkJSON(t, line, map[string]string{"method": method, "path": x.Target.Path, "user_agent": agent, "route": route, "header.X-Tenant": tenant})
		line = logged(AccessLogConfig{Format: "combined"}, Credentials{}, x, x.Start)
		m := combinedLine.FindStringSubmatch(line)
		if m == nil || strings.Count(line, "\n") != 1 {
			t.Fatalf("%q isn't a combined line", line)
		}
		if got, err := unescaped(m[9]); err != nil || got != agent {
			t.Errorf("user agent %q is %q (%v)", agent, got, err)
		}
		for _, part := range []string{m[5], m[8]} {
			if _, err := unescaped(part); err != nil {
				t.Error(err)
			}
		}
	})
}

// checkJSON checks that line is one, an object that has these values.
func checkJSON(t *testing.T, line string, want map[string]string) {
	t.Helper()
	if strings.Count(line, "\n") != 1 || !utf8.ValidString(line) {
		t.Fatalf("%q isn't one line of UTF-8", line)
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }); i >= 0 {
		t.Fatalf("%q has a control character", line)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	for k, v := range want {
		if v := strings.ToValidUTF8(v, "\ufffd"); strings.ReplaceAll(got[k], "\ufffd", "") != strings.ReplaceAll(v, "\ufffd", "") {
			t.Errorf("%s = %q, want %q", k, got[k], v)
		}
	}
}

// TestAllocAccessLog: a line costs no allocation, whatever is in it.
func TestAllocAccessLog(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	names := append(AccessFieldNames(), "header.X-Tenant", "response.X-Gone")
	names = slices.DeleteFunc(names, func(s string) bool { return s == "error" }) // its text is made when it is asked for
	for _, cfg := range []AccessLogConfig{{Sample: 1}, {Sample: 1, Format: "combined"}, {Sample: 1, Fields: names}, {Sample: 0.5}} {
		l := NewAccessLog(cfg, Credentials{}, linelog.New("access_log", "stdout", quiet()))
		x, end := finished("/o/7?k=s3cret&b=1")
		x.Keep(make([]byte, 4096))
		add := func() {
			x.Logged = x.Logged[:0]
			l.keep(x)
			l.Log(x, end)
		}
		for range 5000 {
			add() // until lines are dropped, so that memory is no more taken
		}
		buf := make([]byte, 0, 4096)
		if n := testing.AllocsPerRun(200, func() { add(); _ = l.append(buf, x, end) }); n != 0 {
			t.Errorf("%+v: %v allocations", cfg, n)
		}
	}
}

// TestAccessLogSample: failed requests are logged whatever the sample.
func TestAccessLogSample(t *testing.T) {
	l := NewAccessLog(AccessLogConfig{Sample: 0}, Credentials{}, linelog.New("access_log", "/dev/full", quiet()))
	x, end := finished("/")
	for range 10 {
		l.Log(x, end)
	}
	x.Status = 503
	l.Log(x, end)
	done := make(chan struct{})
	close(done)
	out, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	l.Run(done, out)
	if n := l.Dropped(); n != 1 {
		t.Errorf("%d lines that couldn't be written, want 1", n)
	}
}

func BenchmarkAccessLog(b *testing.B) {
	for _, format := range []string{"json", "combined"} {
		b.Run(format, func(b *testing.B) {
			l := NewAccessLog(AccessLogConfig{Format: format}, Credentials{}, linelog.New("access_log", "stdout", quiet()))
			x, end := finished("/o/7?k=v")
			buf := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				_ = l.append(buf, x, end)
			}
		})
	}
}
