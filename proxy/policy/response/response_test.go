package response

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind()) }

func TestResponse(t *testing.T) {
	p := policytest.Policy(t, Kind(), `response {
		set    = { "X-Request-Id" = "{request_id}", "Cache-Control" = "no-store", "X-Consumer" = "{consumer.name}" }
		add    = { "Vary" = "Accept" }
		remove = ["Server", "X-Powered-By"]
	}`).(*Policy)
	x := policytest.Exchange(t, "GET http://api.example.com/")
	policytest.Answer(x, 200, "ok", "Server: x", "x-powered-by: y", "cache-control: max-age=1", "Vary: Origin", "X-Consumer: evil", "A: b")
	if err := p.Response(x); err != nil {
		t.Fatal(err)
	}
	want := []string{"Vary: Origin", "A: b", "Cache-Control: no-store", "X-Request-Id: r-1", "Vary: Accept"}
	if d := cmp.Diff(want, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
		t.Errorf("fields: %s", d)
	}
	if got, want := p.Explain(), "remove Server, X-Powered-By; set Cache-Control, X-Consumer, X-Request-Id; add Vary"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
}

func TestNewErrors(t *testing.T) {
	tests := []struct{ block, want string }{
		{`response { set = { "Host" = "a" } }`, `set: header "Host": isn't a field of responses`},
		{`response { set = { "Content-Length" = "1" } }`, `belongs to the connection or the message's framing`},
		{`response { remove = ["Trailer"] }`, `belongs to`},
		{`response { add = { "Set-Cookie" = "a=1\n" } }`, `the value has a control character`},
	}
	for _, tt := range tests {
		_, err := policytest.Try(t, Kind(), tt.block)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%s) = %v, want %q", tt.block, err, tt.want)
		}
	}
}
