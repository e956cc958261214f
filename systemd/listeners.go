package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Listener is a socket that systemd opened: one of the two.
type Listener struct {
	Stream net.Listener   // TCP or unix
	Packet net.PacketConn // UDP
}

// Close closes the socket.
func (l Listener) Close() error {
	if l.Packet != nil {
		return l.Packet.Close()
	}
	return l.Stream.Close()
}

const (
	firstDescriptor = 3
	maxDescriptors  = 1024
)

// Listeners returns the sockets that systemd passed, by the names that the
// socket unit gives them (FileDescriptorName=; its own name, else), and takes
// the variables that announce them out of the environment, so that no child
// takes them for its own. The map is empty when there are none. After an error
// none stays open.
func Listeners() (map[string][]Listener, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("unset %s: %w", name, err)
		}
	}
	if count == "" || pid != strconv.Itoa(os.Getpid()) {
		return map[string][]Listener{}, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxDescriptors {
		return nil, fmt.Errorf("%w: %q", errDescriptors, count)
	}
	return take(firstDescriptor, n, strings.Split(names, ":"))
}

// take makes listeners of the n descriptors from first on. It closes each: the
// listener has a duplicate, and a socket with two descriptors stays open when
// one is closed.
func take(first, n int, names []string) (map[string][]Listener, error) {
	out := make(map[string][]Listener, n)
	var failed error
	for i := range n {
		name := "unknown" // as sd_listen_fds_with_names(3) has it
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		unix.CloseOnExec(first + i)
		f := os.NewFile(uintptr(first+i), name)
		if f == nil {
			failed = fmt.Errorf("socket %q from systemd: bad descriptor", name)
			continue
		}
		l, err := listener(f)
		if cerr := f.Close(); err == nil && cerr != nil {
			err = cerr
		}
		if err != nil {
			failed = fmt.Errorf("socket %q from systemd: %w", name, err)
			continue
		}
		out[name] = append(out[name], l)
	}
	if failed == nil {
		return out, nil
	}
	for _, ls := range out {
		for _, l := range ls {
			_ = l.Close() // the first failure is the one to tell
		}
	}
	return nil, failed
}

func listener(f *os.File) (Listener, error) {
	kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return Listener{}, os.NewSyscallError("getsockopt", err)
	}
	if kind == unix.SOCK_DGRAM {
		p, err := net.FilePacketConn(f)
		return Listener{Packet: p}, err
	}
	l, err := net.FileListener(f)
	return Listener{Stream: l}, err
}
