package h2

import (
	"io"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// tunnel is the backend's side of a websocket. Read and Write may be called by
// two goroutines, Close by any, more than once; the call is not used again,
// since nobody knows when the last of them is done.
type tunnel struct{ st *call }

var _ io.ReadWriteCloser = (*tunnel)(nil)

// Read implements io.Reader.
func (t *tunnel) Read(p []byte) (int, error) {
	st := t.st
	st.l.mu.Lock()
	n, err := st.read(p)
	st.movedAt = st.l.clock.Now()
	st.l.flush()
	return n, err
}

// Write implements io.Writer.
func (t *tunnel) Write(p []byte) (int, error) {
	st := t.st
	st.l.mu.Lock()
	err := st.send(p, false)
	st.movedAt = st.l.clock.Now()
	st.l.flush()
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the stream, and resets it when the backend hasn't ended it, too.
func (t *tunnel) Close() error {
	st := t.st
	l := st.l
	l.mu.Lock()
	code := http2.ErrCodeCancel
	if st.err == nil && l.err == nil && !st.localEnd {
		l.out = appendFrameHeader(l.room(frameHeader), 0, http2.FrameData, http2.FlagDataEndStream, st.id)
		st.localEnd = true
	}
	if st.remoteEnd {
		code = 0
	}
	st.breakWith(&exchange.Fault{Source: exchange.FromInternal, Kind: exchange.Internal, Err: errBodyClosed}, code)
	st.over()
	l.flush()
	return nil
}
