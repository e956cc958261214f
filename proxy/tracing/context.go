package tracing

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// The flags of a traceparent (W3C Trace Context Level 2, 3.2.2.5).
const (
	flagSampled = 1
	flagRandom  = 2 // the trace's id is random in its last seven bytes
)

// caller is what a traceparent says.
type caller struct {
	trace  [16]byte
	parent [8]byte
	flags  byte
}

// parseParent reads a traceparent, strictly (W3C Trace Context, 3.2): one that isn't
// right is none. Of later versions, what version 00 has is read.
func parseParent(s string) (c caller, ok bool) {
	const size = 55 // 00-TRACE-SPAN-FLAGS
	if len(s) < size || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return c, false
	}
	var version, flags [1]byte
	if !unhex(version[:], s[:2]) || version[0] == 0xff || !unhex(c.trace[:], s[3:35]) || !unhex(c.parent[:], s[36:52]) || !unhex(flags[:], s[53:55]) {
		return c, false
	}
	if len(s) > size && (version[0] == 0 || s[size] != '-') {
		return c, false
	}
	c.flags = flags[0] & (flagSampled | flagRandom)
	return c, c.trace != [16]byte{} && c.parent != [8]byte{}
}

// unhex decodes lower case hexadecimal: the only one there is in a traceparent.
func unhex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := digit(s[2*i]), digit(s[2*i+1])
		if hi|lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	default:
		return 0xff
	}
}

// The bounds of a tracestate (3.3.1.1 and 3.3.1.5: at least 512 characters go on).
const (
	maxState   = 1024
	maxMembers = 32
)

// tracestate joins the fields of x (RFC 9110, 5.3) and checks them (3.3): ok is false
// for one that isn't right, which doesn't go on.
func tracestate(x *exchange.Exchange) (state string, ok bool) {
	n, size := 0, 0
	for i := range x.Request.Len() {
		if x.Request.ID(i) != exchange.Tracestate {
			continue
		}
		_, v := x.Request.Field(i)
		if size += len(v) + 1; size > maxState {
			return "", false
		}
		if state == "" {
			state = v
		} else {
			state = x.Keep([]byte(state + "," + v))
		}
	}
	for rest, more := state, state != ""; more; {
		var member string
		member, rest, more = strings.Cut(rest, ",")
		if member = strings.Trim(member, " \t"); member == "" {
			continue
		}
		if n++; n > maxMembers || !validMember(member) {
			return "", false
		}
	}
	return state, true
}

// validMember checks KEY=VALUE.
func validMember(s string) bool {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" || len(key) > 256 || value == "" || len(value) > 256 {
		return false
	}
	for i := range len(key) {
		c := key[i]
		first := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !first && (i == 0 || c != '_' && c != '-' && c != '*' && c != '/' && c != '@') {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == ',' || c == '=' {
			return false
		}
	}
	return true
}
