package oidc

import (
	"errors"
	"net/url"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// renewal is what came of refreshing a session. It never changes.
type renewal struct {
	session *session // nil: the provider takes it back, or can't be asked
	cookies []string // of session
	over    bool     // the provider takes it back
}

// due reports whether the session's access token is about to end: a minute
// before, or when three quarters of a short time are over. Refreshing it shows
// whether the user may still come in, too.
func (s *session) due(now time.Time) bool {
	if s.Refresh == "" || s.Until == 0 {
		return false
	}
	return now.Unix() >= s.Until-min(60, (s.Until-s.Since)/4)
}

// fresh returns s, or what came of refreshing it; nil: it is over. While the
// provider is away, s goes on.
func (m *Method) fresh(x *exchange.Exchange, s *session, sum *remote.Sum) *session {
	if !s.due(x.Start) {
		return s
	}
	r, ok := m.store.renewed.Get(sum, x.Start)
	if !ok && m.away(x.Start) {
		return s // one that doesn't answer would hold up each session anew
	}
	if !ok {
		// Never an error: a renewal says what there is to say. A browser's requests
		// come together, and a refresh token serves once.
		r, _ = m.store.renewals.Do(sum, func() (*renewal, error) {
			if r, ok := m.store.renewed.Get(sum, x.Start); ok {
				return r, nil
			}
			return m.renew(s, m.place(x), sum, x.Start), nil
		})
	}
	switch {
	case r == nil:
		return s
	case r.over:
		return nil
	case r.session == nil:
		return s
	}
	m.keep(x, r.cookies, time.Unix(s.Ends, 0).Sub(x.Start))
	// They come with whatever the service answers, which may be for everybody's
	// caches; a session isn't (RFC 9111, 5.2.2.7 and 7.3).
	x.ResponseEdits.AddID(exchange.CacheControl, "Cache-Control", "private")
	return r.session
}

// renew refreshes a session (OpenID Connect Core 1.0, 12), and remembers what came
// of it for whoever still shows the old one.
func (m *Method) renew(s *session, place string, sum *remote.Sum, now time.Time) *renewal {
	counts := m.store.of(m.cfg.Issuer)
	next, err := m.refreshed(s, now)
	r, until := &renewal{}, now.Add(retry)
	switch {
	case errors.Is(err, errAway):
		counts.unrenewed.Add(1)
		away := m.sum("away")
		m.store.ended.Put(&away, struct{}{}, 96, now, until)
	case errors.Is(err, errGrant):
		counts.unrenewed.Add(1)
		r.over, until = true, time.Unix(s.Ends, 0)
		m.forget(s, now)
	case err != nil:
		counts.unrenewed.Add(1)
	default:
		if r.cookies = m.write(&next.stored, place); r.cookies == nil {
			counts.unrenewed.Add(1)
			break
		}
		counts.renewed.Add(1)
		r.session, until = next, now.Add(time.Hour)
		if next.Until != 0 {
			until = time.Unix(next.Until, 0)
		}
	}
	m.store.renewed.Put(sum, r, 2*s.size, now, until)
	return r
}

// errAway is a provider that doesn't say whether it takes a refresh token.
var errAway = errors.New("the provider is away")

// away reports whether the provider didn't answer a moment ago.
func (m *Method) away(now time.Time) bool {
	sum := m.sum("away")
	_, away := m.store.ended.Get(&sum, now)
	return away
}

func (m *Method) refreshed(s *session, now time.Time) (*session, error) {
	md, err := m.about(now)
	if err != nil {
		return nil, errAway // remote has said so in the log
	}
	t, err := m.grant(md, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.Refresh}})
	switch {
	case errors.Is(err, errGrant):
		return nil, err
	case err != nil:
		return nil, errAway
	}
	next := &session{stored: s.stored}
	if t.id != "" {
		// iss and aud as any token's; it must be the same user (ibid., 12.2).
		if fault := m.checkID(t.id, "", now); fault != nil {
			return nil, fault
		}
	}
	m.take(&next.stored, t, now)
	if next = next.complete(); next == nil || next.claims.Text("sub") != s.claims.Text("sub") {
		return nil, errGrant // another user isn't this session's
	}
	return next, nil
}
