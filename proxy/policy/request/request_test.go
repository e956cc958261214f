package request

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind()) }

func TestRequest(t *testing.T) {
	tests := []struct {
		name, block string
		fields      []string
		want        []string
		host        string
	}{
		{
			name:   "nothing",
			block:  `request {}`,
			fields: []string{"Accept: a"},
			want:   []string{"Accept: a"},
		},
		{
			name:   "set replaces every spelling",
			block:  `request { set = { "X-Tenant-Id" = "acme" } }`,
			fields: []string{"x-tenant-id: evil", "X_Tenant_Id: evil", "X-Tenant_Id: evil", "X.Tenant.Id: evil", "X-Tenant-Ids: ok", "X_Other: ok"},
			want:   []string{"X-Tenant-Ids: ok", "X_Other: ok", "X-Tenant-Id: acme"},
		},
		{
			name:   "set known name replaces every spelling",
			block:  `request { set = { "X-Real-IP" = "{client_ip}" } }`,
			fields: []string{"x-real-ip: evil", "X_Real_IP: evil"},
			want:   []string{"X-Real-IP: 192.0.2.1"},
		},
		{
			name:   "set with nothing removes",
			block:  `request { set = { "X-Tenant" = "{consumer.name}" } }`,
			fields: []string{"X-Tenant: evil", "x_tenant: evil"},
			want:   nil,
		},
		{
			name:   "add and remove",
			block:  "request {\n add = { \"Cookie\" = \"a=1\", \"X-A\" = \"1\" }\n remove = [\"cookie\", \"X-Gone\"]\n}",
			fields: []string{"Cookie: b=2", "X-A: 0", "X-Gone: 1", "X_GONE: 1"},
			want:   []string{"X-A: 0", "Cookie: a=1", "X-A: 1"},
		},
		{
			name: "placeholders",
			block: `request { set = {
				"A" = "{scheme}://{host}{path}{query}", "B" = "{method} {client_ip} {request_id}", "C" = "{route}/{service}.",
				"D" = "{id}{param.id}{nope}", "E" = "{{x}}", "F" = "ü" } }`,
			want: []string{
				"A: https://api.example.com/orders/a%20b?x=1", "B: GET 192.0.2.1 r-1", "C: test/.", "D: a%20ba%20b", "E: {x}", "F: ü",
			},
		},
		{
			name:  "host",
			block: `request { set = { "host" = "{id}.internal:8080" } }`,
			host:  "",
		},
		{
			name:  "host constant",
			block: `request { set = { "Host" = "orders.internal:8080" } }`,
			host:  "orders.internal:8080",
		},
		{
			name:  "too long",
			block: `request { set = { "A" = "` + strings.Repeat("{path}", 1000) + `" } }`,
			want:  nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := policytest.Policy(t, Kind(), tt.block).(*Policy)
			x := policytest.Exchange(t, "GET https://API.example.com/orders/a%20b?x=1", tt.fields...)
			x.Params = []exchange.Param{{Name: "id", Value: "a%20b"}}
			verdict, err := p.Request(x)
			if verdict != policy.Next || err != nil {
				t.Fatalf("Request = %v, %v", verdict, err)
			}
			if d := cmp.Diff(tt.want, policytest.Sent(&x.Request, &x.RequestEdits)); d != "" {
				t.Errorf("fields: %s", d)
			}
			if x.Out.Host != tt.host {
				t.Errorf("Host = %q, want %q", x.Out.Host, tt.host)
			}
		})
	}
}

func TestControlsAreDropped(t *testing.T) {
	p := policytest.Policy(t, Kind(), `request { set = { "X-Id" = "{id}" } }`).(*Policy)
	for _, value := range []string{"a\r\nX-Evil: 1", "a\nb", "a\x00", "a\x7f"} {
		x := policytest.Exchange(t, "GET https://api.example.com/", "X-Id: client")
		x.Params = []exchange.Param{{Name: "id", Value: value}}
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		if got := policytest.Sent(&x.Request, &x.RequestEdits); len(got) != 0 {
			t.Errorf("with %q: %q goes out", value, got)
		}
	}
}

