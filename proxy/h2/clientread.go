package h2

import (
	"errors"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

var (
	errMalformed = errors.New("malformed response")
	errTooLarge  = errors.New("response head is too large")
	errRefused   = errors.New("backend refused the stream")
	errGoAway    = errors.New("backend is going away")
)

// frame takes one frame from the backend; see conn.frame.
func (c *ClientConn) frame(f http2.Frame) error {
	if cf, ok := f.(*http2.ContinuationFrame); ok {
		return c.fragment(cf.HeaderBlockFragment(), cf.HeadersEnded())
	}
	c.mu.Lock()
	c.readAt = c.clock.Now()
	c.mu.Unlock()
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.HeadersFrame:
		return c.headers(f)
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.rstStream(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		return c.pong(f)
	case *http2.GoAwayFrame:
		return c.goAway(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol) // we said no
	default:
		return c.charge(abuse.Unknown)
	}
}

func (c *ClientConn) charge(k abuse.Kind) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.meter.add(c.clock.Now(), k) {
		return errCalm
	}
	return nil
}

// resetCall answers a stream error of the backend's.
func (c *ClientConn) resetCall(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.meter.add(c.clock.Now(), abuse.Malformed) {
		return errCalm
	}
	if st := c.calls[id]; st != nil {
		st.broke(&exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendMalformed, Err: http2.StreamError{StreamID: id, Code: code}}, code)
		c.spoke = true
	}
	return nil
}

// stray judges a frame for a stream that we don't know (any more); mu is held.
func (c *ClientConn) stray(id uint32) error {
	if id >= c.nextID || id&1 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if !c.ours.has(id) && !c.meter.add(c.clock.Now(), abuse.Stray) {
		return errCalm
	}
	return nil // we may have reset it
}

func (c *ClientConn) data(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int64(f.Length)
	c.recvWindow -= n
	if c.recvWindow < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.meter.earn()
	if len(f.Data()) == 0 && !f.StreamEnded() && !c.meter.add(c.clock.Now(), abuse.Empty) {
		return errCalm
	}
	st := c.calls[f.StreamID]
	if st == nil {
		c.consumed(n)
		c.spoke = true
		return c.stray(f.StreamID)
	}
	code := http2.ErrCodeProtocol
	if st.answered && !st.remoteEnd {
		code = st.lane.data(f)
	}
	if code != 0 {
		c.consumed(n)
		c.spoke = true
		return http2.StreamError{StreamID: f.StreamID, Code: code}
	}
	st.movedAt = c.clock.Now()
	c.spoke = c.spoke || len(c.out) > 0
	return nil
}

func (c *ClientConn) windowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.meter.widened() && !c.meter.add(c.clock.Now(), abuse.Window) {
		return errCalm
	}
	n := int64(f.Increment)
	if f.StreamID == 0 {
		if c.sendWindow+n > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.sendWindow += n
		c.grant()
		return nil
	}
	st := c.calls[f.StreamID]
	if st == nil {
		if f.StreamID >= c.nextID || f.StreamID&1 == 0 {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil
	}
	if !st.addWindow(n) {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	return nil
}

func (c *ClientConn) rstStream(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.calls[f.StreamID]
	if st == nil {
		return c.stray(f.StreamID)
	}
	whole := st.remoteEnd
	fault := &exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendReset, Err: http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode}}
	if f.ErrCode == http2.ErrCodeRefusedStream {
		fault.Err = errRefused
	}
	st.broke(fault, 0)
	if whole {
		return nil // the backend doesn't want the rest of the request
	}
	if f.ErrCode == http2.ErrCodeRefusedStream && !st.answered {
		st.progress = exchange.NotSent // RFC 9113, 8.7
	}
	if c.meter.reset(c.clock.Now(), c.maxStreams) {
		return errCalm // it breaks most of what it gets
	}
	return nil
}

// leaveLine wakes who sends on st, to find that it ends.
func (c *ClientConn) leaveLine(st *call) {
	c.link.leave(&st.lane)
	st.sender.Broadcast()
	st.copied.Broadcast()
}

