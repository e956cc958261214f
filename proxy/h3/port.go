package h3

import (
	"context"
	"crypto/rand"
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

// Secrets are what the ports of a gateway share, and what outlives a reload.
type Secrets struct {
	reset    quic.StatelessResetKey
	token    quic.TokenGeneratorKey
	register *register
}

// NewSecrets makes new ones.
func NewSecrets() *Secrets {
	s := &Secrets{register: newRegister()}
	rand.Read(s.reset[:]) // never fails
	rand.Read(s.token[:])
	return s
}

// Port is a UDP address that QUIC is spoken on. It outlives the fronts that
// serve what it accepts: a reload puts another front in place for connections
// from then on, while those of the front before go on over the same socket.
type Port struct {
	socket   *net.UDPConn
	quic     *quic.Transport
	listen   *quic.EarlyListener
	register *register
	front    atomic.Pointer[Front] // takes new connections; nil: they are refused

	mu     sync.Mutex // guards what follows
	conns  int        // of all fronts
	closed bool
	ended  chan struct{} // closed when the socket is
}

// Listen binds a UDP address. Connections are refused until Use.
func Listen(address string, s *Secrets, log logrus.FieldLogger) (*Port, error) {
	addr, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	return ListenOn(socket, s, log)
}

// ListenOn is Listen with a socket that is open already, and is the port's from
// then on.
func ListenOn(socket *net.UDPConn, s *Secrets, log logrus.FieldLogger) (*Port, error) {
	var err error
	widen(socket, log)
	p := &Port{socket: socket, register: s.register, ended: make(chan struct{})}
	p.quic = &quic.Transport{
		Conn:                socket,
		StatelessResetKey:   &s.reset,
		TokenGeneratorKey:   &s.token,
		VerifySourceAddress: p.doubtful,
		ConnContext:         p.admit,
	}
	// Early, so that requests in early data can be served. All others wait for
	// the end of the handshake in Front.serve.
	p.listen, err = p.quic.ListenEarly(
		&tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: p.tlsOf},
		&quic.Config{GetConfigForClient: p.config},
	)
	if err != nil {
		_ = socket.Close() // nothing has been done with it
		return nil, fmt.Errorf("listen for QUIC: %w", err)
	}
	go p.accept() // ends when the port closes
	return p, nil
}

// Addr is the address that was bound.
func (p *Port) Addr() net.Addr { return p.socket.LocalAddr() }

// File is a duplicate of the socket, to pass on.
func (p *Port) File() (*os.File, error) { return p.socket.File() }

// Use lets f serve the connections from now on. Without a front new ones are
// refused, and the port closes when the last one has ended. Use reports false
// when the port has closed: its address can be bound again.
func (p *Port) Use(f *Front) bool {
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
	if f == nil || !f.admits() {
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
	v.front, v.shard = f, f.shard.Add(1)
	p.mu.Lock()
	p.conns++
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
		return v.front.earlyTLS(p.register, hello, v), nil
	}
	return v.front.tls, nil
}
