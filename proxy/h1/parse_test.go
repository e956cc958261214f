package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

var noDeadline time.Time

// script is a connection that gives what it holds, in pieces, and then ends.
type script struct {
	net.Conn
	in    []byte
	piece int
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), max(s.piece, 1))], s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// message is what a parser made of bytes.
type message struct {
	line   string
	fields []string
	body   string
	rest   int // bytes behind it
}

func headFields(h *exchange.Head) (out []string) {
	for i := range h.Len() {
		name, value := h.Field(i)
		out = append(out, textproto.CanonicalMIMEHeaderKey(name)+": "+value)
	}
	slices.Sort(out)
	return out
}

func mapFields(h http.Header, extra ...string) (out []string) {
	for name, values := range h {
		for _, v := range values {
			out = append(out, name+": "+v)
		}
	}
	out = append(out, extra...)
	slices.Sort(out)
	return out
}

// ourRequest reads the first request of in with a front.
func ourRequest(in []byte, piece int) (m *message, fault *exchange.Fault) {
	s := sweep.New()
	nc := &script{in: slices.Clone(in), piece: piece}
	f := NewFront(testConfig(s, handlerFunc(func(x *exchange.Exchange) {
		c := x.Front.(*conn)
		defer c.w.fail(exchange.NewFault(exchange.FromInternal, exchange.Internal, "one is enough"))
		if fault = x.Fault; fault != nil {
			return
		}
		got := &message{line: x.Method + " " + x.RawTarget, fields: headFields(&x.Request)}
		if x.RequestBody != nil {
			body, err := io.ReadAll(x.RequestBody)
			if err != nil {
				fault, _ = asFault(err)
				if fault == nil {
					panic(err)
				}
				return
			}
			got.body = string(body)
		}
		got.rest = c.w.buffered() + len(nc.in)
		m = got
	})))
	f.ServeConn(nc, &exchange.Conn{Scheme: "http"}, nil)
	return m, fault
}

// ourResponse reads the first final response of in with a client.
func ourResponse(in []byte, piece int, method string) (*message, *exchange.Fault) {
	s := sweep.New()
	nc := &script{in: slices.Clone(in), piece: piece}
	c := NewClientConn(nc, &ClientConfig{Sweeper: s, MaxHeaders: 32 << 10, MaxFields: 100})
	defer c.Close()
	x := &exchange.Exchange{Proto: exchange.HTTP11, Method: method, Front: nobody{}}
	x.Target.Path, x.Target.Authority = "/", "h"
	if _, f := c.RoundTrip(x); f != nil {
		return nil, f
	}
	m := &message{line: fmt.Sprint(x.Status), fields: headFields(&x.Response)}
	if x.ResponseBody != nil {
		body, err := io.ReadAll(x.ResponseBody)
		if err != nil {
			f, _ := asFault(err)
			return nil, f
		}
		m.body = string(body)
	}
	m.rest = c.w.buffered() + len(nc.in)
	return m, nil
}

type nobody struct{}

func (nobody) Respond(*exchange.Exchange) error                      { return nil }
func (nobody) Interim(*exchange.Exchange, int, *exchange.Head) error { return nil }
func (nobody) Gone(*exchange.Exchange) bool                          { return false }

// compareRequest holds our reading against net/http's: what we accept it must
// accept, too, and read the same.
func compareRequest(t *testing.T, in []byte) {
	ours, fault := ourRequest(in, len(in))
	for _, piece := range []int{1, 7} {
		again, f := ourRequest(in, piece)
		if fmt.Sprint(again) != fmt.Sprint(ours) || (f == nil) != (fault == nil) {
			t.Fatalf("in pieces of %d: %v, %v; at once: %v, %v\n%q", piece, again, f, ours, fault, in)
		}
	}
	if ours == nil {
		return
	}
	br := bufio.NewReaderSize(bytes.NewReader(bytes.TrimPrefix(in, []byte("\r\n"))), 1<<16)
	req, err := http.ReadRequest(br)
	if err != nil {
		// Targets are judged by Canonicalise, after us, and so is a host.
		if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid URI") || strings.Contains(err.Error(), "Host header") {
			return
		}
		t.Fatalf("we accept what net/http refuses: %v\n%q", err, in)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatalf("we accept a body that net/http refuses: %v\n%q", err, in)
	}
	if got := req.Method + " " + req.RequestURI; got != ours.line {
		t.Errorf("net/http reads %q, we %q", got, ours.line)
	}
	if string(body) != ours.body {
		t.Errorf("net/http reads body %q, we %q\n%q", body, ours.body, in)
	}
	rest, _ := io.ReadAll(br)
	if len(rest) != ours.rest {
		t.Errorf("net/http leaves %d bytes, we %d\n%q", len(rest), ours.rest, in)
	}
	compareFields(t, mapFields(req.Header), ours.fields, in)
}

