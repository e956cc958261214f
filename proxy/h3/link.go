package h3

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A link joins two processes that share a UDP socket: the one that reads the
// socket passes the packets that are the other's. It is a pair of sockets of
// type SOCK_SEQPACKET: each message arrives whole, a full queue is told to the
// sender, and the end of either process to the other.
//
// The messages of the reader: linkTake asks for the socket, or, to who hasn't
// got it any more, just whose link it is; linkPacket is a packet with where it
// is from. The other answers linkTake by linkYours, with its generation, when it
// doesn't read the socket any more. So a link can be passed on as it is, and
// the third process asks in turn.
type link struct {
	conn       *net.UnixConn
	raw        syscall.RawConn
	generation uint32 // of the process at the other end, once it has answered

	out  []byte // the message being written; of the socket's reader
	in   []byte // the message being read; of whoever reads the link
	lost atomic.Uint64
}

const (
	linkTake   = 1
	linkYours  = 2
	linkPacket = 3

	linkMax = 2 << 10 // a message; quic-go reads no packet beyond 1452 bytes
)

func newLink(c *net.UnixConn) (*link, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &link{conn: c, raw: raw, out: make([]byte, 0, linkMax), in: make([]byte, linkMax)}, nil
}

// linkOf makes a link of an end that has been passed on, and closes f.
func linkOf(f *os.File) (*link, error) {
	c, err := net.FileConn(f)
	_ = f.Close() // it has been duplicated
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok || u.LocalAddr().Network() != "unixpacket" {
		_ = c.Close()
		return nil, fmt.Errorf("%s: no link of a QUIC port", f.Name())
	}
	return newLink(u)
}

// take asks for the socket, and waits until the process at the other end has
// let go of it. It must be the only one to read the link.
func (l *link) take(wait time.Duration) error {
	_ = l.conn.SetDeadline(time.Now().Add(wait)) // it works on sockets
	defer l.conn.SetDeadline(time.Time{})        //nolint:errcheck // likewise
	if _, err := l.conn.Write([]byte{linkTake}); err != nil {
		return err
	}
	for {
		n, err := l.conn.Read(l.in)
		if err != nil {
			return err
		}
		if g, ok := parseYours(l.in[:n]); ok {
			l.generation = g
			return nil
		}
	}
}

func parseYours(b []byte) (generation uint32, ok bool) {
	if len(b) != 5 || b[0] != linkYours {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[1:]), true
}

// answer says that the socket is free.
func (l *link) answer(generation uint32) {
	// One who asks waits for it; if he has ended, the next read says so.
	_, _ = l.conn.Write(binary.BigEndian.AppendUint32([]byte{linkYours}, generation))
}

// read gets the next message: a packet, of which m is filled, or something else.
func (l *link) read(m *ipv4.Message) (kind byte, err error) {
	n, err := l.conn.Read(l.in)
	if err != nil {
		return 0, err
	}
	return parseMessage(l.in[:n], m), nil
}

// parseMessage fills m from a packet; it returns 0 for what is no message.
func parseMessage(b []byte, m *ipv4.Message) (kind byte) {
	if len(b) == 1 && b[0] == linkTake {
		return linkTake
	}
	const head = 3
	if len(b) < head || b[0] != linkPacket {
		return 0
	}
	address, oob := int(b[1]), int(b[2])
	b = b[head:]
	if len(b) <= address+oob || oob > len(m.OOB) {
		return 0
	}
	var from netip.AddrPort
	if from.UnmarshalBinary(b[:address]) != nil || !from.IsValid() {
		return 0
	}
	m.Addr = net.UDPAddrFromAddrPort(from)
	m.NN = copy(m.OOB, b[address:address+oob])
	m.N = copy(m.Buffers[0], b[address+oob:])
	m.Flags = 0
	return linkPacket
}

// appendMessage is how a packet travels: with the sender's address, and the
// control messages (ECN, the address that it was sent to) as the kernel gave
// them.
func appendMessage(b []byte, m *ipv4.Message) ([]byte, bool) {
	u, ok := m.Addr.(*net.UDPAddr)
	if !ok || m.NN > 255 {
		return b, false
	}
	start := len(b)
	b = append(b, linkPacket, 0, byte(m.NN))
	b, err := u.AddrPort().AppendBinary(b)
	if err != nil || len(b)-start-3 > 255 {
		return b[:start], false
	}
	b[start+1] = byte(len(b) - start - 3)
	b = append(b, m.OOB[:m.NN]...)
	return append(b, m.Buffers[0][:m.N]...), true
}

// pass sends a packet to where it belongs. It never waits: a packet that finds
// no room is lost, as on any other way, and QUIC sends it again.
func (l *link) pass(m *ipv4.Message) {
	b, ok := appendMessage(l.out[:0], m)
	if !ok {
		l.lost.Add(1)
		return
	}
	l.out = b
	sent := unix.EBADF // of a link that is closed
	_ = l.raw.Write(func(fd uintptr) bool {
		_, err := unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == nil {
			sent = 0
		}
		return true
	})
	if sent != 0 {
		l.lost.Add(1)
	}
}

// wait returns when the process at the other end has ended, or the link closed.
// What it says stays unread: it is for who has got the link from us.
func (l *link) wait() {
	_ = l.raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(p, 0)
		return err != nil && !errors.Is(err, unix.EINTR) || p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
}

// file is the same end for another process.
func (l *link) file() (*os.File, error) { return duplicate(l.raw, "quic-link") }

// duplicate is a second descriptor of a socket. Not by File, whose Fd makes the
// socket block, for this process as well.
func duplicate(raw syscall.RawConn, name string) (*os.File, error) {
	var fd int
	var failed error
	err := raw.Control(func(from uintptr) {
		fd, failed = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
