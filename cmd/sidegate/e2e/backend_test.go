package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// script is a backend on raw sockets: it reads a request's head, and then does
// what its path names.
type script struct {
	listener net.Listener
	acts     map[string]func(net.Conn)
	conns    sync.WaitGroup
	end      chan struct{} // closed when the test ends
}

func newScript(t *testing.T, acts map[string]func(net.Conn)) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{listener: l, acts: acts, end: make(chan struct{})}
	s.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		close(s.end)
		_ = l.Close()
		s.conns.Wait()
	})
	return s
}

func (s *script) serve(c net.Conn) {
	defer c.Close()
	closed := make(chan struct{})
	defer close(closed)
	go func() {
		select {
		case <-s.end:
			_ = c.Close()
		case <-closed:
		}
	}()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	if act := s.acts[strings.TrimPrefix(req.URL.Path, "/")]; act != nil {
		act(c)
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

func say(text string) func(net.Conn) {
	return func(c net.Conn) { _, _ = io.WriteString(c, text) }
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// hang waits until the gateway has had enough.
func hang(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// repeat says a line until the gateway has had enough.
func repeat(head, line string) func(net.Conn) {
	return func(c net.Conn) {
		_, err := io.WriteString(c, head)
		for range 1 << 20 {
			if err != nil {
				return
			}
			_, err = io.WriteString(c, line)
		}
	}
}

// failures are what a backend does instead of answering, and what that is to
// the client.
var failures = []struct {
	name   string
	act    func(net.Conn)
	status int
	kinds  string
}{
	{"reset", reset, 502, "backend-reset"},
	{"close", func(net.Conn) {}, 502, "backend-reset"},
	{"hang", hang, 504, "backend-timeout"},
	{"hang-in-head", func(c net.Conn) { say("HTTP/1.1 200 OK\r\nX-A: b")(c); hang(c) }, 504, "backend-timeout"},
	{"garbage", say("\x00\xff\xfegarbage\r\n\r\n"), 502, "backend-malformed"},
	{"other-protocol", say("SSH-2.0-OpenSSH_9.2\r\n\r\n"), 502, "backend-malformed"},
	{"half-head", say("HTTP/1.1 200 OK\r\nX-A: "), 502, "backend-reset backend-malformed"},
	{"endless-header", repeat("HTTP/1.1 200 OK\r\n", "X-A: "+strings.Repeat("a", 1000)+"\r\n"), 502, "backend-malformed"},
	{"endless-field", repeat("HTTP/1.1 200 OK\r\nX-A: ", strings.Repeat("a", 1000)), 502, "backend-malformed"},
	{"too-many-1xx", repeat("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), 502, "backend-malformed"},
	{"cl-and-te", say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 502, "backend-malformed"},
	{"two-cl", say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"), 502, "backend-malformed"},
	{"bare-cr", say("HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n"), 502, "backend-malformed"},
	{"nul", say("HTTP/1.1 200 OK\r\nX-A: b\x00c\r\nContent-Length: 0\r\n\r\n"), 502, "backend-malformed"},
	{"space-before-colon", say("HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 0\r\n\r\n"), 502, "backend-malformed"},
	{"bad-status", say("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"), 502, "backend-malformed"},
	{"unasked-101", say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), 502, "backend-malformed backend-upgrade-failed"},
}

// halves are answers that break off in their body.
var halves = map[string]func(net.Conn){
	"half-length":    say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
	"half-chunked":   say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
	"half-chunk":     say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
	"bad-chunk":      say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"),
	"half-reset":     func(c net.Conn) { say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")(c); reset(c) },
	"half-no-last":   say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n"),
	"half-then-hang": func(c net.Conn) { say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")(c); hang(c) },
}

// TestBackendFailures: whatever a backend does, every protocol's client gets a
// problem with a request id, the access log has the reason under that id, and
// other requests go on.
func TestBackendFailures(t *testing.T) {
	acts := map[string]func(net.Conn){}
	for _, f := range failures {
		acts[f.name] = f.act
	}
	s := newScript(t, acts)
	g := newGateway(t, accessLog+scriptBlock(s)).start(t)
	for _, c := range g.clients(t) {
		for _, f := range failures {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				resp, err := c.Get(c.scheme + "://one.test/" + f.name)
				if err != nil {
					if c.name == "h3" && f.name == "too-many-1xx" {
						return // quic-go's client takes five, the gateway eight
					}
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				if resp.Header.Get("Set-Cookie") != "" {
					t.Errorf("split: %v", resp.Header)
				}
				kind := ""
				for k := range strings.FieldsSeq(f.kinds) {
					if strings.Contains(string(b), k) {
						kind = k
					}
				}
				p := wantProblem(t, resp, string(b), f.status, kind)
				l := g.logged(t, f.name, func(l logLine) bool { return l.RequestID == p.RequestID })
				if l.Fault != kind || l.Source != "upstream" || l.Error == "" || l.Instance != s.listener.Addr().String() {
					t.Errorf("logged as %+v", l)
				}
			})
		}
		if body, err := fetch(c.Client, c.scheme+"://one.test/fine"); err != nil || body != "ok" {
			t.Errorf("%s: afterwards: %q, %v", c.name, body, err)
		}
	}
}

func scriptBlock(s *script) string {
	return fmt.Sprintf(`
service "one" {
  instances = [%q]
  timeouts {
    first_byte = "1s"
    idle       = "1s"
  }
  retry { attempts = 0 }
  outlier { errors = 0 }
}
route "one" {
  hosts   = ["one.test"]
  service = "one"
}
`, s.listener.Addr())
}

// TestHalfBody: an answer that breaks off is broken off for the client, too,
// never ended.
func TestHalfBody(t *testing.T) {
	s := newScript(t, halves)
	g := newGateway(t, accessLog+scriptBlock(s)).start(t)
	for _, c := range g.clients(t) {
		for name := range halves {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				resp, err := c.Get(c.scheme + "://one.test/" + name)
				if err != nil {
					return // before the head is as good
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err == nil {
					t.Fatalf("answered %s with %q, as if that were all", resp.Status, b)
				}
				g.logged(t, name, func(l logLine) bool { return l.Path == "/"+name && l.Source == "upstream" && l.Fault != "" })
			})
		}
		if body, err := fetch(c.Client, c.scheme+"://one.test/fine"); err != nil || body != "ok" {
			t.Errorf("%s: afterwards: %q, %v", c.name, body, err)
		}
	}
}
