package proxy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// accessField is a field of the access log's JSON lines.
type accessField struct {
	name   string
	usual  bool // there unless the configuration names fields
	always bool // as "", where it has no value
	value  appender
}

// accessFields are those that there are, in the order of a usual line. q hides
// what the values of query parameters are.
func accessFields(q *redactor) []accessField {
	return []accessField{
		{"client_ip", true, true, func(b []byte, x *exchange.Exchange, _ time.Time) []byte {
			b = append(b, '"')
			b = x.ClientIP.AppendTo(b)
			return append(b, '"')
		}},
		{"method", true, true, text(func(x *exchange.Exchange) string { return x.Method })},
		{"scheme", false, true, text(func(x *exchange.Exchange) string { return x.Target.Scheme })},
		{"host", true, true, text(func(x *exchange.Exchange) string { return x.Target.Host })},
		{"path", true, true, text(func(x *exchange.Exchange) string { return x.Target.Path })},
		{"query", false, false, func(b []byte, x *exchange.Exchange, _ time.Time) []byte {
			if !x.Target.HasQuery {
				return b
			}
			b = append(b, '"')
			b = q.appendQuery(b, x.Target.Query, appendJSONText)
			return append(b, '"')
		}},
		{"protocol", true, true, text(func(x *exchange.Exchange) string { return x.Proto.String() })},
		{"status", true, false, number(func(x *exchange.Exchange) int64 { return int64(x.Status) })},
		{"route", true, true, text(func(x *exchange.Exchange) string { return x.RouteName })},
		{"service", true, true, text(func(x *exchange.Exchange) string { return x.ServiceName })},
		{"instance", true, true, text(func(x *exchange.Exchange) string { return x.InstanceAddr })},
		{"consumer", true, false, text(consumerName)},
		{"plan", false, false, text(func(x *exchange.Exchange) string { return x.Consumer.PlanName() })},
		{"tries", true, false, number(func(x *exchange.Exchange) int64 { return int64(x.Tries) })},
		{"bytes_in", true, false, number(func(x *exchange.Exchange) int64 { return x.BytesIn })},
		{"bytes_out", true, false, number(func(x *exchange.Exchange) int64 { return x.BytesOut })},
		{"duration_ms", true, false, func(b []byte, x *exchange.Exchange, end time.Time) []byte { return appendMillis(b, end.Sub(x.Start)) }},
		{"upstream_ms", true, false, func(b []byte, x *exchange.Exchange, _ time.Time) []byte { return appendMillis(b, x.Upstream) }},
		{"request_id", true, true, text(func(x *exchange.Exchange) string { return x.RequestID })},
		{"trace_id", true, false, text(func(x *exchange.Exchange) string { return x.Trace.Text() })},
		{"user_agent", true, false, text(func(x *exchange.Exchange) string { return x.Request.Get(exchange.UserAgent) })},
		{"referer", false, false, q.url(func(x *exchange.Exchange) string { return x.Request.Get(exchange.Referer) })},
		{"listener", false, true, text(func(x *exchange.Exchange) string { return x.Conn.Listener })},
		{"peer_ip", false, true, text(func(x *exchange.Exchange) string { return x.Conn.RemoteIP })},
		{"peer", false, true, text(func(x *exchange.Exchange) string { return x.Conn.Peer })},
		{"tls_version", false, false, text(tlsVersion)},
		{"tls_cipher", false, false, text(tlsCipher)},
		{"cache", true, false, text(func(x *exchange.Exchange) string { return x.Cached.String() })},
		{"charged", true, false, func(b []byte, x *exchange.Exchange, _ time.Time) []byte {
			if x.Charged == 0 {
				return b
			}
			return appendUnits(b, x.Charged)
		}},
		{"waf", true, false, text(func(x *exchange.Exchange) string { return x.Attack })},
		{"fault", true, false, text(func(x *exchange.Exchange) string {
			if x.Err == nil {
				return ""
			}
			return string(x.Err.Kind)
		})},
		{"source", true, false, text(func(x *exchange.Exchange) string {
			if x.Err == nil {
				return ""
			}
			return x.Err.Source.String()
		})},
		{"error", true, false, func(b []byte, x *exchange.Exchange, _ time.Time) []byte {
			if x.Err == nil {
				return b
			}
			return appendJSON(b, x.Err.Error())
		}},
		{"level", true, false, text(func(*exchange.Exchange) string { return "info" })},
		{"msg", true, false, text(func(*exchange.Exchange) string { return "request" })},
		{"time", true, false, func(b []byte, _ *exchange.Exchange, end time.Time) []byte {
			b = append(b, '"')
			b = end.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
			return append(b, '"')
		}},
	}
}

func text(get func(x *exchange.Exchange) string) appender {
	return func(b []byte, x *exchange.Exchange, _ time.Time) []byte {
		if s := get(x); s != "" {
			return appendJSON(b, s)
		}
		return b
	}
}

// url is a text with what the redactor leaves of a URL.
func (r *redactor) url(get func(x *exchange.Exchange) string) appender {
	return func(b []byte, x *exchange.Exchange, _ time.Time) []byte {
		s := get(x)
		if s == "" {
			return b
		}
		return append(r.appendURL(append(b, '"'), s, appendJSONText), '"')
	}
}

