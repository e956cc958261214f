package h2

import (
	"crypto/sha1" //nolint:gosec // what RFC 6455 asks for
	"encoding/base64"
	"errors"
	"io"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// maxInterim bounds the 1xx responses to one request.
const maxInterim = 16

// shortLimit is the limit below which the sweeper is too coarse.
const shortLimit = 2 * time.Second

var (
	errUpgrade  = errors.New("backend doesn't take extended CONNECT")
	errTooMany  = errors.New("no stream left on the connection")
	errAnswered = errors.New("backend answered without the body")
	errTimedOut = errors.New("backend took too long")
	errGone     = errors.New("client left")
)

// call is one request to a backend, and its response. link.mu guards it.
type call struct {
	lane
	c *ClientConn
	x *exchange.Exchange

	fault    *exchange.Fault // why it failed
	progress exchange.Progress
	mark     uint64 // position of the request's head in the output
	connect  bool

	answered  bool // the final head came
	status    int
	announced int64 // Content-Length of the response, whether or not a body follows; -1: none
	head      exchange.Head
	interims  []interim
	interimN  int
	continued bool // 100 (Continue) came, or isn't waited for
	askedAt   int64
	sentAt    int64 // when the request's end was queued; 0: not yet
	movedAt   int64 // when a byte of a body moved last
	deadline  int64 // of the exchange; 0: none

	copying bool      // a goroutine copies the request's body
	copied  sync.Cond // broadcast when it has ended
	timer   *time.Timer
	scratch []byte // memory of the encoded request's head
	memory  []byte // and of the response's
}

type interim struct {
	status int
	head   exchange.Head
}

// RoundTrip sends the request of x and waits for the response's head, in the
// slot that Reserve took. On a fault, Progress says how far the try came; when
// it read from x.RequestBody then, it has closed it. The response's body must be
// closed, or read to its end.
func (c *ClientConn) RoundTrip(x *exchange.Exchange) (exchange.Progress, *exchange.Fault) {
	st := c.call(x)
	st.connect = x.Upgrade == "websocket"
	if st.connect {
		if f := c.awaitConnect(st); f != nil {
			c.Unreserve()
			c.free(st)
			return exchange.NotSent, f
		}
	}
	st.encode()
	st.start()
	if f := st.await(); f != nil {
		return st.failed(f)
	}
	return st.respond()
}

// call takes a call from the pool.
func (c *ClientConn) call(x *exchange.Exchange) *call {
	st, ok := c.cfg.calls.Get().(*call)
	if !ok {
		st = &call{}
	}
	st.c, st.x = c, x
	st.fault, st.progress, st.mark = nil, exchange.NotSent, 0
	st.answered, st.status = false, 0
	st.interims, st.interimN, st.continued = st.interims[:0], 0, !x.ExpectContinue
	st.askedAt, st.sentAt, st.movedAt, st.deadline = 0, 0, 0, 0
	if !x.Deadline.IsZero() {
		st.deadline = c.clock.At(x.Deadline)
	}
	st.copied.L = &c.mu
	return st
}

// free returns a call that nobody knows any more.
func (c *ClientConn) free(st *call) {
	if st.timer != nil {
		st.timer.Stop()
		st.timer = nil
	}
	if cap(st.scratch) > maxKeep {
		st.scratch = nil
	}
	if cap(st.memory) > maxKeep {
		st.memory = nil
	}
	st.head.Reset(nil)
	st.trailer.Reset(nil)
	st.c, st.x, st.l, st.err = nil, nil, nil, nil
	clear(st.interims)
	c.cfg.calls.Put(st)
}

// awaitConnect waits for the backend's SETTINGS, which say whether it takes
// extended CONNECT (RFC 8441, 3).
func (c *ClientConn) awaitConnect(st *call) *exchange.Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
	c.mu.Lock()
	since := c.clock.Now()
	stop := time.AfterFunc(c.settleTime(), func() { c.settled.Broadcast() })
	defer stop.Stop()
	for !c.hasPeer && c.err == nil {
		c.settled.Wait()
		if !c.hasPeer && c.clock.At(time.Now())-since >= int64(c.settleTime()) {
			break
		}
	}
	switch {
	case c.err != nil:
		return &exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendReset, Err: c.err}
	case !c.connects:
		return &exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.UpgradeRefused, Err: errUpgrade}
	}
	return nil
}

func (c *ClientConn) settleTime() time.Duration {
	if c.cfg.FirstByte > 0 {
		return c.cfg.FirstByte
	}
	return 10 * time.Second
}

