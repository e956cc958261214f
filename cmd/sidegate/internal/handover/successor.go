package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is how this process was started, and how the next one is.
type Command struct {
	Path string
	Args []string // with the name
	Dir  string
}

// Started is the command of this process: the path that it was started by, so
// that a file put in its place is what is started next.
func Started() (Command, error) {
	c := Command{Args: slices.Clone(os.Args)}
	var err error
	if c.Path, err = exec.LookPath(os.Args[0]); err == nil {
		c.Path, err = filepath.Abs(c.Path)
	}
	if err != nil {
		if c.Path, err = os.Executable(); err != nil {
			return c, fmt.Errorf("the path of this program can't be found: %w", err)
		}
	}
	c.Dir, err = os.Getwd()
	return c, err
}

// endWait bounds the wait for a killed process's end: one that hangs in the
// kernel can't be waited for.
const endWait = 5 * time.Second

// Successor is a process that was started to take over.
type Successor struct {
	PID     int
	Version string // once it is prepared

	process *os.Process
	pidfd   int // of its own: the process isn't our child, and can't be awaited
	channel net.Conn
}

// ErrFirst is what Start says to the first process of a container.
var ErrFirst = errors.New("this is process 1 of its container, which ends with it: start a new container instead, or run sidegate under an init process (docker run --init)")

// Start starts a process of the command, with this one's environment and output,
// and offers it the sockets, of which it gets duplicates. It is a child of this
// process's parent, not of this one: a service manager sees it end.
func Start(c Command, version string, sockets []Socket) (*Successor, error) {
	if os.Getpid() == 1 {
		return nil, ErrFirst
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close() //nolint:errcheck // the new process has its own
	const first = 3
	m := message{Kind: offer, Version: version, PID: os.Getpid()}
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs}
	for _, s := range sockets {
		s.FDs = nil
		for _, f := range s.Files {
			s.FDs = append(s.FDs, len(files))
			files = append(files, f)
		}
		m.Sockets = append(m.Sockets, s)
	}
	pidfd := -1
	p, err := os.StartProcess(c.Path, c.Args, &os.ProcAttr{
		Dir: c.Dir, Env: environment(first), Files: files, Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_PARENT, PidFD: &pidfd},
	})
	if err != nil {
		_ = ours.Close() // nobody has heard of it
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	s := &Successor{PID: p.Pid, process: p, pidfd: pidfd, channel: ours}
	if err := send(ours, m); err != nil {
		s.End()
		return nil, fmt.Errorf("the new process takes no sockets: %w", err)
	}
	return s, nil
}

// environment is this process's, with the channel, and without what was meant for
// this process alone.
func environment(channel int) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, Env+"=") || strings.HasPrefix(v, "WATCHDOG_PID=") || strings.HasPrefix(v, "LISTEN_")
	})
	return append(env, Env+"="+strconv.Itoa(channel))
}

// pair is a channel: our end, and the file of the other.
func pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "handover"), os.NewFile(uintptr(fds[1]), "handover")
	defer ours.Close() //nolint:errcheck // the connection has a duplicate
	c, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close() // nothing is in it
		return nil, nil, err
	}
	return c, theirs, nil
}

// Prepared waits until the new process could serve.
func (s *Successor) Prepared(by time.Time) error {
	m, err := s.await(prepared, by)
	s.Version = m.Version
	return err
}

// Yielded tells the new process that the state is its own, and waits until it
// serves.
func (s *Successor) Yielded(by time.Time) error {
	if err := s.tell(yielded); err != nil {
		return err
	}
	_, err := s.await(serving, by)
	return err
}

// Released tells the new process that it alone accepts connections, and ends
// the channel.
func (s *Successor) Released() {
	_ = s.tell(released) // one that has ended doesn't care
	s.close()
}

// Kill ends the new process, which whoever waits for it gets to know.
func (s *Successor) Kill() { _ = s.process.Kill() } // it may have ended by itself

// End kills the new process, and waits until it holds no lock and no socket any
// more.
func (s *Successor) End() {
	s.Kill()
	if s.pidfd >= 0 {
		p := [1]unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}
		for err := error(unix.EINTR); err == unix.EINTR; { //nolint:errorlint // an Errno as it comes
			_, err = unix.Poll(p[:], int(endWait.Milliseconds()))
		}
	}
	s.close()
}

func (s *Successor) close() {
	_ = s.channel.Close()   // all is said
	_ = s.process.Release() // nor is there more to do with it
	if s.pidfd >= 0 {
		_ = unix.Close(s.pidfd)
	}
}

func (s *Successor) tell(kind string) error {
	if err := send(s.channel, message{Kind: kind}); err != nil {
		return fmt.Errorf("the new process (pid %d) has ended", s.PID)
	}
	return nil
}

func (s *Successor) await(kind string, by time.Time) (message, error) {
	if err := s.channel.SetReadDeadline(by); err != nil {
		return message{}, err
	}
	m, err := receive(s.channel)
	switch {
	case errors.Is(err, errGone):
		return m, fmt.Errorf("the new process (pid %d) ended before it was %s", s.PID, kind)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return m, fmt.Errorf("the new process (pid %d) wasn't %s in time", s.PID, kind)
	case err != nil:
		return m, fmt.Errorf("the new process (pid %d): %w", s.PID, err)
	case m.Kind == failed:
		return m, errors.New(m.Error)
	case m.Kind != kind:
		return m, fmt.Errorf("the new process (pid %d) says %q instead of %q", s.PID, m.Kind, kind)
	}
	return m, nil
}
