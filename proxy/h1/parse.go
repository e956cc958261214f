package h1

import (
	"bytes"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// flaw is why a message is refused: nil when it isn't.
type flaw struct {
	kind exchange.Kind // of a request; each flaw of a response is BackendMalformed
	why  string
}

func (f *flaw) Error() string { return f.why }

func malformed(why string) *flaw { return &flaw{exchange.Malformed, why} }

// limits bounds a head.
type limits struct{ bytes, fields, target int }

// parser reads a head from a buffer that fills up: each call goes on where the
// one before lacked bytes, and looks at none twice.
type parser struct {
	begin int // where the message begins
	pos   int // start of the line that isn't complete yet
	scan  int // no line feed between pos and here
	stage uint8
	reply bool // it is a response
	empty bool // an empty line came before the start line
	minor uint8

	// Of a request.
	method, methodEnd, target, targetEnd int
	// Of a response.
	status int
}

const (
	atStart uint8 = iota
	atFields
	atEnd
)

func (p *parser) reset(begin int) { *p = parser{begin: begin, pos: begin, scan: begin} }

// line returns the next line without its CRLF, ok false when it isn't complete.
func (p *parser) line(buf []byte, end int) (from, to int, ok bool, f *flaw) {
	i := bytes.IndexByte(buf[p.scan:end], '\n')
	if i < 0 {
		p.scan = end
		return 0, 0, false, nil
	}
	from, to = p.pos, p.scan+i-1
	// A line feed alone is a line's end to some (RFC 9112, 2.2) and not to
	// others; so is a CR alone, which the checks of what a line holds refuse.
	if to < from || buf[to] != '\r' {
		return 0, 0, false, malformed("line feed without carriage return")
	}
	p.pos = to + 2
	p.scan = p.pos
	return from, to, true, nil
}

// request parses what is there of a request's head in buf[:end] into h. done
// tells that the head is complete and ends at p.pos.
func (p *parser) request(buf []byte, end int, h *exchange.Head, lim limits) (done bool, f *flaw) {
	for p.stage == atStart {
		if p.pos < end && buf[p.pos] != '\r' && nameClass[buf[p.pos]] == 0 {
			return false, malformed("request line doesn't begin with a method")
		}
		from, to, ok, f := p.line(buf, end)
		if f != nil {
			return false, f
		}
		if !ok {
			if end-p.pos > lim.target+64 {
				return false, &flaw{exchange.URITooLong, "request line too long"}
			}
			return false, p.tooLarge(end, lim)
		}
		if from == to {
			// RFC 9112, 2.2: one empty line before a request is ignored.
			if p.empty {
				return false, malformed("empty lines before the request line")
			}
			p.empty = true
			continue
		}
		if f := p.requestLine(buf, from, to, lim); f != nil {
			return false, f
		}
		p.stage = atFields
	}
	return p.fields(buf, end, h, lim)
}

func (p *parser) requestLine(buf []byte, from, to int, lim limits) *flaw {
	i := from
	for i < to && nameClass[buf[i]] != 0 {
		i++
	}
	if i == from || i == to || buf[i] != ' ' || i-from > 32 {
		return malformed("request line has no valid method")
	}
	p.method, p.methodEnd = from, i
	i++
	n := bytes.IndexByte(buf[i:to], ' ')
	if n <= 0 {
		return malformed("request line isn't method, target and version")
	}
	p.target, p.targetEnd = i, i+n
	if n > lim.target {
		return &flaw{exchange.URITooLong, "request target too long"}
	}
	if !validTarget(buf[i : i+n]) {
		return malformed("request target has a control character")
	}
	minor, known, ok := version(buf[i+n+1 : to])
	if !ok {
		return malformed("request line has no valid version")
	}
	if !known {
		return &flaw{exchange.Version, "HTTP version is neither 1.0 nor 1.1"}
	}
	p.minor = minor
	return nil
}

// version parses "HTTP/1.1"; known tells that it is a version we speak.
func version(b []byte) (minor uint8, known, ok bool) {
	if len(b) != 8 || string(b[:5]) != "HTTP/" || b[5]-'0' > 9 || b[6] != '.' || b[7]-'0' > 9 {
		return 0, false, false
	}
	return b[7] - '0', b[5] == '1' && b[7] <= '1', true
}

// response parses what is there of a response's head, like request.
func (p *parser) response(buf []byte, end int, h *exchange.Head, lim limits) (done bool, f *flaw) {
	p.reply = true
	if p.stage == atStart {
		if n := min(end-p.pos, 5); string(buf[p.pos:p.pos+n]) != "HTTP/"[:n] {
			return false, malformed("response doesn't begin with a status line")
		}
		from, to, ok, f := p.line(buf, end)
		if f != nil {
			return false, f
		}
		if !ok {
			return false, p.tooLarge(end, lim)
		}
		if f := p.statusLine(buf[from:to]); f != nil {
			return false, f
		}
		p.stage = atFields
	}
	return p.fields(buf, end, h, lim)
}

func (p *parser) statusLine(b []byte) *flaw {
	// The space behind the code belongs there even without a reason (RFC 9112,
	// 4), but many servers leave it out, and nothing is ambiguous then.
	if len(b) < 12 || b[8] != ' ' || len(b) > 12 && b[12] != ' ' || !validValue(b[12:]) {
		return malformed("status line isn't version, code and reason")
	}
	minor, known, ok := version(b[:8])
	if !ok || !known {
		return malformed("status line has no version that we speak")
	}
	p.minor, p.status = minor, 0
	for _, c := range b[9:12] {
		if c-'0' > 9 {
			return malformed("status code isn't a number")
		}
		p.status = p.status*10 + int(c-'0')
	}
	if p.status < 100 || p.status > 599 {
		return malformed("status code isn't between 100 and 599")
	}
	return nil
}

func (p *parser) tooLarge(end int, lim limits) *flaw {
	if end-p.begin > lim.bytes {
		return &flaw{exchange.HeadersTooLarge, "head too large"}
	}
	return nil
}

func (p *parser) fields(buf []byte, end int, h *exchange.Head, lim limits) (done bool, f *flaw) {
	for {
		from, to, ok, f := p.line(buf, end)
		if f != nil {
			return false, f
		}
		if !ok {
			return false, p.tooLarge(end, lim)
		}
		if from == to {
			p.stage = atEnd
			return true, p.tooLarge(p.pos, lim)
		}
		if h.Len() >= lim.fields {
			return false, &flaw{exchange.HeadersTooLarge, "too many fields"}
		}
		name, value, valueEnd, odd, f := field(buf, from, to)
		if f != nil {
			return false, f
		}
		h.MarkLine(from, name, value, valueEnd, to)
		if odd && !p.reply {
			// "X_User" is "X-User" to CGI, WSGI and PHP; "." is too, to some.
			h.Drop(h.Len() - 1)
		}
	}
}

// field parses the field line buf[from:to]: where its name ends, and its value
// without the white space around it (RFC 9112, 5).
func field(buf []byte, from, to int) (nameEnd, value, valueEnd int, odd bool, f *flaw) {
	line := buf[:to]
	i := from
	var class uint8
	for i < len(line) {
		c := nameClass[line[i]]
		if c == 0 {
			break
		}
		class |= c
		i++
	}
	switch {
	case i == from && i < to && (buf[i] == ' ' || buf[i] == '\t'):
		return 0, 0, 0, false, malformed("folded field line") // RFC 9112, 5.2
	case i == from:
		return 0, 0, 0, false, malformed("field without a name")
	case i == to || buf[i] != ':':
		// White space before the colon is one of these (RFC 9112, 5.1).
		return 0, 0, 0, false, malformed("field name has a character that none has")
	}
	nameEnd, value, valueEnd = i, i+1, to
	for value < valueEnd && (buf[value] == ' ' || buf[value] == '\t') {
		value++
	}
	for valueEnd > value && (buf[valueEnd-1] == ' ' || buf[valueEnd-1] == '\t') {
		valueEnd--
	}
	if !validValue(buf[value:valueEnd]) {
		return 0, 0, 0, false, malformed("field value has a control character")
	}
	return nameEnd, value, valueEnd, class&isOdd != 0, nil
}
