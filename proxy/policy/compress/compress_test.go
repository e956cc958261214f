package compress

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(nil)) }

const all = `compress {}`

func newPolicy(t testing.TB, block string) *Policy {
	t.Helper()
	return policytest.Policy(t, Kind(NewStore(nil)), block).(*Policy)
}

// text is long enough to be worth it.
var text = strings.Repeat("The quick brown fox jumps over the lazy dog. ", 60)

// sentBody reads what x has as a front does.
func sentBody(t testing.TB, x *exchange.Exchange) []byte {
	t.Helper()
	if x.ResponseBody == nil {
		return nil
	}
	first, done := x.ResponseBody.Next()
	out := bytes.Clone(first)
	if !done {
		rest, err := io.ReadAll(x.ResponseBody)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rest...)
	}
	if x.ResponseLength >= 0 && x.ResponseLength != int64(len(out)) {
		t.Errorf("%d bytes, and the length is %d", len(out), x.ResponseLength)
	}
	return out
}

// plain is the body of x as a client decodes it, and its coding.
func plain(t testing.TB, x *exchange.Exchange) (text, name string) {
	t.Helper()
	name = value(&x.Response, &x.ResponseEdits, exchange.ContentEncoding)
	b := sentBody(t, x)
	for c := range codings {
		if name == names[c] {
			b = decode(t, c, b)
		}
	}
	return string(b), name
}

