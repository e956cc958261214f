package h2

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

const (
	streamWindow   = 64<<10 - 1 // what a peer may send on a stream: the default of RFC 9113, 6.9.2
	connWindow     = 1 << 20    // and on a connection
	maxWindow      = 1<<31 - 1
	highWater      = 32 << 10 // bytes in out from which on streams wait
	maxOut         = 1 << 20  // bytes in out at which the peer is given up
	maxTurns       = 4        // that a writer leaves to others before it writes
	roundsPerWrite = 4        // writes until a stream's goroutine hands the writing over
)

var (
	errConnOver = errors.New("connection is over")
	errReset    = errors.New("stream was reset by the peer")
	longAgo     = time.Unix(1, 0)
)

// link is what a front's and a client's connections share: output, and the
// connection's flow control.
type link struct {
	nc    net.Conn
	pools *pools
	clock *sweep.Sweeper
	later func() // has flush called, soon, by another goroutine

	writeSince atomic.Int64 // when the write in progress began; 0: none is

	mu           sync.Mutex // guards what follows, and the lanes
	out          []byte     // frames to write
	taken        uint64     // bytes that were written, or are being
	writing      bool       // somebody writes
	quiet        sync.Cond  // broadcast after each write, and when nobody writes any more
	err          error      // why nothing more can be sent
	broken       bool       // nor written
	woken        bool       // the reader is to look up
	sendWindow   int64      // bytes that we may send
	recvWindow   int64      // bytes that the peer may send
	unacked      int64      // bytes read and not yet given back
	peerWindow   int64      // the window of the peer's new streams
	shrunk       bool       // the peer made its HPACK table smaller: to be confirmed
	first, last  *lane      // streams in line for a turn
	meter        meter
	maxPeerFrame int
}

func (l *link) init(nc net.Conn, p *pools, clock *sweep.Sweeper, later func()) {
	l.nc, l.pools, l.clock, l.later = nc, p, clock, later
	l.quiet.L = &l.mu
	l.sendWindow, l.peerWindow = streamWindow, streamWindow
	l.recvWindow = connWindow
	l.maxPeerFrame = maxFrame
}

// room returns out with space for n more bytes.
func (l *link) room(n int) []byte { return l.pools.grow(l.out, n) }

// mark is a position in the output: what is queued so far has been handed to
// the socket when taken has reached it.
func (l *link) mark() uint64 { return l.taken + uint64(len(l.out)) }

func appendFrameHeader(b []byte, n int, t http2.FrameType, flags http2.Flags, id uint32) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

const frameHeader = 9

// The put functions queue one frame; mu is held.

func (l *link) putSettings(settings ...http2.Setting) {
	b := l.room(frameHeader + 6*len(settings))
	b = appendFrameHeader(b, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		b = append(b, byte(s.ID>>8), byte(s.ID), byte(s.Val>>24), byte(s.Val>>16), byte(s.Val>>8), byte(s.Val))
	}
	l.out = b
}

