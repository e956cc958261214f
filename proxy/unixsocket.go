package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// UnixPrefix begins an address that is the path of a unix socket.
const UnixPrefix = "unix://"

const (
	// unixMode lets the user and the group of the process connect: an app of
	// another user joins the group.
	unixMode = 0o660
	// unixPatience is how long somebody who listens may take to accept.
	unixPatience = time.Second
)

// listenUnix listens at a path. A socket that nobody listens on any more is
// replaced; anything else at the path is left alone. The file goes when the
// listener is closed.
func listenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s: its folder isn't there: create it", path)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s: this user may not write into its folder", path)
	case err != nil:
		return nil, err
	}
	if err := os.Chmod(path, unixMode); err != nil {
		_ = l.Close() // the first error is the one that matters
		return nil, err
	}
	return l, nil
}

// removeStale removes a socket that refuses connections.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is there and isn't a socket: remove it, or choose another path", path)
	}
	nc, err := net.DialTimeout("unix", path, unixPatience)
	if err == nil {
		_ = nc.Close() // it has told what we asked
		return fmt.Errorf("%s is taken by another process: find it with `ss -lxp`, or choose another path", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Remove(path)
}

// shut closes a listening socket. The file of a unix socket stays if another process
// has the socket, or will have it.
func shut(l net.Listener, stays bool) {
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(!stays)
	}
	_ = l.Close() // ends its accept loops, after what they have
}

// Key tells the listeners of a server apart: two that take any free port at the
// same host aren't the same.
func (c *ListenerConfig) Key() string {
	if _, port, err := net.SplitHostPort(c.Address); err == nil && port == "0" {
		return c.Name + " " + c.Address
	}
	return c.Address
}

// addressText is a bound address as an address argument has it.
func addressText(a net.Addr) string {
	if a.Network() == "unix" {
		return UnixPrefix + a.String()
	}
	return a.String()
}
