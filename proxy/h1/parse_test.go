package h1

import (
	"io"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

var noDeadline time.Time

var requestSeeds = []string{
	"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
	browserRequest,
	"\r\nGET /a?b HTTP/1.0\r\n\r\nrest",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nrest",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA:\t b \t\r\nB:\r\n\r\n",
	"GET http://h/x HTTP/1.1\r\nHost: h\r\nConnection: a, close\r\nA: 1\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
	"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
}

var responseSeeds = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200\r\n\r\nuntil the end",
	"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\nx",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
}

func TestLikeNetHTTP(t *testing.T) {
	for _, in := range requestSeeds {
		compareRequest(t, []byte(in), []byte{0})
	}
	for _, in := range responseSeeds {
		compareResponse(t, []byte(in), "GET", []byte{0})
		compareResponse(t, []byte(in), "HEAD", []byte{0})
	}
}

// TestCutAnywhere cuts each seed once, at every place.
func TestCutAnywhere(t *testing.T) {
	for _, in := range requestSeeds {
		for i := range min(len(in), 256) {
			compareRequest(t, []byte(in), []byte{byte(i), 255})
		}
	}
	for _, in := range responseSeeds {
		for i := range min(len(in), 256) {
			compareResponse(t, []byte(in), "GET", []byte{byte(i), 255})
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, in := range requestSeeds {
		f.Add([]byte(in), []byte{0})
		f.Add([]byte(in), []byte{6, 0, 40})
	}
	f.Fuzz(compareRequest)
}

func FuzzResponse(f *testing.F) {
	for _, in := range responseSeeds {
		f.Add([]byte(in), true, []byte{0})
		f.Add([]byte(in), false, []byte{6, 0, 40})
	}
	f.Fuzz(func(t *testing.T, in []byte, head bool, cuts []byte) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		compareResponse(t, in, method, cuts)
	})
}

// FuzzChunked reads a chunked body in memory, by Next and Read in turns.
func FuzzChunked(f *testing.F) {
	for _, in := range []string{
		"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "1;a=b\r\nx\r\n0\r\nA: b\r\n\r\nrest", "00a\r\n0123456789\r\n0\r\n\r\n",
		"fffffffffffffff\r\n", "1\r\nab\r\n", "1\nx\n0\n\n", "-1\r\n", "3 \r\nabc\r\n0\r\n\r\n",
	} {
		f.Add([]byte(in), []byte{10})
	}
	const head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		in = append([]byte(head), in...)
		compareRequest(t, in, cuts)
		whole, fault, _ := ourRequest(in)
		var got []byte
		var failed bool
		front := NewFront(testConfig(sweep.New(), handlerFunc(func(x *exchange.Exchange) {
			defer x.Front.(*conn).w.fail(exchange.NewFault(exchange.FromInternal, exchange.Internal, "one is enough"))
			if x.Fault != nil || x.RequestBody == nil {
				return
			}
			buf := make([]byte, 5)
			for {
				b, done := x.RequestBody.Next()
				if got = append(got, b...); done {
					return
				}
				n, err := x.RequestBody.Read(buf)
				got = append(got, buf[:n]...)
				if err == io.EOF {
					return
				}
				if err != nil {
					failed = true
					return
				}
			}
		})))
		front.ServeConn(newScript(in, cuts...), &exchange.Conn{}, nil)
		if failed != (fault != nil) || whole != nil && string(got) != whole.Body {
			t.Errorf("by Next and Read: %q, failed %v; by Read: %v, %v", got, failed, whole, fault)
		}
	})
}
