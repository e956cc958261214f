package e2e

import (
	"fmt"
	"net"
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

	"golang.org/x/sys/unix"
)

// manager does for a gateway what systemd does: it hears notifications, keeps
// descriptors, and starts the next process with them. The test on a booted machine
// has the real one.
type manager struct {
	*heir
	socket *net.UnixConn
	units  []stored // of a socket unit

	mu    sync.Mutex
	main  int
	store []stored
	told  []string // notifications, without those of descriptors
}

type stored struct {
	name string
	file *os.File
}

func newManager(t *testing.T, more string) *manager {
	t.Helper()
	m := &manager{heir: newHeir(t, more)}
	path := filepath.Join(m.dir, "notify")
	var err error
	if m.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	raw, err := m.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); m.listen() }()
	t.Cleanup(func() { _ = m.socket.Close(); <-done })
	return m
}

// listen takes notifications, of the main process alone (NotifyAccess=main).
func (m *manager) listen() {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := m.socket.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		var files []*os.File
		from := 0
		list, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, c := range list {
			if cred, err := unix.ParseUnixCredentials(&c); err == nil {
				from = int(cred.Pid)
			}
			fds, _ := unix.ParseUnixRights(&c)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "stored"))
			}
		}
		m.take(from, string(b[:n]), files)
	}
}

func (m *manager) take(from int, text string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	closeFiles := func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	if from != m.main || strings.HasPrefix(text, "BARRIER=1") {
		closeFiles()
		return
	}
	name := ""
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "FDNAME="); ok {
			name = v
		}
	}
	switch {
	case strings.HasPrefix(text, "FDSTORE=1"):
		for _, f := range files {
			if !slices.ContainsFunc(m.store, func(s stored) bool { return same(s.file, f) }) {
				m.store = append(m.store, stored{name, f})
			} else {
				_ = f.Close()
			}
		}
		return
	case strings.HasPrefix(text, "FDSTOREREMOVE=1"):
		m.store = slices.DeleteFunc(m.store, func(s stored) bool {
			if s.name == name {
				_ = s.file.Close()
			}
			return s.name == name
		})
	}
	if v, ok := strings.CutPrefix(text, "MAINPID="); ok {
		m.main, _ = strconv.Atoi(v)
	}
	m.told = append(m.told, fmt.Sprintf("%d %s", from, text))
	closeFiles()
}

// same reports whether two descriptors are of one socket.
func same(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Ino == y.Ino
}

func (m *manager) heard(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.told, text)
}

func (m *manager) kept() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.store {
		names = append(names, s.name)
	}
	slices.Sort(names)
	return names
}

// start starts a process with what is kept, and waits until it says that it is ready.
func (m *manager) start(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	var names []string
	var files []*os.File
	for _, s := range slices.Concat(m.units, m.store) {
		names, files = append(names, s.name), append(files, s.file)
	}
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" run -config "$1"`, m.bin, filepath.Join(m.dir, "etc"))
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(m.dir, "notify"), fmt.Sprint("LISTEN_FDS=", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = m.out, m.out, files
	err := cmd.Start()
	if err == nil {
		m.main = cmd.Process.Pid
	}
	m.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	m.owns(t, cmd.Process.Pid)
	m.readyIs(t, cmd.Process.Pid)
}

func (m *manager) readyIs(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "READY=1", func() error {
		if !m.heard(fmt.Sprint(pid, " READY=1")) {
			return fmt.Errorf("process %d hasn't said so", pid)
		}
		return nil
	})
}

