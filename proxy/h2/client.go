package h2

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// ClientConfig is what the connections to one service's backends share. It must
// not be copied nor changed once it is used. Sweeper must be set.
type ClientConfig struct {
	Sweeper *sweep.Sweeper

	FirstByte     time.Duration // from the request's end to the response's head; 0: no limit
	Idle          time.Duration // in which some byte of a body or tunnel must move; 0: no limit
	ExpectTimeout time.Duration // for a 100 (Continue), then the body is sent without; 0: 1 s

	MaxHeaders int // bytes of a response's head; 0: 64 KiB
	MaxFields  int // fields of a response; 0: 200

	Log logrus.FieldLogger

	pools pools
	calls sync.Pool // *call
}

func (cfg *ClientConfig) maxHeaders() int {
	if cfg.MaxHeaders > 0 {
		return cfg.MaxHeaders
	}
	return 64 << 10
}

func (cfg *ClientConfig) maxFields() int {
	if cfg.MaxFields > 0 {
		return cfg.MaxFields
	}
	return 200
}

const (
	firstMaxStreams = 100 // until the backend's SETTINGS say (RFC 9113, 6.5.2)
	pingAfter       = 30 * second
	pingWait        = 15 * second
)

// ClientConn is a connection to a backend.
type ClientConn struct {
	link
	cfg    *ClientConfig
	scheme byte // index of :scheme in the static table
	place  sweep.Place
	done   chan struct{} // closed when the reader has ended

	// The reader's.
	block   block
	spoke   bool
	inFrame bool
	head    exchange.Head // of the field block being decoded
	headFor uint32
	headEnd bool

	// Guarded by link.mu.
	calls      map[uint32]*call
	reserved   int
	nextID     uint32
	maxStreams int
	settled    sync.Cond // broadcast when the first SETTINGS came, and at the end
	ended      error     // why the reader has; nil: it hasn't
	hasPeer    bool      // the first SETTINGS came
	connects   bool      // the backend takes extended CONNECT
	leaving    bool      // to end with the last call: GOAWAY came, or CloseWhenIdle
	goneAway   bool      // GOAWAY came
	refusing   bool      // the reader is to end politely, with code
	code       http2.ErrCode
	readAt     int64 // when a frame came last
	pingAt     int64 // when a ping went out; 0: none is open
	parked     bool  // the reader waits without an engine
	ours       resetLog
}

var _ sweep.Member = (*ClientConn)(nil)

// NewClientConn starts HTTP/2 on nc, which speaks it by agreement (ALPN) or by
// prior knowledge. Close ends the connection and its reader goroutine.
func NewClientConn(nc net.Conn, cfg *ClientConfig) (*ClientConn, error) {
	if cfg.Sweeper == nil {
		return nil, errors.New("h2: ClientConfig lacks a Sweeper")
	}
	c := &ClientConn{
		cfg: cfg, scheme: staticSchemeHTTP, done: make(chan struct{}),
		calls: make(map[uint32]*call), nextID: 1, maxStreams: firstMaxStreams,
	}
	if _, ok := nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		c.scheme = staticSchemeTLS
	}
	// A reader must not write; what it queues is rare, and written by a goroutine
	// that ends at once.
	c.init(nc, &cfg.pools, cfg.Sweeper, func() {
		go func() {
			c.mu.Lock()
			c.flush()
		}()
	})
	c.settled.L = &c.mu
	c.block.init(newDecoder(cfg.maxHeaders()), cfg.maxHeaders(), cfg.maxFields())
	c.block.reply = true
	c.readAt = c.clock.Now()
	c.out = append(c.room(len(http2.ClientPreface)), http2.ClientPreface...)
	c.putSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(cfg.maxHeaders())},
	)
	c.putWindow(0, connWindow-streamWindow)
	cfg.Sweeper.Add(c, &c.place)
	go c.run()
	return c, nil
}

// Alive reports whether the connection takes new requests, now or when others
// have ended.
func (c *ClientConn) Alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.usable()
}

func (c *ClientConn) usable() bool {
	return c.err == nil && !c.leaving && !c.refusing && c.nextID < maxWindow-2*uint32(c.reserved+1)
}

// Streams is how many requests run, or have a slot.
func (c *ClientConn) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) + c.reserved
}

// Reserve takes a stream slot, for RoundTrip to use, if there is one.
func (c *ClientConn) Reserve() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.usable() || len(c.calls)+c.reserved >= c.maxStreams {
		return false
	}
	c.reserved++
	return true
}

// Ended is why the reading of the connection has ended; nil: it hasn't.
func (c *ClientConn) Ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// Unreserve gives back a slot that RoundTrip didn't use.
func (c *ClientConn) Unreserve() {
	c.mu.Lock()
	c.reserved--
	c.leave()
	c.mu.Unlock()
}

// Close breaks the connection off and waits for its reader. Requests on it fail.
func (c *ClientConn) Close() error {
	c.mu.Lock()
	c.breakOff()
	c.mu.Unlock()
	<-c.done
	return nil
}

// CloseWhenIdle lets the requests that run, or have a slot, end, and then closes.
func (c *ClientConn) CloseWhenIdle() {
	c.mu.Lock()
	c.leaving = true
	c.leave()
	c.mu.Unlock()
}

// leave ends a connection that nobody needs any more; mu is held.
func (c *ClientConn) leave() {
	if c.leaving && len(c.calls) == 0 && c.reserved == 0 {
		c.refuse(http2.ErrCodeNo)
	}
}