// headerText is a header field: those that hold URLs, with their queries, as URLs.
func (r *redactor) headerText(name string, get func(x *exchange.Exchange) string) appender {
	switch strings.ToLower(name) {
	case "referer", "location", "content-location", "destination", "x-original-url", "x-original-uri", "x-rewrite-url", "x-forwarded-uri":
		return r.url(get)
	}
	return text(get)
}

func number(get func(x *exchange.Exchange) int64) appender {
	return func(b []byte, x *exchange.Exchange, _ time.Time) []byte { return strconv.AppendInt(b, get(x), 10) }
}

func consumerName(x *exchange.Exchange) string {
	if x.Consumer == nil {
		return ""
	}
	return x.Consumer.Name
}

// The prefixes of fields that are header fields.
const (
	ofRequest  = "header."
	ofResponse = "response."
)

// maxResponseFields bounds what is kept of a response's head until its line is
// written.
const maxResponseFields = 16

// CheckAccessField says what is wrong with a name in fields.
func CheckAccessField(name string, c Credentials) error {
	header, response := name, false
	switch {
	case strings.HasPrefix(name, ofRequest):
		header = name[len(ofRequest):]
	case strings.HasPrefix(name, ofResponse):
		header, response = name[len(ofResponse):], true
	case slices.ContainsFunc(accessFields(nil), func(f accessField) bool { return f.name == name }):
		return nil
	default:
		return fmt.Errorf("there is no field %q", name)
	}
	if !exchange.IsToken(header) {
		return fmt.Errorf("%q: %q isn't the name of a header field", name, header)
	}
	if !response && secretHeader(header, c.Headers) || response && secretResponse(header) {
		return fmt.Errorf("%q holds credentials, which no log keeps", name)
	}
	return nil
}

// AccessFieldNames are the names of fields that aren't header fields.
func AccessFieldNames() []string {
	var list []string
	for _, f := range accessFields(nil) {
		list = append(list, f.name)
	}
	return list
}

// secretHeader reports whether a field of requests may hold credentials.
func secretHeader(name string, more []string) bool {
	switch exchange.Lookup(name) {
	case exchange.Authorization, exchange.ProxyAuthorization, exchange.Cookie:
		return true
	}
	return slices.ContainsFunc(more, func(s string) bool { return exchange.EqualFold(s, name) })
}

func secretResponse(name string) bool {
	return exchange.Lookup(name) == exchange.SetCookie
}

// jsonLine compiles JSON lines of these fields; of the usual ones, when there are
// none. responses are the fields of responses in it, in their order.
func jsonLine(names []string, q *redactor, secrets []string) (line appender, responses []string) {
	fields := accessFields(q)
	var list []accessField
	for _, f := range fields {
		if len(names) == 0 && f.usual {
			list = append(list, f)
		}
	}
	for _, name := range names {
		if i := slices.IndexFunc(fields, func(f accessField) bool { return f.name == name }); i >= 0 {
			list = append(list, fields[i])
			continue
		}
		if header, ok := strings.CutPrefix(name, ofRequest); ok {
			// What a route beyond the files reads keys from couldn't be refused.
			if secretHeader(header, secrets) {
				list = append(list, accessField{name: name, value: text(func(*exchange.Exchange) string { return hiddenValue })})
				continue
			}
			list = append(list, accessField{name: name, value: q.headerText(header, func(x *exchange.Exchange) string {
				value, _ := x.Request.Find(header)
				return value
			})})
		} else if header, ok := strings.CutPrefix(name, ofResponse); ok && len(responses) < maxResponseFields && !secretResponse(header) {
			i := len(responses)
			responses = append(responses, header)
			list = append(list, accessField{name: name, value: q.headerText(header, func(x *exchange.Exchange) string {
				if i >= len(x.Logged) { // there was no response
					return ""
				}
				return x.Logged[i]
			})})
		}
	}
	return joinFields(list), responses
}

// joinFields makes an object of fields. Those without a value are left out, or
// empty.
func joinFields(list []accessField) appender {
	type part struct {
		key    []byte
		always bool
		value  appender
	}
	parts := make([]part, len(list))
	for i, f := range list {
		key := []byte{','}
		parts[i] = part{append(appendJSON(key, f.name), ':'), f.always, f.value}
	}
	return func(b []byte, x *exchange.Exchange, end time.Time) []byte {
		start := len(b)
		for i := range parts {
			p := &parts[i]
			key := len(b)
			b = append(b, p.key...)
			before := len(b)
			if b = p.value(b, x, end); len(b) > before {
				continue
			}
			if p.always {
				b = append(b, '"', '"')
			} else {
				b = b[:key]
			}
		}
		if len(b) == start {
			return append(b, '{', '}', '\n')
		}
		b[start] = '{' // in the place of the first comma
		return append(b, '}', '\n')
	}
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', 3, 64)
}

// appendUnits appends millionths of units as units.
func appendUnits(b []byte, millionths int64) []byte {
	return strconv.AppendFloat(b, float64(millionths)/1e6, 'f', -1, 64)
}

// appendJSON appends s as a JSON string; what isn't UTF-8 becomes U+FFFD.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	b = appendJSONText(b, s)
	return append(b, '"')
}

// appendJSONText appends what stands between the quotes of a JSON string. Control
// characters are escaped, those beyond ASCII, too: a terminal that shows the log
// would obey them.
func appendJSONText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			if r < 0xa0 {
				b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
			} else {
				b = utf8.AppendRune(b, r)
			}
			i += size
			continue
		}
		i++
	}
	return b
}
