package exchange

import "testing"

func TestCanonicalisePath(t *testing.T) {
	tests := []struct{ in, want string }{ // want "": refused
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"//a///b//", "/a/b/"},
		{"/a/./b/.", "/a/b/"},
		{"/a/../b", "/b"},
		{"/a/b/..", "/a/"},
		{"/a/b/../", "/a/"},
		{"/a/b/../../c", "/c"},
		{"/..", ""},
		{"/a/../..", ""},
		{"/a/%2e%2e/b", ""},
		{"/%2e/x", ""},
		{"/.%2e/x", ""},
		{"/a/.../b", "/a/.../b"},
		{"/.well-known/x", "/.well-known/x"},
		{"/%61%7e%2D", "/a~-"},
		{"/%c3%a9", "/%C3%A9"},
		{"/\xc3\xa9", "/%C3%A9"},
		{"/\xc3%a9", "/%C3%A9"},
		{"/%c3", ""},
		{"/%c0%af", ""},
		{"/%ff", ""},
		{"/%ed%a0%80", ""},
		{"/%ef%bf%bd", "/%EF%BF%BD"},
		{"/a%2fb", ""},
		{"/a%5Cb", ""},
		{"/a\\b", ""},
		{"/a%00", ""},
		{"/a%25b", ""},
		{"/a%3bb", ""},
		{"/a%23", ""},
		{"/a%3f", ""},
		{"/a%", ""},
		{"/a%2", ""},
		{"/a%zz", ""},
		{"/a%0d%0a", ""},
		{"/a%20b", "/a%20b"},
		{"/a%2cb", "/a%2Cb"},
		{"/a;v=1", "/a;v=1"},
		{"/a|b{c}", "/a%7Cb%7Bc%7D"},
		{"*", ""},
		{"a", ""},
		{"/a#b", ""},
	}
	for _, tt := range tests {
		x := &Exchange{Proto: HTTP11, Method: "GET", RawTarget: tt.in, RawHost: "h", Conn: &Conn{Scheme: "https"}}
		f := x.Canonicalise()
		got := x.Target.Path
		if f != nil {
			got = ""
		}
		if got != tt.want {
			t.Errorf("Canonicalise(%q) = %q (%v), want %q", tt.in, got, f, tt.want)
		}
		if f == nil {
			y := &Exchange{Proto: HTTP11, Method: "GET", RawTarget: got, RawHost: "h", Conn: &Conn{}}
			if f := y.Canonicalise(); f != nil || y.Target.Path != got {
				t.Errorf("Canonicalise(%q) isn't stable: %q (%v)", got, y.Target.Path, f)
			}
		}
	}
}

func TestWithoutParameters(t *testing.T) {
	for in, want := range map[string]string{ // want "": refused
		"/a/b":                 "/a/b",
		"/a;v=1":               "/a",
		"/a;v=1/b;w=2,3/c":     "/a/b/c",
		"/;/a":                 "/a",
		"/a/;/b":               "/a/b",
		"/a/;x":                "/a/",
		"/;":                   "/",
		"/a;;b/":               "/a/",
		"//a;b//c":             "/a/c",
		"/a/%2c;%61/b":         "/a/%2C/b",
		"/x?a;b":               "/x",
		"/a/..;/b":             "",
		"/a/.;x/b":             "",
		"/..;x=y":              "",
		"/a/...;x":             "/a/...",
		"/a/..b;x":             "/a/..b",
		"/a/x;/../b":           "/a/b",
		"/a;%2e%2e/b":          "/a/b",
		"/a/%2e%2e;/b":         "",
		"/a/.%2e;x/b":          "",
		"/a%3bb":               "",
		"/a;b%2fc":             "",
		"/\u00e9;x/\u00e9":     "/%C3%A9/%C3%A9",
		"/a;b=c;d/e;f/g;h;/i;": "/a/e/g/i",
	} {
		x := &Exchange{Proto: HTTP11, Method: "GET", RawTarget: in, RawHost: "h", Conn: &Conn{Scheme: "https"}}
		f := x.Canonicalise()
		got := x.Target.WithoutParameters()
		if f != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q without parameters is %q (%v), want %q", in, got, f, want)
		}
	}
}

