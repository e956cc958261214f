// Package systemd speaks to the service manager: it reports readiness, reloads
// and the watchdog's heartbeat, and takes over sockets that systemd opened.
// Beside it are the unit files.
//
// It isn't for asking systemd about units, and not for logs: what goes to
// stderr reaches the journal. Outside of systemd everything here does nothing.
// It starts no goroutine.
package systemd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notifyTimeout bounds a notification: systemd that doesn't take it must not
// hold us up.
const notifyTimeout = 2 * time.Second

// Notify sends state, lines of the form KEY=VALUE, to the service manager
// (sd_notify(3)). Without a manager that listens it does nothing.
func Notify(state string) error {
	if state == "" {
		return nil
	}
	c, err := dial()
	if c == nil || err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // a datagram is out or not
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Ready says that the start, or a reload, is done.
func Ready() error { return Notify("READY=1") }

// Reloading says that a reload has begun; Ready must follow. It carries the
// time, which Type=notify-reload (systemd 253) needs.
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("notify systemd: monotonic clock: %w", err)
	}
	return Notify("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10))
}

// Stopping says that the shutdown has begun.
func Stopping() error { return Notify("STOPPING=1") }

// Status sets the line that systemctl status shows.
func Status(status string) error {
	return Notify("STATUS=" + strings.NewReplacer("\n", " ", "\r", " ").Replace(status))
}

// ExtendTimeout asks for that much more time to start, reload or stop.
func ExtendTimeout(d time.Duration) error {
	return Notify("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10))
}

// Watchdog is the heartbeat that WatchdogInterval asks for.
func Watchdog() error { return Notify("WATCHDOG=1") }

// WatchdogInterval is how often Watchdog should be called: a third of the time
// after which systemd kills the service; 0 when it doesn't watch this process.
func WatchdogInterval() (time.Duration, error) {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	v := os.Getenv("WATCHDOG_USEC")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n <= 0 || n > int64(1<<63-1)/1000 {
		return 0, fmt.Errorf("WATCHDOG_USEC is %q", v)
	}
	return time.Duration(n) * time.Microsecond / 3, nil
}

var errDescriptors = errors.New("LISTEN_FDS is malformed")