// refuse has the reader end the connection with a GOAWAY; mu is held.
func (c *ClientConn) refuse(code http2.ErrCode) {
	if !c.refusing {
		c.refusing, c.code = true, code
		c.wake()
	}
}

// run reads until the connection ends.
func (c *ClientConn) run() {
	defer close(c.done)
	e := c.pools.engine(c.fill)
	c.spoke = true
	err := c.readFrames(e)
	c.cfg.Sweeper.Remove(&c.place)

	c.mu.Lock()
	var ce http2.ConnectionError
	if errors.As(err, &ce) {
		c.refusing, c.code = true, http2.ErrCode(ce)
	}
	kind := exchange.BackendReset
	if c.refusing && c.code != http2.ErrCodeNo {
		kind = exchange.BackendMalformed
	}
	c.ended = err
	if c.err == nil {
		c.err = errConnOver
	}
	c.settled.Broadcast()
	for _, st := range c.calls {
		st.end(kind, err)
	}
	if c.refusing && !c.broken {
		c.putGoAway(0, c.code)
		_ = c.nc.SetWriteDeadline(time.Now().Add(time.Second)) // a closed connection fails at once
		for c.writing || len(c.out) > 0 && !c.broken {
			if c.writing {
				c.quiet.Wait()
				continue
			}
			c.flush()
			c.mu.Lock()
		}
	}
	c.breakOff()
	for c.writing {
		c.quiet.Wait()
	}
	c.mu.Unlock()
	_ = c.nc.Close() // all that could be said has been
}

// fill reads from the socket; see conn.fill.
func (c *ClientConn) fill(p []byte) (int, error) {
	for {
		if c.spoke {
			c.spoke = false
			c.mu.Lock()
			waiting := len(c.out) > 0 && !c.writing
			c.mu.Unlock()
			if waiting {
				c.later()
			}
		}
		n, err := c.nc.Read(p)
		if n > 0 || err == nil || !isTimeout(err) || !c.rest() {
			return n, err
		}
		if err := c.lookUp(); err != nil {
			return 0, err
		}
		if !c.inFrame {
			return 0, errWoken
		}
	}
}

// lookUp is what the reader does when it was woken.
func (c *ClientConn) lookUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusing {
		return errEnding
	}
	return nil
}

// await waits for a frame to begin; without an engine when the connection has
// been idle for long.
func (c *ClientConn) await(e *engine) (*engine, error) {
	for {
		err := e.more()
		if !errors.Is(err, errWoken) {
			return e, err
		}
		c.mu.Lock()
		c.parked = len(c.calls) == 0 && c.reserved == 0
		parked := c.parked
		c.mu.Unlock()
		if !parked {
			continue
		}
		c.pools.giveBack(e)
		c.head = exchange.Head{}
		err = c.doze()
		e = c.pools.engine(c.fill)
		c.mu.Lock()
		c.parked = false
		c.mu.Unlock()
		if err == nil {
			continue
		}
		if !isTimeout(err) || !c.rest() {
			return e, err
		}
		if err := c.lookUp(); err != nil {
			return e, err
		}
	}
}

// readFrames reads frames until the connection ends, and tells why.
func (c *ClientConn) readFrames(e *engine) error {
	for first := true; ; first = false {
		c.inFrame = false
		if e.buffered() == 0 && c.headFor == 0 {
			var err error
			if e, err = c.await(e); err != nil {
				return err
			}
		}
		c.inFrame = true
		fh, err := e.fr.ReadFrameHeader()
		if err == nil {
			if first && (fh.Type != http2.FrameSettings || fh.Flags.Has(http2.FlagSettingsAck)) {
				return errProtocol
			}
			var f http2.Frame
			if f, err = e.fr.ReadFrameForHeader(fh); err == nil {
				err = c.frame(f)
			} else if fh.Type == http2.FrameHeaders && errors.As(err, new(http2.StreamError)) {
				err = errProtocol // its field block is lost, and so is the HPACK table
			}
		}
		if err != nil {
			if err = c.frameError(err); err != nil {
				return err
			}
		}
	}
}

// frameError deals with stream errors; others end the connection.
func (c *ClientConn) frameError(err error) error {
	var se http2.StreamError
	switch {
	case errors.As(err, &se):
		return c.resetCall(se.StreamID, se.Code)
	case errors.Is(err, http2.ErrFrameTooLarge), errors.Is(err, io.ErrUnexpectedEOF):
		return http2.ConnectionError(http2.ErrCodeFrameSize)
	case errors.Is(err, errFlood):
		return errCalm
	}
	return err
}

// Sweep implements sweep.Member: the time limits of a backend's connection.
func (c *ClientConn) Sweep(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken || c.refusing {
		return
	}
	if since := c.writeSince.Load(); since != 0 && c.cfg.Idle > 0 && now-since > int64(c.cfg.Idle) {
		c.breakOff() // it doesn't read
		return
	}
	var due bool
	for _, st := range c.calls {
		due = st.check(now) || due
	}
	switch {
	case len(c.calls) > 0:
		due = c.ping(now) || due
	case c.reserved == 0 && !c.parked && now-c.readAt > parkAfter:
		c.wake()
	}
	if due && !c.writing {
		c.later()
	}
}

// ping finds out whether a backend that was silent for long is still there; it
// reports whether a frame is queued.
func (c *ClientConn) ping(now int64) bool {
	switch {
	case c.pingAt != 0 && now-c.pingAt > pingWait:
		c.breakOff()
	case c.pingAt == 0 && now-c.readAt > pingAfter:
		c.pingAt = now
		c.putPing(false, [8]byte{'a', 'l', 'i', 'v', 'e', '?'})
		return true
	}
	return false
}
