package proxy

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// viaName is our name in Via (RFC 9110, 7.6.3).
const viaName = "sidegate"

// Trust is whose word about the client counts: the networks of trusted_proxies.
type Trust []netip.Prefix

// Contains reports whether a peer is a trusted proxy.
func (t Trust) Contains(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// identify sets ClientIP and RequestID, and trusted, by walking
// X-Forwarded-For from the right: the first address that isn't a trusted
// proxy's is the client's. An element that isn't an address ends the walk. What
// is the app of a sidecar, or proves to be of the fleet, is trusted as well; where
// it names no other address than loopback, its own host's is the client's.
func (t Trust) identify(x *exchange.Exchange) (trusted bool) {
	peer := x.Conn.Remote.Addr().Unmap()
	x.ClientIP = peer
	trusted = x.Conn.Trusted || len(t) > 0 && t.Contains(peer)
	if trusted {
		x.ClientIP = t.walk(x, peer)
		if id := x.Request.Get(exchange.XRequestID); validRequestID(id) {
			x.RequestID = id
			return true
		}
	}
	var raw [16]byte
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		raw[i], raw[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	var text [32]byte
	hex.Encode(text[:], raw[:])
	x.RequestID = x.Keep(text[:])
	return trusted
}

func (t Trust) walk(x *exchange.Exchange, peer netip.Addr) netip.Addr {
	client := peer
	for i := x.Request.Len() - 1; i >= 0; i-- {
		if x.Request.ID(i) != exchange.XForwardedFor {
			continue
		}
		_, list := x.Request.Field(i)
		for list != "" {
			cut := strings.LastIndexByte(list, ',')
			element := strings.TrimSpace(list[cut+1:])
			list = list[:max(cut, 0)]
			a, err := netip.ParseAddr(strings.Trim(element, "[]"))
			if err != nil {
				return client
			}
			a = a.Unmap()
			if x.Conn.Trusted && a.IsLoopback() {
				continue // the app of the sidecar that it comes through
			}
			client = a
			if !t.Contains(client) {
				return client
			}
		}
	}
	return client
}

// validRequestID accepts what can stand in a log and a JSON string as it is.
func validRequestID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

// forward says towards the backend who the client is: X-Forwarded-*, Forwarded
// (RFC 7239), Via and the request's id. What an untrusted peer claims of these
// is dropped, what a trusted proxy says is kept and extended.
func forward(x *exchange.Exchange, trusted bool) {
	e := &x.RequestEdits
	peer := x.Conn.RemoteIP
	if !trusted {
		e.SetID(exchange.XForwardedFor, "X-Forwarded-For", peer)
		e.SetID(exchange.XForwardedProto, "X-Forwarded-Proto", x.Target.Scheme)
		e.SetID(exchange.XForwardedHost, "X-Forwarded-Host", x.Target.Authority)
		e.SetID(exchange.Forwarded, "Forwarded", forwardedElement(x, ""))
		for i := range x.Request.Len() {
			switch x.Request.ID(i) {
			case exchange.XForwardedPort, exchange.XForwardedPrefix, exchange.XRealIP:
				x.Request.Drop(i)
			case exchange.Other:
				if name, _ := x.Request.Field(i); len(name) > 12 && exchange.EqualFold(name[:12], "x-forwarded-") {
					x.Request.Drop(i)
				}
			}
		}
	} else {
		e.SetID(exchange.XForwardedFor, "X-Forwarded-For", joined(x, exchange.XForwardedFor, peer))
		if !x.Request.Has(exchange.XForwardedProto) {
			e.SetID(exchange.XForwardedProto, "X-Forwarded-Proto", x.Target.Scheme)
		}
		if !x.Request.Has(exchange.XForwardedHost) {
			e.SetID(exchange.XForwardedHost, "X-Forwarded-Host", x.Target.Authority)
		}
		e.SetID(exchange.Forwarded, "Forwarded", forwardedElement(x, joined(x, exchange.Forwarded, "")))
	}
	e.AddID(exchange.Via, "Via", viaValue(x.Proto))
	e.SetID(exchange.XRequestID, "X-Request-Id", x.RequestID)
}

func viaValue(p exchange.Proto) string {
	switch p {
	case exchange.HTTP10:
		return "1.0 " + viaName
	case exchange.HTTP2:
		return "2 " + viaName
	case exchange.HTTP3:
		return "3 " + viaName
	default:
		return "1.1 " + viaName
	}
}

// joined is the list in all fields of that id, with one more element.
func joined(x *exchange.Exchange, id exchange.ID, more string) string {
	var b []byte
	for i := range x.Request.Len() {
		if x.Request.ID(i) != id {
			continue
		}
		if _, v := x.Request.Field(i); v != "" {
			if len(b) > 0 {
				b = append(b, ", "...)
			}
			b = append(b, v...)
		}
	}
	if more != "" {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, more...)
	}
	return x.Keep(b)
}

// forwardedElement is our element of Forwarded behind those of before.
func forwardedElement(x *exchange.Exchange, before string) string {
	var buf [160]byte
	b := buf[:0]
	if before != "" {
		b = append(append(b, before...), ", "...)
	}
	ip := x.Conn.RemoteIP
	if strings.IndexByte(ip, ':') >= 0 { // RFC 7239, 6: IPv6 is quoted and bracketed
		b = append(append(append(b, `for="[`...), ip...), `]"`...)
	} else {
		b = append(append(b, "for="...), ip...)
	}
	if h := x.Target.Authority; h != "" {
		if x.Target.Port != "" || strings.IndexByte(h, ':') >= 0 {
			b = append(append(append(b, `;host="`...), h...), '"')
		} else {
			b = append(append(b, ";host="...), h...)
		}
	}
	b = append(append(b, ";proto="...), x.Target.Scheme...)
	return x.Keep(b)
}
