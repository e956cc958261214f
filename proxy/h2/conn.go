package h2

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/socket"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

const (
	parkAfter  = second                 // without streams, until the engine is given back
	rememberN  = 32                     // streams that we reset, whose late frames are ignored
	lingerTime = 500 * time.Millisecond // for the client to read our last words
	lingerSize = 256 << 10
	notEnding  = -1 // value of conn.ending
	silent     = -2 // value of conn.ending: without a GOAWAY
)

// errCodeCalm ends a connection that costs more than it is worth (RFC 9113, 10.5).
const errCodeCalm = http2.ErrCodeEnhanceYourCalm

var errCalm = error(http2.ConnectionError(errCodeCalm))

func isProtocolError(err error) bool { return errors.As(err, new(http2.ConnectionError)) }

// conn is a client's connection. Its methods whose comment doesn't say
// otherwise belong to the reader, the goroutine in serve or, when the connection
// was idle for long, in resume.
type conn struct {
	link
	f     *Front
	info  *exchange.Conn
	place sweep.Place
	dec   *hpack.Decoder
	block *block // the engine's; nil while parked

	greeted  bool    // the client's first frame came
	maxID    uint32  // highest stream that the client opened
	spoke    bool    // the reader has queued frames that nobody may have written
	fresh    *stream // the stream whose head is being decoded
	headFor  uint32  // the stream whose field block is being read; 0: none
	headEnd  bool    // its HEADERS frame had END_STREAM
	selfDep  bool    // or a priority that depends on itself
	inFrame  bool
	frameAt  atomic.Int64 // since when the reader waits for the rest of a frame; 0: it doesn't
	headAt   atomic.Int64 // since when it waits for the rest of a field block
	slowData atomic.Bool  // the frame in progress is DATA
	cutOff   bool         // the client left within a frame

	// Guarded by link.mu.
	streams  map[uint32]*stream
	running  int   // handlers that haven't returned
	idleAt   int64 // since when there are none
	started  int64
	ending   int    // the code of a GOAWAY with which the reader is to end
	draining uint8  // GOAWAYs of a drain that went out, 0 to 2
	drainAt  int64  // when the first did
	leaveAt  int64  // since when the first request makes it drain; 0: it doesn't
	lastID   uint32 // the last stream that is served when draining is 2
	parked   bool   // nobody reads: resume waits for something to read
	sluggish bool   // it ends because a head wasn't complete in time
	ours     resetLog
	idle     sync.Cond // broadcast when running becomes 0
}

func newConn(f *Front, nc net.Conn, info *exchange.Conn) *conn {
	c := &conn{f: f, info: info, ending: notEnding}
	c.init(nc, &f.pools, f.cfg.Sweeper, func() { f.crew.start(job{c: c}) })
	c.idle.L = &c.mu
	c.dec = newDecoder(f.cfg.MaxHeaders)
	c.started = c.clock.Now()
	c.idleAt = c.started
	// Our preface comes before all else (RFC 9113, 3.4).
	c.putSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(f.cfg.MaxStreams)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(f.cfg.MaxHeaders)},
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1}, // RFC 8441
	)
	c.putWindow(0, connWindow-streamWindow)
	c.spoke = true
	return c
}

// resetLog is the last streams that we reset: the client may not know yet.
type resetLog struct {
	ids [rememberN]uint32
	at  int
}

func (r *resetLog) add(id uint32) {
	r.ids[r.at%rememberN] = id
	r.at++
}

func (r *resetLog) has(id uint32) bool {
	for _, v := range r.ids {
		if v == id {
			return true
		}
	}
	return false
}

// serve reads the connection until it ends or parks.
func (c *conn) serve(preface []byte) {
	e := c.engine()
	e.w = copy(e.buf[:], preface)
	err := errProtocol
	if len(preface) <= len(e.buf) {
		err = c.readPreface(e)
	}
	if err == nil {
		e, err = c.readFrames(e)
	}
	c.leave(e, err)
}

var (
	errProtocol = error(http2.ConnectionError(http2.ErrCodeProtocol))
	errEnding   = errors.New("connection is ending")
)

