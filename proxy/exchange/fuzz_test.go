package exchange

import (
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"
)

func canonicalOf(method, target, host string, p Proto) (*Exchange, *Fault) {
	x := &Exchange{Proto: p, Method: method, RawTarget: target, RawHost: host, Conn: &Conn{Scheme: "https"}}
	f := x.Canonicalise()
	return x, f
}

// FuzzCanonicalise: a canonical target has one reading, is its own canonical
// form, and names what net/url reads in what came.
func FuzzCanonicalise(f *testing.F) {
	for _, target := range []string{
		"/", "/a/b/../c/./d//e?f=g", "/%61%2f", "/%E2%82%AC/\xe2\x82\xac", "/a;b=c/@:!$&'()*+,;=", "*", "http://A.test:80/x?y", "https://h?q",
		"/a%2e%2e/b", "/..%2f", "/a\\b", "/%c0%af", "/a|b{c}^`\"<>", "//h/x", "/x?a=%2f../#", "/.../.a/..b",
	} {
		f.Add(target, "a.test", false)
		f.Add(target, "A.TEST.:8080", true)
	}
	for _, host := range []string{"[::1]:80", "[FE80::1%25a]", "1.2.3.4", "a_b.c", "a..b", "xn--a", "[::ffff:1.2.3.4]", ":80", "a:", "[]", "a.:1"} {
		f.Add("/", host, false)
	}
	f.Fuzz(func(t *testing.T, target, host string, options bool) {
		method := "GET"
		if options {
			method = "OPTIONS"
		}
		x, fault := canonicalOf(method, target, host, HTTP2)
		if fault != nil {
			return
		}
		checkPath(t, x.Target.Path, options)
		checkHost(t, &x.Target)
		again := x.Target.Path
		if x.Target.HasQuery {
			again += "?" + x.Target.Query
		}
		y, fault := canonicalOf(method, again, x.Target.Authority, HTTP2)
		if fault != nil || y.Target != x.Target {
			t.Fatalf("%q %q is %+v, and that %+v, %v", target, host, x.Target, y.Target, fault)
		}
		if x.Target.Path != "*" {
			comparePath(t, target, &x.Target)
		}
	})
}

// checkPath: segments that are neither empty nor dots, in which everything that
// has another reading is escaped, or refused (RFC 3986, 3.3 and 6.2.2).
func checkPath(t *testing.T, p string, options bool) {
	t.Helper()
	if p == "*" && options {
		return
	}
	if p == "" || p[0] != '/' || strings.Contains(p, "//") {
		t.Fatalf("path %q", p)
	}
	for s := range strings.SplitSeq(p, "/") {
		if s == "." || s == ".." {
			t.Fatalf("path %q has dots", p)
		}
	}
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '/' || plain[c]:
		case c != '%' || i+2 >= len(p) || strings.Trim(p[i+1:i+3], upperHex) != "":
			t.Fatalf("path %q has %q", p, c)
		default:
			b, _ := octet(p[i:])
			if b < 0x20 || b == 0x7f || unreserved(b) || strings.IndexByte(`/\%;#?`, b) >= 0 {
				t.Fatalf("path %q has %q", p, p[i:i+3])
			}
			i += 2
		}
	}
	if s, err := url.PathUnescape(p); err != nil || !utf8.ValidString(s) {
		t.Fatalf("path %q is %q, %v", p, s, err)
	}
}

// checkHost: in lower case, and to net/url host and port are the same
// (RFC 3986, 3.2.2).
func checkHost(t *testing.T, g *Target) {
	t.Helper()
	u, err := url.Parse("http://" + g.Authority + "/")
	if err != nil || u.Host != g.Authority || u.Hostname() != g.Host || u.Port() != g.Port || u.User != nil {
		t.Fatalf("target %+v is to net/url %+v, %v", g, u, err)
	}
	if strings.Trim(g.Host, "abcdefghijklmnopqrstuvwxyz0123456789-._:") != "" || g.Host == "" || strings.HasSuffix(g.Authority, ".") {
		t.Fatalf("host %q", g.Host)
	}
}

// comparePath: net/url reads the same path, once package path has cleaned it.
func comparePath(t *testing.T, raw string, g *Target) {
	t.Helper()
	if !strings.Contains(raw, "://") || raw[0] == '/' {
		raw = "http://h" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatalf("net/url can't read %q, which is %+v: %v", raw, g, err)
	}
	want := path.Clean("/" + u.Path)
	last := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	if want != "/" && (last == "" || last == "." || last == "..") {
		want += "/"
	}
	if got, err := url.PathUnescape(g.Path); err != nil || got != want {
		t.Fatalf("%q: path is %q, %v, to net/url %q", raw, got, err, want)
	}
	if u.RawQuery != g.Query {
		t.Fatalf("%q: query is %q, to net/url %q", raw, g.Query, u.RawQuery)
	}
}

// FuzzUnescaped: as net/url decodes a form, but for broken escapes.
func FuzzUnescaped(f *testing.F) {
	for _, s := range []string{"", "a+b", "%41%2B%zz", "%", "%4", "100%25"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(AppendUnescaped([]byte("x"), s))
		if want, err := url.QueryUnescape(s); err == nil && got != "x"+want {
			t.Errorf("AppendUnescaped(%q) = %q, want %q", s, got[1:], want)
		}
		if len(got) > 1+len(s) {
			t.Errorf("AppendUnescaped(%q) grew to %q", s, got)
		}
	})
}

// FuzzTokens: EachToken gives what splitting at commas and trimming does.
func FuzzTokens(f *testing.F) {
	for _, s := range []string{"", "a", "a, b ,,\tc\t", ", ,", "a;q=1, \"b,c\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want []string
		for e := range strings.SplitSeq(s, ",") {
			if e = strings.Trim(e, " \t"); e != "" {
				want = append(want, e)
			}
		}
		n := 0
		EachToken(s, func(e string) bool {
			if n >= len(want) || want[n] != e {
				t.Errorf("token %d of %q is %q, want %q", n, s, e, want)
			}
			n++
			return true
		})
		if n != len(want) {
			t.Errorf("%d tokens in %q, want %q", n, s, want)
		}
	})
}
