package h1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// relay is a gateway in memory: a front on a script, and for each exchange a
// ClientConn to a backend that is net/http's parser.
type relay struct {
	sweeper *sweep.Sweeper
	client  *ClientConfig
	ours    []*message // requests as we read them; nil where a body was refused
	theirs  []*message // as the backend read them; nil where it was broken off
	extra   []string   // what a backend got beside its one request
	methods []string   // of all requests, refused ones included
}

func newRelay() *relay {
	s := sweep.New()
	return &relay{sweeper: s, client: &ClientConfig{Sweeper: s, ExpectTimeout: time.Millisecond, MaxHeaders: 32 << 10, MaxFields: 100}}
}

// backend reads one request, answers it, and sees to it that nothing follows.
func (r *relay) backend(nc net.Conn) {
	defer nc.Close()
	br := bufio.NewReader(nc)
	req, err := http.ReadRequest(br)
	var m *message
	if err == nil {
		var body []byte
		if body, err = io.ReadAll(req.Body); err == nil {
			m = &message{Line: req.Method + " " + req.RequestURI, Host: req.Host, Length: req.ContentLength, Fields: req.Header, Body: string(body), Trailer: http.Header{}}
			for name, values := range req.Trailer {
				if values != nil {
					m.Trailer[name] = values
				}
			}
		}
	}
	r.theirs = append(r.theirs, m)
	if err != nil {
		if !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
			r.extra = append(r.extra, err.Error())
		}
		return
	}
	if _, err := io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
		return
	}
	if rest, _ := io.ReadAll(br); len(rest) > 0 {
		r.extra = append(r.extra, fmt.Sprintf("behind the request: %q", rest))
	}
}

func (r *relay) Serve(x *exchange.Exchange) {
	r.methods = append(r.methods, strings.Clone(x.Method))
	f := x.Fault
	if f == nil {
		f = x.Canonicalise()
	}
	if f != nil {
		_ = refuse(x, f)
		return
	}
	x.Upgrade = "" // another oracle's
	m := &message{Line: x.Method + " " + x.Target.Path, Host: strings.Clone(x.Target.Authority), Length: x.RequestLength, Fields: headOf(&x.Request, true)}
	if x.Target.HasQuery {
		m.Line += "?" + x.Target.Query
	}
	here, there := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.backend(there)
	}()
	c := NewClientConn(here, r.client)
	// What the body's reader sees goes into m, too.
	if x.RequestBody != nil {
		x.RequestBody = &tee{Body: x.RequestBody, to: &m.Body}
	}
	_, f = c.RoundTrip(x)
	_ = c.Reusable()
	_ = c.Close()
	<-ended
	m.Trailer = headOf(&x.RequestTrailer, true)
	if f != nil {
		m = nil
		r.ours = append(r.ours, m)
		_ = refuse(x, f)
		return
	}
	r.ours = append(r.ours, m)
	_ = x.Front.Respond(x)
}

// tee keeps what is read.
type tee struct {
	exchange.Body
	to *string
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.Body.Read(p)
	*t.to += string(p[:n])
	return n, err
}

func (t *tee) Next() ([]byte, bool) {
	b, done := t.Body.Next()
	*t.to += string(b)
	return b, done
}

// dropOwn leaves out the fields of one connection and of framing, which the next
// hop doesn't get.
func dropOwn(h http.Header) http.Header {
	h = withoutFraming(h)
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(strings.Trim(name, " \t"))
		}
	}
	for _, name := range []string{
		"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Upgrade", "Http2-Settings", "Proxy-Authenticate", "Proxy-Authorization", "Proxy", "Expect",
	} {
		h.Del(name)
	}
	return h
}

// compareForward lets in pass and compares what the backends read with what we
// read: each request that we take is one request there, the same, and one that
// we give up is none.
func compareForward(t *testing.T, in, cuts []byte) {
	r := newRelay()
	nc := newScript(in, cuts...)
	NewFront(testConfig(r.sweeper, r)).ServeConn(nc, &exchange.Conn{Scheme: "http"}, nil)
	if len(r.extra) > 0 {
		t.Fatalf("the backend: %s\n%q", r.extra, in)
	}
	if len(r.ours) != len(r.theirs) {
		t.Fatalf("%d requests here, %d there\n%q", len(r.ours), len(r.theirs), in)
	}
	for i, ours := range r.ours {
		theirs := r.theirs[i]
		if ours == nil {
			if theirs != nil {
				t.Fatalf("request %d: given up here, complete there: %+v\n%q", i, theirs, in)
			}
			continue
		}
		if theirs == nil {
			t.Fatalf("request %d: complete here, broken off there\n%q", i, in)
		}
		if ours.Body == "" && ours.Length == 0 && theirs.Length <= 0 {
			theirs.Length = 0
		}
		ours.Fields, theirs.Fields = dropOwn(ours.Fields), dropOwn(theirs.Fields)
		for name := range ours.Trailer {
			if strings.HasPrefix(strings.ToLower(name), "x-forwarded-") { // exchange.Edits.MayTrail
				delete(ours.Trailer, name)
			}
		}
		if d := cmp.Diff(*theirs, *ours); d != "" {
			t.Fatalf("request %d: the backend reads this (-), we that (+):\n%s\n%q", i, d, in)
		}
	}
	checkAnswers(t, nc.out, r.methods, in)
}

