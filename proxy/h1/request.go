package h1

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// fill checks the complete head and fills the exchange with it.
func (c *conn) fill() *flaw {
	x := &c.x
	h := &x.Request
	if x.Method == "CONNECT" {
		return &flaw{exchange.NotImplemented, "CONNECT"} // RFC 9110, 9.3.6: a proxy's business
	}
	// RFC 9112, 3.2: one Host, and none only in HTTP/1.0.
	switch hosts := h.Count(exchange.Host); {
	case hosts == 1:
		x.RawHost = h.Get(exchange.Host)
	case hosts > 1:
		return malformed("several Host fields")
	case x.Proto == exchange.HTTP11:
		return malformed("no Host field")
	}
	if h.Count(exchange.Authorization) > 1 {
		return malformed("several Authorization fields")
	}
	kind, length, f := framingOf(h, c.p.minor)
	if f != nil {
		return f
	}
	c.keep = x.Proto == exchange.HTTP11
	if h.Has(exchange.Connection) {
		if f := c.connection(h); f != nil {
			return f
		}
	}
	if h.Has(exchange.Proxy) {
		dropProxy(h)
	}
	if kind != noBody {
		c.beginBody(kind, length)
	} else if ahead := c.w.buffered() > 0; ahead != c.ahead.Load() {
		c.ahead.Store(ahead)
	}
	if h.Has(exchange.Expect) {
		return c.expect(h)
	}
	return nil
}

// connection reads the Connection field.
func (c *conn) connection(h *exchange.Head) *flaw {
	if dropNamed(h) {
		return malformed("Connection names an end-to-end field")
	}
	if c.keep {
		c.keep = !h.HasToken(exchange.Connection, "close")
	} else {
		c.keep = h.HasToken(exchange.Connection, "keep-alive") && !h.HasToken(exchange.Connection, "close")
	}
	x := &c.x
	if x.Proto == exchange.HTTP11 && x.Method == "GET" && h.Has(exchange.UpgradeField) &&
		!h.Has(exchange.ContentLength) && !h.Has(exchange.TransferEncoding) &&
		h.HasToken(exchange.Connection, "upgrade") {
		x.Upgrade = upgradeToken(h)
	}
	return nil
}

// upgradeToken is the first protocol that the client wants to switch to and
// that can be passed on: HTTP/2 and TLS end here (RFC 9113, 3.1: h2c by Upgrade
// is obsolete).
func upgradeToken(h *exchange.Head) (token string) {
	exchange.EachToken(h.Get(exchange.UpgradeField), func(t string) bool {
		name, version, has := strings.Cut(t, "/")
		if !isToken(name) || has && !isToken(version) ||
			exchange.EqualFold(name, "h2c") || exchange.EqualFold(name, "h2") ||
			exchange.EqualFold(name, "HTTP") || exchange.EqualFold(name, "TLS") {
			return true
		}
		token = t
		return false
	})
	return token
}

// dropProxy drops the field that CGI programs take for HTTP_PROXY (httpoxy).
func dropProxy(h *exchange.Head) {
	for i := range h.Len() {
		if h.ID(i) == exchange.Proxy {
			h.Drop(i)
		}
	}
}

func (c *conn) beginBody(kind framing, length int64) {
	x := &c.x
	c.hasBody = true
	x.RequestLength = length
	x.RequestTrailer.Reset(c.trailer[:0])
	c.body.w, c.body.o, c.body.trailer, c.body.count, c.body.lim = &c.w, c, &x.RequestTrailer, &x.BytesIn, c.f.lim
	c.body.begin(kind, length)
	c.ahead.Store(false)
	if !c.body.done.Load() {
		x.RequestBody = &c.body
	}
}

// expect reads the Expect field (RFC 9110, 10.1.1).
func (c *conn) expect(h *exchange.Head) *flaw {
	x := &c.x
	if x.Proto == exchange.HTTP10 {
		return nil
	}
	if h.Count(exchange.Expect) > 1 || !exchange.EqualFold(h.Get(exchange.Expect), "100-continue") {
		return &flaw{exchange.Expectation, "expectation other than 100-continue"}
	}
	for i := range h.Len() {
		if h.ID(i) == exchange.Expect {
			h.Drop(i) // between us and each side on its own
		}
	}
	if x.RequestBody != nil {
		c.expects, c.awaits = true, true
		x.ExpectContinue = true
	}
	return nil
}
