package h1

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
)

// plainBackend answers each request head with the same bytes and allocates
// nothing meanwhile.
func plainBackend(tb testing.TB, answer string) string {
	return rawBackend(tb, func(nc net.Conn) {
		buf, out, end := make([]byte, 16<<10), []byte(answer), []byte("\r\n\r\n")
		n := 0
		for {
			m, err := nc.Read(buf[n:])
			if err != nil {
				return
			}
			if n += m; bytes.HasSuffix(buf[:n], end) {
				n = 0
				if _, err := nc.Write(out); err != nil {
					return
				}
			}
		}
	})
}

const browserRequest = "GET /index.html?q=1 HTTP/1.1\r\nHost: www.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\nCookie: sid=0123456789abcdef0123456789abcdef\r\n" +
	"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nCache-Control: max-age=0\r\nConnection: keep-alive\r\n\r\n"

const plainAnswer = "HTTP/1.1 200 OK\r\nServer: x\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n\r\n" +
	"012345678901234567890123456789012345678901234"

// step sends a request and reads its answer of n bytes.
func step(tb testing.TB, nc net.Conn, request, buf []byte) {
	if _, err := nc.Write(request); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(nc, buf); err != nil {
		tb.Fatal(err)
	}
}

func answerSize(tb testing.TB, nc net.Conn, request, bodyEnd string) int {
	if _, err := io.WriteString(nc, request); err != nil {
		tb.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n := 0
	for !strings.HasSuffix(string(buf[:n]), bodyEnd) {
		m, err := nc.Read(buf[n:])
		if err != nil {
			tb.Fatal(err)
		}
		n += m
	}
	return n
}

func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools forget at random")
	}
	chunkedAnswer := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	tests := []struct{ name, request, answer, end string }{
		{"GET", browserRequest, plainAnswer, "01234"},
		{"chunked", browserRequest, chunkedAnswer, "0\r\n\r\n"},
		{"POST", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\r\n\r\n", plainAnswer, "01234"},
		{"trailers", browserRequest, strings.Replace(chunkedAnswer, "0\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", 1), "1\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr, _ := proxy(t, plainBackend(t, tt.answer), nil)
			nc := dial(t, addr)
			buf := make([]byte, answerSize(t, nc, tt.request, tt.end))
			request := []byte(tt.request)
			for range 100 {
				step(t, nc, request, buf)
			}
			// The average over many: a collection between may empty the pools.
			if n := testing.AllocsPerRun(2000, func() { step(t, nc, request, buf) }); n != 0 {
				t.Errorf("%v allocations for an exchange, want 0", n)
			}
		})
	}
}

func BenchmarkProxy(b *testing.B) {
	for _, bb := range []struct{ name, request string }{{"small", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"}, {"browser", browserRequest}} {
		b.Run(bb.name, func(b *testing.B) {
			addr, _ := proxy(b, plainBackend(b, plainAnswer), nil)
			nc := dial(b, addr)
			_ = nc.SetDeadline(noDeadline)
			request, buf := []byte(bb.request), make([]byte, answerSize(b, nc, bb.request, "01234"))
			b.ReportAllocs()
			for b.Loop() {
				step(b, nc, request, buf)
			}
		})
	}
}

// TestIdleConnections hold no buffer.
func TestIdleConnections(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector needs memory of its own")
	}
	addr, _ := proxy(t, plainBackend(t, plainAnswer), nil)
	const n = 500
	conns := make([]net.Conn, n)
	before := heap()
	for i := range conns {
		conns[i] = dial(t, addr)
		answerSize(t, conns[i], "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "01234")
	}
	if per := (heap() - before) / n; per > 9<<10 {
		t.Errorf("%d bytes for each idle connection, want less than 9 KiB (the client's side included)", per)
	} else {
		t.Logf("%d bytes for each idle connection, the client's side included", per)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
