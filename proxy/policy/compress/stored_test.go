package compress

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// shelf keeps codings as the cache does.
type shelf struct {
	content []byte
	kept    map[string][]byte
	made    int
	full    bool
}

func (s *shelf) Encoded(coding string, encode func([]byte) ([]byte, bool)) ([]byte, bool) {
	if b := s.kept[coding]; b != nil {
		return b, true
	}
	if encode == nil || s.full {
		return nil, false
	}
	b, ok := encode(s.content)
	if ok {
		s.made++
		s.kept[coding] = b
	}
	return b, ok
}

func storedAnswer(t testing.TB, method, accept, content string, s *shelf) *exchange.Exchange {
	x := policytest.Exchange(t, method+" https://api.example.com/", "Accept-Encoding: "+accept)
	policytest.Answer(x, 200, content, "Content-Type: text/html", `ETag: "a"`)
	s.content, x.Stored = []byte(content), s
	x.ResponseLength = int64(len(content))
	return x
}

// TestStored: what is stored is encoded once, in each coding, at a level that saves
// more than that for what passes, and has a length.
func TestStored(t *testing.T) {
	for c := range codings {
		for _, content := range []string{text, strings.Repeat(text, 1000)} { // the latter is too long to be encoded thoroughly
			p, s := newPolicy(t, all), &shelf{kept: map[string][]byte{}}
			x := storedAnswer(t, "HEAD", names[c], content, s)
			p.Encode(x)
			if x.ResponseLength != -1 {
				t.Errorf("%s: HEAD says %d bytes before there are any", names[c], x.ResponseLength)
			}
			for range 2 {
				x := storedAnswer(t, "GET", names[c], content, s)
				p.Encode(x)
				if x.ResponseLength != int64(len(s.kept[names[c]])) || value(&x.Response, &x.ResponseEdits, exchange.ETag) != `W/"a"` {
					t.Errorf("%s: %d bytes", names[c], x.ResponseLength)
				}
				if got, name := plain(t, x); got != content || name != names[c] {
					t.Errorf("%s: %d bytes in %s", names[c], len(got), name)
				}
			}
			x = storedAnswer(t, "HEAD", names[c], content, s)
			p.Encode(x)
			if x.ResponseLength != int64(len(s.kept[names[c]])) {
				t.Errorf("%s: HEAD says %d bytes", names[c], x.ResponseLength)
			}
			if s.made != 1 {
				t.Errorf("%s is made %d times", names[c], s.made)
			}
			if n := p.counts.byCoding[c].responses.Load(); n != 2 {
				t.Errorf("%d responses are counted", n)
			}
			if n := p.store.Used(); n != 0 {
				t.Errorf("%d bytes are still taken", n)
			}
			s.full, s.kept = true, nil
			x = storedAnswer(t, "GET", names[c], content, s)
			p.Encode(x)
			if got, name := plain(t, x); got != content || name != names[c] {
				t.Errorf("without room %s: %d bytes in %s", names[c], len(got), name)
			}
			p.Finish(x)
		}
	}
}

func TestDecode(t *testing.T) {
	for c := range codings {
		p := newPolicy(t, all)
		b, ok := p.encoded(c, []byte(text))
		if !ok {
			t.Fatal(names[c])
		}
		read := func(b []byte, err error) (string, error) {
			d := p.Decode(names[c], &pieces{list: []string{string(b[:len(b)/3]), string(b[len(b)/3:])}, err: err})
			if out, done := d.Next(); len(out) > 0 || done {
				t.Errorf("%s: %d bytes at once", names[c], len(out))
			}
			got, err := io.ReadAll(d)
			_ = d.Close()
			return string(got), err
		}
		if got, err := read(b, io.EOF); got != text || err != nil {
			t.Errorf("%s: %d bytes, %v", names[c], len(got), err)
		}
		for what, in := range map[string][]byte{"half": b[:len(b)/2], "nothing": nil, "something else": []byte(text)} {
			if c == zstdCoding && in == nil {
				continue // no frame at all is empty content (RFC 8878, 3.1)
			}
			if _, err := read(in, io.EOF); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, %s: %v", names[c], what, err)
			}
		}
		fault := exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "test")
		var f *exchange.Fault
		if _, err := read(b[:len(b)/2], fault); !errors.As(err, &f) {
			t.Errorf("%s, a fault: %v", names[c], err)
		}
		d := p.Decode(names[c], &pieces{list: []string{string(b)}, err: io.EOF})
		_, _ = d.Read(make([]byte, 1))
		if err := errors.Join(d.Close(), d.Close()); err != nil { // twice
			t.Error(err)
		}
	}
}

func TestCoded(t *testing.T) {
	p := newPolicy(t, all)
	for _, tt := range []struct {
		status int
		fields string
		want   string
	}{
		{200, "Content-Encoding: gzip", "gzip"}, {200, "Content-Encoding: GZip", "gzip"}, {200, "Content-Encoding: x-gzip", "gzip"}, {200, "Content-Encoding: br", "br"}, {200, "Content-Encoding: zstd", "zstd"},
		{200, "X-A: 1", ""}, {200, "Content-Encoding: deflate", ""}, {200, "Content-Encoding: gzip, br", ""}, {200, "Content-Encoding: identity", ""}, {200, "Content-Encoding: gzip|Content-Encoding: br", ""},
		{206, "Content-Encoding: gzip|Content-Range: bytes 0-1/2", ""}, {200, "Content-Encoding: gzip|Cache-Control: no-transform", ""}, {200, "Content-Encoding: gzip|Repr-Digest: sha-256=:YQ==:", ""},
	} {
		x := policytest.Exchange(t, "GET https://api.example.com/")
		policytest.Answer(x, tt.status, "x", strings.Split(tt.fields, "|")...)
		if got := p.Coded(x); got != tt.want {
			t.Errorf("%d %s: %q, want %q", tt.status, tt.fields, got, tt.want)
		}
	}
}

// TestThorough: the levels for what is kept make less of it.
func TestThorough(t *testing.T) {
	var b bytes.Buffer
	for i := range 3000 {
		b.WriteString(strings.Repeat("{\"id\": ", i%3))
		b.WriteString(text[i%len(text) : i%len(text)+min(20, len(text)-i%len(text))])
		b.WriteByte(byte('a' + i*i%23))
	}
	p := newPolicy(t, all)
	for c := range codings {
		kept, err := p.store.thorough(c, b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		enc, err := p.store.coder(c)
		if err != nil {
			t.Fatal(err)
		}
		passing, _ := enc.write(nil, b.Bytes())
		if passing, err = enc.finish(passing); err != nil || len(kept) >= len(passing) {
			t.Errorf("%s: %d bytes, %d for what passes: %v", names[c], len(kept), len(passing), err)
		}
	}
}
