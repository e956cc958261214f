package h1

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestRefusedRequests sends what must be refused, and sees to it that it is
// answered once, in full, with the reason, and then the connection closed; and
// that nothing of it reaches the backend.
func TestRefusedRequests(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			t.Errorf("the backend got %s %s", r.Method, r.RequestURI)
		}
	}))
	addr, _ := proxy(t, b, nil)
	const ok = "GET / HTTP/1.1\r\nHost: h\r\n"
	const post = "POST / HTTP/1.1\r\nHost: h\r\n"
	const chunky = post + "Transfer-Encoding: chunked\r\n\r\n"
	many := strings.Repeat("A: b\r\n", 100)
	tests := []struct {
		name, in string
		status   int
		why      string
	}{
		{"both lengths", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "both"},
		{"two lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, "several Content-Length"},
		{"same length twice", post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, "several Content-Length"},
		{"length list", post + "Content-Length: 3, 3\r\n\r\nabc", 400, "number of bytes"},
		{"length with sign", post + "Content-Length: +3\r\n\r\nabc", 400, "number of bytes"},
		{"negative length", post + "Content-Length: -3\r\n\r\nabc", 400, "number of bytes"},
		{"hex length", post + "Content-Length: 0x3\r\n\r\nabc", 400, "number of bytes"},
		{"length with space", post + "Content-Length: 1 2\r\n\r\nabc", 400, "number of bytes"},
		{"empty length", post + "Content-Length:\r\n\r\nabc", 400, "number of bytes"},
		{"huge length", post + "Content-Length: 99999999999999999999\r\n\r\nabc", 400, "number of bytes"},
		{"unicode digits", post + "Content-Length: \xd9\xa3\r\n\r\nabc", 400, "number of bytes"},
		{"coding list", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "other than chunked"},
		{"two codings", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "several Transfer"},
		{"identity", post + "Transfer-Encoding: identity\r\n\r\n", 400, "other than chunked"},
		{"quoted coding", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400, "other than chunked"},
		{"coding with vtab", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "control"},
		{"coding in 1.0", "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "HTTP/1.0"},
		{"bare LF after request line", "GET / HTTP/1.1\nHost: h\r\n\r\n", 400, "line feed"},
		{"bare LF after field", "GET / HTTP/1.1\r\nHost: h\n\r\n", 400, "line feed"},
		{"bare LF at end", "GET / HTTP/1.1\r\nHost: h\r\n\n", 400, "line feed"},
		{"bare CR in value", ok + "A: b\rc: d\r\n\r\n", 400, "control"},
		{"bare CR in name", ok + "A\rB: c\r\n\r\n", 400, "character"},
		{"bare CR in target", "GET /\r HTTP/1.1\r\nHost: h\r\n\r\n", 400, "control"},
		{"CRCRLF", ok + "A: b\r\r\n\r\n", 400, "control"},
		{"fold", ok + "A: b\r\n c\r\n\r\n", 400, "folded"},
		{"fold with tab", ok + "A: b\r\n\tc\r\n\r\n", 400, "folded"},
		{"fold first", "GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400, "folded"},
		{"space before colon", ok + "A : b\r\n\r\n", 400, "character"},
		{"tab before colon", ok + "A\t: b\r\n\r\n", 400, "character"},
		{"empty name", ok + ": b\r\n\r\n", 400, "without a name"},
		{"no colon", ok + "abc\r\n\r\n", 400, "character"},
		{"NUL in name", ok + "A\x00: b\r\n\r\n", 400, "character"},
		{"NUL in value", ok + "A: b\x00\r\n\r\n", 400, "control"},
		{"DEL in value", ok + "A: b\x7f\r\n\r\n", 400, "control"},
		{"DEL late in value", ok + "A: 0123456789abcdef\x7f0123456789\r\n\r\n", 400, "control"},
		{"escape in value", ok + "A: \x1b[2J\r\n\r\n", 400, "control"},
		{"high name", ok + "\xc3\xa4: b\r\n\r\n", 400, "name"},
		{"bracket in name", ok + "A(B): c\r\n\r\n", 400, "character"},
		{"method", "G@T / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "method"},
		{"no method", " / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "method"},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00", 400, "method"},
		{"long method", strings.Repeat("A", 33) + " / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "method"},
		{"HTTP/0.9", "GET /\r\n", 400, "target and version"},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "request line"},
		{"space in target", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400, "version"},
		{"tab in request line", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "method"},
		{"space after version", "GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400, "version"},
		{"lower case version", "GET / http/1.1\r\nHost: h\r\n\r\n", 400, "version"},
		{"odd version", "GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400, "version"},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505, "version"},
		{"HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"},
		{"two empty lines before", "\r\n\r\n" + ok + "\r\n", 400, "empty lines"},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400, "no Host"},
		{"two Hosts", ok + "Host: h\r\n\r\n", 400, "several Host"},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "no host"},
		{"Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "host"},
		{"absolute target of another host", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400, "names host"},
		{"two Authorizations", ok + "Authorization: a\r\nAuthorization: b\r\n\r\n", 400, "several Authorization"},
		{"Connection names Host", ok + "Connection: Host\r\n\r\n", 400, "Connection names"},
		{"Connection names X-Forwarded-For", ok + "Connection: close, x-forwarded-for\r\n\r\n", 400, "Connection names"},
		{"Connection with many tokens", ok + "Connection: " + strings.Repeat("a,", 40) + "\r\n\r\n", 400, "Connection names"},
		{"CONNECT", "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 501, "CONNECT"},
		{"expectation", post + "Content-Length: 1\r\nExpect: 200-ok\r\n\r\na", 417, "expectation"},
		{"long target", "GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n", 414, "too long"},
		{"endless target", "GET /" + strings.Repeat("a", 20<<10), 414, "too long"},
		{"large field", ok + "A: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", 431, "too large"},
		{"endless field", ok + "A: " + strings.Repeat("a", 40<<10), 431, "too large"},
		{"many fields", ok + many + "\r\n", 431, "too many"},
		{"bare LF in chunk size", chunky + "1\na\r\n0\r\n\r\n", 400, "line feed"},
		{"bare LF after chunk", chunky + "1\r\na\n0\r\n\r\n", 400, "line feed"},
		{"long chunk", chunky + "1\r\nab\r\n0\r\n\r\n", 400, "chunk longer"},
		{"no chunk size", chunky + "\r\na\r\n0\r\n\r\n", 400, "chunk size"},
		{"chunk size with 0x", chunky + "0x1\r\na\r\n0\r\n\r\n", 400, "chunk size"},
		{"negative chunk size", chunky + "-1\r\na\r\n0\r\n\r\n", 400, "chunk size"},
		{"chunk size with space", chunky + "1 \r\na\r\n0\r\n\r\n", 400, "chunk size"},
		{"chunk size overflow", chunky + "10000000000000001\r\na\r\n0\r\n\r\n", 400, "too large"},
		{"long chunk extension", chunky + "1;" + strings.Repeat("a", 300) + "\r\na\r\n0\r\n\r\n", 400, "too long"},
		{"control in chunk extension", chunky + "1;a=\x01\r\na\r\n0\r\n\r\n", 400, "extensions"},
		{"CR in chunk extension", chunky + "1;a\rb\r\na\r\n0\r\n\r\n", 400, "extensions"},
		{"many chunk extensions", chunky + strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\na\r\n", 50) + "0\r\n\r\n", 400, "extensions"},
		{"fold in trailer", chunky + "0\r\nA: b\r\n c\r\n\r\n", 400, "folded"},
		{"large trailer", chunky + "0\r\nA: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", 431, "too l"},
		{"large trailers", chunky + "0\r\n" + strings.Repeat("Host: "+strings.Repeat("a", 1000)+"\r\n", 40) + "\r\n", 431, "too l"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := exchangeRaw(t, addr, tt.in)
			if want := fmt.Sprintf("HTTP/1.1 %d ", tt.status); !strings.HasPrefix(got, want) && !(tt.status == 431 && strings.HasPrefix(got, "HTTP/1.1 400 ")) {
				t.Fatalf("answer = %.200q, want %s", got, want)
			}
			if !strings.Contains(got, tt.why) || !strings.Contains(got, "Connection: close\r\n") {
				t.Errorf("answer = %.300q, want %q and Connection: close", got, tt.why)
			}
			if n := strings.Count(got, "HTTP/1.1 "); n != 1 && !strings.Contains(tt.name, "HTTP/") && !strings.Contains(tt.name, "1.0") {
				t.Errorf("%d answers: %.300q", n, got)
			}
		})
	}
}

// TestAcceptedRequests is what looks odd and is right.
func TestAcceptedRequests(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var odd []string
		for name := range r.Header {
			if strings.ContainsAny(name, "_.") {
				odd = append(odd, name)
			}
		}
		fmt.Fprintf(w, "%s %s %s %q %v %q %q %q %v", r.Method, r.Host, r.RequestURI, body, err,
			r.Header["A"], odd, r.Header["Hop"], r.Trailer)
	}))
	addr, _ := proxy(t, b, nil)
	tests := []struct{ name, in, want string }{
		{"empty line before", "\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `GET h / "" <nil> [] [] [] map[]`},
		{"white space around value", "GET / HTTP/1.1\r\nHost:\t h \r\nA: \t b c\t \r\nConnection: close\r\n\r\n", `GET h / "" <nil> ["b c"] [] [] map[]`},
		{"empty value", "GET / HTTP/1.1\r\nHost: h\r\nA:\r\nConnection: close\r\n\r\n", `GET h / "" <nil> [""] [] [] map[]`},
		{"high bytes in value", "GET / HTTP/1.1\r\nHost: h\r\nA: \xe4\r\nConnection: close\r\n\r\n", `GET h / "" <nil> ["\xe4"] [] [] map[]`},
		{"underscore and dot", "GET / HTTP/1.1\r\nHost: h\r\nX_Y: 1\r\nA.B: 2\r\nConnection: close\r\n\r\n", `GET h / "" <nil> [] [] [] map[]`},
		{"named in Connection", "GET / HTTP/1.1\r\nHost: h\r\nHop: 1\r\nConnection: close, hop\r\n\r\n", `GET h / "" <nil> [] [] [] map[]`},
		{"absolute target", "GET http://h/x?y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `GET h /x?y "" <nil> [] [] [] map[]`},
		{"odd method", "M-SEARCH /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `M-SEARCH h /x "" <nil> [] [] [] map[]`},
		{"chunk extension", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n2;a=\"b\"\r\nab\r\n00001\r\nc\r\n0;x\r\n\r\n", `POST h / "abc" <nil> [] [] [] map[]`},
		{"zero length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 000\r\nConnection: close\r\n\r\n", `POST h / "" <nil> [] [] [] map[]`},
		{"length with zeros", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 003\r\nConnection: close\r\n\r\nabc", `POST h / "abc" <nil> [] [] [] map[]`},
		{"trailers", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\nConnection: close\r\n\r\n2\r\nab\r\n0\r\nT: 1\r\nContent-Length: 5\r\nHost: evil\r\nX-Forwarded-For: 1\r\n\r\n", `POST h / "ab" <nil> [] [] [] map[T:[1]]`},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: h\r\n\r\n", `GET h / "" <nil> [] [] [] map[]`},
		{"HTTP/1.0 keep-alive", "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nHost: h\r\n\r\n", `GET h /2 "" <nil> [] [] [] map[]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := exchangeRaw(t, addr, tt.in)
			if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, tt.want) {
				t.Errorf("answer = %q, want it to end in %q", got, tt.want)
			}
		})
	}
}

// TestDripped sends a request one byte at a time: the parser goes on where it
// stopped, over moves of its buffer.
func TestDripped(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %s", len(r.Header.Get("A")), body)
	}))
	addr, _ := proxy(t, b, nil)
	nc := dial(t, addr)
	_ = nc.SetNoDelay(true)
	in := "POST / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 5000) +
		"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
	for i := range len(in) {
		if _, err := nc.Write([]byte{in[i]}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(nc)
	if err != nil || !strings.HasSuffix(string(got), "5000 abcde") {
		t.Errorf("answer = %q, %v", got, err)
	}
}

// TestRefusedResponses has the backend send what must not be passed on.
func TestRefusedResponses(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	interims := strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 9)
	tests := []struct{ name, in, why string }{
		{"garbage", "hello\r\n\r\n", "status line"},
		{"binary", "\x16\x03\x01\x02", "status line"},
		{"version", "HTTP/2.0 200 OK\r\n\r\n", "version"},
		{"two digits", "HTTP/1.1 20 OK\r\n\r\n", "status line"},
		{"four digits", "HTTP/1.1 2000 OK\r\n\r\n", "status line"},
		{"no space", "HTTP/1.1200 OK\r\n\r\n", "status line"},
		{"no digits", "HTTP/1.1 2x0 OK\r\n\r\n", "status code"},
		{"code 099", "HTTP/1.1 099 OK\r\n\r\n", "between"},
		{"code 600", "HTTP/1.1 600 OK\r\n\r\n", "between"},
		{"control in reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "status line"},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "line feed"},
		{"both lengths", ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both"},
		{"two lengths", ok + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "several"},
		{"length", ok + "Content-Length: 3x\r\n\r\nabc", "number"},
		{"coding", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "other than chunked"},
		{"coding in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.0"},
		{"fold", ok + "A: b\r\n c\r\n\r\n", "folded"},
		{"space before colon", ok + "A : b\r\n\r\n", "character"},
		{"control", ok + "A: \x01\r\n\r\n", "control"},
		{"endless head", ok + strings.Repeat("A: "+strings.Repeat("a", 1000)+"\r\n", 40), "too large"},
		{"many fields", ok + strings.Repeat("A: b\r\n", 101) + "\r\n", "too many"},
		{"interims", interims, "interim"},
		{"unasked switch", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "switched"},
		{"nothing", "", "closed the connection"},
		{"half a head", ok + "Content-Len", "closed the connection"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := rawBackend(t, answering(tt.in))
			addr, _ := proxy(t, b, func(c *FrontConfig, h *forwarder) {})
			res, body := get(t, newClient(t), "http://"+addr+"/")
			if res.StatusCode != 502 || !strings.Contains(body, tt.why) {
				t.Errorf("answer = %d %q, want 502 %q", res.StatusCode, body, tt.why)
			}
		})
	}
}

// TestSplitting has a policy set fields that would end their line.
func TestSplitting(t *testing.T) {
	s := startSweeper(t)
	h := handlerFunc(func(x *exchange.Exchange) {
		x.ResponseEdits.Set("X-A", "1\r\nSet-Cookie: evil")
		x.ResponseEdits.Add("X-B\r\nEvil", "1")
		x.ResponseEdits.Add("X-C", "1\x00")
		x.ResponseEdits.Add("Content-Length", "5")
		x.ResponseEdits.Add("Transfer-Encoding", "chunked")
		x.ResponseEdits.Add("X-D", "fine")
		x.Reply(200, "text/plain\r\nEvil: 1", []byte("ok"))
		_ = x.Front.Respond(x)
	})
	cfg := testConfig(s, h)
	cfg.ServerHeader = "sidegate"
	cfg.AltSvc = func() string { return `h3=":443"` }
	addr := startFront(t, NewFront(cfg))
	got := exchangeRaw(t, addr, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	i := strings.Index(got, "Date: ")
	if i < 0 {
		t.Fatalf("no Date: %q", got)
	}
	date := got[i+6:]
	date = date[:strings.Index(date, "\r\n")]
	if at, err := http.ParseTime(date); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("Date = %q", date)
	}
	want := "HTTP/1.1 200 OK\r\nX-D: fine\r\nDate: " + date + "\r\nServer: sidegate\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
	if got != want {
		t.Errorf("answer = %q\nwant     %q", got, want)
	}
}
