package h2

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// FrontConfig is what a Front works with. Handler, Sweeper and Log must be set.
type FrontConfig struct {
	Handler exchange.Handler
	Sweeper *sweep.Sweeper

	MaxHeaders int // bytes of a request's head; 0: 32 KiB
	MaxFields  int // fields of a request; 0: 100
	MaxURI     int // bytes of :path; 0: 8 KiB
	MaxStreams int // requests at a time on a connection; 0: 128

	HeaderTimeout time.Duration // for the first request, and for each complete head; 0: 10 s
	StallTimeout  time.Duration // in which something must move; 0: 60 s
	IdleTimeout   time.Duration // without requests; 0: 2 min

	ServerHeader string        // Server of responses that have none; "": no such field
	AltSvc       func() string // Alt-Svc of responses; nil or "": no such field

	// Abusive is told of each connection that is asked to end, or closed, for what
	// its client does; may be nil.
	Abusive func(c *exchange.Conn, k abuse.Kind, closed bool)

	Ended func(*exchange.Conn) // told of the end of each connection that ServeConn took; may be nil

	Log logrus.FieldLogger
}

// Front serves HTTP/2 clients.
type Front struct {
	cfg     FrontConfig
	pools   pools
	streams sync.Pool // *stream
	crew    crew
	place   sweep.Place
	date    atomic.Pointer[string] // the Date field
	busy    atomic.Int64           // streams whose handler runs

	mu       sync.Mutex // guards what follows
	conns    map[*conn]struct{}
	draining bool
	closed   bool
	gone     sync.WaitGroup // connections
}

var _ sweep.Member = (*Front)(nil)

// NewFront returns a front; Close ends it.
func NewFront(cfg FrontConfig) *Front {
	orInt := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	orTime := func(v *time.Duration, def time.Duration) {
		if *v <= 0 {
			*v = def
		}
	}
	orInt(&cfg.MaxHeaders, 32<<10)
	orInt(&cfg.MaxFields, 100)
	orInt(&cfg.MaxURI, 8<<10)
	orInt(&cfg.MaxStreams, 128)
	orTime(&cfg.HeaderTimeout, 10*time.Second)
	orTime(&cfg.StallTimeout, time.Minute)
	orTime(&cfg.IdleTimeout, 2*time.Minute)
	f := &Front{cfg: cfg, conns: make(map[*conn]struct{})}
	f.setDate(time.Now())
	cfg.Sweeper.Add(f, &f.place)
	return f
}

// Sweep implements sweep.Member.
func (f *Front) Sweep(int64) {
	f.setDate(time.Now())
	f.crew.trim()
}

func (f *Front) setDate(t time.Time) {
	s := t.UTC().Format(http.TimeFormat)
	if old := f.date.Load(); old == nil || *old != s {
		f.date.Store(&s)
	}
}

// ServeConn serves a connection, and its requests. It returns when the
// connection has ended, or was idle for long, and then goes on elsewhere. preface
// is what was read from nc already. info is shared with the exchanges.
func (f *Front) ServeConn(nc net.Conn, info *exchange.Conn, preface []byte) {
	c := newConn(f, nc, info)
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		_ = nc.Close() // nothing was promised to this client
		f.ended(info)
		return
	}
	f.conns[c] = struct{}{}
	f.gone.Add(1)
	draining := f.draining
	f.mu.Unlock()

	f.cfg.Sweeper.Add(c, &c.place)
	if draining {
		c.drain()
	}
	c.serve(preface)
}

// remove forgets a connection that has ended.
func (f *Front) remove(c *conn) {
	f.cfg.Sweeper.Remove(&c.place)
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
	f.ended(c.info)
	f.gone.Done()
}

func (f *Front) ended(info *exchange.Conn) {
	if f.cfg.Ended != nil {
		f.cfg.Ended(info)
	}
}

func (f *Front) abusive(info *exchange.Conn, k abuse.Kind, closed bool) {
	if f.cfg.Abusive != nil {
		f.cfg.Abusive(info, k, closed)
	}
}

// Drain tells the clients to go elsewhere (RFC 9113, 6.8); requests that run, or
// are on their way, are served, and each connection ends with its last one.
func (f *Front) Drain() {
	for _, c := range f.list(func() { f.draining = true }) {
		c.drain()
	}
}

// Close breaks all connections off and waits for the handlers to return.
func (f *Front) Close() {
	for _, c := range f.list(func() { f.closed = true }) {
		c.mu.Lock()
		c.breakOff()
		c.mu.Unlock()
	}
	f.gone.Wait()
	f.crew.close()
	f.cfg.Sweeper.Remove(&f.place)
}

func (f *Front) list(mark func()) []*conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	mark()
	all := make([]*conn, 0, len(f.conns))
	for c := range f.conns {
		all = append(all, c)
	}
	return all
}

// Active returns how many connections there are, and how many requests are
// being served.
func (f *Front) Active() (conns, busyStreams int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns), int(f.busy.Load())
}

// stream returns a stream to use on c.
func (f *Front) stream(c *conn) *stream {
	st, ok := f.streams.Get().(*stream)
	if !ok {
		st = &stream{}
	}
	st.c = c
	return st
}
