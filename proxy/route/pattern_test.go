package route

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// FuzzPath: a path pattern that compiles is the one of what it was made of, and
// one without parameters or "*" takes the request for itself.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/*", "/a/b", "/a/{id}/*", "/a b/", "/%61/\xc3\xa9", "/{a}/{a}", "/..", "//", "/a*", "/{", "/%2f", "/a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var pp pathParser
		p, err := pp.parse(text)
		if err != nil {
			return
		}
		if len(p.segments) != len(p.wild) || len(p.segments) > maxSegments {
			t.Fatalf("%q: %+v", text, p)
		}
		if p.kind != exactPath {
			return
		}
		x := &exchange.Exchange{Method: "GET", RawTarget: text, RawHost: "h", Proto: exchange.HTTP11, Conn: &exchange.Conn{}}
		if fault := x.Canonicalise(); fault != nil || x.Target.Path != p.exact {
			t.Errorf("path %q is %q, as a request %q, %v", text, p.exact, x.Target.Path, fault)
		}
		if q, err := pp.parse(p.exact); err != nil || q.exact != p.exact {
			t.Errorf("path %q is %q, and that %q, %v", text, p.exact, q.exact, err)
		}
	})
}

// FuzzHost: a host that compiles is its own canonical form, and the host of a
// request.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"a.test", "*.A.test", "[::1]", "*", "a.test.", "a..b", "a:80", "xn--a", "*a.b", "[", "*.", "a_b.c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, wild, err := parseHost(text)
		if err != nil {
			return
		}
		if wild != strings.HasPrefix(text, "*.") || wild && host[0] != '.' {
			t.Fatalf("%q is %q, %v", text, host, wild)
		}
		if text[0] == '[' {
			return
		}
		again := host
		if wild {
			again = "*" + host
		}
		if h, w, err := parseHost(again); err != nil || h != host || w != wild {
			t.Errorf("%q is %q, and that %q, %v", text, host, h, err)
		}
		x := &exchange.Exchange{Method: "GET", RawTarget: "/", RawHost: strings.TrimPrefix(host, "."), Proto: exchange.HTTP11, Conn: &exchange.Conn{}}
		if fault := x.Canonicalise(); fault != nil || x.Target.Host != strings.TrimPrefix(host, ".") {
			t.Errorf("host %q is that of no request: %q, %v", host, x.Target.Host, fault)
		}
	})
}

// FuzzValue compares patterns of fields and parameters with expressions, and
// where parameters are with net/url.
func FuzzValue(f *testing.F) {
	for _, s := range []string{"", "a", "a*", "*a", "*a*", "*", "**", "~^a+$", "a*b", "~("} {
		f.Add(s, "abc", "q=a%62c&q=x&%71=y+z")
		f.Add(s, "a", "q=")
	}
	f.Fuzz(func(t *testing.T, pattern, value, query string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(value) {
			return // to an expression, all bytes that aren't are the same
		}
		v, err := compileValue("q", pattern)
		if err != nil {
			return
		}
		re := v.re
		if v.kind != valueExpression {
			head, tail := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
			expr := regexp.QuoteMeta(strings.TrimSuffix(strings.TrimPrefix(pattern, "*"), "*"))
			if !head {
				expr = "^" + expr
			}
			if !tail {
				expr += "$"
			}
			re = regexp.MustCompile("(?s)" + expr)
		}
		if got, want := v.matches(value), re.MatchString(value); got != want {
			t.Errorf("%q takes %q: %v, want %v", pattern, value, got, want)
		}
		if got, want := v.matchesEscaped(url.QueryEscape(value)), re.MatchString(value); got != want {
			t.Errorf("%q takes %q escaped: %v, want %v", pattern, value, got, want)
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		want := false
		for _, s := range values["q"] {
			if !utf8.ValidString(s) {
				return
			}
			want = want || re.MatchString(s)
		}
		if got := v.inQuery(query); got != want {
			t.Errorf("%q takes %q: %v, want %v", pattern, query, got, want)
		}
	})
}

// FuzzParams: what templates may use are the parameters of the pattern.
func FuzzParams(f *testing.F) {
	f.Add("/a/{id}/{x_1}/*")
	f.Add("/{}/{1}/{a b}")
	f.Fuzz(func(t *testing.T, text string) {
		var pp pathParser
		p, err := pp.parse(text)
		if err != nil {
			return
		}
		names := Params([]string{text})
		if len(names) != len(p.names) {
			t.Errorf("Params(%q) = %q, want %q", text, names, p.names)
		}
		for _, name := range names {
			if path.Base(name) != name || !strings.Contains(text, "{"+name+"}") {
				t.Errorf("Params(%q) has %q", text, name)
			}
		}
	})
}