// encode makes the request's head in st.scratch.
func (st *call) encode() {
	x, b := st.x, st.scratch[:0]
	switch {
	case st.connect:
		b = appendPseudo(b, staticMethod, "CONNECT")
		b = appendField(b, exchange.Other, ":protocol", "websocket")
	case x.Method == "GET":
		b = appendIndexed(b, staticMethod)
	case x.Method == "POST":
		b = appendIndexed(b, staticMethod+1)
	default:
		b = appendPseudo(b, staticMethod, x.Method)
	}
	b = appendIndexed(b, st.c.scheme)
	host, path := x.Out.Host, x.Out.Path
	if host == "" {
		host = x.Target.Authority
	}
	if path == "" {
		path = x.Target.Path
	}
	b = appendPseudo(b, staticAuthority, host)
	n := len(path)
	if x.Target.HasQuery {
		n += 1 + len(x.Target.Query)
	}
	b = appendInt(b, 0, 4, staticPath)
	b = append(appendInt(b, 0, 7, uint64(n)), path...)
	if x.Target.HasQuery {
		b = append(append(b, '?'), x.Target.Query...)
	}
	if st.connect {
		dropKey(&x.Request)
	}
	b = appendHead(b, &x.Request, &x.RequestEdits)
	if x.Request.HasToken(exchange.TE, "trailers") {
		b = appendField(b, exchange.TE, "te", "trailers") // gRPC backends insist on it
	}
	if x.ExpectContinue && x.RequestBody != nil {
		b = appendField(b, exchange.Expect, "expect", "100-continue")
	}
	if n := x.RequestLength; !st.connect && (n > 0 || n == 0 && x.Request.Has(exchange.ContentLength)) {
		b = appendLength(b, n)
	}
	st.scratch = b
}

// dropKey leaves out the nonce of a websocket's handshake, which has no meaning
// in HTTP/2 (RFC 8441, 5).
func dropKey(h *exchange.Head) {
	for i := range h.Len() {
		if name, _ := h.Field(i); exchange.EqualFold(name, "sec-websocket-key") {
			h.Drop(i)
		}
	}
}

// start opens the stream and sends what is there of the request.
func (st *call) start() {
	c, x := st.c, st.x
	var b []byte
	done := x.RequestBody == nil
	if !done && !x.ExpectContinue {
		b, done = x.RequestBody.Next()
	}
	var trailer []byte
	if done && x.RequestBody != nil && x.RequestTrailer.Len() > 0 {
		trailer, _ = appendTrailer(nil, &x.RequestTrailer, &x.RequestEdits)
	}
	c.mu.Lock()
	c.reserved--
	if c.err != nil || c.goneAway || c.refusing || c.nextID > maxWindow {
		st.lane.open(&c.link, 0)
		why := errTooMany
		if c.ended != nil { // since the place was reserved
			why = c.ended
		}
		st.end(exchange.BackendReset, why)
		c.mu.Unlock()
		return
	}
	st.lane.open(&c.link, c.nextID)
	c.nextID += 2
	c.calls[st.id] = st
	c.meter.opened++
	now := c.clock.Now()
	st.askedAt, st.movedAt = now, now
	// A body that turned out empty still ends with a DATA frame: gRPC asks for
	// it, and grpc-go's server never sees the end of a stream whose HEADERS
	// ended it.
	whole := x.RequestBody == nil && !st.connect
	c.putHead(st.id, st.scratch, whole)
	st.localEnd = whole
	st.mark = c.link.mark()
	fits := done && int64(len(b)) <= min(st.window, c.sendWindow) && len(b) <= highWater && c.first == nil
	switch {
	case whole:
	case st.connect:
		st.continued = true
	case fits:
		st.finishSend(b, trailer)
	default:
		st.copying = true
		go st.copy(b, done)
	}
	if st.localEnd {
		st.sentAt = now
	}
	st.arm()
	c.flush()
}

// finishSend sends the last piece of the body, and the trailers; mu is held.
func (st *call) finishSend(b, trailer []byte) {
	var err error
	if len(b) > 0 || len(trailer) == 0 {
		err = st.send(b, len(trailer) == 0)
	}
	if err == nil && len(trailer) > 0 {
		err = st.sendHead(trailer, true)
	}
	if err == nil {
		st.sentAt = st.c.clock.Now()
	}
}

// copy sends a body that wasn't complete in memory; see the package's comment.
// b is what Next gave of it, done that it was all.
func (st *call) copy(b []byte, done bool) {
	c := st.c
	err := st.copyBody(b, done)
	c.mu.Lock()
	if err != nil && err != errAnswered && st.err == nil && !st.remoteEnd {
		var f *exchange.Fault
		if !errors.As(err, &f) {
			f = &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: err}
		}
		st.breakWith(f, http2.ErrCodeCancel)
	}
	st.copying = false
	st.copied.Broadcast()
	c.flush()
}