func TestCanonicaliseHost(t *testing.T) {
	tests := []struct{ target, in, host, port, authority string }{ // host "": refused
		{"/", "example.com", "example.com", "", "example.com"},
		{"/", "Example.COM.", "example.com", "", "example.com"},
		{"/", "example.com:8443", "example.com", "8443", "example.com:8443"},
		{"/", "EXAMPLE.com.:8443", "example.com", "8443", "example.com:8443"},
		{"/", "example.com:", "example.com", "", "example.com"},
		{"/", "[::1]:80", "::1", "80", "[::1]:80"},
		{"/", "[FE80::1]", "fe80::1", "", "[fe80::1]"},
		{"/", "127.0.0.1", "127.0.0.1", "", "127.0.0.1"},
		{"http://a.test/x?y", "a.test", "a.test", "", "a.test"},
		{"http://a.test", "b.test", "", "", ""},
		{"ftp://a.test/", "a.test", "", "", ""},
		{"/", "", "", "", ""},
		{"/", "a..b", "", "", ""},
		{"/", ".a", "", "", ""},
		{"/", ".", "", "", ""},
		{"/", "a b", "", "", ""},
		{"/", "a/b", "", "", ""},
		{"/", "user@a", "", "", ""},
		{"/", "a:80:80", "", "", ""},
		{"/", "a:x", "", "", ""},
		{"/", "a:123456", "", "", ""},
		{"/", "[::1", "", "", ""},
		{"/", "[1.2.3.4]", "", "", ""},
		{"/", "[::1]x", "", "", ""},
	}
	for _, tt := range tests {
		x := &Exchange{Proto: HTTP11, Method: "GET", RawTarget: tt.target, RawHost: tt.in, Conn: &Conn{Scheme: "https"}}
		f := x.Canonicalise()
		if f != nil {
			if tt.host != "" {
				t.Errorf("Canonicalise(%q) = %v, want %q", tt.in, f, tt.host)
			}
			continue
		}
		if x.Target.Host != tt.host || x.Target.Port != tt.port || x.Target.Authority != tt.authority {
			t.Errorf("Canonicalise(%q) = %q %q %q, want %q %q %q", tt.in, x.Target.Host, x.Target.Port, x.Target.Authority, tt.host, tt.port, tt.authority)
		}
	}
}

func TestLookup(t *testing.T) {
	for id := Other + 1; id < lastID; id++ {
		if got := Lookup(names[id]); got != id {
			t.Errorf("Lookup(%q) = %v, want %v", names[id], got, id)
		}
	}
	if got := Lookup("X-Nope"); got != Other {
		t.Errorf("Lookup(X-Nope) = %v, want Other", got)
	}
}

func TestEdits(t *testing.T) {
	var e Edits
	e.Add("X-A", "1")
	e.Set("x-a", "2")
	e.Add("X-A", "3")
	e.Set("Host", "h")
	e.Remove("Cookie")
	var got []string
	for i := range e.Len() {
		if n, v, ok := e.Field(i); ok {
			got = append(got, n+"="+v)
		}
	}
	if want := "[x-a=2 X-A=3 Host=h]"; want != sprint(got) {
		t.Errorf("fields = %v, want %v", got, want)
	}
	for name, want := range map[string]bool{"X-A": true, "Cookie": true, "Host": true, "X-B": false, "Accept": false} {
		if got := e.Replaces(name, Lookup(name)); got != want {
			t.Errorf("Replaces(%q) = %v, want %v", name, got, want)
		}
	}
}

func sprint(s []string) string {
	out := "["
	for i, v := range s {
		if i > 0 {
			out += " "
		}
		out += v
	}
	return out + "]"
}

func TestQuery(t *testing.T) {
	for _, tt := range []struct {
		target string
		ok     bool
	}{
		{"/?", true}, {"/?a=b&c=%20", true}, {"/?\xc3\xa9", true}, {"/?a b", false}, {"/? HTTP/1.1", false}, {"/?a\tb", false}, {"/?a\x7f", false},
	} {
		x := &Exchange{Proto: HTTP2, Method: "GET", RawTarget: tt.target, RawHost: "h", Conn: &Conn{Scheme: "https"}}
		if f := x.Canonicalise(); (f == nil) != tt.ok || f != nil && f.Kind != BadPath {
			t.Errorf("Canonicalise(%q) = %v, want it accepted: %v", tt.target, f, tt.ok)
		}
	}
}

type pipe struct{ closed int }

func (*pipe) Read([]byte) (int, error)    { return 0, nil }
func (*pipe) Write(p []byte) (int, error) { return len(p), nil }
func (p *pipe) Close() error              { p.closed++; return nil }

// TestReplyClosesTheTunnel: nobody else would, when a policy refuses an upgrade
// that the backend took.
func TestReplyClosesTheTunnel(t *testing.T) {
	p := &pipe{}
	x := &Exchange{Method: "GET", Status: 101, Tunnel: p}
	x.Reply(403, "", nil)
	if p.closed != 1 || x.Tunnel != nil {
		t.Errorf("closed %d times, tunnel %v", p.closed, x.Tunnel)
	}
}