func (c *ClientConn) settings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		return nil
	}
	if !c.meter.add(c.clock.Now(), abuse.Settings) || f.NumSettings() > maxSettings {
		return errCalm
	}
	window, err := c.applySettings(f)
	if err != nil {
		return err
	}
	if v, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
		c.maxStreams = int(min(v, 1<<20))
	}
	if v, ok := f.Value(http2.SettingEnableConnectProtocol); ok {
		c.connects = v == 1
	}
	if delta := window - c.peerWindow; delta != 0 {
		c.peerWindow = window
		for _, st := range c.calls {
			if !st.addWindow(delta) {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
		}
	}
	if !c.hasPeer {
		c.hasPeer = true
		c.settled.Broadcast()
	}
	c.putSettingsAck()
	c.spoke = true
	return nil
}

func (c *ClientConn) pong(f *http2.PingFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		c.pingAt = 0
		return nil
	}
	if !c.meter.explained() && !c.meter.add(c.clock.Now(), abuse.Ping) {
		return errCalm
	}
	c.putPing(true, f.Data)
	c.spoke = true
	return nil
}

// goAway stops new streams; those beyond the last one that the backend will
// serve fail, and may be tried elsewhere (RFC 9113, 6.8).
func (c *ClientConn) goAway(f *http2.GoAwayFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.meter.add(c.clock.Now(), abuse.Settings) {
		return errCalm
	}
	c.leaving, c.goneAway = true, true
	for id, st := range c.calls {
		if id > f.LastStreamID {
			st.end(exchange.BackendReset, errGoAway)
			st.progress = exchange.NotSent
		}
	}
	c.leave()
	return nil
}

// headers begins a field block: an interim or the final head, or trailers.
func (c *ClientConn) headers(f *http2.HeadersFrame) error {
	c.mu.Lock()
	st := c.calls[f.StreamID]
	use := forNobody
	var err error
	switch {
	case st == nil:
		err = c.stray(f.StreamID)
	case st.answered:
		use = forTrailer
	default:
		use = forResponse
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	c.headFor, c.headEnd = f.StreamID, f.StreamEnded()
	c.head.Reset(c.head.Buffer()[:0])
	c.block.begin(use, &c.head)
	return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

// fragment takes a piece of the field block, and acts on a complete one.
func (c *ClientConn) fragment(p []byte, last bool) error {
	if len(p) == 0 && !last {
		if err := c.charge(abuse.Empty); err != nil {
			return err
		}
	}
	if err := c.block.write(p, last); err != nil || !last {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.headFor
	c.headFor = 0
	st := c.calls[id]
	if st == nil {
		return nil
	}
	if c.block.tooLarge {
		c.malformed(st, errTooLarge)
		return nil
	}
	if c.block.bad != "" || !c.field(st) {
		c.malformed(st, errMalformed)
	}
	return nil
}

// malformed fails a call for what the backend sent; mu is held.
func (c *ClientConn) malformed(st *call, err error) {
	if why := c.block.bad; why != "" {
		err = errors.New(why)
	}
	st.broke(&exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendMalformed, Err: err}, http2.ErrCodeProtocol)
	c.spoke = true
}

// field gives a complete field section to its call; false: it is malformed. mu
// is held.
func (c *ClientConn) field(st *call) bool {
	st.movedAt = c.clock.Now()
	if st.answered {
		if st.remoteEnd || !c.headEnd || st.declared >= 0 && st.received != st.declared {
			return false
		}
		st.trailer, c.head = c.head, st.trailer
		st.remoteEnd = true
		st.reader.Broadcast()
		return true
	}
	s := c.block.status
	if len(s) != 3 || s[0] < '1' || s[0] > '9' || !isDigit(s[1]) || !isDigit(s[2]) {
		return false
	}
	status := int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	if status < 200 {
		return status != 101 && !c.headEnd && c.interim(st, status) // RFC 9113, 8.6
	}
	st.announced = c.block.length
	if st.x.Method != "HEAD" && status != 304 {
		st.declared = c.block.length
		if c.headEnd && st.declared > 0 {
			return false
		}
	} else {
		st.declared = -1
	}
	st.status, st.answered, st.remoteEnd = status, true, c.headEnd
	c.head, st.head = st.head, c.head
	c.head.Reset(st.memory[:0])
	st.memory = nil
	st.reader.Broadcast()
	st.copied.Broadcast()
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// interim takes a 1xx response; mu is held.
func (c *ClientConn) interim(st *call, status int) bool {
	if st.interimN++; st.interimN > maxInterim {
		return false
	}
	if status == 100 {
		st.continued = true
		st.copied.Broadcast()
		return true
	}
	st.interims = append(st.interims, interim{status: status, head: c.head})
	c.head = exchange.Head{}
	st.reader.Broadcast()
	return true
}