func TestEncode(t *testing.T) {
	const any = "Accept-Encoding: gzip, deflate, br, zstd"
	const typed = "Content-Type: text/html; charset=utf-8"
	tests := []struct {
		name     string
		method   string // GET
		request  []string
		status   int // 200
		response []string
		body     string // text
		coding   string
		head     []string // of what goes out, beside Content-Type
	}{
		{name: "browser", request: []string{any}, response: []string{typed, `ETag: "a"`, "Accept-Ranges: bytes"}, coding: "zstd",
			head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd", `ETag: W/"a"`}},
		{name: "gzip alone", request: []string{"Accept-Encoding: gzip"}, response: []string{typed}, coding: "gzip", head: []string{"Vary: Accept-Encoding", "Content-Encoding: gzip"}},
		{name: "br by weight", request: []string{"Accept-Encoding: gzip;q=0.8, br;q=0.9"}, response: []string{typed}, coding: "br", head: []string{"Vary: Accept-Encoding", "Content-Encoding: br"}},
		{name: "weak tag stays", request: []string{any}, response: []string{typed, `ETag: W/"a"`}, coding: "zstd", head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd", `ETag: W/"a"`}},
		{name: "no tag at all", request: []string{any}, response: []string{typed, `ETag: a`}, coding: "zstd", head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd"}},
		{name: "nothing accepted", response: []string{typed, `ETag: "a"`, "Accept-Ranges: bytes"}, head: []string{`ETag: "a"`, "Accept-Ranges: bytes", "Vary: Accept-Encoding"}},
		{name: "identity refused", request: []string{"Accept-Encoding: identity;q=0, deflate"}, response: []string{typed}, head: []string{"Vary: Accept-Encoding"}},
		{name: "Vary merged", request: []string{any}, response: []string{typed, "Vary: Origin", "Vary: Accept"}, coding: "zstd",
			head: []string{"Vary: Origin, Accept, Accept-Encoding", "Content-Encoding: zstd"}},
		{name: "Vary there", request: []string{any}, response: []string{typed, "Vary: accept-encoding"}, coding: "zstd", head: []string{"Vary: accept-encoding", "Content-Encoding: zstd"}},
		{name: "Vary *", request: []string{any}, response: []string{typed, "Vary: *"}, coding: "zstd", head: []string{"Vary: *", "Content-Encoding: zstd"}},
		{name: "short", request: []string{any}, response: []string{typed}, body: "short", head: []string{"Vary: Accept-Encoding"}},
		{name: "empty", request: []string{any}, response: []string{typed}, body: "-", head: []string{"Vary: Accept-Encoding"}},
		{name: "image", request: []string{any}, response: []string{"Content-Type: image/png"}},
		{name: "no type", request: []string{any}},
		{name: "events", request: []string{any}, response: []string{"Content-Type: text/event-stream"}},
		{name: "grpc", request: []string{any}, response: []string{"Content-Type: application/grpc+json"}},
		{name: "encoded already", request: []string{any}, response: []string{typed, "Content-Encoding: gzip", `ETag: "a"`}, coding: "-", head: []string{"Content-Encoding: gzip", `ETag: "a"`}},
		{name: "no-transform of the response", request: []string{any}, response: []string{typed, "Cache-Control: public, No-Transform"}, head: []string{"Cache-Control: public, No-Transform"}},
		{name: "no-transform of the request", request: []string{any, "Cache-Control: no-transform"}, response: []string{typed}, head: []string{"Vary: Accept-Encoding"}},
		{name: "digest", request: []string{any}, response: []string{typed, "content-digest: sha-256=:x:"}, head: []string{"content-digest: sha-256=:x:"}},
		{name: "digest in the trailers", request: []string{any}, response: []string{typed, "Trailer: X, Repr-Digest"}, head: []string{"Trailer: X, Repr-Digest"}},
		{name: "range", status: 206, request: []string{any, "Range: bytes=0-9"}, response: []string{typed, "Content-Range: bytes 0-9/99", `ETag: "a"`},
			head: []string{"Content-Range: bytes 0-9/99", `ETag: "a"`, "Vary: Accept-Encoding"}},
		{name: "no range", status: 416, request: []string{any}, response: []string{typed, "Content-Range: bytes */99"}, head: []string{"Content-Range: bytes */99"}},
		{name: "error", status: 500, request: []string{any}, response: []string{"Content-Type: APPLICATION/PROBLEM+JSON"}, coding: "zstd", head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd"}},
		{name: "204", status: 204, request: []string{any}, response: []string{typed}, body: "-"},
		{name: "HEAD", method: "HEAD", request: []string{any}, response: []string{typed, `ETag: "a"`}, coding: "-", head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd", `ETag: W/"a"`}},
		{name: "HEAD, short", method: "HEAD", request: []string{any}, body: "short", response: []string{typed}, head: []string{"Vary: Accept-Encoding"}},
		{name: "304 of ours", status: 304, request: []string{any, `If-None-Match: "b", W/"a,b"`}, body: "-", response: []string{`ETag: "a,b"`}, head: []string{"Vary: Accept-Encoding", `ETag: W/"a,b"`}},
		{name: "304 of the service's", status: 304, request: []string{any, `If-None-Match: "a"`}, body: "-", response: []string{`ETag: "a"`}, head: []string{`ETag: "a"`, "Vary: Accept-Encoding"}},
		{name: "304 of both", status: 304, request: []string{any, `If-None-Match: "a", W/"a"`}, body: "-", response: []string{`ETag: "a"`}, head: []string{`ETag: "a"`, "Vary: Accept-Encoding"}},
		{name: "304 of an image", status: 304, request: []string{any, `If-None-Match: W/"a"`}, body: "-", response: []string{"Content-Type: image/png", `ETag: "a"`}, head: []string{`ETag: "a"`}},
		{name: "another site's page", request: []string{any, "Cookie: a=b", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: empty"}, response: []string{typed}, head: []string{"Vary: Accept-Encoding"}},
		{name: "another site's frame", request: []string{any, "Authorization: Basic eA==", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: iframe"}, response: []string{typed}, head: []string{"Vary: Accept-Encoding"}},
		{name: "another site's link", request: []string{any, "Cookie: a=b", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: document"}, response: []string{typed}, coding: "zstd", head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd"}},
		{name: "another site's token", request: []string{any, "Authorization: bearer x", "Sec-Fetch-Site: cross-site"}, response: []string{typed}, coding: "zstd", head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd"}},
		{name: "own page", request: []string{any, "Cookie: a=b", "Sec-Fetch-Site: same-site"}, response: []string{typed}, coding: "zstd", head: []string{"Vary: Accept-Encoding", "Content-Encoding: zstd"}},
	}
	for _, tt := range tests {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", tt.name, known), func(t *testing.T) {
				p := newPolicy(t, all)
				x := policytest.Exchange(t, cmpOr(tt.method, "GET")+" https://api.example.com/", tt.request...)
				body := cmpOr(tt.body, text)
				if body == "-" {
					body = ""
				}
				policytest.Answer(x, max(tt.status, 200), body, tt.response...)
				if tt.status != 0 {
					x.Status = tt.status
				}
				if !known && tt.method == "" {
					x.ResponseLength = -1
				}
				p.Encode(x)
				head := []string{}
				for _, f := range policytest.Sent(&x.Response, &x.ResponseEdits) {
					if !strings.HasPrefix(f, "Content-Type") {
						head = append(head, f)
					}
				}
				if d := cmp.Diff(append([]string{}, tt.head...), head); d != "" {
					t.Error(d)
				}
				if tt.method == "HEAD" {
					if long := body == text; long != (x.ResponseLength < 0) {
						t.Errorf("the length of HEAD is %d", x.ResponseLength)
					}
					return
				}
				if tt.coding == "-" { // it claims one of its own
					if got := string(sentBody(t, x)); got != body {
						t.Errorf("it was touched: %d bytes of %d", len(got), len(body))
					}
				} else if got, name := plain(t, x); name != tt.coding || got != body {
					t.Errorf("it came %q coded, %d bytes of %d", name, len(got), len(body))
				}
				p.Finish(x)
				if n := p.store.Used(); n != 0 {
					t.Errorf("%d bytes stay taken", n)
				}
			})
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// TestAccept: RFC 9110, 12.5.3.
func TestAccept(t *testing.T) {
	tests := []struct{ fields, want string }{
		{"gzip, deflate, br, zstd", "zstd"},
		{"gzip, deflate, br", "br"},
		{"GZIP", "gzip"},
		{"x-gzip", "gzip"},
		{"deflate, compress", ""},
		{"", ""},
		{"*", "zstd"},
		{"*;q=0", ""},
		{"gzip, *;q=0", "gzip"},
		{"zstd;q=0, *", "br"},
		{"*;q=0.2, gzip;q=0.1", "zstd"},
		{"identity", ""},
		{"identity, gzip", "gzip"}, // as much as identity: what is shorter
		{"identity;q=0.5, gzip;q=0.4", ""},
		{"identity;q=0, deflate", ""},
		{"identity;q=0, *;q=0", ""},
		{"gzip;q=0", ""},
		{"gzip;q=0.001", "gzip"},
		{"gzip;q=1.000, br;q=0.999", "gzip"},
		{"gzip ; q=0.5 , br\t;\tq=0.6", "br"},
		{"gzip;Q=0.5", "gzip"},
		{"gzip;q=1.001", ""},
		{"gzip;q=2", ""},
		{"gzip;q=-1", ""},
		{"gzip;q=.5", ""},
		{"gzip;q=", ""},
		{"gzip;q=0.1234", ""},
		{"gzip;q=0.5;x=1", ""},
		{"gzip;level=9", ""},
		{"gzip;", ""},
		{"gzipp, brr, zst", ""},
		{"gzip, gzip;q=0", ""},
		{",,, ,gzip,,", "gzip"},
	}
	for _, tt := range tests {
		x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: "+tt.fields)
		a := accept(&x.Request)
		got := ""
		if c := a.choose([]coding{zstdCoding, brotliCoding, gzipCoding}); c != identity {
			got = names[c]
		}
		if got != tt.want {
			t.Errorf("%q: %q, want %q", tt.fields, got, tt.want)
		}
	}
	x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: gzip;q=0.5", "Accept: */*", "accept-encoding: br;q=0.6")
	if a := accept(&x.Request); a.choose([]coding{gzipCoding, brotliCoding}) != brotliCoding {
		t.Error("two fields aren't one list")
	}
}

func FuzzAccept(f *testing.F) {
	f.Add("gzip;q=0.5, *;q=0, identity;q=1.000")
	f.Fuzz(func(t *testing.T, list string) {
		x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: "+list)
		a := accept(&x.Request)
		order := []coding{gzipCoding, brotliCoding, zstdCoding}
		c := a.choose(order)
		if c == identity {
			return
		}
		if !strings.Contains(strings.ToLower(list), names[c]) && !strings.Contains(list, "*") {
			t.Errorf("%q: %s isn't in it", list, names[c])
		}
		for _, o := range order {
			if a.of(o) > a.of(c) {
				t.Errorf("%q: %s, though %s weighs more", list, names[c], names[o])
			}
		}
	})
}

func TestIfMatch(t *testing.T) {
	tests := []struct {
		name   string
		seen   string // an ETag of the service
		fields []string
		want   []string
	}{
		{"none", "", []string{"If-None-Match: W/\"a\""}, []string{"If-None-Match: W/\"a\""}},
		{"strong", "", []string{`If-Match: "a", "W/b"`}, []string{`If-Match: "a", "W/b"`}},
		{"weak", "", []string{`If-Match: W/"a"`}, []string{`If-Match: "a"`}},
		{"several", `"a"`, []string{`If-Match: "x,W/"`, `If-Match: W/"a" ,W/"b"`}, []string{`If-Match: "x,W/", "a", "b"`}},
		{"any", "", []string{"If-Match: *"}, []string{"If-Match: *"}},
		{"no tags", "", []string{`If-Match: W/"a", b, W/"c`}, []string{`If-Match: "a", b, "c`}},
		{"a service with weak ones", `W/"a"`, []string{`If-Match: W/"a"`}, []string{`If-Match: W/"a"`}},
	}
	for _, tt := range tests {
		p := newPolicy(t, all)
		if tt.seen != "" {
			x := policytest.Exchange(t, "GET https://a.test/")
			policytest.Answer(x, 200, "{}", "Content-Type: application/json", "ETag: "+tt.seen)
			p.Encode(x)
		}
		x := policytest.Exchange(t, "PUT https://a.test/", tt.fields...)
		if v, err := p.Request(x); v != policy.Next || err != nil {
			t.Fatal(v, err)
		}
		if d := cmp.Diff(tt.want, policytest.Sent(&x.Request, &x.RequestEdits)); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

func TestErrors(t *testing.T) {
	tests := []struct{ block, want string }{
		{`compress { encodings = [] }`, "name one at least"},
		{`compress { encodings = ["deflate"] }`, `"deflate" isn't one of`},
		{`compress { encodings = ["br", "br"] }`, "twice"},
		{`compress { types = [] }`, "types: name one at least"},
		{`compress { types = ["*/*"] }`, "isn't a media type"},
		{`compress { types = ["json"] }`, "isn't a media type"},
		{`compress { types = ["Text/html"] }`, "capitals"},
		{`compress { types = ["text/html;charset=utf-8"] }`, "parameters"},
		{`compress { types = ["text/ht*"] }`, "isn't all of the subtype"},
		{`compress { types = ["text/*html"] }`, "isn't all of the subtype"},
		{`compress { types = ["application/grpc"] }`, "gRPC"},
	}
	for _, tt := range tests {
		if _, err := policytest.Try(t, Kind(nil), tt.block); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%s) = %v, want %q", tt.block, err, tt.want)
		}
	}
}

func TestExplain(t *testing.T) {
	p := newPolicy(t, `compress { types = ["text/*", "application/*+json", "text/event-stream"] }`)
	if got, want := p.Explain(), "zstd, br, gzip for text/*, application/*+json, text/event-stream, from 1024 bytes"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: br")
	if got, want := p.Test(x), "compresses with br what is of those types and long enough"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	x = policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: br", "Sec-Fetch-Site: cross-site")
	x.Conn = &exchange.Conn{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}}
	if got, want := p.Test(x), "leaves responses as they are: another site's page has made the request, with what says who the user is"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
}

// pieces is a body that comes in pieces; what is behind one isn't at hand before
// Read has waited for it.
type pieces struct {
	list   []string
	at     int // pieces that Read has given
	read   int // bytes of the next
	err    error
	closed bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.at == len(p.list) {
		return 0, p.err
	}
	n := copy(b, p.list[p.at][p.read:])
	if p.read += n; p.read == len(p.list[p.at]) {
		p.at, p.read = p.at+1, 0
	}
	return n, nil
}

func (p *pieces) Next() ([]byte, bool) { return nil, false }

func (p *pieces) Close() error { p.closed = true; return nil }

// TestStream: what has come goes on, decodable, before more is waited for; one
// whose length is known isn't flushed.
func TestStream(t *testing.T) {
	for c := range codings {
		p := newPolicy(t, fmt.Sprintf("compress {\n encodings = [%q]\n types = [\"text/event-stream\"]\n}", names[c]))
		for _, known := range []bool{false, true} {
			src := &pieces{err: io.EOF}
			for i := range 20 {
				src.list = append(src.list, fmt.Sprintf("data: %d %s\n\n", i, strings.Repeat("x", i*i*i)))
			}
			x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: *")
			policytest.Answer(x, 200, "", "Content-Type: text/event-stream")
			x.ResponseBody, x.ResponseLength = src, -1
			if known {
				x.ResponseLength = int64(len(strings.Join(src.list, "")))
			}
			p.Encode(x)
			var out []byte
			reads := 0
			for buf := make([]byte, 4096); ; {
				n, err := x.ResponseBody.Read(buf)
				out = append(out, buf[:n]...)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if reads++; !known && n < len(buf) { // all that there is
					want := strings.Join(src.list[:src.at], "")
					got := make([]byte, len(want))
					if n, err := io.ReadFull(decoder(t, c, bytes.NewReader(out)), got); err != nil || string(got) != want {
						t.Fatalf("%s: %d pieces have come, of which %d bytes can be read: %v", names[c], src.at, n, err)
					}
				}
			}
			if got := string(decode(t, c, out)); got != strings.Join(src.list, "") {
				t.Errorf("%s: %d bytes came", names[c], len(got))
			}
			if known && reads > 2 {
				t.Errorf("%s: %d reads of a body that isn't flushed", names[c], reads)
			}
			p.Finish(x)
		}
		list, _ := p.store.Counts()
		if len(list) != 1 || list[0].Coding != names[c] || list[0].Responses != 2 || list[0].In < list[0].Out || list[0].Out == 0 {
			t.Errorf("counts: %+v", list)
		}
	}
}

// TestBrokenOff: a body that breaks off gives the service's error, never an end,
// and what it held is given back, whoever closes it.
func TestBrokenOff(t *testing.T) {
	broken := errors.New("broken off")
	for c := range codings {
		p := newPolicy(t, fmt.Sprintf(`compress { encodings = [%q] }`, names[c]))
		src := &pieces{list: []string{text}, err: broken}
		x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: *")
		policytest.Answer(x, 200, "", "Content-Type: text/plain")
		x.ResponseBody, x.ResponseLength = src, -1
		p.Encode(x)
		if p.store.Used() != memory[c] {
			t.Errorf("%d bytes are taken", p.store.Used())
		}
		if _, err := io.ReadAll(x.ResponseBody); !errors.Is(err, broken) {
			t.Errorf("%s: %v", names[c], err)
		}
		if err := x.ResponseBody.Close(); err != nil || !src.closed || p.store.Used() != 0 {
			t.Errorf("Close: %v, closed %t, %d bytes stay taken", err, src.closed, p.store.Used())
		}
		p.Finish(x)
		if x.ResponseBody != nil || p.store.Used() != 0 {
			t.Error("it stays")
		}
	}
}

// TestRoom: without room for an encoder a response goes as it is, and says on what
// that depends.
func TestRoom(t *testing.T) {
	scarce := false
	s := NewStore(func() bool { return scarce })
	s.most = memory[gzipCoding]
	p := policytest.Policy(t, Kind(s), all).(*Policy)
	send := func() *exchange.Exchange {
		x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: gzip")
		policytest.Answer(x, 200, "", "Content-Type: text/plain", `ETag: "a"`)
		x.ResponseBody, x.ResponseLength = &pieces{list: []string{text}, err: io.EOF}, -1
		p.Encode(x)
		return x
	}
	first, second := send(), send()
	if got, name := plain(t, second); name != "" || got != text || value(&second.Response, &second.ResponseEdits, exchange.ETag) != `"a"` {
		t.Errorf("the second came %q coded, %d bytes", name, len(got))
	}
	if got, name := plain(t, first); name != "gzip" || got != text {
		t.Errorf("the first came %q coded, %d bytes", name, len(got))
	}
	scarce = true
	third := send()
	if _, name := plain(t, third); name != "" {
		t.Errorf("the third came %q coded", name)
	}
	if _, skipped := s.Counts(); skipped["test"] != 2 {
		t.Errorf("skipped: %v", skipped)
	}
	s.Retain(nil)
	if list, skipped := s.Counts(); len(list)+len(skipped) != 0 {
		t.Errorf("kept: %v, %v", list, skipped)
	}
}

// TestTrailers: with some, the length isn't told beforehand, since HTTP/1.1 has
// them only behind chunks; and one with another tag doesn't pass.
func TestTrailers(t *testing.T) {
	p := newPolicy(t, all)
	x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: gzip")
	policytest.Answer(x, 200, text, "Content-Type: text/plain", "Trailer: X-Sum")
	x.ResponseTrailer.Append("X-Sum", "1")
	x.ResponseLength = -1
	p.Encode(x)
	if x.ResponseLength != -1 || !x.ResponseEdits.MayTrail("X-Sum", exchange.Other) || x.ResponseEdits.MayTrail("ETag", exchange.ETag) {
		t.Errorf("the length is %d", x.ResponseLength)
	}
}
