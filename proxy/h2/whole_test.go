package h2

import (
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// TestWholeResponseStands: a response that came as a whole is given on as a
// whole, whatever the backend does before anybody has read it.
func TestWholeResponseStands(t *testing.T) {
	tests := []struct {
		name string
		then func(fr *http2.Framer, block func(...string) []byte)
	}{
		{"end of connection", func(*http2.Framer, func(...string) []byte) {}},
		{"reset", func(fr *http2.Framer, _ func(...string) []byte) { fr.WriteRSTStream(1, http2.ErrCodeNo) }},
		{"reset with an error", func(fr *http2.Framer, _ func(...string) []byte) { fr.WriteRSTStream(1, http2.ErrCodeInternal) }},
		{"going away", func(fr *http2.Framer, _ func(...string) []byte) { fr.WriteGoAway(1, http2.ErrCodeNo, nil) }},
		{"broken frame", func(fr *http2.Framer, _ func(...string) []byte) { fr.WriteRawFrame(http2.FramePing, 0, 0, []byte("x")) }},
		{"more data", func(fr *http2.Framer, _ func(...string) []byte) { fr.WriteData(1, true, []byte("more")) }},
		{"another head", func(fr *http2.Framer, block func(...string) []byte) {
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block(":status", "404")})
		}},
		{"too large a window", func(fr *http2.Framer, _ func(...string) []byte) {
			fr.WriteWindowUpdate(1, maxWindow)
		}},
	}
	for _, tt := range tests {
		for _, upload := range []bool{false, true} {
			for _, trailers := range []bool{false, true} {
				name := tt.name
				if upload {
					name += ", uploading"
				}
				if trailers {
					name += ", trailers"
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { wholeResponse(t, upload, trailers, tt.then) })
				})
			}
		}
	}
}

func wholeResponse(t *testing.T, upload, trailers bool, then func(*http2.Framer, func(...string) []byte)) {
	in := speech("", func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(":status", "200")})
		fr.WriteData(1, !trailers, []byte("whole"))
		if trailers {
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block("x-t", "1")})
		}
		then(fr, block)
	})
	nc := newQuietPeer(nil)
	c, err := NewClientConn(nc, &ClientConfig{Sweeper: sweep.New()})
	if err != nil {
		t.Fatal(err)
	}
	x := newExchange("POST", "/")
	if upload {
		x.RequestBody, x.RequestLength = newEndless(), -1
	}
	var fault *exchange.Fault
	done := make(chan string)
	// The connection's lock keeps the response from being read before all has
	// been said.
	go func() {
		_, f, body := trip(c, x)
		fault = f
		done <- body
	}()
	synctest.Wait()
	nc.say(in)
	nc.leave()
	if body := <-done; fault != nil || body != "whole" {
		t.Errorf("body %q, %v", body, fault)
	}
	if trailers && x.ResponseTrailer.Len() != 1 {
		t.Errorf("%d trailers", x.ResponseTrailer.Len())
	}
	_ = c.Close()
}

// endless is a request body that never ends.
type endless struct{ closed chan struct{} }

func newEndless() *endless { return &endless{make(chan struct{})} }

func (e *endless) Read([]byte) (int, error) {
	<-e.closed
	return 0, errBodyClosed
}

func (e *endless) Next() ([]byte, bool) { return nil, false }

func (e *endless) Close() error {
	select {
	case <-e.closed:
	default:
		close(e.closed)
	}
	return nil
}
