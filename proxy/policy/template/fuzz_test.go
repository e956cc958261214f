package template_test

import (
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/template"
)

// FuzzCompile: text comes out as it stands there, placeholders as their value;
// a text made of the parts compiles to the same parts.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"", "a{{b}}", "{path}{query}", "{param.id}-{id}", "{", "}", "{}", "{{{host}}}", "{a b}", "{{}", "{param.}"} {
		f.Add(s)
	}
	names := map[template.Kind]string{
		template.Scheme: "scheme", template.Host: "host", template.Path: "path", template.Query: "query", template.Method: "method",
		template.ClientIP: "client_ip", template.RequestID: "request_id", template.Route: "route", template.Service: "service", template.ConsumerName: "consumer.name",
	}
	x := policytest.Exchange(f, "GET https://a.test/x?y")
	x.Params = []exchange.Param{{Name: "id", Value: "7"}}
	braces := strings.NewReplacer("{", "{{", "}", "}}")
	f.Fuzz(func(t *testing.T, text string) {
		tpl, err := template.Compile(text)
		if err != nil {
			return
		}
		again := ""
		for _, p := range tpl.Parts() {
			switch p.Kind {
			case template.Literal:
				again += braces.Replace(p.Text)
			case template.Param:
				again += "{param." + p.Text + "}"
			default:
				again += "{" + names[p.Kind] + "}"
			}
		}
		tpl2, err := template.Compile(again)
		if err != nil {
			t.Fatalf("%q compiles, %q, which is the same, doesn't: %v", text, again, err)
		}
		if a, b := tpl.Append(nil, x), tpl2.Append(nil, x); string(a) != string(b) {
			t.Errorf("%q gives %q, %q, which is the same, %q", text, a, again, b)
		}
		if c, ok := tpl.Constant(); ok && c != string(tpl.Append(nil, x)) {
			t.Errorf("%q is constant %q, gives %q", text, c, tpl.Append(nil, x))
		}
	})
}