// compareFields leaves out those that net/http takes out of the header.
func compareFields(t *testing.T, theirs, ours []string, in []byte) {
	keep := func(list []string) (out []string) {
		for _, f := range list {
			name, _, _ := strings.Cut(f, ":")
			switch name {
			case "Host", "Transfer-Encoding", "Trailer", "Content-Length", "Connection", "Cache-Control", "Pragma":
			default:
				out = append(out, f)
			}
		}
		return out
	}
	if theirs, ours := keep(theirs), keep(ours); !slices.Equal(theirs, ours) {
		t.Errorf("net/http reads fields %q, we %q\n%q", theirs, ours, in)
	}
}

func compareResponse(t *testing.T, in []byte, method string) {
	ours, fault := ourResponse(in, len(in), method)
	for _, piece := range []int{1, 7} {
		again, f := ourResponse(in, piece, method)
		if fmt.Sprint(again) != fmt.Sprint(ours) || (f == nil) != (fault == nil) {
			t.Fatalf("in pieces of %d: %v, %v; at once: %v, %v\n%q", piece, again, f, ours, fault, in)
		}
	}
	if ours == nil {
		return
	}
	br := bufio.NewReaderSize(bytes.NewReader(in), 1<<16)
	var res *http.Response
	for {
		var err error
		if res, err = http.ReadResponse(br, &http.Request{Method: method}); err != nil {
			t.Fatalf("we accept what net/http refuses: %v\n%q", err, in)
		}
		if res.StatusCode >= 200 {
			break
		}
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("we accept a body that net/http refuses: %v\n%q", err, in)
	}
	if fmt.Sprint(res.StatusCode) != ours.line || string(body) != ours.body {
		t.Errorf("net/http reads %d %q, we %s %q\n%q", res.StatusCode, body, ours.line, ours.body, in)
	}
	compareFields(t, mapFields(res.Header), ours.fields, in)
}

var requestSeeds = []string{
	"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
	browserRequest,
	"\r\nGET /a?b HTTP/1.0\r\n\r\nrest",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nrest",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA:\t b \t\r\nB:\r\n\r\n",
	"GET http://h/x HTTP/1.1\r\nHost: h\r\nConnection: a, close\r\nA: 1\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
	"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
}

var responseSeeds = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200\r\n\r\nuntil the end",
	"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\nx",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
}

func TestLikeNetHTTP(t *testing.T) {
	for _, in := range requestSeeds {
		compareRequest(t, []byte(in))
	}
	for _, in := range responseSeeds {
		compareResponse(t, []byte(in), "GET")
		compareResponse(t, []byte(in), "HEAD")
	}
}

func FuzzRequest(f *testing.F) {
	for _, in := range requestSeeds {
		f.Add([]byte(in))
	}
	f.Fuzz(compareRequest)
}

func FuzzResponse(f *testing.F) {
	for _, in := range responseSeeds {
		f.Add([]byte(in), "GET")
	}
	f.Fuzz(func(t *testing.T, in []byte, method string) {
		if method != "HEAD" {
			method = "GET"
		}
		compareResponse(t, in, method)
	})
}

// FuzzChunked reads a chunked body in memory, by Next and Read in turns.
func FuzzChunked(f *testing.F) {
	for _, in := range []string{
		"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "1;a=b\r\nx\r\n0\r\nA: b\r\n\r\nrest", "00a\r\n0123456789\r\n0\r\n\r\n",
		"fffffffffffffff\r\n", "1\r\nab\r\n", "1\nx\n0\n\n", "-1\r\n", "3 \r\nabc\r\n0\r\n\r\n",
	} {
		f.Add([]byte(in))
	}
	const head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, in []byte) {
		in = append([]byte(head), in...)
		compareRequest(t, in)
		whole, fault := ourRequest(in, len(in))
		var got []byte
		var failed bool
		front := NewFront(testConfig(sweep.New(), handlerFunc(func(x *exchange.Exchange) {
			defer x.Front.(*conn).w.fail(exchange.NewFault(exchange.FromInternal, exchange.Internal, "one is enough"))
			if x.Fault != nil || x.RequestBody == nil {
				return
			}
			buf := make([]byte, 5)
			for {
				b, done := x.RequestBody.Next()
				if got = append(got, b...); done {
					return
				}
				n, err := x.RequestBody.Read(buf)
				got = append(got, buf[:n]...)
				if err == io.EOF {
					return
				}
				if err != nil {
					failed = true
					return
				}
			}
		})))
		front.ServeConn(&script{in: in, piece: 11}, &exchange.Conn{}, nil)
		if failed != (fault != nil) || whole != nil && string(got) != whole.body {
			t.Errorf("by Next and Read: %q, failed %v; by Read: %v, %v", got, failed, whole, fault)
		}
	})
}