func (st *call) copyBody(b []byte, done bool) error {
	c, x := st.c, st.x
	c.mu.Lock()
	for !st.continued && st.err == nil && !st.answered {
		st.copied.Wait() // 100 (Continue), an answer, or time
	}
	err := st.err
	if err == nil && st.answered && !st.continued {
		err = errAnswered
	}
	if err == nil && len(b) > 0 && !done {
		err = st.send(b, false)
	}
	c.flush()
	if err != nil {
		return err
	}
	if done {
		return st.copyEnd(b)
	}
	buf := c.pools.get(midBuffer)
	defer c.pools.put(buf)
	for {
		n, err := x.RequestBody.Read(buf[:midBuffer])
		if err == io.EOF {
			return st.copyEnd(buf[:n])
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		err = st.send(buf[:n], false)
		st.movedAt = c.clock.Now()
		c.flush()
		if err != nil {
			return err
		}
	}
}

func (st *call) copyEnd(b []byte) error {
	var trailer []byte
	if st.x.RequestTrailer.Len() > 0 {
		trailer, _ = appendTrailer(nil, &st.x.RequestTrailer, &st.x.RequestEdits)
	}
	st.c.mu.Lock()
	st.finishSend(b, trailer)
	err := st.err
	st.c.flush()
	return err
}

// await waits for the final head, and passes 1xx responses on.
func (st *call) await() *exchange.Fault {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(st.interims) > 0 {
			in := st.interims[0]
			st.interims = st.interims[1:]
			c.mu.Unlock()
			_ = st.x.Front.Interim(st.x, in.status, &in.head) // a client that left is noticed later
			c.mu.Lock()
		}
		switch {
		case st.answered:
			return nil
		case st.fault != nil:
			return st.fault
		}
		st.reader.Wait()
	}
}

// failed ends a call that got no head.
func (st *call) failed(f *exchange.Fault) (exchange.Progress, *exchange.Fault) {
	st.stopCopy()
	progress := st.progress
	st.finish()
	return progress, f
}

// respond hands the head over, and the body or the tunnel.
func (st *call) respond() (exchange.Progress, *exchange.Fault) {
	c, x := st.c, st.x
	c.mu.Lock()
	x.Status = st.status
	st.handOver()
	upgraded := st.connect && st.status == 200
	over := st.remoteEnd && !st.lost && len(st.buf) == 0 && st.trailer.Len() == 0
	c.mu.Unlock()
	if upgraded {
		x.Status = 101
		x.Response.Append("Upgrade", "websocket")
		if key, ok := x.Request.Find("Sec-WebSocket-Key"); ok {
			x.Response.Append("Sec-WebSocket-Accept", acceptKey(key))
		}
		x.Tunnel = &tunnel{st: st}
		return exchange.Answered, nil
	}
	if over || !x.HasResponseBody() {
		x.ResponseLength = 0
		if !x.HasResponseBody() {
			// To HEAD and in 304 it is the length that GET would have had.
			x.ResponseLength = st.announced
		}
		st.stopCopy()
		st.finish()
		return exchange.Answered, nil
	}
	x.ResponseBody = &responseBody{st: st, x: x}
	return exchange.Answered, nil
}

// handOver moves the response's head to the exchange. The fields' table changes
// hands; their bytes go to the exchange's own memory, because they outlive the
// call. mu is held.
func (st *call) handOver() {
	x := st.x
	x.Response, st.head = st.head, x.Response
	x.ResponseLength = st.declared
	st.memory = x.Response.Buffer()
	kept := x.Keep(st.memory)
	x.Response.Rebase(unsafe.Slice(unsafe.StringData(kept), len(kept)))
}

// acceptKey answers a websocket's nonce (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455
	return base64.StdEncoding.EncodeToString(sum[:])
}

// stopCopy ends the goroutine that copies the request's body, and waits for it.
func (st *call) stopCopy() {
	c := st.c
	c.mu.Lock()
	if st.copying {
		if st.err == nil {
			st.err = io.ErrClosedPipe // what was received can still be read
			st.l.leave(&st.lane)
			st.sender.Broadcast()
			st.copied.Broadcast()
		}
		body := st.x.RequestBody
		c.mu.Unlock()
		_ = body.Close() // its read fails soon
		c.mu.Lock()
		for st.copying {
			st.copied.Wait()
		}
	}
	c.mu.Unlock()
}

// finish takes the call off the connection; a stream that isn't over is reset.
func (st *call) finish() {
	c := st.c
	c.mu.Lock()
	if c.calls[st.id] == st {
		if !(st.remoteEnd && st.localEnd) && c.err == nil {
			code := http2.ErrCodeCancel
			if st.remoteEnd {
				code = http2.ErrCodeNo
			}
			c.putReset(st.id, code)
			c.ours.add(st.id)
		}
		delete(c.calls, st.id)
	}
	st.over()
	c.leave()
	c.flush()
	c.free(st)
}