func (l *link) putSettingsAck() {
	l.out = appendFrameHeader(l.room(frameHeader), 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
}

func (l *link) putPing(ack bool, data [8]byte) {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	b := appendFrameHeader(l.room(frameHeader+8), 8, http2.FramePing, flags, 0)
	l.out = append(b, data[:]...)
}

func (l *link) putUint32(t http2.FrameType, id, v uint32) {
	b := appendFrameHeader(l.room(frameHeader+4), 4, t, 0, id)
	l.out = append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func (l *link) putReset(id uint32, code http2.ErrCode) {
	l.putUint32(http2.FrameRSTStream, id, uint32(code))
}

func (l *link) putWindow(id uint32, n int64) { l.putUint32(http2.FrameWindowUpdate, id, uint32(n)) }

func (l *link) putGoAway(lastID uint32, code http2.ErrCode) {
	b := appendFrameHeader(l.room(frameHeader+8), 8, http2.FrameGoAway, 0, 0)
	b = append(b, byte(lastID>>24), byte(lastID>>16), byte(lastID>>8), byte(lastID))
	l.out = append(b, byte(code>>24), byte(code>>16), byte(code>>8), byte(code))
}

// putHead queues a field block as HEADERS, and CONTINUATION where it is larger
// than a frame.
func (l *link) putHead(id uint32, block []byte, end bool) {
	b := l.room(len(block) + 1 + frameHeader*(2+len(block)/l.maxPeerFrame))
	t, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	size := 0
	if l.shrunk {
		size = 1
	}
	n := min(len(block), l.maxPeerFrame-size)
	for {
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		b = appendFrameHeader(b, n+size, t, flags, id)
		if size > 0 {
			b = append(b, 0x20) // our table has no entries: size 0 fits (RFC 7541, 4.2)
			l.shrunk, size = false, 0
		}
		b = append(b, block[:n]...)
		block = block[n:]
		if flags&http2.FlagHeadersEndHeaders != 0 {
			break
		}
		t, flags = http2.FrameContinuation, 0
		n = min(len(block), l.maxPeerFrame)
	}
	l.out = b
}

// flush writes what is queued, unless somebody is writing already. mu is held
// when it is called, and not when it returns.
func (l *link) flush() {
	if l.writing || l.broken || len(l.out) == 0 {
		l.mu.Unlock()
		return
	}
	l.writing = true
	l.gather()
	for round := 0; len(l.out) > 0 && !l.broken; round++ {
		if round == roundsPerWrite {
			// The others keep this goroutine from its own stream.
			l.writing = false
			l.mu.Unlock()
			l.later()
			return
		}
		l.write()
	}
	l.writing = false
	l.quiet.Broadcast()
	l.mu.Unlock()
}

// gather lets other streams that are ready join the write, as long as some do; mu
// is released meanwhile. A second turn is for those that became ready in the
// first one: 25 interleaved rounds of h2load, 16 x 16, took 0.985 [0.973-0.989]
// of the CPU that a single turn takes.
func (l *link) gather() {
	size := 0
	for turn := 0; turn < maxTurns && size < len(l.out) && len(l.out) < highWater; turn++ {
		size = len(l.out)
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
}

// write writes once; mu is released meanwhile.
func (l *link) write() {
	buf := l.out
	l.out = nil
	l.taken += uint64(len(buf))
	l.writeSince.Store(l.clock.Now())
	l.mu.Unlock()
	_, err := l.nc.Write(buf)
	l.mu.Lock()
	l.writeSince.Store(0)
	l.pools.put(buf)
	if err != nil {
		l.breakOff()
	}
	l.quiet.Broadcast()
	l.grant()
}

// breakOff gives the connection up: nothing is written any more, and the reader
// stops.
func (l *link) breakOff() {
	l.broken = true
	if l.err == nil {
		l.err = errConnOver
	}
	l.pools.put(l.out)
	l.out = nil
	l.quiet.Broadcast()
	_ = l.nc.SetDeadline(longAgo) // fails on a closed connection, which is as good
}

// wake makes the reader look up from a blocked read.
func (l *link) wake() {
	if !l.woken {
		l.woken = true
		_ = l.nc.SetReadDeadline(longAgo) // fails on a closed connection, which wakes it, too
	}
}

// rest lets the reader block again; it reports false when the connection is to
// be given up.
func (l *link) rest() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return false
	}
	l.woken = false
	return l.nc.SetReadDeadline(time.Time{}) == nil
}

// isTimeout reports whether a read ended because of wake.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// consumed gives n bytes of the connection's window back, in pieces.
func (l *link) consumed(n int64) {
	l.unacked += n
	if l.unacked >= connWindow/4 && l.err == nil {
		l.putWindow(0, l.unacked)
		l.recvWindow += l.unacked
		l.unacked = 0
	}
}

// takes reports whether a DATA frame with content may be queued: the
// connection's window is open, and the output has room.
func (l *link) takes() bool { return l.sendWindow > 0 && len(l.out) < highWater }

// grant gives the turn to the first in line, if there is something to use it
// for. Who had the turn already, and found nothing, is told again.
func (l *link) grant() {
	if s := l.first; s != nil && l.takes() {
		s.turn = true
		s.sender.Signal()
	}
}

// join puts s at the end of the line.
func (l *link) join(s *lane) {
	if s.inLine {
		return
	}
	s.inLine = true
	if l.last == nil {
		l.first = s
	} else {
		l.last.next = s
	}
	l.last = s
}

// leave takes s out of the line, and passes its turn on.
func (l *link) leave(s *lane) {
	if !s.inLine {
		return
	}
	var before *lane
	for at := l.first; at != s; at = at.next {
		before = at
	}
	if before == nil {
		l.first = s.next
	} else {
		before.next = s.next
	}
	if l.last == s {
		l.last = before
	}
	s.inLine, s.turn, s.next = false, false, nil
	l.grant()
}
