package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/h1"
	"github.com/sidegate-proxy/sidegate/proxy/h2"
	"github.com/sidegate-proxy/sidegate/proxy/h3"
	"github.com/sidegate-proxy/sidegate/proxy/proxyproto"
	"github.com/sidegate-proxy/sidegate/proxy/socket"
)

// listener is a bound TCP socket and what serves it at the moment.
type listener struct {
	server   *Server
	tcp      net.Listener
	now      atomic.Pointer[serving]
	accepted atomic.Uint64

	unit     bool // a socket unit has opened it
	unitName string
}

// serving is how a listener serves: its settings and protocols. A reload that
// changes them puts another in its place; this one then drains.
type serving struct {
	cfg    ListenerConfig
	trust  Trust
	log    logrus.FieldLogger
	tls    *tls.Config
	h1     *h1.Front // nil: not spoken
	h2     *h2.Front
	h3     *h3.Front
	refuse atomic.Uint64
	failed atomic.Uint64
	conns  atomic.Int64
	places *places // the listener's
}

func newServing(d ServerDeps, a *abuses, p *places, cfg *ListenerConfig, trust Trust) (*serving, error) {
	v := &serving{cfg: *cfg, trust: trust, log: d.Log.WithField("listener", cfg.Name), places: p}
	lim := cfg.Limits
	speaks := func(p string) bool { return slices.Contains(cfg.Protocols, p) }
	var err error
	if cfg.TLS {
		if v.tls, err = d.TLS(cfg, false); err != nil {
			return nil, err
		}
	}
	var altSvc func() string
	if speaks("h3") {
		_, port, err := net.SplitHostPort(cfg.Address)
		if err != nil {
			return nil, err
		}
		quic, err := d.TLS(cfg, true)
		if err != nil {
			return nil, err
		}
		v.h3 = h3.NewFront(h3.FrontConfig{
			Handler: d.Handler, MaxHeaders: int(lim.Headers), MaxFields: lim.Fields, MaxURI: int(lim.URI), MaxStreams: lim.Streams,
			HeaderTimeout: lim.HeaderTimeout, StallTimeout: lim.StallTimeout, IdleTimeout: lim.IdleTimeout,
			MaxConns: lim.Connections, MaxConnsPerIP: lim.ConnectionsPerIP, Log: v.log, TLS: quic, EarlyData: cfg.EarlyData, Listener: cfg.Name, TurnsAway: d.Memory.TurnsAway, Abusive: v.abusive(&d, a, "h3"),
			Claim: v.claim, Release: p.release,
		})
		value := `h3=":` + port + `"; ma=86400`
		altSvc = func() string { return value }
	}
	if speaks("h1") {
		v.h1 = h1.NewFront(h1.FrontConfig{
			Handler: d.Handler, Sweeper: d.Sweeper, MaxHeaders: int(lim.Headers), MaxFields: lim.Fields, MaxURI: int(lim.URI),
			HeaderTimeout: lim.HeaderTimeout, StallTimeout: lim.StallTimeout, IdleTimeout: lim.IdleTimeout, AltSvc: altSvc, Log: v.log, Ended: v.ended,
			Abusive: v.abusive(&d, a, "h1"),
		})
	}
	if speaks("h2") {
		v.h2 = h2.NewFront(h2.FrontConfig{
			Handler: d.Handler, Sweeper: d.Sweeper, MaxHeaders: int(lim.Headers), MaxFields: lim.Fields, MaxURI: int(lim.URI), MaxStreams: lim.Streams,
			HeaderTimeout: lim.HeaderTimeout, StallTimeout: lim.StallTimeout, IdleTimeout: lim.IdleTimeout, AltSvc: altSvc, Log: v.log, Ended: v.ended,
			Abusive: v.abusive(&d, a, "h2"),
		})
	}
	return v, nil
}

// start runs the accept loops, one for each core; they end when the socket is
// closed.
func (l *listener) start() {
	for range runtime.GOMAXPROCS(0) {
		go l.accept()
	}
}

