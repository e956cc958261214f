package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// answerWait bounds the waits for what the old process says at once: the sockets,
// and that it has stopped accepting.
const answerWait = 10 * time.Second

// Predecessor is the process that this one takes over from.
type Predecessor struct {
	PID     int
	Version string
	Sockets []Socket

	channel net.Conn
	gone    bool // it ended before it let go
	done    bool // serving was said
}

// Inherit finds the process that started this one to take over; nil: this one was
// started otherwise. Its variable is taken out of the environment.
func Inherit() (*Predecessor, error) {
	v, ok := os.LookupEnv(Env)
	if !ok {
		return nil, nil
	}
	if err := os.Unsetenv(Env); err != nil {
		return nil, fmt.Errorf("unset %s: %w", Env, err)
	}
	fd, err := strconv.Atoi(v)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s is %q: it is set by sidegate itself; unset it", Env, v)
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close() //nolint:errcheck // the connection has a duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%s: descriptor %d: %w: it is set by sidegate itself; unset it", Env, fd, err)
	}
	p := &Predecessor{channel: c}
	if err := p.take(); err != nil {
		_ = c.Close() // of no more use
		return nil, fmt.Errorf("take over from the old process: %w", err)
	}
	return p, nil
}

func (p *Predecessor) take() error {
	if err := p.channel.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	m, err := receive(p.channel)
	if err != nil {
		return err
	}
	if m.Kind != offer {
		return fmt.Errorf("it says %q instead of %q", m.Kind, offer)
	}
	p.PID, p.Version = m.PID, m.Version
	for _, s := range m.Sockets {
		for _, fd := range s.FDs {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), s.Network+" "+s.Address)
			if f == nil {
				return fmt.Errorf("descriptor %d of %s %s is bad", fd, s.Network, s.Address)
			}
			s.Files = append(s.Files, f)
		}
		if len(s.Files) == 0 {
			return fmt.Errorf("%s %s comes without a descriptor", s.Network, s.Address)
		}
		p.Sockets = append(p.Sockets, s)
	}
	return p.channel.SetReadDeadline(time.Time{})
}

// Prepared tells the old process that this one could serve, and waits until the
// old one has let go of its state. An old process that has ended has let go, too.
func (p *Predecessor) Prepared(version string) error {
	err := send(p.channel, message{Kind: prepared, Version: version, PID: os.Getpid()})
	if err == nil {
		err = p.await(yielded)
	}
	if errors.Is(err, errGone) || errors.Is(err, unix.EPIPE) {
		p.gone = true
		return nil
	}
	return err
}

// Gone reports whether the old process ended before it let go.
func (p *Predecessor) Gone() bool { return p.gone }

// Serving tells the old process that this one serves, and waits until it has
// stopped accepting. After it, all is this process's.
func (p *Predecessor) Serving() {
	p.done = true
	if !p.gone && p.channel.SetReadDeadline(time.Now().Add(answerWait)) == nil && send(p.channel, message{Kind: serving}) == nil {
		_ = p.await(released) // one that ended has stopped, too
	}
	_ = p.channel.Close() // all is said
}

// Failed tells the old process why this one doesn't take over; before Serving.
func (p *Predecessor) Failed(err error) {
	if p == nil || p.done {
		return
	}
	p.done = true
	_ = send(p.channel, message{Kind: failed, Error: err.Error()}) // it is on stderr, too
	_ = p.channel.Close()                                          // all is said
}

func (p *Predecessor) await(kind string) error {
	m, err := receive(p.channel)
	if err == nil && m.Kind != kind {
		return fmt.Errorf("the old process says %q instead of %q", m.Kind, kind)
	}
	return err
}
