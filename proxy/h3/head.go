package h3

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// block reads the field sections of one stream.
type block struct {
	maxSize, maxFields, maxURI int

	sec     section
	cookies []byte
	blockState
}

// blockState is what begins anew with each section.
type blockState struct {
	head    *exchange.Head
	trailer bool

	bad      string // why the message is malformed; "": it isn't
	tooLarge bool
	longURI  bool // because of :path
	regular  bool // a field that isn't a pseudo-field came
	size     int
	fields   int
	crumbs   int
	length   int64 // Content-Length; -1: none
	early    bool  // an Early-Data field came
	twice    bool  // Authorization did: the backend may look at the other one than we

	method, scheme, path, authority, host, priority string
}

// read decodes a section whose fields go to head. An error is fatal for the
// connection; what is wrong with the message is in bad and tooLarge.
func (b *block) read(p []byte, head *exchange.Head, trailer bool) error {
	b.blockState = blockState{head: head, trailer: trailer, length: -1}
	b.cookies = b.cookies[:0]
	if err := b.sec.begin(p); err != nil {
		return err
	}
	for b.sec.more() && !b.tooLarge {
		name, value, err := b.sec.next()
		if err != nil {
			return err
		}
		b.field(name, value)
	}
	if b.crumbs > 0 && !b.tooLarge {
		head.Append("cookie", view(b.cookies))
	}
	return nil
}

func (b *block) malformed(why string) {
	if b.bad == "" {
		b.bad = why
	}
}

// field takes one field.
func (b *block) field(name, value string) {
	b.size += len(name) + len(value)
	b.longURI = !b.trailer && name == ":path" && len(value) > b.maxURI
	if b.tooLarge = b.longURI || b.size > b.maxSize; b.tooLarge {
		return
	}
	if !exchange.ValidValue(value) {
		b.malformed("a field value has a character that it must not have")
		return
	}
	if name != "" && name[0] == ':' {
		b.pseudo(name, value)
		return
	}
	b.regular = true
	if b.fields++; b.fields > b.maxFields {
		b.tooLarge = true
		return
	}
	ok, odd := exchange.LowerName(name)
	if !ok {
		b.malformed("a field name has a character that it must not have")
		return
	}
	id := exchange.Lookup(name)
	if name == "priority" {
		b.priority = value
	}
	if id == exchange.Cookie && !b.trailer {
		b.crumb(value)
		return
	}
	if !b.check(id, value) {
		return
	}
	// A name with _ or . becomes that of another field in the environment of a
	// CGI-like backend, and Proxy a setting of its.
	if odd {
		return
	}
	b.head.Append(name, value)
	if id == exchange.Host || id == exchange.Proxy {
		b.head.Drop(b.head.Len() - 1)
	}
}

// check looks at the fields that have a meaning to the protocol, and reports
// whether they are kept.
func (b *block) check(id exchange.ID, value string) bool {
	switch id {
	case exchange.Connection, exchange.KeepAlive, exchange.ProxyConnection, exchange.TransferEncoding, exchange.UpgradeField:
		b.malformed("a connection-specific field") // RFC 9114, 4.2
		return false
	case exchange.TE:
		if !exchange.EqualFold(value, "trailers") { // the same
			b.malformed("TE with something else than trailers")
			return false
		}
	case exchange.ContentLength:
		if b.trailer {
			return false // framing has no place in trailers (RFC 9110, 6.5.1)
		}
		n, ok := exchange.ParseLength(value)
		if !ok || b.length >= 0 {
			b.malformed("Content-Length is repeated, or no number")
			return false
		}
		b.length = n
	case exchange.Host:
		if b.trailer {
			return false
		}
		if b.head.Has(exchange.Host) {
			b.malformed("Host is repeated")
			return false
		}
		b.host = b.sec.keep(value)
	case exchange.Authorization:
		if b.head.Has(exchange.Authorization) {
			b.twice = true
			return false
		}
	case exchange.EarlyData:
		// Several are as one, and any value as 1 (RFC 8470, 5.1).
		b.early = true
		return false
	}
	return true
}

// crumb joins a cookie that was split for better compression (RFC 9114, 4.2.1).
func (b *block) crumb(value string) {
	if b.crumbs > 0 {
		b.cookies = append(b.cookies, "; "...)
	}
	b.crumbs++
	b.cookies = append(b.cookies, value...)
}

// pseudo takes a pseudo-field (RFC 9114, 4.3). :protocol has no place: we don't
// offer extended CONNECT.
func (b *block) pseudo(name, value string) {
	var to *string
	switch name {
	case ":method":
		to = &b.method
	case ":scheme":
		to = &b.scheme
	case ":path":
		to = &b.path
	case ":authority":
		to = &b.authority
	}
	switch {
	case b.regular:
		b.malformed("a pseudo-field behind a field")
	case to == nil || b.trailer:
		b.malformed("a pseudo-field that has no place here")
	case *to != "":
		b.malformed("a pseudo-field is repeated")
	case value == "":
		b.malformed("an empty pseudo-field")
	default:
		*to = b.sec.keep(value)
	}
}

// flaw says why a request's head is malformed, or "" (RFC 9114, 4.3.1).
func (b *block) flaw() string {
	switch {
	case b.bad != "":
		return b.bad
	case b.method == "":
		return "no :method"
	case !exchange.IsToken(b.method):
		return ":method is no token"
	case b.method == "CONNECT":
		if b.scheme != "" || b.path != "" || b.authority == "" {
			return "CONNECT with :scheme or :path, or without :authority" // RFC 9114, 4.4
		}
		return ""
	case b.scheme != "http" && b.scheme != "https":
		return ":scheme is neither http nor https"
	case b.path == "":
		return "no :path"
	case b.path[0] != '/' && (b.path != "*" || b.method != "OPTIONS"):
		return ":path doesn't start with /"
	case b.authority == "" && b.host == "":
		return "neither :authority nor Host"
	case b.host != "" && b.authority != "" && !exchange.EqualFold(b.host, b.authority):
		return ":authority and Host differ"
	case strings.IndexByte(b.authority, '@') >= 0:
		return "userinfo in :authority"
	}
	return ""
}

// urgency reads a Priority field (RFC 9218, 4): in which order the client wants
// its responses, 0 the first, and whether pieces of several at a time are of use
// to it. What can't be read is the default.
func urgency(field string) (u int8, incremental bool) {
	u = 3
	exchange.EachToken(field, func(item string) bool {
		switch {
		case len(item) == 3 && item[:2] == "u=" && '0' <= item[2] && item[2] <= '7':
			u = int8(item[2] - '0')
		case item == "i", item == "i=?1":
			incremental = true
		case item == "i=?0":
			incremental = false
		}
		return true
	})
	return u, incremental
}

// refusal is a fault of the client.
func refusal(kind exchange.Kind, why string) *exchange.Fault {
	return exchange.NewFault(exchange.FromClient, kind, "%s", why)
}
