package tls

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// privateSuffixes are the names that no public authority certifies: RFC 6761
// (localhost, test), RFC 6762 (local), RFC 8375 (home.arpa), and internal,
// which ICANN reserved for private use.
var privateSuffixes = []string{"localhost", "internal", "test", "local", "home.arpa"}

// normalName is a host name as certificates are looked up by: lower case,
// without a final dot, a port or brackets.
func normalName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// PrivateName reports whether only the local authority can certify a name.
func PrivateName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	if !strings.Contains(name, ".") {
		return true
	}
	return slices.ContainsFunc(privateSuffixes, func(s string) bool {
		return strings.HasSuffix(name, "."+s)
	})
}

// wildcardOf is the wildcard name that covers name: *.example.com for
// www.example.com (RFC 6125, 6.4.3: the wildcard is the whole first label).
func wildcardOf(name string) string {
	_, rest, ok := strings.Cut(name, ".")
	if !ok {
		return ""
	}
	return "*." + rest
}

// validName reports whether name may stand in a certificate: an address, or a
// host name of letters, digits, hyphens and underscores.
func validName(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// hostSet is the hosts of the routes, by how they get a certificate.
type hostSet struct {
	public map[string]struct{} // exact public names: ACME
	wild   map[string]struct{} // "*.example.com"
	bad    []string            // what no certificate can be for
}

// certified returns the public names that no file covers: those for ACME.
func (s *hostSet) certified(files *fileSet) map[string]struct{} {
	names := make(map[string]struct{}, len(s.public))
	for h := range s.public {
		if !files.covers(h) {
			names[h] = struct{}{}
		}
	}
	return names
}

// newHostSet sorts hosts; private ones need no entry, the local authority
// serves them anyway.
func newHostSet(hosts []string) *hostSet {
	s := &hostSet{public: map[string]struct{}{}, wild: map[string]struct{}{}}
	for _, h := range hosts {
		name := normalName(h)
		if a, err := idna.Lookup.ToASCII(strings.TrimPrefix(name, "*.")); err == nil && strings.HasPrefix(name, "*.") {
			name = "*." + a
		} else if err == nil {
			name = a
		}
		switch {
		case name == "" || name == "*":
		case !validName(strings.TrimPrefix(name, "*.")):
			s.bad = append(s.bad, h)
		case strings.HasPrefix(name, "*."):
			s.wild[name] = struct{}{}
		case !PrivateName(name):
			s.public[name] = struct{}{}
		}
	}
	return s
}

// has reports whether a route names the host, itself or by a wildcard.
func (s *hostSet) has(name string) bool {
	if _, ok := s.public[name]; ok {
		return true
	}
	for {
		w := wildcardOf(name)
		if w == "" {
			return false
		}
		if _, ok := s.wild[w]; ok {
			return true
		}
		name = w[2:]
	}
}
