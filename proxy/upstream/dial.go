package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/h1"
	"github.com/sidegate-proxy/sidegate/proxy/h2"
	"github.com/sidegate-proxy/sidegate/proxy/socket"
)

// connPlan is how connections to a service's instances are made. Two settings
// share one when nothing of it changed, and so share connections.
type connPlan struct {
	protocol string
	tls      *tls.Config // nil: none
	byHost   bool        // the TLS name is the request's host
	timeouts TimeoutsConfig
	files    [sha256.Size]byte // what the TLS files held
	block    TLSConfig
	identity Identity // of a plan for the fleet
	service  string   // whose name instances of the fleet must have
	lacks    error    // why no connection can be made; nil: they can

	h1 *h1.ClientConfig
	h2 *h2.ClientConfig
}

func newConnPlan(cfg *Config, t TimeoutsConfig) (*connPlan, error) {
	c := &connPlan{protocol: cfg.Protocol, timeouts: t}
	c.timeouts.Total = 0 // not a matter of the connection
	switch c.protocol {
	case "":
		c.protocol = "http1"
	case "http1", "h2c", "https", "h2":
	default:
		return nil, fmt.Errorf("protocol: %q isn't http1, h2c, https or h2", c.protocol)
	}
	if c.protocol == "http1" || c.protocol == "h2c" {
		if cfg.TLS != nil {
			return nil, fmt.Errorf("tls: protocol %q has none; https or h2 do", c.protocol)
		}
		return c, nil
	}
	if cfg.TLS != nil {
		c.block = *cfg.TLS
	}
	return c, c.loadTLS()
}

func (c *connPlan) loadTLS() error {
	b := &c.block
	c.byHost = b.ServerName == ""
	c.tls = &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: b.ServerName, InsecureSkipVerify: b.Insecure,
		NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(64),
	}
	if c.protocol == "h2" {
		c.tls.NextProtos = []string{"h2"}
	}
	sum := sha256.New()
	var errs []error
	read := func(path string) []byte {
		pem, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("tls: %w", err))
		}
		fmt.Fprintf(sum, "%d\n%s", len(pem), pem)
		return pem
	}
	if b.CAFile != "" {
		if pem := read(b.CAFile); pem != nil {
			c.tls.RootCAs = x509.NewCertPool()
			if !c.tls.RootCAs.AppendCertsFromPEM(pem) {
				errs = append(errs, fmt.Errorf("tls: ca_file: no certificate in %s", b.CAFile))
			}
		}
	}
	switch {
	case (b.CertFile == "") != (b.KeyFile == ""):
		errs = append(errs, errors.New("tls: cert_file and key_file go together"))
	case b.CertFile != "":
		cert, key := read(b.CertFile), read(b.KeyFile)
		if cert != nil && key != nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				errs = append(errs, fmt.Errorf("tls: cert_file %s: %w", b.CertFile, err))
			}
			c.tls.Certificates = []tls.Certificate{pair}
		}
	}
	c.files = [sha256.Size]byte(sum.Sum(nil))
	return errors.Join(errs...)
}

func (c *connPlan) equal(o *connPlan) bool {
	return c.protocol == o.protocol && c.timeouts == o.timeouts && c.files == o.files && reflect.DeepEqual(c.block, o.block) &&
		c.identity == o.identity && c.service == o.service
}

func (c *connPlan) multiplexed() bool { return c.protocol == "h2" || c.protocol == "h2c" }

// nameFor is the TLS name that tells connections apart: the request's host,
// when that is what is verified.
func (c *connPlan) nameFor(x *exchange.Exchange, in *instance) string {
	if !c.byHost {
		return ""
	}
	host := x.Target.Host
	if x.Out.Host != "" {
		host = x.Out.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	if host == "" || net.ParseIP(host) != nil {
		return in.host // an address in Host says nothing of the backend's name
	}
	return host
}

// unixPrefix begins the address of an instance on a unix socket.
const unixPrefix = "unix://"

// reach connects to an instance's address.
func (g *Group) reach(ctx context.Context, addr string) (net.Conn, error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		return g.d.Dial(ctx, "unix", path)
	}
	return g.d.Dial(ctx, "tcp", addr)
}

// insist dials again and again while the instance refuses, up to its service's
// patience: what restarts is back in a moment. One that isn't back by then is away,
// and isn't waited for until it takes a connection again.
func insist(in *instance, patience time.Duration, dial func() (net.Conn, error)) (net.Conn, error) {
	nc, err := dial()
	if patience == 0 {
		return nc, err
	}
	until := time.Now().Add(patience)
	for pause := 5 * time.Millisecond; refused(err) && !in.away.Load(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().Add(pause).After(until) {
			in.away.Store(true)
			break
		}
		<-time.After(pause)
		nc, err = dial()
	}
	if err == nil && in.away.Load() {
		in.away.Store(false)
	}
	return nc, err
}

