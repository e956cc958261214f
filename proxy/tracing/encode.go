package tracing

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// The numbers of fields and values that are used of opentelemetry-proto's
// trace/v1/trace.proto, common/v1/common.proto and resource/v1/resource.proto.
const (
	resourceSpansField = 1 // TracesData, ExportTraceServiceRequest

	resourceField     = 1 // ResourceSpans
	scopeSpansField   = 2
	resourceSchemaURL = 3

	attributesOfResource = 1

	scopeField   = 1 // ScopeSpans
	spansField   = 2
	scopeName    = 1 // InstrumentationScope
	scopeVersion = 2

	spanTraceID    = 1
	spanID         = 2
	spanTraceState = 3
	spanParent     = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanEvents     = 11
	spanStatus     = 15
	spanFlags      = 16

	eventTime       = 1
	eventName       = 2
	eventAttributes = 3

	statusCode  = 3
	statusError = 2

	kindInternal = 1
	kindServer   = 2
	kindClient   = 3

	flagHasRemote = 0x100
	flagRemote    = 0x200

	keyField    = 1 // KeyValue
	valueField  = 2
	stringValue = 1 // AnyValue
	boolValue   = 2
	intValue    = 3
)

const schemaURL = "https://opentelemetry.io/schemas/1.37.0"

// open begins the message in field n; closed ends it, and puts its length before it.
func open(b []byte, n protowire.Number) ([]byte, int) {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	b = append(b, 0) // room for the length of a short one
	return b, len(b)
}

func closed(b []byte, start int) []byte {
	size := len(b) - start
	if size < 0x80 {
		b[start-1] = byte(size)
		return b
	}
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(size))
	b = append(b, length[:n-1]...) // room
	copy(b[start+n-1:], b[start:start+size])
	copy(b[start-1:], length[:n])
	return b
}

