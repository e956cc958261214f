package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// screen is a real terminal, tmux's, in which a command runs.
type screen struct {
	t      *testing.T
	socket string
}

func newScreen(t *testing.T, width, height int, command string) *screen {
	t.Helper()
	s := &screen{t, filepath.Join(t.TempDir(), "tmux")}
	s.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), "sh")
	t.Cleanup(func() { _ = s.command("kill-server").Run() }) // it may be gone
	s.keys(command, "Enter")
	return s
}

func (s *screen) command(args ...string) *exec.Cmd {
	cmd := exec.Command(tool(s.t, "tmux"), append([]string{"-S", s.socket}, args...)...)
	cmd.Env = append(os.Environ(), "TERM=screen", "PS1=$ ", "LC_ALL=C.UTF-8")
	return cmd
}

func (s *screen) tmux(args ...string) string {
	s.t.Helper()
	out, err := s.command(args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return string(out)
}

func (s *screen) keys(keys ...string) {
	s.t.Helper()
	s.tmux(append([]string{"send-keys"}, keys...)...)
}

// await waits until all of that is on the screen.
func (s *screen) await(what string, want ...string) string {
	s.t.Helper()
	var text string
	eventually(s.t, what, func() error {
		text = s.tmux("capture-pane", "-p")
		for _, w := range want {
			if !strings.Contains(text, w) {
				return fmt.Errorf("no %q on the screen:\n%s", w, text)
			}
		}
		return nil
	})
	return text
}

// TestTop: sidegate top shows what was sent, takes keys, follows the terminal's size,
// survives the gateway's absence, and leaves the terminal as it was.
func TestTop(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(fresh))
	t.Cleanup(s.Close)
	g := newGateway(t, "")
	g.configure(t, dashboardConfig(t, s.Listener.Addr().String(), fmt.Sprintf("127.0.0.1:%d", ports(t, 4)[3])))
	g.start(t)
	c := g.clients(t)[0]
	for range 20 {
		send(t, c, c.scheme+"://orders.test/")
		send(t, c, c.scheme+"://broken.test/")
	}
	etc := filepath.Join(g.dir, "etc")
	eventually(t, "the instance that isn't there is down", func() error {
		if out, _ := run(t, "top", "-config", etc, "-once", "-by", "service"); !strings.Contains(out, "1 of 2") {
			return errors.New(out)
		}
		return nil
	})
	for by, want := range map[string][]string{
		"route":    {"requests ", "errors 50%", "ROUTE", "\norders ", "\nbroken ", " 100% ", " 20  orders"},
		"service":  {"SERVICE", "1 of 2"},
		"consumer": {"usage block"},
	} {
		out, code := run(t, "top", "-config", etc, "-once", "-by", by)
		if code != 0 || strings.Contains(out, "\x1b") {
			t.Errorf("top -once -by %s: exit code %d: %q", by, code, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("top -once -by %s has no %q:\n%s", by, w, out)
			}
		}
	}
	if out, code := run(t, "top", "-config", etc); code != 0 || !strings.Contains(out, "ROUTE") || strings.Contains(out, "\x1b") {
		t.Errorf("without a terminal: %d %q", code, out)
	}
	if out, code := run(t, "top", "-config", etc, "-by", "colour"); code != 1 || !strings.Contains(out, "isn't route, service or consumer") {
		t.Errorf("by colour: %d %s", code, out)
	}

	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	term := newScreen(t, 80, 24, fmt.Sprintf("stty -a > %s/before; %s top -config %s; stty -a > %s/after", g.dir, bin, etc, g.dir))
	text := term.await("routes", "ROUTE", "orders ", "q quit")
	for line := range strings.Lines(text) {
		if len([]rune(strings.TrimRight(line, "\n"))) > 80 {
			t.Errorf("too wide for 80 columns: %q", line)
		}
	}
	term.keys("s")
	term.await("services", "SERVICE", "1 of 2")
	term.keys("c")
	term.await("consumers", "usage block")
	term.keys("r")
	for range 5 {
		send(t, c, c.scheme+"://orders.test/")
	}
	term.await("five more, without a key", " 25  orders")
	term.keys("n")
	text = term.await("by name", "(n)")
	if strings.Index(text, "\nanswer") > strings.Index(text, "\nbroken") || !strings.Contains(text, "\nanswer") {
		t.Errorf("by name:\n%s", text)
	}
	term.tmux("resize-window", "-x", "60", "-y", "12")
	eventually(t, "a smaller picture", func() error {
		text := term.tmux("capture-pane", "-p")
		if lines := strings.Split(strings.TrimRight(text, "\n"), "\n"); len(lines) != 12 || !strings.HasPrefix(lines[11], "r routes") {
			return fmt.Errorf("%d lines:\n%s", len(lines), text)
		}
		return nil
	})
	g.process.stop(syscall.SIGKILL)
	term.await("that nothing answers", "no answer for")
	g.start(t)
	eventually(t, "that it answers again", func() error {
		if strings.Contains(term.tmux("capture-pane", "-p"), "no answer") {
			return errors.New("still the error")
		}
		return nil
	})
	term.keys("q")
	after := filepath.Join(g.dir, "after")
	eventually(t, "the terminal as it was", func() error {
		b, err := os.ReadFile(after)
		if err == nil && string(b) != strings.Replace(readFile(t, filepath.Join(g.dir, "before")), "rows 24; columns 80", "rows 12; columns 60", 1) {
			err = fmt.Errorf("stty says %s", b)
		}
		return err
	})
	if text := term.tmux("capture-pane", "-p"); strings.Contains(text, "q quit") {
		t.Errorf("what top drew is still there:\n%s", text)
	}
}
