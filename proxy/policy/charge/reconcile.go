package charge

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Comparison is what the billing services and we have charged.
type Comparison struct {
	Node     string     `json:"node"`
	Since    string     `json:"since"`
	Until    string     `json:"until"`
	Services []Compared `json:"services"`
}

// Compared is that of one billing service.
type Compared struct {
	Service     string       `json:"service"`
	Error       string       `json:"error,omitempty"` // why nothing could be compared
	Compared    int          `json:"compared"`        // days of consumers and meters
	Differences []Difference `json:"differences"`
}

// Difference is a day of a consumer and a meter on which the two don't agree. What
// it doesn't know yet is no difference.
type Difference struct {
	Day      string `json:"day"`
	Consumer string `json:"consumer"`
	Meter    string `json:"meter"`
	Ours     Amount `json:"ours"`   // that it has been told of
	Theirs   Amount `json:"theirs"` // that it says it has
	Untold   Amount `json:"untold"` // that it is still to be told of
}

// theirs is what a billing service answers to the question for totals.
type theirs struct {
	Totals []struct {
		Day      string `json:"day"`
		Consumer string `json:"consumer"`
		Meter    string `json:"meter"`
		Units    Amount `json:"units"`
	} `json:"totals"`
}

// Reconcile compares what was charged from day since on and before day until with
// what the billing services say, or the one of that name does.
func (l *Ledger) Reconcile(since, until, service string) (Comparison, error) {
	now := l.Now()
	since, until = cmp.Or(since, dayOf(now.Add(-7*24*time.Hour).UnixMilli())), cmp.Or(until, dayOf(now.Add(24*time.Hour).UnixMilli()))
	if err := checkDays(since, until); err != nil {
		return Comparison{}, err
	}
	out := Comparison{Node: l.node, Since: since, Until: until, Services: []Compared{}}
	l.mu.Lock()
	var list []*Target
	for _, t := range l.targets {
		if service == "" || service == t.name {
			list = append(list, t)
		}
	}
	l.mu.Unlock()
	if service != "" && len(list) == 0 {
		return out, fmt.Errorf("no charge is told to %q", service)
	}
	slices.SortFunc(list, func(a, b *Target) int { return strings.Compare(a.name, b.name) })
	for _, t := range list {
		c := Compared{Service: t.name, Differences: []Difference{}}
		if err := l.compare(t, since, until, &c); err != nil {
			c.Error = err.Error()
		}
		out.Services = append(out.Services, c)
	}
	return out, nil
}

func (l *Ledger) compare(t *Target, since, until string, c *Compared) error {
	q := url.Values{"since": {since}, "until": {until}, "node": {l.node}}
	a, err := l.call(t, &Call{Method: "GET", Query: q.Encode(), Until: time.Now().Add(tellTime)})
	if err != nil {
		return err
	}
	if a.Status != 200 {
		return fmt.Errorf("it answers %d", a.Status)
	}
	var said theirs
	if err := json.Unmarshal(a.Body, &said); err != nil {
		return fmt.Errorf("its totals aren't as the protocol has them: %w", err)
	}
	type key struct{ day, consumer, meter string }
	rows := map[key]*Difference{}
	row := func(k key) *Difference {
		if rows[k] == nil {
			rows[k] = &Difference{Day: k.day, Consumer: k.consumer, Meter: k.meter}
		}
		return rows[k]
	}
	for _, s := range said.Totals {
		row(key{s.Day, s.Consumer, s.Meter}).Theirs += s.Units
	}
	l.mu.Lock()
	for k, v := range l.state.totals {
		if k.target == t.name && k.day >= since && k.day < until {
			d := row(key{k.day, k.consumer, k.meter})
			d.Ours, d.Untold = Amount(v.told), Amount(v.units-v.told)
		}
	}
	l.mu.Unlock()
	for _, d := range rows {
		c.Compared++
		// What it is being told at this moment, it may have counted.
		if d.Theirs < d.Ours || d.Theirs > d.Ours+max(0, d.Untold) {
			c.Differences = append(c.Differences, *d)
		}
	}
	slices.SortFunc(c.Differences, func(a, b Difference) int {
		return cmp.Or(strings.Compare(a.Day, b.Day), strings.Compare(a.Consumer, b.Consumer), strings.Compare(a.Meter, b.Meter))
	})
	return nil
}
