package e2e

import (
	be "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// TestHandoverUnderLoad: process after process takes over, and not one request is
// lost on any protocol.
func TestHandoverUnderLoad(t *testing.T) {
	h := newHeir(t, backendBlock(echoes(t).URL)).begin(t)
	first := h.serving()
	l := h.attack(2)
	for n := range rounds(t, 100) {
		if n%2 == 0 {
			h.usr2(t)
			continue
		}
		if out, code := h.handover(t); code != 0 {
			t.Fatalf("handover %d ended in %d: %s", n, code, out)
		}
	}
	l.end(t)
	eventually(t, "the first process ends", func() error { return gone(first) })
}

func gone(pid int) error {
	if err := syscall.Kill(pid, 0); err == nil {
		return fmt.Errorf("process %d is there", pid)
	}
	return nil
}

// TestHandoverKeepsWhatRuns: requests that are in flight, a WebSocket and a stream go
// on in the old process, on every protocol; the configuration is that of now.
func TestHandoverKeepsWhatRuns(t *testing.T) {
	b := streaming(t)
	h := newHeir(t, backendBlock(b.URL)).begin(t)
	old := h.serving()

	cfg, err := websocket.NewConfig("ws://app.test/ws", "http://app.test")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.http))
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(cfg, raw)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	echo := func(text string) {
		t.Helper()
		var got string
		if err := websocket.Message.Send(ws, text); err != nil {
			t.Fatal(err)
		}
		if err := websocket.Message.Receive(ws, &got); err != nil || got != text {
			t.Fatalf("the WebSocket said %q, %v", got, err)
		}
	}
	echo("before")

	clients := map[string]*http.Client{"h1": h.client(false), "h2": h.client(true), "h3": h.quicSender(true).Client}
	results := make(chan error, len(clients))
	var streams []io.Reader
	for name, c := range clients {
		resp, err := c.Get("https://app.test/events")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer resp.Body.Close()
		streams = append(streams, resp.Body)
		go func() {
			body, err := fetch(c, "https://app.test/slow")
			if err == nil && body != "slow" {
				err = fmt.Errorf("%q", body)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			results <- err
		}()
	}
	eventually(t, "in flight", func() error {
		text, err := h.get("/metrics")
		if err == nil && !strings.Contains(text, `sidegate_requests_in_flight{listener="https"} 6`) {
			err = errors.New("not yet")
		}
		return err
	})
	h.configure(t, backendBlock(b.URL)+"route \"new\" {\n  hosts = [\"new.test\"]\n  respond { body = \"new\" }\n}\n")
	if out, code := h.handover(t); code != 0 {
		t.Fatalf("handover: %d, %s", code, out)
	}
	if got, err := fetch(h.client(false), "https://new.test/"); err != nil || got != "new" {
		t.Errorf("the new process doesn't have the new configuration: %q, %v", got, err)
	}
	for range clients {
		if err := <-results; err != nil {
			t.Errorf("a request in flight failed: %v", err)
		}
	}
	echo("after")
	for i, s := range streams {
		if _, err := io.ReadFull(s, make([]byte, 500)); err != nil { // about a second's
			t.Errorf("stream %d ended: %v", i, err)
		}
	}
	if gone(old) == nil {
		t.Error("the old process has ended before its requests")
	}
	eventually(t, "the old process ends with drain", func() error { return gone(old) }) // 10 s
}

// fakeEnv has the test's own binary pretend to be a new process, that fails at the
// stage that it names.
const fakeEnv = "SIDEGATE_TEST_SUCCESSOR"

// fakeSuccessor plays a new process up to a stage; it speaks the handover's protocol
// (internal/handover).
func fakeSuccessor(stage string) {
	fd, err := strconv.Atoi(os.Getenv("SIDEGATE_HANDOVER"))
	if err != nil {
		os.Exit(4)
	}
	c := os.NewFile(uintptr(fd), "channel")
	read := func() (kind string) {
		var n uint32
		var m struct{ Kind string }
		if be.Read(c, be.BigEndian, &n) != nil {
			os.Exit(5)
		}
		text := make([]byte, n)
		if _, err := io.ReadFull(c, text); err != nil || json.Unmarshal(text, &m) != nil {
			os.Exit(6)
		}
		return m.Kind
	}
	say := func(m map[string]any) {
		text, _ := json.Marshal(m)
		_ = be.Write(c, be.BigEndian, uint32(len(text)))
		_, _ = c.Write(text)
	}
	until, fails, _ := strings.Cut(stage, " ")
	read() // offer
	if until == "yielded" {
		say(map[string]any{"kind": "prepared", "version": "fake"})
		read() // yielded
	}
	switch fails {
	case "nonsense":
		say(map[string]any{"kind": "surprise"})
		time.Sleep(time.Hour) // until it is killed
	case "hangs":
		time.Sleep(time.Hour)
	case "says why":
		say(map[string]any{"kind": "failed", "error": "the moon is full"})
	}
	os.Exit(3)
}

