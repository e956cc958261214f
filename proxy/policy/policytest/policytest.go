// Package policytest runs one policy in a test, made from its block in the
// configuration language, and runs the snippets of its README. It is for tests
// only; the gateway itself reads its configuration in cmd/sidegate/internal/config.
package policytest

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Policy makes the policy of one block of the kind, "request { … }".
func Policy(t testing.TB, kind policy.Kind, text string) policy.Policy {
	t.Helper()
	p, err := Try(t, kind, text)
	if err != nil {
		t.Fatalf("%s: %v", kind.Name, err)
	}
	return p
}

// Try is Policy for a block that may be refused. One that isn't even HCL, or
// doesn't fit the kind's Config, fails the test.
func Try(t testing.TB, kind policy.Kind, text string) (policy.Policy, error) {
	t.Helper()
	blocks := parse(t, text)
	if len(blocks) != 1 || !isOf(blocks[0], kind) {
		t.Fatalf("want one %s block:\n%s", kind.Name, text)
	}
	return newPolicy(t, kind, blocks[0])
}

func newPolicy(t testing.TB, kind policy.Kind, b *hclsyntax.Block) (policy.Policy, error) {
	t.Helper()
	cfg := kind.Config()
	one := *b
	if kind.Label != "" {
		one.Labels = nil // it has said which kind it is
	}
	if err := decode(&one, cfg); err != nil {
		t.Fatalf("%s: %v", kind.Name, err)
	}
	p, err := kind.New(cfg)
	if err != nil || kind.Join == nil {
		return p, err
	}
	return kind.Join("test", []policy.Policy{p})
}

// isOf reports whether a block is one of the kind.
func isOf(b *hclsyntax.Block, kind policy.Kind) bool {
	return b.Type == kind.Name && (kind.Label == "" || len(b.Labels) == 1 && b.Labels[0] == kind.Label)
}

func parse(t testing.TB, text string) hclsyntax.Blocks {
	t.Helper()
	file, diags := hclsyntax.ParseConfig([]byte(text), "block.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%v in:\n%s", diags, text)
	}
	body := file.Body.(*hclsyntax.Body)
	if len(body.Attributes) > 0 {
		t.Fatalf("want blocks only:\n%s", text)
	}
	return body.Blocks
}

// README makes the policy of each block of the kind in the hcl snippets of a
// README, also inside route and policy blocks. There must be one at least.
func README(t *testing.T, path string, kind policy.Kind) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	var walk func(hclsyntax.Blocks)
	walk = func(blocks hclsyntax.Blocks) {
		for _, b := range blocks {
			switch {
			case isOf(b, kind):
				found++
				if _, err := newPolicy(t, kind, b); err != nil {
					t.Errorf("%s:%d: %v", path, b.TypeRange.Start.Line, err)
				}
			case b.Type == "route", b.Type == "policy":
				walk(b.Body.Blocks)
			}
		}
	}
	for _, s := range Snippets(string(text)) {
		walk(parse(t, s))
	}
	if found == 0 {
		t.Errorf("%s: no hcl snippet has a %s block", path, kind.Name)
	}
}

// Arguments calls f with the text of each such argument of routes and bundles in
// the hcl snippets of a README, and returns how many there are.
func Arguments(t *testing.T, path, name string, f func(text string)) (n int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Snippets(string(text)) {
		for _, b := range parse(t, s) {
			a := b.Body.Attributes[name]
			if a == nil {
				continue
			}
			v, diags := a.Expr.Value(nil)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			n++
			f(v.AsString())
		}
	}
	return n
}

// Snippets returns what stands between ```hcl and ``` in a Markdown text.
func Snippets(text string) []string {
	var list []string
	for {
		_, rest, ok := strings.Cut(text, "```hcl\n")
		if !ok {
			return list
		}
		snippet, rest, _ := strings.Cut(rest, "```")
		list = append(list, snippet)
		text = rest
	}
}

// Exchange makes an exchange, as it is when policies see it, from a line such
// as "GET https://api.example.com/orders/7?x=1" and fields such as
// "X-Tenant: acme". The client is 192.0.2.1.
func Exchange(t testing.TB, line string, fields ...string) *exchange.Exchange {
	t.Helper()
	method, url, _ := strings.Cut(line, " ")
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		t.Fatalf("%q isn't a method and a URL", line)
	}
	host, target := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, target = rest[:i], rest[i:]
	}
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: scheme}, nil)
	x.Method, x.RawHost, x.RawTarget = method, host, target
	x.Start = time.Now()
	x.ClientIP = netip.MustParseAddr("192.0.2.1")
	x.RequestID, x.RouteName = "r-1", "test"
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		x.Request.Append(name, value)
	}
	if f := x.Canonicalise(); f != nil {
		t.Fatalf("%s: %v", line, f)
	}
	return x
}

// Answer makes the backend answer x, with fields as in Exchange.
func Answer(x *exchange.Exchange, status int, body string, fields ...string) {
	x.Reply(status, "", []byte(body))
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		x.Response.Append(name, value)
	}
}

// Sent returns the fields that go out: those of the head that aren't dropped,
// with the edits, "Name: value" each.
func Sent(h *exchange.Head, e *exchange.Edits) []string {
	var list []string
	for i := range h.Len() {
		name, value := h.Field(i)
		if !h.Dropped(i) && !e.Replaces(name, h.ID(i)) {
			list = append(list, strings.Clone(name)+": "+strings.Clone(value))
		}
	}
	for i := range e.Len() {
		if name, value, ok := e.Field(i); ok {
			list = append(list, name+": "+strings.Clone(value))
		}
	}
	return list
}
