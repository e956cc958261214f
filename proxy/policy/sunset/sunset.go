// Package sunset is the policy of a sunset block: it announces the end of a
// route with Deprecation (RFC 9745), Sunset (RFC 8594) and Link fields, and
// from the day on answers 410. It doesn't choose where requests go.
package sunset

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// Policy announces the end of a route, and brings it.
type Policy struct {
	now         func() time.Time
	end         time.Time
	deprecation string // field values; "": none
	sunset      string
	link        string
	ended       *exchange.Fault
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Responder = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
)

// New makes the policy of a sunset block. Days begin at midnight UTC.
func New(c route.SunsetConfig, now func() time.Time) (*Policy, error) {
	p := &Policy{now: now}
	var errs error
	end, err := time.Parse(time.DateOnly, c.Date)
	if err != nil {
		errs = errors.Join(errs, fmt.Errorf("date: %q isn't a day, such as 2027-06-30", c.Date))
	}
	p.end = end
	p.sunset = end.Format(http.TimeFormat)
	if c.Deprecated != "" {
		from, err := time.Parse(time.DateOnly, c.Deprecated)
		switch {
		case err != nil:
			errs = errors.Join(errs, fmt.Errorf("deprecated: %q isn't a day, such as 2027-01-01", c.Deprecated))
		case errs == nil && from.After(end): // RFC 9745, 4: Sunset must not be earlier
			errs = errors.Join(errs, fmt.Errorf("deprecated: %s is after the end, %s", c.Deprecated, c.Date))
		}
		p.deprecation = "@" + strconv.FormatInt(from.Unix(), 10)
	}
	if c.Link != "" {
		u, err := url.Parse(c.Link)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.ContainsAny(u.String(), "<>\" ") {
			errs = errors.Join(errs, fmt.Errorf("link: %q isn't an http or https URL", c.Link))
		} else {
			p.link = "<" + u.String() + `>; rel="sunset"`
			if p.deprecation != "" {
				p.link += ", <" + u.String() + `>; rel="deprecation"`
			}
		}
	}
	if errs != nil {
		return nil, errs
	}
	p.ended = exchange.NewFault(exchange.FromPolicy, exchange.RouteEnded, "the route ended on %s", c.Date)
	return p, nil
}

// Request refuses requests from the day on.
func (p *Policy) Request(*exchange.Exchange) (policy.Verdict, error) {
	if p.now().Before(p.end) {
		return policy.Next, nil
	}
	return policy.Done, p.ended
}

// Response adds the announcements, also to the refusal.
func (p *Policy) Response(x *exchange.Exchange) error {
	x.ResponseEdits.Set("Sunset", p.sunset)
	if p.deprecation != "" {
		x.ResponseEdits.Set("Deprecation", p.deprecation)
	}
	if p.link != "" {
		x.ResponseEdits.Add("Link", p.link)
	}
	return nil
}

// Explain says when the route ends.
func (p *Policy) Explain() string {
	if p.now().Before(p.end) {
		return "announces the end of the route on " + p.end.Format(time.DateOnly)
	}
	return "refuses with 410: the route ended on " + p.end.Format(time.DateOnly)
}
