package h3

import (
	"context"
	"crypto/tls"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// firstTicket is a client's session cache that offers the first ticket again
// and again, as one who wants to replay would.
type firstTicket struct {
	mu    sync.Mutex
	state *tls.ClientSessionState
	got   chan struct{}
}

func (c *firstTicket) Get(string) (*tls.ClientSessionState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.state != nil
}

func (c *firstTicket) Put(_ string, s *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == nil && s != nil {
		c.state = s
		close(c.got)
	}
}

// earlyBed is a front with a client that has a ticket, behind a relay that
// holds back the server's half of the handshake.
type earlyBed struct {
	*fixture
	relay *relay
	cache *firstTicket
	seen  chan string
}

func startEarly(t *testing.T, change func(*FrontConfig)) *earlyBed {
	b := &earlyBed{cache: &firstTicket{got: make(chan struct{})}, seen: make(chan string, 100)}
	b.fixture = start(t, func(c *FrontConfig) {
		c.EarlyData = true
		c.TLS.SetSessionTicketKeys([][32]byte{{1}}) // for all fronts
		if change != nil {
			change(c)
		}
	}, func(x *exchange.Exchange) {
		said := x.Method
		if !x.Conn.TLS.HandshakeComplete {
			said += " early for " + x.Conn.TLS.ServerName
		}
		if v, ok := x.Request.Find("early-data"); ok {
			said += ", Early-Data: " + v
		}
		status := 200
		if x.Fault != nil {
			said += ", " + string(x.Fault.Kind)
			status = 425
		}
		b.seen <- said
		answer(x, status, "")
	})
	b.relay = newRelay(t, b.addr)
	c := b.dial(t)
	if got := c.ask(get(), true); got != "200" {
		t.Fatal(got)
	}
	if got := <-b.seen; got != "GET" {
		t.Errorf("first request: %s", got)
	}
	select {
	case <-b.cache.got:
	case <-time.After(patience):
		t.Fatal("no ticket came")
	}
	_ = c.CloseWithError(0, "")
	return b
}

func (b *earlyBed) dial(t *testing.T) *rawClient {
	t.Helper()
	c := clientTLS()
	c.ClientSessionCache = b.cache
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q, err := quic.DialAddrEarly(ctx, b.relay.addr(), c, &quic.Config{MaxIdleTimeout: patience, HandshakeIdleTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.CloseWithError(0, "") })
	return &rawClient{t, q}
}

func TestEarlyData(t *testing.T) {
	b := startEarly(t, nil)
	b.relay.hold.Store(true)
	c := b.dial(t)
	answers := make(chan string, 2)
	for _, r := range []struct {
		send []byte
		want string
	}{
		{get("early-data= forged"), "GET early for gate.test, Early-Data: 1"},
		{post(), "POST early for gate.test, too-early"},
	} {
		go func() { answers <- c.ask(r.send, true) }()
		if got := <-b.seen; got != r.want {
			t.Errorf("in early data: %s, want %s", got, r.want)
		}
	}
	b.relay.hold.Store(false)
	if got := <-answers + " " + <-answers; got != "200 425" && got != "425 200" {
		t.Errorf("answers %s, want 200 and 425", got)
	}
	<-c.HandshakeComplete()
	if !c.ConnectionState().Used0RTT {
		t.Error("early data wasn't used")
	}
	// The server knows once the client's part of the handshake has arrived.
	eventually(t, "the handshake is done", func() bool {
		b.front.mu.Lock()
		defer b.front.mu.Unlock()
		for k := range b.front.all {
			if !k.whole.Load() {
				return false
			}
		}
		return true
	})
	for _, r := range []struct {
		send []byte
		want string
	}{
		{post(), "POST"},
		{get("early-data= 1", "early-data= 1"), "GET, Early-Data: 1"}, // from a hop before us (RFC 8470, 5.1)
	} {
		if got := c.ask(r.send, true); got != "200" {
			t.Errorf("after the handshake: %s", got)
		}
		if got := <-b.seen; got != r.want {
			t.Errorf("after the handshake: %s, want %s", got, r.want)
		}
	}
	_ = c.CloseWithError(0, "")

	// The ticket is used up: it resumes, but not early.
	again := b.dial(t)
	if got := again.ask(get(), true); got != "200" {
		// The client learns that its early data was refused.
		next, err := again.NextConnection(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if got := (&rawClient{t, next}).ask(get(), true); got != "200" {
			t.Errorf("with a used ticket: %s", got)
		}
	}
	if got := <-b.seen; got != "GET" {
		t.Errorf("with a used ticket: %s, want it after the handshake", got)
	}
	if s := again.ConnectionState(); s.Used0RTT || !s.TLS.DidResume {
		t.Errorf("with a used ticket: early %v, resumed %v, want false, true", s.Used0RTT, s.TLS.DidResume)
	}
}

func TestEarlyDataIsRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(c *FrontConfig) // of the front that is there the second time
		port   bool                 // that one has a port of its own, as another process
	}{
		{"off", func(c *FrontConfig) { c.EarlyData = false }, false},
		{"client certificates", func(c *FrontConfig) { c.TLS = c.TLS.Clone(); c.TLS.ClientAuth = tls.VerifyClientCertIfGiven }, false},
		{"smaller heads", func(c *FrontConfig) { c.MaxHeaders /= 2 }, false},
		{"another process", func(*FrontConfig) {}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := startEarly(t, nil)
			cfg := b.front.cfg
			tt.change(&cfg)
			next := NewFront(cfg)
			defer next.Close()
			port := b.port
			if tt.port {
				var err error
				if port, err = Listen("127.0.0.1:0", NewSecrets(), cfg.Log); err != nil {
					t.Fatal(err)
				}
				defer port.Close()
				b.relay.move(port.Addr().String())
			}
			port.Use(next)
			c := b.dial(t)
			_ = c.ask(get(), true) // refused, when it was early
			<-c.HandshakeComplete()
			if s := c.ConnectionState(); s.Used0RTT || !s.TLS.DidResume {
				t.Errorf("early data taken: %v, resumed: %v, want false, true", s.Used0RTT, s.TLS.DidResume)
			}
			for len(b.seen) > 0 {
				if got := <-b.seen; strings.Contains(got, "early") {
					t.Error(got)
				}
			}
		})
	}
}

