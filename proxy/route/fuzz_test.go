package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// The reference: every rule's every host and path is tried, and those that fit
// are sorted as doc.go says. It shares nothing with the matcher but Rule.

type fit struct {
	rule     int
	host     int // 0 exact, 1 wildcard, 2 every host
	hostLen  int
	kind     int // 0 exact, 1 parameters, 2 prefix, 3 every path
	segments []string
	params   string
}

func referenceFits(rules []Rule, host, path string) []fit {
	var fits []fit
	for i, r := range rules {
		hosts, paths := r.Hosts, r.Paths
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		if len(paths) == 0 {
			paths = []string{""}
		}
		for _, h := range hosts {
			f := fit{rule: i, hostLen: len(h)}
			switch {
			case h == "":
				f.host = 2
			case strings.HasPrefix(h, "*."):
				if !strings.HasSuffix(host, h[1:]) {
					continue
				}
				f.host = 1
			case h != host:
				continue
			}
			for _, p := range paths {
				f := f
				if f.path(p, path) {
					fits = append(fits, f)
				}
			}
		}
	}
	slices.SortFunc(fits, func(a, b fit) int { return a.compare(b, rules) })
	return fits
}

// path reports whether the pattern takes the path, and notes how.
func (f *fit) path(pattern, path string) bool {
	if pattern == "" {
		f.kind = 3
		return true
	}
	if path[0] != '/' {
		return false
	}
	have := strings.Split(path[1:], "/")
	prefix, isPrefix := strings.CutSuffix(pattern, "/*")
	want := strings.Split(strings.TrimPrefix(prefix, "/"), "/")
	if isPrefix && prefix == "" {
		want = nil
	}
	if len(have) < len(want) || !isPrefix && len(have) != len(want) {
		return false
	}
	f.segments = want
	for i, s := range want {
		if s != "" && s[0] == '{' {
			if have[i] == "" {
				return false
			}
			f.kind = 1
			f.params += fmt.Sprintf("%s=%s ", s[1:len(s)-1], have[i])
		} else if s != have[i] {
			return false
		}
	}
	if isPrefix {
		f.kind = 2
	}
	return true
}

func (f *fit) literals() int {
	n := 0
	for _, s := range f.segments {
		if s == "" || s[0] != '{' {
			n++
		}
	}
	return n
}

func count(r Rule) int {
	n := len(r.Headers) + len(r.Query)
	if len(r.Methods) > 0 {
		n++
	}
	if r.When != nil {
		n++
	}
	return n
}

func (f fit) compare(g fit, rules []Rule) int {
	if c := cmp.Compare(f.host, g.host); c != 0 {
		return c
	}
	if c := cmp.Compare(g.hostLen, f.hostLen); c != 0 {
		return c
	}
	if c := cmp.Compare(f.kind, g.kind); c != 0 {
		return c
	}
	if c := cmp.Compare(len(g.segments), len(f.segments)); c != 0 {
		return c
	}
	if c := cmp.Compare(g.literals(), f.literals()); c != 0 {
		return c
	}
	for i := range f.segments {
		fw, gw := strings.HasPrefix(f.segments[i], "{"), strings.HasPrefix(g.segments[i], "{")
		if fw != gw {
			if gw {
				return -1
			}
			return 1
		}
	}
	if c := cmp.Compare(count(rules[g.rule]), count(rules[f.rule])); c != 0 {
		return c
	}
	return strings.Compare(rules[f.rule].Name, rules[g.rule].Name)
}

func referenceTakesMethod(r Rule, method string) bool {
	return len(r.Methods) == 0 || slices.Contains(r.Methods, method) || method == "HEAD" && slices.Contains(r.Methods, "GET")
}

func referenceHolds(r Rule, header, query string) bool {
	for _, v := range r.Headers {
		if v != header {
			return false
		}
	}
	for _, v := range r.Query {
		if v != query {
			return false
		}
	}
	return r.When == nil || r.When.Eval(nil)
}

// reference is "rule params", or why there is none.
func reference(rules []Rule, host, method, path, header, query string) string {
	fits := referenceFits(rules, host, path)
	allow := map[string]bool{}
	for _, f := range fits {
		r := rules[f.rule]
		switch {
		case !referenceHolds(r, header, query):
		case referenceTakesMethod(r, method):
			return fmt.Sprintf("%s %s", r.Name, f.params)
		default:
			for _, m := range r.Methods {
				allow[m] = true
				if m == "GET" {
					allow["HEAD"] = true
				}
			}
		}
	}
	if len(allow) > 0 {
		var list []string
		for m := range allow {
			list = append(list, m)
		}
		slices.Sort(list)
		return strings.Join(list, ",")
	}
	if len(fits) > 0 {
		return NoCondition.String()
	}
	for _, r := range rules {
		if len(r.Hosts) == 0 || slices.ContainsFunc(r.Hosts, func(h string) bool { return h == host || h[0] == '*' && strings.HasSuffix(host, h[1:]) }) {
			return NoPath.String()
		}
	}
	return NoHost.String()
}

