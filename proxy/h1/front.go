package h1

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/socket"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// FrontConfig is what a Front works with.
type FrontConfig struct {
	Handler exchange.Handler
	Sweeper *sweep.Sweeper

	MaxHeaders int // bytes of a request's head; its trailers have the same bounds
	MaxFields  int
	MaxURI     int // bytes

	HeaderTimeout time.Duration // for a head, from its first byte
	StallTimeout  time.Duration // in which some byte of a body or a response must move
	IdleTimeout   time.Duration // for the next request to begin

	ServerHeader string        // Server field of answers that have none; "": none
	AltSvc       func() string // Alt-Svc field of each answer, "" for none; may be nil
	Log          logrus.FieldLogger

	// Abusive is told of each connection that is asked to end, or closed, for what
	// its client does; may be nil.
	Abusive func(c *exchange.Conn, k abuse.Kind, closed bool)

	Ended func(*exchange.Conn) // told of the end of each connection that ServeConn took; may be nil
}

// freshGrace is how long a connection without a request so far may still send
// one when the front drains: its client doesn't expect it to end yet.
const freshGrace = time.Second

// Front is the server side of HTTP/1.x.
type Front struct {
	cfg      FrontConfig
	lim      limits
	parks    bool // idle connections do
	draining atomic.Bool
	ends     [parked + 1]atomic.Int64 // when connections at a phase are closed, on the sweeper's scale; 0: they aren't
	date     atomic.Pointer[dateLine]
	free     sync.Pool // *turn

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

// dateLine is a Date field, and until when it holds on the sweeper's scale.
type dateLine struct {
	line  []byte
	until int64
}

// NewFront returns a front; limits that are zero don't limit.
func NewFront(cfg FrontConfig) *Front {
	cfg.HeaderTimeout = orNever(cfg.HeaderTimeout)
	cfg.IdleTimeout = orNever(cfg.IdleTimeout)
	f := &Front{cfg: cfg, conns: make(map[*conn]struct{})}
	f.lim = limits{bytes: orDefault(cfg.MaxHeaders), fields: orDefault(cfg.MaxFields), target: orDefault(cfg.MaxURI)}
	// Whoever wakes a connection sets a deadline in the past, and may be late:
	// where limits are deadlines, too, that would be taken for one of them.
	f.parks = socket.Waits && min(cfg.HeaderTimeout, cfg.IdleTimeout, orNever(cfg.StallTimeout)) >= realBelow
	return f
}

// orDefault is n, or for none what offsets and sums can hold in any case.
func orDefault(n int) int {
	if n <= 0 {
		return 1 << 20
	}
	return n
}

// ServeConn serves nc, and closes it in the end. It returns when that has come,
// or when nc was idle for long, and then goes on elsewhere. info says what the
// listener knows of nc; preface holds bytes that were read from it already.
func (f *Front) ServeConn(nc net.Conn, info *exchange.Conn, preface []byte) {
	c := &conn{f: f, info: info}
	c.w.init(nc, f.cfg.Sweeper, f.cfg.StallTimeout)
	if len(preface) > 0 {
		c.w.buf = take(max(smallBuffer, len(preface)))
		c.w.w = copy(c.w.buf, preface)
	}
	if !f.add(c) {
		_ = nc.Close()
		f.ended(info)
		return
	}
	c.serve()
}

func (f *Front) add(c *conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.conns[c] = struct{}{}
	f.cfg.Sweeper.Add(c, &c.place)
	return true
}

func (f *Front) remove(c *conn) {
	f.cfg.Sweeper.Remove(&c.place)
	// The peer may be gone already; there is nobody to tell.
	_ = c.w.nc.Close()
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
	f.ended(c.info)
}

func (f *Front) ended(info *exchange.Conn) {
	if f.cfg.Ended != nil {
		f.cfg.Ended(info)
	}
}

// Drain has each response from now on say that its connection ends, and end it.
// Idle connections are closed after grace: until then a request that is on its way,
// or comes, is answered. A client must expect an idle connection to end at any time
// (RFC 9112, 9.5), but one that can't send its request again gets an error. Drain
// doesn't wait; a further one may shorten the grace.
func (f *Front) Drain(grace time.Duration) {
	now := f.cfg.Sweeper.Now()
	for p, d := range map[phase]time.Duration{fresh: max(grace, freshGrace), idle: grace, parked: grace} {
		f.ends[p].Store(max(now+int64(d), 1))
	}
	f.draining.Store(true)
	if grace > 0 {
		return // Sweep closes them
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if c.overdue(now) {
			_ = c.w.nc.SetReadDeadline(past())
		}
	}
}

// Close cuts all connections.
func (f *Front) Close() {
	f.draining.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for c := range f.conns {
		c.w.fail(exchange.NewFault(exchange.FromInternal, exchange.ShuttingDown, "front closed"))
	}
}

// Active is the number of connections, and of those that have a request or a
// tunnel.
func (f *Front) Active() (conns, busyConns int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if phase(c.phase.Load()) == busy {
			busyConns++
		}
	}
	return len(f.conns), busyConns
}

// appendDate appends the Date field, made anew once a second.
func (f *Front) appendDate(dst []byte) []byte {
	now := f.cfg.Sweeper.Now()
	d := f.date.Load()
	if d == nil || now >= d.until {
		at := time.Now()
		line := at.UTC().AppendFormat([]byte("Date: "), http.TimeFormat)
		next := at.Truncate(time.Second).Add(time.Second)
		d = &dateLine{line: append(line, "\r\n"...), until: max(f.cfg.Sweeper.At(next), now+1)}
		f.date.Store(d)
	}
	return append(dst, d.line...)
}

func (f *Front) turn() *turn {
	if t, ok := f.free.Get().(*turn); ok {
		return t
	}
	return new(turn)
}
