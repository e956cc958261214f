package exchange

import (
	"crypto/tls"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Proto is the protocol that the client speaks.
type Proto uint8

// The protocols of a front.
const (
	HTTP10 Proto = iota + 1
	HTTP11
	HTTP2
	HTTP3
)

// String is the protocol as an access log writes it, "HTTP/1.1" for one.
func (p Proto) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2.0"
	case HTTP3:
		return "HTTP/3.0"
	default:
		return "-"
	}
}

// Via is the protocol version as the Via field writes it (RFC 9110, 7.6.3).
func (p Proto) Via() string {
	switch p {
	case HTTP10:
		return "1.0"
	case HTTP2:
		return "2"
	case HTTP3:
		return "3"
	default:
		return "1.1"
	}
}

// Conn is what is known of a client's connection. It is shared by the
// exchanges on it and not changed after the first.
type Conn struct {
	Listener string               // the listener's label in the configuration
	Remote   netip.AddrPort       // the peer; the one that PROXY protocol names, where that is on
	Local    netip.AddrPort       // our side
	TLS      *tls.ConnectionState // nil on a plain connection
	Scheme   string               // "http" or "https"
	RemoteIP string               // Remote's address as text, made once
	Peer     string               // the URI in the peer's certificate, which the handshake has verified; "": none, or not one
	Shard    uint32               // spreads counters over cores
	Trusted  bool                 // the peer's word about the client counts, whatever its address
	// SelfCheck is set on the process's own connection to itself (Server.Check),
	// which can't be anybody else's.
	SelfCheck bool
}

// Front is the protocol side of an exchange: how its answer reaches the client.
type Front interface {
	// Respond writes the response of x to the client: status, Response with
	// ResponseEdits, then ResponseBody until its end, then ResponseTrailer. It
	// decides the framing. After status 101 it joins the client with x.Tunnel
	// and returns when that has ended. It is called once for an exchange. An
	// error means that the client didn't get all of it; when reading
	// ResponseBody failed it is that error, and the front has cut the message
	// short in the way of its protocol, so that the client can tell.
	Respond(x *Exchange) error
	// Interim writes a 1xx response (not 101) at once.
	Interim(x *Exchange, status int, h *Head) error
	// Gone reports whether the client has left. It never blocks and may be
	// called from another goroutine while the exchange is being served.
	Gone(x *Exchange) bool
}

// Handler serves exchanges; proxy.Handler is the one of the gateway.
type Handler interface {
	// Serve answers x through x.Front. A front that refuses a request by itself
	// (malformed, too large) sets x.Fault before, so that such requests are
	// answered, counted and logged like all others.
	Serve(x *Exchange)
}

// Param is a path parameter that the route matched: {id} in /orders/{id}.
type Param struct{ Name, Value string }

// Cached is where the policy cache had an answer from.
type Cached uint8

// What the policy cache did.
const (
	NoCache        Cached = iota // it had nothing to do with the request
	CachePassed                  // sent on, and the answer was never to be stored
	CacheMiss                    // sent on, and the answer might have been stored
	CacheValidated               // stored, and the service said that it still holds
	CacheCollapsed               // what another request fetched
	CacheStale                   // stored, and stale
	CacheHit                     // stored
)

// String is what the policy cache did, in a word; "" for nothing.
func (c Cached) String() string {
	switch c {
	case CachePassed:
		return "pass"
	case CacheMiss:
		return "miss"
	case CacheValidated:
		return "validated"
	case CacheCollapsed:
		return "collapsed"
	case CacheStale:
		return "stale"
	case CacheHit:
		return "hit"
	default:
		return ""
	}
}

// Hit reports whether the client was answered without a request of its own to the service.
func (c Cached) Hit() bool { return c >= CacheCollapsed }

// Outgoing says what of the request line differs towards the backend.
type Outgoing struct {
	Path string // canonical path after rewriting; "": Target.Path
	Host string // Host or :authority; "": Target.Authority
}

