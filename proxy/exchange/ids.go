package exchange

import "net/http"

// ID is a small number for a well-known field name, so that finding one is a
// bit test. Other is every name without one.
type ID uint8

// The well-known field names. Those up to lastHop belong to one connection and
// are never forwarded (RFC 9110, 7.6.1).
const (
	Other ID = iota
	Connection
	KeepAlive
	ProxyConnection
	TransferEncoding
	TE
	TrailerField
	UpgradeField
	HTTP2Settings
	ProxyAuthenticate
	ProxyAuthorization

	Host
	ContentLength
	ContentType
	ContentEncoding
	ContentRange
	Accept
	AcceptEncoding
	AcceptLanguage
	AcceptRanges
	Age
	Allow
	AltSvc
	Authorization
	CacheControl
	Cookie
	Date
	EarlyData
	ETag
	Expect
	Expires
	Forwarded
	GRPCStatus
	IfMatch
	IfModifiedSince
	IfNoneMatch
	IfRange
	LastModified
	Link
	Location
	Origin
	Pragma
	Proxy
	Range
	Referer
	RetryAfter
	Server
	SetCookie
	Traceparent
	Tracestate
	UserAgent
	Vary
	Via
	WWWAuthenticate
	XForwardedFor
	XForwardedHost
	XForwardedPort
	XForwardedProto
	XForwardedPrefix
	XRealIP
	XRequestID
	lastID
)

const lastHop = ProxyAuthorization

// HopByHop reports whether the field belongs to one connection. The two
// Proxy-Auth… fields count: a reverse proxy isn't the proxy they speak to.
func (id ID) HopByHop() bool { return id > Other && id <= lastHop }

var names = [lastID]string{
	Connection: "connection", KeepAlive: "keep-alive", ProxyConnection: "proxy-connection",
	TransferEncoding: "transfer-encoding", TE: "te", TrailerField: "trailer", UpgradeField: "upgrade",
	HTTP2Settings: "http2-settings", ProxyAuthenticate: "proxy-authenticate", ProxyAuthorization: "proxy-authorization",
	Host: "host", ContentLength: "content-length", ContentType: "content-type", ContentEncoding: "content-encoding",
	ContentRange: "content-range", Accept: "accept", AcceptEncoding: "accept-encoding", AcceptLanguage: "accept-language",
	AcceptRanges: "accept-ranges", Age: "age", Allow: "allow", AltSvc: "alt-svc", Authorization: "authorization",
	CacheControl: "cache-control", Cookie: "cookie", Date: "date", EarlyData: "early-data", ETag: "etag", Expect: "expect",
	Expires: "expires", Forwarded: "forwarded", GRPCStatus: "grpc-status", IfMatch: "if-match",
	IfModifiedSince: "if-modified-since", IfNoneMatch: "if-none-match", IfRange: "if-range", LastModified: "last-modified",
	Link: "link", Location: "location", Origin: "origin", Pragma: "pragma", Proxy: "proxy", Range: "range",
	Referer: "referer", RetryAfter: "retry-after", Server: "server", SetCookie: "set-cookie", Traceparent: "traceparent", Tracestate: "tracestate", UserAgent: "user-agent",
	Vary: "vary", Via: "via", WWWAuthenticate: "www-authenticate", XForwardedFor: "x-forwarded-for",
	XForwardedHost: "x-forwarded-host", XForwardedPort: "x-forwarded-port", XForwardedProto: "x-forwarded-proto",
	XForwardedPrefix: "x-forwarded-prefix", XRealIP: "x-real-ip", XRequestID: "x-request-id",
}

// Name is the field name in lower case; "" for Other.
func (id ID) Name() string { return names[id] }

// nameTable finds a name by a hash of its length and three letters; next
// chains the names that share a place.
type nameTable struct {
	first [256]ID
	next  [lastID]ID
	usual [lastID]string // in the case that HTTP/1.1 clients mostly write: Content-Type
}

func newNameTable() *nameTable {
	t := &nameTable{}
	for id := Other + 1; id < lastID; id++ {
		h := nameHash(names[id])
		t.next[id] = t.first[h]
		t.first[h] = id
		t.usual[id] = http.CanonicalHeaderKey(names[id])
	}
	return t
}

var table = newNameTable()

func nameHash(s string) uint8 {
	return uint8(len(s))*29 + lower(s[0])*7 + lower(s[len(s)-1])*3 + lower(s[len(s)/2])
}

// Lookup returns the id of a field name in any case.
func Lookup(name string) ID {
	if name == "" {
		return Other
	}
	for id := table.first[nameHash(name)]; id != Other; id = table.next[id] {
		if name == table.usual[id] || name == names[id] || EqualFold(name, names[id]) {
			return id
		}
	}
	return Other
}

// LookupBytes is Lookup for bytes.
func LookupBytes(name []byte) ID { return Lookup(view(name)) }
