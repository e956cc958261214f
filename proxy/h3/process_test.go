package h3

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// childName is set in the environment of a process that is this test binary
// once more, as one generation of a gateway.
const childName = "SIDEGATE_H3_CHILD"

// TestMain is the life of such a process, or runs the tests.
func TestMain(m *testing.M) {
	if name := os.Getenv(childName); name != "" {
		if err := child(name); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child does what it is told on descriptor 3, and ends with that.
func child(name string) error {
	c, err := net.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	ctl := &commands{c.(*net.UnixConn)}
	cert, err := newCertificate()
	if err != nil {
		return err
	}
	log := logrus.New()
	front := NewFront(FrontConfig{
		Handler: handlerFunc(serveLoad), Log: log, Listener: "https", ServerHeader: name,
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
	})
	var port *Port
	for {
		said, files, err := ctl.receive()
		if errors.Is(err, io.EOF) {
			return nil // the test has ended
		}
		if err != nil {
			return err
		}
		var out []*os.File
		verb, arg, _ := strings.Cut(said, " ")
		switch verb {
		case "listen":
			port, err = childPort(arg, files, log)
		case "use":
			if !port.Use(front) {
				err = net.ErrClosed
			}
		case "handover":
			var socket *os.File
			socket, out, err = port.HandOver()
			out = append([]*os.File{socket}, out...)
		case "reclaim":
			port.Reclaim()
		case "drain":
			front.Drain()
		case "stay":
			port.Stay()
			front.Drain()
		case "hush":
			port.Hush()
		case "end":
			deadline := time.Now().Add(patience)
			for port.Conns() > 0 && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
			front.Close()
			port.Close()
		}
		if err != nil {
			return err
		}
		if err := ctl.send("done", out); err != nil {
			return err
		}
	}
}

func childPort(secrets string, files []*os.File, log logrus.FieldLogger) (*Port, error) {
	b, err := hex.DecodeString(secrets)
	if err != nil {
		return nil, err
	}
	s, err := ParseSecrets(b)
	if err != nil {
		return nil, err
	}
	c, err := net.FilePacketConn(files[0])
	if err != nil {
		return nil, err
	}
	_ = files[0].Close()
	return ListenOn(c.(*net.UDPConn), s, files[1:], log)
}

// commands are a way to tell a process something, with descriptors.
type commands struct{ *net.UnixConn }

func (c *commands) send(said string, files []*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
		defer f.Close() //nolint:errcheck // it has gone over
	}
	_, _, err := c.WriteMsgUnix([]byte(said), unix.UnixRights(fds...), nil)
	return err
}

func (c *commands) receive() (string, []*os.File, error) {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return "", nil, err
	}
	if n == 0 {
		return "", nil, io.EOF
	}
	ms, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return "", nil, err
	}
	var files []*os.File
	for _, m := range ms {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return "", nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return string(b[:n]), files, nil
}

// gateway is a socket that processes follow each other on.
type gateway struct {
	t       *testing.T
	socket  *net.UDPConn
	secrets *Secrets
	count   int
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{t: t, socket: bindLoopback(t), secrets: NewSecrets()}
	t.Cleanup(func() { _ = g.socket.Close() })
	return g
}

func (g *gateway) url() string { return "https://" + g.socket.LocalAddr().String() }

// process is one of them.
type process struct {
	g    *gateway
	name string
	cmd  *exec.Cmd
	ctl  *commands
}

// spawn starts a process that has nothing yet.
func (g *gateway) spawn() *process {
	g.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer theirs.Close() //nolint:errcheck // the process has it
	c, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		g.t.Fatal(err)
	}
	p := &process{g: g, name: fmt.Sprint(g.count), ctl: &commands{c.(*net.UnixConn)}, cmd: exec.Command(os.Args[0])}
	g.count++
	p.cmd.Env = append(os.Environ(), childName+"="+p.name)
	p.cmd.ExtraFiles = []*os.File{theirs}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		_ = p.ctl.Close() // ends it
		_ = p.cmd.Wait()
	})
	return p
}

// do tells the process something, and waits until it has done so.
func (p *process) do(said string, files ...*os.File) []*os.File {
	p.g.t.Helper()
	if err := p.ctl.send(said, files); err != nil {
		p.g.t.Fatalf("process %s: %s: %v", p.name, said, err)
	}
	_, out, err := p.ctl.receive()
	if err != nil {
		p.g.t.Fatalf("process %s: %s: %v", p.name, said, err)
	}
	return out
}

// listen gives the process a socket, with links or none.
func (p *process) listen(files []*os.File) {
	p.g.t.Helper()
	p.do("listen "+hex.EncodeToString(p.g.secrets.Bytes()), files...)
}

