package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// Bounds that keep us a good guest of the agent.
const (
	maxBlockingPlain = 100  // blocking queries over HTTP/1.1, of the agent's 200 connections
	maxBlockingH2    = 8192 // over HTTP/2, where they are streams
	maxShort         = 16   // other reads at once
	thriftyShort     = 2    // of one process among many
)

// Deps is what a Client works with.
type Deps struct {
	Log logrus.FieldLogger
	// Blocking is for a process that is one of many on its host: with more watched
	// services than that, all of them share the pulse's two blocking queries, and
	// connections that nothing uses are closed within seconds. 0: as few as the agent
	// asks for, at most 100. An agent by https has its streams either way.
	Blocking int
}

// Client talks to one agent. It is safe for concurrent use.
type Client struct {
	log  logrus.FieldLogger
	http *http.Client
	base string // scheme://host/prefix, without a slash at the end
	conf *api.Config
	// library is what a Store works with. It is made once, of a copy: it fills in
	// what it is made of, while others read that.
	library func() (*api.Client, error)
	dc      string
	times   timing
	thrifty int // Deps.Blocking
	host    discovery.Host
	gate    gate
	short   chan struct{} // a slot for each read that doesn't block
	self    self
	lastOK  atomic.Int64 // unix nanoseconds
	lastKO  atomic.Int64
	down    atomic.Bool // the last we heard was that it doesn't answer

	mu       sync.Mutex // guards what follows
	feeds    map[feedKey]*feed
	pulses   map[string]*pulse // by datacenter
	watches  map[*watch]struct{}
	recovery chan struct{} // closed when the agent answers again after it didn't
}

var _ discovery.Source = (*Client)(nil)

// timing is what tests shorten.
type timing struct {
	wait        time.Duration // of a blocking query
	answer      time.Duration // how long the agent may take beyond it, body included
	backoff     time.Duration // first pause after an error, doubling
	maxBackoff  time.Duration
	pace        time.Duration // between reads of one watch, once its burst is used up
	sweep       time.Duration // between sweeps in shared mode
	claimsGrace time.Duration // for claiming services that don't answer at first
	settle      time.Duration // to collect changes of claims
}

func usualTiming() timing {
	return timing{wait: 5 * time.Minute, answer: 10 * time.Second, backoff: 250 * time.Millisecond,
		maxBackoff: 30 * time.Second, pace: 100 * time.Millisecond, sweep: 30 * time.Second,
		claimsGrace: 10 * time.Second, settle: 50 * time.Millisecond}
}

// Configured says whether there is a Consul to ask: a consul block, or
// CONSUL_HTTP_ADDR.
func Configured(cfg *Config) bool {
	return cfg != nil || os.Getenv(api.HTTPAddrEnvName) != ""
}

// New makes a client from the block and, for what it doesn't say, the
// environment that Consul's own tools read. It doesn't connect yet.
func New(cfg Config, deps Deps) (*Client, error) {
	conf := api.DefaultConfig()
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	set(&conf.Address, cfg.Address)
	set(&conf.TLSConfig.CAFile, cfg.CAFile)
	set(&conf.TLSConfig.CertFile, cfg.CertFile)
	set(&conf.TLSConfig.KeyFile, cfg.KeyFile)
	if cfg.Token != "" {
		conf.Token, conf.TokenFile = cfg.Token.Reveal(), ""
	}
	if conf.TokenFile != "" {
		token, err := os.ReadFile(conf.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", api.HTTPTokenFileEnvName, err)
		}
		conf.Token = strings.TrimSpace(string(token))
	}
	c := &Client{
		log: deps.Log.WithField("component", "consul"), conf: conf, dc: cfg.Datacenter, times: usualTiming(),
		short:    make(chan struct{}, maxShort),
		feeds:    make(map[feedKey]*feed),
		pulses:   make(map[string]*pulse),
		watches:  make(map[*watch]struct{}),
		recovery: make(chan struct{}),
	}
	if deps.Blocking > 0 {
		c.thrifty, c.short = deps.Blocking, make(chan struct{}, thriftyShort)
	}
	own := *conf
	c.library = sync.OnceValues(func() (*api.Client, error) { return api.NewClient(&own) })
	if err := c.connect(); err != nil {
		return nil, err
	}
	return c, nil
}

// connect makes the transport for the address given.
func (c *Client) connect() error {
	scheme, address := c.conf.Scheme, c.conf.Address
	if s, rest, found := strings.Cut(address, "://"); found {
		address = rest
		if s != "http" || scheme != "https" { // CONSUL_HTTP_SSL isn't undone by http://
			scheme = s
		}
	}
	t := &http.Transport{
		MaxIdleConnsPerHost:    maxShort,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    5 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if c.thrifty > 0 {
		t.MaxIdleConnsPerHost, t.IdleConnTimeout = thriftyShort, time.Second
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return c.gate.guard(dialer.DialContext(ctx, network, address))
	}
	c.gate.max = maxBlockingPlain
	switch scheme {
	case "http":
		c.base = "http://" + strings.TrimRight(address, "/")
	case "https":
		conf, err := api.SetupTLSConfig(&c.conf.TLSConfig)
		if err != nil {
			return fmt.Errorf("consul: tls: %w", err)
		}
		t.TLSClientConfig = conf
		c.gate.max = maxBlockingH2
		t.ForceAttemptHTTP2 = true // the agent offers h2: one connection for all blocking queries
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
		c.base = "https://" + strings.TrimRight(address, "/")
	case "unix":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.gate.guard(dialer.DialContext(ctx, "unix", address))
		}
		c.base = "http://unix"
	default:
		return fmt.Errorf("consul: address %q: unknown scheme %q; use http, https or unix", c.conf.Address, scheme)
	}
	if address == "" {
		return errors.New("consul: address: is empty")
	}
	if _, err := http.NewRequest(http.MethodGet, c.base, nil); err != nil {
		return fmt.Errorf("consul: address %q: %w", c.conf.Address, err)
	}
	if c.thrifty > 0 && scheme != "https" {
		c.gate.max, c.gate.together = c.thrifty, true
	}
	c.gate.limit = c.gate.max
	// The API answers redirects only for its UI; following one would take the token along.
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return nil
}

// Address is the agent's, as configured.
func (c *Client) Address() string { return c.conf.Address }

// Close drops idle connections. Watches end with their contexts.
func (c *Client) Close() { c.http.CloseIdleConnections() }