// TestHandoverFails: a new process that doesn't make it, at whatever stage, leaves
// the old one serving, and whoever asked learns why.
func TestHandoverFails(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	good := backendBlock(echoes(t).URL)
	h := newHeir(t, good).begin(t)
	old := h.serving()
	fake := func(stage string) func() {
		return func() { h.replace(t, fmt.Sprintf("#!/bin/sh\n%s=%q exec %q\n", fakeEnv, stage, self), 0o700) }
	}
	l := h.attack(1)
	for _, tt := range []struct {
		name  string
		given func()
		want  string // of what the command and the log say
	}{
		{"bad configuration", func() { h.configure(t, good+"route \"bad\" {\n  hosst = [\"x\"]\n}\n") }, `sidegate.hcl:[0-9]+:3: error: unknown argument "hosst"`},
		{"port taken", func() {
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = taken.Close() })
			h.configure(t, good+fmt.Sprintf("listener \"more\" {\n  address = %q\n}\n", taken.Addr()))
		}, `listener "more": .* is taken by`},
		{"no binary", func() { _ = os.Remove(h.bin) }, `start .*/bin/sidegate: no such file or directory`},
		{"not a program", func() { h.replace(t, "nonsense", 0o700) }, `start .*/bin/sidegate: exec format error`},
		{"not executable", func() { h.replace(t, "#!/bin/sh\n", 0o600) }, `start .*/bin/sidegate: permission denied`},
		{"ends at once", func() { h.replace(t, "#!/bin/sh\nexit 3\n", 0o700) }, `the new process \(pid [0-9]+\) ended before it was prepared`},
		{"ends before it is prepared", fake("offer ends"), `ended before it was prepared`},
		{"hangs before it is prepared", fake("offer hangs"), `wasn't prepared in time`},
		{"says nonsense", fake("offer nonsense"), `says "surprise" instead of "prepared"`},
		{"says why", fake("offer says why"), `the moon is full`},
		{"ends with the state", fake("yielded ends"), `ended before it was serving`},
		{"hangs with the state", fake("yielded hangs"), `wasn't serving in time`},
		{"says why with the state", fake("yielded says why"), `the moon is full`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer h.install(t)
			defer h.configure(t, good)
			tt.given()
			out, code := h.handover(t, "-timeout", "2s")
			if code != 1 || !regexp.MustCompile(tt.want).MatchString(out) {
				t.Errorf("sidegate handover ended in %d and said %q, want 1 and %s", code, out, tt.want)
			}
			if log := h.said(); !regexp.MustCompile(`no handover: this process goes on`).MatchString(log) {
				t.Error("the log doesn't say so")
			}
			if gone(old) == nil {
				t.Fatal("the old process has ended")
			}
			if _, err := h.get("/readyz"); err != nil {
				t.Errorf("the old process isn't ready: %v", err)
			}
		})
	}
	// The command would ask the socket of the new state_dir; the signal doesn't.
	text, err := os.ReadFile(h.config())
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(h.dir, "state")
	write(t, h.config(), strings.ReplaceAll(string(text), state, state+"2"))
	if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another state_dir is refused", func() error {
		if !strings.Contains(h.said(), "no handover: this process goes on") || !strings.Contains(h.said(), fmt.Sprintf("state_dir changed from %s to %s2, which takes a restart", state, state)) {
			return errors.New("not yet")
		}
		return nil
	})
	h.configure(t, good)
	if out, code := h.handover(t); code != 0 {
		t.Errorf("a handover after all of those ended in %d: %s", code, out)
	}
	l.end(t)
}

