package condition

import (
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestAmount(t *testing.T) {
	c, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	x := policytest.Exchange(t, "POST https://api.example.com/a?n=3", "X-N: 7")
	policytest.Answer(x, 201, "body", "X-Tokens: 41", "X-Tokens: 42", "x-cost: 0.1")
	for _, tt := range []struct {
		text string
		want int64
		err  string
	}{
		{"1", 1_000_000, ""}, {"2u", 2_000_000, ""}, {"0.1 + 0.2", 300_000, ""}, {"1.0 / 3.0", 333_333, ""}, {"0.0000005", 1, ""}, {"0.0000004", 0, ""}, {"-0.0", 0, ""},
		{"response.status", 201_000_000, ""}, {"double(response.headers['X-Cost'])", 100_000, ""}, {"response.bytes_in * 2 + response.bytes_out", 25_000_000, ""},
		{"response.headers['x-tokens'] == '41, 42' ? 1 : 2", 1_000_000, ""}, {"size(response.headers)", 2_000_000, ""},
		{"int(request.query['n']) * int(request.headers['x-n'])", 21_000_000, ""}, {"1000000000", MaxAmount, ""},
		{"int(response.headers['x-none'])", 0, "no such key"}, {"-1", 0, "less than 0"}, {"-0.1", 0, "less than 0"}, {"0.0 / 0.0", 0, "no number"}, {"1.0 / 0.0", 0, "more than"},
		{"1000000001", 0, "more than"}, {"9223372036854775807", 0, "more than"}, {"18446744073709551615u", 0, "more than"}, {"1e300", 0, "more than"}, {"9223372036854775807 + 1", 0, "overflow"},
	} {
		p, err := c.Amount(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		got, err := p.Amount(x, Sizes{In: 10, Out: 5})
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s = %d, %v; want %d, %s", tt.text, got, err, tt.want, tt.err)
		}
	}
	for _, text := range []string{"request.path", "true", "response", "response.body", "", "response.headers"} {
		if _, err := c.Amount(text); err == nil {
			t.Errorf("%q is an amount", text)
		}
	}
	if _, err := c.Number("response.status"); err == nil || !strings.Contains(err.Error(), "where there is an answer") {
		t.Errorf("the response in a condition on requests: %v", err)
	}
	p, err := c.Answered("response.status == 201 && response.bytes_out > 4")
	if err != nil || !p.ReadsResponse() || !p.ReadsSizes() || !p.Holds(x, Sizes{Out: 5}) || p.Holds(x, Sizes{Out: 4}) {
		t.Errorf("Answered: %v", err)
	}
}
