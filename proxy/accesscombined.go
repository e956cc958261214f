package proxy

import (
	"crypto/tls"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// combined makes the lines of Apache's LogFormat of that name:
//
//	%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"
//
// with "-" for what isn't there, and the escapes of its ap_escape_logitem: what
// is beyond printable ASCII never stands in a line as it is.
func combined(q *redactor) appender {
	return func(b []byte, x *exchange.Exchange, _ time.Time) []byte {
		b = x.ClientIP.AppendTo(b)
		b = append(b, " - "...)
		b = appendEscaped(b, orDash(consumerName(x)))
		b = append(b, " ["...)
		b = x.Start.UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
		b = append(b, `] "`...)
		b = appendRequestLine(b, x, q)
		b = append(b, `" `...)
		if x.Status == 0 {
			b = append(b, '-')
		} else {
			b = strconv.AppendInt(b, int64(x.Status), 10)
		}
		b = append(b, ' ')
		if x.BytesOut == 0 {
			b = append(b, '-')
		} else {
			b = strconv.AppendInt(b, x.BytesOut, 10)
		}
		b = append(b, ` "`...)
		if x.Request.Has(exchange.Referer) {
			b = q.appendURL(b, x.Request.Get(exchange.Referer), appendEscaped)
		} else {
			b = append(b, '-')
		}
		b = append(b, `" "`...)
		if x.Request.Has(exchange.UserAgent) {
			b = appendEscaped(b, x.Request.Get(exchange.UserAgent))
		} else {
			b = append(b, '-')
		}
		return append(b, '"', '\n')
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// appendRequestLine appends the request line as it came, but for what its query
// keeps to itself; "-" for a request that wasn't one. The query is that of the
// canonical target, from which auth has taken its keys.
func appendRequestLine(b []byte, x *exchange.Exchange, q *redactor) []byte {
	if x.Method == "" || x.RawTarget == "" {
		return append(b, '-')
	}
	b = appendEscaped(b, x.Method)
	b = append(b, ' ')
	path, query, has := strings.Cut(x.RawTarget, "?")
	if x.Target.Path != "" {
		query, has = x.Target.Query, x.Target.HasQuery
	}
	if path == "" || path[0] != '/' && path != "*" { // of a URL, which may have a password in it
		path = x.Target.Path
	}
	b = appendEscaped(b, orDash(path))
	if has {
		b = append(b, '?')
		b = q.appendQuery(b, query, appendEscaped)
	}
	b = append(b, ' ')
	return append(b, x.Proto.String()...)
}

// appendEscaped appends s with the escapes of Apache's logs: \" \\ \b \n \r \t \v,
// and \xhh for whatever else isn't printable ASCII.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ' && c < 0x7f:
			b = append(b, c)
		case c == '\b':
			b = append(b, '\\', 'b')
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c == '\v':
			b = append(b, '\\', 'v')
		default:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// hiddenValue stands for what isn't logged.
const hiddenValue = "***"

// redactor hides the values of query parameters.
type redactor struct {
	all   bool
	names []string
}

// newRedactor hides the values of the parameters with these names ("*": of all),
// and of those that hold credentials.
func newRedactor(names, secrets []string) *redactor {
	r := &redactor{names: append([]string{"access_token"}, secrets...)} // RFC 6750, 2.3
	for _, name := range names {
		if name == "*" {
			r.all = true
		}
		r.names = append(r.names, name)
	}
	return r
}

// hides reports whether a parameter's value isn't to be seen. A name with escapes
// might spell any: its value isn't, either.
func (r *redactor) hides(name string) bool {
	if r.all || strings.IndexByte(name, '%') >= 0 {
		return true
	}
	for _, n := range r.names {
		if exchange.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// appendQuery appends a query as escape has it, with *** for hidden values. ";"
// separates as "&" does: to some services it does.
func (r *redactor) appendQuery(b []byte, query string, escape func([]byte, string) []byte) []byte {
	for {
		end := strings.IndexAny(query, "&;")
		pair := query
		if end >= 0 {
			pair = query[:end]
		}
		name, value, ok := strings.Cut(pair, "=")
		switch {
		case ok && value != "" && r.hides(name):
			b = escape(b, name)
			b = append(b, '=')
			b = append(b, hiddenValue...)
		case !ok && r.all && pair != "": // a value without a name, perhaps
			b = append(b, hiddenValue...)
		default:
			b = escape(b, pair)
		}
		if end < 0 {
			return b
		}
		b = append(b, query[end])
		query = query[end+1:]
	}
}

// appendURL appends a URL whose query and fragment may have hidden values, and
// without a user's name and password.
func (r *redactor) appendURL(b []byte, url string, escape func([]byte, string) []byte) []byte {
	if scheme := strings.Index(url, "://"); scheme >= 0 {
		authority := url[scheme+3:]
		if end := strings.IndexAny(authority, "/?#"); end >= 0 {
			authority = authority[:end]
		}
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			b = escape(b, url[:scheme+3])
			url = url[scheme+3+at+1:]
		}
	}
	end := strings.IndexAny(url, "?#")
	if end < 0 {
		return escape(b, url)
	}
	b = escape(b, url[:end])
	rest := url[end:]
	query, fragment, has := strings.Cut(rest[1:], "#")
	if rest[0] == '#' {
		query, fragment, has = "", rest[1:], true
	} else {
		b = append(b, '?')
		b = r.appendQuery(b, query, escape)
	}
	if has {
		b = append(b, '#')
		b = r.appendQuery(b, fragment, escape)
	}
	return b
}

func tlsVersion(x *exchange.Exchange) string {
	if x.Conn.TLS == nil {
		return ""
	}
	switch x.Conn.TLS.Version { // tls.VersionName makes a string of others
	case tls.VersionTLS13:
		return "TLS 1.3"
	case tls.VersionTLS12:
		return "TLS 1.2"
	default:
		return ""
	}
}

func tlsCipher(x *exchange.Exchange) string {
	if x.Conn.TLS == nil {
		return ""
	}
	return tls.CipherSuiteName(x.Conn.TLS.CipherSuite)
}