func (l *listener) accept() {
	var pause time.Duration
	for {
		nc, err := l.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		v := l.now.Load()
		if err != nil { // out of descriptors, mostly: wait for some to be freed
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			v.log.WithError(err).Warn("accept failed")
			t := time.NewTimer(pause)
			<-t.C
			continue
		}
		pause = 0
		n := l.accepted.Add(1)
		remote := addrPort(nc.RemoteAddr())
		if l.server.Memory.TurnsAway() || !v.admit(remote.Addr()) {
			v.turnAway(nc) // without a word: it costs us the least
			continue
		}
		go v.serve(nc, remote, uint32(n))
	}
}

// places are the connections of a listener, by their clients: of all protocols,
// and of all settings that it has had, so that neither speaking another one nor a
// reload gives a client more.
type places struct {
	total atomic.Int64 // of TCP; the front for QUIC counts its own

	mu    sync.Mutex // guards perIP
	perIP map[netip.Addr]int
}

func newPlaces() *places { return &places{perIP: map[netip.Addr]int{}} }

// claim takes one of the client's places, if there is one left of most.
func (p *places) claim(ip netip.Addr, most int) bool {
	ip = network(ip)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.perIP[ip] >= most {
		return false
	}
	p.perIP[ip]++
	return true
}

func (p *places) release(ip netip.Addr) {
	ip = network(ip)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.perIP[ip]--; p.perIP[ip] <= 0 {
		delete(p.perIP, ip)
	}
}

// admit counts a connection in, unless the listener or the client has too many.
// Behind a balancer the client isn't known yet: serve looks at it.
func (v *serving) admit(ip netip.Addr) bool {
	if v.places.total.Add(1) > int64(v.cfg.Limits.Connections) || !v.cfg.ProxyProtocol && !v.claim(ip) {
		v.places.total.Add(-1)
		return false
	}
	v.conns.Add(1)
	return true
}

// leave counts out a connection that admit has counted in.
func (v *serving) leave() {
	v.places.total.Add(-1)
	v.conns.Add(-1)
}

// network is what counts as one client: an address, or with IPv6 a /64, which
// is what one customer has.
func network(ip netip.Addr) netip.Addr {
	if ip.Is4() || ip.Is4In6() {
		return ip
	}
	return netip.PrefixFrom(ip, 64).Masked().Addr()
}

func (v *serving) claim(ip netip.Addr) bool { return v.places.claim(ip, v.cfg.Limits.ConnectionsPerIP) }

func (v *serving) turnAway(nc net.Conn) {
	v.refuse.Add(1)
	_ = nc.Close() // nothing was promised
}

// serve is the begin of a client connection; ended is its end.
func (v *serving) serve(nc net.Conn, remote netip.AddrPort, shard uint32) {
	info := &exchange.Conn{Listener: v.cfg.Name, Remote: remote, Local: addrPort(nc.LocalAddr()), Scheme: "http", Shard: shard}
	if v.cfg.ProxyProtocol && (!v.readProxyHeader(nc, info) || !v.claim(info.Remote.Addr())) {
		v.turnAway(nc)
		v.leave()
		return
	}
	info.RemoteIP = info.Remote.Addr().Unmap().String()
	if v.tls == nil {
		v.servePlain(nc, info)
		return
	}
	tc := tls.Server(socket.Wrap(nc), v.tls)
	if err := handshake(tc, v.cfg.Limits.HeaderTimeout); err != nil {
		v.failed.Add(1)
		_ = nc.Close()
		v.ended(info)
		return
	}
	go v.serveTLS(tc, info) // ends with the connection; the handshake's stack is too deep to keep
}

// ended counts a connection out.
func (v *serving) ended(info *exchange.Conn) {
	v.places.release(info.Remote.Addr())
	v.leave()
}

func handshake(tc *tls.Conn, limit time.Duration) error {
	if err := tc.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if err := tc.Handshake(); err != nil {
		return err
	}
	return tc.SetDeadline(time.Time{})
}

