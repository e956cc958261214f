package h2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// script is a connection whose peer says all it has to say, listens, and leaves.
type script struct {
	net.Conn // nil: what isn't here isn't called

	mu      sync.Mutex
	changed sync.Cond
	in, out []byte
	stop    bool
	woken   bool
}

func newScript(in []byte) *script {
	s := &script{in: in}
	s.changed.L = &s.mu
	return s
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.woken:
		return 0, os.ErrDeadlineExceeded
	case len(s.in) == 0 || s.stop:
		return 0, io.EOF
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop {
		return 0, net.ErrClosed
	}
	s.out = append(s.out, p...)
	s.changed.Broadcast()
	return len(p), nil
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = true
	s.changed.Broadcast()
	return nil
}

func (s *script) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = !t.IsZero() && t.Before(time.Now())
	s.changed.Broadcast()
	return nil
}
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }

// speech returns the bytes of frames that write makes.
func speech(preface string, write func(fr *http2.Framer, block func(fields ...string) []byte)) []byte {
	var b, hb bytes.Buffer
	b.WriteString(preface)
	fr := http2.NewFramer(&b, nil)
	fr.AllowIllegalWrites = true
	enc := hpack.NewEncoder(&hb)
	write(fr, func(fields ...string) []byte {
		hb.Reset()
		for i := 0; i+1 < len(fields); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return bytes.Clone(hb.Bytes())
	})
	return b.Bytes()
}

// checkFrames fails when b isn't a sequence of frames that x/net accepts.
func checkFrames(t *testing.T, b []byte) {
	t.Helper()
	fr := http2.NewFramer(io.Discard, bytes.NewReader(b))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		if _, err := fr.ReadFrame(); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("wrote %x: %v", b, err)
			}
			return
		}
	}
}

// FuzzFront gives a front whatever a client may send behind the preface.
// Whatever it is, the connection ends, and all that went out are frames.
func FuzzFront(f *testing.F) {
	f.Add(speech("", func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/", "cookie", "a=1", "cookie", "b=2", "te", "trailers")})
		fr.WriteData(1, false, []byte("hello, some data"))
		fr.WriteWindowUpdate(1, 100)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block("x-trailer", "y")})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndStream: true, BlockFragment: block(":method", "GET", ":scheme", "http")})
		fr.WriteContinuation(3, true, block(":authority", "a", ":path", "/b"))
		fr.WritePing(false, [8]byte{1})
		fr.WriteRSTStream(3, http2.ErrCodeCancel)
		fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	}))
	f.Add(speech("", func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/")})
		fr.WriteDataPadded(1, true, []byte("x"), make([]byte, 8))
		fr.WritePriority(5, http2.PriorityParam{StreamDep: 1})
		fr.WriteRawFrame(0x55, 3, 7, []byte("what"))
		fr.WriteSettingsAck()
	}))
	sw := sweep.New()
	front := NewFront(FrontConfig{Sweeper: sw, MaxHeaders: 1000, Handler: handlerFunc(echo)})
	f.Cleanup(front.Close)
	f.Fuzz(func(t *testing.T, in []byte) {
		nc := newScript(in)
		front.ServeConn(nc, &exchange.Conn{Scheme: "http"}, []byte(http2.ClientPreface))
		checkFrames(t, nc.out)
	})
}

// FuzzSilence gives a front what it may be given, and then nothing: whatever it
// was, the connection ends when its time is up.
func FuzzSilence(f *testing.F) {
	f.Add([]byte(http2.ClientPreface[:10]))
	f.Add(speech(http2.ClientPreface, func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/")})
		fr.WriteData(1, false, []byte("some"))
	}))
	f.Add(speech(http2.ClientPreface, func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/")})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block(":method", "GET")})
	}))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			sw := sweep.New()
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { sw.Run(ctx) })
			front := NewFront(FrontConfig{
				Sweeper: sw, MaxHeaders: 1000, Handler: handlerFunc(echo),
				HeaderTimeout: 2 * time.Second, StallTimeout: 2 * time.Second, IdleTimeout: 2 * time.Second,
			})
			nc := newQuietPeer(in)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				front.ServeConn(nc, &exchange.Conn{Scheme: "http"}, nil)
			}()
			time.Sleep(20 * time.Second) // of the bubble's
			select {
			case <-ended:
			default:
				t.Errorf("still there after 20 s")
			}
			front.Close()
			cancel()
			wg.Wait()
			checkFrames(t, nc.out)
		})
	})
}

// FuzzClient gives a client whatever a backend may answer.
func FuzzClient(f *testing.F) {
	f.Add(speech("", func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(":status", "103", "link", "x")})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(":status", "200", "content-length", "4")})
		fr.WriteData(1, false, []byte("body"))
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block("grpc-status", "0")})
		fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	}))
	f.Add(speech("", func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		fr.WriteWindowUpdate(1, 5)
		fr.WritePing(false, [8]byte{1})
		fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)
	}))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) { answerClient(t, in) })
	})
}

// answerClient has a backend say in, whatever is asked, and then keep silent.
// Two requests go out; both end, if not before then when time is up, nothing is
// left of them, and all that went out are frames.
func answerClient(t *testing.T, in []byte) {
	sw := sweep.New()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { sw.Run(ctx) })
	nc := newQuietPeer(nil)
	c, err := NewClientConn(nc, &ClientConfig{Sweeper: sw, MaxHeaders: 1000, FirstByte: 10 * time.Second, Idle: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		wg.Go(func() {
			x := newExchange("POST", "/a/path")
			if n == 0 {
				x.RequestLength = 100
				x.RequestBody = exchange.Bytes(make([]byte, 100))
			}
			_, _, _ = trip(c, x)
		})
		synctest.Wait() // the request has gone out
	}
	nc.say(in)
	time.Sleep(time.Minute) // of the bubble's
	c.mu.Lock()
	calls, reserved := len(c.calls), c.reserved
	c.mu.Unlock()
	if calls > 0 || reserved != 0 {
		t.Errorf("%d calls and %d slots are left", calls, reserved)
	}
	_ = c.Close()
	cancel()
	wg.Wait()
	checkFrames(t, bytes.TrimPrefix(nc.out, []byte(http2.ClientPreface)))
}