func TestNewErrors(t *testing.T) {
	tests := []struct{ block, want string }{
		{`request { set = { "A B" = "" } }`, `set: header "A B": isn't the name of a header field`},
		{`request { set = { "" = "" } }`, `isn't the name`},
		{`request { set = { ":authority" = "x" } }`, `isn't the name`},
		{`request { set = { "A" = "x\r\nB: y" } }`, `set: header "A": the value has a control character`},
		{`request { set = { "A" = " x" } }`, `starts or ends with a space`},
		{`request { set = { "A" = "{nope.x}" } }`, `unknown placeholder {nope.x}`},
		{`request { set = { "A" = "{consumer.nam}" } }`, `unknown placeholder {consumer.nam}`},
		{`request { set = { "A" = "{}" } }`, `unknown placeholder {}`},
		{`request { set = { "A" = "{x" } }`, `a { without its }`},
		{`request { set = { "A" = "x}" } }`, `a } without its {`},
		{`request { set = { "Content-Length" = "1" } }`, `belongs to the connection or the message's framing`},
		{`request { add = { "X-Who" = "a {consumer.labels.team}" } }`, `add: header "X-Who": says who is calling, and a client could send the field, too; set it`},
		{`request { add = { "transfer-encoding" = "chunked" } }`, `add: header "transfer-encoding": belongs to`},
		{`request { remove = ["Connection"] }`, `remove: header "Connection": belongs to`},
		{`request { remove = ["Host"] }`, `a request can't go without it`},
		{`request { add = { "Host" = "a" } }`, `there is one only; set it`},
		{`request { set = { "A" = "1", "a" = "2" } }`, `header "a": stands in set already`},
		{"request {\n set = { \"A\" = \"1\" }\n remove = [\"a\"]\n}", `header "A": stands in remove already`},
		{`request { set = { "A" = "` + strings.Repeat("x", 9000) + `" } }`, `at most 8192`},
	}
	for _, tt := range tests {
		_, err := policytest.Try(t, Kind(), tt.block)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%s) = %v, want %q", tt.block, err, tt.want)
		}
	}
	_, err := policytest.Try(t, Kind(), "request {\n set = { \"A B\" = \"1\" }\n remove = [\"Connection\"]\n}")
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("New = %v, want both errors", err)
	}
}

func TestExplain(t *testing.T) {
	p := policytest.Policy(t, Kind(), "request {\n set = { \"Host\" = \"h\", \"A\" = \"{id}\" }\n add = { \"B\" = \"{param.id} {x}\" }\n remove = [\"C\"]\n}").(*Policy)
	if got, want := p.Explain(), "remove C; set Host, A; add B"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	if d := cmp.Diff([]string{"id", "x"}, p.Params()); d != "" {
		t.Errorf("Params: %s", d)
	}
}

func TestNoAllocations(t *testing.T) {
	for name, block := range map[string]string{
		"constant": `request { set = { "X-A" = "1", "Accept" = "b" } }`,
		"template": `request { set = { "X-A" = "{client_ip} {path}{query}" } }`,
	} {
		p := policytest.Policy(t, Kind(), block).(*Policy)
		x := policytest.Exchange(t, "GET https://api.example.com/orders?x=1", "Accept: a", "X_B: c")
		head := x.Request
		step := func() {
			method, target, ip := x.Method, x.Target, x.ClientIP
			x.Request.Reset(nil)
			x.Reset(exchange.HTTP11, x.Conn, nil)
			x.Request, x.Method, x.Target, x.ClientIP = head, method, target, ip
			if _, err := p.Request(x); err != nil {
				t.Fatal(err)
			}
		}
		step()
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
