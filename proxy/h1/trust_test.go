package h1

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// panicking is a body that panics after its first bytes, as a policy's wrapper
// of a body might.
type panicking struct{ exchange.Body }

func (panicking) Next() ([]byte, bool)     { return []byte("half"), false }
func (panicking) Read([]byte) (int, error) { panic("in the middle") }
func (panicking) Close() error             { return nil }

// TestPanicCutsTheConnection: behind half a response nothing may follow.
func TestPanicCutsTheConnection(t *testing.T) {
	t.Parallel()
	s := startSweeper(t)
	h := handlerFunc(func(x *exchange.Exchange) {
		defer func() { _ = recover() }() // the gateway's handler recovers, too
		x.Reply(200, "text/plain", []byte("whole"))
		if x.RawTarget == "/half" {
			x.ResponseBody, x.ResponseLength = panicking{}, 8
		}
		_ = x.Front.Respond(x)
	})
	addr := startFront(t, NewFront(testConfig(s, h)))
	got := exchangeRaw(t, addr, "GET /half HTTP/1.1\r\nHost: h\r\n\r\nGET /whole HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	if strings.Count(got, "HTTP/1.1") > 1 {
		t.Errorf("a response follows half of one:\n%s", got)
	}
}

// TestExpectSlowUpload: the limit on the first byte of the response begins with
// the request's end, also after 100 (Continue).
func TestExpectSlowUpload(t *testing.T) {
	t.Parallel()
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	addr, _ := proxy(t, b, func(_ *FrontConfig, h *forwarder) { h.cfg.FirstByte = 200 * time.Millisecond })
	nc := dial(t, addr)
	br := bufio.NewReader(nc)
	fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n")
	if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("first line = %q", line)
	}
	for i := range 8 {
		time.Sleep(100 * time.Millisecond) // the slowness is what is tested
		if _, err := nc.Write([]byte{byte('0' + i)}); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := io.ReadAll(br)
	if !strings.Contains(string(got), "HTTP/1.1 200") || !strings.HasSuffix(string(got), "01234567") {
		t.Errorf("answer = %q", got)
	}
}