// Stored is the content of a response that the policy cache has, with the codings
// that have been made of it.
type Stored interface {
	// Encoded returns the content in a coding, from memory; nobody may change it.
	// What isn't there is made by encode of the whole content, once for all who
	// want it, and kept. ok is false where it is neither there nor made in a
	// moment; with encode nil nothing is made.
	Encoded(coding string, encode func(content []byte) (b []byte, ok bool)) (b []byte, ok bool)
}

// Lease is what an exchange holds of a backend while it runs.
type Lease interface {
	// Release gives it back, with how the exchange ended.
	Release(x *Exchange, err error)
}

// Exchange is one request and its response. It is reused: nothing may keep it,
// nor a view into it, after Handler.Serve.
type Exchange struct {
	Proto Proto
	Conn  *Conn
	Front Front
	Start time.Time // when the request's head was complete

	// The request as it came.
	Method         string // upper case for the known ones; never empty
	RawTarget      string // the request target, or :path
	RawHost        string // Host, or :authority
	Request        Head
	RequestBody    Body   // nil: none
	RequestLength  int64  // bytes; 0: no body; -1: not known before its end
	RequestTrailer Head   // complete once RequestBody has returned io.EOF
	ExpectContinue bool   // the client waits for 100 (Continue) before it sends the body; the first Read of RequestBody sends it
	Upgrade        string // protocol that the client asks to switch to ("websocket"); "": none
	Fault          *Fault // why the front refuses it; nil: it doesn't

	// Computed once, by Canonicalise and the handler.
	Target    Target
	ClientIP  netip.Addr // the client behind trusted proxies
	RequestID string     // owned by the exchange's arena: a view, too
	Trace     Trace      // zero: requests aren't traced
	Deadline  time.Time  // when the exchange must be over; zero: no limit
	Consumer  *Consumer  // who the policy auth says is calling; nil: nobody it knows
	Claims    *Claims    // what the client's verified token says; nil: it showed none
	Preflight bool       // a preflight, on the route of the request that it asks leave for (RouteName)

	// What the route says. These strings are the table's: they may be kept.
	RouteName    string
	Priority     Priority // of the route; Rank has what holds
	Copy         bool     // of a request, for a mirror: nobody waits for the answer
	ServiceName  string
	InstanceAddr string // the instance that the last try went to
	Tries        int    // how often a backend was tried
	Params       []Param
	Held         uint8  // places that the policy limits gives back
	Attack       string // the ids of the rules by which the policy waf found an attack; "": it found none
	Blocked      bool   // the policy waf refused it for that
	Cache        any    // what the policy cache keeps between its parts
	Cached       Cached // where the policy cache had the answer from
	Charge       any    // what the policy charge keeps between its parts
	Charged      int64  // millionths of units that the policy charge has charged for it
	Seen         int    // policies of the route that saw the request; policy.Chain counts, also for who recovers from a panic

	// Towards the backend.
	Out          Outgoing
	RequestEdits Edits
	Lease        Lease

	// The response, from the backend or made here.
	Status          int
	Response        Head
	ResponseBody    Body  // nil: none
	ResponseLength  int64 // bytes; -1: not known before its end
	ResponseTrailer Head  // complete once ResponseBody has returned io.EOF
	ResponseEdits   Edits
	Stored          Stored             // what the policy cache has of ResponseBody, which is all of it; nil: nothing
	Tunnel          io.ReadWriteCloser // the backend's side after status 101

	// What happened.
	Err      *Fault        // the fault that the answer reports; nil: none
	Upstream time.Duration // from the first try to the response's head; 0: no backend
	BytesIn  int64         // body bytes read from the client
	BytesOut int64         // body bytes written to the client
	Logged   []string      // what the access log keeps of the response's head

	shared uint32 // atomic: 1 when others want the response, too
	bytes  bytesBody
	arena  []byte
}

