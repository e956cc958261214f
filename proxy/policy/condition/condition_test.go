package condition

import (
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func testExchange(t testing.TB) *exchange.Exchange {
	t.Helper()
	x := &exchange.Exchange{
		Proto: exchange.HTTP2, Conn: &exchange.Conn{Scheme: "https", Peer: "spiffe://fleet.example/svc/orders"}, Method: "GET",
		RawHost: "API.example.com:443", RawTarget: "/orders/./7?version=2&a%20b=c+d&version=3&&flag",
		ClientIP: netip.MustParseAddr("10.1.2.3"),
	}
	for _, f := range [][2]string{
		{"Accept", "text/html"}, {"X-Tenant", "acme"}, {"x-tenant", "umbrella"}, {"Cookie", "a=1"}, {"cookie", "b=2"}, {"X_Tenant", "evil"},
	} {
		x.Request.Append(f[0], f[1])
	}
	x.Request.Drop(5)
	if f := x.Canonicalise(); f != nil {
		t.Fatal(f)
	}
	return x
}

func TestEval(t *testing.T) {
	x := testExchange(t)
	tests := []struct {
		text string
		want bool
		err  string
	}{
		{"request.method == 'GET'", true, ""},
		{"request.host == 'api.example.com'", true, ""},
		{"request.path.startsWith('/orders/7')", true, ""},
		{"request.client_ip.startsWith('10.')", true, ""},
		{"cidr('10.0.0.0/8').containsIP(request.client_ip)", true, ""},
		{"cidr('192.168.0.0/16').containsIP(request.client_ip)", false, ""},
		{"request.protocol == 'HTTP/2.0' && request.tls", true, ""},
		{"request.peer == 'spiffe://fleet.example/svc/orders'", true, ""},
		{"request.query.version == '2'", true, ""},
		{"request.query['a b'] == 'c d'", true, ""},
		{"'flag' in request.query && request.query.flag == ''", true, ""},
		{"'' in request.query", false, ""},
		{"has(request.query.nope)", false, ""},
		{"request.query.exists(k, k == 'a b')", true, ""},
		{"size(request.query) == 3", true, ""},
		{"request.headers['x-tenant'] == 'acme, umbrella'", true, ""},
		{"request.headers['X-Tenant'].contains('acme')", true, ""},
		{"request.headers.cookie == 'a=1; b=2'", true, ""},
		{"has(request.headers.accept) && !has(request.headers.origin)", true, ""},
		{"'x_tenant' in request.headers", false, ""},
		{"request.headers.exists(k, request.headers[k] == 'evil')", false, ""},
		{"request.headers.all(k, k == k.lowerAscii())", true, ""},
		{"request.headers.origin == 'x'", false, "no such key: origin"},
		{"request.headers.origin == 'x' || true", true, ""},
		{"request.path.matches('^/orders/[0-9]+$')", true, ""},
		{"request.path.split('/')[2] == '7'", true, ""},
		{"consumer.name == '' && consumer.plan == '' && !('team' in consumer.labels)", true, ""},
		{"'orders:write' in claims.scope.split(' ')", false, "no such key: scope"},
		{"'orders:write' in claims.scope.split(' ') || request.method == 'GET'", true, ""},
		{"claims.sub == request.host || claims.admin", false, "no such key"},
		{"request.headers.exists(a, request.headers.exists(b, request.headers.exists(c, request.headers.exists(d, request.headers.exists(e, request.headers.exists(f, request.headers.exists(g, request.headers.exists(h, a+b+c+d+e+f+g+h == '')))))))) ", false, "cost limit exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			p, err := Compile(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.EvalErr(x)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("EvalErr = %v, want %q", err, tt.err)
			}
			if got != tt.want || p.Eval(x) != tt.want {
				t.Errorf("Eval = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestConsumer(t *testing.T) {
	x := testExchange(t)
	x.Consumer = &exchange.Consumer{Name: "acme", Plan: &exchange.Plan{Name: "gold"}, Labels: map[string]string{"team": "search"}}
	p, err := Compile("consumer.name == 'acme' && consumer.plan == 'gold' && consumer.labels.team == 'search' && !('x' in consumer.labels)")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := p.EvalErr(x); !ok || err != nil {
		t.Errorf("Eval = %v, %v", ok, err)
	}
	for text, want := range map[string]bool{
		"consumer.name == ''": true, "'x' in consumer.labels": true, "claims.sub == 'consumer.name'": true,
		"request.host == 'consumer.name'": false,
	} {
		if p, err := Compile(text); err != nil || p.AsksWho() != want {
			t.Errorf("%s: AsksWho isn't %v (%v)", text, want, err)
		}
	}
	x.Reset(exchange.HTTP11, x.Conn, nil)
	if x.Consumer != nil || p.Eval(x) {
		t.Error("the consumer outlives its exchange")
	}
}

func TestCompileErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"syntax", "request.method ==", "1:18: Syntax error"},
		{"empty", "", "1:1: the condition is empty"},
		{"unknown field", "true &&\n  request.metod == 'GET'", "2:10: undeclared reference to 'request.metod' (did you mean 'request.method'?)"},
		{"unknown consumer field", "consumer.id == 'a'", "1:1: undeclared reference to 'consumer'; consumer has name, plan and labels"},
		{"unknown name", "req.method == 'GET'", "1:1: undeclared reference to 'req'"},
		{"type", "request.method == 1", "1:16: found no matching overload"},
		{"not a bool", "request.method", "1:1: the condition is of type string; it must be true or false"},
		{"dyn", "claims.admin", "1:1: the condition is of type dyn"},
		{"expression", "request.path.matches('(')", "missing closing"},
		{"long", "'" + strings.Repeat("a", 5000) + "' == ''", "at most 4096"},
		{"deep", strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200), "recursion"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Compile = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestConcurrent(t *testing.T) {
	p, err := Compile("request.headers['x-tenant'].startsWith('acme') && request.query.exists(k, k == 'flag')")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		x := testExchange(t)
		wg.Go(func() {
			for range 200 {
				if !p.Eval(x) {
					t.Error("Eval = false, want true")
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkEval(b *testing.B) {
	x := testExchange(b)
	for _, text := range []string{
		"request.method == 'GET'",
		"request.client_ip.startsWith('10.')",
		"request.headers['x-tenant'] == 'acme' || request.query.version == '2'",
		"request.path.matches('^/orders/[0-9]+$')",
	} {
		p, err := Compile(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Eval(x)
			}
		})
	}
}

// TestClaims: claims are what a token says, of any type.
func TestClaims(t *testing.T) {
	x := testExchange(t)
	x.Claims = exchange.NewClaims(map[string]any{
		"sub": "u", "scope": "orders:read orders:write", "admin": true, "level": int64(3), "rate": 1.5, "none": nil,
		"aud": []any{"api", "web"}, "realm_access": map[string]any{"roles": []any{"editor"}}, "https://a.test/roles": []any{"x"},
	})
	for text, want := range map[string]bool{
		"'orders:write' in claims.scope.split(' ')":       true,
		"'orders' in claims.scope.split(' ')":             false,
		"claims.sub == 'u' && claims.admin":               true,
		"claims.level > 2 && claims.level < 3.5":          true,
		"claims.level == 3 && claims.rate == 1.5":         true,
		"'api' in claims.aud && size(claims.aud) == 2":    true,
		"'editor' in claims.realm_access.roles":           true,
		"claims['https://a.test/roles'][0] == 'x'":        true,
		"has(claims.sub) && !has(claims.nope)":            true,
		"'sub' in claims && size(claims) == 9":            true,
		"claims.exists(c, c == 'level')":                  true,
		"claims.none == null":                             true,
		"claims.scope.split(' ').exists(s, s == 'admin')": false,
	} {
		p, err := Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := p.EvalErr(x); got != want || err != nil {
			t.Errorf("%s = %v, %v, want %v", text, got, err, want)
		}
	}
	x.Claims = nil
	p, err := Compile("claims.sub == 'u'")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.EvalErr(x); got || err == nil {
		t.Errorf("without claims: %v, %v", got, err)
	}
}

// TestValues: expressions that have a number or a text for a value.
func TestValues(t *testing.T) {
	x := testExchange(t)
	x.Claims = exchange.NewClaims(map[string]any{"sub": "u", "n": int64(7), "half": 0.5, "list": []any{"a"}})
	c, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"1 + 1": "2", "size(request.path)": "9", "claims.n": "7", "3u": "3", "18446744073709551615u": "9223372036854775807", "-1": "-1",
		"claims.half": "error: gave a double, not a whole number", "claims.sub": "error: gave a string, not a whole number",
		"claims.none": "error: no such key: none", "1 / 0": "error: division by zero", "int(request.method)": "error: ", "9223372036854775807 + claims.n": "error: integer overflow",
	} {
		p, err := c.Number(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		n, err := p.Int(x)
		got := strconv.FormatInt(n, 10)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want)) {
			t.Errorf("%s = %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"request.host + request.method": "api.example.comGET", "1": "1", "2u": "2", "request.tls": "true", "claims.n": "7", "''": "",
		"claims.list": "error: gave a list(dyn), not a text", "claims.none": "error: no such key: none", "claims": "compile: ", "1.5": "compile: ",
	} {
		p, err := c.Key(text)
		if err != nil {
			if want != "compile: " {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		got, err := p.Text(x)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("%s = %s, want %s", text, got, want)
		}
	}
}
