package exchange

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Target is where a request wants to go, in the one spelling that matching,
// policies, cache keys and forwarding use.
type Target struct {
	Scheme    string // "http" or "https", from the connection
	Authority string // Host, and Port if the client named one: what is forwarded
	Host      string // lower case, without port and trailing dot; IPv6 without brackets
	Port      string // digits; "" when the client named none
	Path      string // starts with "/"; or "*" for OPTIONS
	Bare      string // Path without parameters, when it has any: "/a;v=1/b" is "/a/b" to some services; else ""
	Query     string // as it came, without "?"; only auth rewrites it, to take a key out
	HasQuery  bool   // a "?" was there, even with nothing behind it
}

// Canonicalise computes Target from RawTarget, RawHost and Conn, once for each
// exchange. What has more than one reading is refused.
//
// Paths: dot segments are removed, slashes merged, needless escapes decoded,
// other escapes in upper case, characters that a URI can't hold escaped.
// Refused are escaped / \ NUL % ; # ? and control characters, a raw backslash,
// escaped dot segments, more ".." than segments, dot segments with parameters,
// and what isn't UTF-8.
func (x *Exchange) Canonicalise() *Fault {
	raw := x.RawTarget
	host := x.RawHost
	x.Target.Scheme = x.Conn.Scheme
	if raw != "" && raw[0] != '/' && raw != "*" {
		scheme, rest, ok := strings.Cut(raw, "://") // absolute-form, RFC 9112 3.2.2
		if !ok || !(EqualFold(scheme, "http") || EqualFold(scheme, "https")) {
			return NewFault(FromClient, Malformed, "request target %.60q is neither a path nor an http URL", raw)
		}
		end := strings.IndexAny(rest, "/?")
		authority, path := rest, "/"
		if end >= 0 {
			authority, path = rest[:end], rest[end:]
		}
		if path[0] == '?' {
			path = x.Keep(append([]byte{'/'}, path...))
		}
		if !EqualFold(authority, host) {
			return NewFault(FromClient, Malformed, "request target names host %.60q, Host names %.60q", authority, host)
		}
		raw = path
	}
	if f := x.canonicalHost(host); f != nil {
		return f
	}
	if raw == "*" {
		if x.Method != "OPTIONS" {
			return NewFault(FromClient, Malformed, "request target * goes with OPTIONS only")
		}
		x.Target.Path = raw
		return nil
	}
	path, query, has := strings.Cut(raw, "?")
	if strings.IndexByte(raw, '#') >= 0 {
		return NewFault(FromClient, BadPath, "request target has a fragment")
	}
	for i := range len(query) {
		// HTTP/2 can carry what would end a request line of HTTP/1.1.
		if c := query[i]; c <= ' ' || c == 0x7f {
			return NewFault(FromClient, BadPath, "query has a space or a control character")
		}
	}
	x.Target.Query, x.Target.HasQuery = query, has
	x.Target.Path = path
	if !clean(path) {
		n := len(x.arena)
		out, why := appendPath(x.arena, path)
		if why != "" {
			return NewFault(FromClient, BadPath, "path %s", why)
		}
		x.arena = out
		x.Target.Path = view(out[n:])
	}
	if strings.IndexByte(x.Target.Path, ';') >= 0 {
		return x.stripParameters()
	}
	return nil
}

// WithoutParameters is Path as those services read it that take no part of a
// segment behind a ";" for the path (RFC 3986, 3.3). What decides about a path
// by itself asks for this one; the matcher sees to it that both readings are
// the same route's.
func (t *Target) WithoutParameters() string {
	if t.Bare != "" {
		return t.Bare
	}
	return t.Path
}

// stripParameters fills Target.Bare. Segments that are nothing but parameters
// vanish; one that is a dot segment then would climb past what was matched.
func (x *Exchange) stripParameters() *Fault {
	n := len(x.arena)
	out := append(x.arena, '/')
	path := x.Target.Path[1:]
	for more := true; more; {
		var segment string
		segment, path, more = strings.Cut(path, "/")
		segment, _, _ = strings.Cut(segment, ";")
		if segment == "." || segment == ".." {
			return NewFault(FromClient, BadPath, "path has a dot segment with parameters")
		}
		out = append(out, segment...)
		if more && segment != "" {
			out = append(out, '/')
		}
	}
	x.arena = out
	x.Target.Bare = view(out[n:])
	return nil
}