// Reset prepares x for the next request on c.
func (x *Exchange) Reset(p Proto, c *Conn, f Front) {
	x.Request.Reset(nil)
	x.RequestTrailer.Reset(nil)
	x.Response.Reset(nil)
	x.ResponseTrailer.Reset(nil)
	x.RequestEdits.Reset()
	x.ResponseEdits.Reset()
	*x = Exchange{
		Proto: p, Conn: c, Front: f,
		Request: x.Request, RequestTrailer: x.RequestTrailer,
		Response: x.Response, ResponseTrailer: x.ResponseTrailer,
		RequestEdits: x.RequestEdits, ResponseEdits: x.ResponseEdits,
		Params: x.Params[:0], Logged: x.Logged[:0], arena: x.arena[:0],
	}
}

// Share says that others than its client want the response: that the client leaves,
// or has all that it wanted, doesn't end the exchange with the backend.
func (x *Exchange) Share() { atomic.StoreUint32(&x.shared, 1) }

// Gone reports whether nobody wants the response any more. It may be called from
// another goroutine while the exchange is being served.
func (x *Exchange) Gone() bool {
	return x.Front != nil && atomic.LoadUint32(&x.shared) == 0 && x.Front.Gone(x)
}

// Keep copies b into the exchange's own memory and returns a view that lives
// as long as the exchange.
func (x *Exchange) Keep(b []byte) string {
	n := len(x.arena)
	x.arena = append(x.arena, b...)
	return view(x.arena[n:])
}

// Idempotent reports whether the request may be sent again when nothing is
// known of the first try (RFC 9110, 9.2.2).
func (x *Exchange) Idempotent() bool {
	switch x.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY":
		return true
	default:
		return false
	}
}

// Reply makes the response one of the gateway's own. A fault's or an earlier
// backend's response is dropped; edits of the response stay, so that what
// policies want on each answer is on this one, too.
func (x *Exchange) Reply(status int, contentType string, body []byte) {
	if x.ResponseBody != nil {
		// The outcome of an answer that is thrown away doesn't matter.
		_ = x.ResponseBody.Close()
	}
	if x.Tunnel != nil {
		_ = x.Tunnel.Close() // or the backend would wait for nobody
	}
	x.Status = status
	x.Response.Reset(nil)
	x.ResponseTrailer.Reset(nil)
	x.ResponseLength = int64(len(body))
	x.ResponseBody = nil
	x.Tunnel = nil
	x.Stored = nil
	if len(body) > 0 {
		x.bytes = bytesBody{b: body}
		x.ResponseBody = &x.bytes
	}
	if contentType != "" {
		x.Response.Append("Content-Type", contentType)
	}
}

// Replace makes b the content of the response, in the place of what it has.
func (x *Exchange) Replace(b []byte) {
	if x.ResponseBody != nil {
		_ = x.ResponseBody.Close() // nobody wants the rest of it
	}
	x.bytes = bytesBody{b: b}
	x.ResponseBody, x.ResponseLength = &x.bytes, int64(len(b))
}

// HasResponseBody reports whether the status and method let a body follow the
// response's head (RFC 9112, 6.3).
func (x *Exchange) HasResponseBody() bool {
	return x.Method != "HEAD" && x.Status >= 200 && x.Status != 204 && x.Status != 304
}

// KnownMethod returns the constant for a method's bytes, without an
// allocation for those that HTTP defines.
func KnownMethod(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "HEAD":
		return "HEAD"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "PATCH":
		return "PATCH"
	case "CONNECT":
		return "CONNECT"
	case "TRACE":
		return "TRACE"
	case "QUERY":
		return "QUERY"
	default:
		return strings.Clone(view(b))
	}
}

// Progress is how far a try at a backend came when it failed: what decides
// whether another one may follow.
type Progress uint8

// The stages of a try.
const (
	NotSent  Progress = iota // no byte of the request can have reached the backend's application
	Sent                     // some may have
	Answered                 // a byte of the response came
)
