package waf

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// FuzzBody: whatever a body is, how it is framed, in which pieces it comes and
// how it is read, the service gets the same bytes, or the request is refused.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"", "a", `{"a":"b"}`, "<a/>", "a=b&c=d", "--XyZ\r\n\r\n\r\n--XyZ--", strings.Repeat("x", 1024), strings.Repeat("y", 1025), strings.Repeat("z", 3000)} {
		for media := range uint8(6) {
			f.Add([]byte(s), media, uint16(7), uint16(100), true, media%2 == 0)
		}
	}
	s := shared()
	refuse := newPolicy(f, s, "waf {\n mode = \"detect\"\n body = \"1KiB\"\n}")
	pass := newPolicy(f, s, "waf {\n body = \"1KiB\"\n beyond = \"pass\"\n uninspected = [\"image/png\"]\n}")
	few, _, _ := strings.Cut(pass.text, "Include") // the rules have no part in it, and are slow
	lean, err := newEngine(few)
	if err != nil {
		f.Fatal(err)
	}
	refuse.engine, pass.engine = lean, lean
	fields := []string{asForm, asJSON, asXML, asText, asPart, "Content-Type: image/png"}
	f.Fuzz(func(t *testing.T, body []byte, media uint8, size, chunk uint16, known, next bool) {
		for _, p := range []*Policy{refuse, pass} {
			x := request(t, "POST /", fields[int(media)%len(fields)])
			x.RequestBody, x.RequestLength = &pieces{b: body, size: int(size)%5000 + 1}, -1
			if known {
				x.RequestLength = int64(len(body))
			}
			if _, err := p.Request(x); err != nil {
				if p == refuse {
					t.Fatalf("mode detect refuses: %v", err)
				}
				continue
			}
			if got := drain(t, x.RequestBody, int(chunk)%5000+1, next); !bytes.Equal(got, body) {
				t.Fatalf("%d bytes of %d arrive, or others", len(got), len(body))
			}
			if s.held.Load() != 0 {
				t.Fatal("it holds memory")
			}
		}
	})
}

// drain reads a body to its end, by Next as far as that goes.
func drain(t *testing.T, b exchange.Body, chunk int, next bool) (all []byte) {
	for next {
		part, done := b.Next()
		all = append(all, part...)
		if done {
			if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatalf("behind the end: %d, %v", n, err)
			}
			return all
		}
		next = len(part) > 0
	}
	buf := make([]byte, chunk)
	for {
		n, err := b.Read(buf)
		all = append(all, buf[:n]...)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzFlatten: encoding/json reads what flatten takes for a document, and every
// text in it was given, except harmless ones.
func FuzzFlatten(f *testing.F) {
	for _, s := range []string{`{"a":{"b":["x","y"]},"c":null}`, `[1,"2",true]`, `"a"`, `{"a":"\u003cscript>","a":"b"}`, `{"a":1}{`, `[[[[]]]]`, "{\"\xff\":1}", `nul`, ``, `{"a" 1}`, `[,]`, `"\ud800"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		values, names := map[string]bool{}, map[string]bool{}
		rest := flatten(doc, func(name, value string) bool {
			values[value], names[name] = true, true
			return true
		})
		valid := json.Valid(doc) && utf8.Valid(doc)
		if rest == nil && !valid {
			t.Fatalf("%q passes for JSON", doc)
		}
		if rest != nil && valid && depth(doc) <= mostDepth {
			t.Fatalf("%q isn't read to its end: %q", doc, rest)
		}
		var v any
		if rest != nil || json.Unmarshal(doc, &v) != nil {
			return
		}
		walkValues(v, "json", func(name, value string) {
			if !names[name] {
				t.Fatalf("%q: no %q", doc, name)
			}
			if !harmless(value) && !values[value] {
				t.Fatalf("%q: no value %q", doc, value)
			}
		})
	})
}

func depth(doc []byte) (most int) {
	d := json.NewDecoder(bytes.NewReader(doc))
	n := 0
	for {
		token, err := d.Token()
		if err != nil {
			return most
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			n++
		case json.Delim('}'), json.Delim(']'):
			n--
		}
		most = max(most, n)
	}
}

func walkValues(v any, name string, f func(name, value string)) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			walkValues(e, name+"."+k, f)
		}
	case []any:
		for _, e := range v {
			walkValues(e, name, f)
		}
	case string:
		f(name, v)
	default:
		f(name, "")
	}
}