// plain marks the bytes that a canonical path holds as they are: unreserved,
// sub-delims, ":" and "@" (RFC 3986, 3.3).
var plain = [256]bool{
	'-': true, '.': true, '_': true, '~': true, '!': true, '$': true, '&': true, '\'': true, '(': true, ')': true,
	'*': true, '+': true, ',': true, ';': true, '=': true, ':': true, '@': true,
	'0': true, '1': true, '2': true, '3': true, '4': true, '5': true, '6': true, '7': true, '8': true, '9': true,
	'a': true, 'b': true, 'c': true, 'd': true, 'e': true, 'f': true, 'g': true, 'h': true, 'i': true, 'j': true,
	'k': true, 'l': true, 'm': true, 'n': true, 'o': true, 'p': true, 'q': true, 'r': true, 's': true, 't': true,
	'u': true, 'v': true, 'w': true, 'x': true, 'y': true, 'z': true,
	'A': true, 'B': true, 'C': true, 'D': true, 'E': true, 'F': true, 'G': true, 'H': true, 'I': true, 'J': true,
	'K': true, 'L': true, 'M': true, 'N': true, 'O': true, 'P': true, 'Q': true, 'R': true, 'S': true, 'T': true,
	'U': true, 'V': true, 'W': true, 'X': true, 'Y': true, 'Z': true,
}

// clean reports whether path is canonical already.
func clean(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := 1; i < len(path); i++ {
		c := path[i]
		if plain[c] {
			if c == '.' && path[i-1] == '/' {
				return false // perhaps a dot segment
			}
			continue
		}
		if c != '/' || path[i-1] == '/' {
			return false
		}
	}
	return true
}

const upperHex = "0123456789ABCDEF"

// appendPath appends the canonical form of path to dst, or says why there is
// none.
func appendPath(dst []byte, path string) ([]byte, string) {
	if path == "" || path[0] != '/' {
		return nil, "doesn't start with /"
	}
	root := len(dst)
	dst = append(dst, '/')
	for i := 0; i < len(path); {
		for i < len(path) && path[i] == '/' {
			i++
		}
		start := i
		for i < len(path) && path[i] != '/' {
			i++
		}
		segment, last := path[start:i], i == len(path)
		switch segment {
		case "":
			continue
		case ".":
			continue
		case "..":
			// dst ends in "/"; go back behind the one before.
			if len(dst)-root == 1 {
				return nil, "climbs above the root"
			}
			end := len(dst) - 1
			for dst[end-1] != '/' {
				end--
			}
			dst = dst[:end]
			continue
		}
		begin := len(dst)
		var why string
		if dst, why = appendSegment(dst, segment); why != "" {
			return nil, why
		}
		if s := string(dst[begin:]); s == "." || s == ".." {
			return nil, "hides a dot segment in escapes"
		}
		if !last {
			dst = append(dst, '/')
		}
	}
	return dst, ""
}