// first starts a process as systemd does, with the socket from the store.
func (g *gateway) first() *process {
	g.t.Helper()
	raw, err := g.socket.SyscallConn()
	if err != nil {
		g.t.Fatal(err)
	}
	f, err := duplicate(raw, "quic")
	if err != nil {
		g.t.Fatal(err)
	}
	p := g.spawn()
	p.listen([]*os.File{f})
	p.do("use")
	return p
}

// next hands over to a new process.
func (p *process) next() *process {
	p.g.t.Helper()
	n := p.g.spawn()
	n.listen(p.do("handover"))
	n.do("use")
	p.do("drain")
	return n
}

func (p *process) kill() {
	p.g.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		p.g.t.Fatal(err)
	}
	_ = p.cmd.Wait() // it has been killed
}

// long is a request whose answer takes as long as the test wants.
type long struct {
	t   *testing.T
	c   *rawClient
	str *quic.Stream
	in  input
}

func (g *gateway) long() *long {
	g.t.Helper()
	c := dialRaw(g.t, g.socket.LocalAddr().String())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	str, err := c.OpenStreamSync(ctx)
	if err != nil {
		g.t.Fatal(err)
	}
	l := &long{g.t, c, str, input{from: str}}
	if _, err := str.Write(headers(":method= POST", ":scheme= https", ":authority= gate.test", ":path= /echo")); err != nil {
		g.t.Fatal(err)
	}
	l.echo()
	return l
}

// echo has the process answer something: enough that quic-go would answer it by
// a stateless reset.
func (l *long) echo() {
	l.t.Helper()
	if err := l.try(); err != nil {
		l.t.Fatalf("what began before: %v", err)
	}
}

func (l *long) try() error {
	if err := l.str.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := l.str.Write(frame(frameData, make([]byte, 100)...)); err != nil {
		return err
	}
	for {
		typ, n, err := l.in.header()
		if err != nil {
			return err
		}
		if _, err := l.in.payload(int(n)); err != nil || typ == frameData {
			return err // what comes in two frames is read the next time
		}
	}
}

// TestProcesses: processes hand over to each other under load, and a request
// outlives three of them.
func TestProcesses(t *testing.T) {
	g := newGateway(t)
	p := g.first()
	l := startLoad(t, g.url())
	old := g.long()
	var ends sync.WaitGroup
	for range 4 {
		l.settled(200)
		was := p
		p = was.next()
		old.echo()
		ends.Go(func() { was.do("end") })
	}
	l.settled(200)
	old.echo()
	_ = old.c.CloseWithError(0, "")
	l.settled(200)
	ends.Wait()
	l.end()
}

// TestProcessesThroughTheStore: a process ends before the next one begins, and
// the socket stays. Nobody is refused.
func TestProcessesThroughTheStore(t *testing.T) {
	g := newGateway(t)
	p := g.first()
	l := startLoad(t, g.url())
	for range 4 {
		l.settled(200)
		p.do("stay")
		l.settled(50) // new clients go on to be served
		p.do("hush")
		p.do("end")
		_ = p.ctl.Close()
		_ = p.cmd.Wait()
		p = g.first()
	}
	l.settled(200)
	l.end()
}

// TestProcessBeforeIsKilled: its clients hear of it as soon as they say
// something, and all others are served at once.
func TestProcessBeforeIsKilled(t *testing.T) {
	g := newGateway(t)
	first := g.first()
	old := g.long()
	second := first.next()
	l := startLoad(t, g.url())
	l.settled(100)
	old.echo()
	first.kill()
	l.settled(100)
	var reset *quic.StatelessResetError
	if err := old.try(); !errors.As(err, &reset) {
		t.Errorf("a client of a process that was killed: %v, want a stateless reset", err)
	}
	second.next() // which hears nothing of the first
	l.settled(100)
	l.end()
}

// TestProcessAfterIsKilled: before it serves nobody notices, after that the
// process before takes the socket back.
func TestProcessAfterIsKilled(t *testing.T) {
	g := newGateway(t)
	p := g.first()
	l := startLoad(t, g.url())
	l.settled(100)
	n := g.spawn()
	n.listen(p.do("handover"))
	l.settled(100)
	n.kill()
	p.do("reclaim")
	l.settled(100)
	l.end()

	old := g.long()
	n = g.spawn()
	n.listen(p.do("handover"))
	n.do("use")
	old.echo()
	n.kill()
	p.do("reclaim")
	old.echo()
	g.long()

	n = p.next()
	old.echo()
	l = startLoad(t, g.url())
	l.settled(100)
	l.end()
}
