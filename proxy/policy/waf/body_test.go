package waf

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestBodies: what can't be inspected is refused in mode block and passes in
// mode detect; the service gets every body whole.
func TestBodies(t *testing.T) {
	long := strings.Repeat("a", 3<<10)
	for _, tt := range []struct {
		name   string
		block  string
		fields []string
		body   string
		want   string
		unseen bool
	}{
		{"of the limit", ``, []string{asText}, long[:2048], "", false},
		{"one byte more", ``, []string{asText}, long[:2049], "body-too-large", false},
		{"more, let pass", `beyond = "pass"`, []string{asText}, long, "", true},
		{"more JSON, let pass", `beyond = "pass"`, []string{asJSON}, `{"a":"` + long + `"}`, "", true},
		{"an attack in the part that is seen", `beyond = "pass"`, []string{asJSON}, `{"b":"<script>alert(1)</script>","a":"` + long + `"}`, "forbidden", true},
		{"an attack that is cut", `beyond = "pass"`, []string{asJSON}, `{"b":"` + long[:1000] + `<script>alert(1)</script>` + long + `"}`, "forbidden", true},
		{"an attack behind it", `beyond = "pass"`, []string{asJSON}, `{"a":"` + long + `","b":"<script>alert(1)</script>"}`, "", true},
		{"more multipart, let pass", `beyond = "pass"`, []string{asPart}, part(`name="f"; filename="a.txt"`, long), "", true},
		{"more XML, let pass", `beyond = "pass"`, []string{asXML}, `<a><b>` + long + `</b></a>`, "", true},
		{"a type that no rule reads", ``, []string{"Content-Type: application/octet-stream"}, "x", "unsupported-media-type", false},
		{"a type that passes", `uninspected = ["application/Octet-stream"]`, []string{"Content-Type: application/octet-stream"}, long, "", false},
		{"a kind of types that passes", `uninspected = ["image/*"]`, []string{"Content-Type: image/png; charset=utf-8"}, long, "", false},
		{"two types, one of which passes", `uninspected = ["image/*"]`, []string{"Content-Type: image/png", asJSON}, "x", "unsupported-media-type", false},
		{"gRPC", ``, []string{"Content-Type: application/grpc"}, "\x00\x00\x00\x00\x02\x08\x01", "unsupported-media-type", false},
		{"gRPC that passes", `uninspected = ["application/grpc"]`, []string{"Content-Type: application/grpc", "TE: trailers"}, "\x00\x00\x00\x00\x02\x08\x01", "", false},
		{"compressed", ``, []string{asJSON, "Content-Encoding: gzip"}, "\x1f\x8b", "unsupported-media-type", false},
		{"compressed in other words", ``, []string{asJSON, "Content-Encoding: identity, gzip"}, "\x1f\x8b", "unsupported-media-type", false},
		{"said not to be compressed", ``, []string{asJSON, "Content-Encoding: Identity"}, "{}", "", false},
		{"no type", ``, nil, "a=1", "forbidden", false},
		{"a type that is nonsense", ``, []string{"Content-Type: \x01"}, "a=1", "unsupported-media-type", false},
	} {
		for _, mode := range []string{"block", "detect"} {
			for _, known := range []bool{true, false} {
				s := shared()
				p := newPolicy(t, s, "waf {\nmode = \""+mode+"\"\nbody = \"2KiB\"\n"+tt.block+"\n}")
				before := p.counts.unseen.Load()
				framing := "Transfer-Encoding: chunked"
				if known {
					framing = fmt.Sprint("Content-Length: ", len(tt.body))
				}
				x := request(t, "POST /", append([]string{framing}, tt.fields...)...)
				x.RequestBody, x.RequestLength = &pieces{b: []byte(tt.body), size: 700}, -1
				if known {
					x.RequestLength = int64(len(tt.body))
				}
				want := tt.want
				if mode == "detect" {
					want = ""
				}
				if _, err := p.Request(x); kindOf(err) != want {
					t.Errorf("%s, %s: %v, want %q", tt.name, mode, err, want)
				}
				if want != "" {
					continue
				}
				if b, err := io.ReadAll(x.RequestBody); err != nil || string(b) != tt.body {
					t.Errorf("%s, %s: %d bytes of %d arrive, %v", tt.name, mode, len(b), len(tt.body), err)
				}
				unseen := tt.unseen || tt.want == "body-too-large" || tt.want == "unsupported-media-type"
				if got := p.counts.unseen.Load() == before+1; got != unseen {
					t.Errorf("%s, %s: unseen %v, want %v", tt.name, mode, got, unseen)
				}
				if n := s.held.Load(); n != 0 {
					t.Errorf("%s: %d bytes are held afterwards", tt.name, n)
				}
			}
		}
	}
}

