// Package apikey is auth "api_key": a consumer shows its key in a header field
// or, where a route allows it, in the query. It starts no goroutine.
package apikey

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
)

// Config is an auth "api_key" block.
type Config struct {
	// The header field with the key.
	Header string `hcl:"header,attr" default:"X-API-Key"`
	// The query parameter that may have the key instead. Queries end up in logs and histories: only where a client can't set a header field.
	Query string `hcl:"query,attr"`
	// Send the key on to the service. Unless it does, no service, and no log of one, gets hold of a client's key.
	Forward bool `hcl:"forward,attr" default:"false"`
}

// maxKey bounds what is hashed.
const maxKey = 512

// Method finds a consumer by its key.
type Method struct {
	consumers     *consumer.Directory
	header, query string
	id            exchange.ID
	forward       bool
	challenge     string

	empty, unknown, long, twice *exchange.Fault
}

var (
	_ auth.Method  = (*Method)(nil)
	_ auth.Witness = (*Method)(nil)
)

// Kind describes the method to the configuration; the keys are those of the
// directory.
func Kind(d *consumer.Directory) policy.Kind {
	return auth.Kind("api_key", func() any { return &Config{} }, func(cfg any) (auth.Method, error) {
		return New(*cfg.(*Config), d)
	})
}

// New makes the method of a block.
func New(c Config, d *consumer.Directory) (*Method, error) {
	m := &Method{consumers: d, header: c.Header, query: c.Query, id: exchange.Lookup(c.Header), forward: c.Forward}
	var errs error
	switch {
	case !header.Name(c.Header):
		errs = fmt.Errorf("header: %q isn't the name of a header field", c.Header)
	case strings.ContainsAny(c.Header, "_."):
		errs = fmt.Errorf("header: %q never arrives: fields with _ or . in their names are dropped, for services take them for others", c.Header)
	case m.id.HopByHop() || m.id == exchange.Host || m.id == exchange.ContentLength || m.id == exchange.Cookie:
		errs = fmt.Errorf("header: %q has a meaning of its own", c.Header)
	}
	if strings.ContainsAny(c.Query, "&=+%#\" ") {
		errs = errors.Join(errs, fmt.Errorf("query: %q can't be the name of a parameter", c.Query))
	}
	if errs != nil {
		return nil, errs
	}
	// There is no registered scheme for API keys; this one is what others use
	// (RFC 9110, 11.1 asks for one).
	m.challenge = `ApiKey header="` + c.Header + `"`
	if c.Query != "" {
		m.challenge += `, query="` + c.Query + `"`
	}
	m.empty = auth.Refuse("the key is empty")
	m.unknown = auth.Refuse("unknown key")
	m.long = auth.Refuse(fmt.Sprintf("the key has more than %d bytes", maxKey))
	m.twice = exchange.NewFault(exchange.FromClient, exchange.Malformed, "more than one key")
	d.Use()
	return m, nil
}

// Identify looks for a key. Two are refused, even if equal: the backend, or a
// proxy before us, may look at the other one.
func (m *Method) Identify(x *exchange.Exchange) (bool, error) {
	var buf [maxKey]byte
	key, n := m.key(x, &buf)
	switch {
	case n == 0:
		return false, nil
	case n == tooLong:
		return true, m.long
	case n > 1:
		return true, m.twice
	case len(key) == 0:
		return true, m.empty
	}
	c, state := m.consumers.Find(key, x.Start)
	switch state {
	case consumer.Active:
		x.Consumer = c
		return true, nil
	case consumer.Unknown:
		return true, m.unknown
	default:
		// Whose it was, and which, is worth the memory: only those who had a right
		// key once come here.
		return true, auth.Refuse(m.consumers.Describe(key, x.Start))
	}
}

const tooLong = -1

// key is the one that x shows, and how many there are; tooLong for one that is.
func (m *Method) key(x *exchange.Exchange, buf *[maxKey]byte) ([]byte, int) {
	key, n := m.inHeader(&x.Request)
	escaped := false
	if m.query != "" {
		if inQuery, more := m.inQuery(x.Target.Query); more > 0 {
			key, n, escaped = inQuery, n+more, true
		}
	}
	switch {
	case n == 1 && len(key) > maxKey:
		return nil, tooLong
	case escaped && n == 1:
		return exchange.AppendUnescaped(buf[:0], key), n
	default:
		return buf[:copy(buf[:], key)], n
	}
}

// Witness says which key x shows, unless the refusal has said so.
func (m *Method) Witness(x *exchange.Exchange) string {
	var buf [maxKey]byte
	key, n := m.key(x, &buf)
	if n != 1 || len(key) == 0 {
		return ""
	}
	if _, s := m.consumers.Find(key, x.Start); s != consumer.Active && s != consumer.Unknown {
		return ""
	}
	return m.consumers.Describe(key, x.Start)
}

func (m *Method) inHeader(h *exchange.Head) (key string, n int) {
	if m.id != exchange.Other && !h.Has(m.id) {
		return "", 0
	}
	for i := range h.Len() {
		if h.ID(i) != m.id {
			continue
		}
		name, value := h.Field(i)
		if m.id != exchange.Other || exchange.EqualFold(name, m.header) {
			key = value
			n++
		}
	}
	return key, n
}

// parameter cuts the first parameter off a query and reports whether it is
// ours. Escaped spellings of the name are, too: the backend reads them.
func (m *Method) parameter(query string) (part, value, rest string, ours, more bool) {
	part, rest, more = strings.Cut(query, "&")
	name, value, _ := strings.Cut(part, "=")
	if name == m.query {
		return part, value, rest, true, more
	}
	var buf [64]byte
	if len(name) > 3*len(m.query) || len(name) > len(buf) || strings.IndexByte(name, '%') < 0 {
		return part, value, rest, false, more
	}
	return part, value, rest, string(exchange.AppendUnescaped(buf[:0], name)) == m.query, more
}

func (m *Method) inQuery(query string) (key string, n int) {
	for more := query != ""; more; {
		var value string
		var ours bool
		if _, value, query, ours, more = m.parameter(query); ours {
			key = value
			n++
		}
	}
	return key, n
}

// Hide takes the key out of what goes to the backend. That in the query is
// taken out for the gateway's own policies as well: a redirect or a header
// field made of the query would carry it away.
func (m *Method) Hide(x *exchange.Exchange) {
	if m.forward {
		return
	}
	if _, n := m.inHeader(&x.Request); n > 0 {
		x.RequestEdits.Remove(m.header)
	}
	if m.query == "" {
		return
	}
	if _, n := m.inQuery(x.Target.Query); n == 0 {
		return
	}
	var buf [256]byte
	b := buf[:0]
	rest := x.Target.Query
	for more := true; more; {
		var part string
		var ours bool
		if part, _, rest, ours, more = m.parameter(rest); ours {
			continue
		}
		if len(b) > 0 {
			b = append(b, '&')
		}
		b = append(b, part...)
	}
	x.Target.Query, x.Target.HasQuery = x.Keep(b), len(b) > 0
}

// Challenge names the places of a key.
func (m *Method) Challenge(bool) string { return m.challenge }

// Explain says where it looks.
func (m *Method) Explain() string {
	if m.query != "" {
		return fmt.Sprintf("an API key in %s or the query's %s", m.header, m.query)
	}
	return "an API key in " + m.header
}
