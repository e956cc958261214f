package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a socket that notifications go to.
func manager(t *testing.T) (receive func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		b := make([]byte, 4096)
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestNotifications(t *testing.T) {
	receive := manager(t)
	tests := []struct {
		name string
		send func() error
		want string
	}{
		{"ready", Ready, `^READY=1$`},
		{"reloading", Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+$`},
		{"stopping", Stopping, `^STOPPING=1$`},
		{"status", func() error { return Status("a\nWATCHDOG=trigger") }, `^STATUS=a WATCHDOG=trigger$`},
		{"watchdog", Watchdog, `^WATCHDOG=1$`},
		{"extend", func() error { return ExtendTimeout(30 * time.Second) }, `^EXTEND_TIMEOUT_USEC=30000000$`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.send(); err != nil {
				t.Fatal(err)
			}
			if got := receive(); !regexp.MustCompile(tt.want).MatchString(got) {
				t.Errorf("sent %q, want %s", got, tt.want)
			}
		})
	}
}

func TestNotifyWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready(); err != nil {
		t.Errorf("Ready without a manager = %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := Ready(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Ready with the socket gone = %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "vsock:2:1")
	if err := Ready(); err == nil {
		t.Error("Ready over vsock = nil")
	}
}

func TestNotifyAbstractSocket(t *testing.T) {
	name := "@sidegate-test-" + strconv.Itoa(os.Getpid())
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test's socket
	t.Setenv("NOTIFY_SOCKET", name)
	if err := Watchdog(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "WATCHDOG=1" {
		t.Errorf("received %q, %v", b[:n], err)
	}
}

func TestWatchdogInterval(t *testing.T) {
	me := strconv.Itoa(os.Getpid())
	tests := []struct {
		usec, pid string
		want      time.Duration
		ok        bool
	}{
		{"", "", 0, true},
		{"30000000", "", 10 * time.Second, true},
		{"30000000", me, 10 * time.Second, true},
		{"30000000", "1", 0, true},
		{"0", me, 0, false},
		{"-1", me, 0, false},
		{"x", me, 0, false},
		{"9223372036854775807", me, 0, false},
	}
	for _, tt := range tests {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if got, err := WatchdogInterval(); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("WatchdogInterval(%q, %q) = %v, %v, want %v", tt.usec, tt.pid, got, err, tt.want)
		}
	}
}

func TestListenersWithoutSystemd(t *testing.T) {
	for _, env := range [][3]string{{"", "", ""}, {"1", "2", "a:b"}} { // nothing; another process's
		t.Setenv("LISTEN_PID", env[0])
		t.Setenv("LISTEN_FDS", env[1])
		t.Setenv("LISTEN_FDNAMES", env[2])
		if got, err := Listeners(); len(got) != 0 || err != nil {
			t.Errorf("Listeners with %q = %v, %v", env, got, err)
		}
		if v, ok := os.LookupEnv("LISTEN_FDS"); ok {
			t.Errorf("LISTEN_FDS is still %q", v)
		}
	}
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	for _, v := range []string{"-1", "x", "99999"} {
		t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		t.Setenv("LISTEN_FDS", v)
		if _, err := Listeners(); !errors.Is(err, errDescriptors) {
			t.Errorf("Listeners with %q = %v", v, err)
		}
	}
}

// TestListeners starts this test as systemd would start the service: the
// sockets are descriptors 3 and up of a new process.
func TestListeners(t *testing.T) {
	if os.Getenv("SIDEGATE_TEST_CHILD") != "" {
		child()
		return
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close() //nolint:errcheck // a test's socket
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close() //nolint:errcheck // a test's socket
	tf, err := tcp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer tf.Close() //nolint:errcheck // a duplicate
	uf, err := udp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer uf.Close() //nolint:errcheck // a duplicate

	// LISTEN_PID has to be the child's, which only the child knows: a shell
	// sets it and becomes it.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestListeners$'`, os.Args[0])
	cmd.ExtraFiles = []*os.File{tf, uf}
	cmd.Env = append(os.Environ(), "SIDEGATE_TEST_CHILD=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=https:https")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	want := fmt.Sprintf("https stream %v\nhttps packet %v\nsockets 2\nenvironment clean true\n", tcp.Addr(), udp.LocalAddr())
	if got := string(out); !strings.HasPrefix(got, want) {
		t.Errorf("child says\n%swant\n%s", got, want)
	}
}

func child() {
	ls, err := Listeners()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for name, group := range ls {
		for _, l := range group {
			if l.Stream != nil {
				fmt.Println(name, "stream", l.Stream.Addr())
			} else {
				fmt.Println(name, "packet", l.Packet.LocalAddr())
			}
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	sockets := 0
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	fmt.Println("sockets", sockets)
	_, a := os.LookupEnv("LISTEN_FDS")
	_, b := os.LookupEnv("LISTEN_FDNAMES")
	fmt.Println("environment clean", !a && !b)
}

func TestTakeOfWhatIsNoSocket(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()                  //nolint:errcheck // a pipe
	defer r.Close()                  //nolint:errcheck // a pipe
	fd, err := unix.Dup(int(r.Fd())) // take closes it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take(fd, 1, []string{"http"}); err == nil || !strings.Contains(err.Error(), `socket "http"`) {
		t.Errorf("take of a pipe = %v", err)
	}
}

// TestStore: the manager gets the descriptor and its name, and closes the barrier's
// when it has done what came before.
func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	m, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // a test's socket
	t.Setenv("NOTIFY_SOCKET", path)
	receive := func() (string, *os.File) {
		if err := m.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b, oob := make([]byte, 4096), make([]byte, 4096)
		n, oobn, _, _, err := m.ReadMsgUnix(b, oob)
		if err != nil {
			t.Fatal(err)
		}
		list, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(list) == 0 {
			return string(b[:n]), nil
		}
		fds, err := unix.ParseUnixRights(&list[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("descriptors %v, %v", fds, err)
		}
		return string(b[:n]), os.NewFile(uintptr(fds[0]), "stored")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	if err := Store("tcp a", f); err != nil {
		t.Fatal(err)
	}
	_, _ = f.Close(), l.Close()
	text, kept := receive()
	if text != "FDSTORE=1\nFDPOLL=0\nFDNAME=tcp a" || kept == nil {
		t.Fatalf("got %q, %v", text, kept)
	}
	if again, err := net.FileListener(kept); err != nil || again.Addr().String() != l.Addr().String() {
		t.Errorf("what is kept isn't the socket: %v", err)
	}
	_ = kept.Close()
	if err := Unstore("tcp a"); err != nil {
		t.Fatal(err)
	}
	if text, _ := receive(); text != "FDSTOREREMOVE=1\nFDNAME=tcp a" {
		t.Errorf("got %q", text)
	}
	for _, name := range []string{"", "a:b", "a\nFDSTORE=1", "\u00e9", strings.Repeat("a", 256)} {
		if err := Store(name, os.Stdin); err == nil {
			t.Errorf("Store(%q) = nil", name)
		}
	}
	done := make(chan error, 1)
	go func() { done <- Barrier(10 * time.Second) }()
	text, pipe := receive()
	if text != "BARRIER=1" || pipe == nil {
		t.Fatalf("got %q, %v", text, pipe)
	}
	select {
	case err := <-done:
		t.Errorf("the barrier is over before the manager has answered: %v", err)
	default:
	}
	_ = pipe.Close()
	if err := <-done; err != nil {
		t.Errorf("Barrier = %v", err)
	}
	if err := Barrier(time.Millisecond); err == nil || !strings.Contains(err.Error(), "1ms") {
		t.Errorf("Barrier without an answer = %v", err)
	}
}