// choices turns fuzzing bytes into decisions.
type choices struct{ data []byte }

func (c *choices) n(n int) int {
	if len(c.data) == 0 {
		return 0
	}
	v := int(c.data[0])
	c.data = c.data[1:]
	return v % n
}

func pick(c *choices, list ...string) string { return list[c.n(len(list))] }

func (c *choices) rule(i int) Rule {
	r := Rule{Name: fmt.Sprintf("r%02d", i)}
	for range c.n(3) {
		h := pick(c, "a.test", "b.a.test", "*.test", "*.a.test", "*.b.a.test", "c")
		if !slices.Contains(r.Hosts, h) {
			r.Hosts = append(r.Hosts, h)
		}
	}
	for range c.n(3) {
		p := ""
		for j := range c.n(4) {
			p += "/" + pick(c, "a", "b", "{x}", "c%20d")
			p = strings.Replace(p, "{x}", fmt.Sprintf("{p%d}", j), 1)
		}
		p += pick(c, "/", "/*", "")
		if p == "" {
			p = "/a"
		}
		r.Paths = append(r.Paths, p)
	}
	for range c.n(3) {
		if m := pick(c, "GET", "POST", "HEAD", "PURGE"); !slices.Contains(r.Methods, m) {
			r.Methods = append(r.Methods, m)
		}
	}
	if c.n(4) == 1 {
		r.Headers = map[string]string{"X-H": pick(c, "1", "2")}
	}
	if c.n(4) == 1 {
		r.Query = map[string]string{"q": pick(c, "1", "2")}
	}
	if c.n(4) == 1 {
		v := isCondition(c.n(2) == 1)
		r.When, r.WhenText = v, fmt.Sprint(v)
	}
	return r
}

// FuzzMatch compares the matcher with the reference.
func FuzzMatch(f *testing.F) {
	seed := uint32(1)
	for range 300 {
		data := make([]byte, 160)
		for i := range data {
			seed = seed*1664525 + 1013904223
			data[i] = byte(seed >> 24)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &choices{data}
		var rules []Rule
		var m *Matcher
		for i := range 1 + c.n(12) {
			more := append(slices.Clip(rules), c.rule(i))
			if mm, err := Compile(more); err == nil { // else a conflict, or the same path twice
				rules, m = more, mm
			}
		}
		if m == nil {
			return
		}
		if want := len(m.List()); want < len(rules) {
			t.Fatalf("List has %d places for %d rules", want, len(rules))
		}
		for range 8 {
			host, method := pick(c, "a.test", "b.a.test", "x.b.a.test", "test", "c", "d"), pick(c, "GET", "HEAD", "POST", "PURGE", "DELETE")
			path := ""
			for range c.n(5) {
				path += "/" + pick(c, "a", "b", "c%20d", "e")
			}
			path += pick(c, "", "/")
			if path == "" {
				path = "/"
			}
			header, query := pick(c, "1", "2"), pick(c, "1", "2")
			x := request(t, method+" "+host+path+"?q="+query, "X-H: "+header)
			want := reference(rules, host, method, path, header, query)
			if got := outcome(m, rules, x); got != want {
				t.Fatalf("%s %s%s?q=%s X-H: %s\n got %s\nwant %s\nrules %+v", method, host, path, query, header, got, want, rules)
			}
		}
	})
}

func outcome(m *Matcher, rules []Rule, x *exchange.Exchange) string {
	r := m.Match(x)
	taken := 0
	for _, c := range m.Explain(x) {
		if c.Taken {
			taken++
			if c.Rule != r.Rule {
				return "Explain says " + c.Name
			}
		}
	}
	if (taken == 1) != (r.Rule >= 0) {
		return fmt.Sprintf("Explain says %d take it", taken)
	}
	switch {
	case r.Rule >= 0:
		got := rules[r.Rule].Name + " "
		for _, p := range x.Params {
			got += p.Name + "=" + p.Value + " "
		}
		return got
	case r.Miss == MethodNotAllowed:
		list := strings.Split(r.Allow, ", ")
		slices.Sort(list)
		return strings.Join(list, ",")
	default:
		return r.Miss.String()
	}
}
