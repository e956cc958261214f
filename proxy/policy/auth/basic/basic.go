// Package basic is auth "basic": a consumer shows its name and password (RFC
// 7617). It starts no goroutine.
package basic

import (
	"encoding/base64"
	"unsafe"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// Config is an auth "basic" block.
type Config struct {
	// What WWW-Authenticate calls the protected space; browsers show it.
	Realm string `hcl:"realm,attr" default:"api"`
	// Send the password on to the service. Unless it does, no service, and no log of one, gets hold of it.
	Forward bool `hcl:"forward,attr" default:"false"`
}

// maxCredentials bounds name, colon and password in base64.
const maxCredentials = 1024

// Method finds a consumer by its name and password.
type Method struct {
	consumers *consumer.Directory
	verifier  *Verifier
	forward   bool
	challenge string

	twice, long, form, user, password, busy *exchange.Fault
}

var _ auth.Method = (*Method)(nil)

// Kind describes the method to the configuration.
func Kind(d *consumer.Directory, v *Verifier) policy.Kind {
	return auth.Kind("basic", func() any { return &Config{} }, func(cfg any) (auth.Method, error) {
		return New(*cfg.(*Config), d, v)
	})
}

// New makes the method of a block.
func New(c Config, d *consumer.Directory, v *Verifier) (*Method, error) {
	if err := auth.CheckRealm(c.Realm); err != nil {
		return nil, err
	}
	return &Method{
		consumers: d, verifier: v, forward: c.Forward,
		challenge: `Basic realm="` + c.Realm + `", charset="UTF-8"`, // RFC 7617, 2.1
		twice:     auth.Twice(),
		long:      auth.Refuse("name and password have more than 1024 bytes in base64"),
		form:      auth.Refuse("the credentials aren't name and password in base64, without control characters"),
		user:      auth.Refuse("unknown user"),
		password:  auth.Refuse("wrong password"),
		busy:      exchange.NewFault(exchange.FromPolicy, exchange.AuthUnavailable, "too many passwords are being checked"),
	}, nil
}

// Identify looks at Authorization: Basic. An unknown user takes as long as a
// wrong password.
func (m *Method) Identify(x *exchange.Exchange) (bool, error) {
	text, n := auth.Credentials(&x.Request, "Basic")
	switch {
	case n == 0:
		return false, nil
	case n > 1:
		return true, m.twice
	case len(text) > maxCredentials:
		return true, m.long
	}
	var buf [maxCredentials]byte
	plain, ok := decode(buf[:], text)
	colon := -1
	for i, c := range plain {
		if c < ' ' || c == 0x7f {
			ok = false
		}
		if c == ':' && colon < 0 {
			colon = i
		}
	}
	if !ok || colon < 0 {
		return true, m.form
	}
	p, known := m.consumers.User(plain[:colon])
	if p == nil {
		return true, m.user
	}
	right, done := m.verifier.check(p, plain[:colon], plain[colon+1:])
	switch {
	case !done:
		return true, m.busy
	case !known:
		return true, m.user
	case !right:
		return true, m.password
	}
	x.Consumer = p.Consumer
	return true, nil
}

func decode(dst []byte, text string) ([]byte, bool) {
	n, err := base64.StdEncoding.Decode(dst, unsafe.Slice(unsafe.StringData(text), len(text)))
	return dst[:n], err == nil
}

// Hide takes the password out of what goes to the backend.
func (m *Method) Hide(x *exchange.Exchange) {
	if !m.forward {
		auth.HideCredentials(x, "Basic")
	}
}

// Challenge asks for a name and a password.
func (m *Method) Challenge(bool) string { return m.challenge }

// Explain says what is asked for.
func (m *Method) Explain() string { return "a name and a password (Basic)" }
