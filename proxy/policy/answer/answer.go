// Package answer makes the responses of routes that have no service: respond
// and redirect blocks. Each is a policy.Requester that is done with every
// request; the handler asks it after a route's policies. It starts no
// goroutine.
package answer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// fixed is a fixed response.
type fixed struct {
	status      int
	contentType string
	body        []byte
	fields      [][2]string
}

// Respond makes the answer of a respond block.
func Respond(c route.RespondConfig) (policy.Requester, error) {
	f := &fixed{status: c.Status, body: []byte(c.Body)}
	var errs error
	if c.Status < 200 || c.Status > 599 {
		errs = errors.Join(errs, fmt.Errorf("status: %d isn't from 200 to 599", c.Status))
	}
	// RFC 9110, 15.3.5, 15.3.6, 15.4.5.
	if c.Body != "" && (c.Status == 204 || c.Status == 205 || c.Status == 304) {
		errs = errors.Join(errs, fmt.Errorf("body: a response with status %d has none", c.Status))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		value, id := c.Headers[name], exchange.Lookup(name)
		switch {
		case !header.Name(name):
			errs = errors.Join(errs, fmt.Errorf("headers: %q isn't the name of a header field", name))
		case id.HopByHop() || id == exchange.ContentLength || id == exchange.Host:
			errs = errors.Join(errs, fmt.Errorf("headers: %q can't be set; the gateway knows it", name))
		case !header.Value(value):
			errs = errors.Join(errs, fmt.Errorf("headers: %q: the value has a control character", name))
		case id == exchange.ContentType:
			f.contentType = value
		default:
			f.fields = append(f.fields, [2]string{name, value})
		}
	}
	if errs != nil {
		return nil, errs
	}
	if f.contentType == "" && len(f.body) > 0 {
		f.contentType = "text/plain; charset=utf-8"
	}
	return f, nil
}

// Request answers.
func (f *fixed) Request(x *exchange.Exchange) (policy.Verdict, error) {
	x.Reply(f.status, f.contentType, f.body)
	for _, h := range f.fields {
		x.Response.Append(h[0], h[1])
	}
	return policy.Done, nil
}

// Explain says what it answers.
func (f *fixed) Explain() string {
	text := fmt.Sprintf("answers %d", f.status)
	if len(f.body) > 0 {
		text += fmt.Sprintf(" with %d bytes of %s", len(f.body), strings.TrimSpace(f.contentType))
	}
	return text
}
