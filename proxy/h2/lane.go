package h2

import (
	"errors"
	"io"
	"sync"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

var errBodyClosed = errors.New("read of a closed body")

// lane is what a front's and a client's streams share: both directions' flow
// control, and what was received but not read. link.mu guards it.
type lane struct {
	l   *link
	id  uint32
	err error // what broke the stream off, or ended sending; nil: nothing

	// Towards the peer.
	window    int64 // bytes that we may send; below 0 after the peer shrank it
	sender    sync.Cond
	next      *lane
	inLine    bool
	turn      bool
	sendSince int64 // when the wait in progress began; 0: none
	localEnd  bool  // END_STREAM is queued

	// From the peer.
	buf, lent  []byte // buf[r:] isn't read yet; Next gave lent away
	r          int
	recvWindow int64
	unacked    int64 // bytes read and not yet given back
	reader     sync.Cond
	readSince  int64
	declared   int64 // Content-Length; -1: none
	received   int64 // bytes of DATA
	remoteEnd  bool  // END_STREAM came
	closed     bool  // nobody will read
	lost       bool  // the stream broke off, and what wasn't read with it
	trailer    exchange.Head
	moved      bool // trailer went to the exchange
}

// open makes s the lane of a new stream.
func (s *lane) open(l *link, id uint32) {
	s.l, s.id, s.err = l, id, nil
	s.sender.L, s.reader.L = &l.mu, &l.mu
	s.window, s.recvWindow = l.peerWindow, streamWindow
	s.next, s.inLine, s.turn, s.localEnd, s.sendSince = nil, false, false, false, 0
	s.r, s.unacked, s.readSince, s.received, s.declared = 0, 0, 0, 0, -1
	s.remoteEnd, s.closed, s.lost, s.moved = false, false, false, false
}

// over releases what the lane holds, when its stream isn't known to the reader
// any more.
func (s *lane) over() {
	s.discard()
	s.l.leave(s)
	s.l.pools.put(s.lent)
	s.lent = nil
	s.closed = true
}

// discard gives up what wasn't read.
func (s *lane) discard() {
	if n := len(s.buf) - s.r; n > 0 {
		s.l.consumed(int64(n))
	}
	s.l.pools.put(s.buf)
	s.buf, s.r = nil, 0
}

// fail breaks the stream off; sends and reads, also waiting ones, end with err.
func (s *lane) fail(err error) {
	if s.lost {
		return
	}
	s.err, s.lost = err, true
	s.discard()
	s.l.leave(s)
	s.sender.Broadcast()
	s.reader.Broadcast()
}

// await waits until a DATA frame with content may be queued: for the windows,
// for room in the output and for the stream's turn.
func (s *lane) await() error {
	l := s.l
	for {
		switch {
		case s.err != nil:
			return s.err
		case l.err != nil:
			return l.err
		case s.window <= 0:
			l.leave(s) // the others go on without it
		case l.takes() && (l.first == nil || s.turn):
			return nil
		default:
			// A turn may come too late: another stream's head took the room.
			l.join(s)
			l.grant()
			if l.takes() && s.turn {
				continue
			}
		}
		if !l.writing && len(l.out) > 0 {
			l.flush()
			l.mu.Lock()
			continue
		}
		if s.sendSince == 0 {
			s.sendSince = l.clock.Now()
		}
		s.sender.Wait()
	}
}

// awaitRoom waits until a frame that no window counts may be queued.
func (s *lane) awaitRoom() error {
	l := s.l
	for {
		switch {
		case s.err != nil:
			return s.err
		case l.err != nil:
			return l.err
		case len(l.out) < highWater:
			return nil
		case !l.writing:
			l.flush()
			l.mu.Lock()
		default:
			l.quiet.Wait()
		}
	}
}

// send queues p as DATA, a frame a turn, waiting for windows and room; end says
// that the stream ends with it. mu is held, before and after.
func (s *lane) send(p []byte, end bool) (err error) {
	l := s.l
	for {
		if len(p) == 0 {
			err = s.awaitRoom()
		} else {
			err = s.await()
		}
		s.sendSince = 0
		if err != nil {
			l.leave(s)
			return err
		}
		n := len(p)
		if n > 0 {
			n = int(min(int64(n), int64(l.maxPeerFrame), s.window, l.sendWindow))
		}
		var flags http2.Flags
		if end && n == len(p) {
			flags, s.localEnd = http2.FlagDataEndStream, true
		}
		b := appendFrameHeader(l.room(frameHeader+n), n, http2.FrameData, flags, s.id)
		l.out = append(b, p[:n]...)
		s.window -= int64(n)
		l.sendWindow -= int64(n)
		l.meter.sent(n, n < len(p))
		p = p[n:]
		l.leave(s) // and to the end of the line, with what is left
		if len(p) == 0 {
			return nil
		}
	}
}

// sendHead queues a field block when there is room.
func (s *lane) sendHead(block []byte, end bool) error {
	if err := s.awaitRoom(); err != nil {
		return err
	}
	s.l.putHead(s.id, block, end)
	s.localEnd = s.localEnd || end
	return nil
}

// deliver takes received bytes, as far as somebody may read them.
func (s *lane) deliver(p []byte) {
	if s.closed || s.lost {
		s.l.consumed(int64(len(p)))
		return
	}
	if s.r > 0 {
		s.buf = s.buf[:copy(s.buf, s.buf[s.r:])]
		s.r = 0
	}
	s.buf = append(s.l.pools.grow(s.buf, len(p)), p...)
	s.reader.Signal()
}

// giveBack returns n bytes of the windows to the peer.
func (s *lane) giveBack(n int64) {
	s.l.consumed(n)
	s.unacked += n
	if s.unacked >= streamWindow/4 && !s.remoteEnd && s.err == nil && s.l.err == nil {
		s.l.putWindow(s.id, s.unacked)
		s.recvWindow += s.unacked
		s.unacked = 0
	}
}

// ready waits until there is something to read: bytes, the end (io.EOF) or an
// error.
func (s *lane) ready() error {
	for len(s.buf) == s.r {
		switch {
		case s.lost:
			return s.err
		case s.closed:
			return errBodyClosed
		case s.remoteEnd:
			return io.EOF
		case s.err != nil:
			return s.err
		}
		s.readSince = s.l.clock.Now()
		s.reader.Wait()
		s.readSince = 0
	}
	return nil
}

// read is a body's Read. mu is held, before and after.
func (s *lane) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.ready(); err != nil {
		return 0, err
	}
	n := copy(p, s.buf[s.r:])
	s.r += n
	s.giveBack(int64(n))
	if s.r < len(s.buf) {
		return n, nil
	}
	if s.remoteEnd || cap(s.buf) > smallBuffer {
		s.l.pools.put(s.buf)
		s.buf = nil
	}
	s.buf, s.r = s.buf[:0], 0
	if s.remoteEnd {
		return n, io.EOF
	}
	return n, nil
}