// TestHandoverTwice: one at a time.
func TestHandoverTwice(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := newHeir(t, backendBlock(echoes(t).URL)).begin(t)
	h.replace(t, fmt.Sprintf("#!/bin/sh\n%s='offer hangs' exec %q\n", fakeEnv, self), 0o700)
	first := make(chan string, 1)
	go func() {
		out, code := run(t, "handover", "-config", h.config(), "-timeout", "10s")
		first <- fmt.Sprint(code, " ", out)
	}()
	eventually(t, "the first one has begun", func() error {
		if !strings.Contains(h.said(), "a new process was started") {
			return errors.New("not yet")
		}
		return nil
	})
	if out, code := h.handover(t); code != 1 || !strings.Contains(out, "another handover is going on") {
		t.Errorf("a second one ended in %d: %s", code, out)
	}
	if err := syscall.Kill(h.serving(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the signal is refused", func() error {
		if strings.Count(h.said(), "another handover is going on") < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	// Who stops the process stops what it has started, too.
	if err := syscall.Kill(h.serving(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := <-first; !strings.HasPrefix(got, "1 ") {
		t.Errorf("the first one ended in %s", got)
	}
	eventually(t, "all end", func() error { return gone(h.serving()) })
}

// TestHandoverKilled: kill -9 of either process at any moment leaves one that serves,
// or, when it was the only one, a state that the next start finds in order.
func TestHandoverKilled(t *testing.T) {
	h := newHeir(t, backendBlock(echoes(t).URL)).begin(t)
	started := regexp.MustCompile(`"a new process was started.*?"pid":(\d+)`)
	for n := range 16 {
		before := len(started.FindAllString(h.said(), -1))
		old := h.serving()
		if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		pid := 0
		eventually(t, "a new process", func() error {
			all := started.FindAllStringSubmatch(h.said(), -1)
			if len(all) == before {
				return errors.New("not yet")
			}
			pid, _ = strconv.Atoi(all[len(all)-1][1])
			return nil
		})
		h.owns(t, pid)
		time.Sleep(time.Duration(n/2*25) * time.Millisecond) // at another moment each time
		victim := old
		if n%2 == 0 {
			victim = pid
		}
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		if victim == old {
			h.ready(t) // the new one, for it has the sockets
			continue
		}
		<-h.end()
		took := fmt.Sprintf(`"another process has taken over","pid":%d`, pid)
		eventually(t, "the old one knows", func() error {
			if log := h.said(); !strings.Contains(log, took) && !strings.Contains(log, fmt.Sprintf("(pid %d) ", pid)) {
				return errors.New("it says nothing")
			}
			return nil
		})
		if !strings.Contains(h.said(), took) {
			h.mu.Lock()
			h.pid = old
			h.mu.Unlock()
			h.ready(t)
			continue
		}
		eventually(t, "the old one ends", func() error { return gone(old) })
		h.begin(t)
	}
	if got, err := (&plainSender{g: h.gateway}).post("/", "hello"); err != nil || got != "hello" {
		t.Errorf("after all of that: %q, %v", got, err)
	}
}

// TestHandoverChangesListeners: addresses come and go with a handover, that of the
// admin server, too, which no reload can change.
func TestHandoverChangesListeners(t *testing.T) {
	good := backendBlock(echoes(t).URL)
	h := newHeir(t, good)
	more := ports(t, 5)[3:]
	with := fmt.Sprintf("%slistener \"more\" {\n  address = \"127.0.0.1:%d\"\n  tls = false\n}\n", good, more[0])
	h.configure(t, with)
	h.begin(t)
	if err := dial(more[0]); err != nil {
		t.Fatal(err)
	}
	h.configure(t, good)
	h.admin = more[1]
	text, err := os.ReadFile(h.config())
	if err != nil {
		t.Fatal(err)
	}
	admin := regexp.MustCompile(`admin \{ address = "[^"]+" \}`)
	write(t, h.config(), admin.ReplaceAllString(string(text), fmt.Sprintf(`admin { address = "127.0.0.1:%d" }`, h.admin)))
	if out, code := h.handover(t); code != 0 {
		t.Fatalf("handover: %d, %s", code, out)
	}
	h.ready(t)
	eventually(t, "the address that is gone is closed", func() error {
		if dial(more[0]) == nil {
			return errors.New("it is open")
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(h.dir, "state", "admin.sock")); err != nil {
		t.Errorf("the admin socket: %v", err)
	}
	if out, code := run(t, "status", "-config", h.config()); code != 0 {
		t.Errorf("sidegate status: %d, %s", code, out)
	}
}
