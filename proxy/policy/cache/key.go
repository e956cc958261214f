package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// parts are what a URI's key is made of.
type parts struct {
	host, path, query bool
	headers           []string
}

func parseKey(list []string) (parts, error) {
	if len(list) == 0 {
		return parts{host: true, path: true, query: true}, nil
	}
	var p parts
	for _, s := range list {
		name, isHeader := strings.CutPrefix(s, "header.")
		switch {
		case s == "host":
			p.host = true
		case s == "path":
			p.path = true
		case s == "query":
			p.query = true
		case isHeader && exchange.IsToken(name):
			p.headers = append(p.headers, strings.ToLower(name))
		default:
			return p, fmt.Errorf("%q is none of host, path, query, header.NAME", s)
		}
	}
	if !p.path {
		return p, fmt.Errorf("without path, one answer would be that of all paths")
	}
	return p, nil
}

// uri is what all answers of a URI are found and forgotten by. It is a view into x.
func (p *Policy) uri(x *exchange.Exchange, path, query string, hasQuery bool) string {
	var room [512]byte
	b := append(append(room[:0], x.Target.Scheme...), "://"...)
	if p.parts.host {
		b = append(b, x.Target.Host...)
		if port := x.Target.Port; port != "" && port != defaultPort(x.Target.Scheme) {
			b = append(append(b, ':'), port...)
		}
	}
	b = append(b, path...)
	if p.parts.query && hasQuery {
		b = append(append(b, '?'), query...)
	}
	if !p.parts.query {
		b = append(b, noQuery...)
	}
	for _, name := range p.parts.headers {
		b = append(append(b, 0), name...)
		b = rules.AppendVariant(b, &x.Request, name)
	}
	return x.Keep(b)
}

// noQuery is behind the path of what is found by no query, so that a purge of a URL
// with one finds it.
const noQuery = "\x00?"

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// bases are what answers of a URI are found by beside what they say they vary by:
// the route, the service that was chosen for the request, what a trusted proxy says of the request, and, in own, for whom the
// answer is. ok is false where somebody is calling, and it isn't known who.
func (p *Policy) bases(x *exchange.Exchange) (own, public string, ok bool) {
	var room [512]byte
	b := append(append(room[:0], p.route...), 0)
	b = append(append(b, x.ServiceName...), 0)
	b = appendForwarded(b, x)
	b = append(b, 0)
	if p.Public { // what is stored as such is nobody's any more once the route doesn't say so
		public = x.Keep(append(b, 'p'))
		return public, public, true
	}
	public = x.Keep(b)
	if p.guarded && x.Consumer == nil && x.Claims == nil {
		return "", "", false
	}
	n := len(b)
	if x.Consumer != nil {
		b = append(append(b, 'c'), x.Consumer.Name...)
		b = append(b, 0)
	}
	if x.Claims != nil {
		text, err := json.Marshal(x.Claims.Values()) // its keys are sorted
		if err != nil {
			return "", "", false
		}
		sum := sha256.Sum256(text)
		b = append(append(b, 't'), sum[:]...)
	}
	if b = appendEdits(b, &x.RequestEdits); len(b) == n {
		return public, public, true
	}
	return x.Keep(b), public, true
}

// appendEdits appends what policies add to the request: a service may go by it,
// and it is mostly who is calling. Not what the gateway always adds, which differs
// from request to request, nor cookies, which are in no key.
func appendEdits(b []byte, e *exchange.Edits) []byte {
	for i := range e.Len() {
		switch e.ID(i) {
		case exchange.XForwardedFor, exchange.XForwardedHost, exchange.XForwardedProto, exchange.Forwarded, exchange.Via, exchange.XRequestID, exchange.Traceparent, exchange.Tracestate, exchange.Cookie:
			continue
		}
		if name, value, ok := e.Field(i); ok {
			b = append(append(b, 'e'), name...)
			b = append(append(append(b, ':'), value...), 0)
		}
	}
	return b
}

// appendForwarded appends what a trusted proxy says that services make links of.
func appendForwarded(b []byte, x *exchange.Exchange) []byte {
	for i := range x.Request.Len() {
		id := x.Request.ID(i)
		switch id {
		case exchange.XForwardedHost, exchange.XForwardedProto, exchange.XForwardedPort, exchange.XForwardedPrefix:
		default:
			continue
		}
		name, value := x.Request.Field(i)
		if x.Request.Dropped(i) || x.RequestEdits.Replaces(name, id) {
			continue
		}
		b = append(append(b, id.Name()...), '=')
		b = append(append(b, value...), 1)
	}
	return b
}

// values are what a request has in the fields that an answer depends on.
func values(b []byte, x *exchange.Exchange, varies []string) []byte {
	for _, name := range varies {
		b = append(append(b, 0), name...)
		b = rules.AppendVariant(b, &x.Request, name)
	}
	return b
}

// entryKey is what one answer is found by.
func entryKey(dst []byte, uri string, base, values string) []byte {
	dst = append(append(dst, uri...), 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(base))) // nothing in it can pass for what follows
	return append(append(dst, base...), values...)
}

// odd are fields that make some services answer for another URI, method or host,
// and that are in no key. Requests whose answers may be stored don't have them.
var odd = []string{
	"x-original-url", "x-original-uri", "x-original-host", "x-original-method", "x-rewrite-url", "x-override-url", "x-url", "x-host", "x-http-host-override",
	"x-http-method", "x-http-method-override", "x-method-override", "x-url-scheme", "x-scheme", "front-end-https", "x-real-host", "base-url", "destination",
}

// strip takes from a request whose answer may be stored what is in no key.
func (p *Policy) strip(x *exchange.Exchange) {
	const claim = "x-forwarded-"
	h, e := &x.Request, &x.RequestEdits
	for i := range h.Len() {
		id := h.ID(i)
		name, _ := h.Field(i)
		switch {
		case h.Dropped(i) || e.Replaces(name, id):
		case id == exchange.Forwarded:
			e.Remove("Forwarded")
		case id != exchange.Other:
		case len(name) > len(claim) && exchange.EqualFold(name[:len(claim)], claim),
			slices.ContainsFunc(odd, func(s string) bool { return exchange.EqualFold(s, name) }):
			if !slices.ContainsFunc(p.parts.headers, func(s string) bool { return exchange.EqualFold(s, name) }) {
				e.Remove(name)
			}
		}
	}
}

// edited are the fields that policies have set for the service, in lower case.
// Never nil.
func edited(e *exchange.Edits) []string {
	list := []string{}
	for i := range e.Len() {
		if name, _, ok := e.Field(i); ok {
			list = append(list, strings.ToLower(name))
		}
	}
	return list
}

// personal reports whether an answer depends on fields that aren't the client's,
// but say something of it: only the same caller may have it then (own), or nobody,
// if the fields are in no key at all.
func (l *look) personal(varies []string) (own, nobody bool) {
	for _, name := range varies {
		switch exchange.Lookup(name) {
		case exchange.XForwardedFor, exchange.Forwarded, exchange.Via, exchange.XRequestID, exchange.XRealIP, exchange.Traceparent, exchange.Tracestate:
			return false, true // they are different for each client, or request
		case exchange.XForwardedHost, exchange.XForwardedProto, exchange.Cookie:
			continue // in the key by what they are made of
		case exchange.AcceptEncoding:
			if l.p.coder != nil { // this policy has set it
				continue
			}
		}
		switch {
		case slices.Contains(l.edited, name):
			own, nobody = true, nobody || l.p.Public
		case slices.Contains(edited(&l.x.RequestEdits), name): // by a policy behind this one
			nobody = true
		}
	}
	return own, nobody
}
