package auth

import (
	"encoding/base64"
	"net/url"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// Basic is Authorization with a client's name and password, each encoded as a
// form is before it comes to base64 (RFC 6749, 2.3.1).
func Basic(id string, password secret.String) string {
	text := url.QueryEscape(id) + ":" + url.QueryEscape(password.Reveal())
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(text))
}
