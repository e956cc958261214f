package compress

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Encode compresses the response, if it is one to compress and the client
// takes one of the codings, and says in its head on what that depends.
func (p *Policy) Encode(x *exchange.Exchange) {
	if !p.may(x) {
		return
	}
	p.learn(x)
	switch x.Status {
	case 304:
		p.notModified(x)
		return
	case 206:
		// Ranges are of the representation that the service has (RFC 9110, 14.2).
		vary(x)
		return
	}
	vary(x)
	if x.Method == "HEAD" {
		// As GET would have it, as far as can be told (RFC 9110, 9.3.2).
		if c, _ := p.choose(x); c != identity && (x.ResponseLength < 0 || p.long(x.ResponseLength)) {
			p.mark(x, c)
			x.ResponseLength = -1
			if x.Stored != nil {
				if b, ok := x.Stored.Encoded(names[c], nil); ok {
					x.ResponseLength = int64(len(b))
				}
			}
		}
		return
	}
	if x.ResponseBody == nil || x.ResponseLength >= 0 && !p.long(x.ResponseLength) {
		return
	}
	if c, _ := p.choose(x); c != identity && (x.Stored == nil || !p.kept(x, c)) {
		p.begin(x, c)
	}
}

func (p *Policy) long(n int64) bool { return n > 0 && n >= p.min }

// may reports whether the response may be compressed, for a client that takes it
// so: what is said about it depends on Accept-Encoding.
func (p *Policy) may(x *exchange.Exchange) bool {
	h, e := &x.Response, &x.ResponseEdits
	if x.Status < 200 || x.Status == 204 || x.Status == 205 || x.Tunnel != nil {
		return false
	}
	if value(h, e, exchange.ContentEncoding) != "" { // also "identity": whoever says so means it
		return false
	}
	if x.Status != 206 && h.Has(exchange.ContentRange) {
		return false // 416
	}
	contentType := value(h, e, exchange.ContentType)
	if x.Status == 206 && strings.HasPrefix(contentType, byteRanges) { // of several parts, each has its own
		contentType = h.Get(exchange.ContentType)
	}
	if !p.takes(contentType) && !(contentType == "" && x.Status == 304) { // which may lack it (RFC 9110, 15.4.5)
		return false
	}
	return !lists(h, e, exchange.CacheControl, "no-transform") && !digested(h)
}

const byteRanges = "multipart/byteranges"

// digested reports whether the response carries a digest or a signature of its
// content, which would be wrong for another coding of it (RFC 9530, RFC 9421).
func digested(h *exchange.Head) bool {
	for i := range h.Len() {
		if h.Dropped(i) {
			continue
		}
		switch name, value := h.Field(i); h.ID(i) {
		case exchange.TrailerField:
			found := false
			exchange.EachToken(value, func(name string) bool {
				found = ofContent(name)
				return !found
			})
			if found {
				return true
			}
		case exchange.Other:
			if ofContent(name) {
				return true
			}
		}
	}
	return false
}

func ofContent(name string) bool {
	switch len(name) {
	case len("Digest"):
		return exchange.EqualFold(name, "Digest")
	case len("Signature"):
		return exchange.EqualFold(name, "Signature")
	case len("Repr-Digest"): // and Content-MD5 is as long
		return exchange.EqualFold(name, "Repr-Digest") || exchange.EqualFold(name, "Content-MD5")
	case len("Content-Digest"):
		return exchange.EqualFold(name, "Content-Digest")
	default:
		return false
	}
}

// choose is the coding for the client, or why there is none.
func (p *Policy) choose(x *exchange.Exchange) (c coding, why string) {
	a := accept(&x.Request)
	c = a.choose(p.order)
	switch {
	case c == identity:
		return c, "the client takes none of the encodings"
	case x.Request.HasToken(exchange.CacheControl, "no-transform"): // RFC 9111, 5.2.1.6
		return identity, "the client asks for no transformation"
	case !p.crossSite && crossSite(x):
		return identity, "another site's page has made the request, with what says who the user is"
	default:
		return c, ""
	}
}