// checkAnswers sees that the client got a whole response to each request, and
// not a byte more.
func checkAnswers(t *testing.T, out []byte, methods []string, in []byte) {
	t.Helper()
	br := bufio.NewReader(bytes.NewReader(out))
	for i := 0; i < len(methods); {
		res, err := http.ReadResponse(br, &http.Request{Method: methods[i]})
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		if err != nil {
			t.Fatalf("answer %d: %v\n%q\nto %q", i, err, out, in)
		}
		if res.StatusCode >= 200 {
			i++
		}
	}
	if rest, _ := io.ReadAll(br); len(rest) > 0 {
		t.Fatalf("behind the answers: %q\nto %q", rest, in)
	}
}

// FuzzForward lets connections full of requests pass.
func FuzzForward(f *testing.F) {
	all := ""
	for _, in := range requestSeeds {
		f.Add([]byte(in), []byte{255})
		f.Add([]byte(in+in), []byte{20, 0, 3})
		all += strings.TrimSuffix(in, "rest")
	}
	f.Add([]byte(all), []byte{255})
	f.Fuzz(compareForward)
}

// backward reads the response of in with a client, gives it to a front, and
// returns what the client of that gets; whole tells that all of it was read.
func backward(in []byte, method string, proto exchange.Proto, cuts []byte) (out []byte, ours *message, whole bool) {
	s := sweep.New()
	version := " HTTP/1.1"
	if proto == exchange.HTTP10 {
		version = " HTTP/1.0"
	}
	nc := newScript([]byte(method + " / " + version[1:] + "\r\nHost: h\r\n\r\n"))
	front := NewFront(testConfig(s, handlerFunc(func(x *exchange.Exchange) {
		c := NewClientConn(newScript(in, cuts...), &ClientConfig{Sweeper: s, MaxHeaders: 32 << 10, MaxFields: 100})
		defer c.Close()
		x.Target.Path, x.Target.Authority = "/", "h"
		if _, f := c.RoundTrip(x); f != nil {
			_ = refuse(x, f)
			return
		}
		ours = &message{Line: fmt.Sprint(x.Status), Fields: headOf(&x.Response, true)}
		if x.ResponseBody != nil {
			x.ResponseBody = &tee{Body: x.ResponseBody, to: &ours.Body}
		}
		whole = x.Front.Respond(x) == nil
		ours.Trailer = headOf(&x.ResponseTrailer, true)
	})))
	front.ServeConn(nc, &exchange.Conn{Scheme: "http"}, nil)
	return nc.out, ours, whole
}

// compareBackward: what a client gets is what the backend said, and a response
// that breaks off at the backend breaks off there, too.
func compareBackward(t *testing.T, in []byte, head, old bool, cuts []byte) {
	method, proto := "GET", exchange.HTTP11
	if head {
		method = "HEAD"
	}
	if old {
		proto = exchange.HTTP10
	}
	out, ours, whole := backward(in, method, proto, cuts)
	theirs, err := theirResponse(out, method)
	if ours == nil {
		if err != nil || theirs.Line != "502" || theirs.Rest != 0 {
			t.Fatalf("problem: %v, %v: %q\nfor %q", theirs, err, out, in)
		}
		return
	}
	switch {
	case err != nil && whole && !strings.Contains(err.Error(), "bad trailer key"):
		t.Fatalf("the client can't read what we could: %v\n%q\nfor %q", err, out, in)
	case err != nil || old && !whole:
		return // HTTP/1.0 has no way to tell that a body of unknown length isn't whole (RFC 9112, 8)
	case !whole:
		t.Fatalf("broken off for us, whole for the client: %q\nfor %q", out, in)
	}
	if head || ours.Line == "204" || ours.Line == "304" {
		ours.Trailer = http.Header{}
	}
	if old {
		ours.Trailer = http.Header{} // nothing for them to stand behind
	}
	for name := range ours.Trailer {
		if strings.HasPrefix(strings.ToLower(name), "x-forwarded-") {
			delete(ours.Trailer, name)
		}
	}
	ours.Fields, theirs.Fields = dropOwn(ours.Fields), dropOwn(theirs.Fields)
	if ours.Fields["Date"] == nil {
		delete(theirs.Fields, "Date") // ours (RFC 9110, 6.6.1)
	}
	theirs.Length = 0
	if d := cmp.Diff(*theirs, *ours); d != "" {
		t.Fatalf("the client reads this (-), we that (+):\n%s\n%q\nfor %q", d, out, in)
	}
}

// FuzzBackward lets a response pass.
func FuzzBackward(f *testing.F) {
	for _, in := range responseSeeds {
		f.Add([]byte(in), false, false, []byte{255})
		f.Add([]byte(in), true, false, []byte{20, 0, 3})
		f.Add([]byte(in), false, true, []byte{0})
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A, X_b\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\nX_b: 2\r\nCookie: 3\r\nX-Forwarded-A: 4\r\n\r\n"), false, false, []byte{0})
	f.Add([]byte("HTTP/1.1 200 OK\r\nConnection: X-A, close\r\nX-A: 1\r\nX-B: 2\r\nKeep-Alive: 3\r\nContent-Length: 9\r\n\r\nhalf"), false, false, []byte{0})
	f.Fuzz(compareBackward)
}
