package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Identity is who this process is in the fleet.
type Identity interface {
	// Client is the configuration of connections to a service of the fleet: it
	// shows our certificate, and wants one with the service's name.
	Client(service string, protocols ...string) *tls.Config
}

// IdentityMeta is what a registration's meta has when the instance wants, and
// shows, a certificate of the fleet. Its value is for people: which name the
// instance must have is ours to know.
const IdentityMeta = "sidegate-identity"

const identityRequired = "required"

// errNoIdentity is why instances of the fleet can't be spoken to. In plain text
// they are never.
var errNoIdentity = errors.New("the instance wants a certificate of the fleet: write an identity block")

// fleetPlan is how instances of the fleet are spoken to: as the protocol says,
// but with certificates of the fleet on both sides.
func (g *Group) fleetPlan(cfg *Config, t TimeoutsConfig) (*connPlan, error) {
	c := &connPlan{protocol: "https", timeouts: t, service: cfg.Name}
	c.timeouts.Total = 0 // not a matter of the connection
	alpn := "http/1.1"
	if cfg.Protocol == "h2c" || cfg.Protocol == "h2" {
		c.protocol, alpn = "h2", "h2"
	}
	if cfg.Consul != nil && cfg.Consul.Name != "" {
		c.service = cfg.Consul.Name
	}
	if g.d.Identity != nil {
		c.identity = g.d.Identity(cfg)
	}
	switch cfg.Identity {
	case "", "auto":
	case identityRequired:
		if cfg.TLS != nil {
			return nil, errors.New(`tls: with identity = "required" the certificates are those of the fleet`)
		}
		if c.identity == nil {
			return nil, errors.New(`identity: "required" needs an identity block`)
		}
	default:
		return nil, fmt.Errorf("identity: %q isn't auto or required", cfg.Identity)
	}
	if c.identity == nil {
		c.lacks = errNoIdentity
		return c, nil
	}
	c.tls = c.identity.Client(c.service, alpn)
	return c, nil
}

// refusedUs reports whether a new connection ended because the instance doesn't
// want our certificate. In TLS 1.3 that is told after our side of the handshake
// is over, on the first read.
func refusedUs(f *exchange.Fault, c *conn) bool {
	if c.plan.tls == nil {
		return false
	}
	var op *net.OpError
	if !errors.As(f, &op) || op.Op != "remote error" {
		return false
	}
	switch op.Err.Error() { // crypto/tls doesn't export the type of alerts on TCP
	case "tls: bad certificate", "tls: unsupported certificate", "tls: revoked certificate", "tls: expired certificate",
		"tls: unknown certificate", "tls: unknown certificate authority", "tls: access denied", "tls: certificate required":
		return true
	default:
		return false
	}
}