// crossSite reports whether a page of another site has had the browser send the
// request, with what the browser knows of who the user is: cookies, a certificate, a
// password; a token in Authorization is the page's own. Links to be followed are all
// right: what comes back takes the place of the page that asks. See BREACH in the
// README.
func crossSite(x *exchange.Exchange) bool {
	h := &x.Request
	if site, _ := h.Find("Sec-Fetch-Site"); site != "cross-site" {
		return false
	}
	if dest, _ := h.Find("Sec-Fetch-Dest"); dest == "document" {
		return false
	}
	const bearer = "Bearer "
	auth := h.Get(exchange.Authorization)
	return h.Has(exchange.Cookie) || x.Conn.TLS != nil && len(x.Conn.TLS.PeerCertificates) > 0 ||
		auth != "" && (len(auth) < len(bearer) || !exchange.EqualFold(auth[:len(bearer)], bearer))
}

// begin has the body encoded while it is sent.
func (p *Policy) begin(x *exchange.Exchange, c coding) {
	if !p.store.enter(c) {
		p.counts.skipped.Add(1)
		return
	}
	b, ok := p.store.bodies.Get().(*body)
	if !ok {
		b = &body{}
	}
	b.src, b.store, b.counts, b.coding = x.ResponseBody, p.store, p.counts, c
	b.stream = x.ResponseLength < 0
	b.holds.Store(true)
	x.ResponseBody = b // from here on Close gives back what is held
	if b.stream && b.more() && b.last && !p.long(int64(len(b.rest))) {
		b.leave()
		b.plain()
		return
	}
	if b.enc, b.err = p.store.coder(c); b.err != nil {
		return // reading says so; it can't fail with constant options
	}
	p.mark(x, c)
	x.ResponseLength = -1
	if b.whole() && x.ResponseTrailer.Len() == 0 { // which HTTP/1.1 has only behind chunks
		x.ResponseLength = int64(len(b.out))
	}
}

// mark says in the response's head how it is coded.
func (p *Policy) mark(x *exchange.Exchange, c coding) {
	e := &x.ResponseEdits
	e.SetID(exchange.ContentEncoding, "Content-Encoding", names[c])
	if value(&x.Response, e, exchange.ContentLength) != "" { // else what ResponseLength says may go out
		e.Remove("Content-Length")
	}
	e.Remove("Accept-Ranges") // they would be of another representation
	weaken(x)
}

// Finish gives the encoder to the next response, also behind one that broke off.
func (p *Policy) Finish(x *exchange.Exchange) {
	if b, ok := x.ResponseBody.(*body); ok {
		x.ResponseBody = nil
		b.recycle()
	}
}

// value is the first field of that id as it goes out.
func value(h *exchange.Head, e *exchange.Edits, id exchange.ID) (v string) {
	each(h, e, id, func(value string) bool {
		v = value
		return false
	})
	return v
}

// lists reports whether the lists in the fields of that id, as they go out, have
// the token.
func lists(h *exchange.Head, e *exchange.Edits, id exchange.ID, token string) (found bool) {
	each(h, e, id, func(value string) bool {
		exchange.EachToken(value, func(t string) bool {
			found = exchange.EqualFold(t, token)
			return !found
		})
		return !found
	})
	return found
}

// each calls f with each field of that id as it goes out, until it says false.
func each(h *exchange.Head, e *exchange.Edits, id exchange.ID, f func(value string) bool) {
	if h.Has(id) && !e.Replaces("", id) {
		for i := range h.Len() {
			if h.ID(i) != id || h.Dropped(i) {
				continue
			}
			if _, v := h.Field(i); !f(v) {
				return
			}
		}
	}
	for i := range e.Len() {
		if e.ID(i) != id {
			continue
		}
		if _, v, ok := e.Field(i); ok && !f(v) {
			return
		}
	}
}

// vary says that the response depends on Accept-Encoding (RFC 9110, 12.5.5), in
// one field with what it depends on already.
func vary(x *exchange.Exchange) {
	var buf [128]byte
	all, there := buf[:0], false
	each(&x.Response, &x.ResponseEdits, exchange.Vary, func(list string) bool {
		exchange.EachToken(list, func(t string) bool {
			there = t == "*" || exchange.EqualFold(t, "Accept-Encoding")
			return !there
		})
		if list != "" {
			all = append(append(all, list...), ", "...)
		}
		return !there
	})
	switch {
	case there:
	case len(all) == 0:
		x.ResponseEdits.SetID(exchange.Vary, "Vary", "Accept-Encoding")
	default:
		x.ResponseEdits.SetID(exchange.Vary, "Vary", x.Keep(append(all, "Accept-Encoding"...)))
	}
}
