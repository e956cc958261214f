package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
)

// TestRateLimitByToken: over each protocol, the claims of a verified token say
// whose limit it is, what a request costs, and what rate the client has.
func TestRateLimitByToken(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	g := newGateway(t, accessLog+twin(t, http.HandlerFunc(mirror))+fmt.Sprintf(`
route "tokens" {
  hosts   = ["tokens.test"]
  service = "one"
  auth "jwt" {
    issuer   = %q
    audience = ["api"]
  }
  rate_limit {
    rate       = "1/h"
    burst      = 5
    by         = "claim:sub"
    cost       = "request.path.startsWith('/dear') ? 3 : 1"
    rate_claim = "rate"
    rate_max   = "2/h"
  }
  rate_limit {
    rate    = "1/h"
    by      = "cel:claims.sub + request.method"
    dry_run = true
  }
}
`, i.URL)).start(t)
	for n, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			sub := fmt.Sprintf("client-%d", n)
			plain := "Authorization: Bearer " + i.Sign("k", tokenClaims(i, map[string]any{"sub": sub}))
			rich := "Authorization: Bearer " + i.Sign("k", tokenClaims(i, map[string]any{"sub": sub, "rate": "1000/s"}))
			for _, tt := range []struct {
				path, token string
				status      int
				answer      string
			}{
				{"/dear", plain, 200, `"claim:sub";r=2;`},
				{"/dear", plain, 429, `"claim:sub";r=2;`},
				{"/x/../dear", plain, 429, `"claim:sub";r=2;`}, // a cost is that of the canonical path
				{"/cheap", plain, 200, `"claim:sub";r=1;`},
				{"/cheap", plain, 200, `"claim:sub";r=0;`},
				{"/cheap", plain, 429, `"claim:sub";r=0;`},
				{"/cheap", rich, 200, `"claim:sub";r=4;t=1800`}, // never more than rate_max
			} {
				resp, body := send(t, c, c.scheme+"://tokens.test"+tt.path, tt.token)
				if got := resp.Header.Get("RateLimit"); resp.StatusCode != tt.status || !strings.HasPrefix(got, tt.answer) {
					t.Errorf("%s: %s, RateLimit %s; want %d, %s", tt.path, resp.Status, got, tt.status, tt.answer)
				}
				if tt.status == 429 {
					wantProblem(t, resp, body, 429, "rate-limited")
				}
			}
		})
	}
	text, err := g.get("/metrics")
	if err != nil || !strings.Contains(text, `sidegate_rate_limit_dry_run_refused_total{limit="cel",route="tokens"}`) {
		t.Errorf("the dry run isn't counted (%v)", err)
	}
}
