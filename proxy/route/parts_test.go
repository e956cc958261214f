package route

import (
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "A", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"*b*", "abc", true}, {"*b*", "ac", false},
		{"~(?i)^B", "bc", true}, {"~^b", "ab", false}, {"*", "", true}, {"", "", true}, {"", "a", false},
	} {
		p, err := CompilePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Matches(tt.s); got != tt.want {
			t.Errorf("%q.Matches(%q) = %t, want %t", tt.pattern, tt.s, got, tt.want)
		}
	}
	if _, err := CompilePattern("~("); err == nil {
		t.Error("a broken expression is taken")
	}
}

func TestPaths(t *testing.T) {
	p, err := CompilePaths([]string{"/a", "/b/*", "/c/{id}/d"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"/a": true, "/%61": true, "/a/": false, "//a": true, "/x/../a": true, "/b": true, "/b/c": true, "/bc": false, "/c/1/d": true, "/c//d": false, "/A": false, "/": false,
	} {
		x := &exchange.Exchange{}
		x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: "https"}, nil)
		x.Method, x.RawHost, x.RawTarget = "GET", "a.test", path
		if f := x.Canonicalise(); f != nil {
			t.Fatal(f)
		}
		x.Params = append(x.Params, exchange.Param{Name: "id", Value: "7"})
		if got := p.Has(x); got != want {
			t.Errorf("Has(%s) = %t, want %t", path, got, want)
		}
		if len(x.Params) != 1 {
			t.Error("the route's parameters are gone")
		}
	}
}
