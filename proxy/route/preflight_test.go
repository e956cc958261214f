package route

import (
	"slices"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// reads is a when, of which a preflight can tell nothing if it reads fields.
type reads struct{ holds, fields bool }

func (r reads) Eval(x *exchange.Exchange) bool { return r.holds && x.Method == "PUT" }
func (r reads) ReadsHeaders() bool             { return r.fields }

func TestPreflight(t *testing.T) {
	versioned := Rule{Name: "v2", Methods: []string{"PUT"}, Headers: map[string]string{"X-Version": "2"}}
	plain := Rule{Name: "plain", Methods: []string{"PUT"}}
	tests := []struct {
		name   string
		rules  []Rule
		fields string // Access-Control-Request-Headers
		allow  []string
		want   string // "": none
	}{
		{"method", []Rule{{Name: "get", Methods: []string{"GET"}}, plain}, "", []string{"plain"}, "plain"},
		{"not for OPTIONS", []Rule{{Name: "options", Methods: []string{"OPTIONS"}}, plain}, "", []string{"options", "plain"}, "plain"},
		{"no method takes it", []Rule{{Name: "get", Methods: []string{"GET"}}}, "", []string{"get"}, ""},
		{"more specific", []Rule{{Name: "path", Paths: []string{"/a"}}, plain}, "", []string{"path", "plain"}, "path"},
		{"more specific refuses", []Rule{{Name: "path", Paths: []string{"/a"}}, plain}, "", []string{"plain"}, "path"},
		{"field not named", []Rule{versioned, plain}, "x-other", []string{"v2", "plain"}, "plain"},
		{"field named", []Rule{versioned, plain}, "x-a, X-VERSION", []string{"v2", "plain"}, "v2"},
		{"field named, the other refuses", []Rule{versioned, plain}, "x-version", []string{"v2"}, "plain"},
		{"field named, it refuses", []Rule{versioned, plain}, "x-version", []string{"plain"}, "v2"},
		{"field named, alone", []Rule{versioned}, "x-version", []string{"v2"}, "v2"},
		{"field there", []Rule{{Name: "origin", Methods: []string{"PUT"}, Headers: map[string]string{"Origin": "https://a"}}, plain}, "", []string{"origin"}, "origin"},
		{"field there, other value", []Rule{{Name: "origin", Methods: []string{"PUT"}, Headers: map[string]string{"Origin": "https://b"}}, plain}, "", []string{"plain"}, "plain"},
		{"safelisted field", []Rule{{Name: "accept", Methods: []string{"PUT"}, Headers: map[string]string{"Accept": "*v2*"}}, plain}, "", []string{"accept"}, "plain"},
		{"cookie", []Rule{{Name: "cookie", Methods: []string{"PUT"}, Headers: map[string]string{"Cookie": "*"}}, plain}, "", []string{"cookie"}, "plain"},
		{"when", []Rule{{Name: "when", Methods: []string{"PUT"}, When: reads{true, false}, WhenText: "a"}, plain}, "", []string{"when"}, "when"},
		{"when not", []Rule{{Name: "when", Methods: []string{"PUT"}, When: reads{false, false}, WhenText: "a"}, plain}, "", []string{"plain"}, "plain"},
		{"when reads fields", []Rule{{Name: "when", Methods: []string{"PUT"}, When: reads{false, true}, WhenText: "a"}, plain}, "", []string{"when"}, "plain"},
		{"query", []Rule{{Name: "query", Methods: []string{"PUT"}, Query: map[string]string{"v": "2"}}, plain}, "", []string{"query"}, "query"},
		{"other query", []Rule{{Name: "query", Methods: []string{"PUT"}, Query: map[string]string{"v": "1"}}, plain}, "", []string{"plain"}, "plain"},
		{"host", []Rule{{Name: "host", Hosts: []string{"a.test"}, Methods: []string{"GET"}}, plain}, "", []string{"plain"}, "plain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Compile(tt.rules)
			if err != nil {
				t.Fatal(err)
			}
			x := &exchange.Exchange{}
			x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: "https"}, nil)
			x.Method, x.RawHost, x.RawTarget = "OPTIONS", "a.test", "/a?v=2"
			x.Request.Append("Origin", "https://a")
			x.Request.Append("Accept", "*/*")
			if tt.fields != "" {
				x.Request.Append("Access-Control-Request-Headers", tt.fields)
			}
			if f := x.Canonicalise(); f != nil {
				t.Fatal(f)
			}
			got := ""
			if i := m.Preflight(x, "PUT", func(rule int) bool { return slices.Contains(tt.allow, tt.rules[rule].Name) }); i >= 0 {
				got = tt.rules[i].Name
			}
			if got != tt.want {
				t.Errorf("Preflight = %q, want %q", got, tt.want)
			}
			if x.Method != "OPTIONS" {
				t.Errorf("the method is %s afterwards", x.Method)
			}
		})
	}
}