// refused reports whether nobody listens there: a port that is closed, a unix socket
// that isn't there or that nobody has open.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// dial makes a connection, TLS included, within timeout. With lax, the chain is
// verified but not the name: for a check, whose request has no host.
func (g *Group) dial(c *connPlan, addr, name string, timeout time.Duration, lax bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if c.lacks != nil {
		return nil, c.lacks
	}
	nc, err := g.reach(ctx, addr)
	if err != nil || c.tls == nil {
		return nc, err
	}
	cfg := c.tls
	if c.byHost {
		cfg = cfg.Clone()
		cfg.ServerName = name
		if lax && !cfg.InsecureSkipVerify {
			cfg.InsecureSkipVerify = true
			cfg.ClientSessionCache = nil // its sessions are of a weaker kind
			cfg.VerifyConnection = func(cs tls.ConnectionState) error { return verifyChain(cs, c.tls.RootCAs) }
		}
	}
	tc := tls.Client(socket.Wrap(nc), cfg)
	err = tc.HandshakeContext(ctx)
	if err != nil && c.service != "" {
		err = fmt.Errorf("mTLS with service %s: %w", c.service, err)
	}
	if err == nil && c.protocol == "h2" && tc.ConnectionState().NegotiatedProtocol != "h2" {
		err = errors.New("the instance doesn't speak h2 over TLS")
	}
	if err != nil {
		// The handshake's error is the one that matters.
		_ = nc.Close()
		return nil, err
	}
	return tc, nil
}

func verifyChain(cs tls.ConnectionState, roots *x509.CertPool) error {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, cert := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := cs.PeerCertificates[0].Verify(opts)
	return err
}

// connect returns a connection to in for x; reused tells that it is one that
// others used before, or a fault that another exchange has met and counted.
// fresh asks for a new one.
func (g *Group) connect(in *instance, s *settings, x *exchange.Exchange, fresh bool) (c *conn, reused bool, f *exchange.Fault) {
	way := s.way(&in.conns)
	name := way.nameFor(x, in)
	if way.multiplexed() {
		return g.connectShared(in, s, way, x, name)
	}
	if !fresh {
		now := g.d.Sweeper.Now()
		if c := in.conns.take(way, name, !x.Idempotent(), now); c != nil {
			return c, true, nil
		}
	}
	if int(in.conns.open.Load()) >= s.limits.Connections {
		in.conns.evict() // idle ones that don't fit count, too
	}
	c, f = g.open(in, s, way, x, name)
	return c, false, f
}

func (g *Group) connectShared(in *instance, s *settings, way *connPlan, x *exchange.Exchange, name string) (*conn, bool, *exchange.Fault) {
	for {
		c, d, full := in.conns.join(way, name, s.limits.Connections)
		switch {
		case c != nil:
			return c, true, nil
		case full:
			return nil, false, exchange.NewFault(exchange.FromUpstream, exchange.Overloaded, "all connections to %s are full", in.addr)
		case d != nil:
			<-d.done // bounded by the maker's timeout
			if d.fault != nil {
				return nil, true, d.fault
			}
			continue
		}
		c, f := g.open(in, s, way, x, name)
		if c != nil {
			c.users.Add(1)
			if !c.many.Reserve() {
				f = in.noStreams(c)
				c.users.Add(-1)
				c.shut()
				c = nil
			}
		}
		in.conns.joined(c, name, f)
		return c, false, f
	}
}

// open makes a new connection for x.
func (g *Group) open(in *instance, s *settings, way *connPlan, x *exchange.Exchange, name string) (*conn, *exchange.Fault) {
	timeout := s.timeouts.Connect
	if !x.Deadline.IsZero() {
		left := x.Deadline.Sub(g.clock())
		if left <= 0 {
			return nil, exchange.NewFault(exchange.FromUpstream, exchange.DeadlineExceeded, "no time left to connect to %s", in.addr)
		}
		timeout = min(timeout, left)
	}
	nc, err := insist(in, min(s.cfg.Patience, timeout), func() (net.Conn, error) { return g.dial(way, in.addr, name, timeout, false) })
	if err == nil {
		c := &conn{to: &in.conns, plan: way, name: name}
		c.used.Store(g.d.Sweeper.Now())
		if err = g.speak(c, nc); err == nil {
			in.conns.open.Add(1)
			return c, nil
		}
	}
	if s.cfg.Patience > 0 && refused(err) {
		return nil, exchange.NewFault(exchange.FromUpstream, exchange.NoInstance, "nobody listens on %s: %w", in.addr, err)
	}
	return nil, in.notConnected(way, err)
}
