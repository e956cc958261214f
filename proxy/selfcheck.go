package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// selfCheck is a request of the process to itself, on its way through a listener.
// Its connection is known by the address that it comes from, which nobody else
// can have meanwhile: so it needs no path that others could call, nor a place
// among the clients'.
type selfCheck struct {
	from  netip.AddrPort
	taken atomic.Bool // by an accept loop
	stage string      // how far it is
}

// Check sends a request through each listener, and returns when all are answered:
// from the socket's queue through an accept loop, TLS, the protocol's front and
// the handler, and back. It is neither counted nor logged, and no policy sees it.
//
// Only silence until ctx ends is an error, which names the listener and the stage.
// An answer of any kind isn't, nor is what others are to blame for: a firewall, or
// no descriptors left.
func (s *Server) Check(ctx context.Context) error {
	listeners, ok := s.bound(ctx)
	if !ok {
		return errors.New("the lock of the listeners is held")
	}
	errs := make([]error, len(listeners))
	var all sync.WaitGroup
	for i, l := range listeners {
		all.Go(func() { errs[i] = l.selfCheck(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// bound are the listeners; false when their lock can't be had until ctx ends.
func (s *Server) bound(ctx context.Context) (list []*listener, ok bool) {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for !s.mu.TryLock() {
		select {
		case <-ctx.Done():
			return nil, false
		case <-t.C:
		}
	}
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		if _, ok := l.tcp.Addr().(*net.TCPAddr); ok {
			list = append(list, l)
		}
	}
	return list, true
}

func (l *listener) selfCheck(ctx context.Context) error {
	v := l.now.Load()
	before := l.accepted.Load() + l.stumbled.Load()
	c := new(selfCheck)
	err := c.ask(ctx, l, v)
	l.check.Store(nil)
	var timeout net.Error
	if err == nil || ctx.Err() == nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		return nil
	}
	stage := c.stage
	if !c.taken.Load() {
		// Loops that move are late; without a queue it is something in front.
		if l.accepted.Load()+l.stumbled.Load() != before || !l.queued() {
			return nil
		}
		stage = "accept"
	}
	return fmt.Errorf("listener %q (%s): no answer at the stage %s", v.cfg.Name, l.tcp.Addr(), stage)
}

// ask is one request. Its error tells nothing but whether time was up.
func (c *selfCheck) ask(ctx context.Context, l *listener, v *serving) error {
	c.stage = "connect"
	nc, err := c.connect(ctx, l)
	if err != nil {
		return err
	}
	defer nc.Close() //nolint:errcheck // all was read, or nothing comes
	p, url := new(http.Protocols), "http://localhost/"
	if v.tls != nil {
		c.stage, url = "TLS", "https://localhost/"
		cfg := &tls.Config{ServerName: "localhost", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}} //nolint:gosec // it is ourselves
		if v.h1 == nil {
			cfg.NextProtos = []string{"h2"}
		}
		tc := tls.Client(nc, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			return err
		}
		nc = tc
	}
	p.SetHTTP1(v.h1 != nil)
	p.SetHTTP2(v.h1 == nil && v.tls != nil)
	p.SetUnencryptedHTTP2(v.h1 == nil && v.tls == nil)
	c.stage = "request"
	dialed := func(context.Context, string, string) (net.Conn, error) { return nc, nil }
	t := &http.Transport{Protocols: p, DisableKeepAlives: true, DialContext: dialed, DialTLSContext: dialed}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	return errors.Join(err, res.Body.Close())
}

// connect dials the listener's own address, or loopback when that is any.
func (c *selfCheck) connect(ctx context.Context, l *listener) (net.Conn, error) {
	to := addrPort(l.tcp.Addr())
	hosts := []netip.Addr{to.Addr()}
	if to.Addr().IsUnspecified() {
		hosts = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	var errs []error
	for _, host := range hosts {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error { return c.bind(raw, host, l) }}
		nc, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(host, to.Port()).String())
		if err == nil {
			return nc, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// bind gives the connection its own address before it is made, and tells it the
// listener: an accept loop may be faster than Dial.
func (c *selfCheck) bind(raw syscall.RawConn, host netip.Addr, l *listener) error {
	var err error
	rerr := raw.Control(func(fd uintptr) {
		var at unix.Sockaddr = &unix.SockaddrInet6{Addr: host.As16()}
		if host.Is4() {
			at = &unix.SockaddrInet4{Addr: host.As4()}
		}
		if err = unix.Bind(int(fd), at); err != nil {
			return
		}
		if at, err = unix.Getsockname(int(fd)); err != nil {
			return
		}
		switch at := at.(type) {
		case *unix.SockaddrInet4:
			c.from = netip.AddrPortFrom(host, uint16(at.Port)) //nolint:gosec // a port
		case *unix.SockaddrInet6:
			c.from = netip.AddrPortFrom(host, uint16(at.Port)) //nolint:gosec // a port
		}
		l.check.Store(c)
	})
	return errors.Join(rerr, err)
}

// queued reports whether connections wait to be accepted.
func (l *listener) queued() bool {
	t, ok := l.tcp.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return false
	}
	var waiting bool
	_ = raw.Control(func(fd uintptr) { // a closed socket has none
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		waiting = err == nil && info.Unacked > 0 // of a listening socket: the length of its queue
	})
	return waiting
}

// checks reports whether a connection is that of the self-check, which is
// running.
func (l *listener) checks(remote netip.AddrPort) bool {
	c := l.check.Load()
	return c != nil && c.from == remote && c.taken.CompareAndSwap(false, true)
}

// admitCheck counts the self-check's connection in, however many others there are:
// that a listener is full doesn't mean that it hangs.
func (v *serving) admitCheck(ip netip.Addr) {
	v.places.claim(ip, int(^uint(0)>>1))
	v.places.total.Add(1)
	v.conns.Add(1)
}

// uncertified is a listener's TLS without its demand for a certificate of the
// client: the process has none for itself, and gets no further than to an empty
// answer.
func uncertified(cfg *tls.Config) *tls.Config {
	c := cfg.Clone()
	c.ClientAuth, c.VerifyConnection, c.VerifyPeerCertificate = tls.NoClientCert, nil, nil
	if choose := c.GetConfigForClient; choose != nil {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return nil, err
			}
			chosen = chosen.Clone()
			chosen.ClientAuth, chosen.VerifyConnection, chosen.VerifyPeerCertificate = tls.NoClientCert, nil, nil
			return chosen, nil
		}
	}
	return c
}
