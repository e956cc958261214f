package route

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// request makes an exchange from "METHOD host/path?query" and fields
// "Name: value".
func request(t testing.TB, line string, fields ...string) *exchange.Exchange {
	t.Helper()
	method, url, ok := strings.Cut(line, " ")
	if !ok {
		method, url = "GET", line
	}
	x := &exchange.Exchange{Proto: exchange.HTTP11, Conn: &exchange.Conn{Scheme: "https"}, Method: method}
	host, target := url, "*"
	if i := strings.IndexByte(url, '/'); i >= 0 {
		host, target = url[:i], url[i:]
	}
	x.RawHost, x.RawTarget = host, target
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		x.Request.Append(name, value)
	}
	if f := x.Canonicalise(); f != nil {
		t.Fatalf("Canonicalise(%q): %v", line, f)
	}
	return x
}

// isCondition is a when with a fixed answer.
type isCondition bool

func (c isCondition) Eval(*exchange.Exchange) bool { return bool(c) }

func precedenceRules() []Rule {
	return []Rule{
		{Name: "all"},
		{Name: "all-health", Paths: []string{"/healthz"}},
		{Name: "wild", Hosts: []string{"*.example.com"}},
		{Name: "wild-eu", Hosts: []string{"*.EU.example.com"}},
		{Name: "api", Hosts: []string{"API.example.com.", "api.eu.example.com"}},
		{Name: "orders", Hosts: []string{"api.example.com"}, Paths: []string{"/orders/*"}},
		{Name: "orders-new", Hosts: []string{"api.example.com"}, Paths: []string{"/orders/new"}},
		{Name: "order", Hosts: []string{"api.example.com"}, Paths: []string{"/orders/{id}"}},
		{Name: "items", Hosts: []string{"api.example.com"}, Paths: []string{"/orders/{id}/items"}},
		{Name: "new-any", Hosts: []string{"api.example.com"}, Paths: []string{"/orders/new/{what}"}},
		{Name: "all-items", Hosts: []string{"api.example.com"}, Paths: []string{"/orders/{id}/{what}/*"}},
		{Name: "deep", Hosts: []string{"api.example.com"}, Paths: []string{"/orders/archive/*"}},
		{Name: "post", Hosts: []string{"api.example.com"}, Paths: []string{"/c"}, Methods: []string{"POST"}},
		{Name: "get", Hosts: []string{"api.example.com"}, Paths: []string{"/c"}, Methods: []string{"GET", "PURGE"}},
		{Name: "get-v2", Hosts: []string{"api.example.com"}, Paths: []string{"/c"}, Methods: []string{"GET"}, Headers: map[string]string{"x-version": "2"}},
		{Name: "get-b", Hosts: []string{"api.example.com"}, Paths: []string{"/c"}, Methods: []string{"GET"}, Query: map[string]string{"b": "~^[0-9]+$"}},
		{Name: "café", Hosts: []string{"uni.test"}, Paths: []string{"/café/x y"}},
		{Name: "slash", Hosts: []string{"uni.test"}, Paths: []string{"/dir/", "/d/{id}/"}},
		{Name: "v6", Hosts: []string{"[::1]"}, Paths: []string{"/only"}},
		{Name: "never", Hosts: []string{"api.example.com"}, Paths: []string{"/when"}, When: isCondition(false), WhenText: "false"},
		{Name: "w1", Hosts: []string{"w.test"}, Paths: []string{"/{x}/b/c"}},
		{Name: "w2", Hosts: []string{"w.test"}, Paths: []string{"/a/{y}/{z}"}},
		{Name: "w3", Hosts: []string{"w.test"}, Paths: []string{"/{x}/{y}/c"}},
		{Name: "w4", Hosts: []string{"w.test"}, Paths: []string{"/{x}/*"}},
		{Name: "w5", Hosts: []string{"w.test"}, Paths: []string{"/a/*"}, Methods: []string{"PUT"}},
	}
}

