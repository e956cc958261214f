package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// Permission is a right that a token should have: Access ("read" or "write") to
// what Segment, a name or a prefix, is of a Resource ("key", "service", "node",
// "session", …).
type Permission struct{ Resource, Access, Segment string }

// Leader asks the agent which server leads, "" for none, and what time it has:
// zero, when it doesn't say.
func (c *Client) Leader(ctx context.Context) (leader string, date time.Time, err error) {
	resp, err := c.send(ctx, http.MethodGet, "status/leader", c.query(read{dc: c.dc}), nil)
	if err != nil {
		return "", date, err
	}
	defer resp.Body.Close()
	if d, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		date = d
	}
	a, err := c.receive(resp, maxSmallReply)
	if err != nil {
		return "", date, err
	}
	if err := json.Unmarshal(a.body, &leader); err != nil {
		return "", date, fmt.Errorf("what answers isn't Consul: %w", err)
	}
	return leader, date, nil
}

// Lacks says which of some permissions the token hasn't. off reports that the
// agent has no ACLs, so that everybody may do everything.
func (c *Client) Lacks(ctx context.Context, needs []Permission) (lacks []Permission, off bool, err error) {
	asked := make([]permission, len(needs))
	for i, n := range needs {
		asked[i] = permission(n)
	}
	q := map[string][]string{}
	if c.dc != "" {
		q["dc"] = []string{c.dc}
	}
	data, err := c.write(ctx, http.MethodPost, "internal/acl/authorize", q, asked)
	var s *statusError
	if errors.As(err, &s) && s.code == http.StatusUnauthorized {
		return nil, true, nil // "ACL support disabled"
	}
	if err != nil {
		return nil, false, err
	}
	var verdicts []struct{ Allow bool }
	if json.Unmarshal(data, &verdicts) != nil || len(verdicts) != len(needs) {
		return nil, false, errors.New("this agent doesn't say what a token may do")
	}
	for i, v := range verdicts {
		if !v.Allow {
			lacks = append(lacks, needs[i])
		}
	}
	return lacks, false, nil
}

// Exists reports whether an instance is registered that a query finds, whatever its
// health. It asks once.
func (c *Client) Exists(ctx context.Context, q discovery.Query) (bool, error) {
	params := url.Values{}
	for _, t := range q.Tags {
		params.Add("tag", t)
	}
	if q.Filter != "" {
		params.Set("filter", q.Filter)
	}
	datacenters := q.Datacenters
	if len(datacenters) == 0 {
		datacenters = []string{c.dc}
	}
	var errs []error
	for _, dc := range datacenters {
		a, err := c.shortGet(ctx, read{path: "health/service/" + url.PathEscape(q.Service), params: params, dc: dc})
		var s *statusError
		switch {
		case errors.As(err, &s) && s.refusal(): // a datacenter that there isn't
		case err != nil:
			errs = append(errs, err)
		case !emptyList(a.body):
			return true, nil
		}
	}
	return false, errors.Join(errs...)
}
