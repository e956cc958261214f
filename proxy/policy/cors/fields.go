package cors

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// The fields of Fetch, 3.3.
const (
	requestMethod    = "Access-Control-Request-Method"
	requestHeaders   = "Access-Control-Request-Headers"
	allowOrigin      = "Access-Control-Allow-Origin"
	allowCredentials = "Access-Control-Allow-Credentials"
	allowMethods     = "Access-Control-Allow-Methods"
	allowHeaders     = "Access-Control-Allow-Headers"
	exposeHeaders    = "Access-Control-Expose-Headers"
	maxAge           = "Access-Control-Max-Age"
	prefix           = "Access-Control-"
)

// EveryResponse tells that the refusals of block, ban and limits, which run
// before, carry the fields, too.
func (p *Policy) EveryResponse() {}

// Response puts the fields on whatever goes out: the service's response, or
// one that the gateway made.
func (p *Policy) Response(x *exchange.Exchange) error {
	p.drop(&x.Response)
	e := &x.ResponseEdits
	if !p.every { // what is said depends on who asks: Fetch, 3.3.5, CORS protocol and HTTP caches
		if !x.Response.HasToken(exchange.Vary, "Origin") && !x.Response.HasToken(exchange.Vary, "*") {
			e.AddID(exchange.Vary, "Vary", "Origin")
		}
	}
	if x.Status == 101 { // no page reads it
		return nil
	}
	asks := x.Method == "OPTIONS" && asksLeave(x)
	switch {
	case asks && (!x.Preflight || x.Err != nil):
		return nil // leave for a request that this route doesn't take, or that was refused
	case p.every:
		e.SetID(exchange.Other, allowOrigin, "*")
	case p.allows(x):
		e.SetID(exchange.Other, allowOrigin, x.Request.Get(exchange.Origin))
		if p.credentials {
			e.SetID(exchange.Other, allowCredentials, "true")
		}
	default:
		return nil
	}
	if x.Preflight {
		p.permit(x)
	} else if p.expose != "" {
		e.SetID(exchange.Other, exposeHeaders, p.expose)
	}
	return nil
}

// permit tells a preflight what is allowed. Where all is, what was asked for is
// repeated: with credentials "*" is a name, and it never covers Authorization.
func (p *Policy) permit(x *exchange.Exchange) {
	e := &x.ResponseEdits
	methods, headers := p.allowMethods, p.allowHeaders
	if p.anyMethod {
		methods, _ = x.Request.Find(requestMethod)
	}
	if p.anyHeader {
		headers = asked(x)
	}
	e.SetID(exchange.Other, allowMethods, methods)
	if headers != "" {
		e.SetID(exchange.Other, allowHeaders, headers)
	}
	e.SetID(exchange.Other, maxAge, p.maxAge)
}

// asked lists the header fields that a preflight asks for; judge has seen to it
// that each is a name.
func asked(x *exchange.Exchange) string {
	var buf [256]byte
	b := buf[:0]
	for i := range x.Request.Len() {
		name, list := x.Request.Field(i)
		if x.Request.ID(i) != exchange.Other || !exchange.EqualFold(name, requestHeaders) {
			continue
		}
		exchange.EachToken(list, func(t string) bool {
			if len(b) > 0 {
				b = append(b, ", "...)
			}
			b = append(b, t...)
			return true
		})
	}
	return x.Keep(b)
}

// drop takes the service's own fields away: two that disagree are none to a
// browser, and the gateway's word holds.
func (p *Policy) drop(h *exchange.Head) {
	for i := range h.Len() {
		if h.ID(i) != exchange.Other {
			continue
		}
		name, _ := h.Field(i)
		if len(name) <= len(prefix) || !exchange.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		for _, own := range [...]string{allowOrigin, allowCredentials, allowMethods, allowHeaders, exposeHeaders, maxAge} {
			if exchange.EqualFold(name, own) {
				h.Drop(i)
			}
		}
	}
}

func asksLeave(x *exchange.Exchange) bool {
	_, ok := x.Request.Find(requestMethod)
	return ok && x.Request.Has(exchange.Origin)
}
