package h2

import (
	"errors"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// purpose is what a field block is decoded for.
type purpose uint8

const (
	forNobody purpose = iota // only to keep the decoder's table
	forRequest
	forResponse
	forTrailer
)

// maxContinuations bounds the frames of one field block, whatever they hold.
const maxContinuations = 32

var errFlood = errors.New("field block is too large, or in too many frames")

// block puts one field block together, from one or more frames. Only the
// connection's reader uses it. But for the decoder, which holds the table that
// the peer fills, it has nothing to keep between two field blocks.
type block struct {
	dec       *hpack.Decoder
	maxSize   int
	maxFields int
	reply     bool // the blocks are a backend's: odd names are no danger
	cookies   []byte
	trailer   exchange.Head // memory for trailers until their stream takes them
	now       time.Time     // since the last read of the socket; zero: not asked for

	blockState
}

// blockState is what begins anew with each block.
type blockState struct {
	use    purpose
	head   *exchange.Head
	frames int
	raw    int // bytes of the block, compressed

	bad      string // why the message is malformed; "": it isn't
	tooLarge bool
	twice    bool // Authorization came twice: the backend may look at the other one than we
	regular  bool // a field that isn't a pseudo-field came
	size     int
	fields   int
	crumbs   int
	length   int64 // Content-Length; -1: none
	host     string

	method, scheme, path, authority, protocol, status string
}

// newDecoder makes a decoder of field blocks of at most maxSize; it costs some
// KiB once the peer fills its table.
func newDecoder(maxSize int) *hpack.Decoder {
	dec := hpack.NewDecoder(4096, nil) // the default of SETTINGS_HEADER_TABLE_SIZE
	// A longer string ends the connection; up to here it is answered.
	dec.SetMaxStringLength(2*maxSize + maxFrame)
	return dec
}

// init makes the block take what dec decodes.
func (b *block) init(dec *hpack.Decoder, maxSize, maxFields int) {
	b.dec, b.maxSize, b.maxFields = dec, maxSize, maxFields
	dec.SetEmitFunc(b.field)
}

// begin starts a block whose fields go to head.
func (b *block) begin(use purpose, head *exchange.Head) {
	b.blockState = blockState{use: use, head: head, length: -1}
	b.cookies = b.cookies[:0]
	b.dec.SetEmitEnabled(use != forNobody)
}

// write takes a fragment. An error is fatal for the connection.
func (b *block) write(fragment []byte, last bool) error {
	b.frames++
	b.raw += len(fragment)
	if b.frames > maxContinuations || b.raw > 2*b.maxSize+maxFrame {
		return errFlood
	}
	if _, err := b.dec.Write(fragment); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !last {
		return nil
	}
	if err := b.dec.Close(); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if b.crumbs > 0 && !b.tooLarge {
		b.head.AppendID(exchange.Cookie, "cookie", view(b.cookies))
	}
	return nil
}

func (b *block) malformed(why string) {
	if b.bad == "" {
		b.bad = why
	}
}

// field takes one decoded field.
func (b *block) field(f hpack.HeaderField) {
	b.size += len(f.Name) + len(f.Value) + 32 // RFC 9113, 6.5.2
	b.fields++
	if b.size > b.maxSize+5*32 || b.fields > b.maxFields+5 {
		b.tooLarge = true
		b.dec.SetEmitEnabled(false) // the table is still kept
		return
	}
	if !exchange.ValidValue(f.Value) {
		b.malformed("a field value has a character that it must not have")
		return
	}
	if f.Name != "" && f.Name[0] == ':' {
		b.pseudo(f.Name, f.Value)
		return
	}
	b.regular = true
	ok, odd := exchange.LowerName(f.Name)
	if !ok {
		b.malformed("a field name has a character that it must not have")
		return
	}
	id := exchange.Lookup(f.Name)
	if id == exchange.Cookie && b.use == forRequest {
		b.crumb(f.Value)
		return
	}
	if !b.check(id, f.Value) {
		return
	}
	b.head.AppendID(id, f.Name, f.Value)
	if odd && !b.reply || id == exchange.Host || id == exchange.Proxy {
		b.head.Drop(b.head.Len() - 1)
	}
}

// check looks at the fields that have a meaning to the protocol.
func (b *block) check(id exchange.ID, value string) bool {
	switch id {
	case exchange.Connection, exchange.KeepAlive, exchange.ProxyConnection, exchange.TransferEncoding, exchange.UpgradeField:
		b.malformed("a connection-specific field") // RFC 9113, 8.2.2
		return false
	case exchange.TE:
		if !exchange.EqualFold(value, "trailers") || b.head.Has(exchange.TE) {
			b.malformed("TE with something else than trailers") // RFC 9113, 8.2.2
			return false
		}
	case exchange.ContentLength:
		if b.use == forTrailer {
			return false // framing has no place in trailers (RFC 9110, 6.5.1)
		}
		n, ok := exchange.ParseLength(value)
		if !ok || b.length >= 0 {
			b.malformed("Content-Length is repeated, or no number")
			return false
		}
		b.length = n
	case exchange.Host:
		if b.use == forTrailer {
			return false
		}
		if b.head.Has(exchange.Host) {
			b.malformed("Host is repeated")
			return false
		}
		b.host = value
	case exchange.Authorization:
		if b.head.Has(exchange.Authorization) {
			b.twice = true
			return false
		}
	}
	return true
}

// crumb joins a cookie that was split for better compression (RFC 9113, 8.2.3).
// An empty piece adds nothing: no value may end with a space (8.2.1).
func (b *block) crumb(value string) {
	if len(b.cookies) > 0 && value != "" {
		b.cookies = append(b.cookies, "; "...)
	}
	b.crumbs++
	b.cookies = append(b.cookies, value...)
}

// pseudo takes a pseudo-field (RFC 9113, 8.3).
func (b *block) pseudo(name, value string) {
	if b.regular {
		b.malformed("a pseudo-field behind a field")
		return
	}
	var to *string
	switch {
	case b.use == forRequest:
		switch name {
		case ":method":
			to = &b.method
		case ":scheme":
			to = &b.scheme
		case ":path":
			to = &b.path
		case ":authority":
			to = &b.authority
		case ":protocol":
			to = &b.protocol
		}
	case b.use == forResponse && name == ":status":
		to = &b.status
	}
	switch {
	case to == nil:
		b.malformed("a pseudo-field that has no place here")
	case *to != "":
		b.malformed("a pseudo-field is repeated")
	case value == "":
		b.malformed("an empty pseudo-field")
	default:
		*to = value
	}
}
