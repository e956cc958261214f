package h2

import (
	"encoding/base64"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync/atomic"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// What reading a request's body gives when the stream breaks off. They are
// shared, so nobody may change them.
var (
	faultGone      = &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: errReset}
	faultMalformed = &exchange.Fault{Source: exchange.FromClient, Kind: exchange.Malformed, Err: http2.ConnectionError(http2.ErrCodeProtocol)}
	faultStalled   = &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientTimeout, Err: errStalled}
)

// maxKeep bounds the memory for heads that a pooled stream holds on to.
const maxKeep = 16 << 10

// stream is one request: the exchange, and its front.
type stream struct {
	lane
	x         exchange.Exchange
	c         *conn
	gone      atomic.Bool // the client left, or the connection ended
	known     bool        // the connection's table has it; guarded by link.mu
	malformed bool        // refused with RST_STREAM instead of an answer
	connect   bool        // an extended CONNECT
	answered  bool        // the response has begun; guarded by link.mu
	head      []byte      // memory of the request's head
	block     []byte      // of the encoded response's
}

var _ exchange.Front = (*stream)(nil)

// begin prepares a pooled stream, which nobody but the reader knows yet.
func (st *stream) begin(id uint32) {
	c := st.c
	st.lane.open(&c.link, id)
	st.x.Proto, st.x.Conn, st.x.Front = exchange.HTTP2, c.info, st
	st.x.Request.Reset(st.head[:0])
	st.gone.Store(false)
	st.malformed, st.connect, st.answered = false, false, false
}

// serve runs the request on a worker.
func (st *stream) serve() {
	c := st.c
	c.f.cfg.Handler.Serve(&st.x)
	c.f.busy.Add(-1)
	c.mu.Lock()
	// What the front refuses it has charged already.
	if f := st.x.Err; f != nil && st.x.Fault == nil && f.Breach() && !c.bear(abuse.Refused) {
		c.end(int(errCodeCalm))
	}
	if st.known {
		// The handler gave no answer, or broke it off.
		if c.err == nil {
			c.putReset(st.id, http2.ErrCodeInternal)
		}
		c.ours.add(st.id)
		c.forget(st)
	}
	st.over()
	c.running--
	if c.running == 0 {
		c.idleAt = c.clock.Now()
		c.idle.Broadcast()
	}
	c.flush()
	st.recycle()
}

// recycle returns the stream to the pool; nobody knows it any more.
func (st *stream) recycle() {
	if b := st.x.Request.Buffer(); cap(b) <= maxKeep {
		st.head = b[:0]
	}
	if cap(st.block) > maxKeep {
		st.block = nil
	}
	f := st.c.f
	st.x.Reset(exchange.HTTP2, nil, nil)
	st.trailer.Reset(nil)
	st.c, st.l, st.err = nil, nil, nil
	f.streams.Put(st)
}

// drop breaks the stream off, which the connection has forgotten; mu is held.
func (st *stream) drop(f *exchange.Fault) {
	st.gone.Store(true)
	st.fail(f)
}

// Gone implements exchange.Front.
func (st *stream) Gone(*exchange.Exchange) bool { return st.gone.Load() }

// requestBody is the stream as the body of its request.
type requestBody stream

var _ exchange.Body = (*requestBody)(nil)

// Read implements exchange.Body.
func (b *requestBody) Read(p []byte) (int, error) {
	st := (*stream)(b)
	st.l.mu.Lock()
	if st.x.ExpectContinue && !st.answered {
		st.x.ExpectContinue = false
		if st.received == 0 && !st.remoteEnd && st.err == nil {
			st.l.putHead(st.id, appendStatus(nil, 100), false)
		}
		st.l.flush()
		st.l.mu.Lock()
	}
	n, err := st.read(p)
	st.l.flush() // what gives the window back
	st.x.BytesIn += int64(n)
	if err == io.EOF {
		st.moveTrailer(&st.x.RequestTrailer)
	}
	return n, err
}

// Next implements exchange.Body.
func (b *requestBody) Next() ([]byte, bool) {
	st := (*stream)(b)
	st.l.mu.Lock()
	p, done := st.take()
	st.l.flush()
	st.x.BytesIn += int64(len(p))
	if done {
		st.moveTrailer(&st.x.RequestTrailer)
	}
	return p, done
}

// Close implements exchange.Body. The client is told to stop when the response
// has ended.
func (b *requestBody) Close() error {
	st := (*stream)(b)
	st.l.mu.Lock()
	st.shut()
	st.l.flush()
	return nil
}

// newNonce is a Sec-WebSocket-Key.
func newNonce() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	return base64.StdEncoding.EncodeToString(b[:])
}
