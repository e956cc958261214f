package h3

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// FrontConfig is what a Front needs and its bounds. A bound of zero takes the
// default of its field.
type FrontConfig struct {
	Handler exchange.Handler
	// TLS is the listener's; the front offers "h3" by ALPN on a copy of it.
	TLS *tls.Config
	// Listener is the listener's label.
	Listener string
	// ServerHeader is the Server field of responses that have none; "": none.
	ServerHeader string
	Log          logrus.FieldLogger

	MaxHeaders    int // bytes of a request's head, names and values (32 KiB)
	MaxFields     int // fields of a request (100)
	MaxURI        int // bytes of :path (8 KiB)
	MaxStreams    int // requests at a time on one connection (128)
	MaxConns      int // connections at a time (50,000)
	MaxConnsPerIP int // connections at a time from one address (1024)
	// MaxHalfOpen is the number of unfinished handshakes from which on a client
	// has to prove its address first, by a Retry (RFC 9000, 8.1.2) (100).
	MaxHalfOpen int

	HeaderTimeout time.Duration // a handshake; the end of a request that can't have a body (10 s)
	StallTimeout  time.Duration // until some byte of a body moves (60 s)
	IdleTimeout   time.Duration // until the next request on a connection (2 min)
}

func (c *FrontConfig) defaults() {
	for _, v := range []struct {
		p    *int
		fall int
	}{
		{&c.MaxHeaders, 32 << 10}, {&c.MaxFields, 100}, {&c.MaxURI, 8 << 10}, {&c.MaxStreams, 128},
		{&c.MaxConns, 50000}, {&c.MaxConnsPerIP, 1024}, {&c.MaxHalfOpen, 100},
	} {
		if *v.p <= 0 {
			*v.p = v.fall
		}
	}
	for _, v := range []struct {
		p    *time.Duration
		fall time.Duration
	}{{&c.HeaderTimeout, 10 * time.Second}, {&c.StallTimeout, time.Minute}, {&c.IdleTimeout, 2 * time.Minute}} {
		if *v.p <= 0 {
			*v.p = v.fall
		}
	}
}

// The windows bound what a client can make us hold: per connection, maxConnWindow.
const (
	streamWindow    = 256 << 10
	connWindow      = 512 << 10
	maxStreamWindow = 2 << 20
	maxConnWindow   = 4 << 20
	maxUniStreams   = 8 // control, two of QPACK, and what a client greases with
	closeWait       = 5 * time.Second
)

// errTooMany refuses a connection.
var errTooMany = errors.New("too many connections")

// Front serves HTTP/3 on one UDP socket. Serve runs once.
type Front struct {
	cfg    FrontConfig
	log    logrus.FieldLogger
	server *http3.Server
	pool   sync.Pool // of *stream
	bufs   sync.Pool // of *[]byte, copyBuffer long

	draining context.Context // ends when Drain begins
	drain    context.CancelFunc
	closing  context.Context // ends when Close begins
	close    context.CancelFunc
	serving  atomic.Bool
	ended    chan struct{} // closed when Serve returns

	conns   atomic.Int64
	streams atomic.Int64
	shard   atomic.Uint32
	gate    gate
}

// NewFront returns a front that doesn't listen yet.
func NewFront(cfg FrontConfig) *Front {
	cfg.defaults()
	f := &Front{cfg: cfg, log: cfg.Log.WithField("component", "h3"), ended: make(chan struct{})}
	f.draining, f.drain = context.WithCancel(context.Background())
	f.closing, f.close = context.WithCancel(context.Background())
	f.gate.init(cfg.MaxConns, cfg.MaxConnsPerIP, cfg.MaxHalfOpen)
	f.pool.New = func() any { return new(stream) }
	f.bufs.New = func() any { b := make([]byte, copyBuffer); return &b }
	f.server = &http3.Server{
		Handler: http.HandlerFunc(f.serve),
		// A head beyond MaxHeaders is refused by the handler, so that it is
		// answered, counted and logged like all others; quic-go's bound, which
		// answers by itself, is for what is beyond that. It counts 32 bytes more
		// for each field (RFC 9114, 4.2.2).
		MaxHeaderBytes: 2*cfg.MaxHeaders + cfg.MaxURI + 64*cfg.MaxFields,
		IdleTimeout:    cfg.IdleTimeout,
		ConnContext:    f.accepted,
	}
	return f
}

