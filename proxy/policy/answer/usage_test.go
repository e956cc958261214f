package answer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// told says who asked what, or fails.
type told struct{ err error }

func (t told) Own(_ context.Context, c *exchange.Consumer, question url.Values) ([]byte, error) {
	return []byte(c.Name + " " + question.Encode()), t.err
}

func TestUsage(t *testing.T) {
	acme := &exchange.Consumer{Name: "acme"}
	tests := []struct {
		request  string
		consumer *exchange.Consumer
		err      error
		want     string
	}{
		{"GET https://a.test/usage?since=7d&consumer=umbrella", acme, nil, "200 acme consumer=umbrella&since=7d"},
		{"GET https://a.test/usage", nil, nil, "forbidden"},
		{"POST https://a.test/usage", acme, nil, "method-not-allowed"},
		{"GET https://a.test/usage?a=%zz", acme, nil, "invalid-request"},
		{"GET https://a.test/usage", acme, Findings{{Where: "query.since", What: "must be a date"}}, "invalid-request query.since"},
		{"GET https://a.test/usage", acme, ErrBusy, "gateway-overloaded"},
		{"GET https://a.test/usage", acme, fmt.Errorf("late: %w", context.DeadlineExceeded), "gateway-overloaded"},
		{"GET https://a.test/usage", acme, errors.New("no such table"), "internal-error"},
	}
	for _, tt := range tests {
		x := policytest.Exchange(t, tt.request)
		x.Consumer = tt.consumer
		verdict, err := Usage(told{tt.err}).Request(x)
		got := ""
		var f *exchange.Fault
		switch {
		case errors.As(err, &f):
			if got = string(f.Kind); len(f.Findings) > 0 {
				got += " " + f.Findings[0].Where
			}
		case err == nil:
			b, err := io.ReadAll(x.ResponseBody)
			got = fmt.Sprint(x.Status, " ", string(b))
			if err != nil || !strings.Contains(strings.Join(policytest.Sent(&x.Response, &x.ResponseEdits), ","), "Cache-Control: no-store") {
				t.Errorf("%v, %v", policytest.Sent(&x.Response, &x.ResponseEdits), err)
			}
		}
		if got != tt.want || verdict != policy.Done {
			t.Errorf("%s = %s, %v, want %s", tt.request, got, verdict, tt.want)
		}
	}
}
