package h2

import (
	"testing"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestTrailersFollowEdits: what the gateway sets or removes in a head can't be
// brought back behind the body.
func TestTrailersFollowEdits(t *testing.T) {
	noLeaks(t)
	for _, whole := range []bool{true, false} {
		p, c := fake(t, &ClientConfig{})
		x := newExchange("POST", "/")
		x.RequestLength, x.RequestBody = -1, exchange.Bytes([]byte("body"))
		if !whole {
			x.RequestBody = readOnly{x.RequestBody}
		}
		for _, name := range []string{"X-User", "x-internal", "x-forwarded-client-cert", "x-forwarded-for", "authorization", "cookie"} {
			x.RequestTrailer.Append(name, "mallory")
		}
		x.RequestTrailer.Append("x-sum", "7")
		x.RequestEdits.Set("X-User", "alice")
		x.RequestEdits.Remove("X-Internal")
		got := make(chan map[string]string, 1)
		go func() {
			id := p.awaitRequest()
			p.until(func(f http2.Frame) bool {
				h, ok := f.(*http2.MetaHeadersFrame)
				if !ok {
					return false
				}
				all := map[string]string{}
				for _, field := range h.Fields {
					all[field.Name] = field.Value
				}
				got <- all
				return true
			})
			p.headers(id, true, ":status", "200")
		}()
		if _, f, _ := trip(c, x); f != nil {
			t.Fatal(f)
		}
		if all := <-got; len(all) != 1 || all["x-sum"] != "7" {
			t.Errorf("whole %v: the backend's trailers are %v, want x-sum alone", whole, all)
		}
	}
}

// readOnly is a body of which nothing is in memory.
type readOnly struct{ exchange.Body }

func (readOnly) Next() ([]byte, bool) { return nil, false }

// TestResponseTrailersFollowEdits is the same for what comes back.
func TestResponseTrailersFollowEdits(t *testing.T) {
	noLeaks(t)
	s := serve(t, FrontConfig{Handler: handlerFunc(func(x *exchange.Exchange) {
		x.Reply(200, "text/plain", []byte("ok"))
		x.ResponseLength = -1
		x.ResponseEdits.Remove("X-Secret")
		x.ResponseTrailer.Append("x-secret", "s3cret")
		x.ResponseTrailer.Append("grpc-status", "0")
	})}, false)
	p := dialRaw(t, s)
	p.request(1, "/")
	heads := 0
	p.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if ok {
			heads++
		}
		if heads < 2 {
			return false
		}
		if len(h.Fields) != 1 || h.Fields[0].Name != "grpc-status" {
			t.Errorf("trailers = %v, want grpc-status alone", h.Fields)
		}
		return true
	})
}

// TestHeadTellsLength: fronts of other protocols write what ResponseLength says.
func TestHeadTellsLength(t *testing.T) {
	noLeaks(t)
	for _, tt := range []struct {
		fields []string
		want   int64
	}{{[]string{":status", "200", "content-length", "1234"}, 1234}, {[]string{":status", "200"}, -1}} {
		p, c := fake(t, &ClientConfig{})
		go func() { p.headers(p.awaitRequest(), true, tt.fields...) }()
		x := newExchange("HEAD", "/")
		if _, f, _ := trip(c, x); f != nil || x.ResponseLength != tt.want || x.ResponseBody != nil {
			t.Errorf("HEAD answered with %v: length %d, body %v, %v; want %d", tt.fields, x.ResponseLength, x.ResponseBody, f, tt.want)
		}
	}
}

// TestOddResponseFields: names with _ or . are only a danger in requests.
func TestOddResponseFields(t *testing.T) {
	noLeaks(t)
	p, c := fake(t, &ClientConfig{})
	go func() {
		p.headers(p.awaitRequest(), true, ":status", "200", "x_custom", "1", "x.y", "2")
	}()
	x := newExchange("GET", "/")
	if _, f, _ := trip(c, x); f != nil {
		t.Fatal(f)
	}
	for i := range x.Response.Len() {
		if name, _ := x.Response.Field(i); x.Response.Dropped(i) {
			t.Errorf("%s was dropped", name)
		}
	}
}
