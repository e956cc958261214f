// Package forward is auth "forward": another service decides about each request.
// It is asked with a request of its own (GET, without a body) that says what is
// wanted by whom; what it answers is remembered for as long as the block says. It
// starts no goroutine.
package forward

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// Method lets another service decide.
type Method struct {
	url       string
	to        *url.URL
	service   *remote.Service
	send      []field // of the request, to the auth service
	copy      []field // of its answer, to the service behind
	consumer  string  // of its answer; "": none
	key       uint8   // bits: see appendKey
	keep      time.Duration
	forward   bool
	seed      remote.Sum
	consumers *consumer.Directory
	cache     *Cache
	faults    *faults
}

var (
	_ auth.Method = (*Method)(nil)
	_ auth.Tester = (*Method)(nil)
)

type faults struct{ refused, forbidden, unavailable *exchange.Fault }

// newFaults makes the faults once: refusing many must not cost.
func newFaults() *faults {
	return &faults{
		refused:     auth.Refuse("the auth service answers 401"),
		forbidden:   exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "the auth service answers 403"),
		unavailable: exchange.NewFault(exchange.FromPolicy, exchange.AuthUnavailable, "the auth service can't be asked"),
	}
}

// Identify asks the service, or remembers what it said. It decides about every
// request: blocks behind it are never asked.
func (m *Method) Identify(x *exchange.Exchange) (bool, error) {
	if m.service == nil {
		return true, m.faults.unavailable
	}
	a, err := m.answer(x)
	if err != nil {
		return true, &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.AuthUnavailable, Err: err}
	}
	for _, c := range a.cookies {
		x.ResponseEdits.AddID(exchange.SetCookie, "Set-Cookie", c)
	}
	switch a.verdict {
	case admitted:
		if len(a.cookies) > 0 { // they come with what the service behind answers (RFC 9111, 7.3)
			x.ResponseEdits.AddID(exchange.CacheControl, "Cache-Control", "private")
		}
		for _, f := range a.fields {
			if f.first {
				x.RequestEdits.SetID(f.id, f.name, f.value)
			} else {
				x.RequestEdits.AddID(f.id, f.name, f.value)
			}
		}
		x.Consumer = m.consumers.Consumer(a.consumer)
		return true, nil
	case unauthenticated:
		for _, c := range a.challenges {
			x.ResponseEdits.AddID(exchange.WWWAuthenticate, "WWW-Authenticate", c)
		}
		return true, m.faults.refused
	case redirected:
		return true, &auth.Answer{Why: "the auth service sends the client somewhere else", Reply: a.redirect}
	default:
		return true, m.faults.forbidden
	}
}

// answer is what the service says, or said to the same question.
func (m *Method) answer(x *exchange.Exchange) (*answer, error) {
	if m.keep == 0 {
		return m.ask(x)
	}
	sum := m.sum(x)
	if a := m.cache.find(&sum, x.Start); a != nil {
		return a, nil
	}
	return m.share(x, sum)
}

// share asks once for all that have the question at a time. An answer that is made
// for one client, with a cookie or a place to log in, is that one's alone.
func (m *Method) share(x *exchange.Exchange, sum remote.Sum) (*answer, error) {
	asked := false
	a, err := m.cache.flights.Do(&sum, func() (*answer, error) {
		asked = true
		a, err := m.ask(x)
		if err == nil {
			m.cache.add(&sum, a, x.Start, m.keep)
		}
		return a, err
	})
	if err == nil && !asked && a.lasts == 0 {
		return m.ask(x)
	}
	return a, err
}

// ask makes the request. All that is sent is copied: the client of net/http may
// look at it after the exchange is over.
func (m *Method) ask(x *exchange.Exchange) (*answer, error) {
	h := make(http.Header, len(m.send)+8)
	for _, f := range m.send {
		for i := range x.Request.Len() {
			name, value := x.Request.Field(i)
			if !m.is(x, i, name, f) {
				continue
			}
			if f.id == exchange.Cookie { // a session is no service's, this one included
				if value = oidc.WithoutLogins(value); value == "" {
					continue
				}
			}
			h[f.name] = append(h[f.name], strings.Clone(value))
		}
	}
	set := func(name, value string) { h[name] = []string{value} }
	uri := strings.Clone(x.Target.Path)
	if x.Target.HasQuery {
		uri += "?" + x.Target.Query
	}
	set("X-Forwarded-Method", strings.Clone(x.Method))
	set("X-Forwarded-Uri", uri)
	set("X-Forwarded-Host", strings.Clone(x.Target.Authority))
	set("X-Forwarded-Proto", auth.Scheme(x))
	if x.ClientIP.IsValid() {
		set("X-Forwarded-For", x.ClientIP.Unmap().String())
	}
	set("X-Request-Id", strings.Clone(x.RequestID))
	set("User-Agent", "sidegate")
	got, err := m.service.Do(&http.Request{Method: http.MethodGet, URL: m.to, Host: m.to.Host, Header: h})
	if err != nil {
		return nil, fmt.Errorf("the auth service can't be asked: %w", err)
	}
	return m.read(got)
}

// is reports whether field i of the request is f. One that isn't forwarded isn't
// shown to anybody.
func (m *Method) is(x *exchange.Exchange, i int, name string, f field) bool {
	return x.Request.ID(i) == f.id && (f.id != exchange.Other || exchange.EqualFold(name, f.name)) && !x.Request.Dropped(i)
}

// Hide drops what clients send under the names of the copied fields, and the
// Authorization that the service was shown.
func (m *Method) Hide(x *exchange.Exchange) {
	for _, f := range m.copy {
		if !x.RequestEdits.Replaces(f.name, f.id) { // else it is ours
			x.RequestEdits.Remove(f.name)
		}
	}
	if m.forward || !x.Request.Has(exchange.Authorization) || x.RequestEdits.Replaces("Authorization", exchange.Authorization) {
		return
	}
	for _, f := range m.send {
		if f.id == exchange.Authorization {
			x.RequestEdits.Remove("Authorization")
		}
	}
}

// Challenge is nothing: the service has its own.
func (m *Method) Challenge(bool) string { return "" }

// Explain says who decides.
func (m *Method) Explain() string { return "whom " + remote.Shown(m.url) + " admits" }

// Test doesn't ask.
func (m *Method) Test(*exchange.Exchange) (bool, error) {
	return true, auth.Note("asks " + remote.Shown(m.url))
}
