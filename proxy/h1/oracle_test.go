package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// The oracle is net/http: what we accept, it accepts, and reads the same. We
// may refuse more. Where it is the stricter one, or hides what it read, one of
// these is why:
//
//   - It judges the request target while parsing; here Exchange.Canonicalise
//     does (RFC 9112, 3.2), so both are asked.
//   - It takes one empty line before a request only in its server, which its
//     ReadRequest isn't (RFC 9112, 2.2).
//   - It refuses a Trailer field that names what can't trail; to us that is
//     advice (RFC 9110, 6.6.2), and such trailers are dropped when they come.
//   - It takes framing fields out of the header and puts what they say into
//     fields of its own, which are compared instead (RFC 9112, 6).
//   - It adds Cache-Control to a Pragma (RFC 9111, 5.4).
//   - Behind a response that is told by the connection's end it doesn't say
//     what is left; nothing is (RFC 9112, 6.3).

// script is a connection that gives what it holds, in pieces, and then ends.
type script struct {
	net.Conn
	in    []byte
	cuts  []byte // the sizes of the pieces, less one, over and over
	piece int    // reads so far
	out   []byte
}

func newScript(in []byte, cuts ...byte) *script { return &script{in: slices.Clone(in), cuts: cuts} }

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	if len(s.cuts) > 0 {
		p = p[:min(len(p), int(s.cuts[s.piece%len(s.cuts)])+1)]
		s.piece++
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { s.out = append(s.out, p...); return len(p), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// message is what a parser made of bytes.
type message struct {
	Line    string
	Host    string
	Length  int64 // -1: chunked, or until the end
	Fields  http.Header
	Body    string
	Trailer http.Header
	Rest    int // bytes behind it
}

// headOf is h as net/http would have it: names in its spelling, values of a
// name in order.
func headOf(h *exchange.Head, forwarded bool) http.Header {
	out := http.Header{}
	for i := range h.Len() {
		if forwarded && h.Dropped(i) {
			continue
		}
		name, value := h.Field(i)
		out.Add(strings.Clone(name), strings.Clone(value))
	}
	return out
}

// framingFields are those that net/http keeps apart from the others.
var framingFields = []string{"Host", "Content-Length", "Transfer-Encoding", "Trailer"}

func withoutFraming(h http.Header) http.Header {
	h = h.Clone()
	for _, name := range framingFields {
		h.Del(name)
	}
	if pragma := h["Pragma"]; len(pragma) > 0 && pragma[0] == "no-cache" && fmt.Sprint(h["Cache-Control"]) == "[no-cache]" {
		h.Del("Cache-Control")
	}
	return h
}

// trailing are the trailers of h that we would take.
func trailing(h http.Header, reply bool) http.Header {
	out := http.Header{}
	for name, values := range h {
		odd := strings.ContainsAny(name, "_.")
		for _, v := range values {
			if (!odd || reply) && mayTrail(exchange.Lookup(name)) {
				out.Add(name, v)
			}
		}
	}
	return out
}

// ourRequest reads the first request of in with a front; target is the fault
// that Canonicalise found.
func ourRequest(in []byte, cuts ...byte) (m *message, fault, target *exchange.Fault) {
	nc := newScript(in, cuts...)
	f := NewFront(testConfig(sweep.New(), handlerFunc(func(x *exchange.Exchange) {
		c := x.Front.(*conn)
		defer c.w.fail(exchange.NewFault(exchange.FromInternal, exchange.Internal, "one is enough"))
		if fault = x.Fault; fault != nil {
			return
		}
		got := &message{Line: x.Method + " " + x.RawTarget, Host: strings.Clone(x.RawHost), Length: x.RequestLength, Fields: headOf(&x.Request, false)}
		if x.RequestBody != nil {
			body, err := io.ReadAll(x.RequestBody)
			if err != nil {
				if fault, _ = asFault(err); fault == nil {
					panic(err)
				}
				return
			}
			got.Body = string(body)
		}
		got.Trailer = headOf(&x.RequestTrailer, true)
		got.Rest = c.w.buffered() + len(nc.in)
		target = x.Canonicalise()
		m = got
	})))
	f.ServeConn(nc, &exchange.Conn{Scheme: "http"}, nil)
	return m, fault, target
}

// theirRequest reads it with net/http.
func theirRequest(in []byte) (*message, error) {
	br := bufio.NewReaderSize(bytes.NewReader(bytes.TrimPrefix(in, []byte("\r\n"))), 1<<16)
	req, err := http.ReadRequest(br)
	if err != nil {
		return nil, err
	}
	return theirMessage(req.Method+" "+req.RequestURI, req.Host, req.ContentLength, req.Header, req.Body, &req.Trailer, br)
}

func theirMessage(line, host string, length int64, h http.Header, r io.Reader, trailer *http.Header, br *bufio.Reader) (*message, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	rest, err := io.ReadAll(br)
	if err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	t := http.Header{}
	for name, values := range *trailer {
		if values != nil { // announced only
			t[name] = values
		}
	}
	return &message{Line: line, Host: host, Length: length, Fields: h, Body: string(body), Trailer: t, Rest: len(rest)}, nil
}

// same fails unless both are the same message.
func same(t *testing.T, theirs, ours *message, reply bool, in []byte) {
	t.Helper()
	a, b := *theirs, *ours
	a.Fields, b.Fields = withoutFraming(a.Fields), withoutFraming(b.Fields)
	a.Trailer = trailing(a.Trailer, reply)
	if d := cmp.Diff(a, b); d != "" {
		t.Fatalf("net/http reads this (-), we that (+):\n%s\n%q", d, in)
	}
}

// compareRequest holds our reading against net/http's, and the reading of
// pieces against that of the whole.
func compareRequest(t *testing.T, in []byte, cuts []byte) {
	ours, fault, target := ourRequest(in)
	again, f, _ := ourRequest(in, cuts...)
	if d := cmp.Diff(ours, again); d != "" || (f == nil) != (fault == nil) {
		t.Fatalf("in pieces of %v: %v, at once: %v\n%s\n%q", cuts, f, fault, d, in)
	}
	if ours == nil {
		return
	}
	theirs, err := theirRequest(in)
	switch {
	case err == nil:
	case target != nil && (strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid URI")):
		return // both refuse the target
	case strings.Contains(err.Error(), "bad trailer key"):
		return
	default:
		t.Fatalf("we accept what net/http refuses: %v\n%q", err, in)
	}
	if strings.Contains(ours.Line, "://") {
		theirs.Host = ours.Host // net/http takes the target's; Canonicalise has them equal (RFC 9112, 3.2.2)
	}
	same(t, theirs, ours, false, in)
}

// ourResponse reads the first final response of in with a client.
func ourResponse(in []byte, method string, cuts ...byte) (*message, *exchange.Fault) {
	nc := newScript(in, cuts...)
	c := NewClientConn(nc, &ClientConfig{Sweeper: sweep.New(), MaxHeaders: 32 << 10, MaxFields: 100})
	defer c.Close()
	x := &exchange.Exchange{Proto: exchange.HTTP11, Method: method, Front: nobody{}}
	x.Target.Path, x.Target.Authority = "/", "h"
	if _, f := c.RoundTrip(x); f != nil {
		return nil, f
	}
	m := &message{Line: fmt.Sprint(x.Status), Length: x.ResponseLength, Fields: headOf(&x.Response, false)}
	if x.ResponseBody != nil {
		body, err := io.ReadAll(x.ResponseBody)
		if err != nil {
			f, _ := asFault(err)
			return nil, f
		}
		m.Body = string(body)
	}
	m.Trailer = headOf(&x.ResponseTrailer, true)
	m.Rest = c.w.buffered() + len(nc.in)
	return m, nil
}

type nobody struct{}

func (nobody) Respond(*exchange.Exchange) error                      { return nil }
func (nobody) Interim(*exchange.Exchange, int, *exchange.Head) error { return nil }
func (nobody) Gone(*exchange.Exchange) bool                          { return false }

// theirResponse reads it with net/http.
func theirResponse(in []byte, method string) (*message, error) {
	br := bufio.NewReaderSize(bytes.NewReader(in), 1<<16)
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 {
			return theirMessage(fmt.Sprint(res.StatusCode), "", res.ContentLength, res.Header, res.Body, &res.Trailer, br)
		}
	}
}

func compareResponse(t *testing.T, in []byte, method string, cuts []byte) {
	ours, fault := ourResponse(in, method)
	again, f := ourResponse(in, method, cuts...)
	if d := cmp.Diff(ours, again); d != "" || (f == nil) != (fault == nil) {
		t.Fatalf("in pieces of %v: %v, at once: %v\n%s\n%q", cuts, f, fault, d, in)
	}
	if ours == nil {
		return
	}
	theirs, err := theirResponse(in, method)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "bad trailer key"):
		return
	default:
		t.Fatalf("we accept what net/http refuses: %v\n%q", err, in)
	}
	if method == "HEAD" || ours.Line == "204" || ours.Line == "304" {
		theirs.Length = ours.Length // whatever that of no body is said to be (RFC 9112, 6.3)
	}
	same(t, theirs, ours, true, in)
}