func kindOf(err error) string {
	if f, ok := err.(*exchange.Fault); ok { //nolint:errorlint // policies return it as it is
		return string(f.Kind)
	}
	return ""
}

// pieces is a body that comes in pieces.
type pieces struct {
	b    []byte
	size int
	err  error // at its end; nil: io.EOF
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(len(p.b), p.size)])
	p.b = p.b[n:]
	return n, nil
}

func (p *pieces) Next() ([]byte, bool) {
	b := p.b[:min(len(p.b), p.size)]
	p.b = p.b[len(b):]
	return b, len(p.b) == 0 && p.err == nil
}

func (*pieces) Close() error { return nil }

// TestBrokenBody: a body that breaks off is the client's fault, of the kind that
// the front says.
func TestBrokenBody(t *testing.T) {
	s, _ := newStore()
	p := newPolicy(t, s, `waf {}`)
	for _, tt := range []struct {
		err  error
		want string
	}{
		{io.ErrUnexpectedEOF, "client-closed-request"},
		{exchange.NewFault(exchange.FromClient, exchange.ClientTimeout, "slow"), "request-timeout"},
	} {
		x := request(t, "POST /", asText)
		x.RequestBody, x.RequestLength = &pieces{b: []byte("abc"), size: 2, err: tt.err}, -1
		if got := verdict(t, p, x); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
		if n := s.held.Load(); n != 0 {
			t.Errorf("%d bytes are held afterwards", n)
		}
	}
}

// TestSlowBody: a body that doesn't come to its end is given up, in mode block:
// in mode detect it takes the time that it would without.
func TestSlowBody(t *testing.T) {
	s, _ := newStore()
	p := newPolicy(t, s, `waf {}`)
	p.within = time.Millisecond
	x := request(t, "POST /", asText)
	body := &stuck{closed: make(chan struct{})}
	x.RequestBody, x.RequestLength = body, -1
	if got := verdict(t, p, x); got != "request-timeout" {
		t.Errorf("%q, want request-timeout", got)
	}
	if s.held.Load() != 0 {
		t.Error("it holds memory")
	}
}

// TestSlowClose: nobody closes a body any more when its exchange has ended: it
// may be another's then.
func TestSlowClose(t *testing.T) {
	s, _ := newStore()
	p := newPolicy(t, s, `waf {}`)
	synctest.Test(t, func(t *testing.T) {
		x := request(t, "POST /", asText)
		body := &lingering{stuck: stuck{closed: make(chan struct{})}}
		x.RequestBody, x.RequestLength = body, -1
		if got := verdict(t, p, x); got != "request-timeout" {
			t.Errorf("%q, want request-timeout", got)
		}
		if !body.done.Load() {
			t.Error("the body is still being closed")
		}
	})
}

// lingering is a stuck body whose Close takes a while.
type lingering struct {
	stuck
	done atomic.Bool
}

func (l *lingering) Close() error {
	_ = l.stuck.Close()
	time.Sleep(time.Second)
	l.done.Store(true)
	return nil
}

// TestTakenOnce: who looks at the body next finds it in memory.
func TestTakenOnce(t *testing.T) {
	s, _ := newStore()
	p := newPolicy(t, s, `waf {}`)
	x := request(t, "POST /", asText)
	x.RequestBody, x.RequestLength = &pieces{b: []byte("abc"), size: 2}, -1
	if got := verdict(t, p, x); got != "" {
		t.Fatal(got)
	}
	if b, ok := x.Taken(); !ok || string(b) != "abc" {
		t.Errorf("Taken = %q, %v", b, ok)
	}
}

// stuck is a body of one byte, and no end before it is closed.
type stuck struct {
	once   sync.Once
	begun  bool
	closed chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		return copy(p, "a"), nil
	}
	<-s.closed
	return 0, io.ErrUnexpectedEOF
}

func (*stuck) Next() ([]byte, bool) { return nil, false }

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}
