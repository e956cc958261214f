package h3

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// entry is a field of the static table.
type entry struct{ name, value string }

// static is the static table of QPACK (RFC 9204, appendix A).
var static = [99]entry{
	{":authority", ""}, {":path", "/"}, {"age", "0"}, {"content-disposition", ""}, {"content-length", "0"},
	{"cookie", ""}, {"date", ""}, {"etag", ""}, {"if-modified-since", ""}, {"if-none-match", ""}, {"last-modified", ""},
	{"link", ""}, {"location", ""}, {"referer", ""}, {"set-cookie", ""}, {":method", "CONNECT"}, {":method", "DELETE"},
	{":method", "GET"}, {":method", "HEAD"}, {":method", "OPTIONS"}, {":method", "POST"}, {":method", "PUT"},
	{":scheme", "http"}, {":scheme", "https"}, {":status", "103"}, {":status", "200"}, {":status", "304"},
	{":status", "404"}, {":status", "503"}, {"accept", "*/*"}, {"accept", "application/dns-message"},
	{"accept-encoding", "gzip, deflate, br"}, {"accept-ranges", "bytes"},
	{"access-control-allow-headers", "cache-control"}, {"access-control-allow-headers", "content-type"},
	{"access-control-allow-origin", "*"}, {"cache-control", "max-age=0"}, {"cache-control", "max-age=2592000"},
	{"cache-control", "max-age=604800"}, {"cache-control", "no-cache"}, {"cache-control", "no-store"},
	{"cache-control", "public, max-age=31536000"}, {"content-encoding", "br"}, {"content-encoding", "gzip"},
	{"content-type", "application/dns-message"}, {"content-type", "application/javascript"},
	{"content-type", "application/json"}, {"content-type", "application/x-www-form-urlencoded"},
	{"content-type", "image/gif"}, {"content-type", "image/jpeg"}, {"content-type", "image/png"},
	{"content-type", "text/css"}, {"content-type", "text/html; charset=utf-8"}, {"content-type", "text/plain"},
	{"content-type", "text/plain;charset=utf-8"}, {"range", "bytes=0-"},
	{"strict-transport-security", "max-age=31536000"},
	{"strict-transport-security", "max-age=31536000; includesubdomains"},
	{"strict-transport-security", "max-age=31536000; includesubdomains; preload"}, {"vary", "accept-encoding"},
	{"vary", "origin"}, {"x-content-type-options", "nosniff"}, {"x-xss-protection", "1; mode=block"},
	{":status", "100"}, {":status", "204"}, {":status", "206"}, {":status", "302"}, {":status", "400"},
	{":status", "403"}, {":status", "421"}, {":status", "425"}, {":status", "500"}, {"accept-language", ""},
	{"access-control-allow-credentials", "FALSE"}, {"access-control-allow-credentials", "TRUE"},
	{"access-control-allow-headers", "*"}, {"access-control-allow-methods", "get"},
	{"access-control-allow-methods", "get, post, options"}, {"access-control-allow-methods", "options"},
	{"access-control-expose-headers", "content-length"}, {"access-control-request-headers", "content-type"},
	{"access-control-request-method", "get"}, {"access-control-request-method", "post"}, {"alt-svc", "clear"},
	{"authorization", ""}, {"content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"},
	{"early-data", "1"}, {"expect-ct", ""}, {"forwarded", ""}, {"if-range", ""}, {"origin", ""},
	{"purpose", "prefetch"}, {"server", ""}, {"timing-allow-origin", "*"}, {"upgrade-insecure-requests", "1"},
	{"user-agent", ""}, {"x-forwarded-for", ""}, {"x-frame-options", "deny"}, {"x-frame-options", "sameorigin"},
}

// staticName is one more than the index of a name in the static table.
var staticName = [256]uint8{
	exchange.Age: 3, exchange.ContentLength: 5, exchange.Cookie: 6, exchange.Date: 7, exchange.ETag: 8,
	exchange.IfModifiedSince: 9, exchange.IfNoneMatch: 10, exchange.LastModified: 11, exchange.Link: 12,
	exchange.Location: 13, exchange.Referer: 14, exchange.SetCookie: 15, exchange.Accept: 30,
	exchange.AcceptEncoding: 32, exchange.AcceptRanges: 33, exchange.CacheControl: 37, exchange.ContentEncoding: 43,
	exchange.ContentType: 45, exchange.Range: 56, exchange.Vary: 60, exchange.AcceptLanguage: 73, exchange.AltSvc: 84,
	exchange.Authorization: 85, exchange.EarlyData: 87, exchange.Forwarded: 89, exchange.IfRange: 90,
	exchange.Origin: 91, exchange.Server: 93, exchange.UserAgent: 96, exchange.XForwardedFor: 97,
}

const staticStatus = 24 // the first :status

// statusIndex is the index of a status in the static table, 0 for none.
func statusIndex(status int) byte {
	switch status {
	case 103:
		return 24
	case 200:
		return 25
	case 304:
		return 26
	case 404:
		return 27
	case 503:
		return 28
	case 100:
		return 63
	case 204:
		return 64
	case 206:
		return 65
	case 302:
		return 66
	case 400:
		return 67
	case 403:
		return 68
	case 421:
		return 69
	case 425:
		return 70
	case 500:
		return 71
	default:
		return 0
	}
}