// readPreface reads what opens a client's side (RFC 9113, 3.4); the SETTINGS
// frame behind it is readFrames' first.
func (c *conn) readPreface(e *engine) error {
	c.inFrame = true
	var got [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(e, got[:]); err != nil {
		return err
	}
	if string(got[:]) != http2.ClientPreface {
		return errProtocol
	}
	return nil
}

// readFrames reads until the connection ends or parks, and tells why. It returns
// the engine that it has by then, nil when it has none.
func (c *conn) readFrames(e *engine) (*engine, error) {
	for {
		c.inFrame = false
		if e.buffered() == 0 {
			if err := c.await(e); err != nil {
				return e, err
			}
		}
		c.inFrame = true
		fh, err := e.fr.ReadFrameHeader()
		if err == nil {
			if !c.greeted && (fh.Type != http2.FrameSettings || fh.Flags.Has(http2.FlagSettingsAck)) {
				return e, errProtocol
			}
			c.greeted = true
			c.slowData.Store(fh.Type == http2.FrameData)
			var f http2.Frame
			if f, err = e.fr.ReadFrameForHeader(fh); err == nil {
				err = c.frame(f)
			} else if fh.Type == http2.FrameHeaders && errors.As(err, new(http2.StreamError)) {
				err = errProtocol // its field block is lost, and so is the HPACK table
			}
		}
		if err != nil {
			if err = c.frameError(err); err != nil {
				return e, err
			}
		}
		if c.frameAt.Load() != 0 {
			c.frameAt.Store(0)
		}
	}
}

// frameError makes a stream error of err, where it is one.
func (c *conn) frameError(err error) error {
	var se http2.StreamError
	if errors.As(err, &se) {
		return c.refuse(se.StreamID, se.Code)
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		c.cutOff = true
		return http2.ConnectionError(http2.ErrCodeFrameSize)
	case errors.Is(err, http2.ErrFrameTooLarge):
		return http2.ConnectionError(http2.ErrCodeFrameSize)
	case errors.Is(err, errFlood):
		c.mu.Lock()
		c.meter.Exceed(abuse.Headers)
		c.mu.Unlock()
		return errCalm
	}
	return err
}

// fill reads from the socket. Before it blocks it has written what the reader
// queued. A blocked reader is woken with a deadline in the past.
func (c *conn) fill(p []byte) (int, error) {
	for {
		c.speak()
		if c.inFrame && c.frameAt.Load() == 0 {
			c.frameAt.Store(c.clock.Now())
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

var (
	errWoken = errors.New("reader was woken between two frames")
	errPark  = errors.New("connection has no streams for a while")
)

// lookUp is what the reader does when it was woken.
func (c *conn) lookUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending != notEnding {
		return errEnding
	}
	return nil
}

// speak sees to it that frames which the reader queued are written.
func (c *conn) speak() {
	if !c.spoke {
		return
	}
	c.spoke = false
	c.mu.Lock()
	waiting := len(c.out) > 0 && !c.writing
	c.mu.Unlock()
	if waiting {
		c.later()
	}
}

// await waits for a frame to begin, or for the connection to be worth parking.
func (c *conn) await(e *engine) error {
	for {
		err := e.more()
		if !errors.Is(err, errWoken) {
			return err
		}
		c.mu.Lock()
		c.parked = socket.Waits && len(c.streams) == 0 && c.running == 0 && c.headAt.Load() == 0
		parked := c.parked
		c.mu.Unlock()
		if parked {
			return errPark
		}
	}
}

// finish ends the connection: it tells the client why, breaks the streams off,
// closes, and waits for the handlers.
func (c *conn) finish(e *engine, err error) {
	c.mu.Lock()
	code := c.ending
	var ce http2.ConnectionError
	switch {
	case errors.As(err, &ce):
		code = int(ce)
	case !errors.Is(err, errEnding):
		code = silent // it is the client who ended
	}
	kind, blamed := c.blame(err, code)
	polite := code >= 0 && !c.broken
	if polite {
		c.putGoAway(c.maxID, http2.ErrCode(code))
	}
	if c.err == nil {
		c.err = errConnOver
	}
	for id, st := range c.streams {
		delete(c.streams, id)
		st.known = false
		st.drop(faultGone)
	}
	if polite {
		c.sayGoodbye()
	}
	c.mu.Unlock()
	if blamed {
		c.f.abusive(c.info, kind, true)
	}
	if polite && e != nil {
		c.linger(e)
	}
	c.mu.Lock()
	c.breakOff()
	for c.running > 0 || c.writing {
		if c.writing {
			c.quiet.Wait()
		} else {
			c.idle.Wait()
		}
	}
	c.mu.Unlock()
	_ = c.nc.Close() // all that could be said has been
}

// sayGoodbye has the output written, with a deadline; mu is held.
func (c *conn) sayGoodbye() {
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

// linger reads what is still coming, so that the kernel doesn't answer it with
// a reset that overtakes our GOAWAY.
func (c *conn) linger(e *engine) {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		if half.CloseWrite() != nil {
			return
		}
	}
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	for size := 0; size < lingerSize; {
		n, err := c.nc.Read(e.buf[:])
		if err != nil {
			return
		}
		size += n
	}
}

// end has the reader end the connection with a GOAWAY; mu is held.
func (c *conn) end(code int) {
	if c.ending == notEnding {
		c.ending = code
		c.wake()
	}
}
