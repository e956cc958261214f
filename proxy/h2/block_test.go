package h2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// decode takes a field block as a stream's, in fragments of the given sizes.
func decode(raw []byte, use purpose, cuts []byte) (*block, *exchange.Head, error) {
	b := &block{}
	b.init(newDecoder(1000), 1000, 20)
	b.reply = use == forResponse
	h := &exchange.Head{}
	b.begin(use, h)
	for i := 0; ; i++ {
		n := len(raw)
		if len(cuts) > 0 && i < maxContinuations-1 {
			n = min(n, int(cuts[i%len(cuts)]))
		}
		if err := b.write(raw[:n], n == len(raw)); err != nil || n == len(raw) {
			return b, h, err
		}
		raw = raw[n:]
	}
}

// obeys says what of RFC 9113, 8.2 and 8.3, a head that was taken breaks.
func obeys(b *block, h *exchange.Head) error {
	var hosts, lengths int
	for i := range h.Len() {
		name, value := h.Field(i)
		switch {
		case !httpguts.ValidHeaderFieldName(name) || name != strings.ToLower(name):
			return fmt.Errorf("name %q", name)
		case !httpguts.ValidHeaderFieldValue(value) || strings.Trim(value, " \t") != value:
			return fmt.Errorf("value %q", value)
		case h.ID(i).HopByHop() && name != "te" && name != "trailer" && name != "http2-settings" && !strings.HasPrefix(name, "proxy-auth"):
			return fmt.Errorf("field %q", name)
		case name == "te" && !strings.EqualFold(value, "trailers"):
			return fmt.Errorf("te: %q", value)
		case name == "host":
			hosts++
		case name == "content-length":
			lengths++
		case strings.ContainsAny(name, "_.") && !b.reply && !h.Dropped(i):
			return fmt.Errorf("name %q passes", name)
		}
	}
	switch {
	case hosts > 1 || lengths > 1:
		return fmt.Errorf("%d hosts, %d lengths", hosts, lengths)
	case b.use == forRequest && b.status != "", b.use == forResponse && b.method+b.path+b.scheme+b.authority+b.protocol != "":
		return fmt.Errorf("pseudo-fields of the other direction")
	case b.use == forTrailer && b.method+b.path+b.scheme+b.authority+b.protocol+b.status != "":
		return fmt.Errorf("pseudo-fields in trailers")
	}
	return nil
}

// FuzzBlock decodes field blocks. What is taken obeys the rules, x/net takes it,
// too, and where frames are cut makes no difference.
func FuzzBlock(f *testing.F) {
	for _, fields := range [][]string{
		{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "cookie", "a=b", "cookie", "c=d", "x-a", "b"},
		{":method", "POST", ":path", "/", "content-length", "3", "te", "trailers", "host", "a"},
		{":status", "200", "content-length", "3", "set-cookie", "a", "x_a", "b"},
		{"grpc-status", "0", "x-t", "1"},
		{"x-a", "1", ":path", "/"},
		{"X-A", "1", "connection", "close", "", ""},
	} {
		speech("", func(_ *http2.Framer, block func(...string) []byte) {
			raw := block(fields...)
			for use := forRequest; use <= forTrailer; use++ {
				f.Add(raw, byte(use), []byte{3, 0, 200})
			}
		})
	}
	f.Fuzz(func(t *testing.T, raw []byte, use byte, cuts []byte) {
		p := forRequest + purpose(use)%3
		b, h, err := decode(raw, p, nil)
		b2, h2, err2 := decode(raw, p, cuts)
		if (err == nil) != (err2 == nil) && err2 != errFlood || err == nil && err2 == nil && (b.bad != b2.bad || b.tooLarge != b2.tooLarge || fmt.Sprint(headOf(h)) != fmt.Sprint(headOf(h2))) {
			t.Fatalf("at once %v %q %v, cut %v %q %v", headOf(h), b.bad, err, headOf(h2), b2.bad, err2)
		}
		if err != nil || b.bad != "" || b.tooLarge {
			return
		}
		if err := obeys(b, h); err != nil {
			t.Fatal(err)
		}
		var frame bytes.Buffer
		fr := http2.NewFramer(&frame, &frame)
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: raw, EndHeaders: true}) // to memory
		fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		if _, err := fr.ReadFrame(); err != nil {
			t.Fatalf("x/net: %v: %v", err, headOf(h))
		}
	})
}
