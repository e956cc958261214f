package h3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"
)

// Port is a UDP address that QUIC is spoken on. It outlives the fronts that
// serve what it accepts: a reload puts another front in place for connections
// from then on, while those of the front before go on over the same socket.
type Port struct {
	socket *socket
	log    logrus.FieldLogger
	keys   *Secrets
	quic   *quic.Transport
	listen *quic.EarlyListener
	front  atomic.Pointer[Front] // takes new connections; nil: they are refused
	stays  atomic.Bool           // the socket is another process's after this one
	hushed atomic.Bool           // and this one is about to end

	mu     sync.Mutex // guards what follows
	conns  int        // of all fronts
	closed bool
	ended  chan struct{} // closed when the socket is
}

// Listen binds a UDP address. Who comes before the first Use waits for it.
func Listen(address string, s *Secrets, log logrus.FieldLogger) (*Port, error) {
	addr, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	c, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	return ListenOn(c, s, nil, log)
}

// ListenOn makes a port of a socket that is bound already: one that systemd has
// opened or kept, or that another process hands over, with the links that its
// HandOver returned. Who comes before the first Use waits for it, or, with
// links, is served by the process before. The port closes the socket and the
// links, also when it fails.
func ListenOn(c *net.UDPConn, s *Secrets, before []*os.File, log logrus.FieldLogger) (*Port, error) {
	widen(c, log)
	var links []*link
	var failed error
	for _, f := range before {
		l, err := linkOf(f)
		failed = errors.Join(failed, err)
		if err == nil {
			links = append(links, l)
		}
	}
	k := newSocket(c, links, s)
	if failed != nil {
		_ = k.Close() // nothing has been done with it
		return nil, failed
	}
	p := &Port{socket: k, log: log.WithField("component", "h3"), keys: s, ended: make(chan struct{})}
	p.quic = &quic.Transport{
		Conn:                  k,
		ConnectionIDGenerator: k.reader.ids,
		StatelessResetKey:     &s.reset,
		TokenGeneratorKey:     &s.token,
		VerifySourceAddress:   p.doubtful,
		ConnContext:           p.admit,
	}
	// Early, so that requests in early data can be served. All others wait for
	// the end of the handshake in Front.serve.
	var err error
	p.listen, err = p.quic.ListenEarly(
		&tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: p.tlsOf},
		&quic.Config{GetConfigForClient: p.config},
	)
	if err != nil {
		_ = k.Close() // nothing has been done with it
		return nil, fmt.Errorf("listen for QUIC: %w", err)
	}
	go p.accept() // ends when the port closes
	return p, nil
}

// HandOver returns what another process needs for ListenOn: the socket, and
// links to this process and to those before that still serve connections. The
// caller passes them on, in any order, and closes them. Nothing changes until
// that process calls Use: from then on it reads the socket, serves who is new,
// and passes on what belongs to this one, which goes on with the connections
// that it has. New ones that have got in just so are served by a front that
// drains, too.
func (p *Port) HandOver() (socket *os.File, links []*os.File, err error) {
	socket, links, err = p.socket.handOver()
	if err != nil {
		return nil, nil, fmt.Errorf("hand over QUIC on %s: %w", p.Addr(), err)
	}
	return socket, links, nil
}

// File is a duplicate of the socket, for who keeps it open.
func (p *Port) File() (*os.File, error) { return p.socket.UDPConn.File() }

// Reclaim undoes HandOver when the other process has failed: the port is read
// again. That process must have ended, or it would go on reading, too. Without
// Reclaim the socket of a process that has ended isn't read any more here: it
// may be a third one's.
func (p *Port) Reclaim() { p.socket.reclaim() }

// Stay says that the socket stays open for a process that comes after this one,
// and closes none of it: nobody is refused from now on. A front that drains
// serves new connections, too, and asks them to go at once.
func (p *Port) Stay() { p.stays.Store(true) }

// Hush comes after Stay, shortly before the end: new clients aren't heard any
// more. They try again, and find the next process. Those who are there are
// served to their end; when all have gone, nothing is read any more, so that
// what arrives waits in the socket for the next process.
func (p *Port) Hush() {
	p.Stay()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hushed.Store(true)
	p.socket.hush(p.conns == 0)
}

