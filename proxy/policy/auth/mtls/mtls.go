// Package mtls is auth "mtls": a client shows a certificate while it connects,
// which its listener has verified (client_ca_file). It starts no goroutine.
package mtls

import (
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// Config is an auth "mtls" block.
type Config struct {
	// Let every certificate in that the listener's authority has signed, also those that are no consumer's.
	Any bool `hcl:"any,attr" default:"false"`
}

// Method finds a consumer by the names in its certificate.
type Method struct {
	consumers *consumer.Directory
	any       bool

	expired, unknown, several *exchange.Fault
}

var _ auth.Method = (*Method)(nil)

// Kind describes the method to the configuration.
func Kind(d *consumer.Directory) policy.Kind {
	return auth.Kind("mtls", func() any { return &Config{} }, func(cfg any) (auth.Method, error) {
		return New(*cfg.(*Config), d), nil
	})
}

// New makes the method of a block.
func New(c Config, d *consumer.Directory) *Method {
	return &Method{
		consumers: d, any: c.Any,
		expired: refuse("the client's certificate has expired since it connected"),
		unknown: refuse("the client's certificate is no consumer's"),
		several: refuse(consumer.ErrSeveral.Error()),
	}
}

// refuse makes a 403: no field of a request would help, so that there is nothing
// that a 401 could ask for.
func refuse(why string) *exchange.Fault {
	f := auth.Refuse(why)
	f.Kind = exchange.Forbidden
	return f
}

// Identify looks at the certificate that the handshake has verified; others
// don't get this far. A certificate that is no consumer's is left to the other
// methods: browsers show theirs unasked.
func (m *Method) Identify(x *exchange.Exchange) (bool, error) {
	if x.Conn == nil || x.Conn.TLS == nil || len(x.Conn.TLS.VerifiedChains) == 0 || len(x.Conn.TLS.VerifiedChains[0]) == 0 {
		return false, nil
	}
	leaf := x.Conn.TLS.VerifiedChains[0][0]
	if x.Start.After(leaf.NotAfter) { // connections may live longer than certificates
		return true, m.expired
	}
	c, err := m.consumers.Certificate(leaf)
	switch {
	case err != nil:
		return true, m.several
	case c == nil && !m.any:
		return false, m.unknown
	}
	x.Consumer = c
	return true, nil
}

// Hide has nothing to hide: certificates stay on their connection.
func (m *Method) Hide(*exchange.Exchange) {}

// Challenge is none: the certificate comes before the request.
func (m *Method) Challenge(bool) string { return "" }

// Explain says what is asked for.
func (m *Method) Explain() string {
	if m.any {
		return "a certificate of the listener's authority"
	}
	return "a consumer's certificate"
}
