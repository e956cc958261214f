package h3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// load is clients that ask all the time; each request that fails is told.
type load struct {
	tb       testing.TB
	url      string
	stop     chan struct{}
	served   atomic.Int64
	failed   atomic.Int64
	slowest  atomic.Int64 // nanoseconds
	done     sync.WaitGroup
	mu       sync.Mutex // guards what follows
	byServer map[string]int
}

func startLoad(tb testing.TB, url string) *load {
	l := &load{tb: tb, url: url, stop: make(chan struct{}), byServer: map[string]int{}}
	for i := range 12 {
		l.done.Go(func() {
			client := newClient()
			defer func() { _ = client.Close() }()
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				l.ask(client, i, n)
				if i%3 == 0 { // a new connection for each
					_ = client.Close()
					client = newClient()
				}
			}
		})
	}
	return l
}

func (l *load) ask(client *http3.Transport, i, n int) {
	path, want, method, body := "/quick", "", "GET", io.Reader(nil)
	switch i % 4 {
	case 1:
		path = "/slow"
	case 2:
		want = strings.Repeat("x", 100<<10)
		method, body = "POST", strings.NewReader(want)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, l.url+path, body)
	if err != nil {
		l.tb.Error(err)
		return
	}
	began := time.Now()
	resp, err := client.RoundTrip(r)
	var got []byte
	if err == nil {
		got, err = io.ReadAll(resp.Body)
	}
	if err == nil && (resp.StatusCode != 200 || string(got) != want) {
		err = fmt.Errorf("status %d, %d bytes", resp.StatusCode, len(got))
	}
	if err != nil {
		l.failed.Add(1)
		l.tb.Errorf("client %d, request %d, after %v: %v", i, n, time.Since(began), err)
		return
	}
	l.served.Add(1)
	l.mu.Lock()
	l.byServer[resp.Header.Get("Server")]++
	l.mu.Unlock()
	if d := int64(time.Since(began)); d > l.slowest.Load() {
		l.slowest.Store(d)
	}
}

// settled waits until more requests have been served.
func (l *load) settled(more int64) {
	l.tb.Helper()
	from := l.served.Load()
	eventually(l.tb, "more requests are served", func() bool { return l.served.Load() >= from+more })
}

func (l *load) end() {
	close(l.stop)
	l.done.Wait()
	l.tb.Logf("%d served, %d failed, the slowest took %v; %v", l.served.Load(), l.failed.Load(), time.Duration(l.slowest.Load()), l.byServer)
}

// generation is what one process has.
type generation struct {
	port  *Port
	front *Front
}

func newGeneration(tb testing.TB, name string, p *Port, cfg FrontConfig) *generation {
	cfg.ServerHeader = name
	return &generation{p, NewFront(cfg)}
}

// serveLoad answers the requests of a load.
func serveLoad(x *exchange.Exchange) {
	switch {
	case x.RawTarget == "/slow":
		time.Sleep(50 * time.Millisecond) // a backend's
		answer(x, 200, "")
	case x.RawTarget == "/echo":
		x.Status, x.ResponseLength, x.ResponseBody = 200, -1, readerBody{Reader: x.RequestBody}
		_ = x.Front.Respond(x) // the tests look at what arrives
	case x.Method == "POST":
		b, err := io.ReadAll(x.RequestBody)
		if err != nil {
			answer(x, 400, err.Error())
			return
		}
		answer(x, 200, string(b))
	default:
		answer(x, 200, "")
	}
}

func loadConfig(tb testing.TB) FrontConfig {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return FrontConfig{
		Handler: handlerFunc(serveLoad), Log: log, Listener: "https", TLS: &tls.Config{Certificates: []tls.Certificate{certificate(tb)}},
	}
}

// succeed is a handover as the app does it, to another Port in this process.
func succeed(tb testing.TB, old *generation, name string, cfg FrontConfig) *generation {
	tb.Helper()
	f, links, err := old.port.HandOver()
	if err != nil {
		tb.Fatal(err)
	}
	next := newGeneration(tb, name, receive(tb, f, links, old.port.secrets(tb)), cfg)
	if !next.port.Use(next.front) {
		tb.Fatal("the port has closed")
	}
	old.front.Drain()
	return next
}