// Addr is the address that was bound.
func (p *Port) Addr() net.Addr { return p.socket.LocalAddr() }

// Conns is the number of connections, those in their handshake counted. Who has
// handed over, or hushed, waits for none before it closes the fronts: the others
// don't know of the clients that are still shaking hands.
func (p *Port) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns
}

// Use lets f serve the connections from now on. Without a front new ones are
// refused, and the port closes when the last one has ended. Use reports false
// when the port has closed: its address can be bound again. The first Use of a
// port with a process before waits for that to let go of the socket, three seconds
// at most.
func (p *Port) Use(f *Front) bool {
	if f != nil {
		p.front.CompareAndSwap(nil, f) // who has waited is served
		p.socket.start(p.log)
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.ended
		return false
	}
	p.front.Store(f)
	last := f == nil && p.conns == 0
	p.closed = last
	p.mu.Unlock()
	if last {
		p.shut()
	}
	return true
}

// Close closes the socket. The fronts have to be closed before: connections
// that are still there end without a word to their clients.
func (p *Port) Close() {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	if again {
		<-p.ended
		return
	}
	p.shut()
}

func (p *Port) shut() {
	_ = p.listen.Close() // can't fail; refuses what is in its handshake
	_ = p.quic.Close()   // can't fail on a socket that isn't its own
	_ = p.socket.Close() // nothing is written any more
	close(p.ended)
}

// accept takes the connections to their fronts.
func (p *Port) accept() {
	for {
		c, err := p.listen.Accept(context.Background())
		if err != nil {
			return
		}
		if v, ok := c.Context().Value(visitorKey{}).(*visitor); ok { // always
			v.front.take(c, v)
		}
	}
}

// errNotServed refuses a connection.
var errNotServed = errors.New("not served any more")

// current is the front for a new connection.
func (p *Port) current() (*Front, error) {
	f := p.front.Load()
	if f == nil || !f.admits(p.stays.Load() || p.socket.passed()) {
		return nil, errNotServed
	}
	return f, nil
}

// config is the first to hear of a client, before it costs anything.
func (p *Port) config(*quic.ClientInfo) (*quic.Config, error) {
	f, err := p.current()
	if err != nil {
		return nil, err
	}
	return f.quic, nil
}

// doubtful reports whether the client must prove its address.
func (p *Port) doubtful(a net.Addr) bool {
	f := p.front.Load()
	return f != nil && f.gate.doubtful(addrPort(a).Addr())
}

// visitorKey finds the visitor in the context of a connection.
type visitorKey struct{}

// admit ties a new connection to the front that serves it to its end. The
// context ends with the connection.
func (p *Port) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	f, err := p.current()
	if err != nil {
		return nil, err
	}
	if f.cfg.TurnsAway != nil && f.cfg.TurnsAway() {
		f.gate.refused.Add(1)
		return nil, errTooMany
	}
	v, err := f.gate.admit(addrPort(info.RemoteAddr).Addr())
	if err != nil {
		return nil, err
	}
	v.port, v.front, v.shard = p, f, f.shard.Add(1)
	p.mu.Lock()
	p.conns++
	if p.hushed.Load() { // it was heard just before
		p.socket.hush(false)
	}
	p.mu.Unlock()
	context.AfterFunc(ctx, func() {
		f.gate.leave(v)
		p.leave()
	})
	return context.WithValue(ctx, visitorKey{}, v), nil
}

func (p *Port) leave() {
	p.mu.Lock()
	p.conns--
	last := !p.closed && p.front.Load() == nil && p.conns == 0
	p.closed = p.closed || last
	if p.conns == 0 && p.hushed.Load() {
		p.socket.hush(true)
	}
	p.mu.Unlock()
	if last {
		p.shut()
	}
}

// tlsOf gives each connection the settings of its front.
func (p *Port) tlsOf(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	v, ok := hello.Context().Value(visitorKey{}).(*visitor)
	if !ok {
		return nil, errNotServed // can't be
	}
	v.serverName = hello.ServerName
	if v.front.early {
		return v.front.earlyTLS(p.keys.register, hello, v), nil
	}
	return v.front.tls, nil
}