func TestRegister(t *testing.T) {
	r := newRegister()
	now := r.turned
	ticket := func(n int) [16]byte { return [16]byte{byte(n), byte(n >> 8), byte(n >> 16)} }
	if !r.strike(ticket(1), now) || r.strike(ticket(1), now) {
		t.Error("a ticket isn't good once")
	}
	if r.strike(ticket(1), now.Add(earlyAge+time.Minute)) {
		t.Error("it is forgotten before it is too old")
	}
	for i := 2; i < maxStruck+2; i++ {
		if !r.strike(ticket(i), now.Add(earlyAge+time.Minute)) {
			t.Fatalf("ticket %d is refused", i)
		}
	}
	if r.strike(ticket(maxStruck+2), now.Add(earlyAge+time.Minute)) {
		t.Error("the register grows without end")
	}
	if !r.strike(ticket(maxStruck+2), now.Add(2*earlyAge+2*time.Minute)) {
		t.Error("it doesn't become empty again")
	}
	f := &Front{maxSection: 100}
	for _, tt := range []struct {
		name string
		s    stamp
		want bool
	}{
		{"fresh", stamp{r.id, ticket(-1), time.Now().Unix(), 100}, true},
		{"used", stamp{r.id, ticket(-1), time.Now().Unix(), 100}, false},
		{"old", stamp{r.id, ticket(-2), time.Now().Add(-2 * earlyAge).Unix(), 100}, false},
		{"from the future", stamp{r.id, ticket(-3), time.Now().Add(earlyAge).Unix(), 100}, false},
		{"another's", stamp{[16]byte{}, ticket(-4), time.Now().Unix(), 100}, false},
		{"with a larger setting", stamp{r.id, ticket(-5), time.Now().Unix(), 101}, false},
	} {
		if got := f.takesEarly(r, [][]byte{[]byte("other"), tt.s.bytes()}); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	if f.takesEarly(r, nil) {
		t.Error("a ticket without a stamp is taken")
	}
}