// serveTLS serves a connection whose handshake is over.
func (v *serving) serveTLS(tc *tls.Conn, info *exchange.Conn) {
	state := tc.ConnectionState()
	info.TLS, info.Scheme = &state, "https"
	switch {
	case state.NegotiatedProtocol == "h2" && v.h2 != nil:
		v.h2.ServeConn(tc, info, nil)
	case state.NegotiatedProtocol == "acme-tls/1" || v.h1 == nil:
		_ = tc.Close()
		v.ended(info)
	default:
		v.h1.ServeConn(tc, info, nil)
	}
}

// readProxyHeader takes the PROXY protocol header, which only trusted proxies
// may send, and all of them must.
func (v *serving) readProxyHeader(nc net.Conn, info *exchange.Conn) bool {
	if !v.trust.Contains(info.Remote.Addr()) {
		v.log.WithField("peer", info.Remote).Debug("PROXY protocol: the peer isn't in trusted_proxies")
		return false
	}
	src, dst, err := proxyproto.Read(nc, v.cfg.Limits.HeaderTimeout)
	if err != nil {
		v.log.WithField("peer", info.Remote).WithError(err).Debug("PROXY protocol")
		return false
	}
	if src.IsValid() {
		info.Remote, info.Local = src, dst
	}
	return true
}

const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, 3.4

// servePlain tells HTTP/2 by prior knowledge from HTTP/1.1 by its first bytes.
func (v *serving) servePlain(nc net.Conn, info *exchange.Conn) {
	if v.h2 == nil {
		v.h1.ServeConn(nc, info, nil)
		return
	}
	if v.h1 == nil {
		v.h2.ServeConn(nc, info, nil)
		return
	}
	buf := make([]byte, 0, len(h2Preface))
	_ = nc.SetReadDeadline(time.Now().Add(v.cfg.Limits.HeaderTimeout)) // a dead socket fails in Read
	for isPrefix(buf) && len(buf) < len(h2Preface) {
		n, err := nc.Read(buf[len(buf):len(h2Preface)])
		buf = buf[:len(buf)+n]
		if err != nil {
			_ = nc.Close()
			v.ended(info)
			return
		}
	}
	_ = nc.SetReadDeadline(time.Time{})
	if len(buf) == len(h2Preface) && isPrefix(buf) {
		v.h2.ServeConn(nc, info, buf)
		return
	}
	v.h1.ServeConn(nc, info, buf)
}

// isPrefix reports whether b may be, or begins with, the HTTP/2 preface.
func isPrefix(b []byte) bool {
	n := min(len(b), len(h2Preface))
	return string(b[:n]) == h2Preface[:n]
}

// drain has the clients go elsewhere with their next requests. Idle connections of
// HTTP/1.1, which can't be told, are closed after grace.
func (v *serving) drain(grace time.Duration) {
	if v.h1 != nil {
		v.h1.Drain(grace)
	}
	if v.h2 != nil {
		v.h2.Drain()
	}
	if v.h3 != nil {
		v.h3.Drain()
	}
}

func (v *serving) close() {
	if v.h1 != nil {
		v.h1.Close()
	}
	if v.h2 != nil {
		v.h2.Close()
	}
	if v.h3 != nil {
		v.h3.Close()
	}
}

// left is how many connections there are, those in their handshake included.
func (v *serving) left() int {
	n := int(v.conns.Load())
	if v.h3 != nil {
		conns, _ := v.h3.Active()
		n += conns
	}
	return n
}

func (v *serving) active() (conns, busy int) {
	add := func(c, b int) { conns, busy = conns+c, busy+b }
	if v.h1 != nil {
		add(v.h1.Active())
	}
	if v.h2 != nil {
		add(v.h2.Active())
	}
	if v.h3 != nil {
		add(v.h3.Active())
	}
	return conns, busy
}

func (l *listener) status() ListenerStatus {
	v := l.now.Load()
	conns, busy := v.active()
	refused, failed := v.refuse.Load(), v.failed.Load()
	if v.h3 != nil {
		c, h := v.h3.Refused()
		refused, failed = refused+c, failed+h
	}
	return ListenerStatus{
		Name: v.cfg.Name, Address: l.tcp.Addr().String(), Protocols: v.cfg.Protocols, TLS: v.cfg.TLS, Connections: conns, Busy: busy,
		Accepted: l.accepted.Load(), Refused: refused, Handshakes: failed,
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n))
}