func TestMatchPrecedence(t *testing.T) {
	rules := precedenceRules()
	m, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		in     string
		fields []string
		want   string
	}{
		{in: "other.test/", want: "all"},
		{in: "other.test/healthz", want: "all-health"},
		{in: "OPTIONS other.test", want: "all"},
		{in: "example.com/", want: "all"},
		{in: "x.example.com/", want: "wild"},
		{in: "x.y.example.com/", want: "wild"},
		{in: "xexample.com/", want: "all"},
		{in: "x.eu.example.com/", want: "wild-eu"},
		{in: "eu.example.com/", want: "wild"},
		{in: "api.example.com/", want: "api"},
		{in: "api.example.com:8443/", want: "api"},
		{in: "API.EU.example.com/healthz", want: "api"},
		{in: "api.example.com/orders", want: "orders"},
		{in: "api.example.com/orders/", want: "orders"},
		{in: "api.example.com/ordersx", want: "api"},
		{in: "api.example.com/Orders/", want: "api"},
		{in: "api.example.com/orders/new", want: "orders-new"},
		{in: "api.example.com//orders/./new", want: "orders-new"},
		{in: "api.example.com/orders/new/", want: "orders"},
		{in: "api.example.com/orders/a%20b", want: "order id=a%20b"},
		{in: "api.example.com/orders/7/items", want: "items id=7"},
		{in: "api.example.com/orders/new/items", want: "new-any what=items"},
		{in: "api.example.com/orders/7/lines", want: "all-items id=7 what=lines"},
		{in: "api.example.com/orders/7/lines/1/2", want: "all-items id=7 what=lines"},
		{in: "api.example.com/orders/7//", want: "orders"},
		{in: "api.example.com/orders/archive", want: "order id=archive"},
		{in: "api.example.com/orders/archive/", want: "deep"},
		{in: "api.example.com/orders/archive/1/2", want: "all-items id=archive what=1"},
		{in: "POST api.example.com/c", want: "post"},
		{in: "HEAD api.example.com/c", want: "get"},
		{in: "PURGE api.example.com/c", want: "get"},
		{in: "DELETE api.example.com/c", want: "api"},
		{in: "api.example.com/c", fields: []string{"X-Version: 1", "X-Version: 2"}, want: "get-v2"},
		{in: "api.example.com/c?a=1&b=%317", want: "get-b"},
		{in: "api.example.com/c?b=x", want: "get"},
		{in: "api.example.com/when", want: "api"},
		{in: "[::1]/only", want: "v6"},
		{in: "[::1]:80/", want: "all"},
		{in: "uni.test/caf%c3%a9/x%20y", want: "café"},
		{in: "uni.test/dir", want: "all"},
		{in: "uni.test/dir/", want: "slash"},
		{in: "uni.test/d/1", want: "all"},
		{in: "uni.test/d/1/", want: "slash id=1"},
		{in: "w.test/a/b/c", want: "w1 x=a"},
		{in: "w.test/a/q/c", want: "w2 y=q z=c"},
		{in: "w.test/b/q/c", want: "w3 x=b y=q"},
		{in: "w.test/a/q/d", want: "w2 y=q z=d"},
		{in: "w.test/a/q/d/e", want: "w4 x=a"},
		{in: "PUT w.test/a/q/d/e", want: "w5"},
		{in: "w.test/", want: "all"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			x := request(t, tt.in, tt.fields...)
			r := m.Match(x)
			if r.Rule < 0 {
				t.Fatalf("Match(%q) = %v, want %q", tt.in, r.Miss, tt.want)
			}
			got := rules[r.Rule].Name
			for _, p := range x.Params {
				got += " " + p.Name + "=" + p.Value
			}
			if got != tt.want {
				t.Errorf("Match(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestMatchMiss(t *testing.T) {
	m, err := Compile([]Rule{
		{Name: "a", Hosts: []string{"a.test"}, Paths: []string{"/x"}, Methods: []string{"POST", "PURGE"}},
		{Name: "b", Hosts: []string{"a.test"}, Paths: []string{"/x", "/{any}"}, Methods: []string{"GET"}},
		{Name: "c", Hosts: []string{"*.test"}, Paths: []string{"/x"}, Methods: []string{"PATCH"}, Headers: map[string]string{"A": "*"}},
		{Name: "d", Hosts: []string{"a.test"}, Paths: []string{"/h"}, Headers: map[string]string{"A": "1"}, When: isCondition(true), WhenText: "true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		in     string
		fields []string
		want   Result
	}{
		{in: "b.example/x", want: Result{Rule: -1, Miss: NoHost}},
		{in: "a.test/y/z", want: Result{Rule: -1, Miss: NoPath}},
		{in: "OPTIONS a.test", want: Result{Rule: -1, Miss: NoPath}},
		{in: "DELETE a.test/x", want: Result{Rule: -1, Miss: MethodNotAllowed, Allow: "PURGE, GET, HEAD, POST"}},
		{in: "DELETE a.test/x", fields: []string{"A: "}, want: Result{Rule: -1, Miss: MethodNotAllowed, Allow: "PURGE, GET, HEAD, POST, PATCH"}},
		{in: "get a.test/x", want: Result{Rule: -1, Miss: MethodNotAllowed, Allow: "PURGE, GET, HEAD, POST"}},
		{in: "POST a.test/h", fields: []string{"A: 2"}, want: Result{Rule: -1, Miss: MethodNotAllowed, Allow: "GET, HEAD"}},
		{in: "b.test/x", want: Result{Rule: -1, Miss: NoCondition}},
	}
	for _, tt := range tests {
		x := request(t, tt.in, tt.fields...)
		if got := m.Match(x); got != tt.want {
			t.Errorf("Match(%q) = %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

// TestParameters: services that don't take what stands behind a ";" for the path
// see another path than those that do; no request may be two routes'.
func TestParameters(t *testing.T) {
	m, err := Compile([]Rule{
		{Name: "open", Paths: []string{"/*"}},
		{Name: "admin", Paths: []string{"/admin/*"}},
		{Name: "exact", Paths: []string{"/exact"}},
		{Name: "user", Paths: []string{"/users/{id}/name"}},
		{Name: "host", Hosts: []string{"b.test"}, Paths: []string{"/{x}"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	miss := Result{Rule: -1, Miss: TwoRoutes}
	for in, want := range map[string]Result{
		"a.test/x;v=1/y":          {Rule: 0},
		"a.test/admin/x;v=1":      {Rule: 1},
		"a.test/admin/;":          {Rule: 1},
		"a.test/admin;v=1":        miss,
		"a.test/admin;/x":         miss,
		"a.test/;/admin/x":        miss,
		"a.test/x/../;v/admin/x":  miss,
		"a.test/exact;":           miss,
		"a.test/users/5;v/name":   {Rule: 3},
		"a.test/users;a/5/name":   miss,
		"a.test/users/;/5/name":   miss,
		"a.test/users/5/;/x/name": {Rule: 0},
		"b.test/x;y":              {Rule: 4},
		"b.test/;y":               miss, // "/", which no route of that host has, and open takes for others
	} {
		x := request(t, in)
		path := x.Target.Path
		if got := m.Match(x); got != want {
			t.Errorf("Match(%q) = %+v, want %+v", in, got, want)
		}
		if x.Target.Path != path {
			t.Errorf("Match(%q) leaves the path %q", in, x.Target.Path)
		}
	}
	x := request(t, "a.test/users/5;v/name")
	if m.Match(x); x.Params[0].Value != "5;v" {
		t.Errorf("parameter %q, want 5;v", x.Params[0].Value)
	}
}

func TestValue(t *testing.T) {
	tests := []struct {
		pattern, value string
		want           bool
	}{
		{"2", "2", true}, {"2", "22", false}, {"", "", true}, {"", "x", false},
		{"*", "", true}, {"**", "x", true}, {"a*", "abc", true}, {"a*", "ba", false},
		{"*c", "abc", true}, {"*c", "cb", false}, {"*b*", "abc", true}, {"*b*", "ac", false},
		{"a*c", "a*c", true}, {"a*c", "abc", false},
		{"~b", "abc", true}, {"~^b", "abc", false}, {"~(?i)^ABC$", "abc", true},
	}
	for _, tt := range tests {
		v, err := compileValue("X-V", tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.matches(tt.value); got != tt.want {
			t.Errorf("%q matches %q = %v, want %v", tt.pattern, tt.value, got, tt.want)
		}
		hex := ""
		for _, c := range []byte(tt.value) {
			hex += fmt.Sprintf("%%%02x", c)
		}
		v.name = "q p"
		if got := v.inQuery("&x&q+p=" + hex); got != tt.want {
			t.Errorf("%q matches escaped %q = %v, want %v", tt.pattern, tt.value, got, tt.want)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	tests := []struct {
		name string
		rule Rule
		want string
	}{
		{"host star", Rule{Hosts: []string{"*"}}, `host "*" leave hosts out to take every host`},
		{"host port", Rule{Hosts: []string{"a.test:80"}}, `host "a.test:80" has a port`},
		{"host label", Rule{Hosts: []string{"a..test"}}, `host "a..test" has an empty label`},
		{"host inner star", Rule{Hosts: []string{"a.*.test"}}, `has a * that isn't the whole first label`},
		{"host unicode", Rule{Hosts: []string{"bücher.test"}}, `xn--`},
		{"host character", Rule{Hosts: []string{"a/b"}}, `has the character '/'`},
		{"host empty", Rule{Hosts: []string{""}}, `host "" has an empty label`},
		{"host long", Rule{Hosts: []string{strings.Repeat("a.", 130) + "test"}}, `longer than 253`},
		{"path start", Rule{Paths: []string{"orders"}}, `path "orders" must start with /`},
		{"path slashes", Rule{Paths: []string{"/a//b"}}, `path "/a//b" has an empty segment`},
		{"path dots", Rule{Paths: []string{"/a/../b"}}, `has the segment ".."`},
		{"path star", Rule{Paths: []string{"/a*"}}, `has a * that isn't /* at the end`},
		{"path query", Rule{Paths: []string{"/a?b=c"}}, `the query is matched by query`},
		{"path parameter", Rule{Paths: []string{"/a{id}"}}, `segment "a{id}": a parameter is a whole segment`},
		{"path twice the parameter", Rule{Paths: []string{"/{a}/{a}"}}, `parameter "a" stands there twice`},
		{"path with parameters", Rule{Paths: []string{"/a;v=1"}}, `path "/a;v=1" has a parameter (;); paths are matched without`},
		{"path escape", Rule{Paths: []string{"/a%2fb"}}, `path "/a%2fb" can't be in a request: path has an escaped delimiter`},
		{"path depth", Rule{Paths: []string{strings.Repeat("/a", 65)}}, `of 65 segments; at most 64`},
		{"path length", Rule{Paths: []string{"/" + strings.Repeat("a", 5000)}}, `of 5001 bytes`},
		{"method case", Rule{Methods: []string{"get"}}, `method "get": case matters, write "GET"`},
		{"method twice", Rule{Methods: []string{"GET", "GET"}}, `method "GET" is given twice`},
		{"method", Rule{Methods: []string{"A B"}}, `"A B" isn't a method`},
		{"header", Rule{Headers: map[string]string{"A B": "*"}}, `header "A B": isn't the name of a header field`},
		{"header host", Rule{Headers: map[string]string{"Host": "*"}}, `the host is matched by hosts`},
		{"header expression", Rule{Headers: map[string]string{"A": "~("}}, `header "A": expression: `},
		{"query expression", Rule{Query: map[string]string{"a": "~" + strings.Repeat("a", 1001)}}, `expression of 1001 bytes; at most 1000`},
		{"same host twice", Rule{Hosts: []string{"a.test", "A.test"}}, `takes host "a.test", every path twice`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.rule.Name = "r"
			_, err := Compile([]Rule{{Name: "good"}, tt.rule})
			var re *Error
			if !errors.As(err, &re) || re.Index != 1 || re.Name != "r" {
				t.Fatalf("Compile = %v, want an *Error of rule 1", err)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), `route "r": `) {
				t.Errorf("Compile = %q, want %q in it", err, tt.want)
			}
		})
	}
}

func TestCompileJoinsErrors(t *testing.T) {
	_, err := Compile([]Rule{{Name: "a", Hosts: []string{"*"}, Paths: []string{"x"}}, {Name: "b", Methods: []string{""}}})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 3 {
		t.Errorf("Compile = %v, want three errors", err)
	}
}

func TestConflicts(t *testing.T) {
	base := Rule{
		Name: "a", Hosts: []string{"a.test"}, Paths: []string{"/x/{id}", "/y"}, Methods: []string{"GET", "POST"},
		Headers: map[string]string{"X-A": "1", "X-B": "2"}, Query: map[string]string{"q": "*"}, When: isCondition(true), WhenText: "true",
	}
	same := base
	same.Name, same.Hosts, same.Paths = "b", []string{"b.test", "A.TEST"}, []string{"/x/{name}", "/z"}
	same.Methods, same.Headers = []string{"POST", "GET", "HEAD"}, map[string]string{"x-a": "1", "x-b": "2"}
	_, err := Compile([]Rule{base, same})
	var re *Error
	if !errors.As(err, &re) || re.Index != 1 || re.Other != 0 {
		t.Fatalf("Compile = %v, want a conflict of 1 with 0", err)
	}
	want := `route "b": takes the same requests as route "a": host "a.test", path "/x/{name}", with the same conditions`
	if alt := strings.Replace(want, "{name}", "{id}", 1); err.Error() != want && err.Error() != alt {
		t.Errorf("Compile = %q, want %q", err, want)
	}
	for name, change := range map[string]func(*Rule){
		"path":   func(r *Rule) { r.Paths = []string{"/z"} },
		"method": func(r *Rule) { r.Methods = []string{"GET"} },
		"header": func(r *Rule) { r.Headers = map[string]string{"x-a": "1", "x-b": "3"} },
		"query":  func(r *Rule) { r.Query = map[string]string{"p": "*"} },
		"when":   func(r *Rule) { r.WhenText = "1 == 1" },
	} {
		other := same
		change(&other)
		if _, err := Compile([]Rule{base, other}); err != nil {
			t.Errorf("with another %s: Compile = %v, want no conflict", name, err)
		}
	}
}

func TestList(t *testing.T) {
	m, err := Compile(precedenceRules()[:12])
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range m.List() {
		got = append(got, strings.Join(strings.Fields(p.Host+" "+p.Path+" "+p.Name), " "))
	}
	want := []string{
		"api.eu.example.com api",
		"api.example.com /orders/new orders-new",
		"api.example.com /orders/new/{what} new-any",
		"api.example.com /orders/{id}/items items",
		"api.example.com /orders/{id} order",
		"api.example.com /orders/{id}/{what}/* all-items",
		"api.example.com /orders/archive/* deep",
		"api.example.com /orders/* orders",
		"api.example.com api",
		"*.eu.example.com wild-eu",
		"*.example.com wild",
		"/healthz all-health",
		"all",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("List: %s", d)
	}
}

func TestExplain(t *testing.T) {
	m, err := Compile(precedenceRules())
	if err != nil {
		t.Fatal(err)
	}
	explain := func(x *exchange.Exchange) []string {
		var got []string
		for _, c := range m.Explain(x) {
			got = append(got, fmt.Sprintf("%s %v: %s", c.Name, c.Taken, c.Why))
		}
		return got
	}
	want := []string{
		"get-b false: query parameter b doesn't match",
		"get-v2 false: header x-version doesn't match",
		"get true: host, path and conditions fit",
		"post false: method GET isn't among its methods",
		`api false: route "get" is more specific`,
		`wild false: route "get" is more specific`,
		`all false: route "get" is more specific`,
	}
	if d := cmp.Diff(want, explain(request(t, "api.example.com/c"))); d != "" {
		t.Errorf("Explain: %s", d)
	}
	m, err = Compile([]Rule{{Name: "a", Hosts: []string{"a.test"}, Paths: []string{"/abc", "/abd/*"}}, {Name: "b", Hosts: []string{"a.test"}, Paths: []string{"/b"}, WhenText: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	want = []string{"a false: path doesn't fit", "a false: path doesn't fit", "b false: path doesn't fit"}
	if d := cmp.Diff(want, explain(request(t, "a.test/abdc"))); d != "" {
		t.Errorf("Explain: %s", d)
	}
}

func TestParams(t *testing.T) {
	got := Params([]string{"/a/{id}/{what_2}", "/b/{id}/*", "/{}/{2}/x{y}", "/plain"})
	if d := cmp.Diff([]string{"id", "what_2"}, got); d != "" {
		t.Error(d)
	}
}
