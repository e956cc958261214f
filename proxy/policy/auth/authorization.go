package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Credentials returns what stands behind a scheme in Authorization (RFC 9110,
// 11.6.2), and how many such fields there are; 0: none has the scheme. More than
// one is never right: the backend, or a proxy before us, may read the other one.
func Credentials(h *exchange.Head, scheme string) (credentials string, n int) {
	if !h.Has(exchange.Authorization) {
		return "", 0
	}
	all, found := 0, false
	for i := range h.Len() {
		if h.ID(i) != exchange.Authorization {
			continue
		}
		all++
		_, value := h.Field(i)
		// The name of a scheme is in any case (RFC 9110, 11.1).
		if s, rest, _ := strings.Cut(value, " "); exchange.EqualFold(s, scheme) {
			credentials, found = strings.TrimLeft(rest, " "), true
		}
	}
	if !found {
		return "", 0
	}
	return credentials, all
}

// HideCredentials keeps Authorization from being forwarded if it has the scheme,
// unless a method has put another one in its place.
func HideCredentials(x *exchange.Exchange, scheme string) {
	if x.RequestEdits.Replaces("Authorization", exchange.Authorization) {
		return
	}
	if _, n := Credentials(&x.Request, scheme); n > 0 {
		x.RequestEdits.Remove("Authorization")
	}
}

// Twice is the fault of a request with several Authorization fields.
func Twice() *exchange.Fault {
	return exchange.NewFault(exchange.FromClient, exchange.Malformed, "more than one Authorization field")
}

// CheckRealm refuses what can't stand in quotes in WWW-Authenticate (RFC 9110,
// 5.6.4).
func CheckRealm(realm string) error {
	for i := range len(realm) {
		if c := realm[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return fmt.Errorf("realm: %q has a character that can't stand in WWW-Authenticate", realm)
		}
	}
	if realm == "" {
		return errors.New("realm: is empty")
	}
	return nil
}