// appendSegment appends the canonical form of one path segment.
func appendSegment(dst []byte, s string) ([]byte, string) {
	for i := 0; i < len(s); {
		c, escaped, width := s[i], false, 1
		if c == '%' {
			if i+2 >= len(s) {
				return nil, "has a broken escape"
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 {
				return nil, "has a broken escape"
			}
			c, escaped, width = byte(hi<<4|lo), true, 3
		}
		switch {
		case c < 0x20 || c == 0x7f:
			return nil, "has a control character"
		case c == '\\':
			return nil, "has a backslash"
		case escaped && (c == '/' || c == '%' || c == ';' || c == '#' || c == '?'):
			return nil, "has an escaped delimiter"
		case c >= 0x80:
			n, ok := runeWidth(s[i:])
			if !ok {
				return nil, "isn't UTF-8"
			}
			for range n {
				b, w := octet(s[i:])
				dst = append(dst, '%', upperHex[b>>4], upperHex[b&15])
				i += w
			}
			continue
		case unreserved(c), !escaped && plain[c]:
			dst = append(dst, c)
		default:
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
		i += width
	}
	return dst, ""
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// octet returns the first byte of s, unescaped, and how many bytes it takes.
func octet(s string) (byte, int) {
	if s[0] == '%' && len(s) > 2 {
		hi, lo := unhex(s[1]), unhex(s[2])
		if hi >= 0 && lo >= 0 {
			return byte(hi<<4 | lo), 3
		}
	}
	return s[0], 1
}

// runeWidth reports how many octets, raw or escaped, the UTF-8 sequence at the
// start of s has.
func runeWidth(s string) (int, bool) {
	var buf [utf8.UTFMax]byte
	n := 0
	for n < len(buf) && len(s) > 0 {
		b, w := octet(s)
		if n > 0 && b&0xc0 != 0x80 {
			break
		}
		buf[n] = b
		n++
		s = s[w:]
		if utf8.FullRune(buf[:n]) {
			break
		}
	}
	r, size := utf8.DecodeRune(buf[:n])
	return size, (r != utf8.RuneError || size > 1) && size == n
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}

// canonicalHost fills Target's Host, Port and Authority (RFC 3986, 3.2.2).
func (x *Exchange) canonicalHost(raw string) *Fault {
	if raw == "" {
		if x.Proto == HTTP10 {
			return nil // Host came with HTTP/1.1; only a route without hosts matches
		}
		return NewFault(FromClient, BadHost, "no host")
	}
	if len(raw) > 261 { // 255 and a port
		return NewFault(FromClient, BadHost, "host of %d bytes", len(raw))
	}
	host, port := raw, ""
	if raw[0] == '[' {
		end := strings.IndexByte(raw, ']')
		if end < 0 {
			return NewFault(FromClient, BadHost, "host %.60q lacks a closing bracket", raw)
		}
		addr, err := netip.ParseAddr(raw[1:end])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return NewFault(FromClient, BadHost, "host %.60q isn't an IPv6 address", raw)
		}
		host, port = raw[1:end], raw[end+1:]
		if port != "" && port[0] != ':' {
			return NewFault(FromClient, BadHost, "host %.60q", raw)
		}
		port = strings.TrimPrefix(port, ":")
	} else if i := strings.IndexByte(raw, ':'); i >= 0 {
		host, port = raw[:i], raw[i+1:]
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' || i > 4 {
			return NewFault(FromClient, BadHost, "port %.20q", port)
		}
	}
	changed := false
	for i := range len(host) {
		c := host[i]
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || raw[0] == '[' && c == ':':
		case 'A' <= c && c <= 'Z':
			changed = true
		default:
			return NewFault(FromClient, BadHost, "host %.60q has a character that no host name has", raw)
		}
	}
	if raw[0] != '[' {
		if host == "" || host[0] == '.' || strings.Contains(host, "..") {
			return NewFault(FromClient, BadHost, "host %.60q has an empty label", raw)
		}
		if host[len(host)-1] == '.' {
			host = host[:len(host)-1]
			changed = true
		}
	}
	if !changed {
		x.Target.Host, x.Target.Port, x.Target.Authority = host, port, raw
		if port == "" && len(raw) > 0 && raw[len(raw)-1] == ':' {
			x.Target.Authority = raw[:len(raw)-1]
		}
		return nil
	}
	n := len(x.arena)
	if raw[0] == '[' {
		x.arena = append(x.arena, '[')
	}
	for i := range len(host) {
		x.arena = append(x.arena, lower(host[i]))
	}
	end := len(x.arena)
	begin := n
	if raw[0] == '[' {
		begin++
		x.arena = append(x.arena, ']')
	}
	if port != "" {
		x.arena = append(append(x.arena, ':'), port...)
	}
	x.Target.Host, x.Target.Port, x.Target.Authority = view(x.arena[begin:end]), port, view(x.arena[n:])
	return nil
}
