package h3

import (
	"crypto/tls"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
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
	// EarlyData lets safe requests be served before the end of the handshake,
	// unless TLS asks for client certificates.
	EarlyData bool
	// TurnsAway reports whether no connection is taken at the moment; may be nil.
	TurnsAway func() bool
	// Abusive is told of each connection that is asked to end, or closed, for what
	// its client does; may be nil.
	Abusive func(c *exchange.Conn, k abuse.Kind, closed bool)
	Log     logrus.FieldLogger

	// Claim takes one of the places that a client's connections of all protocols
	// share, once its address is proven, and Release gives it back; may be nil.
	Claim   func(netip.Addr) bool
	Release func(netip.Addr)

	MaxHeaders    int // bytes of a request's head, names and values (32 KiB)
	MaxFields     int // fields of a request (100)
	MaxURI        int // bytes of :path (8 KiB)
	MaxStreams    int // requests at a time on one connection (128)
	MaxConns      int // connections at a time (50,000)
	MaxConnsPerIP int // connections at a time from one address (1024)
	// MaxHalfOpen is the number of unfinished handshakes from which on a client
	// has to prove its address first, by a Retry (RFC 9000, 8.1.2) (100).
	MaxHalfOpen int

	HeaderTimeout time.Duration // a handshake; the head of a request; the end of one that has no body (10 s)
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
	cfg        FrontConfig
	log        logrus.FieldLogger
	tls        *tls.Config
	quic       *quic.Config
	maxSection int  // bytes of a HEADERS frame; beyond, it isn't even read
	early      bool // early data is taken

	pool  sync.Pool // of *stream
	bufs  sync.Pool // of *[]byte, copyBuffer long
	crew  crew
	date  atomic.Pointer[date]
	gate  gate
	shard atomic.Uint32

	conns   atomic.Int64
	streams atomic.Int64

	mu       sync.Mutex // guards what follows
	all      map[*conn]struct{}
	draining bool
	closed   bool

	done sync.WaitGroup // the goroutines of connections
}

// NewFront returns a front; Close must follow.
func NewFront(cfg FrontConfig) *Front {
	cfg.defaults()
	f := &Front{
		cfg: cfg, log: cfg.Log.WithField("component", "h3"), tls: cfg.TLS.Clone(), all: map[*conn]struct{}{},
		// Up to here a head that is too large is read, so that what it asks for is
		// in the log: with the 32 bytes for each field of RFC 9114, 4.2.2.
		maxSection: 2*cfg.MaxHeaders + cfg.MaxURI + 64*cfg.MaxFields,
	}
	f.tls.NextProtos = []string{"h3"}
	f.early = cfg.EarlyData && cfg.TLS.ClientAuth == tls.NoClientCert
	f.quic = f.quicConfig()
	f.gate.init(cfg.MaxConns, cfg.MaxConnsPerIP, cfg.MaxHalfOpen)
	f.gate.claim, f.gate.release = cfg.Claim, cfg.Release
	f.pool.New = func() any { return new(stream) }
	f.bufs.New = func() any { b := make([]byte, maxFrameHeader+copyBuffer); return &b }
	return f
}

func (f *Front) quicConfig() *quic.Config {
	return &quic.Config{
		Versions:             []quic.Version{quic.Version1, quic.Version2},
		HandshakeIdleTimeout: f.cfg.HeaderTimeout / 2, // the handshake as a whole gets twice that
		// conn.look closes what is idle; QUIC's own limit has to outlast a quiet
		// spell within a response. There is no keep-alive: a client that wants its
		// connection kept says something.
		MaxIdleTimeout:                 f.cfg.IdleTimeout + f.cfg.StallTimeout,
		InitialStreamReceiveWindow:     streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		MaxConnectionReceiveWindow:     maxConnWindow,
		MaxIncomingStreams:             int64(f.cfg.MaxStreams),
		MaxIncomingUniStreams:          maxUniStreams,
		RequireStreamCreditRelease:     true, // see conn.ended
		Allow0RTT:                      f.early,
	}
}

// admits reports whether new connections are served; those that another process
// would have to serve otherwise, even while the front drains.
func (f *Front) admits(anyhow bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.closed && (anyhow || !f.draining)
}

// take serves a connection that has got far enough in its handshake.
func (f *Front) take(q *quic.Conn, v *visitor) {
	f.mu.Lock()
	closed := f.closed
	if !closed {
		f.done.Add(1)
	}
	f.mu.Unlock()
	if closed {
		_ = q.CloseWithError(quic.ApplicationErrorCode(codeNoError), "") // never an error
		return
	}
	go f.serve(q, v) // ends with the connection
}

// remember lets Drain and Close find a connection. One whose handshake ends
// only after they were called hears of them now.
func (f *Front) remember(c *conn) {
	f.mu.Lock()
	f.all[c] = struct{}{}
	draining, closed := f.draining, f.closed
	f.mu.Unlock()
	switch {
	case closed:
		c.close(codeNoError)
	case draining:
		// Its client has come for a request: asked to go before it has sent that,
		// it would have come in vain, and some give up the second time.
		c.late = true
		time.AfterFunc(goAwayGrace, func() { c.leave() })
	}
}

func (f *Front) forget(c *conn) {
	f.mu.Lock()
	delete(f.all, c)
	f.mu.Unlock()
}

// each calls do for all connections at once: some calls wait for their clients'
// goroutines.
func (f *Front) each(do func(*conn)) {
	f.mu.Lock()
	all := slices.Collect(maps.Keys(f.all))
	f.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() { do(c) })
	}
	wg.Wait()
}

// Drain refuses new connections and tells the clients to send no new requests
// (GOAWAY). Requests in progress go on. It doesn't wait for them.
func (f *Front) Drain() {
	f.mu.Lock()
	again := f.draining
	f.draining = true
	f.mu.Unlock()
	if !again {
		f.each(func(c *conn) { c.leave() })
	}
}

// Close ends everything at once: connections are closed, requests in progress
// see that their client has gone. It waits a few seconds at most.
func (f *Front) Close() {
	f.mu.Lock()
	f.draining, f.closed = true, true
	f.mu.Unlock()
	f.each(func(c *conn) { c.close(codeNoError) })
	f.crew.close()
	ended := make(chan struct{})
	go func() { // ends with the last request
		f.done.Wait()
		f.crew.done.Wait()
		close(ended)
	}()
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-ended:
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

// date is a Date field and the second that it is of.
type date struct {
	second int64
	text   string
}

func (f *Front) dateField() string {
	now := time.Now()
	d := f.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &date{now.Unix(), now.UTC().Format(http.TimeFormat)}
		f.date.Store(d)
	}
	return d.text
}
