package consul

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
)

// permission is one question to internal/acl/authorize.
type permission struct {
	Resource, Access, Segment string
}

// confirmEmpty decides whether an empty answer to r may be believed; doc.go has
// the rule. It gives the answer to use instead (which may not be empty), or an
// error that says what keeps us from knowing.
func (c *Client) confirmEmpty(ctx context.Context, r read, empty func(answer) bool, needs ...permission) (answer, error) {
	r.index, r.consistent = 0, true
	a, err := c.shortGet(ctx, r)
	if err != nil {
		return a, err
	}
	if a.filtered {
		return a, complain("the token may not read this: the answer was filtered by ACLs")
	}
	if !empty(a) {
		return a, nil
	}
	return a, c.maySee(ctx, a.deny, r.dc, needs)
}

// maySee is nil when the agent says that we may read all of needs, or has no
// ACLs.
func (c *Client) maySee(ctx context.Context, deny bool, dc string, needs []permission) error {
	q := make(map[string][]string, 3)
	if dc != "" {
		q["dc"] = []string{dc}
	}
	data, err := c.write(ctx, http.MethodPost, "internal/acl/authorize", q, needs)
	var s *statusError
	switch {
	case errors.As(err, &s):
		return c.tokenWorks(ctx, s, deny)
	case err != nil:
		return err
	}
	var verdicts []struct {
		permission
		Allow bool
	}
	if json.Unmarshal(data, &verdicts) != nil || len(verdicts) != len(needs) {
		return c.tokenWorks(ctx, &statusError{code: http.StatusNotFound}, deny)
	}
	for _, v := range verdicts {
		if !v.Allow {
			return complain("the token may not read %s %q, so an empty answer proves nothing", v.Resource, v.Segment)
		}
	}
	return nil
}

// tokenWorks is the weaker proof for agents that don't know authorize.
func (c *Client) tokenWorks(ctx context.Context, s *statusError, deny bool) error {
	switch {
	case s.code == http.StatusUnauthorized:
		return nil // "ACL support disabled"
	case s.code == http.StatusForbidden, s.code >= 500, s.code == http.StatusTooManyRequests:
		return s
	case c.conf.Token == "" && deny:
		return complain("there is no token and the default policy is deny, so an empty answer proves nothing")
	case c.conf.Token == "":
		return nil
	}
	_, err := c.shortGet(ctx, read{path: "acl/token/self", limit: maxSmallReply})
	if errors.As(err, &s) && s.code == http.StatusUnauthorized {
		return nil
	}
	return err
}

// shortGet is a read that doesn't block; few of them run at once.
func (c *Client) shortGet(ctx context.Context, r read) (answer, error) {
	select {
	case c.short <- struct{}{}:
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
	defer func() { <-c.short }()
	return c.get(ctx, r)
}
