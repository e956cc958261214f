package systemd

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxName is the longest name of a descriptor.
const maxName = 255

// Store gives the service manager a duplicate of f to keep under a name while the
// service restarts (FileDescriptorStoreMax= says how many it keeps); Listeners
// returns it then. Names are of printable ASCII without colons. What is kept
// already isn't kept twice.
func Store(name string, f *os.File) error {
	if !validName(name) {
		return fmt.Errorf("systemd can't keep a descriptor under the name %q", name)
	}
	// FDPOLL=0: whether a listening socket is of use isn't for poll(2) to say.
	return notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, f)
}

// Unstore has the service manager close what it keeps under a name.
func Unstore(name string) error {
	if !validName(name) {
		return nil // Store has refused it
	}
	return Notify("FDSTOREREMOVE=1\nFDNAME=" + name)
}

// Barrier waits until the service manager has done what it was told before.
func Barrier(limit time.Duration) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()                    //nolint:errcheck // nothing is written
	err = notify("BARRIER=1", w)       // alone in its message (sd_notify(3))
	if cerr := w.Close(); err == nil { // the manager's is the last one
		err = cerr
	}
	if err == nil {
		err = r.SetReadDeadline(time.Now().Add(limit))
	}
	if err != nil {
		return err
	}
	if _, err = r.Read(make([]byte, 1)); os.IsTimeout(err) {
		return fmt.Errorf("systemd didn't answer within %v", limit)
	}
	return nil
}

func validName(name string) bool {
	other := func(r rune) bool { return r < ' ' || r > '~' || r == ':' }
	return name != "" && len(name) <= maxName && !strings.ContainsFunc(name, other)
}

// notify is Notify with a descriptor.
func notify(state string, f *os.File) error {
	c, err := dial()
	if c == nil || err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // a datagram is out or not
	from, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	to, err := c.SyscallConn() // net doesn't send control messages on connected sockets
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	var sent error
	send := func(fd uintptr) { // not f.Fd, which would have the socket block
		err := to.Write(func(socket uintptr) bool {
			sent = unix.Sendmsg(int(socket), []byte(state), unix.UnixRights(int(fd)), nil, unix.MSG_NOSIGNAL)
			return sent != unix.EAGAIN
		})
		sent = cmp.Or(err, sent)
	}
	if err := cmp.Or(from.Control(send), sent); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// dial is a connection to the service manager; nil: there is none.
func dial() (*net.UnixConn, error) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil, nil
	}
	if name[0] != '/' && name[0] != '@' { // vsock is for virtual machines
		return nil, fmt.Errorf("notify systemd: unsupported socket %q", name)
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify systemd: %w", err)
	}
	if err := c.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		_ = c.Close() // of no use
		return nil, fmt.Errorf("notify systemd: %w", err)
	}
	return c, nil
}
