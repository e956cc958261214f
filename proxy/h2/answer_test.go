//lint:file-ignore SA1019 x/net's own client is the reference here

package h2

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// response is what a client got.
type response struct {
	Status  int
	Fields  http.Header
	Body    string
	Trailer http.Header
}

// oursFrom has our client ask, and a backend say in; nil: no whole response.
func oursFrom(t *testing.T, in []byte, method string) *response {
	sw := sweep.New()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { sw.Run(ctx) })
	nc := newQuietPeer(nil)
	c, err := NewClientConn(nc, &ClientConfig{Sweeper: sw, FirstByte: 5 * time.Second, Idle: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var got *response
	wg.Go(func() {
		x := newExchange(method, "/")
		if _, f, body := trip(c, x); f == nil {
			got = &response{x.Status, headOf(&x.Response), body, headOf(&x.ResponseTrailer)}
		}
	})
	synctest.Wait()
	nc.say(in)
	time.Sleep(20 * time.Second) // of the bubble's
	c.mu.Lock()
	calls := len(c.calls)
	c.mu.Unlock()
	if calls > 0 {
		t.Errorf("%d calls are left", calls)
	}
	_ = c.Close()
	cancel()
	wg.Wait()
	return got
}

// theirsFrom has x/net's do so.
func theirsFrom(t *testing.T, in []byte, method string) (*response, error) {
	nc := newQuietPeer(nil)
	tr := &http2.Transport{AllowHTTP: true, DisableCompression: true}
	cc, err := tr.NewClientConn(nc)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost/", nil)
	if err != nil {
		t.Fatal(err)
	}
	var got *response
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() {
		res, err := cc.RoundTrip(req)
		if err != nil {
			failed = err
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		got, failed = &response{res.StatusCode, res.Header, string(b), res.Trailer}, err
	})
	synctest.Wait()
	nc.say(in)
	time.Sleep(20 * time.Second) // of the bubble's
	_ = nc.Close()
	_ = cc.Close()
	wg.Wait()
	synctest.Wait()
	return got, failed
}

// answer builds what a backend says to one request out of a fuzzer's bytes.
func answer(data []byte) []byte {
	c := &choices{data}
	return speech("", func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		for n := 0; len(c.b) > 0 && n < 32; n++ {
			head := []string{":status", pick(c, "200", "200", "204", "304", "404", "103", "100", "101", "99", "2000", "")}
			for range c.n(5) {
				name := pick(c, "x-a", "set-cookie", "content-length", "content-length", "trailer", "x_b", "date", "X-C", ":status", "connection", "te", "")
				value := pick(c, "3", "3", "1", "x-t", "", " x", "?")
				if name == "" {
					name = c.text()
				}
				if value == "?" {
					value = c.text()
				}
				head = append(head, name, value)
			}
			b := block(head...)
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b, EndHeaders: true, EndStream: c.n(4) == 3, PadLength: uint8(c.n(3))})
			for k := c.n(4); k > 0; k-- {
				fr.WriteData(1, k == 1 && c.n(2) == 0, []byte(pick(c, "abc", "a", "", "0123456789")))
			}
			if c.n(4) == 3 {
				b := block(pick(c, "x-t", "grpc-status", "x_v", "content-length", ":status", "X-T"), pick(c, "1", "3"))
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b, EndHeaders: true, EndStream: c.n(8) != 7})
			}
			switch c.n(16) {
			case 15:
				fr.WriteGoAway(uint32(c.n(3)), http2.ErrCode(c.n(14)), nil)
			case 14:
				fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: b, EndHeaders: true})
			case 13:
				fr.WriteRSTStream(uint32(c.n(4)), http2.ErrCode(c.n(14)))
			}
			c.other(fr, 1, n)
		}
	})
}

// FuzzAnswer holds our client against x/net's: a response that it takes as
// whole, x/net's does, too, and it is the same. The differences:
//
//   - x/net ends the connection, and the request with it, for a SETTINGS
//     acknowledgement too many, for a second SETTINGS that it finds wrong, and
//     for a GOAWAY with an error though the response is under way (RFC 9113,
//     6.5.3 and 6.8).
//   - What follows the head of an answer that has no content isn't read here
//     (RFC 9110, 6.4.1).
//   - A response that came as a whole before the stream was reset counts here
//     (RFC 9113, 8.1).
func FuzzAnswer(f *testing.F) {
	seed := uint32(7)
	for n := range 60 {
		data := make([]byte, 10+4*n)
		for i := range data {
			seed = seed*1664525 + 1013904223
			data[i] = byte(seed >> 24)
		}
		f.Add(data, n%4 == 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, head bool) {
		in, method := answer(data), "GET"
		if head {
			method = "HEAD"
		}
		synctest.Test(t, func(t *testing.T) {
			ours := oursFrom(t, in, method)
			if ours == nil {
				return
			}
			theirs, err := theirsFrom(t, in, method)
			if none := head || ours.Status == 204 || ours.Status == 304; none && (theirs == nil || err != nil) {
				return
			} else if none {
				theirs.Body, theirs.Trailer = "", nil
			}
			if err != nil {
				t.Fatalf("we take %+v, x/net doesn't: %v\n%s", ours, err, describe(in))
			}
			compareAnswers(t, theirs, ours, in)
		})
	})
}

func compareAnswers(t *testing.T, theirs, ours *response, in []byte) {
	theirs.Fields.Del("Trailer")
	theirs.Trailer.Del("Content-Length") // RFC 9110, 6.5.1: framing doesn't trail
	theirs.Trailer.Del("Host")
	ours.Fields.Del("Trailer")
	for _, h := range []*response{theirs, ours} {
		if h.Trailer == nil {
			h.Trailer = http.Header{}
		}
		for name, values := range h.Trailer {
			if values == nil {
				h.Trailer.Del(name) // announced, didn't come
			}
		}
	}
	if d := cmp.Diff(*theirs, *ours); d != "" {
		t.Fatalf("x/net reads this (-), we that (+):\n%s\n%s", d, strings.TrimSpace(fmt.Sprint(describe(in))))
	}
}
