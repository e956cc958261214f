package h3

import (
	"context"
	"crypto/tls"
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

// Front serves the connections that ports give it.
type Front struct {
	cfg    FrontConfig
	log    logrus.FieldLogger
	tls    *tls.Config
	quic   *quic.Config
	server *http3.Server
	pool   sync.Pool // of *stream
	bufs   sync.Pool // of *[]byte, copyBuffer long

	draining context.Context // ends when Drain begins
	drain    context.CancelFunc
	closing  context.Context // ends when Close begins
	close    context.CancelFunc
	incoming chan *quic.Conn
	ended    chan struct{} // closed when nothing is served any more

	conns   atomic.Int64
	streams atomic.Int64
	shard   atomic.Uint32
	gate    gate
}

// NewFront returns a front; Close must follow.
func NewFront(cfg FrontConfig) *Front {
	cfg.defaults()
	f := &Front{
		cfg: cfg, log: cfg.Log.WithField("component", "h3"), tls: http3.ConfigureTLSConfig(cfg.TLS), quic: quicConfig(&cfg),
		incoming: make(chan *quic.Conn), ended: make(chan struct{}),
	}
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
	go f.run() // ends with Close
	return f
}

// run serves until Drain, and then waits for the clients to leave.
func (f *Front) run() {
	defer close(f.ended)
	// ServeListener has to be back before Shutdown begins: then no connection
	// can slip between the two.
	_ = f.server.ServeListener((*listener)(f)) // ends with draining
	// GOAWAY, and wait until the clients have closed or Close is called.
	_ = f.server.Shutdown(f.closing) // its error is that closing ended
}

// take serves a connection that has got far enough in its handshake.
func (f *Front) take(q *quic.Conn, v *visitor) {
	go func() { // ends with the handshake
		select {
		case <-q.HandshakeComplete():
			f.gate.settle(v)
		case <-q.Context().Done():
			return
		}
		select {
		case f.incoming <- q:
		case <-f.draining.Done():
			// RFC 9114, 5.2 has no better way for a connection whose requests
			// were not looked at.
			_ = q.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		}
	}()
}

func quicConfig(cfg *FrontConfig) *quic.Config {
	return &quic.Config{
		Versions:             []quic.Version{quic.Version1, quic.Version2},
		HandshakeIdleTimeout: cfg.HeaderTimeout / 2, // the handshake as a whole gets twice that
		// The HTTP idle timeout is http3's; QUIC's has to outlast a quiet spell
		// within a response, too. There is no keep-alive: a client that wants its
		// connection kept says something.
		MaxIdleTimeout:                 cfg.IdleTimeout + cfg.StallTimeout,
		InitialStreamReceiveWindow:     streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		MaxConnectionReceiveWindow:     maxConnWindow,
		MaxIncomingStreams:             int64(cfg.MaxStreams),
		MaxIncomingUniStreams:          maxUniStreams,
		Allow0RTT:                      false,
	}
}

// Drain refuses new connections and tells the clients to send no new requests
// (GOAWAY). Requests in progress go on. It doesn't wait.
func (f *Front) Drain() { f.drain() }

// Close ends everything at once: connections are closed, requests in progress
// see that their client has gone. It waits a few seconds at most.
func (f *Front) Close() {
	f.drain()
	f.close()
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-f.ended:
	case <-t.C:
		f.log.WithField("requests", f.streams.Load()).Warn("requests still run after their connections were closed")
	}
}

// Refused is the number of connections refused for being too many, and of
// handshakes that failed.
func (f *Front) Refused() (conns, handshakes uint64) {
	return f.gate.refused.Load(), f.gate.failed.Load()
}

// Active is the number of connections and of requests in progress.
func (f *Front) Active() (conns, streams int) {
	return int(f.conns.Load()), int(f.streams.Load())
}

// listener is a front's incoming connections as http3's server wants them.
type listener Front

func (l *listener) Accept(context.Context) (*quic.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.draining.Done():
		return nil, quic.ErrServerClosed
	}
}

func (l *listener) Addr() net.Addr { return &net.UDPAddr{} }
func (l *listener) Close() error   { return nil }

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