// receive makes a port of what was handed over.
func receive(tb testing.TB, f *os.File, links []*os.File, s *Secrets) *Port {
	tb.Helper()
	c, err := net.FilePacketConn(f)
	_ = f.Close()
	if err != nil {
		tb.Fatal(err)
	}
	p, err := ListenOn(c.(*net.UDPConn), s, links, logrus.New())
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// secrets are those of another process with the keys of p's.
func (p *Port) secrets(tb testing.TB) *Secrets {
	tb.Helper()
	s, err := ParseSecrets(p.keys.Bytes())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// end waits until the connections have ended, and closes.
func (g *generation) end(tb testing.TB) {
	tb.Helper()
	eventually(tb, "the connections of the one before end", func() bool { return g.port.Conns() == 0 })
	g.front.Close()
	g.port.Close()
}

// TestHandOverUnderLoad: no request is lost however often the socket is handed
// over, also while more than one before still serves.
func TestHandOverUnderLoad(t *testing.T) {
	cfg := loadConfig(t)
	p, err := Listen("127.0.0.1:0", NewSecrets(), cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	g := newGeneration(t, "0", p, cfg)
	p.Use(g.front)
	l := startLoad(t, "https://"+p.Addr().String())
	var ends sync.WaitGroup
	for i := range 12 {
		l.settled(100)
		old := g
		g = succeed(t, old, fmt.Sprint(i+1), cfg)
		ends.Go(func() { old.end(t) })
	}
	l.settled(100)
	ends.Wait()
	eventually(t, "packets aren't looked at any more", func() bool { return g.port.socket.route.Load() == nil })
	l.settled(100)
	l.end()
	g.front.Close()
	g.port.Close()
}

// TestHandOverOnce: a port is handed to one process, until that has failed.
func TestHandOverOnce(t *testing.T) {
	f := start(t, nil, func(x *exchange.Exchange) { answer(x, 200, "") })
	give := func(want bool) []*os.File {
		t.Helper()
		socket, links, err := f.port.HandOver()
		if (err == nil) != want {
			t.Fatalf("HandOver: %v, want it to work: %v", err, want)
		}
		return append([]*os.File{socket}, links...)
	}
	shut := func(fs []*os.File) {
		for _, f := range fs {
			_ = f.Close()
		}
	}
	files := give(true)
	give(false)
	shut(files)
	eventually(t, "the end of the other process is seen", func() bool {
		f.port.socket.mu.Lock()
		defer f.port.socket.mu.Unlock()
		return f.port.socket.heir == nil
	})
	files = give(true)
	f.port.Reclaim()
	shut(files)
	shut(give(true))
	if resp, _ := f.do(t, request(t, "GET", f.url+"/", nil)); resp.StatusCode != 200 {
		t.Errorf("after all: status %d", resp.StatusCode)
	}
	raw, err := f.port.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("flags %x, %v: the socket blocks", flags, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestListenOnWhatIsNoLink: it is told, and nothing stays open.
func TestListenOnWhatIsNoLink(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	c := bindLoopback(t)
	if _, err := ListenOn(c, NewSecrets(), []*os.File{file}, logrus.New()); err == nil {
		t.Error("a file is a link")
	}
	if _, err := c.WriteTo(nil, c.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the socket is still open: %v", err)
	}
	if err := file.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
}

// TestWhoWaitsIsServed: what arrives before the first Use isn't lost.
func TestWhoWaitsIsServed(t *testing.T) {
	cfg := loadConfig(t)
	p, err := Listen("127.0.0.1:0", NewSecrets(), cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, "https://"+p.Addr().String())
	eventually(t, "somebody has come", func() bool {
		raw, err := p.socket.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		waiting := 0
		_ = raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		return waiting > 0
	})
	g := newGeneration(t, "first", p, cfg)
	p.Use(g.front)
	l.settled(100)
	l.end()
	g.front.Close()
	p.Close()
}

// TestHushedPortStopsReading: when nobody is left, what arrives is the next
// process's.
func TestHushedPortStopsReading(t *testing.T) {
	f := start(t, nil, func(x *exchange.Exchange) { answer(x, 200, "") })
	f.do(t, request(t, "GET", f.url+"/", nil))
	f.port.Stay()
	f.front.Drain()
	late := newClient()
	if resp, err := late.RoundTrip(request(t, "GET", f.url+"/", nil)); err != nil || resp.StatusCode != 200 {
		t.Fatalf("a client that comes to a port that stays: %v", err)
	}
	f.port.Hush()
	eventually(t, "nothing is read", func() bool {
		r := f.port.socket.route.Load()
		return f.port.Conns() == 0 && r != nil && r.held
	})
	c, err := net.Dial("udp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a client
	packet := append([]byte{0xc0, 0, 0, 0, 1, 8}, make([]byte, 1300)...)
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
	if err := f.port.socket.batch.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	if n, _, err := f.port.socket.UDPConn.ReadFrom(b); err != nil || n != len(packet) {
		t.Errorf("what is left in the socket: %d bytes, %v, want %d", n, err, len(packet))
	}
	_ = late.Close()
}
