package proxy

import (
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// problem is how a kind of fault is told to a client. The text says what the
// client can know and do; nothing of the inside.
type problem struct {
	status     int
	grpc       string // the gRPC status for the same (google.rpc.Code)
	title      string
	retryAfter string // seconds; "": not said
}

// problems is the one place where a fault becomes a status.
var problems = map[exchange.Kind]problem{
	exchange.Malformed:        {400, "3", "The request is malformed", ""},
	exchange.BadPath:          {400, "3", "The path is not acceptable", ""},
	exchange.BadHost:          {400, "3", "The host is not acceptable", ""},
	exchange.HeadersTooLarge:  {431, "8", "The request's header fields are too large", ""},
	exchange.URITooLong:       {414, "3", "The request target is too long", ""},
	exchange.BodyTooLarge:     {413, "8", "The request's body is too large", ""},
	exchange.UnsupportedMedia: {415, "3", "The request's body is of a type or encoding that is not accepted here", ""},
	exchange.NotInAPI:         {404, "12", "The API has nothing here", ""},
	exchange.Invalid:          {400, "3", "The request is not as the API has it", ""},
	exchange.ClientTimeout:    {408, "4", "The request took too long to arrive", ""},
	exchange.ClientGone:       {499, "1", "The client closed the request", ""},
	exchange.Misdirected:      {421, "3", "This connection is not for that host", ""},
	exchange.Expectation:      {417, "3", "The expectation cannot be met", ""},
	exchange.NotImplemented:   {501, "12", "The gateway does not do that", ""},
	exchange.Version:          {505, "12", "The HTTP version is not supported", ""},
	exchange.TooEarly:         {425, "14", "Send it again after the handshake", ""},

	exchange.NoRoute:          {404, "12", "Nothing is routed here", ""},
	exchange.MethodNotAllowed: {405, "12", "The method is not allowed here", ""},
	exchange.RouteEnded:       {410, "5", "This has ended", ""},

	exchange.Unauthenticated:  {401, "16", "The request needs valid credentials", ""},
	exchange.Forbidden:        {403, "7", "The request is not allowed", ""},
	exchange.AuthUnavailable:  {503, "14", "Credentials cannot be checked now", "5"},
	exchange.LimitUnavailable: {503, "14", "Limits cannot be checked now", "1"},
	exchange.RateLimited:      {429, "8", "Too many requests", ""}, // the policy says when to come back
	exchange.QuotaExceeded:    {429, "8", "Quota exceeded", ""},    // likewise

	exchange.PaymentRequired:   {402, "8", "The request would have to be paid", ""},
	exchange.ChargeUnavailable: {503, "14", "The request cannot be charged now", "5"},

	exchange.NoInstance:       {503, "14", "The service has no running instance", "1"},
	exchange.Overloaded:       {503, "14", "The service is overloaded", "1"},
	exchange.ConnectFailed:    {502, "14", "The service cannot be reached", ""},
	exchange.BackendReset:     {502, "14", "The service broke off the connection", ""},
	exchange.BackendMalformed: {502, "13", "The service gave an invalid answer", ""},
	exchange.BackendTimeout:   {504, "4", "The service did not answer in time", ""},
	exchange.DeadlineExceeded: {504, "4", "The request's time was up", ""},
	exchange.UpgradeRefused:   {502, "14", "The service cannot switch protocols", ""},

	exchange.Internal:          {500, "13", "The gateway failed", ""},
	exchange.ShuttingDown:      {503, "14", "The gateway is shutting down", "1"},
	exchange.GatewayOverloaded: {503, "14", "The gateway is overloaded", "5"},
}

// problemType is the prefix of a problem's type (RFC 9457, 3.1.1): a name, not
// an address to fetch.
const problemType = "urn:sidegate:problem:"

// refuse makes the response of x tell f. A gRPC client gets its own kind of
// answer, everybody else problem+json (RFC 9457).
func refuse(x *exchange.Exchange, f *exchange.Fault) {
	x.Err = f
	p, ok := problems[f.Kind]
	if !ok {
		p = problems[exchange.Internal]
	}
	if strings.HasPrefix(x.Request.Get(exchange.ContentType), "application/grpc") {
		x.Reply(200, "application/grpc", nil)
		x.Response.Append("Grpc-Status", p.grpc)
		x.Response.Append("Grpc-Message", p.title)
		return
	}
	b := make([]byte, 0, 256)
	b = append(b, `{"type":"`+problemType...)
	b = append(b, f.Kind...)
	b = append(b, `","title":"`...)
	b = append(b, p.title...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	b = append(b, `,"request_id":"`...)
	b = append(b, x.RequestID...)
	b = append(b, '"')
	b = appendFindings(b, f.Findings)
	b = append(b, '}', '\n')
	x.Reply(p.status, "application/problem+json", b)
	x.Response.Append("Cache-Control", "no-store")
	x.Response.Append("X-Request-Id", x.RequestID)
	if p.retryAfter != "" {
		x.Response.Append("Retry-After", p.retryAfter)
	}
}

// appendFindings appends what is wrong with the request (RFC 9457, 3: a member
// of our own).
func appendFindings(b []byte, list []exchange.Finding) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, `,"errors":[`...)
	for i, f := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"where":`...)
		b = appendJSON(b, f.Where)
		b = append(b, `,"what":`...)
		b = appendJSON(b, f.What)
		b = append(b, '}')
	}
	return append(b, ']')
}

// StatusOf is the status that a fault is answered with.
func StatusOf(f *exchange.Fault) int {
	if p, ok := problems[f.Kind]; ok {
		return p.status
	}
	return problems[exchange.Internal].status
}
