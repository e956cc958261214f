package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// seen is a request as the backend saw it.
type seen struct {
	Host   string
	Header http.Header
}

// mirror is a backend that tells the request's fields.
func mirror(w http.ResponseWriter, r *http.Request) {
	_ = json.NewEncoder(w).Encode(seen{r.Host, r.Header})
}

func seenIn(t *testing.T, body string) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	return s
}

// TestPipelining: the answers come in the order of the requests (RFC 9112, 9.3.2).
func TestPipelining(t *testing.T) {
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.URL.Path, b)
	}))).start(t)
	for _, host := range []string{"one.test", "two.test"} {
		var all strings.Builder
		const n = 50
		for i := range n {
			body := fmt.Sprintf("body %d", i)
			if i%2 == 0 {
				fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", i, host, len(body), body)
			} else {
				fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", i, host, len(body), body)
			}
		}
		c := g.raw(t)
		if _, err := io.WriteString(c, all.String()); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		for i := range n {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%s: response %d: %v", host, i, err)
			}
			b, err := io.ReadAll(resp.Body)
			if want := fmt.Sprintf("/%d body %d", i, i); err != nil || string(b) != want {
				t.Fatalf("%s: %q, %v, want %q", host, b, err, want)
			}
		}
	}
}

// TestHopByHop: what is meant for the gateway stays there (RFC 9110, 7.6.1).
func TestHopByHop(t *testing.T) {
	g := newGateway(t, twin(t, http.HandlerFunc(mirror))).start(t)
	for _, host := range []string{"one.test", "two.test"} {
		head := "GET / HTTP/1.1\r\nHost: " + host + "\r\n"
		resp, body, err := ask(g.raw(t), head+"Connection: X-Custom, close\r\nX-Custom: a\r\nKeep-Alive: timeout=5\r\n"+
			"Proxy-Connection: keep-alive\r\nTE: gzip;q=0.5, trailers\r\nX-Kept: b\r\n\r\n")
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%v, %v", resp, err)
		}
		h := seenIn(t, body).Header
		for _, name := range []string{"X-Custom", "Keep-Alive", "Proxy-Connection"} {
			if v := h.Values(name); len(v) > 0 {
				t.Errorf("%s got %s: %q", host, name, v)
			}
		}
		if c := h.Values("Connection"); len(c) > 0 && (len(c) > 1 || c[0] != "TE") { // what RFC 9110, 10.1.4 asks for
			t.Errorf("%s got Connection: %q", host, c)
		}
		if te := h.Get("TE"); te != "" && te != "trailers" {
			t.Errorf("%s got TE: %q", host, te)
		}
		if h.Get("X-Kept") != "b" {
			t.Errorf("%s lost a field: %v", host, h)
		}
		for _, name := range []string{"X-Forwarded-For", "Host", "x-forwarded-proto"} {
			resp, body, err := ask(g.raw(t), head+"Connection: close, "+name+"\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			wantProblem(t, resp, body, 400, "malformed-request")
		}
	}
}

var requestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// TestForwardedFields: a client's word on who it is doesn't reach the backend,
// the gateway's does.
func TestForwardedFields(t *testing.T) {
	g := newGateway(t, twin(t, http.HandlerFunc(mirror))).start(t)
	via := map[string]string{"h1": "1.1", "h1 plain": "1.1", "h2": "2", "h2c": "2", "h3": "3"}
	ids := map[string]bool{}
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		r := request(t, t.Context(), "GET", base+"/", nil)
		for _, name := range []string{
			"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Other",
			"Forwarded", "X_Forwarded_For", "X_forwarded-Proto", "X.Forwarded.For", "X-Real-Ip", "X_real_ip", "X-Request-Id",
		} {
			r.Header[name] = []string{"spoof"}
		}
		_, body := do(t, c.Client, r)
		s := seenIn(t, body)
		for name, v := range s.Header {
			if strings.Contains(strings.Join(v, ""), "spoof") {
				t.Errorf("the backend got %s: %q", name, v)
			}
		}
		host := strings.TrimPrefix(base, c.scheme+"://")
		for name, want := range map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": c.scheme, "X-Forwarded-Host": host,
			"Forwarded": "for=127.0.0.1;host=" + host + ";proto=" + c.scheme, "Via": via[c.name] + " sidegate",
		} {
			if got := s.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		id := s.Header.Get("X-Request-Id")
		if !requestID.MatchString(id) || ids[id] {
			t.Errorf("X-Request-Id: %q", id)
		}
		ids[id] = true
		if s.Host != host {
			t.Errorf("Host: %q, want %q", s.Host, host)
		}
	})
}

// webSocket connects over TLS and HTTP/1.1.
func (g *gateway) webSocket(t *testing.T, path string) *websocket.Conn {
	t.Helper()
	ws, err := g.tryWebSocket(t, "one.test"+path)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

func (g *gateway) tryWebSocket(t *testing.T, url string) (*websocket.Conn, error) {
	t.Helper()
	config, err := websocket.NewConfig("wss://"+url, "https://one.test")
	if err != nil {
		t.Fatal(err)
	}
	raw := dialTCP(t, fmt.Sprintf("127.0.0.1:%d", g.https))
	return websocket.NewClient(config, tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: config.Location.Host, NextProtos: []string{"http/1.1"}}))
}

func TestWebSocket(t *testing.T) {
	ended := make(chan error, 1)
	mux := http.NewServeMux()
	mux.Handle("/echo", websocket.Handler(func(c *websocket.Conn) {
		for {
			var b []byte
			err := websocket.Message.Receive(c, &b)
			if err == nil {
				err = websocket.Message.Send(c, b)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}))
	mux.Handle("/bye", websocket.Handler(func(c *websocket.Conn) { _ = websocket.Message.Send(c, "bye") }))
	g := newGateway(t, twin(t, mux)).start(t)

	ws := g.webSocket(t, "/echo")
	for _, want := range [][]byte{[]byte("small"), bytes.Repeat([]byte("0123456789abcdef"), 1<<16), []byte("again")} {
		if err := websocket.Message.Send(ws, want); err != nil {
			t.Fatal(err)
		}
		var got []byte
		if err := websocket.Message.Receive(ws, &got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes of %d came back, %v", len(got), len(want), err)
		}
	}
	_ = ws.Close()
	if err := soon(t, "end at the backend", ended); !errors.Is(err, io.EOF) {
		t.Errorf("the backend's end: %v", err)
	}

	ws = g.webSocket(t, "/bye")
	var got string
	if err := websocket.Message.Receive(ws, &got); err != nil || got != "bye" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := websocket.Message.Receive(ws, &got); !errors.Is(err, io.EOF) {
		t.Errorf("the client's end: %v", err)
	}
}

// TestUpgrade: any protocol that both ends agree on passes; bytes sent right
// behind the heads aren't lost.
func TestUpgrade(t *testing.T) {
	ended := make(chan error, 1)
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "custom" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		c, b, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\nhello ")
		_, err = io.Copy(c, b)
		ended <- err
	}))).start(t)
	c := g.raw(t)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: one.test\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "custom" || !strings.EqualFold(resp.Header.Get("Connection"), "upgrade") {
		t.Fatalf("%v, %v", resp, err)
	}
	expect := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
			t.Fatalf("read %q, %v, want %q", b, err, want)
		}
	}
	expect("hello ")
	for i := range 3 {
		text := fmt.Sprintf("raw \x00 %d\r\n", i)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		expect(text)
	}
	_ = c.Close()
	soon(t, "end at the backend", ended)
}
