package h1

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestTrailersFollowEdits: what the gateway sets or removes in a head can't be
// brought back behind the body, by either side.
func TestTrailersFollowEdits(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	b := rawBackend(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		var all strings.Builder
		for !strings.HasSuffix(all.String(), "\r\n0\r\n\r\n") && !strings.Contains(all.String(), "X-Last") {
			line, err := br.ReadString('\n')
			all.WriteString(line)
			if err != nil {
				break
			}
		}
		seen <- all.String()
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Secret: s3cret\r\nX-Sum: 1\r\n\r\n")
	})
	addr, _ := proxy(t, b, func(_ *FrontConfig, h *forwarder) {
		h.before = func(x *exchange.Exchange) {
			x.RequestEdits.Set("X-User", "alice")
			x.RequestEdits.Remove("X-Internal")
			x.ResponseEdits.Remove("X-Secret")
		}
	})
	got := exchangeRaw(t, addr, "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"+
		"x-user: mallory\r\nX-Internal: yes\r\nX-Forwarded-Client-Cert: forged\r\nX-Forwarded-For: 127.0.0.1\r\nX-Sum: 7\r\nX-Last: 1\r\n\r\n")
	sent := <-seen
	for _, bad := range []string{"mallory", "X-Internal", "forged", "127.0.0.1"} {
		if strings.Contains(sent, bad) {
			t.Errorf("the backend got %q:\n%s", bad, sent)
		}
	}
	if !strings.Contains(sent, "X-Sum: 7") {
		t.Errorf("the harmless trailer is missing:\n%s", sent)
	}
	if strings.Contains(got, "s3cret") || !strings.Contains(got, "X-Sum: 1") {
		t.Errorf("answer:\n%s", got)
	}
}

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

// TestTLSClientLeaves: a client's goodbye over TLS, unread in the socket, isn't
// taken for bytes of a request.
func TestTLSClientLeaves(t *testing.T) {
	t.Parallel()
	cert := testCertificate(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := startSweeper(t)
		entered, gone := make(chan struct{}), make(chan bool, 1)
		f := NewFront(testConfig(s, handlerFunc(func(x *exchange.Exchange) {
			if x.Front.Gone(x) {
				t.Error("gone too early")
			}
			close(entered)
			left := false
			for end := time.Now().Add(2 * time.Second); !left && time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
				left = x.Front.Gone(x)
			}
			gone <- left
			x.Reply(200, "", nil)
			_ = x.Front.Respond(x)
		})))
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			tc := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}})
			if err := tc.Handshake(); err != nil {
				t.Error(err)
			}
			f.ServeConn(tc, &exchange.Conn{Scheme: "https"}, nil)
		}()
		nc, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-entered
		_ = nc.Close()
		if !<-gone {
			t.Errorf("TLS %x: Gone stays false after the client has left", version)
		}
		_ = ln.Close()
		<-served
		f.Close()
	}
}