// restart is systemctl restart: the end of one process, then the next.
func (m *manager) restart(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(m.serving(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.end():
	case <-time.After(20 * time.Second):
		t.Fatal("the process doesn't end")
	}
	m.start(t)
}

// TestRestartUnderLoad: with its sockets kept by the service manager, a gateway is
// restarted again and again, and not one request is lost on any protocol.
func TestRestartUnderLoad(t *testing.T) {
	m := newManager(t, backendBlock(echoes(t).URL))
	m.start(t)
	l := m.attack(2)
	for range rounds(t, 20) {
		m.restart(t)
	}
	l.end(t)
	want := []string{
		fmt.Sprintf("sidegate admin 127.0.0.1|%d", m.admin), fmt.Sprintf("sidegate tcp 127.0.0.1|%d", m.http),
		fmt.Sprintf("sidegate tcp 127.0.0.1|%d", m.https), fmt.Sprintf("sidegate udp 127.0.0.1|%d", m.https),
	}
	slices.Sort(want)
	if got := m.kept(); !slices.Equal(got, want) {
		t.Errorf("kept: %q, want %q", got, want)
	}
}

// TestRestartChangesListeners: what no listener wants any more isn't kept, whether a
// reload or a restart takes it away; its port can be bound for another address.
func TestRestartChangesListeners(t *testing.T) {
	good := backendBlock(echoes(t).URL)
	m := newManager(t, good)
	p := ports(t, 5)[3:]
	listener := func(name, address string) string {
		return fmt.Sprintf("listener %q {\n  address = %q\n  tls = false\n}\n", name, address)
	}
	m.configure(t, good+listener("a", fmt.Sprintf("127.0.0.1:%d", p[0]))+listener("b", fmt.Sprintf("127.0.0.1:%d", p[1])))
	m.start(t)
	if n := len(m.kept()); n != 6 {
		t.Fatalf("%d descriptors are kept: %q", n, m.kept())
	}
	m.configure(t, good+listener("b", fmt.Sprintf("127.0.0.1:%d", p[1])))
	if err := syscall.Kill(m.serving(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reload gives one up", func() error {
		if n := len(m.kept()); n != 5 {
			return fmt.Errorf("%d are kept", n)
		}
		return nil
	})
	// All addresses of the port instead of one: with the old socket open, they couldn't
	// be bound.
	m.configure(t, good+listener("b", fmt.Sprintf(":%d", p[1])))
	m.restart(t)
	if got := m.kept(); len(got) != 5 || !slices.Contains(got, fmt.Sprintf("sidegate tcp |%d", p[1])) {
		t.Errorf("kept: %q", got)
	}
	// A handover knows what the process before has had kept.
	m.configure(t, good)
	if out, code := m.handover(t); code != 0 {
		t.Fatalf("handover: %d, %s", code, out)
	}
	eventually(t, "the handover gives one up", func() error {
		if n := len(m.kept()); n != 4 {
			return fmt.Errorf("%d are kept", n)
		}
		return nil
	})
}

// TestHandoverTellsTheManager: the old process says which one is the main one, then
// that one says that it is ready.
func TestHandoverTellsTheManager(t *testing.T) {
	m := newManager(t, backendBlock(echoes(t).URL))
	m.start(t)
	for range 3 {
		old := m.serving()
		out, code := m.handover(t)
		if code != 0 {
			t.Fatalf("handover: %d, %s", code, out)
		}
		m.readyIs(t, m.serving())
		if want := fmt.Sprintf("%d MAINPID=%d", old, m.serving()); !m.heard(want) {
			t.Errorf("nobody said %q", want)
		}
	}
	if n := len(m.kept()); n != 4 {
		t.Errorf("%d descriptors are kept: %q", n, m.kept())
	}
}

// TestSocketUnit: sockets of a socket unit go to the listener of their name, or of
// their address; they are passed on by a handover, and what nobody wants is told.
func TestSocketUnit(t *testing.T) {
	m := newManager(t, backendBlock(echoes(t).URL))
	open := func(name string, port int, udp bool) {
		t.Helper()
		address := fmt.Sprintf("127.0.0.1:%d", port)
		var f *os.File
		if udp {
			c, err := net.ListenPacket("udp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if f, err = c.(*net.UDPConn).File(); err != nil {
				t.Fatal(err)
			}
		} else {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if f, err = l.(*net.TCPListener).File(); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { _ = f.Close() })
		m.units = append(m.units, stored{name, f})
	}
	// By its name it may be bound to another address than the configuration says.
	p := ports(t, 5)[3:]
	open("https", p[0], false)
	open("https", p[0], true)
	open("sidegate.socket", m.http, false) // by its address
	open("other", p[1], false)             // by neither
	configured := m.https
	m.https = p[0]
	m.start(t)
	served := func() {
		t.Helper()
		for kind, dial := range m.senders() {
			s := dial()
			if got, err := s.post("/", "hello"); err != nil || got != "hello" {
				t.Errorf("%s: %q, %v", kind, got, err)
			}
			s.close()
		}
		if dial(configured) == nil {
			t.Error("the address of the configuration was bound, too")
		}
	}
	served()
	if log := m.said(); !regexp.MustCompile(fmt.Sprintf(`"level":"error".*that no listener wants.*127.0.0.1:%d .*other`, p[1])).MatchString(log) {
		t.Error("nothing is said of the socket that nobody wants")
	}
	if got := m.kept(); len(got) != 1 { // the admin address's; the others are the unit's
		t.Errorf("kept: %q", got)
	}
	if out, code := m.handover(t); code != 0 {
		t.Fatalf("handover: %d, %s", code, out)
	}
	served()
	m.readyIs(t, m.serving())
	m.restart(t)
	served()
}