func appendText(b []byte, n protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func appendBytes(b []byte, n protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func appendVarint(b []byte, n protowire.Number, v uint64) []byte {
	b = protowire.AppendTag(b, n, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func appendTime(b []byte, n protowire.Number, t time.Time) []byte {
	b = protowire.AppendTag(b, n, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, uint64(t.UnixNano()))
}

// attribute appends a KeyValue in field n. An empty value is left out. Text that
// isn't UTF-8, as protobuf wants it, is made so.
func attribute(b []byte, n protowire.Number, key, value string) []byte {
	if value == "" {
		return b
	}
	b, kv := open(b, n)
	b = appendText(b, keyField, key)
	b, any := open(b, valueField)
	b = appendText(b, stringValue, valid(value))
	return closed(closed(b, any), kv)
}

func valid(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return strings.ToValidUTF8(s, "\ufffd") // s itself, when it is
		}
	}
	return s
}

func attributeInt(b []byte, n protowire.Number, key string, value int64) []byte {
	b, kv := open(b, n)
	b = appendText(b, keyField, key)
	b, any := open(b, valueField)
	b = appendVarint(b, intValue, uint64(value))
	return closed(closed(b, any), kv)
}

func attributeBool(b []byte, n protowire.Number, key string, value bool) []byte {
	b, kv := open(b, n)
	b = appendText(b, keyField, key)
	b, any := open(b, valueField)
	b = appendVarint(b, boolValue, protowire.EncodeBool(value))
	return closed(closed(b, any), kv)
}

// resource is the field of ResourceSpans that says who sends them.
func resource(name, version, host string) []byte {
	b, start := open(nil, resourceField)
	b = attribute(b, attributesOfResource, "service.name", name)
	b = attribute(b, attributesOfResource, "service.version", version)
	b = attribute(b, attributesOfResource, "host.name", host)
	b = attribute(b, attributesOfResource, "telemetry.sdk.name", "sidegate")
	b = attribute(b, attributesOfResource, "telemetry.sdk.language", "go")
	return closed(b, start)
}

// request is an ExportTraceServiceRequest of spans, each of which is a field of
// ScopeSpans already.
func request(dst, resource, spans []byte) []byte {
	b, all := open(dst, resourceSpansField)
	b = append(b, resource...)
	b, scope := open(b, scopeSpansField)
	b, name := open(b, scopeField)
	b = appendText(b, scopeName, "github.com/sidegate-proxy/sidegate")
	b = closed(b, name)
	b = append(b, spans...)
	b = closed(b, scope)
	b = appendText(b, resourceSchemaURL, schemaURL)
	return closed(b, all)
}

// begin begins a span: its field of ScopeSpans, with what all have.
func begin(b []byte, x *exchange.Exchange, id, parent [8]byte, kind uint64, from, to time.Duration) ([]byte, int) {
	b, start := open(b, spansField)
	b = appendBytes(b, spanTraceID, x.Trace.ID[:])
	b = appendBytes(b, spanID, id[:])
	if x.Trace.State != "" {
		b = appendText(b, spanTraceState, x.Trace.State)
	}
	flags := uint32(x.Trace.Flags) | flagHasRemote
	if parent != ([8]byte{}) {
		b = appendBytes(b, spanParent, parent[:])
		if kind == kindServer {
			flags |= flagRemote
		}
	}
	b = appendVarint(b, spanKind, kind)
	b = appendTime(b, spanStart, x.Start.Add(from))
	b = appendTime(b, spanEnd, x.Start.Add(to))
	b = protowire.AppendTag(b, spanFlags, protowire.Fixed32Type)
	return protowire.AppendFixed32(b, flags), start
}

func failed(b []byte) []byte {
	b, status := open(b, spanStatus)
	return closed(appendVarint(b, statusCode, statusError), status)
}

// appendSpans appends the spans of x, and says how many there are. Names and
// attributes are those of OpenTelemetry's semantic conventions for HTTP, and of our
// own. Neither queries nor fields that may hold credentials are among them.
func appendSpans(b []byte, x *exchange.Exchange, took time.Duration, route string) ([]byte, int) {
	b = appendServer(b, x, took, route)
	resends := 0
	for i := range x.Trace.Spans.List {
		s := &x.Trace.Spans.List[i]
		if s.Policy != "" {
			b = appendPolicy(b, x, s)
			continue
		}
		b = appendTry(b, x, s, resends)
		resends++
	}
	return b, 1 + len(x.Trace.Spans.List)
}

// appendServer appends the span of the exchange as a whole.
func appendServer(b []byte, x *exchange.Exchange, took time.Duration, route string) []byte {
	b, start := begin(b, x, x.Trace.Span, x.Trace.Parent, kindServer, 0, took)
	method, other := method(x.Method)
	name := method
	if other {
		name = "HTTP"
	}
	if route != "" {
		b = protowire.AppendTag(b, spanName, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(name)+1+len(route)))
		b = append(append(append(b, name...), ' '), route...)
	} else {
		b = appendText(b, spanName, name)
	}
	b = attribute(b, spanAttributes, "http.request.method", method)
	if other {
		b = attribute(b, spanAttributes, "http.request.method_original", x.Method)
	}
	b = attribute(b, spanAttributes, "http.route", route)
	b = attribute(b, spanAttributes, "url.scheme", x.Target.Scheme)
	b = attribute(b, spanAttributes, "url.path", x.Target.Path)
	b = attribute(b, spanAttributes, "server.address", x.Target.Host)
	b = attributePort(b, x.Target.Port)
	b = attributeAddr(b, "client.address", x.ClientIP)
	b = attribute(b, spanAttributes, "network.peer.address", x.Conn.RemoteIP)
	b = attribute(b, spanAttributes, "network.protocol.version", x.Proto.Via())
	b = attribute(b, spanAttributes, "user_agent.original", x.Request.Get(exchange.UserAgent))
	if x.Status > 0 {
		b = attributeInt(b, spanAttributes, "http.response.status_code", int64(x.Status))
	}
	if x.BytesIn > 0 {
		b = attributeInt(b, spanAttributes, "http.request.body.size", x.BytesIn)
	}
	if x.BytesOut > 0 {
		b = attributeInt(b, spanAttributes, "http.response.body.size", x.BytesOut)
	}
	b = attribute(b, spanAttributes, "sidegate.route", x.RouteName)
	b = attribute(b, spanAttributes, "sidegate.service", x.ServiceName)
	if x.Consumer != nil {
		b = attribute(b, spanAttributes, "sidegate.consumer", x.Consumer.Name)
	}
	b = attribute(b, spanAttributes, "sidegate.request_id", x.RequestID)
	b = attribute(b, spanAttributes, "sidegate.cache", x.Cached.String())
	if n := x.Trace.Spans.Dropped; n > 0 {
		b = attributeInt(b, spanAttributes, "sidegate.spans_dropped", int64(n))
	}
	return closed(appendFault(b, x, took), start)
}

// appendFault appends what went wrong: as the type of the error, as an event and, if
// it isn't the client's, as the span's status.
func appendFault(b []byte, x *exchange.Exchange, took time.Duration) []byte {
	if x.Err != nil {
		b = attribute(b, spanAttributes, "error.type", string(x.Err.Kind))
		var event int
		b, event = open(b, spanEvents)
		b = appendTime(b, eventTime, x.Start.Add(took))
		b = appendText(b, eventName, "sidegate.fault")
		b = attribute(b, eventAttributes, "sidegate.fault.kind", string(x.Err.Kind))
		b = attribute(b, eventAttributes, "sidegate.fault.source", x.Err.Source.String())
		b = closed(b, event)
	} else if x.Status >= 500 {
		b = attributeStatus(b, x.Status)
	}
	if x.Status >= 500 || x.Status == 0 {
		b = failed(b)
	}
	return b
}

// attributeStatus says that a status is the error.
func attributeStatus(b []byte, status int) []byte {
	b, kv := open(b, spanAttributes)
	b = appendText(b, keyField, "error.type")
	b, any := open(b, valueField)
	b, text := open(b, stringValue)
	b = strconv.AppendInt(b, int64(status), 10)
	return closed(closed(closed(b, text), any), kv)
}

func attributeAddr(b []byte, key string, a netip.Addr) []byte {
	if !a.IsValid() {
		return b
	}
	b, kv := open(b, spanAttributes)
	b = appendText(b, keyField, key)
	b, any := open(b, valueField)
	b, text := open(b, stringValue)
	b = a.AppendTo(b)
	return closed(closed(closed(b, text), any), kv)
}

func appendPolicy(b []byte, x *exchange.Exchange, s *exchange.Span) []byte {
	b, start := begin(b, x, s.ID, x.Trace.Span, kindInternal, s.Start, s.End)
	phase := "request"
	if s.Response {
		phase = "response"
	}
	b = appendText(b, spanName, s.Policy)
	b = attribute(b, spanAttributes, "sidegate.policy", s.Policy)
	b = attribute(b, spanAttributes, "sidegate.phase", phase)
	b = attribute(b, spanAttributes, "error.type", string(s.Fault))
	return closed(b, start)
}

// appendTry appends a try at a backend, which ends with the head of its response.
func appendTry(b []byte, x *exchange.Exchange, s *exchange.Span, resends int) []byte {
	b, start := begin(b, x, s.ID, x.Trace.Span, kindClient, s.Start, s.End)
	method, other := method(x.Method)
	name := method
	if other {
		name = "HTTP"
	}
	b = appendText(b, spanName, name)
	b = attribute(b, spanAttributes, "http.request.method", method)
	if host, port, ok := strings.Cut(strings.TrimPrefix(s.Instance, "["), "]:"); ok { // of IPv6
		b = attributePort(attribute(b, spanAttributes, "server.address", host), port)
	} else if host, port, ok := strings.Cut(s.Instance, ":"); ok {
		b = attributePort(attribute(b, spanAttributes, "server.address", host), port)
	} else {
		b = attribute(b, spanAttributes, "server.address", s.Instance)
	}
	if s.Status > 0 {
		b = attributeInt(b, spanAttributes, "http.response.status_code", int64(s.Status))
	}
	if resends > 0 {
		b = attributeInt(b, spanAttributes, "http.request.resend_count", int64(resends))
	}
	b = attribute(b, spanAttributes, "sidegate.service", x.ServiceName)
	b = attributeBool(b, spanAttributes, "sidegate.connection_reused", s.Reused)
	switch {
	case s.Fault != "":
		b = failed(attribute(b, spanAttributes, "error.type", string(s.Fault)))
	case s.Status >= 400:
		b = failed(attributeStatus(b, s.Status))
	}
	return closed(b, start)
}

func attributePort(b []byte, port string) []byte {
	if port == "" { // an error costs an allocation
		return b
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return b
	}
	return attributeInt(b, spanAttributes, "server.port", int64(n))
}

// method is one that the conventions know; other tells of one that they don't.
func method(s string) (name string, other bool) {
	switch s {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY":
		return s, false
	default:
		return "_OTHER", true
	}
}
