// Package handover passes the listening sockets of a running gateway on to a new
// process, and has the two agree on when which of them serves. It knows nothing
// of HTTP, of configuration and of state: what is to be done at each step is the
// caller's.
//
//	old                          new
//	 │ starts it, offer{sockets} ▸│
//	 │                            │ loads, binds what is new, compiles
//	 │◂ prepared                  │
//	 │ lets go of its state       │
//	 │ yielded ─────────────────▸ │
//	 │                            │ opens the state, accepts
//	 │◂ serving                   │
//	 │ tells systemd, stops accepting
//	 │ released ────────────────▸ │
//	 │ drains, ends               │ says that it is ready
//
// Until serving, whatever goes wrong with the new process (failed, the end of the
// channel, a limit of time) leaves the old one as it was: it ends the new one for
// good before it takes its state back. An old process that ends meanwhile leaves
// sockets and state to the new one, which then goes on by itself.
//
// It starts no goroutine that outlives a call.
package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// Env is the variable that tells a new process the descriptor of its channel.
const Env = "SIDEGATE_HANDOVER"

// Socket is an open socket, what it was opened for, and the ways to the processes
// before that come with it.
type Socket struct {
	Network string     `json:"network"` // tcp, udp, or what its owner means by it
	Address string     `json:"address"` // as in the configuration
	Unit    bool       `json:"unit,omitempty"`
	Name    string     `json:"name,omitempty"`
	FDs     []int      `json:"fds"` // in the new process: of Files
	Files   []*os.File `json:"-"`   // the socket, and the ways
}

// The kinds of messages.
const (
	offer    = "offer"
	prepared = "prepared"
	yielded  = "yielded"
	serving  = "serving"
	released = "released"
	failed   = "failed"
)

// message is one frame on the channel.
type message struct {
	Kind    string   `json:"kind"`
	Version string   `json:"version,omitempty"` // of the sender's binary
	PID     int      `json:"pid,omitempty"`
	Sockets []Socket `json:"sockets,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// maxMessage bounds a frame: a thousand listeners are far less.
const maxMessage = 1 << 20

var errGone = errors.New("the other process has ended")

func send(c net.Conn, m message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(text)))
	_, err = c.Write(append(b, text...))
	return err
}

// receive waits for a message; errGone, when none will come.
func receive(c net.Conn) (message, error) {
	var m message
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return m, gone(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return m, fmt.Errorf("a message of %d bytes is more than can be", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(c, text); err != nil {
		return m, gone(err)
	}
	return m, json.Unmarshal(text, &m)
}

// gone is errGone, unless it was our own limit of time that ended the wait.
func gone(err error) error {
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return err
	}
	return fmt.Errorf("%w: %w", errGone, err)
}