// Serve serves HTTP/3 on pc until Close, or until all clients have left after
// Drain. It closes pc.
func (f *Front) Serve(pc net.PacketConn) error {
	if !f.serving.CompareAndSwap(false, true) {
		return errors.New("h3: Serve runs once")
	}
	defer close(f.ended)
	defer pc.Close() //nolint:errcheck // nothing is written any more
	tr := &quic.Transport{
		Conn:                pc,
		VerifySourceAddress: f.gate.doubtful,
		ConnContext:         f.gate.admit,
		StatelessResetKey:   new(quic.StatelessResetKey),
	}
	if _, err := rand.Read(tr.StatelessResetKey[:]); err != nil {
		return fmt.Errorf("stateless reset key: %w", err)
	}
	ln, err := tr.Listen(http3.ConfigureTLSConfig(f.cfg.TLS), f.quicConfig())
	if err != nil {
		return fmt.Errorf("listen for QUIC: %w", err)
	}
	// ServeListener has to be back before Shutdown begins: then no connection
	// can slip between the two.
	err = f.server.ServeListener(&listener{Listener: ln, ctx: f.draining})
	if f.draining.Err() == nil {
		f.log.WithError(err).Error("QUIC listener failed")
	} else {
		err = nil
	}
	// Nobody takes these any more; RFC 9114, 5.2 has no better way for a
	// connection whose requests were not looked at.
	_ = ln.Close() // can't fail
	for {
		c, err := ln.Accept(context.Background())
		if err != nil {
			break
		}
		_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
	// GOAWAY, and wait until the clients have closed or Close is called.
	_ = f.server.Shutdown(f.closing) // its error is that closing ended
	if cerr := tr.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close QUIC transport: %w", cerr)
	}
	return err
}

func (f *Front) quicConfig() *quic.Config {
	return &quic.Config{
		Versions:             []quic.Version{quic.Version1, quic.Version2},
		HandshakeIdleTimeout: f.cfg.HeaderTimeout / 2, // the handshake as a whole gets twice that
		// The HTTP idle timeout is http3's; QUIC's has to outlast a quiet spell
		// within a response, too.
		MaxIdleTimeout:                 f.cfg.IdleTimeout + f.cfg.StallTimeout,
		InitialStreamReceiveWindow:     streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		MaxConnectionReceiveWindow:     maxConnWindow,
		MaxIncomingStreams:             int64(f.cfg.MaxStreams),
		MaxIncomingUniStreams:          maxUniStreams,
		Allow0RTT:                      false,
	}
}

// Drain refuses new connections and tells the clients to send no new requests
// (GOAWAY). Requests in progress go on. It doesn't wait.
func (f *Front) Drain() { f.drain() }

// Close ends everything at once: connections are closed, requests in progress
// see that their client has gone. It waits for Serve, a few seconds at most.
func (f *Front) Close() {
	f.drain()
	f.close()
	if !f.serving.Load() {
		return
	}
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-f.ended:
	case <-t.C:
		f.log.WithField("requests", f.streams.Load()).Warn("requests still run after their connections were closed")
	}
}

// Active is the number of connections and of requests in progress.
func (f *Front) Active() (conns, streams int) {
	return int(f.conns.Load()), int(f.streams.Load())
}

// listener is a QUIC listener whose Accept ends with a context of its own, too.
type listener struct {
	*quic.Listener
	ctx context.Context //nolint:containedctx // the life of the listener, not of a call
}

func (l *listener) Accept(context.Context) (*quic.Conn, error) {
	c, err := l.Listener.Accept(l.ctx)
	if err != nil && l.ctx.Err() != nil {
		return nil, quic.ErrServerClosed
	}
	return c, err
}

// conn is a client's connection.
type conn struct {
	exchange.Conn
	quic   *quic.Conn
	active atomic.Int64 // requests in progress
}

type connKey struct{}

// accepted runs for each connection after its handshake.
func (f *Front) accepted(ctx context.Context, q *quic.Conn) context.Context {
	f.conns.Add(1)
	context.AfterFunc(q.Context(), func() { f.conns.Add(-1) })
	f.gate.opened(ctx)
	state := q.ConnectionState().TLS
	c := &conn{quic: q, Conn: exchange.Conn{
		Listener: f.cfg.Listener,
		Remote:   addrPort(q.RemoteAddr()),
		Local:    addrPort(q.LocalAddr()),
		TLS:      &state,
		Scheme:   "https",
		Shard:    f.shard.Add(1),
	}}
	c.RemoteIP = c.Remote.Addr().String()
	return context.WithValue(ctx, connKey{}, c)
}

// addrPort is a UDP address without the IPv4-in-IPv6 form that a dual-stack
// socket reports.
func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