// take is a body's Next. mu is held, before and after.
func (s *lane) take() (b []byte, done bool) {
	s.l.pools.put(s.lent)
	s.lent = nil
	if s.lost || s.closed {
		return nil, false
	}
	b = s.buf[s.r:]
	if len(b) > 0 {
		s.lent, s.buf, s.r = s.buf, nil, 0
		s.giveBack(int64(len(b)))
	}
	return b, s.remoteEnd
}

// shut is a body's Close: what is there and what comes is thrown away. mu is
// held, before and after.
func (s *lane) shut() {
	if s.closed {
		return
	}
	s.closed = true
	s.discard()
	s.reader.Broadcast()
}

// moveTrailer hands the trailer section to the exchange, once.
func (s *lane) moveTrailer(to *exchange.Head) {
	if !s.moved {
		s.moved = true
		*to, s.trailer = s.trailer, *to
	}
}

// data takes a DATA frame for the stream, whose windows count its padding, too
// (RFC 9113, 6.9.1). An error code other than 0 is a stream error.
func (s *lane) data(f *http2.DataFrame) http2.ErrCode {
	n, p := int64(f.Length), f.Data()
	s.recvWindow -= n
	if s.recvWindow < 0 {
		return http2.ErrCodeFlowControl
	}
	s.received += int64(len(p))
	end := f.StreamEnded()
	if s.declared >= 0 && (s.received > s.declared || end && s.received != s.declared) {
		return http2.ErrCodeProtocol // RFC 9113, 8.1.1
	}
	if end {
		s.remoteEnd = true
	}
	if pad := n - int64(len(p)); pad > 0 {
		s.giveBack(pad)
	}
	if len(p) > 0 {
		s.deliver(p)
	}
	if end {
		s.reader.Signal()
	}
	return 0
}

// addWindow takes a WINDOW_UPDATE for the stream, or a change of the peer's
// SETTINGS_INITIAL_WINDOW_SIZE; false: the window gets too large.
func (s *lane) addWindow(n int64) bool {
	if s.window+n > maxWindow {
		return false
	}
	blocked := s.window <= 0
	s.window += n
	if blocked && s.window > 0 {
		s.sender.Signal()
	}
	return true
}
