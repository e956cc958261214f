package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/answer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// ownAtOnce are the consumers that ask what they have used at a time, those that
// wait included: one is answered after the other.
const ownAtOnce = 16

// ownUsage answers consumers about themselves, and about nobody else.
type ownUsage struct {
	app     *App
	waiting chan struct{}
}

var _ answer.Used = (*ownUsage)(nil)

// ownAnswer is what a consumer is told.
type ownAnswer struct {
	Consumer string `json:"consumer"`
	Plan     string `json:"plan,omitempty"`
	usage.Report
	Quotas []ownQuota `json:"quotas"` // in the periods that go on
}

// ownQuota is what is left of a quota.
type ownQuota struct {
	Quota  string    `json:"quota"` // plan, route:NAME or name:NAME
	Period string    `json:"period"`
	Until  time.Time `json:"until"`
	Limit  int64     `json:"limit"`
	Used   int64     `json:"used"`
	Left   int64     `json:"left"`
}

// ownParameters are what a consumer may ask by, and what each has to be.
var ownParameters = map[string]string{
	"by":     "must be of route, status, and one of day, hour and minute",
	"since":  "must be a date like 2026-11-25, a time (RFC 3339) or an age like 24h or 7d, and before until",
	"until":  "must be a date like 2026-11-25, a time (RFC 3339) or an age like 24h or 7d",
	"route":  "must be the name of a route",
	"status": "must be a class like 2xx",
	"top":    "must be a number",
	"limit":  "must be a number up to 100000",
	"cursor": "must be the next of an answer",
}

// Own is what a consumer has used, and what is left of its quotas.
func (o *ownUsage) Own(ctx context.Context, c *exchange.Consumer, question url.Values) ([]byte, error) {
	q, err := ownQuestion(c, question, time.Now())
	if err != nil {
		return nil, err
	}
	select {
	case o.waiting <- struct{}{}:
		defer func() { <-o.waiting }()
	default:
		return nil, answer.ErrBusy
	}
	r, err := q.Run(ctx, o.app.usage)
	if errors.Is(err, usage.ErrTooMuch) {
		return nil, answer.Findings{{Where: "query", What: "asks for too much: a shorter time, or by less"}}
	}
	if err != nil {
		return nil, err
	}
	if r.Note != "" { // which has names of the inside
		r.Note = "some of what was used can't be told at the moment"
	}
	return json.Marshal(ownAnswer{c.Name, c.PlanName(), *r, o.quotas(c, time.Now())})
}

// ownQuestion is a question of a consumer about itself.
func ownQuestion(c *exchange.Consumer, given url.Values, now time.Time) (*usage.Query, error) {
	var bad answer.Findings
	v := url.Values{"by": {"route"}, "since": {"31d"}}
	for name, values := range given {
		what, ok := ownParameters[name]
		switch {
		case !ok:
			bad = append(bad, exchange.Finding{Where: "query", What: "has a parameter that there isn't"})
		case name != "route" && name != "status" && len(values) > 1:
			bad = append(bad, exchange.Finding{Where: "query." + name, What: "must stand there once"})
		case name == "by" && strings.Contains(values[0], "consumer") || name == "by" && strings.Contains(values[0], "service"):
			bad = append(bad, exchange.Finding{Where: "query.by", What: what})
		default:
			v[name] = values
		}
	}
	q, err := usage.ParseQuery(v, now)
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			name, _, _ := strings.Cut(line, ":")
			bad = append(bad, exchange.Finding{Where: "query." + name, What: ownParameters[name]})
		}
	}
	if len(bad) > 0 {
		return nil, bad
	}
	q.Consumers = []string{c.Name}
	return q, nil
}

// quotas are what is left of a consumer's, that of its plan included.
func (o *ownUsage) quotas(c *exchange.Consumer, now time.Time) []ownQuota {
	list, plan := []ownQuota{}, false
	for _, u := range o.app.quotas.List(quota.Client(c.Name)) {
		if u.Client != quota.Client(c.Name) { // a consumer may be called like another's counter
			continue
		}
		scope, _, _ := strings.Cut(u.Quota, "@") // on all nodes
		plan = plan || scope == "plan"
		list = append(list, ownQuota{scope, u.Period, u.Until, u.Limit, u.Used, u.Left})
	}
	if p := c.Plan; !plan && p != nil && p.Quota.Units > 0 {
		list = append(list, ownQuota{"plan", p.Quota.Period.String(), quota.Until(p.Quota.Period, now), p.Quota.Units, 0, p.Quota.Units})
	}
	slices.SortStableFunc(list, func(a, b ownQuota) int {
		return cmp.Or(strings.Compare(a.Quota, b.Quota), strings.Compare(a.Period, b.Period))
	})
	return list
}
