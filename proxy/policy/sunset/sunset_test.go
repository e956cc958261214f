package sunset

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

func TestSunset(t *testing.T) {
	now := time.Date(2027, 6, 29, 23, 59, 59, 0, time.UTC)
	clock := func() time.Time { return now }
	p, err := New(route.SunsetConfig{Date: "2027-06-30", Deprecated: "2027-01-01", Link: "https://docs.example.com/v2?a=b"}, clock)
	if err != nil {
		t.Fatal(err)
	}
	fields := []string{
		"A: b", "Link: <https://example.com/next>; rel=next",
		"Sunset: Wed, 30 Jun 2027 00:00:00 GMT", "Deprecation: @1798761600",
		`Link: <https://docs.example.com/v2?a=b>; rel="sunset", <https://docs.example.com/v2?a=b>; rel="deprecation"`,
	}
	announced := func() {
		t.Helper()
		x := policytest.Exchange(t, "GET https://api.example.com/")
		policytest.Answer(x, 200, "ok", "A: b", "sunset: never", "Link: <https://example.com/next>; rel=next")
		if err := p.Response(x); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(fields, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
			t.Errorf("fields: %s", d)
		}
	}
	x := policytest.Exchange(t, "GET https://api.example.com/")
	if v, err := p.Request(x); v != policy.Next || err != nil {
		t.Errorf("Request before the end = %v, %v", v, err)
	}
	if got, want := p.Explain(), "announces the end of the route on 2027-06-30"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	announced()

	now = now.Add(time.Second)
	_, err = p.Request(x)
	var f *exchange.Fault
	if !errors.As(err, &f) || f.Kind != exchange.RouteEnded || f.Source != exchange.FromPolicy {
		t.Errorf("Request at the end = %v, want a fault of kind %q", err, exchange.RouteEnded)
	}
	if got, want := p.Explain(), "refuses with 410: the route ended on 2027-06-30"; got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	announced()
}

func TestDateOnly(t *testing.T) {
	p, err := New(route.SunsetConfig{Date: "2027-06-30"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	x := policytest.Exchange(t, "GET https://api.example.com/")
	policytest.Answer(x, 200, "")
	if err := p.Response(x); err != nil {
		t.Fatal(err)
	}
	want := []string{"Sunset: Wed, 30 Jun 2027 00:00:00 GMT"}
	if d := cmp.Diff(want, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
		t.Errorf("fields: %s", d)
	}
}

func TestNewErrors(t *testing.T) {
	tests := []struct {
		cfg  route.SunsetConfig
		want string
	}{
		{route.SunsetConfig{Date: "30.6.2027"}, `date: "30.6.2027" isn't a day, such as 2027-06-30`},
		{route.SunsetConfig{Date: "2027-06-31"}, `date: "2027-06-31" isn't a day`},
		{route.SunsetConfig{Date: "2027-06-30", Deprecated: "soon"}, `deprecated: "soon" isn't a day`},
		{route.SunsetConfig{Date: "2027-06-30", Deprecated: "2027-07-01"}, `deprecated: 2027-07-01 is after the end, 2027-06-30`},
		{route.SunsetConfig{Date: "2027-06-30", Link: "docs"}, `link: "docs" isn't an http or https URL`},
		{route.SunsetConfig{Date: "2027-06-30", Link: "https://a.test/?<>"}, `isn't an http or https URL`},
		{route.SunsetConfig{Date: "2027-06-30", Link: "https://a.test/\r\n"}, `isn't an http or https URL`},
	}
	for _, tt := range tests {
		if _, err := New(tt.cfg, time.Now); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%+v) = %v, want %q", tt.cfg, err, tt.want)
		}
	}
}

func TestREADME(t *testing.T) {
	policytest.README(t, "README.md", policy.Kind{
		Name:   "sunset",
		Config: func() any { return &route.SunsetConfig{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*route.SunsetConfig), time.Now) },
	})
}
