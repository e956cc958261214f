package schema

import (
	"encoding/base64"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// formats are those of strings that are checked. Others say something to
// people and tools, and nothing is made of them here: what a format that isn't
// in JSON Schema's list means, only who chose it knows.
func formatOf(name string) func(string) bool {
	switch name {
	case "date-time":
		return isDateTime
	case "date":
		return func(s string) bool { _, err := time.Parse(time.DateOnly, s); return err == nil }
	case "time":
		return func(s string) bool { return isDateTime("2000-01-01T" + s) }
	case "duration":
		return isDuration
	case "uuid":
		return isUUID
	case "email":
		return isEmail
	case "hostname":
		return isHostname
	case "ipv4":
		return func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() }
	case "ipv6":
		return func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is6() && a.Zone() == "" }
	case "uri":
		return func(s string) bool { u, err := url.Parse(s); return err == nil && u.Scheme != "" && isURI(s) }
	case "uri-reference":
		return func(s string) bool { _, err := url.Parse(s); return err == nil && isURI(s) }
	case "json-pointer":
		return isPointer
	case "byte": // of OpenAPI 3.0
		return func(s string) bool { _, err := base64.StdEncoding.Strict().DecodeString(s); return err == nil }
	default:
		return nil
	}
}

// bounds of the formats of numbers in OpenAPI.
func numberFormat(name string) (least, most string) {
	switch name {
	case "int32":
		return "-2147483648", "2147483647"
	case "int64":
		return "-9223372036854775808", "9223372036854775807"
	default:
		return "", ""
	}
}

// isDateTime is RFC 3339, 5.6, with capitals as time.RFC3339 has them or
// small letters, and leap seconds.
func isDateTime(s string) bool {
	if len(s) < len("2000-01-01T00:00:00Z") || s[10]|0x20 != 't' {
		return false
	}
	if strings.HasSuffix(s, "z") {
		s = s[:len(s)-1] + "Z"
	}
	if s[10] == 't' {
		s = s[:10] + "T" + s[11:]
	}
	if strings.IndexByte(s, ',') >= 0 { // which Go takes for a point
		return false
	}
	if zone := s[len(s)-6:]; zone[0] != 'Z' && zone[3] == ':' && zone[1:3] > "23" {
		return false
	}
	leap := s[17:19] == "60"
	if leap {
		s = s[:17] + "59" + s[19:]
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return false
	}
	t = t.UTC()
	return !leap || t.Hour() == 23 && t.Minute() == 59
}

// isDuration is RFC 3339, appendix A.
func isDuration(s string) bool {
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || rest == "" {
		return false
	}
	date, clock, timed := strings.Cut(rest, "T")
	if weeks, ok := strings.CutSuffix(date, "W"); ok {
		return !timed && isDigits(weeks)
	}
	return inUnits(date, "YMD", timed) && (!timed || inUnits(clock, "HMS", false))
}

// inUnits reports whether s is numbers with units that follow each other.
func inUnits(s, units string, empty bool) bool {
	if s == "" {
		return empty
	}
	first := true
	for s != "" {
		n := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if n <= 0 {
			return false
		}
		at := strings.IndexByte(units, s[n])
		if at < 0 || !first && at > 0 {
			return false
		}
		units, s, first = units[at+1:], s[n+1:], false
	}
	return true
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// isUUID is RFC 9562, 4.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !isHex(c) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// isEmail is a Mailbox of RFC 5321, 4.1.2, without quoted names.
func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || at > 64 {
		return false
	}
	name, host := s[:at], s[at+1:]
	for i := range len(name) {
		c := name[i]
		alnum := '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
		dot := c == '.' && i > 0 && i < len(name)-1 && name[i-1] != '.'
		if !alnum && !dot && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) < 0 {
			return false
		}
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		_, err := netip.ParseAddr(strings.TrimPrefix(host[1:len(host)-1], "IPv6:"))
		return err == nil
	}
	return isHostname(host)
}

// isHostname is RFC 1123, 2.1.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' {
				return false
			}
		}
	}
	return true
}

// isURI reports whether all characters are those of a URI (RFC 3986, 2).
func isURI(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			return false
		}
		if c == '%' && (i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2])) {
			return false
		}
	}
	return true
}

// isPointer is RFC 6901, 3.
func isPointer(s string) bool {
	if s != "" && s[0] != '/' {
		return false
	}
	for i := range len(s) {
		if s[i] == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return true
}
