package compress

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// A strong entity tag is one sequence of bytes (RFC 9110, 8.8.1), and what is
// encoded here is another one, that need not even be the same twice: it gets the
// weak tag of the same text. Where a service sees that again:
//
//	If-None-Match  compares weakly (13.1.2), so it is left as it is
//	If-Match       compares strongly (13.1.1), and a weak tag never matches: the
//	               mark is taken off, as Request says
//	If-Range       compares strongly (13.1.5), and rightly so: ranges would be of
//	               another sequence of bytes

// weaken makes the tag of a response that is encoded weak, and keeps one from
// coming in the trailers (exchange.Edits.MayTrail).
func weaken(x *exchange.Exchange) {
	h, e := &x.Response, &x.ResponseEdits
	tag := value(h, e, exchange.ETag)
	switch {
	case strings.HasPrefix(tag, "W/"):
		e.SetID(exchange.ETag, "ETag", tag)
	case strings.HasPrefix(tag, `"`):
		e.SetID(exchange.ETag, "ETag", weak(x, tag))
	default: // none, or not one
		e.Remove("ETag")
	}
}

// weak is the weak tag of a strong one.
func weak(x *exchange.Exchange, tag string) string {
	var buf [128]byte
	return x.Keep(append(append(buf[:0], "W/"...), tag...))
}

// notModified does for 304 what was done for the response that the client has.
// If it shows the weak tag of a strong one, it has it from here (RFC 9111, 4.3.4:
// a strong one would be of none that it has).
func (p *Policy) notModified(x *exchange.Exchange) {
	vary(x)
	tag := value(&x.Response, &x.ResponseEdits, exchange.ETag)
	if !strings.HasPrefix(tag, `"`) {
		return
	}
	shows, strong := false, false
	eachTag(&x.Request, exchange.IfNoneMatch, func(t string, isWeak bool) {
		if t == tag {
			shows, strong = shows || isWeak, strong || !isWeak
		}
	})
	if shows && !strong {
		x.ResponseEdits.SetID(exchange.ETag, "ETag", weak(x, tag))
		x.ResponseEdits.Remove("Content-Length")
		x.ResponseLength = -1
	}
}

// Request takes the mark of weakness off the tags of If-Match that a client
// has from here: the service would take none of them, and who changes a thing only
// if nobody else has would never get through. A service of the route that has been
// seen to send weak tags itself gets what the client sent: it may go by them, RFC
// or not.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if !x.Request.Has(exchange.IfMatch) || p.counts.weak.Load() || x.RequestEdits.Replaces("", exchange.IfMatch) {
		return policy.Next, nil
	}
	var buf [128]byte
	list, changed := buf[:0], false
	eachTag(&x.Request, exchange.IfMatch, func(t string, isWeak bool) {
		if len(list) > 0 {
			list = append(list, ", "...)
		}
		list = append(list, t...)
		changed = changed || isWeak
	})
	if changed {
		x.RequestEdits.SetID(exchange.IfMatch, "If-Match", x.Keep(list))
	}
	return policy.Next, nil
}

// learn notes whether the service has weak tags of its own.
func (p *Policy) learn(x *exchange.Exchange) {
	if strings.HasPrefix(x.Response.Get(exchange.ETag), "W/") && !p.counts.weak.Load() {
		p.counts.weak.Store(true)
	}
}

// eachTag calls f with each entity tag of the lists in the fields of that id,
// without its mark of weakness. What isn't a tag, as "*", comes as it stands.
func eachTag(h *exchange.Head, id exchange.ID, f func(tag string, isWeak bool)) {
	if !h.Has(id) {
		return
	}
	for i := range h.Len() {
		if h.ID(i) != id {
			continue
		}
		_, s := h.Field(i)
		for s = strings.TrimLeft(s, " \t,"); s != ""; s = strings.TrimLeft(s, " \t,") {
			isWeak := strings.HasPrefix(s, `W/"`)
			if isWeak {
				s = s[len("W/"):]
			}
			n := tagLen(s)
			f(strings.TrimRight(s[:n], " \t"), isWeak)
			s = s[n:]
		}
	}
}

// tagLen is where the tag that s begins with ends. It may hold commas (RFC 9110,
// 8.8.3).
func tagLen(s string) int {
	if s[0] == '"' {
		if n := strings.IndexByte(s[1:], '"'); n >= 0 {
			return n + 2
		}
	} else if n := strings.IndexByte(s, ','); n >= 0 {
		return n
	}
	return len(s)
}
