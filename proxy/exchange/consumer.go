package exchange

import "time"

// Consumer is a client that the gateway knows. It never changes and belongs to
// the configuration that it comes from: it may be kept, its strings too.
type Consumer struct {
	Name     string
	Plan     *Plan // nil: none
	Labels   map[string]string
	Priority Priority // its own or its plan's; Unranked: the route's holds
	Use      []string // sets of policies that hold for its requests, beside its plan's
}

// PlanName is the name of the consumer's plan, "" without one; c may be nil.
func (c *Consumer) PlanName() string {
	if c == nil || c.Plan == nil {
		return ""
	}
	return c.Plan.Name
}

// Plan is what a set of consumers is promised. It never changes.
type Plan struct {
	Name string
	Rate Rate // in the place of a rate_limit's by consumer; zero: the route's holds
	// In the place of a quota's by consumer, counted on all routes that have one
	// together; zero: the route's holds.
	Quota    Quota
	Priority Priority // in the place of the routes'
	Use      []string // sets of policies that hold for its consumers' requests
}

// Quota is how much may be used in a period of the calendar.
type Quota struct {
	Units  int64 // 0: there is no quota
	Period Period
}

// Period is a period of the calendar, in UTC.
type Period uint8

// The periods.
const (
	Hour Period = iota + 1
	Day
	Month
)

// String is the period as the configuration writes it.
func (p Period) String() string {
	switch p {
	case Hour:
		return "h"
	case Day:
		return "day"
	default:
		return "month"
	}
}

// Rate is how much may pass: Count in each Per, and Burst at once.
type Rate struct {
	Count    int64
	Per      time.Duration
	Burst    int64
	Interval time.Duration // between two requests at that rate, rounded up; 0: no rate
}
