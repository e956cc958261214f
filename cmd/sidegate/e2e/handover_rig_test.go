package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// rounds is how many handovers, or restarts, a test does under load: usual, or what
// SIDEGATE_HANDOVERS says. A restart takes more than a second, a handover a tenth.
func rounds(t *testing.T, usual int) int {
	t.Helper()
	v := os.Getenv("SIDEGATE_HANDOVERS")
	if v == "" {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("SIDEGATE_HANDOVERS: %v", err)
	}
	return n
}

// heir is a gateway that others take over from: which process it is changes.
type heir struct {
	*gateway
	bin string // of its own: tests replace it
	out *os.File

	mu    sync.Mutex
	pid   int           // of the process that serves
	ended chan struct{} // closed when it has ended
}

// newHeir starts a gateway from a copy of the binary.
func newHeir(t *testing.T, more string) *heir {
	t.Helper()
	h := &heir{gateway: newGateway(t, more)}
	h.install(t)
	var err error
	if h.out, err = os.Create(filepath.Join(h.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.out.Close()
		if t.Failed() {
			text := h.said()
			t.Logf("the gateway said:\n%s", text[max(0, len(text)-6000):])
		}
	})
	return h
}

// install puts the real binary in the place that the gateway is started from.
func (h *heir) install(t *testing.T) {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	h.bin = filepath.Join(h.dir, "bin", "sidegate")
	if err := os.MkdirAll(filepath.Dir(h.bin), 0o700); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(h.bin)
	if err := os.Link(bin, h.bin); err != nil { // across file systems
		b, err := os.ReadFile(bin)
		if err == nil {
			err = os.WriteFile(h.bin+".new", b, 0o700)
		}
		if err == nil {
			err = os.Rename(h.bin+".new", h.bin)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// replace puts another file in the binary's place.
func (h *heir) replace(t *testing.T, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(h.bin+".new", []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.bin+".new", h.bin); err != nil {
		t.Fatal(err)
	}
}

func (h *heir) said() string {
	b, err := os.ReadFile(h.out.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// begin starts the first process.
func (h *heir) begin(t *testing.T) *heir {
	t.Helper()
	cmd := exec.Command(h.bin, "run", "-config", filepath.Join(h.dir, "etc"))
	cmd.Stdout, cmd.Stderr = h.out, h.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.owns(t, cmd.Process.Pid)
	h.ready(t)
	return h
}

func (h *heir) ready(t *testing.T) {
	t.Helper()
	eventually(t, "gateway ready", func() error {
		_, err := h.get("/readyz")
		return err
	})
}

// owns notes which process serves. It is this one's child, as that of a service
// manager would be, and is awaited.
func (h *heir) owns(t *testing.T, pid int) {
	t.Helper()
	ended := make(chan struct{})
	h.mu.Lock()
	h.pid, h.ended = pid, ended
	h.mu.Unlock()
	go func() {
		defer close(ended)
		for {
			if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	}()
	t.Cleanup(func() {
		select {
		case <-ended:
		default:
			_ = syscall.Kill(pid, syscall.SIGKILL) // a child that hasn't been awaited: it is the same process
			<-ended
		}
	})
}

func (h *heir) end() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

func (h *heir) serving() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pid
}

// handover asks for one by the command, and waits for it.
func (h *heir) handover(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	out, code = run(t, append([]string{"handover", "-config", h.config()}, args...)...)
	if code == 0 {
		m := regexp.MustCompile(`\(pid (\d+)\) serves`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("sidegate handover says %q", out)
		}
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		h.owns(t, pid)
	}
	return out, code
}

// usr2 asks for one by the signal, and waits for it.
func (h *heir) usr2(t *testing.T) {
	t.Helper()
	before := h.serving()
	if err := syscall.Kill(before, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	pid := 0
	eventually(t, "another process serves", func() error {
		text, err := h.get("/api/status")
		if err != nil {
			return err
		}
		m := regexp.MustCompile(`"pid": (\d+)`).FindStringSubmatch(text)
		if m == nil || m[1] == strconv.Itoa(before) {
			return errors.New("still the old one")
		}
		pid, err = strconv.Atoi(m[1])
		return err
	})
	h.owns(t, pid)
}

// echoes is a backend that answers with what it is sent, slowly where asked to.
func echoes(t *testing.T) *httptest.Server {
	t.Helper()
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if d, err := time.ParseDuration(r.URL.Query().Get("take")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(b.Close)
	return b
}

// pressure sends requests by every protocol, one at a time from each client, and counts
// each one. Nothing is sent a second time but what a protocol says wasn't served.
type pressure struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	ok     map[string]int
	failed []string
}

// sender sends a request with a body and returns the answer's.
type sender interface {
	post(path, body string) (string, error)
	close()
}

// attack starts clients of each kind.
func (g *gateway) attack(clients int) *pressure {
	l := &pressure{stop: make(chan struct{}), ok: map[string]int{}}
	for kind, dial := range g.senders() {
		for n := range clients {
			path := "/"
			if n > 0 && n == clients-1 {
				path = "/?take=300ms"
			}
			l.wg.Go(func() { l.client(kind, dial, path) })
		}
	}
	return l
}

func (g *gateway) senders() map[string]func() sender {
	tcp := func(secure, keep bool) func() sender {
		return func() sender { return &plainSender{g: g, secure: secure, keep: keep} }
	}
	return map[string]func() sender{
		"h1": tcp(false, true), "h1 closing": tcp(false, false), "h1 tls": tcp(true, true), "h1 tls closing": tcp(true, false),
		"h2": func() sender { return &clientSender{Client: g.client(true)} },
		"h3": func() sender { return g.quicSender(true) }, "h3 closing": func() sender { return g.quicSender(false) },
	}
}

// client sends until the end, with a short pause after each answer.
func (l *pressure) client(kind string, dial func() sender, path string) {
	s := dial()
	defer s.close()
	for n := 0; ; n++ {
		body := fmt.Sprintf("%s %d %s", kind, n, strings.Repeat("x", n%2000))
		begin := time.Now()
		got, err := s.post(path, body)
		if err == nil && got != body {
			err = fmt.Errorf("answer %.40q", got)
		}
		l.mu.Lock()
		if err != nil {
			l.failed = append(l.failed, fmt.Sprintf("%s %s, request %d, %s, after %v: %v", kind, path, n, begin.Format("05.000"), time.Since(begin), err))
		} else {
			l.ok[kind]++
		}
		l.mu.Unlock()
		select {
		case <-l.stop:
			return
		case <-time.After(time.Duration(n%7) * time.Millisecond):
		}
	}
}

// end stops the load and fails for each request that did.
func (l *pressure) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(l.ok)) {
		t.Logf("%-15s %6d requests", kind, l.ok[kind])
		total += l.ok[kind]
		if l.ok[kind] < 10 {
			t.Errorf("only %d requests by %s", l.ok[kind], kind)
		}
	}
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed:\n%s", len(l.failed), total+len(l.failed), strings.Join(l.failed[:min(len(l.failed), 20)], "\n"))
	}
}

// plainSender speaks HTTP/1.1, and never repeats itself: a connection that ends
// without an answer is a failed request, unless the end came before the request.
type plainSender struct {
	g            *gateway
	secure, keep bool
	c            net.Conn
	r            *bufio.Reader
}

func (s *plainSender) post(path, body string) (string, error) {
	if s.c == nil {
		if err := s.dial(); err != nil {
			return "", fmt.Errorf("dial: %w", err)
		}
	}
	if err := s.c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	got, keep, err := s.exchange(path, body)
	if err != nil || !keep {
		s.close()
	}
	return got, err
}

func (s *plainSender) dial() error {
	port := s.g.http
	if s.secure {
		port = s.g.https
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	if s.secure {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "app.test"})
		if err := t.Handshake(); err != nil {
			_ = c.Close()
			return err
		}
		c = t
	}
	s.c, s.r = c, bufio.NewReader(c)
	return nil
}

func (s *plainSender) exchange(path, body string) (got string, keep bool, err error) {
	more := ""
	if !s.keep {
		more = "Connection: close\r\n"
	}
	if _, err := fmt.Fprintf(s.c, "POST %s HTTP/1.1\r\nHost: app.test\r\n%sContent-Length: %d\r\n\r\n%s", path, more, len(body), body); err != nil {
		return "", false, fmt.Errorf("write: %w", err)
	}
	resp, err := http.ReadResponse(s.r, nil)
	if err != nil {
		return "", false, fmt.Errorf("read: %w", err)
	}
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), s.keep && !resp.Close, err
}

func (s *plainSender) close() {
	if s.c != nil {
		_ = s.c.Close()
		s.c = nil
	}
}

// clientSender is a http.Client; POST isn't repeated unless the server said that it
// wasn't looked at (GOAWAY).
type clientSender struct {
	*http.Client
	once func() // after each request
}

func (s *clientSender) post(path, body string) (string, error) {
	resp, err := s.Post("https://app.test"+path, "text/plain", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	if s.once != nil {
		s.once()
	}
	return string(b), err
}

func (s *clientSender) close() { s.CloseIdleConnections() }

func (g *gateway) quicSender(keep bool) *clientSender {
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, fmt.Sprintf("127.0.0.1:%d", g.https), c, q)
		},
	}
	s := &clientSender{Client: &http.Client{Transport: tr, Timeout: 20 * time.Second}}
	if !keep {
		s.once = func() { s.CloseIdleConnections() }
	}
	return s
}
