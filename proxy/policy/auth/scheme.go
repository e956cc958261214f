package auth

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// Scheme is how the client came, "https" or "http": where a trusted proxy that
// ends TLS says so, as it says. What others say of that is overwritten by the time
// that policies run.
func Scheme(x *exchange.Exchange) string {
	if x.Target.Scheme == "https" {
		return "https"
	}
	if !x.RequestEdits.Replaces("X-Forwarded-Proto", exchange.XForwardedProto) && exchange.EqualFold(x.Request.Get(exchange.XForwardedProto), "https") {
		return "https"
	}
	return "http"
}
